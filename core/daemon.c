/* daemon - see daemon.h.
 *
 *   main thread: waits for signals
 *   control thread: acceptor, topology, probes, journal, console, HTTP
 *   worker threads: each a loop with its clients, its connections to nodes, its policy
 *     state
 *
 * They share the node table and wake each other; nothing else. All is built before the
 * first thread starts, so a failure at start unwinds in one place. */
#include "daemon.h"

#include "admin.h"
#include "command.h"
#include "control.h"
#include "dispatch.h"
#include "front.h"
#include "http.h"
#include "log.h"
#include "reload.h"
#include "reload_watch.h"
#include "resolve.h"
#include "spool.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { RING_ENTRIES = 256 };

struct thread { /* what each thread that decides has */
    struct way_daemon *daemon;
    unsigned number;
    bool running;
    pthread_t id;
    struct way_loop loop;
    bool has_loop;
    struct way_resolver *resolver;
    struct way_ring *ring;
    struct way_stats *stats;
};

struct worker {
    struct thread t;
    struct way_config config; /* its own limits and time-outs; all else is the host's */
    int row;                  /* -1: none */
    struct way_decider *decider;
    struct way_request_pool pool;
    struct way_dispatch *dispatch;
    struct way_front *front;
};

struct way_daemon {
    const struct way_config *config;
    way_reread_fn *reread;
    void *reread_arg;
    struct way_policy_text *text; /* reload's, once that is there */
    struct way_health *health;
    unsigned workers;
    struct worker *worker;
    struct thread control_thread;
    struct way_config control_config; /* as a worker's */
    struct way_control *control;
    struct way_reload *reload;
    struct way_reload_watch *watch;
    struct way_decider **deciders;
    _Atomic unsigned hangups; /* that ask for a reload */
    struct way_acceptor *acceptor;
    struct way_admin *admin;
    struct way_http *http;
    struct way_front **fronts;
    struct way_ring **rings;
    struct way_stats **stats;
    struct way_aside aside;
    struct way_spool *spool; /* NULL: no journal on disk */
    struct way_shadows *shadows;
    _Atomic uint64_t clients;
    double started;
    ev_timer rest;     /* gives memory back to the system after a load */
    uint64_t requests; /* at the last look */
    unsigned still;    /* looks in which nobody had asked for anything */
    int stop_fd;       /* eventfd */
    sigset_t signals, old_signals;
};

/* ---- what threads tell each other ---- */

/* The table's epoch rose: everybody looks. Called by whichever thread committed. */
static void on_epoch(void *arg)
{
    struct way_daemon *w = arg;
    for (unsigned i = 0; i < w->workers; i++)
        if (w->worker[i].t.has_loop)
            way_loop_wake(&w->worker[i].t.loop);
    if (w->control_thread.has_loop)
        way_loop_wake(&w->control_thread.loop);
}

/* Another policy comes with its settings: this thread's copy of them is its own. */
static void settle(struct way_config *c, const struct way_seat *seat)
{
    if (!seat->settings)
        return;
    c->timeouts = seat->settings->timeouts;
    c->limits = seat->settings->limits;
}

static void on_worker_taken(void *arg, const struct way_seat *seat)
{
    struct worker *k = arg;
    settle(&k->config, seat);
    way_loop_wake(&k->t.daemon->control_thread.loop); /* reload waits for it */
}

static void on_control_taken(void *arg, const struct way_seat *seat)
{
    struct way_daemon *w = arg;
    settle(&w->control_config, seat);
    way_health_bounds(w->health, w->control_config.limits.guard != 0,
                      w->control_config.limits.failing_share);
}

static void on_journaled(void *arg)
{
    struct way_daemon *w = arg;
    way_loop_wake(&w->control_thread.loop);
}

static void on_refresh(void *arg)
{
    struct way_daemon *w = arg;
    way_control_refresh(w->control);
}

static void on_worker_woken(struct way_loop *l)
{
    struct worker *k = l->owner;
    way_front_take(k->front);
}

static void on_worker_pass(struct way_loop *l)
{
    struct worker *k = l->owner;
    way_dispatch_pass(k->dispatch);
}

