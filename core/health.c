/* health - see health.h. Layout, mapping and records are segment's; slots and shards are
 * health_topology's; what a worker takes for itself, health_claims'; a policy's counters,
 * health_counters'. Here: verdicts, the lock, the guard, commits.
 *
 * A node, a shard's memory and the cluster's memory are a record each (segment.h):
 *
 *         version ──┐ low bit
 *     ┌─────────┐   │   ┌──────────────────────┐
 *     │   6     │───┴──▶│ copy 0: counts       │◀── readers, at any moment, no lock
 *     └─────────┘       ├──────────────────────┤
 *                       │ copy 1: the writer's │◀── under the lock; whole before
 *                       └──────────────────────┘    version becomes 7
 *
 * A commit of one record is whole by that. One of several (node + shard + cluster):
 *
 *     idle ── redo filled ── turn odd ── records one by one ── turn even ── idle
 *            nothing       the commit                         publish()
 *            happened      point
 *
 * Each commit has a number (`commits`), given under the lock, that orders the journals of
 * all workers: the epoch does not do, for it rises by changes of state alone.
 *
 * What is derived from a node's record is written after it: the allotment of trials, then
 * the route word. A writer may be killed anywhere. Who takes the lock next is told so
 * (EOWNERDEAD), and recover() finishes an odd turn, derives all routes afresh, mends the
 * map and raises the epoch. Applying a redo record twice does no harm: each part names
 * the version it makes.
 *
 * A snapshot sees a commit of several records whole or not at all: it is taken between two
 * looks at `turn`, and where that is odd, what the redo record has of it counts, whether
 * its writer came to put it in place or not. So a frozen writer holds up no reader.
 *
 * Invariants, asserted by way_health_check() (and of the map: health_topology.c):
 *   1. the lock free: turn even, mapping 0
 *   2. a verdict's state, weight, shed and reason are what a mark can make them
 *   3. the route word is what its record says (its WEIGHT bit may outlive a ramp)
 *   4. a probing node's trials are of its record's allotment
 *   5. a row without an owner is zero
 *   6. the layout in charge fits what there is room for
 *
 * Rejected: a lock per node (the guard looks at all, and a commit may span three records);
 * a lock word with the holder's pid instead of the robust mutex (the kernel knows of a
 * death at once, we would have to ask); verdicts in a log that readers apply. */
#include "health.h"

#include "health_claims.h"
#include "health_topology.h"
#include "segment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define RELAXED memory_order_relaxed
#define ACQUIRE memory_order_acquire
#define RELEASE memory_order_release

enum {
    LOCK_NS = 1000 * 1000,
    JOIN_TRIES = 2000, /* of LOCK_NS each, when attaching */
};

/* ---- what is derived from a verdict ---- */

static bool ramping(const struct way_verdict *v, double now)
{
    return v->ramp > 0 && now < v->ramp_began + v->ramp;
}

double way_verdict_weight(const struct way_verdict *v, double now)
{
    if (!ramping(v, now))
        return v->weight;
    double share = (now - v->ramp_began) / v->ramp;
    return share > 0 ? v->weight * share : 0;
}

static bool is_gone(struct way_segment *s, unsigned node)
{
    uint32_t life = atomic_load_explicit(&s->aux[node].life, RELAXED);
    return life == WAY_LIFE_FREE || life == WAY_LIFE_GONE;
}

static uint32_t route_of(struct way_segment *s, unsigned node,
                         const struct way_verdict *v, double now)
{
    return (uint32_t)v->state |
           (v->weight < 1 || ramping(v, now) ? WAY_ROUTE_WEIGHT : 0) |
           (v->shed > 0 ? WAY_ROUTE_SHED : 0) | (is_gone(s, node) ? WAY_ROUTE_GONE : 0);
}

/* Under the lock, after the record. Trials first: who sees `probing` finds them. */
static void derive(struct way_segment *s, unsigned node, const struct way_own *own,
                   double now)
{
    uint64_t allotment = own->allotment & 0xffffff;
    _Atomic uint64_t *trials = &s->aux[node].trials;
    if (own->verdict.state == WAY_STATE_PROBING &&
        way_trials_allotment(atomic_load_explicit(trials, RELAXED)) != allotment)
        atomic_store_explicit(
            trials, way_trials_pack(allotment, 0, own->verdict.trials, 0), RELEASE);
    atomic_store_explicit(&s->node[node].route, route_of(s, node, &own->verdict, now),
                          RELEASE);
}

static uint64_t read_own(struct way_segment *s, unsigned node, struct way_own *own)
{
    return way_record_read(s->own[node], WAY_OWN_WORDS, WAY_OWN_WORDS, own);
}

const char *way_refusal_name(unsigned refusal)
{
    static const char *const words[] = { "", "last_node", "share", "operator" };
    return refusal < way_count(words) ? words[refusal] : "";
}

/* ---- the lock ---- */

static void raise_epoch(struct way_health *h)
{
    atomic_fetch_add_explicit(&h->s->epoch, 1, memory_order_acq_rel);
    h->woken_due = true;
}

static void redo_one(_Atomic uint64_t *record, unsigned words, uint64_t version,
                     const _Atomic uint64_t *from)
{
    uint64_t words_of[WAY_OWN_WORDS];
    if (way_record_version(record) >= version)
        return;
    for (unsigned i = 0; i < words; i++)
        words_of[i] = atomic_load_explicit(from + i, RELAXED);
    way_record_write(record, words, version, words_of);
}

