/* route - see route.h.
 *
 * The slow way builds the list of candidates in the order of preference and then draws;
 * 32 nodes at most, so lists live on the stack. Health is a preference: a suspect node
 * serves when no healthy one can. A failing one serves nobody. */
#include "route.h"

enum { CANDIDATES_MAX = WAY_SHARD_REPLICAS + 1 };

struct candidates {
    unsigned count;
    uint16_t node[CANDIDATES_MAX];
    uint8_t state[CANDIDATES_MAX];
};

/* Copied: the decider may leave the policy between two passes. */
static void take_plan(struct way_router *r)
{
    const struct way_plan *plan = way_decider_plan(r->decider);
    r->pick = plan->pick;
    r->tolerance = plan->tolerance;
    memcpy(r->zone, plan->zone, sizeof r->zone);
    r->has_load = plan->load != 0;
    if (r->has_load)
        r->load = plan->counters.counter[WAY_COUNTERS_NODE][plan->load - 1];
    r->policy_epoch = way_decider_epoch(r->decider);
    r->asks = plan->has_route;
    r->shadow_asks = way_decider_shadow_routes(r->decider);
    bool reads = plan->pick == WAY_PICK_MASTER;
    r->straight = r->asks || r->shadow_asks
                      ? 0
                      : WAY_STRAIGHT_WRITES | (reads ? WAY_STRAIGHT_READS : 0);
}

void way_router_init(struct way_router *r, struct way_health *h, struct way_decider *d,
                     struct way_stats *stats, int row)
{
    *r = (struct way_router){ .health = h, .decider = d, .stats = stats, .row = row };
    r->slots = way_health_slots(h);
    r->in_zone = way_zalloc(WAY_NODES_MAX);
    take_plan(r);
    way_random_seed(&r->random, 0);
}

void way_router_fini(struct way_router *r)
{
    way_free(r->in_zone);
    r->in_zone = NULL;
}

void way_router_refresh(struct way_router *r)
{
    take_plan(r);
    if (!r->zone[0])
        return;
    unsigned n = way_health_nodes(r->health);
    for (unsigned i = 0; i < n && i < WAY_NODES_MAX; i++) {
        struct way_snapshot s;
        way_health_snapshot(r->health, i, 0, &s);
        r->in_zone[i] = !strcmp(s.view.zone, r->zone);
    }
}

static uint32_t word_of(const struct way_router *w, unsigned node)
{
    uint32_t word = atomic_load_explicit(&way_health_node(w->health, node)->route,
                                         memory_order_acquire);
    enum way_state state;
    if (way_decider_pending(w->decider) &&
        way_decider_pending_state(w->decider, node, &state))
        word = (word & ~(uint32_t)WAY_ROUTE_STATE) | state;
    return word;
}

static void add(const struct way_router *w, struct candidates *c, unsigned node)
{
    if (node >= WAY_NODES_MAX || c->count == CANDIDATES_MAX)
        return;
    uint32_t word = word_of(w, node);
    unsigned state = word & WAY_ROUTE_STATE;
    if (word & WAY_ROUTE_GONE || state == WAY_STATE_FAILING ||
        state == WAY_STATE_DRAINING)
        return;
    c->node[c->count] = (uint16_t)node;
    c->state[c->count++] = (uint8_t)state;
}

static void add_replicas(const struct way_router *w, struct candidates *c,
                         struct way_shard *s)
{
    unsigned n = atomic_load_explicit(&s->replicas, memory_order_acquire);
    for (unsigned i = 0; i < n && i < WAY_SHARD_REPLICAS; i++)
        add(w, c, atomic_load_explicit(&s->replica[i], memory_order_relaxed));
}

static void add_master(const struct way_router *w, struct candidates *c,
                       struct way_shard *s)
{
    add(w, c, atomic_load_explicit(&s->master, memory_order_relaxed));
}

/* Of those in one state (or, with avoid, not that node); returns how many are left. */
static struct candidates only(const struct candidates *c, unsigned state, unsigned avoid)
{
    struct candidates out = { 0 };
    for (unsigned i = 0; i < c->count; i++) {
        if (c->state[i] != state || c->node[i] == avoid)
            continue;
        out.node[out.count] = c->node[i];
        out.state[out.count++] = c->state[i];
    }
    return out;
}

