/* route: which node a command goes to, for each pick, state and flag. */
#include "route.h"

#include "health_kit.h"

/* Shard a: master A, replicas A0, A1. Shard b: master B alone. Slots beyond have no owner. */
enum { A, B, A0, A1, NODES };
enum { SLOT_A = 10, SLOT_B = 9000, SLOT_NONE = 16000, DRAWS = 600 };

struct bed {
    struct way_policy_text text;
    struct way_limits limits;
    struct way_health *health;
    struct way_decider *decider;
    struct way_stats stats;
    struct way_ring *ring;
    struct way_router router;
    int row;
    unsigned node[NODES];
    double now;
};

static void must(int rc, const struct way_err *err)
{
    if (rc < 0)
        fail_msg("%s", err->text);
}

static void publish(struct bed *b)
{
    struct way_topology *t = kit_topology(NODES);
    kit_node(t, "a", 7000, NULL, 1);
    kit_node(t, "b", 7001, NULL, 2);
    kit_node(t, "a0", 7002, "a", 1);
    kit_node(t, "a1", 7003, "a", 1);
    kit_slots(t, 0, 0, 8191);
    kit_slots(t, 1, 8192, 15000);
    kit_publish(b->health, t, b->now);
    kit_topology_free(t);
    static const char *const ids[] = { "a", "b", "a0", "a1" };
    for (unsigned i = 0; i < NODES; i++)
        b->node[i] = kit_find(b->health, ids[i]);
}

/* pick: as it stands in a policy, and what else it has behind it. */
static void begin(struct bed *b, const char *pick)
{
    struct way_err err;
    char text[1024];
    memset(b, 0, sizeof *b);
    b->now = 1000;
    snprintf(text, sizeof text,
             "local wayside = require 'wayside'\n"
             "return wayside.policy { name = 'test', pick = %s }\n",
             pick);
    way_limits_default(&b->limits);
    must(way_policy_read(&b->text, "none", NULL, 0, &b->limits, &err), &err);
    way_free(b->text.path);
    b->text.path = way_strdup("test.lua");
    b->text.text = way_strdup(text);
    b->text.n = strlen(text);
    struct way_policy *p;
    must(way_policy_load(&p, &b->text, &err), &err);
    struct way_health_options ho = { .layout = way_policy_plan(p)->layout,
                                     .guard = true,
                                     .failing_share = 1 };
    way_policy_free(p);
    b->health = kit_open(&ho);
    must(b->row = way_health_row_attach(b->health, &err), &err);
    way_health_zone(b->health, "127.0.0.1:7003", "here");
    b->ring = way_ring_new(4);
    struct way_decider_options o = { .health = b->health,
                                     .text = &b->text,
                                     .limits = &b->limits,
                                     .stats = &b->stats,
                                     .ring = b->ring };
    must(way_decider_new(&b->decider, &o, &err), &err);
    publish(b);
    way_router_init(&b->router, b->health, b->decider, &b->stats, b->row);
    way_router_refresh(&b->router);
    way_random_seed(&b->router.random, 42);
}

static void end(struct bed *b)
{
    way_router_fini(&b->router);
    way_decider_free(b->decider);
    way_ring_free(b->ring);
    way_health_check(b->health);
    way_health_row_detach(b->health, b->row);
    way_health_close(b->health);
    way_policy_text_fini(&b->text);
}

static void state(struct bed *b, unsigned node, enum way_state s)
{
    struct way_proposal p = kit_mark(s, 0);
    p.hard = p.by_operator = true;
    kit_commit(b->health, b->node[node], b->now, p);
}

static struct way_request request(unsigned slot, uint16_t flags)
{
    return (struct way_request){ .slot = (uint16_t)slot,
                                 .flags = flags,
                                 .avoid = WAY_NONE_NODE,
                                 .target = WAY_NONE_NODE };
}

static struct way_route route(struct bed *b, const struct way_request *r)
{
    return way_route_slow(&b->router, r, b->now);
}

