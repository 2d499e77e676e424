/* shadow - see shadow.h.
 *
 * One question: look at the node as the shadow has it, ask, settle what its answer makes of
 * the node, commit that if nothing changed meanwhile, else ask again, and give up after a
 * few times. Then the two answers are compared.
 *
 *   put ──▶ mail, one place per thread ──exchange──▶ the thread's seat
 *                                                      │ exchange for another, or none
 *   tend ◀── all seats of the shadow are back ◀────────┘
 *
 * Rejected: one thread that asks for all, fed by rings. It would spare the deciders the
 * questions, but would have to copy whole snapshots for each event, and to drop them where
 * the candidate is slow, which is when one wants to know. */
#include "shadow.h"

#include "fallback.h"
#include "log.h"
#include "shadow_store.h"

#include <stdio.h>

enum { TRIES = 4, RING_ENTRIES = 128 };
enum { COUNTS = sizeof(struct way_shadow_counts) / sizeof(uint64_t) };
#define COUNT(field) (offsetof(struct way_shadow_counts, field) / sizeof(uint64_t))

struct seat { /* a thread's, but for what is atomic */
    struct way_shadow *shadow;
    struct way_policy *policy;
    struct way_ring *ring; /* differences: pairs of entries; its reader is tend */
    struct way_gate gate;
    uint64_t edges; /* that came true, and are to be asked about */
    unsigned edges_of;
    double edges_at;
    double sweep_due; /* of a tick with an interval of its own; 0: not yet known */
    _Atomic uint64_t count[COUNTS];
};

struct way_shadow {
    struct way_health *health;
    struct way_limits limits;
    uint64_t epoch; /* of the policy in charge */
    enum way_shadow_kind kind;
    uint32_t serial;
    struct way_policy_text *text;
    const struct way_plan *plan;
    struct way_shadow_store *store;
    struct way_aside aside;
    char off[640];
    _Atomic bool off_claimed, off_told;
    unsigned threads;
    struct seat *seat;       /* [threads] */
    _Atomic unsigned seated; /* seats that threads have, or that wait for them */
    struct way_entry (*difference)[2]; /* [WAY_SHADOW_DIFFERENCES] */
    uint64_t differences;              /* ever */
    double began, unix_time;
    struct way_shadow *next; /* of those that are to be freed */
};

struct way_shadows {
    struct way_shadows_options o;
    _Atomic uint32_t posted;      /* rises when there is mail */
    _Atomic(struct seat *) *mail; /* [threads * WAY_SHADOW_KINDS]; NULL: none */
    struct seat nobody;           /* in the mail: give your seat back */
    struct way_shadow *now[WAY_SHADOW_KINDS];
    struct way_shadow *retired;
    uint32_t serials;
    way_difference_fn *told; /* or NULL */
    void *told_arg;
};

struct way_shadow_place {
    struct way_shadows *all;
    unsigned number;
    struct way_stats *stats;
    uint32_t seen; /* of posted */
    struct seat *seat[WAY_SHADOW_KINDS];
    bool drawn[WAY_SHADOW_KINDS];  /* the present success is of the sample */
    bool routed[WAY_SHADOW_KINDS]; /* the present command is */
    bool due[WAY_SHADOW_KINDS];    /* its own sweep is to be made */
    struct way_random random;
};

static const char *kind_name(enum way_shadow_kind kind)
{
    return kind == WAY_SHADOW_CANDIDATE ? "candidate" : "previous";
}

static void add(struct seat *seat, size_t which)
{
    uint64_t n = atomic_load_explicit(&seat->count[which], memory_order_relaxed);
    atomic_store_explicit(&seat->count[which], n + 1, memory_order_relaxed);
}

/* The metrics are a candidate's. */
static void add_stat(struct way_shadow_place *p, const struct seat *seat,
                     enum way_stat which)
{
    if (seat->shadow->kind == WAY_SHADOW_CANDIDATE)
        way_stat_add(p->stats, which, 1);
}

/* ---- coming and going ---- */

struct way_shadows *way_shadows_new(const struct way_shadows_options *o)
{
    struct way_shadows *all = way_zalloc(sizeof *all);
    all->o = *o;
    all->mail = way_zalloc(o->threads * WAY_SHADOW_KINDS * sizeof *all->mail);
    return all;
}

static void shadow_free(struct way_shadow *s)
{
    for (unsigned i = 0; i < s->threads; i++) {
        way_policy_free(s->seat[i].policy);
        way_ring_free(s->seat[i].ring);
    }
    way_policy_text_fini(s->text);
    way_free(s->text);
    way_shadow_store_free(s->store);
    way_free(s->seat);
    way_free(s->difference);
    way_free(s);
}

static void seat_back(struct seat *seat)
{
    atomic_fetch_sub_explicit(&seat->shadow->seated, 1, memory_order_acq_rel);
}

static void post(struct way_shadows *all, enum way_shadow_kind kind, unsigned thread,
                 struct seat *seat)
{
    struct seat *untaken = atomic_exchange_explicit(
        &all->mail[thread * WAY_SHADOW_KINDS + kind], seat, memory_order_acq_rel);
    if (untaken && untaken != &all->nobody)
        seat_back(untaken);
}

static void retire(struct way_shadows *all, enum way_shadow_kind kind)
{
    struct way_shadow *old = all->now[kind];
    if (!old)
        return;
    all->now[kind] = NULL;
    old->next = all->retired;
    all->retired = old;
}

static void free_retired(struct way_shadows *all, bool whatever)
{
    struct way_shadow **at = &all->retired;
    while (*at) {
        struct way_shadow *s = *at;
        if (!whatever && atomic_load_explicit(&s->seated, memory_order_acquire)) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        shadow_free(s);
    }
}

void way_shadows_free(struct way_shadows *all)
{
    if (!all)
        return;
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++)
        retire(all, (enum way_shadow_kind)kind);
    free_retired(all, true);
    way_free(all->mail);
    way_free(all);
}

static void seed_store(struct way_shadow *s, const struct way_shadow_of *of)
{
    unsigned nodes = way_health_nodes(s->health);
    for (unsigned i = 0; i < nodes && of->seed && !of->same_memory; i++) {
        struct way_memory m = s->plan->layout.first;
        struct way_node *node = way_health_node(s->health, i);
        unsigned shard = atomic_load_explicit(&node->shard, memory_order_relaxed);
        of->seed(of->arg, i, &m);
        way_shadow_store_seed_node(s->store, i, m.node);
        if (shard < WAY_SHARDS_MAX)
            way_shadow_store_seed_shard(s->store, shard, m.shard);
        way_shadow_store_seed_cluster(s->store, m.cluster);
    }
}

