/* candidate: a policy that is tried is loaded beside those that serve, begins with what is
 * remembered under its names, and leaves the shadow when it is put in charge. */
#include "candidate.h"

#include "health_kit.h"

#include <sys/stat.h>
#include <unistd.h>

struct bed {
    struct way_loop loop;
    struct way_health *health;
    struct way_limits limits;
    struct way_policy_text text;
    struct way_shadows *shadows;
    struct way_decider *decider;
    struct way_stats stats;
    struct way_ring *ring;
    struct way_candidate *candidate;
    struct way_err err;
    bool fine;
    unsigned told;
    char path[64];
};

#define POLICY(body)                                                                     \
    "local wayside = require 'wayside'\n"                                                \
    "return wayside.policy { name = 'test', version = '1', " body " }\n"

#define CHARGE                                                                           \
    POLICY("memory = { node = { a = 1, b = 2 }, shard = { c = 3 }, cluster = { d = 4 "   \
           "} }, mark = function(self, node) node.memory.a = 11 node.memory.b = 12 "     \
           "node.shard.memory.c = 13 self.cluster.memory.d = 14 return { reason = "      \
           "'x' } end")
/* Says what it remembers. */
#define SAYS                                                                             \
    "mark = function(self, node) local m = node.memory return { reason = m.b .. '_' .. " \
    "(node.shard.memory.c or '') .. '_' .. self.cluster.memory.d } end"

static void must(int rc, const struct way_err *err)
{
    if (rc < 0)
        fail_msg("%s", err->text);
}

