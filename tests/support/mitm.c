/* mitm - a TCP man in the middle that spoils connections at an exact byte.
 *
 *     mitm --listen PORT --to PORT --control PATH [--rcvbuf BYTES]
 *
 * Every connection to 127.0.0.1:listen is passed on to 127.0.0.1:to. What happens to it is
 * told, one line for each command, over the unix socket at PATH, and answered by one line
 * ("ok ..." or "err why"):
 *
 *     rule dir=up|down act=ACT [on=all|new|ID] [at=N|+N] [match=HEX [nth=N]] [times=N] ...
 *     clear                 forget all rules and what they did to open connections
 *     refuse | accept       close the listening socket | open it again
 *     backlog               stop accepting with a full queue: further dials time out
 *     drop                  packets of dials and of all open connections get lost
 *     cut how=fin|rst [on=ID]   now, all connections or one
 *     to port=N             where new connections go
 *     conns                 "ok accepted=N" and id:up:down of each open connection
 *
 * A direction is a stream of bytes: up from client to node, down from node to client. A
 * rule fires once in a connection, when exactly so many bytes of its direction have been
 * passed on: `at=N` from the connection's beginning, `at=+N` from now (for new connections
 * the same), with `match` N bytes behind the end of the nth occurrence. `times` says in how
 * many connections it may fire (0: all). Acts:
 *
 *     cut how=fin|rst [node=fin|rst]   both sides; what was passed is delivered first
 *     stall                 read no more (the peer's writes come to a stop)
 *     swallow               read and throw away
 *     delay ms=N            each chunk from here on is late by so much
 *     trickle bytes=N ms=M  so many bytes, so often
 *     corrupt with=HEX      the next bytes are replaced by these
 *     inject with=HEX       these come first
 *     skip bytes=N          the next bytes are left out
 *     drop                  the client's packets get lost, no acknowledgement comes
 *
 * Links between nodes (told by their REPLCONF) are only passed on: nothing here applies to
 * them, and `conns` does not list them, unless their id is given.
 *
 * One thread, one libev loop. Memory is bounded: a direction stops reading while it holds
 * QUEUE_MAX bytes. A closed connection is freed from an idle watcher, never inside its own
 * callback. */
#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { UP, DOWN };
enum {
    RULES_MAX = 64,
    BYTES_MAX = 512,
    QUEUE_MAX = 262144,
    CHUNK = 16384,
    LINE_MAX_ = 4096
};
enum { FILLERS = 4, DRAIN_MS = 1000 };
enum act { CUT, STALL, SWALLOW, DELAY, TRICKLE, CORRUPT, INJECT, SKIP, DROP };
static const char *const act_names[] = { "cut",    "stall",   "swallow",
                                         "delay",  "trickle", "corrupt",
                                         "inject", "skip",    "drop" };

struct bytes {
    unsigned char p[BYTES_MAX];
    size_t n;
};

struct rule {
    bool used, relative, client_rst, node_rst;
    int dir;
    enum act act;
    long on; /* 0 all, -1 new, else a connection */
    long long at;
    struct bytes match, with;
    unsigned short
        border[BYTES_MAX + 1]; /* of match, as Knuth, Morris and Pratt have it */
    long nth, times;
    long amount, ms;
};

struct arm { /* a rule in one connection */
    bool active;
    long long pos; /* fires when so many bytes have passed; -1: match not seen yet */
    size_t matched;
    long seen;
};

struct piece { /* bytes in the queue that may go at the same time */
    double due;
    size_t n;
};

struct conn;
struct stream { /* one direction */
    struct conn *conn;
    int dir;
    ev_io *reader, *writer; /* of the source's and the sink's socket */
    ev_timer timer;
    unsigned char *queue;
    size_t off, len;
    struct piece *piece;
    size_t first, pieces, room;
    long long
        passed; /* bytes of the source that were passed on, thrown away or replaced */
    bool eof, shut, stalled, swallow;
    double delay, trickle_every, trickle_due;
    long trickle_bytes, skip;
    struct bytes replace; /* the rest of a corrupt */
    size_t replaced;
};