/* Puts each part in place that is not there yet. */
static void redo_apply(struct way_segment *s)
{
    struct way_redo *r = &s->redo;
    uint32_t parts = atomic_load_explicit(&r->parts, RELAXED);
    uint32_t node = atomic_load_explicit(&r->node, RELAXED) % WAY_NODES_MAX;
    uint32_t shard = atomic_load_explicit(&r->shard, RELAXED) % WAY_SHARDS_MAX;
    if (parts & WAY_PART_NODE)
        redo_one(s->own[node], WAY_OWN_WORDS,
                 atomic_load_explicit(&r->version[0], RELAXED), r->own);
    if (parts & WAY_PART_SHARD)
        redo_one(s->shard_memory[shard], WAY_SHARD_WORDS,
                 atomic_load_explicit(&r->version[1], RELAXED), r->shard_memory);
    if (parts & WAY_PART_CLUSTER)
        redo_one(s->cluster, WAY_CLUSTER_WORDS,
                 atomic_load_explicit(&r->version[2], RELAXED), r->cluster_memory);
}

/* The lock's owner died: puts in order whatever it may have left. May itself be cut short
 * and begun again by the next. */
static void recover(struct way_health *h)
{
    struct way_segment *s = h->s;
    uint64_t turn = atomic_load_explicit(&s->redo.turn, ACQUIRE);
    if (turn & 1) {
        redo_apply(s);
        atomic_store_explicit(&s->redo.turn, turn + 1, RELEASE);
    }
    if (atomic_load_explicit(&s->mapping, RELAXED))
        way_health_mend_map(s);
    unsigned nodes = way_health_nodes(h);
    for (unsigned n = 0; n < nodes; n++) {
        struct way_own own;
        read_own(s, n, &own);
        derive(s, n, &own, 0); /* time unknown: a ramp counts as not over */
    }
    raise_epoch(h);
}

/* Thread sanitizers don't know pthread_mutex_clocklock, nor of a dead owner that
 * pthread_mutex_timedlock tells: for them, many tries. (By the wall clock, as the latter
 * waits, a millisecond could be an hour.) */
#if defined(__SANITIZE_THREAD__)
#define TRY_ONLY 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TRY_ONLY 1
#endif
#endif

static int lock_within(pthread_mutex_t *lock, long ns)
{
#ifdef TRY_ONLY
    const struct timespec a_tenth = { .tv_nsec = ns / 10 };
    int rc = EBUSY;
    for (int i = 0; i < 10 && rc == EBUSY; i++) {
        nanosleep(&a_tenth, NULL);
        rc = pthread_mutex_trylock(lock);
    }
    return rc;
#else
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ns;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    return pthread_mutex_clocklock(lock, CLOCK_MONOTONIC, &until);
#endif
}

static int lock_for(struct way_health *h, bool wait)
{
    pthread_mutex_t *lock = &h->s->lock;
    int rc = pthread_mutex_trylock(lock);
    if (rc == EBUSY && wait)
        rc = lock_within(lock, LOCK_NS);
    if (rc == EOWNERDEAD) {
        recover(h);
        rc = pthread_mutex_consistent(lock);
    }
    return rc ? -1 : 0;
}

int way_health_lock(struct way_health *h)
{
    return lock_for(h, true);
}

void way_health_unlock(struct way_health *h)
{
    bool due = h->woken_due;
    h->woken_due = false;
    pthread_mutex_unlock(&h->s->lock);
    if (due && h->woken)
        h->woken(h->arg);
}

/* ---- attaching ---- */

/* How many processes that live are attached; those that died are struck off. */
static unsigned others_attached(struct way_segment *s)
{
    unsigned n = 0;
    for (unsigned i = 0; i < WAY_PROCESSES_MAX; i++) {
        uint64_t owner = atomic_load(&s->process[i]);
        if (owner && way_owner_alive(owner))
            n++;
        else if (owner)
            atomic_compare_exchange_strong(&s->process[i], &owner, 0);
    }
    return n;
}

static int enter_locked(struct way_health *h, const char *path, struct way_err *err)
{
    for (int i = 0; i < WAY_PROCESSES_MAX; i++) {
        uint64_t none = 0;
        if (atomic_compare_exchange_strong(&h->s->process[i], &none, h->owner)) {
            h->process = i;
            return 0;
        }
    }
    return way_fail(err, "segment %s: %d processes are attached, which is all it holds",
                    path ? path : "(private)", WAY_PROCESSES_MAX);
}

static int join_locked(struct way_health *h, const struct way_health_options *o,
                       struct way_err *err)
{
    const char *path = o->path;
    unsigned others = others_attached(h->s), area = way_segment_area(h->s);
    struct way_layout layout;
    way_segment_layout(h->s, area, &layout);
    if (layout.hash != o->layout.hash) {
        if (others)
            return way_fail(err,
                            "segment %s: %u process%s use%s it with another policy: "
                            "reload the policy there instead, or stop them first",
                            path ? path : "(private)", others, others == 1 ? "" : "es",
                            others == 1 ? "s" : "");
        way_segment_restart(h->s, &o->layout);
    }
    if (!h->s->bundle_bytes[area])
        way_segment_bundle_set(h->s, area, o->bundle);
    return enter_locked(h, path, err);
}

static int lock_to_join(struct way_health *h, const char *path, struct way_err *err)
{
    int tries = 0;
    while (way_health_lock(h))
        if (++tries == JOIN_TRIES)
            return way_fail(err, "segment %s: its lock is not to be had",
                            path ? path : "(private)");
    return 0;
}

static int join(struct way_health *h, const struct way_health_options *o,
                struct way_err *err)
{
    if (lock_to_join(h, o->path, err))
        return -1;
    int rc = join_locked(h, o, err);
    way_health_unlock(h);
    return rc;
}

int way_health_forked(struct way_health *h, struct way_err *err)
{
    uint64_t self = way_owner_self();
    if (self == h->owner)
        return 0;
    h->owner = self;
    if (lock_to_join(h, NULL, err))
        return -1;
    (void)others_attached(h->s); /* strikes off who died */
    int rc = enter_locked(h, NULL, err);
    way_health_unlock(h);
    return rc;
}

