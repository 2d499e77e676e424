/* decide with a shadow: a second policy is asked what the one in charge is asked, in a world
 * of its own, and nothing that it answers, and no way in which it fails, changes what is
 * done. An equal one never differs. */
#include "decide_kit.h"
#include "log.h"
#include "route.h"

#include <pthread.h>

enum { ENTRIES = 256, THREADS_MOST = 4 };

struct bed {
    struct way_policy_text text;
    struct way_limits limits;
    struct way_health *health;
    struct way_shadows *shadows;
    struct way_aside aside;
    unsigned threads;
    struct way_decider *decider[THREADS_MOST];
    struct way_stats stats[THREADS_MOST];
    struct way_ring *ring[THREADS_MOST];
    unsigned node[NODES];
    double now;
};

static void begin(struct bed *b, const char *policy, unsigned threads)
{
    struct way_err err;
    struct way_policy *p;
    memset(b, 0, sizeof *b);
    b->now = 1000;
    b->threads = threads;
    way_limits_default(&b->limits);
    b->limits.policy_wall = 5; /* so that slow builds meet the other bounds first */
    kit_policy(&b->text, &b->limits, policy);
    must(way_policy_load(&p, &b->text, &err), &err);
    b->health = kit_table_of(p, 1);
    way_policy_free(p);
    b->shadows = way_shadows_new(
        &(struct way_shadows_options){ .health = b->health, .threads = threads });
    for (unsigned i = 0; i < threads; i++) {
        b->ring[i] = way_ring_new(ENTRIES);
        struct way_decider_options d = { .health = b->health,
                                         .text = &b->text,
                                         .limits = &b->limits,
                                         .stats = &b->stats[i],
                                         .ring = b->ring[i],
                                         .aside = &b->aside,
                                         .shadows = b->shadows,
                                         .place = i,
                                         .thread = (uint16_t)i };
        must(way_decider_new(&b->decider[i], &d, &err), &err);
    }
    kit_publish_nodes(b->health, b->now, b->node);
    b->now += 10;
}

static void end(struct bed *b)
{
    for (unsigned i = 0; i < b->threads; i++) {
        way_decider_free(b->decider[i]);
        way_ring_free(b->ring[i]);
    }
    way_shadows_free(b->shadows);
    way_health_check(b->health);
    way_health_close(b->health);
    way_policy_text_fini(&b->text);
}

static struct way_shadow *put(struct bed *b, enum way_shadow_kind kind,
                              const char *policy, bool same_memory)
{
    struct way_policy *state[THREADS_MOST];
    struct way_policy_text *t = way_zalloc(sizeof *t);
    struct way_err err;
    kit_policy(t, &b->limits, policy);
    for (unsigned i = 0; i < b->threads; i++)
        must(way_policy_load(&state[i], t, &err), &err);
    return way_shadows_put(
        b->shadows, kind,
        &(struct way_shadow_of){ .text = t,
                                 .policy = state,
                                 .epoch = atomic_load(way_health_policy_epoch(b->health)),
                                 .limits = b->limits,
                                 .same_memory = same_memory,
                                 .charge_counters =
                                     &way_decider_plan(b->decider[0])->counters,
                                 .now = b->now,
                                 .unix_time = 1 });
}

static struct way_shadow *candidate(struct bed *b, const char *policy)
{
    return put(b, WAY_SHADOW_CANDIDATE, policy, false);
}

static void tend(struct bed *b)
{
    way_shadows_tend(b->shadows, way_decider_shadows(b->decider[0]), b->now, 1);
}

static struct way_event refused(const struct bed *b)
{
    return kit_refused(b->now);
}

static struct way_event replied(const struct bed *b, const char *message)
{
    return kit_replied(b->now, message);
}

static struct way_decision decide(struct bed *b, unsigned node, struct way_event e)
{
    struct way_decision d;
    way_decide(b->decider[0], b->node[node], &e, &d);
    return d;
}

static struct way_retry retry(struct bed *b, unsigned node, struct way_event e)
{
    struct way_retry r;
    struct way_entry entry;
    way_decide_classify(b->decider[0], &e);
    e.kind = WAY_KIND_COMMANDS;
    e.commands = WAY_COMMANDS_READS;
    e.attempt = 1;
    way_decide_retry(b->decider[0], b->node[node], &e, &r, &entry);
    return r;
}

static struct way_shadow_counts counts(const struct way_shadow *s)
{
    struct way_shadow_counts c;
    way_shadow_counts(s, &c);
    return c;
}

static uint64_t disagreements(const struct way_shadow *s)
{
    struct way_shadow_counts c = counts(s);
    uint64_t sum = 0;
    for (int fn = 0; fn < WAY_FN_NONE; fn++)
        sum += c.disagreed[fn];
    return sum;
}

#define MARKS(seconds)                                                                   \
    "mark = function(_, node, e) if e.error then return { state = 'failing', reason = "  \
    "e.error, seconds = " seconds " } end if node.state ~= 'healthy' and e.kind ~= "     \
    "'expiry' then return { state = 'healthy' } end end"

/* ---- what it says ---- */

static void a_mark_that_differs_is_counted_written_down_and_not_obeyed(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY(MARKS("7")), 1);
    struct way_shadow *s = candidate(&b, POLICY(MARKS("70")));
    struct way_decision d = decide(&b, A, refused(&b));
    assert_float_equal(d.mark.seconds, 7, 0);
    struct way_verdict v;
    way_health_verdict(b.health, b.node[A], &v);
    assert_float_equal(v.ends, b.now + 7, 1e-9);
    struct way_shadow_counts c = counts(s);
    assert_int_equal(c.disagreed[WAY_FN_MARK], 1);
    assert_int_equal(c.agreed, 1); /* classify */
    assert_int_equal(c.out, 1);
    assert_int_equal(c.out_in_charge, 1);
    assert_int_equal(way_stat_get(&b.stats[0], WAY_STAT_SHADOW_MARK), 1);
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_int_equal(v.state, WAY_STATE_FAILING);
    assert_float_equal(v.ends, b.now + 70, 1e-9);
    tend(&b);
    const struct way_entry *charge, *own;
    char words[128];
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    assert_string_equal(charge->address, "127.0.0.1:7000");
    way_entry_verdict(charge, words, sizeof words);
    assert_string_equal(words, "failing 7 s refused");
    assert_string_equal(charge->did, "healthy -> failing");
    assert_string_equal(charge->where, "test.lua:2");
    assert_int_equal(charge->shadow, WAY_ENTRY_IN_CHARGE);
    way_entry_verdict(own, words, sizeof words);
    assert_string_equal(words, "failing 70 s refused");
    assert_string_equal(own->did, "would be healthy -> failing");
    assert_int_equal(own->shadow, WAY_ENTRY_CANDIDATE);
    assert_false(way_shadow_difference(s, 1, &charge, &own));
    end(&b);
}