struct conn {
    struct conn *next;
    long id;
    int client, node;
    bool connected, cutting, client_rst, node_rst, dead, discard, replication;
    double drain_until;
    ev_io client_r, client_w, node_r, node_w;
    ev_timer drain;
    struct stream stream[2];
    struct arm arm[RULES_MAX];
};

struct control {
    ev_io io;
    char line[LINE_MAX_];
    size_t n;
};

static struct ev_loop *loop;
static struct rule rules[RULES_MAX];
static struct conn *conns;
static long conn_id, accepted;
static int listen_fd = -1, listen_port, node_port, rcvbuf;
static int filler[FILLERS] = { -1, -1, -1, -1 };
static ev_io listen_io;
static ev_prepare reaper;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void set_nonblocking(int fd)
{
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        die("fcntl");
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

/* A filter that lets no packet in: what arrives at the socket is lost before TCP sees it. */
static void drop_packets(int fd)
{
    struct sock_filter none = { .code = BPF_RET | BPF_K, .k = 0 };
    struct sock_fprog program = { .len = 1, .filter = &none };
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0)
        die("SO_ATTACH_FILTER");
}

static void let_packets(int fd)
{
    int unused = 0;
    setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof unused);
}

/* ---- the end of connections ---- */

static void close_socket(int fd, bool rst)
{
    if (rst) {
        struct linger off = { .l_onoff = 1, .l_linger = 0 };
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
    }
    close(fd);
}

static void conn_close(struct conn *c, bool client_rst, bool node_rst)
{
    if (c->dead)
        return;
    c->dead = true;
    ev_io_stop(loop, &c->client_r);
    ev_io_stop(loop, &c->client_w);
    ev_io_stop(loop, &c->node_r);
    ev_io_stop(loop, &c->node_w);
    ev_timer_stop(loop, &c->drain);
    for (int d = UP; d <= DOWN; d++)
        ev_timer_stop(loop, &c->stream[d].timer);
    close_socket(c->client, client_rst);
    close_socket(c->node, node_rst);
}

static void reap(struct ev_loop *l, ev_prepare *w, int events)
{
    (void)l, (void)w, (void)events;
    for (struct conn **at = &conns; *at;) {
        struct conn *c = *at;
        if (!c->dead) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        for (int d = UP; d <= DOWN; d++) {
            free(c->stream[d].queue);
            free(c->stream[d].piece);
        }
        free(c);
    }
}

static int unsent_in_kernel(int fd)
{
    int n = 0;
    return ioctl(fd, SIOCOUTQ, &n) < 0 ? 0 : n;
}

static bool queues_empty(const struct conn *c)
{
    return c->stream[UP].len == c->stream[UP].off &&
           c->stream[DOWN].len == c->stream[DOWN].off;
}

/* A cut goes on once the peers have all that was passed, for a reset throws away what the
 * kernel still holds. A FIN side is shut down and drained: closing it with unread bytes
 * would reset it. */
static void cut_step(struct conn *c)
{
    if (c->dead || !c->cutting)
        return;
    bool late = ev_now(loop) > c->drain_until;
    if (!late && !queues_empty(c))
        return;
    if (!late && !c->discard &&
        (unsent_in_kernel(c->client) || unsent_in_kernel(c->node)))
        return;
    if (late || c->client_rst) {
        conn_close(c, c->client_rst, c->node_rst);
        return;
    }
    if (!c->discard) {
        c->discard = true;
        shutdown(c->client, SHUT_WR);
        shutdown(c->node, SHUT_WR);
    }
    if (c->stream[UP].eof && c->stream[DOWN].eof)
        conn_close(c, false, c->node_rst);
}

