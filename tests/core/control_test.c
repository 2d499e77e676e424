/* What an operator may rely on: a mark ends when its time is over, or when a probe brings
 * the node back; whatever any worker met is in the history and counted; and what another
 * process did is seen. */
#include "control.h"
#include "control_kit.h"
#include "listen.h"
#include "log.h"
#include "resolve.h"
#include "resp.h"

static void start(void **state, const char *policy)
{
    struct kit_control *k = kit_control_start(policy);
    kit_await_known(k);
    *state = k;
}

static int set_up_expires(void **state)
{
    start(state, KIT_EXPIRES);
    return 0;
}

static int set_up_probes(void **state)
{
    start(state, KIT_PROBES);
    return 0;
}

static int set_up_sweeps(void **state)
{
    start(state, "return { name = 'sweeps', every = 0.1, tick = function(self, nodes) "
                 "for _, node in ipairs(nodes) do "
                 "if node.role == 'replica' and node.state == 'healthy' then "
                 "return { { node = node, state = 'failing', reason = 'swept' } } "
                 "end end end, mark = function() end, probe = function() end }");
    return 0;
}

static int tear_down(void **state)
{
    kit_control_stop(*state);
    return 0;
}

/* Entries of mark in the history of one kind and with one place. */
static unsigned entries(struct kit_control *k, enum way_kind kind, const char *where)
{
    unsigned n = 0;
    const struct way_entry *e;
    for (unsigned i = 0;
         (e = way_history_at(way_control_history(k->control), WAY_NONE, i)); i++)
        n += e->event.kind == kind && way_entry_marks(e) &&
             (!where || !strcmp(e->where, where));
    return n;
}

static void a_mark_ends_when_its_time_is_over(void **state)
{
    struct kit_control *k = *state;
    double began = way_clock();
    kit_refused(k, KIT_MASTER);
    assert_int_equal(kit_state(k, KIT_MASTER), WAY_STATE_FAILING);
    AWAIT(&k->loop, 2, kit_state(k, KIT_MASTER) == WAY_STATE_HEALTHY);
    double took = way_clock() - began;
    if (took < 0.29 || took > 0.6)
        fail_msg("0.3 s became %.3f s", took);
    AWAIT(&k->loop, 1,
          kit_transitions(k, WAY_STATE_FAILING, WAY_STATE_HEALTHY, "expired") == 1);
    assert_int_equal(kit_transitions(k, WAY_STATE_HEALTHY, WAY_STATE_FAILING, "refused"),
                     1);
    assert_int_equal(entries(k, WAY_KIND_EXPIRY, "host"), 1);
    assert_int_equal(entries(k, WAY_KIND_EXPIRY, NULL), 2); /* mark was asked first */
}

static void a_longer_mark_moves_the_end(void **state)
{
    struct kit_control *k = *state;
    kit_refused(k, KIT_MASTER);
    kit_pass_time(&k->loop, 0.2);
    double again = way_clock();
    kit_refused(k, KIT_MASTER); /* began after the change: no straggler */
    AWAIT(&k->loop, 2, kit_state(k, KIT_MASTER) == WAY_STATE_HEALTHY);
    if (way_clock() - again < 0.29)
        fail_msg("it ended %.3f s after the second mark", way_clock() - again);
}

static void a_mark_of_another_process_ends_too(void **state)
{
    struct kit_control *k = *state;
    struct way_snapshot s;
    struct way_outcome outcome;
    way_health_snapshot(k->health, kit_index(k, KIT_REPLICA), way_clock(), &s);
    struct way_proposal p = {
        .mark = { .given = true,
                  .has = WAY_MARK_STATE | WAY_MARK_SECONDS,
                  .state = WAY_STATE_FAILING,
                  .seconds = 0.2 },
        .memory = s.view.memory,
        .hard = true,
    };
    assert_int_equal(way_health_commit(k->health, &s, &p, false, &outcome),
                     WAY_COMMIT_DONE);
    assert_int_equal(kit_state(k, KIT_REPLICA), WAY_STATE_FAILING);
    AWAIT(&k->loop, 2, kit_state(k, KIT_REPLICA) == WAY_STATE_HEALTHY);
    AWAIT(&k->loop, 1, entries(k, WAY_KIND_EXPIRY, "host") == 1);
}

