/* conn - see conn.h.
 *
 *   open ──▶ RESOLVE ──▶ DIAL ──▶ TLS ──▶ HELLO ──▶ SEND (ready) ──▶ closed
 *              │          │        │       │           │               ▲
 *              └──────────┴────────┴───────┴───────────┴── give_up ────┘   (way_conn_close: silent)
 *   Each step begins in set_step; one that is not needed is left out.
 *
 * Invariants (way_conn's fields):
 *   out.p[off..len) are the bytes of the unanswered requests, in order; its last byte is
 *   stream offset `queued`; `sent` <= queued. The head's first byte is at out.off. A
 *   request whose end <= sent was accepted whole by write(): its fate is unknown until its
 *   reply is read; one whose end > sent is unsent.
 *   step is SEND exactly while ready_at > 0; the hello's bytes never are in `out`.
 *   backlog: some queued bytes wait for the socket, or for the connect phase.
 *
 * Deadlines need no timer per command: one timer per connection is left to fire and then
 * looks whether what it waits for is really due (libev's manual, "Be smart about
 * timeouts"). It comes after the pass's reading and writing: where the loop itself was
 * late, what has arrived meanwhile counts, and no node is blamed for our delay. When a
 * send fails, what the peer still had to say is read first: replies that arrived are
 * answers.
 *
 * Over TLS the same bytes go through one branch (put_bytes, receive). A node that does not
 * take our certificate says so behind the handshake (TLS 1.3): so the hello has a reply to
 * wait for in any case, and such a refusal there belongs to the step before. */
#include "conn.h"

#include "listen.h"
#include "resolve.h"
#include "slots.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OUT_KEPT = 1 << 20 }; /* bytes of `out` that a connection keeps when idle, */
static const double REST_SECONDS = 0.2;     /* for so long at least */
enum { SEALED_BYTES = 4 * WAY_TLS_RECORD }; /* a carried one's records, made in advance */

struct way_conn_connect {
    struct way_resolver *resolver;
    struct way_resolving *resolving;
    char host[WAY_HOST_MAX];
    uint16_t port;
    struct way_address address[WAY_ADDRESSES_MAX];
    unsigned addresses, tried;
    double dial_timeout;
    char *user, *password;
    const struct way_tls *tls;
    struct way_buf hello;               /* bytes of the hello not yet accepted */
    unsigned hello_replies, hello_auth; /* replies to come; which one is AUTH's (1..) */
    unsigned hello_any;                 /* and to which any answer is good */
    unsigned hello_read;
    char resolve_error[WAY_MESSAGE_MAX]; /* told inside way_conn_open: reported later */
};

static void on_io(struct ev_loop *ev, ev_io *w, int events);
static void on_timer(struct ev_loop *ev, ev_timer *w, int events);
static void run_flush(struct way_task *t);
static void dial_next(struct way_conn *c, int errnum);
static void read_some(struct way_conn *c, bool last_words);
static void send_queued(struct way_conn *c);
static void connected(struct way_conn *c);
static void give_up(struct way_conn *c, enum way_phase phase, enum way_error error,
                    int errnum, const char *message);

/* ---- state ---- */

static bool is_ready(const struct way_conn *c)
{
    return c->ready_at > 0;
}

static void arm(struct way_conn *c, double seconds)
{
    if (c->carried)
        return;
    ev_timer_stop(c->loop->ev, &c->timer);
    ev_timer_set(&c->timer, seconds > 0 ? seconds : 0, 0.);
    ev_timer_start(c->loop->ev, &c->timer);
}

static void set_step(struct way_conn *c, enum way_step step)
{
    c->step = step;
    c->step_at = c->loop->now;
    if (step == WAY_STEP_RESOLVE)
        arm(c, c->timeouts->resolve);
    else if (step == WAY_STEP_DIAL)
        arm(c, c->connect->dial_timeout);
    else if (step == WAY_STEP_TLS)
        arm(c, c->timeouts->tls);
    else if (step == WAY_STEP_HELLO)
        arm(c, c->timeouts->hello);
    else
        ev_timer_stop(c->loop->ev, &c->timer);
}

static void watch(struct way_conn *c, int events)
{
    if (c->carried)
        return;
    if (ev_is_active(&c->io) && (c->io.events & (EV_READ | EV_WRITE)) == events)
        return;
    ev_io_stop(c->loop->ev, &c->io);
    ev_io_set(&c->io, c->fd, events);
    ev_io_start(c->loop->ev, &c->io);
}

static void close_socket(struct way_conn *c)
{
    if (c->tls)
        way_tls_end(c->tls);
    way_free(c->tls);
    c->tls = NULL;
    if (c->fd < 0)
        return;
    ev_io_stop(c->loop->ev, &c->io);
    close(c->fd);
    c->fd = -1;
}

