/* What the node table promises of verdicts, the guard, counters, rows, trials and leases,
 * in one process. Topology: health_topology_test; the file: segment_test; several
 * processes and threads: health_stress_test. */
#include "health_kit.h"

#include <math.h>

struct world {
    struct way_health *h;
    struct way_topology *t;
    unsigned woken;
    bool woken_locked; /* woken() found the lock taken */
};
enum { A, B, C, A0, B0, C0 };

static void on_woken(void *arg)
{
    struct world *w = arg;
    w->woken++;
    if (way_health_lock(w->h))
        w->woken_locked = true;
    else
        way_health_unlock(w->h);
}

static struct way_health_options options(struct world *w)
{
    struct way_health_options o = {
        .guard = true, .failing_share = 0.5, .woken = on_woken, .arg = w
    };
    o.layout = (struct way_layout){ .hash = 7, .node = 2, .shard = 1, .cluster = 1 };
    o.layout.first.node[1] = 5;
    o.layout.first.shard[0] = 6;
    o.layout.first.cluster[0] = 7;
    return o;
}

static int begin_with(void **state, bool guard, double share)
{
    struct world *w = way_zalloc(sizeof *w);
    struct way_health_options o = options(w);
    o.guard = guard;
    o.failing_share = share;
    w->h = kit_open(&o);
    w->t = kit_cluster(1);
    kit_publish(w->h, w->t, 1);
    w->woken = 0;
    *state = w;
    return 0;
}

static int begin(void **state)
{
    return begin_with(state, true, 0.5);
}

static int begin_unguarded(void **state)
{
    return begin_with(state, false, 0.5);
}

static int begin_generous(void **state)
{
    return begin_with(state, true, 1);
}

static int end(void **state)
{
    struct world *w = *state;
    assert_false(w->woken_locked);
    way_health_check(w->h);
    way_health_close(w->h);
    kit_topology_free(w->t);
    way_free(w);
    return 0;
}

static struct way_verdict verdict(struct world *w, unsigned node)
{
    struct way_verdict v;
    way_health_verdict(w->h, node, &v);
    return v;
}

static uint32_t route(struct world *w, unsigned node)
{
    return atomic_load(&way_health_node(w->h, node)->route);
}

static struct way_view view(struct world *w, unsigned node, double now)
{
    struct way_snapshot s;
    way_health_snapshot(w->h, node, now, &s);
    return s.view;
}

/* ---- marks ---- */

static void a_new_node_is_healthy_and_whole(void **state)
{
    struct world *w = *state;
    struct way_view v = view(w, A0, 2);
    assert_int_equal(route(w, A0), 0);
    assert_string_equal(v.id, "a0");
    assert_string_equal(v.address, "127.0.0.1:7003");
    assert_string_equal(v.host, "127.0.0.1");
    assert_string_equal(v.hostname, "");
    assert_string_equal(v.zone, "");
    assert_int_equal(v.port, 7003);
    assert_int_equal(v.role, WAY_ROLE_REPLICA);
    assert_int_equal(v.verdict.state, WAY_STATE_HEALTHY);
    assert_true(v.verdict.weight == 1 && v.verdict.since == 1 && v.verdict.ends == 0);
    assert_true(v.latency < 0 && v.failures == 0 && !v.has_replication);
    assert_true(v.memory.node[0] == 0 && v.memory.node[1] == 5);
    assert_true(v.memory.shard[0] == 6 && v.memory.cluster[0] == 7);
    assert_int_equal(v.of_shard.nodes, 2);
    assert_int_equal(v.of_cluster.nodes, 6);
    assert_int_equal(v.of_cluster.state[WAY_STATE_HEALTHY], 6);
}

static void a_mark_tells_state_end_and_reason(void **state)
{
    struct world *w = *state;
    struct way_proposal p = kit_mark(WAY_STATE_FAILING, 15);
    p.hard = true;
    p.mark.has |= WAY_MARK_REASON;
    strcpy(p.mark.reason, "refused");
    struct way_outcome out = kit_commit(w->h, A, 10, p);
    struct way_verdict v = verdict(w, A);
    assert_true(out.changed && out.refused == WAY_REFUSED_NOT);
    assert_int_equal(out.from, WAY_STATE_HEALTHY);
    assert_int_equal(out.to, WAY_STATE_FAILING);
    assert_int_equal(v.state, WAY_STATE_FAILING);
    assert_true(v.since == 10 && v.ends == 25 && v.hard);
    assert_string_equal(v.reason, "refused");
    assert_int_equal(route(w, A), WAY_STATE_FAILING);
    assert_int_equal(view(w, B, 11).of_cluster.state[WAY_STATE_FAILING], 1);
}

static void since_moves_only_when_the_state_changes(void **state)
{
    struct world *w = *state;
    kit_hard(w->h, A, 10, WAY_STATE_FAILING, 15);
    struct way_outcome out = kit_hard(w->h, A, 12, WAY_STATE_FAILING, 15);
    assert_false(out.changed);
    assert_true(verdict(w, A).since == 10 && verdict(w, A).ends == 27);
    kit_hard(w->h, A, 20, WAY_STATE_HEALTHY, 0);
    assert_true(verdict(w, A).since == 20 && verdict(w, A).ends == 0);
    assert_false(verdict(w, A).hard);
}

