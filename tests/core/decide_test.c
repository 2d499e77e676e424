/* decide: the one path of an error. What the policy says is committed whole or asked again;
 * where it can't say anything the fallback does; nobody is blamed for what was known. */
#include "decide_kit.h"
#include "log.h"

#include <pthread.h>

enum { ENTRIES = 256 };

struct bed {
    struct way_policy_text text;
    struct way_limits limits;
    struct way_health *health;
    struct way_decider *decider;
    struct way_stats stats;
    struct way_ring *ring;
    unsigned told; /* times that journaled() was called */
    unsigned node[NODES];
    double now;
};

static void on_journaled(void *arg)
{
    ((struct bed *)arg)->told++;
}

static struct way_decider *new_decider(struct bed *b)
{
    struct way_err err;
    struct way_decider *d;
    struct way_decider_options o = { .health = b->health,
                                     .text = &b->text,
                                     .limits = &b->limits,
                                     .stats = &b->stats,
                                     .ring = b->ring,
                                     .thread = 3,
                                     .journaled = on_journaled,
                                     .arg = b };
    must(way_decider_new(&d, &o, &err), &err);
    return d;
}

static void begin(struct bed *b, const char *policy)
{
    struct way_err err;
    struct way_policy *p;
    memset(b, 0, sizeof *b);
    b->now = 1000;
    way_limits_default(&b->limits);
    kit_policy(&b->text, &b->limits, policy);
    must(way_policy_load(&p, &b->text, &err), &err);
    b->health = kit_table_of(p, 1);
    way_policy_free(p);
    b->ring = way_ring_new(ENTRIES);
    b->decider = new_decider(b);
    kit_publish_nodes(b->health, b->now, b->node);
    b->now += 10;
}

static void end(struct bed *b)
{
    way_decider_free(b->decider);
    way_ring_free(b->ring);
    way_health_check(b->health);
    way_health_close(b->health);
    way_policy_text_fini(&b->text);
}

static struct way_event refused(struct bed *b)
{
    return kit_refused(b->now);
}

static struct way_event replied(struct bed *b, const char *message)
{
    return kit_replied(b->now, message);
}

static struct way_decision decide(struct bed *b, unsigned node, struct way_event e)
{
    struct way_decision d;
    way_decide(b->decider, b->node[node], &e, &d);
    return d;
}

/* The next entry of the journal; there must be one. */
static struct way_entry entry(struct bed *b)
{
    const struct way_entry *e = way_ring_peek(b->ring);
    assert_non_null(e);
    struct way_entry out = *e;
    way_ring_pop(b->ring);
    return out;
}

static void assert_no_entry(struct bed *b)
{
    assert_null(way_ring_peek(b->ring));
}

static uint64_t stat_of(struct bed *b, enum way_stat which)
{
    return way_stat_get(&b->stats, which);
}

/* Of the policy, in any function and of any cause. */
static uint64_t errors_in(const struct way_stats *stats)
{
    uint64_t sum = 0;
    for (int i = WAY_STAT_POLICY_FIRST; i <= WAY_STAT_POLICY_LAST; i++)
        sum += way_stat_get(stats, (enum way_stat)i);
    return sum;
}

static unsigned failures_of(struct bed *b, unsigned node)
{
    return atomic_load(&way_health_node(b->health, b->node[node])->failures);
}

/* ---- classify, mark, commit ---- */

static const char marks[] = POLICY(
    "mark = function(_, node, e) if e.error then return { state = 'failing', reason "
    "= e.error, seconds = 7 } end if node.state ~= 'healthy' then return { state = "
    "'healthy' } end end");

static void an_error_is_classified_marked_committed_and_written_down(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, marks);
    struct way_decision d = decide(&b, A, refused(&b));
    assert_true(d.asked);
    assert_true(d.refresh);
    assert_int_equal(d.commit, WAY_COMMIT_DONE);
    assert_true(d.outcome.changed);
    assert_int_equal(d.outcome.from, WAY_STATE_HEALTHY);
    assert_int_equal(d.outcome.to, WAY_STATE_FAILING);
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_FAILING);
    struct way_verdict v;
    way_health_verdict(b.health, b.node[A], &v);
    assert_string_equal(v.reason, "refused");
    assert_true(v.ends > b.now + 6.9 && v.ends < b.now + 7.1);
    assert_int_equal(failures_of(&b, A), 1);
    struct way_entry e = entry(&b);
    assert_int_equal(e.function, WAY_FN_MARK);
    assert_int_equal(e.thread, 3);
    assert_int_equal(e.seq, 1);
    assert_int_equal(e.node, b.node[A]);
    assert_string_equal(e.address, "127.0.0.1:7000");
    assert_string_equal(e.class_name, "down");
    assert_string_equal(e.did, "healthy -> failing");
    assert_non_null(strstr(e.where, "test.lua:"));
    assert_false(e.fallback);
    assert_no_entry(&b);
    assert_int_equal(b.told, 1);
    assert_int_equal(stat_of(&b, WAY_STAT_COMMITS), 1);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 1);
    end(&b);
}

static void what_began_before_the_mark_is_known_already(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, marks);
    decide(&b, A, refused(&b));
    entry(&b);
    for (unsigned i = 0; i < 15; i++) { /* they died together with the first */
        struct way_decision d = decide(&b, A, refused(&b));
        assert_false(d.asked);
        assert_true(d.refresh); /* the class still says so */
        assert_true(entry(&b).straggler);
    }
    assert_int_equal(failures_of(&b, A), 1);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 1);
    b.now += 1; /* what begins after it is news */
    assert_true(decide(&b, A, refused(&b)).asked);
    assert_int_equal(failures_of(&b, A), 2);
    end(&b);
}