static void drain_tick(struct ev_loop *l, ev_timer *w, int events)
{
    (void)l, (void)events;
    cut_step((struct conn *)((char *)w - offsetof(struct conn, drain)));
}

static void cut(struct conn *c, bool client_rst, bool node_rst)
{
    if (c->cutting || c->dead)
        return;
    c->cutting = true;
    c->client_rst = client_rst;
    c->node_rst = node_rst;
    c->drain_until = ev_now(loop) + DRAIN_MS / 1000.0;
    if (client_rst)
        ev_io_stop(loop, &c->client_r);
    else if (!c->stream[UP].eof)
        ev_io_start(loop, &c->client_r);
    if (!c->stream[DOWN].eof)
        ev_io_start(loop, &c->node_r);
    ev_timer_set(&c->drain, 0.001, 0.001);
    ev_timer_start(loop, &c->drain);
    cut_step(c);
}

/* ---- queues ---- */

static void piece_put(struct stream *s, size_t n)
{
    double now = ev_now(loop);
    struct piece *last = s->pieces ? &s->piece[s->first + s->pieces - 1] : NULL;
    if (last && s->delay <= 0 && last->due <= now) {
        last->n += n;
        return;
    }
    if (!s->piece || s->first + s->pieces == s->room) {
        if (s->first > 0 && s->piece)
            memmove(s->piece, s->piece + s->first, s->pieces * sizeof *s->piece);
        s->first = 0;
        if (s->pieces == s->room || !s->piece) {
            s->room = s->room ? s->room * 2 : 16;
            s->piece = realloc(s->piece, s->room * sizeof *s->piece);
            if (!s->piece)
                die("realloc");
        }
    }
    s->piece[s->first + s->pieces++] = (struct piece){ .due = now + s->delay, .n = n };
}

static void queue_put(struct stream *s, const unsigned char *p, size_t n)
{
    if (n == 0)
        return;
    if (s->off == s->len || s->off > QUEUE_MAX) {
        if (s->queue && s->off > 0)
            memmove(s->queue, s->queue + s->off, s->len - s->off);
        s->len -= s->off;
        s->off = 0;
    }
    unsigned char *grown = realloc(s->queue, s->len + n);
    if (!grown)
        die("realloc");
    s->queue = grown;
    memcpy(s->queue + s->len, p, n);
    s->len += n;
    piece_put(s, n);
}

static void wake_at(struct stream *s, double due)
{
    double left = due - ev_now(loop);
    ev_timer_stop(loop, &s->timer);
    ev_timer_set(&s->timer, left > 0.0005 ? left : 0.0005, 0);
    ev_timer_start(loop, &s->timer);
}

/* How much of the queue may go now; else when. */
static size_t sendable(struct stream *s, double *later)
{
    double now = ev_now(loop);
    size_t n = 0;
    for (size_t i = 0; i < s->pieces; i++) {
        if (s->piece[s->first + i].due > now + 1e-4) {
            *later = s->piece[s->first + i].due;
            break;
        }
        n += s->piece[s->first + i].n;
    }
    if (n && s->trickle_every > 0) {
        if (s->trickle_due > now + 1e-4) {
            *later = s->trickle_due;
            return 0;
        }
        return n < (size_t)s->trickle_bytes ? n : (size_t)s->trickle_bytes;
    }
    return n;
}

static void queue_take(struct stream *s, size_t n)
{
    s->off += n;
    while (n > 0) {
        struct piece *head = &s->piece[s->first];
        size_t part = n < head->n ? n : head->n;
        head->n -= part;
        n -= part;
        if (head->n == 0) {
            s->first++;
            s->pieces--;
        }
    }
}

static void finish_stream(struct stream *s)
{
    struct conn *c = s->conn;
    if (!s->eof || s->shut || s->off != s->len || c->cutting)
        return;
    s->shut = true;
    shutdown(s->dir == UP ? c->node : c->client, SHUT_WR);
    if (c->stream[UP].shut && c->stream[DOWN].shut)
        conn_close(c, false, false);
}