static void without_seconds_a_mark_lasts_until_the_next(void **state)
{
    struct world *w = *state;
    kit_hard(w->h, A, 10, WAY_STATE_FAILING, 15);
    kit_hard(w->h, A, 11, WAY_STATE_FAILING, 0);
    assert_true(verdict(w, A).ends == 0);
}

static void a_mark_without_a_state_keeps_state_and_end(void **state)
{
    struct world *w = *state;
    struct way_proposal p = { .mark = { .given = true, .has = WAY_MARK_SHED } };
    p.mark.shed = 0.25;
    kit_hard(w->h, A, 10, WAY_STATE_SUSPECT, 15);
    kit_commit(w->h, A, 11, p);
    struct way_verdict v = verdict(w, A);
    assert_int_equal(v.state, WAY_STATE_SUSPECT);
    assert_true(v.ends == 25 && v.since == 10 && v.shed == 0.25);
    assert_int_equal(route(w, A), WAY_STATE_SUSPECT | WAY_ROUTE_SHED);
}

static void a_changed_state_begins_without_weight_ramp_shed_and_reason(void **state)
{
    struct world *w = *state;
    struct way_proposal p = kit_mark(WAY_STATE_SUSPECT, 0);
    p.mark.has |= WAY_MARK_WEIGHT | WAY_MARK_RAMP | WAY_MARK_SHED | WAY_MARK_REASON;
    p.mark.weight = 0.5;
    p.mark.ramp = 10;
    p.mark.shed = 0.1;
    strcpy(p.mark.reason, "slow");
    kit_commit(w->h, A, 10, p);
    kit_soft(w->h, A, 11, WAY_STATE_SUSPECT, 0);
    assert_true(verdict(w, A).weight == 0.5 && verdict(w, A).ramp == 10);
    assert_string_equal(verdict(w, A).reason, "slow");
    kit_soft(w->h, A, 12, WAY_STATE_HEALTHY, 0);
    assert_true(verdict(w, A).weight == 1 && verdict(w, A).ramp == 0);
    assert_true(verdict(w, A).shed == 0);
    assert_string_equal(verdict(w, A).reason, "");
    assert_int_equal(route(w, A), 0);
}

static void weight_grows_over_the_ramp(void **state)
{
    struct world *w = *state;
    struct way_proposal p = kit_mark(WAY_STATE_HEALTHY, 0);
    p.mark.has |= WAY_MARK_WEIGHT | WAY_MARK_RAMP;
    p.mark.weight = 1;
    p.mark.ramp = 10;
    kit_commit(w->h, A, 100, p);
    struct way_verdict v = verdict(w, A);
    assert_true(way_verdict_weight(&v, 100) == 0);
    assert_true(fabs(way_verdict_weight(&v, 105) - 0.5) < 1e-9);
    assert_true(way_verdict_weight(&v, 110) == 1);
    assert_int_equal(route(w, A), WAY_ROUTE_WEIGHT);
    way_health_settle(w->h, A, 105);
    assert_int_equal(route(w, A), WAY_ROUTE_WEIGHT);
    way_health_settle(w->h, A, 110);
    assert_int_equal(route(w, A), 0);
}

static void numbers_no_mark_may_hold_are_cut_to_what_it_may(void **state)
{
    struct world *w = *state;
    struct way_proposal p = kit_mark(WAY_STATE_PROBING, 5);
    p.mark.has |= WAY_MARK_WEIGHT | WAY_MARK_SHED | WAY_MARK_RAMP | WAY_MARK_TRIALS;
    p.mark.weight = 1e9;
    p.mark.shed = NAN;
    p.mark.ramp = -1;
    p.mark.trials = 4000000000u;
    p.mark.seconds = -3;
    kit_commit(w->h, A, 10, p);
    struct way_verdict v = verdict(w, A);
    assert_true(v.weight == 1 && v.shed == 0 && v.ramp == 0 && v.ends == 10);
    assert_int_equal(v.trials, 0xffff);
}

static void drops_are_counted_and_wake_the_workers(void **state)
{
    struct world *w = *state;
    struct way_proposal p = { .mark = { .given = true, .has = WAY_MARK_CONNECTIONS } };
    p.mark.connections = WAY_CONNECTIONS_DROP;
    assert_false(kit_commit(w->h, A, 10, p).changed);
    assert_int_equal(verdict(w, A).drops, 1);
    assert_int_equal(verdict(w, A).connections, WAY_CONNECTIONS_DROP);
    assert_int_equal(w->woken, 1);
    p.mark.connections = WAY_CONNECTIONS_KEEP;
    kit_commit(w->h, A, 11, p);
    assert_int_equal(verdict(w, A).drops, 1);
    assert_int_equal(w->woken, 1);
    p.mark.connections = WAY_CONNECTIONS_DRAIN;
    kit_commit(w->h, A, 12, p);
    assert_int_equal(verdict(w, A).drops, 2);
    assert_int_equal(verdict(w, A).connections, WAY_CONNECTIONS_DRAIN);
}

static void a_changed_state_raises_the_epoch_and_wakes_once(void **state)
{
    struct world *w = *state;
    uint64_t before = atomic_load(way_health_epoch(w->h));
    struct way_outcome out = kit_hard(w->h, A, 10, WAY_STATE_FAILING, 15);
    assert_true(out.published);
    assert_int_equal(atomic_load(way_health_epoch(w->h)), before + 1);
    assert_int_equal(w->woken, 1);
    kit_hard(w->h, A, 11, WAY_STATE_FAILING, 15);
    assert_int_equal(w->woken, 1);
}

