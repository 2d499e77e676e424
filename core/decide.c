/* decide - see decide.h.
 *
 * A question and its commit are one loop: snapshot, ask, publish if nothing changed. The
 * alternative, asking under the lock, would let a slow script hold up every worker. */
#include "decide.h"

#include "log.h"

#include <stdio.h>

enum { ASKS_BEFORE_LOCK = 3, PENDING_MAX = 64 };
/* Answers of backoff that wait for way_decide_did: a broken connection has 30 groups. */
enum { KEPT = 32 };

struct pending {
    uint16_t node;
    struct way_mark mark;
    struct way_touches touches;
    bool hard;
    uint64_t epoch;         /* the policy's that said so */
    struct way_event event; /* to ask another one */
};

struct way_decider {
    struct way_decider_options o;
    struct way_seat *seat;                /* this thread's alone */
    struct way_policy *policy;            /* that sits there */
    _Atomic uint64_t epoch;               /* the seat's, for others */
    const _Atomic uint64_t *policy_epoch; /* the table's */
    _Atomic(struct way_seat *) offered, left;
    struct way_random random;
    struct way_gate gate;
    uint64_t entries;          /* journal entries published */
    struct way_buf kept[KEPT]; /* their inputs, the oldest overwritten */
    struct way_buf part;       /* the input of a sweep's entry */
    unsigned keeps;
    struct way_aside own_aside, *aside;
    struct way_shadow_place *shadows;
    struct way_snapshot seen; /* of the question asked last */
    struct way_memory after;  /* as its answer left it */
    bool told;                /* shadows are to be */
    uint64_t route_seed;      /* of the command asked about last */
    unsigned pending_count;
    struct pending pending[PENDING_MAX];
};

static void sit(struct way_decider *d, struct way_seat *s)
{
    d->seat = s;
    d->policy = s->policy;
    d->aside = s->aside;
    atomic_store_explicit(&d->epoch, s->epoch, memory_order_release);
}

int way_decider_new(struct way_decider **out, const struct way_decider_options *o,
                    struct way_err *err)
{
    struct way_decider *d = way_zalloc(sizeof *d);
    struct way_policy *policy;
    d->o = *o;
    d->policy_epoch = way_health_policy_epoch(o->health);
    if (way_policy_load(&policy, o->text, err) < 0) {
        way_free(d);
        return -1;
    }
    struct way_seat *first = way_zalloc(sizeof *first);
    *first = (struct way_seat){ .policy = policy,
                                .epoch = atomic_load(d->policy_epoch),
                                .aside = o->aside ? o->aside : &d->own_aside };
    sit(d, first);
    way_random_seed(&d->random, 0);
    d->shadows = way_shadow_place_new(o->shadows, o->place, o->stats);
    *out = d;
    return 0;
}

void way_decider_free(struct way_decider *d)
{
    if (!d)
        return;
    way_shadow_place_free(d->shadows);
    way_seat_free(d->seat);
    way_seat_free(atomic_load(&d->offered));
    way_seat_free(atomic_load(&d->left));
    for (unsigned i = 0; i < KEPT; i++)
        way_buf_fini(&d->kept[i]);
    way_buf_fini(&d->part);
    way_free(d);
}

const struct way_policy *way_decider_policy(const struct way_decider *d)
{
    return d->policy;
}

struct way_shadow_place *way_decider_shadows(struct way_decider *d)
{
    return d->shadows;
}

/* ---- seats ---- */

void way_seat_free(struct way_seat *s)
{
    if (!s)
        return;
    way_policy_free(s->policy);
    way_free(s);
}

struct way_seat *way_decider_offer(struct way_decider *d, struct way_seat *seat)
{
    return atomic_exchange(&d->offered, seat);
}

struct way_seat *way_decider_left(struct way_decider *d)
{
    return atomic_exchange(&d->left, NULL);
}

uint64_t way_decider_epoch(const struct way_decider *d)
{
    return atomic_load_explicit(&d->epoch, memory_order_acquire);
}

static bool is_behind(const struct way_decider *d)
{
    return atomic_load_explicit(d->policy_epoch, memory_order_acquire) != d->seat->epoch;
}

/* Whoever offered it meanwhile another has the last word; then this one is nobody's. */
static void put_back(struct way_decider *d, struct way_seat *s)
{
    struct way_seat *none = NULL;
    if (!atomic_compare_exchange_strong(&d->offered, &none, s))
        way_seat_free(s);
}

bool way_decider_take(struct way_decider *d)
{
    if (!is_behind(d))
        return false;
    struct way_seat *s = atomic_exchange(&d->offered, NULL);
    if (!s)
        return false;
    if (s->epoch != atomic_load_explicit(d->policy_epoch, memory_order_acquire)) {
        put_back(d, s);
        return false;
    }
    struct way_seat *before = d->seat;
    sit(d, s);
    if (d->o.taken)
        d->o.taken(d->o.taken_arg, s);
    way_seat_free(atomic_exchange(&d->left, before));
    return true;
}

const struct way_plan *way_decider_plan(const struct way_decider *d)
{
    return way_policy_plan(d->policy);
}

bool way_decider_set_aside(const struct way_decider *d)
{
    return way_aside_is_set(d->aside);
}

