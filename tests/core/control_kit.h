/* control_kit - a control thread's work on the loop under test: one made-up master that
 * owns all slots, its replica, a worker's decider beside it, and a policy given as text. */
#ifndef CONTROL_KIT_H
#define CONTROL_KIT_H

#include "control.h"
#include "decide.h"
#include "node_kit.h"
#include "resolve.h"

#include <stdlib.h>

enum { KIT_MASTER, KIT_REPLICA };

struct kit_control {
    struct way_loop loop;
    struct way_resolver *resolver;
    struct way_config config;
    struct way_policy_text text;
    struct way_health *health;
    struct way_ring *ring[2]; /* a worker's, control's */
    struct way_stats *stats[2];
    struct way_decider *worker;
    struct way_control *control;
    struct kit_node node[2];
    char nodes[1024];
    const char *get; /* the reply to GET */
};

static inline void kit_answer(struct kit_node *n, const char *request,
                              struct way_buf *out)
{
    struct kit_control *k = n->loop->owner;
    if (!strcmp(request, "CLUSTER NODES"))
        way_resp_put_bulk(out, k->nodes, strlen(k->nodes));
    else if (!strncmp(request, "GET ", 4))
        way_buf_puts(out, k->get);
    else if (!strcmp(request, "READONLY"))
        way_buf_puts(out, "+OK\r\n");
    else
        way_resp_put_error(out, "ERR unknown command");
}

static inline void kit_on_woken(struct way_loop *l)
{
    struct kit_control *k = l->owner;
    if (k->control)
        way_control_woken(k->control);
}

static inline void kit_wake(void *arg)
{
    struct kit_control *k = arg;
    way_loop_wake(&k->loop);
}

static inline void kit_read_policy(struct kit_control *k, const char *policy)
{
    struct way_err err = { "" };
    char path[] = "/tmp/wayside-policy-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, policy, strlen(policy)), strlen(policy));
    close(fd);
    if (way_policy_read(&k->text, path, NULL, 0, &k->config.limits, &err) < 0)
        fail_msg("%s", err.text);
    unlink(path);
}

static inline void kit_open_table(struct kit_control *k)
{
    struct way_policy *policy;
    struct way_err err = { "" };
    if (way_policy_load(&policy, &k->text, &err) < 0)
        fail_msg("%s", err.text);
    struct way_health_options o = { .layout = way_policy_plan(policy)->layout,
                                    .guard = false,
                                    .failing_share = 1,
                                    .woken = kit_wake,
                                    .arg = k };
    if (way_health_open(&k->health, &o, &err) < 0)
        fail_msg("%s", err.text);
    way_policy_free(policy);
}

static inline void kit_make_worker(struct kit_control *k)
{
    struct way_err err = { "" };
    for (int i = 0; i < 2; i++) {
        k->ring[i] = way_ring_new(64);
        k->stats[i] = way_zalloc(sizeof *k->stats[i]);
    }
    struct way_decider_options d = { .health = k->health,
                                     .text = &k->text,
                                     .limits = &k->config.limits,
                                     .stats = k->stats[0],
                                     .ring = k->ring[0],
                                     .journaled = kit_wake,
                                     .arg = k };
    if (way_decider_new(&k->worker, &d, &err) < 0)
        fail_msg("%s", err.text);
}

static inline void kit_make_control(struct kit_control *k)
{
    struct way_err err = { "" };
    struct way_control_options o = { .loop = &k->loop,
                                     .resolver = k->resolver,
                                     .config = &k->config,
                                     .health = k->health,
                                     .text = &k->text,
                                     .rings = k->ring,
                                     .stats = k->stats,
                                     .threads = 2 };
    if (way_control_new(&k->control, &o, &err) < 0)
        fail_msg("%s", err.text);
}