/* ---- an operator's marks ---- */

static struct way_outcome by_operator(struct world *w, unsigned node, double now,
                                      enum way_state state, double seconds)
{
    struct way_proposal p = kit_mark(state, seconds);
    p.by_operator = true;
    return kit_commit(w->h, node, now, p);
}

static void an_operators_mark_stands_until_it_ends(void **state)
{
    struct world *w = *state;
    struct way_outcome out = by_operator(w, A, 10, WAY_STATE_SUSPECT, 5);
    assert_true(out.changed && out.published && out.refused == WAY_REFUSED_NOT);
    out = kit_hard(w->h, A, 11, WAY_STATE_FAILING, 15);
    assert_int_equal(out.refused, WAY_REFUSED_OPERATOR);
    assert_false(out.changed);
    assert_int_equal(kit_state(w->h, A), WAY_STATE_SUSPECT);
    assert_true(verdict(w, A).ends == 15);
    struct way_proposal p = { .mark = { .given = true,
                                        .has = WAY_MARK_CONNECTIONS | WAY_MARK_REASON,
                                        .connections = WAY_CONNECTIONS_DROP,
                                        .reason = "policy" } };
    kit_commit(w->h, A, 14.9, p);
    assert_int_equal(verdict(w, A).drops, 0);
    assert_string_equal(verdict(w, A).reason, "");
    out = kit_hard(w->h, A, 15, WAY_STATE_FAILING, 15);
    assert_int_equal(out.refused, WAY_REFUSED_NOT);
    assert_int_equal(kit_state(w->h, A), WAY_STATE_FAILING);
    assert_false(verdict(w, A).by_operator);
}

static void without_an_end_it_stands_until_it_is_taken_back(void **state)
{
    struct world *w = *state;
    by_operator(w, A, 10, WAY_STATE_FAILING, 0);
    kit_soft(w->h, A, 1e9, WAY_STATE_HEALTHY, 0);
    assert_int_equal(kit_state(w->h, A), WAY_STATE_FAILING);
    by_operator(w, A, 11, WAY_STATE_DRAINING, 0); /* another word of the operator's */
    assert_int_equal(kit_state(w->h, A), WAY_STATE_DRAINING);
    struct way_proposal p = kit_mark(WAY_STATE_HEALTHY, 0);
    p.by_operator = p.taken_back = true;
    kit_commit(w->h, A, 12, p);
    assert_int_equal(kit_state(w->h, A), WAY_STATE_HEALTHY);
    kit_soft(w->h, A, 13, WAY_STATE_SUSPECT, 0);
    assert_int_equal(kit_state(w->h, A), WAY_STATE_SUSPECT);
}

static void memory_is_committed_under_an_operators_mark(void **state)
{
    struct world *w = *state;
    struct way_snapshot s;
    struct way_outcome out;
    by_operator(w, A, 10, WAY_STATE_FAILING, 0);
    way_health_snapshot(w->h, A, 11, &s);
    struct way_proposal p = kit_mark(WAY_STATE_HEALTHY, 0);
    p.memory = s.view.memory;
    p.memory.node[0] += 41;
    assert_int_equal(way_health_commit(w->h, &s, &p, false, &out), WAY_COMMIT_DONE);
    assert_int_equal(out.refused, WAY_REFUSED_OPERATOR);
    double before = s.view.memory.node[0];
    way_health_snapshot(w->h, A, 12, &s);
    assert_true(s.view.memory.node[0] == before + 41);
    assert_int_equal(s.view.verdict.state, WAY_STATE_FAILING);
}

static void commits_are_numbered_one_by_one(void **state)
{
    struct world *w = *state;
    struct way_snapshot s;
    struct way_outcome out;
    uint64_t before = way_health_commits(w->h);
    assert_int_equal(kit_hard(w->h, A, 10, WAY_STATE_FAILING, 15).commit, before + 1);
    assert_int_equal(kit_hard(w->h, A, 11, WAY_STATE_FAILING, 15).commit, before + 2);
    way_health_snapshot(w->h, A, 12, &s);
    struct way_proposal nothing = { .memory = s.view.memory };
    assert_int_equal(way_health_commit(w->h, &s, &nothing, false, &out), WAY_COMMIT_DONE);
    assert_false(out.published);
    assert_int_equal(out.commit, before + 2);
    assert_int_equal(way_health_commits(w->h), before + 2);
}

static void an_address_is_told_as_far_as_there_is_room(void **state)
{
    struct world *w = *state;
    char whole[32], cut[6];
    way_health_address(w->h, A, whole, sizeof whole);
    assert_string_equal(whole, "127.0.0.1:7000");
    way_health_address(w->h, A, cut, sizeof cut);
    assert_string_equal(cut, "127.0");
}

/* ---- commits ---- */

static void an_old_snapshot_conflicts(void **state)
{
    struct world *w = *state;
    struct way_snapshot old;
    struct way_outcome out;
    struct way_proposal p = kit_mark(WAY_STATE_SUSPECT, 0);
    way_health_snapshot(w->h, A, 10, &old);
    kit_hard(w->h, A, 10, WAY_STATE_FAILING, 15);
    p.memory = old.view.memory;
    assert_int_equal(way_health_commit(w->h, &old, &p, false, &out), WAY_COMMIT_CONFLICT);
    assert_int_equal(kit_state(w->h, A), WAY_STATE_FAILING);
}

