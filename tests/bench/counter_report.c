/* counter_report - what counting costs: one report of a batch of replies, as a worker makes it
 * once per node and pass.
 *
 *   counter_report [SECONDS]      0.5 for each figure
 *
 * The real node table in one process, without sockets; time is made up. Prints the
 * nanoseconds of one report of 16 answered commands, the median of rounds, with no counter
 * declared (what every policy pays: the question whether there are any), with one of each
 * kind that counts results, with four together, and with those four while other threads
 * report of the same node; and what a snapshot costs, which a question begins with:
 *
 *     none=1 row=4 window=9 ring=12 ewma=30 tokens=15 four=50 four_shared=300 snapshot=60 ... */
#include "decide.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BATCH = 16, ROUND = 2000, ROUNDS_MOST = 20000, OTHERS = 1 };

static const char row[] = "row = wayside.consecutive { edge = { at_least = 5 } }";
static const char window[] =
    "window = wayside.window { seconds = 10, buckets = 10, edge = "
    "{ above = 0.5, min_volume = 20 } }";
static const char ring[] = "ring = wayside.ring { size = 100, edge = { at_least = 0.5, "
                           "min_volume = 100 } }";
static const char ewma[] =
    "ewma = wayside.ewma { tau = 10, of = 'latency', peak = true }";
static const char tokens[] = "tokens = wayside.tokens { capacity = 100, per_second = 1, "
                             "success = 0.1, failure = -1 }";

struct bench {
    struct way_health *health;
    struct way_decider *decider;
    struct way_policy_text text;
    struct way_limits limits;
    struct way_stats stats;
    struct way_ring *ring;
    double now;
};

static void stop(const struct way_err *err)
{
    fprintf(stderr, "counter_report: %s\n", err->text);
    exit(1);
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void publish_node(struct bench *b)
{
    static const char nodes[] =
        "0000000000000000000000000000000000000001 10.0.0.1:7000@17000 master - 0 0 1 "
        "connected 0-16383\n";
    struct way_node_change change[4];
    struct way_err err = { "" };
    struct way_topology *t = way_topology_new();
    if (way_topology_parse_nodes(t, nodes, sizeof nodes - 1, "127.0.0.1", &err) < 0 ||
        way_health_adopt(b->health, t, b->now, b->now, change, 4, &err) < 0 ||
        way_health_publish(b->health, t, b->now, &err) < 0)
        stop(&err);
    way_topology_free(t);
}

static void open_bench(struct bench *b, const char *counters)
{
    char text[2048];
    struct way_err err;
    memset(b, 0, sizeof *b);
    b->now = 1000;
    way_limits_default(&b->limits);
    if (way_policy_read(&b->text, "none", NULL, 0, &b->limits, &err) < 0)
        stop(&err);
    snprintf(text, sizeof text,
             "local wayside = require 'wayside'\n"
             "return wayside.policy { name = 'bench', counters = { %s } }\n",
             counters);
    way_free(b->text.path);
    b->text.path = way_strdup("bench.lua");
    b->text.text = way_strdup(text);
    b->text.n = strlen(text);
    struct way_policy *p;
    if (way_policy_load(&p, &b->text, &err) < 0)
        stop(&err);
    struct way_health_options o = { .layout = way_policy_plan(p)->layout,
                                    .failing_share = 1 };
    way_policy_free(p);
    if (way_health_open(&b->health, &o, &err) < 0)
        stop(&err);
    publish_node(b);
    b->ring = way_ring_new(64);
    struct way_decider_options d = { .health = b->health,
                                     .text = &b->text,
                                     .limits = &b->limits,
                                     .stats = &b->stats,
                                     .ring = b->ring };
    if (way_decider_new(&b->decider, &d, &err) < 0)
        stop(&err);
}

static void close_bench(struct bench *b)
{
    way_decider_free(b->decider);
    way_ring_free(b->ring);
    way_health_close(b->health);
    way_policy_text_fini(&b->text);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* As dispatch does at the end of a batch. */
static void report(struct bench *b, double now)
{
    if (!way_decider_counts(b->decider))
        return;
    struct way_report r = {
        .now = now, .good = BATCH, .latency = 0.0005, .requests = BATCH
    };
    struct way_decision d;
    way_decide_report(b->decider, 0, &r, &d);
}

static void one_report(struct bench *b)
{
    b->now += 1e-4;
    report(b, b->now);
}

static void one_snapshot(struct bench *b)
{
    struct way_snapshot s;
    way_health_snapshot(b->health, 0, b->now, &s);
    if (way_decider_counts(b->decider))
        way_health_counted(b->health, &way_decider_plan(b->decider)->counters, &s);
}

/* The median of rounds, in nanoseconds for one. */
static double measure(struct bench *b, void (*once)(struct bench *), double seconds)
{
    static double ns[ROUNDS_MOST];
    unsigned rounds = 0;
    double until = now_ns() + seconds * 1e9;
    while (rounds < ROUNDS_MOST && now_ns() < until) {
        double began = now_ns();
        for (unsigned i = 0; i < ROUND; i++)
            once(b);
        ns[rounds++] = (now_ns() - began) / ROUND;
    }
    qsort(ns, rounds, sizeof *ns, ascending);
    return ns[rounds / 2];
}

static double with(const char *counters, void (*once)(struct bench *), double seconds)
{
    static struct bench b;
    open_bench(&b, counters);
    double ns = measure(&b, once, seconds);
    close_bench(&b);
    return ns;
}

/* ---- while others do the same ---- */

struct other {
    struct bench *bench;
    _Atomic bool over;
};

static void *report_along(void *arg)
{
    struct other *o = arg;
    struct way_report r = { .now = 1000, .good = BATCH, .latency = 0.0005 };
    while (!atomic_load_explicit(&o->over, memory_order_relaxed)) {
        r.now += 1e-4;
        way_health_count(o->bench->health, 0,
                         &way_decider_plan(o->bench->decider)->counters,
                         way_decider_epoch(o->bench->decider), &r);
    }
    return NULL;
}

static double with_others(const char *counters, double seconds)
{
    static struct bench b;
    struct other other = { .bench = &b };
    pthread_t thread[OTHERS];
    open_bench(&b, counters);
    for (unsigned i = 0; i < OTHERS; i++)
        pthread_create(&thread[i], NULL, report_along, &other);
    double ns = measure(&b, one_report, seconds);
    atomic_store(&other.over, true);
    for (unsigned i = 0; i < OTHERS; i++)
        pthread_join(thread[i], NULL);
    close_bench(&b);
    return ns;
}

int main(int argc, char **argv)
{
    char four[1024];
    double seconds = argc > 1 ? atof(argv[1]) : 0.5;
    if (argc > 2 || !(seconds > 0)) {
        fprintf(stderr, "usage: counter_report [SECONDS]\n");
        return 2;
    }
    snprintf(four, sizeof four, "%s, %s, %s, %s", row, window, ring, ewma);
    printf("batch=%d none=%.1f row=%.1f window=%.1f ring=%.1f ewma=%.1f tokens=%.1f "
           "four=%.1f four_shared=%.1f snapshot=%.1f snapshot_four=%.1f\n",
           BATCH, with("", one_report, seconds), with(row, one_report, seconds),
           with(window, one_report, seconds), with(ring, one_report, seconds),
           with(ewma, one_report, seconds), with(tokens, one_report, seconds),
           with(four, one_report, seconds), with_others(four, seconds),
           with("", one_snapshot, seconds), with(four, one_snapshot, seconds));
    return 0;
}
