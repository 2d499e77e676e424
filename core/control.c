/* control - see control.h.
 *
 * Everything that must happen in time, but not in the way of a command, ends here: workers
 * push journal entries and raise the table's epoch, this thread reads both. A node's watch
 * is what was last seen of it. What changed without an entry of ours, was done by another
 * process: an entry may come a moment after its commit, so that is believed only after
 * 40 ms.
 *
 *   worker: commit ──▶ epoch, entry ──▶ wake ──▶ drain: history, log line, probe asked
 *                                          └──▶ rescan: ends armed, newcomers, the gone
 *   verdict.ends ──▶ on_ends: mark is asked; nil: the host makes it healthy
 *
 *   every ──▶ on_sweep, if this process holds the lease: tick is asked of all nodes
 *
 * Several processes watch the same ends: each asks, the commit of the first one stands,
 * and the others find the end gone. */
#include "control.h"

#include "candidate.h"
#include "cluster.h"
#include "decide.h"
#include "log.h"
#include "probe.h"
#include "spool.h"

#include <stdio.h>

enum { DRAIN_MOST = 4096, HEAL_TRIES = 4, OPERATOR_TRIES = 100 };
static const double TICK = 0.05, RESCAN = 1, SETTLED = 0.04, BUSY_AGAIN = 0.01;

struct watch {
    struct way_control *control;
    struct watch *next_asked; /* in control's list of nodes whose probe is to be asked */
    uint16_t node;
    uint32_t generation;
    bool known;
    uint8_t state; /* as last told by an entry, or believed */
    double since;
    double differs_at; /* the table says otherwise since then; 0: it does not */
    ev_timer ends;
    bool asked, repeated; /* probe is to be asked because of `cause` */
    struct way_event cause;
    char address[WAY_ADDRESS_MAX];
};

struct way_control {
    struct way_control_options o;
    struct way_decider *decider;
    struct way_cluster *cluster;
    struct way_prober *prober;
    struct way_history *history;
    struct way_candidate *candidate;
    struct watch *watch[WAY_NODES_MAX];
    struct watch *first_asked;
    struct way_reload *reload;
    struct way_task drain;
    struct way_gate gate;
    ev_timer tick;
    ev_timer sweep; /* while the policy has a tick */
    double sweep_due;
    uint64_t holder; /* of the lease on sweeps */
    uint64_t epoch;
    double rescanned;
};

static double now_of(const struct way_control *c)
{
    return c->o.loop->now;
}

static struct way_event event_now(const struct way_control *c, enum way_kind kind)
{
    return (struct way_event){ .kind = kind,
                               .now = now_of(c),
                               .began = now_of(c),
                               .unix_time = way_unix(),
                               .deadline_left = -1 };
}

static uint32_t generation_of(struct way_control *c, unsigned node)
{
    return atomic_load_explicit(&way_health_node(c->o.health, node)->generation,
                                memory_order_relaxed);
}

/* --- probes --- */

static void ask_later(struct way_control *c, struct watch *w, const struct way_event *e,
                      bool repeated)
{
    if (!w->asked) {
        w->next_asked = c->first_asked;
        c->first_asked = w;
    }
    w->repeated = repeated && (!w->asked || w->repeated);
    w->asked = true;
    w->cause = *e;
}

static void ask_probes(struct way_control *c)
{
    while (c->first_asked) {
        struct watch *w = c->first_asked;
        c->first_asked = w->next_asked;
        w->asked = false;
        if (!w->known)
            continue;
        w->cause.now = now_of(c);
        w->cause.unix_time = way_unix();
        way_prober_ask(c->prober, w->node, &w->cause, w->repeated);
    }
}

static void relieve(struct way_control *c, unsigned node, const struct way_event *e);

static void on_probe_ask(void *arg, unsigned node, struct way_event *e,
                         struct way_probe *out)
{
    struct way_control *c = arg;
    way_decide_probe(c->decider, node, e, out);
}

static void on_probe_result(void *arg, unsigned node, struct way_event *e, bool own)
{
    struct way_control *c = arg;
    struct way_decision d;
    way_decide(c->decider, node, e, &d);
    if (own && !e->error && !d.mark.given)
        relieve(c, node, e);
    /* A dead node's every probe is no news of the topology; a change or a redirect is. */
    bool route =
        e->error && (e->class == WAY_CLASS_STALE_ROUTE || e->class == WAY_CLASS_AGAIN);
    if (d.mark.refresh || route || d.outcome.changed)
        way_cluster_refresh(c->cluster);
}