static void open_store(struct way_shadow *s, const struct way_shadow_of *of)
{
    static const struct way_counters_layout none;
    s->store = way_shadow_store_new(&(struct way_shadow_store_options){
        .health = s->health,
        .layout = &s->plan->layout,
        .same_memory = of->same_memory,
        .counters = &s->plan->counters,
        .charge_counters = of->charge_counters ? of->charge_counters : &none,
        .epoch = of->epoch,
        .begin_counters = of->counters,
        .begin_epoch = of->counters_epoch });
    seed_store(s, of);
}

static struct way_shadow *shadow_new(struct way_shadows *all, enum way_shadow_kind kind,
                                     const struct way_shadow_of *of)
{
    struct way_shadow *s = way_zalloc(sizeof *s);
    s->health = all->o.health;
    s->limits = of->limits;
    s->epoch = of->epoch;
    s->kind = kind;
    s->serial = ++all->serials ? all->serials : ++all->serials;
    s->text = of->text;
    s->began = of->now;
    s->unix_time = of->unix_time;
    s->threads = all->o.threads;
    s->seat = way_zalloc(s->threads * sizeof *s->seat);
    for (unsigned i = 0; i < s->threads; i++) {
        s->seat[i].shadow = s;
        s->seat[i].policy = of->policy[i];
        s->seat[i].ring = way_ring_new(RING_ENTRIES);
    }
    s->plan = way_policy_plan(of->policy[0]);
    s->difference = way_zalloc(WAY_SHADOW_DIFFERENCES * sizeof *s->difference);
    open_store(s, of);
    return s;
}

struct way_shadow *way_shadows_put(struct way_shadows *all, enum way_shadow_kind kind,
                                   const struct way_shadow_of *of)
{
    struct way_shadow *s = shadow_new(all, kind, of);
    retire(all, kind);
    all->now[kind] = s;
    atomic_store_explicit(&s->seated, s->threads, memory_order_relaxed);
    for (unsigned i = 0; i < s->threads; i++)
        post(all, kind, i, &s->seat[i]);
    atomic_fetch_add_explicit(&all->posted, 1, memory_order_release);
    return s;
}

void way_shadows_take_off(struct way_shadows *all, enum way_shadow_kind kind)
{
    if (!all->now[kind])
        return;
    retire(all, kind);
    for (unsigned i = 0; i < all->o.threads; i++)
        post(all, kind, i, &all->nobody);
    atomic_fetch_add_explicit(&all->posted, 1, memory_order_release);
}

void way_shadows_tell(struct way_shadows *all, way_difference_fn *told, void *arg)
{
    all->told = told;
    all->told_arg = arg;
}

struct way_shadow *way_shadows_get(struct way_shadows *all, enum way_shadow_kind kind)
{
    return all->now[kind];
}

struct way_shadow_place *way_shadow_place_new(struct way_shadows *all, unsigned number,
                                              struct way_stats *stats)
{
    if (!all)
        return NULL;
    struct way_shadow_place *p = way_zalloc(sizeof *p);
    p->all = all;
    p->number = number;
    p->stats = stats;
    way_random_seed(&p->random, 0);
    return p;
}

void way_shadow_place_free(struct way_shadow_place *p)
{
    for (int kind = 0; p && kind < WAY_SHADOW_KINDS; kind++)
        if (p->seat[kind])
            seat_back(p->seat[kind]);
    way_free(p);
}

static void take_mail(struct way_shadow_place *p)
{
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++) {
        struct seat *seat = atomic_exchange_explicit(
            &p->all->mail[p->number * WAY_SHADOW_KINDS + (unsigned)kind], NULL,
            memory_order_acq_rel);
        if (!seat)
            continue;
        if (p->seat[kind])
            seat_back(p->seat[kind]);
        p->seat[kind] = seat == &p->all->nobody ? NULL : seat;
    }
}

bool way_shadow_place_taken(struct way_shadow_place *p)
{
    if (!p)
        return false;
    uint32_t posted = atomic_load_explicit(&p->all->posted, memory_order_acquire);
    if (posted != p->seen) {
        p->seen = posted;
        take_mail(p);
    }
    return p->seat[WAY_SHADOW_CANDIDATE] || p->seat[WAY_SHADOW_PREVIOUS];
}

static bool is_off(const struct seat *seat)
{
    return !seat || way_aside_is_set(&seat->shadow->aside);
}

static bool samples(struct way_shadow_place *p, const struct seat *seat)
{
    return !is_off(seat) && seat->shadow->plan->watches_success &&
           way_random_unit(&p->random) < seat->shadow->limits.shadow_sample;
}

bool way_shadow_place_samples(struct way_shadow_place *p)
{
    bool any = false;
    if (!way_shadow_place_taken(p))
        return false;
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++)
        any |= p->drawn[kind] = samples(p, p->seat[kind]);
    return any;
}

static bool has_route(const struct seat *seat)
{
    return !is_off(seat) && seat->shadow->plan->has_route;
}

bool way_shadow_place_routes(struct way_shadow_place *p)
{
    return way_shadow_place_taken(p) && (has_route(p->seat[WAY_SHADOW_CANDIDATE]) ||
                                         has_route(p->seat[WAY_SHADOW_PREVIOUS]));
}

bool way_shadow_place_samples_route(struct way_shadow_place *p)
{
    bool any = false;
    if (!way_shadow_place_taken(p))
        return false;
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++)
        any |= p->routed[kind] =
            has_route(p->seat[kind]) &&
            way_random_unit(&p->random) < p->seat[kind]->shadow->limits.shadow_sample;
    return any;
}

/* ---- errors ---- */

static void switch_off(struct way_shadow *s, const struct way_policy_failure *f,
                       unsigned errors)
{
    if (atomic_exchange(&s->off_claimed, true))
        return;
    snprintf(s->off, sizeof s->off,
             "%u errors within %.4g s, the last one in %s (%s): %s", errors,
             s->limits.policy_window, f->function, f->cause, f->text);
    atomic_store_explicit(&s->off_told, true, memory_order_release);
    way_log(WAY_WARN, "shadow=%s policy=%s off=true reason=\"%s\"", kind_name(s->kind),
            s->plan->name, s->off);
}

static void note_failure(struct way_shadow_place *p, struct seat *seat, double now)
{
    struct way_shadow *s = seat->shadow;
    const struct way_policy_failure *f = way_policy_failure(seat->policy);
    unsigned cause =
        way_stat_of_failure(WAY_FN_CLASSIFY, f->cause) - WAY_STAT_POLICY_FIRST;
    add(seat, COUNT(errors) + cause);
    add_stat(p, seat, (enum way_stat)(WAY_STAT_SHADOW_ERROR + cause));
    if (way_gate_open(&seat->gate, now, 5))
        way_log(WAY_WARN, "shadow=%s policy=%s function=%s cause=%s error=\"%s\"",
                kind_name(s->kind), s->plan->name, f->function, f->cause, f->text);
    unsigned errors = way_aside_error(&s->aside, &s->limits, now);
    if (errors)
        switch_off(s, f, errors);
}

