/* policy_event - what one fault costs: told to the policy, answered, committed, journaled.
 *
 *   policy_event [POLICY [NODES [SECONDS [SHADOW [JOURNAL]]]]]      default, 6, 1, none, none
 *
 * The real decide, policy and health, in one thread, without sockets. Time is made up. Each
 * round refuses a dial to every node in turn: `mark` is asked and its answer (a state, and
 * memory) committed, then `backoff` is asked for the reads that were to go there, as the
 * host does. Between rounds a probe brings every node back; that is not timed. Prints the
 * nanoseconds of one call, the median of all rounds:
 *
 *     policy=default nodes=6 rounds=40000 mark=1500 backoff=1200 event=2700 lua=600 ...
 *
 * With SHADOW that policy is asked everything in the shadow of POLICY, and `agreed` and
 * `disagreed` tell how its answers compared. JOURNAL "off": nobody takes the entries, so that
 * there is room for none of them and none is written. Else it is a file to which the last round's
 * entries go again and again when all is over, by the spool, as a daemon's control thread
 * hands them over: `spooled` is how many, `spool` the CPU of one, the writer's thread
 * included. An empty word is none. event: mark and backoff; lua: the question to mark alone, without the table. Waking the
 * workers is not part of it: one write to an eventfd each. */
#include "decide.h"
#include "spool.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    RING = 256,
    ROWS = 2,
    NODES_MOST = 1000,
    ROUNDS_MOST = 200000,
    LUA_CALLS = 32,
    SPOOLED = 20000
};

struct bench {
    struct way_health *health;
    struct way_decider *decider;
    struct way_policy *policy; /* another state of the same text, asked directly */
    struct way_policy_text text;
    struct way_limits limits;
    struct way_stats stats;
    struct way_ring *ring;
    struct way_shadows *shadows;
    struct way_shadow *shadow; /* NULL: none */
    bool journal_off;
    unsigned nodes;
    double now;
};

struct series {
    double *ns;
    unsigned count;
};

static void stop(const struct way_err *err)
{
    fprintf(stderr, "policy_event: %s\n", err->text);
    exit(1);
}

static double ns_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double now_ns(void)
{
    return ns_of(CLOCK_MONOTONIC);
}

/* ---- a cluster of pairs, master and replica ---- */

static void put_pair(struct way_buf *out, unsigned pair, unsigned pairs)
{
    unsigned from = pair * WAY_SLOTS / pairs, to = (pair + 1) * WAY_SLOTS / pairs - 1;
    way_buf_printf(out, "%040x 10.0.%u.%u:7000@17000 master - 0 0 %u connected %u-%u\n",
                   pair + 1, pair / 250, pair % 250, pair + 1, from, to);
    way_buf_printf(out, "%040x 10.1.%u.%u:7000@17000 slave %040x 0 0 %u connected\n",
                   pair + 100001, pair / 250, pair % 250, pair + 1, pair + 1);
}

static void publish_cluster(struct bench *b)
{
    static struct way_node_change change[2 * WAY_NODES_MAX];
    struct way_buf text = { 0 };
    struct way_err err = { "" };
    struct way_topology *t = way_topology_new();
    for (unsigned pair = 0; pair < b->nodes / 2; pair++)
        put_pair(&text, pair, b->nodes / 2);
    if (way_topology_parse_nodes(t, text.p + text.off, way_buf_held(&text), "127.0.0.1",
                                 &err) < 0 ||
        way_health_adopt(b->health, t, b->now, b->now, change, way_count(change), &err) <
            0 ||
        way_health_publish(b->health, t, b->now, &err) < 0)
        stop(&err);
    way_topology_free(t);
    way_buf_fini(&text);
    if (way_health_nodes(b->health) != b->nodes) {
        way_fail(&err, "the table has %u nodes", way_health_nodes(b->health));
        stop(&err);
    }
}

static void open_bench(struct bench *b, const char *policy)
{
    struct way_err err;
    way_limits_default(&b->limits);
    if (way_policy_read(&b->text, policy, NULL, 0, &b->limits, &err) < 0 ||
        way_policy_load(&b->policy, &b->text, &err) < 0)
        stop(&err);
    struct way_health_options table = { .layout = way_policy_plan(b->policy)->layout,
                                        .guard = true,
                                        .failing_share = b->limits.failing_share };
    if (way_health_open(&b->health, &table, &err) < 0)
        stop(&err);
    for (int row = 0; row < ROWS; row++)
        if (way_health_row_attach(b->health, &err) < 0)
            stop(&err);
    publish_cluster(b);
    b->ring = way_ring_new(b->nodes > RING / 4 ? 4 * b->nodes : RING); /* as a daemon's */
    b->shadows = way_shadows_new(
        &(struct way_shadows_options){ .health = b->health, .threads = 1 });
    struct way_decider_options o = { .health = b->health,
                                     .text = &b->text,
                                     .limits = &b->limits,
                                     .stats = &b->stats,
                                     .ring = b->ring,
                                     .shadows = b->shadows };
    if (way_decider_new(&b->decider, &o, &err) < 0)
        stop(&err);
}

