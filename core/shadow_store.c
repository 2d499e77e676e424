/* shadow_store - see shadow_store.h.
 *
 *               answer differs from the table's: commit
 *     follows ─────────────────────────────────────────▶ own
 *        ▲                                                │ commit: its answers alone
 *        └────────────────────────────────────────────────┘
 *          settle (verdicts: both calm), commit (memory: the same as the table's)
 *
 * A look reads a record's version before its flags; a commit counts only if no version
 * rose meanwhile. So of two threads that see a record follow, and of which one makes it
 * the shadow's own, the other one asks again.
 *
 * Rejected: a whole copy of the table that each answer is applied to. Threads hear of
 * events in another order than they commit, marks of the host, of operators and of other
 * processes would have to be told to it, and a copy that once missed one of them stays
 * wrong. What follows can't. */
#include "shadow_store.h"

#include <pthread.h>

#define RELAXED memory_order_relaxed
#define ACQUIRE memory_order_acquire
#define RELEASE memory_order_release

enum { OWN_VERDICT = 1, OWN_MEMORY = 2 };
enum { NODE, SHARD, CLUSTER };
enum { LOCK_TRIES = 64 };

/* Flags, and what the guard and the sweep look at without the lock, are atomic. */
struct record {
    _Atomic uint32_t version; /* rises with each write */
    _Atomic uint32_t flags;
    _Atomic uint32_t state; /* of an own verdict: state, and hard << 8 */
    _Atomic double ends;    /* of an own verdict; 0: none */
    uint32_t generation;    /* of the node that it is about */
    struct way_verdict verdict;
};

struct way_shadow_store {
    struct way_health *health;
    struct way_layout layout;
    struct way_counters_layout counters;
    _Atomic uint64_t *tally; /* blocks of nodes, of shards, of the cluster; NULL: none */
    _Atomic uint32_t counted_of[WAY_NODES_MAX]; /* generation of the node, by record */
    bool same_memory;
    pthread_mutex_t lock;
    _Atomic unsigned own_verdicts;
    struct record node[WAY_NODES_MAX], shard[WAY_SHARDS_MAX], cluster;
    struct record no_shard; /* of nodes that are of none: never written */
    double node_memory[WAY_NODES_MAX][WAY_NODE_MEMORY];
    double shard_memory[WAY_SHARDS_MAX][WAY_SHARD_MEMORY];
    double no_shard_memory[WAY_SHARD_MEMORY];
    double cluster_memory[WAY_CLUSTER_MEMORY];
};

static uint32_t generation_of(struct way_shadow_store *s, unsigned node)
{
    return atomic_load_explicit(&way_health_node(s->health, node)->generation, RELAXED);
}

static void begin_memory(struct way_shadow_store *s, struct record *r, double *memory,
                         const double *first, unsigned numbers)
{
    if (s->same_memory || !numbers)
        return;
    memcpy(memory, first, numbers * sizeof *memory);
    atomic_fetch_or_explicit(&r->flags, OWN_MEMORY, RELEASE);
}

static void begin_node(struct way_shadow_store *s, unsigned node)
{
    s->node[node].generation = generation_of(s, node);
    begin_memory(s, &s->node[node], s->node_memory[node], s->layout.first.node,
                 s->layout.node);
}

/* ---- counters ---- */

static void begin_counters(struct way_shadow_store *s,
                           const struct way_counters_layout *l)
{
    s->counters = *l;
    s->tally = way_zalloc((l->words[WAY_COUNTERS_NODE] * (size_t)WAY_NODES_MAX +
                           l->words[WAY_COUNTERS_SHARD] * (size_t)WAY_SHARDS_MAX +
                           l->words[WAY_COUNTERS_CLUSTER]) *
                          sizeof *s->tally);
    for (unsigned n = 0; n < WAY_NODES_MAX; n++)
        atomic_store_explicit(&s->counted_of[n], generation_of(s, n), RELAXED);
}

static void find_blocks(struct way_shadow_store *s, unsigned node, unsigned shard,
                        struct way_counter_blocks *b)
{
    const unsigned *words = s->counters.words;
    _Atomic uint64_t *shards =
        s->tally + words[WAY_COUNTERS_NODE] * (size_t)WAY_NODES_MAX;
    b->of[WAY_COUNTERS_NODE] = s->tally + words[WAY_COUNTERS_NODE] * (size_t)node;
    b->of[WAY_COUNTERS_SHARD] = shard < WAY_SHARDS_MAX
                                    ? shards + words[WAY_COUNTERS_SHARD] * (size_t)shard
                                    : NULL;
    b->of[WAY_COUNTERS_CLUSTER] =
        shards + words[WAY_COUNTERS_SHARD] * (size_t)WAY_SHARDS_MAX;
}

