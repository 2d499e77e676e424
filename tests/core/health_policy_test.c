/* How one policy follows another in the node table: memory is taken over whole, verdicts
 * stay, the way back is open, and whoever is killed in the middle has changed nothing.
 *
 *   SOAK=1  killed after hundreds of the instructions of a takeover instead of a dozen */
#include "health_kit.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "segment.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { NODES = 6 };

struct world {
    char dir[64], path[96];
    struct way_health_options o;
    struct way_health *h;
    struct way_topology *t;
    unsigned converted, ready, woken;
    const char *refuse; /* what convert says */
    unsigned commit_in; /* a commit comes in between, at so many conversions */
    unsigned stop_in;   /* and here the process stops, for who traces it */
};

static void on_woken(void *arg)
{
    ((struct world *)arg)->woken++;
}

static int begin(void **state)
{
    struct world *w = way_zalloc(sizeof *w);
    snprintf(w->dir, sizeof w->dir, "/tmp/wayside-takeover-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->path, sizeof w->path, "%s/main.seg", w->dir);
    w->o = (struct way_health_options){ .path = w->path,
                                        .failing_share = 1,
                                        .bundle = { "one", 3 },
                                        .woken = on_woken,
                                        .arg = w };
    w->o.layout = (struct way_layout){ .hash = 7, .node = 2, .shard = 1, .cluster = 1 };
    w->o.layout.first.node[0] = 3;
    w->h = kit_open(&w->o);
    w->t = kit_cluster(1);
    kit_publish(w->h, w->t, 1);
    *state = w;
    return 0;
}

static int end(void **state)
{
    struct world *w = *state;
    way_health_check(w->h);
    way_health_close(w->h);
    unlink(w->path);
    assert_int_equal(rmdir(w->dir), 0);
    kit_topology_free(w->t);
    way_free(w);
    return 0;
}

static struct way_snapshot look(struct way_health *h, unsigned node)
{
    struct way_snapshot s;
    way_health_snapshot(h, node, way_clock(), &s);
    return s;
}

static void remember(struct way_health *h, unsigned node, double n, double shard,
                     double cluster)
{
    struct way_outcome out;
    struct way_snapshot s = look(h, node);
    struct way_proposal p = { .memory = s.view.memory };
    p.memory.node[1] = n;
    p.memory.shard[0] = shard;
    p.memory.cluster[0] = cluster;
    assert_int_equal(way_health_commit(h, &s, &p, false, &out), WAY_COMMIT_DONE);
}

/* The other policy remembers ten times as much, in the other place. */
static int convert(void *arg, enum way_memory_scope scope,
                   const struct way_memory *before, struct way_memory *after,
                   struct way_err *err)
{
    struct world *w = arg;
    if (w->refuse)
        return way_fail(err, "%s", w->refuse);
    if (++w->converted == w->commit_in)
        remember(w->h, 0, 5, 6, 7);
    if (w->converted == w->stop_in)
        raise(SIGSTOP);
    if (scope == WAY_OF_NODE)
        after->node[0] = before->node[1] * 10;
    else if (scope == WAY_OF_SHARD)
        after->shard[0] = before->shard[0] * 10;
    else
        after->cluster[0] = before->cluster[0] * 10;
    return 0;
}

static void on_ready(void *arg, uint64_t epoch)
{
    (void)epoch;
    ((struct world *)arg)->ready++;
}

static const struct way_layout other = {
    .hash = 8, .node = 3, .shard = 1, .cluster = 1, .first = { .node = { 0, 0, 9 } }
};

static const struct way_probation probation = { .ends = 1e9, .errors_most = 5 };

static struct way_takeover takeover(struct world *w)
{
    return (struct way_takeover){ .from = atomic_load(way_health_policy_epoch(w->h)),
                                  .layout = &other,
                                  .bundle = { "another", 7 },
                                  .convert = convert,
                                  .ready = on_ready,
                                  .arg = w,
                                  .probation = &probation };
}

static uint64_t take_over(struct world *w)
{
    struct way_err err = { "" };
    struct way_takeover t = takeover(w);
    uint64_t epoch = 0;
    if (way_health_take_over(w->h, &t, &epoch, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(epoch, t.from + 1);
    return epoch;
}

static void memory_is_taken_over_and_verdicts_stay(void **state)
{
    struct world *w = *state;
    kit_hard(w->h, 1, way_clock(), WAY_STATE_FAILING, 60);
    remember(w->h, 1, 4, 5, 6);
    unsigned woken = w->woken;
    assert_int_equal(take_over(w), 2);
    assert_int_equal(w->ready, 1);
    assert_true(w->woken > woken);
    struct way_snapshot s = look(w->h, 1);
    assert_true(s.view.memory.node[0] == 40 && s.view.memory.node[2] == 9);
    assert_true(s.view.memory.shard[0] == 50 && s.view.memory.cluster[0] == 60);
    assert_int_equal(s.view.verdict.state, WAY_STATE_FAILING);
    assert_true(look(w->h, 0).view.memory.node[0] == 0);
}

static void a_commit_of_the_policy_before_is_a_conflict(void **state)
{
    struct world *w = *state;
    struct way_outcome out;
    struct way_snapshot s = look(w->h, 0);
    struct way_proposal nothing = { .memory = s.view.memory };
    struct way_proposal mark = kit_mark(WAY_STATE_SUSPECT, 5);
    mark.memory = s.view.memory;
    take_over(w);
    assert_int_equal(way_health_commit(w->h, &s, &mark, false, &out),
                     WAY_COMMIT_CONFLICT);
    assert_int_equal(way_health_commit(w->h, &s, &nothing, false, &out),
                     WAY_COMMIT_CONFLICT);
    assert_int_equal(kit_state(w->h, 0), WAY_STATE_HEALTHY);
}

static void the_way_back_leads_to_its_own_memory(void **state)
{
    struct world *w = *state;
    struct way_err err = { "" };
    uint64_t epoch;
    assert_int_equal(way_health_go_back(w->h, 1, NULL, NULL, NULL, &epoch, &err), -1);
    assert_non_null(strstr(err.text, "no policy before"));
    remember(w->h, 0, 4, 5, 6);
    take_over(w);
    remember(w->h, 0, 77, 78, 79);
    assert_int_equal(way_health_go_back(w->h, 2, NULL, on_ready, w, &epoch, &err), 0);
    assert_int_equal(epoch, 3);
    assert_int_equal(w->ready, 2);
    struct way_snapshot s = look(w->h, 0);
    assert_true(s.view.memory.node[0] == 3 && s.view.memory.node[1] == 4);
    assert_true(s.view.memory.shard[0] == 5 && s.view.memory.cluster[0] == 6);
}

static void what_changed_meanwhile_is_converted_again(void **state)
{
    struct world *w = *state;
    remember(w->h, 0, 1, 2, 3);
    w->commit_in = 8; /* node 0 has been converted by then */
    take_over(w);
    struct way_snapshot s = look(w->h, 0);
    assert_true(s.view.memory.node[0] == 50 && s.view.memory.shard[0] == 60);
    assert_true(s.view.memory.cluster[0] == 70);
}

static void refused_it_has_changed_nothing(void **state)
{
    struct world *w = *state;
    struct way_err err = { "" };
    struct way_takeover t = takeover(w);
    char *large = way_zalloc(WAY_BUNDLE_BYTES + 1);
    uint64_t epoch;
    remember(w->h, 0, 4, 5, 6);
    w->refuse = "no way";
    assert_int_equal(way_health_take_over(w->h, &t, &epoch, &err), -1);
    assert_string_equal(err.text, "no way");
    w->refuse = NULL;
    t.from = 9;
    assert_int_equal(way_health_take_over(w->h, &t, &epoch, &err), -1);
    assert_non_null(strstr(err.text, "another process"));
    t = takeover(w);
    t.bundle = (struct way_span){ large, WAY_BUNDLE_BYTES + 1 };
    assert_int_equal(way_health_take_over(w->h, &t, &epoch, &err), -1);
    assert_non_null(strstr(err.text, "bytes together"));
    way_free(large);
    assert_int_equal(w->ready, 0);
    assert_int_equal(atomic_load(way_health_policy_epoch(w->h)), 1);
    assert_true(look(w->h, 0).view.memory.node[1] == 4);
}

static void each_process_finds_the_bytes_of_the_policy_in_charge(void **state)
{
    struct world *w = *state;
    struct way_health *b = kit_open(&w->o);
    struct way_buf bytes = { 0 };
    uint64_t epoch;
    assert_int_equal(way_health_bundle(b, &bytes, &epoch), 0);
    assert_true(epoch == 1 && bytes.len == 3 && !memcmp(bytes.p, "one", 3));
    take_over(w);
    way_buf_reset(&bytes);
    assert_int_equal(way_health_bundle(b, &bytes, &epoch), 0);
    assert_true(epoch == 2 && bytes.len == 7 && !memcmp(bytes.p, "another", 7));
    struct way_health_options o = w->o;
    struct way_health *c;
    struct way_err err;
    assert_int_equal(way_health_open(&c, &o, &err), -1); /* with the one before */
    assert_non_null(strstr(err.text, "reload the policy there instead"));
    o.layout = other;
    c = kit_open(&o);
    way_health_close(c);
    way_health_close(b);
    way_buf_fini(&bytes);
}

/* A node that is new gets the first values of either policy. */
static void a_new_node_begins_under_both(void **state)
{
    struct world *w = *state;
    struct way_err err;
    uint64_t epoch;
    take_over(w);
    struct way_topology *t = kit_topology(NODES + 1);
    for (unsigned i = 0; i < NODES; i++)
        t->node[t->count++] = w->t->node[i];
    memcpy(t->owner, w->t->owner, sizeof t->owner);
    kit_node(t, "a9", 7009, "a", 1);
    kit_publish(w->h, t, 2);
    kit_topology_free(t);
    unsigned node = kit_find(w->h, "a9");
    assert_true(look(w->h, node).view.memory.node[2] == 9);
    assert_int_equal(way_health_go_back(w->h, 2, NULL, NULL, NULL, &epoch, &err), 0);
    assert_true(look(w->h, node).view.memory.node[0] == 3);
}

/* ---- killed at each instruction ---- */

/* A child that stands at the last record's conversion: what follows is done under the lock,
 * and what came before has written nothing. */
static pid_t traced(struct world *w)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) { /* its mapping is the parent's, inherited */
        struct way_takeover t = takeover(w);
        struct way_err err;
        uint64_t epoch;
        w->converted = 0;
        w->stop_in = NODES + NODES / 2 + 1; /* nodes, shards, the cluster */
        if (ptrace(PTRACE_TRACEME, 0, 0, 0))
            _exit(9);
        _exit(way_health_take_over(w->h, &t, &epoch, &err) != 0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSTOPPED(status));
    return pid;
}

/* False: it was through before so many instructions. */
static bool killed_after(struct world *w, unsigned steps)
{
    pid_t pid = traced(w);
    int status;
    for (unsigned i = 0; i < steps; i++) {
        assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, 0, 0), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status))
            return false;
    }
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return true;
}