static uint64_t inflight_of(const struct way_router *w, unsigned node)
{
    return atomic_load_explicit(&way_health_cells(w->health, w->row)[node].inflight,
                                memory_order_relaxed);
}

static unsigned nearest(struct way_router *w, const struct candidates *c)
{
    double best = -1, latency[CANDIDATES_MAX];
    for (unsigned i = 0; i < c->count; i++) {
        latency[i] = way_health_latency_get(w->health, c->node[i]);
        if (latency[i] < 0)
            return c->node[i]; /* never measured: one command will tell */
        if (best < 0 || latency[i] < best)
            best = latency[i];
    }
    unsigned near[CANDIDATES_MAX] = { 0 }, n = 0;
    for (unsigned i = 0; i < c->count; i++)
        if (latency[i] <= best + w->tolerance)
            near[n++] = c->node[i];
    return n ? near[way_random_next(&w->random) % n] : c->node[0];
}

static unsigned least_inflight(struct way_router *w, const struct candidates *c)
{
    unsigned at = (unsigned)(way_random_next(&w->random) % c->count), best = at;
    for (unsigned i = 1; i < c->count; i++) {
        unsigned k = (at + i) % c->count;
        if (inflight_of(w, c->node[k]) < inflight_of(w, c->node[best]))
            best = k;
    }
    return c->node[best];
}

/* Latency, or what the policy counts instead, times what is on its way there already. */
static double load_of(const struct way_router *w, unsigned node)
{
    double load = w->has_load ? way_health_counter(w->health, node, &w->load,
                                                   w->policy_epoch, w->now)
                              : way_health_latency_get(w->health, node);
    return (load > 0 ? load : 0) * (double)(inflight_of(w, node) + 1);
}

/* Power of two choices: of two distinct nodes drawn, the less loaded. */
static unsigned p2c(struct way_router *w, const struct candidates *c)
{
    unsigned a = (unsigned)(way_random_next(&w->random) % c->count);
    unsigned b = (unsigned)(way_random_next(&w->random) % (c->count - 1));
    if (b >= a)
        b++;
    return load_of(w, c->node[a]) <= load_of(w, c->node[b]) ? c->node[a] : c->node[b];
}

static void prefer_zone(const struct way_router *w, struct candidates *c)
{
    if (!w->zone[0])
        return;
    struct candidates near = { 0 };
    for (unsigned i = 0; i < c->count; i++)
        if (w->in_zone[c->node[i]])
            near.node[near.count++] = c->node[i];
    if (near.count)
        *c = near;
}

static unsigned draw(struct way_router *w, struct candidates *c)
{
    prefer_zone(w, c);
    if (c->count == 1)
        return c->node[0];
    switch (w->pick) {
    case WAY_PICK_ROUND_ROBIN: return c->node[w->turn++ % c->count];
    case WAY_PICK_NEAREST: return nearest(w, c);
    case WAY_PICK_LEAST_INFLIGHT: return least_inflight(w, c);
    case WAY_PICK_P2C: return p2c(w, c);
    default: return c->node[way_random_next(&w->random) % c->count];
    }
}

/* Nodes below their whole weight get their share: each is kept with that probability,
 * unless nobody would be left. */
static void thin_by_weight(struct way_router *w, struct candidates *c, double now)
{
    struct candidates kept = { 0 };
    if (c->count < 2)
        return;
    for (unsigned i = 0; i < c->count; i++) {
        if (word_of(w, c->node[i]) & WAY_ROUTE_WEIGHT) {
            struct way_verdict v;
            way_health_verdict(w->health, c->node[i], &v);
            double weight = way_verdict_weight(&v, now);
            if (weight >= 1)
                way_health_settle(w->health, c->node[i], now);
            else if (way_random_unit(&w->random) >= weight)
                continue;
        }
        kept.node[kept.count++] = c->node[i];
    }
    if (kept.count)
        *c = kept;
}

