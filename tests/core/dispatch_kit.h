/* dispatch_kit - a worker's dispatch among made-up nodes that answer by rules, for the tests
 * of what stands on it. */
#ifndef DISPATCH_KIT_H
#define DISPATCH_KIT_H

#include "dispatch.h"

#include "health_kit.h"
#include "node_kit.h"
#include "resolve.h"
#include "slots.h"

enum { NODES = 4, RULES = 16, ENTRIES = 512 };

/* Slots: shard a has 0..8191, shard b the rest. */
enum {
    A = 0,
    B = 1,
    A0 = 2,
    SPARE = 3
}; /* masters, a's replica, one of no cluster yet */
enum { SLOT_A = 100, SLOT_B = 10000 };

/* The first that fits answers: requests that begin so, to that node, so many times. */
struct rule {
    int node;
    const char *begin, *reply; /* reply NULL: silence; "": the connection is closed */
    unsigned times;
};

struct bed {
    struct way_loop loop;
    struct way_resolver *resolver;
    struct way_config config;
    struct way_health *health;
    struct way_policy_text text;
    struct way_decider *decider;
    struct way_stats stats;
    struct way_ring *ring;
    struct way_request_pool pool;
    struct way_dispatch *dispatch;
    struct way_pipeline p;
    int row;
    bool has_client;
    struct kit_node node[NODES];
    unsigned index[NODES]; /* in the table */
    struct rule rule[RULES];
    unsigned refreshes, grew;
    unsigned entries;
    struct way_entry entry[ENTRIES];
};

static struct bed
    *the_bed; /* of the test that runs: nodes' answers find their rules by it */

/* ---- nodes ---- */

static inline void close_clients(struct kit_node *n)
{
    for (unsigned i = 0; i < KIT_CLIENTS; i++)
        if (n->client[i].node)
            shutdown(n->client[i].fd, SHUT_RDWR);
}

static inline void answer(struct kit_node *n, const char *request, struct way_buf *out)
{
    int which = (int)(n - the_bed->node);
    for (unsigned i = 0; i < RULES; i++) {
        struct rule *u = &the_bed->rule[i];
        if (!u->begin || u->node != which || !u->times ||
            strncmp(request, u->begin, strlen(u->begin)) != 0)
            continue;
        u->times--;
        if (u->reply && !u->reply[0])
            close_clients(n);
        else if (u->reply)
            way_buf_puts(out, u->reply);
        return;
    }
    if (!strncmp(request, "GET ", 4))
        way_buf_printf(out, "$1\r\n%c\r\n", 'a' + which);
    else
        way_buf_puts(out, "+OK\r\n");
}

static inline void rule(struct bed *b, int node, const char *begin, const char *reply,
                        unsigned times)
{
    unsigned i = 0;
    while (b->rule[i].begin)
        assert_true(++i < RULES);
    b->rule[i] = (struct rule){ node, begin, reply, times };
}

static inline void moved(char *out, size_t n, const char *kind, unsigned slot,
                         const struct kit_node *to)
{
    snprintf(out, n, "-%s %u %s\r\n", kind, slot, to->address);
}

/* ---- the bed ---- */

static inline void on_grew(struct way_pipeline *p)
{
    ((struct bed *)p->owner)->grew++;
}

static inline void on_refresh(void *arg)
{
    ((struct bed *)arg)->refreshes++;
}

static inline void take_entries(struct bed *b)
{
    const struct way_entry *e;
    while ((e = way_ring_peek(b->ring))) {
        assert_true(b->entries < ENTRIES);
        b->entry[b->entries++] = *e;
        way_ring_pop(b->ring);
    }
}

static inline void on_passed(struct way_loop *l)
{
    struct bed *b = l->owner;
    if (b->dispatch)
        way_dispatch_pass(b->dispatch);
    take_entries(b);
}

/* a and b as masters, a0 as a's replica, and the spare as b's where `with_spare`. */
static inline void publish(struct bed *b, bool with_spare, double began)
{
    struct way_topology *t = kit_topology(NODES);
    kit_node(t, "a", b->node[A].port, NULL, 1);
    kit_node(t, "b", b->node[B].port, NULL, 2);
    kit_node(t, "a0", b->node[A0].port, "a", 1);
    if (with_spare)
        kit_node(t, "spare", b->node[SPARE].port, "b", 2);
    kit_slots(t, 0, 0, 8191);
    kit_slots(t, 1, 8192, WAY_SLOTS - 1);
    kit_publish(b->health, t, began);
    kit_topology_free(t);
    b->index[A] = kit_find(b->health, "a");
    b->index[B] = kit_find(b->health, "b");
    b->index[A0] = kit_find(b->health, "a0");
    b->index[SPARE] = kit_find(b->health, "spare");
}

static inline void must(int rc, const struct way_err *err)
{
    if (rc < 0)
        fail_msg("%s", err->text);
}

static inline void read_policy(struct bed *b, const char *text)
{
    struct way_err err;
    must(
        way_policy_read(&b->text, text ? "none" : NULL, NULL, 0, &b->config.limits, &err),
        &err);
    if (!text || !strcmp(text, "none"))
        return;
    way_free(b->text.path);
    b->text.path = way_strdup("test.lua");
    b->text.text = way_strdup(text);
    b->text.n = strlen(text);
}

/* policy: its text, "none", or NULL for the default. Limits may be changed in b->config
 * between init and start. */