static void errors_are_counted_by_node_phase_and_error(void **state)
{
    struct kit_control *k = *state;
    kit_refused(k, KIT_MASTER);
    kit_refused(k, KIT_REPLICA);
    kit_refused(k, KIT_REPLICA);
    AWAIT(&k->loop, 1, entries(k, WAY_KIND_CONNECTION, NULL) == 3);
    const struct way_history *h = way_control_history(k->control);
    assert_int_equal(way_history_errors(h, kit_index(k, KIT_REPLICA), WAY_PHASE_CONNECT,
                                        WAY_ERROR_REFUSED),
                     2);
    assert_int_equal(way_history_errors(h, kit_index(k, KIT_MASTER), WAY_PHASE_CONNECT,
                                        WAY_ERROR_REFUSED),
                     1);
}

static void rings_are_merged_by_time(void **state)
{
    struct kit_control *k = *state;
    /* Which ring each of them is in: both have runs of several, and either ends first. */
    static const int ring_of[] = { 0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1 };
    double base = k->loop.now;
    for (unsigned i = 0; i < way_count(ring_of); i++) {
        struct way_entry e = {
            .node = (uint16_t)kit_index(k, KIT_MASTER),
            .function = WAY_FN_BACKOFF,
            .event = { .kind = WAY_KIND_COMMANDS, .now = base + i * 1e-6, .n = i + 1 }
        };
        assert_true(way_ring_put(k->ring[ring_of[i]], &e));
    }
    const struct way_history *h = way_control_history(k->control);
    uint64_t before = way_history_total(h);
    way_loop_wake(&k->loop);
    AWAIT(&k->loop, 2, way_history_total(h) >= before + way_count(ring_of));
    for (unsigned i = 0; i < way_count(ring_of); i++) /* the newest first */
        assert_int_equal(way_history_at(h, WAY_NONE, i)->event.n, way_count(ring_of) - i);
}

static void a_probe_brings_the_node_back(void **state)
{
    struct kit_control *k = *state;
    struct way_control_counts n;
    kit_refused(k, KIT_REPLICA);
    assert_int_equal(kit_state(k, KIT_REPLICA), WAY_STATE_FAILING);
    AWAIT(&k->loop, 2, kit_state(k, KIT_REPLICA) == WAY_STATE_HEALTHY);
    AWAIT(&k->loop, 1,
          kit_transitions(k, WAY_STATE_FAILING, WAY_STATE_HEALTHY, "answers") == 1);
    kit_pass_time(&k->loop, 0.3);
    way_control_counts(k->control, &n);
    assert_int_equal(n.probes, 1); /* healthy: no more are wished */
}

static void probes_go_on_until_one_succeeds(void **state)
{
    struct kit_control *k = *state;
    struct way_control_counts n;
    k->get = "-LOADING Redis is loading the dataset in memory\r\n";
    kit_refused(k, KIT_REPLICA);
    AWAIT(&k->loop, 3, (way_control_counts(k->control, &n), n.probes_failed >= 3));
    assert_int_equal(kit_state(k, KIT_REPLICA), WAY_STATE_FAILING);
    k->get = "$-1\r\n";
    AWAIT(&k->loop, 2, kit_state(k, KIT_REPLICA) == WAY_STATE_HEALTHY);
}

static void a_mark_of_another_process_is_probed_too(void **state)
{
    struct kit_control *k = *state;
    struct way_snapshot s;
    struct way_outcome outcome;
    way_health_snapshot(k->health, kit_index(k, KIT_REPLICA), way_clock(), &s);
    struct way_proposal p = {
        .mark = { .given = true, .has = WAY_MARK_STATE, .state = WAY_STATE_FAILING },
        .memory = s.view.memory,
        .hard = true
    };
    assert_int_equal(way_health_commit(k->health, &s, &p, false, &outcome),
                     WAY_COMMIT_DONE);
    AWAIT(&k->loop, 2, kit_state(k, KIT_REPLICA) == WAY_STATE_HEALTHY);
}