static void on_control_woken(struct way_loop *l)
{
    struct way_daemon *w = l->owner;
    way_control_woken(w->control);
    if (atomic_exchange(&w->hangups, 0))
        way_reload_soon(w->reload, "signal", false);
    way_reload_woken(w->reload);
}

static uint64_t next_client_id(void *arg)
{
    struct worker *k = arg;
    return atomic_fetch_add(&k->t.daemon->clients, 1) + 1;
}

static void put_info(void *arg, struct way_buf *out)
{
    struct worker *k = arg;
    struct way_daemon *w = k->t.daemon;
    unsigned clients = 0;
    uint64_t sum[WAY_STAT_COUNT] = { 0 };
    for (unsigned i = 0; i < w->workers; i++) {
        clients += way_front_clients(w->worker[i].front);
        for (unsigned s = 0; s < WAY_STAT_COUNT; s++)
            sum[s] += way_stat_get(w->stats[i], (enum way_stat)s);
    }
    way_buf_printf(out, "uptime_in_seconds:%.0f\r\nworkers:%u\r\npolicy:%s\r\n",
                   way_clock() - w->started, w->workers,
                   way_decider_plan(k->decider)->name);
    way_buf_printf(out, "# Clients\r\nconnected_clients:%u\r\n# Stats\r\n", clients);
    for (unsigned s = 0; s < WAY_STAT_COUNT; s++) {
        const struct way_stat_info *info = way_stat_info(s);
        way_buf_printf(out, "%s%s%s:%llu\r\n", info->metric, info->labels[0] ? "," : "",
                       info->labels, (unsigned long long)sum[s]);
    }
    way_buf_printf(out, "# Cluster\r\nslots_covered:%.4f\r\n",
                   way_health_coverage(w->health));
}

/* ---- threads ---- */

static int thread_init(struct thread *t, struct way_daemon *w, unsigned number,
                       struct way_err *err)
{
    t->daemon = w;
    t->number = number;
    t->ring = w->rings[number] = way_ring_new(RING_ENTRIES);
    t->stats = w->stats[number] = way_zalloc(sizeof *t->stats);
    if (way_loop_init(&t->loop, err) < 0)
        return -1;
    t->has_loop = true;
    struct way_resolver_options names = { .servers = w->config->name_servers };
    return way_resolver_new(&t->resolver, &t->loop, &names, err);
}

static void thread_fini(struct thread *t)
{
    if (t->resolver)
        way_resolver_free(t->resolver);
    if (t->has_loop)
        way_loop_fini(&t->loop);
    t->has_loop = false;
    way_ring_free(t->ring);
    way_free(t->stats);
}

static void *run_loop(void *arg)
{
    struct thread *t = arg;
    char name[16];
    if (t == &t->daemon->control_thread)
        snprintf(name, sizeof name, "control");
    else
        snprintf(name, sizeof name, "worker-%u", t->number);
    pthread_setname_np(pthread_self(), name);
    way_loop_run(&t->loop);
    return NULL;
}

static int thread_start(struct thread *t, struct way_err *err)
{
    int e = pthread_create(&t->id, NULL, run_loop, t);
    if (e)
        return way_fail(err, "cannot start a thread: %s", strerror(e));
    t->running = true;
    return 0;
}

static void thread_stop(struct thread *t)
{
    if (!t->running)
        return;
    way_loop_stop(&t->loop);
    pthread_join(t->id, NULL);
    t->running = false;
}