static void backoff_probe_reconnect_and_classes_are_compared_too(void **state)
{
    (void)state;
    struct bed b;
    begin(
        &b,
        POLICY("backoff = function() return { retry = 'other' } end, probe = function() "
               "return { after = 1 } end, mark = function() end"),
        1);
    struct way_shadow *s = candidate(
        &b, POLICY("classes = { { error = 'refused', class = 'slow' }, "
                   "wayside.default.classes }, "
                   "backoff = function() return { retry = 'other', after = 0.5 } end, "
                   "probe = function() return { after = 2 } end, mark = function() end, "
                   "reconnect = function() return { after = 3 } end"));
    struct way_event e = refused(&b);
    struct way_probe probe;
    struct way_redial redial;
    assert_float_equal(retry(&b, A, e).after, 0, 0);
    way_decide_classify(b.decider[0], &e);
    way_decide_redial(b.decider[0], b.node[A], &e, &redial);
    assert_false(redial.given);
    e.kind = WAY_KIND_CHANGE;
    way_decide_probe(b.decider[0], b.node[A], &e, &probe);
    assert_float_equal(probe.after, 1, 0);
    struct way_shadow_counts c = counts(s);
    assert_int_equal(c.disagreed[WAY_FN_CLASSIFY], 2);
    assert_int_equal(c.disagreed[WAY_FN_BACKOFF], 1);
    assert_int_equal(c.disagreed[WAY_FN_PROBE], 1);
    assert_int_equal(c.disagreed[WAY_FN_RECONNECT], 1);
    tend(&b);
    const struct way_entry *charge, *own;
    assert_true(way_shadow_difference(s, 4, &charge, &own));
    assert_string_equal(charge->class_name, "down");
    assert_string_equal(own->class_name, "slow");
    assert_true(way_shadow_difference(s, 1, &charge, &own));
    assert_string_equal(charge->where, "not asked");
    assert_string_equal(own->did, "after 3 s timeout 0 s");
    end(&b);
}

/* The candidate blames nobody for what the policy in charge marks. */
static void who_is_not_asked_says_nothing(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY(MARKS("7")), 1);
    struct way_shadow *s = candidate(
        &b, POLICY("classes = { { error = 'refused', class = 'local' } }, " MARKS("7")));
    decide(&b, A, refused(&b));
    tend(&b);
    const struct way_entry *charge, *own;
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    assert_int_equal(own->function, WAY_FN_MARK);
    assert_string_equal(own->where, "not asked");
    struct way_verdict v;
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_int_equal(v.state, WAY_STATE_HEALTHY);
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_FAILING);
    /* and is not told of it as a straggler, though for the one in charge it is one */
    struct way_shadow_counts c = counts(s);
    assert_int_equal(c.out, 0);
    assert_int_equal(c.out_in_charge, 1);
    end(&b);
}

static void an_equal_policy_agrees_through_marks_ends_and_random_numbers(void **state)
{
    (void)state;
    static const char policy[] = POLICY(
        "memory = { node = { n = 0 }, cluster = { all = 0 } }, "
        "mark = function(self, node, e) local m = node.memory m.n = m.n + 1 "
        "self.cluster.memory.all = self.cluster.memory.all + wayside.random() "
        "if e.error then return { state = 'failing', seconds = 1 + m.n + "
        "wayside.random() } end end, "
        "backoff = function() return { retry = 'other', after = wayside.random() } end");
    struct bed b;
    begin(&b, policy, 1);
    struct way_shadow *s = put(&b, WAY_SHADOW_CANDIDATE, policy, true);
    for (int i = 0; i < 50; i++) {
        b.now += 0.5;
        decide(&b, A, refused(&b));
        decide(&b, B, replied(&b, i % 3 ? NULL : "LOADING it is"));
        retry(&b, A, refused(&b));
        struct way_event e = { .kind = WAY_KIND_EXPIRY, .now = b.now, .began = b.now };
        decide(&b, A, e);
        tend(&b);
    }
    struct way_shadow_counts c = counts(s);
    struct way_verdict v;
    assert_int_equal(disagreements(s), 0);
    assert_true(c.agreed >= 150);
    assert_int_equal(c.dropped, 0);
    assert_false(way_shadow_verdict(s, b.node[A], &v));
    end(&b);
}

static void its_own_marks_end_when_their_time_is_over(void **state)
{
    (void)state;
    struct bed b;
    struct way_verdict v;
    begin(&b, POLICY(MARKS("100")), 1);
    struct way_shadow *s = candidate(&b, POLICY(MARKS("2")));
    decide(&b, A, refused(&b));
    tend(&b);
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    b.now += 1.9;
    tend(&b);
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_int_equal(v.state, WAY_STATE_FAILING);
    b.now += 0.2;
    tend(&b);
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_int_equal(v.state, WAY_STATE_HEALTHY);
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_FAILING);
    assert_int_equal(counts(s).disagreed[WAY_FN_MARK], 1);
    /* The one in charge comes round too: the node follows again. */
    decide(&b, A, replied(&b, NULL));
    tend(&b);
    assert_false(way_shadow_verdict(s, b.node[A], &v));
    end(&b);
}

static void the_guard_holds_for_it_too(void **state)
{
    (void)state;
    static const char soft[] = POLICY(
        "mark = function(_, _, e) if e.error then return { state = 'failing' } end "
        "end");
    struct bed b;
    struct way_verdict v;
    begin(&b, POLICY("mark = function() end"), 1);
    struct way_shadow *s = candidate(&b, soft);
    decide(&b, A, replied(&b, "LOADING it is")); /* a master, on soft evidence */
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_int_equal(v.state, WAY_STATE_SUSPECT);
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_HEALTHY);
    tend(&b);
    const struct way_entry *charge, *own;
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    assert_string_equal(own->did,
                        "would be healthy -> suspect (guard: the last node that "
                        "serves)");
    end(&b);
}

static void by_operator(struct bed *b, enum way_state to, double seconds, bool taken_back)
{
    struct way_snapshot seen;
    struct way_outcome outcome;
    struct way_proposal p = { .by_operator = true, .taken_back = taken_back };
    p.mark =
        (struct way_mark){ .given = true,
                           .state = to,
                           .seconds = seconds,
                           .reason = "operator",
                           .has = WAY_MARK_STATE | WAY_MARK_SECONDS | WAY_MARK_REASON };
    way_health_snapshot(b->health, b->node[A], b->now, &seen);
    p.memory = seen.view.memory;
    assert_int_equal(way_health_commit(b->health, &seen, &p, false, &outcome),
                     WAY_COMMIT_DONE);
}

static void expiry(struct bed *b)
{
    decide(b, A,
           (struct way_event){ .kind = WAY_KIND_EXPIRY,
                               .n = 1,
                               .began = b->now,
                               .now = b->now,
                               .unix_time = 1,
                               .deadline_left = -1 });
}

