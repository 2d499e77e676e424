/* Counters in the node table: each policy's in its own area, taken over where the next policy
 * declares them alike, and nothing of them left for a node that is another. */
#include "health_kit.h"

struct bed {
    struct way_health *h;
    struct way_counters_layout l;
    uint64_t epoch;
    unsigned a, b;
    double now;
};

static void add(struct way_counters_layout *l, enum way_counter_scope scope,
                const char *name, enum way_counter_kind kind, unsigned size)
{
    struct way_counter c;
    struct way_err err;
    memset(&c, 0, sizeof c);
    snprintf(c.name, sizeof c.name, "%s", name);
    c.kind = (uint8_t)kind;
    c.size = size;
    c.seconds = 10;
    if (way_counters_add(l, scope, &c, &err) < 0)
        fail_msg("%s", err.text);
}

static void begin(struct bed *b)
{
    struct way_health_options o = { .layout = { .hash = 7 }, .failing_share = 1 };
    struct way_topology *t = kit_cluster(1);
    memset(b, 0, sizeof *b);
    b->now = 1000;
    b->h = kit_open(&o);
    kit_publish(b->h, t, b->now);
    kit_topology_free(t);
    b->a = kit_find(b->h, "a");
    b->b = kit_find(b->h, "b");
    b->epoch = atomic_load(way_health_policy_epoch(b->h));
    add(&b->l, WAY_COUNTERS_NODE, "row", WAY_COUNTER_CONSECUTIVE, 0);
    add(&b->l, WAY_COUNTERS_NODE, "ring", WAY_COUNTER_RING, 100);
    add(&b->l, WAY_COUNTERS_SHARD, "window", WAY_COUNTER_WINDOW, 2);
    add(&b->l, WAY_COUNTERS_CLUSTER, "window", WAY_COUNTER_WINDOW, 2);
}

static void end(struct bed *b)
{
    way_health_check(b->h);
    way_health_close(b->h);
}

static void fails(struct bed *b, unsigned node, unsigned n)
{
    struct way_report r = { .now = b->now,
                            .failure = true,
                            .failed = n,
                            .class = WAY_CLASS_DOWN,
                            .blame = WAY_BLAME_NODE };
    way_health_count(b->h, node, &b->l, b->epoch, &r);
}

static double value(struct bed *b, unsigned node, const struct way_counters_layout *l,
                    enum way_counter_scope scope, unsigned index)
{
    struct way_snapshot s;
    way_health_snapshot(b->h, node, b->now, &s);
    way_health_counted(b->h, l, &s);
    const struct way_counted *c = &s.view.counted[scope][index];
    return l->counter[scope][index].kind == WAY_COUNTER_CONSECUTIVE ? c->value
                                                                    : c->failed;
}

static void each_scope_adds_up_what_is_its_own(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    unsigned a0 = kit_find(b.h, "a0");
    fails(&b, b.a, 3);
    fails(&b, a0, 4);
    fails(&b, b.b, 5);
    assert_int_equal(value(&b, b.a, &b.l, WAY_COUNTERS_NODE, 0), 3);
    assert_int_equal(value(&b, a0, &b.l, WAY_COUNTERS_NODE, 1), 4);
    assert_int_equal(value(&b, a0, &b.l, WAY_COUNTERS_SHARD, 0), 7);
    assert_int_equal(value(&b, b.b, &b.l, WAY_COUNTERS_SHARD, 0), 5);
    assert_int_equal(value(&b, b.b, &b.l, WAY_COUNTERS_CLUSTER, 0), 12);
    end(&b);
}

static int keep(void *arg, enum way_memory_scope scope, const struct way_memory *before,
                struct way_memory *after, struct way_err *err)
{
    (void)arg, (void)scope, (void)before, (void)after, (void)err;
    return 0;
}