struct other {
    struct bed *bed;
    unsigned seen, strikes_at; /* snapshots; with which of them the other decides */
};

/* Another thread that has met the same fault, between a snapshot and its commit. */
static void strike_too(void *arg, struct way_snapshot *seen)
{
    struct other *o = arg;
    (void)seen;
    if (++o->seen == o->strikes_at)
        assert_true(decide(o->bed, A, refused(o->bed)).asked);
}

static void what_another_marked_meanwhile_is_not_struck_twice(void **state)
{
    (void)state;
    struct bed b;
    struct way_err err;
    struct way_decision d;
    begin(&b, marks);
    struct other other = { .bed = &b, .strikes_at = 1 };
    struct way_stats stats = { 0 };
    struct way_decider *late;
    struct way_decider_options o = { .health = b.health,
                                     .text = &b.text,
                                     .limits = &b.limits,
                                     .stats = &stats,
                                     .ring = way_ring_new(4),
                                     .see = strike_too,
                                     .replay = &other };
    must(way_decider_new(&late, &o, &err), &err);
    struct way_event e = refused(&b);
    way_decide(late, b.node[A], &e, &d);
    assert_int_equal(way_stat_get(&stats, WAY_STAT_CONFLICTS), 1);
    assert_int_equal(way_stat_get(&stats, WAY_STAT_COMMITS), 0);
    assert_false(d.asked);
    assert_false(d.mark.given); /* what it said before the conflict is void */
    assert_true(d.refresh);
    assert_int_equal(failures_of(&b, A), 1);
    const struct way_entry *written = way_ring_peek(o.ring);
    assert_non_null(written);
    assert_true(written->straggler);
    assert_int_equal(written->function, WAY_FN_NONE);
    way_ring_pop(o.ring);
    b.now += 1; /* what begins after it is asked about here too */
    e = refused(&b);
    way_decide(late, b.node[A], &e, &d);
    assert_true(d.asked);
    assert_int_equal(failures_of(&b, A), 2);
    way_decider_free(late);
    way_ring_free(o.ring);
    end(&b);
}

static void only_what_blames_the_node_reaches_mark(void **state)
{
    (void)state;
    static const char *const others[] = { "TRYAGAIN x",  "CLUSTERDOWN x", "READONLY x",
                                          "WRONGPASS x", "WRONGTYPE x",   "ERR x" };
    struct bed b;
    begin(&b, marks);
    for (unsigned i = 0; i < way_count(others); i++) {
        struct way_decision d = decide(&b, A, replied(&b, others[i]));
        assert_false(d.asked);
        assert_int_equal(d.refresh, i == 1 || i == 2);
        assert_int_equal(entry(&b).function, WAY_FN_NONE);
    }
    assert_int_equal(failures_of(&b, A), 0);
    assert_true(decide(&b, A0, replied(&b, "LOADING x")).asked);
    assert_int_equal(kit_state(b.health, b.node[A0]), WAY_STATE_FAILING);
    end(&b);
}

static void a_trial_is_heard_of_whatever_it_ended_with(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, marks);
    struct way_event e = replied(&b, "TRYAGAIN x");
    e.trial = true;
    assert_true(decide(&b, A, e).asked);
    end(&b);
}

static void a_success_that_changes_nothing_is_not_written_down(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, marks);
    struct way_decision d = decide(&b, A, replied(&b, NULL));
    assert_true(d.asked);
    assert_false(d.mark.given);
    assert_no_entry(&b);
    decide(&b, A, refused(&b));
    entry(&b);
    b.now += 1;
    d = decide(&b, A, replied(&b, NULL));
    assert_int_equal(d.outcome.to, WAY_STATE_HEALTHY);
    assert_string_equal(entry(&b).did, "failing -> healthy");
    end(&b);
}

static void the_guard_is_told_with_the_entry(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, marks);
    struct way_event e = replied(&b, "LOADING x");
    struct way_decision d = decide(&b, B, e); /* b has no replica */
    assert_int_equal(d.outcome.refused, WAY_REFUSED_LAST_NODE);
    assert_int_equal(kit_state(b.health, b.node[B]), WAY_STATE_SUSPECT);
    assert_non_null(strstr(entry(&b).did, "suspect (guard: the last node that serves)"));
    end(&b);
}

static void a_policys_own_class_blames_as_it_says(void **state)
{
    (void)state;
    struct bed b;
    begin(&b,
          POLICY("classes = { { error = 'reply', message = 'slow disk', class = 'disk', "
                 "blame = 'node' }, wayside.default.classes }, mark = function(_, _, e) "
                 "return { state = 'failing', reason = e.class } end"));
    struct way_event e = replied(&b, "ERR slow disk");
    struct way_decision d;
    way_decide(b.decider, b.node[A], &e, &d);
    assert_true(d.asked);
    assert_string_equal(way_decider_class_name(b.decider, e.class), "disk");
    assert_string_equal(entry(&b).class_name, "disk");
    end(&b);
}

/* ---- where the policy can't ---- */

static void the_fallback_decides_where_the_policy_fails(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("memory = { node = { n = 0 } }, mark = function(_, node) "
                     "node.memory.n = 5 error('oh') end"));
    way_log_level(WAY_ERROR + 1);
    struct way_decision d = decide(&b, A, refused(&b));
    assert_int_equal(d.outcome.to, WAY_STATE_FAILING);
    struct way_entry e = entry(&b);
    assert_true(e.fallback);
    assert_string_equal(e.where, "fallback");
    assert_int_equal(errors_in(&b.stats), 1);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_MARK_ERROR), 1);
    assert_int_equal(stat_of(&b, WAY_STAT_FALLBACK), 1);
    struct way_snapshot s;
    way_health_snapshot(b.health, b.node[A], b.now, &s);
    assert_true(s.view.memory.node[0] < 1); /* what the failed call set is not kept */
    end(&b);
}