static void flush_stream(struct stream *s)
{
    struct conn *c = s->conn;
    int sink = s->dir == UP ? c->node : c->client;
    double later = 0;
    while (!c->dead && c->connected) {
        size_t n = sendable(s, &later);
        if (n == 0)
            break;
        ssize_t done = send(sink, s->queue + s->off, n, MSG_NOSIGNAL);
        if (done < 0) {
            if (errno == EAGAIN || errno == EINTR) {
                ev_io_start(loop, s->writer);
                return;
            }
            conn_close(c, true, true);
            return;
        }
        queue_take(s, (size_t)done);
        if (s->trickle_every > 0)
            s->trickle_due = ev_now(loop) + s->trickle_every;
    }
    if (c->dead)
        return;
    ev_io_stop(loop, s->writer);
    if (later > 0)
        wake_at(s, later);
    if (s->len - s->off < QUEUE_MAX && !s->eof && !s->stalled)
        ev_io_start(loop, s->reader);
    finish_stream(s);
    cut_step(c);
}

/* ---- rules ---- */

static void borders(struct rule *r)
{
    r->border[0] = 0;
    for (size_t i = 1, k = 0; i < r->match.n; i++) {
        while (k > 0 && r->match.p[i] != r->match.p[k])
            k = r->border[k - 1];
        if (r->match.p[i] == r->match.p[k])
            k++;
        r->border[i] = (unsigned short)k;
    }
}

/* Looks for the match in bytes that begin at stream position `from`. */
static void scan(const struct rule *r, struct arm *a, const unsigned char *p, size_t n,
                 long long from)
{
    for (size_t i = 0; i < n && a->pos < 0; i++) {
        while (a->matched > 0 && p[i] != r->match.p[a->matched])
            a->matched = r->border[a->matched - 1];
        if (p[i] == r->match.p[a->matched])
            a->matched++;
        if (a->matched < r->match.n)
            continue;
        a->matched = r->border[r->match.n - 1];
        if (++a->seen == r->nth)
            a->pos = from + (long long)i + 1 + r->at;
    }
}

static void drop_conn(struct conn *c)
{
    drop_packets(c->client);
    for (int d = UP; d <= DOWN; d++) {
        c->stream[d].stalled = true;
        ev_io_stop(loop, c->stream[d].reader);
    }
}

static void act(struct conn *c, struct stream *s, struct rule *r)
{
    if (r->times > 0 && --r->times == 0)
        r->used = false;
    switch (r->act) {
    case CUT: cut(c, r->client_rst, r->node_rst); break;
    case STALL:
        s->stalled = true;
        ev_io_stop(loop, s->reader);
        break;
    case SWALLOW: s->swallow = true; break;
    case DELAY: s->delay = (double)r->ms / 1000; break;
    case TRICKLE:
        s->trickle_bytes = r->amount;
        s->trickle_every = (double)r->ms / 1000;
        break;
    case CORRUPT:
        s->replace = r->with;
        s->replaced = 0;
        break;
    case INJECT: queue_put(s, r->with.p, r->with.n); break;
    case SKIP: s->skip = r->amount; break;
    case DROP: drop_conn(c); break;
    }
}

/* Fires what is due at the present position; the position of what comes next, -1 none. */
static long long fire(struct stream *s)
{
    struct conn *c = s->conn;
    long long next = -1;
    for (int i = 0; i < RULES_MAX; i++) {
        struct arm *a = &c->arm[i];
        if (!a->active || rules[i].dir != s->dir || a->pos < 0)
            continue;
        if (!rules[i].used) {
            a->active = false;
        } else if (a->pos <= s->passed) {
            a->active = false;
            act(c, s, &rules[i]);
        } else if (next < 0 || a->pos < next) {
            next = a->pos;
        }
    }
    return next;
}