static int worker_init(struct worker *k, struct way_daemon *w, unsigned number,
                       struct way_err *err)
{
    k->row = -1;
    k->config = *w->config;
    if (thread_init(&k->t, w, number, err) < 0)
        return -1;
    k->row = way_health_row_attach(w->health, err);
    if (k->row < 0)
        return -1;
    struct way_decider_options d = {
        .health = w->health,
        .text = w->text,
        .limits = &k->config.limits,
        .stats = k->t.stats,
        .ring = k->t.ring,
        .aside = &w->aside,
        .shadows = w->shadows,
        .place = number,
        .thread = (uint16_t)number,
        .journaled = on_journaled,
        .arg = w,
        .taken = on_worker_taken,
        .taken_arg = k,
    };
    if (way_decider_new(&k->decider, &d, err) < 0)
        return -1;
    w->deciders[number] = k->decider;
    struct way_dispatch_options o = {
        .loop = &k->t.loop,
        .resolver = k->t.resolver,
        .config = &k->config,
        .health = w->health,
        .decider = k->decider,
        .stats = k->t.stats,
        .pool = &k->pool,
        .row = k->row,
        .refresh = on_refresh,
        .arg = w,
    };
    k->dispatch = way_dispatch_new(&o);
    struct way_front_options f = {
        .loop = &k->t.loop,
        .dispatch = k->dispatch,
        .config = &k->config,
        .stats = k->t.stats,
        .pool = &k->pool,
        .host = { .info = put_info, .next_client_id = next_client_id, .arg = k },
    };
    k->front = w->fronts[number] = way_front_new(&f);
    k->t.loop.owner = k;
    k->t.loop.woken = on_worker_woken;
    k->t.loop.passed = on_worker_pass;
    return 0;
}

static void worker_fini(struct worker *k)
{
    if (!k->t.daemon)
        return;
    if (k->front)
        way_front_free(k->front);
    if (k->dispatch)
        way_dispatch_free(k->dispatch);
    way_decider_free(k->decider);
    if (k->row >= 0)
        way_health_row_detach(k->t.daemon->health, k->row);
    thread_fini(&k->t);
    way_request_pool_fini(&k->pool);
}

/* ---- the whole ---- */

static int open_table(struct way_daemon *w, struct way_err *err)
{
    struct way_policy *policy;
    struct way_buf bundle = { 0 };
    if (way_policy_load(&policy, w->text, err) < 0)
        return -1;
    way_policy_seal(w->text, policy);
    way_policy_pack(w->text, &bundle);
    struct way_health_options o = {
        .path = w->config->segment,
        .layout = way_policy_plan(policy)->layout,
        .bundle = { bundle.p, way_buf_held(&bundle) },
        .guard = w->config->limits.guard != 0,
        .failing_share = w->config->limits.failing_share,
        .woken = on_epoch,
        .arg = w,
    };
    way_policy_free(policy);
    int rc = way_health_open(&w->health, &o, err);
    way_buf_fini(&bundle);
    if (rc < 0)
        return -1;
    for (unsigned i = 0; i < w->config->zone_count; i++)
        way_health_zone(w->health, w->config->zones[i].address, w->config->zones[i].zone);
    return 0;
}

/* A load leaves buffers behind that malloc keeps: once nobody asks for anything any more,
 * they go back. */
static void on_rest(struct ev_loop *ev, ev_timer *t, int events)
{
    (void)ev, (void)events;
    struct way_daemon *w = way_container(t, struct way_daemon, rest);
    uint64_t requests = 0;
    for (unsigned i = 0; i < w->workers; i++)
        requests += way_stat_get(w->stats[i], WAY_STAT_REQUESTS);
    w->still = requests == w->requests ? w->still + 1 : 0;
    if (w->still == 1 || w->still == 3) /* then connections have given theirs back too */
        malloc_trim(0);
    w->requests = requests;
}

/* In the control thread, as all that is put there. */
static void spool_difference(void *arg, const struct way_entry *charge,
                             const struct way_entry *own)
{
    way_spool_put(arg, charge);
    way_spool_put(arg, own);
    way_spool_flush(arg);
}

static int build_spool(struct way_daemon *w, struct way_err *err)
{
    const struct way_config *c = w->config;
    struct way_spool_options o = { .file = c->journal,
                                   .max_bytes = c->journal_max_bytes,
                                   .keep = c->journal_keep,
                                   .wayside = WAY_VERSION };
    if (!c->journal)
        return 0;
    if (way_spool_new(&w->spool, &o, err) < 0)
        return -1;
    way_spool_policy(w->spool, way_decider_plan(w->worker[0].decider), w->text,
                     way_clock());
    way_shadows_tell(w->shadows, spool_difference, w->spool);
    return 0;
}

