/* What a C program may rely on that has wayside inside. */
#include "wayside.h"

#include "inside_kit.h"

#include <hiredis/hiredis.h>
#include <stdlib.h>

struct bed {
    struct kit_cluster k;
    struct way_host *host;
    unsigned done, count, events, asked, lines;
    char type[8], error[8][32], certainty[8][16], text[8][256], value[8][64];
    char last[512], refused[512];
    char said[256]; /* of the first mark */
    int reloads;
    bool hold, held; /* the verdict function has commands wait, and has done so */
    bool cancels;    /* it tries to cancel the first pipeline */
    int cancelled;   /* what came of that */
};

static void on_event(void *arg, const struct way_host_event *e)
{
    struct bed *b = arg;
    if (e->error)
        b->events++;
    if (e->error && !strcmp(e->question, "mark") && !b->said[0])
        snprintf(b->said, sizeof b->said, "%s %s %s %s %s", e->node, e->role, e->state,
                 e->question, e->verdict);
    snprintf(b->last, sizeof b->last, "%s %s %s %s", e->phase, e->step,
             e->error ? e->error : "none", e->class_name);
}

static int on_verdict(void *arg, const struct way_host_event *e,
                      struct way_host_verdict *v)
{
    struct bed *b = arg;
    b->asked++;
    if (!strcmp(e->question, "mark") && e->error) {
        v->state = "failing";
        v->seconds = 60;
        v->reason = "mine";
    }
    if (!strcmp(e->question, "backoff") && b->hold) {
        v->retry = "hold";
        b->held = true;
    }
    if (b->cancels)
        b->cancelled = way_host_cancel(b->host, 1, NULL);
    return strcmp(e->question, "probe") != 0; /* those are the fallback's */
}

static void on_done(void *arg, const struct way_host_result *r, unsigned count)
{
    struct bed *b = arg;
    b->done++;
    b->count = count;
    for (unsigned i = 0; i < count && i < 8; i++) {
        snprintf(b->error[i], sizeof b->error[i], "%s", r[i].error ? r[i].error : "");
        snprintf(b->certainty[i], sizeof b->certainty[i], "%s",
                 r[i].certainty ? r[i].certainty : "");
        snprintf(b->text[i], sizeof b->text[i], "%s", r[i].text ? r[i].text : "");
        b->value[i][0] = 0;
        if (r[i].reply)
            snprintf(b->value[i], sizeof b->value[i], "%d:%.*s:%lld", r[i].reply->type,
                     (int)r[i].reply->len, r[i].reply->str ? r[i].reply->str : "",
                     r[i].reply->integer);
    }
}

/* The bytes of one reply. */
static void on_bytes(void *arg, const struct way_host_result *r, unsigned count)
{
    struct bed *b = arg;
    b->done += count;
    b->count = r->reply ? (unsigned)r->reply->len : 0;
    assert_true(b->count < sizeof b->said);
    memcpy(b->said, r->reply ? r->reply->str : "", b->count);
}

static void begin(struct bed *b, const char *more, bool own_verdicts)
{
    char text[1024];
    struct way_host_error error;
    memset(b, 0, sizeof *b);
    kit_cluster_start(&b->k);
    snprintf(text, sizeof text, "return { %s, %s }", b->k.seeds, more);
    struct way_host_setup setup = { .text = text, .event = on_event, .arg = b };
    setup.verdict = own_verdicts ? on_verdict : NULL;
    if (way_host_new(&b->host, b->k.loop.ev, &setup, &error) < 0)
        fail_msg("%s", error.text);
    AWAIT(&b->k.loop, 3, way_host_ready(b->host));
}

static void end(struct bed *b)
{
    way_host_free(b->host);
    kit_cluster_stop(&b->k);
}

