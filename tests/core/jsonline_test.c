/* A journal entry as a line of JSON: what comes back is what went out, to the last bit. */
#include "jsonline.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const struct way_layout layout = { .node = 2, .shard = 1, .cluster = 3 };

/* Every field another value than the one it is left out by. */
static struct way_event full_event(void)
{
    return (struct way_event){
        .kind = WAY_KIND_PROBE,
        .phase = WAY_PHASE_READ,
        .step = WAY_STEP_REPLY,
        .error = WAY_ERROR_REPLY,
        .errnum = -7,
        .message = "LOADING \"quoted\" \x01\xff\xc3\xa9 text",
        .reply = "LOADING",
        .blame = WAY_BLAME_NODE,
        .permanent = true,
        .n = 4294967295u,
        .reused = true,
        .trial = true,
        .connection_age = 0.1,
        .bytes_written = 9007199254740993ull,
        .replies_read = 3,
        .began = 1e-300,
        .now = 123456.789012345678,
        .unix_time = 1.7e9 + 0.1,
        .latency = DBL_MIN,
        .attempt = 5,
        .commands = WAY_COMMANDS_TRANSACTION,
        .certainty = WAY_CERTAINTY_ANSWERED,
        .has_certainty = true,
        .age = 1.0 / 3,
        .waited = DBL_MAX,
        .deadline_left = -1,
        .change = WAY_CHANGE_ADDRESS,
        .late = -0.0,
    };
}

static struct way_view full_view(void)
{
    struct way_view v = { .node = 1023,
                          .shard = WAY_NONE,
                          .id = "0123456789abcdef",
                          .address = "127.0.0.1:7000",
                          .host = "127.0.0.1",
                          .hostname = "node.example",
                          .port = 65535,
                          .zone = "west",
                          .role = WAY_ROLE_REPLICA,
                          .generation = 7,
                          .failures = 9,
                          .latency = -1,
                          .inflight = 12,
                          .has_replication = true,
                          .link_up = true,
                          .last_io = 2.5,
                          .behind = 1e15 + 0.25 };
    v.verdict = (struct way_verdict){ .state = WAY_STATE_PROBING,
                                      .hard = 1,
                                      .connections = WAY_CONNECTIONS_DROP,
                                      .by_operator = 1,
                                      .trials = 3,
                                      .since = 10.1,
                                      .ends = 20.2,
                                      .weight = 0.3,
                                      .ramp = 4,
                                      .ramp_began = 5,
                                      .shed = 0.6,
                                      .reason = "because",
                                      .drops = 8 };
    v.of_shard = (struct way_counts){ .nodes = 2, .state = { 1, 1, 0, 0, 0 }, 3, 4 };
    v.of_cluster = (struct way_counts){ .nodes = 6, .state = { 1, 2, 3, 4, 5 }, 6, 7 };
    v.memory.node[0] = -0.0;
    v.memory.node[1] = NAN;
    v.memory.shard[0] = INFINITY;
    v.memory.cluster[2] = -INFINITY;
    return v;
}

static struct way_entry full_entry(enum way_asked_function fn)
{
    struct way_entry e = { .seq = 1234567890123ull,
                           .seed = 0xfedcba9876543210ull,
                           .policy = 0x8000000000000001ull,
                           .thread = 3,
                           .node = 17,
                           .function = (uint8_t)fn,
                           .asking = 4,
                           .cause = WAY_CAUSE_BUDGET,
                           .fallback = true,
                           .straggler = true,
                           .by_operator = true,
                           .commit = WAY_COMMIT_BUSY,
                           .event = full_event(),
                           .class_name = "not_ready",
                           .address = "127.0.0.1:7000",
                           .where = "policy.lua:7",
                           .did = "healthy -> failing" };
    e.outcome = (struct way_outcome){ .from = WAY_STATE_HEALTHY,
                                      .to = WAY_STATE_SUSPECT,
                                      .changed = true,
                                      .refused = WAY_REFUSED_OPERATOR,
                                      .commit = 99,
                                      .published = true };
    e.mark = (struct way_mark){ .given = true,
                                .has = 0x1ff,
                                .state = WAY_STATE_HEALTHY,
                                .seconds = 0.1 + 0.2,
                                .trials = 2,
                                .weight = 0,
                                .ramp = 1e-9,
                                .shed = 0.7,
                                .connections = WAY_CONNECTIONS_KEEP,
                                .refresh = false,
                                .reason = "" };
    e.retry = (struct way_retry){ .kind = WAY_RETRY_HOLD,
                                  .after = 0.05,
                                  .within = -1,
                                  .over = 2,
                                  .stale_reads = true,
                                  .unknown_writes = true };
    e.probe = (struct way_probe){ .given = true,
                                  .after = 1.1,
                                  .timeout = 0.3,
                                  .pooled = true,
                                  .words = 2,
                                  .command = "INFO\0replication" };
    e.redial = (struct way_redial){ .given = true, .after = 1.5, .timeout = 2.5 };
    return e;
}

