/* The node table under many hands: writers killed in the middle, and threads at once.
 *
 *   SOAK=1  1,000 kills instead of 50, every instruction of a commit instead of a sample,
 *           and longer rounds
 *   SEED=n  another order of things (the seed is printed)
 *
 * The heart of it is an account. Every commit of the workers adds 1 to a number of its
 * node, of its shard and of the cluster, together. So at any moment, whoever was killed
 * wherever: what the nodes of a shard hold adds up to what the shard holds, and that of
 * the shards to the cluster's. */
#include "health_kit.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
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
    struct way_topology *t, *swapped; /* masters and replicas in each other's places */
    struct way_random r;
    bool soak;
};

static void pause_us(long us)
{
    struct timespec t = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
    nanosleep(&t, NULL);
}

static int begin(void **state)
{
    struct world *w = way_zalloc(sizeof *w);
    uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 10) : 2960;
    way_random_seed(&w->r, seed);
    w->soak = getenv("SOAK") && *getenv("SOAK") == '1';
    print_message("seed %llu\n", (unsigned long long)seed);
    snprintf(w->dir, sizeof w->dir, "/tmp/wayside-stress-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->path, sizeof w->path, "%s/main.seg", w->dir);
    w->o = (struct way_health_options){ .path = w->path, .failing_share = 1 };
    w->o.layout = (struct way_layout){ .hash = 7, .node = 4, .shard = 4, .cluster = 4 };
    w->h = kit_open(&w->o);
    w->t = kit_cluster(1);
    w->swapped = kit_cluster(1);
    for (unsigned i = 0; i < 3; i++) {
        struct way_topo_node *m = &w->swapped->node[i], *r = &w->swapped->node[3 + i];
        m->master = false;
        r->master = true;
        snprintf(m->master_id, sizeof m->master_id, "%s", r->id);
        for (unsigned s = 0; s < WAY_SLOTS; s++)
            if (w->swapped->owner[s] == i)
                w->swapped->owner[s] = (uint16_t)(3 + i);
    }
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
    kit_topology_free(w->swapped);
    way_free(w);
    return 0;
}

/* What a commit of the account is made of: node, shard and cluster together. */
static void account_begin(struct way_health *h, unsigned node, struct way_snapshot *s,
                          struct way_proposal *p)
{
    way_health_snapshot(h, node, way_clock(), s);
    p->memory = s->view.memory;
    for (unsigned i = 0; i < 4; i++) {
        p->memory.node[i]++;
        p->memory.shard[i]++;
        p->memory.cluster[i]++;
    }
}

/* One commit of the account, with whatever mark p has. */
static void account(struct way_health *h, unsigned node, struct way_proposal p)
{
    struct way_snapshot s;
    struct way_outcome out;
    do
        account_begin(h, node, &s, &p);
    while (way_health_commit(h, &s, &p, false, &out) != WAY_COMMIT_DONE);
}

/* Under the lock, so that no commit comes between the views. Returns the total. */
static double balance(struct way_health *h)
{
    double nodes[NODES], shards[NODES], cluster = 0, sum = 0;
    unsigned shard_of[NODES];
    while (way_health_lock(h))
        ;
    for (unsigned n = 0; n < NODES; n++) {
        struct way_snapshot s;
        way_health_snapshot(h, n, way_clock(), &s);
        nodes[n] = s.view.memory.node[0];
        shards[n] = s.view.memory.shard[0];
        shard_of[n] = s.view.shard;
        cluster = s.view.memory.cluster[0];
        for (unsigned i = 1; i < 4; i++) {
            assert_true(s.view.memory.node[i] == nodes[n]);
            assert_true(s.view.memory.shard[i] == shards[n]);
            assert_true(s.view.memory.cluster[i] == cluster);
        }
    }
    way_health_unlock(h);
    for (unsigned n = 0; n < NODES; n++) {
        double of_shard = 0;
        for (unsigned m = 0; m < NODES; m++)
            of_shard += shard_of[m] == shard_of[n] ? nodes[m] : 0;
        assert_true(of_shard == shards[n]);
        sum += nodes[n];
    }
    if (sum != cluster)
        fail_msg("nodes add up to %.0f, the cluster says %.0f", sum, cluster);
    return cluster;
}