static void free_connect(struct way_conn *c)
{
    struct way_conn_connect *k = c->connect;
    if (!k)
        return;
    if (k->resolving)
        way_resolve_cancel(k->resolving);
    way_buf_fini(&k->hello);
    way_free(k->user);
    way_free(k->password);
    way_free(k);
    c->connect = NULL;
}

static void free_conn(void *p)
{
    struct way_conn *c = p;
    way_buf_fini(&c->out);
    way_buf_fini(&c->in);
    way_free(c);
}

static void shut(struct way_conn *c)
{
    c->closed = true;
    close_socket(c);
    ev_timer_stop(c->loop->ev, &c->timer);
    way_loop_forget(c->loop, &c->flush);
    free_connect(c);
    way_loop_reclaim(c->loop, c, free_conn);
}

void way_conn_close(struct way_conn *c)
{
    if (!c->closed)
        shut(c);
}

static void finish_draining(struct way_conn *c)
{
    if (c->closed || !c->draining || c->head)
        return;
    shut(c);
    c->ops->drained(c);
}

void way_conn_drain(struct way_conn *c)
{
    c->draining = true;
    finish_draining(c);
}

/* ---- what goes wrong ---- */

static enum way_error error_of(int errnum)
{
    switch (errnum) {
    case ECONNREFUSED: return WAY_ERROR_REFUSED;
    case ETIMEDOUT: return WAY_ERROR_TIMEOUT;
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
    case EHOSTDOWN: return WAY_ERROR_UNREACHABLE;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case EADDRNOTAVAIL: return WAY_ERROR_OVERFLOW;
    default: return WAY_ERROR_RESET;
    }
}

/* What the call that has just failed with errno `errnum` has come to. */
struct failure {
    enum way_error error;
    int errnum;
    char message[160];
};

static struct failure failure_of(const struct way_conn *c, int errnum)
{
    struct failure f = { .error = error_of(errnum), .errnum = errnum };
    if (!c->tls || c->tls->fault == WAY_TLS_FAULT_SOCKET)
        return f;
    f.error = c->tls->fault == WAY_TLS_FAULT_EOF           ? WAY_ERROR_EOF
              : c->tls->fault == WAY_TLS_FAULT_CERTIFICATE ? WAY_ERROR_CERTIFICATE
                                                           : WAY_ERROR_TLS;
    f.errnum = 0;
    memcpy(f.message, c->tls->message, sizeof f.message);
    return f;
}

static bool reply_begun(const struct way_conn *c)
{
    return way_buf_held(&c->in) > 0;
}

static double began_at(const struct way_conn *c, enum way_phase phase)
{
    if (phase == WAY_PHASE_CONNECT)
        return c->born;
    if (phase == WAY_PHASE_WRITE)
        return c->last_accept;
    if (c->head && way_conn_was_sent(c, c->head))
        return c->head->sent;
    return c->last_reply > 0 ? c->last_reply : c->ready_at;
}

static void fill_event(struct way_conn *c, struct way_event *e, enum way_phase phase,
                       enum way_error error, int errnum, const char *message)
{
    *e = (struct way_event){ .kind = WAY_KIND_CONNECTION,
                             .phase = phase,
                             .error = error,
                             .errnum = errnum,
                             .n = c->inflight };
    e->step = c->step;
    if (is_ready(c) && phase == WAY_PHASE_READ)
        e->step = reply_begun(c) ? WAY_STEP_REPLY : WAY_STEP_WAIT;
    if (!message && errnum)
        message = strerror(errnum);
    snprintf(e->message, sizeof e->message, "%.*s", WAY_MESSAGE_MAX - 1,
             message ? message : "");
    if (phase == WAY_PHASE_CONNECT && error == WAY_ERROR_CERTIFICATE)
        e->step = WAY_STEP_TLS;
    if (error == WAY_ERROR_REPLY || error == WAY_ERROR_AUTH) {
        size_t n = strcspn(e->message, " ");
        snprintf(e->reply, sizeof e->reply, "%.*s", (int)(n < 23 ? n : 23), e->message);
    }
    e->reused = c->answered > c->burst_replies;
    e->now = c->loop->now;
    e->unix_time = way_unix();
    e->connection_age = e->now - c->born;
    e->bytes_written = c->sent - c->burst_start;
    e->replies_read = c->burst_replies;
    e->began = began_at(c, phase);
    e->deadline_left = -1;
}

static void give_up(struct way_conn *c, enum way_phase phase, enum way_error error,
                    int errnum, const char *message)
{
    struct way_event e;
    fill_event(c, &e, phase, error, errnum, message);
    shut(c);
    c->ops->broke(c, &e);
}

