/* health_claims - see health_claims.h and health.h.
 *
 * Whatever a worker claims carries its holder: a row and the permits in its cells an
 * owner (pid and start time), a lease and a permit an end besides. Nothing here takes the
 * table's lock, so a worker that dies in here leaves no more than a claim too many, which
 * lapses: rows are zeroed by who finds the owner dead, permits follow from what rows hold. */
#include "health_claims.h"

#define RELAXED memory_order_relaxed
#define ACQUIRE memory_order_acquire
#define RELEASE memory_order_release

enum { PERMIT_SECONDS = 10 };

/* ---- rows ---- */

/* The row's cells of all records ever used: further ones were never written. */
static void row_zero(struct way_health *h, unsigned row)
{
    unsigned nodes = way_health_nodes(h);
    for (unsigned n = 0; n < nodes; n++) {
        _Atomic uint64_t *w = (_Atomic uint64_t *)&h->s->cell[row][n];
        for (unsigned i = 0; i < WAY_WORDS(struct way_cell); i++)
            if (atomic_load_explicit(w + i, RELAXED))
                atomic_store_explicit(w + i, 0, RELAXED);
    }
}

/* Zeroes the rows of dead owners. Who zeroes owns it meanwhile, and may die too. */
static void reap(struct way_health *h)
{
    unsigned rows = atomic_load_explicit(&h->s->rows, ACQUIRE);
    uint64_t known = h->owner; /* the last one that was found alive */
    for (unsigned row = 0; row < rows; row++) {
        uint64_t owner = atomic_load_explicit(&h->s->row_owner[row], ACQUIRE);
        if (!owner || owner == h->owner || owner == known)
            continue;
        if (way_owner_alive(owner)) {
            known = owner;
        } else if (atomic_compare_exchange_strong(&h->s->row_owner[row], &owner,
                                                  h->owner)) {
            row_zero(h, row);
            atomic_store_explicit(&h->s->row_owner[row], 0, RELEASE);
        }
    }
}

void way_health_reap_sometimes(struct way_health *h, double now, double every)
{
    uint64_t at = atomic_load_explicit(&h->reap_at, RELAXED);
    double last;
    memcpy(&last, &at, sizeof last);
    if ((now < last + every && now >= last) ||
        !atomic_compare_exchange_strong(&h->reap_at, &at, way_double_bits(now)))
        return;
    reap(h);
}

int way_health_row_attach(struct way_health *h, struct way_err *err)
{
    reap(h);
    for (int row = 0; row < WAY_ROWS_MAX; row++) {
        uint64_t none = 0;
        if (!atomic_compare_exchange_strong(&h->s->row_owner[row], &none, h->owner))
            continue;
        uint32_t rows = atomic_load(&h->s->rows);
        while (rows <= (uint32_t)row &&
               !atomic_compare_exchange_weak(&h->s->rows, &rows, (uint32_t)row + 1))
            ;
        return row;
    }
    return way_fail(err, "the segment has room for %d workers, and all is taken",
                    WAY_ROWS_MAX);
}

void way_health_row_detach(struct way_health *h, int row)
{
    row_zero(h, (unsigned)row);
    atomic_store_explicit(&h->s->row_owner[row], 0, RELEASE);
}

struct way_cell *way_health_cells(struct way_health *h, int row)
{
    return h->s->cell[row];
}

/* ---- trials ----
 * `out` never counts less than are held by live rows: taken, a permit is in the row's cell
 * before it is in the word; ended, it leaves the word first. So when none is left and out
 * is more than the rows hold, the difference belongs to the dead. */

static uint64_t cell_pack(uint64_t allotment, uint64_t held)
{
    return allotment << 16 | held;
}

/* Adds to what this row holds of the allotment; what it held of another is forgotten. */
static void cell_add(struct way_cell *c, uint64_t allotment, int by)
{
    uint64_t old = atomic_load_explicit(&c->trials, RELAXED), held;
    do {
        held = old >> 16 == allotment ? old & 0xffff : 0;
        held = by < 0 && held == 0 ? 0 : held + (uint64_t)(int64_t)by;
    } while (!atomic_compare_exchange_weak(&c->trials, &old, cell_pack(allotment, held)));
}

/* What rows hold of the allotment, by permits that have not expired; those that have are
 * taken from them. */
static uint64_t trials_held(struct way_health *h, unsigned node, uint64_t allotment,
                            double now)
{
    unsigned rows = atomic_load_explicit(&h->s->rows, ACQUIRE);
    uint64_t held = 0;
    for (unsigned r = 0; r < rows; r++) {
        struct way_cell *c = &h->s->cell[r][node];
        uint64_t w = atomic_load(&c->trials);
        if (w >> 16 != allotment || !(w & 0xffff))
            continue;
        if (now < way_load_double(&c->trials_at) + PERMIT_SECONDS)
            held += w & 0xffff;
        else
            atomic_compare_exchange_strong(&c->trials, &w, cell_pack(allotment, 0));
    }
    return held;
}

/* Gives back what nobody who lives holds; false if there is no such thing. */
static bool trials_reclaim(struct way_health *h, unsigned node, uint64_t w, double now)
{
    way_health_reap_sometimes(h, now, 0.1);
    uint64_t held = trials_held(h, node, way_trials_allotment(w), now);
    if (way_trials_out(w) <= held)
        return false;
    uint64_t back = way_trials_left(w) + way_trials_out(w) - held;
    atomic_compare_exchange_strong(
        &h->s->aux[node].trials, &w,
        way_trials_pack(way_trials_allotment(w), way_trials_turn(w) + 1, back, held));
    return true;
}

