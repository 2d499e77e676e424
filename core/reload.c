/* reload - see reload.h.
 *
 *               begin()
 *     IDLE ───────────────▶ LOADING        in a thread of its own: configuration, files,
 *      ▲  ◀─────────────────  │            states for all, selftest, journal (loader.h)
 *      │   refused: told()    │ on_loaded()
 *      │                      ▼
 *      │               commit(): take_over, under the table's lock:
 *      │                   memory converted ── every decider's seat offered ── epoch raised
 *      │                      │      └ refused: told(), all seats freed, IDLE
 *      │                      ▼
 *      │                  SWAPPING         each decider takes its seat between two events
 *      │                      │ look(): all have; what they left is collected
 *      │  limits.probation=0  ▼
 *      ├──────────────── swapped() ───────▶ PROBATION
 *      │                      ▲                 │  │
 *      │                      │     roll_back() │  │ confirm(): its time is over, or
 *      │                  SWAPPING ◀────────────┘  │ another reload begins
 *      ◀───────────────────────────────────────────┘
 *
 *     IDLE, PROBATION ── another process raised the epoch: follow() ──▶ FOLLOWING ──▶ SWAPPING
 *     IDLE, SWAPPING to follow ── the table says on probation: watch() ──▶ PROBATION
 *     PROBATION ── another process confirmed it ──▶ IDLE
 *
 * Probation is the table's, not a process's: all watch, by the bounds of who reloaded and by
 * what all have counted together, so that it does not matter who is killed. Whoever first
 * finds a bound broken puts the policy before back for all. Rejected: one process that watches
 * under a lease. What it would have to be told is what the others count, and a lease that
 * lapses leaves a time in which nobody watches.
 *
 * A reign is one policy's time in charge: its text, its errors, the settings that came with
 * it, and, once it is over, the states that it left behind. Invariants (check()):
 *   1. there is a reign in charge; the one before it is kept while SWAPPING from or to it, in
 *      PROBATION where this process had it in charge, and never else. Where it has not, and
 *      goes back, it follows itself: from the table's bytes
 *   2. the reign before has a state for every thread once everybody has swapped
 *   3. outside of SWAPPING no decider has an offer
 *
 * What deciders sat in they leave in their own time. States are freed here, a few in each turn
 * of the timer: to close a Lua state takes a moment that a worker's clients would feel.
 *
 * Rejected: to load in the worker (a script may take a second), and to swap under a lock
 * that all take on each event (the failure path would pay for what never happens). */
#include "reload.h"

#include "loader.h"
#include "log.h"
#include "reload_shadow.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>

static const double LOOK_SECONDS = 0.02;  /* while something is on its way */
static const double WATCH_SECONDS = 0.05; /* else: has another process reloaded? */
static const double SWAP_SECONDS = 5;     /* then the answer says who is late */
static const double MIGRATE_SECONDS = 0.5;
enum { MARKS_ALWAYS = 5 }; /* whatever the policy before would have marked */

enum state { IDLE, LOADING, SWAPPING, PROBATION, FOLLOWING };
static const char *const state_names[] = { "idle", "loading", "swapping", "probation",
                                           "following" };

struct reign {
    struct way_policy_text *text;
    struct way_aside own_aside, *aside;
    struct way_settings settings;
    bool has_settings;
    uint64_t epoch;
    char name[64], version[32];
    uint64_t hash;
    struct way_seat *seat[WAY_WORKERS_MAX + 1]; /* left by its deciders; NULL: not yet */
};

/* A wish, owned. */
struct wish {
    char *policy; /* or r->given */
    struct way_option *option;
    unsigned options;
    bool reread, if_changed;
    char by[32];
    void (*done)(void *arg, const struct way_reload_report *report);
    void *arg;
};

struct way_reload {
    struct way_reload_options o;
    enum state state;
    struct reign *now, *before;
    struct wish wish;
    struct way_load *load;
    struct way_settings settings; /* that come with what is being loaded */
    struct way_policy *converter; /* during take_over: the control thread's new state */
    struct reign *coming;         /* during take_over and go_back */
    struct way_loaded *loaded;
    double convert_until;
    double since;     /* of the state */
    double probation; /* its end */
    /* Of the reign in charge: told to the table by this process; of all, when last looked. */
    struct way_probation_counts added, sum;
    uint64_t rolled_epoch; /* that came by going back, and was told of */
    bool rolling_back;     /* SWAPPING: back to the one before */
    bool followed;         /* SWAPPING: as another process said */
    bool soon, soon_if_changed;
    char soon_by[32];
    uint64_t following;               /* the epoch that another process raised */
    struct way_policy_text *given;    /* a text on its way to a load */
    struct way_reload_shadow *shadow; /* of the policy before, on probation */
    struct way_gate gate;
    struct way_seat *dead[3 * (WAY_WORKERS_MAX + 1)]; /* to be freed */
    unsigned deads;
    uint64_t hashes[WAY_WORKERS_MAX + 1]; /* for a report */
    ev_timer timer;
    char last[256], rolled_back[112], reason[160];
};