static void give_up_as(struct way_conn *c, enum way_phase phase, const struct failure *f)
{
    give_up(c, phase, f->error, f->errnum, f->message[0] ? f->message : NULL);
}

void way_conn_break(struct way_conn *c, enum way_error error, const char *message)
{
    if (!c->closed)
        give_up(c, is_ready(c) ? WAY_PHASE_READ : WAY_PHASE_CONNECT, error, 0, message);
}

/* ---- deadlines ---- */

/* When the ready connection is late: 0 if it waits for nothing. */
static double due_at(const struct way_conn *c, enum way_phase *phase)
{
    double due = 0;
    if (c->backlog) {
        due = c->last_accept + c->timeouts->write;
        *phase = WAY_PHASE_WRITE;
    }
    if (c->head && way_conn_was_sent(c, c->head)) {
        double from = c->head->sent > c->last_reply ? c->head->sent : c->last_reply;
        if (due == 0 || from + c->timeouts->read < due) {
            due = from + c->timeouts->read;
            *phase = WAY_PHASE_READ;
        }
    }
    return due;
}

/* The timer never sleeps longer: what begins while it does can't be due before it looks
 * again, whichever of the two it is. */
static double shorter_deadline(const struct way_conn *c)
{
    double r = c->timeouts->read, w = c->timeouts->write;
    return r < w ? r : w;
}

/* The system calls a socket writable when a third of its buffer is free. A slow peer takes
 * longer for that than write() would have to wait, so it is tried before it is late. */
static bool tries_once_more(struct way_conn *c)
{
    uint64_t before = c->sent;
    send_queued(c);
    return c->sent > before;
}

/* It waits for nothing: what its queue was needed for is over, soon if not now. */
static void rest(struct way_conn *c)
{
    if (!c->out.cap || way_buf_held(&c->out))
        return;
    double look = shorter_deadline(c); /* what begins meanwhile may be due by then */
    if (c->loop->now - c->last_reply > REST_SECONDS)
        way_buf_trim(&c->out, 0);
    else
        arm(c, look < REST_SECONDS ? look : REST_SECONDS);
}

static void on_timer(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)events;
    struct way_conn *c = way_container(w, struct way_conn, timer);
    if (!is_ready(c)) {
        if (c->step == WAY_STEP_DIAL)
            dial_next(c, ETIMEDOUT);
        else
            give_up(c, WAY_PHASE_CONNECT, WAY_ERROR_TIMEOUT, 0, NULL);
        return;
    }
    enum way_phase phase = WAY_PHASE_READ;
    double due = due_at(c, &phase), now = c->loop->now;
    if (due > 0 && due <= now && phase == WAY_PHASE_WRITE && tries_once_more(c))
        due = due_at(c, &phase);
    if (due == 0 && !c->closed)
        rest(c);
    if (due == 0 || c->closed)
        return;
    double look = shorter_deadline(c);
    if (due <= now)
        give_up(c, phase, WAY_ERROR_TIMEOUT, 0, NULL);
    else
        arm(c, due - now < look ? due - now : look);
}

/* One that is due in this very pass has its turn yet. */
static void arm_if_idle(struct way_conn *c)
{
    if (!ev_is_active(&c->timer) && !ev_is_pending(&c->timer))
        arm(c, shorter_deadline(c));
}

/* ---- the socket, in plain or by TLS ---- */

/* As send(). */
static ssize_t put_bytes(struct way_conn *c, const char *p, size_t n)
{
    if (c->tls)
        return way_tls_write(c->tls, p, n);
    return send(c->fd, p, n, MSG_NOSIGNAL);
}

/* What was to be written was not, for now (EAGAIN): until when. */
static int events_of_backlog(const struct way_conn *c)
{
    if (c->tls && c->tls->want == WAY_TLS_WANT_READ)
        return EV_READ;
    return EV_READ | EV_WRITE;
}

static int events_of_rest(const struct way_conn *c)
{
    return c->read_wants_write ? EV_READ | EV_WRITE : EV_READ;
}

/* A write failed so: replies that are here already are answers, and TLS may have been told
 * why. */
static void failed_write(struct way_conn *c, enum way_phase phase, int errnum)
{
    struct failure f = failure_of(c, errnum);
    read_some(c, true);
    if (c->closed)
        return;
    if (c->tls && c->tls->ended && c->tls->fault == WAY_TLS_FAULT_CERTIFICATE)
        f = failure_of(c, 0);
    give_up_as(c, phase, &f);
}

/* ---- connect: resolve, dial, tls, hello ---- */