/* How often each node is drawn for a read of slot a; *none: how often nobody. */
static void draw(struct bed *b, const struct way_request *r, unsigned count[NODES],
                 unsigned *none)
{
    memset(count, 0, NODES * sizeof *count);
    *none = 0;
    for (unsigned i = 0; i < DRAWS; i++) {
        struct way_route to = route(b, r);
        *none += to.node == WAY_NONE;
        for (unsigned k = 0; k < NODES; k++)
            count[k] += to.node == b->node[k];
    }
}

/* The share of each node in hundredths, within a tenth; -1: any share but none. */
static void assert_shares(struct bed *b, const struct way_request *r, int a, int a0,
                          int a1)
{
    unsigned count[NODES], none;
    draw(b, r, count, &none);
    const int expected[] = { a, 0, a0, a1 };
    unsigned sum = none;
    for (unsigned k = 0; k < NODES; k++) {
        double share = 100.0 * count[k] / DRAWS;
        sum += count[k];
        bool fits = expected[k] < 0 ? count[k] > 0
                    : expected[k] == 0
                        ? count[k] == 0
                        : share > expected[k] - 10 && share < expected[k] + 10;
        if (!fits)
            fail_msg("node %u was drawn %u times of %u, expected a share of %d", k,
                     count[k], DRAWS, expected[k]);
    }
    assert_int_equal(sum, DRAWS);
}

static void assert_read(const char *pick, int a, int a0, int a1)
{
    struct bed b;
    begin(&b, pick);
    struct way_request r = request(SLOT_A, 0);
    assert_shares(&b, &r, a, a0, a1);
    r.flags = WAY_FLAG_WRITE;
    assert_shares(&b, &r, 100, 0, 0); /* writes go to the master always */
    r.flags = WAY_FLAG_MASTER;
    assert_shares(&b, &r, 100, 0, 0);
    end(&b);
}

/* ---- the fast way ---- */

static void the_fast_way_is_for_healthy_masters_alone(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'master'");
    assert_int_equal(way_route_fast(&b.router, SLOT_A), b.node[A]);
    assert_int_equal(way_route_fast(&b.router, SLOT_B), b.node[B]);
    assert_int_equal(way_route_fast(&b.router, SLOT_NONE), WAY_NONE);
    static const enum way_state other[] = { WAY_STATE_SUSPECT, WAY_STATE_FAILING,
                                            WAY_STATE_PROBING, WAY_STATE_DRAINING };
    for (unsigned i = 0; i < way_count(other); i++) {
        state(&b, A, other[i]);
        assert_int_equal(way_route_fast(&b.router, SLOT_A), WAY_NONE);
        assert_int_equal(way_route_fast(&b.router, SLOT_B), b.node[B]);
    }
    state(&b, A, WAY_STATE_HEALTHY);
    assert_int_equal(way_route_fast(&b.router, SLOT_A), b.node[A]);
    end(&b);
}

/* ---- picks ---- */

static void each_pick_draws_from_its_own_nodes(void **st)
{
    (void)st;
    assert_read("'master'", 100, 0, 0);
    assert_read("'replica'", 0, 50, 50);
    assert_read("'replica_only'", 0, 50, 50);
    assert_read("'random'", 33, 33, 33);
    assert_read("'round_robin'", 33, 33, 33);
    assert_read("'least_inflight'", 33, 33, 33);
    assert_read("{ 'random', zone = 'here' }", 0, 0, 100);
}

static void replica_falls_back_to_the_master_and_replica_only_does_not(void **st)
{
    (void)st;
    for (unsigned only = 0; only < 2; only++) {
        struct bed b;
        begin(&b, only ? "'replica_only'" : "'replica'");
        struct way_request r = request(SLOT_A, 0);
        state(&b, A0, WAY_STATE_FAILING);
        assert_shares(&b, &r, 0, 0, 100);
        state(&b, A1, WAY_STATE_FAILING);
        assert_shares(&b, &r, only ? 0 : 100, 0, 0);
        r = request(SLOT_B, 0); /* it never had one */
        assert_int_equal(route(&b, &r).node, only ? WAY_NONE : b.node[B]);
        end(&b);
    }
}