/* ---- one question ---- */

struct question {
    struct way_shadow_place *place;
    struct seat *seat;
    const struct way_shadow_heard *heard;
    const struct way_snapshot *seen;
    const struct way_memory *table; /* what the policy in charge left its memory as */
    const struct way_mark *mark; /* of the policy in charge; nil where it said nothing */
    bool alone;                  /* of the shadow's own: an end, an edge */
    struct way_event event;      /* as the shadow classes it */
    uint64_t seed;
    bool others;  /* the edge of a counter that the shadow does not have */
    bool skipped; /* it is none of the shadow's business */
    bool wanted;  /* the shadow is asked */
    bool fallback;
    bool cut; /* a deadline was met, its own or that of the policy in charge */
    union way_answer answer;
    struct way_outcome outcome;
};

static enum way_asked ask_policy(struct question *q, const struct way_view *view,
                                 struct way_memory *m)
{
    struct way_policy *p = q->seat->policy;
    switch (q->heard->fn) {
    case WAY_FN_MARK:
        return way_policy_mark(p, view, &q->event, q->seed, m, &q->answer.mark);
    case WAY_FN_BACKOFF:
        return way_policy_backoff(p, view, &q->event, q->seed, m, &q->answer.retry);
    case WAY_FN_PROBE:
        return way_policy_probe(p, view, &q->event, q->seed, m, &q->answer.probe);
    default:
        return way_policy_reconnect(p, view, &q->event, q->seed, m, &q->answer.redial);
    }
}

static void ask(struct question *q, const struct way_view *view, struct way_memory *m)
{
    struct way_memory before = *m;
    memset(&q->answer, 0, sizeof q->answer);
    add(q->seat, COUNT(asked));
    add_stat(q->place, q->seat, WAY_STAT_SHADOW_ASKED);
    enum way_asked how = ask_policy(q, view, m);
    q->fallback = how != WAY_ASKED_ANSWERED;
    if (how == WAY_ASKED_FAILED) {
        *m = before;
        note_failure(q->place, q->seat, q->event.now);
        q->cut |= !strcmp(way_policy_failure(q->seat->policy)->cause, "deadline");
    }
    if (!q->fallback)
        return;
    memset(&q->answer, 0, sizeof q->answer);
    if (q->heard->fn == WAY_FN_MARK)
        way_fallback_mark(view, &q->event, &q->answer.mark);
    else if (q->heard->fn == WAY_FN_BACKOFF)
        way_fallback_backoff(view, &q->event, &q->answer.retry);
    else if (q->heard->fn == WAY_FN_PROBE)
        way_fallback_probe(view, &q->event, &q->answer.probe);
}

static bool is_wanted(const struct question *q, const struct way_shadow_look *look)
{
    const struct way_event *e = &q->event;
    const struct way_plan *plan = q->seat->shadow->plan;
    switch (q->heard->fn) {
    case WAY_FN_MARK:
        if (look->own_verdict ? way_event_straggles(e, look->view->verdict.since)
                              : q->heard->straggler)
            return false;
        return way_event_for_mark(e) && !q->others;
    case WAY_FN_BACKOFF: return !e->permanent;
    case WAY_FN_RECONNECT: return plan->has_reconnect;
    default: return true;
    }
}

/* ---- what a mark makes of the shadow's node ---- */

/* But for refresh, which is no part of a verdict. */
static bool same_effect(const struct way_mark *a, const struct way_mark *b)
{
    unsigned has = a->given ? a->has & ~(unsigned)WAY_MARK_REFRESH : 0;
    unsigned b_has = b->given ? b->has & ~(unsigned)WAY_MARK_REFRESH : 0;
    return has == b_has && (!(has & WAY_MARK_STATE) || a->state == b->state) &&
           (!(has & WAY_MARK_SECONDS) || a->seconds == b->seconds) &&
           (!(has & WAY_MARK_TRIALS) || a->trials == b->trials) &&
           (!(has & WAY_MARK_WEIGHT) || a->weight == b->weight) &&
           (!(has & WAY_MARK_RAMP) || a->ramp == b->ramp) &&
           (!(has & WAY_MARK_SHED) || a->shed == b->shed) &&
           (!(has & WAY_MARK_CONNECTIONS) || a->connections == b->connections) &&
           (!(has & WAY_MARK_REASON) || !strcmp(a->reason, b->reason));
}

static const struct way_mark healed = { .given = true,
                                        .state = WAY_STATE_HEALTHY,
                                        .reason = "expired",
                                        .has = WAY_MARK_STATE | WAY_MARK_REASON };

static void settle_verdict(struct question *q, const struct way_shadow_look *look,
                           struct way_shadow_change *c)
{
    struct way_shadow *s = q->seat->shadow;
    const struct way_mark *mark = &q->answer.mark;
    bool ends = q->event.kind == WAY_KIND_EXPIRY;
    bool same = same_effect(mark, q->mark) && (!ends || mark->given == q->mark->given);
    if (!look->own_verdict && same) {
        if (q->heard->asked)
            q->outcome = q->heard->outcome; /* the table's: it follows */
        return;
    }
    struct way_proposal p = { .mark = ends && !mark->given ? healed : *mark,
                              .hard = way_event_hard(&q->event) };
    struct way_others others = way_shadow_store_others(s->store);
    c->verdict = look->view->verdict;
    way_health_suppose(s->health, look->view->node, &p, q->seen->now, &others,
                       &c->verdict, &q->outcome);
    c->verdict_own = (p.mark.given || !look->own_verdict) &&
                     !way_verdict_by_operator(&look->view->verdict, q->seen->now);
}

/* One asking. BUSY: given up. */
static enum way_commit ask_once(struct question *q)
{
    struct way_shadow_store *store = q->seat->shadow->store;
    struct way_shadow_look look;
    if (way_shadow_store_look(store, q->seen, &look) < 0)
        return WAY_COMMIT_BUSY;
    struct way_memory m = look.view->memory;
    struct way_shadow_change change = { .memory = &m, .table = q->table };
    q->outcome.from = q->outcome.to = (enum way_state)look.view->verdict.state;
    q->outcome.changed = false;
    q->skipped = q->event.kind == WAY_KIND_EXPIRY && look.own_verdict != q->alone;
    if (q->skipped) /* the end of the other's mark: tend sees to its own */
        return WAY_COMMIT_DONE;
    q->wanted = is_wanted(q, &look);
    memset(&q->answer, 0, sizeof q->answer);
    q->fallback = false;
    if (q->heard->asked)
        change.table_touches = q->heard->touches;
    if (q->wanted)
        ask(q, look.view, &m);
    if (q->cut)
        return WAY_COMMIT_BUSY;
    if (q->wanted && !q->fallback)
        change.touches = way_policy_touches(q->seat->policy);
    if (q->heard->fn == WAY_FN_MARK)
        settle_verdict(q, &look, &change);
    return way_shadow_store_commit(store, &look, &change);
}

