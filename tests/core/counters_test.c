/* counters: what each kind counts, against figures that others published; edges are told
 * once; many at once lose nothing; a writer killed anywhere leaves what makes sense. */
#include "counters.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* One counter and its block. */
struct bed {
    struct way_counters_layout l;
    _Atomic uint64_t node[WAY_NODE_COUNTER_WORDS];
    struct way_counter_blocks b;
    double now;
    uint64_t edges; /* of the last report */
};
static struct bed t;

static void begin(struct way_counter c)
{
    struct way_err err;
    memset(&t, 0, sizeof t);
    snprintf(c.name, sizeof c.name, "it");
    if (way_counters_add(&t.l, WAY_COUNTERS_NODE, &c, &err) < 0)
        fail_msg("%s", err.text);
    t.b.of[WAY_COUNTERS_NODE] = t.node;
    t.now = 1000;
}

static void good_within(unsigned n, double latency)
{
    struct way_report r = { .now = t.now, .good = n, .latency = latency, .requests = n };
    t.edges = way_counters_report(&t.l, &t.b, &r);
}

static void good(unsigned n)
{
    good_within(n, 0.001);
}

static void fails_with(unsigned n, enum way_class class, enum way_phase phase)
{
    struct way_report r = { .now = t.now,
                            .failure = true,
                            .failed = n,
                            .class = class,
                            .blame = way_class_blame(class),
                            .phase = phase };
    t.edges = way_counters_report(&t.l, &t.b, &r);
}

static void fails(unsigned n)
{
    fails_with(n, WAY_CLASS_DOWN, WAY_PHASE_READ);
}

/* "SFF": a success, two failures. */
static void results(const char *each)
{
    for (; *each; each++)
        *each == 'S' ? good(1) : fails(1);
}

static struct way_counted read_it(void)
{
    struct way_counted v;
    way_counter_read(&t.l.counter[WAY_COUNTERS_NODE][0], t.node, t.now, &v);
    return v;
}

static void is(double value, double wanted)
{
    if (fabs(value - wanted) > 1e-6 * (1 + fabs(wanted)))
        fail_msg("%.9g, expected %.9g", value, wanted);
}

static void reset(void)
{
    struct way_touches touches = { .count = 1 };
    way_counters_touch(&t.l, &t.b, &touches);
}

static void add(double value)
{
    struct way_touches touches = { .count = 1,
                                   .touch[0] = { .add = true, .value = value } };
    way_counters_touch(&t.l, &t.b, &touches);
}

/* ---- what counts ---- */

static void a_row_ends_with_a_success(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_CONSECUTIVE });
    results("FFSFFF");
    is(read_it().value, 3);
    fails_with(1, WAY_CLASS_AGAIN, WAY_PHASE_READ);
    fails_with(1, WAY_CLASS_IGNORE, WAY_PHASE_READ);
    is(read_it().value, 3);
    fails(64); /* a connection with 64 commands */
    fails(0);  /* an idle one is one */
    is(read_it().value, 68);
    good(1000);
    is(read_it().value, 0);
}

static void a_strict_row_ends_with_anything_else(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_CONSECUTIVE,
                                .strict = true,
                                .named = true,
                                .classes = 1 << WAY_CLASS_SLOW });
    fails_with(2, WAY_CLASS_SLOW, WAY_PHASE_READ);
    is(read_it().value, 2);
    fails_with(1, WAY_CLASS_IGNORE, WAY_PHASE_READ); /* not even that */
    is(read_it().value, 2);
    fails_with(1, WAY_CLASS_DOWN, WAY_PHASE_READ);
    is(read_it().value, 0);
    fails_with(2, WAY_CLASS_SLOW, WAY_PHASE_READ);
    fails_with(1, WAY_CLASS_AGAIN, WAY_PHASE_READ);
    is(read_it().value, 0);
}