static void a_policy_that_fails_too_often_is_set_aside(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("mark = function() error('oh') end"));
    b.limits.policy_errors = 3;
    b.limits.policy_window = 60;
    way_log_level(WAY_ERROR + 1);
    decide(&b, A, refused(&b));
    b.now += 100; /* another window */
    decide(&b, A, refused(&b));
    b.now += 1;
    decide(&b, A, refused(&b));
    assert_false(way_decider_set_aside(b.decider));
    b.now += 1;
    decide(&b, A, refused(&b));
    assert_true(way_decider_set_aside(b.decider));
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 4);
    b.now += 1;
    struct way_decision d = decide(&b, B, refused(&b));
    assert_int_equal(d.outcome.to, WAY_STATE_FAILING);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 4);
    assert_int_equal(stat_of(&b, WAY_STAT_FALLBACK), 5);
    end(&b);
}

static void without_a_policy_the_fallback_decides(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, NULL);
    assert_int_equal(decide(&b, A, refused(&b)).outcome.to, WAY_STATE_FAILING);
    struct way_event e = refused(&b);
    struct way_retry r;
    struct way_entry en;
    way_decide_classify(b.decider, &e);
    e.attempt = 1;
    e.commands = WAY_COMMANDS_READS;
    way_decide_retry(b.decider, b.node[A], &e, &r, &en);
    assert_int_equal(r.kind, WAY_RETRY_OTHER);
    struct way_probe p;
    way_decide_probe(b.decider, b.node[A], &e, &p);
    assert_true(p.given);
    struct way_redial rd;
    way_decide_redial(b.decider, b.node[A], &e, &rd);
    assert_false(rd.given);
    assert_int_equal(errors_in(&b.stats), 0);
    end(&b);
}

/* ---- the other questions ---- */

static void backoff_and_what_came_of_it_are_one_entry(void **state)
{
    (void)state;
    struct bed b;
    begin(&b,
          POLICY("backoff = function(_, node, e) if node.role == 'master' and e.commands "
                 "== 'writes' and e.certainty == 'unsent' and e.attempt == 2 then return "
                 "{ retry = 'hold', within = 1.5, after = 0.25, unknown_writes = true } "
                 "end end"));
    struct way_event e = refused(&b);
    struct way_retry r;
    struct way_entry en;
    way_decide_classify(b.decider, &e);
    e.kind = WAY_KIND_COMMANDS;
    e.commands = WAY_COMMANDS_WRITES;
    e.certainty = WAY_CERTAINTY_UNSENT;
    e.has_certainty = true;
    e.attempt = 2;
    way_decide_retry(b.decider, b.node[A], &e, &r, &en);
    assert_int_equal(r.kind, WAY_RETRY_HOLD);
    assert_true(r.within > 1.4 && r.within < 1.6 && r.after > 0.2 && r.after < 0.3);
    assert_true(r.unknown_writes);
    assert_false(r.stale_reads);
    assert_no_entry(&b);
    way_decide_did(b.decider, &en, "%u held", 12u);
    struct way_entry written = entry(&b);
    assert_int_equal(written.function, WAY_FN_BACKOFF);
    assert_int_equal(written.retry.kind, WAY_RETRY_HOLD);
    assert_string_equal(written.did, "12 held");
    way_decide_retry(b.decider, b.node[A0], &e, &r, &en);
    assert_int_equal(r.kind, WAY_RETRY_NONE);
    end(&b);
}

static void what_is_permanent_is_not_asked_about(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("backoff = function() return { retry = 'same' } end"));
    struct way_event e = replied(&b, "NOPERM x");
    struct way_retry r;
    struct way_entry en;
    way_decide_classify(b.decider, &e);
    assert_true(e.permanent);
    way_decide_retry(b.decider, b.node[A], &e, &r, &en);
    assert_int_equal(r.kind, WAY_RETRY_NONE);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 0);
    end(&b);
}

static void reconnect_and_probe_are_asked(void **state)
{
    (void)state;
    struct bed b;
    begin(&b,
          POLICY("reconnect = function(_, _, e) return { after = e.attempt } end, probe "
                 "= function(_, node) if node.state == 'failing' then return { after = "
                 "2, command = { 'PING', 'x' } } end end"));
    struct way_event e = refused(&b);
    struct way_redial rd;
    struct way_probe p;
    e.attempt = 3;
    way_decide_redial(b.decider, b.node[A], &e, &rd);
    assert_true(rd.given && rd.after > 2.9 && rd.after < 3.1);
    way_decide_probe(b.decider, b.node[A], &e, &p);
    assert_false(p.given);
    kit_hard(b.health, b.node[A], b.now, WAY_STATE_FAILING, 0);
    way_decide_probe(b.decider, b.node[A], &e, &p);
    assert_true(p.given && p.after > 1.9 && p.after < 2.1);
    assert_int_equal(p.words, 2);
    assert_memory_equal(p.command, "PING\0x", 7);
    end(&b);
}

/* ---- the journal has an end ---- */

static void a_full_journal_loses_the_new_entry_and_counts_it(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, marks);
    unsigned written = 0;
    while (stat_of(&b, WAY_STAT_JOURNAL_LOST) == 0) {
        assert_true(written++ <= 2 * ENTRIES);
        decide(&b, A, replied(&b, "ERR x"));
    }
    assert_int_equal(b.told, written - 1);
    assert_int_equal(entry(&b).seq, 1);
    assert_int_equal(decide(&b, A, refused(&b)).outcome.to, WAY_STATE_FAILING);
    end(&b);
}

