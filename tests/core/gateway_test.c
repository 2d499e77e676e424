/* What a server's worker may rely on that carries the bytes itself. The topology comes from
 * made-up nodes over real sockets; the commands' bytes are moved by the test. */
#include "gateway.h"

#include "inside_kit.h"

#include <sys/wait.h>

struct bed {
    struct kit_cluster k;
    struct way_gateway *g;
};

static void await_known(struct bed *b)
{
    double end = way_clock() + 5;
    while (!strstr(way_gateway_status(b->g), "slots_covered=1.0000") &&
           way_clock() < end) {
        way_gateway_tick(b->g);
        ev_run(b->k.loop.ev, EVRUN_NOWAIT);
    }
    assert_non_null(strstr(way_gateway_status(b->g), "slots_covered=1.0000"));
}

static void begin(struct bed *b, const char *more)
{
    char text[1024];
    struct way_gateway_error e;
    kit_cluster_start(&b->k);
    int n =
        snprintf(text, sizeof text, "return { %s, policy = 'policies/fail_fast.lua' %s }",
                 b->k.seeds, more);
    if (way_gateway_new(&b->g, text, (size_t)n, 64, 60, &e) < 0 ||
        way_gateway_start(b->g, &e) < 0)
        fail_msg("%s", e.text);
    await_known(b);
}

static void end(struct bed *b)
{
    way_gateway_free(b->g);
    kit_cluster_stop(&b->k);
}

static void add(struct way_gateway_job *j, const char *verb, const char *key)
{
    struct way_buf out = { 0 };
    const char *words[] = { verb, key };
    way_resp_put_command(&out, 2, words);
    way_gateway_add(j, out.p, out.len);
    way_buf_fini(&out);
}

/* Sends what there is to send on it, as a worker would. */
static struct way_gateway_conn *next_conn(struct way_gateway_job *j, const char *asked)
{
    struct way_gateway_step step;
    const char *bytes;
    assert_int_equal(way_gateway_next(j, &step), WAY_GATEWAY_MOVE);
    assert_string_equal(step.host, "127.0.0.1");
    assert_non_null(strstr(step.pool, "wayside:"));
    assert_int_equal(way_gateway_up(step.conn, 0), WAY_GATEWAY_SEND);
    size_t n = way_gateway_out(step.conn, &bytes);
    char *copy = way_strndup(bytes, n);
    if (!strstr(copy, asked))
        fail_msg("expected '%s' in %s", asked, copy);
    way_free(copy);
    assert_int_equal(way_gateway_sent(step.conn), WAY_GATEWAY_RECEIVE);
    assert_true(way_gateway_due(step.conn) > 0);
    return step.conn;
}

static int feed(struct way_gateway_conn *c, const char *bytes)
{
    return way_gateway_in(c, bytes, strlen(bytes));
}

static void a_reply_in_pieces_is_one_and_its_socket_may_be_kept(void **state)
{
    (void)state;
    struct bed b;
    struct way_gateway_step step;
    struct way_gateway_result r;
    begin(&b, "");
    struct way_gateway_job *j = way_gateway_begin(b.g, 0);
    add(j, "GET", kit_key(0));
    add(j, "INCR", kit_key(0));
    struct way_gateway_conn *c = next_conn(j, "INCR");
    assert_int_equal(feed(c, "$3\r\na"), WAY_GATEWAY_RECEIVE);
    assert_int_equal(feed(c, "bc\r\n:"), WAY_GATEWAY_RECEIVE);
    assert_int_equal(feed(c, "42\r\n"), WAY_GATEWAY_IDLE);
    assert_int_equal(way_gateway_release(c), 1);
    assert_int_equal(way_gateway_next(j, &step), WAY_GATEWAY_OVER);
    assert_int_equal(way_gateway_result(j, 0, &r), 0);
    assert_int_equal(r.type, '$');
    assert_int_equal(r.bytes, 3);
    assert_memory_equal(r.reply, "abc", 3);
    assert_int_equal(way_gateway_result(j, 1, &r), 0);
    assert_int_equal(r.type, ':');
    assert_memory_equal(r.reply, "42", 2);
    way_gateway_end(j);
    end(&b);
}

