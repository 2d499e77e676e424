/* What an operator may rely on: the console answers redis-cli in RESP2 and RESP3 with whole
 * replies, tells what it does not understand, and neither many clients, nor nonsense, nor
 * one that never reads what it asked for does it any harm. */
#include "admin.h"
#include "control_kit.h"
#include "listen.h"
#include "log.h"
#include "resolve.h"
#include "resp.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/un.h>

struct fixture {
    struct kit_control *k;
    struct way_admin *admin;
    char address[64];
};

struct talker { /* a client */
    int fd;
    struct way_buf in;
    bool closed;
};

static int set_up(void **state)
{
    static unsigned number;
    struct way_err err = { "" };
    struct fixture *f = way_zalloc(sizeof *f);
    f->k = kit_control_start(KIT_EXPIRES);
    snprintf(f->address, sizeof f->address, "unix:/tmp/wayside-admin-%d-%u",
             (int)getpid(), number++);
    if (way_admin_new(&f->admin, f->k->control, f->address, &err) < 0)
        fail_msg("%s", err.text);
    kit_await_known(f->k);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    way_admin_free(f->admin);
    assert_int_equal(stat(f->address + 5, &st), -1);
    kit_control_stop(f->k);
    way_free(f);
    return 0;
}

static void hello(struct fixture *f, struct talker *t)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    memset(t, 0, sizeof *t);
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", f->address + 5);
    t->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(t->fd, (struct sockaddr *)&sa, sizeof sa), 0);
}

static void bye(struct talker *t)
{
    close(t->fd);
    way_buf_fini(&t->in);
}

/* Whether a whole reply is there, or the end. */
static bool has_reply(struct talker *t)
{
    struct way_reply_framer framer = { 0 };
    way_buf_room(&t->in, 65536);
    ssize_t n = recv(t->fd, t->in.p + t->in.len, t->in.cap - t->in.len, 0);
    t->closed |= n == 0 || (n < 0 && errno != EAGAIN);
    t->in.len += n > 0 ? (size_t)n : 0;
    size_t held = way_buf_held(&t->in);
    ssize_t whole =
        held ? way_reply_frame(&framer, t->in.p + t->in.off, held, 1 << 24) : 0;
    assert_true(whole >= 0); /* RESP, whatever was asked */
    return whole > 0 || t->closed;
}

/* The next reply, as a string until the next call. */
static const char *reply(struct fixture *f, struct talker *t)
{
    static char text[1 << 18];
    AWAIT(&f->k->loop, 2, has_reply(t));
    size_t n = way_reply_length(t->in.p + t->in.off, way_buf_held(&t->in));
    assert_true(n < sizeof text);
    memcpy(text, t->in.p + t->in.off, n);
    text[n] = 0;
    t->in.off += n;
    return text;
}

static const char *ask(struct fixture *f, struct talker *t, const char *line)
{
    char bytes[512];
    int n = snprintf(bytes, sizeof bytes, "%s\r\n", line);
    assert_int_equal(send(t->fd, bytes, (size_t)n, MSG_NOSIGNAL), n);
    return reply(f, t);
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no '%s' in: %.2000s", part, text);
}

/* --- what may be relied on --- */

static void it_greets_as_redis_does(void **state)
{
    struct fixture *f = *state;
    struct talker t;
    hello(f, &t);
    assert_string_equal(ask(f, &t, "PING"), "+PONG\r\n");
    assert_string_equal(ask(f, &t, "ping hello"), "$5\r\nhello\r\n");
    assert_string_equal(ask(f, &t, "COMMAND DOCS"), "*0\r\n");
    assert_int_equal(ask(f, &t, "HELLO 2")[0], '*');
    assert_int_equal(ask(f, &t, "HELLO 3")[0], '%');
    assert_memory_equal(ask(f, &t, "HELLO 4"), "-NOPROTO", 8);
    assert_has(ask(f, &t, "INFO"), "wayside_version:");
    assert_string_equal(ask(f, &t, "QUIT"), "+OK\r\n");
    AWAIT(&f->k->loop, 2, has_reply(&t));
    assert_true(t.closed);
    bye(&t);
}

static void nodes_are_told_in_both_protocols(void **state)
{
    struct fixture *f = *state;
    struct talker t;
    hello(f, &t);
    kit_refused(f->k, KIT_REPLICA);
    const char *two = ask(f, &t, "WAYSIDE NODES");
    assert_memory_equal(two, "*2\r\n*", 5);
    assert_has(two, f->k->node[KIT_MASTER].address);
    assert_has(two, "$5\r\nstate\r\n$7\r\nhealthy\r\n");
    assert_has(two, "$5\r\nstate\r\n$7\r\nfailing\r\n");
    assert_has(two, "$6\r\nreason\r\n$7\r\nrefused\r\n");
    ask(f, &t, "HELLO 3");
    const char *three = ask(f, &t, "wayside nodes");
    assert_memory_equal(three, "*2\r\n%", 5);
    assert_has(three, "$6\r\nweight\r\n,1\r\n");
    bye(&t);
}