/* ---- commits under contention ---- */

static void a_verdict_that_finds_the_lock_taken_holds_here_until_it_can_be_committed(
    void **state)
{
    (void)state;
    struct bed b;
    enum way_state pending;
    begin(&b, marks);
    assert_int_equal(way_health_lock(b.health), 0);
    struct way_decision d = decide(&b, A, refused(&b));
    assert_int_equal(d.commit, WAY_COMMIT_BUSY);
    assert_string_equal(entry(&b).did, "holds in this worker: the lock is busy");
    assert_int_equal(way_decider_pending(b.decider), 1);
    assert_true(way_decider_pending_state(b.decider, b.node[A], &pending));
    assert_int_equal(pending, WAY_STATE_FAILING);
    assert_false(way_decider_pending_state(b.decider, b.node[B], &pending));
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_HEALTHY);
    way_decide_pass(b.decider, b.now);
    assert_int_equal(way_decider_pending(b.decider), 1);
    b.now += 1;
    decide(&b, A, refused(&b)); /* the same node: it waits once */
    assert_int_equal(way_decider_pending(b.decider), 1);
    way_health_unlock(b.health);
    way_decide_pass(b.decider, b.now);
    assert_int_equal(way_decider_pending(b.decider), 0);
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_FAILING);
    end(&b);
}

enum { THREADS = 4, EACH = 500 };

struct counter {
    struct bed *bed;
    struct way_decider *decider;
    struct way_stats stats;
    struct way_ring *ring;
    unsigned done;
};

static void *count_up(void *arg)
{
    struct counter *c = arg;
    struct bed *b = c->bed;
    for (unsigned i = 0; i < EACH; i++) {
        struct way_event e = refused(b);
        struct way_decision d;
        e.began = e.now = b->now + i;
        way_decide(c->decider, b->node[A], &e, &d);
        c->done += d.commit == WAY_COMMIT_DONE;
        while (way_ring_peek(c->ring))
            way_ring_pop(c->ring);
    }
    return NULL;
}

/* Each call adds one to what it read: none may be lost, none counted twice. */
static void decisions_of_many_threads_are_each_a_transaction(void **state)
{
    (void)state;
    struct bed b;
    struct counter c[THREADS];
    pthread_t id[THREADS];
    begin(&b,
          POLICY("memory = { node = { n = 0 }, shard = { n = 0 }, cluster = { n = 0 } }, "
                 "mark = function(self, node) node.memory.n = node.memory.n + 1 "
                 "node.shard.memory.n = node.shard.memory.n + 1 self.cluster.memory.n = "
                 "self.cluster.memory.n + 1 end"));
    for (unsigned i = 0; i < THREADS; i++) {
        struct way_err err;
        c[i] = (struct counter){ .bed = &b, .ring = way_ring_new(16) };
        struct way_decider_options o = { .health = b.health,
                                         .text = &b.text,
                                         .limits = &b.limits,
                                         .stats = &c[i].stats,
                                         .ring = c[i].ring };
        must(way_decider_new(&c[i].decider, &o, &err), &err);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&id[i], NULL, count_up, &c[i]), 0);
    unsigned done = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(id[i], NULL);
        done += c[i].done;
        assert_int_equal(errors_in(&c[i].stats), 0);
        way_decider_free(c[i].decider);
        way_ring_free(c[i].ring);
    }
    struct way_snapshot s;
    way_health_snapshot(b.health, b.node[A], b.now, &s);
    assert_true(done > 0);
    assert_int_equal((int)s.view.memory.node[0], done);
    assert_int_equal((int)s.view.memory.shard[0], done);
    assert_int_equal((int)s.view.memory.cluster[0], done);
    end(&b);
}

/* ---- sweeps ---- */

static struct way_swept swept(struct bed *b)
{
    struct way_swept out;
    struct way_event e = {
        .kind = WAY_KIND_TICK, .now = b->now, .began = b->now, .late = 0.5
    };
    way_decide_tick(b->decider, &e, &out);
    return out;
}

static void a_sweep_that_gave_an_answer_is_written_down_node_by_node(void **state)
{
    (void)state;
    struct bed b;
    begin(&b,
          POLICY("every = 1, memory = { node = { n = 0 } }, "
                 "tick = function(self, nodes, event) local out = {} "
                 "for _, node in ipairs(nodes) do node.memory.n = node.memory.n + 1 "
                 "if node.memory.n > 1 and (node.role == 'replica' or node.memory.n > "
                 "2) then "
                 "out[#out + 1] = { node = node, state = 'failing', reason = 'late' "
                 ".. event.late } end end return out end"));
    assert_int_equal(swept(&b).marked, 0);
    assert_no_entry(&b); /* nothing was said */
    struct way_swept s = swept(&b);
    assert_int_equal(s.nodes, 3);
    assert_int_equal(s.marked, 1);
    assert_int_equal(s.left, 0);
    assert_true(s.refresh);
    struct way_entry e;
    uint64_t seed = 0;
    for (unsigned i = 0; i < NODES; i++) { /* each has its part of what was asked */
        struct way_input in;
        const struct way_entry *next = way_ring_peek(b.ring);
        assert_non_null(next);
        assert_true(way_input_unpack(next, &in));
        assert_float_equal(in.view.memory.node[0], 1, 0);
        assert_float_equal(in.after.node[0], 2, 0);
        e = entry(&b);
        assert_int_equal(e.function, WAY_FN_TICK);
        assert_int_equal(e.asking, 1);
        assert_int_equal(e.sweep_at, i);
        assert_int_equal(e.sweep_of, NODES);
        assert_true(e.seed && (!seed || e.seed == seed));
        assert_int_equal(e.node, b.node[i]);
        assert_int_equal(e.mark.given, i == A0);
        seed = e.seed;
    }
    assert_int_equal(e.event.kind, WAY_KIND_TICK);
    assert_string_equal(e.did, "healthy -> failing");
    assert_string_equal(e.mark.reason, "late0.5");
    assert_non_null(strstr(e.where, "test.lua:"));
    assert_no_entry(&b);
    s = swept(&b); /* masters are the last that take writes: the guard */
    assert_int_equal(s.marked, 3);
    e = entry(&b);
    assert_true(e.seed != seed);
    assert_string_equal(e.did, "healthy -> suspect (guard: the last node that serves)");
    assert_int_equal(stat_of(&b, WAY_STAT_REFUSED_LAST), 2);
    assert_int_equal(stat_of(&b, WAY_STAT_TICKS), 3);
    end(&b);
}

