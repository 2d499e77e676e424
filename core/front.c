/* front - see front.h.
 *
 * Reading: one read per wake-up into the loop's scratch, commands parsed there; only an
 * unfinished rest is copied to the client. Writing: once per loop pass, all replies in one
 * send. So an idle client holds no buffers. */
#include "front.h"

#include "client.h"
#include "forward.h"
#include "listen.h"
#include "log.h"
#include "slots.h"
#include "transaction.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HANDED_MAX = 1024 };

struct way_front {
    struct way_front_options o;
    const struct way_limits *limits;
    struct way_client *clients;
    _Atomic unsigned count;
    ev_timer sweep;       /* the total time of commands, idle clients */
    pthread_mutex_t lock; /* of handed: new connections only */
    int handed[HANDED_MAX];
    unsigned handed_count;
};

static void on_client(struct ev_loop *ev, ev_io *w, int events);
static void consume_rest(struct way_client *c);

const struct way_front_options *way_front_about(const struct way_front *f)
{
    return &f->o;
}

/* ---- a client's end ---- */

static void free_client(void *p)
{
    struct way_client *c = p;
    way_buf_fini(&c->in);
    way_request_parser_fini(&c->parser);
    way_free(c->name);
    way_free(c);
}

static void count_replies(struct way_client *c)
{
    uint64_t done = c->pushed - c->pipeline.pending;
    way_stat_add(c->front->o.stats, WAY_STAT_REPLIES, done - c->replied);
    c->replied = done;
}

static void close_client(struct way_client *c)
{
    struct way_front *f = c->front;
    if (c->closed)
        return;
    c->closed = true;
    count_replies(c);
    ev_io_stop(f->o.loop->ev, &c->io);
    close(c->fd);
    way_loop_forget(f->o.loop, &c->flush);
    way_transaction_end(c);
    way_dispatch_detach(f->o.dispatch, &c->pipeline);
    *c->prev = c->next;
    if (c->next)
        c->next->prev = c->prev;
    atomic_fetch_sub(&f->count, 1);
    way_stat_add(f->o.stats, WAY_STAT_CLIENTS_CLOSED, 1);
    way_loop_reclaim(f->o.loop, c, free_client);
}

/* ---- writing ---- */

static void watch(struct way_client *c, int events)
{
    if ((c->io.events & (EV_READ | EV_WRITE)) == events && ev_is_active(&c->io))
        return;
    ev_io_stop(c->front->o.loop->ev, &c->io);
    ev_io_set(&c->io, c->fd, events);
    if (events)
        ev_io_start(c->front->o.loop->ev, &c->io);
}

/* Bytes of replies that are kept for the client. */
static size_t untaken(const struct way_pipeline *p)
{
    return way_buf_held(&p->out) + p->held_live + p->joining;
}

/* Back-pressure: too many commands under way or queued behind a detour, or too much that
 * it has not taken. */
static bool is_full(const struct way_client *c)
{
    const struct way_limits *l = c->front->limits;
    const struct way_pipeline *p = &c->pipeline;
    return p->pending >= l->client_inflight ||
           (double)(untaken(p) + p->behind_bytes) > l->client_output_bytes / 4;
}

static void set_interest(struct way_client *c)
{
    bool backlog = way_buf_held(&c->pipeline.out) > 0;
    int events = (c->paused || c->closing ? 0 : EV_READ) | (backlog ? EV_WRITE : 0);
    watch(c, events);
}