static void read_back(const struct way_buf *text, struct way_jsonline *r)
{
    struct way_err err;
    size_t n = way_buf_held(text);
    assert_int_equal(text->p[n - 1], '\n');
    assert_null(memchr(text->p, '\n', n - 1));
    if (way_jsonline_read(r, text->p, n - 1, &err) < 0)
        fail_msg("%s in %.*s", err.text, (int)n, text->p);
    assert_int_equal(r->kind, WAY_JSONLINE_ENTRY);
}

static void same_bytes(const void *a, const void *b, size_t n, const char *what)
{
    if (memcmp(a, b, n))
        fail_msg("%s is another than it was", what);
}
#define SAME(a, b) same_bytes(&(a), &(b), sizeof(a), #a)

static void check_event(const struct way_event *a, const struct way_event *b)
{
    struct way_event x = *a, y = *b;
    SAME(x.began, y.began);
    SAME(x.late, y.late);
    assert_string_equal(x.message, y.message);
    memset(x.message, 0, sizeof x.message);
    memset(y.message, 0, sizeof y.message);
#define FIELD(f) SAME(x.f, y.f)
    FIELD(kind), FIELD(phase), FIELD(step), FIELD(error), FIELD(errnum), FIELD(reply);
    FIELD(blame), FIELD(permanent), FIELD(n), FIELD(reused), FIELD(trial);
    FIELD(connection_age), FIELD(bytes_written), FIELD(replies_read), FIELD(now);
    FIELD(unix_time), FIELD(latency), FIELD(attempt), FIELD(commands), FIELD(certainty);
    FIELD(has_certainty), FIELD(age), FIELD(waited), FIELD(deadline_left), FIELD(change);
#undef FIELD
}

static void an_entry_comes_back_as_it_was(void **state)
{
    (void)state;
    struct way_jsonline *r = way_zalloc(sizeof *r);
    for (unsigned fn = WAY_FN_MARK; fn <= WAY_FN_NONE; fn++) {
        struct way_buf text = { 0 };
        struct way_entry e = full_entry((enum way_asked_function)fn), *b = &r->entry;
        way_jsonline_entry(&text, &e);
        read_back(&text, r);
        assert_false(r->has_input);
        check_event(&e.event, &b->event);
#define FIELD(f) SAME(e.f, b->f)
        FIELD(seq), FIELD(seed), FIELD(policy), FIELD(thread), FIELD(node);
        FIELD(function), FIELD(asking), FIELD(cause), FIELD(fallback), FIELD(straggler);
        FIELD(by_operator), FIELD(commit), FIELD(class_name), FIELD(address);
        FIELD(where), FIELD(did);
        FIELD(outcome.from), FIELD(outcome.to), FIELD(outcome.changed);
        FIELD(outcome.refused), FIELD(outcome.commit), FIELD(outcome.published);
        if (fn == WAY_FN_MARK) {
            FIELD(mark.has), FIELD(mark.state), FIELD(mark.seconds), FIELD(mark.trials);
            FIELD(mark.weight), FIELD(mark.ramp), FIELD(mark.shed);
            FIELD(mark.connections), FIELD(mark.refresh), FIELD(mark.reason);
        } else if (fn == WAY_FN_BACKOFF) {
            FIELD(retry.kind), FIELD(retry.after), FIELD(retry.within);
            FIELD(retry.over), FIELD(retry.stale_reads), FIELD(retry.unknown_writes);
        } else if (fn == WAY_FN_PROBE) {
            FIELD(probe.given), FIELD(probe.after), FIELD(probe.timeout);
            FIELD(probe.pooled), FIELD(probe.words), FIELD(probe.command);
        } else if (fn == WAY_FN_RECONNECT) {
            FIELD(redial.given), FIELD(redial.after), FIELD(redial.timeout);
        }
#undef FIELD
        way_buf_fini(&text);
    }
    way_jsonline_fini(r);
    way_free(r);
}