const char *way_decider_class_name(const struct way_decider *d, unsigned class)
{
    return way_policy_class_name(d->policy, class);
}

/* ---- one question ---- */

struct question {
    enum way_asked_function fn;
    unsigned node;
    struct way_event *event;
    uint64_t seed;
    union way_answer answer;
    unsigned asking; /* from 1; 0: not yet */
    enum way_cause cause;
    bool fallback;
    bool behind;    /* asked of memory that is no more: nothing to be asked again with */
    bool straggler; /* of a fault that was known by the time of the snapshot */
    struct way_touches touches;
    struct way_outcome outcome;
    enum way_commit commit;
};

static void note_policy_error(struct way_decider *d, enum way_asked_function fn,
                              double now)
{
    const struct way_policy_failure *f = way_policy_failure(d->policy);
    way_stat_add(d->o.stats, way_stat_of_failure(fn, f->cause), 1);
    if (way_gate_open(&d->gate, now, 5))
        way_log(WAY_ERROR, "policy=%s function=%s cause=%s error=\"%s\"",
                way_policy_plan(d->policy)->name, f->function, f->cause, f->text);
    unsigned errors = way_aside_error(d->aside, d->o.limits, now);
    if (errors)
        way_log(WAY_ERROR,
                "policy=%s set_aside=true errors=%u: the built-in fallback decides until "
                "the next reload",
                way_policy_plan(d->policy)->name, errors);
}

static enum way_asked ask_policy(struct way_decider *d, struct question *q,
                                 const struct way_view *view, struct way_memory *m)
{
    if (d->o.judge)
        return d->o.judge(d->o.judge_arg, q->fn, view, q->event, &q->answer);
    switch (q->fn) {
    case WAY_FN_MARK:
        return way_policy_mark(d->policy, view, q->event, q->seed, m, &q->answer.mark);
    case WAY_FN_BACKOFF:
        return way_policy_backoff(d->policy, view, q->event, q->seed, m,
                                  &q->answer.retry);
    case WAY_FN_PROBE:
        return way_policy_probe(d->policy, view, q->event, q->seed, m, &q->answer.probe);
    default:
        return way_policy_reconnect(d->policy, view, q->event, q->seed, m,
                                    &q->answer.redial);
    }
}

static void ask_fallback(struct question *q, const struct way_view *view)
{
    memset(&q->answer, 0, sizeof q->answer);
    if (q->fn == WAY_FN_MARK)
        way_fallback_mark(view, q->event, &q->answer.mark);
    else if (q->fn == WAY_FN_BACKOFF)
        way_fallback_backoff(view, q->event, &q->answer.retry);
    else if (q->fn == WAY_FN_PROBE)
        way_fallback_probe(view, q->event, &q->answer.probe);
}

/* Policy first, the fallback where it can't; memory stays as it was if it failed. */
static void ask(struct way_decider *d, struct question *q, const struct way_view *view,
                struct way_memory *m)
{
    enum way_asked how = WAY_ASKED_ABSENT;
    memset(&q->answer, 0, sizeof q->answer);
    q->cause = WAY_CAUSE_ASIDE;
    q->asking++;
    if (!way_decider_set_aside(d)) {
        way_stat_add(d->o.stats, WAY_STAT_POLICY_CALLS, 1);
        how = ask_policy(d, q, view, m); /* which leaves m alone where it fails */
        q->cause = how == WAY_ASKED_ANSWERED ? WAY_CAUSE_NONE
                   : how == WAY_ASKED_ABSENT ? WAY_CAUSE_ABSENT
                                             : way_policy_failure_cause(d->policy);
        if (how == WAY_ASKED_FAILED)
            note_policy_error(d, q->fn, q->event->now);
    }
    q->fallback = how != WAY_ASKED_ANSWERED;
    q->touches.count = 0;
    if (!q->fallback && way_policy_touches(d->policy)->count)
        q->touches = *way_policy_touches(d->policy);
    if (q->fallback) {
        way_stat_add(d->o.stats, WAY_STAT_FALLBACK, 1);
        ask_fallback(q, view);
    }
}

/* Classes are numbered by the policy that knows them. */
static void classify_anew(struct way_decider *d, struct way_event *e)
{
    if (e->classed && e->classed != d->seat->epoch)
        way_decide_classify(d, e);
}

static bool counts(const struct way_decider *d)
{
    return way_policy_plan(d->policy)->counters.all != 0;
}

bool way_decider_counts(const struct way_decider *d)
{
    return counts(d) || way_shadow_place_counts(d->shadows);
}

static void add_counted(struct way_decider *d, struct way_snapshot *seen)
{
    if (counts(d))
        way_health_counted(d->o.health, &way_policy_plan(d->policy)->counters, seen);
}

/* Another process has put a policy in charge that this one has not loaded yet. Its old one
 * may go on answering while its own memory is still there, but commits nothing. */
static enum way_commit ask_behind(struct way_decider *d, struct question *q)
{
    struct way_snapshot seen;
    uint64_t epoch = d->seat->epoch;
    q->behind = true;
    way_health_snapshot_of(d->o.health, q->node, q->event->now, epoch, &seen);
    add_counted(d, &seen);
    q->outcome.from = q->outcome.to = (enum way_state)seen.view.verdict.state;
    if (atomic_load(d->policy_epoch) == epoch + 1) {
        struct way_memory dropped = seen.view.memory;
        ask(d, q, &seen.view, &dropped);
    } else {
        q->fallback = true;
        ask_fallback(q, &seen.view);
    }
    return WAY_COMMIT_BUSY;
}