static void build_reload(struct way_daemon *w)
{
    w->deciders[w->workers] = way_control_decider(w->control);
    w->reload = way_reload_new(&(struct way_reload_options){
        .loop = &w->control_thread.loop,
        .control = w->control,
        .health = w->health,
        .decider = w->deciders,
        .threads = w->workers + 1,
        .text = w->text,
        .aside = &w->aside,
        .stats = w->stats[w->workers],
        .config = w->config,
        .reread = w->reread,
        .reread_arg = w->reread_arg,
        .wake = on_epoch,
        .arg = w,
    });
    way_control_reload_set(w->control, w->reload);
    if (w->config->watch)
        w->watch = way_reload_watch_new(&w->control_thread.loop, w->reload);
}

static int build_control(struct way_daemon *w, struct way_err *err)
{
    enum { LOOK_SECONDS = 1 };
    struct thread *t = &w->control_thread;
    struct way_control_options o = {
        .loop = &t->loop,
        .resolver = t->resolver,
        .config = &w->control_config,
        .health = w->health,
        .text = w->text,
        .rings = w->rings,
        .stats = w->stats,
        .threads = w->workers + 1,
        .aside = &w->aside,
        .spool = w->spool,
        .shadows = w->shadows,
        .taken = on_control_taken,
        .taken_arg = w,
    };
    if (way_control_new(&w->control, &o, err) < 0)
        return -1;
    build_reload(w);
    t->loop.owner = w;
    t->loop.woken = on_control_woken;
    ev_timer_init(&w->rest, on_rest, LOOK_SECONDS, LOOK_SECONDS);
    ev_timer_start(t->loop.ev, &w->rest);
    if (w->config->console &&
        way_admin_new(&w->admin, w->control, w->config->console, err))
        return -1;
    if (w->config->http && way_http_new(&w->http, w->control, w->config->http, err))
        return -1;
    return way_acceptor_new(&w->acceptor, &t->loop, &w->control_config, w->fronts,
                            w->workers, err);
}

static int build(struct way_daemon *w, struct way_err *err)
{
    const struct way_config *c = w->config;
    w->text = way_zalloc(sizeof *w->text);
    w->control_config = *c;
    if (way_resolver_library_init(err) < 0 ||
        way_policy_read(w->text, c->policy, c->option, c->options, &c->limits, err) < 0 ||
        open_table(w, err) < 0)
        return -1;
    w->workers = c->workers;
    w->deciders = way_zalloc((w->workers + 1) * sizeof(struct way_decider *));
    w->worker = way_zalloc(w->workers * sizeof *w->worker);
    w->fronts = way_zalloc(w->workers * sizeof *w->fronts);
    w->rings = way_zalloc((w->workers + 1) * sizeof *w->rings);
    w->stats = way_zalloc((w->workers + 1) * sizeof *w->stats);
    w->shadows = way_shadows_new(
        &(struct way_shadows_options){ .health = w->health, .threads = w->workers + 1 });
    if (thread_init(&w->control_thread, w, w->workers, err) < 0)
        return -1;
    for (unsigned i = 0; i < w->workers; i++)
        if (worker_init(&w->worker[i], w, i, err) < 0)
            return -1;
    return build_spool(w, err) < 0 ? -1 : build_control(w, err);
}

static void say_what_serves(const struct way_daemon *w)
{
    const struct way_plan *plan = way_decider_plan(w->worker[0].decider);
    const struct way_config *c = w->config;
    for (unsigned i = 0; i < c->listens; i++)
        way_log(WAY_INFO, "listen=%s workers=%u", c->listen[i], w->workers);
    if (c->console)
        way_log(WAY_INFO, "console=%s", c->console);
    if (c->http)
        way_log(WAY_INFO, "http=%s", c->http);
    if (c->journal)
        way_log(WAY_INFO, "journal=%s", c->journal);
    way_log(WAY_INFO, "policy=%s version=%s hash=%016llx file=%s", plan->name,
            plan->version[0] ? plan->version : "none",
            (unsigned long long)plan->layout.hash, w->text->path);
}

