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
    int row; /* -1: none */
    struct way_decider *decider;
    struct way_request_pool pool;
    struct way_dispatch *dispatch;
    struct way_front *front;
};

struct way_daemon {
    const struct way_config *config;
    struct way_policy_text text;
    struct way_health *health;
    unsigned workers;
    struct worker *worker;
    struct thread control_thread;
    struct way_control *control;
    struct way_acceptor *acceptor;
    struct way_admin *admin;
    struct way_http *http;
    struct way_front **fronts;
    struct way_ring **rings;
    struct way_stats **stats;
    struct way_aside aside;
    struct way_spool *spool; /* NULL: no journal on disk */
    _Atomic uint64_t clients;
    double started;
    ev_timer rest;     /* gives memory back to the system after a load */
    uint64_t requests; /* at the last look */
    bool trimmed;
    int stop_fd; /* eventfd */
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
}

static uint64_t next_client_id(void *arg)
{
    struct way_daemon *w = arg;
    return atomic_fetch_add(&w->clients, 1) + 1;
}

static void put_info(void *arg, struct way_buf *out)
{
    struct way_daemon *w = arg;
    unsigned clients = 0;
    uint64_t sum[WAY_STAT_COUNT] = { 0 };
    for (unsigned i = 0; i < w->workers; i++) {
        clients += way_front_clients(w->worker[i].front);
        for (unsigned s = 0; s < WAY_STAT_COUNT; s++)
            sum[s] += way_stat_get(w->stats[i], (enum way_stat)s);
    }
    way_buf_printf(out, "uptime_in_seconds:%.0f\r\nworkers:%u\r\npolicy:%s\r\n",
                   way_clock() - w->started, w->workers, w->text.path);
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
    return way_resolver_new(&t->resolver, &t->loop, NULL, err);
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
    if (thread_init(&k->t, w, number, err) < 0)
        return -1;
    k->row = way_health_row_attach(w->health, err);
    if (k->row < 0)
        return -1;
    struct way_decider_options d = {
        .health = w->health,
        .text = &w->text,
        .limits = &w->config->limits,
        .stats = k->t.stats,
        .ring = k->t.ring,
        .aside = &w->aside,
        .thread = (uint16_t)number,
        .journaled = on_journaled,
        .arg = w,
    };
    if (way_decider_new(&k->decider, &d, err) < 0)
        return -1;
    struct way_dispatch_options o = {
        .loop = &k->t.loop,
        .resolver = k->t.resolver,
        .config = w->config,
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
        .config = w->config,
        .stats = k->t.stats,
        .pool = &k->pool,
        .host = { .info = put_info, .next_client_id = next_client_id, .arg = w },
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
    if (way_policy_load(&policy, &w->text, err) < 0)
        return -1;
    struct way_health_options o = {
        .path = w->config->segment,
        .layout = way_policy_plan(policy)->layout,
        .guard = w->config->limits.guard != 0,
        .failing_share = w->config->limits.failing_share,
        .woken = on_epoch,
        .arg = w,
    };
    way_policy_free(policy);
    if (way_health_open(&w->health, &o, err) < 0)
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
    if (requests == w->requests && !w->trimmed)
        malloc_trim(0);
    w->trimmed = requests == w->requests;
    w->requests = requests;
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
    way_spool_policy(w->spool, way_decider_plan(w->worker[0].decider), &w->text,
                     way_clock());
    return 0;
}

static int build_control(struct way_daemon *w, struct way_err *err)
{
    enum { LOOK_SECONDS = 1 };
    struct thread *t = &w->control_thread;
    struct way_control_options o = {
        .loop = &t->loop,
        .resolver = t->resolver,
        .config = w->config,
        .health = w->health,
        .text = &w->text,
        .rings = w->rings,
        .stats = w->stats,
        .threads = w->workers + 1,
        .aside = &w->aside,
        .spool = w->spool,
    };
    if (way_control_new(&w->control, &o, err) < 0)
        return -1;
    t->loop.owner = w;
    t->loop.woken = on_control_woken;
    ev_timer_init(&w->rest, on_rest, LOOK_SECONDS, LOOK_SECONDS);
    ev_timer_start(t->loop.ev, &w->rest);
    if (w->config->console &&
        way_admin_new(&w->admin, w->control, w->config->console, err))
        return -1;
    if (w->config->http && way_http_new(&w->http, w->control, w->config->http, err))
        return -1;
    return way_acceptor_new(&w->acceptor, &t->loop, w->config, w->fronts, w->workers,
                            err);
}

static int build(struct way_daemon *w, struct way_err *err)
{
    const struct way_config *c = w->config;
    if (way_resolver_library_init(err) < 0 ||
        way_policy_read(&w->text, c->policy, c->option, c->options, &c->limits, err) <
            0 ||
        open_table(w, err) < 0)
        return -1;
    w->workers = c->workers;
    w->worker = way_zalloc(w->workers * sizeof *w->worker);
    w->fronts = way_zalloc(w->workers * sizeof *w->fronts);
    w->rings = way_zalloc((w->workers + 1) * sizeof *w->rings);
    w->stats = way_zalloc((w->workers + 1) * sizeof *w->stats);
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
            (unsigned long long)plan->layout.hash, w->text.path);
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
                     struct way_err *err)
{
    struct way_daemon *w = way_zalloc(sizeof *w);
    w->config = c;
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
    if (build(w, err) < 0 || start_threads(w, err) < 0) {
        way_daemon_free(w);
        return -1;
    }
    say_what_serves(w);
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
        way_log(WAY_WARN, "signal=HUP: this version reloads nothing; restart to change "
                          "the policy");
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
    for (unsigned i = 0; i < w->workers; i++)
        worker_fini(&w->worker[i]);
    if (w->http)
        way_http_free(w->http);
    if (w->admin)
        way_admin_free(w->admin);
    if (w->control)
        way_control_free(w->control);
    way_spool_free(w->spool);
    if (w->control_thread.daemon)
        thread_fini(&w->control_thread);
    if (w->health)
        way_health_close(w->health);
    way_policy_text_fini(&w->text);
    if (w->stop_fd >= 0)
        close(w->stop_fd);
    pthread_sigmask(SIG_SETMASK, &w->old_signals, NULL);
    way_free(w->worker);
    way_free(w->fronts);
    way_free(w->rings);
    way_free(w->stats);
    way_free(w);
}