static void put_hello(struct way_conn *c)
{
    struct way_conn_connect *k = c->connect;
    const char *user = k->user ? k->user : "default";
    if (c->resp == 3) {
        const char *words[] = { "HELLO", "3", "AUTH", user, k->password };
        way_resp_put_command(&k->hello, k->password ? 5 : 2, words);
        k->hello_replies++;
        k->hello_auth = k->password ? k->hello_replies : 0;
    } else if (k->password) {
        const char *words[] = { "AUTH", k->user ? k->user : k->password, k->password };
        way_resp_put_command(&k->hello, k->user ? 3 : 2, words);
        k->hello_auth = ++k->hello_replies;
    }
    if (c->readonly) {
        const char *words[] = { "READONLY" };
        way_resp_put_command(&k->hello, 1, words);
        k->hello_replies++;
    }
    if (k->tls && !k->hello_replies) {
        const char *words[] = { "PING" };
        way_resp_put_command(&k->hello, 1, words);
        k->hello_any = ++k->hello_replies;
    }
}

static void become_ready(struct way_conn *c)
{
    free_connect(c);
    set_step(c, WAY_STEP_SEND);
    c->ready_at = c->loop->now;
    c->last_accept = c->ready_at;
    watch(c, EV_READ);
    if (c->ops->ready)
        c->ops->ready(c);
    if (!c->closed && c->head && !c->carried)
        way_loop_later(c->loop, &c->flush);
}

static void send_hello(struct way_conn *c)
{
    struct way_buf *b = &c->connect->hello;
    while (b->off < b->len) {
        ssize_t n = put_bytes(c, b->p + b->off, way_buf_held(b));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) { /* it may have said why ("max number of clients") */
            failed_write(c, WAY_PHASE_CONNECT, errno);
            return;
        }
        b->off += (size_t)n;
    }
    watch(c, b->off < b->len ? events_of_backlog(c) : events_of_rest(c));
}

static void connected(struct way_conn *c)
{
    put_hello(c);
    if (!c->connect->hello_replies) {
        become_ready(c);
        return;
    }
    set_step(c, WAY_STEP_HELLO);
    if (!c->carried)
        send_hello(c);
}

static void shake_hands(struct way_conn *c)
{
    if (way_tls_handshake(c->tls) == 0) {
        connected(c);
    } else if (errno == EAGAIN) {
        watch(c, c->tls->want == WAY_TLS_WANT_WRITE ? EV_WRITE : EV_READ);
    } else {
        struct failure f = failure_of(c, errno);
        give_up_as(c, WAY_PHASE_CONNECT, &f);
    }
}

static void begin_tls(struct way_conn *c)
{
    struct way_err err;
    set_step(c, WAY_STEP_TLS);
    c->tls = way_zalloc(sizeof *c->tls);
    if (way_tls_begin(c->tls, c->connect->tls, c->fd, c->connect->host, &err) < 0)
        give_up(c, WAY_PHASE_CONNECT, WAY_ERROR_TLS, 0, err.text);
    else
        shake_hands(c);
}

/* One reply to the hello. */
static void hello_reply(struct way_conn *c, const char *p, size_t n)
{
    struct way_conn_connect *k = c->connect;
    k->hello_read++;
    if (p[0] == '-' && k->hello_read != k->hello_any) {
        char text[WAY_MESSAGE_MAX];
        size_t len = n > 3 ? n - 3 : 0;
        snprintf(text, sizeof text, "%.*s", (int)(len < 120 ? len : 120), p + 1);
        bool auth = k->hello_read == k->hello_auth && strncmp(text, "LOADING", 7) &&
                    strncmp(text, "BUSY", 4) && strncmp(text, "ERR max", 7);
        auth = auth || !strncmp(text, "NOAUTH", 6) || !strncmp(text, "NOPERM", 6);
        give_up(c, WAY_PHASE_CONNECT, auth ? WAY_ERROR_AUTH : WAY_ERROR_REPLY, 0, text);
    } else if (k->hello_read == k->hello_replies) {
        become_ready(c);
    }
}

/* Dials the next address, or gives up with the last one's error. */
static void dial_next(struct way_conn *c, int errnum)
{
    struct way_conn_connect *k = c->connect;
    close_socket(c);
    while (k->tried < k->addresses) {
        const struct way_address *a = &k->address[k->tried++];
        int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            errnum = errno;
            continue;
        }
        way_listen_tune(fd, c->timeouts);
        if (connect(fd, (const struct sockaddr *)&a->sa, a->len) < 0 &&
            errno != EINPROGRESS) {
            errnum = errno;
            close(fd);
            continue;
        }
        c->fd = fd;
        set_step(c, WAY_STEP_DIAL);
        watch(c, EV_WRITE);
        return;
    }
    give_up(c, WAY_PHASE_CONNECT, error_of(errnum), errnum, NULL);
}

