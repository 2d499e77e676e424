/* gateway - see gateway.h.
 *
 * A connection here is a carried one of conn: job ──▶ wrapper ──▶ way_conn. The wrapper is
 * the worker's handle and stays until it is released; the way_conn may go before (its node
 * was dropped, it broke), and then the handle says BROKEN.
 *
 *   next: MOVE ─▶ (dial) up ─▶ out, sent ─▶ in ... in ─▶ release
 *                    └───────── failed ──────────────────▶ release
 *
 * A connection serves one job while it has it, since nginx's sockets belong to a request;
 * a command that comes while another moves a connection gets a second one.
 *
 * TLS sessions stay here while nginx keeps their sockets. Which socket a pool gives can't be
 * known, so each has a pool of its own, and a session goes by that pool's name: an idle
 * session is taken first, then nginx is asked for its socket; was that closed meanwhile,
 * nginx dials, and the session is thrown away. nginx's own TLS was rejected: it knows no CA
 * but nginx.conf's, and calls all that goes wrong "handshake failed". */
#include "gateway.h"

#include "call.h"
#include "inside.h"
#include "log.h"
#include "tls.h"
#include "why.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <strings.h>
#include <unistd.h>

enum { SESSION_LISTS = 64, SESSIONS_MAX = 1024 };
enum { JOBS_KEPT = 256, JOBS_MAX = 65536, ERRNO_MAX = 134 };
#define TICK_SECONDS 0.01
#define LEAST_SECONDS 0.001
#define EARLY_SECONDS (2 * LEAST_SECONDS)
#define GRACE_SECONDS 0.25

/* What idle sockets have in common: see name_pool. */
struct likeness {
    uint32_t node, generation, drops;
    bool readonly;
};

/* A TLS session of a socket that nginx keeps. */
struct session {
    struct session *next, *prev; /* of its list: the youngest first */
    struct way_tls_session *tls;
    struct likeness like;
    uint64_t pool; /* the number in its socket's pool's name */
    double since;
};

struct way_gateway_conn {
    struct way_gateway_conn *next; /* of its job */
    struct way_gateway_job *job;
    struct way_conn *conn; /* NULL: it is gone */
    bool moving;           /* handed out */
    bool own;              /* it is one transaction's alone */
    int port;
    struct likeness like;
    struct session *kept; /* whose socket is asked for; NULL: none, or it is in use */
    uint64_t number;      /* over TLS: its pool's */
    char pool[64];
    char host[WAY_HOST_MAX];
};

struct way_gateway_job {
    struct way_gateway *gateway;
    struct way_call call;
    struct way_gateway_conn *conns;
    struct way_gateway_job *next, **prev; /* of those under way, or the free ones */
    char node[WAY_ADDRESS_MAX];           /* of the last result */
};

struct way_gateway {
    struct way_config config;
    struct way_inside inside;
    pid_t started; /* 0: not in any process */
    struct way_gateway_job *jobs, *idle_jobs;
    struct way_gateway_conn *idle_conns;
    unsigned job_count, idle_count;
    struct session sessions[SESSION_LISTS]; /* heads of rings, by node */
    unsigned session_count, kept_max;       /* all idle ones; how many of one likeness */
    double kept_seconds;
    uint64_t pools; /* numbers given */
    bool reloading;
    struct way_err reload_text; /* of the last one */
    bool reload_refused;
    struct way_buf text; /* what operators are told */
};

/* The process in which a gateway works. A second Lua state in a worker, which is what
 * lua_code_cache off makes for each request, can't be known by other means: it shares
 * nothing with the first but this library. */
static _Atomic pid_t busy_process;

size_t way_gateway_abi(void)
{
    return sizeof(struct way_gateway_step) * 1000 + sizeof(struct way_gateway_result) +
           1000000 * WAY_GATEWAY_VERSION;
}

static int fail(struct way_gateway_error *error, const struct way_err *err)
{
    if (error)
        snprintf(error->text, sizeof error->text, "%s", err->text);
    return -1;
}

/* ---- connections ---- */