static void successes_are_counted_where_ok_is_named(void **state)
{
    (void)state;
    begin((struct way_counter){
        .kind = WAY_COUNTER_CONSECUTIVE, .named = true, .classes = 1 << WAY_CLASS_OK });
    good(3);
    fails_with(1, WAY_CLASS_AGAIN, WAY_PHASE_READ); /* blames nobody */
    is(read_it().value, 3);
    fails(1);
    is(read_it().value, 0);
}

static void classes_phases_and_slowness_say_what_a_failure_is(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_RING,
                                .size = 10,
                                .named = true,
                                .classes = 1 << WAY_CLASS_SLOW,
                                .phases = 1 << WAY_PHASE_READ,
                                .slower = 0.05 });
    fails_with(1, WAY_CLASS_SLOW, WAY_PHASE_READ);
    is(read_it().failed, 1);
    fails_with(1, WAY_CLASS_SLOW, WAY_PHASE_CONNECT); /* blames it, and is not counted */
    fails_with(1, WAY_CLASS_DOWN, WAY_PHASE_READ);
    fails_with(1, WAY_CLASS_AGAIN, WAY_PHASE_READ); /* no result of the node's */
    is(read_it().failed, 1);
    is(read_it().volume, 3);
    good_within(1, 0.05);
    is(read_it().failed, 1);
    good_within(1, 0.06);
    is(read_it().failed, 2);
    is(read_it().volume, 5);
}

static void events_count_once(void **state)
{
    (void)state;
    begin((struct way_counter){
        .kind = WAY_COUNTER_WINDOW, .seconds = 10, .size = 1, .events = true });
    fails(64);
    fails(0);
    good(1000);
    is(read_it().failed, 2);
    is(read_it().volume, 3);
}

/* ---- windows and rings ---- */

static void buckets_begin_at_multiples_of_their_length(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_WINDOW, .seconds = 1, .size = 10 });
    t.now = 1000.9;
    fails(3);
    t.now = 1001;
    good(3);
    t.now = 1009.99;
    is(read_it().failed, 3);
    is(read_it().volume, 6);
    t.now = 1010; /* the bucket of 1000 has left */
    is(read_it().failed, 0);
    is(read_it().volume, 3);
    t.now = 1011;
    is(read_it().volume, 0);
    is(read_it().value, 0);
}

static void a_single_bucket_tumbles(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_WINDOW, .seconds = 1, .size = 1 });
    t.now = 1000;
    results("FFFSSS");
    t.now = 1000.999;
    is(read_it().value, 0.5);
    t.now = 1001;
    is(read_it().volume, 0);
    fails(1);
    is(read_it().failed, 1);
    t.now = 1000.9995; /* a worker whose clock is behind: it counts as of now */
    fails(1);
    t.now = 1001;
    is(read_it().failed, 2);
}

static void tenths_of_a_second_have_exact_edges(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_WINDOW, .seconds = 0.1, .size = 10 });
    for (unsigned i = 0; i < 1000; i++) {
        t.now = (double)(10000 + i) / 10;
        good(1);
        is(read_it().volume, i < 10 ? i + 1 : 10);
    }
}

static void a_full_bucket_keeps_its_share(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_WINDOW, .seconds = 3600, .size = 1 });
    for (unsigned i = 0; i < 100; i++) {
        good(100000);
        fails(100000);
    }
    assert_true(fabs(read_it().value - 0.5) < 0.03);
    assert_true(read_it().volume > 2e6 && read_it().volume < 4.2e6);
}

/* Hystrix's own tests, at 40 % and volume 0: what the share is after the last. */
static void a_window_has_the_shares_that_hystrix_has(void **state)
{
    (void)state;
    static const struct {
        const char *results;
        int percent;
    } cases[] = { { "SSFSFSFF", 50 }, { "SSFSSFSF", 37 }, { "SSFSFFSFF", 55 } };
    for (unsigned i = 0; i < way_count(cases); i++) {
        begin(
            (struct way_counter){ .kind = WAY_COUNTER_WINDOW, .seconds = 1, .size = 10 });
        results(cases[i].results);
        assert_int_equal((int)(100 * read_it().value), cases[i].percent);
    }
}