/* ---- comparing ---- */

static bool same_mark(const struct way_mark *a, const struct way_mark *b)
{
    return a->given == b->given && (!a->given || (a->has == b->has && same_effect(a, b) &&
                                                  a->refresh == b->refresh));
}

static bool same_retry(const struct way_retry *a, const struct way_retry *b)
{
    if (a->kind == WAY_RETRY_NONE && b->kind == WAY_RETRY_NONE)
        return a->over == b->over;
    return a->kind == b->kind && a->after == b->after && a->over == b->over &&
           (a->kind != WAY_RETRY_HOLD || a->within == b->within) &&
           a->stale_reads == b->stale_reads && a->unknown_writes == b->unknown_writes;
}

static bool same_probe(const struct way_probe *a, const struct way_probe *b)
{
    if (a->given != b->given || !a->given)
        return a->given == b->given;
    return a->after == b->after && a->timeout == b->timeout && a->pooled == b->pooled &&
           a->words == b->words &&
           (!a->words || !memcmp(a->command, b->command, sizeof a->command));
}

static bool same_redial(const struct way_redial *a, const struct way_redial *b)
{
    return a->given == b->given &&
           (!a->given || (a->after == b->after && a->timeout == b->timeout));
}

static bool same_answer(enum way_asked_function fn, const union way_answer *a,
                        const union way_answer *b)
{
    switch (fn) {
    case WAY_FN_MARK:
    case WAY_FN_TICK: return same_mark(&a->mark, &b->mark);
    case WAY_FN_BACKOFF: return same_retry(&a->retry, &b->retry);
    case WAY_FN_PROBE: return same_probe(&a->probe, &b->probe);
    default: return same_redial(&a->redial, &b->redial);
    }
}

static bool is_verdict(enum way_asked_function fn)
{
    return fn == WAY_FN_MARK || fn == WAY_FN_TICK;
}

static void did_words(struct way_entry *e, const char *would)
{
    static const char *const refused[] = { "", " (guard: the last node that serves)",
                                           " (guard: limits.failing_share)" };
    const struct way_outcome *o = &e->outcome;
    if (!way_entry_marks(e) || !e->mark.given)
        return;
    snprintf(e->did, sizeof e->did, "%s%s -> %s%s", would, way_state_name(o->from),
             way_state_name(o->to),
             o->refused < way_count(refused) ? refused[o->refused] : "");
}

static void fill_entry(struct way_entry *e, const struct way_shadow_heard *h,
                       const struct way_event *event, const union way_answer *answer,
                       const struct way_outcome *outcome)
{
    memset(e, 0, sizeof *e);
    e->node = (uint16_t)h->node;
    e->function = (uint8_t)h->fn;
    e->event = *event;
    e->event.answer = (struct way_span){ NULL, 0 };
    e->outcome = *outcome;
    if (is_verdict(h->fn))
        e->mark = answer->mark;
    else if (h->fn == WAY_FN_BACKOFF)
        e->retry = answer->retry;
    else if (h->fn == WAY_FN_PROBE)
        e->probe = answer->probe;
    else if (h->fn == WAY_FN_RECONNECT && answer->redial.given)
        snprintf(e->did, sizeof e->did, "after %.4g s timeout %.4g s",
                 answer->redial.after, answer->redial.timeout);
}

/* Both sides of a difference, for tend to take. */
static void tell(struct way_shadow_place *p, struct seat *seat,
                 const struct way_entry *charge, const struct way_entry *own)
{
    const struct way_entry *const both[] = { charge, own };
    if (way_ring_room(seat->ring) < 2) {
        add(seat, COUNT(unshown));
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        struct way_entry *place = way_ring_place(seat->ring);
        *place = *both[i];
        place->thread = (uint16_t)p->number;
        place->shadow = i ? (uint8_t)(WAY_ENTRY_CANDIDATE + seat->shadow->kind)
                          : (uint8_t)WAY_ENTRY_IN_CHARGE;
        way_ring_push(seat->ring);
    }
}

static void set_address(struct way_shadow *s, unsigned node, struct way_entry *e,
                        const struct way_snapshot *seen)
{
    struct way_snapshot own;
    if (node >= WAY_NODES_MAX)
        return;
    if (!seen) {
        way_health_snapshot(s->health, node, e->event.now, &own);
        seen = &own;
    }
    snprintf(e->address, sizeof e->address, "%.63s", seen->view.address);
}

static void tell_difference(const struct question *q, const union way_answer *answer)
{
    const struct way_shadow_heard *h = q->heard;
    struct way_entry charge, own;
    fill_entry(&charge, h, h->event, answer, &h->outcome);
    charge.fallback = h->fallback;
    charge.straggler = h->straggler;
    charge.commit = h->commit;
    snprintf(charge.class_name, sizeof charge.class_name, "%s", h->class_name);
    snprintf(charge.where, sizeof charge.where, "%s", h->asked ? h->where : "not asked");
    did_words(&charge, "");
    set_address(q->seat->shadow, h->node, &charge, q->seen);
    fill_entry(&own, h, &q->event, &q->answer, &q->outcome);
    own.fallback = q->fallback && h->fn != WAY_FN_TICK; /* which has none */
    memcpy(own.address, charge.address, sizeof own.address);
    snprintf(own.class_name, sizeof own.class_name, "%s",
             way_policy_class_name(q->seat->policy, q->event.class));
    snprintf(own.where, sizeof own.where, "%s",
             !q->wanted     ? "not asked"
             : !q->fallback ? way_policy_where(q->seat->policy)
             : own.fallback ? "fallback"
                            : "failed");
    did_words(&own, "would be ");
    tell(q->place, q->seat, &charge, &own);
}

static void count_difference(struct way_shadow_place *p, struct seat *seat,
                             enum way_asked_function fn)
{
    add(seat, COUNT(disagreed) + fn);
    add_stat(p, seat, (enum way_stat)(WAY_STAT_SHADOW_CLASSIFY + fn));
}

static bool is_used(enum way_state s)
{
    return s == WAY_STATE_HEALTHY || s == WAY_STATE_SUSPECT;
}