static struct way_gateway_conn *take_conn(struct way_gateway *g)
{
    struct way_gateway_conn *c = g->idle_conns;
    if (c)
        g->idle_conns = c->next;
    else
        c = way_alloc(sizeof *c);
    return c;
}

static void give_conn(struct way_gateway *g, struct way_gateway_conn *c)
{
    c->next = g->idle_conns;
    g->idle_conns = c;
}

/* ---- TLS sessions of idle sockets ---- */

static bool alike(const struct likeness *a, const struct likeness *b)
{
    return a->node == b->node && a->generation == b->generation && a->drops == b->drops &&
           a->readonly == b->readonly;
}

static struct session *sessions_of(struct way_gateway *g, const struct likeness *like)
{
    return &g->sessions[like->node % SESSION_LISTS];
}

static void unlink_session(struct way_gateway *g, struct session *s)
{
    s->next->prev = s->prev;
    s->prev->next = s->next;
    g->session_count--;
}

static void free_tls(struct way_tls_session *tls)
{
    if (tls)
        way_tls_end(tls);
    way_free(tls);
}

static void free_session(struct session *s)
{
    if (s)
        free_tls(s->tls);
    way_free(s);
}

/* The youngest that fits, which is no longer idle then; or NULL. */
static struct session *take_session(struct way_gateway *g, const struct likeness *like)
{
    struct session *head = sessions_of(g, like);
    for (struct session *s = head->next; s != head; s = s->next) {
        if (!alike(&s->like, like))
            continue;
        unlink_session(g, s);
        return s;
    }
    return NULL;
}

/* false: there are as many as may be; s is freed then, and its socket is to be closed. */
static bool keep_session(struct way_gateway *g, struct session *s)
{
    struct session *head = sessions_of(g, &s->like);
    unsigned like_it = 0;
    for (struct session *i = head->next; i != head; i = i->next)
        like_it += alike(&i->like, &s->like);
    if (like_it >= g->kept_max || g->session_count >= SESSIONS_MAX) {
        free_session(s);
        return false;
    }
    s->since = g->inside.loop.now;
    s->prev = head;
    s->next = head->next;
    head->next->prev = s;
    head->next = s;
    g->session_count++;
    return true;
}

/* nginx closes a socket that was idle for so long: its session is of no use. */
static void drop_sessions(struct way_gateway *g, double older_than)
{
    for (unsigned i = 0; g->session_count && i < SESSION_LISTS; i++) {
        struct session *head = &g->sessions[i], *s;
        while ((s = head->prev) != head && s->since <= older_than) {
            unlink_session(g, s);
            free_session(s);
        }
    }
}

/* ---- carrying ---- */

/* Idle ones are alike as long as the node is what it was, in its role, and no mark said
 * that its connections are to be dropped. */
static void name_pool(struct way_gateway *g, struct way_gateway_conn *w,
                      const struct way_conn *c)
{
    struct way_verdict v;
    way_health_verdict(g->inside.health, c->node, &v);
    w->like = (struct likeness){ c->node, c->generation, v.drops, c->readonly };
    w->kept = NULL;
    int n = snprintf(w->pool, sizeof w->pool, "wayside:%u:%u:%u:%c", c->node,
                     c->generation, v.drops, c->readonly ? 'r' : 'm');
    if (!g->config.tls.on)
        return;
    w->kept = take_session(g, &w->like);
    w->number = w->kept ? w->kept->pool : ++g->pools;
    snprintf(w->pool + n, sizeof w->pool - (size_t)n, ":tls:%llu",
             (unsigned long long)w->number);
}

static struct way_conn *on_carry(void *arg, struct way_pipeline *p, unsigned node,
                                 bool own)
{
    struct way_gateway *g = arg;
    struct way_gateway_job *j = way_container(p->owner, struct way_gateway_job, call);
    for (struct way_gateway_conn *w = j->conns; w && !own; w = w->next)
        if (w->conn && !w->moving && !w->own && !w->conn->draining &&
            w->conn->node == node)
            return w->conn;
    struct way_conn *c = way_dispatch_carry(g->inside.dispatch, node, own);
    if (!c)
        return NULL;
    struct way_gateway_conn *w = take_conn(g);
    w->job = j;
    w->conn = c;
    w->moving = false;
    w->own = own;
    w->next = j->conns;
    j->conns = w;
    c->carrier = w;
    name_pool(g, w, c);
    way_dispatch_carried_at(g->inside.dispatch, node, w->host, sizeof w->host, &w->port);
    return c;
}