struct reader {
    struct way_ring *ring;
    unsigned entries, marks;
};

static void read_ring(void *arg)
{
    struct reader *r = arg;
    const struct way_entry *e;
    while ((e = way_ring_peek(r->ring))) {
        assert_int_equal(e->sweep_at, r->entries++);
        r->marks += e->mark.given;
        way_ring_pop(r->ring);
    }
}

/* A sweep over more nodes than the ring holds: where it can be emptied meanwhile all is
 * written down, else the verdicts alone. */
static void a_sweep_that_the_ring_does_not_hold_loses_no_verdict(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("every = 1, tick = function(self, nodes) "
                     "return { { node = nodes[3], weight = 0.5 } } end"));
    for (int emptied = 0; emptied < 2; emptied++) {
        struct reader r = { .ring = way_ring_new(2) };
        struct way_stats stats = { 0 };
        struct way_decider *own = b.decider, *d;
        struct way_err err;
        struct way_decider_options o = { .health = b.health,
                                         .text = &b.text,
                                         .limits = &b.limits,
                                         .stats = &stats,
                                         .ring = r.ring,
                                         .full = emptied ? read_ring : NULL,
                                         .arg = &r };
        must(way_decider_new(&d, &o, &err), &err);
        b.decider = d;
        assert_int_equal(swept(&b).marked, 1);
        b.decider = own;
        if (emptied) {
            read_ring(&r);
            assert_int_equal(r.entries, NODES);
            assert_int_equal(r.marks, 1);
        } else {
            assert_int_equal(way_ring_peek(r.ring)->sweep_at, 2);
            way_ring_pop(r.ring);
            assert_null(way_ring_peek(r.ring));
        }
        assert_int_equal(way_stat_get(&stats, WAY_STAT_JOURNAL_LOST), 0);
        way_decider_free(d);
        way_ring_free(r.ring);
    }
    end(&b);
}

static void a_sweep_that_fails_changes_nothing(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("every = 1, memory = { node = { n = 0 } }, "
                     "tick = function(self, nodes) local out = {} "
                     "for i, node in ipairs(nodes) do node.memory.n = 7 "
                     "out[i] = { node = node, state = i == 3 and 'dead' or 'failing' } "
                     "end return out end"));
    struct way_swept s = swept(&b);
    assert_int_equal(s.marked, 0);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_TICK_ANSWER), 1);
    for (unsigned i = 0; i < NODES; i++) { /* that it failed, and at what */
        struct way_entry e = entry(&b);
        assert_int_equal(e.function, WAY_FN_TICK);
        assert_int_equal(e.cause, WAY_CAUSE_ANSWER);
        assert_false(e.mark.given);
        assert_string_equal(e.where, "failed");
        assert_string_equal(e.did, "nothing");
    }
    assert_no_entry(&b);
    for (unsigned i = 0; i < NODES; i++) {
        struct way_snapshot seen;
        way_health_snapshot(b.health, b.node[i], b.now, &seen);
        assert_int_equal(seen.view.verdict.state, WAY_STATE_HEALTHY);
        assert_true(seen.view.memory.node[0] < 1);
    }
    for (unsigned i = 0; i < b.limits.policy_errors; i++)
        swept(&b);
    assert_true(way_decider_set_aside(b.decider));
    assert_int_equal(swept(&b).nodes, 0);
    end(&b);
}

static void a_node_that_cannot_be_committed_is_left_to_the_next_sweep(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("every = 1, tick = function(self, nodes) "
                     "return { { node = nodes[1], state = 'suspect' } } end"));
    assert_int_equal(way_health_lock(b.health), 0);
    struct way_swept s = swept(&b);
    assert_int_equal(s.marked, 1);
    assert_int_equal(s.left, 1);
    assert_string_equal(entry(&b).did, "left to the next sweep: it changed");
    way_health_unlock(b.health);
    assert_int_equal(stat_of(&b, WAY_STAT_TICK_LEFT), 1);
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_HEALTHY);
    assert_int_equal(swept(&b).left, 0);
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_SUSPECT);
    end(&b);
}