static void nearest_follows_the_latency(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'nearest'");
    struct way_request r = request(SLOT_A, 0);
    way_health_latency(b.health, b.node[A], 0.010, b.now);
    way_health_latency(b.health, b.node[A1], 0.001, b.now);
    assert_shares(&b, &r, 0, 100, 0); /* never measured: tried */
    way_health_latency(b.health, b.node[A0], 0.020, b.now);
    assert_shares(&b, &r, 0, 0, 100);
    state(&b, A1, WAY_STATE_FAILING); /* failing: the farther one that is healthy */
    assert_shares(&b, &r, 100, 0, 0);
    end(&b);
}

static void load_is_spread_by_what_is_in_flight(void **st)
{
    (void)st;
    static const char *const picks[] = { "'least_inflight'", "'p2c'" };
    for (unsigned i = 0; i < 2; i++) {
        struct bed b;
        begin(&b, picks[i]);
        struct way_request r = request(SLOT_A, 0);
        struct way_cell *cells = way_health_cells(b.health, b.row);
        for (unsigned k = 0; k < NODES; k++)
            way_health_latency(b.health, b.node[k], 0.001, b.now);
        atomic_store(&cells[b.node[A]].inflight, 50);
        atomic_store(&cells[b.node[A0]].inflight, 5);
        if (i == 0)
            assert_shares(&b, &r, 0, 0, 100);
        else /* of two drawn the lesser: never the one with most */
            assert_shares(&b, &r, 0, 33, 67);
        end(&b);
    }
}

/* The load is what the policy counts, times what is in flight: here of failures. */
static void p2c_goes_by_a_counter_where_one_is_named(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "{ 'p2c', load = 'bad' }, counters = { bad = wayside.window { seconds = 10 "
              "}, another = wayside.consecutive {} }");
    struct way_request r = request(SLOT_A, 0);
    struct way_cell *cells = way_health_cells(b.health, b.row);
    static const unsigned bad[NODES] = { [A] = 50, [A0] = 10, [A1] = 20 };
    for (unsigned k = 0; k < NODES; k++) {
        struct way_report report = { .now = b.now,
                                     .good = 100 - bad[k],
                                     .failure = bad[k] > 0,
                                     .failed = bad[k],
                                     .blame = WAY_BLAME_NODE,
                                     .class = WAY_CLASS_BUSY };
        way_health_count(b.health, b.node[k], &way_decider_plan(b.decider)->counters,
                         way_decider_epoch(b.decider), &report);
    }
    assert_shares(&b, &r, 0, 67, 33);             /* A never: of two drawn the lesser */
    atomic_store(&cells[b.node[A0]].inflight, 3); /* 0.1 * 4 is above 0.2 */
    assert_shares(&b, &r, 0, 33, 67);
    b.now += 20; /* nothing counts any more: by chance */
    atomic_store(&cells[b.node[A0]].inflight, 0);
    assert_shares(&b, &r, 33, 33, 33);
    end(&b);
}

/* ---- states ---- */

static void a_suspect_serves_only_when_no_healthy_one_can(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'random'");
    struct way_request r = request(SLOT_A, 0);
    state(&b, A, WAY_STATE_SUSPECT);
    assert_shares(&b, &r, 0, 50, 50);
    state(&b, A0, WAY_STATE_FAILING);
    state(&b, A1, WAY_STATE_DRAINING);
    assert_shares(&b, &r, 100, 0, 0);
    state(&b, A, WAY_STATE_FAILING);
    assert_shares(&b, &r, 0, 0, 0);
    struct way_route to = route(&b, &r);
    assert_int_equal(to.node, WAY_NONE);
    assert_int_not_equal(to.shard, WAY_NONE); /* it is told apart from no owner */
    assert_false(to.shed);
    r = request(SLOT_NONE, 0);
    to = route(&b, &r);
    assert_int_equal(to.node, WAY_NONE);
    assert_int_equal(to.shard, WAY_NONE);
    end(&b);
}

static void a_failing_master_takes_no_writes_whatever_replicas_there_are(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'random'");
    struct way_request r = request(SLOT_A, WAY_FLAG_WRITE | WAY_FLAG_STALE_OK);
    state(&b, A, WAY_STATE_FAILING);
    assert_int_equal(route(&b, &r).node, WAY_NONE);
    r.avoid = (uint16_t)b.node[A];
    assert_int_equal(route(&b, &r).node, WAY_NONE);
    end(&b);
}