static void cast_shadow(struct bench *b, const char *policy)
{
    struct way_err err;
    struct way_policy *state;
    struct way_policy_text *text = way_zalloc(sizeof *text);
    if (way_policy_read(text, policy, NULL, 0, &b->limits, &err) < 0 ||
        way_policy_load(&state, text, &err) < 0)
        stop(&err);
    b->shadow = way_shadows_put(
        b->shadows, WAY_SHADOW_CANDIDATE,
        &(struct way_shadow_of){ .text = text,
                                 .policy = &state,
                                 .epoch = atomic_load(way_health_policy_epoch(b->health)),
                                 .limits = b->limits,
                                 .same_memory = way_policy_same_memory(state, b->policy),
                                 .charge_counters = &way_policy_plan(b->policy)->counters,
                                 .now = b->now });
}

static void close_bench(struct bench *b)
{
    way_decider_free(b->decider);
    way_shadows_free(b->shadows);
    way_ring_free(b->ring);
    way_health_close(b->health);
    way_policy_free(b->policy);
    way_policy_text_fini(&b->text);
}

/* ---- what happens to a node ---- */

static struct way_event refused(const struct bench *b)
{
    struct way_event e = { .kind = WAY_KIND_CONNECTION,
                           .phase = WAY_PHASE_CONNECT,
                           .step = WAY_STEP_DIAL,
                           .error = WAY_ERROR_REFUSED,
                           .message = "Connection refused",
                           .n = 8,
                           .attempt = 1,
                           .began = b->now,
                           .now = b->now,
                           .unix_time = 1.7e9 + b->now,
                           .certainty = WAY_CERTAINTY_UNSENT,
                           .has_certainty = true,
                           .commands = WAY_COMMANDS_READS,
                           .deadline_left = 8 };
    return e;
}

static void fail_node(struct bench *b, unsigned node, double *mark_ns, double *backoff_ns)
{
    struct way_decision decision;
    struct way_retry retry;
    struct way_entry entry;
    struct way_event e = refused(b);
    double began = now_ns();
    way_decide(b->decider, node, &e, &decision);
    double marked = now_ns();
    e.kind = WAY_KIND_COMMANDS;
    way_decide_retry(b->decider, node, &e, &retry, &entry);
    way_decide_did(b->decider, &entry, "retried %u", e.n);
    *mark_ns += marked - began;
    *backoff_ns += now_ns() - marked;
}

static void revive_node(struct bench *b, unsigned node)
{
    struct way_decision decision;
    struct way_event e = { .kind = WAY_KIND_PROBE,
                           .phase = WAY_PHASE_READ,
                           .step = WAY_STEP_REPLY,
                           .n = 1,
                           .latency = 0.001,
                           .began = b->now,
                           .now = b->now,
                           .unix_time = 1.7e9 + b->now,
                           .deadline_left = -1 };
    way_decide(b->decider, node, &e, &decision);
    way_health_success(b->health, node);
}

static void drain(struct bench *b)
{
    while (!b->journal_off && way_ring_peek(b->ring))
        way_ring_pop(b->ring);
    way_shadows_tend(b->shadows, way_decider_shadows(b->decider), b->now, 1.7e9 + b->now);
}

static void check_failing(struct bench *b, unsigned node)
{
    struct way_verdict v;
    struct way_err err;
    way_health_verdict(b->health, node, &v);
    if (v.state == WAY_STATE_FAILING)
        return;
    way_fail(&err, "a refused dial left the node %s", way_state_name(v.state));
    stop(&err);
}

/* ---- rounds ---- */

static double lua_ns(struct bench *b)
{
    struct way_snapshot seen;
    struct way_event e = refused(b);
    struct way_mark mark;
    struct way_memory memory;
    way_policy_classify(b->policy, &e);
    way_health_snapshot(b->health, 0, b->now, &seen);
    double began = now_ns();
    for (unsigned i = 0; i < LUA_CALLS; i++) {
        memory = seen.view.memory;
        way_policy_mark(b->policy, &seen.view, &e, 1, &memory, &mark);
    }
    return (now_ns() - began) / LUA_CALLS;
}

