/* shadow_store: what a policy that is not in charge would have made of the nodes. It follows
 * the table until it differs, and nothing that it holds is ever routed by. */
#include "shadow_store.h"

#include "health_kit.h"

enum { A, B, A0, NODES };

struct bed {
    struct way_health *health;
    struct way_shadow_store *store;
    struct way_layout layout;
    unsigned node[NODES];
    double now;
};

static void publish(struct bed *b, bool with_replica)
{
    static const char *const ids[] = { "a", "b", "a0" };
    struct way_topology *t = kit_topology(NODES);
    kit_node(t, "a", 7000, NULL, 1);
    kit_node(t, "b", 7001, NULL, 2);
    if (with_replica)
        kit_node(t, "a0", 7002, "a", 1);
    kit_slots(t, 0, 0, 8191);
    kit_slots(t, 1, 8192, WAY_SLOTS - 1);
    kit_publish(b->health, t, b->now);
    kit_topology_free(t);
    for (unsigned i = 0; i < (with_replica ? NODES : A0); i++)
        b->node[i] = kit_find(b->health, ids[i]);
}

static void begin(struct bed *b, bool same_memory)
{
    memset(b, 0, sizeof *b);
    b->now = 1000;
    b->layout = (struct way_layout){ .hash = 7, .node = 2, .shard = 1, .cluster = 1 };
    b->layout.first.node[0] = 5;
    b->layout.first.cluster[0] = 6;
    struct way_health_options o = { .layout = b->layout,
                                    .guard = true,
                                    .failing_share = 0.5 };
    b->health = kit_open(&o);
    publish(b, true);
    b->store = way_shadow_store_new(&(struct way_shadow_store_options){
        .health = b->health, .layout = &b->layout, .same_memory = same_memory });
}

static void end(struct bed *b)
{
    way_shadow_store_free(b->store);
    way_health_check(b->health);
    way_health_close(b->health);
}

static struct way_snapshot seen(struct bed *b, unsigned node)
{
    struct way_snapshot s;
    way_health_snapshot(b->health, b->node[node], b->now, &s);
    return s;
}

static void look(struct bed *b, const struct way_snapshot *s, struct way_shadow_look *l)
{
    assert_int_equal(way_shadow_store_look(b->store, s, l), 0);
}

/* A verdict of the shadow's own on the node. */
static enum way_commit mark(struct bed *b, const struct way_snapshot *s,
                            const struct way_shadow_look *l, enum way_state state,
                            double ends)
{
    struct way_shadow_change c = { .verdict_own = true,
                                   .verdict = l->view->verdict,
                                   .memory = &l->view->memory,
                                   .table = &s->view.memory };
    c.verdict.state = (uint8_t)state;
    c.verdict.since = b->now;
    c.verdict.ends = ends;
    c.verdict.hard = state == WAY_STATE_FAILING;
    return way_shadow_store_commit(b->store, l, &c);
}

static void mark_now(struct bed *b, unsigned node, enum way_state state, double ends)
{
    struct way_snapshot s = seen(b, node);
    struct way_shadow_look l;
    look(b, &s, &l);
    assert_int_equal(mark(b, &s, &l, state, ends), WAY_COMMIT_DONE);
}

/* Memory that the shadow leaves; `table`: what the policy in charge left. */
static void remember(struct bed *b, unsigned node, const struct way_memory *m,
                     const struct way_memory *table)
{
    struct way_snapshot s = seen(b, node);
    struct way_shadow_look l;
    look(b, &s, &l);
    struct way_shadow_change c = { .memory = m, .table = table };
    assert_int_equal(way_shadow_store_commit(b->store, &l, &c), WAY_COMMIT_DONE);
}

static void what_does_not_differ_is_the_tables(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, true);
    struct way_snapshot s = seen(&b, A);
    struct way_shadow_look l;
    struct way_verdict v;
    look(&b, &s, &l);
    assert_ptr_equal(l.view, &s.view);
    struct way_shadow_change c = { .memory = &l.view->memory, .table = &s.view.memory };
    assert_int_equal(way_shadow_store_commit(b.store, &l, &c), WAY_COMMIT_DONE);
    assert_false(way_shadow_store_verdict(b.store, b.node[A], &v));
    look(&b, &s, &l);
    assert_ptr_equal(l.view, &s.view);
    end(&b);
}