static bool takes_out(const struct way_outcome *o)
{
    return o->changed && is_used(o->from) && !is_used(o->to);
}

/* A sweep at a time of its own: it says of the node what the table has of it. Until when is
 * no part of that, for who sweeps at another time marks until another. */
static bool is_already(const struct question *q)
{
    const struct way_mark *m = &q->answer.mark;
    const struct way_verdict *v = &q->seen->view.verdict;
    return (!(m->has & WAY_MARK_STATE) || m->state == v->state) &&
           (!(m->has & WAY_MARK_TRIALS) || m->trials == v->trials) &&
           (!(m->has & WAY_MARK_WEIGHT) || m->weight == v->weight) &&
           (!(m->has & WAY_MARK_SHED) || m->shed == v->shed);
}

static void compare(const struct question *q)
{
    static const union way_answer nothing = { .mark = { .given = false } };
    const struct way_shadow_heard *h = q->heard;
    const union way_answer *answer = h->asked ? h->answer : &nothing;
    struct seat *seat = q->seat;
    if (is_verdict(h->fn) && takes_out(&q->outcome)) {
        add(seat, COUNT(out));
        atomic_fetch_add_explicit(&seat->shadow->aside.marks, 1, memory_order_relaxed);
    }
    bool own_end = q->alone && q->event.kind == WAY_KIND_EXPIRY;
    if (own_end || (!h->asked && !q->wanted))
        return;
    if (h->fn == WAY_FN_TICK && !answer->mark.given && !q->answer.mark.given)
        return; /* of all nodes, nothing was said about this one */
    add(seat, COUNT(events));
    if (is_verdict(h->fn))
        add(seat, COUNT(marks));
    if (is_verdict(h->fn) && h->asked && takes_out(&h->outcome))
        add(seat, COUNT(out_in_charge));
    if (h->asked && h->fallback)
        add(seat, COUNT(fallback_in_charge));
    if (same_answer(h->fn, answer, &q->answer) ||
        (h->fn == WAY_FN_TICK && !h->asked && is_already(q))) {
        add(seat, COUNT(agreed));
        return;
    }
    count_difference(q->place, seat, h->fn);
    tell_difference(q, answer);
}

/* ---- hearing ---- */

/* The event as the shadow classes it; false: it was classed before the shadow was there. */
static bool classed(const struct way_shadow *s, const struct way_shadow_heard *h,
                    struct way_event *e)
{
    const struct way_classed *c = &h->event->shadow[s->kind];
    *e = *h->event;
    if (c->by != s->serial) /* a look that the host takes of itself has no class */
        return h->fn == WAY_FN_PROBE && e->class < WAY_CLASS_BUILTIN;
    e->class = c->class;
    e->blame = (enum way_blame)c->blame;
    e->permanent = c->permanent;
    return true;
}

/* Has the shadow's own counter the edge that the policy in charge is asked about, by the
 * same report? Then it is asked with it, once. */
static bool take_edge(struct seat *seat, const struct way_event *e)
{
    const struct way_counters_layout *l = &seat->shadow->plan->counters;
    for (uint64_t left = seat->edges; left; left &= left - 1) {
        unsigned bit = (unsigned)__builtin_ctzll(left);
        if (strcmp(l->counter[bit / WAY_COUNTERS_MAX][bit % WAY_COUNTERS_MAX].name,
                   e->counter) != 0)
            continue;
        seat->edges &= ~(left & -left);
        return true;
    }
    return false;
}

static void hear(struct way_shadow_place *p, struct seat *seat,
                 const struct way_shadow_heard *h, bool alone)
{
    static const struct way_mark nil;
    struct way_snapshot seen;
    struct question q = { .place = p, .seat = seat, .heard = h, .alone = alone };
    enum way_commit how = WAY_COMMIT_CONFLICT;
    if (!classed(seat->shadow, h, &q.event))
        return;
    if (h->event->watched && !p->drawn[seat->shadow->kind])
        return;
    if (h->event->kind == WAY_KIND_EDGE && h->fn == WAY_FN_MARK && !alone)
        q.others =
            way_shadow_store_owns(seat->shadow->store, h->node, h->event->counter) &&
            !take_edge(seat, h->event);
    if (!h->asked)
        way_health_snapshot(seat->shadow->health, h->node, h->event->now, &seen);
    q.seen = h->asked ? h->seen : &seen;
    q.table = h->asked ? h->after : &seen.view.memory;
    q.mark = h->asked && h->fn == WAY_FN_MARK ? &h->answer->mark : &nil;
    q.cut = h->asked && h->cut;
    q.seed = h->asked ? h->seed : way_random_next(&p->random) | 1;
    for (int i = 0; i < TRIES && how == WAY_COMMIT_CONFLICT; i++)
        how = ask_once(&q);
    if (how != WAY_COMMIT_DONE) {
        add(seat, COUNT(dropped));
        add_stat(p, seat, WAY_STAT_SHADOW_DROPPED);
    } else if (!q.skipped) {
        compare(&q);
    }
}

void way_shadow_heard(struct way_shadow_place *p, const struct way_shadow_heard *h)
{
    if (!way_shadow_place_taken(p))
        return;
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++)
        if (!is_off(p->seat[kind]) && p->seat[kind]->shadow->epoch == h->epoch)
            hear(p, p->seat[kind], h, false);
}

static void tell_class(struct way_shadow_place *p, struct seat *seat,
                       const struct way_shadow_heard *h,
                       const struct way_event *own_event)
{
    static const union way_answer nothing = { .mark = { .given = false } };
    static const struct way_outcome none = { .changed = false };
    struct way_entry charge, own;
    fill_entry(&charge, h, h->event, &nothing, &none);
    fill_entry(&own, h, own_event, &nothing, &none);
    snprintf(charge.class_name, sizeof charge.class_name, "%s", h->class_name);
    snprintf(charge.where, sizeof charge.where, "%s", h->where);
    snprintf(own.class_name, sizeof own.class_name, "%s",
             way_policy_class_name(seat->policy, own_event->class));
    snprintf(own.where, sizeof own.where, "%s", way_policy_where(seat->policy));
    tell(p, seat, &charge, &own);
}

static void compare_class(struct way_shadow_place *p, struct seat *seat,
                          const struct way_shadow_heard *h, const struct way_event *own)
{
    const struct way_event *e = h->event;
    add(seat, COUNT(events));
    if (!strcmp(h->class_name, way_policy_class_name(seat->policy, own->class)) &&
        e->blame == own->blame && e->permanent == own->permanent) {
        add(seat, COUNT(agreed));
        return;
    }
    count_difference(p, seat, WAY_FN_CLASSIFY);
    tell_class(p, seat, h, own);
}