static uint64_t table_epoch(const struct way_reload *r)
{
    return atomic_load_explicit(way_health_policy_epoch(r->o.health),
                                memory_order_acquire);
}

static double now_of(const struct way_reload *r)
{
    return r->o.loop->now;
}

/* ---- reigns ---- */

static struct reign *reign_new(struct way_policy_text *text, const struct way_plan *plan,
                               uint64_t epoch)
{
    struct reign *g = way_zalloc(sizeof *g);
    g->text = text;
    g->aside = &g->own_aside;
    g->epoch = epoch;
    g->hash = plan->layout.hash;
    snprintf(g->name, sizeof g->name, "%s", plan->name);
    snprintf(g->version, sizeof g->version, "%s", plan->version);
    return g;
}

static void bury(struct way_reload *r, struct way_seat *s)
{
    if (s && r->deads < way_count(r->dead))
        r->dead[r->deads++] = s;
    else
        way_seat_free(s);
}

/* Nobody sits there any more. */
static void reign_end(struct way_reload *r, struct reign *g)
{
    if (!g)
        return;
    for (unsigned i = 0; i < r->o.threads; i++)
        bury(r, g->seat[i]);
    way_policy_text_fini(g->text);
    way_free(g->text);
    way_free(g);
}

static const char *version_of(const struct reign *g)
{
    return g->version[0] ? g->version : "none";
}

static void check(const struct way_reload *r)
{
    assert(r->now);
    assert(!r->before || r->state == PROBATION || r->state == SWAPPING);
    if (r->state == PROBATION && r->before)
        for (unsigned i = 0; i < r->o.threads; i++)
            assert(r->before->seat[i]);
}

static void enter(struct way_reload *r, enum state s)
{
    r->state = s;
    r->since = now_of(r);
    check(r);
}

/* ---- answers ---- */

static void wish_fini(struct wish *w)
{
    for (unsigned i = 0; i < w->options; i++) {
        way_free(w->option[i].name);
        way_free(w->option[i].text);
    }
    way_free(w->option);
    way_free(w->policy);
    memset(w, 0, sizeof *w);
}

/* Whoever wished hears of it, once. */
static void tell(struct way_reload *r, const struct way_reload_report *report)
{
    struct wish w = r->wish;
    memset(&r->wish, 0, sizeof r->wish);
    if (w.done)
        w.done(w.arg, report);
    wish_fini(&w);
}

static void tell_refused(struct way_reload *r, const char *why)
{
    struct way_reload_report report = { .refused = why, .threads = r->o.threads };
    way_stat_add(r->o.stats, WAY_STAT_RELOADS_REFUSED, 1);
    way_log(WAY_ERROR, "reload=refused by=%s policy=%s version=%s reason=\"%s\"",
            r->wish.by, r->now->name, version_of(r->now), why);
    snprintf(r->last, sizeof r->last, "refused: %s", why);
    enter(r, IDLE);
    tell(r, &report);
}

static struct way_reload_report report_of(struct way_reload *r, unsigned late)
{
    const struct reign *g = r->now;
    for (unsigned i = 0; i < r->o.threads; i++)
        r->hashes[i] = way_decider_epoch(r->o.decider[i]) == g->epoch ? g->hash : 0;
    return (struct way_reload_report){
        .name = g->name,
        .version = g->version,
        .file = g->text->path,
        .hash = r->hashes,
        .epoch = g->epoch,
        .probation = r->state == PROBATION && isfinite(r->probation)
                         ? r->probation - now_of(r)
                         : 0,
        .late = late,
        .threads = r->o.threads,
    };
}

static void tell_unchanged(struct way_reload *r)
{
    struct way_reload_report report = report_of(r, 0);
    report.unchanged = true;
    enter(r, IDLE);
    tell(r, &report);
}

/* ---- loading ---- */

static void drop_given(struct way_reload *r)
{
    if (r->given)
        way_policy_text_fini(r->given);
    way_free(r->given);
    r->given = NULL;
}

static const struct way_config *config_of(const struct way_reload *r)
{
    return way_control_config(r->o.control); /* with the settings in charge */
}

