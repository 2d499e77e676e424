/* front: a client gets one reply for each command, in order, whatever becomes of the nodes;
 * and what it may use up of ours is bounded. */
#include "front.h"

#include "client.h"
#include "dispatch_kit.h"
#include "log.h"

#include <errno.h>

enum { HEARD = 1 << 22 };

static const char nothing[] = POLICY("mark = function() end, backoff = function() end");
static const char holds[] =
    POLICY("mark = function() end, backoff = function() return { retry = 'hold', "
           "within = 4 } end");

struct host {
    struct bed b;
    struct way_front *front;
    uint64_t ids;
    int fd;      /* the client's end, -1: closed */
    char *heard; /* all that it read */
    size_t n;
    bool hung_up; /* by us */
};

static void put_info(void *arg, struct way_buf *out)
{
    (void)arg;
    way_buf_puts(out, "info:yes\r\n");
}

static uint64_t next_id(void *arg)
{
    return ++((struct host *)arg)->ids;
}

static void on_woken(struct way_loop *l)
{
    way_front_take(
        way_container(way_container(l, struct bed, loop), struct host, b)->front);
}

static void connect_client(struct host *h)
{
    int ends[2];
    assert_int_equal(
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    h->fd = ends[1];
    h->n = 0;
    h->hung_up = false;
    way_front_hand(h->front, ends[0]);
    assert_true(way_front_clients(h->front) > 0);
}

/* Limits may be changed in h->b.config between init and serve. */
static void serve(struct host *h)
{
    start(&h->b);
    drop_client(&h->b);
    struct way_front_options o = { .loop = &h->b.loop,
                                   .dispatch = h->b.dispatch,
                                   .config = &h->b.config,
                                   .stats = &h->b.stats,
                                   .pool = &h->b.pool,
                                   .host = { put_info, next_id, h } };
    h->front = way_front_new(&o);
    h->b.loop.woken = on_woken;
    h->ids = 0;
    h->heard = way_alloc(HEARD);
    connect_client(h);
}

static void stop(struct host *h)
{
    if (h->fd >= 0)
        close(h->fd);
    h->fd = -1;
    AWAIT(&h->b.loop, 5, way_front_clients(h->front) == 0);
    assert_int_equal(stat_of(&h->b, WAY_STAT_CLIENTS_CLOSED), h->ids);
    for (int i = 0; i < NODES; i++)
        close_clients(&h->b.node[i]); /* nobody waits for those that are silent */
    AWAIT(&h->b.loop, 5, h->b.pool.live == 0);
    memset(&h->b.p, 0, sizeof h->b.p);
    way_front_free(h->front);
    end(&h->b);
    way_free(h->heard);
}

static void say_bytes(struct host *h, const char *bytes, size_t n)
{
    size_t at = 0;
    AWAIT(&h->b.loop, 5, ({
        ssize_t k = send(h->fd, bytes + at, n - at, MSG_NOSIGNAL);
        at += k > 0 ? (size_t)k : 0;
        at == n;
    }));
}

static void say(struct host *h, const char *text)
{
    say_bytes(h, text, strlen(text));
}

/* Reads what is there; true once n bytes were heard in all, or the end. */
static bool listen_until(struct host *h, size_t n)
{
    while (h->n < HEARD) {
        ssize_t k = recv(h->fd, h->heard + h->n, HEARD - h->n, 0);
        h->hung_up = h->hung_up || k == 0 || (k < 0 && errno != EAGAIN);
        if (k <= 0)
            break;
        h->n += (size_t)k;
    }
    return h->hung_up || h->n >= n;
}

static void hear(struct host *h, const char *expected)
{
    size_t n = strlen(expected);
    AWAIT(&h->b.loop, 5, listen_until(h, n));
    if (h->n != n || memcmp(h->heard, expected, n) != 0)
        fail_msg("the client heard '%.*s', expected '%s'", (int)h->n, h->heard, expected);
    h->n = 0;
}

static void hear_the_end(struct host *h)
{
    AWAIT(&h->b.loop, 5, listen_until(h, HEARD));
    assert_true(h->hung_up);
}

static void put(struct way_buf *out, const char *name, unsigned slot, const char *rest)
{
    put_command(out, name, slot, rest);
}

static void say_commands(struct host *h, struct way_buf *commands)
{
    say_bytes(h, commands->p, commands->len);
    way_buf_fini(commands);
}

/* ---- replies ---- */

static void local_and_forwarded_replies_keep_their_order(void **state)
{
    (void)state;
    struct host h;
    struct way_buf c = { 0 };
    init(&h.b, NULL);
    serve(&h);
    put(&c, "GET", SLOT_A, NULL);
    way_buf_puts(&c, "PING\r\n*1\r\n$4\r\nPING\r\n*0\r\n\r\n");
    put(&c, "GET", SLOT_B, NULL);
    way_buf_puts(&c, "*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\nNONSENSE a\r\nping 'un\r\n");
    say_commands(&h, &c);
    hear(&h, "$1\r\na\r\n+PONG\r\n+PONG\r\n$1\r\nb\r\n$2\r\nhi\r\n"
             "-ERR unknown command 'NONSENSE', with args beginning with: 'a' \r\n"
             "-ERR Protocol error: unbalanced quotes in request\r\n");
    hear_the_end(&h);
    assert_int_equal(stat_of(&h.b, WAY_STAT_REPLIES), 7);
    assert_int_equal(stat_of(&h.b, WAY_STAT_REQUESTS), 7);
    stop(&h);
}

static void a_command_is_served_however_it_is_cut(void **state)
{
    (void)state;
    struct host h;
    struct way_buf c = { 0 };
    init(&h.b, NULL);
    serve(&h);
    put(&c, "GET", SLOT_A, NULL);
    way_buf_puts(&c, "ping\r\n");
    put(&c, "SET", SLOT_B, "1");
    for (size_t i = 0; i < c.len; i++) {
        say_bytes(&h, c.p + i, 1);
        ev_run(h.b.loop.ev, EVRUN_NOWAIT);
    }
    hear(&h, "$1\r\na\r\n+PONG\r\n+OK\r\n");
    way_buf_fini(&c);
    stop(&h);
}

static void put_keys(struct way_buf *out, const char *name, const unsigned *slot,
                     unsigned count, bool values)
{
    way_resp_put_array(out, 1 + count * (values ? 2 : 1));
    way_resp_put_bulk(out, name, strlen(name));
    for (unsigned i = 0; i < count; i++) {
        char key[16];
        way_slot_key((uint16_t)slot[i], key);
        way_resp_put_bulk(out, key, strlen(key));
        if (values)
            way_resp_put_bulk(out, "v", 1);
    }
}

static void a_split_command_is_joined_or_fails_as_a_whole(void **state)
{
    (void)state;
    static const unsigned slots[] = { SLOT_B, SLOT_A, SLOT_B + 1, SLOT_B, SLOT_A };
    struct host h;
    struct way_buf c = { 0 };
    init(&h.b, nothing);
    serve(&h);
    put_keys(&c, "MGET", slots, 5, false);
    put_keys(&c, "MSET", slots, 2, true);
    put_keys(&c, "DEL", slots, 3, false);
    rule(&h.b, A, "MGET", "*2\r\n$2\r\na1\r\n$2\r\na2\r\n", 1);
    rule(&h.b, A, "DEL", ":1\r\n", 1);
    char key[16], first[48], second[48];
    way_slot_key(SLOT_B, key);
    snprintf(first, sizeof first, "MGET %s %s", key, key);
    rule(&h.b, B, first, "*2\r\n$2\r\nb1\r\n$2\r\nb2\r\n", 1);
    way_slot_key(SLOT_B + 1, key);
    snprintf(second, sizeof second, "MGET %s", key);
    rule(&h.b, B, second, "*1\r\n$-1\r\n", 1);
    rule(&h.b, B, "DEL", "-ERR no\r\n", 1);
    rule(&h.b, B, "DEL", ":1\r\n", 1);
    say_commands(&h, &c);
    hear(&h, "*5\r\n$2\r\nb1\r\n$2\r\na1\r\n$-1\r\n$2\r\nb2\r\n$2\r\na2\r\n"
             "+OK\r\n-ERR no (2 of 3 parts succeeded)\r\n");
    stop(&h);
}

/* ---- time ---- */

/* The oldest command never comes back; those behind it were answered long ago. */
static void commands_that_run_out_of_time_free_the_replies_behind_them(void **state)
{
    (void)state;
    enum { MANY = 300 };
    struct host h;
    struct way_buf c = { 0 }, expected = { 0 };
    init(&h.b, nothing);
    h.b.config.timeouts.total = 0.2;
    h.b.config.timeouts.read = 60;
    serve(&h);
    rule(&h.b, A, "GET", NULL, 2 * MANY);
    for (unsigned i = 0; i < MANY; i++) {
        bool silent = i % 3 == 0;
        put(&c, "GET", silent ? SLOT_A : SLOT_B, NULL);
        if (silent)
            way_buf_printf(&expected,
                           "-WAYSIDE deadline phase=read step=wait "
                           "certainty=unknown class=caller node=%s no reply came\r\n",
                           h.b.node[A].address);
        else
            way_buf_puts(&expected, "$1\r\nb\r\n");
    }
    say_commands(&h, &c);
    way_buf_put(&expected, "", 1);
    hear(&h, expected.p);
    way_buf_reset(&expected);
    for (unsigned i = 0; i < MANY; i++) { /* the pool is whole */
        put(&c, "GET", SLOT_B, NULL);
        way_buf_puts(&expected, "$1\r\nb\r\n");
    }
    say_commands(&h, &c);
    way_buf_put(&expected, "", 1);
    hear(&h, expected.p);
    way_buf_fini(&expected);
    stop(&h);
}

static void a_client_that_sleeps_too_long_is_let_go(void **state)
{
    (void)state;
    struct host h;
    init(&h.b, NULL);
    h.b.config.timeouts.client_idle = 0.1;
    serve(&h);
    say(&h, "PING\r\n");
    hear(&h, "+PONG\r\n");
    hear_the_end(&h);
    stop(&h);
}

/* ---- bounds ---- */

static void a_client_that_asks_much_at_once_is_paused_and_resumed(void **state)
{
    (void)state;
    enum { MANY = 1000 };
    struct host h;
    struct way_buf c = { 0 }, expected = { 0 };
    init(&h.b, NULL);
    h.b.config.limits.client_inflight = 4;
    serve(&h);
    for (unsigned i = 0; i < MANY; i++) {
        put(&c, "GET", i % 2 ? SLOT_A + i : SLOT_B + i, NULL);
        way_buf_puts(&expected, i % 2 ? "$1\r\na\r\n" : "$1\r\nb\r\n");
        if (i % 10 == 0) {
            way_buf_puts(&c, "PING\r\n");
            way_buf_puts(&expected, "+PONG\r\n");
        }
    }
    way_buf_put(&expected, "", 1);
    say_commands(&h, &c);
    unsigned most = 0;
    AWAIT(&h.b.loop, 10, ({
        most = h.b.pool.live > most ? h.b.pool.live : most;
        listen_until(&h, expected.len - 1);
    }));
    hear(&h, expected.p);
    assert_true(most <= 4);
    way_buf_fini(&expected);
    stop(&h);
}

static char *bulk_of(size_t n)
{
    struct way_buf b = { 0 };
    char *text = way_alloc(n);
    memset(text, 'x', n);
    way_resp_put_bulk(&b, text, n);
    way_buf_put(&b, "", 1);
    way_free(text);
    return b.p;
}

static void a_client_that_does_not_take_its_replies_is_not_read_from(void **state)
{
    (void)state;
    enum { EACH = 16000, MANY = 200 };
    struct host h;
    struct way_buf c = { 0 };
    char *reply = bulk_of(EACH);
    init(&h.b, NULL);
    h.b.config.limits.client_output_bytes = 1 << 20;
    serve(&h);
    rule(&h.b, A, "GET", reply, MANY);
    h.b.config.limits.client_inflight = 8;
    for (unsigned i = 0; i < MANY; i++)
        put(&c, "GET", SLOT_A, NULL);
    say_commands(&h, &c);
    kit_pass_time(&h.b.loop, 0.1);
    assert_true(h.b.node[A].requests < MANY / 2); /* about a quarter of 1 MiB, and what
                                                     its socket takes */
    AWAIT(&h.b.loop, 5, listen_until(&h, MANY * strlen(reply)));
    assert_int_equal(h.n, MANY * strlen(reply));
    for (unsigned i = 0; i < MANY; i++)
        assert_memory_equal(h.heard + i * strlen(reply), reply, strlen(reply));
    h.n = 0;
    way_free(reply);
    stop(&h);
}

/* Its first command is stuck, and what was asked before that was seen is too much. */
static void replies_kept_for_their_turn_are_bounded(void **state)
{
    (void)state;
    struct host h;
    struct way_buf c = { 0 };
    char *reply = bulk_of(16000);
    init(&h.b, NULL);
    h.b.config.limits.client_output_bytes = 256 << 10;
    h.b.config.timeouts.read = 60;
    serve(&h);
    rule(&h.b, A, "GET", NULL, 1);
    rule(&h.b, B, "GET", reply, 100);
    put(&c, "GET", SLOT_A, NULL);
    for (unsigned i = 0; i < 100; i++)
        put(&c, "GET", SLOT_B, NULL);
    way_log_level(WAY_ERROR);
    say_commands(&h, &c);
    hear_the_end(&h);
    assert_int_equal(h.n, 0);
    assert_int_equal(way_front_clients(h.front), 0);
    way_log_level(WAY_INFO);
    way_free(reply);
    stop(&h);
}

static void parts_of_a_split_command_are_bounded(void **state)
{
    (void)state;
    enum { MANY = 100 };
    struct host h;
    struct way_buf c = { 0 };
    unsigned slots[MANY];
    char *bulk = bulk_of(16000), *reply = way_alloc(17000);
    snprintf(reply, 17000, "*1\r\n%s", bulk);
    init(&h.b, NULL);
    h.b.config.limits.client_output_bytes = 256 << 10;
    serve(&h);
    rule(&h.b, A, "MGET", NULL, 1);
    rule(&h.b, B, "MGET", reply, MANY);
    for (unsigned i = 0; i < MANY; i++)
        slots[i] = i ? SLOT_B + i : SLOT_A;
    put_keys(&c, "MGET", slots, MANY, false);
    way_log_level(WAY_ERROR);
    say_commands(&h, &c);
    hear_the_end(&h);
    assert_int_equal(h.n, 0);
    way_log_level(WAY_INFO);
    way_free(bulk);
    way_free(reply);
    stop(&h);
}

static void a_request_is_bounded_as_a_whole(void **state)
{
    (void)state;
    for (unsigned unfinished = 0; unfinished < 2; unfinished++) {
        struct host h;
        struct way_buf c = { 0 };
        char value[501] = "";
        memset(value, 'v', 500);
        init(&h.b, NULL);
        h.b.config.limits.request_bytes = 1024; /* of one argument, and of all */
        serve(&h);
        way_resp_put_array(&c, unfinished ? 100 : 4);
        way_resp_put_bulk(&c, "MGET", 4);
        for (unsigned i = 0; i < 3; i++)
            way_resp_put_bulk(&c, value, 500);
        if (!unfinished)
            way_buf_puts(&c, "PING\r\n");
        say_commands(&h, &c);
        hear(&h, "-ERR Protocol error: invalid bulk length\r\n");
        hear_the_end(&h);
        assert_int_equal(stat_of(&h.b, WAY_STAT_BAD_REQUESTS), 1);
        stop(&h);
    }
}

/* ---- ends ---- */

static void malformed_bytes_end_one_client_and_no_other(void **state)
{
    (void)state;
    struct host h;
    init(&h.b, NULL);
    serve(&h);
    int other = h.fd;
    connect_client(&h);
    say(&h, "*1\r\n$4\r\nPING\r\n*x\r\n*1\r\n$4\r\nPING\r\n");
    hear(&h, "+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n");
    hear_the_end(&h);
    close(h.fd);
    h.fd = other;
    h.hung_up = false;
    say(&h, "PING\r\n");
    hear(&h, "+PONG\r\n");
    stop(&h);
}

static void quit_comes_after_the_replies_before_it(void **state)
{
    (void)state;
    struct host h;
    struct way_buf c = { 0 };
    init(&h.b, NULL);
    serve(&h);
    put(&c, "GET", SLOT_A, NULL);
    way_buf_puts(&c, "QUIT\r\nPING\r\n");
    say_commands(&h, &c);
    hear(&h, "$1\r\na\r\n+OK\r\n");
    hear_the_end(&h);
    stop(&h);
}

static void who_has_said_all_still_gets_its_replies(void **state)
{
    (void)state;
    struct host h;
    struct way_buf c = { 0 };
    init(&h.b, NULL);
    serve(&h);
    put(&c, "GET", SLOT_A, NULL);
    put(&c, "GET", SLOT_B, NULL);
    say_commands(&h, &c);
    shutdown(h.fd, SHUT_WR);
    hear(&h, "$1\r\na\r\n$1\r\nb\r\n");
    hear_the_end(&h);
    stop(&h);
}

/* In flight, held, behind one that is held, and in parts of a split command. */
static void have_commands_everywhere(struct host *h)
{
    static const unsigned slots[] = { SLOT_A, SLOT_B, SLOT_A + 1, SLOT_B + 1 };
    struct way_buf c = { 0 };
    rule(&h->b, A, "GET", NULL, 1);
    rule(&h->b, A, "MGET", NULL, 2);
    rule(&h->b, A, "SET", "-TRYAGAIN x\r\n", 99);
    put(&c, "GET", SLOT_A, NULL);
    put(&c, "SET", SLOT_A + 2, "held");
    put_keys(&c, "MGET", slots, 4, false);
    say_commands(h, &c);
    AWAIT(&h->b.loop, 5, way_dispatch_waiting(h->b.dispatch, NULL) == 1);
    put(&c, "SET", SLOT_A + 2, "behind");
    say_commands(h, &c);
    AWAIT(&h->b.loop, 5, stat_of(&h->b, WAY_STAT_REQUESTS) == 4);
    assert_true(h->b.pool.live >= 6);
}

static void who_leaves_with_commands_under_way_leaves_nothing(void **state)
{
    (void)state;
    struct host h;
    init(&h.b, holds);
    h.b.config.timeouts.total =
        0.3; /* till then it may only have said all it had to say */
    serve(&h);
    have_commands_everywhere(&h);
    stop(&h);
}

static void all_clients_are_let_go_at_the_end(void **state)
{
    (void)state;
    struct host h;
    init(&h.b, holds);
    serve(&h);
    have_commands_everywhere(&h);
    int first = h.fd;
    connect_client(&h); /* handed over, not yet taken */
    way_front_free(h.front);
    close(first);
    close(h.fd);
    memset(&h.b.p, 0, sizeof h.b.p);
    finish(&h.b);
    way_free(h.heard);
}

/* ---- versions ---- */

static void hello_changes_the_version_and_keeps_the_order(void **state)
{
    (void)state;
    struct host h;
    struct way_buf c = { 0 };
    init(&h.b, NULL);
    serve(&h);
    rule(&h.b, A, "HELLO 3", "%1\r\n+proto\r\n:3\r\n", 1);
    rule(&h.b, A, "HGETALL", "%0\r\n", 1);
    put(&c, "SET", SLOT_A, "1");
    way_buf_puts(&c, "HELLO 4\r\nHELLO 3 SETNAME me\r\n");
    put(&c, "HGETALL", SLOT_A, NULL);
    way_buf_puts(&c, "CLIENT GETNAME\r\nRESET\r\nCLIENT GETNAME\r\n");
    say_commands(&h, &c);
    hear(&h, "+OK\r\n-NOPROTO unsupported protocol version\r\n"
             "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n"
             "$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n"
             "$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
             "%0\r\n$2\r\nme\r\n+RESET\r\n$-1\r\n");
    assert_true(strstr(h.b.node[A].asked, "SET") < strstr(h.b.node[A].asked, "HGETALL"));
    stop(&h);
}

int main(void)
{
    struct way_err err;
    if (way_resolver_library_init(&err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    way_command_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(local_and_forwarded_replies_keep_their_order),
        cmocka_unit_test(a_command_is_served_however_it_is_cut),
        cmocka_unit_test(a_split_command_is_joined_or_fails_as_a_whole),
        cmocka_unit_test(commands_that_run_out_of_time_free_the_replies_behind_them),
        cmocka_unit_test(a_client_that_sleeps_too_long_is_let_go),
        cmocka_unit_test(a_client_that_asks_much_at_once_is_paused_and_resumed),
        cmocka_unit_test(a_client_that_does_not_take_its_replies_is_not_read_from),
        cmocka_unit_test(replies_kept_for_their_turn_are_bounded),
        cmocka_unit_test(parts_of_a_split_command_are_bounded),
        cmocka_unit_test(a_request_is_bounded_as_a_whole),
        cmocka_unit_test(malformed_bytes_end_one_client_and_no_other),
        cmocka_unit_test(quit_comes_after_the_replies_before_it),
        cmocka_unit_test(who_has_said_all_still_gets_its_replies),
        cmocka_unit_test(who_leaves_with_commands_under_way_leaves_nothing),
        cmocka_unit_test(all_clients_are_let_go_at_the_end),
        cmocka_unit_test(hello_changes_the_version_and_keeps_the_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