static void a_verdict_of_its_own_is_seen_by_it_and_by_nobody_else(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, true);
    mark_now(&b, A, WAY_STATE_FAILING, b.now + 5);
    struct way_snapshot s = seen(&b, A);
    struct way_shadow_look l;
    assert_int_equal(s.view.verdict.state, WAY_STATE_HEALTHY);
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_HEALTHY);
    look(&b, &s, &l);
    assert_true(l.own_verdict);
    assert_int_equal(l.view->verdict.state, WAY_STATE_FAILING);
    assert_int_equal(l.view->of_cluster.state[WAY_STATE_FAILING], 1);
    assert_int_equal(l.view->of_cluster.state[WAY_STATE_HEALTHY], NODES - 1);
    assert_int_equal(l.view->of_shard.state[WAY_STATE_FAILING], 1);
    s = seen(&b, B); /* another shard: counted in the cluster alone */
    look(&b, &s, &l);
    assert_false(l.own_verdict);
    assert_int_equal(l.view->verdict.state, WAY_STATE_HEALTHY);
    assert_int_equal(l.view->of_cluster.state[WAY_STATE_FAILING], 1);
    assert_int_equal(l.view->of_shard.state[WAY_STATE_FAILING], 0);
    end(&b);
}

static void who_saw_an_older_record_must_look_again(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, true);
    struct way_snapshot s = seen(&b, A);
    struct way_shadow_look first, second, idle;
    look(&b, &s, &first);
    look(&b, &s, &second);
    look(&b, &s, &idle);
    assert_int_equal(mark(&b, &s, &first, WAY_STATE_FAILING, 0), WAY_COMMIT_DONE);
    assert_int_equal(mark(&b, &s, &second, WAY_STATE_SUSPECT, 0), WAY_COMMIT_CONFLICT);
    /* and who has nothing to change: it saw the table's state */
    struct way_shadow_change c = { .memory = &s.view.memory, .table = &s.view.memory };
    assert_int_equal(way_shadow_store_commit(b.store, &idle, &c), WAY_COMMIT_CONFLICT);
    struct way_verdict v;
    assert_true(way_shadow_store_verdict(b.store, b.node[A], &v));
    assert_int_equal(v.state, WAY_STATE_FAILING);
    end(&b);
}

static void memory_follows_until_it_differs_and_when_it_is_the_same_again(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, true);
    struct way_snapshot s = seen(&b, A);
    struct way_shadow_look l;
    struct way_memory m = s.view.memory, table = m;
    m.node[0] = table.node[0] = 8; /* both said so: nothing of its own */
    remember(&b, A, &m, &table);
    look(&b, &s, &l);
    assert_ptr_equal(l.view, &s.view);
    m.shard[0] = 9;
    remember(&b, A, &m, &table);
    look(&b, &s, &l);
    assert_float_equal(l.view->memory.shard[0], 9, 0);
    assert_float_equal(l.view->memory.node[0], s.view.memory.node[0], 0);
    s = seen(&b, B);
    look(&b, &s, &l);
    assert_float_equal(l.view->memory.shard[0], s.view.memory.shard[0], 0);
    m.shard[0] = table.shard[0];
    remember(&b, A, &m, &table);
    s = seen(&b, A);
    look(&b, &s, &l);
    assert_ptr_equal(l.view, &s.view);
    end(&b);
}

static void memory_of_another_layout_is_its_own_from_the_beginning(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, false);
    struct way_snapshot s = seen(&b, A);
    struct way_shadow_look l;
    s.view.memory.node[0] = s.view.memory.cluster[0] = 77; /* the other policy's */
    look(&b, &s, &l);
    assert_float_equal(l.view->memory.node[0], 5, 0);
    assert_float_equal(l.view->memory.cluster[0], 6, 0);
    struct way_memory m = l.view->memory;
    m.node[0] = 6;
    m.cluster[0] = 7;
    remember(&b, A, &m, &s.view.memory);
    look(&b, &s, &l);
    assert_float_equal(l.view->memory.node[0], 6, 0);
    s = seen(&b, B);
    look(&b, &s, &l);
    assert_float_equal(l.view->memory.node[0], 5, 0);
    assert_float_equal(l.view->memory.cluster[0], 7, 0);
    end(&b);
}

static void memory_may_be_given_to_begin_with(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, false);
    const double node[] = { 21, 22 }, shard[] = { 23 }, cluster[] = { 24 };
    struct way_snapshot s = seen(&b, A);
    struct way_shadow_look l;
    way_shadow_store_seed_node(b.store, b.node[A], node);
    way_shadow_store_seed_shard(b.store, s.view.shard, shard);
    way_shadow_store_seed_cluster(b.store, cluster);
    look(&b, &s, &l);
    assert_float_equal(l.view->memory.node[1], 22, 0);
    assert_float_equal(l.view->memory.shard[0], 23, 0);
    assert_float_equal(l.view->memory.cluster[0], 24, 0);
    end(&b);
}

