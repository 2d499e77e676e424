/* loader - see loader.h.
 *
 *   begin ──▶ thread: prepare, read, load one state, seal, load the rest, prove
 *                └──▶ async ──▶ loop's thread: join, done
 *
 * The text is sealed after the first state was loaded: the files that it required are kept,
 * and no later state can be made of other bytes. Rejected: one thread that is always there
 * (a stack and a wake-up for what happens once a week), and loading by the workers
 * themselves, in slices (a script can't be cut into slices). */
#include "loader.h"

#include <pthread.h>

static const double PROVE_SECONDS = 1; /* of questions from the journal */
enum { DEADLINE_TRIES = 3 };

struct way_load {
    struct way_load_order o;
    struct way_load_wish wish;
    struct way_entry *entry; /* a copy */
    struct way_loaded *loaded;
    struct way_err err;
    pthread_t thread;
    bool running;
    ev_async ended;
};

/* ---- what was loaded ---- */

void way_loaded_free(struct way_loaded *l)
{
    if (!l)
        return;
    for (unsigned i = 0; i < l->states; i++)
        way_policy_free(l->policy[i]);
    if (l->text) {
        way_policy_text_fini(l->text);
        way_free(l->text);
    }
    way_free(l->policy);
    way_free(l);
}

struct way_policy *way_loaded_take(struct way_loaded *l, unsigned i)
{
    struct way_policy *p = l->policy[i];
    l->policy[i] = NULL;
    return p;
}

/* ---- the wish ---- */

void way_load_wish_set(struct way_load_wish *wish, const char *path,
                       const struct way_option *option, unsigned options,
                       const struct way_limits *limits)
{
    wish->path = path ? way_strdup(path) : NULL;
    wish->option = way_zalloc((options + 1) * sizeof *wish->option);
    wish->options = options;
    wish->limits = *limits;
    for (unsigned i = 0; i < options; i++) {
        wish->option[i] = option[i];
        wish->option[i].name = way_strdup(option[i].name);
        wish->option[i].text = option[i].text ? way_strdup(option[i].text) : NULL;
    }
}

void way_load_wish_fini(struct way_load_wish *wish)
{
    for (unsigned i = 0; i < wish->options; i++) {
        way_free(wish->option[i].name);
        way_free(wish->option[i].text);
    }
    way_free(wish->option);
    way_free(wish->path);
    if (wish->text) {
        way_policy_text_fini(wish->text);
        way_free(wish->text);
    }
    memset(wish, 0, sizeof *wish);
}

/* ---- proving ---- */

static enum way_asked ask(struct way_policy *p, const struct way_entry *entry,
                          const struct way_view *view, const struct way_event *e,
                          struct way_memory *m)
{
    union {
        struct way_mark mark;
        struct way_retry retry;
        struct way_probe probe;
        struct way_redial redial;
    } out;
    uint64_t seed = entry->seq | 1;
    switch (entry->function) {
    case WAY_FN_MARK: return way_policy_mark(p, view, e, seed, m, &out.mark);
    case WAY_FN_BACKOFF: return way_policy_backoff(p, view, e, seed, m, &out.retry);
    case WAY_FN_PROBE: return way_policy_probe(p, view, e, seed, m, &out.probe);
    case WAY_FN_RECONNECT: return way_policy_reconnect(p, view, e, seed, m, &out.redial);
    default: return WAY_ASKED_ABSENT;
    }
}

/* The view of the entry's node with memory as `p` would find it. */
static int view_of(const struct way_load *l, struct way_policy *p,
                   const struct way_entry *entry, struct way_view *view,
                   struct way_err *err)
{
    struct way_snapshot seen;
    way_health_snapshot(l->o.health, entry->node, entry->event.now, &seen);
    *view = seen.view;
    memset(view->counted, 0, sizeof view->counted); /* its own have not begun */
    view->memory = way_policy_plan(p)->layout.first;
    if (!l->o.before)
        return 0;
    for (int scope = 0; scope < WAY_SCOPE_COUNT; scope++)
        if (way_policy_migrate(p, l->o.before, (enum way_scope)scope, &seen.view.memory,
                               &view->memory, err) < 0)
            return -1;
    return 0;
}