static void old_answers_come_from_replicas_only_when_allowed(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'master'");
    struct way_request r = request(SLOT_A, 0);
    state(&b, A, WAY_STATE_FAILING);
    assert_shares(&b, &r, 0, 0, 0);
    r.flags = WAY_FLAG_STALE_OK;
    assert_shares(&b, &r, 0, 50, 50);
    state(&b, A, WAY_STATE_HEALTHY);
    assert_shares(&b, &r, 100, 0, 0); /* needed no more */
    r.avoid = (uint16_t)b.node[A];
    assert_shares(&b, &r, 0, 50, 50);
    end(&b);
}

/* ---- what a request asks for ---- */

static void another_node_is_taken_where_there_is_one(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'random'");
    struct way_request r = request(SLOT_A, 0);
    r.avoid = (uint16_t)b.node[A0];
    assert_shares(&b, &r, 50, 0, 50);
    state(&b, A, WAY_STATE_SUSPECT);
    state(&b, A1, WAY_STATE_FAILING);
    assert_shares(&b, &r, 100, 0, 0); /* a suspect rather than the one that failed it */
    state(&b, A, WAY_STATE_FAILING);
    assert_shares(&b, &r, 0, 100, 0);
    end(&b);
}

static void a_target_is_taken_while_it_can_be(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'master'");
    struct way_request r = request(SLOT_A, 0);
    r.target = (uint16_t)b.node[B]; /* as a redirect said, whatever the table does */
    assert_int_equal(route(&b, &r).node, b.node[B]);
    state(&b, B, WAY_STATE_FAILING);
    assert_int_equal(route(&b, &r).node, b.node[A]);
    r.flags = WAY_FLAG_ASKED; /* no other node knows the key */
    assert_int_equal(route(&b, &r).node, WAY_NONE);
    end(&b);
}

static void a_node_of_weight_nothing_gets_nothing_while_others_do(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'random'");
    struct way_request r = request(SLOT_A, 0);
    struct way_proposal p = kit_mark(WAY_STATE_HEALTHY, 0);
    p.mark.has |= WAY_MARK_WEIGHT;
    p.mark.weight = 0;
    kit_commit(b.health, b.node[A0], b.now, p);
    assert_shares(&b, &r, 50, 0, 50);
    state(&b, A, WAY_STATE_FAILING);
    state(&b, A1, WAY_STATE_FAILING);
    assert_shares(&b, &r, 0, 100, 0);
    end(&b);
}

static void a_share_is_shed(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'master'");
    struct way_request r = request(SLOT_A, 0);
    struct way_proposal p = kit_mark(WAY_STATE_HEALTHY, 0);
    p.mark.has |= WAY_MARK_SHED;
    p.mark.shed = 0.5;
    kit_commit(b.health, b.node[A], b.now, p);
    assert_shares(&b, &r, 50, 0, 0);
    struct way_route to;
    do
        to = route(&b, &r);
    while (to.node != WAY_NONE);
    assert_true(to.shed);
    end(&b);
}

/* ---- trials ---- */

static void trials(struct bed *b, unsigned node, unsigned count)
{
    struct way_proposal p = kit_mark(WAY_STATE_PROBING, 0);
    p.by_operator = true;
    p.mark.has |= WAY_MARK_TRIALS;
    p.mark.trials = count;
    kit_commit(b->health, b->node[node], b->now, p);
}

static void a_probing_node_gets_its_trials_and_no_more(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'replica'");
    struct way_request r = request(SLOT_A, 0);
    trials(&b, A0, 2);
    for (unsigned i = 0; i < 2; i++) {
        struct way_route to = route(&b, &r);
        assert_int_equal(to.node, b.node[A0]);
        assert_true(to.trial);
    }
    for (unsigned i = 0; i < 10; i++) {
        struct way_route to = route(&b, &r);
        assert_int_equal(to.node, b.node[A1]);
        assert_false(to.trial);
    }
    way_health_trial_end(b.health, b.node[A0], b.row, true);
    assert_true(route(&b, &r).trial);
    way_health_trial_end(b.health, b.node[A0], b.row, true);
    way_health_trial_end(b.health, b.node[A0], b.row, true);
    end(&b);
}

