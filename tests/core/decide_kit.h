/* decide_kit - three made-up nodes and what goes wrong with them, for the tests of what is
 * decided: a policy from a text of the test's own, and a table that has its layout. */
#ifndef DECIDE_KIT_H
#define DECIDE_KIT_H

#include "decide.h"

#include "health_kit.h"

/* Two masters, of half the slots each, and a replica of the first. */
enum { A, B, A0, NODES };

#define POLICY(body)                                                                     \
    "local wayside = require 'wayside'\n"                                                \
    "return wayside.policy { name = 'test', version = '1', " body " }\n"

static inline void must(int rc, const struct way_err *err)
{
    if (rc < 0)
        fail_msg("%s", err->text);
}

/* Puts the test's words in place of those that were read; `test.lua` is their file. */
static inline void kit_replace_policy(struct way_policy_text *t, const char *policy)
{
    way_free(t->path);
    way_free(t->text);
    t->path = way_strdup("test.lua");
    t->text = way_strdup(policy);
    t->n = strlen(policy);
}

/* policy NULL: none but the fallback. */
static inline void kit_policy(struct way_policy_text *t, const struct way_limits *limits,
                              const char *policy)
{
    struct way_err err;
    must(way_policy_read(t, "none", NULL, 0, limits, &err), &err);
    if (policy)
        kit_replace_policy(t, policy);
}

/* A table for the memory and counters that the policy declares, under the guard. */
static inline struct way_health *kit_table_of(const struct way_policy *p, double share)
{
    struct way_health_options o = { .layout = way_policy_plan(p)->layout,
                                    .guard = true,
                                    .failing_share = share };
    return kit_open(&o);
}

/* Makes the three known; node: where each is in the table. */
static inline void kit_publish_nodes(struct way_health *h, double now,
                                     unsigned node[NODES])
{
    static const char *const ids[] = { "a", "b", "a0" };
    struct way_topology *t = kit_topology(NODES);
    kit_node(t, "a", 7000, NULL, 1);
    kit_node(t, "b", 7001, NULL, 2);
    kit_node(t, "a0", 7002, "a", 1);
    kit_slots(t, 0, 0, 8191);
    kit_slots(t, 1, 8192, WAY_SLOTS - 1);
    kit_publish(h, t, now);
    kit_topology_free(t);
    for (unsigned i = 0; i < NODES; i++)
        node[i] = kit_find(h, ids[i]);
}

/* A dial that was refused. */
static inline struct way_event kit_refused(double now)
{
    return (struct way_event){ .kind = WAY_KIND_CONNECTION,
                               .phase = WAY_PHASE_CONNECT,
                               .step = WAY_STEP_DIAL,
                               .error = WAY_ERROR_REFUSED,
                               .n = 1,
                               .began = now - 0.1,
                               .now = now,
                               .unix_time = 1,
                               .deadline_left = -1 };
}

/* A reply; message NULL: no error. */
static inline struct way_event kit_replied(double now, const char *message)
{
    struct way_event e = { .kind = WAY_KIND_RESULT,
                           .phase = WAY_PHASE_READ,
                           .step = WAY_STEP_REPLY,
                           .n = 1,
                           .began = now - 0.1,
                           .now = now,
                           .unix_time = 1,
                           .deadline_left = -1 };
    if (message) {
        e.error = WAY_ERROR_REPLY;
        snprintf(e.message, sizeof e.message, "%s", message);
        snprintf(e.reply, sizeof e.reply, "%.*s", (int)strcspn(message, " "), message);
    }
    return e;
}

#endif