/* Whoever committed between the check before the question and this snapshot has struck for
 * the same fault: what was answered before the conflict is no answer any more. */
static bool straggles_by_now(const struct way_decider *d, struct question *q)
{
    if (q->fn != WAY_FN_MARK ||
        !way_event_straggles(q->event, d->seen.view.verdict.since))
        return false;
    *q = (struct question){
        .fn = q->fn, .node = q->node, .event = q->event, .straggler = true
    };
    return true;
}

static enum way_commit ask_once(struct way_decider *d, struct question *q, bool locked)
{
    struct way_snapshot *seen = &d->seen;
    do {
        way_decider_take(d);
        way_health_snapshot(d->o.health, q->node, q->event->now, seen);
    } while (seen->policy_epoch != d->seat->epoch && way_decider_take(d));
    if (seen->policy_epoch != d->seat->epoch)
        return ask_behind(d, q);
    q->behind = false;
    if (straggles_by_now(d, q))
        return WAY_COMMIT_DONE;
    add_counted(d, seen);
    if (d->o.see)
        d->o.see(d->o.replay, seen);
    classify_anew(d, q->event);
    d->told = way_shadow_place_taken(d->shadows);
    d->after = seen->view.memory;
    if (q->fn == WAY_FN_MARK && !way_event_for_mark(q->event))
        return WAY_COMMIT_DONE; /* the new policy has another name for it */
    struct way_proposal p = { .memory = seen->view.memory,
                              .hard = way_event_hard(q->event) };
    ask(d, q, &seen->view, &p.memory);
    d->after = p.memory;
    if (q->fn == WAY_FN_MARK)
        p.mark = q->answer.mark;
    p.touches = q->touches;
    p.counters = &way_policy_plan(d->policy)->counters;
    q->outcome.from = q->outcome.to = (enum way_state)seen->view.verdict.state;
    return way_health_commit(d->o.health, seen, &p, locked, &q->outcome);
}

static bool is_used(enum way_state s)
{
    return s == WAY_STATE_HEALTHY || s == WAY_STATE_SUSPECT;
}

static void count_commit(struct way_decider *d, const struct question *q)
{
    enum way_refusal refused = q->outcome.refused;
    way_stat_add(d->o.stats, WAY_STAT_COMMITS, 1);
    if (refused == WAY_REFUSED_LAST_NODE)
        way_stat_add(d->o.stats, WAY_STAT_REFUSED_LAST, 1);
    else if (refused == WAY_REFUSED_SHARE)
        way_stat_add(d->o.stats, WAY_STAT_REFUSED_SHARE, 1);
    else if (refused == WAY_REFUSED_OPERATOR)
        way_stat_add(d->o.stats, WAY_STAT_REFUSED_OPERATOR, 1);
    if (!q->fallback && is_used(q->outcome.from) && !is_used(q->outcome.to))
        atomic_fetch_add_explicit(&d->aside->marks, 1, memory_order_relaxed);
}

static void ask_and_commit(struct way_decider *d, struct question *q)
{
    q->seed = d->o.seed ? d->o.seed(d->o.replay) : way_random_next(&d->random) | 1;
    for (int i = 0; i < ASKS_BEFORE_LOCK; i++) {
        q->commit = ask_once(d, q, false);
        if (q->commit != WAY_COMMIT_CONFLICT)
            break;
        way_stat_add(d->o.stats, WAY_STAT_CONFLICTS, 1);
    }
    if (q->commit == WAY_COMMIT_CONFLICT) {
        q->commit = WAY_COMMIT_BUSY;
        if (way_health_lock(d->o.health) == 0) {
            q->commit = ask_once(d, q, true);
            way_health_unlock(d->o.health);
        }
    }
    if (q->commit == WAY_COMMIT_DONE && !q->straggler)
        count_commit(d, q);
}

/* ---- shadows ---- */

/* What was asked, or (by `asked`) was not. */
static void tell_shadows(struct way_decider *d, const struct question *q, bool asked,
                         bool straggler)
{
    if (asked && (!d->told || d->seen.policy_epoch != d->seat->epoch))
        return;
    if (!asked && !way_shadow_place_taken(d->shadows))
        return;
    way_shadow_heard(d->shadows,
                     &(struct way_shadow_heard){
                         .epoch = d->seat->epoch,
                         .fn = q->fn,
                         .node = q->node,
                         .event = q->event,
                         .class_name = way_policy_class_name(d->policy, q->event->class),
                         .asked = asked,
                         .straggler = straggler,
                         .fallback = q->fallback,
                         .cut = q->cause == WAY_CAUSE_DEADLINE,
                         .seen = &d->seen,
                         .after = &d->after,
                         .seed = q->seed,
                         .answer = &q->answer,
                         .touches = &q->touches,
                         .outcome = q->outcome,
                         .commit = q->commit,
                         .where = q->fallback ? "fallback" : way_policy_where(d->policy),
                     });
}

/* ---- verdicts that wait for the lock ---- */

unsigned way_decider_pending(const struct way_decider *d)
{
    return d->pending_count;
}