static void run(struct bed *b, const char *const *line, unsigned count, double seconds)
{
    const char *word[8][8];
    char copy[8][128];
    struct way_host_command c[8];
    struct way_host_error error;
    for (unsigned i = 0; i < count; i++) {
        snprintf(copy[i], sizeof copy[i], "%s", line[i]);
        c[i] = (struct way_host_command){ .argv = word[i] };
        for (char *at = strtok(copy[i], " "); at; at = strtok(NULL, " "))
            word[i][c[i].argc++] = at;
    }
    unsigned before = b->done;
    if (way_host_submit(b->host, c, count, seconds, on_done, b, &error) < 0)
        fail_msg("%s", error.text);
    assert_int_equal(b->done, before); /* never inside the call */
    AWAIT(&b->k.loop, 10, b->done == before + 1);
    assert_int_equal(b->count, count);
}

static void a_setup_that_is_wrong_is_told_in_words(void **state)
{
    (void)state;
    struct way_host *h;
    struct way_host_error e;
    struct ev_loop *loop = ev_loop_new(0);
    static const struct {
        struct way_host_setup setup;
        const char *words;
    } bad[] = {
        { { .file = NULL }, "file or its text, got neither" },
        { { .file = "a", .text = "b" }, "got both" },
        { { .file = "/nowhere/wayside.lua" }, "/nowhere/wayside.lua" },
        { { .text = "return {" }, "configuration:1" },
        { { .text = "return { cluster = { seeds = { 'nonsense' } } }" },
          "cluster.seeds" },
        { { .text = "return { }" }, "cluster.seeds: expected" },
        { { .text = "return { cluster = { seeds = { '127.0.0.1:1' } } }",
            .policy = "/nowhere/policy.lua" },
          "/nowhere/policy.lua" },
        { { .text = "return { cluster = { seeds = { '127.0.0.1:1' } } }",
            .policy = "x",
            .verdict = on_verdict },
          "a policy or a verdict function" },
    };
    for (unsigned i = 0; i < way_count(bad); i++) {
        assert_int_equal(way_host_new(&h, loop, &bad[i].setup, &e), -1);
        if (!strstr(e.text, bad[i].words))
            fail_msg("%u: expected '%s' in: %s", i, bad[i].words, e.text);
    }
    ev_loop_destroy(loop);
}

static void replies_come_in_order_and_what_is_not_served_is_an_error_reply(void **state)
{
    (void)state;
    struct bed b;
    char line[6][64];
    begin(&b, "timeouts = { total = 2 }", false);
    b.k.reply[0] = ":7\r\n";
    b.k.reply[1] = "$1\r\nv\r\n";
    snprintf(line[0], 64, "GET %s", kit_key(1));
    snprintf(line[1], 64, "INCR %s", kit_key(0));
    snprintf(line[2], 64, "WATCH %s", kit_key(0));
    snprintf(line[3], 64, "RENAME %s %s", kit_key(0), kit_key(1));
    snprintf(line[4], 64, "NOSUCH");
    snprintf(line[5], 64, "GET");
    const char *all[6] = { line[0], line[1], line[2], line[3], line[4], line[5] };
    run(&b, all, 6, 0);
    assert_string_equal(b.value[0], "1:v:0");
    assert_string_equal(b.value[1], "3::7");
    assert_non_null(strstr(b.value[2], "6:ERR wayside does not serve 'watch'"));
    assert_non_null(strstr(b.value[3], "6:CROSSSLOT"));
    assert_non_null(strstr(b.value[4], "6:ERR unknown command 'NOSUCH'"));
    assert_non_null(strstr(b.value[5], "6:ERR wrong number"));
    for (unsigned i = 0; i < 6; i++)
        assert_string_equal(b.error[i], "");
    end(&b);
}

#define NOWHERE NULL /* the end of a list of lines */

/* Runs the lines; a value of the bed's as "type:text:number". */
static void run_lines(struct bed *b, const char *const *lines)
{
    unsigned count = 0;
    while (lines[count] != NOWHERE)
        count++;
    run(b, lines, count, 0);
}