static void events_are_told_with_all_their_words(void **state)
{
    struct fixture *f = *state;
    struct talker t;
    char line[128];
    hello(f, &t);
    kit_refused(f->k, KIT_REPLICA);
    kit_pass_time(&f->k->loop, 0.1);
    snprintf(line, sizeof line, "WAYSIDE EVENTS %s 2", f->k->node[KIT_REPLICA].address);
    const char *text = ask(f, &t, line);
    assert_memory_equal(text, "*2\r\n", 4); /* mark, and probe because of it */
    static const char *const words[] = {
        "time",
        "thread",
        "$4\r\nkind\r\n$10\r\nconnection\r\n",
        "$5\r\nphase\r\n$7\r\nconnect\r\n",
        "$4\r\nstep\r\n$4\r\ndial\r\n",
        "$5\r\nerror\r\n$7\r\nrefused\r\n",
        "$5\r\nerrno\r\n:111\r\n",
        "$7\r\nmessage\r\n$18\r\nConnection refused\r\n",
        "$5\r\nclass\r\n$4\r\ndown\r\n",
        "$5\r\nblame\r\n$4\r\nnode\r\n",
        "$1\r\nn\r\n:3\r\n",
        "bytes_written",
        "replies_read",
        "$8\r\nfunction\r\n$4\r\nmark\r\n",
        "$7\r\nverdict\r\n$21\r\nfailing 0.3 s refused\r\n",
        "where",
        "did",
        "$4\r\nfrom\r\n$7\r\nhealthy\r\n",
        "$2\r\nto\r\n$7\r\nfailing\r\n"
    };
    for (unsigned i = 0; i < way_count(words); i++)
        assert_has(text, words[i]);
    assert_memory_equal(ask(f, &t, "WAYSIDE EVENTS 0"), "*0\r\n", 4);
    bye(&t);
}

static void why_tells_the_chain_in_words(void **state)
{
    struct fixture *f = *state;
    struct talker t;
    char line[128];
    hello(f, &t);
    kit_refused(f->k, KIT_REPLICA);
    kit_pass_time(&f->k->loop, 0.1);
    snprintf(line, sizeof line, "WAYSIDE WHY %s", f->k->node[KIT_REPLICA].address);
    const char *text = ask(f, &t, line);
    assert_memory_equal(text, "*2\r\n", 4);
    assert_has(text, "(replica) is failing since 0.1");
    assert_has(text, "worker 0: a connection could not be made: connect, dial: refused");
    assert_has(text, "said failing 0.3 s refused; healthy -> failing");
    AWAIT(&f->k->loop, 2, kit_state(f->k, KIT_REPLICA) == WAY_STATE_HEALTHY);
    kit_pass_time(&f->k->loop, 0.1);
    assert_has(ask(f, &t, line),
               "the mark's time was over; the host said healthy expired");
    assert_has(ask(f, &t, "WAYSIDE WHY 0000000000000000000000000000000000000001"),
               "nothing is recorded against it");
    bye(&t);
}

static void policy_and_limits_are_told(void **state)
{
    struct fixture *f = *state;
    struct talker t;
    hello(f, &t);
    const char *policy = ask(f, &t, "WAYSIDE POLICY");
    assert_has(policy, "$4\r\nname\r\n$7\r\nexpires\r\n$7\r\nversion\r\n$1\r\n7\r\n");
    assert_has(policy, "$9\r\nset_aside\r\n:0\r\n");
    const char *limits = ask(f, &t, "WAYSIDE LIMITS");
    assert_has(limits, "$13\r\ntimeouts.dial\r\n$5\r\nvalue\r\n$3\r\n0.5\r\n");
    assert_has(limits, "limits.guard");
    assert_has(ask(f, &t, "WAYSIDE HELP"), "WAYSIDE WHY node");
    assert_has(ask(f, &t, "WAYSIDE"), "WAYSIDE WHY node");
    bye(&t);
}

static void what_is_not_understood_is_told(void **state)
{
    struct fixture *f = *state;
    struct talker t;
    hello(f, &t);
    assert_has(ask(f, &t, "WAYSIDE NODSE"),
               "-ERR unknown subcommand 'NODSE': did you mean "
               "WAYSIDE NODES?");
    assert_has(ask(f, &t, "WAYSIDE abracadabra"), "try WAYSIDE HELP");
    assert_has(ask(f, &t, "GET a"), "not its port for clients");
    assert_has(ask(f, &t, "WAYSIDE WHY"),
               "-ERR wrong number of arguments: WAYSIDE WHY node");
    assert_has(ask(f, &t, "WAYSIDE WHY 1.2.3.4:5"), "-ERR no node '1.2.3.4:5'");
    assert_has(ask(f, &t, "WAYSIDE EVENTS nobody"), "-ERR no node 'nobody'");
    assert_has(ask(f, &t, "WAYSIDE \"a\\x00b\""),
               "-ERR too many words, or too long ones");
    assert_string_equal(ask(f, &t, "PING"), "+PONG\r\n");
    bye(&t);
}

