/* health_kit - made-up clusters and short ways to mark, for the tests of the node table. */
#ifndef HEALTH_KIT_H
#define HEALTH_KIT_H

#include "health.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* A topology with room for n nodes that owns no slot yet. */
static inline struct way_topology *kit_topology(unsigned room)
{
    struct way_topology *t = way_zalloc(sizeof *t);
    t->node = way_zalloc(room * sizeof *t->node);
    t->room = room;
    t->has_epochs = true;
    memset(t->owner, 0xff, sizeof t->owner);
    return t;
}

static inline void kit_topology_free(struct way_topology *t)
{
    way_free(t->node);
    way_free(t);
}

/* Adds a node; master NULL: it is one. The index. */
static inline unsigned kit_node(struct way_topology *t, const char *id, unsigned port,
                                const char *master, uint64_t epoch)
{
    assert_true(t->count < t->room);
    struct way_topo_node *n = &t->node[t->count];
    snprintf(n->id, sizeof n->id, "%s", id);
    snprintf(n->host, sizeof n->host, "127.0.0.1");
    snprintf(n->master_id, sizeof n->master_id, "%s", master ? master : "");
    n->port = (uint16_t)port;
    n->master = !master;
    n->config_epoch = epoch;
    n->link_up = true;
    return t->count++;
}

static inline void kit_slots(struct way_topology *t, unsigned owner, unsigned from,
                             unsigned to)
{
    for (unsigned s = from; s <= to; s++)
        t->owner[s] = (uint16_t)owner;
}

/* Three masters a, b, c (ports 7000..7002, epochs 1..3), each with `replicas` replicas
 * a0, a1, ... Nodes in this order: a b c a0 b0 c0 a1 ... */
static inline struct way_topology *kit_cluster(unsigned replicas)
{
    static const char *const names[] = { "a", "b", "c" };
    struct way_topology *t = kit_topology(3 + 3 * replicas);
    for (unsigned i = 0; i < 3; i++)
        kit_node(t, names[i], 7000 + i, NULL, i + 1);
    for (unsigned r = 0; r < replicas; r++)
        for (unsigned i = 0; i < 3; i++) {
            char id[16];
            snprintf(id, sizeof id, "%s%u", names[i], r);
            kit_node(t, id, 7000 + t->count, names[i], i + 1);
        }
    kit_slots(t, 0, 0, 5460);
    kit_slots(t, 1, 5461, 10922);
    kit_slots(t, 2, 10923, WAY_SLOTS - 1);
    return t;
}

static inline struct way_health *kit_open(struct way_health_options *o)
{
    struct way_health *h = NULL;
    struct way_err err;
    if (way_health_open(&h, o, &err))
        fail_msg("%s", err.text);
    return h;
}

/* Adopts and publishes; returns what publish did. */
static inline int kit_publish(struct way_health *h, const struct way_topology *t,
                              double began)
{
    static struct way_node_change changes[2 * WAY_NODES_MAX];
    struct way_err err;
    int rc;
    while (way_health_adopt(h, t, began, began, changes, way_count(changes), &err) < 0)
        ;
    while ((rc = way_health_publish(h, t, began, &err)) < 0)
        ;
    return rc;
}

/* The record of the node with that id. */
static inline unsigned kit_find(struct way_health *h, const char *id)
{
    struct way_snapshot s;
    for (unsigned n = 0; n < way_health_nodes(h); n++) {
        way_health_snapshot(h, n, 0, &s);
        if (!strcmp(s.view.id, id))
            return n;
    }
    return WAY_NONE;
}

static inline struct way_proposal kit_mark(enum way_state state, double seconds)
{
    struct way_proposal p = { .mark = { .given = true, .has = WAY_MARK_STATE } };
    p.mark.state = state;
    p.mark.seconds = seconds;
    if (seconds > 0)
        p.mark.has |= WAY_MARK_SECONDS;
    return p;
}

/* Commits what p says at `now`, its memory left as it is. */
static inline struct way_outcome kit_commit(struct way_health *h, unsigned node,
                                            double now, struct way_proposal p)
{
    struct way_snapshot s;
    struct way_outcome out;
    enum way_commit rc;
    do {
        way_health_snapshot(h, node, now, &s);
        p.memory = s.view.memory;
        rc = way_health_commit(h, &s, &p, false, &out);
    } while (rc != WAY_COMMIT_DONE);
    return out;
}

static inline struct way_outcome kit_hard(struct way_health *h, unsigned node, double now,
                                          enum way_state state, double seconds)
{
    struct way_proposal p = kit_mark(state, seconds);
    p.hard = true;
    return kit_commit(h, node, now, p);
}

static inline struct way_outcome kit_soft(struct way_health *h, unsigned node, double now,
                                          enum way_state state, double seconds)
{
    return kit_commit(h, node, now, kit_mark(state, seconds));
}

static inline enum way_state kit_state(struct way_health *h, unsigned node)
{
    struct way_verdict v;
    way_health_verdict(h, node, &v);
    assert_int_equal(v.state,
                     atomic_load(&way_health_node(h, node)->route) & WAY_ROUTE_STATE);
    return (enum way_state)v.state;
}

#endif