int way_health_open(struct way_health **out, const struct way_health_options *o,
                    struct way_err *err)
{
    struct way_health *h = way_zalloc(sizeof *h);
    way_health_bounds(h, o->guard, o->failing_share);
    h->owner = way_owner_self();
    if (way_segment_map(&h->s, o->path, &o->layout, err))
        goto no_map;
    if (join(h, o, err))
        goto no_join;
    h->woken = o->woken;
    h->arg = o->arg;
    *out = h;
    return 0;
no_join:
    way_segment_unmap(h->s);
no_map:
    way_free(h);
    return -1;
}

void way_health_close(struct way_health *h)
{
    if (!h)
        return;
    if (h->owner == way_owner_self()) /* else it was forked, and never attached itself */
        atomic_store(&h->s->process[h->process], 0);
    way_segment_unmap(h->s);
    way_free(h->zone);
    way_free(h);
}

uint64_t way_health_commits(struct way_health *h)
{
    return atomic_load_explicit(&h->s->commits, ACQUIRE);
}

struct way_node *way_health_node(struct way_health *h, unsigned node)
{
    return &h->s->node[node];
}

struct way_shard *way_health_shard(struct way_health *h, unsigned shard)
{
    return &h->s->shard[shard];
}

const _Atomic uint16_t *way_health_slots(struct way_health *h)
{
    return h->s->slot;
}

const _Atomic uint64_t *way_health_epoch(struct way_health *h)
{
    return &h->s->epoch;
}

unsigned way_health_nodes(struct way_health *h)
{
    return atomic_load_explicit(&h->s->nodes, ACQUIRE);
}

/* ---- counters in a node's hot words ---- */

bool way_health_success(struct way_health *h, unsigned node)
{
    _Atomic uint32_t *failures = &h->s->node[node].failures;
    if (atomic_load_explicit(failures, RELAXED) == 0)
        return false;
    return atomic_exchange_explicit(failures, 0, RELAXED) != 0;
}

uint32_t way_health_failure(struct way_health *h, unsigned node)
{
    return atomic_fetch_add_explicit(&h->s->node[node].failures, 1, RELAXED) + 1;
}

void way_health_failure_taken_back(struct way_health *h, unsigned node)
{
    _Atomic uint32_t *failures = &h->s->node[node].failures;
    uint32_t n = atomic_load_explicit(failures, RELAXED);
    while (n &&
           !atomic_compare_exchange_weak_explicit(failures, &n, n - 1, RELAXED, RELAXED))
        ;
}

/* Seconds as a float in the upper half, its time in ms in the lower; 0: never measured. */
void way_health_latency(struct way_health *h, unsigned node, double seconds, double now)
{
    enum { TAU_MS = 10 * 1000 };
    _Atomic uint64_t *word = &h->s->node[node].latency;
    uint64_t old = atomic_load_explicit(word, RELAXED);
    uint32_t at = way_milliseconds(now), bits = (uint32_t)(old >> 32);
    float value = (float)seconds;
    if (old) {
        float before;
        int32_t passed = (int32_t)(at - (uint32_t)old);
        if (passed <= 0)
            return;
        memcpy(&before, &bits, sizeof before);
        value =
            (float)(seconds + (before - seconds) * way_decay((double)passed / TAU_MS));
    }
    if (!(value > 1e-9f)) /* never the bits of 0 */
        value = 1e-9f;
    memcpy(&bits, &value, sizeof bits);
    atomic_compare_exchange_strong_explicit(word, &old, (uint64_t)bits << 32 | at,
                                            RELAXED, RELAXED);
}

double way_health_latency_get(struct way_health *h, unsigned node)
{
    uint64_t w = atomic_load_explicit(&h->s->node[node].latency, RELAXED);
    uint32_t bits = (uint32_t)(w >> 32);
    float value;
    memcpy(&value, &bits, sizeof value);
    return w ? (double)value : -1;
}

/* ---- views ---- */

void way_health_verdict(struct way_health *h, unsigned node, struct way_verdict *out)
{
    way_record_read(h->s->own[node], WAY_OWN_WORDS, WAY_WORDS(struct way_verdict), out);
}

static void read_records(struct way_segment *s, unsigned node, struct way_snapshot *out)
{
    struct way_view *v = &out->view;
    struct way_own own;
    unsigned area = way_area_of(out->policy_epoch);
    double shard[WAY_AREAS][WAY_SHARD_MEMORY], cluster[WAY_AREAS][WAY_CLUSTER_MEMORY];
    out->commits = atomic_load_explicit(&s->commits, ACQUIRE);
    out->node_version = read_own(s, node, &own);
    v->verdict = own.verdict;
    memcpy(v->memory.node, own.memory[area], sizeof v->memory.node);
    v->shard = atomic_load_explicit(&s->node[node].shard, ACQUIRE);
    if (v->shard < WAY_SHARDS_MAX) {
        out->shard_version = way_record_read(s->shard_memory[v->shard], WAY_SHARD_WORDS,
                                             WAY_SHARD_WORDS, shard);
        memcpy(v->memory.shard, shard[area], sizeof v->memory.shard);
    } else {
        struct way_layout layout;
        way_segment_layout(s, area, &layout);
        out->shard_version = 0;
        memcpy(v->memory.shard, layout.first.shard, sizeof v->memory.shard);
    }
    out->cluster_version =
        way_record_read(s->cluster, WAY_CLUSTER_WORDS, WAY_CLUSTER_WORDS, cluster);
    memcpy(v->memory.cluster, cluster[area], sizeof v->memory.cluster);
}

