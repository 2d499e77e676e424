/* The contract in use: what loads, what is refused and how it is told, what an answer may
 * be, what a script can't do. */
#include "policy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static struct way_err err;
static struct way_policy *policy;
static struct way_view node;
static struct way_event event;
static struct way_memory memory;
static char folder[64];

#define HEAD                                                                             \
    "local wayside = require \"wayside\"\nreturn wayside.policy { name = \"t\",\n"

static int load_with(const char *text, const struct way_option *option, unsigned options)
{
    char path[128];
    snprintf(path, sizeof path, "%s/t.lua", folder);
    struct way_policy_text t = { .path = path,
                                 .text = (char *)(uintptr_t)text,
                                 .n = strlen(text),
                                 .options = options,
                                 .option = (struct way_option *)(uintptr_t)option };
    way_policy_free(policy);
    policy = NULL;
    int result = way_policy_load(&policy, &t, &err);
    if (!result)
        memory = way_policy_plan(policy)->layout.first;
    return result;
}

static void load(const char *text)
{
    if (load_with(text, NULL, 0) < 0)
        fail_msg("%s\ndid not load: %s", text, err.text);
}

/* A policy whose function `name` has this body. */
static void load_function(const char *name, const char *body)
{
    char text[2048];
    snprintf(text, sizeof text,
             HEAD "memory = { node = { a = 1, b = 2 }, shard = { out = 0 }, cluster = { "
                  "open = 5 } },\n"
                  "%s = function(self, node, event) %s end }",
             name, body);
    load(text);
}

static void be_refused(struct way_event *e)
{
    *e = (struct way_event){ .kind = WAY_KIND_CONNECTION,
                             .phase = WAY_PHASE_CONNECT,
                             .step = WAY_STEP_DIAL,
                             .error = WAY_ERROR_REFUSED,
                             .n = 3,
                             .now = 100,
                             .unix_time = 1000.25,
                             .deadline_left = -1,
                             .attempt = 1 };
}

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/wayside-policy-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    memset(&node, 0, sizeof node);
    snprintf(node.address, sizeof node.address, "10.0.0.1:7000");
    node.latency = -1;
    node.failures = 1;
    node.verdict.weight = 1;
    be_refused(&event);
    event.blame = WAY_BLAME_NODE;
    event.class = WAY_CLASS_DOWN;
    return 0;
}