static inline void init(struct bed *b, const char *policy)
{
    struct way_err err;
    memset(b, 0, sizeof *b);
    the_bed = b;
    way_config_init(&b->config);
    must(way_loop_init(&b->loop, &err), &err);
    must(way_resolver_new(&b->resolver, &b->loop, NULL, &err), &err);
    read_policy(b, policy);
    for (unsigned i = 0; i < NODES; i++)
        kit_node_start(&b->node[i], &b->loop, answer, NULL);
}

static inline void add_client(struct bed *b)
{
    way_pipeline_init(&b->p, &b->pool, b);
    way_dispatch_attach(b->dispatch, &b->p);
    b->has_client = true;
}

static inline void start(struct bed *b)
{
    struct way_err err;
    struct way_policy *policy;
    must(way_policy_load(&policy, &b->text, &err), &err);
    struct way_health_options ho = { .layout = way_policy_plan(policy)->layout,
                                     .guard = true,
                                     .failing_share = 0.5 };
    way_policy_free(policy);
    b->health = kit_open(&ho);
    must(b->row = way_health_row_attach(b->health, &err), &err);
    b->ring = way_ring_new(ENTRIES);
    struct way_decider_options d = { .health = b->health,
                                     .text = &b->text,
                                     .limits = &b->config.limits,
                                     .stats = &b->stats,
                                     .ring = b->ring };
    must(way_decider_new(&b->decider, &d, &err), &err);
    publish(b, false, way_clock());
    way_loop_refresh(&b->loop);
    struct way_dispatch_options o = { .loop = &b->loop,
                                      .resolver = b->resolver,
                                      .config = &b->config,
                                      .health = b->health,
                                      .decider = b->decider,
                                      .stats = &b->stats,
                                      .pool = &b->pool,
                                      .row = b->row,
                                      .refresh = on_refresh,
                                      .arg = b };
    b->dispatch = way_dispatch_new(&o);
    way_dispatch_on_grew(b->dispatch, on_grew);
    b->loop.owner = b;
    b->loop.passed = on_passed;
    add_client(b);
}

static inline void begin(struct bed *b, const char *policy)
{
    init(b, policy);
    start(b);
}

static inline uint64_t inflight_of(struct bed *b, int node)
{
    return atomic_load(&way_health_cells(b->health, b->row)[b->index[node]].inflight);
}

static inline void drop_client(struct bed *b)
{
    way_dispatch_detach(b->dispatch, &b->p);
    b->has_client = false;
}

/* Nothing may be left once all have been answered: no request, no byte, no count. */
static inline void assert_at_rest(struct bed *b)
{
    size_t bytes;
    AWAIT(&b->loop, 5, b->pool.live == 0);
    assert_int_equal(b->p.pending, 0);
    assert_int_equal(b->p.detours, 0);
    assert_int_equal(b->p.behind_bytes, 0);
    assert_null(b->p.behind);
    assert_int_equal(way_dispatch_waiting(b->dispatch, &bytes), 0);
    assert_int_equal(bytes, 0);
    for (int i = 0; i < NODES; i++)
        if (b->index[i] != WAY_NONE)
            assert_int_equal(inflight_of(b, i), 0);
}

static inline void finish(struct bed *b)
{
    if (b->has_client)
        drop_client(b);
    way_dispatch_free(b->dispatch);
    b->dispatch = NULL;
    assert_int_equal(b->pool.live, 0);
    for (unsigned i = 0; i < NODES; i++)
        kit_node_down(&b->node[i]);
    way_decider_free(b->decider);
    way_health_check(b->health);
    way_health_row_detach(b->health, b->row);
    way_resolver_free(b->resolver);
    b->loop.passed = NULL;
    way_loop_fini(&b->loop);
    way_health_close(b->health);
    way_ring_free(b->ring);
    way_policy_text_fini(&b->text);
    way_config_fini(&b->config);
    way_request_pool_fini(&b->pool);
}

static inline void end(struct bed *b)
{
    assert_at_rest(b);
    finish(b);
}

/* ---- commands ---- */

static inline void put_command(struct way_buf *out, const char *name, unsigned slot,
                               const char *rest)
{
    char key[16];
    way_slot_key((uint16_t)slot, key);
    const char *words[] = { name, key, rest };
    way_resp_put_command(out, rest ? 3 : 2, words);
}

static inline struct way_request *command(struct bed *b, const char *name, unsigned slot,
                                          const char *rest, uint16_t flags)
{
    struct way_buf bytes = { 0 };
    put_command(&bytes, name, slot, rest);
    struct way_request *r = way_pipeline_push(&b->p, b->loop.now);
    r->slot = (uint16_t)slot;
    r->flags = flags;
    way_stat_add(&b->stats, WAY_STAT_REQUESTS, 1);
    way_dispatch_submit(b->dispatch, r, bytes.p, bytes.len);
    way_buf_fini(&bytes);
    return r;
}

static inline struct way_request *get(struct bed *b, unsigned slot)
{
    return command(b, "GET", slot, NULL, 0);
}

static inline struct way_request *set(struct bed *b, unsigned slot, const char *value)
{
    return command(b, "SET", slot, value, WAY_FLAG_WRITE);
}

static inline unsigned asked_of(struct bed *b, enum way_asked_function fn)
{
    unsigned n = 0;
    take_entries(b);
    for (unsigned i = 0; i < b->entries; i++)
        n += b->entry[i].function == fn;
    return n;
}

static inline uint64_t stat_of(struct bed *b, enum way_stat which)
{
    return way_stat_get(&b->stats, which);
}

/* ---- policies ---- */

#define POLICY(body)                                                                     \
    "local wayside = require 'wayside'\n"                                                \
    "return wayside.policy { name = 'test', version = '1', " body " }\n"

#endif