static void a_socket_that_fails_is_told_with_phase_and_certainty(void **state)
{
    (void)state;
    static const struct {
        int where; /* 0: dialing, 1: sending, 2: waiting, 3: within a reply */
        const char *words, *phase, *step, *error, *certainty;
    } faults[] = {
        { 0, "connection refused", "connect", "dial", "refused", "unsent" },
        { 0, "timeout", "connect", "dial", "timeout", "unsent" },
        { 0, "no route to host", "connect", "dial", "unreachable", "unsent" },
        { 0, "x could not be resolved (3: Host not found)", "connect", "resolve", "dns",
          "unsent" },
        { 1, "broken pipe", "write", "send", "reset", "unknown" },
        { 2, "closed", "read", "wait", "eof", "unknown" },
        { 2, "connection reset by peer", "read", "wait", "reset", "unknown" },
        { 3, "timeout", "read", "reply", "timeout", "unknown" },
    };
    for (unsigned i = 0; i < way_count(faults); i++) {
        struct bed b;
        struct way_gateway_step step;
        struct way_gateway_result r;
        begin(&b, ", timeouts = { dial = 0.01, read = 0.01, total = 1 }");
        struct way_gateway_job *j = way_gateway_begin(b.g, 0);
        add(j, "INCR", kit_key(0));
        assert_int_equal(way_gateway_next(j, &step), WAY_GATEWAY_MOVE);
        if (faults[i].where >= 1)
            assert_int_equal(way_gateway_up(step.conn, 0), WAY_GATEWAY_SEND);
        if (faults[i].where >= 2)
            assert_int_equal(way_gateway_sent(step.conn), WAY_GATEWAY_RECEIVE);
        if (faults[i].where >= 3)
            assert_int_equal(feed(step.conn, "$5\r\nab"), WAY_GATEWAY_RECEIVE);
        if (!strcmp(faults[i].words, "timeout"))
            kit_pass_time(&b.k.loop, 0.015);
        way_gateway_failed(step.conn, faults[i].where == 1, faults[i].words);
        assert_int_equal(way_gateway_release(step.conn), 0);
        assert_int_equal(way_gateway_next(j, &step), WAY_GATEWAY_OVER);
        assert_int_equal(way_gateway_result(j, 0, &r), 1);
        assert_string_equal(r.phase, faults[i].phase);
        assert_string_equal(r.step, faults[i].step);
        assert_string_equal(r.error, faults[i].error);
        assert_string_equal(r.certainty, faults[i].certainty);
        assert_string_equal(r.node, b.k.node[0].address);
        way_gateway_end(j);
        end(&b);
    }
}

/* nginx counts whole milliseconds, and may be ahead by two. */
static void the_total_time_is_the_callers_though_nginx_is_a_little_early(void **state)
{
    (void)state;
    struct bed b;
    struct way_gateway_step step;
    struct way_gateway_result r;
    begin(&b, ", timeouts = { dial = 1, read = 1, total = 2 }");
    struct way_gateway_job *j = way_gateway_begin(b.g, 0.05);
    add(j, "INCR", kit_key(0));
    assert_int_equal(way_gateway_next(j, &step), WAY_GATEWAY_MOVE);
    assert_int_equal(way_gateway_up(step.conn, 0), WAY_GATEWAY_SEND);
    assert_int_equal(way_gateway_sent(step.conn), WAY_GATEWAY_RECEIVE);
    double due = way_gateway_due(step.conn);
    assert_true(due > 0.002 && due <= 0.05);
    while (way_gateway_due(step.conn) > 0.0015)
        usleep(100);
    way_gateway_failed(step.conn, 0, "timeout");
    way_gateway_release(step.conn);
    assert_int_equal(way_gateway_next(j, &step), WAY_GATEWAY_OVER);
    assert_int_equal(way_gateway_result(j, 0, &r), 1);
    assert_string_equal(r.error, "deadline");
    assert_string_equal(r.class_name, "caller");
    assert_string_equal(r.certainty, "unknown");
    assert_string_equal(r.state, "healthy");
    way_gateway_end(j);
    end(&b);
}