static int told(const struct way_policy *p, const char *what, struct way_err *err)
{
    const struct way_policy_failure *f = way_policy_failure(p);
    return way_fail(err, "%s: %s: %s: %.*s", what, f->function, f->cause,
                    (int)strcspn(f->text, ";"), f->text);
}

/* On a busy machine one call may take too long that another time does not. */
static int prove_entry(const struct way_load *l, struct way_policy *p,
                       const struct way_entry *entry, struct way_err *err)
{
    struct way_view view;
    if (view_of(l, p, entry, &view, err) < 0)
        return -1;
    for (int tries = 1;; tries++) {
        struct way_event e = entry->event;
        struct way_memory m = view.memory;
        bool failed = way_policy_classify(p, &e) == WAY_ASKED_FAILED ||
                      ask(p, entry, &view, &e, &m) == WAY_ASKED_FAILED;
        if (!failed)
            return 0;
        if (tries == DEADLINE_TRIES || strcmp(way_policy_failure(p)->cause, "deadline"))
            return told(p, "an event of the journal", err);
    }
}

/* The nodes as they are now, with memory as `p` would find it; how many, or -1. */
static int survey(const struct way_load *l, struct way_policy *p, double now,
                  struct way_snapshot *seen, struct way_err *err)
{
    unsigned most = way_health_nodes(l->o.health);
    unsigned count = way_health_survey(
        l->o.health, now, atomic_load(way_health_policy_epoch(l->o.health)), seen, most);
    for (unsigned i = 0; i < count; i++) {
        struct way_entry entry = { .node = seen[i].view.node, .event = { .now = now } };
        if (view_of(l, p, &entry, &seen[i].view, err) < 0)
            return -1;
    }
    return (int)count;
}

/* A sweep may be rare: one that fails would be over its probation before it was seen. */
static int prove_sweep(const struct way_load *l, struct way_policy *p,
                       struct way_err *err)
{
    const struct way_event e = { .kind = WAY_KIND_TICK,
                                 .now = way_clock(),
                                 .began = way_clock(),
                                 .unix_time = way_unix(),
                                 .deadline_left = -1 };
    unsigned most = way_health_nodes(l->o.health);
    if (way_policy_plan(p)->every <= 0 || !most)
        return 0;
    struct way_snapshot *seen = way_zalloc(most * sizeof *seen);
    struct way_proposal *proposal = way_alloc(most * sizeof *proposal);
    int count = survey(l, p, e.now, seen, err), rc = count < 0 ? -1 : 0;
    for (int tries = 1; count > 0; tries++) {
        struct way_sweep s = { (unsigned)count, seen, proposal };
        for (int i = 0; i < count; i++)
            proposal[i] = (struct way_proposal){ .memory = seen[i].view.memory };
        if (way_policy_tick(p, &s, &e, 1) != WAY_ASKED_FAILED)
            break;
        if (tries < DEADLINE_TRIES && !strcmp(way_policy_failure(p)->cause, "deadline"))
            continue;
        rc = told(p, "a sweep over the nodes as they are", err);
        break;
    }
    way_free(proposal);
    way_free(seen);
    return rc;
}

/* A probe's reply is not kept: what a policy makes of it can't be asked again. */
static bool is_whole(const struct way_entry *e)
{
    return e->event.kind != WAY_KIND_PROBE || e->event.error != WAY_ERROR_NONE;
}

/* The newest first: where time is short, they count most. */
static int prove_journal(const struct way_load *l, struct way_policy *p,
                         struct way_err *err)
{
    double until = way_clock() + PROVE_SECONDS;
    unsigned nodes = way_health_nodes(l->o.health);
    for (unsigned i = l->o.entries; i-- > 0 && way_clock() < until;)
        if (l->entry[i].node < nodes && is_whole(&l->entry[i]) &&
            prove_entry(l, p, &l->entry[i], err) < 0)
            return -1;
    return 0;
}

