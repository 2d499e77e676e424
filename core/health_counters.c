/* health_counters - where the counters of health.h lie: a block per node, per shard and for
 * the cluster, in each area of the segment. What they are and do is counters.h's.
 *
 * Whose they are tells a policy epoch. Reports are made without the lock, so one may come a
 * moment after another policy took over: into the area of the policy before, which nobody
 * asks about. Two reloads later it could meet the counters of another policy: whatever
 * words are there, counters.h reads them as some figure. */
#include "health.h"

#include "segment.h"

void way_health_counter_blocks(struct way_health *h, unsigned node, unsigned shard,
                               uint64_t policy_epoch, struct way_counter_blocks *out)
{
    struct way_tally *t = &h->s->tally[way_area_of(policy_epoch)];
    out->of[WAY_COUNTERS_NODE] = t->node[node];
    out->of[WAY_COUNTERS_SHARD] = shard < WAY_SHARDS_MAX ? t->shard[shard] : NULL;
    out->of[WAY_COUNTERS_CLUSTER] = t->cluster;
}

static bool is_in_charge(struct way_health *h, uint64_t policy_epoch)
{
    return atomic_load_explicit(&h->s->policy_epoch, memory_order_acquire) ==
           policy_epoch;
}

uint64_t way_health_count(struct way_health *h, unsigned node,
                          const struct way_counters_layout *l, uint64_t policy_epoch,
                          const struct way_report *r)
{
    struct way_counter_blocks b;
    if (!is_in_charge(h, policy_epoch))
        return 0;
    way_health_counter_blocks(
        h, node, atomic_load_explicit(&h->s->node[node].shard, memory_order_relaxed),
        policy_epoch, &b);
    return way_counters_report(l, &b, r);
}

double way_health_counter(struct way_health *h, unsigned node,
                          const struct way_counter *c, uint64_t policy_epoch, double now)
{
    struct way_counted v;
    way_counter_read(c, h->s->tally[way_area_of(policy_epoch)].node[node], now, &v);
    return v.value;
}

void way_health_counted(struct way_health *h, const struct way_counters_layout *l,
                        struct way_snapshot *s)
{
    struct way_counter_blocks b;
    way_health_counter_blocks(h, s->view.node, s->view.shard, s->policy_epoch, &b);
    for (int i = 0; i < WAY_COUNTER_SCOPES; i++)
        way_counters_read(l, (enum way_counter_scope)i, b.of[i], s->now,
                          s->view.counted[i]);
}

void way_health_counters_touch(struct way_health *h, const struct way_snapshot *seen,
                               const struct way_proposal *p)
{
    struct way_counter_blocks b;
    way_health_counter_blocks(h, seen->view.node, seen->view.shard, seen->policy_epoch,
                              &b);
    way_counters_touch(p->counters, &b, &p->touches);
}

/* ---- another policy ---- */

void way_health_counters_take_over(struct way_health *h, const struct way_takeover *t)
{
    static const struct way_counters_layout none;
    const struct way_counters_layout *l = t->counters ? t->counters : &none;
    const struct way_counters_layout *old =
        t->counters_before ? t->counters_before : &none;
    struct way_tally *from = &h->s->tally[way_area_of(t->from)];
    struct way_tally *to = &h->s->tally[way_area_of(t->from + 1)];
    unsigned nodes = atomic_load(&h->s->nodes), shards = atomic_load(&h->s->shards);
    for (unsigned n = 0; n < nodes; n++) {
        way_segment_zero(to->node[n], WAY_NODE_COUNTER_WORDS);
        way_counters_inherit(l, to->node[n], old, from->node[n], WAY_COUNTERS_NODE);
    }
    for (unsigned i = 0; i < shards; i++) {
        way_segment_zero(to->shard[i], WAY_SHARD_COUNTER_WORDS);
        way_counters_inherit(l, to->shard[i], old, from->shard[i], WAY_COUNTERS_SHARD);
    }
    way_segment_zero(to->cluster, WAY_CLUSTER_COUNTER_WORDS);
    way_counters_inherit(l, to->cluster, old, from->cluster, WAY_COUNTERS_CLUSTER);
}