static void nonsense_ends_only_who_sent_it(void **state)
{
    struct fixture *f = *state;
    struct talker good, bad;
    hello(f, &good);
    hello(f, &bad);
    assert_has(ask(f, &bad, "*1\r\n$x\r\n"), "-ERR Protocol error");
    AWAIT(&f->k->loop, 2, has_reply(&bad));
    assert_true(bad.closed);
    bye(&bad);
    hello(f, &bad); /* a request without end */
    char much[70000];
    memset(much, 'x', sizeof much);
    memcpy(much, "*2\r\n$4\r\nPING\r\n$60000\r\n", 22);
    for (size_t at = 0; at < sizeof much && !bad.closed;) {
        ssize_t n = send(bad.fd, much + at, sizeof much - at, MSG_NOSIGNAL);
        at += n > 0 ? (size_t)n : 0;
        bad.closed |= n < 0 && errno == EPIPE;
        kit_pass_time(&f->k->loop, 0.002);
    }
    assert_has(reply(f, &bad), "-ERR");
    bye(&bad);
    assert_string_equal(ask(f, &good, "PING"), "+PONG\r\n");
    bye(&good);
}

static void requests_in_one_piece_and_in_single_bytes_are_the_same(void **state)
{
    struct fixture *f = *state;
    struct talker t;
    static const char request[] = "*2\r\n$4\r\nPING\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n";
    hello(f, &t);
    assert_int_equal(send(t.fd, request, sizeof request - 1, 0), sizeof request - 1);
    assert_string_equal(reply(f, &t), "$1\r\na\r\n");
    assert_string_equal(reply(f, &t), "+PONG\r\n");
    for (size_t i = 0; i < sizeof request - 1; i++) {
        assert_int_equal(send(t.fd, request + i, 1, 0), 1);
        kit_pass_time(&f->k->loop, 0.002);
    }
    assert_string_equal(reply(f, &t), "$1\r\na\r\n");
    assert_string_equal(reply(f, &t), "+PONG\r\n");
    bye(&t);
}

static void the_seventeenth_client_is_refused(void **state)
{
    struct fixture *f = *state;
    struct talker t[17];
    for (int i = 0; i < 17; i++) {
        hello(f, &t[i]);
        kit_pass_time(&f->k->loop, 0.005);
    }
    assert_string_equal(ask(f, &t[15], "PING"), "+PONG\r\n");
    assert_string_equal(reply(f, &t[16]), "-ERR max number of clients reached\r\n");
    bye(&t[0]);
    kit_pass_time(&f->k->loop, 0.02);
    hello(f, &t[0]); /* its place is free again */
    assert_string_equal(ask(f, &t[0], "PING"), "+PONG\r\n");
    for (int i = 0; i < 17; i++)
        bye(&t[i]);
}

static void a_client_that_asks_much_and_reads_late_gets_all(void **state)
{
    struct fixture *f = *state;
    struct talker t;
    enum { TIMES = 400 }; /* 400 times 12 KB */
    struct way_buf lines = { 0 };
    hello(f, &t);
    for (int i = 0; i < TIMES; i++)
        way_buf_puts(&lines, "WAYSIDE LIMITS\r\n");
    size_t n = way_buf_held(&lines);
    assert_int_equal(send(t.fd, lines.p, n, 0), n);
    way_buf_fini(&lines);
    kit_pass_time(&f->k->loop, 0.1);
    for (int i = 0; i < TIMES; i++) {
        const char *text = reply(f, &t);
        assert_int_equal(text[0], '*');
    }
    assert_string_equal(ask(f, &t, "PING"), "+PONG\r\n");
    bye(&t);
}

static void the_socket_is_for_its_owner_only(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    assert_int_equal(stat(f->address + 5, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    struct way_admin *second;
    struct way_err err = { "" };
    assert_int_equal(way_admin_new(&second, f->k->control, f->address, &err), -1);
    assert_memory_equal(err.text, "admin.console: ", 15);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(it_greets_as_redis_does),
        TEST(nodes_are_told_in_both_protocols),
        TEST(events_are_told_with_all_their_words),
        TEST(why_tells_the_chain_in_words),
        TEST(policy_and_limits_are_told),
        TEST(what_is_not_understood_is_told),
        TEST(nonsense_ends_only_who_sent_it),
        TEST(requests_in_one_piece_and_in_single_bytes_are_the_same),
        TEST(the_seventeenth_client_is_refused),
        TEST(a_client_that_asks_much_and_reads_late_gets_all),
        TEST(the_socket_is_for_its_owner_only),
    };
    struct way_err err;
    way_log_level(WAY_ERROR);
    if (way_resolver_library_init(&err) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
