/* conn: whatever goes wrong with a real socket becomes one event that names phase, step and
 * error, and says of each command whether it was answered, unsent, or of unknown fate. */
#include "conn.h"

#include "resolve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { MOST = 128, BACKLOG_MAX = 16, BIG = 16 << 20 };

/* What the test saw of each command, by the order in which it was sent. */
enum fate { IN_FLIGHT, ANSWERED, UNKNOWN, UNSENT };

struct bed {
    struct way_loop loop;
    struct way_resolver *resolver;
    struct way_timeouts timeouts;
    struct way_conn_options o;
    struct way_conn *conn; /* NULL once it is gone */
    struct way_request_pool pool;
    ev_timer tick; /* so that no step of the loop sleeps for long */
    int listener, peer;
    int filler[BACKLOG_MAX];
    unsigned sent, answered;
    char command[MOST][64]; /* what was sent, if it is short */
    enum fate fate[MOST];
    uint64_t end[MOST];
    char reply[MOST][64];
    unsigned ready, batches, batched, broke, drained;
    struct way_event e;
    bool close_in_reply;
};

/* ---- the connection's callbacks ---- */

static struct bed *bed_of(struct way_conn *c)
{
    return c->owner;
}

static void on_reply(struct way_conn *c, struct way_request *r, const char *bytes,
                     size_t n)
{
    struct bed *b = bed_of(c);
    assert_int_equal(r->part, b->answered);
    assert_int_equal(b->fate[r->part], IN_FLIGHT);
    if (r->bytes < sizeof b->command[0]) {
        assert_int_equal(c->answered_bytes.n, r->bytes);
        assert_memory_equal(c->answered_bytes.p, b->command[r->part], r->bytes);
    }
    snprintf(b->reply[b->answered], sizeof b->reply[0], "%.*s", (int)n, bytes);
    b->fate[r->part] = ANSWERED;
    b->answered++;
    way_request_give(&b->pool, r);
    if (b->close_in_reply) {
        for (struct way_request *q = way_conn_take(c), *next; q; q = next) {
            next = q->link;
            way_request_give(&b->pool, q);
        }
        way_conn_close(c);
        b->conn = NULL;
    }
}

static void on_batch(struct way_conn *c, unsigned replies)
{
    struct bed *b = bed_of(c);
    b->batches++;
    b->batched += replies;
}

static void on_ready(struct way_conn *c)
{
    assert_int_equal(c->step, WAY_STEP_SEND);
    bed_of(c)->ready++;
}

static void on_broke(struct way_conn *c, struct way_event *e)
{
    struct bed *b = bed_of(c);
    b->broke++;
    b->e = *e;
    b->conn = NULL;
    assert_true(c->closed);
    assert_int_equal(e->kind, WAY_KIND_CONNECTION);
    assert_int_equal(e->n, c->inflight);
    unsigned n = 0;
    for (struct way_request *r = way_conn_take(c), *next; r; r = next, n++) {
        next = r->link;
        struct way_span bytes = way_conn_bytes(c, r);
        assert_int_equal(bytes.n, r->bytes);
        if (bytes.n < sizeof b->command[0])
            assert_memory_equal(bytes.p, b->command[r->part], bytes.n);
        assert_int_equal(b->fate[r->part], IN_FLIGHT);
        assert_int_equal(r->part, b->answered + n);
        b->fate[r->part] = way_conn_was_sent(c, r) ? UNKNOWN : UNSENT;
        way_request_give(&b->pool, r);
    }
    assert_int_equal(n, e->n);
    assert_int_equal(c->inflight, 0);
}

static void on_drained(struct way_conn *c)
{
    struct bed *b = bed_of(c);
    assert_true(c->closed);
    b->drained++;
    b->conn = NULL;
}

static const struct way_conn_ops ops = { .reply = on_reply,
                                         .batch = on_batch,
                                         .ready = on_ready,
                                         .broke = on_broke,
                                         .drained = on_drained };

/* ---- the bed ---- */

static void on_tick(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)w, (void)events;
}

/* rcvbuf: of those accepted; 0: the system's */
static int listen_anywhere(uint16_t *port, int backlog, int rcvbuf)
{
    struct sockaddr_in sa = { .sin_family = AF_INET };
    socklen_t n = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (rcvbuf)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof rcvbuf);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(fd, backlog), 0);
    getsockname(fd, (struct sockaddr *)&sa, &n);
    *port = ntohs(sa.sin_port);
    return fd;
}

static void begin(struct bed *b)
{
    struct way_err err;
    memset(b, 0, sizeof *b);
    if (way_loop_init(&b->loop, &err) ||
        way_resolver_new(&b->resolver, &b->loop, NULL, &err))
        fail_msg("%s", err.text);
    ev_timer_init(&b->tick, on_tick, 0.002, 0.002);
    ev_timer_start(b->loop.ev, &b->tick);
    way_timeouts_default(&b->timeouts);
    b->peer = -1;
    memset(b->filler, 0xff, sizeof b->filler);
    b->o = (struct way_conn_options){ .loop = &b->loop,
                                      .resolver = b->resolver,
                                      .timeouts = &b->timeouts,
                                      .ops = &ops,
                                      .owner = b,
                                      .host = "127.0.0.1",
                                      .node = 7,
                                      .generation = 3,
                                      .resp = 2,
                                      .reply_bytes = 1 << 20 };
    b->listener = listen_anywhere(&b->o.port, 8, 32768);
}