static void check_view(const struct way_view *a, const struct way_view *b)
{
#define FIELD(f) SAME(a->f, b->f)
    FIELD(node), FIELD(shard), FIELD(id), FIELD(address), FIELD(host), FIELD(hostname);
    FIELD(port), FIELD(zone), FIELD(role), FIELD(generation), FIELD(failures);
    FIELD(latency), FIELD(inflight), FIELD(has_replication), FIELD(link_up);
    FIELD(last_io), FIELD(behind), FIELD(of_shard.nodes), FIELD(of_shard.state);
    FIELD(of_shard.inflight), FIELD(of_shard.retrying), FIELD(of_cluster.state);
    FIELD(verdict.state), FIELD(verdict.hard), FIELD(verdict.connections);
    FIELD(verdict.by_operator), FIELD(verdict.trials), FIELD(verdict.since);
    FIELD(verdict.ends), FIELD(verdict.weight), FIELD(verdict.ramp);
    FIELD(verdict.ramp_began), FIELD(verdict.shed), FIELD(verdict.reason);
    FIELD(verdict.drops);
#undef FIELD
}

/* NaN and the sign of zero too: by their bits, but for NaN's. */
static void check_numbers(const double *a, const double *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!(isnan(a[i]) && isnan(b[i])) && memcmp(&a[i], &b[i], sizeof *a))
            fail_msg("number %u: %.17g became %.17g", i, a[i], b[i]);
}

static void the_input_comes_back_too(void **state)
{
    (void)state;
    static const unsigned counters[WAY_COUNTER_SCOPES] = { 2, 0, 1 };
    static const char answer[] = "$5\r\na\0\xff\x80z\r\n";
    struct way_jsonline *r = way_zalloc(sizeof *r);
    struct way_buf packed = { 0 }, text = { 0 };
    struct way_view v = full_view();
    struct way_memory after = v.memory;
    struct way_entry e = full_entry(WAY_FN_MARK);
    after.node[0] = 0.1;
    after.cluster[1] = 5e-324;
    v.counted[0][1] = (struct way_counted){ 0.1, 2, 3, 0.25, 1e-9, NAN };
    v.counted[2][0].value = INFINITY;
    way_input_pack(&packed, &v, &after, &layout, counters, "name", "1.2",
                   (struct way_span){ answer, sizeof answer - 1 });
    e.input = (struct way_span){ packed.p, way_buf_held(&packed) };
    way_jsonline_entry(&text, &e);
    read_back(&text, r);
    assert_true(r->has_input);
    check_view(&v, &r->input.view);
    check_numbers(v.memory.node, r->input.view.memory.node, 2);
    check_numbers(v.memory.shard, r->input.view.memory.shard, 1);
    check_numbers(v.memory.cluster, r->input.view.memory.cluster, 3);
    check_numbers(after.node, r->input.after.node, 2);
    check_numbers(after.cluster, r->input.after.cluster, 3);
    check_numbers(&v.counted[0][1].value, &r->input.view.counted[0][1].value, 6);
    check_numbers(&v.counted[2][0].value, &r->input.view.counted[2][0].value, 6);
    assert_int_equal(r->input.layout.counters[0], 2);
    assert_int_equal(r->input.layout.counters[1], 0);
    assert_string_equal(r->input.policy, "name");
    assert_string_equal(r->input.version, "1.2");
    assert_int_equal(r->input.answer.n, sizeof answer - 1);
    assert_memory_equal(r->input.answer.p, answer, sizeof answer - 1);
    assert_false(r->input.answer_cut);
    way_buf_fini(&packed);
    way_buf_fini(&text);
    way_jsonline_fini(r);
    way_free(r);
}