bool way_decider_pending_state(const struct way_decider *d, unsigned node,
                               enum way_state *state)
{
    for (unsigned i = 0; i < d->pending_count; i++) {
        if (d->pending[i].node == node && d->pending[i].mark.has & WAY_MARK_STATE) {
            *state = d->pending[i].mark.state;
            return true;
        }
    }
    return false;
}

static void keep_pending(struct way_decider *d, const struct question *q)
{
    if (way_verdict_by_operator(&d->seen.view.verdict, q->event->now))
        return;
    if (!q->answer.mark.given && !q->touches.count)
        return;
    unsigned i = 0;
    while (i < d->pending_count && d->pending[i].node != q->node)
        i++;
    if (i == PENDING_MAX)
        return; /* 64 nodes wait already: this one is found again by its next error */
    if (i == d->pending_count)
        d->pending_count++;
    d->pending[i] = (struct pending){ .node = (uint16_t)q->node,
                                      .mark = q->answer.mark,
                                      .touches = q->touches,
                                      .hard = way_event_hard(q->event),
                                      .epoch = d->seat->epoch,
                                      .event = *q->event };
    d->pending[i].event.answer = (struct way_span){ NULL, 0 };
}

static void ask_mark(struct way_decider *d, struct question *q, bool straggler);

/* What another policy said, before this one was there: this one is asked. */
static void ask_pending(struct way_decider *d, unsigned i, double now)
{
    struct way_event e = d->pending[i].event;
    struct question q = { .fn = WAY_FN_MARK, .node = d->pending[i].node, .event = &e };
    d->pending[i] = d->pending[--d->pending_count];
    e.now = now;
    ask_mark(d, &q, false);
}

void way_decide_pass(struct way_decider *d, double now)
{
    way_decider_take(d);
    if (is_behind(d))
        return;
    for (unsigned i = 0, n = d->pending_count; i < d->pending_count && n; n--) {
        struct way_snapshot seen;
        struct way_outcome outcome;
        struct pending *w = &d->pending[i];
        if (w->epoch != d->seat->epoch) {
            ask_pending(d, i, now);
            continue;
        }
        way_health_snapshot(d->o.health, w->node, now, &seen);
        struct way_proposal p = { .memory = seen.view.memory,
                                  .mark = w->mark,
                                  .touches = w->touches,
                                  .counters = &way_policy_plan(d->policy)->counters,
                                  .hard = w->hard };
        enum way_commit how = way_health_commit(d->o.health, &seen, &p, false, &outcome);
        if (how == WAY_COMMIT_BUSY)
            return;
        if (how == WAY_COMMIT_CONFLICT)
            i++; /* somebody was faster: the next pass sees what it became */
        else
            d->pending[i] = d->pending[--d->pending_count];
    }
}

/* ---- the journal ---- */

/* Cut if it does not fit. */
static void copy_text(char *to, size_t bytes, const char *text)
{
    size_t n = strnlen(text, bytes - 1);
    memcpy(to, text, n);
    to[n] = 0;
}

static void begin_entry(struct way_decider *d, struct way_entry *entry, unsigned node,
                        const struct way_event *e)
{
    memset(entry, 0, offsetof(struct way_entry, event));
    entry->policy = way_policy_plan(d->policy)->layout.hash;
    entry->outcome.commit = way_health_commits(d->o.health);
    entry->thread = d->o.thread;
    entry->node = (uint16_t)node;
    entry->event = *e;
    entry->event.answer = (struct way_span){ 0 };
    entry->function = WAY_FN_NONE;
    entry->address[0] = entry->where[0] = entry->did[0] = 0;
    entry->probe.given = false;
    copy_text(entry->class_name, sizeof entry->class_name,
              way_policy_class_name(d->policy, e->class));
}

static void note_answer(struct way_decider *d, struct way_entry *entry,
                        const struct question *q)
{
    entry->function = (uint8_t)q->fn;
    entry->fallback = q->fallback;
    entry->cause = (uint8_t)q->cause;
    entry->asking = (uint8_t)q->asking;
    entry->seed = q->seed;
    entry->outcome = q->outcome;
    entry->commit = q->commit;
    switch (q->fn) {
    case WAY_FN_MARK:
    case WAY_FN_TICK: entry->mark = q->answer.mark; break;
    case WAY_FN_BACKOFF: entry->retry = q->answer.retry; break;
    case WAY_FN_PROBE: entry->probe = q->answer.probe; break;
    case WAY_FN_RECONNECT: entry->redial = q->answer.redial; break;
    default: break;
    }
    if (q->fn != WAY_FN_TICK) /* whose nodes are many */
        copy_text(entry->address, sizeof entry->address, d->seen.view.address);
    const char *where = d->o.judge ? "host" : way_policy_where(d->policy);
    copy_text(entry->where, sizeof entry->where, q->fallback ? "fallback" : where);
}

static void pack(struct way_decider *d, struct way_buf *out, const struct question *q)
{
    const struct way_plan *plan = way_policy_plan(d->policy);
    if (!q->behind)
        way_input_pack(out, &d->seen.view, &d->after, &plan->layout, plan->counters.count,
                       plan->name, plan->version, q->event->answer);
}