static void put_file(const char *name, const char *text)
{
    char path[192];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int teardown(void **state)
{
    static const char *const names[] = { "beside.lua", "self.lua", "bad.lua" };
    char path[192];
    (void)state;
    way_policy_free(policy);
    policy = NULL;
    for (unsigned i = 0; i < way_count(names); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

static enum way_asked mark(struct way_mark *out)
{
    return way_policy_mark(policy, &node, &event, 7, &memory, out);
}

static void mark_well(struct way_mark *out)
{
    if (mark(out) != WAY_ASKED_ANSWERED)
        fail_msg("mark failed: %s", way_policy_failure(policy)->text);
}

/* ---- loading ---- */

static const char *load_wrong(const char *text)
{
    if (load_with(text, NULL, 0) >= 0)
        fail_msg("%s\nloaded", text);
    return strncmp(err.text, folder, strlen(folder)) ? err.text
                                                     : err.text + strlen(folder) + 1;
}

static void says_what_is_wrong_with_a_counter(void **state)
{
    static const char *const cases[][2] = {
        { "5", "expected a counter, such as wayside.ring { size = 100 }, got 5" },
        { "{ kind = 'windo' }",
          ".kind: expected one of consecutive, ewma, ring, samples, tokens, window, got "
          "\"windo\", did you mean 'window'?" },
        { "wayside.window {}",
          "t.lua: counters.it.seconds: expected a number from 0.01 to 1000000, got nil" },
        { "wayside.window { seconds = 0/0 }", ".seconds: expected a number from" },
        { "wayside.window { seconds = 1, bukets = 5 }",
          ".bukets: no such field, did you mean 'buckets'?" },
        { "wayside.window { seconds = 1, buckets = 1.5 }",
          ".buckets: expected a whole number from 1 to 128, got 1.5" },
        { "wayside.window { seconds = 1, of = 'latency' }",
          ".of: expected one of requests, results, retries, got \"latency\"" },
        { "wayside.window { seconds = 1, of = 'retries', phases = 'read' }",
          ".phases: expected nothing: it counts no failures, with of = \"retries\"" },
        { "wayside.window { seconds = 1, of = 'requests', edge = { above = 1 } }",
          ".edge: expected nothing: it has no share of failures" },
        { "wayside.ring { size = 0 }",
          ".size: expected a whole number from 1 to 8192, got 0" },
        { "wayside.ring { size = 5, scope = 'nodes' }",
          ".scope: expected one of cluster, node, shard, got \"nodes\", did you mean "
          "'node'?" },
        { "wayside.ring { size = 5, edge = {} }",
          ".edge: expected at_least, above or below, got none of them" },
        { "wayside.ring { size = 5, edge = { above = 1, below = 0 } }",
          ".edge.below: expected one of at_least, above and below, got two" },
        { "wayside.consecutive { edge = { at_least = 5, min_volume = 1 } }",
          ".edge.min_volume: expected nothing: this kind has no volume, got 1" },
        { "wayside.consecutive { classes = 'slw' }",
          ".classes: no such class 'slw', did you mean 'slow'?" },
        { "wayside.consecutive { classes = { 'slow', 'answer' } }",
          ".classes[2]: an answer is a success: it counts as 'ok'" },
        { "wayside.consecutive { phases = { 'raed' } }",
          ".phases[1]: expected one of connect, read, write, got \"raed\", did you mean "
          "'read'?" },
        { "wayside.consecutive { count = 'event' }", "did you mean 'events'?" },
        { "wayside.consecutive { slower = 0 }",
          ".slower: expected a number above 0 and at most 1000000000, got 0" },
        { "wayside.ewma {}", ": expected either tau or results" },
        { "wayside.ewma { tau = 1, results = 5 }", ": expected either tau or results" },
        { "wayside.tokens { capacity = 5, start = 6 }",
          ".start: expected a number from 0 to 5, got 6" },
        { "wayside.samples { size = 5, edge = { above = 1 } }", ".edge: no such field" },
        { "wayside.samples { size = 512, scope = 'shard' }",
          ": needs 2056 bytes, of 576 that its scope has 576 are left" },
    };
    char text[512], wanted[512];
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++) {
        snprintf(text, sizeof text, HEAD "\ncounters = { it = %s } }", cases[i][0]);
        const char *said = load_wrong(text);
        bool placed = cases[i][1][0] == '.' || cases[i][1][0] == ':';
        snprintf(wanted, sizeof wanted, "%s%s", placed ? "t.lua:4: counters.it" : "",
                 cases[i][1]);
        if (!strstr(said, wanted))
            fail_msg("%s\n  said     %s\n  expected %s", cases[i][0], said, wanted);
    }
}

/* What reset() and add() ask for goes out with the answer, and only with one. */
static void counters_are_read_and_touched(void **state)
{
    static const char head[] = HEAD
        "options = { size = { default = 5 } }, counters = function(o) return { row = "
        "wayside.consecutive {}, gaps = wayside.samples { size = o.size }, all = "
        "wayside.window { scope = 'cluster', seconds = 10, of = 'requests' } } end,\n"
        "mark = function(self, node, event) local c = node.counters ";
    struct way_mark m;
    char text[1024];
    (void)state;
    snprintf(text, sizeof text,
             "%s c.gaps:add(c.row.value / 2) c.row:reset() return { reason = 'r' .. "
             "c.gaps.mean .. 's' .. self.cluster.counters.all.volume } end }",
             head);
    load(text);
    /* by name: gaps, row */
    node.counted[WAY_COUNTERS_NODE][0].mean = 7;
    node.counted[WAY_COUNTERS_NODE][1].value = 3;
    node.counted[WAY_COUNTERS_CLUSTER][0].volume = 9;
    mark_well(&m);
    assert_string_equal(m.reason, "r7s9");
    const struct way_touches *t = way_policy_touches(policy);
    assert_int_equal(t->count, 2);
    assert_true(t->touch[0].add && t->touch[0].value == 1.5 && t->touch[0].index == 0);
    assert_true(!t->touch[1].add && t->touch[1].index == 1);

    static const char *const wrong[][2] = {
        { "c.row:reset() error('no')", "no" },
        { "c.row:add(1)", "only samples are added to, it is of kind consecutive" },
        { "c.gaps:add(0/0)", "counter 'gaps': add: expected a finite number, got " },
        { "c.gaps:add('5')", "expected a finite number, got string" },
        { "c.gaps.add(5)", "expected a counter before it, as in counter:add(x)" },
        { "c.gaps.add(c, 5)", "expected a counter before it" },
        { "local x = c.row.failed", "counter 'row' (consecutive) has no 'failed'" },
        { "local x = c.rwo", "node.counters has no 'rwo', did you mean 'row'?" },
        { "for i = 1, 17 do c.row:reset() end", "more than 16 resets and samples" },
        { "c.row.value = 5", "counters are read-only" },
    };
    for (unsigned i = 0; i < way_count(wrong); i++) {
        snprintf(text, sizeof text, "%s %s end }", head, wrong[i][0]);
        load(text);
        if (mark(&m) != WAY_ASKED_FAILED)
            fail_msg("%s: did not fail", wrong[i][0]);
        if (!strstr(way_policy_failure(policy)->text, wrong[i][1]))
            fail_msg("%s\n  said %s", wrong[i][0], way_policy_failure(policy)->text);
        assert_int_equal(way_policy_touches(policy)->count, 0);
    }
}

static void says_what_is_wrong_with_a_table(void **state)
{
    static const char *const cases[][2] = {
        { "return 5",
          "t.lua: expected one table, as wayside.policy { ... } gives it, got 5" },
        { "", "t.lua: expected one table, as wayside.policy { ... } gives it, got nil" },
        { "return { name = 1 }",
          "t.lua:1: name: expected a string of 1 to 63 bytes, got 1" },
        { "return {}", "t.lua: name: expected a string of 1 to 63 bytes, got nil" },
        { "return { name = 'a b' }",
          "t.lua:1: name: expected letters, digits, '.', '_' and '-' only, got \"a b\"" },
        { HEAD "clases = {} }",
          "t.lua:3: clases: no such field, did you mean 'classes'?" },
        { HEAD "mark = 5 }", "t.lua:3: mark: expected a function, got 5" },
        { HEAD "every = 5 }", "t.lua:3: every: expected a function tick beside it" },
        { HEAD "selftest = true }", "t.lua:3: selftest: expected a function, got true" },
        { HEAD "route = 5 }", "t.lua:3: route: expected a function, got 5" },
        { HEAD "pick = 'nearby' }", "t.lua:3: pick: expected one of least_inflight, "
                                    "master, nearest, p2c, random, replica, "
                                    "replica_only, round_robin, got \"nearby\"" },
        { HEAD "pick = { 'p2c', load = 1 } }",
          "t.lua:3: pick.load: expected the name of a counter of nodes, got 1" },
        { HEAD "pick = { 'p2c', load = 'x' } }",
          "t.lua:3: pick.load: no counter of nodes is called 'x'" },
        { HEAD "pick = { 'random', load = 'row' }, counters = { row = "
               "wayside.consecutive {} } }",
          "t.lua:3: pick.load: expected nothing but with \"p2c\", got \"row\"" },
        { HEAD "watch = { succes = true } }",
          "t.lua:3: watch.succes: no such field, did you mean 'success'?" },
        { HEAD "options = { a = 5 } }", "t.lua:3: options.a: expected a table with a "
                                        "default, { default = ... }, got 5" },
        { HEAD "options = { a = {} } }",
          "t.lua: options.a.default: expected a number, a string or a boolean, got nil" },
        { HEAD "options = { a = { default = 1, mim = 0 } } }",
          "t.lua:3: options.a.mim: no such field, did you mean 'min'?" },
        { HEAD "options = { a = { default = 1, unit = 's', min = 2 } } }",
          "t.lua:3: options.a.default: expected a number of s of at least 2, got 1" },
        { HEAD "memory = { nodes = {} } }",
          "t.lua:3: memory.nodes: no such field, did you mean 'node'?" },
        { HEAD "memory = { node = { a = 'x' } } }",
          "t.lua:3: memory.node.a: expected a finite number, got \"x\"" },
        { HEAD "memory = { node = { a = 0/0 } } }",
          "t.lua:3: memory.node.a: expected a finite number, got nan" },
        { HEAD "classes = { { error = 'refusd', class = 'down' } } }",
          "t.lua:3: classes[1].error: expected one of" },
        { HEAD "classes = { { error = 'refusd', class = 'down' } } }",
          "did you mean 'refused'?" },
        { HEAD "classes = { { error = 'refused' } } }",
          "t.lua:3: classes[1]: expected a class, got a row without one" },
        { HEAD "classes = { { error = 'refused', class = 'dwon' } } }",
          "no such class 'dwon', did you mean 'down'? (a new class names its blame)" },
        { HEAD "classes = { { error = 'refused', class = 'down', blame = 'host' } } }",
          "t.lua:3: classes[1].blame: class 'down' blames node" },
        { HEAD "classes = { { latency = 5, class = 'down' } } }",
          "t.lua:3: classes[1].latency: no such field" },
        { HEAD "classes = { { message = '', class = 'down' } } }",
          "t.lua:3: classes[1].message: expected a string of 1 to 127 bytes, got \"\"" },
        { "local x = nil + 1", "t.lua:1: attempt to perform arithmetic on a nil value" },
        { "return {", "t.lua:1: unexpected symbol near '<eof>'" },
        { "error('no')", "t.lua:1: no" },
        { "while true do end", "t.lua:1: more than 5000000 instructions in one call" },
        { "local t = {} while true do t[#t + 1] = { 1 } end", "out of memory" },
        { "require 'os'", "os.lua: No such file" },
        { "require '../x'",
          "expected \"wayside\" or the plain name of a file beside the policy" },
        { "require '/etc/passwd'", "expected \"wayside\" or the plain name" },
        { "require 'a.b'", "expected \"wayside\" or the plain name" },
        { "require 'wayside'.random()",
          "wayside.random: only while a question is asked" },
        { "require 'wayside'.window()", "wayside.window: expected a table, got nil" },
        { "require 'wayside'.ring { kind = 1 }", "wayside.ring: no setting 'kind'" },
        { "require 'wayside'.rnadom()", "wayside has no 'rnadom'" },
        { "require 'wayside'.random = 5", "wayside is read-only: can't set 'random'" },
        { "require 'wayside'.default.mark = 5", "wayside.default is read-only" },
        { "require 'wayside'.default.mark()", "only while a question is asked" },
        { "require 'wayside'.backoff { base = 1, jitter = 'ful' }",
          "jitter: expected full" },
        { "require 'wayside'.backoff { base = -1 }",
          "base: expected a number above 0, got -1" },
        { "require 'wayside'.compose(5)", "expected functions, got number as number 1" },
    };
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++) {
        if (load_with(cases[i][0], NULL, 0) == 0)
            fail_msg("%s\n  loaded", cases[i][0]);
        if (!strstr(err.text, cases[i][1]))
            fail_msg("%s\n  said     %s\n  expected %s", cases[i][0], err.text,
                     cases[i][1]);
        assert_null(strstr(err.text, "traceback"));
    }
}

static void options_take_their_defaults_type(void **state)
{
    static const char text[] =
        HEAD "options = { n = { default = 5, unit = 's', min = 1, max = 9 }, s = { "
             "default = 'x' },\n"
             "b = { default = false }, w = { default = 'a', one_of = { 'a', 'b' } } },\n"
             "mark = function(self) local o = self.options\n"
             "return { state = 'failing', seconds = o.n, reason = o.s .. o.w .. "
             "tostring(o.b) } end }";
    struct way_option o[] = { { (char *)"n", WAY_OPTION_WORD, (char *)"7.5", 0 },
                              { (char *)"s", WAY_OPTION_WORD, (char *)"12", 0 },
                              { (char *)"b", WAY_OPTION_WORD, (char *)"true", 0 },
                              { (char *)"w", WAY_OPTION_STRING, (char *)"b", 0 } };
    static const struct {
        const char *name, *text, *said;
    } bad[] = {
        { "n", "x", "option n: expected a number of s from 1 to 9, got \"x\"" },
        { "n", "10", "option n: expected a number of s from 1 to 9, got 10" },
        { "n", "nan", "option n: expected a number of s from 1 to 9" },
        { "b", "maybe", "option b: expected a boolean, got \"maybe\"" },
        { "w", "c", "option w: expected one of a, b, got \"c\"" },
        { "nn", "1", "option nn: the policy has no such option; it has b, n, s, w" },
    };
    struct way_mark m;
    (void)state;
    assert_int_equal(load_with(text, o, 4), 0);
    mark_well(&m);
    assert_true(m.seconds == 7.5);
    assert_string_equal(m.reason, "12btrue");
    for (unsigned i = 0; i < way_count(bad); i++) {
        o[0] = (struct way_option){ (char *)(uintptr_t)bad[i].name, WAY_OPTION_WORD,
                                    (char *)(uintptr_t)bad[i].text, 0 };
        assert_int_equal(load_with(text, o, 1), -1);
        if (!strstr(err.text, bad[i].said))
            fail_msg("said %s\nexpected %s", err.text, bad[i].said);
    }
}

static void a_layout_tells_policies_apart(void **state)
{
    static const char text[] = HEAD "options = { n = { default = 5 } } }";
    struct way_option o = { (char *)"n", WAY_OPTION_NUMBER, NULL, 6 };
    (void)state;
    load(text);
    uint64_t first = way_policy_plan(policy)->layout.hash;
    assert_int_not_equal(first, 0);
    load(text);
    assert_true(way_policy_plan(policy)->layout.hash == first);
    assert_int_equal(load_with(text, &o, 1), 0);
    assert_true(way_policy_plan(policy)->layout.hash != first);
    o.number = 5;
    assert_int_equal(load_with(text, &o, 1), 0);
    assert_true(way_policy_plan(policy)->layout.hash == first);
}

static void files_beside_the_policy_can_be_required(void **state)
{
    struct way_mark m;
    (void)state;
    put_file("beside.lua", "return { seconds = 9 }");
    put_file("self.lua", "return require 'self'");
    put_file("bad.lua", "\nreturn +");
    load("local b = require 'beside'\n" HEAD
         "mark = function() return { state = 'failing', seconds = b.seconds } end }");
    mark_well(&m);
    assert_true(m.seconds == 9);
    uint64_t before = way_policy_plan(policy)->layout.hash;
    put_file("beside.lua", "return { seconds = 8 }");
    load("local b = require 'beside'\n" HEAD
         "mark = function() return { state = 'failing', seconds = b.seconds } end }");
    assert_true(way_policy_plan(policy)->layout.hash != before);
    assert_int_equal(load_with("return require 'self'", NULL, 0), -1);
    assert_non_null(strstr(err.text, "'self' requires itself"));
    assert_int_equal(load_with("return require 'bad'", NULL, 0), -1);
    assert_non_null(strstr(err.text, "bad.lua:2: unexpected symbol"));
    load_function("mark", "require 'beside'");
    assert_int_equal(mark(&m), WAY_ASKED_FAILED);
    assert_non_null(
        strstr(way_policy_failure(policy)->text, "only while the policy is loaded"));
}

static void files_are_read_with_care(void **state)
{
    struct way_policy_text t;
    char path[192];
    (void)state;
    snprintf(path, sizeof path, "%s/missing.lua", folder);
    assert_int_equal(way_policy_read(&t, path, NULL, 0, NULL, &err), -1);
    assert_non_null(strstr(err.text, "missing.lua: No such file or directory"));
    put_file("bad.lua", "\x1bLJ\x02");
    snprintf(path, sizeof path, "%s/bad.lua", folder);
    assert_int_equal(way_policy_read(&t, path, NULL, 0, NULL, &err), -1);
    assert_non_null(strstr(err.text, "bytecode"));
    assert_int_equal(way_policy_read(&t, folder, NULL, 0, NULL, &err), -1);
    for (const char *name = "default"; name;
         name = strcmp(name, "none") ? "none" : NULL) {
        assert_int_equal(way_policy_read(&t, name, NULL, 0, NULL, &err), 0);
        way_policy_free(policy);
        assert_int_equal(way_policy_load(&policy, &t, &err), 0);
        assert_string_equal(way_policy_plan(policy)->name, name);
        way_policy_text_fini(&t);
    }
    assert_int_equal(mark(&(struct way_mark){ .given = false }), WAY_ASKED_ABSENT);
    assert_false(way_policy_plan(policy)->has_mark);
}

static void absent_questions_are_the_defaults(void **state)
{
    struct way_mark m;
    (void)state;
    load(HEAD "}");
    const struct way_plan *plan = way_policy_plan(policy);
    assert_true(plan->has_mark && plan->has_backoff && plan->has_probe);
    assert_false(plan->has_reconnect || plan->has_classify);
    assert_int_equal(plan->pick, WAY_PICK_MASTER);
    mark_well(&m);
    assert_int_equal(m.state, WAY_STATE_FAILING);
    assert_non_null(strstr(way_policy_where(policy), "policies/default.lua:"));
}

/* ---- classes ---- */

static void every_phase(void (*each)(struct way_event *e))
{
    static const char *const messages[] = {
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "READONLY You can't write against a read only replica.",
        "ERR READONLY x",
        "MOVED 1 a:1",
        "ASK 1 a:1",
        "TRYAGAIN Multiple keys",
        "CLUSTERDOWN Hash slot not served",
        "NOREPLICAS Not enough good replicas",
        "BUSY Redis is busy running a script",
        "BUSYGROUP Consumer Group name already exists",
        "BUSYKEY Target key name already exists",
        "WRONGPASS invalid username",
        "NOAUTH Authentication required.",
        "NOPERM no permissions",
        "ERR max number of clients reached",
        "WRONGTYPE Operation",
        "ERR unknown command",
        "",
        "ASKED",
        "LOADINGX y",
    };
    for (unsigned i = 0; i < WAY_ERROR_COUNT * WAY_PHASE_COUNT * WAY_STEP_COUNT * 2 * 2;
         i++) {
        struct way_event e = { .deadline_left = -1 };
        unsigned n = i;
        e.error = n % WAY_ERROR_COUNT;
        n /= WAY_ERROR_COUNT;
        e.phase = n % WAY_PHASE_COUNT;
        n /= WAY_PHASE_COUNT;
        e.step = n % WAY_STEP_COUNT;
        n /= WAY_STEP_COUNT;
        e.reused = n % 2;
        e.replies_read = n / 2;
        each(&e);
    }
    for (unsigned i = 0; i < way_count(messages); i++) {
        struct way_event e = { .error = WAY_ERROR_REPLY, .deadline_left = -1 };
        snprintf(e.message, sizeof e.message, "%s", messages[i]);
        snprintf(e.reply, sizeof e.reply, "%.*s", (int)strcspn(messages[i], " "),
                 messages[i]);
        each(&e);
    }
}

static void classified_alike(struct way_event *e)
{
    struct way_event by_host = *e;
    way_event_classify_default(&by_host);
    way_policy_classify(policy, e);
    if (e->class != by_host.class || e->blame != by_host.blame ||
        e->permanent != by_host.permanent)
        fail_msg("%s %s %s reused %d replies %u '%s': the default says %s (blames %s, "
                 "permanent "
                 "%d), the host %s (%s, %d)",
                 way_error_name(e->error), way_phase_name(e->phase),
                 way_step_name(e->step), e->reused, e->replies_read, e->message,
                 way_policy_class_name(policy, e->class), way_blame_name(e->blame),
                 e->permanent, way_class_name(by_host.class),
                 way_blame_name(by_host.blame), by_host.permanent);
}

static void the_defaults_rows_are_the_hosts(void **state)
{
    (void)state;
    load(HEAD "}");
    every_phase(classified_alike);
}

static void rows_match_top_down(void **state)
{
    (void)state;
    load("local wayside = require 'wayside'\nreturn { name = 't', classes = {\n"
         "{ phase = 'read', reused = false, error = { 'reset', 'eof' }, class = 'fresh', "
         "blame = 'node' },\n"
         "{ { { error = 'reply', message = { 'foo', 'bar' }, class = 'ignore' } } },\n"
         "{ error = 'reply', reply = 'BAZ', temporary = false, class = 'slow' },\n"
         "{ errno = { 111, 113 }, class = 'fresh' },\n"
         "{ trial = true, class = 'mine', blame = 'config' },\n"
         "wayside.default.classes } }");
    struct {
        struct way_event e;
        const char *class, *blame;
        bool permanent;
    } cases[] = {
        { { .error = WAY_ERROR_RESET, .phase = WAY_PHASE_READ }, "fresh", "node", false },
        { { .error = WAY_ERROR_RESET, .phase = WAY_PHASE_READ, .reused = true },
          "stale_connection",
          "connection",
          false },
        { { .error = WAY_ERROR_REPLY, .message = "ERR a bar b" },
          "ignore",
          "none",
          false },
        { { .error = WAY_ERROR_REPLY, .reply = "BAZ", .message = "BAZ" },
          "slow",
          "node",
          true },
        { { .error = WAY_ERROR_REPLY, .reply = "BAZZ", .message = "BAZZ" },
          "answer",
          "none",
          true },
        { { .error = WAY_ERROR_REFUSED, .errnum = 113 }, "fresh", "node", false },
        { { .error = WAY_ERROR_REFUSED, .errnum = 112 }, "down", "node", false },
        { { .error = WAY_ERROR_REFUSED, .trial = true }, "mine", "config", true },
        { { .error = WAY_ERROR_NONE, .trial = true }, "ok", "none", false },
    };
    for (unsigned i = 0; i < way_count(cases); i++) {
        struct way_event *e = &cases[i].e;
        way_policy_classify(policy, e);
        assert_string_equal(way_policy_class_name(policy, e->class), cases[i].class);
        assert_string_equal(way_blame_name(e->blame), cases[i].blame);
        assert_int_equal(e->permanent, cases[i].permanent);
    }
    assert_int_equal(way_policy_calls(policy), 0);
}

static void classify_gets_self_and_event(void **state)
{
    struct way_event e = { .error = WAY_ERROR_RESET, .phase = WAY_PHASE_CONNECT };
    (void)state;
    load(HEAD "options = { o = { default = 'reset' } },\n"
              "classes = { { error = 'eof', class = 'odd', blame = 'host' } },\n"
              "classify = function(self, event) if event.error == self.options.o then "
              "return 'odd' end\n"
              "if event.error == 'dns' then return 'ood' end\n"
              "if event.error == 'tls' then return 5 end end }");
    assert_int_equal(way_policy_classify(policy, &e), WAY_ASKED_ANSWERED);
    assert_string_equal(way_policy_class_name(policy, e.class), "odd");
    assert_int_equal(e.blame, WAY_BLAME_HOST);
    e.error = WAY_ERROR_EOF;
    assert_int_equal(way_policy_classify(policy, &e), WAY_ASKED_ANSWERED);
    assert_string_equal(way_policy_class_name(policy, e.class), "odd");
    e.error = WAY_ERROR_REFUSED; /* nil: the host's own rules */
    assert_int_equal(way_policy_classify(policy, &e), WAY_ASKED_ANSWERED);
    assert_int_equal(e.class, WAY_CLASS_DOWN);
    e.error = WAY_ERROR_DNS;
    assert_int_equal(way_policy_classify(policy, &e), WAY_ASKED_FAILED);
    assert_int_equal(e.class, WAY_CLASS_DOWN);
    assert_non_null(
        strstr(way_policy_failure(policy)->text, "has no 'ood', did you mean 'odd'?"));
    e.error = WAY_ERROR_TLS;
    assert_int_equal(way_policy_classify(policy, &e), WAY_ASKED_FAILED);
    assert_string_equal(way_policy_failure(policy)->cause, "answer");
}

/* ---- answers ---- */

static void reads_a_whole_mark(void **state)
{
    struct way_mark m;
    (void)state;
    load_function(
        "mark",
        "return { state = 'probing', seconds = 2.5, trials = 3, weight = 0.5, ramp = 4, "
        "shed = 0.25, connections = 'drop', refresh = true, reason = 'a \"b' }");
    mark_well(&m);
    assert_true(m.given);
    assert_int_equal(m.has, 0x1ff);
    assert_int_equal(m.state, WAY_STATE_PROBING);
    assert_true(m.seconds == 2.5 && m.trials == 3 && m.weight == 0.5 && m.ramp == 4);
    assert_true(m.shed == 0.25 && m.refresh && m.connections == WAY_CONNECTIONS_DROP);
    assert_string_equal(m.reason, "a__b");
    load_function("mark", "return nil");
    mark_well(&m);
    assert_false(m.given);
    load_function("mark", "return {}");
    mark_well(&m);
    assert_true(m.given && m.has == 0);
}

static void reads_a_whole_backoff(void **state)
{
    struct way_retry r;
    (void)state;
    load_function("backoff", "return { retry = 'hold', after = 0.5, within = 2 - "
                             "event.age, stale_reads = true, "
                             "unknown_writes = true }");
    assert_int_equal(way_policy_backoff(policy, &node, &event, 1, &memory, &r),
                     WAY_ASKED_ANSWERED);
    assert_true(r.kind == WAY_RETRY_HOLD && r.after == 0.5 && r.within == 2);
    assert_true(r.stale_reads && r.unknown_writes);
    event.age = 2; /* its time is over */
    assert_int_equal(way_policy_backoff(policy, &node, &event, 1, &memory, &r),
                     WAY_ASKED_ANSWERED);
    assert_int_equal(r.kind, WAY_RETRY_NONE);
    load_function("backoff", "return { retry = 'hold' }");
    assert_int_equal(way_policy_backoff(policy, &node, &event, 1, &memory, &r),
                     WAY_ASKED_ANSWERED);
    assert_true(r.kind == WAY_RETRY_HOLD && r.within < 0);
    load_function("backoff", "return nil");
    assert_int_equal(way_policy_backoff(policy, &node, &event, 1, &memory, &r),
                     WAY_ASKED_ANSWERED);
    assert_int_equal(r.kind, WAY_RETRY_NONE);
}

static void reads_a_whole_probe(void **state)
{
    struct way_probe p;
    struct way_redial d;
    (void)state;
    load_function(
        "probe",
        "return { after = 1, timeout = 0.5, connection = 'pooled', command = { 'INFO', "
        "'replication' } }");
    assert_int_equal(way_policy_probe(policy, &node, &event, 1, &memory, &p),
                     WAY_ASKED_ANSWERED);
    assert_true(p.given && p.after == 1 && p.timeout == 0.5 && p.pooled && p.words == 2);
    assert_memory_equal(p.command, "INFO\0replication\0", 17);
    load_function("probe", "return { command = 'data' }");
    assert_int_equal(way_policy_probe(policy, &node, &event, 1, &memory, &p),
                     WAY_ASKED_ANSWERED);
    assert_true(p.given && p.words == 0 && !p.pooled && p.timeout == 0);
    load_function("reconnect", "return { after = 1.5, timeout = 20 }");
    assert_int_equal(way_policy_reconnect(policy, &node, &event, 1, &memory, &d),
                     WAY_ASKED_ANSWERED);
    assert_true(d.given && d.after == 1.5 && d.timeout == 20);
}

static enum way_asked ask_any(const char *function)
{
    union {
        struct way_mark m;
        struct way_retry r;
        struct way_probe p;
        struct way_redial d;
    } out;
    switch (function[0]) {
    case 'm': return way_policy_mark(policy, &node, &event, 1, &memory, &out.m);
    case 'b': return way_policy_backoff(policy, &node, &event, 1, &memory, &out.r);
    case 'p': return way_policy_probe(policy, &node, &event, 1, &memory, &out.p);
    default: return way_policy_reconnect(policy, &node, &event, 1, &memory, &out.d);
    }
}

static void refuses_bad_answers(void **state)
{
    static const struct {
        const char *function, *answer, *said;
    } cases[] = {
        { "mark", "5", "mark: the answer: expected a table or nil, got 5" },
        { "mark", "'failing'",
          "mark: the answer: expected a table or nil, got 'failing'" },
        { "mark", "false", "mark: the answer: expected a table or nil, got false" },
        { "mark", "{ 5 }", "mark: the answer has no 'number'" },
        { "mark", "{ sate = 'failing' }",
          "mark: the answer has no 'sate', did you mean 'state'?" },
        { "mark", "{ state = 'fialing' }",
          "mark: state: expected healthy, suspect, failing, probing or draining, got "
          "'fialing'" },
        { "mark", "{ state = 5 }", "mark: state: expected healthy" },
        { "mark", "{ state = 'failing', seconds = 0/0 }",
          "mark: seconds: expected a number from 0 to 1e+09, got " },
        { "mark", "{ state = 'failing', seconds = 1/0 }",
          "mark: seconds: expected a number" },
        { "mark", "{ state = 'failing', seconds = -1 }", "got -1" },
        { "mark", "{ state = 'failing', seconds = '5' }",
          "mark: seconds: expected a number from 0 to 1e+09, got '5'" },
        { "mark", "{ seconds = 5 }",
          "mark: seconds: expected nothing but with a state, got 5" },
        { "mark", "{ state = 'probing', trials = 1.5 }",
          "mark: trials: expected a whole number, got 1.5" },
        { "mark", "{ state = 'probing', trials = 0 }",
          "mark: trials: expected a number from 1" },
        { "mark", "{ state = 'failing', trials = 2 }",
          "mark: trials: expected nothing but with state" },
        { "mark", "{ weight = 1.1 }",
          "mark: weight: expected a number from 0 to 1, got 1.1" },
        { "mark", "{ weight = 0/0 }", "mark: weight: expected" },
        { "mark", "{ ramp = -1 }", "mark: ramp: expected" },
        { "mark", "{ shed = 2 }", "mark: shed: expected" },
        { "mark", "{ connections = 'close' }",
          "mark: connections: expected keep, drain or drop, got 'close'" },
        { "mark", "{ refresh = 1 }", "mark: refresh: expected true or false, got 1" },
        { "mark", "{ reason = ('x'):rep(32) }",
          "mark: reason: expected a word of 1 to 31 bytes" },
        { "mark", "{ reason = '' }", "mark: reason: expected" },
        { "mark", "{ state = node }", "mark: state: expected healthy" },
        { "mark", "node", "mark: the answer: expected a table or nil, got a userdata" },
        { "backoff", "{}",
          "backoff: retry: expected other, same, master or hold, got a nil" },
        { "backoff", "{ retry = 'none' }",
          "backoff: retry: expected other, same, master or hold, got 'none'" },
        { "backoff", "{ retry = true }", "backoff: retry: expected" },
        { "backoff", "{ retry = 'other', after = -1 }",
          "backoff: after: expected a number from 0 to 3600" },
        { "backoff", "{ retry = 'other', within = 1 }",
          "backoff: within: expected nothing but with retry" },
        { "backoff", "{ retry = 'hold', within = 0/0 }", "backoff: within: expected" },
        { "backoff", "{ retry = 'hold', stale_reads = 'yes' }",
          "backoff: stale_reads: expected true or false" },
        { "backoff", "{ retry = 'hold', unknown_write = true }",
          "did you mean 'unknown_writes'?" },
        { "probe", "{ after = 1/0 }", "probe: after: expected" },
        { "probe", "{ timeout = 0 }",
          "probe: timeout: expected a number from 0.001 to 3600" },
        { "probe", "{ command = {} }", "probe: command: expected 'data' or a list" },
        { "probe", "{ command = 'PING' }", "probe: command: expected 'data' or a list" },
        { "probe", "{ command = { 'GET', ('x'):rep(252) } }",
          "probe: command: expected" },
        { "probe", "{ command = { 'GET', 5 } }", "probe: command: expected" },
        { "probe", "{ command = { 'GET', 'a\\0b' } }", "probe: command: expected" },
        { "probe", "{ connection = 'old' }",
          "probe: connection: expected new or pooled, got 'old'" },
        { "reconnect", "{ timeout = 1e9 }", "reconnect: timeout: expected" },
        { "reconnect", "{ every = 1 }", "reconnect: the answer has no 'every'" },
    };
    char body[256];
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++) {
        snprintf(body, sizeof body, "node.memory.a = 9 local x = %s return x",
                 cases[i].answer);
        load_function(cases[i].function, body);
        if (ask_any(cases[i].function) != WAY_ASKED_FAILED)
            fail_msg("%s: %s was taken", cases[i].function, cases[i].answer);
        const struct way_policy_failure *f = way_policy_failure(policy);
        if (!strstr(f->text, cases[i].said))
            fail_msg("%s: %s\n  said     %s\n  expected %s", cases[i].function,
                     cases[i].answer, f->text, cases[i].said);
        assert_string_equal(f->cause, "answer");
        assert_string_equal(f->function, cases[i].function);
        assert_non_null(strstr(f->text, "t.lua:4: "));
        assert_true(memory.node[0] == 1);
    }
    load_function("probe", "return { command = { 'GET', ('x'):rep(251) } }");
    assert_int_equal(ask_any("probe"), WAY_ASKED_ANSWERED);
}