/* Whatever the shadow has made of the node, and whatever it says while the mark stands. */
static void an_operators_mark_outranks_it_too(void **state)
{
    (void)state;
    struct bed b;
    struct way_verdict v;
    begin(&b, POLICY(MARKS("7")), 1);
    struct way_shadow *s = candidate(&b, POLICY(MARKS("70")));
    decide(&b, A, refused(&b));
    assert_true(way_shadow_verdict(s, b.node[A], &v)); /* its own, for 70 s */
    by_operator(&b, WAY_STATE_HEALTHY, 30, false);
    b.now += 1;
    decide(&b, A, refused(&b)); /* at the question, without a look of tend's */
    assert_false(way_shadow_verdict(s, b.node[A], &v));
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_HEALTHY);
    struct way_shadow_counts c = counts(s);
    assert_int_equal(c.disagreed[WAY_FN_MARK], 2); /* what it says is compared as ever */
    assert_int_equal(c.out, 1);                    /* and takes nothing out */
    by_operator(&b, WAY_STATE_HEALTHY, 0, true);
    b.now += 1;
    decide(&b, A, refused(&b)); /* taken back: its marks are its own again */
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_float_equal(v.ends, b.now + 70, 1e-9);
    assert_int_equal(counts(s).out, 2);
    by_operator(&b, WAY_STATE_DRAINING, 10, false);
    tend(&b); /* with no question */
    assert_false(way_shadow_verdict(s, b.node[A], &v));
    b.now += 11; /* over by time: the policies are asked again */
    expiry(&b);
    b.now += 1;
    decide(&b, A, refused(&b));
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_float_equal(v.ends, b.now + 70, 1e-9);
    end(&b);
}

static void its_memory_is_its_own(void **state)
{
    (void)state;
    struct bed b;
    begin(&b,
          POLICY("memory = { node = { x = 100 } }, mark = function(_, node) "
                 "node.memory.x = node.memory.x + 1 return { reason = '' .. "
                 "node.memory.x } end"),
          1);
    struct way_shadow *s = candidate(
        &b, POLICY("memory = { node = { y = 1, z = 5 } }, mark = function(_, node) "
                   "node.memory.z = node.memory.z * 2 return { reason = '' .. "
                   "node.memory.z } end"));
    for (int i = 0; i < 3; i++)
        decide(&b, A, refused(&b));
    tend(&b);
    const struct way_entry *charge, *own;
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    assert_string_equal(charge->mark.reason, "103");
    assert_string_equal(own->mark.reason, "40");
    end(&b);
}

/* ---- counters ---- */

#define COUNTS(n)                                                                        \
    "counters = { bad = wayside.consecutive { edge = { at_least = " n " } }, seen = "    \
    "wayside.window { seconds = 100 } }, mark = function(_, node, e) if e.kind == "      \
    "'edge' "                                                                            \
    "then node.counters.bad:reset() return { state = 'suspect', reason = e.counter } "   \
    "end "                                                                               \
    "if e.error then return { reason = node.counters.bad.value .. '_' .. "               \
    "node.counters.seen.volume } end end"

static void an_equal_policy_counts_what_the_one_in_charge_counts(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY(COUNTS("3")), 1);
    struct way_shadow *s = put(&b, WAY_SHADOW_CANDIDATE, POLICY(COUNTS("3")), true);
    for (int i = 0; i < 20; i++) {
        b.now += 0.1;
        decide(&b, i % 3, replied(&b, "BUSY it is"));
        struct way_report r = { .now = b.now, .good = 5, .requests = 5 };
        struct way_decision d;
        if (i % 5 == 0)
            way_decide_report(b.decider[0], b.node[A], &r, &d);
    }
    struct way_shadow_counts c = counts(s);
    assert_int_equal(disagreements(s), 0);
    assert_true(c.agreed >= 40);
    end(&b);
}

static void a_policy_with_other_counters_counts_for_itself(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("mark = function() end"), 1);
    assert_false(way_decider_counts(b.decider[0]));
    struct way_shadow *s = candidate(&b, POLICY(COUNTS("3")));
    assert_true(way_decider_counts(b.decider[0]));
    struct way_verdict v;
    struct way_report r = { .now = b.now, .good = 5, .requests = 5 };
    struct way_decision d;
    way_decide_report(b.decider[0], b.node[A], &r, &d);
    assert_false(d.edges);
    for (int i = 0; i < 2; i++)
        decide(&b, A, replied(&b, "BUSY it is"));
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_string_equal(v.reason, "2_7");
    assert_int_equal(v.state, WAY_STATE_HEALTHY);
    decide(&b, A, replied(&b, "BUSY it is")); /* the third: the edge, and reset */
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_string_equal(v.reason, "bad");
    assert_int_equal(v.state, WAY_STATE_SUSPECT);
    b.now += 1;
    decide(&b, A, replied(&b, "BUSY it is"));
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_string_equal(v.reason, "1_9");
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_HEALTHY);
    end(&b);
}

/* What is no failure to it, it does not count as one; what both counted before, stays. */
static void one_that_classes_otherwise_counts_otherwise(void **state)
{
    (void)state;
    struct bed b;
    struct way_verdict v;
    begin(&b, POLICY(COUNTS("3")), 1);
    decide(&b, A, replied(&b, "BUSY it is"));
    struct way_shadow *s =
        candidate(&b, POLICY("classes = { { reply = 'LOADING', class = 'ignore' }, "
                             "wayside.default.classes }, " COUNTS("3")));
    decide(&b, A, replied(&b, "LOADING it is"));
    decide(&b, A, replied(&b, "BUSY it is")); /* the third of the one in charge */
    assert_int_equal(kit_state(b.health, b.node[A]), WAY_STATE_SUSPECT);
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_int_equal(v.state, WAY_STATE_HEALTHY);
    b.now += 1;
    decide(&b, A, replied(&b, "BUSY it is")); /* its own third, or fourth */
    decide(&b, A, replied(&b, "BUSY it is"));
    assert_true(way_shadow_verdict(s, b.node[A], &v));
    assert_int_equal(v.state, WAY_STATE_SUSPECT);
    end(&b);
}

/* ---- how it fails ---- */

static void fails(const char *policy, unsigned cause)
{
    struct bed b;
    begin(&b, POLICY(MARKS("7")), 1);
    b.limits.policy_errors = 4;
    struct way_shadow *s = candidate(&b, policy);
    struct way_shadow_about about;
    way_log_level((enum way_level)(WAY_ERROR + 1));
    for (int i = 0; i < 9; i++) {
        b.now += 10;
        struct way_decision d = decide(&b, A, refused(&b));
        assert_float_equal(d.mark.seconds, 7, 0);
        way_shadow_about(s, &about);
        assert_int_equal(!!about.off, i >= 3);
    }
    way_log_level(WAY_INFO);
    struct way_shadow_counts c = counts(s);
    assert_int_equal(way_shadow_errors(&c), 4);
    assert_int_equal(c.errors[cause], 4);
    assert_int_equal(
        way_stat_get(&b.stats[0], (enum way_stat)(WAY_STAT_SHADOW_ERROR + cause)), 4);
    assert_non_null(strstr(about.off, "4 errors within 60 s"));
    assert_non_null(strstr(about.off, "test.lua:2"));
    /* what it said, was the fallback's */
    tend(&b);
    const struct way_entry *charge, *own;
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    assert_true(own->fallback);
    assert_float_equal(own->mark.seconds, 5, 0);
    /* and nobody noticed */
    assert_false(way_decider_set_aside(b.decider[0]));
    for (int i = WAY_STAT_POLICY_FIRST; i <= WAY_STAT_POLICY_LAST; i++)
        assert_int_equal(way_stat_get(&b.stats[0], (enum way_stat)i), 0);
    assert_int_equal(way_stat_get(&b.stats[0], WAY_STAT_FALLBACK), 0);
    end(&b);
}