static void multi_to_exec_is_one_request_on_a_connection_of_its_own(void **state)
{
    (void)state;
    struct bed b;
    char line[4][64];
    begin(&b, "timeouts = { total = 2 }", false);
    b.k.exec = "*2\r\n+OK\r\n:7\r\n";
    b.k.reply[0] = ":7\r\n";
    snprintf(line[0], 64, "INCR %s", kit_key(0));
    snprintf(line[1], 64, "SET %s x", kit_key(0));
    snprintf(line[2], 64, "ECHO said");
    const char *whole[] = { line[0], "multi", line[1], "PING",
                            line[2], "EXEC",  line[0], NOWHERE };
    run_lines(&b, whole);
    static const char *const values[] = { "3::7",       "5:OK:0",     "5:QUEUED:0",
                                          "5:QUEUED:0", "5:QUEUED:0", "2::0",
                                          "3::7" };
    for (unsigned i = 0; i < 7; i++) {
        assert_string_equal(b.error[i], "");
        assert_string_equal(b.value[i], values[i]);
    }
    char want[256];
    snprintf(want, sizeof want, "\nMULTI\n%s\nPING\nECHO said\nEXEC\n", line[1]);
    if (!strstr(b.k.node[0].asked, want))
        fail_msg("expected\n%sin\n%s", want, b.k.node[0].asked);
    assert_int_equal(kit_asked(&b.k.node[0], "INCR"), 2);
    assert_int_equal(kit_asked(&b.k.node[1], "MULTI"), 0);
    end(&b);
}

static void a_transaction_that_is_no_good_is_not_sent(void **state)
{
    (void)state;
    struct bed b;
    char here[64], there[64], watch[64];
    begin(&b, "timeouts = { total = 2 }, limits = { transaction_commands = 2 }", false);
    snprintf(here, sizeof here, "INCR %s", kit_key(0));
    snprintf(there, sizeof there, "INCR %s", kit_key(1));
    snprintf(watch, sizeof watch, "WATCH %s", kit_key(0));
    const struct {
        const char *lines[8];
        unsigned at;
        const char *words;
    } bad[] = {
        { { "MULTI", here, there, "EXEC", NOWHERE }, 2, "6:CROSSSLOT Keys in a trans" },
        { { "MULTI", here, there, "EXEC", NOWHERE }, 3, "6:EXECABORT" },
        { { "MULTI", here, "NOSUCH x", "EXEC", NOWHERE }, 3, "6:EXECABORT" },
        { { "MULTI", here, "GET", "EXEC", NOWHERE }, 2, "6:ERR wrong number" },
        { { "MULTI", here, "SELECT 0", "EXEC", NOWHERE }, 2, "in a transaction" },
        { { "MULTI", here, here, here, "EXEC", NOWHERE }, 3, "6:ERR too many commands" },
        { { "MULTI", here, NOWHERE }, 0, "6:ERR MULTI without EXEC: nothing was exec" },
        { { "MULTI", here, "DISCARD", NOWHERE }, 2, "5:OK:0" },
        { { "MULTI", "EXEC", NOWHERE }, 1, "2::0" },
        { { "EXEC", NOWHERE }, 0, "6:ERR EXEC without MULTI" },
        { { "DISCARD", NOWHERE }, 0, "6:ERR DISCARD without MULTI" },
        { { watch, NOWHERE }, 0, "does not serve 'watch' here: nothing that" },
        { { "MULTI", watch, "MULTI", "DISCARD", NOWHERE }, 1, "WATCH inside MULTI" },
        { { "MULTI", watch, "MULTI", "DISCARD", NOWHERE }, 2, "can not be nested" },
        { { "UNWATCH", NOWHERE }, 0, "5:OK:0" },
        { { "SELECT 0", NOWHERE }, 0, "it is about a conn" },
        { { "PING", NOWHERE }, 0, "5:PONG:0" },
        { { "PING a", NOWHERE }, 0, "1:a:0" },
        { { "PING a b", NOWHERE }, 0, "6:ERR wrong number" },
        { { "ECHO b", NOWHERE }, 0, "1:b:0" },
    };
    for (unsigned i = 0; i < way_count(bad); i++) {
        run_lines(&b, bad[i].lines);
        if (!strstr(b.value[bad[i].at], bad[i].words))
            fail_msg("%u: expected '%s' in: %s", i, bad[i].words, b.value[bad[i].at]);
    }
    assert_int_equal(kit_asked(&b.k.node[0], "MULTI"), 0);
    assert_int_equal(kit_asked(&b.k.node[0], "INCR"), 0);
    end(&b);
}