/* ---- what a script sees ---- */

static void node_and_event_are_read_only_and_spelt_right(void **state)
{
    static const char *const cases[][2] = {
        { "event.now = 5", "t.lua:4: event is read-only: can't set 'now'" },
        { "node.state = 'failing'", "t.lua:4: node is read-only: can't set 'state'" },
        { "self.options = 5", "t.lua:4: self is read-only: can't set 'options'" },
        { "self.options.x = 5", "t.lua:4: self.options is read-only: can't set 'x'" },
        { "node.shard.nodes = 5", "t.lua:4: shard is read-only" },
        { "local x = event.eror", "t.lua:4: event has no 'eror', did you mean 'error'?" },
        { "local x = node.stat", "t.lua:4: node has no 'stat', did you mean 'state'?" },
        { "local x = event[1]", "event has no" },
        { "local x = node.shard.fialing",
          "shard has no 'fialing', did you mean 'failing'?" },
        { "local x = self.option", "self has no 'option', did you mean 'options'?" },
        { "local x = self.options.x", "self.options has no 'x'" },
        { "local x = node.counters.x", "node.counters has no 'x'" },
        { "node.counters.x = 1", "counters are read-only: can't set 'x'" },
        { "node.memory.c = 1", "memory 'c' is not declared in the policy's memory" },
        { "local x = self.cluster.memory.a", "cluster.memory 'a' is not declared" },
        { "node.memory.a = 0/0", "memory 'a': expected a finite number, got " },
        { "node.memory.a = 1/0", "memory 'a': expected a finite number, got inf" },
        { "node.memory.a = {}", "memory 'a': expected a finite number, got table" },
        { "node.memory.a = '5'", "memory 'a': expected a finite number, got string" },
        { "node.memory.a = nil", "memory 'a': expected a finite number, got nil" },
    };
    struct way_mark m;
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++) {
        load_function("mark", cases[i][0]);
        if (mark(&m) != WAY_ASKED_FAILED)
            fail_msg("%s: did not fail", cases[i][0]);
        if (!strstr(way_policy_failure(policy)->text, cases[i][1]))
            fail_msg("%s\n  said     %s\n  expected %s", cases[i][0],
                     way_policy_failure(policy)->text, cases[i][1]);
        assert_string_equal(way_policy_failure(policy)->cause, "error");
    }
}