static void one_that_raises_is_switched_off_and_says_why(void **state)
{
    (void)state;
    fails(POLICY("mark = function() error('no') end"), 0);
}

static void one_that_loops_is_switched_off_and_says_why(void **state)
{
    (void)state;
    fails(POLICY("mark = function() while true do end end"), 1);
}

static void one_that_allocates_is_switched_off_and_says_why(void **state)
{
    (void)state;
    fails(POLICY("mark = function() local t = {} for i = 1, 20000 do t[i] = i end end"),
          3);
}

static void one_that_answers_nonsense_is_switched_off_and_says_why(void **state)
{
    (void)state;
    fails(POLICY("mark = function() return { state = 'gone' } end"), 4);
}

/* ---- coming and going ---- */

static void candidate_and_previous_are_asked_side_by_side(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY(MARKS("7")), 1);
    struct way_shadow *next = candidate(&b, POLICY(MARKS("8")));
    struct way_shadow *previous =
        put(&b, WAY_SHADOW_PREVIOUS, POLICY("mark = function() end"), false);
    decide(&b, A, refused(&b));
    assert_int_equal(disagreements(next), 1);
    assert_int_equal(disagreements(previous), 1);
    assert_int_equal(counts(next).out, 1);
    assert_int_equal(counts(previous).out, 0);
    assert_int_equal(counts(previous).out_in_charge, 1);
    /* the metrics are the candidate's */
    assert_int_equal(way_stat_get(&b.stats[0], WAY_STAT_SHADOW_MARK), 1);
    way_shadows_take_off(b.shadows, WAY_SHADOW_CANDIDATE);
    assert_null(way_shadows_get(b.shadows, WAY_SHADOW_CANDIDATE));
    b.now += 1;
    decide(&b, A, refused(&b));
    assert_int_equal(way_stat_get(&b.stats[0], WAY_STAT_SHADOW_MARK), 1);
    assert_int_equal(disagreements(previous), 2);
    end(&b);
}

static void another_one_takes_its_place_at_the_next_question(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY(MARKS("7")), 1);
    candidate(&b, POLICY(MARKS("8")));
    candidate(&b, POLICY(MARKS("9"))); /* the first was never seated */
    decide(&b, A, refused(&b));
    struct way_shadow *s = candidate(&b, POLICY(MARKS("7")));
    tend(&b);
    b.now += 1;
    decide(&b, A, refused(&b));
    assert_int_equal(disagreements(s), 0);
    assert_int_equal(counts(s).events, 2);
    end(&b);
}

/* What a command waits for was classed before the candidate came: it is not asked. */
static void what_was_classed_before_it_came_is_not_put_to_it(void **state)
{
    (void)state;
    struct bed b;
    struct way_retry r;
    struct way_entry entry;
    begin(&b, NULL, 1);
    struct way_event e = refused(&b);
    way_decide_classify(b.decider[0], &e);
    struct way_shadow *s = candidate(&b, POLICY("mark = function() end"));
    way_decide_retry(b.decider[0], b.node[A], &e, &r, &entry);
    assert_int_equal(counts(s).events, 0);
    way_decide_classify(b.decider[0], &e);
    way_decide_retry(b.decider[0], b.node[A], &e, &r, &entry);
    assert_int_equal(counts(s).events, 2);
    end(&b);
}

static void a_share_of_the_successes_that_its_watch_wants_is_put_to_it(void **state)
{
    (void)state;
    enum { SUCCESSES = 4000 };
    struct bed b;
    struct way_decision d;
    unsigned wanted = 0;
    begin(&b, POLICY(MARKS("7")), 1);
    b.limits.shadow_sample = 0.25;
    assert_false(way_decide_watches(b.decider[0]));
    struct way_shadow *s = candidate(
        &b, POLICY("watch = { success = true }, mark = function(_, _, e) if not "
                   "e.error then return { weight = 0.5 } end end"));
    for (int i = 0; i < SUCCESSES; i++) {
        if (!way_decide_watches(b.decider[0]))
            continue;
        struct way_event e = replied(&b, NULL);
        e.watched = true;
        way_decide_watched(b.decider[0], b.node[A], &e, &d);
        assert_false(d.asked);
        wanted++;
    }
    if (wanted < SUCCESSES / 5 || wanted > SUCCESSES * 3 / 10)
        fail_msg("%u of %d successes", wanted, SUCCESSES);
    assert_int_equal(counts(s).asked, wanted);
    assert_int_equal(counts(s).disagreed[WAY_FN_MARK], wanted);
    assert_int_equal(way_stat_get(&b.stats[0], WAY_STAT_POLICY_CALLS), 0);
    struct way_verdict v;
    way_health_verdict(b.health, b.node[A], &v);
    assert_float_equal(v.weight, 1, 0);
    end(&b);
}

/* ---- threads ---- */

struct runner {
    struct bed *b;
    struct way_decider *d;
    unsigned number, rounds;
    _Atomic unsigned *running;
};

static void *run(void *arg)
{
    struct runner *r = arg;
    struct way_random random;
    way_random_seed(&random, 77 + r->number);
    for (unsigned i = 0; i < r->rounds; i++) {
        struct bed at = { .now = 2000 + i * 1e-4 };
        struct way_decision d;
        struct way_retry retry;
        struct way_entry entry;
        unsigned node = r->b->node[way_random_next(&random) % NODES];
        struct way_event e =
            way_random_next(&random) % 3 ? refused(&at) : replied(&at, NULL);
        e.began = at.now; /* hardly ever a straggler */
        way_decide(r->d, node, &e, &d);
        if (e.error) {
            e.kind = WAY_KIND_COMMANDS;
            way_decide_retry(r->d, node, &e, &retry, &entry);
        }
    }
    atomic_fetch_sub(r->running, 1);
    return NULL;
}

/* `tending`: differences are taken all the while. */
static void run_threads(struct bed *b, unsigned rounds, bool tending)
{
    struct runner runner[THREADS_MOST];
    pthread_t id[THREADS_MOST];
    _Atomic unsigned running = b->threads;
    for (unsigned i = 0; i < b->threads; i++) {
        runner[i] = (struct runner){ b, b->decider[i], i, rounds, &running };
        assert_int_equal(pthread_create(&id[i], NULL, run, &runner[i]), 0);
    }
    while (tending && atomic_load(&running))
        way_shadows_tend(b->shadows, NULL, b->now, 1);
    for (unsigned i = 0; i < b->threads; i++)
        pthread_join(id[i], NULL);
}

static uint64_t stat(const struct bed *b, enum way_stat which)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < b->threads; i++)
        sum += way_stat_get(&b->stats[i], which);
    return sum;
}