static int start_threads(struct way_daemon *w, struct way_err *err)
{
    w->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->stop_fd < 0)
        return way_fail(err, "eventfd: %s", strerror(errno));
    for (unsigned i = 0; i < w->workers; i++)
        if (thread_start(&w->worker[i].t, err) < 0)
            return -1;
    return thread_start(&w->control_thread, err);
}

int way_daemon_start(struct way_daemon **out, const struct way_config *c,
                     way_reread_fn *reread, void *arg, struct way_err *err)
{
    struct way_daemon *w = way_zalloc(sizeof *w);
    w->config = c;
    w->reread = reread;
    w->reread_arg = arg;
    w->stop_fd = -1;
    w->started = way_clock();
    way_command_init();
    sigemptyset(&w->signals);
    sigaddset(&w->signals, SIGTERM);
    sigaddset(&w->signals, SIGINT);
    sigaddset(&w->signals, SIGQUIT);
    sigaddset(&w->signals, SIGHUP);
    sigaddset(&w->signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &w->signals, &w->old_signals); /* threads inherit it */
    int rc = build(w, err);
    if (rc == 0) {
        say_what_serves(w); /* from here on the policy may be another at any moment */
        rc = start_threads(w, err);
    }
    if (rc < 0) {
        way_daemon_free(w);
        return -1;
    }
    *out = w;
    return 0;
}

void way_daemon_wait(struct way_daemon *w)
{
    int fd = signalfd(-1, &w->signals, SFD_CLOEXEC | SFD_NONBLOCK);
    struct pollfd p[] = { { .fd = w->stop_fd, .events = POLLIN },
                          { .fd = fd, .events = POLLIN } };
    while (poll(p, 2, -1) < 0 || !p[0].revents) {
        struct signalfd_siginfo info;
        if (!(p[1].revents & POLLIN) || read(fd, &info, sizeof info) != sizeof info)
            continue;
        if (info.ssi_signo == SIGUSR1) {
            if (w->spool)
                way_spool_reopen(w->spool);
            continue;
        }
        if (info.ssi_signo != SIGHUP) {
            way_log(WAY_INFO, "signal=%s stopping=true",
                    sigabbrev_np((int)info.ssi_signo));
            break;
        }
        way_log(WAY_INFO, "signal=HUP reloading=true");
        atomic_fetch_add(&w->hangups, 1);
        way_loop_wake(&w->control_thread.loop);
    }
    if (fd >= 0)
        close(fd);
}

void way_daemon_stop(struct way_daemon *w)
{
    uint64_t one = 1;
    ssize_t n = write(w->stop_fd, &one, sizeof one);
    (void)n; /* full: somebody stopped it already */
}

void way_daemon_free(struct way_daemon *w)
{
    if (!w)
        return;
    thread_stop(&w->control_thread);
    for (unsigned i = 0; i < w->workers; i++)
        thread_stop(&w->worker[i].t);
    way_acceptor_free(w->acceptor);
    way_reload_watch_free(w->watch);
    if (w->admin)
        way_admin_free(w->admin); /* before reload: it may wait for an answer */
    if (w->reload)
        w->text = NULL; /* is reload's */
    way_reload_free(w->reload);
    for (unsigned i = 0; i < w->workers; i++)
        worker_fini(&w->worker[i]);
    if (w->http)
        way_http_free(w->http);
    if (w->control)
        way_control_free(w->control);
    way_spool_free(w->spool);
    if (w->control_thread.daemon)
        thread_fini(&w->control_thread);
    way_shadows_free(w->shadows);
    if (w->health)
        way_health_close(w->health);
    if (w->text)
        way_policy_text_fini(w->text);
    way_free(w->text);
    way_free(w->deciders);
    if (w->stop_fd >= 0)
        close(w->stop_fd);
    pthread_sigmask(SIG_SETMASK, &w->old_signals, NULL);
    way_free(w->worker);
    way_free(w->fronts);
    way_free(w->rings);
    way_free(w->stats);
    way_free(w);
}