bool way_health_trial_take(struct way_health *h, unsigned node, int row, double now)
{
    struct way_segment *s = h->s;
    struct way_cell *c = &s->cell[row][node];
    for (;;) {
        uint32_t route = atomic_load_explicit(&s->node[node].route, ACQUIRE);
        if ((route & WAY_ROUTE_STATE) != WAY_STATE_PROBING)
            return false;
        uint64_t w = atomic_load(&s->aux[node].trials),
                 allotment = way_trials_allotment(w);
        if (!way_trials_left(w)) {
            if (!trials_reclaim(h, node, w, now))
                return false;
            continue;
        }
        way_store_double(&c->trials_at, now);
        cell_add(c, allotment, 1);
        if (atomic_compare_exchange_strong(
                &s->aux[node].trials, &w,
                way_trials_pack(allotment, way_trials_turn(w) + 1, way_trials_left(w) - 1,
                                way_trials_out(w) + 1)))
            return true;
        cell_add(c, allotment, -1);
    }
}

void way_health_trial_end(struct way_health *h, unsigned node, int row, bool again)
{
    struct way_cell *c = &h->s->cell[row][node];
    _Atomic uint64_t *word = &h->s->aux[node].trials;
    uint64_t mine = atomic_load(&c->trials), w = atomic_load(word);
    uint64_t allotment = mine >> 16;
    if (!(mine & 0xffff))
        return; /* expired and given to another */
    while (way_trials_allotment(w) == allotment && way_trials_out(w)) {
        uint64_t next =
            way_trials_pack(allotment, way_trials_turn(w) + 1,
                            way_trials_left(w) + (again ? 1 : 0), way_trials_out(w) - 1);
        if (atomic_compare_exchange_weak(word, &w, next))
            break;
    }
    cell_add(c, allotment, -1);
}

/* ---- leases and dial times ---- */

/* The holder, mixed to 32 bits that are never 0, and the lease's end in ms. */
static uint64_t lease_holder(uint64_t holder)
{
    uint64_t mixed = holder * 0x9e3779b97f4a7c15u;
    mixed ^= mixed >> 32;
    mixed &= 0xffffffff;
    return (mixed ? mixed : 1) << 32;
}

/* *was: what it was before, 0 for never taken. */
static bool lease_take(_Atomic uint64_t *lease, uint64_t holder, double now,
                       double seconds, uint64_t *was)
{
    uint64_t me = lease_holder(holder), w = atomic_load(lease);
    uint64_t next = me | way_milliseconds(now + seconds);
    do {
        bool expired = (int32_t)((uint32_t)w - way_milliseconds(now)) <= 0;
        if (w && !expired && (w ^ me) >> 32)
            return false;
    } while (!atomic_compare_exchange_weak(lease, &w, next));
    *was = w;
    return true;
}

bool way_health_lease(struct way_health *h, unsigned node, uint64_t holder, double now,
                      double seconds)
{
    uint64_t was;
    return lease_take(&h->s->aux[node].lease, holder, now, seconds, &was);
}

bool way_health_sweep_lease(struct way_health *h, uint64_t holder, double now,
                            double seconds, double *lapsed)
{
    uint64_t was;
    if (!lease_take(&h->s->sweep_lease, holder, now, seconds, &was))
        return false;
    bool others = was && (was ^ lease_holder(holder)) >> 32;
    *lapsed = others ? (int32_t)(way_milliseconds(now) - (uint32_t)was) / 1000.0 : -1;
    return true;
}

void way_health_release(struct way_health *h, unsigned node, uint64_t holder)
{
    _Atomic uint64_t *lease = &h->s->aux[node].lease;
    uint64_t w = atomic_load(lease);
    while (w && !((w ^ lease_holder(holder)) >> 32))
        if (atomic_compare_exchange_weak(lease, &w, 0))
            return;
}

double way_health_dial_at(struct way_health *h, unsigned node)
{
    return way_load_double(&h->s->aux[node].dial_at);
}

bool way_health_dial_claim(struct way_health *h, unsigned node, double now, double next)
{
    _Atomic uint64_t *word = &h->s->aux[node].dial_at;
    uint64_t old = atomic_load(word);
    double at;
    memcpy(&at, &old, sizeof at);
    return at <= now && atomic_compare_exchange_strong(word, &old, way_double_bits(next));
}

void way_health_dial_after(struct way_health *h, unsigned node, double at)
{
    way_store_double(&h->s->aux[node].dial_at, at);
}

void way_health_dial_failed(struct way_health *h, unsigned node, enum way_error error,
                            int errnum)
{
    uint32_t word = (uint32_t)error | (uint32_t)errnum << 8;
    atomic_store_explicit(&h->s->aux[node].dial_error, word, memory_order_relaxed);
}

enum way_error way_health_dial_error(struct way_health *h, unsigned node, int *errnum)
{
    uint32_t word =
        atomic_load_explicit(&h->s->aux[node].dial_error, memory_order_relaxed);
    *errnum = (int)(word >> 8);
    return (word & 0xff) < WAY_ERROR_COUNT ? (enum way_error)(word & 0xff)
                                           : WAY_ERROR_NONE;
}