/* Takes turns: after how many kills both maps are as one of the two says. */
static uint64_t publish_turn(struct world *w, struct way_health *h)
{
    struct way_topology *t = way_random_next(&w->r) >> 63 ? w->t : w->swapped;
    uint64_t turn = (uint64_t)(way_clock() * 1e6);
    struct way_node_change c[32];
    for (unsigned i = 0; i < t->count; i++)
        t->node[i].config_epoch = turn + i % 3;
    double now = way_clock();
    if (way_health_adopt(h, t, now, now, c, way_count(c), NULL) >= 0)
        (void)!way_health_publish(h, t, now, NULL);
    return turn;
}

/* All that a worker does to the table, without end. */
static void work(struct world *w, struct way_health *h, bool maps)
{
    int row = way_health_row_attach(h, NULL);
    if (row < 0)
        _exit(3);
    struct way_cell *cells = way_health_cells(h, row);
    for (;;) {
        unsigned dice = (unsigned)(way_random_next(&w->r) >> 40);
        unsigned node = dice % NODES;
        struct way_proposal p = kit_mark((enum way_state)(dice / 8 % WAY_STATE_COUNT), 5);
        p.mark.trials = 3;
        p.mark.has |= WAY_MARK_TRIALS;
        atomic_fetch_add(&cells[node].inflight, 1);
        account(h, node, dice % 3 ? p : (struct way_proposal){ .hard = false });
        bool trial = way_health_trial_take(h, node, row, way_clock());
        way_health_failure(h, node);
        way_health_latency(h, node, 0.001, way_clock());
        way_health_success(h, node);
        way_health_lease(h, node, (uint64_t)row, way_clock(), 0.01);
        if (maps && dice % 16 == 0)
            publish_turn(w, h);
        if (maps && dice % 16 == 1)
            way_health_moved(h, dice % WAY_SLOTS, node, way_clock());
        if (trial)
            way_health_trial_end(h, node, row, dice & 1);
        atomic_fetch_sub(&cells[node].inflight, 1);
    }
}

static pid_t spawn(struct world *w, bool maps)
{
    uint64_t seed = way_random_next(&w->r);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid)
        return pid;
    struct way_health *h = NULL;
    way_random_seed(&w->r, seed);
    if (way_health_open(&h, &w->o, NULL))
        _exit(2);
    work(w, h, maps);
    _exit(0);
}

static void kill_hard(pid_t pid)
{
    int status;
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_msg("the worker ended by itself, status %x", status);
}

/* ---- two processes on one segment, either killed ---- */

/* The other process: obeys and marks as it is told by a byte, and answers by one. */
struct peer {
    pid_t pid;
    int to, from;
};
enum { LOOK = 0x40, MARK = 0x80 }; /* with node << 3 | state */

static void peer_serve(struct world *w, int in, int out)
{
    struct way_health *h = NULL;
    uint8_t order, answer;
    if (way_health_open(&h, &w->o, NULL))
        _exit(2);
    while (read(in, &order, 1) == 1) {
        unsigned node = order >> 3 & 7;
        answer = 0xff;
        if (order & MARK)
            kit_hard(h, node, way_clock(), (enum way_state)(order & 7), 5);
        else
            answer = atomic_load(&way_health_node(h, node)->route) & WAY_ROUTE_STATE;
        if (write(out, &answer, 1) != 1)
            break;
    }
    _exit(0);
}