static void redo_read(const _Atomic uint64_t *from, unsigned words, void *out)
{
    for (unsigned i = 0; i < words; i++) {
        uint64_t w = atomic_load_explicit(from + i, ACQUIRE);
        memcpy((char *)out + i * sizeof w, &w, sizeof w);
    }
}

/* In an odd turn: the parts that the redo record has, instead of what is in place. */
static void read_redo(struct way_redo *r, unsigned node, struct way_snapshot *out)
{
    struct way_view *v = &out->view;
    unsigned area = way_area_of(out->policy_epoch);
    uint32_t parts = atomic_load_explicit(&r->parts, ACQUIRE);
    if ((parts & WAY_PART_NODE) && atomic_load_explicit(&r->node, ACQUIRE) == node) {
        struct way_own own;
        redo_read(r->own, WAY_OWN_WORDS, &own);
        v->verdict = own.verdict;
        memcpy(v->memory.node, own.memory[area], sizeof v->memory.node);
        out->node_version = atomic_load_explicit(&r->version[0], ACQUIRE);
    }
    if ((parts & WAY_PART_SHARD) &&
        atomic_load_explicit(&r->shard, ACQUIRE) == v->shard) {
        redo_read(r->shard_memory + area * WAY_SHARD_MEMORY, WAY_SHARD_MEMORY,
                  v->memory.shard);
        out->shard_version = atomic_load_explicit(&r->version[1], ACQUIRE);
    }
    if (parts & WAY_PART_CLUSTER) {
        redo_read(r->cluster_memory + area * WAY_CLUSTER_MEMORY, WAY_CLUSTER_MEMORY,
                  v->memory.cluster);
        out->cluster_version = atomic_load_explicit(&r->version[2], ACQUIRE);
    }
}

/* All records of one moment: in one turn, whose redo record does not change within it. */
static void read_together(struct way_segment *s, unsigned node, struct way_snapshot *out)
{
    uint64_t turn;
    do {
        turn = atomic_load_explicit(&s->redo.turn, ACQUIRE);
        read_records(s, node, out);
        if (turn & 1)
            read_redo(&s->redo, node, out);
    } while (atomic_load_explicit(&s->redo.turn, RELAXED) != turn);
}

static void read_identity(struct way_segment *s, unsigned node, struct way_view *v)
{
#define TEXT(field)                                                                      \
    way_record_text(record, WAY_IDENTITY_WORDS, version,                                 \
                    offsetof(struct way_identity, field), v->field,                      \
                    sizeof((struct way_identity *)0)->field)
    const _Atomic uint64_t *record = s->identity[node];
    uint64_t version;
    do {
        char id[sizeof((struct way_identity *)0)->id] = "";
        version = way_record_version(record);
        way_record_text(record, WAY_IDENTITY_WORDS, version, 0, id, sizeof id);
        memcpy(v->id, id, sizeof v->id);
        TEXT(host);
        TEXT(hostname);
        TEXT(address);
        TEXT(zone);
        v->port = (uint16_t)atomic_load_explicit(
            record + 1 + (version & 1) * WAY_IDENTITY_WORDS +
                offsetof(struct way_identity, port) / sizeof(uint64_t),
            ACQUIRE);
    } while (atomic_load_explicit(record, RELAXED) != version);
#undef TEXT
}

void way_health_address(struct way_health *h, unsigned node, char *out, size_t bytes)
{
    const _Atomic uint64_t *record = h->s->identity[node];
    char address[WAY_ADDRESS_MAX];
    uint64_t version;
    do {
        address[0] = 0;
        version = way_record_version(record);
        way_record_text(record, WAY_IDENTITY_WORDS, version,
                        offsetof(struct way_identity, address), address, sizeof address);
    } while (atomic_load_explicit(record, RELAXED) != version);
    size_t n = strnlen(address, sizeof address);
    n = n < bytes ? n : bytes - 1;
    memcpy(out, address, n);
    out[n] = 0;
}

static void count_node(struct way_counts *c, unsigned state, uint64_t inflight,
                       uint64_t retrying)
{
    c->nodes++;
    c->state[state < WAY_STATE_COUNT ? state : 0]++;
    c->inflight += inflight;
    c->retrying += retrying;
}

/* The rows that have an owner. */
static unsigned list_rows(struct way_segment *s, uint16_t row[WAY_ROWS_MAX])
{
    unsigned rows = 0, used = atomic_load_explicit(&s->rows, ACQUIRE);
    for (unsigned r = 0; r < used; r++)
        if (atomic_load_explicit(&s->row_owner[r], RELAXED))
            row[rows++] = (uint16_t)r;
    return rows;
}

static void sum_rows(struct way_segment *s, unsigned node, const uint16_t *row,
                     unsigned rows, uint64_t *inflight, uint64_t *retrying)
{
    *inflight = *retrying = 0;
    for (unsigned r = 0; r < rows; r++) {
        const struct way_cell *c = &s->cell[row[r]][node];
        *inflight += atomic_load_explicit(&c->inflight, RELAXED);
        *retrying += atomic_load_explicit(&c->retrying, RELAXED);
    }
}

/* States from the route words, figures from the rows that have an owner. */
static void count(struct way_health *h, unsigned node, struct way_view *v)
{
    struct way_segment *s = h->s;
    uint16_t row[WAY_ROWS_MAX];
    unsigned rows = list_rows(s, row), nodes = way_health_nodes(h);
    memset(&v->of_shard, 0, sizeof v->of_shard);
    memset(&v->of_cluster, 0, sizeof v->of_cluster);
    v->inflight = 0;
    for (unsigned n = 0; n < nodes; n++) {
        uint32_t route = atomic_load_explicit(&s->node[n].route, RELAXED);
        uint64_t inflight, retrying;
        sum_rows(s, n, row, rows, &inflight, &retrying);
        if (n == node)
            v->inflight = inflight;
        if (route & WAY_ROUTE_GONE)
            continue;
        count_node(&v->of_cluster, route & WAY_ROUTE_STATE, inflight, retrying);
        if (v->shard != WAY_NONE &&
            atomic_load_explicit(&s->node[n].shard, RELAXED) == v->shard)
            count_node(&v->of_shard, route & WAY_ROUTE_STATE, inflight, retrying);
    }
}