static unsigned shard_of(struct way_shadow_store *s, unsigned node)
{
    return atomic_load_explicit(&way_health_node(s->health, node)->shard, RELAXED);
}

/* The record was given to another node: of that one nothing was counted. */
static void renew_block(struct way_shadow_store *s, unsigned node,
                        const struct way_counter_blocks *b)
{
    uint32_t now = generation_of(s, node);
    if (atomic_load_explicit(&s->counted_of[node], RELAXED) == now ||
        atomic_exchange_explicit(&s->counted_of[node], now, RELAXED) == now)
        return;
    for (unsigned i = 0; i < s->counters.words[WAY_COUNTERS_NODE]; i++)
        atomic_store_explicit(b->of[WAY_COUNTERS_NODE] + i, 0, RELAXED);
}

void way_shadow_store_inherit(struct way_shadow_store *s,
                              const struct way_counters_layout *of, uint64_t policy_epoch)
{
    unsigned nodes = way_health_nodes(s->health);
    struct way_counter_blocks own, table;
    for (unsigned n = 0; n < nodes && s->tally; n++) {
        find_blocks(s, n, shard_of(s, n), &own);
        way_health_counter_blocks(s->health, n, shard_of(s, n), policy_epoch, &table);
        for (int scope = 0; scope < WAY_COUNTER_SCOPES; scope++)
            if (own.of[scope])
                way_counters_inherit(&s->counters, own.of[scope], of, table.of[scope],
                                     (enum way_counter_scope)scope);
    }
}

uint64_t way_shadow_store_count(struct way_shadow_store *s, unsigned node,
                                const struct way_report *r)
{
    struct way_counter_blocks b;
    if (!s->tally)
        return 0;
    find_blocks(s, node, shard_of(s, node), &b);
    renew_block(s, node, &b);
    return way_counters_report(&s->counters, &b, r);
}

void way_shadow_store_counted(struct way_shadow_store *s, double now, struct way_view *v)
{
    struct way_counter_blocks b;
    if (!s->tally)
        return;
    find_blocks(s, v->node, v->shard, &b);
    renew_block(s, v->node, &b);
    for (int scope = 0; scope < WAY_COUNTER_SCOPES; scope++)
        way_counters_read(&s->counters, (enum way_counter_scope)scope, b.of[scope], now,
                          v->counted[scope]);
}

/* Under the lock. */
static void touch(struct way_shadow_store *s, const struct way_shadow_look *l,
                  const struct way_touches *t)
{
    struct way_counter_blocks b;
    if (!t || !t->count)
        return;
    find_blocks(s, l->node, l->shard, &b);
    way_counters_touch(&s->counters, &b, t);
}

struct way_shadow_store *way_shadow_store_new(const struct way_shadow_store_options *o)
{
    struct way_shadow_store *s = way_zalloc(sizeof *s);
    s->health = o->health;
    s->layout = *o->layout;
    if (o->counters && o->counters->all)
        begin_counters(s, o->counters);
    s->same_memory = o->same_memory;
    pthread_mutex_init(&s->lock, NULL);
    for (unsigned i = 0; i < WAY_NODES_MAX; i++)
        begin_node(s, i);
    for (unsigned i = 0; i < WAY_SHARDS_MAX; i++)
        begin_memory(s, &s->shard[i], s->shard_memory[i], s->layout.first.shard,
                     s->layout.shard);
    begin_memory(s, &s->cluster, s->cluster_memory, s->layout.first.cluster,
                 s->layout.cluster);
    begin_memory(s, &s->no_shard, s->no_shard_memory, s->layout.first.shard,
                 s->layout.shard);
    return s;
}

void way_shadow_store_free(struct way_shadow_store *s)
{
    if (!s)
        return;
    pthread_mutex_destroy(&s->lock);
    way_free((void *)s->tally);
    way_free(s);
}

void way_shadow_store_seed_node(struct way_shadow_store *s, unsigned node,
                                const double *memory)
{
    memcpy(s->node_memory[node], memory, s->layout.node * sizeof *memory);
}