static struct peer peer_start(struct world *w)
{
    int down[2], up[2];
    assert_int_equal(pipe(down), 0);
    assert_int_equal(pipe(up), 0);
    struct peer p = { .pid = fork(), .to = down[1], .from = up[0] };
    assert_true(p.pid >= 0);
    if (p.pid == 0) {
        close(down[1]);
        close(up[0]);
        peer_serve(w, down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    return p;
}

static unsigned peer_ask(struct peer *p, unsigned order, unsigned node, unsigned state)
{
    uint8_t byte = (uint8_t)(order | node << 3 | state), answer;
    assert_int_equal(write(p->to, &byte, 1), 1);
    assert_int_equal(read(p->from, &answer, 1), 1);
    return answer;
}

static void peer_stop(struct peer *p)
{
    kill_hard(p->pid);
    close(p->to);
    close(p->from);
}

static void a_mark_by_one_process_is_obeyed_by_the_other_s_next_command(void **state)
{
    struct world *w = *state;
    unsigned kills = w->soak ? 1000 : 50;
    struct peer peer = peer_start(w);
    double longest = 0;
    for (unsigned i = 0; i < kills; i++) {
        pid_t worker = spawn(w, false);
        pause_us((long)(way_random_next(&w->r) % 6000));
        kill_hard(worker);
        double from = way_clock();
        balance(w->h);
        if (way_clock() - from > longest)
            longest = way_clock() - from;
        unsigned node = i % NODES, want = i % 2 ? WAY_STATE_FAILING : WAY_STATE_DRAINING;
        kit_hard(w->h, node, way_clock(), (enum way_state)want, 5);
        assert_int_equal(peer_ask(&peer, LOOK, node, 0), want);
        want = i % 2 ? WAY_STATE_HEALTHY : WAY_STATE_SUSPECT;
        peer_ask(&peer, MARK, node, want);
        assert_int_equal(kit_state(w->h, node), want);
        way_health_check(w->h);
        if (i % 10 == 9) { /* and the other one may be killed as well */
            peer_stop(&peer);
            peer = peer_start(w);
        }
    }
    peer_stop(&peer);
    print_message("%u kills, %.0f commits, longest wait after one %.1f ms\n", kills,
                  balance(w->h), longest * 1e3);
}

static void whoever_is_killed_in_whatever_the_table_is_whole(void **state)
{
    struct world *w = *state;
    unsigned kills = w->soak ? 1000 : 50;
    pid_t worker[3] = { spawn(w, true), spawn(w, true), spawn(w, true) };
    for (unsigned i = 0; i < kills; i++) {
        pause_us((long)(way_random_next(&w->r) % 8000));
        kill_hard(worker[i % 3]);
        balance(w->h);
        way_health_check(w->h);
        worker[i % 3] = spawn(w, true);
    }
    for (unsigned i = 0; i < 3; i++)
        kill_hard(worker[i]);
    double total = balance(w->h);
    struct way_err err;
    int row = way_health_row_attach(w->h, &err); /* zeroes what the dead left */
    struct way_snapshot s;
    way_health_snapshot(w->h, 0, way_clock(), &s);
    assert_int_equal(s.view.of_cluster.inflight, 0);
    assert_int_equal(row, 0);
    way_health_row_detach(w->h, row);
    print_message("%u kills, %.0f commits\n", kills, total);
}

/* ---- killed at each instruction ---- */

/* A child that stands, traced, before one commit of the account. */
static pid_t traced(struct world *w, unsigned node)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) { /* its mapping is the parent's, inherited */
        struct way_proposal p = kit_mark(WAY_STATE_PROBING, 5);
        p.mark.has |= WAY_MARK_CONNECTIONS;
        p.mark.connections = WAY_CONNECTIONS_DROP;
        struct way_snapshot s;
        struct way_outcome out;
        account_begin(w->h, node, &s, &p);
        if (ptrace(PTRACE_TRACEME, 0, 0, 0))
            _exit(9);
        raise(SIGSTOP);
        _exit(way_health_commit(w->h, &s, &p, false, &out) != WAY_COMMIT_DONE);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSTOPPED(status));
    return pid;
}