/* In the load's thread. */
static int give_text(void *arg, struct way_load_wish *to, struct way_err *err)
{
    struct way_reload *r = arg;
    (void)err;
    to->text = r->given;
    r->given = NULL;
    return 0;
}

/* In the load's thread: what the configuration says now. */
static int prepare_config(struct way_reload *r, struct way_load_wish *to,
                          struct way_err *err)
{
    struct way_config c;
    way_config_init(&c);
    int rc = r->o.reread ? r->o.reread(r->o.reread_arg, &c, err) : 0;
    const struct way_config *from = r->o.reread ? &c : r->o.config;
    const char *fixed = rc == 0 ? way_config_fixed(r->o.config, from) : NULL;
    if (fixed)
        rc = way_fail(err, "%s: differs, and can't change without a restart", fixed);
    if (rc == 0) {
        r->settings = (struct way_settings){ from->timeouts, from->limits };
        way_load_wish_set(to, from->policy, from->option, from->options, &from->limits);
    }
    way_config_fini(&c);
    return rc;
}

/* The options in charge with those given put over them. */
static unsigned merge_options(const struct way_reload *r, struct way_option *out)
{
    const struct way_policy_text *t = r->now->text;
    unsigned n = 0;
    for (unsigned i = 0; i < t->options && !r->wish.policy; i++)
        out[n++] = t->option[i];
    for (unsigned i = 0; i < r->wish.options; i++) {
        unsigned k = 0;
        while (k < n && strcmp(out[k].name, r->wish.option[i].name) != 0)
            k++;
        out[k] = r->wish.option[i];
        n += k == n;
    }
    return n;
}

static int prepare(void *arg, struct way_load_wish *to, struct way_err *err)
{
    struct way_reload *r = arg;
    if (r->wish.reread)
        return prepare_config(r, to, err);
    if (r->given)
        return give_text(r, to, err);
    struct way_option *option =
        way_zalloc((r->now->text->options + r->wish.options + 1) * sizeof *option);
    unsigned options = merge_options(r, option);
    way_load_wish_set(to, r->wish.policy ? r->wish.policy : r->now->text->path, option,
                      options, &r->settings.limits);
    way_free(option);
    return 0;
}

static void on_loaded(void *arg, struct way_loaded *l, const struct way_err *err);

static int start_load(struct way_reload *r, struct way_err *err)
{
    const struct way_history *h = way_control_history(r->o.control);
    struct way_entry *entry = way_alloc(WAY_HISTORY_ENTRIES * sizeof *entry);
    const struct way_entry *at;
    unsigned n = 0;
    while (n < WAY_HISTORY_ENTRIES && (at = way_history_at(h, WAY_NONE, n)))
        entry[WAY_HISTORY_ENTRIES - ++n] = *at;
    for (unsigned i = 1; i <= n; i++) /* the history's, which goes on */
        entry[WAY_HISTORY_ENTRIES - i].input = (struct way_span){ NULL, 0 };
    struct way_load_order o = {
        .loop = r->o.loop,
        .states = r->o.threads,
        .prepare = prepare,
        .health = r->o.health,
        .before = way_decider_policy(r->o.decider[r->o.threads - 1]),
        .entry = entry + WAY_HISTORY_ENTRIES - n,
        .entries = n,
        .done = on_loaded,
        .arg = r,
    };
    int rc = way_load_begin(&r->load, &o, err);
    way_free(entry);
    return rc;
}

/* ---- the commit ---- */

static int convert(void *arg, enum way_memory_scope scope,
                   const struct way_memory *before, struct way_memory *after,
                   struct way_err *err)
{
    static const enum way_scope scopes[] = { WAY_SCOPE_NODE, WAY_SCOPE_SHARD,
                                             WAY_SCOPE_CLUSTER };
    struct way_reload *r = arg;
    if (way_clock() > r->convert_until)
        return way_fail(err, "migrate: took more than %g s for all nodes",
                        MIGRATE_SECONDS);
    return way_policy_migrate(r->converter,
                              way_decider_policy(r->o.decider[r->o.threads - 1]),
                              scopes[scope], before, after, err);
}

static const struct way_counters_layout *counters_in_charge(const struct way_reload *r)
{
    const struct way_decider *own = r->o.decider[r->o.threads - 1];
    return way_decider_epoch(own) == r->now->epoch ? &way_decider_plan(own)->counters
                                                   : NULL;
}

static void offer(struct way_reload *r, unsigned i, struct way_seat *seat)
{
    bury(r, way_decider_offer(r->o.decider[i], seat));
}