static void memory_of_shard_and_cluster_conflicts_too(void **state)
{
    struct world *w = *state;
    for (unsigned which = 0; which < 2; which++) {
        struct way_snapshot of_a, of_a0;
        struct way_outcome out;
        struct way_proposal p = { .hard = false };
        way_health_snapshot(w->h, A, 10, &of_a);
        way_health_snapshot(w->h, A0, 10, &of_a0);
        p.memory = of_a.view.memory;
        *(which ? p.memory.shard : p.memory.cluster) += 1;
        assert_int_equal(way_health_commit(w->h, &of_a, &p, false, &out),
                         WAY_COMMIT_DONE);
        p = kit_mark(WAY_STATE_SUSPECT, 0);
        p.memory = of_a0.view.memory;
        assert_int_equal(way_health_commit(w->h, &of_a0, &p, false, &out),
                         WAY_COMMIT_CONFLICT);
    }
    assert_true(view(w, A0, 10).memory.shard[0] == 7);
    assert_true(view(w, B, 10).memory.shard[0] == 6);
    assert_true(view(w, B, 10).memory.cluster[0] == 8);
    assert_int_equal(w->woken, 0);
}

static void counters_never_invalidate_a_snapshot(void **state)
{
    struct world *w = *state;
    struct way_snapshot s;
    struct way_outcome out;
    struct way_proposal p = kit_mark(WAY_STATE_SUSPECT, 0);
    way_health_snapshot(w->h, A, 10, &s);
    way_health_failure(w->h, A);
    way_health_latency(w->h, A, 0.1, 10);
    kit_soft(w->h, B, 10, WAY_STATE_SUSPECT, 0);
    p.memory = s.view.memory;
    assert_int_equal(way_health_commit(w->h, &s, &p, false, &out), WAY_COMMIT_DONE);
}

static void nil_with_memory_is_a_commit_and_nil_alone_is_none(void **state)
{
    struct world *w = *state;
    struct way_snapshot s;
    struct way_outcome out;
    struct way_proposal p = { .hard = false };
    way_health_snapshot(w->h, A, 10, &s);
    p.memory = s.view.memory;
    p.memory.node[5] = 1; /* past what the layout declares */
    assert_int_equal(way_health_commit(w->h, &s, &p, false, &out), WAY_COMMIT_DONE);
    assert_true(view(w, A, 10).memory.node[5] == 0);
    p.memory.node[0] = 3;
    assert_int_equal(way_health_commit(w->h, &s, &p, false, &out), WAY_COMMIT_DONE);
    assert_true(view(w, A, 10).memory.node[0] == 3);
    assert_int_equal(way_health_commit(w->h, &s, &p, false, &out), WAY_COMMIT_CONFLICT);
    assert_true(!out.changed && out.to == WAY_STATE_HEALTHY && w->woken == 0);
}

static void under_the_lock_a_snapshot_holds_and_waking_waits(void **state)
{
    struct world *w = *state;
    struct way_snapshot s;
    struct way_outcome out;
    struct way_proposal p = kit_mark(WAY_STATE_FAILING, 5);
    p.hard = true;
    assert_int_equal(way_health_lock(w->h), 0);
    way_health_snapshot(w->h, A, 10, &s);
    p.memory = s.view.memory;
    assert_int_equal(way_health_commit(w->h, &s, &p, true, &out), WAY_COMMIT_DONE);
    assert_int_equal(w->woken, 0);
    way_health_unlock(w->h);
    assert_int_equal(w->woken, 1);
}

/* The thread that holds the lock stands for any other: its wait ends after 1 ms too. */
static void a_lock_that_is_not_to_be_had_is_busy_within_a_millisecond(void **state)
{
    struct world *w = *state;
    struct way_snapshot s;
    struct way_outcome out;
    struct way_proposal p = kit_mark(WAY_STATE_SUSPECT, 5);
    assert_int_equal(way_health_lock(w->h), 0);
    way_health_snapshot(w->h, A, 10, &s);
    p.memory = s.view.memory;
    double began = way_clock(), least = 1;
    for (int i = 0; i < 5; i++) {
        double from = way_clock();
        assert_int_equal(way_health_commit(w->h, &s, &p, false, &out), WAY_COMMIT_BUSY);
        least = fmin(least, way_clock() - from);
    }
    way_health_unlock(w->h);
    assert_true(least >= 0.0009 && way_clock() - began < 1);
    assert_int_equal(kit_state(w->h, A), WAY_STATE_HEALTHY);
}

/* ---- the guard ---- */

static void soft_evidence_never_takes_a_master_out(void **state)
{
    struct world *w = *state;
    struct way_outcome out = kit_soft(w->h, A, 10, WAY_STATE_FAILING, 15);
    assert_int_equal(out.refused, WAY_REFUSED_LAST_NODE);
    assert_int_equal(out.to, WAY_STATE_SUSPECT);
    assert_int_equal(kit_state(w->h, A), WAY_STATE_SUSPECT);
    assert_true(verdict(w, A).ends == 25);
    out = kit_hard(w->h, A, 11, WAY_STATE_FAILING, 15);
    assert_int_equal(out.refused, WAY_REFUSED_NOT);
    assert_int_equal(kit_state(w->h, A), WAY_STATE_FAILING);
}

