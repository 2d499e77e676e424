/* health_counters - where the counters of health.h lie: a block per node, shard and for the
 * cluster, in the segment. What they are and do is counters.h's. */
#include "health.h"

#include "segment.h"

/* The blocks of the policy in charge. */
static struct way_tally *tally_of(struct way_health *h)
{
    return &h->s->tally;
}

static void find_blocks(struct way_health *h, unsigned node, unsigned shard,
                        struct way_counter_blocks *b)
{
    struct way_tally *t = tally_of(h);
    b->of[WAY_COUNTERS_NODE] = t->node[node];
    b->of[WAY_COUNTERS_SHARD] = shard < WAY_SHARDS_MAX ? t->shard[shard] : NULL;
    b->of[WAY_COUNTERS_CLUSTER] = t->cluster;
}

uint64_t way_health_count(struct way_health *h, unsigned node, const struct way_report *r)
{
    struct way_counter_blocks b;
    find_blocks(h, node,
                atomic_load_explicit(&h->s->node[node].shard, memory_order_relaxed), &b);
    return way_counters_report(&h->layout.counters, &b, r);
}

double way_health_counter(struct way_health *h, unsigned node, unsigned index, double now)
{
    struct way_counted v;
    way_counter_read(&h->layout.counters.counter[WAY_COUNTERS_NODE][index],
                     tally_of(h)->node[node], now, &v);
    return v.value;
}

void way_health_counters_view(struct way_health *h, double now, struct way_view *v)
{
    static const _Atomic uint64_t nothing[WAY_SHARD_COUNTER_WORDS];
    const struct way_counters_layout *l = &h->layout.counters;
    struct way_counter_blocks b;
    find_blocks(h, v->node, v->shard, &b);
    for (int i = 0; i < WAY_COUNTER_SCOPES; i++)
        way_counters_read(l, (enum way_counter_scope)i, b.of[i] ? b.of[i] : nothing, now,
                          v->counted[i]);
}

void way_health_counters_touch(struct way_health *h, unsigned node, unsigned shard,
                               const struct way_touches *t)
{
    struct way_counter_blocks b;
    find_blocks(h, node, shard, &b);
    way_counters_touch(&h->layout.counters, &b, t);
}