static void classify(struct way_shadow_place *p, struct seat *seat, struct way_event *e,
                     const char *class_name, const char *where)
{
    struct way_shadow *s = seat->shadow;
    struct way_classed *c = &e->shadow[s->kind];
    struct way_event own = *e;
    uint64_t before = way_policy_calls(seat->policy);
    if (way_policy_classify(seat->policy, &own) == WAY_ASKED_FAILED)
        note_failure(p, seat, e->now);
    if (way_policy_calls(seat->policy) != before) {
        add(seat, COUNT(asked));
        add_stat(p, seat, WAY_STAT_SHADOW_ASKED);
    }
    bool again = c->by == s->serial && c->class == own.class; /* counted already */
    *c = (struct way_classed){ s->serial, own.class, (uint8_t)own.blame, own.permanent };
    if (e->error == WAY_ERROR_NONE || again)
        return;
    compare_class(p, seat,
                  &(struct way_shadow_heard){ .fn = WAY_FN_CLASSIFY,
                                              .node = WAY_NONE,
                                              .event = e,
                                              .class_name = class_name,
                                              .where = where },
                  &own);
}

void way_shadow_classified(struct way_shadow_place *p, struct way_event *e,
                           const char *class_name, const char *where)
{
    if (!way_shadow_place_taken(p))
        return;
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++)
        if (!is_off(p->seat[kind]))
            classify(p, p->seat[kind], e, class_name, where);
}

/* ---- tick ---- */

static bool has_tick(const struct seat *seat)
{
    return !is_off(seat) && seat->shadow->plan->every > 0;
}

static bool is_due(struct seat *seat, double every, double now, double *late)
{
    double own = seat && has_tick(seat) ? seat->shadow->plan->every : 0;
    if (!seat)
        return false;
    if (own <= 0 || own == every) {
        seat->sweep_due = 0;
        return false;
    }
    if (seat->sweep_due <= 0)
        seat->sweep_due = now + own;
    if (now < seat->sweep_due)
        return false;
    if (now - seat->sweep_due > *late)
        *late = now - seat->sweep_due;
    seat->sweep_due += own;
    if (seat->sweep_due <= now)
        seat->sweep_due = now + own; /* those that were missed are not made up for */
    return true;
}

bool way_shadow_place_sweeps(struct way_shadow_place *p, double every, double now,
                             double *late)
{
    bool any = false;
    *late = 0;
    if (!way_shadow_place_taken(p))
        return false;
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++)
        any |= p->due[kind] = is_due(p->seat[kind], every, now, late);
    return any;
}

struct sweeping {
    struct way_shadow_look *look;  /* [count], as the next ones */
    struct way_snapshot *seen;     /* with the nodes as the shadow has them */
    struct way_proposal *proposal; /* its answers */
};

/* -1: the nodes were being written. */
static int look_at_all(struct way_shadow *s, const struct way_sweep *of,
                       struct sweeping *w)
{
    for (unsigned i = 0; i < of->count; i++) {
        if (way_shadow_store_look(s->store, &of->seen[i], &w->look[i]) < 0)
            return -1;
        w->seen[i] = of->seen[i];
        w->seen[i].view = *w->look[i].view;
        w->proposal[i].memory = w->seen[i].view.memory;
        w->proposal[i].counters = &s->plan->counters;
    }
    return 0;
}

/* What failed has said nothing, and remembers nothing. */
static void ask_tick(struct question *q, unsigned count, struct sweeping *w)
{
    struct way_sweep own = { count, w->seen, w->proposal };
    add(q->seat, COUNT(asked));
    add_stat(q->place, q->seat, WAY_STAT_SHADOW_ASKED);
    if (way_policy_tick(q->seat->policy, &own, &q->event, q->seed) == WAY_ASKED_ANSWERED)
        return;
    q->fallback = true;
    note_failure(q->place, q->seat, q->event.now);
    q->cut |= !strcmp(way_policy_failure(q->seat->policy)->cause, "deadline");
    for (unsigned i = 0; i < count; i++)
        w->proposal[i] = (struct way_proposal){ .memory = w->seen[i].view.memory };
}

static void dropped(const struct question *q)
{
    add(q->seat, COUNT(dropped));
    add_stat(q->place, q->seat, WAY_STAT_SHADOW_DROPPED);
}

static bool same_verdict(const struct way_verdict *a, const struct way_verdict *b)
{
    return a->state == b->state && a->since == b->since && a->ends == b->ends &&
           a->weight == b->weight && a->shed == b->shed && a->drops == b->drops &&
           a->by_operator == b->by_operator && !strcmp(a->reason, b->reason);
}