static bool may_trace(void)
{
    pid_t pid = fork();
    int status;
    if (pid == 0)
        _exit(ptrace(PTRACE_TRACEME, 0, 0, 0) ? 9 : 0);
    return waitpid(pid, &status, 0) == pid && status == 0;
}

/* What each of the two may look like: nothing in between. */
static void assert_one_of_both(struct world *w, uint64_t before)
{
    uint64_t epoch = atomic_load(way_health_policy_epoch(w->h));
    assert_true(epoch == before || epoch == before + 1);
    way_health_check(w->h); /* recovers from the dead owner */
    for (unsigned n = 0; n < NODES; n++) {
        struct way_snapshot s = look(w->h, n);
        assert_int_equal(s.view.verdict.state,
                         n == 1 ? WAY_STATE_FAILING : WAY_STATE_HEALTHY);
        double want = epoch == before ? 0 : 10 * (n + 1);
        if (epoch == before)
            assert_true(s.view.memory.node[1] == n + 1);
        else
            assert_true(s.view.memory.node[0] == want && s.view.memory.node[2] == 9);
        assert_true(s.view.memory.cluster[0] == (epoch == before ? 8 : 80));
    }
    if (epoch == before)
        return;
    static const struct way_probation_counts none;
    struct way_probation_counts sum;
    struct way_probation p; /* nobody has to begin what the dead one did not */
    assert_int_equal(way_health_probation(w->h, epoch, &none, &p, &sum), 1);
    assert_true(p.ends == probation.ends && sum.errors == 0);
}