static void a_node_that_left_is_forgotten(void **state)
{
    struct kit_control *k = *state;
    unsigned replica = kit_index(k, KIT_REPLICA);
    *strchr(k->nodes, '\n') = 0; /* the second line is gone */
    strcat(k->nodes, "\n");
    way_control_refresh(k->control);
    AWAIT(&k->loop, 2, way_control_address(k->control, replica) == NULL);
    assert_non_null(way_control_address(k->control, kit_index(k, KIT_MASTER)));
}

static void a_dead_node_is_told_by_the_topology_too(void **state)
{
    struct kit_control *k = *state;
    kit_node_down(&k->node[KIT_MASTER]);
    kit_pass_time(&k->loop, 0.02);
    way_control_refresh(k->control); /* asks the replica or the master: until it is it */
    for (int i = 0; i < 50 && kit_state(k, KIT_MASTER) == WAY_STATE_HEALTHY; i++) {
        way_control_refresh(k->control);
        kit_pass_time(&k->loop, 0.05);
    }
    assert_true(kit_transitions(k, WAY_STATE_HEALTHY, WAY_STATE_FAILING, "refused") >= 1);
}

static unsigned sweeps(struct kit_control *k)
{
    return (unsigned)way_control_stat(k->control, WAY_STAT_TICKS);
}

static void sweeps_come_every_so_often_and_are_acted_on(void **state)
{
    struct kit_control *k = *state;
    double began = way_clock();
    unsigned before = sweeps(k);
    AWAIT(&k->loop, 3, sweeps(k) >= before + 5);
    double took = way_clock() - began;
    if (took < 0.35 || took > 1.5)
        fail_msg("five sweeps at 0.1 s took %.3f s", took);
    AWAIT(&k->loop, 1, kit_state(k, KIT_REPLICA) == WAY_STATE_FAILING);
    AWAIT(&k->loop, 1,
          kit_transitions(k, WAY_STATE_HEALTHY, WAY_STATE_FAILING, "swept") == 1);
    assert_true(entries(k, WAY_KIND_TICK, NULL) >= 1);
}

/* Another process holds the lease: nothing here. It dies: this one follows. */
static void one_that_died_is_followed_within_two_intervals(void **state)
{
    struct kit_control *k = *state;
    double lapsed, every = 0.1;
    AWAIT(&k->loop, 2, sweeps(k) > 0);
    while (!way_health_sweep_lease(k->health, 4711, way_clock(), 5 * every, &lapsed))
        usleep(1000); /* the loop stands still: its lease runs out */
    unsigned before = sweeps(k);
    double taken = way_clock();
    kit_pass_time(&k->loop, 4 * every);
    assert_int_equal(sweeps(k), before);
    AWAIT(&k->loop, 2, sweeps(k) > before);
    double after = way_clock() - taken; /* the other's last sweep: 3.5 intervals later */
    if (after < 5 * every || after > 5.5 * every + 0.1)
        fail_msg("the next sweep came after %.3f s", after);
}

#define EXPIRES(name) cmocka_unit_test_setup_teardown(name, set_up_expires, tear_down)
#define SWEEPS(name) cmocka_unit_test_setup_teardown(name, set_up_sweeps, tear_down)
#define PROBES(name) cmocka_unit_test_setup_teardown(name, set_up_probes, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        EXPIRES(a_mark_ends_when_its_time_is_over),
        EXPIRES(a_longer_mark_moves_the_end),
        EXPIRES(a_mark_of_another_process_ends_too),
        EXPIRES(errors_are_counted_by_node_phase_and_error),
        EXPIRES(rings_are_merged_by_time),
        PROBES(a_probe_brings_the_node_back),
        PROBES(probes_go_on_until_one_succeeds),
        PROBES(a_mark_of_another_process_is_probed_too),
        EXPIRES(a_node_that_left_is_forgotten),
        PROBES(a_dead_node_is_told_by_the_topology_too),
        SWEEPS(sweeps_come_every_so_often_and_are_acted_on),
        SWEEPS(one_that_died_is_followed_within_two_intervals),
    };
    struct way_err err;
    way_log_level(WAY_ERROR);
    if (way_resolver_library_init(&err) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
