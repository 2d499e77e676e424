/* health_policy - how one policy follows another in the node table. Part of health: health.h,
 * section "policies".
 *
 *      policy epoch 6                      area 0 in charge, area 1 idle
 *        │ convert: what the new policy will remember of each record, without the lock
 *        │ lock ── epoch still 6? ── records that changed meanwhile, again
 *        │         idle area of each record written; layout and bundle of area 1
 *        ▼
 *      policy epoch 7: one store           area 1 in charge, area 0 the previous one's
 *        │ table's epoch raised: everybody looks
 *        ▼ unlock
 *
 * A record is written whole, verdict and both areas (segment.h); what is in charge is written
 * as it was. So a writer killed anywhere before that store has changed nothing that anybody
 * reads, and one killed behind it leaves to recover() no more than to raise the table's
 * epoch. Going back is the store alone: the idle area is still the previous policy's.
 *
 * Rejected: to convert under the lock (a script would hold up every commit), and to convert
 * each record when it is next read (a rollback could then not go back). */
#include "health.h"

#include "segment.h"

#define RELAXED memory_order_relaxed
#define ACQUIRE memory_order_acquire

enum { LOCK_TRIES = 200 }; /* of a millisecond */

const _Atomic uint64_t *way_health_policy_epoch(struct way_health *h)
{
    return &h->s->policy_epoch;
}

/* One record, read and converted. */
struct taken {
    bool there;
    uint64_t version;
    double memory[WAY_NODE_MEMORY]; /* of the widest scope */
};
_Static_assert(WAY_NODE_MEMORY >= WAY_SHARD_MEMORY &&
                   WAY_NODE_MEMORY >= WAY_CLUSTER_MEMORY,
               "the widest");

struct taking {
    struct way_health *h;
    const struct way_takeover *t;
    struct way_err *err;
    unsigned old, new;      /* areas */
    unsigned nodes, shards; /* that were there in the beginning */
    struct taken *node, *shard, cluster;
};

static double *of_scope(struct way_memory *m, enum way_memory_scope scope, size_t *bytes)
{
    *bytes = scope == WAY_OF_NODE    ? sizeof m->node
             : scope == WAY_OF_SHARD ? sizeof m->shard
                                     : sizeof m->cluster;
    return scope == WAY_OF_NODE ? m->node : scope == WAY_OF_SHARD ? m->shard : m->cluster;
}

static int convert(struct taking *g, enum way_memory_scope scope, const double *old,
                   struct taken *out)
{
    struct way_memory before, after = g->t->layout->first;
    size_t bytes;
    memset(&before, 0, sizeof before);
    double *in = of_scope(&before, scope, &bytes);
    memcpy(in, old, bytes);
    if (g->t->convert(g->t->arg, scope, &before, &after, g->err) < 0)
        return -1;
    memcpy(out->memory, of_scope(&after, scope, &bytes), bytes);
    return 0;
}

/* Each: reads the record and converts what changed since it was last read; `put`: and writes
 * it, under the lock. */
static int take_node(struct taking *g, unsigned n, bool put)
{
    struct way_segment *s = g->h->s;
    struct taken new_one = { .there = false };
    struct taken *taken = n < g->nodes ? &g->node[n] : &new_one;
    struct way_own own;
    uint64_t version = way_record_read(s->own[n], WAY_OWN_WORDS, WAY_OWN_WORDS, &own);
    if (!taken->there || taken->version != version) {
        if (convert(g, WAY_OF_NODE, own.memory[g->old], taken) < 0)
            return -1;
        taken->there = true;
        taken->version = version;
    }
    if (put) {
        memcpy(own.memory[g->new], taken->memory, sizeof own.memory[0]);
        way_record_write(s->own[n], WAY_OWN_WORDS, version + 1, &own);
    }
    return 0;
}

/* Of a shard's memory or the cluster's, `words` in each area. */
static int take_memory(struct taking *g, enum way_memory_scope scope,
                       _Atomic uint64_t *record, unsigned words, struct taken *taken,
                       bool put)
{
    double memory[WAY_AREAS * WAY_NODE_MEMORY];
    uint64_t version =
        way_record_read(record, WAY_AREAS * words, WAY_AREAS * words, memory);
    if (!taken->there || taken->version != version) {
        if (convert(g, scope, memory + g->old * words, taken) < 0)
            return -1;
        taken->there = true;
        taken->version = version;
    }
    if (put) {
        memcpy(memory + g->new *words, taken->memory, words * sizeof(double));
        way_record_write(record, WAY_AREAS * words, version + 1, memory);
    }
    return 0;
}