static void shut(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void end(struct bed *b)
{
    if (b->conn) {
        for (struct way_request *r = way_conn_take(b->conn), *next; r; r = next) {
            next = r->link;
            way_request_give(&b->pool, r);
        }
        way_conn_close(b->conn);
    }
    shut(&b->peer);
    shut(&b->listener);
    for (unsigned i = 0; i < BACKLOG_MAX; i++)
        shut(&b->filler[i]);
    ev_timer_stop(b->loop.ev, &b->tick);
    way_resolver_free(b->resolver);
    way_loop_fini(&b->loop);
    assert_int_equal(b->pool.live, 0);
    way_request_pool_fini(&b->pool);
}

/* Runs the loop until the condition holds, five seconds at most. */
#define UNTIL(b, condition)                                                              \
    do {                                                                                 \
        double give_up_at = way_clock() + 5;                                             \
        bool met; /* asked once each time: what it reads is gone */                      \
        while (!(met = (condition)) && way_clock() < give_up_at)                         \
            ev_run((b)->loop.ev, EVRUN_ONCE);                                            \
        if (!met)                                                                        \
            fail_msg("waited 5 s for " #condition);                                      \
    } while (0)

static void run_for(struct bed *b, double seconds)
{
    double until = way_clock() + seconds;
    while (way_clock() < until)
        ev_run(b->loop.ev, EVRUN_ONCE);
}

static void open_conn(struct bed *b)
{
    b->conn = way_conn_open(&b->o);
}

static void accept_peer(struct bed *b)
{
    struct pollfd p = { .fd = b->listener, .events = POLLIN };
    UNTIL(b, poll(&p, 1, 0) == 1);
    b->peer = accept4(b->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(b->peer >= 0);
}

static void open_and_accept(struct bed *b)
{
    open_conn(b);
    accept_peer(b);
    UNTIL(b, b->ready);
}

static void send_bytes(struct bed *b, const char *bytes, size_t n)
{
    struct way_request *r = way_request_take(&b->pool);
    assert_true(b->sent < MOST);
    r->part = b->sent;
    if (n < sizeof b->command[0])
        memcpy(b->command[b->sent], bytes, n);
    way_conn_send(b->conn, r, bytes, n);
    assert_int_equal(r->attempt, 1);
    assert_int_equal(r->state, WAY_REQUEST_SENT);
    b->end[b->sent++] = r->end;
}

static void send_text(struct bed *b, const char *bytes)
{
    send_bytes(b, bytes, strlen(bytes));
}

/* n commands that together are `total` bytes. */
static void send_much(struct bed *b, unsigned n, size_t total)
{
    char *bytes = way_zalloc(total / n);
    for (unsigned i = 0; i < n; i++)
        send_bytes(b, bytes, total / n);
    way_free(bytes);
}

/* What the peer reads must begin with exactly these bytes. */
static void peer_reads(struct bed *b, const char *expected)
{
    char got[512];
    size_t n = 0, want = strlen(expected);
    double give_up_at = way_clock() + 5;
    while (n < want && way_clock() < give_up_at) {
        ssize_t k = recv(b->peer, got + n, want - n, 0);
        if (k > 0)
            n += (size_t)k;
        else
            ev_run(b->loop.ev, EVRUN_ONCE);
    }
    if (n != want || memcmp(got, expected, n))
        fail_msg("the peer read '%.*s', expected '%s'", (int)n, got, expected);
}

static size_t peer_reads_at_most(struct bed *b, size_t most)
{
    static char waste[65536];
    size_t n = 0;
    while (n < most) {
        ssize_t k =
            recv(b->peer, waste, most - n < sizeof waste ? most - n : sizeof waste, 0);
        if (k <= 0)
            break;
        n += (size_t)k;
    }
    return n;
}

static void peer_says_bytes(struct bed *b, const char *bytes, size_t n)
{
    assert_int_equal(send(b->peer, bytes, n, MSG_NOSIGNAL), n);
}

static void peer_says(struct bed *b, const char *bytes)
{
    peer_says_bytes(b, bytes, strlen(bytes));
}

static void peer_resets(struct bed *b)
{
    struct linger l = { .l_onoff = 1 };
    setsockopt(b->peer, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    shut(&b->peer);
}

/* One event, and it says this. */
static void assert_broke(struct bed *b, enum way_phase phase, enum way_step step,
                         enum way_error error)
{
    UNTIL(b, b->broke);
    run_for(b, 0.01);
    assert_int_equal(b->broke, 1);
    assert_int_equal(b->drained, 0);
    if (b->e.phase != phase || b->e.step != step || b->e.error != error)
        fail_msg("broke with %s %s %s (%s), expected %s %s %s",
                 way_phase_name(b->e.phase), way_step_name(b->e.step),
                 way_error_name(b->e.error), b->e.message, way_phase_name(phase),
                 way_step_name(step), way_error_name(error));
    assert_true(b->e.began <= b->e.now);
    assert_true(b->e.connection_age >= 0);
}

/* The first `answered`, then `unknown`, are so; the rest is unsent. */
static void assert_fates(struct bed *b, unsigned answered, unsigned unknown)
{
    for (unsigned i = 0; i < b->sent; i++) {
        enum fate expected = i < answered             ? ANSWERED
                             : i < answered + unknown ? UNKNOWN
                                                      : UNSENT;
        if (b->fate[i] != expected)
            fail_msg("command %u of %u: fate %d, expected %d", i, b->sent, b->fate[i],
                     expected);
    }
    assert_int_equal(b->e.n, b->sent - answered);
}

/* ---- connect ---- */

static void a_refused_dial_leaves_all_unsent(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    shut(&b.listener);
    open_conn(&b);
    send_text(&b, "a");
    send_text(&b, "b");
    assert_int_equal(b.broke, 0); /* never from inside open or send */
    assert_broke(&b, WAY_PHASE_CONNECT, WAY_STEP_DIAL, WAY_ERROR_REFUSED);
    assert_int_equal(b.e.errnum, ECONNREFUSED);
    assert_string_equal(b.e.message, strerror(ECONNREFUSED));
    assert_int_equal(b.e.bytes_written, 0);
    assert_int_equal(b.e.replies_read, 0);
    assert_false(b.e.reused);
    assert_fates(&b, 0, 0);
    end(&b);
}

/* Fills the listener's queue until the system lets no more in. */
static void fill_backlog(struct bed *b)
{
    struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(b->o.port) };
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (unsigned i = 0; i < BACKLOG_MAX; i++) {
        b->filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        connect(b->filler[i], (struct sockaddr *)&sa, sizeof sa);
        struct pollfd p = { .fd = b->filler[i], .events = POLLOUT };
        if (poll(&p, 1, 50) == 0)
            return;
    }
    fail_msg("%d connections fit into a queue of none", BACKLOG_MAX);
}

static void a_dial_that_nobody_takes_times_out(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    shut(&b.listener);
    b.listener = listen_anywhere(&b.o.port, 0, 0);
    fill_backlog(&b);
    b.o.dial_timeout = 0.1;
    b.timeouts.read = b.timeouts.write = 0.02; /* are not what counts here */
    double before = way_clock();
    way_loop_refresh(&b.loop);
    open_conn(&b);
    send_text(&b, "a");
    assert_broke(&b, WAY_PHASE_CONNECT, WAY_STEP_DIAL, WAY_ERROR_TIMEOUT);
    assert_true(way_clock() - before >= 0.09);
    assert_int_equal(b.e.bytes_written, 0);
    assert_int_equal(b.e.replies_read, 0);
    assert_fates(&b, 0, 0);
    end(&b);
}

static void a_name_that_is_none_is_a_dns_error(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    b.o.host = "no..name";
    open_conn(&b);
    send_text(&b, "a");
    assert_int_equal(b.broke, 0);
    assert_broke(&b, WAY_PHASE_CONNECT, WAY_STEP_RESOLVE, WAY_ERROR_DNS);
    assert_true(b.e.message[0]);
    assert_fates(&b, 0, 0);
    end(&b);
}

static void a_name_server_that_is_silent_is_a_resolve_time_out(void **state)
{
    (void)state;
    struct bed b;
    struct way_err err;
    struct sockaddr_in sa = { .sin_family = AF_INET };
    socklen_t n = sizeof sa;
    char server[64];
    begin(&b);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    getsockname(fd, (struct sockaddr *)&sa, &n);
    snprintf(server, sizeof server, "127.0.0.1:%u", ntohs(sa.sin_port));
    way_resolver_free(b.resolver);
    struct way_resolver_options ro = { .servers = server };
    assert_int_equal(way_resolver_new(&b.resolver, &b.loop, &ro, &err), 0);
    b.o.resolver = b.resolver;
    b.o.host = "node.test";
    b.timeouts.resolve = 0.1;
    open_conn(&b);
    send_text(&b, "a");
    assert_broke(&b, WAY_PHASE_CONNECT, WAY_STEP_RESOLVE, WAY_ERROR_TIMEOUT);
    assert_fates(&b, 0, 0);
    close(fd);
    end(&b);
}

static void closing_while_it_connects_says_nothing(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    open_conn(&b);
    way_conn_close(b.conn);
    b.conn = NULL;
    run_for(&b, 0.02);
    b.o.host = "node.test";
    open_conn(&b);
    way_conn_close(b.conn);
    b.conn = NULL;
    run_for(&b, 0.02);
    assert_int_equal(b.broke + b.drained + b.ready, 0);
    end(&b);
}

/* ---- hello ---- */

static const char auth_ok[] = "*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$6\r\nsecret\r\n";
static const char readonly[] = "*1\r\n$8\r\nREADONLY\r\n";
static const char hello_3[] =
    "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n"
    "$6\r\nsecret\r\n";

static void a_hello_comes_before_the_first_command(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    b.o.user = "me";
    b.o.password = "secret";
    b.o.readonly = true;
    open_conn(&b);
    send_text(&b, "command");
    accept_peer(&b);
    peer_reads(&b, auth_ok);
    peer_reads(&b, readonly);
    peer_says(&b, "+OK\r\n+O");
    run_for(&b, 0.02);
    assert_int_equal(b.ready, 0);
    assert_int_equal(peer_reads_at_most(&b, 1), 0);
    peer_says(&b, "K\r\n");
    peer_reads(&b, "command");
    assert_int_equal(b.ready, 1);
    peer_says(&b, "+fine\r\n");
    UNTIL(&b, b.answered == 1);
    assert_string_equal(b.reply[0], "+fine\r\n");
    end(&b);
}

static void resp3_is_asked_for_with_the_password(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    b.o.resp = 3;
    b.o.password = "secret";
    open_conn(&b);
    accept_peer(&b);
    peer_reads(&b, hello_3);
    peer_says(&b, "%2\r\n+server\r\n+redis\r\n+proto\r\n:3\r\n");
    UNTIL(&b, b.ready);
    end(&b);
}

/* What the peer says to the hello, and what becomes of it. */
static void hello_answered_by(const char *says, enum way_error error, const char *word)
{
    struct bed b;
    begin(&b);
    b.o.password = "secret";
    open_conn(&b);
    send_text(&b, "command");
    accept_peer(&b);
    peer_reads(&b, "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n");
    peer_says(&b, says);
    assert_broke(&b, WAY_PHASE_CONNECT, WAY_STEP_HELLO, error);
    assert_string_equal(b.e.reply, word);
    assert_int_equal(b.e.bytes_written, 0);
    assert_fates(&b, 0, 0);
    end(&b);
}

static void what_a_node_says_to_the_hello_is_told_apart(void **state)
{
    (void)state;
    hello_answered_by("-WRONGPASS invalid username-password pair\r\n", WAY_ERROR_AUTH,
                      "WRONGPASS");
    hello_answered_by("-ERR invalid password\r\n", WAY_ERROR_AUTH, "ERR");
    hello_answered_by("-LOADING Redis is loading\r\n", WAY_ERROR_REPLY, "LOADING");
    hello_answered_by("-ERR max number of clients reached\r\n", WAY_ERROR_REPLY, "ERR");
    hello_answered_by("HTTP/1.1 400 Bad Request\r\n", WAY_ERROR_PROTOCOL, "");
}

static void a_node_that_is_full_is_heard_though_it_closes_at_once(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    b.o.password = "secret";
    open_conn(&b);
    accept_peer(&b);
    peer_says(&b, "-ERR max number of clients reached\r\n");
    shut(&b.peer);
    assert_broke(&b, WAY_PHASE_CONNECT, WAY_STEP_HELLO, WAY_ERROR_REPLY);
    assert_string_equal(b.e.message, "ERR max number of clients reached");
    end(&b);
}

/* The loop is busy for longer than any deadline when the step begins. */
struct delay {
    ev_prepare w;
    struct bed *b;
    enum way_step step;
    bool over;
};

static void be_late(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
}

static void on_delay(struct ev_loop *ev, ev_prepare *w, int events)
{
    (void)ev, (void)events;
    struct delay *d = (struct delay *)w;
    if (!d->over && d->b->conn && d->b->conn->step == d->step) {
        d->over = true;
        be_late();
    }
}

static void a_loop_that_is_late_itself_blames_no_node(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    struct delay d = { .b = &b, .step = WAY_STEP_DIAL };
    ev_prepare_init(&d.w, on_delay);
    ev_set_priority(&d.w, EV_MINPRI); /* after the loop has begun the step */
    ev_prepare_start(b.loop.ev, &d.w);
    b.o.dial_timeout = 0.02;
    b.timeouts.read = 0.05;
    open_conn(&b);
    send_text(&b, "a");
    UNTIL(&b, b.ready || b.broke);
    assert_true(d.over);
    assert_int_equal(b.broke, 0); /* it stood before anybody looked */
    accept_peer(&b);
    peer_reads(&b, "a");
    peer_says(&b, "+OK\r\n");
    be_late();
    UNTIL(&b, b.answered || b.broke);
    assert_int_equal(b.broke, 0); /* and so did the reply */
    ev_prepare_stop(b.loop.ev, &d.w);
    end(&b);
}

static void a_hello_without_answer_times_out(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    b.o.readonly = true;
    b.timeouts.hello = 0.1;
    open_conn(&b);
    send_text(&b, "command");
    accept_peer(&b);
    assert_broke(&b, WAY_PHASE_CONNECT, WAY_STEP_HELLO, WAY_ERROR_TIMEOUT);
    assert_fates(&b, 0, 0);
    end(&b);
}

static void a_hello_cut_off_is_an_eof(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    b.o.readonly = true;
    open_conn(&b);
    accept_peer(&b);
    peer_reads(&b, readonly);
    peer_says(&b, "+O");
    shut(&b.peer);
    assert_broke(&b, WAY_PHASE_CONNECT, WAY_STEP_HELLO, WAY_ERROR_EOF);
    end(&b);
}

/* ---- write ---- */

/* Unknown is what was accepted whole, unsent the rest, to the byte. */
static void assert_cut_while_writing(struct bed *b)
{
    assert_true(b->e.bytes_written > 0);
    assert_true(b->e.bytes_written < BIG);
    assert_int_equal(b->e.replies_read, 0);
    unsigned unknown = 0;
    while (b->end[unknown] <= b->e.bytes_written)
        unknown++;
    assert_true(unknown < b->sent);
    assert_fates(b, 0, unknown);
}

static void a_peer_that_resets_while_much_is_written_fails_the_write(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    b.timeouts.write = 5; /* it is the reset that counts */
    open_and_accept(&b);
    send_much(&b, 64, BIG);
    UNTIL(&b, peer_reads_at_most(&b, 1 << 20) > 0);
    peer_resets(&b);
    assert_broke(&b, WAY_PHASE_WRITE, WAY_STEP_SEND, WAY_ERROR_RESET);
    assert_true(b.e.errnum == ECONNRESET || b.e.errnum == EPIPE);
    assert_cut_while_writing(&b);
    end(&b);
}

static void a_peer_that_stops_reading_times_the_write_out(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    b.timeouts.write = 0.15;
    open_and_accept(&b);
    double before = way_clock();
    send_much(&b, 64, BIG);
    assert_broke(&b, WAY_PHASE_WRITE, WAY_STEP_SEND, WAY_ERROR_TIMEOUT);
    assert_true(way_clock() - before >= 0.14);
    assert_cut_while_writing(&b);
    end(&b);
}

static void a_first_backlog_is_written_out_as_the_peer_reads(void **state)
{
    (void)state;
    for (unsigned early = 0; early < 2; early++) {
        struct bed b;
        begin(&b);
        b.timeouts.write = 2;
        open_conn(&b);
        if (early)
            send_much(&b, 64, BIG); /* queued while it connects */
        accept_peer(&b);
        UNTIL(&b, b.ready);
        if (!early)
            send_much(&b, 64, BIG);
        size_t n = 0;
        UNTIL(&b, (n += peer_reads_at_most(&b, 4 << 20)) == BIG || b.broke);
        assert_int_equal(n, BIG);
        for (unsigned i = 0; i < 64; i++)
            peer_says(&b, "+OK\r\n");
        UNTIL(&b, b.answered == 64);
        assert_int_equal(b.broke, 0);
        end(&b);
    }
}

static void a_peer_that_reads_slowly_is_no_write_time_out(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    shut(&b.listener);
    b.listener = listen_anywhere(&b.o.port, 8, 0); /* no window so small that it sticks */
    b.timeouts.write = 1;
    b.timeouts.read = 10;
    open_and_accept(&b);
    send_much(&b, 64, BIG);
    double until = way_clock() + 2.5;
    while (way_clock() < until) {
        peer_reads_at_most(&b, 64 << 10);
        run_for(&b, 0.02);
    }
    assert_int_equal(b.broke, 0);
    assert_true(b.conn->backlog);
    end(&b);
}

static void the_shorter_of_two_deadlines_is_kept(void **state)
{
    (void)state;
    for (unsigned reads = 0; reads < 2; reads++) {
        struct bed b;
        begin(&b);
        b.timeouts.write = reads ? 4 : 0.1;
        b.timeouts.read = reads ? 0.1 : 4;
        open_and_accept(&b);
        if (reads) { /* the write deadline is far when the read deadline begins */
            send_much(&b, 4, BIG);
            run_for(&b, 0.15);
            size_t n = 0;
            UNTIL(&b, (n += peer_reads_at_most(&b, BIG)) >= BIG || b.broke);
        } else { /* and the other way round */
            send_text(&b, "a");
            run_for(&b, 0.15);
            send_much(&b, 64, BIG);
        }
        double before = way_clock();
        UNTIL(&b, b.broke);
        assert_int_equal(b.e.error, WAY_ERROR_TIMEOUT);
        assert_int_equal(b.e.phase, reads ? WAY_PHASE_READ : WAY_PHASE_WRITE);
        assert_true(way_clock() - before < 1);
        end(&b);
    }
}

/* ---- read ---- */

enum how { BY_EOF, BY_RESET, BY_SILENCE, BY_NONSENSE, HOWS };

static const enum way_error error_of[] = { WAY_ERROR_EOF, WAY_ERROR_RESET,
                                           WAY_ERROR_TIMEOUT, WAY_ERROR_PROTOCOL };

/* Four commands; the peer says the first `cut` bytes of their replies, then that. */
static void cut_replies(size_t cut, enum how how, bool reused)
{
    static const char replies[] = "+a\r\n$5\r\nhello\r\n*2\r\n:1\r\n$-1\r\n-ERR d\r\n";
    static const size_t end_of[] = { 4, 15, 28, 36 };
    struct bed b;
    unsigned whole = 0, before = 0;
    begin(&b);
    b.timeouts.read = how == BY_SILENCE ? 0.05 : 5;
    open_and_accept(&b);
    if (reused) {
        send_text(&b, "first");
        peer_reads(&b, "first");
        peer_says(&b, "+first\r\n");
        UNTIL(&b, b.answered == 1);
        before = 1;
    }
    for (unsigned i = 0; i < 4; i++)
        send_text(&b, "command\r\n");
    peer_reads(&b, "command\r\ncommand\r\ncommand\r\ncommand\r\n");
    while (whole < 4 && cut >= end_of[whole])
        whole++;
    peer_says_bytes(&b, replies, cut);
    UNTIL(&b, b.answered == before + whole);
    bool half = cut != (whole ? end_of[whole - 1] : 0);
    if (half)
        run_for(&b, 0.004); /* a reset would throw away what was not read */
    if (how == BY_EOF)
        shut(&b.peer);
    else if (how == BY_RESET)
        peer_resets(&b);
    else if (how == BY_NONSENSE)
        peer_says(&b, "\x01\r\n\x01\r\n");
    bool nonsense_in_text = how == BY_NONSENSE && half;
    UNTIL(&b, b.broke || (how == BY_SILENCE && whole == 4) || nonsense_in_text);
    if (nonsense_in_text || (how == BY_SILENCE && whole == 4)) {
        end(&b); /* it may still become a reply; or nothing is awaited */
        return;
    }
    assert_broke(&b, WAY_PHASE_READ, half ? WAY_STEP_REPLY : WAY_STEP_WAIT,
                 error_of[how]);
    assert_int_equal(b.e.replies_read, whole == 4 ? 0 : whole);
    assert_int_equal(b.e.bytes_written, whole == 4 ? 0 : 4 * 9);
    assert_int_equal(b.e.reused, reused || whole == 4);
    assert_fates(&b, before + whole, 4 - whole);
    end(&b);
}

static void certainty_is_exact_at_each_byte_of_the_replies(void **state)
{
    (void)state;
    for (size_t cut = 0; cut <= 36; cut++) {
        cut_replies(cut, BY_EOF, cut % 2);
        cut_replies(cut, BY_RESET, cut % 3 == 0);
    }
}

static void a_read_deadline_keeps_what_was_answered(void **state)
{
    (void)state;
    static const size_t cuts[] = { 0, 1, 4, 9, 15, 20, 28, 30 };
    for (unsigned i = 0; i < way_count(cuts); i++)
        cut_replies(cuts[i], BY_SILENCE, i % 2);
}

static void nonsense_between_replies_is_a_protocol_error(void **state)
{
    (void)state;
    static const size_t cuts[] = { 0, 4, 15, 28 };
    for (unsigned i = 0; i < way_count(cuts); i++) {
        struct bed b;
        begin(&b);
        open_and_accept(&b);
        send_text(&b, "a");
        send_text(&b, "b");
        peer_reads(&b, "ab");
        peer_says(&b, i % 2 ? "+OK\r\nGET / HTTP/1.1\r\n" : "\x01\r\n");
        UNTIL(&b, b.broke);
        assert_int_equal(b.e.error, WAY_ERROR_PROTOCOL);
        assert_int_equal(b.e.phase, WAY_PHASE_READ);
        assert_int_equal(b.e.replies_read, i % 2);
        assert_fates(&b, i % 2, 2 - i % 2);
        end(&b);
    }
}

static void an_idle_connection_that_closes_concerns_no_command(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    open_and_accept(&b);
    shut(&b.peer);
    assert_broke(&b, WAY_PHASE_READ, WAY_STEP_WAIT, WAY_ERROR_EOF);
    assert_int_equal(b.e.n, 0);
    assert_false(b.e.reused);
    assert_int_equal(b.e.bytes_written, 0);
    end(&b);
}

static void a_read_deadline_begins_with_the_last_byte_written(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    b.timeouts.read = 0.1;
    open_and_accept(&b);
    run_for(&b, 0.15);
    send_text(&b, "a"); /* an old connection: its deadline is young */
    run_for(&b, 0.06);
    assert_int_equal(b.broke, 0);
    send_text(&b, "b");
    peer_says(&b, "+a\r\n");
    UNTIL(&b, b.answered == 1);
    run_for(&b, 0.06);
    assert_int_equal(b.broke, 0);
    assert_broke(&b, WAY_PHASE_READ, WAY_STEP_WAIT, WAY_ERROR_TIMEOUT);
    assert_fates(&b, 1, 1);
    end(&b);
}

static void replies_nobody_asked_for_end_the_connection(void **state)
{
    (void)state;
    for (unsigned words = 0; words < 2; words++) {
        struct bed b;
        begin(&b);
        open_and_accept(&b);
        peer_says(&b, words ? "-ERR idle for too long\r\n" : "+hello\r\n");
        assert_broke(&b, WAY_PHASE_READ, WAY_STEP_WAIT,
                     words ? WAY_ERROR_REPLY : WAY_ERROR_PROTOCOL);
        if (words)
            assert_string_equal(b.e.message, "ERR idle for too long");
        assert_int_equal(b.answered, 0);
        end(&b);
    }
}

static void a_reply_to_what_was_not_wholly_sent_is_no_reply(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    open_and_accept(&b);
    send_much(&b, 1, BIG);
    run_for(&b, 0.02);
    assert_true(b.conn->sent > 0 && b.conn->sent < BIG);
    peer_says(&b, "+OK\r\n");
    UNTIL(&b, b.broke);
    assert_int_equal(b.e.error, WAY_ERROR_PROTOCOL);
    assert_fates(&b, 0, 0);
    end(&b);
}

static void pushes_are_dropped(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    open_and_accept(&b);
    peer_says(&b, ">2\r\n+a\r\n+b\r\n");
    send_text(&b, "x");
    peer_reads(&b, "x");
    peer_says(&b, ">1\r\n$10\r\ninvalidate\r\n+x\r\n>1\r\n+c\r\n");
    UNTIL(&b, b.answered == 1);
    run_for(&b, 0.01);
    assert_string_equal(b.reply[0], "+x\r\n");
    assert_int_equal(b.broke, 0);
    assert_int_equal(b.batched, 1);
    end(&b);
}

static void one_reply_is_bounded_in_its_parts_and_as_a_whole(void **state)
{
    (void)state;
    static const char *const large[] = { "$101\r\n", "*3\r\n$40\r\n", "+" };
    for (unsigned i = 0; i < way_count(large); i++) {
        struct bed b;
        char a[41] = "";
        memset(a, 'a', 40);
        begin(&b);
        b.o.reply_bytes = 100;
        open_and_accept(&b);
        send_text(&b, "x");
        peer_reads(&b, "x");
        peer_says(&b, large[i]);
        for (unsigned k = 0; k < 3 && i > 0; k++) {
            peer_says(&b, a);
            if (i == 1 && k < 2)
                peer_says(&b, "\r\n$40\r\n");
        }
        UNTIL(&b, b.broke);
        assert_int_equal(b.e.phase, WAY_PHASE_READ);
        assert_int_equal(b.e.error, WAY_ERROR_OVERFLOW);
        assert_fates(&b, 0, 1);
        end(&b);
    }
}

static void a_reply_in_a_thousand_pieces_is_one(void **state)
{
    (void)state;
    struct bed b;
    char text[1100], bulk[1024];
    begin(&b);
    open_and_accept(&b);
    memset(bulk, 'x', 1000);
    int n = snprintf(text, sizeof text, "$1000\r\n%.1000s\r\n", bulk);
    send_text(&b, "x");
    send_text(&b, "y");
    peer_reads(&b, "xy");
    for (int i = 0; i < n; i++) {
        peer_says_bytes(&b, text + i, 1);
        ev_run(b.loop.ev, EVRUN_NOWAIT);
    }
    peer_says(&b, "+y\r\n");
    UNTIL(&b, b.answered == 2);
    assert_string_equal(b.reply[1], "+y\r\n");
    assert_int_equal(b.batched, 2);
    end(&b);
}

/* ---- ends that were asked for ---- */

static void a_draining_connection_closes_with_its_last_reply(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    open_and_accept(&b);
    send_text(&b, "a");
    send_text(&b, "b");
    peer_reads(&b, "ab");
    way_conn_drain(b.conn);
    peer_says(&b, "+a\r\n");
    UNTIL(&b, b.answered == 1);
    assert_int_equal(b.drained, 0);
    peer_says(&b, "+b\r\n");
    UNTIL(&b, b.drained);
    assert_int_equal(b.answered, 2);
    run_for(&b, 0.01);
    assert_int_equal(b.drained, 1);
    assert_int_equal(b.broke, 0);
    end(&b);
}

static void draining_an_idle_connection_closes_it_at_once(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    open_and_accept(&b);
    way_conn_drain(b.conn);
    assert_int_equal(b.drained, 1);
    assert_null(b.conn);
    end(&b);
}

static void a_draining_connection_may_still_break(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    open_and_accept(&b);
    send_text(&b, "a");
    peer_reads(&b, "a");
    way_conn_drain(b.conn);
    shut(&b.peer);
    assert_broke(&b, WAY_PHASE_READ, WAY_STEP_WAIT, WAY_ERROR_EOF);
    assert_fates(&b, 0, 1);
    end(&b);
}

static void a_connection_may_be_closed_from_within_a_reply(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    open_and_accept(&b);
    b.close_in_reply = true;
    for (unsigned i = 0; i < 3; i++)
        send_text(&b, "a");
    peer_reads(&b, "aaa");
    peer_says(&b, "+a\r\n+b\r\n+");
    UNTIL(&b, b.answered == 1);
    run_for(&b, 0.02);
    assert_int_equal(b.answered, 1);
    assert_int_equal(b.batches + b.broke + b.drained, 0);
    end(&b);
}

static void a_break_from_above_is_told_as_one_from_the_peer(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    open_and_accept(&b);
    send_text(&b, "a");
    peer_reads(&b, "a");
    send_text(&b, "b"); /* not written before the pass ends */
    way_conn_break(b.conn, WAY_ERROR_RESET, "as was said");
    assert_int_equal(b.broke, 1);
    assert_int_equal(b.e.error, WAY_ERROR_RESET);
    assert_int_equal(b.e.phase, WAY_PHASE_READ);
    assert_string_equal(b.e.message, "as was said");
    assert_fates(&b, 0, 1);
    end(&b);
}

static void what_waited_for_the_connect_counts_as_sent_when_it_went(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    b.o.readonly = true;
    open_conn(&b);
    send_text(&b, "a");
    accept_peer(&b);
    peer_reads(&b, readonly);
    run_for(&b, 0.05);
    peer_says(&b, "+OK\r\n");
    peer_reads(&b, "a");
    assert_true(b.conn->head->sent >= b.conn->ready_at);
    assert_true(b.conn->head->sent - b.conn->born >= 0.05);
    end(&b);
}

/* Enough rounds that the buffer wraps and moves; bytes of those in flight stay right. */
static void bytes_of_commands_survive_the_moving_of_their_buffer(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    open_and_accept(&b);
    unsigned said = 0;
    while (b.sent < MOST - 8) {
        char text[40], replies[256] = "";
        for (unsigned i = 0; i < 7; i++) {
            snprintf(text, sizeof text, "command %u of many, %u\r\n", b.sent,
                     b.sent * 77);
            send_text(&b, text);
            peer_reads(&b, text);
        }
        for (; said + 3 < b.sent; said++)
            strcat(replies, "+OK\r\n");
        peer_says(&b, replies);
        UNTIL(&b, b.answered == said);
    }
    peer_resets(&b);
    UNTIL(&b, b.broke);
    assert_fates(&b, said, b.sent - said);
    end(&b);
}

int main(void)
{
    struct way_err err;
    if (way_resolver_library_init(&err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_refused_dial_leaves_all_unsent),
        cmocka_unit_test(a_dial_that_nobody_takes_times_out),
        cmocka_unit_test(a_name_that_is_none_is_a_dns_error),
        cmocka_unit_test(a_name_server_that_is_silent_is_a_resolve_time_out),
        cmocka_unit_test(closing_while_it_connects_says_nothing),
        cmocka_unit_test(a_hello_comes_before_the_first_command),
        cmocka_unit_test(resp3_is_asked_for_with_the_password),
        cmocka_unit_test(what_a_node_says_to_the_hello_is_told_apart),
        cmocka_unit_test(a_node_that_is_full_is_heard_though_it_closes_at_once),
        cmocka_unit_test(a_loop_that_is_late_itself_blames_no_node),
        cmocka_unit_test(a_hello_without_answer_times_out),
        cmocka_unit_test(a_hello_cut_off_is_an_eof),
        cmocka_unit_test(a_peer_that_resets_while_much_is_written_fails_the_write),
        cmocka_unit_test(a_peer_that_stops_reading_times_the_write_out),
        cmocka_unit_test(a_first_backlog_is_written_out_as_the_peer_reads),
        cmocka_unit_test(a_peer_that_reads_slowly_is_no_write_time_out),
        cmocka_unit_test(the_shorter_of_two_deadlines_is_kept),
        cmocka_unit_test(certainty_is_exact_at_each_byte_of_the_replies),
        cmocka_unit_test(a_read_deadline_keeps_what_was_answered),
        cmocka_unit_test(nonsense_between_replies_is_a_protocol_error),
        cmocka_unit_test(an_idle_connection_that_closes_concerns_no_command),
        cmocka_unit_test(a_read_deadline_begins_with_the_last_byte_written),
        cmocka_unit_test(replies_nobody_asked_for_end_the_connection),
        cmocka_unit_test(a_reply_to_what_was_not_wholly_sent_is_no_reply),
        cmocka_unit_test(pushes_are_dropped),
        cmocka_unit_test(one_reply_is_bounded_in_its_parts_and_as_a_whole),
        cmocka_unit_test(a_reply_in_a_thousand_pieces_is_one),
        cmocka_unit_test(a_draining_connection_closes_with_its_last_reply),
        cmocka_unit_test(draining_an_idle_connection_closes_it_at_once),
        cmocka_unit_test(a_draining_connection_may_still_break),
        cmocka_unit_test(a_connection_may_be_closed_from_within_a_reply),
        cmocka_unit_test(a_break_from_above_is_told_as_one_from_the_peer),
        cmocka_unit_test(what_waited_for_the_connect_counts_as_sent_when_it_went),
        cmocka_unit_test(bytes_of_commands_survive_the_moving_of_their_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