uint64_t way_health_inflight(struct way_health *h, unsigned node)
{
    uint16_t row[WAY_ROWS_MAX];
    uint64_t inflight, retrying;
    unsigned rows = list_rows(h->s, row);
    sum_rows(h->s, node, row, rows, &inflight, &retrying);
    return inflight;
}

void way_health_glance(struct way_health *h, unsigned node, double now,
                       uint64_t policy_epoch, struct way_snapshot *out)
{
    struct way_view *v = &out->view;
    struct way_node *n = &h->s->node[node];
    struct way_aux *aux = &h->s->aux[node];

    out->now = now;
    out->policy_epoch = policy_epoch;
    v->node = (uint16_t)node;
    read_together(h->s, node, out);
    read_identity(h->s, node, v);
    v->role = (enum way_role)atomic_load_explicit(&n->role, RELAXED);
    v->generation = atomic_load_explicit(&n->generation, RELAXED);
    v->failures = atomic_load_explicit(&n->failures, RELAXED);
    v->latency = way_health_latency_get(h, node);
    uint32_t replication = atomic_load_explicit(&aux->replication, ACQUIRE);
    v->has_replication = replication != 0;
    v->link_up = replication == 2;
    v->last_io = way_load_double(&aux->last_io);
    v->behind = way_load_double(&aux->behind);
}

void way_health_snapshot_of(struct way_health *h, unsigned node, double now,
                            uint64_t policy_epoch, struct way_snapshot *out)
{
    way_health_reap_sometimes(h, now, 1);
    way_health_glance(h, node, now, policy_epoch, out);
    count(h, node, &out->view);
}

void way_health_snapshot(struct way_health *h, unsigned node, double now,
                         struct way_snapshot *out)
{
    way_health_snapshot_of(h, node, now,
                           atomic_load_explicit(&h->s->policy_epoch, ACQUIRE), out);
}

/* Of one node into the counts; `shard` has one of each. */
static void survey_node(struct way_health *h, unsigned node, const uint16_t *row,
                        unsigned rows, struct way_counts *cluster,
                        struct way_counts *shard, struct way_snapshot *out)
{
    uint64_t retrying;
    way_health_glance(h, node, out->now, out->policy_epoch, out);
    sum_rows(h->s, node, row, rows, &out->view.inflight, &retrying);
    uint8_t state = out->view.verdict.state;
    count_node(cluster, state, out->view.inflight, retrying);
    if (out->view.shard < WAY_SHARDS_MAX)
        count_node(&shard[out->view.shard], state, out->view.inflight, retrying);
}

unsigned way_health_survey(struct way_health *h, double now, uint64_t policy_epoch,
                           struct way_snapshot *out, unsigned max)
{
    uint16_t row[WAY_ROWS_MAX];
    struct way_counts cluster = { .nodes = 0 };
    struct way_counts *shard = way_zalloc(WAY_SHARDS_MAX * sizeof *shard);
    unsigned n = 0, nodes = way_health_nodes(h);
    way_health_reap_sometimes(h, now, 1);
    unsigned rows = list_rows(h->s, row);
    for (unsigned i = 0; i < nodes && n < max; i++) {
        uint32_t route = atomic_load_explicit(&h->s->node[i].route, ACQUIRE);
        if (route & WAY_ROUTE_GONE)
            continue;
        out[n].now = now;
        out[n].policy_epoch = policy_epoch;
        survey_node(h, i, row, rows, &cluster, shard, &out[n++]);
    }
    for (unsigned i = 0; i < n; i++) {
        struct way_view *v = &out[i].view;
        v->of_cluster = cluster;
        if (v->shard < WAY_SHARDS_MAX)
            v->of_shard = shard[v->shard];
        else
            memset(&v->of_shard, 0, sizeof v->of_shard);
    }
    way_free(shard);
    return n;
}

void way_health_replication(struct way_health *h, unsigned node, bool link_up,
                            double last_io, double behind)
{
    struct way_aux *aux = &h->s->aux[node]; /* one probe at a time, so one writer */
    way_store_double(&aux->last_io, last_io);
    way_store_double(&aux->behind, behind);
    atomic_store_explicit(&aux->replication, link_up ? 2 : 1, RELEASE);
}

/* ---- the guard ---- */

/* A node's state: the table's, or what the others are supposed to be. */
static uint32_t state_in(const struct way_others *others, unsigned node, uint32_t route)
{
    enum way_state state;
    bool hard;
    return others && others->state(others->arg, node, &state, &hard)
               ? (uint32_t)state
               : route & WAY_ROUTE_STATE;
}

static bool is_hard(struct way_health *h, const struct way_others *others, unsigned node)
{
    struct way_verdict v;
    enum way_state state;
    bool hard;
    if (others && others->state(others->arg, node, &state, &hard))
        return hard;
    way_health_verdict(h, node, &v);
    return v.hard;
}