static void a_transaction_that_gets_no_answer_is_of_unknown_fate(void **state)
{
    (void)state;
    struct bed b;
    char line[64];
    begin(&b, "timeouts = { total = 2, read = 0.1 }", false);
    snprintf(line, sizeof line, "INCR %s", kit_key(0));
    const char *unit[] = { "MULTI", line, "EXEC", NOWHERE };
    run_lines(&b, unit); /* EXEC is not answered */
    assert_string_equal(b.value[1], "5:QUEUED:0");
    assert_string_equal(b.error[2], "timeout");
    assert_string_equal(b.certainty[2], "unknown");
    kit_node_down(&b.k.node[1]);
    snprintf(line, sizeof line, "INCR %s", kit_key(1));
    run_lines(&b, unit);
    assert_string_equal(b.certainty[2], "unsent");
    end(&b);
}

static void a_deadline_ends_what_no_node_answers(void **state)
{
    (void)state;
    struct bed b;
    char line[2][64];
    begin(&b, "timeouts = { total = 5 }", false);
    b.k.reply[0] = NULL;
    snprintf(line[0], 64, "INCR %s", kit_key(0));
    snprintf(line[1], 64, "SET %s x", kit_key(1));
    const char *all[2] = { line[0], line[1] };
    double before = way_clock();
    run(&b, all, 2, 0.2);
    assert_true(way_clock() - before >= 0.19);
    assert_string_equal(b.error[0], "deadline");
    assert_string_equal(b.certainty[0], "unknown");
    assert_string_equal(b.error[1], "");
    end(&b);
}

static void a_verdict_of_the_hosts_own_is_obeyed(void **state)
{
    (void)state;
    struct bed b;
    char line[64];
    begin(&b, "timeouts = { total = 2 }, limits = { guard = false }", true);
    kit_node_down(&b.k.node[1]);
    snprintf(line, 64, "INCR %s", kit_key(1));
    const char *all[1] = { line };
    run(&b, all, 1, 0);
    assert_string_equal(b.error[0], "refused");
    assert_string_equal(b.certainty[0], "unsent");
    assert_true(b.asked >= 2); /* mark and backoff */
    AWAIT(&b.k.loop, 2, b.events >= 2);
    run(&b, all, 1, 0);
    assert_string_equal(b.error[0], "no_node");
    end(&b);
}

static void put_line(void *arg, const char *text)
{
    struct bed *b = arg;
    b->lines++;
    if (strstr(text, b->k.node[1].address))
        snprintf(b->last, sizeof b->last, "%s", text);
}

static void nodes_and_reasons_are_told(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, "timeouts = { total = 2 }", false);
    way_host_nodes(b.host, put_line, &b);
    assert_int_equal(b.lines, 2);
    assert_non_null(strstr(b.last, "role=master state=healthy"));
    assert_int_equal(way_host_why(b.host, "127.0.0.1:1", put_line, &b), -1);
    b.lines = 0;
    assert_int_equal(way_host_why(b.host, b.k.node[1].address, put_line, &b), 0);
    assert_true(b.lines >= 1);
    end(&b);
}

static void on_reloaded(void *arg, const char *refused, const char *name,
                        const char *version)
{
    struct bed *b = arg;
    (void)version;
    b->reloads++;
    snprintf(b->refused, sizeof b->refused, "%s%s",
             refused ? refused : "in charge: ", refused ? "" : name);
}