static void everything_can_be_read(void **state)
{
    static const char body[] =
        "local function is(what, got, wanted) if got ~= wanted then error(what .. ': ' "
        ".. tostring(got), 2) end end\n"
        "is('id', node.id, 'abc') is('address', node.address, '10.0.0.1:7000') "
        "is('role', node.role, 'replica')\n"
        "is('zone', node.zone, nil) is('state', node.state, 'suspect') is('since', "
        "node.since, 90)\n"
        "is('ends', node.ends, nil) is('reason', node.reason, 'slow') is('weight', "
        "node.weight, 1)\n"
        "is('inflight', node.inflight, 12) is('latency', node.latency, nil) "
        "is('failures', node.failures, 1)\n"
        "is('link', node.replication.link_up, true) is('behind', "
        "node.replication.behind, 77)\n"
        "is('nodes', node.shard.nodes, 2) is('failing', node.shard.failing, 1) "
        "is('shard.inflight', node.shard.inflight, 20)\n"
        "is('cluster', self.cluster.nodes, 6) is('probing', self.cluster.probing, 2) "
        "is('retrying', self.cluster.retrying, 4)\n"
        "is('kind', event.kind, 'connection') is('phase', event.phase, 'connect') "
        "is('step', event.step, 'dial')\n"
        "is('error', event.error, 'refused') is('errno', event.errno, 111) is('message', "
        "event.message, nil)\n"
        "is('reply', event.reply, nil) is('class', event.class, 'down') is('blame', "
        "event.blame, 'node') is('n', event.n, 3)\n"
        "is('reused', event.reused, false) is('certainty', event.certainty, 'unsent') "
        "is('commands', event.commands, nil)\n"
        "is('left', event.deadline_left, nil) is('now', event.now, 100) is('unix', "
        "event.unix, 1000.25)\n"
        "is('attempt', event.attempt, 1) is('answer', event.answer, nil) is('change', "
        "event.change, nil)\n"
        "is('written', event.bytes_written, 5) is('replies', event.replies_read, 6) "
        "is('trial', event.trial, true)\n"
        "is('name', self.name, 't') is('version', self.version, '') is('counter', "
        "event.counter, nil)\n"
        "is('latency', event.latency, 0.5) is('late', event.late, 0) is('age', "
        "event.age, 2) is('waited', event.waited, 1)\n"
        "is('connection_age', event.connection_age, 9) is('began', event.began, 98)";
    struct way_mark m;
    (void)state;
    snprintf(node.id, sizeof node.id, "abc");
    node.role = WAY_ROLE_REPLICA;
    node.verdict.state = WAY_STATE_SUSPECT;
    node.verdict.since = 90;
    snprintf(node.verdict.reason, sizeof node.verdict.reason, "slow");
    node.inflight = 12;
    node.has_replication = node.link_up = true;
    node.behind = 77;
    node.of_shard = (struct way_counts){ .nodes = 2,
                                         .inflight = 20,
                                         .state = { [WAY_STATE_FAILING] = 1 } };
    node.of_cluster = (struct way_counts){ .nodes = 6,
                                           .retrying = 4,
                                           .state = { [WAY_STATE_PROBING] = 2 } };
    event.errnum = 111;
    event.has_certainty = event.trial = true;
    event.bytes_written = 5;
    event.replies_read = 6;
    event.latency = 0.5;
    event.age = 2;
    event.waited = 1;
    event.connection_age = 9;
    event.began = 98;
    load_function("mark", body);
    mark_well(&m);
}