static int take_all(struct taking *g, bool put)
{
    struct way_segment *s = g->h->s;
    unsigned nodes = atomic_load_explicit(&s->nodes, ACQUIRE);
    unsigned shards = atomic_load_explicit(&s->shards, ACQUIRE);
    for (unsigned n = 0; n < nodes; n++)
        if (take_node(g, n, put) < 0)
            return -1;
    for (unsigned i = 0; i < shards; i++) {
        struct taken new_one = { .there = false };
        if (take_memory(g, WAY_OF_SHARD, s->shard_memory[i], WAY_SHARD_MEMORY,
                        i < g->shards ? &g->shard[i] : &new_one, put) < 0)
            return -1;
    }
    return take_memory(g, WAY_OF_CLUSTER, s->cluster, WAY_CLUSTER_MEMORY, &g->cluster,
                       put);
}

/* ---- the switch ---- */

static int lock(struct way_health *h, struct way_err *err)
{
    for (int i = 0; i < LOCK_TRIES; i++)
        if (!way_health_lock(h))
            return 0;
    return way_fail(err, "the node table's lock is not to be had");
}

static bool still_at(struct way_health *h, uint64_t from, struct way_err *err)
{
    if (atomic_load_explicit(&h->s->policy_epoch, ACQUIRE) == from)
        return true;
    way_fail(err, "another process has put another policy in charge meanwhile");
    return false;
}

/* Under the lock. */
static uint64_t raise_policy_epoch(struct way_health *h, uint64_t from)
{
    atomic_store_explicit(&h->s->policy_epoch, from + 1, memory_order_release);
    atomic_fetch_add_explicit(&h->s->epoch, 1, memory_order_acq_rel);
    h->woken_due = true;
    return from + 1;
}

/* Under the lock, before that epoch: who is killed before it has put nobody on probation. */
static void begin_probation(struct way_segment *s, uint64_t epoch,
                            const struct way_probation *p)
{
    static const struct way_probation_counts none;
    s->rollback_epoch = 0;
    atomic_store_explicit(&s->probation_epoch, 0, RELAXED);
    if (!p)
        return;
    s->probation = *p;
    s->probation_counts = none;
    atomic_store_explicit(&s->probation_epoch, epoch, memory_order_release);
}

static int take_over_locked(struct taking *g, uint64_t *epoch)
{
    struct way_health *h = g->h;
    if (!still_at(h, g->t->from, g->err) || take_all(g, true) < 0)
        return -1;
    way_health_counters_take_over(h, g->t);
    way_segment_bundle_set(h->s, g->new, g->t->bundle);
    way_segment_layout_set(h->s, g->new, g->t->layout);
    begin_probation(h->s, g->t->from + 1, g->t->probation);
    if (g->t->ready)
        g->t->ready(g->t->arg, g->t->from + 1);
    *epoch = raise_policy_epoch(h, g->t->from);
    return 0;
}

int way_health_take_over(struct way_health *h, const struct way_takeover *t,
                         uint64_t *epoch, struct way_err *err)
{
    if (t->bundle.n > WAY_BUNDLE_BYTES)
        return way_fail(err,
                        "the policy and what it requires have %zu bytes together, "
                        "expected at most %d",
                        t->bundle.n, WAY_BUNDLE_BYTES);
    struct taking g = { .h = h,
                        .t = t,
                        .err = err,
                        .old = way_area_of(t->from),
                        .new = way_area_of(t->from + 1),
                        .nodes = atomic_load_explicit(&h->s->nodes, ACQUIRE),
                        .shards = atomic_load_explicit(&h->s->shards, ACQUIRE) };
    g.node = way_zalloc((g.nodes + 1) * sizeof *g.node);
    g.shard = way_zalloc((g.shards + 1) * sizeof *g.shard);
    int rc = take_all(&g, false);
    if (rc == 0)
        rc = lock(h, err);
    if (rc == 0) {
        rc = take_over_locked(&g, epoch);
        way_health_unlock(h);
    }
    way_free(g.node);
    way_free(g.shard);
    return rc;
}