static void arm_rule(struct conn *c, int i, bool fresh)
{
    struct rule *r = &rules[i];
    if (!r->used || c->replication || (r->on > 0 && r->on != c->id) ||
        (r->on == -1 && !fresh))
        return;
    long long base = r->relative ? c->stream[r->dir].passed : 0;
    c->arm[i] = (struct arm){ .active = true, .pos = r->match.n ? -1 : base + r->at };
}

/* ---- bytes on their way ---- */

/* Passes n bytes between which and the next rule nothing happens. */
static void pass(struct stream *s, unsigned char *p, size_t n)
{
    s->passed += (long long)n;
    if (s->skip > 0) {
        size_t part = (size_t)s->skip < n ? (size_t)s->skip : n;
        s->skip -= (long)part;
        p += part;
        n -= part;
    }
    for (size_t i = 0; i < n && s->replaced < s->replace.n; i++)
        p[i] = s->replace.p[s->replaced++];
    if (!s->swallow)
        queue_put(s, p, n);
}

static void feed(struct stream *s, unsigned char *p, size_t n)
{
    struct conn *c = s->conn;
    for (int i = 0; i < RULES_MAX; i++)
        if (c->arm[i].active && rules[i].dir == s->dir && rules[i].match.n)
            scan(&rules[i], &c->arm[i], p, n, s->passed);
    while (n > 0 && !c->cutting && !c->dead) {
        long long next = fire(s);
        if (c->cutting || c->dead)
            return;
        size_t part = n;
        if (next >= 0 && next - s->passed < (long long)n)
            part = (size_t)(next - s->passed);
        pass(s, p, part);
        p += part;
        n -= part;
    }
    fire(s);
}

static void look_for_replication(struct conn *c, const unsigned char *p, size_t n)
{
    if (c->stream[UP].passed > 128 || !memmem(p, n, "REPLCONF", 8))
        return;
    c->replication = true;
    memset(c->arm, 0, sizeof c->arm);
}

static void on_readable(struct stream *s)
{
    struct conn *c = s->conn;
    unsigned char chunk[CHUNK];
    ssize_t n = recv(s->dir == UP ? c->client : c->node, chunk, sizeof chunk, 0);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            conn_close(c, true, true);
        return;
    }
    if (n == 0) {
        s->eof = true;
        ev_io_stop(loop, s->reader);
    } else if (!c->cutting) {
        if (s->dir == UP)
            look_for_replication(c, chunk, (size_t)n);
        feed(s, chunk, (size_t)n);
    }
    if (c->dead)
        return;
    if (s->len - s->off >= QUEUE_MAX)
        ev_io_stop(loop, s->reader);
    flush_stream(s);
}

static void on_timer(struct ev_loop *l, ev_timer *w, int events)
{
    (void)l, (void)events;
    flush_stream((struct stream *)((char *)w - offsetof(struct stream, timer)));
}

static void on_client(struct ev_loop *l, ev_io *w, int events)
{
    (void)l, (void)events;
    struct conn *c = w->data;
    on_readable(&c->stream[UP]);
}

static void on_client_room(struct ev_loop *l, ev_io *w, int events)
{
    (void)l, (void)events;
    struct conn *c = w->data;
    flush_stream(&c->stream[DOWN]);
}

static void on_node(struct ev_loop *l, ev_io *w, int events)
{
    (void)l, (void)events;
    struct conn *c = w->data;
    on_readable(&c->stream[DOWN]);
}

static void on_node_room(struct ev_loop *l, ev_io *w, int events)
{
    (void)l, (void)events;
    struct conn *c = w->data;
    if (!c->connected) {
        int err = 0;
        socklen_t size = sizeof err;
        if (getsockopt(c->node, SOL_SOCKET, SO_ERROR, &err, &size) < 0 || err) {
            conn_close(c, true, true);
            return;
        }
        c->connected = true;
        for (int d = UP; d <= DOWN; d++)
            if (!c->stream[d].stalled)
                ev_io_start(loop, c->stream[d].reader);
    }
    flush_stream(&c->stream[UP]);
    if (!c->dead)
        flush_stream(&c->stream[DOWN]);
}