static bool same_numbers(const double *a, const double *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

/* What it shares with the other nodes (a shard's counters, that became its own) may have
 * changed by their part of the same sweep: that makes the node no other. */
static enum way_commit commit_part(struct way_shadow_store *store,
                                   const struct sweeping *w, unsigned i,
                                   const struct way_snapshot *seen,
                                   const struct way_shadow_change *change)
{
    enum way_commit how = way_shadow_store_commit(store, &w->look[i], change);
    const struct way_view *then = &w->seen[i].view;
    struct way_shadow_look now;
    if (how != WAY_COMMIT_CONFLICT || way_shadow_store_look(store, seen, &now) < 0)
        return how;
    if (now.own_verdict != w->look[i].own_verdict ||
        !same_verdict(&now.view->verdict, &then->verdict) ||
        !same_numbers(now.view->memory.node, then->memory.node, WAY_NODE_MEMORY))
        return how;
    return way_shadow_store_commit(store, &now, change);
}

/* One node's part: what it makes of the shadow's node, and whether that differs. */
static void end_of_sweep(const struct question *asked,
                         const struct way_shadow_swept *swept, unsigned i,
                         const struct sweeping *w)
{
    struct question q = *asked;
    const struct way_proposal *charge = &swept->sweep->proposal[i];
    const struct way_proposal *own = &w->proposal[i];
    union way_answer answer = { .mark = charge->mark };
    struct way_shadow_heard h = { .epoch = swept->epoch,
                                  .fn = WAY_FN_TICK,
                                  .node = swept->sweep->seen[i].view.node,
                                  .event = swept->event,
                                  .class_name = swept->class_name,
                                  .asked = swept->asked,
                                  .seen = &swept->sweep->seen[i],
                                  .after = &charge->memory,
                                  .seed = swept->seed,
                                  .answer = &answer,
                                  .touches = &charge->touches,
                                  .where = swept->where };
    struct way_shadow_change change = { .memory = &own->memory,
                                        .table = &charge->memory,
                                        .touches = &own->touches,
                                        .table_touches = &charge->touches };
    if (swept->asked && swept->fate[i].commit != WAY_COMMIT_DONE) {
        if (charge->mark.given || own->mark.given)
            dropped(&q);
        return;
    }
    if (swept->asked)
        h.outcome = swept->fate[i].outcome;
    q.heard = &h;
    q.seen = h.seen;
    q.mark = &answer.mark;
    q.answer.mark = own->mark;
    q.outcome = (struct way_outcome){
        .from = (enum way_state)w->look[i].view->verdict.state,
        .to = (enum way_state)w->look[i].view->verdict.state,
    };
    settle_verdict(&q, &w->look[i], &change);
    if (commit_part(q.seat->shadow->store, w, i, h.seen, &change) == WAY_COMMIT_DONE)
        compare(&q);
    else
        dropped(&q);
}

static void hear_sweep(struct way_shadow_place *p, struct seat *seat,
                       const struct way_shadow_swept *swept)
{
    struct way_shadow *s = seat->shadow;
    unsigned count = swept->sweep->count;
    struct sweeping w = { way_alloc((count + 1) * sizeof *w.look),
                          way_alloc((count + 1) * sizeof *w.seen),
                          way_zalloc((count + 1) * sizeof *w.proposal) };
    struct question q = { .place = p,
                          .seat = seat,
                          .alone = !swept->asked,
                          .cut = swept->cut,
                          .event = *swept->event,
                          .seed = swept->seed };
    q.wanted = has_tick(seat) && (!swept->asked || s->plan->every == swept->every);
    bool seen = look_at_all(s, swept->sweep, &w) == 0;
    if (seen && q.wanted)
        ask_tick(&q, count, &w);
    if (!seen || q.cut)
        dropped(&q);
    for (unsigned i = 0; i < count && seen && !q.cut; i++)
        end_of_sweep(&q, swept, i, &w);
    way_free(w.proposal);
    way_free(w.seen);
    way_free(w.look);
}

void way_shadow_swept(struct way_shadow_place *p, const struct way_shadow_swept *h)
{
    if (!way_shadow_place_taken(p))
        return;
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++)
        if (!is_off(p->seat[kind]) && p->seat[kind]->shadow->epoch == h->epoch &&
            (h->asked || p->due[kind]))
            hear_sweep(p, p->seat[kind], h);
}

/* ---- route ---- */

struct supposed {
    struct way_shadow_store *store;
    bool busy; /* a node was not to be had as it would be */
};

static void suppose(void *arg, struct way_snapshot *seen)
{
    struct supposed *s = arg;
    struct way_shadow_look look;
    if (way_shadow_store_look(s->store, seen, &look) < 0)
        s->busy = true;
    else if (look.view == &look.own)
        seen->view = look.own;
}

static void route_entry(struct way_shadow *s, const struct way_shadow_routed *h,
                        unsigned index, unsigned node, const char *where,
                        struct way_entry *e)
{
    struct way_snapshot seen;
    memset(e, 0, sizeof *e);
    e->node = (uint16_t)node;
    e->function = WAY_FN_ROUTE;
    e->event = (struct way_event){ .kind = WAY_KIND_COMMANDS,
                                   .commands = h->choice->write ? WAY_COMMANDS_WRITES
                                                                : WAY_COMMANDS_READS,
                                   .now = h->choice->now,
                                   .unix_time = way_unix(),
                                   .n = 1,
                                   .attempt = h->choice->attempt };
    snprintf(e->where, sizeof e->where, "%s", where);
    if (node >= WAY_NODES_MAX) {
        snprintf(e->did, sizeof e->did, index ? "none" : "nil");
        return;
    }
    way_health_snapshot(s->health, node, h->choice->now, &seen);
    snprintf(e->address, sizeof e->address, "%.63s", seen.view.address);
    snprintf(e->did, sizeof e->did, "%s%.63s", index ? "" : "nil, picked ", e->address);
}

static void compare_route(struct way_shadow_place *p, struct seat *seat,
                          const struct way_shadow_routed *h, unsigned index)
{
    struct way_entry charge, own;
    unsigned node = index ? h->choice->node[index - 1] : WAY_NONE;
    add(seat, COUNT(events));
    if (index ? node == h->node : !h->index) {
        add(seat, COUNT(agreed));
        return;
    }
    count_difference(p, seat, WAY_FN_ROUTE);
    route_entry(seat->shadow, h, h->index, h->node, h->where, &charge);
    route_entry(seat->shadow, h, index, node, way_policy_where(seat->policy), &own);
    tell(p, seat, &charge, &own);
}

static void hear_route(struct way_shadow_place *p, struct seat *seat,
                       const struct way_shadow_routed *h)
{
    struct supposed s = { .store = seat->shadow->store };
    struct way_choice choice = *h->choice;
    unsigned index;
    choice.policy_epoch = h->epoch;
    choice.suppose = suppose;
    choice.arg = &s;
    add(seat, COUNT(asked));
    add_stat(p, seat, WAY_STAT_SHADOW_ASKED);
    if (way_policy_route(seat->policy, &choice, h->seed, &index) == WAY_ASKED_FAILED) {
        note_failure(p, seat, choice.now);
        s.busy |= !strcmp(way_policy_failure(seat->policy)->cause, "deadline");
    }
    if (s.busy) {
        add(seat, COUNT(dropped));
        add_stat(p, seat, WAY_STAT_SHADOW_DROPPED);
        return;
    }
    if (index && choice.write && choice.node[index - 1] != h->master)
        index = 0; /* it would have been refused */
    compare_route(p, seat, h, index);
}

void way_shadow_routed(struct way_shadow_place *p, const struct way_shadow_routed *h)
{
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++)
        if (p->routed[kind] && has_route(p->seat[kind]) &&
            p->seat[kind]->shadow->epoch == h->epoch)
            hear_route(p, p->seat[kind], h);
}

/* ---- counters ---- */

static bool counts(const struct way_shadow_place *p, int kind)
{
    return !is_off(p->seat[kind]) && p->seat[kind]->shadow->plan->counters.all;
}

bool way_shadow_place_counts(struct way_shadow_place *p)
{
    return way_shadow_place_taken(p) &&
           (counts(p, WAY_SHADOW_CANDIDATE) || counts(p, WAY_SHADOW_PREVIOUS));
}