void way_shadow_store_seed_shard(struct way_shadow_store *s, unsigned shard,
                                 const double *memory)
{
    memcpy(s->shard_memory[shard], memory, s->layout.shard * sizeof *memory);
}

void way_shadow_store_seed_cluster(struct way_shadow_store *s, const double *memory)
{
    memcpy(s->cluster_memory, memory, s->layout.cluster * sizeof *memory);
}

/* ---- the lock ---- */

static int lock_soon(struct way_shadow_store *s)
{
    for (unsigned i = 0; i < LOCK_TRIES; i++)
        if (pthread_mutex_trylock(&s->lock) == 0)
            return 0;
    return -1;
}

static void unlock(struct way_shadow_store *s)
{
    pthread_mutex_unlock(&s->lock);
}

static void written(struct record *r)
{
    atomic_fetch_add_explicit(&r->version, 1, RELEASE);
}

static void flags_set(struct way_shadow_store *s, struct record *r, uint32_t flags)
{
    uint32_t old = atomic_exchange_explicit(&r->flags, flags, RELEASE);
    if ((flags & OWN_VERDICT) && !(old & OWN_VERDICT))
        atomic_fetch_add_explicit(&s->own_verdicts, 1, RELAXED);
    else if (!(flags & OWN_VERDICT) && (old & OWN_VERDICT))
        atomic_fetch_sub_explicit(&s->own_verdicts, 1, RELAXED);
}

static uint32_t flags_of(const struct record *r)
{
    return atomic_load_explicit(&r->flags, ACQUIRE);
}

/* The record was given to another node: nothing is known of that one. */
static void forget(struct way_shadow_store *s, unsigned node)
{
    flags_set(s, &s->node[node], 0);
    begin_node(s, node);
    written(&s->node[node]);
}

/* ---- looking ---- */

static void shift(struct way_counts *c, uint32_t from, uint32_t to)
{
    if (from >= WAY_STATE_COUNT || to >= WAY_STATE_COUNT || !c->state[from])
        return;
    c->state[from]--;
    c->state[to]++;
}

/* Counts of states, as the shadow has them. */
static void count(struct way_shadow_store *s, struct way_view *v)
{
    unsigned nodes = way_health_nodes(s->health);
    if (!atomic_load_explicit(&s->own_verdicts, RELAXED))
        return;
    for (unsigned n = 0; n < nodes; n++) {
        if (!(flags_of(&s->node[n]) & OWN_VERDICT))
            continue;
        struct way_node *node = way_health_node(s->health, n);
        uint32_t route = atomic_load_explicit(&node->route, RELAXED);
        uint32_t state = atomic_load_explicit(&s->node[n].state, RELAXED) & 0xff;
        if (route & WAY_ROUTE_GONE)
            continue;
        shift(&v->of_cluster, route & WAY_ROUTE_STATE, state);
        if (v->shard != WAY_NONE &&
            atomic_load_explicit(&node->shard, RELAXED) == v->shard)
            shift(&v->of_shard, route & WAY_ROUTE_STATE, state);
    }
}

static struct record *record_of(struct way_shadow_store *s,
                                const struct way_shadow_look *l, int part)
{
    if (part == SHARD)
        return l->shard < WAY_SHARDS_MAX ? &s->shard[l->shard] : &s->no_shard;
    return part == NODE ? &s->node[l->node] : &s->cluster;
}

static bool follows(struct way_shadow_store *s, struct way_shadow_look *l)
{
    uint32_t flags = 0;
    for (int part = NODE; part <= CLUSTER; part++) {
        struct record *r = record_of(s, l, part);
        l->version[part] = atomic_load_explicit(&r->version, ACQUIRE);
        flags |= flags_of(r);
    }
    return !flags && !atomic_load_explicit(&s->own_verdicts, RELAXED);
}