/* Under the table's lock: from here on nothing can refuse it. */
static void offer_loaded(void *arg, uint64_t epoch)
{
    struct way_reload *r = arg;
    struct reign *g = r->coming;
    g->epoch = epoch;
    for (unsigned i = 0; i < r->o.threads; i++) {
        struct way_seat *s = way_zalloc(sizeof *s);
        *s = (struct way_seat){ .policy = way_loaded_take(r->loaded, i),
                                .epoch = epoch,
                                .aside = g->aside,
                                .settings = g->has_settings ? &g->settings : NULL };
        offer(r, i, s);
    }
}

static void offer_before(void *arg, uint64_t epoch)
{
    struct way_reload *r = arg;
    struct reign *g = r->coming;
    memset(&g->own_aside, 0, sizeof g->own_aside);
    g->aside = &g->own_aside;
    g->epoch = epoch;
    for (unsigned i = 0; i < r->o.threads; i++) {
        struct way_seat *s = g->seat[i];
        g->seat[i] = NULL;
        s->epoch = epoch;
        s->aside = g->aside;
        s->settings = &g->settings;
        offer(r, i, s);
    }
}

/* Its reign begins: everybody is woken to take a seat. */
static void begin_swap(struct way_reload *r, struct reign *g)
{
    r->before = r->now;
    r->now = g;
    memset(&r->added, 0, sizeof r->added);
    memset(&r->sum, 0, sizeof r->sum);
    enter(r, SWAPPING);
    way_control_text_set(r->o.control, g->text);
    way_control_take(r->o.control);
    r->o.wake(r->o.arg);
}

static int commit(struct way_reload *r, struct way_loaded *l, struct way_err *err)
{
    struct way_buf bundle = { 0 };
    uint64_t epoch;
    const struct way_plan *plan = way_policy_plan(l->policy[r->o.threads - 1]);
    r->loaded = l;
    r->converter = l->policy[r->o.threads - 1];
    r->convert_until = way_clock() + MIGRATE_SECONDS;
    r->coming = reign_new(l->text, plan, 0);
    r->coming->settings = r->settings;
    r->coming->has_settings = true;
    way_policy_pack(l->text, &bundle);
    const struct way_limits *limits = &r->settings.limits;
    struct way_probation probation = { .ends = now_of(r) + limits->probation,
                                       .errors_most = limits->probation_errors,
                                       .marks_most = limits->probation_marks,
                                       .ratio = limits->probation_ratio };
    struct way_takeover t = { .from = r->now->epoch,
                              .layout = &plan->layout,
                              .counters = &plan->counters,
                              .counters_before = counters_in_charge(r),
                              .bundle = { bundle.p, way_buf_held(&bundle) },
                              .convert = convert,
                              .ready = offer_loaded,
                              .arg = r,
                              .probation = limits->probation > 0 ? &probation : NULL };
    int rc = way_health_take_over(r->o.health, &t, &epoch, err);
    way_buf_fini(&bundle);
    if (rc < 0) {
        way_free(r->coming);
        return -1;
    }
    l->text = NULL; /* the reign's */
    begin_swap(r, r->coming);
    return 0;
}

static double setting(const struct way_setting *s, const struct way_timeouts *timeouts,
                      const struct way_limits *limits)
{
    const char *base =
        s->group == WAY_GROUP_TIMEOUTS ? (const char *)timeouts : (const char *)limits;
    double value;
    memcpy(&value, base + s->offset, sizeof value);
    return value;
}

static bool is_same(const struct way_reload *r, const struct way_loaded *l)
{
    const struct way_config *c = config_of(r);
    const struct way_setting *s;
    for (unsigned i = 0; (s = way_setting_at(i)); i++)
        if (setting(s, &c->timeouts, &c->limits) !=
            setting(s, &r->settings.timeouts, &r->settings.limits))
            return false;
    return way_policy_plan(l->policy[0])->layout.hash == r->now->hash;
}

static void on_loaded(void *arg, struct way_loaded *l, const struct way_err *err)
{
    struct way_reload *r = arg;
    struct way_err why = { "" };
    if (err)
        why = *err; /* it goes with the load */
    way_load_free(r->load);
    r->load = NULL;
    if (!l) {
        tell_refused(r, why.text);
        return;
    }
    if (r->wish.if_changed && is_same(r, l))
        tell_unchanged(r);
    else if (commit(r, l, &why) < 0)
        tell_refused(r, why.text);
    way_loaded_free(l);
}

/* ---- everybody has swapped ---- */

static void end_before(struct way_reload *r)
{
    struct reign *g = r->before;
    way_reload_shadow_end(r->shadow);
    r->before = NULL;
    reign_end(r, g);
}