static void a_probes_answer_is_decoded(void **state)
{
    static const char text[] =
        "# Replication\r\nrole:master\r\nrepl_offset:1234\r\nversion:7.0.15\r\n"
        "run_id:00e1\r\nx:-1\r\n";
    char info[256];
    int info_n = snprintf(info, sizeof info, "$%zu\r\n%s\r\n", sizeof text - 1, text);
    static const struct {
        const char *raw, *check;
    } cases[] = {
        { "+PONG\r\n", "event.answer == 'PONG'" },
        { ":-5\r\n", "event.answer == -5" },
        { "$-1\r\n", "event.answer == nil" },
        { "_\r\n", "event.answer == nil" },
        { "$0\r\n\r\n", "event.answer == ''" },
        { "*3\r\n:1\r\n$-1\r\n*1\r\n+a\r\n",
          "event.answer[2] == false and event.answer[3][1] == 'a'" },
        { "%1\r\n+k\r\n#t\r\n", "event.answer.k == true" },
        { ",1.5\r\n", "event.answer == 1.5" },
        { "=5\r\ntxt:x\r\n", "event.answer == 'x'" },
        { "-LOADING x\r\n", "event.answer == 'LOADING x'" },
        { "*1000000\r\n:1\r\n", "event.answer == nil" },
        { "$100\r\nshort\r\n", "event.answer == nil" },
        { "$5", "event.answer == nil" },
        { "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
          "event.answer == nil" },
    };
    struct way_mark m;
    char body[256];
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++) {
        snprintf(body, sizeof body, "assert(%s, tostring(event.answer))", cases[i].check);
        load_function("mark", body);
        event.answer = (struct way_span){ cases[i].raw, strlen(cases[i].raw) };
        mark_well(&m);
    }
    load("local wayside = require 'wayside'\nreturn { name = 't', mark = function(self, "
         "node, event)\n"
         "local i = wayside.info(event.answer)\n"
         "assert(i.role == 'master' and i.repl_offset == 1234 and i.version == '7.0.15' "
         "and i.run_id == '00e1' and i.x == -1)\n"
         "assert(wayside.info(nil) == nil) end }");
    event.answer = (struct way_span){ info, (size_t)info_n };
    mark_well(&m);
}