/* What sweeps and other threads' answers add to the same number: none lost, none twice. */
static void a_sweep_and_decisions_of_others_are_each_a_transaction(void **state)
{
    (void)state;
    struct bed b;
    struct counter c = { .bed = &b, .ring = way_ring_new(16) };
    struct way_err err;
    pthread_t id;
    begin(&b, POLICY("every = 1, memory = { node = { n = 0 } }, "
                     "mark = function(self, node) node.memory.n = node.memory.n + 1 end, "
                     "tick = function(self, nodes) for _, node in ipairs(nodes) do "
                     "node.memory.n = node.memory.n + 1 end end"));
    struct way_decider_options o = { .health = b.health,
                                     .text = &b.text,
                                     .limits = &b.limits,
                                     .stats = &c.stats,
                                     .ring = c.ring };
    must(way_decider_new(&c.decider, &o, &err), &err);
    assert_int_equal(pthread_create(&id, NULL, count_up, &c), 0);
    unsigned sweeps = 0, left = 0;
    struct way_snapshot seen;
    do {
        left += swept(&b).left;
        sweeps++;
    } while (pthread_tryjoin_np(id, NULL) != 0);
    way_health_snapshot(b.health, b.node[A], b.now, &seen);
    assert_int_equal((int)seen.view.memory.node[0], c.done + sweeps - left);
    way_health_snapshot(b.health, b.node[B], b.now, &seen);
    assert_int_equal((int)seen.view.memory.node[0], sweeps);
    way_decider_free(c.decider);
    way_ring_free(c.ring);
    end(&b);
}

/* ---- counters ---- */

static struct way_counted counted(struct bed *b, unsigned node, unsigned index)
{
    struct way_snapshot s;
    way_health_snapshot(b->health, b->node[node], b->now, &s);
    way_health_counted(b->health, &way_decider_plan(b->decider)->counters, &s);
    return s.view.counted[WAY_COUNTERS_NODE][index];
}

static struct way_decision reports(struct bed *b, unsigned node, unsigned good)
{
    struct way_report r = { .now = b->now, .good = good, .requests = good };
    struct way_decision d;
    way_decide_report(b->decider, b->node[node], &r, &d);
    return d;
}

static void what_failed_is_counted_before_mark_is_asked(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("counters = { row = wayside.consecutive {} }, mark = function(_, "
                     "node, e) return { state = 'failing', reason = e.kind .. "
                     "node.counters.row.value } end"));
    struct way_event e = refused(&b);
    e.n = 5;
    assert_string_equal(decide(&b, A, e).mark.reason, "connection5");
    decide(&b, A, e); /* a straggler */
    assert_int_equal(counted(&b, A, 0).value, 5);
    b.now += 1;
    e = refused(&b);
    e.kind = WAY_KIND_PROBE;
    assert_string_equal(decide(&b, A, e).mark.reason, "probe5");
    decide(&b, A, replied(&b, "CLUSTERDOWN x")); /* blames nobody */
    b.now += 1;
    assert_string_equal(decide(&b, A, refused(&b)).mark.reason, "connection6");
    assert_int_equal(counted(&b, B, 0).value, 0);
    end(&b);
}

static void an_edge_is_an_event_of_its_own_behind_what_caused_it(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("counters = { row = wayside.consecutive { edge = { at_least = 2 } } "
                     "}, mark = function(_, node, e) if e.kind == 'edge' then return { "
                     "state = 'failing', reason = e.counter .. node.counters.row.value, "
                     "refresh = true } end end"));
    struct way_decision d = decide(&b, A0, replied(&b, "BUSY x"));
    assert_false(d.edges);
    assert_int_equal(entry(&b).event.kind, WAY_KIND_RESULT);
    assert_no_entry(&b);
    d = decide(&b, A0, replied(&b, "BUSY x"));
    assert_true(d.edges && d.refresh && !d.mark.given);
    assert_int_equal(kit_state(b.health, b.node[A0]), WAY_STATE_FAILING);
    assert_int_equal(entry(&b).event.kind, WAY_KIND_RESULT);
    struct way_entry e = entry(&b);
    assert_int_equal(e.event.kind, WAY_KIND_EDGE);
    assert_string_equal(e.event.counter, "row");
    assert_string_equal(e.mark.reason, "row2");
    assert_string_equal(e.did, "healthy -> failing");
    char line[1024];
    way_entry_line(&e, line, sizeof line);
    assert_non_null(strstr(line, "kind=edge counter=row"));
    assert_no_entry(&b);
    end(&b);
}

/* Nothing is asked, and nothing written down, until the edge. */
static void successes_ask_only_at_an_edge(void **state)
{
    (void)state;
    struct bed b;
    begin(&b,
          POLICY("counters = { good = wayside.consecutive { classes = 'ok', edge = { "
                 "at_least = 100 } } }, mark = function(_, node, e) return { weight = "
                 "0.5, reason = e.counter } end"));
    for (unsigned i = 0; i < 9; i++)
        assert_false(reports(&b, A0, 11).edges);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 0);
    assert_no_entry(&b);
    assert_true(reports(&b, A0, 1).edges);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 1);
    assert_string_equal(entry(&b).mark.reason, "good");
    assert_false(reports(&b, A0, 1000).edges);
    end(&b);
}

static void good_and_bad_of_one_pass_are_one_report(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("counters = { rate = wayside.ewma { tau = 10 } }, mark = function() "
                     "end"));
    struct way_report good = { .now = b.now, .good = 3, .requests = 4 };
    struct way_event e = replied(&b, "BUSY x");
    struct way_decision d;
    way_decide_with(b.decider, b.node[A], &e, &good, &d);
    assert_true(counted(&b, A, 0).value > 0.2499 && counted(&b, A, 0).value < 0.2501);
    assert_int_equal(counted(&b, A, 0).volume, 4);
    end(&b);
}

static void a_policy_that_fails_at_an_edge_changes_nothing(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("counters = { row = wayside.consecutive { edge = { at_least = 1 } } "
                     "}, mark = function(_, node, e) if e.kind == 'edge' then "
                     "node.counters.row:reset() error('oh') end return { state = "
                     "'failing' } end"));
    way_log_level(WAY_ERROR + 1);
    decide(&b, A, refused(&b));
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_FAILING);
    assert_int_equal(counted(&b, A, 0).value, 1);
    assert_int_equal(errors_in(&b.stats), 1);
    end(&b);
}