static void say_in_charge(const struct way_reload *r, const char *what, const char *by)
{
    const struct reign *g = r->now;
    way_log(WAY_INFO,
            "reload=%s by=%s policy=%s version=%s hash=%016llx file=%s epoch=%llu", what,
            by, g->name, version_of(g), (unsigned long long)g->hash, g->text->path,
            (unsigned long long)g->epoch);
}

static void swapped_back(struct way_reload *r)
{
    r->rolling_back = false;
    say_in_charge(r, "rolled_back", "probation");
    end_before(r);
    enter(r, IDLE);
}

static void note_rollback(struct way_reload *r, const struct way_rollback *back)
{
    way_stat_add(r->o.stats, WAY_STAT_ROLLBACKS, 1);
    snprintf(r->rolled_back, sizeof r->rolled_back, "%s", back->policy);
    snprintf(r->reason, sizeof r->reason, "%s", back->why);
    snprintf(r->last, sizeof r->last, "rolled back: %s", back->why);
}

/* Another process, or this one for want of what it would need, has gone back. */
static bool came_back(struct way_reload *r)
{
    struct way_rollback back;
    if (r->rolled_epoch == r->now->epoch)
        return true; /* told already */
    if (way_health_rolled_back(r->o.health, r->now->epoch, &back) <= 0)
        return false;
    r->rolled_epoch = r->now->epoch;
    way_log(WAY_ERROR,
            "reload=rolled_back by=another_process policy=\"%s\" reason=\"%s\"",
            back.policy, back.why);
    note_rollback(r, &back);
    return true;
}

/* The text of the policy before the one in charge, as the table has it; NULL: it has none. */
static struct way_policy_text *text_before(struct way_reload *r)
{
    struct way_buf bytes = { 0 };
    struct way_policy_text *t = way_zalloc(sizeof *t);
    struct way_err err;
    int rc = way_health_bundle_before(r->o.health, r->now->epoch, &bytes);
    if (rc == 0 && way_buf_held(&bytes))
        rc = way_policy_unpack(
            t, (struct way_span){ bytes.p + bytes.off, way_buf_held(&bytes) },
            &config_of(r)->limits, &err);
    else
        rc = -1;
    way_buf_fini(&bytes);
    if (rc == 0)
        return t;
    way_free(t);
    return NULL;
}

/* What is in charge is on probation: it is watched here too, until its time is over or
 * somebody has broken off. */
static void watch(struct way_reload *r)
{
    const struct way_limits *limits = &config_of(r)->limits;
    struct way_policy_text *other = r->before ? NULL : text_before(r);
    static const struct way_probation_counts none;
    /* Where the lock is busy, the next look tells. */
    struct way_probation p = { .ends = INFINITY };
    enter(r, PROBATION);
    (void)!way_health_probation(r->o.health, r->now->epoch, &none, &p, &r->sum);
    r->probation = p.ends;
    if (r->before || other)
        way_reload_shadow_begin(r->shadow, r->before ? r->before->text : other,
                                r->now->epoch, limits);
    if (other)
        way_policy_text_fini(other);
    way_free(other);
}

static void swapped_followed(struct way_reload *r)
{
    r->followed = false;
    say_in_charge(r, "followed", came_back(r) ? "probation" : "another_process");
    way_control_policy_changed(r->o.control);
    bool watched = way_health_on_probation(r->o.health) == r->now->epoch;
    if (!watched || r->before->epoch + 1 != r->now->epoch)
        end_before(r);
    if (watched)
        watch(r);
    else
        enter(r, IDLE);
}

static void swapped(struct way_reload *r)
{
    if (r->rolling_back) {
        swapped_back(r);
        return;
    }
    if (r->followed) {
        swapped_followed(r);
        return;
    }
    way_stat_add(r->o.stats, WAY_STAT_RELOADS, 1);
    say_in_charge(r, "committed", r->wish.by);
    snprintf(r->last, sizeof r->last, "committed: %s %s", r->now->name,
             version_of(r->now));
    if (way_health_on_probation(r->o.health) == r->now->epoch) {
        watch(r);
    } else {
        end_before(r);
        enter(r, IDLE);
    }
    way_control_policy_changed(r->o.control);
    struct way_reload_report report = report_of(r, 0);
    tell(r, &report);
}

/* Collects what was left; how many threads still sit in the reign before. */
static unsigned collect(struct way_reload *r)
{
    unsigned late = 0;
    for (unsigned i = 0; i < r->o.threads; i++) {
        struct way_seat *left = way_decider_left(r->o.decider[i]);
        if (left && r->before && left->epoch == r->before->epoch && !r->before->seat[i])
            r->before->seat[i] = left;
        else
            bury(r, left);
        late += r->before && !r->before->seat[i];
    }
    return late;
}