/* --- what the topology tells --- */

static void on_changed(void *arg, const struct way_node_change *change, unsigned count)
{
    struct way_control *c = arg;
    for (unsigned i = 0; i < count; i++) {
        if (change[i].gone)
            continue; /* told when it has gone: see look_at */
        struct way_event e = event_now(c, WAY_KIND_CHANGE);
        struct way_decision d;
        e.change = change[i].what;
        way_decide(c->decider, change[i].node, &e, &d);
    }
}

static void on_failed(void *arg, unsigned node, struct way_event *e)
{
    struct way_control *c = arg;
    struct way_decision d;
    way_decide(c->decider, node, e, &d);
    if (d.mark.refresh)
        way_cluster_refresh(c->cluster);
}

/* --- ends of marks --- */

static void arm_ends(struct way_control *c, struct watch *w, double at)
{
    ev_timer_stop(c->o.loop->ev, &w->ends);
    if (at <= 0)
        return;
    ev_timer_set(&w->ends, at > now_of(c) ? at - now_of(c) : 0, 0.);
    ev_timer_start(c->o.loop->ev, &w->ends);
}

/* What the host, or an operator, did to a node without asking the policy. */
static void journal_own(struct way_control *c, const struct way_snapshot *seen,
                        const struct way_proposal *p, const struct way_outcome *outcome,
                        const struct way_event *e, const char *did)
{
    struct way_entry entry = { .thread = WAY_NONE,
                               .node = seen->view.node,
                               .function = WAY_FN_MARK,
                               .policy = way_decider_plan(c->decider)->layout.hash,
                               .by_operator = p->by_operator,
                               .event = *e,
                               .mark = p->mark,
                               .outcome = *outcome,
                               .commit = WAY_COMMIT_DONE,
                               .class_name = "ok" };
    snprintf(entry.where, sizeof entry.where, "%s", p->by_operator ? "operator" : "host");
    snprintf(entry.address, sizeof entry.address, "%.63s", seen->view.address);
    snprintf(entry.did, sizeof entry.did, "%s", did);
    if (!way_ring_put(c->o.rings[c->o.threads - 1], &entry))
        way_stat_add(c->o.stats[c->o.threads - 1], WAY_STAT_JOURNAL_LOST, 1);
    way_loop_later(c->o.loop, &c->drain);
}

/* The operator's words win over whatever else was being committed meanwhile. */
int way_control_mark(struct way_control *c, unsigned node, const struct way_mark *m,
                     bool taken_back, struct way_outcome *out, struct way_err *err)
{
    enum way_commit commit = WAY_COMMIT_CONFLICT;
    for (unsigned i = 0; i < OPERATOR_TRIES && commit != WAY_COMMIT_DONE; i++) {
        struct way_snapshot seen;
        way_health_snapshot(c->o.health, node, now_of(c), &seen);
        struct way_proposal p = { .mark = *m,
                                  .by_operator = true,
                                  .taken_back = taken_back };
        p.memory = seen.view.memory;
        commit = way_health_commit(c->o.health, &seen, &p, false, out);
        if (commit != WAY_COMMIT_DONE)
            continue;
        struct way_event e = event_now(c, WAY_KIND_CHANGE);
        char did[64];
        if (out->changed)
            snprintf(did, sizeof did, "%s -> %s", way_state_name(out->from),
                     way_state_name(out->to));
        else
            snprintf(did, sizeof did, "stays %s", way_state_name(out->to));
        journal_own(c, &seen, &p, out, &e, did);
        return 0;
    }
    return way_fail(err, "the node table is busy: nothing was changed, try again");
}