static void on_gone(struct way_conn *c)
{
    struct way_gateway_conn *w = c->carrier;
    if (w)
        w->conn = NULL;
}

static int waits_for(const struct way_gateway_conn *w)
{
    if (!w->conn)
        return WAY_GATEWAY_BROKEN;
    if (way_conn_carried_out(w->conn).n)
        return WAY_GATEWAY_SEND;
    return w->conn->head || w->conn->step == WAY_STEP_TLS ||
                   w->conn->step == WAY_STEP_HELLO
               ? WAY_GATEWAY_RECEIVE
               : WAY_GATEWAY_IDLE;
}

/* The loop's time is that of its last pass: the worker comes from elsewhere. */
static struct way_gateway *enter(struct way_gateway_conn *w)
{
    struct way_gateway *g = w->job->gateway;
    g->inside.loop.now = way_clock();
    return g;
}

int way_gateway_up(struct way_gateway_conn *w, int reused)
{
    struct way_gateway *g = enter(w);
    struct way_tls_session *tls = NULL;
    if (w->conn && !reused)
        way_stat_add(g->inside.stats[WAY_INSIDE_WORKER], WAY_STAT_DIALS, 1);
    if (w->conn && reused && w->kept) {
        tls = w->kept->tls;
        w->kept->tls = NULL;
    }
    free_session(w->kept); /* without its socket, or without what made it one */
    w->kept = NULL;
    if (w->conn)
        way_conn_carried_up(w->conn, reused, tls);
    return waits_for(w);
}

size_t way_gateway_out(struct way_gateway_conn *w, const char **p)
{
    struct way_span out = { NULL, 0 };
    if (w->conn)
        out = way_conn_carried_out(w->conn);
    *p = out.p;
    return out.n;
}

int way_gateway_sent(struct way_gateway_conn *w)
{
    enter(w);
    if (w->conn)
        way_conn_carried_sent(w->conn, way_conn_carried_out(w->conn).n);
    return waits_for(w);
}

int way_gateway_in(struct way_gateway_conn *w, const char *p, size_t n)
{
    struct way_gateway *g = enter(w);
    if (w->conn)
        way_conn_carried_in(w->conn, p, n);
    int state = waits_for(w);
    if (state == WAY_GATEWAY_BROKEN)
        way_loop_pass(&g->inside.loop);
    return state;
}

/* nginx tells errors in the system's words, in small letters, or in its own. */
static enum way_error error_of(const char *words, int *errnum)
{
    *errnum = 0;
    if (!strcmp(words, "timeout"))
        return WAY_ERROR_TIMEOUT;
    if (!strcmp(words, "closed"))
        return WAY_ERROR_EOF;
    if (strstr(words, "could not be resolved") || strstr(words, "no resolver defined"))
        return WAY_ERROR_DNS;
    for (int e = 1; e < ERRNO_MAX; e++) {
        if (!strcasecmp(words, strerror(e))) {
            *errnum = e;
            return WAY_ERROR_NONE; /* by its number */
        }
    }
    return WAY_ERROR_RESET;
}

/* The job's time was over, not the node's? nginx counts whole milliseconds, and may be ahead
 * of both by two. */
static bool was_the_jobs(struct way_gateway *g, const struct way_gateway_conn *w)
{
    double over = w->job->call.arrived + w->job->call.total;
    if (way_conn_carried_due(w->conn) <= EARLY_SECONDS ||
        over - g->inside.loop.now > EARLY_SECONDS)
        return false;
    if (g->inside.loop.now < over)
        g->inside.loop.now = over;
    return true;
}

