/* replay: a journal put to the policy that made it differs nowhere, asked as it was or lived
 * through anew; to another it tells where; twice the same, byte by byte. */
#include "replay.h"

#include "decide_kit.h"
#include "jsonline.h"

#include <unistd.h>

enum { ENTRIES = 1024 };

/* Strikes, jitter and marks that end: states depend on memory, random numbers and time. */
static const char striking[] =
    "local wayside = require 'wayside'\n"
    "return wayside.policy { name = 'striking', version = '2',\n"
    "  options = { out = { default = 5, min = 0 } },\n"
    "  memory = { node = { strikes = 0 }, cluster = { marks = 0 } },\n"
    "  mark = function(self, node, event)\n"
    "    if event.kind == 'expiry' then\n"
    "      if node.memory.strikes > 2 then\n"
    "        node.memory.strikes = 0\n"
    "        return { state = 'suspect', seconds = 1 }\n"
    "      end\n"
    "      return nil\n"
    "    end\n"
    "    if not event.error then return nil end\n"
    "    node.memory.strikes = node.memory.strikes + 1\n"
    "    self.cluster.memory.marks = self.cluster.memory.marks + 1\n"
    "    return { state = 'failing', reason = event.error,\n"
    "      seconds = self.options.out * (0.5 + wayside.random()) }\n"
    "  end,\n"
    "  backoff = function(self, node, event)\n"
    "    if node.latency and event.attempt < 3 then\n"
    "      return { retry = 'other', after = wayside.random() }\n"
    "    end\n"
    "  end,\n"
    "  probe = function(self, node, event)\n"
    "    local info = wayside.info(event.answer)\n"
    "    if info then return { after = info.master_repl_offset } end\n"
    "  end }\n";

struct bed {
    struct way_policy_text text;
    struct way_limits limits;
    struct way_health *health;
    struct way_decider *decider;
    struct way_stats stats;
    struct way_ring *ring;
    unsigned node[NODES];
    double now;
    char path[64];
    FILE *file;
    struct way_buf line;
};

static void read_policy(struct way_policy_text *text, const struct way_limits *limits,
                        const char *policy, const struct way_option *option)
{
    struct way_err err;
    must(way_policy_read(text, "default", option, option != NULL, limits, &err), &err);
    kit_replace_policy(text, policy);
    text->wall = 1e6;
}

static void begin(struct bed *b, const char *policy)
{
    struct way_err err;
    struct way_policy *p;
    memset(b, 0, sizeof *b);
    b->now = 1000;
    way_limits_default(&b->limits);
    read_policy(&b->text, &b->limits, policy, NULL);
    must(way_policy_load(&p, &b->text, &err), &err);
    b->health = kit_table_of(p, b->limits.failing_share);
    b->ring = way_ring_new(ENTRIES);
    struct way_decider_options d = { .health = b->health,
                                     .text = &b->text,
                                     .limits = &b->limits,
                                     .stats = &b->stats,
                                     .ring = b->ring };
    must(way_decider_new(&b->decider, &d, &err), &err);
    kit_publish_nodes(b->health, b->now, b->node);
    b->now += 10;
    snprintf(b->path, sizeof b->path, "/tmp/wayside-replay-XXXXXX");
    b->file = fdopen(mkstemp(b->path), "w");
    assert_non_null(b->file);
    way_jsonline_policy(&b->line, "test", 1, way_policy_plan(p), &b->text, b->now, 1.7e9);
    way_policy_free(p);
}

static void end(struct bed *b)
{
    way_decider_free(b->decider);
    way_ring_free(b->ring);
    way_health_close(b->health);
    way_policy_text_fini(&b->text);
    way_buf_fini(&b->line);
    unlink(b->path);
}

static struct way_event event(struct bed *b, enum way_kind kind, enum way_error error)
{
    return (struct way_event){ .kind = kind,
                               .phase = WAY_PHASE_CONNECT,
                               .step = WAY_STEP_DIAL,
                               .error = error,
                               .n = 3,
                               .attempt = 1,
                               .began = b->now,
                               .now = b->now,
                               .unix_time = 1.7e9 + b->now,
                               .deadline_left = -1 };
}