static void write_policy(struct bed *b, const char *text)
{
    FILE *f = fopen(b->path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int begin(void **state)
{
    struct bed *b = way_zalloc(sizeof *b);
    struct way_policy *p;
    way_limits_default(&b->limits);
    must(way_loop_init(&b->loop, &b->err), &b->err);
    must(way_policy_read(&b->text, "none", NULL, 0, &b->limits, &b->err), &b->err);
    way_free(b->text.path);
    b->text.path = way_strdup("charge.lua");
    b->text.text = way_strdup(CHARGE);
    b->text.n = strlen(CHARGE);
    must(way_policy_load(&p, &b->text, &b->err), &b->err);
    struct way_health_options o = { .layout = way_policy_plan(p)->layout };
    way_policy_free(p);
    b->health = kit_open(&o);
    struct way_topology *t = kit_topology(1);
    kit_node(t, "a", 7000, NULL, 1);
    kit_slots(t, 0, 0, WAY_SLOTS - 1);
    kit_publish(b->health, t, 1);
    kit_topology_free(t);
    b->ring = way_ring_new(64);
    b->shadows = way_shadows_new(
        &(struct way_shadows_options){ .health = b->health, .threads = 1 });
    struct way_decider_options d = { .health = b->health,
                                     .text = &b->text,
                                     .limits = &b->limits,
                                     .stats = &b->stats,
                                     .ring = b->ring,
                                     .shadows = b->shadows };
    must(way_decider_new(&b->decider, &d, &b->err), &b->err);
    b->candidate =
        way_candidate_new(&(struct way_candidate_options){ .loop = &b->loop,
                                                           .health = b->health,
                                                           .shadows = b->shadows,
                                                           .decider = b->decider,
                                                           .threads = 1 });
    snprintf(b->path, sizeof b->path, "/tmp/wayside-candidate-%d.lua", (int)getpid());
    *state = b;
    return 0;
}

static int end(void **state)
{
    struct bed *b = *state;
    way_candidate_free(b->candidate);
    way_decider_free(b->decider);
    way_shadows_free(b->shadows);
    way_ring_free(b->ring);
    way_health_close(b->health);
    way_loop_fini(&b->loop);
    way_policy_text_fini(&b->text);
    unlink(b->path);
    way_free(b);
    return 0;
}

static void on_done(void *arg, const struct way_err *err)
{
    struct bed *b = arg;
    b->told++;
    b->fine = !err;
    if (err)
        b->err = *err;
    way_loop_stop(&b->loop);
}

static void load(struct bed *b)
{
    unsigned told = b->told;
    must(way_candidate_begin(b->candidate, b->path, NULL, 0, &b->limits, on_done, b,
                             &b->err),
         &b->err);
    assert_string_equal(way_candidate_loading(b->candidate), b->path);
    way_loop_run(&b->loop);
    assert_int_equal(b->told, told + 1);
    assert_null(way_candidate_loading(b->candidate));
}

static void try_it(struct bed *b, const char *policy)
{
    write_policy(b, policy);
    load(b);
    if (!b->fine)
        fail_msg("%s", b->err.text);
    assert_non_null(way_shadows_get(b->shadows, WAY_SHADOW_CANDIDATE));
}

static void decide(struct bed *b)
{
    struct way_decision d;
    struct way_event e = { .kind = WAY_KIND_CONNECTION,
                           .phase = WAY_PHASE_CONNECT,
                           .step = WAY_STEP_DIAL,
                           .error = WAY_ERROR_REFUSED,
                           .n = 1,
                           .began = 100,
                           .now = 100,
                           .deadline_left = -1 };
    way_decide(b->decider, 0, &e, &d);
}

static const char *said(struct bed *b)
{
    const struct way_entry *charge, *own;
    struct way_shadow *s = way_shadows_get(b->shadows, WAY_SHADOW_CANDIDATE);
    decide(b);
    way_shadows_tend(b->shadows, way_decider_shadows(b->decider), 100, 1);
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    return own->mark.reason;
}

static void what_is_remembered_under_its_names_it_begins_with(void **state)
{
    struct bed *b = *state;
    decide(b); /* a = 11, b = 12, c = 13, d = 14 */
    try_it(b,
           POLICY("memory = { node = { b = 0, other = 5 }, shard = { c = 0 }, cluster = "
                  "{ d = 0 } }, " SAYS));
    assert_string_equal(said(b), "12_13_14");
}

static void with_the_same_names_it_follows(void **state)
{
    struct bed *b = *state;
    try_it(b,
           POLICY("memory = { node = { a = 1, b = 2 }, shard = { c = 3 }, cluster = { d "
                  "= 4 } }, " SAYS));
    assert_string_equal(said(b), "2_3_4"); /* before the one in charge had answered */
    assert_string_equal(said(b), "2_3_4"); /* its own since, as it set nothing */
}

static void names_in_other_places_are_not_the_same(void **state)
{
    struct bed *b = *state;
    struct way_policy *p, *q;
    const struct way_policy *charge = way_decider_policy(b->decider);
    struct way_policy_text t;
    assert_true(way_policy_same_memory(charge, charge));
    static const char *const others[] = {
        POLICY("memory = { node = { a = 1 }, shard = { c = 3 }, cluster = { d = 4 } "
               "}, " SAYS),
        POLICY("memory = { node = { a = 1, z = 2 }, shard = { c = 3 }, cluster = { d = 4 "
               "} }, " SAYS),
        POLICY("memory = { node = { a = 1, b = 2 }, shard = { c = 3 } }, " SAYS),
    };
    for (unsigned i = 0; i < way_count(others); i++) {
        write_policy(b, others[i]);
        must(way_policy_read(&t, b->path, NULL, 0, &b->limits, &b->err), &b->err);
        must(way_policy_load(&p, &t, &b->err), &b->err);
        must(way_policy_load(&q, &t, &b->err), &b->err);
        assert_false(way_policy_same_memory(p, charge));
        assert_false(way_policy_same_memory(charge, p));
        assert_true(way_policy_same_memory(p, q));
        way_policy_free(p);
        way_policy_free(q);
        way_policy_text_fini(&t);
    }
}

static void one_that_is_no_policy_is_refused_and_the_one_before_stays(void **state)
{
    struct bed *b = *state;
    try_it(b, POLICY("mark = function() end"));
    struct way_shadow *s = way_shadows_get(b->shadows, WAY_SHADOW_CANDIDATE);
    write_policy(b, POLICY("mrak = 1"));
    load(b);
    assert_false(b->fine);
    assert_non_null(strstr(b->err.text, "mrak"));
    assert_ptr_equal(way_shadows_get(b->shadows, WAY_SHADOW_CANDIDATE), s);
    assert_true(way_candidate_end(b->candidate));
    assert_false(way_candidate_end(b->candidate));
}

static void only_one_is_loaded_at_a_time(void **state)
{
    struct bed *b = *state;
    struct way_err err;
    write_policy(b, POLICY("mark = function() end"));
    must(way_candidate_begin(b->candidate, b->path, NULL, 0, &b->limits, on_done, b,
                             &b->err),
         &b->err);
    assert_int_equal(way_candidate_begin(b->candidate, "default", NULL, 0, &b->limits,
                                         on_done, b, &err),
                     -1);
    assert_non_null(strstr(err.text, b->path));
    way_loop_run(&b->loop);
    assert_true(b->fine);
}

static void one_that_is_taken_off_while_it_loads_does_not_come(void **state)
{
    struct bed *b = *state;
    write_policy(b, POLICY("mark = function() end"));
    must(way_candidate_begin(b->candidate, b->path, NULL, 0, &b->limits, on_done, b,
                             &b->err),
         &b->err);
    assert_true(way_candidate_end(b->candidate));
    assert_null(way_candidate_loading(b->candidate));
    way_loop_run(&b->loop);
    assert_false(b->fine);
    assert_non_null(strstr(b->err.text, "taken off"));
    assert_null(way_shadows_get(b->shadows, WAY_SHADOW_CANDIDATE));
}

/* A load on its way when all ends is waited for. */
static void nothing_is_left_behind_by_an_end_in_between(void **state)
{
    struct bed *b = *state;
    write_policy(b, POLICY("mark = function() end"));
    must(way_candidate_begin(b->candidate, b->path, NULL, 0, &b->limits, on_done, b,
                             &b->err),
         &b->err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_remembered_under_its_names_it_begins_with,
                                        begin, end),
        cmocka_unit_test_setup_teardown(with_the_same_names_it_follows, begin, end),
        cmocka_unit_test_setup_teardown(names_in_other_places_are_not_the_same, begin,
                                        end),
        cmocka_unit_test_setup_teardown(
            one_that_is_no_policy_is_refused_and_the_one_before_stays, begin, end),
        cmocka_unit_test_setup_teardown(only_one_is_loaded_at_a_time, begin, end),
        cmocka_unit_test_setup_teardown(
            one_that_is_taken_off_while_it_loads_does_not_come, begin, end),
        cmocka_unit_test_setup_teardown(nothing_is_left_behind_by_an_end_in_between,
                                        begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