/* Who waits for an answer is told who is late; the swap goes on. */
static void tell_late(struct way_reload *r, unsigned late)
{
    if (!r->wish.done || now_of(r) - r->since < SWAP_SECONDS)
        return;
    struct way_reload_report report = report_of(r, late);
    way_log(WAY_WARN, "reload=late policy=%s threads=%u of=%u", r->now->name, late,
            r->o.threads);
    tell(r, &report);
}

static void look_at_swap(struct way_reload *r)
{
    unsigned late = collect(r);
    if (late)
        tell_late(r, late);
    else
        swapped(r);
}

/* ---- probation ---- */

static void confirm(struct way_reload *r, const char *why)
{
    way_health_probation_end(r->o.health, r->now->epoch);
    way_log(WAY_INFO, "reload=confirmed policy=%s version=%s reason=\"%s\"", r->now->name,
            version_of(r->now), why);
    end_before(r);
    enter(r, IDLE);
}

/* Where this process has the reign before, everybody here is offered it at once; else the
 * table goes back, and what it says then is followed. */
static void roll_back(struct way_reload *r, const char *why)
{
    struct way_err err;
    struct way_rollback back = { .policy = "" };
    uint64_t epoch;
    struct reign *bad = r->now;
    bool here = r->before;
    r->coming = r->before;
    snprintf(back.policy, sizeof back.policy, "%s %s", bad->name, version_of(bad));
    snprintf(back.why, sizeof back.why, "%s", why);
    if (way_health_go_back(r->o.health, bad->epoch, &back, here ? offer_before : NULL, r,
                           &epoch, &err) < 0) {
        if (way_gate_open(&r->gate, now_of(r), 1))
            way_log(WAY_ERROR,
                    "reload=stays policy=%s version=%s reason=\"%s\" error=\"%s\"",
                    bad->name, version_of(bad), why, err.text);
        return;
    }
    way_reload_shadow_end(r->shadow);
    way_log(WAY_ERROR, "reload=rolling_back policy=%s version=%s to=%s reason=\"%s\"",
            bad->name, version_of(bad), here ? r->coming->name : "the_one_before", why);
    r->rolled_epoch = epoch;
    note_rollback(r, &back);
    if (!here) {
        enter(r, IDLE); /* and follows */
        return;
    }
    r->rolling_back = true;
    r->before = NULL; /* in charge again */
    begin_swap(r, r->coming);
    way_control_policy_changed(r->o.control);
}

/* The bound that it has broken, in words, or NULL. */
static const char *broken_bound(const struct way_reload *r, const struct way_probation *p,
                                char *why, size_t n)
{
    const struct way_probation_counts *c = &r->sum;
    if (atomic_load(&r->now->aside->set))
        snprintf(why, n, "set aside by its errors: %llu", (unsigned long long)c->errors);
    else if ((double)c->errors >= p->errors_most)
        snprintf(why, n, "%llu errors, limits.probation_errors is %g",
                 (unsigned long long)c->errors, p->errors_most);
    else if ((double)c->marks >= p->marks_most)
        snprintf(why, n, "%llu nodes taken out, limits.probation_marks is %g",
                 (unsigned long long)c->marks, p->marks_most);
    else if ((double)c->out > MARKS_ALWAYS + p->ratio * (double)c->out_before)
        snprintf(why, n,
                 "%llu nodes taken out where the one before had %llu, "
                 "limits.probation_ratio is %g",
                 (unsigned long long)c->out, (unsigned long long)c->out_before, p->ratio);
    else
        return NULL;
    return why;
}

/* What was counted here since the table was last told. The shadow's count only grows, but
 * where there is none any more. */
static struct way_probation_counts counted_here(const struct way_reload *r,
                                                struct way_probation_counts *all)
{
    const struct way_aside *a = r->now->aside;
    const struct way_probation_counts *added = &r->added;
    double out, before;
    *all = *added;
    all->errors = atomic_load(&a->errors);
    all->marks = atomic_load(&a->marks);
    if (way_reload_shadow_marks(r->shadow, &out, &before)) {
        all->out = (uint64_t)out;
        all->out_before = (uint64_t)before;
    }
    return (struct way_probation_counts){ .errors = all->errors - added->errors,
                                          .marks = all->marks - added->marks,
                                          .out = all->out - added->out,
                                          .out_before =
                                              all->out_before - added->out_before };
}

