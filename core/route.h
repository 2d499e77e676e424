/* route - which node a command goes to: its slot's shard, then the policy's pick among
 * the nodes of the shard that may be used.
 *
 * No lock and no Lua. The fast case, a master with nothing against it, is four loads.
 * A router belongs to one worker. */
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
    int row; /* the worker's, for trials */
};

void way_router_init(struct way_router *r, struct way_health *h, struct way_decider *d,
                     int row);
void way_router_fini(struct way_router *r);
/* After the table's epoch rose, or another policy came. */
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