static void on_resolved(void *arg, const struct way_address *a, unsigned n,
                        const char *error)
{
    struct way_conn *c = arg;
    struct way_conn_connect *k = c->connect;
    k->resolving = NULL;
    if (n > WAY_ADDRESSES_MAX)
        n = WAY_ADDRESSES_MAX;
    if (n)
        memcpy(k->address, a, n * sizeof *a);
    k->addresses = n;
    snprintf(k->resolve_error, sizeof k->resolve_error, "%s", error ? error : "");
    way_loop_later(c->loop, &c->flush); /* goes on there: never inside way_conn_open */
}

/* The name is known, or is not. */
static void resolved(struct way_conn *c)
{
    struct way_conn_connect *k = c->connect;
    if (k->resolving)
        return;
    if (k->addresses == 0)
        give_up(c, WAY_PHASE_CONNECT, WAY_ERROR_DNS, 0, k->resolve_error);
    else
        dial_next(c, 0);
}

static void on_dialed(struct way_conn *c)
{
    int errnum = 0;
    socklen_t n = sizeof errnum;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &errnum, &n);
    if (errnum)
        dial_next(c, errnum);
    else if (c->connect->tls)
        begin_tls(c);
    else
        connected(c);
}

static struct way_conn *new_conn(const struct way_conn_options *o)
{
    struct way_conn *c = way_zalloc(sizeof *c);
    c->loop = o->loop;
    c->ops = o->ops;
    c->owner = o->owner;
    c->timeouts = o->timeouts;
    c->flush.run = run_flush;
    c->reply_bytes = o->reply_bytes;
    c->node = o->node;
    c->generation = o->generation;
    c->resp = o->resp;
    c->readonly = o->readonly;
    c->fd = -1;
    c->born = o->loop->now;
    c->backlog = true;
    ev_init(&c->io, on_io);
    ev_init(&c->timer, on_timer);
    ev_set_priority(&c->timer, EV_MINPRI);
    struct way_conn_connect *k = c->connect = way_zalloc(sizeof *k);
    k->resolver = o->resolver;
    snprintf(k->host, sizeof k->host, "%s", o->host);
    k->port = o->port;
    k->tls = o->tls;
    k->user = o->user ? way_strdup(o->user) : NULL;
    k->password = o->password ? way_strdup(o->password) : NULL;
    k->dial_timeout = o->dial_timeout > 0 ? o->dial_timeout : o->timeouts->dial;
    return c;
}

struct way_conn *way_conn_open(const struct way_conn_options *o)
{
    struct way_conn *c = new_conn(o);
    struct way_conn_connect *k = c->connect;
    set_step(c, WAY_STEP_RESOLVE);
    k->resolving = way_resolve(o->resolver, k->host, k->port, on_resolved, c);
    return c;
}

/* ---- write: send ---- */

void way_conn_send(struct way_conn *c, struct way_request *r, const char *bytes, size_t n)
{
    way_buf_put(&c->out, bytes, n);
    c->queued += n;
    r->bytes = (uint32_t)n;
    r->end = c->queued;
    r->conn = c;
    r->state = WAY_REQUEST_SENT;
    r->sent = c->loop->now;
    if (r->attempt < UINT16_MAX)
        r->attempt++;
    r->link = NULL;
    if (c->tail)
        c->tail->link = r;
    else
        c->head = r;
    c->tail = r;
    c->inflight++;
    if (!c->carried)
        way_loop_later(c->loop, &c->flush);
}

struct way_span way_conn_bytes(const struct way_conn *c, const struct way_request *r)
{
    size_t behind = (size_t)(c->queued - (r->end - r->bytes));
    return (struct way_span){ c->out.p + c->out.len - behind, r->bytes };
}

struct way_request *way_conn_take(struct way_conn *c)
{
    struct way_request *all = c->head;
    c->head = c->tail = NULL;
    c->inflight = 0;
    return all;
}

/* After a backlog a request counts as sent when its last byte went, not when it came. */
static void stamp_sent(struct way_conn *c, uint64_t before)
{
    for (struct way_request *r = c->head; r && r->end <= c->sent; r = r->link)
        if (r->end > before)
            r->sent = c->loop->now;
}

/* Writes what is queued; 0 or an errno. */
static int write_queued(struct way_conn *c)
{
    uint64_t before = c->sent;
    int errnum = 0;
    while (c->sent < c->queued) {
        size_t left = (size_t)(c->queued - c->sent);
        ssize_t n = put_bytes(c, c->out.p + c->out.len - left, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            errnum = errno == EAGAIN ? 0 : errno;
            break;
        }
        c->sent += (uint64_t)n;
        if ((size_t)n < left && !c->tls) /* which takes a record at a time */
            break;
    }
    if (c->sent > before) {
        c->last_accept = c->loop->now;
        if (c->backlog)
            stamp_sent(c, before);
    }
    return errnum;
}

