/* route - which node a command goes to: its slot's shard, then the policy's pick among
 * the nodes of the shard that may be used.
 *
 * No lock, and no Lua unless the policy has a `route` of its own, which is asked for each
 * command then. The fast case, a master with nothing against it, is four loads. A router
 * belongs to one worker. */
#ifndef WAY_ROUTE_H
#define WAY_ROUTE_H

#include "decide.h"
#include "health.h"
#include "pipeline.h"
#include "policy.h"

struct way_router {
    struct way_health *health;
    struct way_decider *decider;
    const _Atomic uint16_t *slots; /* of the table */
    enum way_pick pick;
    double tolerance, now;   /* now: of the command being routed */
    char zone[WAY_ZONE_MAX]; /* preferred, "" none */
    uint8_t *in_zone;        /* [WAY_NODES_MAX], kept by way_router_refresh */
    unsigned turn;           /* of round_robin */
    bool has_load;           /* p2c goes by a counter, else by the latency */
    struct way_counter load;
    uint64_t policy_epoch; /* that it is of */
    struct way_random random;
    int row;                 /* the worker's, for trials */
    bool asks;               /* the policy has a route */
    bool shadow_asks;        /* a shadow has: a sample of the commands is asked about */
    uint8_t straight;        /* WAY_STRAIGHT_...: what may take the fast way */
    struct way_stats *stats; /* borrowed */
};

/* What need not be asked about: neither pick nor route has a say. */
enum { WAY_STRAIGHT_READS = 1, WAY_STRAIGHT_WRITES = 2 };

void way_router_init(struct way_router *r, struct way_health *h, struct way_decider *d,
                     struct way_stats *stats, int row);
void way_router_fini(struct way_router *r);
/* After the table's epoch rose, or another policy came, also into the shadow. */
void way_router_refresh(struct way_router *r);

struct way_route {
    unsigned node;  /* WAY_NONE: none may be used */
    unsigned shard; /* WAY_NONE: the slot has no owner */
    bool shed;      /* none, because the policy sheds load of the one that was chosen */
    bool trial;     /* the node is probing and this command is one of its trials */
};
/* Every case. r's slot, flags, avoid and target tell what it needs. */
struct way_route way_route_slow(struct way_router *w, const struct way_request *r,
                                double now);

/* As way_route_slow, but where the policy has a route and r is free to go anywhere (no
 * redirect, no order of backoff's, no connection of its own), that is asked first. bytes:
 * the request. */
struct way_route way_route_ask(struct way_router *w, const struct way_request *r,
                               struct way_span bytes, double now);

/* May r take the fast way? */
static inline bool way_route_straight(const struct way_router *w,
                                      const struct way_request *r)
{
    return w->straight &
           (r->flags & WAY_FLAG_WRITE ? WAY_STRAIGHT_WRITES : WAY_STRAIGHT_READS);
}

/* The node, or WAY_NONE where the slow way must be asked. */
static inline unsigned way_route_fast(const struct way_router *w, uint16_t slot)
{
    unsigned shard = atomic_load_explicit(&w->slots[slot], memory_order_acquire);
    if (shard >= WAY_SHARDS_MAX || way_decider_pending(w->decider))
        return WAY_NONE;
    unsigned node = atomic_load_explicit(&way_health_shard(w->health, shard)->master,
                                         memory_order_relaxed);
    if (node >= WAY_NODES_MAX)
        return WAY_NONE;
    uint32_t word = atomic_load_explicit(&way_health_node(w->health, node)->route,
                                         memory_order_acquire);
    return word == 0 ? node : WAY_NONE;
}

/* Is that node a member of the slot's shard now; its master? */
bool way_route_serves(const struct way_router *w, uint16_t slot, unsigned node,
                      bool as_master);

#endif