static void add(struct series *s, double ns)
{
    if (!s->ns)
        s->ns = way_alloc(ROUNDS_MOST * sizeof *s->ns);
    if (s->count < ROUNDS_MOST)
        s->ns[s->count++] = ns;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(struct series *s)
{
    qsort(s->ns, s->count, sizeof *s->ns, ascending);
    return s->ns[s->count / 2];
}

static void print_shadow(const struct bench *b)
{
    struct way_shadow_counts n;
    uint64_t disagreed = 0;
    if (!b->shadow)
        return;
    way_shadow_counts(b->shadow, &n);
    for (int fn = 0; fn < WAY_FN_NONE; fn++)
        disagreed += n.disagreed[fn];
    printf(" agreed=%llu disagreed=%llu dropped=%llu", (unsigned long long)n.agreed,
           (unsigned long long)disagreed, (unsigned long long)n.dropped);
}

static uint64_t written(const struct way_spool *spool)
{
    struct way_spool_counts n;
    way_spool_counts(spool, &n);
    return n.written + n.no_room + n.unwritten;
}

/* The writer is never far behind: nothing is lost, and none of its work is left out. */
static void print_spool(struct bench *b, const char *file)
{
    struct way_err err;
    struct way_spool *spool;
    struct way_spool_options o = {
        .file = file, .max_bytes = 64 * 1024 * 1024, .keep = 1, .wayside = "bench"
    };
    double mark_ns = 0, backoff_ns = 0;
    uint64_t put = 0;
    if (way_spool_new(&spool, &o, &err) < 0)
        stop(&err);
    way_spool_policy(spool, way_decider_plan(b->decider), &b->text, 1.7e9 + b->now);
    double began = ns_of(CLOCK_PROCESS_CPUTIME_ID), spent = 0;
    while (put < SPOOLED) {
        spent += ns_of(CLOCK_PROCESS_CPUTIME_ID) - began;
        for (unsigned node = 0; node < b->nodes; node++)
            fail_node(b, node, &mark_ns, &backoff_ns);
        began = ns_of(CLOCK_PROCESS_CPUTIME_ID);
        for (const struct way_entry *e; (e = way_ring_peek(b->ring)); put++) {
            way_spool_put(spool, e);
            way_ring_pop(b->ring);
        }
        way_spool_flush(spool);
        while (written(spool) < put)
            nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
    }
    spent += ns_of(CLOCK_PROCESS_CPUTIME_ID) - began;
    struct way_spool_counts n;
    way_spool_counts(spool, &n);
    way_spool_free(spool);
    if (n.written != put) {
        way_fail(&err, "%s: %llu of %llu entries were written", file,
                 (unsigned long long)n.written, (unsigned long long)put);
        stop(&err);
    }
    printf(" spooled=%llu spool=%.0f", (unsigned long long)put, spent / (double)put);
}

static void run(struct bench *b, double seconds, const char *name)
{
    struct series mark = { 0 }, backoff = { 0 }, lua = { 0 };
    double until = now_ns() + seconds * 1e9;
    while (mark.count < ROUNDS_MOST && now_ns() < until) {
        double mark_ns = 0, backoff_ns = 0;
        /* Now and then so late that former relapses are forgotten: memory keeps changing. */
        b->now += mark.count % 16 ? 1 : 1000;
        add(&lua, lua_ns(b));
        for (unsigned node = 0; node < b->nodes; node++)
            fail_node(b, node, &mark_ns, &backoff_ns);
        check_failing(b, b->nodes - 1);
        add(&mark, mark_ns / b->nodes);
        add(&backoff, backoff_ns / b->nodes);
        drain(b);
        b->now += 1;
        for (unsigned node = 0; node < b->nodes; node++)
            revive_node(b, node);
        drain(b);
    }
    double m = median(&mark), r = median(&backoff);
    printf("policy=%s nodes=%u rounds=%u mark=%.0f backoff=%.0f event=%.0f lua=%.0f "
           "commits=%llu fallback=%llu journal_lost=%llu",
           name, b->nodes, mark.count, m, r, m + r, median(&lua),
           (unsigned long long)way_stat_get(&b->stats, WAY_STAT_COMMITS),
           (unsigned long long)way_stat_get(&b->stats, WAY_STAT_FALLBACK),
           (unsigned long long)way_stat_get(&b->stats, WAY_STAT_JOURNAL_LOST));
    print_shadow(b);
    way_free(mark.ns);
    way_free(backoff.ns);
    way_free(lua.ns);
}

int main(int argc, char **argv)
{
    const char *policy = argc > 1 ? argv[1] : "default";
    unsigned nodes = argc > 2 ? (unsigned)atoi(argv[2]) : 6;
    double seconds = argc > 3 ? atof(argv[3]) : 1;
    if (argc > 6 || nodes < 2 || nodes % 2 || nodes > NODES_MOST || !(seconds > 0)) {
        fprintf(stderr, "usage: policy_event [POLICY [NODES [SECONDS [SHADOW "
                        "[JOURNAL]]]]], NODES even\n");
        return 2;
    }
    static struct bench b;
    b.nodes = nodes;
    b.now = 1000;
    open_bench(&b, policy);
    const char *journal = argc > 5 ? argv[5] : "";
    if (argc > 4 && *argv[4])
        cast_shadow(&b, argv[4]);
    b.journal_off = !strcmp(journal, "off");
    run(&b, seconds, policy);
    if (*journal && !b.journal_off)
        print_spool(&b, journal);
    printf("\n");
    close_bench(&b);
}