static void a_policy_is_told_with_its_options(void **state)
{
    (void)state;
    struct way_jsonline *r = way_zalloc(sizeof *r);
    struct way_err err;
    struct way_option option[] = { { "a", WAY_OPTION_NUMBER, NULL, 0.1 },
                                   { "b", WAY_OPTION_BOOLEAN, NULL, 1 },
                                   { "c", WAY_OPTION_STRING, "x \"y\"", 0 } };
    struct way_policy_text t = { .path = "/etc/p.lua", .option = option, .options = 3 };
    struct way_plan plan = { .name = "p", .version = "7" };
    plan.layout.hash = 0xabcdef0123456789ull;
    for (int first = 0; first < 2; first++) {
        struct way_buf text = { 0 };
        way_jsonline_policy(&text, first ? "0.1.0" : NULL, 77, &plan, &t, 12.5, 1.7e9);
        assert_int_equal(way_jsonline_read(r, text.p, way_buf_held(&text), &err), 0);
        assert_int_equal(r->kind, first ? WAY_JSONLINE_HEADER : WAY_JSONLINE_POLICY);
        assert_true(r->hash == plan.layout.hash && r->now == 12.5);
        assert_true(!first || r->run == 77);
        assert_string_equal(r->name, "p");
        assert_string_equal(r->file, "/etc/p.lua");
        assert_string_equal(r->options, "a=0.10000000000000001 b=true c=\"x \\\"y\\\"\"");
        way_buf_fini(&text);
    }
    way_jsonline_fini(r);
    way_free(r);
}

static void nonsense_is_refused_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *line, *why;
    } cases[] = {
        { "", "column" },
        { "{\"seq\":1", "column" },
        { "[1]", "another object" },
        { "{}", "another object" },
        { "{\"event\":5}", "event: expected an object, got a number" },
        { "{\"event\":{\"phase\":\"inward\"}}",
          "event: phase: no such word: \"inward\"" },
        { "{\"event\":{\"n\":-1}}",
          "event: n: expected an integer from 0 to 4294967295" },
        { "{\"event\":{\"n\":1.5}}", "event: n: expected an integer" },
        { "{\"event\":{\"now\":true}}", "event: now: expected a number, got true" },
        { "{\"event\":{},\"node\":65536}", "node: expected an integer from 0 to 65535" },
        { "{\"event\":{},\"seed\":\"12\"}", "seed: expected a string of 16 hexadecimal" },
        { "{\"event\":{},\"fallback\":1}", "fallback: expected true or false" },
        { "{\"event\":{\"message\":\"\\u0100\"}}",
          "event: message: expected at most 127" },
        { "{\"event\":{},\"function\":\"probe\"}", "probe: expected an object" },
        { "{\"event\":{},\"view\":{}}", "view.of_shard: expected an object" },
        { "{\"wayside_journal\":2,\"policy\":\"0000000000000001\"}", "of format 1" },
    };
    struct way_jsonline *r = way_zalloc(sizeof *r);
    for (unsigned i = 0; i < way_count(cases); i++) {
        struct way_err err = { "" };
        int rc = way_jsonline_read(r, cases[i].line, strlen(cases[i].line), &err);
        if (rc != -1 || !strstr(err.text, cases[i].why))
            fail_msg("%s: %d, \"%s\", not \"%s\"", cases[i].line, rc, err.text,
                     cases[i].why);
    }
    way_jsonline_fini(r);
    way_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_comes_back_as_it_was),
        cmocka_unit_test(the_input_comes_back_too),
        cmocka_unit_test(a_policy_is_told_with_its_options),
        cmocka_unit_test(nonsense_is_refused_with_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