static bool write_out(struct way_client *c)
{
    struct way_buf *b = &c->pipeline.out;
    while (b->off < b->len) {
        ssize_t n = send(c->fd, b->p + b->off, b->len - b->off, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            return false;
        b->off += (size_t)n;
    }
    if (b->off == b->len) {
        way_buf_reset(b);
        way_loop_return(c->front->o.loop, b);
    }
    return true;
}

static void flush_client(struct way_client *c)
{
    const struct way_limits *l = c->front->limits;
    count_replies(c);
    if (!write_out(c)) {
        close_client(c);
        return;
    }
    struct way_pipeline *p = &c->pipeline;
    if (!p->held_live && p->held.p)
        way_loop_return(c->front->o.loop, &p->held);
    if ((double)untaken(p) > l->client_output_bytes) {
        way_log(WAY_WARN, "client=%llu closed=true limit=client_output_bytes",
                (unsigned long long)c->id);
        close_client(c);
        return;
    }
    if (c->closing && !p->pending && !way_buf_held(&p->out)) {
        close_client(c);
        return;
    }
    if (c->paused && !is_full(c)) {
        c->paused = false;
        consume_rest(c);
    }
    if (!c->closed)
        set_interest(c);
}

static void run_flush(struct way_task *t)
{
    flush_client(way_container(t, struct way_client, flush));
}

static void flush_later(struct way_client *c)
{
    way_loop_later(c->front->o.loop, &c->flush);
}

static void lend(struct way_pipeline *p, struct way_buf *b)
{
    struct way_client *c = p->owner;
    way_loop_borrow(c->front->o.loop, b);
}

/* ---- commands ---- */

void way_front_reply(struct way_client *c, const char *bytes, size_t n)
{
    struct way_request *r = way_pipeline_push(&c->pipeline, c->front->o.loop->now);
    if (way_pipeline_answer(&c->pipeline, r, bytes, n))
        flush_later(c);
}

void way_front_error(struct way_client *c, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct way_request *r = way_pipeline_push(&c->pipeline, c->front->o.loop->now);
    if (way_pipeline_error(&c->pipeline, r, "%s", text))
        flush_later(c);
}

static void answer_locally(struct way_client *c, const struct way_command *command,
                           const char *p, const struct way_arg *arg, unsigned count)
{
    struct way_buf b = { 0 };
    struct way_request *r = way_pipeline_push(&c->pipeline, c->front->o.loop->now);
    way_stat_add(c->front->o.stats, WAY_STAT_LOCAL, 1);
    way_local_answer(c, command, p, arg, count, &b);
    if (way_pipeline_answer(&c->pipeline, r, b.p, b.len))
        flush_later(c);
    way_buf_fini(&b);
    if (command->local == WAY_LOCAL_QUIT) {
        c->closing = true;
        flush_later(c);
    }
}

struct way_forward way_front_forward(struct way_client *c)
{
    const struct way_front *f = c->front;
    return (struct way_forward){ .dispatch = f->o.dispatch,
                                 .pipeline = &c->pipeline,
                                 .stats = f->o.stats,
                                 .arg = c->parser.arg,
                                 .count = c->parser.count,
                                 .any_slot = (uint16_t)(c->id % WAY_SLOTS),
                                 .now = f->o.loop->now };
}

static void serve_refused(struct way_client *c, const struct way_command *command,
                          const char *why)
{
    way_stat_add(c->front->o.stats, WAY_STAT_REFUSED, 1);
    way_front_error(c, "ERR wayside does not serve '%s': %s", command->name, why);
}

static void forward(struct way_client *c, const struct way_command *command,
                    const char *p, size_t n)
{
    struct way_err err;
    struct way_forward f = way_front_forward(c);
    if (way_forward(&f, command, p, n, &err) < 0)
        way_front_error(c, "%s", err.text);
}

/* p[0..n) is one whole request, parsed. */
static void serve(struct way_client *c, const char *p, size_t n)
{
    const struct way_arg *arg = c->parser.arg;
    unsigned count = c->parser.count;
    struct way_err err;
    const struct way_command *command = way_command_find(p + arg[0].off, arg[0].n);
    c->pushed++;
    if (c->transaction && way_transaction_takes(c, command, p, n))
        return;
    if (!command) {
        way_stat_add(c->front->o.stats, WAY_STAT_REFUSED, 1);
        (void)way_command_unknown(p, arg, count, &err);
        way_front_error(c, "%s", err.text);
        return;
    }
    if (way_command_arity(command, count, &err) < 0) {
        way_front_error(c, "%s", err.text);
        return;
    }
    if (command->how == WAY_HOW_FORWARD && command->keyspec == WAY_KEYS_RANGE &&
        command->first == command->last && !command->by_args) {
        struct way_forward f = way_front_forward(c);
        const struct way_arg *key = &arg[command->first];
        way_forward_to(&f, command, way_slot_of(p + key->off, key->n), 0, p, n);
        return;
    }
    const char *why = way_command_refused(command, p, arg, count);
    if (why)
        serve_refused(c, command, why);
    else if (command->how == WAY_HOW_LOCAL && command->local >= WAY_LOCAL_MULTI)
        way_transaction_command(c, command, p);
    else if (command->how == WAY_HOW_LOCAL)
        answer_locally(c, command, p, arg, count);
    else
        forward(c, command, p, n);
}

/* An inline command is served as the multi bulk it stands for. */
static bool serve_inline(struct way_client *c, const char *p, size_t n)
{
    struct way_buf b = { 0 };
    struct way_err err;
    bool ok = way_request_inline(p, n, &b, &err) == 0;
    if (ok && way_buf_held(&b)) {
        way_request_parser_reset(&c->parser);
        ok = way_request_parse(&c->parser, b.p, b.len,
                               (size_t)c->front->limits->request_args,
                               (size_t)c->front->limits->request_bytes, &err) > 0;
        if (ok && c->parser.count)
            serve(c, b.p, b.len);
    }
    if (!ok) {
        c->pushed++;
        way_front_error(c, "ERR %s", err.text);
    }
    way_buf_fini(&b);
    return ok;
}

static void bad_request(struct way_client *c, const struct way_err *err)
{
    way_stat_add(c->front->o.stats, WAY_STAT_BAD_REQUESTS, 1);
    c->pushed++;
    way_front_error(c, "ERR %s", err->text);
    c->closing = true;
    flush_later(c);
}

/* The next request's length, 0 if it is not whole yet, -1 if it is bad: in its form, or
 * as a whole larger than one may be. */
static ssize_t next_request(struct way_client *c, const char *p, size_t n,
                            struct way_err *err)
{
    const struct way_limits *l = c->front->limits;
    double most = l->request_bytes < UINT32_MAX ? l->request_bytes : UINT32_MAX;
    ssize_t len = way_request_parse(&c->parser, p, n, (size_t)l->request_args,
                                    (size_t)l->request_bytes, err);
    if (len < 0 || (double)(len > 0 ? (size_t)len : n) <= most)
        return len;
    return way_fail(err, "Protocol error: invalid bulk length");
}

/* Serves the whole requests in p[0..n); returns the bytes consumed. */
static size_t consume(struct way_client *c, const char *p, size_t n)
{
    struct way_err err;
    size_t at = 0;
    uint64_t before = c->pushed;
    while (at < n && !c->closing && !c->closed) {
        if (is_full(c)) {
            c->paused = true;
            break;
        }
        ssize_t len = next_request(c, p + at, n - at, &err);
        if (len == 0)
            break;
        if (len < 0) {
            bad_request(c, &err);
            at = n;
            break;
        }
        if (c->parser.count && c->parser.is_inline) {
            if (!serve_inline(c, p + at, (size_t)len)) {
                c->closing = true;
                flush_later(c);
            }
        } else if (c->parser.count) {
            serve(c, p + at, (size_t)len);
        }
        way_request_parser_reset(&c->parser);
        at += (size_t)len;
    }
    way_stat_add(c->front->o.stats, WAY_STAT_REQUESTS, c->pushed - before);
    return at;
}

static void consume_rest(struct way_client *c)
{
    if (!way_buf_held(&c->in))
        return;
    struct way_span all = { c->in.p + c->in.off, way_buf_held(&c->in) };
    size_t took = consume(c, all.p, all.n);
    if (!c->closed)
        way_loop_keep(c->front->o.loop, &c->in, all, took);
}

/* ---- reading ---- */

static ssize_t receive(struct way_client *c)
{
    struct way_loop *l = c->front->o.loop;
    struct way_span all;
    ssize_t n = way_loop_receive(l, c->fd, &c->in, &all);
    if (n <= 0)
        return n;
    size_t took = consume(c, all.p, all.n);
    if (!c->closed)
        way_loop_keep(l, &c->in, all, took);
    return n;
}

static void on_client(struct ev_loop *ev, ev_io *w, int events)
{
    (void)ev;
    struct way_client *c = way_container(w, struct way_client, io);
    if (events & EV_WRITE)
        flush_later(c);
    if (!(events & EV_READ))
        return;
    c->last_read = c->front->o.loop->now;
    ssize_t n = receive(c);
    if (c->closed)
        return;
    if (n == 0 && (c->pipeline.pending || way_buf_held(&c->pipeline.out)))
        c->closing = true; /* it said all it had to say: it still gets its replies */
    else if (n == 0 || (n < 0 && errno != EAGAIN))
        close_client(c);
    if (!c->closed && (c->paused || c->closing))
        set_interest(c);
}

static void on_grew(struct way_pipeline *p)
{
    flush_later(p->owner);
}

/* ---- commands whose time is over, clients that sleep ---- */

/* The head is the oldest and never answered, so each turn takes it off, and with it what
 * was answered early behind it. */
static void expire(struct way_client *c, double now, double total)
{
    struct way_pipeline *p = &c->pipeline;
    while (p->head && p->head->arrived + total <= now)
        way_dispatch_expire(c->front->o.dispatch, p->head);
}

static double sweep_seconds(const struct way_timeouts *t)
{
    return t->total / 8 < 0.25 ? t->total / 8 : 0.25;
}

static void on_sweep(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)events;
    struct way_front *f = way_container(w, struct way_front, sweep);
    const struct way_timeouts *t = &f->o.config->timeouts;
    double now = f->o.loop->now, every = sweep_seconds(t);
    if (every != f->sweep.repeat) { /* another time-out was configured meanwhile */
        f->sweep.repeat = every;
        ev_timer_again(ev, &f->sweep);
    }
    way_dispatch_overdue(f->o.dispatch);
    for (struct way_client *c = f->clients, *next; c; c = next) {
        next = c->next;
        if (c->pipeline.head)
            expire(c, now, t->total);
        else if (t->client_idle > 0 && now - c->last_read > t->client_idle)
            close_client(c);
    }
}