void way_gateway_failed(struct way_gateway_conn *w, int sending, const char *words)
{
    struct way_gateway *g = enter(w);
    int errnum;
    enum way_error error = error_of(words, &errnum);
    if (!w->conn)
        return;
    if (error == WAY_ERROR_TIMEOUT && was_the_jobs(g, w)) {
        way_call_expire(&w->job->call);
        way_loop_pass(&g->inside.loop);
        return;
    }
    /* How much of it was accepted nginx does not tell: all of it may have been. */
    if (sending)
        way_conn_carried_sent(w->conn, way_conn_carried_out(w->conn).n);
    if (!w->conn)
        return;
    bool told = error == WAY_ERROR_RESET || error == WAY_ERROR_DNS;
    way_conn_carried_failed(w->conn, sending, error, errnum, told ? words : NULL);
    way_loop_pass(&g->inside.loop);
}

double way_gateway_due(struct way_gateway_conn *w)
{
    struct way_gateway *g = enter(w);
    struct way_call *call = &w->job->call;
    double left = call->arrived + call->total - g->inside.loop.now;
    double due = w->conn ? way_conn_carried_due(w->conn) : 0;
    due = due < left ? due : left;
    return due > LEAST_SECONDS ? due : LEAST_SECONDS;
}

/* Its session waits for the socket to be asked for again. */
static bool keep_tls(struct way_gateway_conn *w)
{
    struct session *s = way_alloc(sizeof *s);
    *s = (struct session){ .tls = way_conn_carried_session(w->conn),
                           .like = w->like,
                           .pool = w->number };
    return keep_session(w->job->gateway, s);
}

static bool let_go(struct way_gateway_conn *w)
{
    struct way_gateway *g = w->job->gateway;
    bool clean = w->conn && way_conn_carried_idle(w->conn);
    if (w->kept) /* its socket was not asked for */
        (void)keep_session(g, w->kept);
    w->kept = NULL;
    if (clean && w->conn->tls)
        clean = keep_tls(w);
    if (w->conn) {
        w->conn->carrier = NULL;
        way_dispatch_uncarry(g->inside.dispatch, w->conn);
    }
    give_conn(g, w);
    return clean;
}

int way_gateway_release(struct way_gateway_conn *w)
{
    struct way_gateway_conn **at = &w->job->conns;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    enter(w);
    return let_go(w);
}

/* ---- jobs ---- */

struct way_gateway_job *way_gateway_begin(struct way_gateway *g, double seconds)
{
    struct way_gateway_job *j = g->idle_jobs;
    if (!g->started || g->job_count >= JOBS_MAX)
        return NULL;
    if (j) {
        g->idle_jobs = j->next;
        g->idle_count--;
    } else {
        j = way_alloc(sizeof *j);
    }
    j->gateway = g;
    j->conns = NULL;
    j->next = g->jobs;
    j->prev = &g->jobs;
    if (g->jobs)
        g->jobs->prev = &j->next;
    g->jobs = j;
    g->job_count++;
    way_call_init(&j->call, &g->inside, seconds);
    return j;
}

void way_gateway_add(struct way_gateway_job *j, const char *p, size_t n)
{
    way_call_add(&j->call, p, n);
}

static bool wants_moving(const struct way_gateway_conn *w)
{
    return w->conn && !w->moving && w->conn->head;
}

/* What is held or delayed waits for timers of the loop. */
static void run_timers(struct way_gateway *g)
{
    ev_run(g->inside.loop.ev, EVRUN_NOWAIT);
}

static struct way_gateway_conn *to_be_moved(struct way_gateway_job *j, int *more)
{
    struct way_gateway_conn *first = NULL;
    *more = 0;
    for (struct way_gateway_conn *w = j->conns; w; w = w->next) {
        if (!wants_moving(w))
            continue;
        *more += first != NULL;
        first = first ? first : w;
    }
    return first;
}