static void drain(struct bed *b)
{
    const struct way_entry *e;
    while ((e = way_ring_peek(b->ring))) {
        way_jsonline_entry(&b->line, e);
        way_ring_pop(b->ring);
    }
}

static void fail_node(struct bed *b, unsigned which)
{
    struct way_event e = event(b, WAY_KIND_CONNECTION, WAY_ERROR_REFUSED);
    struct way_decision d;
    struct way_retry r;
    struct way_entry entry;
    way_decide(b->decider, b->node[which], &e, &d);
    e.kind = WAY_KIND_COMMANDS;
    e.has_certainty = true;
    way_health_latency(b->health, b->node[which], 0.001, b->now);
    way_decide_retry(b->decider, b->node[which], &e, &r, &entry);
    way_decide_did(b->decider, &entry, "nothing");
    drain(b);
}

/* What control does when marks end. */
static void pass_time(struct bed *b, double until)
{
    for (;;) {
        double at = until;
        unsigned first = WAY_NONE;
        struct way_verdict v;
        for (unsigned i = 0; i < NODES; i++) {
            way_health_verdict(b->health, b->node[i], &v);
            if (v.ends > 0 && v.ends <= at) {
                first = b->node[i];
                at = v.ends;
            }
        }
        b->now = at;
        if (first == WAY_NONE)
            return;
        struct way_event e = event(b, WAY_KIND_EXPIRY, WAY_ERROR_NONE);
        struct way_decision d;
        way_decide(b->decider, first, &e, &d);
        way_health_verdict(b->health, first, &v);
        if (v.ends > 0 && v.ends <= b->now) {
            struct way_proposal p = kit_mark(WAY_STATE_HEALTHY, 0);
            p.host = true;
            kit_commit(b->health, first, b->now, p);
        }
        drain(b);
    }
}

/* An incident: three nodes, a dozen failures, marks that end between them. */
static void incident(struct bed *b)
{
    struct way_event e;
    struct way_probe probe;
    static const char info[] = "$24\r\nmaster_repl_offset:123\r\n\r\n";
    for (unsigned i = 0; i < 12; i++) {
        fail_node(b, i % NODES);
        pass_time(b, b->now + (i % 4 == 3 ? 30 : 1.5));
    }
    e = event(b, WAY_KIND_PROBE, WAY_ERROR_NONE);
    e.answer = (struct way_span){ info, sizeof info - 1 };
    way_decide_classify(b->decider, &e);
    way_decide_probe(b->decider, b->node[A], &e, &probe);
    assert_true(probe.given && probe.after == 123);
    drain(b);
}

static void write_journal(struct bed *b)
{
    fwrite(b->line.p + b->line.off, 1, way_buf_held(&b->line), b->file);
    fclose(b->file);
    b->file = NULL;
}

/* What replay printed; freed by the caller. */
static char *replayed(struct bed *b, const char *policy, const struct way_option *option,
                      enum way_replay_mode mode, struct way_replay_totals *totals, int rc)
{
    struct way_policy_text text;
    struct way_err err = { "" };
    char *out = NULL;
    size_t n;
    const char *const files[] = { b->path };
    read_policy(&text, &b->limits, policy, option);
    struct way_replay_options o = { .journal = files,
                                    .journals = 1,
                                    .text = &text,
                                    .limits = &b->limits,
                                    .mode = mode,
                                    .out = open_memstream(&out, &n) };
    int got = way_replay_run(&o, totals, &err);
    fclose(o.out);
    if (got != rc)
        fail_msg("%d, not %d: %s\n%s", got, rc, err.text, out);
    way_policy_text_fini(&text);
    return out;
}