/* mark said nil: the node is healthy. False: to be tried again. */
static bool heal(struct way_control *c, unsigned node, const struct way_event *e)
{
    for (unsigned i = 0; i < HEAL_TRIES; i++) {
        struct way_snapshot seen;
        struct way_outcome outcome = { .changed = false };
        way_health_snapshot(c->o.health, node, now_of(c), &seen);
        if (seen.view.verdict.ends <= 0 || seen.view.verdict.ends > now_of(c))
            return true; /* somebody else was first */
        struct way_proposal p = {
            .mark = { .given = true,
                      .state = WAY_STATE_HEALTHY,
                      .reason = "expired",
                      .has = WAY_MARK_STATE | WAY_MARK_REASON },
            .host = true,
        };
        p.memory = seen.view.memory;
        enum way_commit commit =
            way_health_commit(c->o.health, &seen, &p, false, &outcome);
        if (commit == WAY_COMMIT_DONE)
            journal_own(c, &seen, &p, &outcome, e,
                        "the mark's time was over, mark said nil: healthy");
        if (commit != WAY_COMMIT_CONFLICT)
            return commit == WAY_COMMIT_DONE;
    }
    return false;
}

/* The host's own probe of a failing node was answered, and mark said nil: the hard evidence
 * is gone. The last node that can serve is suspect then, as it is on any soft evidence,
 * until its mark would have ended. Whoever is not the last stays out, as the policy says. */
static void relieve(struct way_control *c, unsigned node, const struct way_event *e)
{
    enum way_commit commit = WAY_COMMIT_CONFLICT;
    for (unsigned i = 0; i < HEAL_TRIES && commit == WAY_COMMIT_CONFLICT; i++) {
        struct way_snapshot seen;
        struct way_outcome outcome = { .changed = false };
        way_health_snapshot(c->o.health, node, now_of(c), &seen);
        const struct way_verdict *v = &seen.view.verdict;
        if (v->state != WAY_STATE_FAILING || !way_health_guards(c->o.health, node))
            return;
        struct way_proposal p = {
            .mark = { .given = true,
                      .state = WAY_STATE_SUSPECT,
                      .seconds = v->ends - now_of(c),
                      .reason = "answers",
                      .has = WAY_MARK_STATE | WAY_MARK_REASON |
                             (v->ends > now_of(c) ? WAY_MARK_SECONDS : 0u) },
            .memory = seen.view.memory,
            .host = true,
        };
        commit = way_health_commit(c->o.health, &seen, &p, false, &outcome);
        if (commit == WAY_COMMIT_DONE)
            journal_own(c, &seen, &p, &outcome, e,
                        "the host tried the last node that serves, and it answered");
    }
}

static void on_ends(struct ev_loop *ev, ev_timer *timer, int events)
{
    (void)ev, (void)events;
    struct watch *w = way_container(timer, struct watch, ends);
    struct way_control *c = w->control;
    struct way_verdict v;
    way_health_verdict(c->o.health, w->node, &v);
    if (v.ends <= 0 || v.ends > now_of(c)) {
        arm_ends(c, w, v.ends);
        return;
    }
    struct way_event e = event_now(c, WAY_KIND_EXPIRY);
    struct way_decision d;
    e.late = now_of(c) - v.ends;
    way_decide(c->decider, w->node, &e, &d);
    bool done = d.commit != WAY_COMMIT_BUSY && heal(c, w->node, &e);
    way_health_verdict(c->o.health, w->node, &v);
    arm_ends(c, w, done ? v.ends : now_of(c) + BUSY_AGAIN);
}

/* --- sweeps ---
 *
 * One process sweeps: the one that holds the lease, for one and a half intervals, renewed by
 * each sweep. The others look at it four times in an interval, so one that died is
 * followed within two intervals of its last sweep. */

static const double LEASE_SHARE = 1.5, LOOK_SHARE = 0.25, LOOK_MOST = 1;

static void wait_for_sweep(struct way_control *c, double at)
{
    ev_timer_stop(c->o.loop->ev, &c->sweep);
    ev_timer_set(&c->sweep, at > now_of(c) ? at - now_of(c) : 0, 0.);
    ev_timer_start(c->o.loop->ev, &c->sweep);
}

static void sweep(struct way_control *c, double late)
{
    struct way_event e = event_now(c, WAY_KIND_TICK);
    struct way_swept swept;
    e.late = late > 0 ? late : 0;
    way_decide_tick(c->decider, &e, &swept);
    if (swept.refresh)
        way_cluster_refresh(c->cluster);
}