static void hear_edges(struct way_shadow_place *p, struct seat *seat)
{
    const struct way_counters_layout *l = &seat->shadow->plan->counters;
    uint64_t edges = seat->edges;
    seat->edges = 0;
    for (; edges && !is_off(seat); edges &= edges - 1) {
        unsigned bit = (unsigned)__builtin_ctzll(edges);
        struct way_event e = way_event_of_edge(
            l->counter[bit / WAY_COUNTERS_MAX][bit % WAY_COUNTERS_MAX].name,
            seat->edges_at);
        e.shadow[seat->shadow->kind].by = seat->shadow->serial; /* class ok */
        hear(p, seat,
             &(struct way_shadow_heard){ .fn = WAY_FN_MARK,
                                         .node = seat->edges_of,
                                         .event = &e,
                                         .class_name = "ok" },
             true);
    }
}

void way_shadow_edges(struct way_shadow_place *p)
{
    for (int kind = 0; p && kind < WAY_SHADOW_KINDS; kind++)
        if (p->seat[kind] && p->seat[kind]->edges)
            hear_edges(p, p->seat[kind]);
}

/* Is it a straggler to the shadow? */
static bool straggles(struct way_shadow *s, unsigned node, const struct way_event *e,
                      bool straggler)
{
    struct way_verdict v;
    return way_shadow_store_verdict_soon(s->store, node, &v)
               ? way_event_straggles(e, v.since)
               : straggler;
}

static void report_to(struct seat *seat, unsigned node, const struct way_report *good,
                      const struct way_event *e, bool straggler)
{
    struct way_shadow *s = seat->shadow;
    struct way_report r = *good;
    bool differs = false;
    if (e && e->error && e->shadow[s->kind].by == s->serial) {
        struct way_event own = *e;
        bool late = straggles(s, node, e, straggler);
        own.class = e->shadow[s->kind].class;
        own.blame = (enum way_blame)e->shadow[s->kind].blame;
        differs = own.class != e->class || own.blame != e->blame || late != straggler;
        if (!late)
            way_report_failure(&r, &own);
    }
    if (!r.good && !r.failure && !r.requests && !r.retries)
        return;
    seat->edges |= way_shadow_store_count(s->store, node, &r, differs);
    seat->edges_of = node;
    seat->edges_at = r.now;
}

void way_shadow_reported(struct way_shadow_place *p, uint64_t epoch, unsigned node,
                         const struct way_report *good, const struct way_event *e,
                         bool straggler)
{
    if (!way_shadow_place_taken(p))
        return;
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++)
        if (counts(p, kind) && p->seat[kind]->shadow->epoch == epoch)
            report_to(p->seat[kind], node, good, e, straggler);
}

/* ---- tending ---- */

static void end_marks(struct way_shadow_place *p, struct seat *seat, double now,
                      double unix_time)
{
    struct way_shadow *s = seat->shadow;
    unsigned node = 0;
    double ends;
    while (!is_off(seat) &&
           (node = way_shadow_store_due(s->store, node, now, &ends)) != WAY_NONE) {
        struct way_event e = { .kind = WAY_KIND_EXPIRY,
                               .now = now,
                               .began = now,
                               .unix_time = unix_time,
                               .late = now - ends,
                               .deadline_left = -1 };
        e.shadow[s->kind].by = s->serial; /* class ok, as of every event without error */
        hear(p, seat,
             &(struct way_shadow_heard){
                 .fn = WAY_FN_MARK, .node = node, .event = &e, .class_name = "ok" },
             true);
        node++;
    }
    way_shadow_store_settle(s->store, now);
}

static void take_differences(struct way_shadows *all, struct way_shadow *s)
{
    for (unsigned i = 0; i < s->threads; i++) {
        struct way_ring *r = s->seat[i].ring;
        /* They come in pairs, of which the second may be yet to come. */
        while (way_ring_held(r) >= 2) {
            struct way_entry *to =
                s->difference[s->differences++ % WAY_SHADOW_DIFFERENCES];
            for (int side = 0; side < 2; side++) {
                to[side] = *way_ring_peek(r);
                way_ring_pop(r);
            }
            if (all->told)
                all->told(all->told_arg, &to[0], &to[1]);
        }
    }
}

/* What it was compared with is no longer in charge; its states and its memory began with
 * that one's. */
static void end_with_policy(struct way_shadow *s)
{
    if (atomic_load(way_health_policy_epoch(s->health)) <= s->epoch ||
        atomic_exchange(&s->off_claimed, true))
        return;
    snprintf(s->off, sizeof s->off,
             "another policy is in charge than it was compared with");
    atomic_store_explicit(&s->off_told, true, memory_order_release);
    atomic_store(&s->aside.set, true);
}

void way_shadows_tend(struct way_shadows *all, struct way_shadow_place *own, double now,
                      double unix_time)
{
    way_shadow_place_taken(own);
    for (int kind = 0; kind < WAY_SHADOW_KINDS; kind++) {
        if (own && own->seat[kind])
            end_marks(own, own->seat[kind], now, unix_time);
        if (!all->now[kind])
            continue;
        take_differences(all, all->now[kind]);
        end_with_policy(all->now[kind]);
    }
    free_retired(all, false);
}

/* ---- looking ---- */

void way_shadow_about(struct way_shadow *s, struct way_shadow_about *out)
{
    bool off = atomic_load_explicit(&s->off_told, memory_order_acquire);
    *out = (struct way_shadow_about){ .text = s->text,
                                      .plan = s->plan,
                                      .epoch = s->epoch,
                                      .began = s->began,
                                      .unix_time = s->unix_time,
                                      .off = off ? s->off : NULL };
}

const char *way_shadow_class_name(const struct way_shadow *s, unsigned class)
{
    return way_policy_class_name(s->seat[0].policy, class);
}

void way_shadow_counts(const struct way_shadow *s, struct way_shadow_counts *out)
{
    uint64_t sum[COUNTS] = { 0 };
    for (unsigned i = 0; i < s->threads; i++)
        for (unsigned k = 0; k < COUNTS; k++)
            sum[k] += atomic_load_explicit(&s->seat[i].count[k], memory_order_relaxed);
    memcpy(out, sum, sizeof *out);
}

uint64_t way_shadow_errors(const struct way_shadow_counts *c)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < WAY_SHADOW_CAUSES; i++)
        sum += c->errors[i];
    return sum;
}

bool way_shadow_difference(const struct way_shadow *s, unsigned i,
                           const struct way_entry **charge, const struct way_entry **own)
{
    uint64_t held =
        s->differences < WAY_SHADOW_DIFFERENCES ? s->differences : WAY_SHADOW_DIFFERENCES;
    if (i >= held)
        return false;
    struct way_entry *pair =
        s->difference[(s->differences - 1 - i) % WAY_SHADOW_DIFFERENCES];
    *charge = &pair[0];
    *own = &pair[1];
    return true;
}

bool way_shadow_verdict(struct way_shadow *s, unsigned node, struct way_verdict *out)
{
    return way_shadow_store_verdict(s->store, node, out);
}