/* One instruction on; false when it ended, as it should. */
static bool step(pid_t pid)
{
    int status;
    assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, 0, 0), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status))
        assert_int_equal(WEXITSTATUS(status), 0);
    return WIFSTOPPED(status);
}

/* Steps a child through a commit and kills it after `steps` instructions. Returns false
 * if it was through before that. */
static bool killed_after(struct world *w, unsigned node, unsigned steps)
{
    pid_t pid = traced(w, node);
    for (unsigned i = 0; i < steps; i++)
        if (!step(pid))
            return false;
    kill_hard(pid);
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

static void need_trace(void)
{
    if (!SANITIZED && may_trace())
        return;
    print_message("skipped: %s\n", SANITIZED ? "too slow under a sanitizer"
                                             : "ptrace is not permitted here");
    skip();
}

static void killed_at_any_instruction_of_a_commit_it_is_there_or_not(void **state)
{
    struct world *w = *state;
    need_trace();
    unsigned stride = w->soak ? 1 : 37, kills = 0, there = 0;
    unsigned steps = 1 + (unsigned)(way_random_next(&w->r) >> 40) % stride;
    account(w->h, 0,
            kit_mark(WAY_STATE_HEALTHY, 0)); /* the linker's steps are not ours */
    double before = balance(w->h);
    for (; killed_after(w, kills % NODES, steps); steps += stride, kills++) {
        double after = balance(w->h);
        assert_true(after == before || after == before + 1);
        there += after > before;
        before = after;
        way_health_check(w->h);
        for (unsigned n = 0; n < NODES; n++)
            kit_state(w->h, n); /* the route word agrees with the record */
    }
    assert_true(kills > 20 && there > 0 && there < kills);
    print_message("%u kills over %u instructions, after %u of them it was committed\n",
                  kills, steps, there);
}

static void a_writer_frozen_in_mid_commit_holds_nobody_up(void **state)
{
    struct world *w = *state;
    struct way_snapshot s;
    struct way_outcome out;
    struct way_proposal p = kit_mark(WAY_STATE_SUSPECT, 5);
    need_trace();
    double before = balance(w->h);
    pid_t pid = traced(w, 0);
    while (!(atomic_load(&w->h->s->redo.turn) & 1))
        assert_true(step(pid));
    for (unsigned i = 0; i < 200; i++) /* some records are written, some are not */
        assert_true(step(pid));
    assert_true(atomic_load(&w->h->s->redo.turn) & 1);

    double from = way_clock();
    way_health_snapshot(w->h, 0, from, &s);
    assert_true(s.view.memory.node[0] == 1 && s.view.memory.shard[0] == 1);
    assert_true(s.view.memory.cluster[0] == before + 1);
    assert_int_equal(s.view.verdict.state, WAY_STATE_PROBING);
    p.memory = s.view.memory;
    assert_int_equal(way_health_commit(w->h, &s, &p, false, &out), WAY_COMMIT_BUSY);
    double waited = way_clock() - from;
    way_health_success(w->h, 0);
    assert_true(waited < 0.5); /* some ms, on a machine that is ours */
    print_message("waited %.1f ms\n", waited * 1e3);

    kill_hard(pid); /* it had begun to apply: the next one finishes it */
    assert_true(balance(w->h) == before + 1);
    assert_int_equal(kit_state(w->h, 0), WAY_STATE_PROBING);
    assert_int_equal(way_health_commit(w->h, &s, &p, false, &out), WAY_COMMIT_DONE);
}

/* ---- threads ---- */

struct thread {
    struct world *w;
    struct way_health *h;
    struct way_random r;
    unsigned rounds, committed, mixed;
    _Atomic unsigned *woken;
    pthread_t id;
};

static void on_woken(void *arg)
{
    atomic_fetch_add((_Atomic unsigned *)arg, 1);
}

/* cmocka's asserts are for its own thread: what is wrong is counted. */
static void *hammer(void *arg)
{
    struct thread *t = arg;
    struct way_health *h = t->h;
    int row = way_health_row_attach(h, NULL);
    for (unsigned i = 0; i < t->rounds; i++) {
        unsigned dice = (unsigned)(way_random_next(&t->r) >> 40), node = dice % NODES;
        struct way_proposal p = kit_mark((enum way_state)(dice / 8 % WAY_STATE_COUNT), 5);
        struct way_snapshot s;
        atomic_fetch_add_explicit(&way_health_cells(h, row)[node].inflight, 1,
                                  memory_order_relaxed);
        account(h, node, p);
        t->committed++;
        way_health_snapshot(h, (node + 1) % NODES, way_clock(), &s);
        for (unsigned k = 1; k < 4; k++)
            t->mixed += s.view.memory.node[k] != s.view.memory.node[0] ||
                        s.view.memory.shard[k] != s.view.memory.shard[0] ||
                        s.view.memory.cluster[k] != s.view.memory.cluster[0];
        if (way_health_trial_take(h, node, row, way_clock()))
            way_health_trial_end(h, node, row, dice & 1);
        way_health_failure(h, node);
        way_health_success(h, node);
        way_health_latency(h, node, 0.001, way_clock());
        way_health_settle(h, node, way_clock());
        way_health_dial_claim(h, node, way_clock(), way_clock() + 0.001);
        way_health_find(h, "127.0.0.1", (uint16_t)(7000 + node));
        way_health_replication(h, node, true, 1, 2);
        if (dice % 64 == 0)
            way_health_moved(h, dice % WAY_SLOTS, node, way_clock());
        if (row == 0 && dice % 64 == 1) {
            t->w->r = t->r; /* one thread has the topologies */
            publish_turn(t->w, h);
            t->r = t->w->r;
        }
        atomic_fetch_sub_explicit(&way_health_cells(h, row)[node].inflight, 1,
                                  memory_order_relaxed);
    }
    way_health_row_detach(h, row);
    return NULL;
}

static void threads_at_once_lose_no_commit(void **state)
{
    struct world *w = *state;
    enum { THREADS = 4 };
    static struct thread t[THREADS];
    _Atomic unsigned woken = 0;
    struct way_health_options o = w->o;
    double before = balance(w->h), committed = 0;
    o.woken = on_woken;
    o.arg = &woken;
    struct way_health *h = kit_open(&o);
    for (unsigned i = 0; i < THREADS; i++) {
        t[i] = (struct thread){ .w = w, .h = h, .rounds = w->soak ? 100000 : 3000 };
        way_random_seed(&t[i].r, way_random_next(&w->r));
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i].id, NULL, hammer, &t[i]), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(t[i].id, NULL);
        committed += t[i].committed;
        assert_int_equal(t[i].mixed, 0);
    }
    assert_true(balance(h) == before + committed);
    assert_true(atomic_load(&woken) > 0);
    way_health_check(h);
    way_health_close(h);
}