static void a_trial_avoids_the_node_that_failed_the_command(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'replica'");
    struct way_request r = request(SLOT_A, 0);
    r.avoid = (uint16_t)b.node[A0];
    trials(&b, A0, 1);
    assert_int_equal(route(&b, &r).node, b.node[A1]);
    state(&b, A1, WAY_STATE_FAILING);
    assert_int_equal(route(&b, &r).node, b.node[A]);
    state(&b, A, WAY_STATE_FAILING);
    struct way_route to = route(&b, &r); /* there is no other */
    assert_int_equal(to.node, b.node[A0]);
    assert_true(to.trial);
    way_health_trial_end(b.health, b.node[A0], b.row, true);
    end(&b);
}

/* ---- whom a slot belongs to ---- */

static void a_slot_is_served_by_its_shard(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'master'");
    assert_true(way_route_serves(&b.router, SLOT_A, b.node[A], true));
    assert_false(way_route_serves(&b.router, SLOT_A, b.node[A0], true));
    assert_true(way_route_serves(&b.router, SLOT_A, b.node[A0], false));
    assert_false(way_route_serves(&b.router, SLOT_A, b.node[B], false));
    assert_false(way_route_serves(&b.router, SLOT_NONE, b.node[A], false));
    way_health_moved(b.health, SLOT_A, b.node[B], b.now + 1);
    assert_true(way_route_serves(&b.router, SLOT_A, b.node[B], true));
    assert_false(way_route_serves(&b.router, SLOT_A, b.node[A], false));
    end(&b);
}

/* ---- the policy's own route ---- */

static const char get_x[] = "*2\r\n$3\r\nGeT\r\n$1\r\nx\r\n";

static struct way_route ask(struct bed *b, const struct way_request *r)
{
    return way_route_ask(&b->router, r, (struct way_span){ get_x, sizeof get_x - 1 },
                         b->now);
}

static uint64_t stat_of(struct bed *b, enum way_stat which)
{
    return way_stat_get(&b->stats, which);
}

static void a_route_is_asked_and_nil_leaves_it_to_pick(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'master', route = function(self, request, nodes) "
              "if request.command ~= 'get' or #nodes ~= 3 then return nil end "
              "return ({ 3, 2, 1, [9] = nil })[request.attempt] end");
    struct way_request r = request(SLOT_A, 0);
    assert_false(way_route_straight(&b.router, &r));
    assert_int_equal(ask(&b, &r).node, b.node[A1]);
    r.attempt = 1;
    assert_int_equal(ask(&b, &r).node, b.node[A0]);
    r.attempt = 8;
    assert_int_equal(ask(&b, &r).node, b.node[A]);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 3);
    assert_int_equal(stat_of(&b, WAY_STAT_FALLBACK), 0);
    struct way_route none =
        ask(&b, &(struct way_request){
                    .slot = SLOT_NONE, .avoid = WAY_NONE_NODE, .target = WAY_NONE_NODE });
    assert_int_equal(none.node, WAY_NONE);
    assert_int_equal(none.shard, WAY_NONE);
    end(&b);
}

static void a_policy_without_route_keeps_the_fast_way(void **st)
{
    (void)st;
    struct bed b;
    struct way_request read = request(SLOT_A, 0), write = request(SLOT_A, WAY_FLAG_WRITE);
    begin(&b, "'master'");
    assert_true(way_route_straight(&b.router, &read));
    assert_true(way_route_straight(&b.router, &write));
    assert_int_equal(ask(&b, &read).node, b.node[A]);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 0);
    end(&b);
    begin(&b, "'random'");
    assert_false(way_route_straight(&b.router, &read));
    assert_true(way_route_straight(&b.router, &write));
    end(&b);
}