/* Does any node of the shard but this one serve reads, if only for trials? */
static bool others_serve(struct way_segment *s, const struct way_others *others,
                         unsigned shard, unsigned node)
{
    struct way_shard *sh = &s->shard[shard];
    unsigned replicas = atomic_load_explicit(&sh->replicas, RELAXED);
    for (unsigned i = 0; i <= replicas && i <= WAY_SHARD_REPLICAS; i++) {
        unsigned n = i ? atomic_load_explicit(&sh->replica[i - 1], RELAXED)
                       : atomic_load_explicit(&sh->master, RELAXED);
        if (n == node || n >= WAY_NODES_MAX)
            continue;
        uint32_t route = atomic_load_explicit(&s->node[n].route, RELAXED);
        uint32_t state = state_in(others, n, route);
        if (!(route & WAY_ROUTE_GONE) &&
            (state == WAY_STATE_HEALTHY || state == WAY_STATE_SUSPECT ||
             state == WAY_STATE_PROBING))
            return true;
    }
    return false;
}

static bool is_last(struct way_segment *s, const struct way_others *others, unsigned node)
{
    unsigned shard = atomic_load_explicit(&s->node[node].shard, RELAXED);
    if (shard >= WAY_SHARDS_MAX)
        return true;
    return atomic_load_explicit(&s->shard[shard].master, RELAXED) == node ||
           !others_serve(s, others, shard, node);
}

bool way_health_guards(const struct way_health *h, unsigned node)
{
    return h->guard && is_last(h->s, NULL, node);
}

static bool is_out(const struct way_verdict *v)
{
    return v->state == WAY_STATE_FAILING || v->state == WAY_STATE_PROBING;
}

/* Would this node be one too many of those out on soft evidence? */
static bool too_many(struct way_health *h, const struct way_others *others, unsigned node)
{
    unsigned nodes = way_health_nodes(h), members = 0, out = 1;
    for (unsigned n = 0; n < nodes; n++) {
        uint32_t route = atomic_load_explicit(&h->s->node[n].route, RELAXED);
        uint32_t state = state_in(others, n, route);
        if (route & WAY_ROUTE_GONE)
            continue;
        members++;
        if (n == node || (state != WAY_STATE_FAILING && state != WAY_STATE_PROBING))
            continue;
        out += !is_hard(h, others, n);
    }
    return out > atomic_load_explicit(&h->failing_share, RELAXED) * members + 1e-9;
}

static enum way_refusal guard(struct way_health *h, const struct way_others *others,
                              unsigned node, const struct way_verdict *v,
                              const struct way_proposal *p)
{
    if (!(p->mark.has & WAY_MARK_STATE) || p->mark.state != WAY_STATE_FAILING ||
        !atomic_load_explicit(&h->guard, RELAXED) || p->hard || p->by_operator)
        return WAY_REFUSED_NOT;
    if (is_last(h->s, others, node))
        return WAY_REFUSED_LAST_NODE;
    if (!(is_out(v) && v->hard) && too_many(h, others, node))
        return WAY_REFUSED_SHARE;
    return WAY_REFUSED_NOT;
}

/* ---- commits ---- */

static double within(double x, double least, double most)
{
    return x > least ? (x < most ? x : most) : least; /* NaN: least */
}

static void apply_state(struct way_verdict *v, enum way_state to, double now)
{
    v->ends = 0;
    if (v->state == to)
        return;
    v->state = (uint8_t)to;
    v->since = now;
    v->weight = 1;
    v->ramp = v->ramp_began = v->shed = 0;
    v->trials = 0;
    memset(v->reason, 0, sizeof v->reason);
}

static void apply_fields(struct way_own *own, const struct way_mark *m, unsigned has,
                         double now)
{
    struct way_verdict *v = &own->verdict;
    if (has & WAY_MARK_SECONDS)
        v->ends = now + within(m->seconds, 0, 1e9);
    if (has & WAY_MARK_WEIGHT)
        v->weight = within(m->weight, 0, 1);
    if (has & WAY_MARK_RAMP) {
        v->ramp = within(m->ramp, 0, 1e9);
        v->ramp_began = now;
    }
    if (has & WAY_MARK_SHED)
        v->shed = within(m->shed, 0, 1);
    if (has & WAY_MARK_REASON) {
        size_t n = strnlen(m->reason, sizeof v->reason - 1);
        memset(v->reason, 0, sizeof v->reason);
        memcpy(v->reason, m->reason, n);
    }
    if ((has & WAY_MARK_CONNECTIONS) && m->connections != WAY_CONNECTIONS_KEEP) {
        v->connections = (uint8_t)m->connections;
        v->drops++;
    }
    if (v->state == WAY_STATE_PROBING && (has & (WAY_MARK_STATE | WAY_MARK_TRIALS))) {
        v->trials = has & WAY_MARK_TRIALS ? (uint32_t)within(m->trials, 1, 0xffff) : 1;
        own->allotment++;
    }
}

/* What the mark makes of the record. */
static void apply(struct way_health *h, const struct way_others *others, unsigned node,
                  const struct way_proposal *p, double now, struct way_own *own,
                  struct way_outcome *out)
{
    struct way_verdict *v = &own->verdict;
    bool was_hard = is_out(v) && v->hard;
    bool stands = v->state == WAY_STATE_FAILING && v->hard && (!v->ends || now < v->ends);
    unsigned has = p->mark.has;

    if (!p->by_operator && way_verdict_by_operator(v, now)) {
        out->refused = WAY_REFUSED_OPERATOR;
        return;
    }
    v->by_operator = p->by_operator && !p->taken_back;
    out->refused = guard(h, others, node, v, p);
    if (out->refused && stands)
        has &= ~(unsigned)(WAY_MARK_STATE | WAY_MARK_SECONDS);
    if (has & WAY_MARK_STATE)
        apply_state(v, out->refused ? WAY_STATE_SUSPECT : p->mark.state, now);
    apply_fields(own, &p->mark, has, now);
    v->hard = is_out(v) && (was_hard || p->hard || p->by_operator);
}