static void killed_at_any_instruction_one_of_both_is_whole(void **state)
{
    struct world *w = *state;
    if (SANITIZED || !may_trace()) {
        print_message("skipped: no tracing here, or under a sanitizer\n");
        skip();
    }
    bool soak = getenv("SOAK") && *getenv("SOAK") == '1';
    unsigned stride = soak ? 31 : 1201, kills = 0, there = 0;
    for (unsigned n = 0; n < NODES; n++)
        remember(w->h, n, n + 1, 5, 8);
    kit_hard(w->h, 1, way_clock(), WAY_STATE_FAILING, 60);
    unsigned steps = 1;
    for (; killed_after(w, steps); steps += stride, kills++) {
        struct way_err err;
        uint64_t epoch = atomic_load(way_health_policy_epoch(w->h));
        bool over = epoch > 1 + 2 * (uint64_t)there;
        assert_one_of_both(w, 1 + 2 * (uint64_t)there);
        if (!over)
            continue;
        there++;
        assert_int_equal(way_health_go_back(w->h, epoch, NULL, NULL, NULL, &epoch, &err),
                         0);
        assert_one_of_both(w, epoch);
    }
    print_message("%u kills over %u instructions, after %u of them it was in charge\n",
                  kills, steps, there);
    assert_true(kills > 12 && there > 0 && there < kills);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        T(memory_is_taken_over_and_verdicts_stay),
        T(a_commit_of_the_policy_before_is_a_conflict),
        T(the_way_back_leads_to_its_own_memory),
        T(what_changed_meanwhile_is_converted_again),
        T(refused_it_has_changed_nothing),
        T(each_process_finds_the_bytes_of_the_policy_in_charge),
        T(a_new_node_begins_under_both),
        T(killed_at_any_instruction_one_of_both_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