/* Two ways to look at one moment: what a snapshot holds of node, shard and cluster is of
 * the same side of every commit. */
static void *look(void *arg)
{
    struct thread *t = arg;
    for (unsigned i = 0; i < t->rounds; i++) {
        struct way_snapshot s;
        way_health_snapshot(t->h, 0, 1, &s); /* all commits are node 0's */
        t->mixed += s.view.memory.node[0] != s.view.memory.shard[0] ||
                    s.view.memory.node[0] != s.view.memory.cluster[0];
    }
    return NULL;
}

static void a_snapshot_sees_a_commit_whole_or_not_at_all(void **state)
{
    struct world *w = *state;
    static struct thread t[2];
    for (unsigned i = 0; i < 2; i++) {
        t[i] = (struct thread){ .h = w->h, .rounds = w->soak ? 2000000 : 20000 };
        assert_int_equal(pthread_create(&t[i].id, NULL, look, &t[i]), 0);
    }
    struct way_proposal p = kit_mark(WAY_STATE_HEALTHY, 0);
    for (unsigned i = 0; i < (w->soak ? 500000 : 10000); i++)
        account(w->h, 0, p);
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(t[i].id, NULL);
        assert_int_equal(t[i].mixed, 0);
    }
}

/* ---- leases on a node's probes ---- */