void way_health_suppose(struct way_health *h, unsigned node, const struct way_proposal *p,
                        double now, const struct way_others *others,
                        struct way_verdict *v, struct way_outcome *out)
{
    struct way_own own = { .verdict = *v };
    *out = (struct way_outcome){ .from = (enum way_state)v->state };
    if (p->mark.given)
        apply(h, others, node, p, now, &own, out);
    *v = own.verdict;
    out->to = (enum way_state)v->state;
    out->changed = out->to != out->from;
}

/* Which records the proposal changes: WAY_PART_... */
static unsigned parts_of(struct way_health *h, const struct way_snapshot *seen,
                         const struct way_proposal *p)
{
    const struct way_memory *a = &seen->view.memory, *b = &p->memory;
    struct { /* as a layout begins */
        uint64_t hash;
        unsigned node, shard, cluster, none;
    } used;
    _Static_assert(sizeof used <= offsetof(struct way_layout, first), "whole words");
    way_record_read(h->s->layout[way_area_of(seen->policy_epoch)], WAY_LAYOUT_WORDS,
                    WAY_WORDS(used), &used);
    unsigned parts = 0;
    if (p->mark.given || memcmp(a->node, b->node, used.node * sizeof(double)))
        parts |= WAY_PART_NODE;
    if (seen->view.shard < WAY_SHARDS_MAX &&
        memcmp(a->shard, b->shard, used.shard * sizeof(double)))
        parts |= WAY_PART_SHARD;
    if (memcmp(a->cluster, b->cluster, used.cluster * sizeof(double)))
        parts |= WAY_PART_CLUSTER;
    return parts;
}

static bool is_of_another_policy(struct way_segment *s, const struct way_snapshot *seen)
{
    return atomic_load_explicit(&s->policy_epoch, ACQUIRE) != seen->policy_epoch;
}

static bool is_old(struct way_segment *s, const struct way_snapshot *seen)
{
    unsigned shard = seen->view.shard;
    return is_of_another_policy(s, seen) ||
           way_record_version(s->own[seen->view.node]) != seen->node_version ||
           way_record_version(s->cluster) != seen->cluster_version ||
           atomic_load_explicit(&s->node[seen->view.node].shard, RELAXED) != shard ||
           (shard < WAY_SHARDS_MAX &&
            way_record_version(s->shard_memory[shard]) != seen->shard_version);
}

/* With release order, as records are written: a reader that meets a word of a later turn
 * must then see that turn. */
static void redo_words(_Atomic uint64_t *to, unsigned words, const void *from)
{
    for (unsigned i = 0; i < words; i++) {
        uint64_t w;
        memcpy(&w, (const char *)from + i * sizeof w, sizeof w);
        atomic_store_explicit(to + i, w, RELEASE);
    }
}

/* The records of a commit as they will be. */
struct image {
    struct way_own own;
    double shard[WAY_AREAS][WAY_SHARD_MEMORY], cluster[WAY_AREAS][WAY_CLUSTER_MEMORY];
};

/* As they are, with the memory of the area in charge replaced. Under the lock. */
static void take_image(struct way_segment *s, const struct way_snapshot *seen,
                       const struct way_memory *m, unsigned parts, struct image *out)
{
    unsigned area = way_area_of(seen->policy_epoch);
    read_own(s, seen->view.node, &out->own);
    memcpy(out->own.memory[area], m->node, sizeof m->node);
    if (parts & WAY_PART_SHARD) {
        way_record_read(s->shard_memory[seen->view.shard], WAY_SHARD_WORDS,
                        WAY_SHARD_WORDS, out->shard);
        memcpy(out->shard[area], m->shard, sizeof m->shard);
    }
    if (parts & WAY_PART_CLUSTER) {
        way_record_read(s->cluster, WAY_CLUSTER_WORDS, WAY_CLUSTER_WORDS, out->cluster);
        memcpy(out->cluster[area], m->cluster, sizeof m->cluster);
    }
}

static void redo_fill(struct way_redo *r, unsigned parts, const struct way_snapshot *seen,
                      const struct image *image)
{
    atomic_store_explicit(&r->parts, parts, RELEASE);
    atomic_store_explicit(&r->node, seen->view.node, RELEASE);
    atomic_store_explicit(&r->shard, seen->view.shard, RELEASE);
    atomic_store_explicit(&r->version[0], seen->node_version + 1, RELEASE);
    atomic_store_explicit(&r->version[1], seen->shard_version + 1, RELEASE);
    atomic_store_explicit(&r->version[2], seen->cluster_version + 1, RELEASE);
    if (parts & WAY_PART_NODE)
        redo_words(r->own, WAY_OWN_WORDS, &image->own);
    if (parts & WAY_PART_SHARD)
        redo_words(r->shard_memory, WAY_SHARD_WORDS, image->shard);
    if (parts & WAY_PART_CLUSTER)
        redo_words(r->cluster_memory, WAY_CLUSTER_WORDS, image->cluster);
}

/* Under the lock, with a snapshot that is not old. */
static void publish(struct way_segment *s, unsigned parts,
                    const struct way_snapshot *seen, const struct image *image)
{
    bool several = parts & (parts - 1);
    atomic_fetch_add_explicit(&s->commits, 1, RELEASE);
    uint64_t turn = atomic_load_explicit(&s->redo.turn, RELAXED);
    if (several) {
        redo_fill(&s->redo, parts, seen, image);
        atomic_store_explicit(&s->redo.turn, turn + 1, RELEASE);
    }
    if (parts & WAY_PART_NODE)
        way_record_write(s->own[seen->view.node], WAY_OWN_WORDS, seen->node_version + 1,
                         &image->own);
    if (parts & WAY_PART_SHARD)
        way_record_write(s->shard_memory[seen->view.shard], WAY_SHARD_WORDS,
                         seen->shard_version + 1, image->shard);
    if (parts & WAY_PART_CLUSTER)
        way_record_write(s->cluster, WAY_CLUSTER_WORDS, seen->cluster_version + 1,
                         image->cluster);
    if (several)
        atomic_store_explicit(&s->redo.turn, turn + 2, RELEASE);
}