static void memory_goes_out_with_the_answer_only(void **state)
{
    struct way_mark m;
    (void)state;
    load_function("mark",
                  "node.memory.a = node.memory.a + 1 node.shard.memory.out = 3 "
                  "self.cluster.memory.open = 4 if event.n == 3 then error('x') end");
    const struct way_layout *l = &way_policy_plan(policy)->layout;
    assert_int_equal(l->node, 3); /* one of them the default's */
    assert_int_equal(l->shard, 1);
    assert_int_equal(l->cluster, 1);
    assert_true(memory.node[0] == 1 && memory.node[1] == 2 && memory.cluster[0] == 5);
    assert_int_equal(mark(&m), WAY_ASKED_FAILED);
    assert_true(memory.node[0] == 1 && memory.shard[0] == 0 && memory.cluster[0] == 5);
    event.n = 1;
    mark_well(&m);
    assert_true(memory.node[0] == 2 && memory.shard[0] == 3 && memory.cluster[0] == 4);
}

static void the_default_has_names_of_its_own(void **state)
{
    struct way_mark m;
    struct way_retry r;
    (void)state;
    load("local wayside = require 'wayside'\n"
         "return { name = 't', memory = { node = { strikes = 40 } }, options = { hold = "
         "{ default = 9 } },\n"
         "mark = function(self, node, event)\n"
         "  local answer = wayside.default.mark(self, node, event)\n"
         "  node.memory.strikes = node.memory.strikes + 1\n"
         "  assert(self.options.hold == 9)\n"
         "  return answer end,\n"
         "backoff = wayside.compose(function() end, wayside.default.backoff) }");
    mark_well(&m);
    assert_int_equal(m.state, WAY_STATE_FAILING);
    assert_true(memory.node[0] == 41 && memory.node[1] == 1);
    event.kind = WAY_KIND_COMMANDS;
    event.error = WAY_ERROR_NO_NODE;
    event.class = WAY_CLASS_LOCAL;
    event.has_certainty = true;
    assert_int_equal(way_policy_backoff(policy, &node, &event, 1, &memory, &r),
                     WAY_ASKED_ANSWERED);
    assert_true(r.kind == WAY_RETRY_HOLD && r.within == 9);
}