#define BUSY_POLICY(step)                                                                \
    POLICY("counters = { bad = wayside.consecutive { edge = { at_least = 5 } }, all = "  \
           "wayside.window { seconds = 1, scope = 'cluster' } }, "                       \
           "memory = { node = { n = 0 }, shard = { s = 0 }, cluster = { c = 0 } }, "     \
           "mark = function(self, node, e) for _ = 1, 2000 do end "                      \
           "local m = node.memory m.n = m.n + " step " "                                 \
           "if e.kind == 'edge' then node.counters.bad:reset() return { weight = 0.5 } " \
           "end "                                                                        \
           "node.shard.memory.s = node.shard.memory.s + 1 "                              \
           "self.cluster.memory.c = self.cluster.memory.c + wayside.random() "           \
           "if e.error then return { state = m.n % 2 == 0 and 'failing' or 'suspect', "  \
           "seconds = m.n + node.shard.memory.s + self.cluster.memory.c + "              \
           "self.cluster.failing + node.counters.bad.value + "                           \
           "self.cluster.counters.all.volume } end return { state = 'healthy' } end, "   \
           "backoff = function(self, node) self.cluster.memory.c = 0 return { retry = "  \
           "'other', after = node.memory.n + wayside.random() } end")

/* Whatever the order in which threads commit and hear: exactly. */
static void an_equal_policy_agrees_while_threads_contend(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, BUSY_POLICY("1"), THREADS_MOST);
    struct way_shadow *s = put(&b, WAY_SHADOW_CANDIDATE, BUSY_POLICY("1"), true);
    run_threads(&b, 3000, false);
    struct way_shadow_counts c = counts(s);
    print_message("%llu events, %llu conflicts of the table, %llu dropped\n",
                  (unsigned long long)c.events,
                  (unsigned long long)stat(&b, WAY_STAT_CONFLICTS),
                  (unsigned long long)c.dropped);
    assert_int_equal(disagreements(s), 0);
    assert_int_equal(c.dropped, 0);
    assert_true(c.agreed > 3000);
    assert_true(stat(&b, WAY_STAT_CONFLICTS) > 0);
    end(&b);
}

/* Both sides of one difference, and never of two. */
static void a_pair(void *arg, const struct way_entry *charge, const struct way_entry *own)
{
    unsigned *pairs = arg;
    assert_int_equal(charge->shadow, WAY_ENTRY_IN_CHARGE);
    assert_int_equal(own->shadow, WAY_ENTRY_CANDIDATE);
    assert_int_equal(own->thread, charge->thread);
    assert_int_equal(own->node, charge->node);
    assert_float_equal(own->event.now, charge->event.now, 0);
    ++*pairs;
}

/* One that differs has a world of its own that stays in order, and each question is
 * either answered or counted as given up; its differences are taken whole. */
static void one_that_differs_keeps_its_own_world_while_threads_contend(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, BUSY_POLICY("1"), THREADS_MOST);
    struct way_shadow *s = put(&b, WAY_SHADOW_CANDIDATE, BUSY_POLICY("2"), true);
    unsigned pairs = 0;
    way_shadows_tell(b.shadows, a_pair, &pairs);
    run_threads(&b, 3000, true);
    tend(&b);
    struct way_shadow_counts c = counts(s);
    uint64_t questions = c.agreed + disagreements(s);
    assert_int_equal(questions, c.events);
    assert_true(c.disagreed[WAY_FN_MARK] > 0);
    assert_true(c.disagreed[WAY_FN_BACKOFF] > 0);
    assert_int_equal(pairs + c.unshown, disagreements(s));
    print_message("%llu events, %llu dropped\n", (unsigned long long)c.events,
                  (unsigned long long)c.dropped);
    assert_true(c.dropped < c.events);
    end(&b);
}

/* ---- counters ---- */

static void fail_often(struct bed *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        decide(b, A0, replied(b, "BUSY x"));
}

static void reports(struct bed *b, unsigned good)
{
    struct way_report r = { .now = b->now, .good = good, .requests = good };
    struct way_decision d;
    if (way_decider_counts(b->decider[0]))
        way_decide_report(b->decider[0], b->node[A0], &r, &d);
}

/* The policy in charge counts nothing; the candidate by its own classes. */
static void a_candidate_counts_by_itself(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("mark = function() end"), 1);
    reports(&b, 5);
    struct way_shadow *s = candidate(
        &b, POLICY("classes = { { error = 'reply', reply = 'BUSY', class = 'slow' }, "
                   "wayside.default.classes }, "
                   "counters = { row = wayside.consecutive { classes = 'slow', edge = { "
                   "at_least = 3 } } }, mark = function(_, node, e) if e.kind == 'edge' "
                   "then return { state = 'failing', reason = e.counter .. "
                   "node.counters.row.value } end end"));
    fail_often(&b, 2);
    reports(&b, 5);
    fail_often(&b, 2);
    assert_int_equal(counts(s).disagreed[WAY_FN_MARK], 0);
    fail_often(&b, 1);
    assert_int_equal(counts(s).disagreed[WAY_FN_MARK], 1);
    struct way_verdict v;
    assert_true(way_shadow_verdict(s, b.node[A0], &v));
    assert_int_equal(v.state, WAY_STATE_FAILING);
    assert_string_equal(v.reason, "row3");
    assert_int_equal(kit_state(b.health, b.node[A0]), WAY_STATE_HEALTHY);
    tend(&b);
    const struct way_entry *charge, *own;
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    assert_int_equal(own->event.kind, WAY_KIND_EDGE);
    assert_string_equal(own->event.counter, "row");
    assert_string_equal(charge->where, "not asked");
    fail_often(&b, 5); /* once until it was false */
    assert_int_equal(counts(s).disagreed[WAY_FN_MARK], 1);
    end(&b);
}

static void an_edge_that_only_the_policy_in_charge_has_is_not_the_candidates(void **state)
{
    (void)state;
    struct bed b;
    static const char body[] =
        "counters = { row = wayside.consecutive { edge = { at_least = %u } } }, "
        "mark = function(_, node, e) if e.kind == 'edge' then return { weight = 0.5 } "
        "end "
        "end";
    char text[512], inner[384];
    snprintf(inner, sizeof inner, body, 3u);
    snprintf(text, sizeof text, POLICY("%s"), inner);
    begin(&b, text, 1);
    snprintf(inner, sizeof inner, body, 5u);
    snprintf(text, sizeof text, POLICY("%s"), inner);
    struct way_shadow *s = candidate(&b, text);
    fail_often(&b, 3);
    assert_int_equal(counts(s).disagreed[WAY_FN_MARK], 1);
    fail_often(&b, 2); /* now the candidate's alone */
    assert_int_equal(counts(s).disagreed[WAY_FN_MARK], 2);
    end(&b);
}