static void what_waits_when_the_time_is_over_is_told_what_it_was_told_last(void **state)
{
    (void)state;
    struct bed b;
    struct way_gateway_step step;
    struct way_gateway_result r;
    begin(&b, ", timeouts = { total = 0.05 }");
    struct way_gateway_job *j = way_gateway_begin(b.g, 0);
    add(j, "INCR", kit_key(0));
    for (;;) {
        int what = way_gateway_next(j, &step);
        if (what == WAY_GATEWAY_OVER)
            break;
        if (what != WAY_GATEWAY_MOVE) {
            usleep(60000); /* it waits: when it is looked at again its time is over */
            continue;
        }
        assert_int_equal(way_gateway_up(step.conn, 0), WAY_GATEWAY_SEND);
        assert_int_equal(way_gateway_sent(step.conn), WAY_GATEWAY_RECEIVE);
        assert_int_equal(feed(step.conn, "-TRYAGAIN in a while\r\n"), WAY_GATEWAY_IDLE);
        assert_int_equal(way_gateway_release(step.conn), 1);
    }
    assert_int_equal(way_gateway_result(j, 0, &r), 1);
    assert_string_equal(r.error, "reply");
    assert_string_equal(r.certainty, "answered");
    assert_int_equal(r.type, '-');
    assert_memory_equal(r.reply, "TRYAGAIN in a while", r.bytes);
    way_gateway_end(j);
    end(&b);
}

static void redirects_are_followed_over_another_connection(void **state)
{
    (void)state;
    struct bed b;
    struct way_gateway_step step;
    struct way_gateway_result r;
    char moved[64], ask[64];
    begin(&b, "");
    struct way_gateway_job *j = way_gateway_begin(b.g, 0);
    add(j, "GET", kit_key(0));
    struct way_gateway_conn *c = next_conn(j, "GET");
    snprintf(ask, sizeof ask, "-ASK 10 %s\r\n", b.k.node[1].address);
    feed(c, ask);
    assert_int_equal(way_gateway_release(c), 1);
    c = next_conn(j, "ASKING");
    assert_int_equal(feed(c, "+OK\r\n"), WAY_GATEWAY_RECEIVE);
    snprintf(moved, sizeof moved, "-MOVED 10 %s\r\n", b.k.node[0].address);
    feed(c, moved);
    way_gateway_release(c);
    c = next_conn(j, "GET");
    assert_int_equal(feed(c, "$-1\r\n"), WAY_GATEWAY_IDLE);
    assert_int_equal(way_gateway_release(c), 1);
    assert_int_equal(way_gateway_next(j, &step), WAY_GATEWAY_OVER);
    assert_int_equal(way_gateway_result(j, 0, &r), 0);
    assert_int_equal(r.type, 0); /* null */
    way_gateway_end(j);
    end(&b);
}

static void add_words(struct way_gateway_job *j, const char *const *words, size_t count)
{
    struct way_buf out = { 0 };
    way_resp_put_command(&out, count, words);
    way_gateway_add(j, out.p, out.len);
    way_buf_fini(&out);
}

static void add_one(struct way_gateway_job *j, const char *word)
{
    add_words(j, &word, 1);
}

static void expect_inflight(struct bed *b, unsigned n)
{
    char want[32];
    snprintf(want, sizeof want, "inflight=%u ", n);
    if (!strstr(way_gateway_status(b->g), want))
        fail_msg("expected %s in %s", want, way_gateway_status(b->g));
}

/* GET first, on the slot's connection; the transaction has one of its own, behind it. */
static void a_transaction_has_a_connection_of_its_own(void **state)
{
    (void)state;
    struct bed b;
    struct way_gateway_step step;
    struct way_gateway_result r;
    begin(&b, "");
    struct way_gateway_job *j = way_gateway_begin(b.g, 0);
    add(j, "GET", kit_key(0));
    add_one(j, "MULTI");
    add(j, "INCR", kit_key(0));
    add_one(j, "EXEC");
    add(j, "INCR", kit_key(0));
    struct way_gateway_conn *c = next_conn(j, "GET");
    expect_inflight(&b, 1);
    assert_int_equal(way_gateway_next(j, &step), WAY_GATEWAY_WAIT);
    assert_int_equal(feed(c, "$-1\r\n"), WAY_GATEWAY_IDLE);
    struct way_gateway_conn *own =
        next_conn(j, "*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n");
    assert_ptr_not_equal(own, c);
    expect_inflight(&b, 3);
    assert_int_equal(feed(own, "+OK\r\n+QUE"), WAY_GATEWAY_RECEIVE);
    assert_int_equal(feed(own, "UED\r\n*1\r\n:5\r\n"), WAY_GATEWAY_IDLE);
    assert_int_equal(way_gateway_release(own), 1); /* clean: it may serve others */
    assert_int_equal(way_gateway_release(c), 1);
    c = next_conn(j, "INCR");
    assert_int_equal(feed(c, ":6\r\n"), WAY_GATEWAY_IDLE);
    way_gateway_release(c);
    assert_int_equal(way_gateway_next(j, &step), WAY_GATEWAY_OVER);
    static const char *const want[] = { "", "OK", "QUEUED", "*1\r\n:5\r\n", "6" };
    for (unsigned i = 1; i < 5; i++) {
        assert_int_equal(way_gateway_result(j, i, &r), 0);
        assert_int_equal(r.bytes, strlen(want[i]));
        assert_memory_equal(r.reply, want[i], r.bytes);
    }
    way_gateway_end(j);
    expect_inflight(&b, 0);
    end(&b);
}