static void look_at_probation(struct way_reload *r)
{
    struct way_probation p;
    struct way_probation_counts all, more = counted_here(r, &all);
    char why[WAY_WHY_MAX];
    int is = way_health_probation(r->o.health, r->now->epoch, &more, &p, &r->sum);
    if (is < 0)
        return; /* the lock is busy: the next look */
    if (is) {
        r->added = all;
        r->probation = p.ends;
    }
    if (is && broken_bound(r, &p, why, sizeof why))
        roll_back(r, why);
    else if (is && now_of(r) >= p.ends)
        confirm(r, "its probation is over");
    else if (!is && table_epoch(r) == r->now->epoch)
        confirm(r, "by another process");
}

/* ---- following another process ---- */

/* Its policy can't be loaded here: the fallback decides, and commits under its epoch. */
static struct way_loaded *nothing_loaded(const struct way_reload *r)
{
    struct way_loaded *l = way_zalloc(sizeof *l);
    struct way_err err;
    l->text = way_zalloc(sizeof *l->text);
    l->states = r->o.threads;
    l->policy = way_zalloc((l->states + 1) * sizeof(struct way_policy *));
    int rc = way_policy_read(l->text, "none", NULL, 0, NULL, &err);
    for (unsigned i = 0; i < l->states && rc == 0; i++)
        rc = way_policy_load(&l->policy[i], l->text, &err);
    assert(rc == 0); /* it is no file, and no script */
    return l;
}

static void on_followed(void *arg, struct way_loaded *l, const struct way_err *err)
{
    struct way_reload *r = arg;
    const struct way_config *c = config_of(r);
    struct way_err why = { "" };
    if (err)
        why = *err;
    way_load_free(r->load);
    r->load = NULL;
    if (table_epoch(r) != r->following) { /* and has been followed by a third one */
        way_loaded_free(l);
        enter(r, IDLE);
        return;
    }
    if (!l) {
        way_log(WAY_ERROR,
                "reload=not_followed by=another_process reason=\"%s\": the built-in "
                "fallback decides here until the next reload",
                why.text);
        l = nothing_loaded(r);
    }
    r->loaded = l;
    r->coming = reign_new(l->text, way_policy_plan(l->policy[0]), 0);
    r->coming->settings = (struct way_settings){ c->timeouts, c->limits };
    l->text = NULL;
    offer_loaded(r, r->following);
    r->followed = true;
    begin_swap(r, r->coming);
    way_loaded_free(l);
}

/* What is in charge by the table, into r->given. 0, or -1 and why not. */
static int read_theirs(struct way_reload *r, const struct way_buf *bytes,
                       struct way_err *err)
{
    struct way_span span = { bytes->p + bytes->off, way_buf_held(bytes) };
    r->given = way_zalloc(sizeof *r->given);
    return way_policy_unpack(r->given, span, &config_of(r)->limits, err);
}

static void follow(struct way_reload *r)
{
    struct way_buf bytes = { 0 };
    struct way_err err = { "" };
    struct way_load_order o = { .loop = r->o.loop,
                                .states = r->o.threads,
                                .prepare = give_text,
                                .done = on_followed,
                                .arg = r };
    if (way_health_bundle(r->o.health, &bytes, &r->following) < 0)
        return;    /* the lock is busy: the next look */
    end_before(r); /* whoever reloads confirms what is on probation, or has gone back */
    enter(r, FOLLOWING);
    int rc = read_theirs(r, &bytes, &err);
    way_buf_fini(&bytes);
    if (rc == 0)
        rc = way_load_begin(&r->load, &o, &err);
    if (rc < 0) {
        drop_given(r);
        on_followed(r, NULL, &err);
    }
}

/* ---- the turn of the timer ---- */

static void look_at_others(struct way_reload *r)
{
    if (table_epoch(r) != r->now->epoch)
        follow(r);
    else if (r->state == IDLE && way_health_on_probation(r->o.health) == r->now->epoch)
        watch(r); /* this process has come when it was so already */
}

static void begin_soon(struct way_reload *r)
{
    struct way_reload_wish wish = { .if_changed = r->soon_if_changed };
    struct way_err err;
    r->soon = false;
    if (way_reload_begin(r, &wish, r->soon_by, &err) < 0)
        way_log(WAY_ERROR, "reload=refused by=%s reason=\"%s\"", r->soon_by, err.text);
}

static void look(struct way_reload *r)
{
    for (unsigned n = r->deads ? 1 + r->deads / 4 : 0; n; n--)
        way_seat_free(r->dead[--r->deads]);
    if (r->state == SWAPPING)
        look_at_swap(r);
    if (r->state == PROBATION)
        look_at_probation(r);
    if (r->state == PROBATION || r->state == IDLE)
        look_at_others(r);
    if (r->soon && (r->state == PROBATION || r->state == IDLE))
        begin_soon(r);
}