static void on_sweep(struct ev_loop *ev, ev_timer *timer, int events)
{
    (void)ev, (void)events;
    struct way_control *c = way_container(timer, struct way_control, sweep);
    double every = way_decider_plan(c->decider)->every, now = now_of(c), lapsed;
    if (every <= 0)
        return;
    if (!way_health_sweep_lease(c->o.health, c->holder, now, LEASE_SHARE * every,
                                &lapsed)) {
        double look = LOOK_SHARE * every;
        c->sweep_due = 0;
        wait_for_sweep(c, now + (look < LOOK_MOST ? look : LOOK_MOST));
        return;
    }
    if (lapsed >= 0) /* another's sweep was due half an interval before its lease's end */
        c->sweep_due = now - lapsed - (LEASE_SHARE - 1) * every;
    else if (c->sweep_due <= 0)
        c->sweep_due = now;
    sweep(c, now - c->sweep_due);
    c->sweep_due += every;
    if (c->sweep_due <= now)
        c->sweep_due = now + every; /* those that were missed are not made up for */
    wait_for_sweep(c, c->sweep_due);
}

/* Begins with the first policy that has a tick. */
static void keep_sweeping(struct way_control *c)
{
    double every = way_decider_plan(c->decider)->every;
    if (every <= 0 || ev_is_active(&c->sweep))
        return;
    c->sweep_due = now_of(c) + every;
    wait_for_sweep(c, c->sweep_due);
}

/* --- the table, looked over --- */

static struct watch *watch_get(struct way_control *c, unsigned node)
{
    struct watch *w = c->watch[node];
    if (!w) {
        w = c->watch[node] = way_zalloc(sizeof *w);
        w->control = c;
        w->node = (uint16_t)node;
        ev_timer_init(&w->ends, on_ends, 0., 0.);
    }
    return w;
}

static void forget_node(struct way_control *c, struct watch *w)
{
    if (!w->known)
        return;
    way_log(WAY_INFO, "node=%s gone=true", w->address);
    w->known = false;
    arm_ends(c, w, 0);
    way_prober_forget(c->prober, w->node);
    way_history_forget(c->history, w->node);
}

/* A node that this process sees for the first time. */
static void greet_node(struct way_control *c, struct watch *w,
                       const struct way_verdict *v)
{
    struct way_snapshot seen;
    way_health_snapshot(c->o.health, w->node, now_of(c), &seen);
    snprintf(w->address, sizeof w->address, "%s", seen.view.address);
    w->known = true;
    w->generation = seen.view.generation;
    w->state = v->state;
    w->since = v->since;
    w->differs_at = 0;
    struct way_event e = event_now(c, WAY_KIND_CHANGE);
    e.change = WAY_CHANGE_ADDED;
    ask_later(c, w, &e, false);
}

/* Another process marked it: its event is not known here, probe is asked all the same. */
static void believe(struct way_control *c, struct watch *w, const struct way_verdict *v)
{
    if (v->state != w->state && way_gate_open(&c->gate, now_of(c), 100))
        way_log(WAY_INFO, "node=%s from=%s to=%s reason=%s by=another_process",
                w->address, way_state_name(w->state), way_state_name(v->state),
                v->reason[0] ? v->reason : "none");
    w->state = v->state;
    w->since = v->since;
    w->differs_at = 0;
    struct way_event e = event_now(c, WAY_KIND_CONNECTION);
    ask_later(c, w, &e, false);
}

static void look_at(struct way_control *c, unsigned node)
{
    uint32_t route = atomic_load_explicit(&way_health_node(c->o.health, node)->route,
                                          memory_order_acquire);
    struct watch *w = watch_get(c, node);
    struct way_verdict v;
    if (route & WAY_ROUTE_GONE || (w->known && w->generation != generation_of(c, node)))
        forget_node(c, w);
    if (route & WAY_ROUTE_GONE)
        return;
    way_health_verdict(c->o.health, node, &v);
    if (!w->known)
        greet_node(c, w, &v);
    arm_ends(c, w, v.ends);
    if (v.state == w->state && v.since == w->since)
        w->differs_at = 0;
    else if (w->differs_at == 0)
        w->differs_at = now_of(c);
    else if (now_of(c) - w->differs_at > SETTLED)
        believe(c, w, &v);
}