static void a_write_goes_to_the_master_whatever_route_says(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'random', route = function(self, request, nodes) "
              "return request.write and (request.attempt == 2 and 1 or 2) end");
    struct way_request r = request(SLOT_A, WAY_FLAG_WRITE);
    assert_int_equal(ask(&b, &r).node, b.node[A]);
    assert_int_equal(stat_of(&b, WAY_STAT_ROUTES_REFUSED), 1);
    r.attempt = 1;
    assert_int_equal(ask(&b, &r).node, b.node[A]);
    assert_int_equal(stat_of(&b, WAY_STAT_ROUTES_REFUSED), 1);
    state(&b, A, WAY_STATE_FAILING); /* the first is a replica now */
    assert_int_equal(ask(&b, &r).node, WAY_NONE);
    assert_int_equal(stat_of(&b, WAY_STAT_ROUTES_REFUSED), 2);
    end(&b);
}

static void a_route_that_fails_leaves_it_to_pick_and_is_counted(void **st)
{
    (void)st;
    static const struct {
        const char *body;
        enum way_stat counted;
    } cases[] = {
        { "local x = nil; x()", WAY_STAT_POLICY_ROUTE_ERROR },
        { "while true do end", WAY_STAT_POLICY_ROUTE_BUDGET },
        { "local t = {} while true do t[#t + 1] = {} end", WAY_STAT_POLICY_ROUTE_MEMORY },
        { "return 4", WAY_STAT_POLICY_ROUTE_ANSWER },
        { "return 0/0", WAY_STAT_POLICY_ROUTE_ANSWER },
        { "nodes[1].memory.seen = 1", WAY_STAT_POLICY_ROUTE_ERROR },
    };
    for (unsigned i = 0; i < way_count(cases); i++) {
        struct bed b;
        char text[256];
        snprintf(text, sizeof text,
                 "'replica', memory = { node = { seen = 0 } }, "
                 "route = function(self, request, nodes) %s end",
                 cases[i].body);
        begin(&b, text);
        struct way_request r = request(SLOT_A, 0);
        unsigned node = ask(&b, &r).node;
        assert_true(node == b.node[A0] || node == b.node[A1]);
        assert_int_equal(stat_of(&b, cases[i].counted), 1);
        assert_int_equal(stat_of(&b, WAY_STAT_FALLBACK), 1);
        for (unsigned k = 1; k < b.limits.policy_errors; k++)
            assert_int_not_equal(ask(&b, &r).node, WAY_NONE);
        assert_true(way_decider_set_aside(b.decider));
        uint64_t calls = stat_of(&b, WAY_STAT_POLICY_CALLS);
        assert_int_not_equal(ask(&b, &r).node, WAY_NONE);
        assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), calls);
        end(&b);
    }
}

static void what_has_its_way_is_not_put_to_route(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'master', route = function() return 2 end");
    struct way_request r = request(SLOT_A, WAY_FLAG_MASTER);
    assert_int_equal(ask(&b, &r).node, b.node[A]);
    r = request(SLOT_A, 0);
    r.target = (uint16_t)b.node[A1];
    assert_int_equal(ask(&b, &r).node, b.node[A1]);
    r = request(SLOT_A, 0);
    r.kind = WAY_REQUEST_OWN;
    assert_int_equal(ask(&b, &r).node, b.node[A]);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 0);
    r.kind = WAY_REQUEST_PART;
    assert_int_equal(ask(&b, &r).node, b.node[A0]);
    end(&b);
}

static void route_is_shown_who_is_well_and_the_master(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'master', route = function(self, request, nodes) "
              "local s = '' for i = 1, #nodes do s = s .. nodes[i].state:sub(1, 1) .. "
              "nodes[i].role:sub(1, 1) end "
              "if s == ({ [0] = 'hmhrhr', 'smhr', 'hmhr', 'smsr', 'hr' })"
              "[request.attempt - 1] then return #nodes end return nil end");
    struct way_request r = request(SLOT_A, 0);
    assert_int_equal(ask(&b, &r).node, b.node[A1]);
    state(&b, A, WAY_STATE_SUSPECT);
    state(&b, A0, WAY_STATE_SUSPECT);
    r.attempt = 1;
    assert_int_equal(ask(&b, &r).node, b.node[A1]);
    state(&b, A, WAY_STATE_HEALTHY);
    r.attempt = 2;
    assert_int_equal(ask(&b, &r).node, b.node[A1]);
    state(&b, A, WAY_STATE_SUSPECT);
    state(&b, A1, WAY_STATE_FAILING);
    r.attempt = 3;
    assert_int_equal(ask(&b, &r).node, b.node[A0]);
    state(&b, A, WAY_STATE_DRAINING);
    state(&b, A0, WAY_STATE_HEALTHY);
    r.attempt = 4;
    assert_int_equal(ask(&b, &r).node, b.node[A0]);
    end(&b);
}