/* resilience4j's: COUNT 10, SSFF FFFF SSSS is 60 %, three more successes 30 %. */
static void a_ring_forgets_in_order(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_RING, .size = 10 });
    results("SSFFFFFFSSSS");
    is(read_it().value, 0.6);
    is(read_it().volume, 10);
    results("SSS");
    is(read_it().value, 0.3);
    fails(1000); /* more than it holds */
    is(read_it().value, 1);
    reset();
    is(read_it().volume, 0);
    is(read_it().value, 0);
    good(1);
    is(read_it().volume, 1);
    is(read_it().failed, 0);
}

static void rings_of_any_size_agree_with_a_list(void **state)
{
    (void)state;
    static const unsigned sizes[] = { 1, 2, 63, 64, 65, 127, 128, 1000 };
    struct way_random random;
    way_random_seed(&random, 7);
    for (unsigned i = 0; i < way_count(sizes); i++) {
        static bool list[20000];
        unsigned n = 0, size = sizes[i];
        begin((struct way_counter){ .kind = WAY_COUNTER_RING, .size = size });
        while (n < 15000) {
            unsigned batch = 1 + (unsigned)(way_random_next(&random) % 100);
            bool bad = way_random_next(&random) & 1;
            bad ? fails(batch) : good(batch);
            for (unsigned k = 0; k < batch; k++)
                list[n++] = bad;
            unsigned failed = 0, volume = n < size ? n : size;
            for (unsigned k = 1; k <= volume; k++)
                failed += list[n - k];
            if (read_it().failed != failed || read_it().volume != volume)
                fail_msg("size %u, after %u: %g of %g, expected %u of %u", size, n,
                         read_it().failed, read_it().volume, failed, volume);
        }
    }
}

/* ---- averages, tokens, samples ---- */

/* Finagle's: after 100 successes the 70th failure in a row brings the rate below a half. */
static void an_average_by_results_falls_as_finagles_does(void **state)
{
    (void)state;
    begin((struct way_counter){
        .kind = WAY_COUNTER_EWMA, .of = WAY_COUNTER_OF_FAILED, .results = 100 });
    good(100);
    for (unsigned i = 1; i <= 70; i++) {
        fails(1);
        assert_int_equal(1 - read_it().value < 0.5, i == 70);
    }
    is(read_it().volume, 170);
    is(read_it().value, 1 - exp(-0.7));
}

/* ingress-nginx's: 0.3 five seconds ago, then 0.12, of ten seconds, is 0.229176. */
static void an_average_by_time_is_what_nginx_has(void **state)
{
    (void)state;
    begin((struct way_counter){
        .kind = WAY_COUNTER_EWMA, .of = WAY_COUNTER_OF_LATENCY, .seconds = 10 });
    is(read_it().value, 0);
    good_within(64, 0.3);
    is(read_it().value, 0.3);
    t.now += 5;
    good_within(1, 0.12);
    is(read_it().value, 0.229176);
    fails(1); /* no answer, no latency */
    is(read_it().value, 0.229176);
    good_within(1, 5); /* of the same moment: no time has passed for it */
    is(read_it().value, 0.229176);
    is(read_it().volume, 66);
    t.now += 1e6;
    good_within(1, 0);
    is(read_it().value, 0);
    t.now += 10;
    good_within(1, 1); /* 0 is a value, not the want of one */
    is(read_it().value, 1 - exp(-1));
}