static void with_its_own_policy_nothing_differs(void **state)
{
    (void)state;
    static const enum way_replay_mode modes[] = { WAY_REPLAY_AUTO, WAY_REPLAY_ASKED,
                                                  WAY_REPLAY_EVOLVED };
    struct way_replay_totals t;
    struct bed b;
    begin(&b, striking);
    incident(&b);
    write_journal(&b);
    for (unsigned i = 0; i < way_count(modes); i++) {
        char *one = replayed(&b, striking, NULL, modes[i], &t, 0);
        char *two = replayed(&b, striking, NULL, modes[i], &t, 0);
        assert_string_equal(one, two);
        if (t.differences || t.asked < 25 || t.bad)
            fail_msg("mode %u: %s", modes[i], one);
        assert_non_null(strstr(one, "healthy -> failing"));
        free(one);
        free(two);
    }
    end(&b);
}

static void another_policy_is_told_apart(void **state)
{
    (void)state;
    static const struct way_option out = { "out", WAY_OPTION_NUMBER, NULL, 50 };
    struct way_replay_totals t;
    struct bed b;
    begin(&b, striking);
    incident(&b);
    write_journal(&b);
    char *text = replayed(&b, striking, &out, WAY_REPLAY_AUTO, &t, 0);
    assert_true(t.differences > 0);
    assert_non_null(strstr(text, "states and memory the policy's own"));
    assert_non_null(strstr(text, "mark: recorded \"failing"));
    free(text);
    text = replayed(&b, striking, &out, WAY_REPLAY_ASKED, &t, -1);
    free(text);
    end(&b);
}

/* A difference in the last digit, in memory alone, or in the cause of a failure is one. */
static void the_smallest_difference_is_told(void **state)
{
    (void)state;
    struct bed b;
    struct way_entry e;
    struct way_input in;
    struct way_policy *p;
    struct way_err err;
    char differs[512];
    begin(&b, striking);
    struct way_event v = event(&b, WAY_KIND_CONNECTION, WAY_ERROR_REFUSED);
    struct way_decision d;
    way_decide(b.decider, b.node[A], &v, &d);
    const struct way_entry *recorded = way_ring_peek(b.ring);
    way_entry_copy(&e, recorded);
    e.input = recorded->input;
    assert_true(way_input_unpack(&e, &in));
    must(way_policy_load(&p, &b.text, &err), &err);
    assert_true(way_replay_ask(p, &e, &in, differs, sizeof differs));
    assert_string_equal(differs, "");
    assert_int_equal(e.asking, 1);
    assert_int_equal(in.layout.node, 2); /* its own, and the default's */
    assert_true(in.view.memory.node[0] == 0 && in.after.node[0] == 1);

    struct way_entry other = e;
    other.mark.seconds *= 1 + 1e-15;
    assert_true(way_replay_ask(p, &other, &in, differs, sizeof differs));
    assert_non_null(strstr(differs, "differs in what is not shown"));
    struct way_input memory = in;
    memory.after.cluster[0] = 7;
    assert_true(way_replay_ask(p, &e, &memory, differs, sizeof differs));
    assert_non_null(strstr(differs, "other memory afterwards"));
    other = e;
    other.cause = WAY_CAUSE_ERROR;
    assert_true(way_replay_ask(p, &other, &in, differs, sizeof differs));
    assert_non_null(strstr(differs, "cause of failure error, now none"));
    other.cause = WAY_CAUSE_DEADLINE;
    assert_false(way_replay_ask(p, &other, &in, differs, sizeof differs));
    in.answer_cut = true;
    assert_false(way_replay_ask(p, &e, &in, differs, sizeof differs));
    way_policy_free(p);
    end(&b);
}

static void an_operators_mark_outranks_in_the_replay_too(void **state)
{
    (void)state;
    struct way_replay_totals t;
    struct bed b;
    begin(&b, striking);
    fail_node(&b, A0);
    pass_time(&b, b.now + 60);
    struct way_proposal p = kit_mark(WAY_STATE_HEALTHY, 0);
    p.by_operator = true;
    struct way_entry e = { .function = WAY_FN_MARK,
                           .by_operator = true,
                           .mark = p.mark,
                           .address = "127.0.0.1:7002",
                           .where = "operator" };
    e.outcome = kit_commit(b.health, b.node[A0], b.now, p);
    e.event = event(&b, WAY_KIND_CHANGE, WAY_ERROR_NONE);
    way_jsonline_entry(&b.line, &e);
    for (int i = 0; i < 3; i++) {
        fail_node(&b, A0);
        pass_time(&b, b.now + 1);
        assert_int_equal(kit_state(b.health, b.node[A0]), WAY_STATE_HEALTHY);
    }
    write_journal(&b);
    char *text = replayed(&b, striking, NULL, WAY_REPLAY_EVOLVED, &t, 0);
    if (t.differences)
        fail_msg("%s", text);
    free(text);
    end(&b);
}