/* Returns at once; the topology comes when the loop runs. */
static inline struct kit_control *kit_control_start(const char *policy)
{
    struct kit_control *k = way_zalloc(sizeof *k);
    struct way_err err = { "" };
    assert_int_equal(way_loop_init(&k->loop, &err), 0);
    k->loop.owner = k;
    k->loop.woken = kit_on_woken;
    assert_int_equal(way_resolver_new(&k->resolver, &k->loop, NULL, &err), 0);
    k->get = "$-1\r\n";
    for (int i = 0; i < 2; i++)
        kit_node_start(&k->node[i], &k->loop, kit_answer, NULL);
    snprintf(k->nodes, sizeof k->nodes,
             "%040d 127.0.0.1:%u@1 master - 0 0 1 connected 0-16383\n"
             "%040d 127.0.0.1:%u@1 slave %040d 0 0 1 connected\n",
             1, k->node[KIT_MASTER].port, 2, k->node[KIT_REPLICA].port, 1);
    way_config_init(&k->config);
    k->config.seeds[k->config.seed_count++] = way_strdup(k->node[KIT_MASTER].address);
    kit_read_policy(k, policy);
    kit_open_table(k);
    kit_make_worker(k);
    kit_make_control(k);
    return k;
}

static inline void kit_control_stop(struct kit_control *k)
{
    way_control_free(k->control);
    way_decider_free(k->worker);
    for (int i = 0; i < 2; i++) {
        kit_node_down(&k->node[i]);
        way_ring_free(k->ring[i]);
        way_free(k->stats[i]);
    }
    way_resolver_free(k->resolver);
    way_loop_fini(&k->loop);
    way_health_close(k->health);
    way_policy_text_fini(&k->text);
    way_config_fini(&k->config);
    way_free(k);
}

static inline unsigned kit_index(struct kit_control *k, int which)
{
    return way_health_find(k->health, "127.0.0.1", k->node[which].port);
}

static inline enum way_state kit_state(struct kit_control *k, int which)
{
    struct way_verdict v;
    way_health_verdict(k->health, kit_index(k, which), &v);
    return (enum way_state)v.state;
}

/* Greeted, and nothing of the start is left to come. */
static inline void kit_await_known(struct kit_control *k)
{
    AWAIT(&k->loop, 2, way_health_coverage(k->health) == 1);
    AWAIT(&k->loop, 2,
          way_control_address(k->control, kit_index(k, KIT_REPLICA)) != NULL);
    kit_pass_time(&k->loop, 0.02);
}

/* A worker could not connect to the node. */
static inline void kit_refused(struct kit_control *k, int which)
{
    struct way_decision d;
    struct way_event e = { .kind = WAY_KIND_CONNECTION,
                           .phase = WAY_PHASE_CONNECT,
                           .step = WAY_STEP_DIAL,
                           .error = WAY_ERROR_REFUSED,
                           .errnum = 111,
                           .n = 3,
                           .now = k->loop.now,
                           .began = k->loop.now,
                           .unix_time = way_unix(),
                           .deadline_left = -1 };
    snprintf(e.message, sizeof e.message, "Connection refused");
    way_decide(k->worker, kit_index(k, which), &e, &d);
}

static inline uint64_t kit_transitions(struct kit_control *k, enum way_state from,
                                       enum way_state to, const char *reason)
{
    const struct way_transition *t;
    for (unsigned i = 0; (t = way_history_transition(way_control_history(k->control), i));
         i++)
        if (t->from == from && t->to == to && !strcmp(t->reason, reason))
            return t->count;
    return 0;
}

/* Marks for 0.3 s; no probes. */
#define KIT_EXPIRES                                                                      \
    "local wayside = require 'wayside'\n"                                                \
    "return wayside.policy {\n"                                                          \
    "  name = 'expires', version = '7',\n"                                               \
    "  mark = function(self, node, event)\n"                                             \
    "    if event.error then\n"                                                          \
    "      return { state = 'failing', seconds = 0.3, reason = event.error }\n"          \
    "    end\n"                                                                          \
    "  end,\n"                                                                           \
    "  probe = function() end,\n"                                                        \
    "}\n"
/* Marks without end; a probe each 0.05 s brings back. */
#define KIT_PROBES                                                                       \
    "local wayside = require 'wayside'\n"                                                \
    "return wayside.policy {\n"                                                          \
    "  name = 'probes', version = '1',\n"                                                \
    "  mark = function(self, node, event)\n"                                             \
    "    if event.error then return { state = 'failing', reason = event.error } end\n"   \
    "    if event.kind == 'probe' then\n"                                                \
    "      return { state = 'healthy', reason = 'answers' }\n"                           \
    "    end\n"                                                                          \
    "  end,\n"                                                                           \
    "  probe = function(self, node)\n"                                                   \
    "    if node.state == 'failing' then return { after = 0.1, timeout = 0.5 } end\n"    \
    "  end,\n"                                                                           \
    "}\n"

#endif