static void a_reset_that_finds_the_lock_taken_is_done_later(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("counters = { row = wayside.consecutive {} }, mark = function(_, "
                     "node) if node.counters.row.value == 3 then "
                     "node.counters.row:reset() end end"));
    for (unsigned i = 0; i < 2; i++)
        decide(&b, A, refused(&b));
    assert_int_equal(way_health_lock(b.health), 0);
    assert_int_equal(decide(&b, A, refused(&b)).commit, WAY_COMMIT_BUSY);
    assert_int_equal(counted(&b, A, 0).value, 3);
    way_health_unlock(b.health);
    way_decide_pass(b.decider, b.now);
    assert_int_equal(counted(&b, A, 0).value, 0);
    assert_int_equal(way_decider_pending(b.decider), 0);
    end(&b);
}

enum { SAMPLES_EACH = 100 };

static void *add_samples(void *arg)
{
    struct counter *c = arg;
    struct bed *b = c->bed;
    for (unsigned i = 0; i < SAMPLES_EACH; i++) {
        struct way_event e = refused(b);
        struct way_decision d;
        way_decide(c->decider, b->node[A], &e, &d);
        c->done += d.commit == WAY_COMMIT_DONE;
    }
    return NULL;
}

/* Those that conflict are asked again: what they add is added once all the same. */
static void samples_of_many_threads_are_each_added_once(void **state)
{
    (void)state;
    struct bed b;
    struct counter c[THREADS];
    pthread_t id[THREADS];
    begin(&b, POLICY("memory = { node = { n = 0 } }, counters = { seen = wayside.samples "
                     "{ size = 512 }, failed = wayside.window { seconds = 1000 } }, mark "
                     "= function(_, node) node.memory.n = node.memory.n + 1 "
                     "node.counters.seen:add(node.memory.n) end"));
    for (unsigned i = 0; i < THREADS; i++) {
        struct way_err err;
        c[i] = (struct counter){ .bed = &b, .ring = way_ring_new(4) };
        struct way_decider_options o = { .health = b.health,
                                         .text = &b.text,
                                         .limits = &b.limits,
                                         .stats = &c[i].stats,
                                         .ring = c[i].ring };
        must(way_decider_new(&c[i].decider, &o, &err), &err);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&id[i], NULL, add_samples, &c[i]), 0);
    unsigned done = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(id[i], NULL);
        done += c[i].done;
        way_decider_free(c[i].decider);
        way_ring_free(c[i].ring);
    }
    struct way_counted failed = counted(&b, A, 0), seen = counted(&b, A, 1);
    assert_int_equal(failed.failed,
                     THREADS * SAMPLES_EACH); /* counted, committed or not */
    assert_int_equal(seen.volume, done);
    assert_int_equal(seen.last, done); /* in the order of the commits: 1, 2, 3, ... */
    assert_true(seen.mean > (done + 1) / 2.0 - 0.01 &&
                seen.mean < (done + 1) / 2.0 + 0.01);
    end(&b);
}

/* ---- another policy ---- */

#define OTHER                                                                            \
    POLICY("classes = { { error = 'refused', class = 'gone_away', blame = 'node' },\n"   \
           "wayside.default.classes },\n"                                                \
           "mark = function(self, node, event) if event.error then\n"                    \
           "return { state = 'failing', seconds = 7, reason = event.class } end end")

static struct way_seat *seat_of(struct bed *b, const char *policy, uint64_t epoch,
                                struct way_aside *aside)
{
    struct way_err err;
    struct way_seat *s = way_zalloc(sizeof *s);
    struct way_policy_text t;
    way_policy_text_copy(&t, &b->text);
    way_free(t.text);
    t.text = way_strdup(policy);
    t.n = strlen(policy);
    must(way_policy_load(&s->policy, &t, &err), &err);
    way_policy_text_fini(&t);
    s->epoch = epoch;
    s->aside = aside;
    return s;
}

static int keep_all(void *arg, enum way_memory_scope scope,
                    const struct way_memory *before, struct way_memory *after,
                    struct way_err *err)
{
    (void)arg, (void)scope, (void)err;
    *after = *before;
    return 0;
}

static void put_in_charge(struct bed *b, const struct way_policy *p)
{
    struct way_err err;
    uint64_t epoch = atomic_load(way_health_policy_epoch(b->health));
    struct way_takeover t = { .from = epoch,
                              .layout = &way_policy_plan(p)->layout,
                              .convert = keep_all };
    must(way_health_take_over(b->health, &t, &epoch, &err), &err);
}

static void verdict_is(struct bed *b, unsigned node, const char *reason)
{
    struct way_verdict v;
    way_health_verdict(b->health, b->node[node], &v);
    assert_int_equal(v.state, WAY_STATE_FAILING);
    assert_string_equal(v.reason, reason);
}