/* ASK, a break in the middle, an EXEC that never was queued: nothing is left in flight. */
static void a_transaction_that_fails_gives_its_connection_back(void **state)
{
    (void)state;
    static const struct {
        const char *reply, *error, *certainty; /* reply NULL: the socket breaks */
    } bad[] = {
        { NULL, "eof", "unknown" },
        { "+OK\r\n:1\r\n*0\r\n", "protocol", "unknown" },
        { "+OK\r\n-TRYAGAIN later\r\n-EXECABORT Transaction discarded\r\n", "reply",
          "answered" },
    };
    for (unsigned i = 0; i < way_count(bad); i++) {
        struct bed b;
        struct way_gateway_step step;
        struct way_gateway_result r;
        begin(&b, "");
        struct way_gateway_job *j = way_gateway_begin(b.g, 0);
        add_one(j, "MULTI");
        add(j, "INCR", kit_key(0));
        add_one(j, "EXEC");
        struct way_gateway_conn *c = next_conn(j, "MULTI");
        if (bad[i].reply)
            feed(c, bad[i].reply);
        else
            way_gateway_failed(c, 0, "closed");
        way_gateway_release(c);
        while (way_gateway_next(j, &step) == WAY_GATEWAY_MOVE) {
            way_gateway_failed(step.conn, 0, "connection refused");
            way_gateway_release(step.conn);
        }
        assert_int_equal(way_gateway_result(j, 2, &r), 1);
        assert_string_equal(r.error, bad[i].error);
        assert_string_equal(r.certainty, bad[i].certainty);
        way_gateway_end(j);
        assert_null(strstr(way_gateway_status(b.g), "inflight=1"));
        assert_non_null(strstr(way_gateway_status(b.g), "jobs=0"));
        end(&b);
    }
}

static void what_is_in_flight_is_counted_to_nothing(void **state)
{
    (void)state;
    struct bed b;
    char ask[64];
    begin(&b, "");
    struct way_gateway_job *j = way_gateway_begin(b.g, 0);
    add(j, "GET", kit_key(0));
    add(j, "GET", kit_key(0));
    struct way_gateway_conn *c = next_conn(j, "GET");
    expect_inflight(&b, 2);
    /* A good reply and nonsense in one piece. */
    assert_int_equal(feed(c, "$1\r\na\r\nhello\r\n"), WAY_GATEWAY_BROKEN);
    way_gateway_release(c);
    way_gateway_end(j);
    expect_inflight(&b, 0);
    assert_null(strstr(way_gateway_status(b.g), "inflight=1"));
    end(&b);
    begin(&b, "");
    j = way_gateway_begin(b.g, 0);
    add(j, "GET", kit_key(0));
    c = next_conn(j, "GET");
    snprintf(ask, sizeof ask, "-ASK 10 %s\r\n", b.k.node[1].address);
    feed(c, ask);
    way_gateway_release(c);
    c = next_conn(j, "ASKING"); /* with its reply a second one is awaited */
    assert_int_equal(feed(c, "+OK\r\n$-1\r\n"), WAY_GATEWAY_IDLE);
    way_gateway_release(c);
    way_gateway_end(j);
    assert_null(strstr(way_gateway_status(b.g), "inflight=1"));
    end(&b);
}

static void nonsense_and_too_much_break_the_connection_alone(void **state)
{
    (void)state;
    static const char *const bytes[] = { "hello\r\n", "$-7\r\n", "*1\r\nq",
                                         "+OK\r\n+OK\r\n" };
    for (unsigned i = 0; i < way_count(bytes); i++) {
        struct bed b;
        begin(&b, "");
        struct way_gateway_job *j = way_gateway_begin(b.g, 0);
        add(j, "INCR", kit_key(0));
        struct way_gateway_conn *c = next_conn(j, "INCR");
        assert_int_equal(feed(c, bytes[i]), WAY_GATEWAY_BROKEN);
        assert_int_equal(feed(c, "+OK\r\n"), WAY_GATEWAY_BROKEN); /* it stays so */
        assert_int_equal(way_gateway_release(c), 0);
        way_gateway_end(j);
        end(&b);
    }
}