static void a_peak_is_believed_at_once(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_EWMA,
                                .of = WAY_COUNTER_OF_LATENCY,
                                .seconds = 10,
                                .peak = true,
                                .has_start = true,
                                .start = 0.01 });
    is(read_it().value, 0.01);
    good_within(1, 0.002); /* what it starts with counts as of now */
    is(read_it().value, 0.01);
    t.now += 0.001;
    good_within(1, 0.5);
    is(read_it().value, 0.5);
    t.now += 10;
    good_within(1, 0.1);
    is(read_it().value, 0.1 + 0.4 * exp(-1));
}

static void failures_and_successes_of_one_pass_are_one_share(void **state)
{
    (void)state;
    begin((struct way_counter){
        .kind = WAY_COUNTER_EWMA, .of = WAY_COUNTER_OF_FAILED, .seconds = 10 });
    good(10);
    t.now += 10;
    struct way_report r = { .now = t.now,
                            .good = 3,
                            .failure = true,
                            .failed = 1,
                            .class = WAY_CLASS_BUSY,
                            .blame = WAY_BLAME_NODE };
    way_counters_report(&t.l, &t.b, &r);
    is(read_it().value, 0.25 * (1 - exp(-1)));
}

/* gRPC's retry throttling: at most 10, a failure costs 1, a success gives a half; retries
 * are allowed above a half of it. */
static void tokens_stay_between_nothing_and_all(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_TOKENS,
                                .capacity = 10,
                                .start = 10,
                                .success = 0.5,
                                .failure = -1 });
    is(read_it().value, 10);
    good(5);
    is(read_it().value, 10);
    for (unsigned i = 1; i <= 5; i++) {
        fails(1);
        assert_int_equal(read_it().value > 5, i < 5);
    }
    good(1);
    assert_true(read_it().value == 5.5);
    fails(100);
    assert_true(read_it().value == 0);
    good(1);
    assert_true(read_it().value == 0.5);
    reset();
    assert_true(read_it().value == 10);
}

static void tokens_fill_with_time(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_TOKENS,
                                .capacity = 100,
                                .start = 0,
                                .per_second = 10,
                                .request = 0.2,
                                .retry = -1 });
    is(read_it().value, 0);
    good(50); /* requests */
    is(read_it().value, 10);
    t.now += 2;
    is(read_it().value, 30);
    struct way_report r = { .now = t.now, .retries = 25 };
    way_counters_report(&t.l, &t.b, &r);
    is(read_it().value, 5);
    t.now += 1e9;
    is(read_it().value, 100);
    good(0);
    is(read_it().value, 100);
    reset();
    is(read_it().value, 0);
    t.now += 1;
    is(read_it().value, 0); /* it fills again from the next report on */
    good(0);
    t.now += 1;
    is(read_it().value, 10);
}

/* akka's: {100, 110, 90} has a variance of 66.667; with 140 and room for three, a mean of
 * 113.33 and a variance of 422.22. */
static void samples_have_the_deviation_of_a_population(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_SAMPLES, .size = 3 });
    is(read_it().volume, 0);
    is(read_it().mean, 0);
    add(100);
    is(read_it().deviation, 0);
    add(110);
    add(90);
    is(read_it().deviation * read_it().deviation, 200.0 / 3);
    is(read_it().value, 100);
    add(140);
    is(read_it().mean, 340.0 / 3);
    is(read_it().deviation * read_it().deviation, 3800.0 / 9);
    is(read_it().last, 140);
    is(read_it().volume, 3);
    good(5);
    fails(5);
    is(read_it().last, 140);
    reset();
    is(read_it().volume, 0);
}