int way_gateway_next(struct way_gateway_job *j, struct way_gateway_step *step)
{
    struct way_gateway *g = j->gateway;
    g->inside.loop.now = way_clock();
    way_call_seal(&j->call);
    way_loop_pass(&g->inside.loop); /* what was answered last is dealt with first */
    if (way_call_expire(&j->call))
        way_loop_pass(&g->inside.loop);
    if (way_call_is_over(&j->call))
        return WAY_GATEWAY_OVER;
    struct way_gateway_conn *w = to_be_moved(j, &step->more);
    if (!w) {
        run_timers(g);
        w = to_be_moved(j, &step->more);
    }
    if (way_call_is_over(&j->call))
        return WAY_GATEWAY_OVER;
    if (!w) {
        step->seconds = way_dispatch_waiting(g->inside.dispatch, NULL) ? TICK_SECONDS : 0;
        return WAY_GATEWAY_WAIT;
    }
    w->moving = true;
    step->conn = w;
    step->host = w->host;
    step->port = w->port;
    step->pool = w->pool;
    return WAY_GATEWAY_MOVE;
}

/* A simple value's content; of others the whole, to be decoded by who asks. */
static void take_content(struct way_gateway_result *out)
{
    const char *p = out->reply;
    size_t header;
    out->type = out->bytes ? p[0] : 0;
    if (out->type == '+' || out->type == '-' || out->type == ':') {
        out->reply = p + 1;
        out->bytes -= 3;
    } else if ((out->type == '$' || out->type == '*') && p[1] == '-') {
        out->type = 0;
    } else if (out->type == '$') {
        header = (size_t)((const char *)memchr(p, '\n', out->bytes) - p) + 1;
        out->reply = p + header;
        out->bytes -= header + 2;
    }
}

static void tell_fault(struct way_gateway_job *j, const struct way_fault *f,
                       struct way_gateway_result *out)
{
    struct way_gateway *g = j->gateway;
    out->error = way_error_name(f->error);
    out->phase = way_phase_name(f->phase);
    out->step = way_step_name(f->step);
    out->certainty = way_certainty_name(f->certainty);
    out->class_name = way_decider_class_name(g->inside.decider, f->class);
    out->verdict = way_retry_name(f->verdict);
    if (f->node >= WAY_NODES_MAX)
        return;
    struct way_snapshot s;
    way_health_snapshot(g->inside.health, f->node, g->inside.loop.now, &s);
    snprintf(j->node, sizeof j->node, "%s", s.view.address);
    out->node = j->node;
    out->state = way_state_name(s.view.verdict.state);
}

int way_gateway_result(struct way_gateway_job *j, unsigned i,
                       struct way_gateway_result *out)
{
    struct way_span reply = way_call_reply(&j->call, i);
    const struct way_fault *f = way_call_fault(&j->call, i);
    *out = (struct way_gateway_result){ .reply = reply.p, .bytes = reply.n };
    take_content(out);
    if (!f)
        return 0;
    tell_fault(j, f, out);
    return 1;
}

void way_gateway_end(struct way_gateway_job *j)
{
    struct way_gateway *g = j->gateway;
    g->inside.loop.now = way_clock();
    way_call_fini(&j->call);
    while (j->conns) {
        struct way_gateway_conn *w = j->conns;
        j->conns = w->next;
        let_go(w);
    }
    *j->prev = j->next;
    if (j->next)
        j->next->prev = j->prev;
    g->job_count--;
    way_loop_pass(&g->inside.loop);
    if (g->idle_count == JOBS_KEPT) {
        way_free(j);
        return;
    }
    j->next = g->idle_jobs;
    g->idle_jobs = j;
    g->idle_count++;
}

/* ---- reload ---- */

static void on_reloaded(void *arg, const struct way_reload_report *r)
{
    struct way_gateway *g = arg;
    g->reloading = false;
    g->reload_refused = r->refused != NULL;
    if (r->refused)
        (void)way_fail(&g->reload_text, "%s", r->refused);
    else
        (void)way_fail(&g->reload_text, "policy=%s version=%s epoch=%llu unchanged=%s",
                       r->name, r->version[0] ? r->version : "none",
                       (unsigned long long)r->epoch, r->unchanged ? "true" : "false");
}