static void send_queued(struct way_conn *c)
{
    int errnum = write_queued(c);
    if (errnum) {
        failed_write(c, WAY_PHASE_WRITE, errnum);
        return;
    }
    bool backlog = c->sent < c->queued;
    if (backlog && !c->backlog)
        c->last_accept = c->loop->now;
    watch(c, backlog ? events_of_backlog(c) : events_of_rest(c));
    c->backlog = backlog;
    if (c->head)
        arm_if_idle(c);
}

static void run_flush(struct way_task *t)
{
    struct way_conn *c = way_container(t, struct way_conn, flush);
    if (c->closed)
        return;
    if (is_ready(c))
        send_queued(c);
    else if (c->step == WAY_STEP_RESOLVE)
        resolved(c);
}

/* ---- read: wait, reply ---- */

static void nothing_in_flight(struct way_conn *c)
{
    way_buf_reset(&c->out);
    c->burst_replies = 0;
    c->burst_start = c->queued;
}

/* An answer that nobody asked for: the server's last words, or nonsense. */
static void unasked(struct way_conn *c, const char *p, size_t n)
{
    char text[WAY_MESSAGE_MAX];
    size_t len = n > 3 ? n - 3 : 0;
    snprintf(text, sizeof text, "%.*s", (int)(len < 120 ? len : 120), p + 1);
    if (p[0] == '-')
        give_up(c, WAY_PHASE_READ, WAY_ERROR_REPLY, 0, text);
    else
        give_up(c, WAY_PHASE_READ, WAY_ERROR_PROTOCOL, 0, "a reply nobody asked for");
}

static inline void one_reply(struct way_conn *c, const char *p, size_t n)
{
    struct way_request *r = c->head;
    if (!r || r->end > c->sent) {
        unasked(c, p, n);
        return;
    }
    c->head = r->link;
    if (c->head)
        way_request_prefetch(c->head);
    c->inflight--;
    c->answered_bytes = (struct way_span){ c->out.p + c->out.off, r->bytes };
    c->out.off += r->bytes;
    c->burst_replies++;
    c->answered++;
    if (!c->head) {
        c->tail = NULL;
        nothing_in_flight(c);
    }
    c->ops->reply(c, r, p, n);
}

/* What begins here is no reply, or larger than one may be: which of them, tells a framer
 * that has no bound. */
static void no_reply(struct way_conn *c, const char *p, size_t n)
{
    struct way_reply_framer free_framer = { 0 };
    enum way_phase phase = is_ready(c) ? WAY_PHASE_READ : WAY_PHASE_CONNECT;
    if (way_reply_frame(&free_framer, p, n, SIZE_MAX / 2) < 0)
        give_up(c, phase, WAY_ERROR_PROTOCOL, 0, "not a RESP reply");
    else
        give_up(c, phase, WAY_ERROR_OVERFLOW, 0, "a reply over limits.reply_bytes");
}

/* Delivers whole replies; returns the bytes consumed. The connection may be closed. */
static size_t parse(struct way_conn *c, const char *p, size_t n)
{
    size_t at = 0;
    unsigned replies = 0;
    while (at < n && !c->closed) {
        ssize_t len = way_reply_frame(&c->framer, p + at, n - at, c->reply_bytes);
        if (len > 0 ? (size_t)len > c->reply_bytes : n - at > c->reply_bytes)
            len = -1; /* no part of it is too long, but the whole is */
        if (len == 0)
            break;
        if (len < 0) {
            no_reply(c, p + at, n - at);
            break;
        }
        way_reply_framer_reset(&c->framer);
        const char *reply = p + at;
        at += (size_t)len;
        if (reply[0] == '>')
            continue;
        if (!is_ready(c)) {
            hello_reply(c, reply, (size_t)len);
            continue;
        }
        one_reply(c, reply, (size_t)len);
        replies++;
    }
    if (replies && !c->closed) {
        c->last_reply = c->loop->now;
        c->ops->batch(c, replies);
        finish_draining(c);
        if (!c->closed && !c->head)
            way_buf_trim(&c->out, OUT_KEPT);
    }
    return at;
}

/* As way_loop_receive: records as long as whole ones have room, so that none stays behind
 * half. A fault behind them is told again by the next read. */