/* For an entry that is published later; before anything else is asked. */
static void keep_input(struct way_decider *d, struct way_entry *entry,
                       const struct question *q)
{
    struct way_buf *kept = &d->kept[d->keeps++ % KEPT];
    way_buf_reset(kept);
    pack(d, kept, q);
    entry->input = (struct way_span){ kept->p, way_buf_held(kept) };
}

/* q: NULL where nobody was asked, or the entry has its input already. */
static void publish(struct way_decider *d, struct way_entry *entry,
                    const struct question *q)
{
    struct way_entry *place = way_ring_place(d->o.ring);
    if (!place) {
        way_stat_add(d->o.stats, WAY_STAT_JOURNAL_LOST, 1);
        return;
    }
    if (!entry->address[0] && entry->node < WAY_NODES_MAX)
        way_health_address(d->o.health, entry->node, entry->address,
                           sizeof entry->address);
    entry->seq = ++d->entries;
    way_entry_copy(place, entry);
    if (q)
        pack(d, way_ring_input(d->o.ring), q);
    else
        way_buf_put(way_ring_input(d->o.ring), entry->input.p, entry->input.n);
    way_ring_push(d->o.ring);
    if (d->o.journaled)
        d->o.journaled(d->o.arg);
}

static const char *refusal_words(enum way_refusal r)
{
    return r == WAY_REFUSED_LAST_NODE  ? " (guard: the last node that serves)"
           : r == WAY_REFUSED_SHARE    ? " (guard: limits.failing_share)"
           : r == WAY_REFUSED_OPERATOR ? " (outranked by the operator's mark)"
                                       : "";
}

static void did_mark(struct way_entry *entry, const struct question *q)
{
    const struct way_outcome *o = &q->outcome;
    struct words {
        const char *text[4];
    } w = { { "nothing", "", "", "" } };
    if (q->commit == WAY_COMMIT_BUSY)
        w = (struct words){ { "holds in this worker: the lock is busy", "", "", "" } };
    else if (q->answer.mark.given && o->changed)
        w = (struct words){ { way_state_name(o->from), " -> ", way_state_name(o->to),
                              refusal_words(o->refused) } };
    else if (q->answer.mark.given)
        w = (struct words){ { "stays ", way_state_name(o->to), refusal_words(o->refused),
                              "" } };
    size_t at = 0;
    for (unsigned i = 0; i < way_count(w.text); at += strlen(entry->did + at), i++)
        copy_text(entry->did + at, sizeof entry->did - at, w.text[i]);
}

/* ---- the path of an error ---- */

static void classify(struct way_decider *d, struct way_event *e)
{
    e->classed = d->seat->epoch;
    if (way_decider_set_aside(d)) {
        way_event_classify_default(e);
        return;
    }
    uint64_t before = way_policy_calls(d->policy);
    if (way_policy_classify(d->policy, e) == WAY_ASKED_FAILED)
        note_policy_error(d, WAY_FN_CLASSIFY, e->now);
    if (way_policy_calls(d->policy) != before)
        way_stat_add(d->o.stats, WAY_STAT_POLICY_CALLS, 1);
}

void way_decide_classify(struct way_decider *d, struct way_event *e)
{
    classify(d, e);
    if (way_shadow_place_taken(d->shadows))
        way_shadow_classified(d->shadows, e, way_policy_class_name(d->policy, e->class),
                              way_policy_where(d->policy));
}

/* A fault that began before the node's state changed belongs to what changed it. */
static bool is_straggler(struct way_decider *d, unsigned node, const struct way_event *e)
{
    struct way_verdict v;
    way_health_verdict(d->o.health, node, &v);
    return way_event_straggles(e, v.since);
}

static bool class_wants_refresh(const struct way_event *e)
{
    return e->class == WAY_CLASS_STALE_ROUTE || e->class == WAY_CLASS_DOWN ||
           (e->class == WAY_CLASS_AGAIN && strncmp(e->message, "TRYAGAIN", 8));
}

/* Asks, commits, and writes the entry. */
static void ask_mark(struct way_decider *d, struct question *q, bool straggler)
{
    bool asked = !straggler && way_event_for_mark(q->event);
    if (asked) {
        ask_and_commit(d, q);
        if (q->commit == WAY_COMMIT_BUSY)
            keep_pending(d, q);
        straggler = q->straggler;
        asked = !straggler;
    }
    tell_shadows(d, q, asked, straggler);
    if (!q->event->error && !q->answer.mark.given && q->event->kind == WAY_KIND_RESULT)
        return;
    struct way_entry entry;
    begin_entry(d, &entry, q->node, q->event);
    entry.straggler = straggler;
    if (asked) {
        note_answer(d, &entry, q);
        did_mark(&entry, q);
    }
    publish(d, &entry, asked ? q : NULL);
}

/* ---- counters ---- */

static uint64_t count(struct way_decider *d, unsigned node, const struct way_report *r)
{
    if (!counts(d))
        return 0;
    return way_health_count(d->o.health, node, &way_policy_plan(d->policy)->counters,
                            d->seat->epoch, r);
}