static void soft_evidence_never_takes_the_last_replica_out(void **state)
{
    struct world *w = *state;
    assert_int_equal(kit_soft(w->h, A0, 10, WAY_STATE_FAILING, 15).to, WAY_STATE_FAILING);
    kit_soft(w->h, A0, 11, WAY_STATE_HEALTHY, 0);
    kit_hard(w->h, A, 12, WAY_STATE_FAILING, 15);
    struct way_outcome out = kit_soft(w->h, A0, 13, WAY_STATE_FAILING, 15);
    assert_int_equal(out.refused, WAY_REFUSED_LAST_NODE);
    assert_int_equal(out.to, WAY_STATE_SUSPECT);
    kit_hard(w->h, A, 14, WAY_STATE_DRAINING, 0);
    out = kit_soft(w->h, A0, 15, WAY_STATE_FAILING, 15);
    assert_int_equal(out.refused, WAY_REFUSED_LAST_NODE);
    kit_hard(w->h, A, 16, WAY_STATE_PROBING, 0); /* trials may serve */
    out = kit_soft(w->h, A0, 17, WAY_STATE_FAILING, 15);
    assert_int_equal(out.refused, WAY_REFUSED_NOT);
}

static void hard_evidence_stands_until_its_end_whatever_soft_evidence_says(void **state)
{
    struct world *w = *state;
    kit_hard(w->h, A, 10, WAY_STATE_FAILING, 15);
    struct way_outcome out = kit_soft(w->h, A, 12, WAY_STATE_FAILING, 60);
    assert_int_equal(out.refused, WAY_REFUSED_LAST_NODE);
    assert_int_equal(out.to, WAY_STATE_FAILING);
    assert_true(verdict(w, A).ends == 25);
    out = kit_soft(w->h, A, 25, WAY_STATE_FAILING, 60); /* of an expiry */
    assert_int_equal(out.to, WAY_STATE_SUSPECT);
}

static void an_operator_outranks_the_guard(void **state)
{
    struct world *w = *state;
    struct way_proposal p = kit_mark(WAY_STATE_FAILING, 0);
    p.by_operator = true;
    assert_int_equal(kit_commit(w->h, A, 10, p).to, WAY_STATE_FAILING);
}

static void without_the_guard_soft_evidence_is_enough(void **state)
{
    struct world *w = *state;
    for (unsigned n = 0; n < 6; n++)
        assert_int_equal(kit_soft(w->h, n, 10, WAY_STATE_FAILING, 15).to,
                         WAY_STATE_FAILING);
}

static void no_more_than_the_share_is_out_on_soft_evidence(void **state)
{
    struct world *w = *state; /* half of six nodes */
    struct way_topology *t = kit_cluster(3);
    kit_publish(w->h, t, 2); /* of twelve now: six */
    unsigned out_of_it = 0;
    kit_hard(w->h, A, 9, WAY_STATE_FAILING, 15); /* hard: not counted */
    for (unsigned n = 3; n < 12; n++) {
        struct way_outcome out = kit_soft(w->h, n, 10, WAY_STATE_FAILING, 15);
        if (out.to == WAY_STATE_FAILING)
            out_of_it++;
        else /* a2 is the last of its shard besides */
            assert_int_equal(out.refused,
                             n == 9 ? WAY_REFUSED_LAST_NODE : WAY_REFUSED_SHARE);
    }
    assert_int_equal(out_of_it, 6);
    kit_soft(w->h, 4, 11, WAY_STATE_FAILING, 15); /* renewed: still one of them */
    assert_int_equal(kit_state(w->h, 4), WAY_STATE_FAILING);
    kit_soft(w->h, 4, 12, WAY_STATE_PROBING, 15); /* still out */
    assert_int_equal(kit_soft(w->h, 11, 12, WAY_STATE_FAILING, 15).refused,
                     WAY_REFUSED_SHARE);
    kit_soft(w->h, 4, 13, WAY_STATE_HEALTHY, 0);
    assert_int_equal(kit_soft(w->h, 11, 13, WAY_STATE_FAILING, 15).refused,
                     WAY_REFUSED_NOT);
    assert_int_equal(kit_hard(w->h, 4, 14, WAY_STATE_FAILING, 15).refused,
                     WAY_REFUSED_NOT);
    kit_topology_free(t);
}

/* ---- counters ---- */

static void failures_in_a_row_end_with_the_first_success(void **state)
{
    struct world *w = *state;
    assert_false(way_health_success(w->h, A));
    assert_int_equal(way_health_failure(w->h, A), 1);
    assert_int_equal(way_health_failure(w->h, A), 2);
    assert_int_equal(view(w, A, 10).failures, 2);
    assert_true(way_health_success(w->h, A));
    assert_false(way_health_success(w->h, A));
    assert_int_equal(view(w, A, 10).failures, 0);
}