static ssize_t receive_records(struct way_conn *c, struct way_span *all)
{
    char *to;
    size_t room = way_loop_room(c->loop, &c->in, &to), got = 0;
    ssize_t n = 0;
    while (room - got >= WAY_TLS_RECORD) {
        n = way_tls_read(c->tls, to + got, room - got);
        if (n < 0)
            break;
        got += (size_t)n;
    }
    c->read_wants_write = n < 0 && errno == EAGAIN && c->tls->want == WAY_TLS_WANT_WRITE;
    if (got)
        *all = way_loop_received(c->loop, &c->in, got);
    return got ? (ssize_t)got : n;
}

static ssize_t receive(struct way_conn *c)
{
    struct way_span all = { NULL, 0 };
    ssize_t n = c->tls ? receive_records(c, &all)
                       : way_loop_receive(c->loop, c->fd, &c->in, &all);
    if (n <= 0)
        return n;
    size_t took = parse(c, all.p, all.n);
    if (!c->closed) /* the framer walks offsets: the rest may move */
        way_loop_keep(c->loop, &c->in, all, took);
    return n;
}

/* After a read by TLS, which may have waited for a write, or a write for it: then nobody
 * watches for that one. */
static void look_at_both(struct way_conn *c)
{
    bool writes = c->io.events & EV_WRITE;
    bool queued = is_ready(c) ? c->backlog : way_buf_held(&c->connect->hello) > 0;
    if (queued && !writes && is_ready(c))
        send_queued(c);
    else if (queued && !writes)
        send_hello(c);
    else if (!queued)
        watch(c, events_of_rest(c));
}

/* Reads once; with last_words until nothing comes, and without giving up on its end: the
 * caller does. */
static void read_some(struct way_conn *c, bool last_words)
{
    ssize_t n;
    do {
        n = receive(c);
    } while (last_words && n > 0 && !c->closed);
    int errnum = errno;
    if (c->closed || last_words)
        return;
    if (c->tls && (n > 0 || errnum == EAGAIN))
        look_at_both(c);
    if (n > 0 || c->closed)
        return;
    enum way_phase phase = is_ready(c) ? WAY_PHASE_READ : WAY_PHASE_CONNECT;
    if (n == 0) {
        give_up(c, phase, WAY_ERROR_EOF, 0, "the node closed the connection");
    } else if (errnum != EAGAIN) {
        struct failure f = failure_of(c, errnum);
        give_up_as(c, phase, &f);
    }
}

static void on_io(struct ev_loop *ev, ev_io *w, int events)
{
    (void)ev;
    struct way_conn *c = way_container(w, struct way_conn, io);
    if (c->step == WAY_STEP_DIAL || c->step == WAY_STEP_TLS) {
        if (c->step == WAY_STEP_DIAL)
            on_dialed(c);
        else
            shake_hands(c);
        return;
    }
    if (events & EV_WRITE && c->read_wants_write)
        events |= EV_READ;
    if (events & EV_WRITE && c->step == WAY_STEP_HELLO)
        send_hello(c);
    else if (events & EV_WRITE)
        send_queued(c); /* before reading: a failed write is told as one */
    if (!c->closed && events & EV_READ)
        read_some(c, false);
}

/* ---- carried connections ---- */

struct way_conn *way_conn_carry(const struct way_conn_options *o)
{
    struct way_conn *c = new_conn(o);
    c->carried = true;
    c->step = WAY_STEP_DIAL;
    return c;
}

/* Makes records of what is queued, some at a time: what is none yet was not sent. */
static void seal(struct way_conn *c)
{
    ssize_t n = 0;
    if (c->closed || !c->tls || c->step == WAY_STEP_TLS)
        return;
    if (!is_ready(c)) {
        struct way_buf *b = &c->connect->hello;
        while (n >= 0 && way_buf_held(b)) {
            n = way_tls_write(c->tls, b->p + b->off, way_buf_held(b));
            b->off += n > 0 ? (size_t)n : 0;
        }
    }
    while (n >= 0 && is_ready(c) && c->sealed < c->queued &&
           way_tls_to_send(c->tls).n < SEALED_BYTES) {
        size_t left = (size_t)(c->queued - c->sealed);
        n = way_tls_write(c->tls, c->out.p + c->out.len - left, left);
        c->sealed += n > 0 ? (uint64_t)n : 0;
    }
    if (n < 0) {
        struct failure f = failure_of(c, errno);
        give_up_as(c, is_ready(c) ? WAY_PHASE_WRITE : WAY_PHASE_CONNECT, &f);
    }
}

void way_conn_carried_up(struct way_conn *c, bool reused, struct way_tls_session *session)
{
    if (c->closed || is_ready(c))
        return;
    c->tls = session;
    if (reused && c->connect->tls && !session) {
        give_up(c, WAY_PHASE_CONNECT, WAY_ERROR_TLS, 0,
                "a kept socket without a session");
        return;
    }
    if (reused) {
        c->answered = 1; /* it served before: its failing may be of that */
        become_ready(c);
    } else if (c->connect->tls) {
        begin_tls(c);
    } else {
        connected(c);
    }
    seal(c);
}