/* Takes the lease again and again, and counts whom it met: mixed. */
static void *probe_in_turn(void *arg)
{
    struct thread *t = arg;
    uint64_t holder = way_random_next(&t->r) | 1;
    for (unsigned i = 0; i < t->rounds; i++) {
        unsigned node = i % NODES;
        if (!way_health_lease(t->h, node, holder, 1, 60))
            continue;
        t->mixed += atomic_fetch_add(&t->woken[node], 1) != 0;
        t->mixed += !way_health_lease(t->h, node, holder, 2, 60); /* renewed */
        atomic_fetch_sub(&t->woken[node], 1);
        way_health_release(t->h, node, holder);
        t->committed++;
    }
    return NULL;
}

static void a_lease_has_one_holder_however_many_ask(void **state)
{
    struct world *w = *state;
    enum { THREADS = 4 };
    static struct thread t[THREADS];
    _Atomic unsigned holders[NODES] = { 0 };
    unsigned taken = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        t[i] = (struct thread){ .h = w->h, .rounds = w->soak ? 1000000 : 30000 };
        t[i].woken = holders;
        way_random_seed(&t[i].r, way_random_next(&w->r));
        assert_int_equal(pthread_create(&t[i].id, NULL, probe_in_turn, &t[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(t[i].id, NULL);
        assert_int_equal(t[i].mixed, 0);
        taken += t[i].committed;
    }
    assert_true(taken > 0);
}

/* A process that takes leases and gives them back, until it is killed with what it has. */
static pid_t spawn_prober(struct world *w, uint64_t holder, double seconds)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid)
        return pid;
    struct way_health *h = NULL;
    if (way_health_open(&h, &w->o, NULL))
        _exit(2);
    for (unsigned i = 0;; i++) {
        if (way_health_lease(h, i % NODES, holder, way_clock(), seconds) && i % 3)
            way_health_release(h, i % NODES, holder);
    }
}

static void the_leases_of_a_killed_holder_lapse_and_are_taken_by_another(void **state)
{
    struct world *w = *state;
    enum { DEAD = 77, LIVING = 99 };
    unsigned kills = w->soak ? 200 : 10;
    double seconds = 0.1, longest = 0;
    for (unsigned i = 0; i < kills; i++) {
        pid_t pid = spawn_prober(w, (uint64_t)(DEAD + i) << 8, seconds);
        pause_us(2000 + (long)(way_random_next(&w->r) % 6000));
        kill_hard(pid);
        double from = way_clock();
        for (unsigned node = 0; node < NODES; node++) {
            while (!way_health_lease(w->h, node, LIVING, way_clock(), 60))
                pause_us(500);
            way_health_release(w->h, node, LIVING);
        }
        if (way_clock() - from > longest)
            longest = way_clock() - from;
    }
    print_message("%u holders killed, longest wait for their leases %.0f ms of %.0f\n",
                  kills, longest * 1e3, seconds * 1e3);
    assert_true(longest < seconds + 0.5); /* some ms, on a machine that is ours */
}

#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_mark_by_one_process_is_obeyed_by_the_other_s_next_command),
        T(whoever_is_killed_in_whatever_the_table_is_whole),
        T(killed_at_any_instruction_of_a_commit_it_is_there_or_not),
        T(a_writer_frozen_in_mid_commit_holds_nobody_up),
        T(threads_at_once_lose_no_commit),
        T(a_snapshot_sees_a_commit_whole_or_not_at_all),
        T(a_lease_has_one_holder_however_many_ask),
        T(the_leases_of_a_killed_holder_lapse_and_are_taken_by_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