static void rescan(struct way_control *c)
{
    c->epoch = atomic_load_explicit(way_health_epoch(c->o.health), memory_order_acquire);
    c->rescanned = now_of(c);
    unsigned nodes = way_health_nodes(c->o.health);
    for (unsigned i = 0; i < nodes && i < WAY_NODES_MAX; i++)
        look_at(c, i);
}

static void rescan_if_risen(struct way_control *c)
{
    if (atomic_load_explicit(way_health_epoch(c->o.health), memory_order_acquire) !=
        c->epoch)
        rescan(c);
}

static void on_published(void *arg)
{
    struct way_control *c = arg;
    rescan(c);
    way_loop_later(c->o.loop, &c->drain); /* probes are asked there */
}

/* --- journals --- */

static void log_change(struct way_control *c, const struct way_entry *e)
{
    const struct way_mark *m = &e->mark;
    const struct way_event *v = &e->event;
    const struct way_plan *plan = way_decider_plan(c->decider);
    char seconds[48] = "", what[128];
    if (!way_gate_open(&c->gate, now_of(c), 100))
        return;
    if (m->has & WAY_MARK_SECONDS)
        snprintf(seconds, sizeof seconds, " seconds=%.4g", m->seconds);
    if (v->error != WAY_ERROR_NONE)
        snprintf(what, sizeof what, "kind=%s phase=%s step=%s error=%s",
                 way_kind_name(v->kind), way_phase_name(v->phase), way_step_name(v->step),
                 way_error_name(v->error));
    else
        snprintf(what, sizeof what, "kind=%s", way_entry_kind(e));
    way_log(WAY_INFO,
            "node=%s from=%s to=%s reason=%s%s %s%s policy=%s version=%s where=%s",
            e->address, way_state_name(e->outcome.from), way_state_name(e->outcome.to),
            m->has & WAY_MARK_REASON && m->reason[0] ? m->reason : "none", seconds, what,
            e->outcome.refused == WAY_REFUSED_NOT ? "" : " bounded_by=guard",
            e->by_operator ? "operator"
            : e->fallback  ? "fallback"
                           : plan->name,
            plan->version[0] && !e->by_operator ? plan->version : "none", e->where);
}

/* An entry that is there only that a sweep can be asked again: its node was given no answer.
 * Of a sweep that failed one tells it. */
static bool is_mere_input(const struct way_entry *e)
{
    return e->function == WAY_FN_TICK && !e->mark.given &&
           (e->cause == WAY_CAUSE_NONE || e->sweep_at);
}

static void take_entry(struct way_control *c, const struct way_entry *e)
{
    if (c->o.spool)
        way_spool_put(c->o.spool, e);
    if (is_mere_input(e))
        return;
    way_history_add(c->history, e);
    if (c->o.told)
        c->o.told(c->o.told_arg, e);
    if (!way_entry_marks(e) || e->node >= WAY_NODES_MAX)
        return;
    if (e->outcome.changed)
        log_change(c, e);
    struct watch *w = watch_get(c, e->node);
    struct way_verdict v;
    way_health_verdict(c->o.health, e->node, &v);
    if (e->outcome.changed && v.state == e->outcome.to) {
        w->state = v.state;
        w->since = v.since;
        w->differs_at = 0;
    }
    if (!e->mark.given || !w->known)
        return;
    arm_ends(c, w, v.ends);
    if (e->thread != WAY_NONE || e->event.kind != WAY_KIND_PROBE) /* the prober asks */
        ask_later(c, w, &e->event, !e->outcome.changed);
}

/* The ring whose oldest entry is the oldest of all, or NULL. */
static struct way_ring *oldest_ring(struct way_control *c)
{
    struct way_ring *oldest = NULL;
    double at = 0;
    for (unsigned i = 0; i < c->o.threads; i++) {
        const struct way_entry *e = way_ring_peek(c->o.rings[i]);
        if (e && (!oldest || e->event.now < at)) {
            oldest = c->o.rings[i];
            at = e->event.now;
        }
    }
    return oldest;
}

static void take_entries(struct way_control *c)
{
    struct way_ring *r;
    for (unsigned i = 0; i < DRAIN_MOST && (r = oldest_ring(c)); i++) {
        take_entry(c, way_ring_peek(r));
        way_ring_pop(r);
    }
}

/* Amid a sweep. */
static void on_full(void *arg)
{
    take_entries(arg);
}