struct way_tls_session *way_conn_carried_session(struct way_conn *c)
{
    struct way_tls_session *session = c->tls;
    c->tls = NULL;
    return session;
}

bool way_conn_carried_idle(struct way_conn *c)
{
    return !c->closed && is_ready(c) && !c->head && !c->draining &&
           !way_buf_held(&c->in) && (!c->tls || way_tls_rests(c->tls));
}

struct way_span way_conn_carried_out(const struct way_conn *c)
{
    if (c->closed || c->step == WAY_STEP_DIAL)
        return (struct way_span){ NULL, 0 };
    if (c->tls)
        return way_tls_to_send(c->tls);
    if (!is_ready(c)) {
        const struct way_buf *b = &c->connect->hello;
        return (struct way_span){ b->p + b->off, way_buf_held(b) };
    }
    size_t left = (size_t)(c->queued - c->sent);
    return (struct way_span){ left ? c->out.p + c->out.len - left : NULL, left };
}

static void accepted(struct way_conn *c, uint64_t to)
{
    uint64_t before = c->sent;
    c->sent = to;
    c->last_accept = c->loop->now;
    stamp_sent(c, before);
    c->backlog = c->sent < c->queued;
}

void way_conn_carried_sent(struct way_conn *c, size_t n)
{
    if (c->closed)
        return;
    if (c->tls) {
        way_tls_sent(c->tls, n);
        if (is_ready(c) && !way_tls_to_send(c->tls).n)
            accepted(c, c->sealed);
        seal(c);
    } else if (is_ready(c)) {
        accepted(c, c->sent + n);
    } else {
        c->connect->hello.off += n;
    }
}

static void carried_plain(struct way_conn *c, const char *p, size_t n)
{
    bool kept = way_buf_held(&c->in) > 0;
    if (kept) {
        way_buf_put(&c->in, p, n);
        p = c->in.p + c->in.off;
        n = way_buf_held(&c->in);
    }
    size_t took = parse(c, p, n);
    if (c->closed) /* `in` lives until the end of the pass */
        return;
    if (kept)
        c->in.off += took;
    else
        way_buf_put(&c->in, p + took, n - took);
    if (!way_buf_held(&c->in))
        way_buf_reset(&c->in);
}

/* All that can be read of the records that came. */
static void carried_records(struct way_conn *c, const char *p, size_t n)
{
    ssize_t did = 1;
    way_tls_came(c->tls, p, n);
    if (c->step == WAY_STEP_TLS)
        shake_hands(c);
    while (did > 0 && !c->closed && c->step != WAY_STEP_TLS)
        did = receive(c);
    if (did < 0 && !c->closed && errno != EAGAIN) {
        struct failure f = failure_of(c, errno);
        give_up_as(c, is_ready(c) ? WAY_PHASE_READ : WAY_PHASE_CONNECT, &f);
    }
    seal(c);
}

void way_conn_carried_in(struct way_conn *c, const char *p, size_t n)
{
    if (c->closed)
        return;
    if (c->tls)
        carried_records(c, p, n);
    else
        carried_plain(c, p, n);
}

void way_conn_carried_failed(struct way_conn *c, bool sending, enum way_error error,
                             int errnum, const char *message)
{
    if (c->closed)
        return;
    enum way_phase phase = !is_ready(c) ? WAY_PHASE_CONNECT
                           : sending    ? WAY_PHASE_WRITE
                                        : WAY_PHASE_READ;
    if (error == WAY_ERROR_NONE)
        error = error_of(errnum);
    if (error == WAY_ERROR_DNS)
        c->step = WAY_STEP_RESOLVE;
    if (error == WAY_ERROR_EOF && !message)
        message = "the node closed the connection";
    if (error == WAY_ERROR_TIMEOUT && c->step == WAY_STEP_DIAL)
        errnum = ETIMEDOUT;
    give_up(c, phase, error, errnum, message);
}

double way_conn_carried_due(const struct way_conn *c)
{
    double now = c->loop->now;
    enum way_phase phase;
    if (c->closed)
        return 0;
    if (is_ready(c)) {
        double due = due_at(c, &phase);
        return due > 0 ? due - now : c->timeouts->read;
    }
    if (c->step == WAY_STEP_DIAL)
        return c->born + c->connect->dial_timeout - now;
    double step = c->step == WAY_STEP_TLS ? c->timeouts->tls : c->timeouts->hello;
    return c->step_at + step - now;
}