/* The good commands of the pass, and the event unless it is of a fault known already. */
static uint64_t count_event(struct way_decider *d, unsigned node,
                            const struct way_event *e, const struct way_report *with,
                            bool straggler)
{
    struct way_report r = with ? *with : (struct way_report){ .now = e->now };
    bool failed =
        e->error && (e->kind == WAY_KIND_CONNECTION || e->kind == WAY_KIND_RESULT);
    if (!way_decider_counts(d) || (!failed && !with))
        return 0;
    way_shadow_reported(d->shadows, d->seat->epoch, node, &r, failed ? e : NULL,
                        straggler);
    if (failed && !straggler)
        way_report_failure(&r, e);
    else if (!with)
        return 0;
    return count(d, node, &r);
}

static void ask_edges(struct way_decider *d, unsigned node, uint64_t edges, double now,
                      struct way_decision *out)
{
    uint64_t epoch = d->seat->epoch; /* another policy has other counters */
    for (; edges && !way_decider_set_aside(d) && d->seat->epoch == epoch;
         edges &= edges - 1) {
        const struct way_counters_layout *l = &way_policy_plan(d->policy)->counters;
        unsigned bit = (unsigned)__builtin_ctzll(edges);
        struct way_decision each;
        struct way_event e = way_event_of_edge(
            l->counter[bit / WAY_COUNTERS_MAX][bit % WAY_COUNTERS_MAX].name, now);
        way_decide(d, node, &e, &each);
        out->refresh |= each.refresh;
        out->edges = true;
    }
}

void way_decide_report(struct way_decider *d, unsigned node, const struct way_report *r,
                       struct way_decision *out)
{
    memset(out, 0, sizeof *out);
    way_decider_take(d);
    way_shadow_reported(d->shadows, d->seat->epoch, node, r, NULL, false);
    ask_edges(d, node, count(d, node, r), r->now, out);
    way_shadow_edges(d->shadows);
}

static void decide(struct way_decider *d, unsigned node, struct way_event *e,
                   bool straggler, struct way_decision *out)
{
    bool strikes =
        e->error && e->blame == WAY_BLAME_NODE && !straggler && e->kind != WAY_KIND_PROBE;
    if (strikes)
        way_health_failure(d->o.health, node);
    struct question q = { .fn = WAY_FN_MARK, .node = node, .event = e };
    bool may_ask = !straggler && way_event_for_mark(e);
    ask_mark(d, &q, straggler);
    out->asked = may_ask && !q.straggler;
    if (strikes && q.straggler)
        way_health_failure_taken_back(d->o.health, node);
    out->mark = q.answer.mark;
    out->outcome = q.outcome;
    out->commit = q.commit;
    out->refresh = out->mark.refresh || (e->error && class_wants_refresh(e)) ||
                   (out->outcome.changed && out->outcome.to == WAY_STATE_FAILING);
}

bool way_decide_watches(struct way_decider *d)
{
    bool sampled = way_shadow_place_samples(d->shadows);
    return sampled || way_policy_plan(d->policy)->watches_success;
}

void way_decide_watched(struct way_decider *d, unsigned node, struct way_event *e,
                        struct way_decision *out)
{
    if (!e->watched || way_policy_plan(d->policy)->watches_success) {
        way_decide(d, node, e, out);
        return;
    }
    struct question q = { .fn = WAY_FN_MARK, .node = node, .event = e };
    memset(out, 0, sizeof *out);
    way_decide_classify(d, e);
    tell_shadows(d, &q, false, is_straggler(d, node, e));
}

void way_decide_with(struct way_decider *d, unsigned node, struct way_event *e,
                     const struct way_report *with, struct way_decision *out)
{
    memset(out, 0, sizeof *out);
    way_decider_take(d);
    way_decide_classify(d, e);
    bool straggler = is_straggler(d, node, e);
    uint64_t edges = count_event(d, node, e, with, straggler);
    decide(d, node, e, straggler, out);
    if (e->kind == WAY_KIND_EDGE)
        return; /* they are asked about one after the other */
    ask_edges(d, node, edges, e->now, out);
    way_shadow_edges(d->shadows);
}

void way_decide(struct way_decider *d, unsigned node, struct way_event *e,
                struct way_decision *out)
{
    way_decide_with(d, node, e, NULL, out);
}

void way_decide_retry(struct way_decider *d, unsigned node, struct way_event *e,
                      struct way_retry *out, struct way_entry *entry)
{
    struct question q = { .fn = WAY_FN_BACKOFF, .node = node, .event = e };
    memset(out, 0, sizeof *out);
    way_decider_take(d);
    classify_anew(d, e);
    begin_entry(d, entry, node, e);
    if (!e->permanent) {
        ask_and_commit(d, &q);
        *out = q.answer.retry;
        note_answer(d, entry, &q);
        keep_input(d, entry, &q);
    }
    tell_shadows(d, &q, !e->permanent, false);
}

void way_decide_did(struct way_decider *d, struct way_entry *entry, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(entry->did, sizeof entry->did, fmt, ap);
    va_end(ap);
    publish(d, entry, NULL);
}

/* Asks what leads to no verdict and no fate of commands, and writes it down. */
static void ask_aside(struct way_decider *d, struct question *q)
{
    struct way_entry entry;
    ask_and_commit(d, q);
    begin_entry(d, &entry, q->node, q->event);
    note_answer(d, &entry, q);
    publish(d, &entry, q);
}