static void on_timer(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)events;
    struct way_reload *r = way_container(w, struct way_reload, timer);
    look(r);
    bool busy = r->deads || (r->state != IDLE && r->state != PROBATION);
    w->repeat = busy ? LOOK_SECONDS : WATCH_SECONDS;
    ev_timer_again(ev, w);
}

void way_reload_woken(struct way_reload *r)
{
    if (r->state == SWAPPING || table_epoch(r) != r->now->epoch)
        look(r);
}

/* ---- wishes ---- */

static void keep_wish(struct way_reload *r, const struct way_reload_wish *wish,
                      const char *by)
{
    struct wish *w = &r->wish;
    *w = (struct wish){ .policy = wish->policy ? way_strdup(wish->policy) : NULL,
                        .reread = !wish->policy && !wish->options && !wish->text,
                        .if_changed = wish->if_changed,
                        .done = wish->done,
                        .arg = wish->arg };
    if (wish->text) {
        r->given = way_zalloc(sizeof *r->given);
        way_policy_text_copy(r->given, wish->text);
    }
    snprintf(w->by, sizeof w->by, "%s", by);
    w->option = way_zalloc((wish->options + 1) * sizeof *w->option);
    for (; w->options < wish->options; w->options++) {
        const struct way_option *from = &wish->option[w->options];
        w->option[w->options] = *from;
        w->option[w->options].name = way_strdup(from->name);
        w->option[w->options].text = from->text ? way_strdup(from->text) : NULL;
    }
}

int way_reload_begin(struct way_reload *r, const struct way_reload_wish *wish,
                     const char *by, struct way_err *err)
{
    const struct way_config *c = config_of(r);
    if (r->state != IDLE && r->state != PROBATION)
        return way_fail(err,
                        "another reload is on its way (%s): try again when it is over",
                        state_names[r->state]);
    if (r->state == PROBATION || way_health_on_probation(r->o.health) == r->now->epoch)
        confirm(r, "another reload begins");
    keep_wish(r, wish, by);
    r->settings = (struct way_settings){ c->timeouts, c->limits };
    if (start_load(r, err) < 0) {
        drop_given(r);
        wish_fini(&r->wish);
        return -1;
    }
    enter(r, LOADING);
    return 0;
}

void way_reload_soon(struct way_reload *r, const char *by, bool if_changed)
{
    r->soon_if_changed = if_changed && (!r->soon || r->soon_if_changed);
    r->soon = true;
    snprintf(r->soon_by, sizeof r->soon_by, "%s", by);
    look(r);
}

void way_reload_status(const struct way_reload *r, struct way_reload_status *out)
{
    const struct way_aside *a = r->now->aside;
    bool watched = r->state == PROBATION;
    double left = watched && isfinite(r->probation) ? r->probation - now_of(r) : 0;
    uint64_t errors = atomic_load(&a->errors), marks = atomic_load(&a->marks);
    *out = (struct way_reload_status){
        .epoch = r->now->epoch,
        .state = state_names[r->state],
        .file = r->now->text->path,
        .probation_left = left > 0 ? left : 0,
        .errors = watched && r->sum.errors > errors ? r->sum.errors : errors,
        .marks = watched && r->sum.marks > marks ? r->sum.marks : marks,
        .last = r->last,
        .rolled_back = r->rolled_back,
        .reason = r->reason,
    };
}

/* ---- life ---- */

struct way_reload *way_reload_new(const struct way_reload_options *o)
{
    struct way_reload *r = way_zalloc(sizeof *r);
    struct way_decider *control = o->decider[o->threads - 1];
    r->o = *o;
    r->now = reign_new(o->text, way_decider_plan(control), way_decider_epoch(control));
    r->now->aside = o->aside;
    r->now->settings = (struct way_settings){ o->config->timeouts, o->config->limits };
    r->shadow = way_reload_shadow_new(o->loop, o->control, o->health, o->threads);
    ev_timer_init(&r->timer, on_timer, WATCH_SECONDS, WATCH_SECONDS);
    ev_timer_start(o->loop->ev, &r->timer);
    enter(r, IDLE);
    return r;
}

void way_reload_free(struct way_reload *r)
{
    static const struct way_reload_report stopped = { .refused = "the host stops" };
    if (!r)
        return;
    ev_timer_stop(r->o.loop->ev, &r->timer);
    way_load_free(r->load);
    way_reload_shadow_free(r->shadow);
    r->shadow = NULL;
    drop_given(r);
    tell(r, &stopped);
    if (r->before)
        collect(r);
    reign_end(r, r->before);
    reign_end(r, r->now);
    while (r->deads)
        way_seat_free(r->dead[--r->deads]);
    way_free(r);
}
