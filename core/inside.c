/* inside - see inside.h.
 *
 * The daemon's assembly with both halves on one loop: dispatch looks at the table's epoch
 * at the end of each pass, control is woken by each commit and each journal entry. The
 * alternative, a control thread beside the host's own, would make every embedder link
 * and understand threads. */
#include "inside.h"

#include "command.h"
#include "log.h"
#include "reload_watch.h"
#include "resolve.h"

enum { RING_ENTRIES = 256 };

/* ---- what wakes it ---- */

static void wake(void *arg)
{
    struct way_inside *w = arg;
    if (w->looping)
        way_loop_wake(&w->loop);
}

static void on_refresh(void *arg)
{
    struct way_inside *w = arg;
    way_control_refresh(w->control);
}

static void on_woken(struct way_loop *l)
{
    struct way_inside *w = l->owner;
    way_control_woken(w->control);
    way_reload_woken(w->reload);
}

/* Another policy comes with its settings. */
static void on_taken(void *arg, const struct way_seat *seat)
{
    struct way_inside *w = arg;
    if (seat->settings) {
        w->config.timeouts = seat->settings->timeouts;
        w->config.limits = seat->settings->limits;
    }
    way_health_bounds(w->health, w->config.limits.guard != 0,
                      w->config.limits.failing_share);
    way_loop_wake(&w->loop); /* reload waits for it */
}

static void on_pass(struct way_loop *l)
{
    struct way_inside *w = l->owner;
    way_dispatch_pass(w->dispatch);
}

static void no_growth(struct way_pipeline *p)
{
    (void)p;
}

/* ---- opening ---- */

static int open_table(struct way_inside *w, struct way_err *err)
{
    const struct way_config *c = w->o.config;
    struct way_policy *policy;
    struct way_buf bundle = { 0 };
    if (way_policy_load(&policy, w->text, err) < 0)
        return -1;
    way_policy_seal(w->text, policy);
    way_policy_pack(w->text, &bundle);
    struct way_health_options o = {
        .path = c->segment,
        .layout = way_policy_plan(policy)->layout,
        .bundle = { bundle.p, way_buf_held(&bundle) },
        .guard = c->limits.guard != 0,
        .failing_share = c->limits.failing_share,
        .woken = wake,
        .arg = w,
    };
    way_policy_free(policy);
    int result = way_health_open(&w->health, &o, err);
    way_buf_fini(&bundle);
    for (unsigned i = 0; result == 0 && i < c->zone_count; i++)
        way_health_zone(w->health, c->zones[i].address, c->zones[i].zone);
    return result;
}

int way_inside_open(struct way_inside *w, const struct way_inside_options *o,
                    struct way_err *err)
{
    const struct way_config *c = o->config;
    const char *path = o->judge ? "none" : c->policy;
    *w = (struct way_inside){ .o = *o, .config = *c, .row = -1 };
    way_command_init();
    w->text = way_zalloc(sizeof *w->text);
    if (way_policy_read(w->text, path, c->option, o->judge ? 0 : c->options, &c->limits,
                        err) < 0)
        goto no_text;
    if (open_table(w, err) == 0) {
        w->policy_epoch = atomic_load(way_health_policy_epoch(w->health));
        return 0;
    }
    way_policy_text_fini(w->text);
no_text:
    way_free(w->text);
    return -1;
}

/* ---- starting ---- */

/* Where a policy was reloaded since the table was opened, as before a process was forked
 * from it, that one is in charge. */
static int take_policy(struct way_inside *w, struct way_err *err)
{
    struct way_buf bytes = { 0 };
    struct way_policy_text *theirs;
    if (atomic_load(way_health_policy_epoch(w->health)) == w->policy_epoch)
        return 0;
    if (way_health_bundle(w->health, &bytes, &w->policy_epoch) < 0)
        return way_fail(err, "the table's lock is not to be had");
    theirs = way_zalloc(sizeof *theirs);
    struct way_span span = { bytes.p + bytes.off, way_buf_held(&bytes) };
    int result = way_policy_unpack(theirs, span, &w->config.limits, err);
    way_buf_fini(&bytes);
    if (result < 0) {
        way_policy_text_fini(theirs);
        way_free(theirs);
        return -1;
    }
    way_policy_text_fini(w->text);
    way_free(w->text);
    w->text = theirs;
    return 0;
}

/* What deciders took for the policy in charge is what they were loaded from. */
static int check_policy(const struct way_inside *w, struct way_err *err)
{
    if (way_decider_epoch(w->deciders[WAY_INSIDE_WORKER]) == w->policy_epoch &&
        way_decider_epoch(w->deciders[WAY_INSIDE_CONTROL]) == w->policy_epoch)
        return 0;
    return way_fail(err, "another policy was put in charge at this very moment");
}