void way_decide_probe(struct way_decider *d, unsigned node, struct way_event *e,
                      struct way_probe *out)
{
    struct question q = { .fn = WAY_FN_PROBE, .node = node, .event = e };
    ask_aside(d, &q);
    *out = q.answer.probe;
    tell_shadows(d, &q, true, false);
}

void way_decide_redial(struct way_decider *d, unsigned node, struct way_event *e,
                       struct way_redial *out)
{
    struct question q = { .fn = WAY_FN_RECONNECT, .node = node, .event = e };
    bool asked = way_policy_plan(d->policy)->has_reconnect && !way_decider_set_aside(d);
    memset(out, 0, sizeof *out);
    if (asked)
        ask_aside(d, &q);
    if (asked && !q.fallback)
        *out = q.answer.redial;
    tell_shadows(d, &q, asked, false);
}

/* ---- questions about several nodes ---- */

unsigned way_decide_route(struct way_decider *d, struct way_choice *c)
{
    unsigned index = 0;
    uint64_t epoch = d->seat->epoch;
    if (way_decider_set_aside(d) || atomic_load(d->policy_epoch) > epoch + 1)
        return 0; /* its memory is not even the last one's any more */
    c->policy_epoch = epoch;
    way_stat_add(d->o.stats, WAY_STAT_POLICY_CALLS, 1);
    d->route_seed = way_random_next(&d->random) | 1;
    if (way_policy_route(d->policy, c, d->route_seed, &index) == WAY_ASKED_FAILED) {
        note_policy_error(d, WAY_FN_ROUTE, c->now);
        way_stat_add(d->o.stats, WAY_STAT_FALLBACK, 1);
    }
    return index;
}

bool way_decider_shadow_routes(const struct way_decider *d)
{
    return way_shadow_place_routes(d->shadows);
}

bool way_decide_samples_route(struct way_decider *d)
{
    return way_shadow_place_samples_route(d->shadows);
}

void way_decide_routed(struct way_decider *d, const struct way_choice *c, bool asked,
                       unsigned index, unsigned node, unsigned master)
{
    way_shadow_routed(d->shadows,
                      &(struct way_shadow_routed){
                          .epoch = d->seat->epoch,
                          .choice = c,
                          .seed = asked ? d->route_seed : way_random_next(&d->random) | 1,
                          .index = index,
                          .node = node,
                          .master = master,
                          .where = index ? way_policy_where(d->policy) : "pick" });
}

/* ---- sweeps ---- */

/* One sweep: what was shown, what was proposed, what became of it. */
struct sweeping {
    struct way_event *event;
    unsigned count;
    struct way_snapshot *seen;     /* [count], as the next ones */
    struct way_proposal *proposal; /* no mark and the memory as seen, where it failed */
    struct way_shadow_fate *fate;
    uint64_t seed;
    enum way_cause cause;
};

static void survey(struct way_decider *d, struct way_event *e, struct sweeping *s)
{
    unsigned most = way_health_nodes(d->o.health);
    *s = (struct sweeping){ .event = e };
    s->seen = way_alloc((most + 1) * sizeof *s->seen);
    s->count = way_health_survey(d->o.health, e->now, d->seat->epoch, s->seen, most);
    s->proposal = way_alloc((s->count + 1) * sizeof *s->proposal);
    s->fate = way_alloc((s->count + 1) * sizeof *s->fate);
    for (unsigned i = 0; i < s->count; i++) {
        add_counted(d, &s->seen[i]);
        if (d->o.see)
            d->o.see(d->o.replay, &s->seen[i]);
    }
}

/* As if nobody had been asked. */
static void propose_nothing(struct way_decider *d, struct sweeping *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        enum way_state state = (enum way_state)s->seen[i].view.verdict.state;
        s->proposal[i] =
            (struct way_proposal){ .memory = s->seen[i].view.memory,
                                   .counters = &way_policy_plan(d->policy)->counters };
        s->fate[i] = (struct way_shadow_fate){
            .outcome = { .from = state,
                         .to = state,
                         .commit = way_health_commits(d->o.health) },
            .commit = WAY_COMMIT_DONE,
        };
    }
}

static void sweeping_fini(struct sweeping *s)
{
    way_free(s->fate);
    way_free(s->proposal);
    way_free(s->seen);
}

static void tell_of_sweep(struct way_decider *d, const struct sweeping *s, bool asked)
{
    double every = way_policy_plan(d->policy)->every;
    struct way_sweep sweep = { s->count, s->seen, s->proposal };
    if (!way_shadow_place_taken(d->shadows))
        return;
    way_shadow_swept(
        d->shadows,
        &(struct way_shadow_swept){
            .epoch = d->seat->epoch,
            .every = way_decider_set_aside(d) ? 0 : every,
            .event = s->event,
            .sweep = &sweep,
            .asked = asked,
            .cut = s->cause == WAY_CAUSE_DEADLINE,
            .seed = s->seed,
            .fate = s->fate,
            .class_name = way_policy_class_name(d->policy, s->event->class),
            .where = s->cause == WAY_CAUSE_NONE ? way_policy_where(d->policy) : "failed",
        });
}