/* Under the lock. */
static void overlay(struct way_shadow_store *s, struct way_shadow_look *l)
{
    struct record *r = &s->node[l->node];
    struct way_view *v = &l->own;
    if (flags_of(r) && r->generation != v->generation)
        forget(s, l->node);
    for (int part = NODE; part <= CLUSTER; part++) {
        const struct record *own = record_of(s, l, part);
        l->version[part] = atomic_load_explicit(&own->version, RELAXED);
        l->own_memory[part] = flags_of(own) & OWN_MEMORY;
    }
    l->own_verdict = flags_of(r) & OWN_VERDICT;
    if (l->own_verdict)
        v->verdict = r->verdict;
    if (l->own_memory[NODE])
        memcpy(v->memory.node, s->node_memory[l->node], sizeof v->memory.node);
    if (l->own_memory[SHARD])
        memcpy(v->memory.shard,
               l->shard < WAY_SHARDS_MAX ? s->shard_memory[l->shard] : s->no_shard_memory,
               sizeof v->memory.shard);
    if (l->own_memory[CLUSTER])
        memcpy(v->memory.cluster, s->cluster_memory, sizeof v->memory.cluster);
}

int way_shadow_store_look(struct way_shadow_store *s, const struct way_snapshot *seen,
                          struct way_shadow_look *out)
{
    out->node = seen->view.node;
    out->shard = seen->view.shard;
    out->view = &seen->view;
    out->own_verdict = false;
    memset(out->own_memory, 0, sizeof out->own_memory);
    if (follows(s, out))
        return 0;
    out->own = seen->view;
    out->view = &out->own;
    if (lock_soon(s) < 0)
        return -1;
    overlay(s, out);
    unlock(s);
    count(s, &out->own);
    return 0;
}

static bool state_of(void *arg, unsigned node, enum way_state *state, bool *hard)
{
    struct way_shadow_store *s = arg;
    if (!(flags_of(&s->node[node]) & OWN_VERDICT))
        return false;
    uint32_t word = atomic_load_explicit(&s->node[node].state, RELAXED);
    *state = (enum way_state)(word & 0xff);
    *hard = word >> 8;
    return true;
}

struct way_others way_shadow_store_others(struct way_shadow_store *s)
{
    return (struct way_others){ .state = state_of, .arg = s };
}

/* ---- committing ---- */

static bool is_old(struct way_shadow_store *s, const struct way_shadow_look *l)
{
    for (int part = NODE; part <= CLUSTER; part++)
        if (atomic_load_explicit(&record_of(s, l, part)->version, ACQUIRE) !=
            l->version[part])
            return true;
    return false;
}

/* One part of the memory: what the look saw, what the shadow left, what the table has. */
struct part {
    const double *before, *after, *table;
    double *place;
    size_t bytes;
};

static struct part part_of(struct way_shadow_store *s, const struct way_shadow_look *l,
                           const struct way_shadow_change *c, int part)
{
    const struct way_memory *before = &l->view->memory;
    if (part == NODE)
        return (struct part){ before->node, c->memory->node, c->table->node,
                              s->node_memory[l->node], s->layout.node * sizeof(double) };
    if (part == CLUSTER)
        return (struct part){ before->cluster, c->memory->cluster, c->table->cluster,
                              s->cluster_memory, s->layout.cluster * sizeof(double) };
    if (l->shard >= WAY_SHARDS_MAX)
        return (struct part){ .bytes = 0 };
    return (struct part){ before->shard, c->memory->shard, c->table->shard,
                          s->shard_memory[l->shard], s->layout.shard * sizeof(double) };
}

enum fate { STAYS, BECOMES_OWN, FOLLOWS };

static enum fate fate_of(const struct way_shadow_store *s, const struct part *p, bool own)
{
    if (!p->bytes)
        return STAYS;
    if (s->same_memory && !memcmp(p->after, p->table, p->bytes))
        return own ? FOLLOWS : STAYS;
    return own && !memcmp(p->after, p->before, p->bytes) ? STAYS : BECOMES_OWN;
}

static void commit_memory(struct way_shadow_store *s, const struct way_shadow_look *l,
                          const struct way_shadow_change *c, int part)
{
    struct part p = part_of(s, l, c, part);
    struct record *r = record_of(s, l, part);
    enum fate fate = fate_of(s, &p, l->own_memory[part]);
    if (fate == STAYS)
        return;
    if (fate == BECOMES_OWN)
        memcpy(p.place, p.after, p.bytes);
    flags_set(s, r,
              fate == BECOMES_OWN ? flags_of(r) | OWN_MEMORY
                                  : flags_of(r) & ~(uint32_t)OWN_MEMORY);
    written(r);
}