static void drain_rings(struct way_control *c)
{
    take_entries(c);
    if (c->o.spool)
        way_spool_flush(c->o.spool);
    ask_probes(c);
}

static void run_drain(struct way_task *t)
{
    drain_rings(way_container(t, struct way_control, drain));
}

static void on_journaled(void *arg)
{
    struct way_control *c = arg;
    way_loop_later(c->o.loop, &c->drain);
}

static void look_at_shadows(struct way_control *c)
{
    if (!c->o.shadows)
        return;
    /* Where the policy in charge sweeps too, it is the process that holds the lease. */
    struct way_event sweep = event_now(c, WAY_KIND_TICK);
    if (way_decider_plan(c->decider)->every <= 0 || c->sweep_due > 0 ||
        way_decider_set_aside(c->decider))
        way_decide_tick_shadows(c->decider, &sweep);
    way_shadows_tend(c->o.shadows, way_decider_shadows(c->decider), now_of(c),
                     way_unix());
    way_candidate_look(c->candidate);
}

static void on_tick(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)events;
    struct way_control *c = way_container(w, struct way_control, tick);
    way_decide_pass(c->decider, now_of(c));
    keep_sweeping(c);
    look_at_shadows(c);
    drain_rings(c);
    if (now_of(c) - c->rescanned >= RESCAN)
        rescan(c);
    else
        rescan_if_risen(c);
    for (unsigned i = 0; i < WAY_NODES_MAX; i++)
        if (c->watch[i] && c->watch[i]->known && c->watch[i]->differs_at > 0)
            look_at(c, i);
    ask_probes(c);
}

void way_control_woken(struct way_control *c)
{
    drain_rings(c);
    rescan_if_risen(c);
    ask_probes(c);
    way_cluster_woken(c->cluster);
}

void way_control_refresh(struct way_control *c)
{
    way_cluster_refresh(c->cluster);
}

/* --- life --- */

static struct way_cluster *make_cluster(struct way_control *c)
{
    const struct way_config *config = c->o.config;
    return way_cluster_new(&(struct way_cluster_options){
        .loop = c->o.loop,
        .resolver = c->o.resolver,
        .health = c->o.health,
        .timeouts = &config->timeouts,
        .limits = &config->limits,
        .seeds = config->seeds,
        .seed_count = config->seed_count,
        .user = config->user,
        .password = config->password,
        .tls = config->tls.context,
        .changed = on_changed,
        .failed = on_failed,
        .published = on_published,
        .arg = c,
    });
}

static struct way_prober *make_prober(struct way_control *c)
{
    const struct way_config *config = c->o.config;
    return way_prober_new(&(struct way_prober_options){
        .loop = c->o.loop,
        .resolver = c->o.resolver,
        .health = c->o.health,
        .timeouts = &config->timeouts,
        .limits = &config->limits,
        .user = config->user,
        .password = config->password,
        .tls = config->tls.context,
        .ask = on_probe_ask,
        .result = on_probe_result,
        .arg = c,
    });
}

static uint64_t new_holder(void)
{
    struct way_random random;
    way_random_seed(&random, 0);
    return way_random_next(&random) | 1;
}

int way_control_new(struct way_control **out, const struct way_control_options *o,
                    struct way_err *err)
{
    struct way_control *c = way_zalloc(sizeof *c);
    c->o = *o;
    c->drain.run = run_drain;
    struct way_decider_options d = {
        .health = o->health,
        .text = o->text,
        .limits = &o->config->limits,
        .stats = o->stats[o->threads - 1],
        .ring = o->rings[o->threads - 1],
        .aside = o->aside,
        .shadows = o->shadows,
        .place = o->threads - 1,
        .thread = WAY_NONE,
        .journaled = on_journaled,
        .full = on_full,
        .arg = c,
        .judge = o->judge,
        .judge_arg = o->judge_arg,
        .taken = o->taken,
        .taken_arg = o->taken_arg,
    };
    if (way_decider_new(&c->decider, &d, err) < 0) {
        way_free(c);
        return -1;
    }
    c->history = way_history_new();
    if (o->shadows)
        c->candidate =
            way_candidate_new(&(struct way_candidate_options){ .loop = o->loop,
                                                               .health = o->health,
                                                               .shadows = o->shadows,
                                                               .decider = c->decider,
                                                               .threads = o->threads });
    c->prober = make_prober(c);
    c->cluster = make_cluster(c);
    ev_timer_init(&c->tick, on_tick, TICK, TICK);
    ev_timer_start(o->loop->ev, &c->tick);
    ev_timer_init(&c->sweep, on_sweep, 0., 0.);
    c->holder = new_holder();
    rescan(c); /* a segment may know nodes already */
    way_loop_later(o->loop, &c->drain);
    *out = c;
    return 0;
}