static int start_worker(struct way_inside *w, struct way_err *err)
{
    struct way_decider_options d = {
        .health = w->health,
        .text = w->text,
        .limits = &w->config.limits,
        .stats = w->stats[WAY_INSIDE_WORKER],
        .ring = w->rings[WAY_INSIDE_WORKER],
        .aside = &w->aside,
        .thread = WAY_INSIDE_WORKER,
        .journaled = wake,
        .arg = w,
        .judge = w->o.judge,
        .judge_arg = w->o.judge_arg,
        .taken = on_taken,
        .taken_arg = w,
    };
    w->row = way_health_row_attach(w->health, err);
    if (w->row < 0 || way_decider_new(&w->decider, &d, err) < 0)
        return -1;
    struct way_dispatch_options o = {
        .loop = &w->loop,
        .resolver = w->resolver,
        .config = &w->config,
        .health = w->health,
        .decider = w->decider,
        .stats = w->stats[WAY_INSIDE_WORKER],
        .pool = &w->pool,
        .row = w->row,
        .refresh = on_refresh,
        .arg = w,
        .carry = w->o.carry,
        .carried_gone = w->o.carried_gone,
        .carry_arg = w->o.carry_arg,
    };
    w->dispatch = way_dispatch_new(&o);
    way_dispatch_on_grew(w->dispatch, w->o.grew ? w->o.grew : no_growth);
    return 0;
}

static int start_control(struct way_inside *w, struct way_err *err)
{
    return way_control_new(&w->control,
                           &(struct way_control_options){
                               .loop = &w->loop,
                               .resolver = w->resolver,
                               .config = &w->config,
                               .health = w->health,
                               .text = w->text,
                               .rings = w->rings,
                               .stats = w->stats,
                               .threads = WAY_INSIDE_THREADS,
                               .aside = &w->aside,
                               .judge = w->o.judge,
                               .judge_arg = w->o.judge_arg,
                               .told = w->o.told,
                               .told_arg = w->o.told_arg,
                               .taken = on_taken,
                               .taken_arg = w,
                           },
                           err);
}

static void start_reload(struct way_inside *w)
{
    w->deciders[WAY_INSIDE_WORKER] = w->decider;
    w->deciders[WAY_INSIDE_CONTROL] = way_control_decider(w->control);
    w->reload = way_reload_new(&(struct way_reload_options){
        .loop = &w->loop,
        .control = w->control,
        .health = w->health,
        .decider = w->deciders,
        .threads = WAY_INSIDE_THREADS,
        .text = w->text,
        .aside = &w->aside,
        .stats = w->stats[WAY_INSIDE_CONTROL],
        .config = w->o.config,
        .reread = w->o.reread,
        .reread_arg = w->o.reread_arg,
        .wake = wake,
        .arg = w,
    });
    w->text = NULL; /* is reload's */
    way_control_reload_set(w->control, w->reload);
    if (w->config.watch && !w->o.judge)
        w->watch = way_reload_watch_new(&w->loop, w->reload);
}

int way_inside_start(struct way_inside *w, struct ev_loop *ev, struct way_err *err)
{
    if (way_resolver_library_init(err) < 0 || way_health_forked(w->health, err) < 0 ||
        take_policy(w, err) < 0)
        return -1;
    if (ev)
        way_loop_adopt(&w->loop, ev);
    else if (way_loop_init(&w->loop, err) < 0)
        return -1;
    w->looping = true;
    for (unsigned i = 0; i < WAY_INSIDE_THREADS; i++) {
        w->rings[i] = way_ring_new(RING_ENTRIES);
        w->stats[i] = way_zalloc(sizeof *w->stats[i]);
    }
    struct way_resolver_options names = { .servers = w->o.config->name_servers };
    if (way_resolver_new(&w->resolver, &w->loop, &names, err) < 0 ||
        start_worker(w, err) < 0 || start_control(w, err) < 0)
        return -1;
    start_reload(w);
    if (check_policy(w, err) < 0)
        return -1;
    w->any_slot = (uint16_t)(way_clock() * 1000);
    w->loop.owner = w;
    w->loop.woken = on_woken;
    w->loop.passed = on_pass;
    return 0;
}

/* ---- the end ---- */

void way_inside_close(struct way_inside *w)
{
    w->loop.passed = NULL;
    w->loop.woken = NULL;
    way_reload_watch_free(w->watch);
    way_reload_free(w->reload);
    if (w->dispatch)
        way_dispatch_free(w->dispatch);
    way_control_free(w->control);
    way_decider_free(w->decider);
    if (w->row >= 0)
        way_health_row_detach(w->health, w->row);
    if (w->resolver)
        way_resolver_free(w->resolver);
    if (w->looping)
        way_loop_fini(&w->loop);
    w->looping = false;
    for (unsigned i = 0; i < WAY_INSIDE_THREADS; i++) {
        way_ring_free(w->rings[i]);
        way_free(w->stats[i]);
    }
    way_request_pool_fini(&w->pool);
    way_request_parser_fini(&w->parser);
    way_health_close(w->health);
    if (w->text)
        way_policy_text_fini(w->text);
    way_free(w->text);
}