static void handles_die_with_the_call(void **state)
{
    struct way_mark m;
    (void)state;
    load("local kept, memory, cluster\n" HEAD "memory = { node = { a = 0 } },\n"
         "mark = function(self, node, event)\n"
         "if event.n == 1 then kept, memory, cluster = node, node.memory, self.cluster\n"
         "elseif event.n == 2 then return { reason = kept.state }\n"
         "elseif event.n == 3 then memory.a = 5\n"
         "elseif event.n == 4 then return { weight = cluster.nodes } end end }");
    event.n = 1;
    mark_well(&m);
    static const char *const said[] = { "node is of an earlier call",
                                        "memory is of an earlier call",
                                        "cluster is of an earlier call" };
    for (unsigned i = 0; i < 3; i++) {
        event.n = i + 2;
        assert_int_equal(mark(&m), WAY_ASKED_FAILED);
        assert_non_null(strstr(way_policy_failure(policy)->text, said[i]));
    }
}

static void the_same_seed_draws_the_same_numbers(void **state)
{
    struct way_mark a, b, c;
    (void)state;
    load("local wayside = require 'wayside'\nreturn { name = 't', mark = function()\n"
         "return { weight = wayside.random(), shed = wayside.random() } end }");
    way_policy_mark(policy, &node, &event, 7, &memory, &a);
    way_policy_mark(policy, &node, &event, 7, &memory, &b);
    way_policy_mark(policy, &node, &event, 8, &memory, &c);
    assert_true(a.weight == b.weight && a.shed == b.shed && a.weight != a.shed);
    assert_true(a.weight != c.weight);
}

static void waits_grow_as_declared(void **state)
{
    static const char text[] =
        "local wayside = require 'wayside'\n"
        "local plain = wayside.backoff { base = 1, factor = 1.6, cap = 120 }\n"
        "local full = wayside.backoff { base = 5, cap = 2000, jitter = 'full' }\n"
        "local equal = wayside.backoff { base = 5, cap = 2000, jitter = 'equal' }\n"
        "local walk = wayside.backoff { base = 5, cap = 2000, jitter = 'decorrelated' }\n"
        "local share = wayside.backoff { base = 1, factor = 1.6, cap = 120, jitter = 0.2 "
        "}\n"
        "local function near(a, b) assert(math.abs(a - b) < 1e-3, a .. ' is not ' .. b) "
        "end\n"
        "local function within(a, low, high) assert(low <= a and a <= high, a .. ' not "
        "in ' .. low .. '..' .. high) end\n"
        "return { name = 't', mark = function()\n"
        "near(plain(1), 1) near(plain(2), 1.6) near(plain(5), 6.5536) near(plain(10), "
        "68.719) near(plain(12), 120)\n"
        "near(plain(1000), 120) near(plain(0), 1)\n"
        "within(full(4), 0, 40) within(equal(4), 20, 40) within(walk(9, 5), 5, 15) "
        "within(walk(9, 1e9), 5, 2000)\n"
        "within(share(50), 96, 144) within(walk(1), 5, 5) end }";
    struct way_mark m;
    (void)state;
    load(text);
    for (unsigned seed = 1; seed < 50; seed++)
        if (way_policy_mark(policy, &node, &event, seed, &memory, &m) !=
            WAY_ASKED_ANSWERED)
            fail_msg("%s", way_policy_failure(policy)->text);
}