static void another_policy_is_taken_between_two_events(void **state)
{
    (void)state;
    struct bed b;
    struct way_aside aside = { .errors = 0 };
    struct way_decision d;
    begin(&b,
          POLICY("mark = function(self, node, event) if event.error then\n"
                 "return { state = 'failing', seconds = 60, reason = 'old' } end end"));
    struct way_seat *seat = seat_of(&b, OTHER, 2, &aside);
    struct way_event e = refused(&b);
    assert_null(way_decider_offer(b.decider, seat));
    way_decide(b.decider, b.node[A], &e, &d); /* it is not yet in charge */
    verdict_is(&b, A, "old");
    assert_null(way_decider_left(b.decider));
    put_in_charge(&b, seat->policy);
    e = refused(&b);
    way_decide(b.decider, b.node[B], &e, &d);
    verdict_is(&b, B, "gone_away");
    assert_int_equal(way_decider_epoch(b.decider), 2);
    assert_int_equal(atomic_load(&aside.marks), 1);
    struct way_seat *left = way_decider_left(b.decider);
    assert_non_null(left);
    assert_string_equal(way_policy_plan(left->policy)->name, "test");
    way_seat_free(left);
    assert_null(way_decider_left(b.decider));
    end(&b);
}

static void an_event_classified_before_is_classified_anew(void **state)
{
    (void)state;
    struct bed b;
    struct way_aside aside = { .errors = 0 };
    struct way_retry retry;
    struct way_entry entry;
    begin(&b,
          POLICY("classes = { { error = 'refused', class = 'mine', blame = 'node' } }"));
    struct way_event e = refused(&b);
    e.kind = WAY_KIND_COMMANDS;
    e.commands = WAY_COMMANDS_READS;
    e.attempt = 1;
    way_decide_classify(b.decider, &e);
    struct way_seat *seat = seat_of(&b, OTHER, 2, &aside);
    way_decider_offer(b.decider, seat);
    put_in_charge(&b, seat->policy);
    way_decide_retry(b.decider, b.node[A], &e, &retry, &entry);
    assert_string_equal(entry.class_name, "gone_away");
    way_decide_did(b.decider, &entry, "nothing");
    end(&b);
}

/* Another process has put a policy in charge that this one has not loaded yet. */
static void what_can_t_be_committed_yet_is_asked_of_the_new_policy(void **state)
{
    (void)state;
    struct bed b;
    struct way_aside aside = { .errors = 0 };
    struct way_decision d;
    struct way_verdict v;
    enum way_state pending;
    begin(&b,
          POLICY("mark = function(self, node, event) if event.error then\n"
                 "return { state = 'suspect', seconds = 60, reason = 'old' } end end"));
    struct way_seat *seat = seat_of(&b, OTHER, 2, &aside);
    struct way_event e = refused(&b);
    put_in_charge(&b, seat->policy);
    way_decide(b.decider, b.node[A], &e, &d);
    assert_int_equal(d.commit, WAY_COMMIT_BUSY);
    way_health_verdict(b.health, b.node[A], &v);
    assert_int_equal(v.state, WAY_STATE_HEALTHY);
    assert_true(way_decider_pending_state(b.decider, b.node[A], &pending));
    assert_int_equal(pending, WAY_STATE_SUSPECT); /* as the old one says */
    way_decide_pass(b.decider, b.now);
    assert_int_equal(way_decider_pending(b.decider), 1);
    way_decider_offer(b.decider, seat);
    way_decide_pass(b.decider, b.now);
    assert_int_equal(way_decider_pending(b.decider), 0);
    verdict_is(&b, A, "gone_away");
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_is_classified_marked_committed_and_written_down),
        cmocka_unit_test(what_began_before_the_mark_is_known_already),
        cmocka_unit_test(what_another_marked_meanwhile_is_not_struck_twice),
        cmocka_unit_test(only_what_blames_the_node_reaches_mark),
        cmocka_unit_test(a_trial_is_heard_of_whatever_it_ended_with),
        cmocka_unit_test(a_success_that_changes_nothing_is_not_written_down),
        cmocka_unit_test(the_guard_is_told_with_the_entry),
        cmocka_unit_test(a_policys_own_class_blames_as_it_says),
        cmocka_unit_test(the_fallback_decides_where_the_policy_fails),
        cmocka_unit_test(a_policy_that_fails_too_often_is_set_aside),
        cmocka_unit_test(without_a_policy_the_fallback_decides),
        cmocka_unit_test(backoff_and_what_came_of_it_are_one_entry),
        cmocka_unit_test(what_is_permanent_is_not_asked_about),
        cmocka_unit_test(reconnect_and_probe_are_asked),
        cmocka_unit_test(a_full_journal_loses_the_new_entry_and_counts_it),
        cmocka_unit_test(
            a_verdict_that_finds_the_lock_taken_holds_here_until_it_can_be_committed),
        cmocka_unit_test(decisions_of_many_threads_are_each_a_transaction),
        cmocka_unit_test(a_sweep_that_gave_an_answer_is_written_down_node_by_node),
        cmocka_unit_test(a_sweep_that_the_ring_does_not_hold_loses_no_verdict),
        cmocka_unit_test(a_sweep_that_fails_changes_nothing),
        cmocka_unit_test(a_node_that_cannot_be_committed_is_left_to_the_next_sweep),
        cmocka_unit_test(a_sweep_and_decisions_of_others_are_each_a_transaction),
        cmocka_unit_test(what_failed_is_counted_before_mark_is_asked),
        cmocka_unit_test(an_edge_is_an_event_of_its_own_behind_what_caused_it),
        cmocka_unit_test(successes_ask_only_at_an_edge),
        cmocka_unit_test(good_and_bad_of_one_pass_are_one_report),
        cmocka_unit_test(a_policy_that_fails_at_an_edge_changes_nothing),
        cmocka_unit_test(a_reset_that_finds_the_lock_taken_is_done_later),
        cmocka_unit_test(samples_of_many_threads_are_each_added_once),
        cmocka_unit_test(another_policy_is_taken_between_two_events),
        cmocka_unit_test(an_event_classified_before_is_classified_anew),
        cmocka_unit_test(what_can_t_be_committed_yet_is_asked_of_the_new_policy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