int way_gateway_reload(struct way_gateway *g, const char *policy,
                       struct way_gateway_error *error)
{
    struct way_err err;
    struct way_reload_wish wish = { .policy = policy, .done = on_reloaded, .arg = g };
    if (!g->started) {
        (void)way_fail(&err, "not started");
        return fail(error, &err);
    }
    way_loop_refresh(&g->inside.loop);
    if (way_reload_begin(g->inside.reload, &wish, "nginx", &err) < 0)
        return fail(error, &err);
    g->reloading = true;
    return 0;
}

int way_gateway_reloaded(struct way_gateway *g, struct way_gateway_error *text)
{
    if (g->reloading)
        return 0;
    (void)fail(text, &g->reload_text);
    return g->reload_refused ? -1 : 1;
}

/* ---- for operators ---- */

static bool node_view(struct way_gateway *g, unsigned node, struct way_snapshot *s)
{
    uint32_t word = atomic_load_explicit(&way_health_node(g->inside.health, node)->route,
                                         memory_order_acquire);
    if (word & WAY_ROUTE_GONE)
        return false;
    way_health_snapshot(g->inside.health, node, way_clock(), s);
    return true;
}

static void put_line(void *arg, const char *text)
{
    struct way_buf *b = arg;
    way_buf_puts(b, text);
    way_buf_puts(b, "\n");
}

static const char *finish_text(struct way_gateway *g)
{
    way_buf_put(&g->text, "", 1);
    return g->text.p;
}

const char *way_gateway_status(struct way_gateway *g)
{
    struct way_inside *w = &g->inside;
    struct way_buf *b = &g->text;
    way_buf_reset(b);
    if (!g->started) {
        way_buf_puts(b, "started=false\n");
        return finish_text(g);
    }
    const struct way_plan *plan = way_decider_plan(w->decider);
    way_buf_printf(b,
                   "pid=%d policy=%s version=%s hash=%016llx set_aside=%s epoch=%llu "
                   "slots_covered=%.4f jobs=%u\n",
                   (int)g->started, plan->name, plan->version[0] ? plan->version : "none",
                   (unsigned long long)plan->layout.hash,
                   way_decider_set_aside(w->decider) ? "true" : "false",
                   (unsigned long long)atomic_load(way_health_epoch(w->health)),
                   way_health_coverage(w->health), g->job_count);
    unsigned nodes = way_health_nodes(w->health);
    for (unsigned i = 0; i < nodes && i < WAY_NODES_MAX; i++) {
        struct way_snapshot s;
        if (!node_view(g, i, &s))
            continue;
        const struct way_verdict *v = &s.view.verdict;
        way_buf_printf(b,
                       "node=%s role=%s state=%s reason=%s inflight=%llu failures=%u "
                       "latency=%.6f\n",
                       s.view.address, way_role_name(s.view.role),
                       way_state_name(v->state), v->reason[0] ? v->reason : "none",
                       (unsigned long long)s.view.inflight, s.view.failures,
                       s.view.latency > 0 ? s.view.latency : 0);
    }
    for (unsigned i = 0; i < WAY_STAT_COUNT; i++) {
        const struct way_stat_info *info = way_stat_info(i);
        uint64_t n = way_control_stat(w->control, (enum way_stat)i);
        if (n)
            way_buf_printf(b, "%s%s%s%s=%llu\n", info->metric, info->labels[0] ? "{" : "",
                           info->labels, info->labels[0] ? "}" : "",
                           (unsigned long long)n);
    }
    return finish_text(g);
}

const char *way_gateway_why(struct way_gateway *g, const char *node)
{
    unsigned nodes = g->started ? way_health_nodes(g->inside.health) : 0;
    way_buf_reset(&g->text);
    for (unsigned i = 0; i < nodes && i < WAY_NODES_MAX; i++) {
        struct way_snapshot s;
        if (!node_view(g, i, &s) || strcmp(s.view.address, node))
            continue;
        way_why(way_control_history(g->inside.control), &s.view, way_clock(), put_line,
                &g->text);
        return finish_text(g);
    }
    return NULL;
}