/* With a state of its own, so that those that will serve begin unused. */
static int prove(const struct way_load *l, const struct way_policy_text *t,
                 struct way_err *err)
{
    struct way_policy *p;
    if (way_policy_load(&p, t, err) < 0)
        return -1;
    int rc = way_policy_selftest(p, t, err);
    if (rc == 0)
        rc = prove_journal(l, p, err);
    if (rc == 0)
        rc = prove_sweep(l, p, err);
    way_policy_free(p);
    return rc;
}

/* ---- the thread ---- */

static struct way_policy_text *text_of(struct way_load_wish *wish, struct way_err *err)
{
    struct way_policy_text *t = wish->text;
    wish->text = NULL;
    if (t)
        return t;
    t = way_zalloc(sizeof *t);
    if (way_policy_read(t, wish->path, wish->option, wish->options, &wish->limits, err) ==
        0)
        return t;
    way_free(t);
    return NULL;
}

static int load_states(struct way_loaded *out, struct way_err *err)
{
    for (unsigned i = 0; i < out->states; i++) {
        if (way_policy_load(&out->policy[i], out->text, err) < 0)
            return -1;
        way_policy_seal(out->text, out->policy[i]);
    }
    return 0;
}

static int load(struct way_load *l)
{
    struct way_loaded *out = l->loaded;
    if (l->o.prepare && l->o.prepare(l->o.arg, &l->wish, &l->err) < 0)
        return -1;
    out->text = text_of(&l->wish, &l->err);
    if (!out->text || load_states(out, &l->err) < 0)
        return -1;
    return l->o.health ? prove(l, out->text, &l->err) : 0;
}

static void *run(void *arg)
{
    struct way_load *l = arg;
    pthread_setname_np(pthread_self(), "loader");
    if (load(l) < 0) {
        way_loaded_free(l->loaded);
        l->loaded = NULL;
    }
    ev_async_send(l->o.loop->ev, &l->ended);
    return NULL;
}

/* ---- in the loop's thread ---- */

static void join(struct way_load *l)
{
    if (l->running)
        pthread_join(l->thread, NULL);
    l->running = false;
    ev_async_stop(l->o.loop->ev, &l->ended);
}

static void on_ended(struct ev_loop *ev, ev_async *w, int events)
{
    (void)ev, (void)events;
    struct way_load *l = way_container(w, struct way_load, ended);
    join(l);
    struct way_loaded *loaded = l->loaded;
    l->loaded = NULL;
    l->o.done(l->o.arg, loaded, loaded ? NULL : &l->err); /* may free l */
}

static void dispose(struct way_load *l)
{
    way_load_wish_fini(&l->wish);
    way_loaded_free(l->loaded);
    way_free(l->entry);
    way_free(l);
}

int way_load_begin(struct way_load **out, const struct way_load_order *o,
                   struct way_err *err)
{
    struct way_load *l = way_zalloc(sizeof *l);
    l->o = *o;
    l->entry = way_alloc((o->entries + 1) * sizeof *l->entry);
    if (o->entries)
        memcpy(l->entry, o->entry, o->entries * sizeof *l->entry);
    l->loaded = way_zalloc(sizeof *l->loaded);
    l->loaded->states = o->states;
    l->loaded->policy = way_zalloc((o->states + 1) * sizeof(struct way_policy *));
    ev_async_init(&l->ended, on_ended);
    ev_async_start(o->loop->ev, &l->ended);
    int e = pthread_create(&l->thread, NULL, run, l);
    if (e) {
        ev_async_stop(o->loop->ev, &l->ended);
        dispose(l);
        return way_fail(err, "no thread to load the policy in: %s", strerror(e));
    }
    l->running = true;
    *out = l;
    return 0;
}

void way_load_free(struct way_load *l)
{
    if (!l)
        return;
    join(l);
    dispose(l);
}