/* Under the lock, before that epoch. */
static void begin_rollback(struct way_segment *s, uint64_t epoch,
                           const struct way_rollback *because)
{
    atomic_store_explicit(&s->probation_epoch, 0, RELAXED);
    s->rollback_epoch = 0;
    if (!because)
        return;
    s->rollback = *because;
    s->rollback_epoch = epoch;
}

int way_health_go_back(struct way_health *h, uint64_t from,
                       const struct way_rollback *because,
                       void (*ready)(void *arg, uint64_t epoch), void *arg,
                       uint64_t *epoch, struct way_err *err)
{
    struct way_layout layout;
    int rc = 0;
    if (lock(h, err) < 0)
        return -1;
    way_segment_layout(h->s, way_area_of(from + 1), &layout);
    if (!still_at(h, from, err))
        rc = -1;
    else if (!layout.hash)
        rc = way_fail(err, "there is no policy before the one in charge");
    if (rc == 0 && ready)
        ready(arg, from + 1);
    if (rc == 0) {
        begin_rollback(h->s, from + 1, because);
        *epoch = raise_policy_epoch(h, from);
    }
    way_health_unlock(h);
    return rc;
}

int way_health_rolled_back(struct way_health *h, uint64_t epoch, struct way_rollback *out)
{
    if (way_health_lock(h))
        return -1;
    bool is = epoch && h->s->rollback_epoch == epoch;
    if (is)
        *out = h->s->rollback;
    way_health_unlock(h);
    return is;
}

/* ---- probation ---- */

uint64_t way_health_on_probation(const struct way_health *h)
{
    return atomic_load_explicit(&h->s->probation_epoch, ACQUIRE);
}

bool way_health_probation_end(struct way_health *h, uint64_t epoch)
{
    return atomic_compare_exchange_strong(&h->s->probation_epoch, &epoch, 0);
}

int way_health_probation(struct way_health *h, uint64_t epoch,
                         const struct way_probation_counts *more,
                         struct way_probation *out, struct way_probation_counts *sum)
{
    struct way_segment *s = h->s;
    struct way_probation_counts *c = &s->probation_counts;
    if (way_health_lock(h))
        return -1;
    bool is = epoch && way_health_on_probation(h) == epoch &&
              atomic_load_explicit(&s->policy_epoch, ACQUIRE) == epoch;
    if (is) {
        c->errors += more->errors;
        c->marks += more->marks;
        c->out += more->out;
        c->out_before += more->out_before;
        *out = s->probation;
        *sum = *c;
    }
    way_health_unlock(h);
    return is;
}

int way_health_bundle(struct way_health *h, struct way_buf *out, uint64_t *epoch)
{
    if (way_health_lock(h))
        return -1;
    unsigned area = way_segment_area(h->s);
    *epoch = atomic_load_explicit(&h->s->policy_epoch, RELAXED);
    uint32_t n = h->s->bundle_bytes[area];
    way_buf_put(out, h->s->bundle[area], n < WAY_BUNDLE_BYTES ? n : WAY_BUNDLE_BYTES);
    way_health_unlock(h);
    return 0;
}

int way_health_bundle_before(struct way_health *h, uint64_t epoch, struct way_buf *out)
{
    struct way_layout layout;
    if (way_health_lock(h))
        return -1;
    unsigned area = way_area_of(epoch + 1);
    bool in_charge = atomic_load_explicit(&h->s->policy_epoch, RELAXED) == epoch;
    way_segment_layout(h->s, area, &layout);
    uint32_t n = layout.hash && in_charge ? h->s->bundle_bytes[area] : 0;
    way_buf_put(out, h->s->bundle[area], n < WAY_BUNDLE_BYTES ? n : WAY_BUNDLE_BYTES);
    way_health_unlock(h);
    return in_charge ? 0 : -1;
}

void way_health_bounds(struct way_health *h, bool guard, double failing_share)
{
    atomic_store_explicit(&h->guard, guard, RELAXED);
    atomic_store_explicit(&h->failing_share, failing_share, RELAXED);
}