/* Soft evidence against a0: whether the shard's others serve is asked of the shadow's own
 * states, and the table's guard is not disturbed. */
static void the_guard_holds_in_its_own_world(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, true);
    struct way_others others = way_shadow_store_others(b.store);
    struct way_proposal p = {
        .mark = { .given = true, .has = WAY_MARK_STATE, .state = WAY_STATE_FAILING }
    };
    struct way_verdict v = seen(&b, A0).view.verdict;
    struct way_outcome out;
    way_health_suppose(b.health, b.node[A0], &p, b.now, &others, &v, &out);
    assert_int_equal(v.state, WAY_STATE_FAILING);
    assert_true(out.changed);
    mark_now(&b, A, WAY_STATE_FAILING, 0); /* its master is out in the shadow's world */
    v = seen(&b, A0).view.verdict;
    way_health_suppose(b.health, b.node[A0], &p, b.now, &others, &v, &out);
    assert_int_equal(v.state, WAY_STATE_SUSPECT);
    assert_int_equal(out.refused, WAY_REFUSED_LAST_NODE);
    v = seen(&b, A0).view.verdict;
    way_health_suppose(b.health, b.node[A0], &p, b.now, NULL, &v, &out);
    assert_int_equal(v.state, WAY_STATE_FAILING);
    assert_int_equal(kit_state(b.health, b.node[A0]), WAY_STATE_HEALTHY);
    end(&b);
}

static void ends_are_found_when_they_are_due(void **state)
{
    (void)state;
    struct bed b;
    double ends = 0;
    begin(&b, true);
    assert_int_equal(way_shadow_store_due(b.store, 0, b.now, &ends), WAY_NONE);
    mark_now(&b, B, WAY_STATE_FAILING, b.now + 5);
    mark_now(&b, A, WAY_STATE_FAILING, 0); /* without end */
    assert_int_equal(way_shadow_store_due(b.store, 0, b.now + 4.9, &ends), WAY_NONE);
    assert_int_equal(way_shadow_store_due(b.store, 0, b.now + 5.5, &ends), b.node[B]);
    assert_float_equal(ends, b.now + 5, 0);
    assert_int_equal(way_shadow_store_due(b.store, b.node[B] + 1, b.now + 5.5, &ends),
                     WAY_NONE);
    end(&b);
}

static void a_verdict_follows_again_when_both_are_calm(void **state)
{
    (void)state;
    struct bed b;
    struct way_verdict v;
    begin(&b, true);
    mark_now(&b, A, WAY_STATE_FAILING, b.now + 5);
    way_shadow_store_settle(b.store, b.now);
    assert_true(way_shadow_store_verdict(b.store, b.node[A], &v));
    mark_now(&b, A, WAY_STATE_HEALTHY, 0);
    way_shadow_store_settle(b.store, b.now);
    assert_false(way_shadow_store_verdict(b.store, b.node[A], &v));
    struct way_snapshot s = seen(&b, A);
    struct way_shadow_look l;
    look(&b, &s, &l);
    assert_ptr_equal(l.view, &s.view);
    end(&b);
}

static void what_it_held_of_a_node_that_left_is_forgotten(void **state)
{
    (void)state;
    struct bed b;
    struct way_verdict v;
    begin(&b, false);
    struct way_snapshot s = seen(&b, A0);
    struct way_memory m = b.layout.first;
    m.node[0] = 31;
    remember(&b, A0, &m, &s.view.memory);
    mark_now(&b, A0, WAY_STATE_FAILING, b.now + 5);
    b.now += 1;
    publish(&b, false);
    way_shadow_store_settle(b.store, b.now);
    assert_false(way_shadow_store_verdict(b.store, b.node[A0], &v));
    struct way_shadow_look l;
    look(&b, &s, &l);
    assert_float_equal(l.view->memory.node[0], 5, 0);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_does_not_differ_is_the_tables),
        cmocka_unit_test(a_verdict_of_its_own_is_seen_by_it_and_by_nobody_else),
        cmocka_unit_test(who_saw_an_older_record_must_look_again),
        cmocka_unit_test(memory_follows_until_it_differs_and_when_it_is_the_same_again),
        cmocka_unit_test(memory_of_another_layout_is_its_own_from_the_beginning),
        cmocka_unit_test(memory_may_be_given_to_begin_with),
        cmocka_unit_test(the_guard_holds_in_its_own_world),
        cmocka_unit_test(ends_are_found_when_they_are_due),
        cmocka_unit_test(a_verdict_follows_again_when_both_are_calm),
        cmocka_unit_test(what_it_held_of_a_node_that_left_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