const char *way_gateway_events(struct way_gateway *g, double *after)
{
    way_buf_reset(&g->text);
    if (g->started) {
        const struct way_history *h = way_control_history(g->inside.control);
        uint64_t total = way_history_total(h), seen = (uint64_t)*after;
        uint64_t fresh = total > seen ? total - seen : 0;
        fresh = fresh < WAY_HISTORY_ENTRIES ? fresh : WAY_HISTORY_ENTRIES;
        for (uint64_t i = fresh; i-- > 0;) {
            const struct way_entry *e = way_history_at(h, WAY_NONE, (unsigned)i);
            char line[512];
            if (!e)
                continue;
            way_entry_line(e, line, sizeof line);
            put_line(&g->text, line);
        }
        *after = (double)total;
    }
    return finish_text(g);
}

/* ---- life ---- */

int way_gateway_tls(const struct way_gateway *g)
{
    return g->config.tls.on;
}

int way_gateway_new(struct way_gateway **out, const char *text, size_t n, unsigned kept,
                    double seconds, struct way_gateway_error *error)
{
    struct way_gateway *g = way_zalloc(sizeof *g);
    struct way_err err;
    struct way_inside_options o = {
        .config = &g->config, .carry = on_carry, .carried_gone = on_gone, .carry_arg = g
    };
    g->kept_max = kept;
    g->kept_seconds = seconds;
    for (unsigned i = 0; i < SESSION_LISTS; i++)
        g->sessions[i].next = g->sessions[i].prev = &g->sessions[i];
    way_config_init(&g->config);
    if (atomic_load(&busy_process) == getpid()) {
        (void)way_fail(&err, "a gateway works in this process already, in another Lua "
                             "state: lua_code_cache must be on");
        goto fail;
    }
    if (way_config_load_text(&g->config, "wayside", text, n, &err) < 0 ||
        way_config_check_inside(&g->config, &err) < 0)
        goto fail;
    if (g->config.log_level)
        way_log_level((enum way_level)way_log_level_named(g->config.log_level));
    if (way_inside_open(&g->inside, &o, &err) < 0)
        goto fail;
    *out = g;
    return 0;
fail:
    way_config_fini(&g->config);
    way_free(g);
    return fail(error, &err);
}

int way_gateway_start(struct way_gateway *g, struct way_gateway_error *error)
{
    struct way_err err;
    if (g->started == getpid())
        return 0;
    if (atomic_load(&busy_process) == getpid()) {
        (void)way_fail(&err, "a gateway works in this process already");
        return fail(error, &err);
    }
    if (way_inside_start(&g->inside, NULL, &err) < 0)
        return fail(error, &err);
    g->started = getpid();
    atomic_store(&busy_process, g->started);
    return 0;
}

/* A request that is cut off leaves its job to Lua's collector, which may take its time:
 * what it had of the nodes is given back as soon as its own time is over. */
static void strip_overdue(struct way_gateway *g)
{
    for (struct way_gateway_job *j = g->jobs; j; j = j->next) {
        if (j->call.arrived + j->call.total + GRACE_SECONDS > g->inside.loop.now)
            continue;
        way_call_expire(&j->call);
        for (struct way_gateway_conn *w = j->conns; w; w = w->next)
            if (w->conn)
                way_dispatch_uncarry(g->inside.dispatch, w->conn);
    }
}

double way_gateway_tick(struct way_gateway *g)
{
    if (!g->started)
        return TICK_SECONDS;
    ev_run(g->inside.loop.ev, EVRUN_NOWAIT);
    strip_overdue(g);
    drop_sessions(g, g->inside.loop.now - g->kept_seconds);
    way_loop_pass(&g->inside.loop);
    return TICK_SECONDS;
}

void way_gateway_free(struct way_gateway *g)
{
    if (!g)
        return;
    while (g->jobs)
        way_gateway_end(g->jobs);
    for (struct way_gateway_job *j = g->idle_jobs, *next; j; j = next) {
        next = j->next;
        way_free(j);
    }
    for (struct way_gateway_conn *w = g->idle_conns, *next; w; w = next) {
        next = w->next;
        way_free(w);
    }
    drop_sessions(g, INFINITY);
    if (g->started == getpid())
        atomic_store(&busy_process, 0);
    way_inside_close(&g->inside);
    way_config_fini(&g->config);
    way_buf_fini(&g->text);
    way_free(g);
}