static void requests_and_retries_have_windows_of_their_own(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_WINDOW,
                                .of = WAY_COUNTER_OF_RETRIES,
                                .seconds = 10,
                                .size = 10 });
    struct way_report r = { .now = t.now, .good = 7, .requests = 9, .retries = 3 };
    way_counters_report(&t.l, &t.b, &r);
    is(read_it().volume, 3);
    begin((struct way_counter){ .kind = WAY_COUNTER_WINDOW,
                                .of = WAY_COUNTER_OF_REQUESTS,
                                .seconds = 10,
                                .size = 10 });
    way_counters_report(&t.l, &t.b, &r);
    is(read_it().volume, 9);
    struct way_event e = {
        .kind = WAY_KIND_CONNECTION, .error = WAY_ERROR_RESET, .n = 4, .now = t.now
    };
    struct way_report broken = { .requests = 0 };
    way_report_failure(&broken, &e);
    way_counters_report(&t.l, &t.b, &broken);
    is(read_it().volume, 13);
}

/* ---- edges ---- */

/* resilience4j's: five calls at least, F F F S S opens, and on the success. */
static void an_edge_is_told_on_a_success_too(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_RING,
                                .size = 10,
                                .edge = WAY_EDGE_AT_LEAST,
                                .edge_at = 0.5,
                                .min_volume = 5 });
    for (const char *each = "FFFS"; *each; each++) {
        *each == 'S' ? good(1) : fails(1);
        assert_true(t.edges == 0);
    }
    good(1);
    assert_true(t.edges == WAY_COUNTER_BIT(WAY_COUNTERS_NODE, 0));
}

static void an_edge_is_told_once_until_it_was_false_or_reset(void **state)
{
    (void)state;
    begin((struct way_counter){
        .kind = WAY_COUNTER_CONSECUTIVE, .edge = WAY_EDGE_AT_LEAST, .edge_at = 3 });
    fails(2);
    assert_false(t.edges);
    fails(1);
    assert_true(t.edges);
    fails(1);
    assert_false(t.edges);
    good(1);
    fails(5);
    assert_true(t.edges);
    reset();
    fails(2);
    assert_false(t.edges);
    fails(1);
    assert_true(t.edges);
}

/* The window was full of failures, then empty: nobody reported, so nobody saw it false. */
static void time_alone_makes_an_edge_false(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_WINDOW,
                                .seconds = 1,
                                .size = 10,
                                .edge = WAY_EDGE_ABOVE,
                                .edge_at = 0.5,
                                .min_volume = 5 });
    fails(5);
    assert_true(t.edges);
    fails(5);
    assert_false(t.edges);
    t.now += 30;
    fails(5);
    assert_true(t.edges);
}

static void below_and_above_do_not_include_the_bound(void **state)
{
    (void)state;
    begin((struct way_counter){ .kind = WAY_COUNTER_TOKENS,
                                .capacity = 10,
                                .start = 10,
                                .failure = -1,
                                .edge = WAY_EDGE_BELOW,
                                .edge_at = 5 });
    fails(5);
    assert_false(t.edges);
    fails(1);
    assert_true(t.edges);
    begin((struct way_counter){
        .kind = WAY_COUNTER_RING, .size = 4, .edge = WAY_EDGE_ABOVE, .edge_at = 0.5 });
    results("SF");
    assert_false(t.edges);
    results("F");
    assert_true(t.edges);
}

/* ---- room ---- */

static void what_does_not_fit_is_refused(void **state)
{
    struct way_counters_layout l = { .all = 0 };
    struct way_counter c = { .kind = WAY_COUNTER_RING, .size = WAY_RING_MAX };
    struct way_err err;
    (void)state;
    unsigned fit = 0;
    while (way_counters_add(&l, WAY_COUNTERS_NODE, &c, &err) == 0)
        fit++;
    assert_int_equal(fit, WAY_NODE_COUNTER_WORDS / (1 + WAY_RING_MAX / 64));
    assert_non_null(strstr(err.text, "needs 1032 bytes"));
    c = (struct way_counter){ .kind = WAY_COUNTER_CONSECUTIVE };
    for (unsigned i = 0; i < WAY_COUNTERS_MAX; i++)
        assert_int_equal(way_counters_add(&l, WAY_COUNTERS_CLUSTER, &c, &err), 0);
    assert_int_equal(way_counters_add(&l, WAY_COUNTERS_CLUSTER, &c, &err), -1);
    assert_string_equal(err.text, "more than 16 counters of one scope");
}