static void latency_forgets_over_ten_seconds(void **state)
{
    struct world *w = *state;
    assert_true(way_health_latency_get(w->h, A) < 0);
    way_health_latency(w->h, A, 0.100, 1000);
    assert_true(fabs(way_health_latency_get(w->h, A) - 0.100) < 1e-6);
    way_health_latency(w->h, A, 0.200, 1000); /* the same millisecond */
    assert_true(fabs(way_health_latency_get(w->h, A) - 0.100) < 1e-6);
    way_health_latency(w->h, A, 0.200, 1010);
    double want = 0.200 - 0.100 * exp(-1);
    assert_true(fabs(way_health_latency_get(w->h, A) - want) < 1e-5);
    way_health_latency(w->h, A, 0.001, 2000);
    assert_true(fabs(way_health_latency_get(w->h, A) - 0.001) < 1e-5);
    way_health_latency(w->h, A, 0, 3000);
    assert_true(way_health_latency_get(w->h, A) >= 0);
    way_health_latency(w->h, B, 0.010, 5e6); /* past 49 days of milliseconds */
    way_health_latency(w->h, B, 0.020, 5e6 + 10);
    want = 0.020 - 0.010 * exp(-1);
    assert_true(fabs(way_health_latency_get(w->h, B) - want) < 1e-5);
}

static void what_a_probe_told_of_replication_is_seen(void **state)
{
    struct world *w = *state;
    way_health_replication(w->h, A0, true, 1.5, 4096);
    struct way_view v = view(w, A0, 10);
    assert_true(v.has_replication && v.link_up && v.last_io == 1.5 && v.behind == 4096);
    way_health_replication(w->h, A0, false, 9, 8192);
    v = view(w, A0, 10);
    assert_true(v.has_replication && !v.link_up && v.last_io == 9);
}

/* ---- rows ---- */

static void figures_add_up_over_rows(void **state)
{
    struct world *w = *state;
    struct way_err err;
    int one = way_health_row_attach(w->h, &err), two = way_health_row_attach(w->h, &err);
    assert_true(one >= 0 && two >= 0 && one != two);
    atomic_store(&way_health_cells(w->h, one)[A].inflight, 3);
    atomic_store(&way_health_cells(w->h, two)[A].inflight, 4);
    atomic_store(&way_health_cells(w->h, two)[A0].inflight, 5);
    atomic_store(&way_health_cells(w->h, two)[B].retrying, 6);
    struct way_view v = view(w, A, 10);
    assert_int_equal(v.inflight, 7);
    assert_int_equal(v.of_shard.inflight, 12);
    assert_int_equal(v.of_cluster.inflight, 12);
    assert_int_equal(v.of_shard.retrying, 0);
    assert_int_equal(v.of_cluster.retrying, 6);
    way_health_row_detach(w->h, two);
    assert_int_equal(view(w, A, 10).inflight, 3);
    assert_int_equal(way_health_row_attach(w->h, &err), two);
    assert_int_equal(view(w, A, 10).inflight, 3);
    way_health_row_detach(w->h, one);
    way_health_row_detach(w->h, two);
}

static void more_workers_than_rows_are_told_so(void **state)
{
    struct world *w = *state;
    struct way_err err;
    for (int i = 0; i < WAY_ROWS_MAX; i++)
        assert_int_equal(way_health_row_attach(w->h, &err), i);
    assert_int_equal(way_health_row_attach(w->h, &err), -1);
    assert_non_null(strstr(err.text, "128"));
    for (int i = 0; i < WAY_ROWS_MAX; i++)
        way_health_row_detach(w->h, i);
}

/* ---- trials ---- */

struct trial_world {
    struct world *w;
    int one, two;
};

static struct trial_world probing(struct world *w, uint32_t trials)
{
    struct trial_world tw = { .w = w };
    struct way_proposal p = kit_mark(WAY_STATE_PROBING, 0);
    struct way_err err;
    p.mark.has |= WAY_MARK_TRIALS;
    p.mark.trials = trials;
    kit_commit(w->h, A, 10, p);
    tw.one = way_health_row_attach(w->h, &err);
    tw.two = way_health_row_attach(w->h, &err);
    return tw;
}

static void trials_done(struct trial_world tw)
{
    way_health_row_detach(tw.w->h, tw.one);
    way_health_row_detach(tw.w->h, tw.two);
}

static void so_many_trials_go_through_and_no_more(void **state)
{
    struct trial_world t = probing(*state, 3);
    struct way_health *h = t.w->h;
    assert_true(way_health_trial_take(h, A, t.one, 11));
    assert_true(way_health_trial_take(h, A, t.one, 11));
    assert_true(way_health_trial_take(h, A, t.two, 11));
    assert_false(way_health_trial_take(h, A, t.two, 11));
    way_health_trial_end(h, A, t.one, false);
    assert_false(way_health_trial_take(h, A, t.two, 11)); /* in all, not at a time */
    way_health_trial_end(h, A, t.two, true);
    assert_true(way_health_trial_take(h, A, t.two, 11));
    assert_false(way_health_trial_take(h, A, t.one, 11));
    assert_false(way_health_trial_take(h, B, t.one, 11)); /* healthy: no trials */
    trials_done(t);
}

static void a_trial_that_never_ends_gives_its_place_back(void **state)
{
    struct trial_world t = probing(*state, 1);
    struct way_health *h = t.w->h;
    assert_true(way_health_trial_take(h, A, t.one, 11));
    assert_false(way_health_trial_take(h, A, t.two, 20.9));
    assert_true(way_health_trial_take(h, A, t.two, 21.1));
    assert_false(way_health_trial_take(h, A, t.one, 21.2));
    way_health_trial_end(h, A, t.one, true); /* late: its place is another's now */
    assert_false(way_health_trial_take(h, A, t.one, 21.3));
    way_health_trial_end(h, A, t.two, false);
    assert_false(way_health_trial_take(h, A, t.one, 40));
    trials_done(t);
}