static void lines_in_any_order_are_put_in_the_commits_order(void **state)
{
    (void)state;
    struct way_replay_totals t;
    struct bed b;
    begin(&b, striking);
    incident(&b);
    /* The header stays; the entries are written the last one first. */
    char *text = b.line.p + b.line.off,
         *header = memchr(text, '\n', way_buf_held(&b.line));
    struct way_buf turned = { 0 };
    way_buf_put(&turned, text, (size_t)(header + 1 - text));
    for (char *stop = b.line.p + b.line.len - 1; stop > header;) {
        char *start = stop;
        while (start[-1] != '\n')
            start--;
        way_buf_put(&turned, start, (size_t)(stop + 1 - start));
        stop = start - 1;
    }
    assert_int_equal(way_buf_held(&turned), way_buf_held(&b.line));
    way_buf_fini(&b.line);
    b.line = turned;
    write_journal(&b);
    text = replayed(&b, striking, NULL, WAY_REPLAY_EVOLVED, &t, 0);
    if (t.differences)
        fail_msg("%s", text);
    free(text);
    end(&b);
}

/* ---- sweeps ---- */

/* Every third sweep says of each node what it counted, and draws; shards' and the cluster's
 * memory are read, other nodes are looked at. */
static const char sweeping[] =
    "local wayside = require 'wayside'\n"
    "return wayside.policy { name = 'sweeping', version = '3', every = 1,\n"
    "  options = { out = { default = 5, min = 0 } },\n"
    "  memory = { node = { strikes = 0, sweeps = 0 }, cluster = { marks = 0 } },\n"
    "  counters = { fails = wayside.consecutive {} },\n"
    "  mark = function(self, node, event)\n"
    "    if not event.error then return nil end\n"
    "    node.memory.strikes = node.memory.strikes + 1\n"
    "    self.cluster.memory.marks = self.cluster.memory.marks + 1\n"
    "    return { state = 'suspect', reason = event.error }\n"
    "  end,\n"
    "  tick = function(self, nodes, event)\n"
    "    local answers, most = {}, 0\n"
    "    for _, node in ipairs(nodes) do\n"
    "      most = math.max(most, node.memory.strikes)\n"
    "    end\n"
    "    for _, node in ipairs(nodes) do\n"
    "      node.memory.sweeps = node.memory.sweeps + 1\n"
    "      local due = node.memory.sweeps % 3 == 0\n"
    "      if due and node.memory.strikes > 0 and node.memory.strikes == most then\n"
    "        node.memory.strikes = 0\n"
    "        answers[#answers + 1] = { node = node, state = 'failing',\n"
    "          seconds = self.options.out * (0.5 + wayside.random()),\n"
    "          reason = 'marks' .. self.cluster.memory.marks .. 'fails' .. "
    "node.counters.fails.value }\n"
    "      elseif due and node.state == 'suspect' then\n"
    "        answers[#answers + 1] = { node = node, state = 'healthy' }\n"
    "      end\n"
    "    end\n"
    "    return answers\n"
    "  end }\n";

static struct way_swept sweep(struct bed *b)
{
    struct way_event e = event(b, WAY_KIND_TICK, WAY_ERROR_NONE);
    struct way_swept out;
    e.n = e.attempt = 0;
    e.late = 0.001;
    way_decide_tick(b->decider, &e, &out);
    drain(b);
    return out;
}

/* Failures between sweeps, by the same clock. */
static unsigned swept_incident(struct bed *b)
{
    unsigned marked = 0;
    b->now += 1; /* the first sweep is an interval after the start */
    for (unsigned i = 0; i < 30; i++) {
        marked += sweep(b).marked;
        b->now += 0.25;
        if (i % 4 != 3)
            fail_node(b, i % NODES);
        pass_time(b, b->now + 0.75);
    }
    return marked;
}