/* ---- many at once, and one that dies ---- */

enum { THREADS = 4, REPORTS = 20000 };

/* One of each kind that reports change, by its place. */
enum { ROW, WINDOW, RING, RATE, TOKENS, SLOW_ROW, ALL };

static void begin_all(void)
{
    static const struct way_counter all[ALL] = {
        [ROW] = { .kind = WAY_COUNTER_CONSECUTIVE,
                  .edge = WAY_EDGE_AT_LEAST,
                  .edge_at = THREADS * REPORTS },
        [WINDOW] = { .kind = WAY_COUNTER_WINDOW, .seconds = 1e5, .size = 2 },
        [RING] = { .kind = WAY_COUNTER_RING, .size = 100 },
        [RATE] = { .kind = WAY_COUNTER_EWMA, .of = WAY_COUNTER_OF_FAILED, .seconds = 10 },
        [TOKENS] = { .kind = WAY_COUNTER_TOKENS,
                     .capacity = 1e6,
                     .start = 0,
                     .failure = 1 },
        [SLOW_ROW] = { .kind = WAY_COUNTER_CONSECUTIVE, .slower = 1 },
    };
    struct way_err err;
    memset(&t, 0, sizeof t);
    for (unsigned i = 0; i < ALL; i++)
        assert_int_equal(way_counters_add(&t.l, WAY_COUNTERS_NODE, &all[i], &err), 0);
    t.b.of[WAY_COUNTERS_NODE] = t.node;
    t.now = 1000;
}

static struct way_counted read_one(unsigned which, const _Atomic uint64_t *block)
{
    struct way_counted v;
    way_counter_read(&t.l.counter[WAY_COUNTERS_NODE][which], block, t.now, &v);
    return v;
}

static _Atomic unsigned told;

static void *fail_often(void *arg)
{
    struct way_report r = { .now = 1000 + *(const double *)arg,
                            .failure = true,
                            .failed = 1,
                            .class = WAY_CLASS_DOWN,
                            .blame = WAY_BLAME_NODE };
    for (unsigned i = 0; i < REPORTS; i++) {
        r.now += 1e-6;
        if (way_counters_report(&t.l, &t.b, &r))
            atomic_fetch_add(&told, 1);
    }
    return NULL;
}