/* ---- listening ---- */

static void watch(ev_io *io, void (*call)(struct ev_loop *, ev_io *, int), int fd,
                  int what, void *data)
{
    ev_io_init(io, call, fd, what);
    io->data = data;
}

static void conn_new(int client)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        die("calloc");
    c->id = ++conn_id;
    c->client = client;
    c->node = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->node < 0)
        die("socket");
    set_nonblocking(c->client);
    set_nonblocking(c->node);
    int one = 1;
    setsockopt(c->client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->node, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(&c->client_r, on_client, c->client, EV_READ, c);
    watch(&c->client_w, on_client_room, c->client, EV_WRITE, c);
    watch(&c->node_r, on_node, c->node, EV_READ, c);
    watch(&c->node_w, on_node_room, c->node, EV_WRITE, c);
    ev_timer_init(&c->drain, drain_tick, 0.001, 0.001);
    for (int d = UP; d <= DOWN; d++) {
        struct stream *s = &c->stream[d];
        s->conn = c;
        s->dir = d;
        s->reader = d == UP ? &c->client_r : &c->node_r;
        s->writer = d == UP ? &c->node_w : &c->client_w;
        ev_timer_init(&s->timer, on_timer, 0, 0);
    }
    c->next = conns;
    conns = c;
    struct sockaddr_in to = loopback(node_port);
    if (connect(c->node, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        conn_close(c, true, true);
        return;
    }
    ev_io_start(loop, &c->node_w);
    for (int i = 0; i < RULES_MAX; i++)
        arm_rule(c, i, true);
    for (int d = UP; d <= DOWN && !c->dead; d++)
        fire(&c->stream[d]);
}

static void on_accept(struct ev_loop *l, ev_io *w, int events)
{
    (void)l, (void)events;
    int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    accepted++;
    conn_new(fd);
}

static void close_fillers(void)
{
    for (int i = 0; i < FILLERS; i++) {
        if (filler[i] >= 0)
            close_socket(filler[i], true);
        filler[i] = -1;
    }
}

static void stop_listening(void)
{
    close_fillers();
    if (listen_fd < 0)
        return;
    ev_io_stop(loop, &listen_io);
    close(listen_fd);
    listen_fd = -1;
}

static int start_listening(void)
{
    stop_listening();
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (rcvbuf > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof rcvbuf);
    struct sockaddr_in at = loopback(listen_port);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 511) < 0) {
        int err = errno;
        close(fd);
        errno = err;
        return -1;
    }
    listen_fd = fd;
    ev_io_init(&listen_io, on_accept, fd, EV_READ);
    ev_io_start(loop, &listen_io);
    return 0;
}

/* With a queue of length 0 one connection is completed; every SYN after it is dropped. */
static int fill_backlog(void)
{
    if (start_listening() < 0 || listen(listen_fd, 0) < 0)
        return -1;
    ev_io_stop(loop, &listen_io);
    for (int i = 0; i < FILLERS; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        struct sockaddr_in to = loopback(listen_port);
        if (filler[i] < 0 || (connect(filler[i], (struct sockaddr *)&to, sizeof to) < 0 &&
                              errno != EINPROGRESS))
            return -1;
    }
    return 0;
}

/* ---- control ---- */

static const char *value_of(const char *line, const char *key, char *out, size_t max)
{
    size_t n = strlen(key);
    for (const char *at = line; (at = strstr(at, key)); at += n) {
        if (at == line || at[-1] != ' ' || at[n] != '=')
            continue;
        size_t len = strcspn(at + n + 1, " \r\n");
        if (len >= max)
            len = max - 1;
        memcpy(out, at + n + 1, len);
        out[len] = '\0';
        return out;
    }
    return NULL;
}

static long number_of(const char *line, const char *key, long otherwise)
{
    char text[64];
    return value_of(line, key, text, sizeof text) ? strtol(text, NULL, 10) : otherwise;
}