static void sweeps_are_asked_again_with_what_they_were_asked(void **state)
{
    (void)state;
    struct way_replay_totals t;
    struct bed b;
    begin(&b, sweeping);
    unsigned marked = swept_incident(&b);
    assert_true(marked >= 8);
    write_journal(&b);
    char *one = replayed(&b, sweeping, NULL, WAY_REPLAY_AUTO, &t, 0);
    char *two = replayed(&b, sweeping, NULL, WAY_REPLAY_AUTO, &t, 0);
    assert_string_equal(one, two);
    char *ticks = strstr(one, " tick ");
    if (t.differences || t.bad || !ticks || strtoul(ticks + 6, NULL, 10) < marked ||
        strstr(one, "could not be asked"))
        fail_msg("%s", one);
    free(one);
    free(two);
    end(&b);
}

/* What is written down of a sweep is all that its answers came from. */
static void a_sweep_that_was_another_is_told_node_by_node(void **state)
{
    (void)state;
    static const char *const change[][3] = {
        { "\"sweeps\"", "", "" }, /* nothing: to be sure that the rest is what differs */
        { "\"failing\",\"seconds\":", "\"failing\",\"seconds\":1",
          "recorded \"failing 1" },
        { "\"reason\":\"marks", "\"reason\":\"Marks", "now \"failing" },
    };
    for (unsigned i = 0; i < way_count(change); i++) {
        struct way_replay_totals t;
        struct bed b;
        begin(&b, sweeping);
        swept_incident(&b);
        struct way_buf other = { 0 };
        way_buf_put(&b.line, "", 1);
        char *from = b.line.p + b.line.off, *stop = b.line.p + b.line.len - 1;
        char *mark = strstr(from, "\"function\":\"tick\"");
        while (mark && !memmem(mark, strcspn(mark, "\n"), "\"mark\":", 7))
            mark = strstr(mark + 1, "\"function\":\"tick\"");
        assert_non_null(mark);
        mark = strstr(mark, "\"mark\":");
        char *at = i ? strstr(mark, change[i][0]) : NULL;
        assert_true(!i || at);
        way_buf_put(&other, from, (size_t)((at ? at : stop) - from));
        if (at) {
            at += strlen(change[i][0]);
            way_buf_puts(&other, change[i][1]);
            way_buf_put(&other, at, (size_t)(stop - at));
        }
        way_buf_fini(&b.line);
        b.line = other;
        write_journal(&b);
        char *text = replayed(&b, sweeping, NULL, WAY_REPLAY_AUTO, &t, 0);
        if (t.differences != (i > 0) || t.bad || (i && !strstr(text, "tick: recorded")) ||
            (i && !strstr(text, change[i][2])))
            fail_msg("%u: %s", i, text);
        free(text);
        end(&b);
    }
}

static void a_sweep_of_which_a_part_is_missing_is_not_compared(void **state)
{
    (void)state;
    struct way_replay_totals t;
    struct bed b;
    begin(&b, sweeping);
    swept_incident(&b);
    way_buf_put(&b.line, "", 1);
    char *from = b.line.p + b.line.off;
    char *line = strstr(from, "\"sweep_at\":1");
    assert_non_null(line);
    while (line[-1] != '\n')
        line--;
    char *next = strchr(line, '\n') + 1;
    memmove(line, next, strlen(next) + 1);
    b.line.len = (size_t)(line - b.line.p) + strlen(line);
    write_journal(&b);
    char *text = replayed(&b, sweeping, NULL, WAY_REPLAY_AUTO, &t, 0);
    if (t.differences || !strstr(text, "2 could not be asked as they were"))
        fail_msg("%s", text);
    free(text);
    end(&b);
}