static void threads_add_up(void **state)
{
    pthread_t thread[THREADS];
    double late[THREADS];
    (void)state;
    begin_all();
    atomic_store(&told, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        late[i] = i * 1e-3;
        assert_int_equal(pthread_create(&thread[i], NULL, fail_often, &late[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    is(read_one(ROW, t.node).value, THREADS * REPORTS);
    is(read_one(WINDOW, t.node).failed, THREADS * REPORTS);
    is(read_one(WINDOW, t.node).volume, THREADS * REPORTS);
    is(read_one(RING, t.node).value, 1);
    is(read_one(RATE, t.node).value, 1);
    is(read_one(TOKENS, t.node).value, THREADS * REPORTS);
    assert_int_equal(atomic_load(&told), 1);
}

/* Whatever was begun: figures of what there is, and the next ones count as ever. */
static void makes_sense(_Atomic uint64_t *block)
{
    struct way_counted v = read_one(WINDOW, block);
    if (!(v.failed <= v.volume))
        fail_msg("%g of %g results of the window failed", v.failed, v.volume);
    v = read_one(RING, block);
    if (!(v.failed <= v.volume && v.volume <= 100))
        fail_msg("%g of %g results of the ring failed", v.failed, v.volume);
    v = read_one(RATE, block);
    if (!(v.value >= 0 && v.value <= 1))
        fail_msg("a share of %g", v.value);
    v = read_one(TOKENS, block);
    if (!(v.value >= 0 && v.value <= 1e6 && v.value == floor(v.value)))
        fail_msg("%g tokens", v.value);
    struct way_counter_blocks b = { .of[WAY_COUNTERS_NODE] = block };
    struct way_report r = { .now = 1e6, .good = 200, .latency = 0.001 };
    way_counters_report(&t.l, &b, &r);
    is(read_one(ROW, block).value, 0);
    is(read_one(RING, block).value, 0);
    is(read_one(RING, block).volume, 100);
    is(read_one(RATE, block).value, 0);
}

_Noreturn static void write_until_killed(_Atomic uint64_t *block, unsigned seed)
{
    struct way_counter_blocks b = { .of[WAY_COUNTERS_NODE] = block };
    struct way_random random;
    way_random_seed(&random, seed);
    struct way_report r = { .now = 1000, .latency = 2, .class = WAY_CLASS_DOWN };
    r.blame = WAY_BLAME_NODE;
    for (;;) {
        uint64_t dice = way_random_next(&random);
        r.now += 1e-4;
        r.good = dice >> 8 & 63;
        r.failure = dice >> 16 & 1;
        r.failed = dice >> 24 & 63;
        way_counters_report(&t.l, &b, &r);
        if (dice >> 60 == 0) {
            struct way_touches touches = {
                .count = 1, .touch[0] = { .index = (uint8_t)(dice >> 32 & 3) }
            };
            way_counters_touch(&t.l, &b, &touches);
        }
    }
}

static void a_writer_killed_anywhere_leaves_what_makes_sense(void **state)
{
    (void)state;
    const char *soak = getenv("SOAK");
    unsigned kills = soak && *soak == '1' ? 2000 : 200;
    _Atomic uint64_t *block = mmap(NULL, sizeof t.node, PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true((void *)block != MAP_FAILED);
    begin_all();
    for (unsigned i = 0; i < kills; i++) {
        memset((void *)block, 0, sizeof t.node);
        pid_t child = fork();
        if (!child)
            write_until_killed(block, i + 1);
        struct timespec wait = { .tv_nsec = 200000 + i % 100 * 10007 };
        nanosleep(&wait, NULL);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        makes_sense(block);
    }
    munmap((void *)block, sizeof t.node);
}

int main(void)
{
#define TEST(name) cmocka_unit_test(name)
    const struct CMUnitTest tests[] = {
        TEST(a_row_ends_with_a_success),
        TEST(a_strict_row_ends_with_anything_else),
        TEST(successes_are_counted_where_ok_is_named),
        TEST(classes_phases_and_slowness_say_what_a_failure_is),
        TEST(events_count_once),
        TEST(buckets_begin_at_multiples_of_their_length),
        TEST(a_single_bucket_tumbles),
        TEST(tenths_of_a_second_have_exact_edges),
        TEST(a_full_bucket_keeps_its_share),
        TEST(a_window_has_the_shares_that_hystrix_has),
        TEST(a_ring_forgets_in_order),
        TEST(rings_of_any_size_agree_with_a_list),
        TEST(an_average_by_results_falls_as_finagles_does),
        TEST(an_average_by_time_is_what_nginx_has),
        TEST(a_peak_is_believed_at_once),
        TEST(failures_and_successes_of_one_pass_are_one_share),
        TEST(tokens_stay_between_nothing_and_all),
        TEST(tokens_fill_with_time),
        TEST(samples_have_the_deviation_of_a_population),
        TEST(requests_and_retries_have_windows_of_their_own),
        TEST(an_edge_is_told_on_a_success_too),
        TEST(an_edge_is_told_once_until_it_was_false_or_reset),
        TEST(time_alone_makes_an_edge_false),
        TEST(below_and_above_do_not_include_the_bound),
        TEST(what_does_not_fit_is_refused),
        TEST(threads_add_up),
        TEST(a_writer_killed_anywhere_leaves_what_makes_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