static void an_equal_policy_agrees_on_what_was_counted(void **state)
{
    (void)state;
    static const char policy[] = POLICY(
        "counters = { row = wayside.consecutive { edge = { at_least = 4 } }, rate = "
        "wayside.ring { size = 20, edge = { above = 0.5, min_volume = 10 } }, gaps = "
        "wayside.samples { size = 8 } }, "
        "mark = function(_, node, e) local c = node.counters c.gaps:add(e.now % 7) "
        "if e.kind == 'edge' then c[e.counter]:reset() end "
        "return { weight = c.rate.value, reason = c.row.value .. '_' .. c.gaps.volume .. "
        "'_' .. c.gaps.deviation } end");
    struct bed b;
    struct way_random random;
    way_random_seed(&random, 11);
    begin(&b, policy, 1);
    struct way_shadow *s = put(&b, WAY_SHADOW_CANDIDATE, policy, true);
    for (int i = 0; i < 400; i++) {
        uint64_t dice = way_random_next(&random);
        b.now += 1;
        if (dice & 1)
            fail_often(&b, 1 + (dice >> 8 & 3));
        else
            reports(&b, 1 + (dice >> 8 & 7));
        while (way_ring_peek(b.ring[0]))
            way_ring_pop(b.ring[0]);
        tend(&b);
    }
    struct way_shadow_counts c = counts(s);
    const struct way_entry *charge, *own;
    if (way_shadow_difference(s, 0, &charge, &own)) {
        char words[2][128];
        way_entry_verdict(charge, words[0], sizeof words[0]);
        way_entry_verdict(own, words[1], sizeof words[1]);
        fail_msg("%s %s at %.0f: %s (%s), the candidate %s (%s)",
                 way_kind_name(own->event.kind), own->event.counter, own->event.now,
                 words[0], charge->where, words[1], own->where);
    }
    assert_true(c.agreed > 400);
    assert_int_equal(disagreements(s), 0);
    assert_int_equal(way_shadow_errors(&c), 0);
    end(&b);
}

/* ---- route ---- */

enum { SLOT_A = 10, COMMANDS = 400 };

/* Routes reads, and then so many writes, of the first shard; how many went to A. */
static unsigned route(struct bed *b, struct way_router *r, unsigned reads,
                      unsigned writes)
{
    static const char get[] = "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    struct way_span bytes = { get, sizeof get - 1 };
    unsigned to_a = 0;
    for (unsigned i = 0; i < reads + writes; i++) {
        struct way_request q = { .slot = SLOT_A,
                                 .target = WAY_NONE_NODE,
                                 .avoid = WAY_NONE_NODE,
                                 .flags = i < reads ? 0 : WAY_FLAG_WRITE };
        struct way_route to =
            way_route_straight(r, &q)
                ? (struct way_route){ way_route_fast(r, SLOT_A), 0, false, false }
                : way_route_ask(r, &q, bytes, b->now);
        assert_true(to.node == b->node[A] || to.node == b->node[A0]);
        to_a += to.node == b->node[A];
    }
    return to_a;
}

static void router(struct bed *b, struct way_router *r)
{
    struct way_err err;
    int row = way_health_row_attach(b->health, &err);
    must(row, &err);
    way_router_init(r, b->health, b->decider[0], &b->stats[0], row);
}

#define LAST "route = function(_, _, nodes) return #nodes end"
#define FIRST "route = function(_, _, nodes) return 1 end"

static void its_route_is_compared_with_where_commands_went(void **state)
{
    (void)state;
    struct bed b;
    struct way_router r;
    const struct way_entry *charge, *own;
    char words[128];
    begin(&b, NULL, 1);
    b.limits.shadow_sample = 1;
    router(&b, &r);
    assert_false(way_decider_shadow_routes(b.decider[0]));
    struct way_shadow *s = candidate(&b, POLICY(LAST));
    assert_true(way_decider_shadow_routes(b.decider[0]));
    way_router_refresh(&r);
    assert_int_equal(route(&b, &r, 10, 10), 20); /* it is not obeyed */
    struct way_shadow_counts c = counts(s);
    assert_int_equal(c.asked, 20);
    assert_int_equal(c.events, 20);
    /* Its writes would have been refused: pick decides on both sides. */
    assert_int_equal(c.agreed, 10);
    assert_int_equal(c.disagreed[WAY_FN_ROUTE], 10);
    assert_int_equal(way_stat_get(&b.stats[0], WAY_STAT_SHADOW_ROUTE), 10);
    assert_int_equal(way_stat_get(&b.stats[0], WAY_STAT_ROUTES_REFUSED), 0);
    tend(&b);
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    assert_string_equal(charge->address, "127.0.0.1:7000");
    assert_string_equal(charge->where, "pick");
    way_entry_verdict(charge, words, sizeof words);
    assert_string_equal(words, "nil, picked 127.0.0.1:7000");
    way_entry_verdict(own, words, sizeof words);
    assert_string_equal(words, "127.0.0.1:7002");
    assert_string_equal(own->where, "test.lua:2");
    assert_int_equal(own->event.kind, WAY_KIND_COMMANDS);

    /* One that says nothing, and one that says what pick said, agree. */
    s = candidate(&b, POLICY("route = function() end"));
    route(&b, &r, 10, 10);
    assert_int_equal(counts(s).agreed, 20);
    s = candidate(&b, POLICY(FIRST));
    route(&b, &r, 10, 10);
    assert_int_equal(counts(s).agreed, 20);

    /* Without it commands go straight again. */
    way_shadows_take_off(b.shadows, WAY_SHADOW_CANDIDATE);
    assert_false(way_decider_shadow_routes(b.decider[0]));
    way_router_refresh(&r);
    assert_true(r.straight);
    way_router_fini(&r);
    end(&b);
}

static void an_equal_route_agrees_and_draws_the_same_numbers(void **state)
{
    (void)state;
    static const char policy[] = POLICY("memory = { node = { faults = 0 } }, " MARKS(
        "7") ", "
             "route = function(_, _, nodes) return 1 + math.floor(wayside.random() * "
             "#nodes) end");
    struct bed b;
    struct way_router r;
    begin(&b, policy, 1);
    b.limits.shadow_sample = 1;
    router(&b, &r);
    struct way_shadow *s = put(&b, WAY_SHADOW_CANDIDATE, policy, true);
    way_router_refresh(&r);
    unsigned to_a = route(&b, &r, COMMANDS, 0);
    assert_in_range(to_a, COMMANDS / 4, COMMANDS * 3 / 4);
    assert_int_equal(counts(s).agreed, COMMANDS);
    assert_int_equal(disagreements(s), 0);
    s = candidate(&b, POLICY(LAST));
    to_a = route(&b, &r, COMMANDS, 0);
    assert_int_equal(counts(s).disagreed[WAY_FN_ROUTE], to_a);
    assert_int_equal(counts(s).agreed, COMMANDS - to_a);
    way_router_fini(&r);
    end(&b);
}

/* It remembers what it would have: its route sees that, not the table's memory. */
static void its_route_sees_the_nodes_as_it_would_have_them(void **state)
{
    (void)state;
    struct bed b;
    struct way_router r;
    begin(&b, POLICY("memory = { node = { other = 7 } }, mark = function() end"), 1);
    b.limits.shadow_sample = 1;
    router(&b, &r);
    struct way_shadow *s = candidate(
        &b, POLICY("memory = { node = { faults = 0 } }, "
                   "mark = function(_, node, e) if e.error then node.memory.faults = "
                   "node.memory.faults + 1 end end, "
                   "route = function(_, _, nodes) for i = 1, #nodes do "
                   "if nodes[i].memory.faults == 0 then return i end end end"));
    way_router_refresh(&r);
    route(&b, &r, 10, 0);
    assert_int_equal(counts(s).disagreed[WAY_FN_ROUTE], 0);
    decide(&b, A, refused(&b));
    assert_int_equal(route(&b, &r, 10, 0), 10);
    assert_int_equal(counts(s).disagreed[WAY_FN_ROUTE], 10);
    struct way_shadow_counts c = counts(s);
    assert_int_equal(way_shadow_errors(&c), 0);
    way_router_fini(&r);
    end(&b);
}