static void a_sweep_that_failed_fails_again_and_says_so_where_it_does_not(void **state)
{
    (void)state;
    static const char fails[] =
        "local wayside = require 'wayside'\n"
        "return wayside.policy { name = 'fails', every = 1, mark = function() end,\n"
        "  tick = function(_, nodes) if nodes[1].latency then error 'no' end end }\n";
    struct way_replay_totals t;
    struct bed b;
    begin(&b, fails);
    way_health_latency(b.health, b.node[A], 0.001, b.now);
    sweep(&b);
    write_journal(&b);
    char *text = replayed(&b, fails, NULL, WAY_REPLAY_AUTO, &t, 0);
    if (t.differences || t.asked != NODES)
        fail_msg("%s", text);
    free(text);
    end(&b);
    /* Its input says that it would not have failed. */
    begin(&b, fails);
    way_health_latency(b.health, b.node[A], 0.001, b.now);
    sweep(&b);
    way_buf_put(&b.line, "", 1);
    char *latency = strstr(b.line.p + b.line.off, "\"latency\":0");
    assert_non_null(latency);
    latency[10] = '-';
    latency[11] = '1';
    for (char *rest = latency + 12; *rest != ','; rest++)
        *rest = ' ';
    b.line.len--;
    write_journal(&b);
    text = replayed(&b, fails, NULL, WAY_REPLAY_AUTO, &t, 0);
    if (t.differences != NODES ||
        !strstr(text, "recorded cause of failure error, now none"))
        fail_msg("%s", text);
    free(text);
    end(&b);
}

static void another_policy_sweeps_at_its_own_interval(void **state)
{
    (void)state;
    static const struct way_option out = { "out", WAY_OPTION_NUMBER, NULL, 50 };
    static const char plain[] =
        "local wayside = require 'wayside'\n"
        "return wayside.policy { name = 'plain', mark = function() end }\n";
    static const char slow[] =
        "local wayside = require 'wayside'\n"
        "return wayside.policy { name = 'slow', every = 10, mark = function() end,\n"
        "  tick = function(_, nodes)\n"
        "    for _, node in ipairs(nodes) do if node.role == 'replica' then\n"
        "      return { { node = node, state = 'failing', seconds = 4, reason = 'slow' } "
        "}\n"
        "    end end end }\n";
    struct way_replay_totals t;
    struct bed b;
    begin(&b, sweeping);
    swept_incident(&b);
    write_journal(&b);
    /* The same times, other answers. */
    char *text = replayed(&b, sweeping, &out, WAY_REPLAY_AUTO, &t, 0);
    if (!t.differences || !strstr(text, ": tick: recorded \"failing") ||
        strstr(text, "had none due"))
        fail_msg("%s", text);
    free(text);
    /* No sweeps at all: none of the recorded ones is compared. */
    text = replayed(&b, plain, NULL, WAY_REPLAY_AUTO, &t, 0);
    if (strstr(text, ": tick:") || !strstr(text, "had none due"))
        fail_msg("%s", text);
    free(text);
    /* Its own: the states tell, three times four seconds within thirty. */
    text = replayed(&b, slow, NULL, WAY_REPLAY_AUTO, &t, 0);
    unsigned marks = 0;
    for (char *at = text; (at = strstr(at, "now: healthy -> failing slow")); at++)
        marks++;
    if (marks != 3)
        fail_msg("%s", text);
    char *again = replayed(&b, slow, NULL, WAY_REPLAY_AUTO, &t, 0);
    assert_string_equal(text, again);
    free(again);
    free(text);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_its_own_policy_nothing_differs),
        cmocka_unit_test(another_policy_is_told_apart),
        cmocka_unit_test(the_smallest_difference_is_told),
        cmocka_unit_test(an_operators_mark_outranks_in_the_replay_too),
        cmocka_unit_test(lines_in_any_order_are_put_in_the_commits_order),
        cmocka_unit_test(sweeps_are_asked_again_with_what_they_were_asked),
        cmocka_unit_test(a_sweep_that_was_another_is_told_node_by_node),
        cmocka_unit_test(a_sweep_of_which_a_part_is_missing_is_not_compared),
        cmocka_unit_test(a_sweep_that_failed_fails_again_and_says_so_where_it_does_not),
        cmocka_unit_test(another_policy_sweeps_at_its_own_interval),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