static void a_probing_node_is_shown_while_it_has_trials(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'master', route = function(self, request, nodes) "
              "for i = 1, #nodes do if nodes[i].state == 'probing' then "
              "return request.attempt == 1 and i or 1 end end end");
    struct way_request other = request(SLOT_A, 0), r = request(SLOT_A, 0);
    trials(&b, A0, 2);
    other.attempt = 1; /* sees it and takes another */
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(ask(&b, &other).node, b.node[A]);
    for (unsigned i = 0; i < 2; i++) {
        struct way_route to = ask(&b, &r);
        assert_int_equal(to.node, b.node[A0]);
        assert_true(to.trial);
    }
    struct way_route to = ask(&b, &r);
    assert_int_equal(to.node, b.node[A]);
    assert_false(to.trial);
    way_health_trial_end(b.health, b.node[A0], b.row, true);
    assert_true(ask(&b, &r).trial);
    end(&b);
}

static void route_is_told_what_failed_the_command(void **st)
{
    (void)st;
    struct bed b;
    begin(&b, "'master', route = function(self, request, nodes) "
              "return request.tried and request.tried % #nodes + 1 end");
    struct way_request r = request(SLOT_A, 0);
    r.avoid = (uint16_t)b.node[A];
    assert_int_equal(ask(&b, &r).node, b.node[A0]);
    r.avoid = (uint16_t)b.node[A1];
    assert_int_equal(ask(&b, &r).node, b.node[A]);
    r.avoid = (uint16_t)b.node[B]; /* of another shard by now */
    assert_int_equal(ask(&b, &r).node, b.node[A]);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fast_way_is_for_healthy_masters_alone),
        cmocka_unit_test(each_pick_draws_from_its_own_nodes),
        cmocka_unit_test(replica_falls_back_to_the_master_and_replica_only_does_not),
        cmocka_unit_test(nearest_follows_the_latency),
        cmocka_unit_test(load_is_spread_by_what_is_in_flight),
        cmocka_unit_test(p2c_goes_by_a_counter_where_one_is_named),
        cmocka_unit_test(a_suspect_serves_only_when_no_healthy_one_can),
        cmocka_unit_test(a_failing_master_takes_no_writes_whatever_replicas_there_are),
        cmocka_unit_test(old_answers_come_from_replicas_only_when_allowed),
        cmocka_unit_test(another_node_is_taken_where_there_is_one),
        cmocka_unit_test(a_target_is_taken_while_it_can_be),
        cmocka_unit_test(a_node_of_weight_nothing_gets_nothing_while_others_do),
        cmocka_unit_test(a_share_is_shed),
        cmocka_unit_test(a_probing_node_gets_its_trials_and_no_more),
        cmocka_unit_test(a_trial_avoids_the_node_that_failed_the_command),
        cmocka_unit_test(a_slot_is_served_by_its_shard),
        cmocka_unit_test(a_route_is_asked_and_nil_leaves_it_to_pick),
        cmocka_unit_test(a_policy_without_route_keeps_the_fast_way),
        cmocka_unit_test(a_write_goes_to_the_master_whatever_route_says),
        cmocka_unit_test(a_route_that_fails_leaves_it_to_pick_and_is_counted),
        cmocka_unit_test(what_has_its_way_is_not_put_to_route),
        cmocka_unit_test(route_is_shown_who_is_well_and_the_master),
        cmocka_unit_test(a_probing_node_is_shown_while_it_has_trials),
        cmocka_unit_test(route_is_told_what_failed_the_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