static void its_route_is_asked_about_a_share_of_the_commands(void **state)
{
    (void)state;
    struct bed b;
    struct way_router r;
    begin(&b, NULL, 1);
    router(&b, &r);
    b.limits.shadow_sample = 0.25;
    struct way_shadow *s = candidate(&b, POLICY(LAST));
    way_router_refresh(&r);
    route(&b, &r, 4 * COMMANDS, 0);
    assert_in_range(counts(s).asked, COMMANDS / 2, COMMANDS * 2);
    b.limits.shadow_sample = 0;
    s = candidate(&b, POLICY(LAST));
    route(&b, &r, COMMANDS, 0);
    assert_int_equal(counts(s).asked, 0);
    way_router_fini(&r);
    end(&b);
}

static void a_route_that_raises_is_switched_off_and_nothing_else_changes(void **state)
{
    (void)state;
    struct bed b;
    struct way_router r;
    struct way_shadow_about about;
    begin(&b, NULL, 1);
    b.limits.shadow_sample = 1;
    router(&b, &r);
    way_log_level((enum way_level)(WAY_ERROR + 1));
    struct way_shadow *s = candidate(&b, POLICY("route = function() error 'no' end"));
    way_router_refresh(&r);
    assert_int_equal(route(&b, &r, COMMANDS, 0), COMMANDS);
    way_shadow_about(s, &about);
    assert_non_null(about.off);
    assert_non_null(strstr(about.off, "in route (error)"));
    assert_int_equal(counts(s).errors[0], b.limits.policy_errors);
    assert_int_equal(way_stat_get(&b.stats[0], WAY_STAT_FALLBACK), 0);
    assert_false(way_decider_shadow_routes(b.decider[0]));
    way_log_level(WAY_INFO);
    way_router_fini(&r);
    end(&b);
}

/* ---- tick ---- */

static struct way_swept sweep(struct bed *b)
{
    struct way_event e = { .kind = WAY_KIND_TICK,
                           .began = b->now,
                           .now = b->now,
                           .unix_time = 1,
                           .deadline_left = -1 };
    struct way_swept out;
    way_decide_tick(b->decider[0], &e, &out);
    return out;
}

/* As control does, every 50 ms. */
static void sweep_alone(struct bed *b)
{
    struct way_event e = { .kind = WAY_KIND_TICK,
                           .began = b->now,
                           .now = b->now,
                           .unix_time = 1,
                           .deadline_left = -1 };
    way_decide_tick_shadows(b->decider[0], &e);
}

/* Counts its sweeps, at random, in each node's memory; marks replicas when that is 3. */
#define TICKS(every, seconds)                                                            \
    "every = " every ", memory = { node = { n = 0 } }, mark = function() end, "          \
    "tick = function(self, nodes) local out = {} for i, node in ipairs(nodes) do "       \
    "node.memory.n = node.memory.n + 1 + wayside.random() "                              \
    "if node.role == 'replica' and node.state == 'healthy' and node.memory.n > 3 then "  \
    "out[#out + 1] = { node = node, state = 'failing', seconds = " seconds ", "          \
    "reason = 'n' .. math.floor(node.memory.n * 1000) } end end return out end"

static void an_equal_tick_agrees_and_remembers_the_same(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY(TICKS("1", "5")), 1);
    struct way_shadow *s = put(&b, WAY_SHADOW_CANDIDATE, POLICY(TICKS("1", "5")), true);
    unsigned marked = 0, ended = 0;
    for (unsigned i = 0; i < 20; i++, b.now += 1) {
        marked += sweep(&b).marked;
        sweep_alone(&b);
        tend(&b);
        struct way_event e = refused(&b);
        struct way_decision d;
        e.kind = WAY_KIND_EXPIRY;
        e.error = WAY_ERROR_NONE;
        struct way_verdict v;
        way_health_verdict(b.health, b.node[A0], &v);
        if (v.ends <= 0 || v.ends > b.now)
            continue;
        way_decide(b.decider[0], b.node[A0], &e, &d);
        ended++;
    }
    struct way_shadow_counts c = counts(s);
    assert_true(marked > 0);
    assert_int_equal(c.asked, 20 + ended);
    assert_int_equal(disagreements(s), 0);
    assert_int_equal(c.out, c.out_in_charge);
    assert_true(c.out > 0 && c.agreed >= marked);
    assert_int_equal(c.dropped, 0);
    end(&b);
}

static void a_tick_that_differs_is_counted_written_down_and_not_obeyed(void **state)
{
    (void)state;
    struct bed b;
    struct way_verdict v;
    const struct way_entry *charge, *own;
    char words[128];
    begin(
        &b,
        POLICY("every = 1, mark = function() end, tick = function(_, nodes) for _, n in "
               "ipairs(nodes) do if n.role == 'replica' then return { { node = n, "
               "weight = 0.5, reason = 'half' } } end end end"),
        1);
    struct way_shadow *s = candidate(
        &b, POLICY("every = 1, mark = function() end, memory = { node = { n = 0 } }, "
                   "tick = function(_, nodes) for _, n in ipairs(nodes) do n.memory.n = "
                   "n.memory.n + 1 if n.role == 'replica' and n.state == 'healthy' then "
                   "return { { node = n, state = 'failing', seconds = 60, reason = "
                   "'swept' .. n.memory.n } } end end end"));
    assert_int_equal(sweep(&b).marked, 1);
    way_health_verdict(b.health, b.node[A0], &v);
    assert_int_equal(v.state, WAY_STATE_HEALTHY);
    assert_float_equal(v.weight, 0.5, 0);
    struct way_shadow_counts c = counts(s);
    assert_int_equal(c.disagreed[WAY_FN_TICK], 1);
    assert_int_equal(disagreements(s), 1);
    assert_int_equal(c.out, 1);
    assert_int_equal(c.out_in_charge, 0);
    assert_int_equal(way_stat_get(&b.stats[0], WAY_STAT_SHADOW_TICK), 1);
    tend(&b);
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    assert_string_equal(charge->address, "127.0.0.1:7002");
    assert_int_equal(own->function, WAY_FN_TICK);
    assert_int_equal(own->event.kind, WAY_KIND_TICK);
    way_entry_verdict(charge, words, sizeof words);
    assert_string_equal(words, "state kept weight 0.5 half");
    way_entry_verdict(own, words, sizeof words);
    assert_string_equal(words, "failing 60 s swept1");
    assert_string_equal(own->did, "would be healthy -> failing");
    assert_string_equal(own->where, "test.lua:2");
    /* It sees the node as it would have it, and its memory is its own. */
    b.now += 1;
    sweep(&b);
    assert_int_equal(counts(s).out, 1);
    assert_true(way_shadow_verdict(s, b.node[A0], &v));
    assert_int_equal(v.state, WAY_STATE_FAILING);
    b.now += 60;
    tend(&b);
    sweep(&b);
    tend(&b);
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    way_entry_verdict(own, words, sizeof words);
    assert_string_equal(words, "failing 60 s swept3");
    end(&b);
}