static void a_reload_changes_all_or_says_why_not(void **state)
{
    (void)state;
    struct bed b;
    struct way_host_error error;
    begin(&b, "timeouts = { total = 2 }", false);
    assert_int_equal(way_host_reload(b.host, "/nowhere.lua", on_reloaded, &b, &error), 0);
    AWAIT(&b.k.loop, 5, b.reloads == 1);
    assert_non_null(strstr(b.refused, "/nowhere.lua"));
    if (way_host_reload(b.host, "policies/fail_fast.lua", on_reloaded, &b, &error) < 0)
        fail_msg("%s", error.text);
    assert_int_equal(way_host_reload(b.host, NULL, on_reloaded, &b, &error), -1);
    AWAIT(&b.k.loop, 5, b.reloads == 2);
    assert_string_equal(b.refused, "in charge: fail-fast");
    end(&b);
    begin(&b, "timeouts = { total = 2 }", true);
    assert_int_equal(way_host_reload(b.host, NULL, on_reloaded, &b, &error), -1);
    assert_non_null(strstr(error.text, "host's own"));
    end(&b);
}

static void write_file(const char *path, const char *fmt, const char *a, const char *b)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, fmt, a, b);
    assert_int_equal(fclose(f), 0);
}

/* The policy of the setup wins over the file's, at the start and when the file is read
 * again; without one the file's is taken. */
static void a_configuration_is_a_file_too_and_is_read_again(void **state)
{
    (void)state;
    struct bed b;
    struct way_host_error error;
    char folder[] = "/tmp/wayside-test-XXXXXX", file[64];
    static const char text[] = "return { %s, policy = '%s.lua' }";
    char cwd[4096], policy[4200];
    assert_non_null(getcwd(cwd, sizeof cwd));
    memset(&b, 0, sizeof b);
    kit_cluster_start(&b.k);
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/wayside.lua", folder);
    for (int own = 0; own < 2; own++) {
        struct way_host_setup setup = { .file = file, .event = on_event, .arg = &b };
        setup.policy = own ? "policies/tko.lua" : NULL;
        snprintf(policy, sizeof policy, "%s/policies/fail_fast", cwd);
        write_file(file, text, b.k.seeds, policy);
        b.reloads = 0;
        if (way_host_new(&b.host, b.k.loop.ev, &setup, &error) < 0)
            fail_msg("%s", error.text);
        AWAIT(&b.k.loop, 3, way_host_ready(b.host));
        snprintf(policy, sizeof policy, "%s/policies/ride_through", cwd);
        write_file(file, text, b.k.seeds, policy);
        assert_int_equal(way_host_reload(b.host, NULL, on_reloaded, &b, &error), 0);
        AWAIT(&b.k.loop, 5, b.reloads == 1);
        assert_string_equal(b.refused,
                            own ? "in charge: tko" : "in charge: ride-through");
        snprintf(policy, sizeof policy, "%s/policies/nowhere", cwd);
        write_file(file, text, b.k.seeds, policy);
        assert_int_equal(way_host_reload(b.host, NULL, on_reloaded, &b, &error), 0);
        AWAIT(&b.k.loop, 5, b.reloads == 2);
        if (own)
            assert_string_equal(b.refused, "in charge: tko");
        else
            assert_non_null(strstr(b.refused, "nowhere.lua"));
        write_file(file, "return { %s %s", b.k.seeds, "");
        assert_int_equal(way_host_reload(b.host, NULL, on_reloaded, &b, &error), 0);
        AWAIT(&b.k.loop, 5, b.reloads == 3);
        assert_non_null(strstr(b.refused, file));
        way_host_free(b.host);
    }
    unlink(file);
    rmdir(folder);
    kit_cluster_stop(&b.k);
}

static void words_may_hold_any_byte(void **state)
{
    (void)state;
    struct bed b;
    struct way_host_error error;
    begin(&b, "timeouts = { total = 2 }", false);
    const char *words[] = { "ECHO", "a\0\r\nb" };
    const size_t lengths[] = { 4, 5 };
    struct way_host_command c = { 2, words, lengths };
    assert_true(way_host_submit(b.host, &c, 1, 0, on_bytes, &b, &error) > 0);
    AWAIT(&b.k.loop, 2, b.done == 1);
    assert_int_equal(b.count, 5);
    assert_memory_equal(b.said, "a\0\r\nb", 5);
    end(&b);
}