/* ---- birth and death ---- */

static void adopt(struct way_front *f, int fd)
{
    struct way_client *c = way_zalloc(sizeof *c);
    struct sockaddr_storage sa = { 0 };
    socklen_t len = sizeof sa;
    getsockname(fd, (struct sockaddr *)&sa, &len);
    c->unix_socket = sa.ss_family == AF_UNIX;
    if (!c->unix_socket)
        way_listen_tune(fd, &f->o.config->timeouts);
    c->front = f;
    c->fd = fd;
    c->flush.run = run_flush;
    c->id = f->o.host.next_client_id(f->o.host.arg);
    c->last_read = f->o.loop->now;
    way_pipeline_init(&c->pipeline, f->o.pool, c);
    c->pipeline.lend = lend;
    way_dispatch_attach(f->o.dispatch, &c->pipeline);
    c->prev = &f->clients;
    c->next = f->clients;
    if (c->next)
        c->next->prev = &c->next;
    f->clients = c;
    ev_io_init(&c->io, on_client, fd, EV_READ);
    ev_io_start(f->o.loop->ev, &c->io);
    way_stat_add(f->o.stats, WAY_STAT_CLIENTS_TOTAL, 1);
}

void way_front_hand(struct way_front *f, int fd)
{
    bool room;
    pthread_mutex_lock(&f->lock);
    room = f->handed_count < HANDED_MAX;
    if (room) {
        f->handed[f->handed_count++] = fd;
        atomic_fetch_add(&f->count, 1); /* before the worker can take it off again */
    }
    pthread_mutex_unlock(&f->lock);
    if (!room)
        close(fd);
    way_loop_wake(f->o.loop);
}

void way_front_take(struct way_front *f)
{
    int fd[HANDED_MAX];
    pthread_mutex_lock(&f->lock);
    unsigned n = f->handed_count;
    memcpy(fd, f->handed, n * sizeof *fd);
    f->handed_count = 0;
    pthread_mutex_unlock(&f->lock);
    for (unsigned i = 0; i < n; i++)
        adopt(f, fd[i]);
}

unsigned way_front_clients(const struct way_front *f)
{
    return atomic_load(&f->count);
}

struct way_front *way_front_new(const struct way_front_options *o)
{
    struct way_front *f = way_zalloc(sizeof *f);
    double every = sweep_seconds(&o->config->timeouts);
    f->o = *o;
    f->limits = &o->config->limits;
    pthread_mutex_init(&f->lock, NULL);
    ev_timer_init(&f->sweep, on_sweep, every, every);
    ev_timer_start(o->loop->ev, &f->sweep);
    way_dispatch_on_grew(o->dispatch, on_grew);
    return f;
}

void way_front_free(struct way_front *f)
{
    way_front_take(f);
    while (f->clients)
        close_client(f->clients);
    ev_timer_stop(f->o.loop->ev, &f->sweep);
    pthread_mutex_destroy(&f->lock);
    way_free(f);
}