static bool is_rst(const char *line, const char *key)
{
    char text[16];
    return value_of(line, key, text, sizeof text) && strcmp(text, "rst") == 0;
}

static bool hex_of(const char *line, const char *key, struct bytes *out)
{
    char text[2 * BYTES_MAX + 2];
    out->n = 0;
    if (!value_of(line, key, text, sizeof text))
        return true;
    if (strlen(text) > 2 * BYTES_MAX)
        return false;
    for (const char *at = text; *at; at += 2) {
        unsigned byte;
        if (sscanf(at, "%2x", &byte) != 1 || !at[1])
            return false;
        out->p[out->n++] = (unsigned char)byte;
    }
    return true;
}

static const char *read_rule(const char *line, struct rule *r)
{
    char text[64];
    *r = (struct rule){ .used = true };
    if (!value_of(line, "dir", text, sizeof text))
        return "dir is missing";
    r->dir = strcmp(text, "down") == 0 ? DOWN : UP;
    if (!value_of(line, "act", text, sizeof text))
        return "act is missing";
    size_t i = 0, known = sizeof act_names / sizeof *act_names;
    while (i < known && strcmp(text, act_names[i]) != 0)
        i++;
    if (i == known)
        return "no such act";
    r->act = (enum act)i;
    if (value_of(line, "on", text, sizeof text))
        r->on = strcmp(text, "all") == 0 ? 0 : strcmp(text, "new") == 0 ? -1 : atol(text);
    if (value_of(line, "at", text, sizeof text)) {
        r->relative = text[0] == '+';
        r->at = atoll(text + (r->relative ? 1 : 0));
    }
    if (!hex_of(line, "match", &r->match) || !hex_of(line, "with", &r->with))
        return "not hexadecimal, or too long";
    r->nth = number_of(line, "nth", 1);
    r->times = number_of(line, "times", 0);
    r->amount = number_of(line, "bytes", 1);
    r->ms = number_of(line, "ms", 0);
    r->client_rst = is_rst(line, "how");
    r->node_rst = is_rst(line, "node");
    borders(r);
    return NULL;
}

static const char *add_rule(const char *line)
{
    int i = 0;
    while (i < RULES_MAX && rules[i].used)
        i++;
    if (i == RULES_MAX)
        return "too many rules";
    struct rule fresh;
    const char *wrong = read_rule(line, &fresh);
    if (wrong)
        return wrong;
    rules[i] = fresh;
    for (struct conn *c = conns; c; c = c->next) {
        c->arm[i].active = false;
        if (c->dead)
            continue;
        arm_rule(c, i, false);
        fire(&c->stream[fresh.dir]);
        if (!c->dead)
            flush_stream(&c->stream[fresh.dir]);
    }
    return NULL;
}

static void clear_rules(void)
{
    memset(rules, 0, sizeof rules);
    if (listen_fd >= 0)
        let_packets(listen_fd);
    for (struct conn *c = conns; c; c = c->next) {
        memset(c->arm, 0, sizeof c->arm);
        if (!c->dead)
            let_packets(c->client);
        for (int d = UP; d <= DOWN && !c->dead; d++) {
            struct stream *s = &c->stream[d];
            s->stalled = s->swallow = false;
            s->delay = s->trickle_every = 0;
            s->skip = 0;
            s->replaced = s->replace.n = 0;
            if (c->connected && !s->eof)
                ev_io_start(loop, s->reader);
            flush_stream(s);
        }
    }
}

static void cut_now(const char *line)
{
    long on = number_of(line, "on", 0);
    bool rst = is_rst(line, "how"), node_rst = is_rst(line, "node");
    for (struct conn *c = conns; c; c = c->next)
        if (!c->dead && (on == 0 ? !c->replication : on == c->id))
            cut(c, rst, node_rst);
}