static void a_worker_that_leaves_gives_its_trials_back(void **state)
{
    struct trial_world t = probing(*state, 1);
    struct way_health *h = t.w->h;
    struct way_err err;
    assert_true(way_health_trial_take(h, A, t.one, 11));
    way_health_row_detach(h, t.one);
    assert_true(way_health_trial_take(h, A, t.two, 11.1));
    t.one = way_health_row_attach(h, &err);
    trials_done(t);
}

static void a_new_mark_is_a_new_allotment(void **state)
{
    struct trial_world t = probing(*state, 1);
    struct way_health *h = t.w->h;
    assert_true(way_health_trial_take(h, A, t.one, 11));
    kit_hard(h, A, 12, WAY_STATE_FAILING, 5);
    assert_false(way_health_trial_take(h, A, t.two, 12));
    kit_soft(h, A, 13, WAY_STATE_PROBING, 0); /* one, by default */
    way_health_trial_end(h, A, t.one, true);  /* of the one before: adds nothing */
    assert_true(way_health_trial_take(h, A, t.two, 13));
    assert_false(way_health_trial_take(h, A, t.one, 13));
    way_health_trial_end(h, A, t.two, true);
    /* memory alone is no new allotment */
    struct way_snapshot s;
    struct way_outcome out;
    struct way_proposal p = { .hard = false };
    assert_true(way_health_trial_take(h, A, t.one, 14));
    way_health_snapshot(h, A, 14, &s);
    p.memory = s.view.memory;
    p.memory.node[0] = 1;
    assert_int_equal(way_health_commit(h, &s, &p, false, &out), WAY_COMMIT_DONE);
    assert_false(way_health_trial_take(h, A, t.two, 14));
    trials_done(t);
}

/* ---- leases ---- */

static void one_holder_at_a_time_has_the_lease(void **state)
{
    struct world *w = *state;
    assert_true(way_health_lease(w->h, A, 1, 10, 5));
    assert_false(way_health_lease(w->h, A, 2, 14.9, 5));
    assert_true(way_health_lease(w->h, B, 2, 14.9, 5));
    assert_true(way_health_lease(w->h, A, 1, 14.9, 5)); /* renewed */
    assert_false(way_health_lease(w->h, A, 2, 15.1, 5));
    assert_true(way_health_lease(w->h, A, 2, 19.9, 5)); /* expired */
    way_health_release(w->h, A, 1);                     /* not its own any more */
    assert_false(way_health_lease(w->h, A, 1, 20, 5));
    way_health_release(w->h, A, 2);
    assert_true(way_health_lease(w->h, A, 1, 20, 5));
}

static void one_holder_at_a_time_sweeps(void **state)
{
    struct world *w = *state;
    double lapsed = 9;
    assert_true(way_health_sweep_lease(w->h, 1, 10, 1.5, &lapsed));
    assert_true(lapsed < 0); /* it is the first */
    assert_false(way_health_sweep_lease(w->h, 2, 11.4, 1.5, &lapsed));
    assert_true(way_health_sweep_lease(w->h, 1, 11, 1.5, &lapsed)); /* renewed */
    assert_true(lapsed < 0);
    assert_true(way_health_lease(w->h, A, 2, 11, 5)); /* probes are another matter */
    assert_false(way_health_sweep_lease(w->h, 2, 12.4, 1.5, &lapsed));
    assert_true(way_health_sweep_lease(w->h, 2, 12.75, 1.5, &lapsed));
    if (lapsed < 0.24 || lapsed > 0.26)
        fail_msg("it ran out 0.25 s ago, told was %.3f", lapsed);
    assert_false(way_health_sweep_lease(w->h, 1, 13, 1.5, &lapsed));
}

static void a_survey_is_what_snapshots_are(void **state)
{
    struct world *w = *state;
    enum { MEMBERS = 6 };
    struct way_snapshot all[MEMBERS + 1], one;
    uint64_t epoch = atomic_load(way_health_policy_epoch(w->h));
    struct way_err err;
    int row = way_health_row_attach(w->h, &err);
    kit_hard(w->h, B0, 20, WAY_STATE_FAILING, 5);
    kit_soft(w->h, C, 21, WAY_STATE_SUSPECT, 0);
    for (unsigned n = 0; n < MEMBERS; n++) {
        atomic_store(&way_health_cells(w->h, row)[n].inflight, n + 1);
        atomic_store(&way_health_cells(w->h, row)[n].retrying, 2 * n);
    }
    assert_int_equal(way_health_survey(w->h, 22, epoch, all, MEMBERS + 1), MEMBERS);
    for (unsigned n = 0; n < MEMBERS; n++) {
        const struct way_view *v = &all[n].view;
        assert_int_equal(v->node, n);
        way_health_snapshot(w->h, n, 22, &one);
        assert_memory_equal(&v->of_shard, &one.view.of_shard, sizeof v->of_shard);
        assert_memory_equal(&v->of_cluster, &one.view.of_cluster, sizeof v->of_cluster);
        assert_memory_equal(&v->verdict, &one.view.verdict, sizeof v->verdict);
        assert_memory_equal(&v->memory, &one.view.memory, sizeof v->memory);
        assert_string_equal(v->address, one.view.address);
        assert_int_equal(v->inflight, n + 1);
        assert_int_equal(way_health_inflight(w->h, n), n + 1);
        assert_int_equal(all[n].node_version, one.node_version);
    }
    assert_int_equal(all[0].view.of_cluster.state[WAY_STATE_FAILING], 1);
    assert_int_equal(way_health_survey(w->h, 22, epoch, all, 2), 2);
    way_health_row_detach(w->h, row);
}

