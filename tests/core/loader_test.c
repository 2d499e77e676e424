/* loader: a policy is made ready off the threads that serve, whole and proved, or refused with
 * the reason; what was read is what every state is made of. */
#include "loader.h"

#include "health_kit.h"

#include <sys/stat.h>
#include <unistd.h>

struct bed {
    struct way_loop loop;
    struct way_health *health;
    struct way_limits limits;
    struct way_load *load;
    struct way_loaded *loaded;
    struct way_err err;
    unsigned told;
    char dir[64], path[96];
};

#define POLICY(body)                                                                     \
    "local wayside = require 'wayside'\n"                                                \
    "return wayside.policy { name = 'test', version = '1', " body " }\n"

static void must(int rc, const struct way_err *err)
{
    if (rc < 0)
        fail_msg("%s", err->text);
}

static void put(struct bed *b, const char *name, const char *text)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", b->dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int begin(void **state)
{
    struct bed *b = way_zalloc(sizeof *b);
    struct way_health_options o = { .guard = true, .failing_share = 1 };
    o.layout = (struct way_layout){ .hash = 7, .node = 1 };
    must(way_loop_init(&b->loop, &b->err), &b->err);
    b->health = kit_open(&o);
    struct way_topology *t = kit_topology(1);
    kit_node(t, "a", 7000, NULL, 1);
    kit_slots(t, 0, 0, WAY_SLOTS - 1);
    kit_publish(b->health, t, 1);
    kit_topology_free(t);
    way_limits_default(&b->limits);
    snprintf(b->dir, sizeof b->dir, "/tmp/wayside-loader-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    snprintf(b->path, sizeof b->path, "%s/p.lua", b->dir);
    *state = b;
    return 0;
}

static int end(void **state)
{
    struct bed *b = *state;
    char path[160];
    way_load_free(b->load);
    way_loaded_free(b->loaded);
    way_health_close(b->health);
    way_loop_fini(&b->loop);
    unlink(b->path);
    snprintf(path, sizeof path, "%s/beside.lua", b->dir);
    unlink(path);
    assert_int_equal(rmdir(b->dir), 0);
    way_free(b);
    return 0;
}

static void on_done(void *arg, struct way_loaded *l, const struct way_err *err)
{
    struct bed *b = arg;
    b->told++;
    b->loaded = l;
    if (!l)
        b->err = *err;
    way_load_free(b->load);
    b->load = NULL;
    way_loop_stop(&b->loop);
}

static int wish(void *arg, struct way_load_wish *w, struct way_err *err)
{
    struct bed *b = arg;
    (void)err;
    way_load_wish_set(w, b->path, NULL, 0, &b->limits);
    return 0;
}

static struct way_load_order order(struct bed *b)
{
    return (struct way_load_order){
        .loop = &b->loop, .states = 3, .prepare = wish, .done = on_done, .arg = b
    };
}

static void run(struct bed *b, const struct way_load_order *o)
{
    way_loaded_free(b->loaded);
    b->loaded = NULL;
    b->err.text[0] = 0;
    must(way_load_begin(&b->load, o, &b->err), &b->err);
    way_loop_run(&b->loop);
}

static void refused(struct bed *b, const struct way_load_order *o, const char *policy,
                    const char *why)
{
    put(b, "p.lua", policy);
    run(b, o);
    assert_null(b->loaded);
    if (!strstr(b->err.text, why))
        fail_msg("refused with \"%s\", expected \"%s\"", b->err.text, why);
}

static void states_are_made_of_what_was_read(void **state)
{
    struct bed *b = *state;
    struct way_load_order o = order(b);
    struct way_policy *another;
    put(b, "beside.lua", "return { n = 1 }");
    put(b, "p.lua",
        "local n = require('beside').n\n" POLICY("memory = { node = { n = n } }"));
    run(b, &o);
    if (!b->loaded)
        fail_msg("%s", b->err.text);
    assert_int_equal(b->told, 1);
    put(b, "beside.lua", "return { n = 2 }"); /* the files change: nobody is concerned */
    unlink(b->path);
    must(way_policy_load(&another, b->loaded->text, &b->err), &b->err);
    const struct way_layout *l = &way_policy_plan(another)->layout;
    assert_true(l->first.node[0] == 1);
    for (unsigned i = 0; i < 3; i++)
        assert_true(way_policy_plan(b->loaded->policy[i])->layout.hash == l->hash);
    way_policy_free(another);
}

static void a_packed_text_is_the_same_policy(void **state)
{
    struct bed *b = *state;
    struct way_load_order o = order(b);
    struct way_buf bytes = { 0 };
    struct way_policy *p;
    put(b, "beside.lua", "return { n = 1 }");
    put(b, "p.lua",
        "local n = require('beside').n\n" POLICY("memory = { node = { n = n } }"));
    run(b, &o);
    way_policy_pack(b->loaded->text, &bytes);
    for (size_t n = 0; n < bytes.len;
         n++) { /* cut anywhere it is refused, and nothing worse */
        struct way_policy_text t;
        struct way_span part = { bytes.p, n };
        assert_int_equal(way_policy_unpack(&t, part, &b->limits, &b->err), -1);
    }
    struct way_policy_text *t = way_zalloc(sizeof *t);
    must(way_policy_unpack(t, (struct way_span){ bytes.p, bytes.len }, &b->limits,
                           &b->err),
         &b->err);
    must(way_policy_load(&p, t, &b->err), &b->err);
    assert_true(way_policy_plan(p)->layout.hash ==
                way_policy_plan(b->loaded->policy[0])->layout.hash);
    way_policy_free(p);
    way_policy_text_fini(t);
    way_free(t);
    way_buf_fini(&bytes);
}

static void a_broken_script_is_refused_with_the_reason(void **state)
{
    struct bed *b = *state;
    struct way_load_order o = order(b);
    refused(b, &o, "return {", "p.lua:1:");
    refused(b, &o, "error('no such luck')", "p.lua:1: no such luck");
    refused(b, &o, "while true do end", "p.lua");
    refused(b, &o, POLICY("marc = 1"), "marc: no such field, did you mean 'mark'?");
    refused(b, &o, "require 'nowhere'", "nowhere.lua");
    unlink(b->path);
    run(b, &o);
    assert_non_null(strstr(b->err.text, "No such file"));
}

static void a_selftest_that_raises_refuses(void **state)
{
    struct bed *b = *state;
    struct way_load_order o = order(b);
    o.health = b->health;
    refused(b, &o, POLICY("selftest = function(test) error('not today') end"),
            "p.lua:2: not today");
    refused(b, &o,
            POLICY("selftest = function(test)\n"
                   "local node = test:node {}\n"
                   "test:fail(node, { error = 'refused' })\n"
                   "assert(node.state == 'healthy', 'it is ' .. node.state)\n"
                   "end"),
            "it is failing");
    refused(b, &o, POLICY("selftest = function(test) while true do end end"), "selftest");
    refused(b, &o, POLICY("selftest = function(test) test:node { shard = 3 } end"),
            "selftest");
    put(b, "p.lua",
        POLICY("selftest = function(test)\n"
               "local node = test:node {}\n"
               "test:fail(node, { error = 'refused' })\n"
               "assert(node.state == 'failing')\n"
               "end"));
    run(b, &o);
    if (!b->loaded)
        fail_msg("%s", b->err.text);
}

static struct way_entry entry(enum way_asked_function fn)
{
    struct way_entry e = { .function = (uint8_t)fn, .seq = 1 };
    e.event = (struct way_event){ .kind = WAY_KIND_CONNECTION,
                                  .phase = WAY_PHASE_CONNECT,
                                  .step = WAY_STEP_DIAL,
                                  .error = WAY_ERROR_REFUSED,
                                  .attempt = 1,
                                  .now = 10,
                                  .deadline_left = -1 };
    return e;
}

static void one_that_fails_on_the_journal_is_refused(void **state)
{
    struct bed *b = *state;
    struct way_load_order o = order(b);
    struct way_entry entries[2] = { entry(WAY_FN_MARK), entry(WAY_FN_BACKOFF) };
    entries[1].event.kind = WAY_KIND_COMMANDS;
    o.health = b->health;
    o.entry = entries;
    o.entries = 2;
    refused(b, &o,
            POLICY("mark = function(self, node, event) return { state = 'ill' } end"),
            "an event of the journal: mark: answer");
    refused(b, &o, POLICY("backoff = function(self, node, event) local x = nil + 1 end"),
            "an event of the journal: backoff: error");
    o.entries = 1; /* without the other it passes */
    put(b, "p.lua",
        POLICY("backoff = function(self, node, event) local x = nil + 1 end"));
    run(b, &o);
    if (!b->loaded)
        fail_msg("%s", b->err.text);
}

static void one_that_fails_at_a_sweep_over_the_nodes_is_refused(void **state)
{
    struct bed *b = *state;
    struct way_load_order o = order(b);
    o.health = b->health;
    refused(
        b, &o,
        POLICY("every = 3600, tick = function(_, nodes) "
               "if nodes[1].address == '127.0.0.1:7000' then local x = nil + 1 end end"),
        "p.lua:2");
    assert_non_null(
        strstr(b->err.text, "a sweep over the nodes as they are: tick: error"));
    refused(b, &o,
            POLICY("every = 3600, tick = function(_, nodes) "
                   "return { { node = nodes[1], weight = 2 } } end"),
            "weight");
    put(b, "p.lua",
        POLICY("every = 3600, tick = function(_, nodes) "
               "return { { node = nodes[1], weight = 0.5 } } end"));
    run(b, &o);
    assert_non_null(b->loaded);
}

static void one_that_is_given_up_tells_nobody(void **state)
{
    struct bed *b = *state;
    struct way_load_order o = order(b);
    put(b, "p.lua", POLICY(""));
    must(way_load_begin(&b->load, &o, &b->err), &b->err);
    way_load_free(b->load);
    b->load = NULL;
    assert_int_equal(b->told, 0);
}

static void memory_goes_by_its_names(void **state)
{
    struct bed *b = *state;
    struct way_load_order o = order(b);
    struct way_policy *from, *to;
    struct way_memory before = { .node = { 0 } }, after = { .node = { 0 } };
    put(b, "p.lua", POLICY("memory = { node = { a = 1, b = 2 } }"));
    run(b, &o);
    from = way_loaded_take(b->loaded, 0);
    before.node[0] = 10;
    before.node[1] = 20;
    before.node[2] = 30; /* the default's */
    put(b, "p.lua",
        POLICY("memory = { node = { b = 3, c = 4, d = 5 } },\n"
               "migrate = function(memory, version, scope)\n"
               "if scope == 'node' then return { d = memory.a * version } end\n"
               "end"));
    run(b, &o);
    to = way_loaded_take(b->loaded, 0);
    must(way_policy_migrate(to, from, WAY_SCOPE_NODE, &before, &after, &b->err), &b->err);
    assert_true(after.node[0] == 20 && after.node[1] == 4 && after.node[2] == 10);
    assert_true(after.node[3] == 30);
    way_policy_free(to);
    put(b, "p.lua", POLICY("migrate = function() return { nothing = 1 } end"));
    run(b, &o);
    to = way_loaded_take(b->loaded, 0);
    assert_int_equal(
        way_policy_migrate(to, from, WAY_SCOPE_NODE, &before, &after, &b->err), -1);
    assert_non_null(strstr(b->err.text, "memory.node declares no 'nothing'"));
    way_policy_free(to);
    way_policy_free(from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(states_are_made_of_what_was_read, begin, end),
        cmocka_unit_test_setup_teardown(a_packed_text_is_the_same_policy, begin, end),
        cmocka_unit_test_setup_teardown(a_broken_script_is_refused_with_the_reason, begin,
                                        end),
        cmocka_unit_test_setup_teardown(a_selftest_that_raises_refuses, begin, end),
        cmocka_unit_test_setup_teardown(one_that_fails_on_the_journal_is_refused, begin,
                                        end),
        cmocka_unit_test_setup_teardown(
            one_that_fails_at_a_sweep_over_the_nodes_is_refused, begin, end),
        cmocka_unit_test_setup_teardown(one_that_is_given_up_tells_nobody, begin, end),
        cmocka_unit_test_setup_teardown(memory_goes_by_its_names, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