void way_control_free(struct way_control *c)
{
    if (!c)
        return;
    ev_timer_stop(c->o.loop->ev, &c->tick);
    ev_timer_stop(c->o.loop->ev, &c->sweep);
    way_loop_forget(c->o.loop, &c->drain);
    way_cluster_free(c->cluster);
    way_prober_free(c->prober);
    for (unsigned i = 0; i < WAY_NODES_MAX; i++) {
        if (c->watch[i])
            arm_ends(c, c->watch[i], 0);
        way_free(c->watch[i]);
    }
    way_candidate_free(c->candidate);
    way_history_free(c->history);
    way_decider_free(c->decider);
    way_free(c);
}

/* --- for reload --- */

struct way_decider *way_control_decider(struct way_control *c)
{
    return c->decider;
}

void way_control_take(struct way_control *c)
{
    if (way_decider_take(c->decider) && c->o.spool)
        way_spool_policy(c->o.spool, way_decider_plan(c->decider), c->o.text, now_of(c));
}

void way_control_policy_changed(struct way_control *c)
{
    for (unsigned i = 0; i < WAY_NODES_MAX; i++) {
        struct way_event e = event_now(c, WAY_KIND_CHANGE);
        e.change = WAY_CHANGE_ADDED;
        if (c->watch[i] && c->watch[i]->known && !c->watch[i]->asked)
            ask_later(c, c->watch[i], &e, false);
    }
    ev_timer_stop(c->o.loop->ev, &c->sweep); /* its intervals are others */
    keep_sweeping(c);
    way_loop_later(c->o.loop, &c->drain);
}

void way_control_text_set(struct way_control *c, const struct way_policy_text *text)
{
    c->o.text = text;
}

void way_control_reload_set(struct way_control *c, struct way_reload *r)
{
    c->reload = r;
}

struct way_reload *way_control_reload(const struct way_control *c)
{
    return c->reload;
}

/* --- for console and metrics --- */

struct way_loop *way_control_loop(struct way_control *c)
{
    return c->o.loop;
}

struct way_health *way_control_health(struct way_control *c)
{
    return c->o.health;
}

const struct way_config *way_control_config(const struct way_control *c)
{
    return c->o.config;
}

const struct way_policy_text *way_control_text(const struct way_control *c)
{
    return c->o.text;
}

const struct way_plan *way_control_plan(const struct way_control *c)
{
    return way_decider_plan(c->decider);
}

bool way_control_set_aside(const struct way_control *c)
{
    return way_decider_set_aside(c->decider);
}

const struct way_history *way_control_history(const struct way_control *c)
{
    return c->history;
}

const struct way_spool *way_control_spool(const struct way_control *c)
{
    return c->o.spool;
}

uint64_t way_control_stat(const struct way_control *c, enum way_stat which)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < c->o.threads; i++)
        sum += way_stat_get(c->o.stats[i], which);
    return sum;
}

unsigned way_control_threads(const struct way_control *c)
{
    return c->o.threads;
}

const char *way_control_address(const struct way_control *c, unsigned node)
{
    const struct watch *w = node < WAY_NODES_MAX ? c->watch[node] : NULL;
    return w && w->known ? w->address : NULL;
}

struct way_candidate *way_control_candidate(const struct way_control *c)
{
    return c->candidate;
}

struct way_shadows *way_control_shadows(const struct way_control *c)
{
    return c->o.shadows;
}

void way_control_counts(const struct way_control *c, struct way_control_counts *out)
{
    struct way_cluster_counts cluster;
    struct way_prober_counts probes;
    way_cluster_counts(c->cluster, &cluster);
    way_prober_counts(c->prober, &probes);
    *out = (struct way_control_counts){ cluster.refreshes, cluster.failed, probes.probes,
                                        probes.failed, probes.delayed };
}