static void one_worker_claims_a_dial(void **state)
{
    struct world *w = *state;
    assert_true(way_health_dial_at(w->h, A) == 0);
    assert_true(way_health_dial_claim(w->h, A, 10, 11));
    assert_false(way_health_dial_claim(w->h, A, 10, 11));
    assert_true(way_health_dial_at(w->h, A) == 11);
    assert_true(way_health_dial_claim(w->h, A, 11, 12));
    way_health_dial_after(w->h, A, 30);
    assert_false(way_health_dial_claim(w->h, A, 29, 31));
    way_health_dial_after(w->h, A, 0);
    assert_true(way_health_dial_claim(w->h, A, 29, 31));
}

/* Prints, asserts nothing: the machine is not ours alone. The best of some batches. */
static void what_a_mark_costs(void **state)
{
    struct world *w = *state;
    enum { BATCHES = 40, ROUNDS = 5000 };
    double best[3] = { 1, 1, 1 };
    struct way_snapshot s;
    struct way_outcome out;
    struct way_proposal p = kit_mark(WAY_STATE_FAILING, 5);
    p.hard = true;
    for (unsigned batch = 0; batch < BATCHES; batch++) {
        double t0 = way_clock();
        for (unsigned i = 0; i < ROUNDS; i++)
            way_health_snapshot(w->h, A, 10, &s);
        double t1 = way_clock();
        for (unsigned i = 0; i < ROUNDS; i++) {
            way_health_snapshot(w->h, A, 10, &s);
            p.memory = s.view.memory;
            p.memory.node[0] = i;
            assert_int_equal(way_health_commit(w->h, &s, &p, false, &out),
                             WAY_COMMIT_DONE);
        }
        double t2 = way_clock();
        for (unsigned i = 0; i < ROUNDS; i++)
            way_health_success(w->h, A);
        double t3 = way_clock();
        best[0] = fmin(best[0], (t1 - t0) / ROUNDS);
        best[1] = fmin(best[1], (t2 - t1) / ROUNDS);
        best[2] = fmin(best[2], (t3 - t2) / ROUNDS);
    }
    print_message("snapshot %.0f ns, snapshot and commit %.0f ns, success %.1f ns\n",
                  best[0] * 1e9, best[1] * 1e9, best[2] * 1e9);
}

#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_new_node_is_healthy_and_whole),
        T(a_mark_tells_state_end_and_reason),
        T(since_moves_only_when_the_state_changes),
        T(without_seconds_a_mark_lasts_until_the_next),
        T(a_mark_without_a_state_keeps_state_and_end),
        T(a_changed_state_begins_without_weight_ramp_shed_and_reason),
        T(weight_grows_over_the_ramp),
        T(numbers_no_mark_may_hold_are_cut_to_what_it_may),
        T(drops_are_counted_and_wake_the_workers),
        T(a_changed_state_raises_the_epoch_and_wakes_once),
        T(an_operators_mark_stands_until_it_ends),
        T(without_an_end_it_stands_until_it_is_taken_back),
        T(memory_is_committed_under_an_operators_mark),
        T(commits_are_numbered_one_by_one),
        T(an_address_is_told_as_far_as_there_is_room),
        T(an_old_snapshot_conflicts),
        T(memory_of_shard_and_cluster_conflicts_too),
        T(counters_never_invalidate_a_snapshot),
        T(nil_with_memory_is_a_commit_and_nil_alone_is_none),
        T(under_the_lock_a_snapshot_holds_and_waking_waits),
        T(a_lock_that_is_not_to_be_had_is_busy_within_a_millisecond),
        T(soft_evidence_never_takes_a_master_out),
        cmocka_unit_test_setup_teardown(soft_evidence_never_takes_the_last_replica_out,
                                        begin_generous, end),
        T(hard_evidence_stands_until_its_end_whatever_soft_evidence_says),
        T(an_operator_outranks_the_guard),
        cmocka_unit_test_setup_teardown(without_the_guard_soft_evidence_is_enough,
                                        begin_unguarded, end),
        T(no_more_than_the_share_is_out_on_soft_evidence),
        T(failures_in_a_row_end_with_the_first_success),
        T(latency_forgets_over_ten_seconds),
        T(what_a_probe_told_of_replication_is_seen),
        T(figures_add_up_over_rows),
        T(more_workers_than_rows_are_told_so),
        T(so_many_trials_go_through_and_no_more),
        T(a_trial_that_never_ends_gives_its_place_back),
        T(a_worker_that_leaves_gives_its_trials_back),
        T(a_new_mark_is_a_new_allotment),
        T(one_holder_at_a_time_has_the_lease),
        T(one_holder_at_a_time_sweeps),
        T(a_survey_is_what_snapshots_are),
        T(one_worker_claims_a_dial),
        T(what_a_mark_costs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
