/* shadow_store - see shadow_store.h.
 *
 *               answer differs from the table's: commit
 *     follows ─────────────────────────────────────────▶ own
 *        ▲                                                │ commit: its answers alone
 *        └────────────────────────────────────────────────┘
 *          settle (verdicts: both calm, or an operator's mark stands), commit (memory: the same as the table's)
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

enum { OWN_VERDICT = 1, OWN_MEMORY = 2, OWN_COUNTERS = 4 };
enum { NODE, SHARD, CLUSTER }; /* as enum way_counter_scope */
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

struct tally {
    _Atomic uint64_t node[WAY_NODES_MAX][WAY_NODE_COUNTER_WORDS];
    _Atomic uint64_t shard[WAY_SHARDS_MAX][WAY_SHARD_COUNTER_WORDS];
    _Atomic uint64_t cluster[WAY_CLUSTER_COUNTER_WORDS];
};

struct way_shadow_store {
    struct way_health *health;
    struct way_layout layout;
    bool same_memory, same_counters;
    struct way_counters_layout counters;
    uint64_t epoch;      /* of the policy in charge */
    struct tally *tally; /* NULL: it has no counters */
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

/* ---- counters: blocks of its own ---- */

static _Atomic uint64_t *block_of(struct way_shadow_store *s, int part, unsigned index)
{
    if (!s->tally)
        return NULL;
    if (part == CLUSTER)
        return s->tally->cluster;
    if (part == SHARD)
        return index < WAY_SHARDS_MAX ? s->tally->shard[index] : NULL;
    return s->tally->node[index];
}

static unsigned shard_of(struct way_shadow_store *s, unsigned node)
{
    return atomic_load_explicit(&way_health_node(s->health, node)->shard, RELAXED);
}

/* The block goes on from what the policy of that epoch has counted. */
static void copy_block(struct way_shadow_store *s, int part, unsigned node,
                       const struct way_counters_layout *of, uint64_t epoch)
{
    struct way_counter_blocks from;
    unsigned shard = shard_of(s, node);
    _Atomic uint64_t *to = block_of(s, part, part == SHARD ? shard : node);
    way_health_counter_blocks(s->health, node, shard, epoch, &from);
    if (to && from.of[part])
        way_counters_inherit(&s->counters, to, of, from.of[part],
                             (enum way_counter_scope)part);
}

static void begin_counters(struct way_shadow_store *s,
                           const struct way_shadow_store_options *o)
{
    unsigned nodes = way_health_nodes(s->health);
    if (!s->tally || s->same_counters)
        return;
    for (unsigned n = 0; n < nodes && o->begin_counters; n++)
        for (int part = NODE; part <= CLUSTER; part++)
            copy_block(s, part, n, o->begin_counters, o->begin_epoch);
    for (unsigned i = 0; i < WAY_SHARDS_MAX; i++)
        atomic_fetch_or_explicit(&s->shard[i].flags, OWN_COUNTERS, RELEASE);
    atomic_fetch_or_explicit(&s->cluster.flags, OWN_COUNTERS, RELEASE);
    atomic_fetch_or_explicit(&s->no_shard.flags, OWN_COUNTERS, RELEASE);
}

static void begin_node(struct way_shadow_store *s, unsigned node)
{
    s->node[node].generation = generation_of(s, node);
    begin_memory(s, &s->node[node], s->node_memory[node], s->layout.first.node,
                 s->layout.node);
    if (s->tally && !s->same_counters)
        atomic_fetch_or_explicit(&s->node[node].flags, OWN_COUNTERS, RELEASE);
}

struct way_shadow_store *way_shadow_store_new(const struct way_shadow_store_options *o)
{
    struct way_shadow_store *s = way_zalloc(sizeof *s);
    s->health = o->health;
    s->layout = *o->layout;
    s->same_memory = o->same_memory;
    s->counters = *o->counters;
    s->same_counters = way_counters_alike(o->counters, o->charge_counters);
    s->epoch = o->epoch;
    if (o->counters->all)
        s->tally = way_zalloc(sizeof *s->tally);
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
    begin_counters(s, o);
    return s;
}

void way_shadow_store_free(struct way_shadow_store *s)
{
    if (!s)
        return;
    pthread_mutex_destroy(&s->lock);
    way_free(s->tally);
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
    for (unsigned i = 0; s->tally && i < WAY_NODE_COUNTER_WORDS; i++)
        atomic_store_explicit(&s->tally->node[node][i], 0, RELAXED);
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
static void follow_verdict(struct way_shadow_store *s, struct record *r)
{
    flags_set(s, r, flags_of(r) & ~(uint32_t)OWN_VERDICT);
    written(r);
}

/* Under the lock. An operator's mark outranks this policy's too: where one stands, the node
 * is the table's again, until the mark is over and the answers differ anew. */
static void overlay(struct way_shadow_store *s, struct way_shadow_look *l, double now)
{
    struct record *r = &s->node[l->node];
    struct way_view *v = &l->own;
    if (flags_of(r) && r->generation != v->generation)
        forget(s, l->node);
    if (flags_of(r) & OWN_VERDICT && way_verdict_by_operator(&v->verdict, now))
        follow_verdict(s, r);
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

static void read_counters(struct way_shadow_store *s, struct way_shadow_look *l,
                          double now)
{
    for (int part = NODE; s->tally && part <= CLUSTER; part++)
        if (flags_of(record_of(s, l, part)) & OWN_COUNTERS)
            way_counters_read(&s->counters, (enum way_counter_scope)part,
                              block_of(s, part, part == SHARD ? l->shard : l->node), now,
                              l->own.counted[part]);
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
    overlay(s, out, seen->now);
    unlock(s);
    count(s, &out->own);
    read_counters(s, out, seen->now);
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
    if (fate == BECOMES_OWN && p.place)
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

static bool same_touches(const struct way_touches *a, const struct way_touches *b)
{
    unsigned count = a ? a->count : 0;
    if (count != (b ? b->count : 0))
        return false;
    for (unsigned i = 0; i < count; i++) {
        const struct way_touch *x = &a->touch[i], *y = &b->touch[i];
        if (x->scope != y->scope || x->index != y->index || x->add != y->add ||
            (x->add && x->value != y->value))
            return false;
    }
    return true;
}

/* Under the lock: from here on the block is counted here. */
static void own_counters(struct way_shadow_store *s, struct record *r, int part,
                         unsigned node)
{
    if (!s->tally || r == &s->no_shard || flags_of(r) & OWN_COUNTERS)
        return;
    copy_block(s, part, node, &s->counters, s->epoch);
    flags_set(s, r, flags_of(r) | OWN_COUNTERS);
    written(r);
}

static void commit_touches(struct way_shadow_store *s, const struct way_shadow_look *l,
                           const struct way_shadow_change *c)
{
    struct way_counter_blocks own = { { NULL } };
    bool differ = !same_touches(c->touches, c->table_touches);
    for (int part = NODE; s->tally && part <= CLUSTER; part++) {
        struct record *r = record_of(s, l, part);
        if (differ)
            own_counters(s, r, part, l->node);
        if (flags_of(r) & OWN_COUNTERS)
            own.of[part] = block_of(s, part, part == SHARD ? l->shard : l->node);
    }
    if (s->tally && c->touches)
        way_counters_touch(&s->counters, &own, c->touches);
}

static bool touches_anything(struct way_shadow_store *s, const struct way_shadow_look *l,
                             const struct way_shadow_change *c)
{
    if (!s->tally)
        return false;
    if (!same_touches(c->touches, c->table_touches))
        return true;
    for (unsigned i = 0; c->touches && i < c->touches->count; i++)
        if (flags_of(record_of(s, l, c->touches->touch[i].scope)) & OWN_COUNTERS)
            return true;
    return false;
}

static bool changes_anything(struct way_shadow_store *s, const struct way_shadow_look *l,
                             const struct way_shadow_change *c)
{
    for (int part = NODE; part <= CLUSTER; part++) {
        struct part p = part_of(s, l, c, part);
        if (fate_of(s, &p, l->own_memory[part]) != STAYS)
            return true;
    }
    return c->verdict_own;
}

enum way_commit way_shadow_store_commit(struct way_shadow_store *s,
                                        const struct way_shadow_look *look,
                                        const struct way_shadow_change *c)
{
    if (!changes_anything(s, look, c) && !touches_anything(s, look, c))
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
        commit_touches(s, look, c);
    unlock(s);
    return old ? WAY_COMMIT_CONFLICT : WAY_COMMIT_DONE;
}

/* ---- counting ---- */

static void own_all_counters(struct way_shadow_store *s, struct way_shadow_look *l)
{
    if (lock_soon(s) < 0)
        return; /* the next one that differs will do */
    for (int part = NODE; part <= CLUSTER; part++)
        own_counters(s, record_of(s, l, part), part, l->node);
    unlock(s);
}

uint64_t way_shadow_store_count(struct way_shadow_store *s, unsigned node,
                                const struct way_report *r, bool differs)
{
    struct way_shadow_look l = { .node = (uint16_t)node };
    struct way_counter_blocks own = { { NULL } };
    uint32_t any = 0;
    if (!s->tally)
        return 0;
    l.shard = (uint16_t)shard_of(s, node);
    if (differs && s->same_counters)
        own_all_counters(s, &l);
    for (int part = NODE; part <= CLUSTER; part++) {
        uint32_t flags = flags_of(record_of(s, &l, part)) & OWN_COUNTERS;
        any |= flags;
        if (flags)
            own.of[part] = block_of(s, part, part == SHARD ? l.shard : node);
    }
    return any ? way_counters_report(&s->counters, &own, r) : 0;
}

bool way_shadow_store_owns(struct way_shadow_store *s, unsigned node, const char *counter)
{
    struct way_shadow_look l = { .node = (uint16_t)node,
                                 .shard = (uint16_t)shard_of(s, node) };
    for (int part = NODE; part <= CLUSTER; part++)
        for (unsigned i = 0; i < s->counters.count[part]; i++)
            if (!strcmp(s->counters.counter[part][i].name, counter))
                return flags_of(record_of(s, &l, part)) & OWN_COUNTERS;
    return true;
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
    } else if (way_verdict_by_operator(&v, now) || (calm && is_calm(&r->verdict, now))) {
        follow_verdict(s, r);
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

/* Under the lock. */
static bool read_verdict(struct way_shadow_store *s, unsigned node,
                         struct way_verdict *out)
{
    const struct record *r = &s->node[node];
    if (!(flags_of(r) & OWN_VERDICT) || r->generation != generation_of(s, node))
        return false;
    *out = r->verdict;
    return true;
}

bool way_shadow_store_verdict(struct way_shadow_store *s, unsigned node,
                              struct way_verdict *out)
{
    pthread_mutex_lock(&s->lock); /* not for who decides */
    bool own = read_verdict(s, node, out);
    unlock(s);
    return own;
}

bool way_shadow_store_verdict_soon(struct way_shadow_store *s, unsigned node,
                                   struct way_verdict *out)
{
    if (!(flags_of(&s->node[node]) & OWN_VERDICT) || lock_soon(s) < 0)
        return false;
    bool own = read_verdict(s, node, out);
    unlock(s);
    return own;
}