/* Each is told once, with what was asked and answered; a success is none. */
static void events_tell_what_happened_and_what_was_said_of_it(void **state)
{
    (void)state;
    struct bed b;
    char line[64];
    begin(&b,
          "timeouts = { total = 2 }, policy = 'policies/fail_fast.lua', limits = { guard "
          "= false }",
          false);
    kit_node_down(&b.k.node[1]);
    kit_pass_time(&b.k.loop, 0.05);
    snprintf(line, sizeof line, "INCR %s", kit_key(1));
    const char *all[] = { line, NOWHERE };
    run_lines(&b, all);
    AWAIT(&b.k.loop, 2, b.said[0] != 0);
    char want[128];
    snprintf(want, sizeof want, "%s master failing mark failing", b.k.node[1].address);
    if (strncmp(b.said, want, strlen(want)) != 0)
        fail_msg("expected '%s' in: %s", want, b.said);
    end(&b);
}

static void what_is_under_way_at_the_end_ends_without_a_word(void **state)
{
    (void)state;
    struct bed b;
    struct way_host_error error;
    const char *get[] = { "INCR", kit_key(0) };
    struct way_host_command c = { 2, get, NULL };
    begin(&b, "timeouts = { total = 2 }", false);
    b.k.reply[0] = NULL;
    for (int i = 0; i < 3; i++)
        assert_true(way_host_submit(b.host, &c, 1, 0, on_done, &b, &error) > 0);
    AWAIT(&b.k.loop, 2, kit_asked(&b.k.node[0], "INCR") == 3);
    assert_int_equal(way_host_submit(b.host, &c, 0, 0, on_done, &b, &error), -1);
    c.argc = 0;
    assert_int_equal(way_host_submit(b.host, &c, 1, 0, on_done, &b, &error), -1);
    assert_non_null(strstr(error.text, "command 1: expected 1 to"));
    end(&b);
    assert_int_equal(b.done, 0);
}

static long long submit(struct bed *b, const char *verb, int node)
{
    struct way_host_error error;
    const char *words[] = { verb, kit_key(node) };
    struct way_host_command c = { 2, words, NULL };
    long long number = way_host_submit(b->host, &c, 1, 0, on_done, b, &error);
    assert_true(number > 0);
    return number;
}

static void a_pipeline_that_is_cancelled_ends_without_a_word(void **state)
{
    (void)state;
    struct bed b;
    struct way_host_error error;
    begin(&b, "timeouts = { total = 2 }, limits = { guard = false }", true);
    b.k.reply[0] = NULL;
    /* One is answered, one is on its connection. */
    const char *set[] = { "SET", kit_key(1), "x" }, *incr[] = { "INCR", kit_key(0) };
    struct way_host_command two[] = { { 3, set, NULL }, { 2, incr, NULL } };
    const char *certainty[2];
    long long number = way_host_submit(b.host, two, 2, 0, on_done, &b, &error);
    assert_true(number > 0);
    AWAIT(&b.k.loop, 2,
          kit_asked(&b.k.node[0], "INCR") == 1 && kit_asked(&b.k.node[1], "SET") == 1);
    kit_pass_time(&b.k.loop, 0.02);
    assert_int_equal(way_host_cancel(b.host, number, certainty), 0);
    assert_string_equal(certainty[0], "answered");
    assert_string_equal(certainty[1], "unknown");
    assert_int_equal(way_host_cancel(b.host, number, NULL), -1); /* it has ended */
    assert_int_equal(way_host_cancel(b.host, number + 1, NULL), -1);
    /* What is on a connection is sent all the same, though it was not yet. */
    number = submit(&b, "INCR", 0);
    assert_int_equal(way_host_cancel(b.host, number, certainty), 0);
    assert_string_equal(certainty[0], "unknown");
    AWAIT(&b.k.loop, 2, kit_asked(&b.k.node[0], "INCR") == 2);
    /* What waits is never sent: held until the node is back. */
    b.hold = true;
    kit_node_down(&b.k.node[1]);
    kit_pass_time(&b.k.loop, 0.02); /* its connection has ended */
    number = submit(&b, "INCR", 1);
    AWAIT(&b.k.loop, 2, b.held);
    kit_pass_time(&b.k.loop, 0.05);
    assert_int_equal(way_host_cancel(b.host, number, certainty), 0);
    assert_string_equal(certainty[0], "unsent");
    kit_node_up(&b.k.node[1]);
    b.hold = false;
    kit_pass_time(&b.k.loop, 0.5);
    assert_int_equal(kit_asked(&b.k.node[1], "INCR"), 0);
    assert_int_equal(b.done, 0);
    /* Of a pipeline that was not cancelled the end comes as ever. */
    b.k.reply[0] = ":3\r\n";
    submit(&b, "INCR", 0);
    AWAIT(&b.k.loop, 2, b.done == 1);
    end(&b);
}