static enum way_commit commit_locked(struct way_health *h,
                                     const struct way_snapshot *seen,
                                     const struct way_proposal *p, unsigned parts,
                                     struct way_outcome *out)
{
    struct way_segment *s = h->s;
    unsigned node = seen->view.node;
    struct image image;

    if (is_old(s, seen))
        return WAY_COMMIT_CONFLICT;
    take_image(s, seen, &p->memory, parts, &image);
    struct way_verdict *verdict = &image.own.verdict;
    uint32_t drops = verdict->drops;
    if (p->mark.given)
        apply(h, NULL, node, p, seen->now, &image.own, out);
    publish(s, parts, seen, &image);
    if (parts & WAY_PART_NODE)
        derive(s, node, &image.own, seen->now);
    out->to = (enum way_state)verdict->state;
    out->changed = out->to != out->from;
    if (out->changed || verdict->drops != drops)
        raise_epoch(h);
    if (p->touches.count)
        way_health_counters_touch(h, seen, p);
    out->commit = atomic_load_explicit(&s->commits, RELAXED);
    out->published = true;
    return WAY_COMMIT_DONE;
}

enum way_commit way_health_commit(struct way_health *h, const struct way_snapshot *seen,
                                  const struct way_proposal *p, bool locked,
                                  struct way_outcome *out)
{
    unsigned parts = parts_of(h, seen, p);
    *out = (struct way_outcome){
        .from = (enum way_state)seen->view.verdict.state,
        .to = (enum way_state)seen->view.verdict.state,
        .commit = seen->commits,
    };
    if (is_of_another_policy(h->s, seen))
        return WAY_COMMIT_CONFLICT;
    if (!parts && !p->touches.count)
        return WAY_COMMIT_DONE;
    if (!locked && way_health_lock(h))
        return WAY_COMMIT_BUSY;
    enum way_commit rc = commit_locked(h, seen, p, parts, out);
    if (!locked)
        way_health_unlock(h);
    return rc;
}

void way_health_settle(struct way_health *h, unsigned node, double now)
{
    struct way_own own;
    if (lock_for(h, false))
        return;
    read_own(h->s, node, &own);
    derive(h->s, node, &own, now);
    way_health_unlock(h);
}

/* ---- the check ---- */

#define MUST(condition, ...)                                                             \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            fprintf(stderr, "node table: " __VA_ARGS__);                                 \
            fprintf(stderr, ": not %s\n", #condition);                                   \
            abort();                                                                     \
        }                                                                                \
    } while (0)

static void check_node(struct way_segment *s, unsigned n)
{
    struct way_own own;
    const struct way_verdict *v = &own.verdict;
    read_own(s, n, &own);
    MUST(v->state < WAY_STATE_COUNT, "node %u, state %u", n, v->state);
    MUST(v->weight >= 0 && v->weight <= 1, "node %u, weight %g", n, v->weight);
    MUST(v->shed >= 0 && v->shed <= 1, "node %u, shed %g", n, v->shed);
    MUST(v->ends >= 0 && v->ramp >= 0, "node %u, ends %g, ramp %g", n, v->ends, v->ramp);
    MUST(memchr(v->reason, 0, sizeof v->reason), "node %u, reason", n);
    MUST(!v->hard || is_out(v), "node %u, hard but not out", n);

    uint32_t route = atomic_load(&s->node[n].route), whole = route_of(s, n, v, 0);
    MUST(route == whole || route == (whole & ~(uint32_t)WAY_ROUTE_WEIGHT),
         "node %u, route %x, its record says %x", n, route, whole);
    MUST(v->weight >= 1 || (route & WAY_ROUTE_WEIGHT), "node %u, weight %g, route %x", n,
         v->weight, route);
    uint64_t trials = atomic_load(&s->aux[n].trials);
    MUST(v->state != WAY_STATE_PROBING ||
             way_trials_allotment(trials) == (own.allotment & 0xffffff),
         "node %u, trials of another allotment", n);
}

static void check_row(struct way_segment *s, unsigned row, unsigned nodes)
{
    if (atomic_load(&s->row_owner[row]))
        return;
    for (unsigned n = 0; n < nodes; n++) {
        const struct way_cell *c = &s->cell[row][n];
        MUST(!atomic_load(&c->inflight) && !atomic_load(&c->requests) &&
                 !atomic_load(&c->trials),
             "row %u has no owner, node %u", row, n);
    }
}

void way_health_check(struct way_health *h)
{
    struct way_segment *s = h->s;
    int tries = 0;
    while (way_health_lock(h))
        MUST(++tries < JOIN_TRIES, "the lock is not to be had");
    MUST(!(atomic_load(&s->redo.turn) & 1), "a commit is half done");
    MUST(!atomic_load(&s->mapping), "the map is half done");
    struct way_layout layout;
    way_segment_layout(s, way_segment_area(s), &layout);
    MUST(layout.node <= WAY_NODE_MEMORY && layout.shard <= WAY_SHARD_MEMORY &&
             layout.cluster <= WAY_CLUSTER_MEMORY,
         "a layout of %u, %u, %u numbers", layout.node, layout.shard, layout.cluster);
    unsigned nodes = way_health_nodes(h), rows = atomic_load(&s->rows);
    for (unsigned n = 0; n < nodes; n++)
        check_node(s, n);
    for (unsigned r = 0; r < rows; r++)
        check_row(s, r, nodes);
    way_health_check_map(s);
    way_health_unlock(h);
}