static void drop_now(void)
{
    if (listen_fd >= 0)
        drop_packets(listen_fd);
    for (struct conn *c = conns; c; c = c->next)
        if (!c->dead && !c->cutting && !c->replication)
            drop_conn(c);
}

static void list_conns(char *out, size_t max)
{
    size_t n = (size_t)snprintf(out, max, "ok accepted=%ld", accepted);
    for (struct conn *c = conns; c && n < max; c = c->next)
        if (!c->dead && !c->cutting && !c->replication)
            n += (size_t)snprintf(out + n, max - n, " %ld:%lld:%lld", c->id,
                                  c->stream[UP].passed, c->stream[DOWN].passed);
}

static void answer(int fd, const char *line)
{
    static char out[65536];
    const char *wrong = NULL;
    snprintf(out, sizeof out - 1, "ok");
    if (strncmp(line, "rule ", 5) == 0)
        wrong = add_rule(line);
    else if (strcmp(line, "clear") == 0)
        clear_rules();
    else if (strcmp(line, "refuse") == 0)
        stop_listening();
    else if (strcmp(line, "accept") == 0)
        wrong = start_listening() < 0 ? strerror(errno) : NULL;
    else if (strcmp(line, "backlog") == 0)
        wrong = fill_backlog() < 0 ? strerror(errno) : NULL;
    else if (strcmp(line, "drop") == 0)
        drop_now();
    else if (strncmp(line, "cut", 3) == 0)
        cut_now(line);
    else if (strncmp(line, "to ", 3) == 0)
        node_port = (int)number_of(line, "port", node_port);
    else if (strcmp(line, "conns") == 0)
        list_conns(out, sizeof out - 1);
    else
        wrong = "no such command";
    if (wrong)
        snprintf(out, sizeof out - 1, "err %s", wrong);
    size_t n = strlen(out);
    out[n++] = '\n';
    if (send(fd, out, n, MSG_NOSIGNAL) < 0)
        perror("control");
}

static void on_control(struct ev_loop *l, ev_io *w, int events)
{
    (void)events;
    struct control *control = w->data;
    ssize_t n = recv(w->fd, control->line + control->n, LINE_MAX_ - 1 - control->n, 0);
    if (n <= 0) {
        ev_io_stop(l, w);
        close(w->fd);
        free(control);
        return;
    }
    control->n += (size_t)n;
    char *end;
    while ((end = memchr(control->line, '\n', control->n))) {
        *end = '\0';
        answer(w->fd, control->line);
        size_t used = (size_t)(end + 1 - control->line);
        control->n -= used;
        memmove(control->line, end + 1, control->n);
    }
}

static void on_control_accept(struct ev_loop *l, ev_io *w, int events)
{
    (void)events;
    int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct control *control = calloc(1, sizeof *control);
    if (!control)
        die("calloc");
    watch(&control->io, on_control, fd, EV_READ, control);
    ev_io_start(l, &control->io);
}

static void open_control(const char *path)
{
    static ev_io io;
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof at.sun_path) {
        errno = ENAMETOOLONG;
        die("control");
    }
    memcpy(at.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 8) < 0)
        die("control");
    ev_io_init(&io, on_control_accept, fd, EV_READ);
    ev_io_start(loop, &io);
}

int main(int argc, char **argv)
{
    const char *control = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--listen") == 0)
            listen_port = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--to") == 0)
            node_port = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--rcvbuf") == 0)
            rcvbuf = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--control") == 0)
            control = argv[i + 1];
    }
    if (!listen_port || !node_port || !control) {
        fprintf(stderr,
                "usage: mitm --listen PORT --to PORT --control PATH [--rcvbuf BYTES]\n");
        return 2;
    }
    loop = ev_default_loop(0);
    if (start_listening() < 0)
        die("listen");
    open_control(control);
    ev_prepare_init(&reaper, reap);
    ev_prepare_start(loop, &reaper);
    ev_run(loop, 0);
    return 0;
}