/* One node's entry, with the input of its part. */
static void publish_part(struct way_decider *d, const struct sweeping *s, unsigned i)
{
    const struct way_plan *plan = way_policy_plan(d->policy);
    const struct way_proposal *p = &s->proposal[i];
    struct question q = { .fn = WAY_FN_TICK,
                          .node = s->seen[i].view.node,
                          .event = s->event,
                          .seed = s->seed,
                          .asking = 1,
                          .cause = s->cause,
                          .answer = { .mark = p->mark },
                          .outcome = s->fate[i].outcome,
                          .commit = s->fate[i].commit };
    struct way_entry entry;
    if (d->o.full && !way_ring_room(d->o.ring))
        d->o.full(d->o.arg);
    begin_entry(d, &entry, q.node, s->event);
    note_answer(d, &entry, &q);
    copy_text(entry.address, sizeof entry.address, s->seen[i].view.address);
    entry.sweep_at = (uint16_t)i;
    entry.sweep_of = (uint16_t)s->count;
    if (s->cause != WAY_CAUSE_NONE)
        copy_text(entry.where, sizeof entry.where, "failed");
    if (q.commit != WAY_COMMIT_DONE)
        snprintf(entry.did, sizeof entry.did, "left to the next sweep: it changed");
    else
        did_mark(&entry, &q);
    way_buf_reset(&d->part);
    way_input_pack(&d->part, &s->seen[i].view, &p->memory, &plan->layout,
                   plan->counters.count, plan->name, plan->version,
                   (struct way_span){ NULL, 0 });
    entry.input = (struct way_span){ d->part.p + d->part.off, way_buf_held(&d->part) };
    publish(d, &entry, NULL);
}

/* Who was given an answer; and, that the sweep can be asked again, all others too: unless the
 * ring has no room for the whole, for then a verdict's entry is worth more. */
static void publish_sweep(struct way_decider *d, const struct sweeping *s)
{
    unsigned given = 0;
    for (unsigned i = 0; i < s->count; i++)
        given += s->proposal[i].mark.given;
    if (!given && s->cause == WAY_CAUSE_NONE)
        return;
    bool whole = d->o.full || way_ring_room(d->o.ring) >= s->count;
    for (unsigned i = 0; i < s->count; i++)
        if (whole || s->proposal[i].mark.given)
            publish_part(d, s, i);
}

/* Commits one node's part. */
static void end_of_sweep(struct way_decider *d, struct sweeping *s, unsigned i,
                         struct way_swept *out)
{
    const struct way_proposal *p = &s->proposal[i];
    struct question q = { .fn = WAY_FN_TICK, .node = s->seen[i].view.node };
    struct way_shadow_fate *fate = &s->fate[i];
    fate->commit = way_health_commit(d->o.health, &s->seen[i], p, false, &fate->outcome);
    bool left = fate->commit != WAY_COMMIT_DONE;
    if (left)
        fate->outcome.commit = way_health_commits(d->o.health);
    out->left += left;
    way_stat_add(d->o.stats, WAY_STAT_TICK_LEFT, left);
    if (!p->mark.given)
        return;
    q.outcome = fate->outcome;
    if (!left)
        count_commit(d, &q);
    out->marked++;
    out->refresh |= !left && (p->mark.refresh || (fate->outcome.changed &&
                                                  fate->outcome.to == WAY_STATE_FAILING));
}

static void sweep(struct way_decider *d, struct sweeping *s, struct way_swept *out)
{
    const struct way_sweep ask = { s->count, s->seen, s->proposal };
    way_stat_add(d->o.stats, WAY_STAT_TICKS, 1);
    way_stat_add(d->o.stats, WAY_STAT_POLICY_CALLS, 1);
    s->seed = d->o.seed ? d->o.seed(d->o.replay) : way_random_next(&d->random) | 1;
    enum way_asked how = way_policy_tick(d->policy, &ask, s->event, s->seed);
    if (how == WAY_ASKED_FAILED) {
        s->cause = way_policy_failure_cause(d->policy);
        note_policy_error(d, WAY_FN_TICK, s->event->now);
    }
    if (how != WAY_ASKED_ANSWERED)
        propose_nothing(d, s);
    for (unsigned i = 0; i < s->count && how == WAY_ASKED_ANSWERED; i++)
        end_of_sweep(d, s, i, out);
    if (how == WAY_ASKED_ABSENT)
        return;
    publish_sweep(d, s);
    tell_of_sweep(d, s, true);
}

void way_decide_tick(struct way_decider *d, struct way_event *e, struct way_swept *out)
{
    struct sweeping s;
    memset(out, 0, sizeof *out);
    way_decider_take(d);
    if (way_decider_set_aside(d) || is_behind(d) || !way_health_nodes(d->o.health))
        return;
    survey(d, e, &s);
    out->nodes = s.count;
    propose_nothing(d, &s);
    if (s.count)
        sweep(d, &s, out);
    sweeping_fini(&s);
}

void way_decide_tick_shadows(struct way_decider *d, struct way_event *e)
{
    struct sweeping s;
    double every = way_policy_plan(d->policy)->every;
    if (is_behind(d) ||
        !way_shadow_place_sweeps(d->shadows, way_decider_set_aside(d) ? 0 : every, e->now,
                                 &e->late))
        return;
    survey(d, e, &s);
    propose_nothing(d, &s);
    s.seed = way_random_next(&d->random) | 1;
    if (s.count)
        tell_of_sweep(d, &s, false);
    sweeping_fini(&s);
}