static void a_verdict_function_cancels_nothing(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, "timeouts = { total = 2 }, limits = { guard = false }", true);
    kit_node_down(&b.k.node[1]);
    b.cancels = true;
    submit(&b, "INCR", 1);
    AWAIT(&b.k.loop, 2, b.done == 1);
    assert_true(b.asked >= 2);
    assert_int_equal(b.cancelled, -1);
    end(&b);
}

static void beside_another_loop_a_descriptor_and_a_time_out_do(void **state)
{
    (void)state;
    struct bed b;
    struct way_host_error error;
    char text[1024];
    memset(&b, 0, sizeof b);
    kit_cluster_start(&b.k);
    snprintf(text, sizeof text, "return { %s }", b.k.seeds);
    struct way_host_setup setup = { .text = text };
    assert_int_equal(way_host_new(&b.host, NULL, &setup, &error), 0);
    assert_true(way_host_fd(b.host) >= 0);
    const char *incr[] = { "INCR", kit_key(1) };
    struct way_host_command c = { 2, incr, NULL };
    double end_at = way_clock() + 5;
    bool sent = false;
    while (!b.done && way_clock() < end_at) {
        if (!sent && way_host_ready(b.host)) {
            sent = true;
            assert_true(way_host_submit(b.host, &c, 1, 0, on_done, &b, &error) > 0);
        }
        way_host_run(b.host);
        ev_run(b.k.loop.ev, EVRUN_NOWAIT);
        assert_true(way_host_timeout(b.host) > 0 && way_host_timeout(b.host) <= 0.05);
    }
    assert_int_equal(b.done, 1);
    assert_string_equal(b.value[0], "5:OK:0");
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_setup_that_is_wrong_is_told_in_words),
        cmocka_unit_test(replies_come_in_order_and_what_is_not_served_is_an_error_reply),
        cmocka_unit_test(multi_to_exec_is_one_request_on_a_connection_of_its_own),
        cmocka_unit_test(a_transaction_that_is_no_good_is_not_sent),
        cmocka_unit_test(a_transaction_that_gets_no_answer_is_of_unknown_fate),
        cmocka_unit_test(a_deadline_ends_what_no_node_answers),
        cmocka_unit_test(a_verdict_of_the_hosts_own_is_obeyed),
        cmocka_unit_test(nodes_and_reasons_are_told),
        cmocka_unit_test(a_reload_changes_all_or_says_why_not),
        cmocka_unit_test(a_configuration_is_a_file_too_and_is_read_again),
        cmocka_unit_test(words_may_hold_any_byte),
        cmocka_unit_test(events_tell_what_happened_and_what_was_said_of_it),
        cmocka_unit_test(what_is_under_way_at_the_end_ends_without_a_word),
        cmocka_unit_test(a_pipeline_that_is_cancelled_ends_without_a_word),
        cmocka_unit_test(a_verdict_function_cancels_nothing),
        cmocka_unit_test(beside_another_loop_a_descriptor_and_a_time_out_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