static void a_job_that_is_left_alone_gives_back_what_it_had(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, ", timeouts = { total = 0.05, read = 1 }");
    struct way_gateway_job *j = way_gateway_begin(b.g, 0);
    add(j, "INCR", kit_key(0));
    struct way_gateway_conn *c = next_conn(j, "INCR");
    assert_non_null(strstr(way_gateway_status(b.g), "inflight=1"));
    double end_at = way_clock() + 3;
    while (strstr(way_gateway_status(b.g), "inflight=1") && way_clock() < end_at)
        way_gateway_tick(b.g);
    assert_null(strstr(way_gateway_status(b.g), "inflight=1"));
    assert_int_equal(feed(c, ":1\r\n"), WAY_GATEWAY_BROKEN);
    way_gateway_end(j); /* with its connection */
    assert_non_null(strstr(way_gateway_status(b.g), "jobs=0"));
    end(&b);
}

static void one_process_has_one(void **state)
{
    (void)state;
    struct bed b;
    struct way_gateway *other = NULL;
    struct way_gateway_error e;
    static const char text[] = "return { cluster = { seeds = { '127.0.0.1:1' } } }";
    begin(&b, "");
    assert_int_equal(way_gateway_new(&other, text, sizeof text - 1, 64, 60, &e), -1);
    assert_non_null(strstr(e.text, "lua_code_cache"));
    end(&b);
    assert_int_equal(way_gateway_new(&other, text, sizeof text - 1, 64, 60, &e), 0);
    assert_null(way_gateway_begin(other, 0)); /* not started */
    assert_null(way_gateway_why(other, "127.0.0.1:1"));
    way_gateway_free(other);
}

/* Made before the fork, started in the child: a mark there is seen by the parent's child too. */
static void a_table_that_was_mapped_before_the_fork_is_one(void **state)
{
    (void)state;
    struct bed b;
    struct way_gateway_error e;
    char text[1024];
    kit_cluster_start(&b.k);
    int n = snprintf(
        text, sizeof text,
        "return { %s, policy = 'policies/fail_fast.lua', limits = { guard = false } }",
        b.k.seeds);
    assert_int_equal(way_gateway_new(&b.g, text, (size_t)n, 64, 60, &e), 0);
    pid_t child = fork();
    if (child == 0) {
        way_gateway_free(
            b.g); /* as a process that never starts it: nothing is detached */
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    child = fork();
    if (child == 0) {
        struct way_gateway_step step;
        if (way_gateway_start(b.g, &e) < 0)
            _exit(1);
        await_known(&b);
        struct way_gateway_job *j = way_gateway_begin(b.g, 0);
        add(j, "INCR", kit_key(1));
        if (way_gateway_next(j, &step) != WAY_GATEWAY_MOVE)
            _exit(2);
        way_gateway_failed(step.conn, 0, "connection refused");
        way_gateway_end(j);
        _exit(3); /* without a word, as if killed */
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WEXITSTATUS(status), 3);
    if (way_gateway_start(b.g, &e) < 0)
        fail_msg("%s", e.text);
    char want[128];
    snprintf(want, sizeof want, "node=%s role=master state=failing", b.k.node[1].address);
    assert_non_null(strstr(way_gateway_status(b.g), want));
    assert_null(strstr(way_gateway_status(b.g), "inflight=1"));
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reply_in_pieces_is_one_and_its_socket_may_be_kept),
        cmocka_unit_test(a_socket_that_fails_is_told_with_phase_and_certainty),
        cmocka_unit_test(the_total_time_is_the_callers_though_nginx_is_a_little_early),
        cmocka_unit_test(what_waits_when_the_time_is_over_is_told_what_it_was_told_last),
        cmocka_unit_test(redirects_are_followed_over_another_connection),
        cmocka_unit_test(a_transaction_has_a_connection_of_its_own),
        cmocka_unit_test(a_transaction_that_fails_gives_its_connection_back),
        cmocka_unit_test(what_is_in_flight_is_counted_to_nothing),
        cmocka_unit_test(nonsense_and_too_much_break_the_connection_alone),
        cmocka_unit_test(a_job_that_is_left_alone_gives_back_what_it_had),
        cmocka_unit_test(one_process_has_one),
        cmocka_unit_test(a_table_that_was_mapped_before_the_fork_is_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