static void a_tick_with_an_interval_of_its_own_is_asked_at_it(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, NULL, 1);
    assert_float_equal(way_decider_plan(b.decider[0])->every, 0, 0);
    struct way_shadow *s = candidate(
        &b, POLICY("every = 2, mark = function() end, tick = function(_, nodes) for _, n "
                   "in ipairs(nodes) do if n.role == 'replica' then return { { node = n, "
                   "state = 'failing', seconds = 60 }, { node = nodes[1] == n and "
                   "nodes[2] or nodes[1], state = 'healthy' } } end end end"));
    for (unsigned i = 0; i < 101; i++, b.now += 0.1)
        sweep_alone(&b);
    struct way_shadow_counts c = counts(s);
    assert_in_range(c.asked, 4, 5); /* ten seconds, the first at the end of two */
    /* What is so already is no difference: a healthy node stays one. */
    assert_int_equal(c.disagreed[WAY_FN_TICK], c.asked);
    assert_int_equal(c.agreed, c.asked);
    assert_int_equal(c.out, 1);
    assert_int_equal(kit_state(b.health, b.node[A0]), WAY_STATE_HEALTHY);
    end(&b);
}

static void who_has_no_tick_differs_where_the_one_in_charge_marks(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY(TICKS("1", "5")), 1);
    struct way_shadow *s = put(&b, WAY_SHADOW_CANDIDATE, NULL, false);
    unsigned marked = 0;
    for (unsigned i = 0; i < 4; i++, b.now += 1) {
        marked += sweep(&b).marked;
        sweep_alone(&b);
    }
    tend(&b);
    const struct way_entry *charge, *own;
    assert_int_equal(marked, 1);
    assert_int_equal(counts(s).asked, 0);
    assert_int_equal(disagreements(s), 1);
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    assert_string_equal(own->where, "not asked");
    struct way_verdict v;
    assert_true(way_shadow_verdict(s, b.node[A0], &v));
    assert_int_equal(v.state, WAY_STATE_HEALTHY);
    end(&b);
}

static void a_tick_that_raises_is_switched_off_and_remembers_nothing(void **state)
{
    (void)state;
    struct bed b;
    struct way_shadow_about about;
    begin(&b, POLICY(TICKS("1", "5")), 1);
    way_log_level((enum way_level)(WAY_ERROR + 1));
    struct way_shadow *s = candidate(
        &b, POLICY("every = 1, mark = function() end, tick = function() error 'no' end"));
    unsigned marked = 0;
    for (unsigned i = 0; i < 20; i++, b.now += 0.1)
        marked += sweep(&b).marked;
    way_shadow_about(s, &about);
    assert_non_null(about.off);
    assert_non_null(strstr(about.off, "in tick (error)"));
    assert_int_equal(counts(s).asked, b.limits.policy_errors);
    assert_true(marked > 0); /* the one in charge went on */
    assert_false(way_decider_set_aside(b.decider[0]));
    way_log_level(WAY_INFO);
    end(&b);
}

static void a_tick_in_charge_that_fails_is_no_answer_to_compare_with(void **state)
{
    (void)state;
    struct bed b;
    const struct way_entry *charge, *own;
    way_log_level((enum way_level)(WAY_ERROR + 1));
    begin(&b,
          POLICY("every = 1, mark = function() end, tick = function() error 'no' end"),
          1);
    struct way_shadow *s = candidate(
        &b, POLICY("every = 1, mark = function() end, tick = function(_, nodes) "
                   "return { { node = nodes[1], weight = 0.5 } } end"));
    sweep(&b);
    tend(&b);
    assert_int_equal(disagreements(s), 1);
    assert_true(way_shadow_difference(s, 0, &charge, &own));
    assert_string_equal(charge->where, "failed");
    assert_string_equal(own->where, "test.lua:2");
    way_log_level(WAY_INFO);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mark_that_differs_is_counted_written_down_and_not_obeyed),
        cmocka_unit_test(backoff_probe_reconnect_and_classes_are_compared_too),
        cmocka_unit_test(who_is_not_asked_says_nothing),
        cmocka_unit_test(an_equal_policy_agrees_through_marks_ends_and_random_numbers),
        cmocka_unit_test(its_own_marks_end_when_their_time_is_over),
        cmocka_unit_test(the_guard_holds_for_it_too),
        cmocka_unit_test(an_operators_mark_outranks_it_too),
        cmocka_unit_test(its_memory_is_its_own),
        cmocka_unit_test(an_equal_policy_counts_what_the_one_in_charge_counts),
        cmocka_unit_test(a_policy_with_other_counters_counts_for_itself),
        cmocka_unit_test(one_that_classes_otherwise_counts_otherwise),
        cmocka_unit_test(one_that_raises_is_switched_off_and_says_why),
        cmocka_unit_test(one_that_loops_is_switched_off_and_says_why),
        cmocka_unit_test(one_that_allocates_is_switched_off_and_says_why),
        cmocka_unit_test(one_that_answers_nonsense_is_switched_off_and_says_why),
        cmocka_unit_test(candidate_and_previous_are_asked_side_by_side),
        cmocka_unit_test(another_one_takes_its_place_at_the_next_question),
        cmocka_unit_test(what_was_classed_before_it_came_is_not_put_to_it),
        cmocka_unit_test(a_share_of_the_successes_that_its_watch_wants_is_put_to_it),
        cmocka_unit_test(an_equal_policy_agrees_while_threads_contend),
        cmocka_unit_test(one_that_differs_keeps_its_own_world_while_threads_contend),
        cmocka_unit_test(a_candidate_counts_by_itself),
        cmocka_unit_test(
            an_edge_that_only_the_policy_in_charge_has_is_not_the_candidates),
        cmocka_unit_test(an_equal_policy_agrees_on_what_was_counted),
        cmocka_unit_test(its_route_is_compared_with_where_commands_went),
        cmocka_unit_test(an_equal_route_agrees_and_draws_the_same_numbers),
        cmocka_unit_test(its_route_sees_the_nodes_as_it_would_have_them),
        cmocka_unit_test(its_route_is_asked_about_a_share_of_the_commands),
        cmocka_unit_test(a_route_that_raises_is_switched_off_and_nothing_else_changes),
        cmocka_unit_test(an_equal_tick_agrees_and_remembers_the_same),
        cmocka_unit_test(a_tick_that_differs_is_counted_written_down_and_not_obeyed),
        cmocka_unit_test(a_tick_with_an_interval_of_its_own_is_asked_at_it),
        cmocka_unit_test(who_has_no_tick_differs_where_the_one_in_charge_marks),
        cmocka_unit_test(a_tick_that_raises_is_switched_off_and_remembers_nothing),
        cmocka_unit_test(a_tick_in_charge_that_fails_is_no_answer_to_compare_with),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