/* ---- containment ---- */

static void failures_have_a_cause_and_a_place(void **state)
{
    static const struct {
        const char *body, *cause;
    } cases[] = {
        { "while true do end", "budget" },
        { "local t = {} while true do t[#t + 1] = { 1 } end", "memory" },
        { "local function f() return 1 + f() end return f()", "memory" },
        { "local x = nil; return x.y", "error" },
        { "error('no')", "error" },
        { "error({})", "error" },
        { "return 5", "answer" },
    };
    static const char *const functions[] = { "mark", "backoff", "probe", "reconnect" };
    (void)state;
    for (unsigned f = 0; f < way_count(functions); f++) {
        for (unsigned i = 0; i < way_count(cases); i++) {
            load_function(functions[f], cases[i].body);
            uint64_t before = way_policy_calls(policy);
            for (int again = 0; again < 5; again++) {
                assert_int_equal(ask_any(functions[f]), WAY_ASKED_FAILED);
                const struct way_policy_failure *failure = way_policy_failure(policy);
                if (strcmp(failure->cause, cases[i].cause) != 0 &&
                    strcmp(failure->cause, "deadline") != 0)
                    fail_msg("%s: %s: %s", cases[i].body, failure->cause, failure->text);
                assert_string_equal(failure->function, functions[f]);
                assert_non_null(strstr(failure->text, "t.lua:4"));
                assert_null(strpbrk(failure->text, "\n\""));
            }
            assert_int_equal(way_policy_calls(policy) - before, 5);
        }
    }
}

static void a_state_too_small_is_refused(void **state)
{
    struct way_policy_text t = { .path = (char *)"t.lua",
                                 .text = (char *)HEAD "}",
                                 .memory = 50000 };
    (void)state;
    t.n = strlen(t.text);
    way_policy_free(policy);
    policy = NULL;
    assert_int_equal(way_policy_load(&policy, &t, &err), -1);
    assert_non_null(strstr(err.text, "memory"));
}

static void the_cap_hit_while_the_event_is_built_is_contained(void **state)
{
    struct way_mark m;
    unsigned failed = 0;
    (void)state;
    /* Long messages are interned for each call; the state is filled up to the brim before. */
    load("local hoard = {}\n" HEAD "mark = function(self, node, event)\n"
         "if event.n == 9 then for i = 1, 3000 do hoard[i] = ('x'):rep(1000) .. i end "
         "return end\n"
         "return { reason = event.message and 'm' or 'n' } end }");
    event.n = 9;
    for (int i = 0; i < 20; i++)
        failed += mark(&m) == WAY_ASKED_FAILED;
    event.n = 1;
    for (int i = 0; i < 2000; i++) {
        snprintf(event.message, sizeof event.message, "%0120d", i);
        failed += mark(&m) == WAY_ASKED_FAILED;
    }
    assert_true(failed < 2021); /* what counts is that we are still here */
}

/* ---- the fallback ---- */

static void the_fallback_marks_on_hard_evidence(void **state)
{
    struct way_mark m;
    struct way_retry r;
    struct way_probe p;
    (void)state;
    way_fallback_mark(&node, &event, &m);
    assert_true(m.given && m.state == WAY_STATE_FAILING && m.seconds == 5);
    assert_string_equal(m.reason, "refused");
    event.phase = WAY_PHASE_READ;
    event.step = WAY_STEP_REPLY;
    event.error = WAY_ERROR_TIMEOUT; /* a byte came: soft */
    way_fallback_mark(&node, &event, &m);
    assert_false(m.given);
    node.verdict.state = WAY_STATE_FAILING;
    way_fallback_probe(&node, &event, &p);
    assert_true(p.given && p.after == 1 && p.words == 0);
    event = (struct way_event){ .kind = WAY_KIND_PROBE };
    way_fallback_mark(&node, &event, &m);
    assert_true(m.given && m.state == WAY_STATE_HEALTHY);
    node.verdict.state = WAY_STATE_HEALTHY;
    way_fallback_probe(&node, &event, &p);
    assert_false(p.given);
    struct {
        enum way_commands commands;
        enum way_certainty certainty;
        unsigned attempt;
        enum way_retry_kind kind;
    } cases[] = {
        { WAY_COMMANDS_READS, WAY_CERTAINTY_UNKNOWN, 1, WAY_RETRY_OTHER },
        { WAY_COMMANDS_READS, WAY_CERTAINTY_UNKNOWN, 2, WAY_RETRY_NONE },
        { WAY_COMMANDS_WRITES, WAY_CERTAINTY_UNSENT, 1, WAY_RETRY_OTHER },
        { WAY_COMMANDS_WRITES, WAY_CERTAINTY_UNKNOWN, 1, WAY_RETRY_NONE },
        { WAY_COMMANDS_TRANSACTION, WAY_CERTAINTY_UNKNOWN, 1, WAY_RETRY_NONE },
    };
    for (unsigned i = 0; i < way_count(cases); i++) {
        event = (struct way_event){ .kind = WAY_KIND_COMMANDS,
                                    .error = WAY_ERROR_RESET,
                                    .commands = cases[i].commands,
                                    .certainty = cases[i].certainty,
                                    .has_certainty = true,
                                    .attempt = cases[i].attempt };
        way_fallback_backoff(&node, &event, &r);
        assert_int_equal(r.kind, cases[i].kind);
        assert_false(r.unknown_writes);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(says_what_is_wrong_with_a_table),
        TEST(says_what_is_wrong_with_a_counter),
        TEST(counters_are_read_and_touched),
        TEST(options_take_their_defaults_type),
        TEST(a_layout_tells_policies_apart),
        TEST(files_beside_the_policy_can_be_required),
        TEST(files_are_read_with_care),
        TEST(absent_questions_are_the_defaults),
        TEST(the_defaults_rows_are_the_hosts),
        TEST(rows_match_top_down),
        TEST(classify_gets_self_and_event),
        TEST(reads_a_whole_mark),
        TEST(reads_a_whole_backoff),
        TEST(reads_a_whole_probe),
        TEST(refuses_bad_answers),
        TEST(node_and_event_are_read_only_and_spelt_right),
        TEST(everything_can_be_read),
        TEST(a_probes_answer_is_decoded),
        TEST(memory_goes_out_with_the_answer_only),
        TEST(the_default_has_names_of_its_own),
        TEST(handles_die_with_the_call),
        TEST(the_same_seed_draws_the_same_numbers),
        TEST(waits_grow_as_declared),
        TEST(failures_have_a_cause_and_a_place),
        TEST(a_state_too_small_is_refused),
        TEST(the_cap_hit_while_the_event_is_built_is_contained),
        TEST(the_fallback_marks_on_hard_evidence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