static bool sheds(struct way_router *w, unsigned node)
{
    if (!(word_of(w, node) & WAY_ROUTE_SHED))
        return false;
    struct way_verdict v;
    way_health_verdict(w->health, node, &v);
    return way_random_unit(&w->random) < v.shed;
}

static bool on_trial(struct way_router *w, const struct candidates *all, unsigned avoid,
                     double now, struct way_route *out)
{
    for (unsigned i = 0; i < all->count; i++) {
        if (all->state[i] == WAY_STATE_PROBING && all->node[i] != avoid &&
            way_health_trial_take(w->health, all->node[i], w->row, now)) {
            out->node = all->node[i];
            out->trial = true;
            return true;
        }
    }
    return false;
}

/* Half-open nodes first (their trials are few), then healthy ones, then suspects; the node
 * that failed the command last only if there is no other. */
static void choose(struct way_router *w, const struct candidates *all,
                   const struct way_request *r, double now, struct way_route *out)
{
    static const uint8_t order[] = { WAY_STATE_HEALTHY, WAY_STATE_SUSPECT };
    if (on_trial(w, all, r->avoid, now, out))
        return;
    for (unsigned pass = 0; pass < 2 * way_count(order); pass++) {
        unsigned avoid = pass < way_count(order) ? r->avoid : WAY_NONE;
        struct candidates some = only(all, order[pass % way_count(order)], avoid);
        if (!some.count)
            continue;
        thin_by_weight(w, &some, now);
        unsigned node = draw(w, &some);
        out->shed = sheds(w, node);
        out->node = out->shed ? WAY_NONE : node;
        return;
    }
    if (r->avoid != WAY_NONE)
        on_trial(w, all, WAY_NONE, now, out);
}

static void list_for_read(struct way_router *w, const struct way_request *r,
                          struct way_shard *s, struct candidates *c)
{
    enum way_pick pick = w->pick;
    if (r->flags & WAY_FLAG_MASTER)
        pick = WAY_PICK_MASTER;
    if (pick == WAY_PICK_MASTER) {
        add_master(w, c, s);
        if (r->flags & WAY_FLAG_STALE_OK && (!c->count || c->node[0] == r->avoid))
            add_replicas(w, c, s);
        return;
    }
    add_replicas(w, c, s);
    if (pick == WAY_PICK_REPLICA_ONLY)
        return;
    bool well = false; /* a replica that is: with none, a master that is well is better */
    for (unsigned i = 0; i < c->count; i++)
        well |= c->state[i] == WAY_STATE_HEALTHY && c->node[i] != r->avoid;
    if (pick != WAY_PICK_REPLICA || !well)
        add_master(w, c, s);
}

struct way_route way_route_slow(struct way_router *w, const struct way_request *r,
                                double now)
{
    struct way_route out = { .node = WAY_NONE };
    w->now = now;
    out.shard = atomic_load_explicit(&w->slots[r->slot], memory_order_acquire);
    if (out.shard >= WAY_SHARDS_MAX) {
        out.shard = WAY_NONE;
        return out;
    }
    struct way_shard *s = way_health_shard(w->health, out.shard);
    struct candidates all = { 0 };
    if (r->target < WAY_NODES_MAX) {
        add(w, &all, r->target);
        if (r->flags & WAY_FLAG_ASKED || all.count) {
            choose(w, &all, r, now, &out);
            return out;
        }
    }
    if (r->flags & WAY_FLAG_WRITE)
        add_master(w, &all, s);
    else
        list_for_read(w, r, s, &all);
    choose(w, &all, r, now, &out);
    return out;
}

/* ---- the policy's own route ---- */

/* The list that route is shown: the master if it may be used at all, then the replicas
 * that are well; those that are suspect only if nobody is well. A probing node is in it
 * with a trial that it may have: if it is not chosen, that is given back. */