static void commit_verdict(struct way_shadow_store *s, const struct way_shadow_look *l,
                           const struct way_verdict *v)
{
    struct record *r = &s->node[l->node];
    r->verdict = *v;
    atomic_store_explicit(&r->state, (uint32_t)v->state | (uint32_t)v->hard << 8,
                          RELAXED);
    atomic_store_explicit(&r->ends, v->ends, RELAXED);
    flags_set(s, r, flags_of(r) | OWN_VERDICT);
    written(r);
}

static bool changes_anything(struct way_shadow_store *s, const struct way_shadow_look *l,
                             const struct way_shadow_change *c)
{
    if (c->touches && c->touches->count)
        return true;
    for (int part = NODE; part <= CLUSTER; part++) {
        struct part p = part_of(s, l, c, part);
        if (fate_of(s, &p, l->own_memory[part]) != STAYS)
            return true;
    }
    return c->verdict_own &&
           (!l->own_verdict || memcmp(&c->verdict, &l->view->verdict, sizeof c->verdict));
}

enum way_commit way_shadow_store_commit(struct way_shadow_store *s,
                                        const struct way_shadow_look *look,
                                        const struct way_shadow_change *c)
{
    if (!changes_anything(s, look, c))
        return is_old(s, look) ? WAY_COMMIT_CONFLICT : WAY_COMMIT_DONE;
    if (lock_soon(s) < 0)
        return WAY_COMMIT_BUSY;
    bool old = is_old(s, look);
    if (!old)
        s->node[look->node].generation = look->view->generation;
    for (int part = NODE; part <= CLUSTER && !old; part++)
        commit_memory(s, look, c, part);
    if (c->verdict_own && !old)
        commit_verdict(s, look, &c->verdict);
    if (!old)
        touch(s, look, c->touches);
    unlock(s);
    return old ? WAY_COMMIT_CONFLICT : WAY_COMMIT_DONE;
}

/* ---- as time goes by ---- */

unsigned way_shadow_store_due(struct way_shadow_store *s, unsigned from, double now,
                              double *ends)
{
    unsigned nodes = way_health_nodes(s->health);
    if (!atomic_load_explicit(&s->own_verdicts, RELAXED))
        return WAY_NONE;
    for (unsigned n = from; n < nodes; n++) {
        *ends = atomic_load_explicit(&s->node[n].ends, RELAXED);
        if ((flags_of(&s->node[n]) & OWN_VERDICT) && *ends > 0 && *ends <= now)
            return n;
    }
    return WAY_NONE;
}

/* Healthy, and nothing of the last mark is left. */
static bool is_calm(const struct way_verdict *v, double now)
{
    return v->state == WAY_STATE_HEALTHY && v->ends <= 0 && v->shed <= 0 &&
           way_verdict_weight(v, now) >= 1;
}

static bool is_gone(struct way_shadow_store *s, unsigned node)
{
    struct way_node *n = way_health_node(s->health, node);
    return atomic_load_explicit(&n->route, RELAXED) & WAY_ROUTE_GONE;
}

static void settle_node(struct way_shadow_store *s, unsigned node, double now)
{
    struct record *r = &s->node[node];
    struct way_verdict v;
    way_health_verdict(s->health, node, &v);
    bool calm = is_calm(&v, now);
    if (lock_soon(s) < 0)
        return; /* the next time will do */
    if (is_gone(s, node) || r->generation != generation_of(s, node)) {
        forget(s, node);
    } else if (calm && is_calm(&r->verdict, now)) {
        flags_set(s, r, flags_of(r) & ~(uint32_t)OWN_VERDICT);
        written(r);
    }
    unlock(s);
}

void way_shadow_store_settle(struct way_shadow_store *s, double now)
{
    unsigned nodes = way_health_nodes(s->health);
    if (!atomic_load_explicit(&s->own_verdicts, RELAXED))
        return;
    for (unsigned n = 0; n < nodes; n++)
        if (flags_of(&s->node[n]) & OWN_VERDICT)
            settle_node(s, n, now);
}

bool way_shadow_store_verdict(struct way_shadow_store *s, unsigned node,
                              struct way_verdict *out)
{
    bool own = false;
    pthread_mutex_lock(&s->lock); /* not for who decides */
    if ((flags_of(&s->node[node]) & OWN_VERDICT) &&
        s->node[node].generation == generation_of(s, node)) {
        *out = s->node[node].verdict;
        own = true;
    }
    unlock(s);
    return own;
}