/* The ring stays, in another place; the row has another edge now, so it begins anew. */
static void the_next_policy_takes_over_what_it_declares_alike(void **state)
{
    (void)state;
    struct bed b;
    struct way_err err;
    begin(&b);
    fails(&b, b.a, 3);
    struct way_counters_layout next = { .all = 0 };
    add(&next, WAY_COUNTERS_NODE, "another", WAY_COUNTER_SAMPLES, 9);
    add(&next, WAY_COUNTERS_NODE, "ring", WAY_COUNTER_RING, 100);
    add(&next, WAY_COUNTERS_NODE, "row", WAY_COUNTER_CONSECUTIVE, 0);
    next.counter[WAY_COUNTERS_NODE][2].slower = 5;
    add(&next, WAY_COUNTERS_CLUSTER, "window", WAY_COUNTER_WINDOW, 2);
    struct way_layout layout = { .hash = 8 };
    struct way_takeover t = { .from = b.epoch,
                              .layout = &layout,
                              .counters = &next,
                              .counters_before = &b.l,
                              .convert = keep };
    uint64_t epoch, old = b.epoch;
    if (way_health_take_over(b.h, &t, &epoch, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(value(&b, b.a, &next, WAY_COUNTERS_NODE, 1), 3);
    assert_int_equal(value(&b, b.a, &next, WAY_COUNTERS_NODE, 2), 0);
    assert_int_equal(value(&b, b.a, &next, WAY_COUNTERS_CLUSTER, 0), 3);

    fails(&b, b.a, 100); /* by who has not heard of it: not counted, here or there */
    assert_int_equal(value(&b, b.a, &next, WAY_COUNTERS_NODE, 1), 3);
    b.epoch = epoch;
    struct way_counters_layout first = b.l;
    b.l = next;
    fails(&b, b.a, 2);
    assert_int_equal(value(&b, b.a, &next, WAY_COUNTERS_NODE, 1), 5);
    assert_int_equal(value(&b, b.a, &next, WAY_COUNTERS_NODE, 2), 2);

    if (way_health_go_back(b.h, epoch, NULL, NULL, NULL, &epoch, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(epoch, old + 2);
    assert_int_equal(value(&b, b.a, &first, WAY_COUNTERS_NODE, 0), 3);
    assert_int_equal(value(&b, b.a, &first, WAY_COUNTERS_NODE, 1), 3);
    end(&b);
}

/* Reset and the commit that has it are one: refused, nothing is reset. */
static void touches_are_done_with_the_commit_or_not_at_all(void **state)
{
    (void)state;
    struct bed b;
    struct way_snapshot s;
    struct way_outcome out;
    begin(&b);
    fails(&b, b.a, 3);
    way_health_snapshot(b.h, b.a, b.now, &s);
    struct way_proposal p = { .memory = s.view.memory,
                              .counters = &b.l,
                              .touches = { .count = 1 } };
    kit_commit(b.h, b.a, b.now, kit_mark(WAY_STATE_SUSPECT, 0));
    assert_int_equal(way_health_commit(b.h, &s, &p, false, &out), WAY_COMMIT_CONFLICT);
    assert_int_equal(value(&b, b.a, &b.l, WAY_COUNTERS_NODE, 0), 3);
    way_health_snapshot(b.h, b.a, b.now, &s);
    assert_int_equal(way_health_commit(b.h, &s, &p, false, &out), WAY_COMMIT_DONE);
    assert_int_equal(value(&b, b.a, &b.l, WAY_COUNTERS_NODE, 0), 0);
    assert_int_equal(value(&b, b.a, &b.l, WAY_COUNTERS_NODE, 1), 3);
    end(&b);
}

/* Its record goes to another node: of that one nothing was counted. */
static void a_node_that_comes_in_anothers_place_begins_with_nothing(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    fails(&b, b.a, 3);
    struct way_topology *t = kit_cluster(1);
    snprintf(t->node[0].id, sizeof t->node[0].id, "new");
    snprintf(t->node[3].master_id, sizeof t->node[3].master_id, "new");
    t->node[0].port = 7100;
    b.now += 1;
    kit_publish(b.h, t, b.now);
    kit_topology_free(t);
    unsigned node = kit_find(b.h, "new");
    assert_true(node != WAY_NONE);
    assert_int_equal(value(&b, node, &b.l, WAY_COUNTERS_NODE, 0), 0);
    assert_int_equal(value(&b, node, &b.l, WAY_COUNTERS_NODE, 1), 0);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_scope_adds_up_what_is_its_own),
        cmocka_unit_test(the_next_policy_takes_over_what_it_declares_alike),
        cmocka_unit_test(touches_are_done_with_the_commit_or_not_at_all),
        cmocka_unit_test(a_node_that_comes_in_anothers_place_begins_with_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