static void list_for_route(struct way_router *w, struct way_shard *s, double now,
                           struct candidates *out)
{
    struct candidates all = { 0 };
    bool well = false;
    add_master(w, &all, s);
    unsigned masters = all.count;
    add_replicas(w, &all, s);
    for (unsigned i = 0; i < all.count; i++)
        well |= all.state[i] == WAY_STATE_HEALTHY;
    for (unsigned i = 0; i < all.count; i++) {
        unsigned state = all.state[i];
        if (state == WAY_STATE_PROBING
                ? !way_health_trial_take(w->health, all.node[i], w->row, now)
                : state == WAY_STATE_SUSPECT && well && i >= masters)
            continue;
        out->node[out->count] = all.node[i];
        out->state[out->count++] = all.state[i];
    }
}

static void give_trials_back(struct way_router *w, const struct candidates *c,
                             unsigned but)
{
    for (unsigned i = 0; i < c->count; i++)
        if (c->state[i] == WAY_STATE_PROBING && i + 1 != but)
            way_health_trial_end(w->health, c->node[i], w->row, true);
}

static unsigned tried(const struct candidates *c, unsigned avoid)
{
    for (unsigned i = 0; i < c->count; i++)
        if (c->node[i] == avoid)
            return i + 1;
    return 0;
}

/* The candidate that route chose, from 1; 0: pick decides. */
static unsigned ask(struct way_router *w, struct way_choice *c, unsigned master)
{
    unsigned index = c->count ? way_decide_route(w->decider, c) : 0;
    if (!index || !c->write || c->node[index - 1] == master)
        return index;
    way_stat_add(w->stats, WAY_STAT_ROUTES_REFUSED, 1);
    return 0;
}

static struct way_route routed(struct way_router *w, const struct candidates *all,
                               unsigned index, unsigned shard)
{
    struct way_route out = { .node = all->node[index - 1], .shard = shard };
    out.trial = all->state[index - 1] == WAY_STATE_PROBING;
    out.shed = !out.trial && sheds(w, out.node);
    if (out.shed)
        out.node = WAY_NONE;
    return out;
}

struct way_route way_route_ask(struct way_router *w, const struct way_request *r,
                               struct way_span bytes, double now)
{
    unsigned shard = atomic_load_explicit(&w->slots[r->slot], memory_order_acquire);
    if (!(w->asks || w->shadow_asks) || r->target < WAY_NODES_MAX ||
        r->flags & (WAY_FLAG_ASKED | WAY_FLAG_MASTER) || r->kind == WAY_REQUEST_OWN ||
        shard >= WAY_SHARDS_MAX)
        return way_route_slow(w, r, now);
    bool sampled = w->shadow_asks && way_decide_samples_route(w->decider);
    if (!w->asks && !sampled)
        return way_route_slow(w, r, now);
    struct way_shard *s = way_health_shard(w->health, shard);
    unsigned master = atomic_load_explicit(&s->master, memory_order_relaxed);
    struct candidates all = { 0 };
    list_for_route(w, s, now, &all);
    struct way_choice choice = { .health = w->health,
                                 .now = now,
                                 .slot = r->slot,
                                 .write = r->flags & WAY_FLAG_WRITE,
                                 .attempt = r->attempt + 1u,
                                 .count = all.count,
                                 .node = all.node,
                                 .state = all.state,
                                 .tried = tried(&all, r->avoid),
                                 .bytes = bytes };
    unsigned index = w->asks ? ask(w, &choice, master) : 0;
    give_trials_back(w, &all, index);
    struct way_route out =
        index ? routed(w, &all, index, shard) : way_route_slow(w, r, now);
    if (sampled && all.count && !out.shed)
        way_decide_routed(w->decider, &choice, w->asks, index, out.node, master);
    return out;
}

bool way_route_serves(const struct way_router *w, uint16_t slot, unsigned node,
                      bool as_master)
{
    unsigned shard = atomic_load_explicit(&w->slots[slot], memory_order_acquire);
    if (shard >= WAY_SHARDS_MAX)
        return false;
    if (as_master)
        return atomic_load_explicit(&way_health_shard(w->health, shard)->master,
                                    memory_order_relaxed) == node;
    return atomic_load_explicit(&way_health_node(w->health, node)->shard,
                                memory_order_relaxed) == shard;
}
