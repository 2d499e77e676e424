/* What an operator may rely on: the topology is known from the first node that answers,
 * dead ones are not waited for, a node without CLUSTER NODES or SHARDS will do, wishes do
 * not become storms, and when all known nodes are gone the seeds are asked again. The nodes
 * are made up, on loopback. */
#include "cluster.h"
#include "listen.h"
#include "log.h"
#include "node_kit.h"
#include "resolve.h"
#include "resp.h"

#include <stdlib.h>

enum { NODES = 4 };

struct fixture {
    struct way_loop loop;
    struct way_resolver *resolver;
    struct way_health *health;
    struct way_cluster *cluster;
    struct kit_node node[NODES];
    char text[NODES][2048]; /* what each says to CLUSTER NODES */
    char *seed[NODES];
    struct way_timeouts timeouts;
    struct way_limits limits;
    unsigned changed, added, published, failed;
    double covered_when_changed;
    struct way_event failure;
};

/* --- what nodes answer --- */

static void answer_nodes(struct kit_node *n, const char *request, struct way_buf *out)
{
    if (!strcmp(request, "CLUSTER NODES"))
        way_resp_put_bulk(out, n->text, strlen(n->text));
    else
        way_resp_put_error(out, "ERR unknown subcommand 'SHARDS'. Try CLUSTER HELP.");
}

static void answer_slots(struct kit_node *n, const char *request, struct way_buf *out)
{
    if (strcmp(request, "CLUSTER SLOTS")) {
        way_resp_put_error(out, "NOPERM this user has no permissions to run it");
        return;
    }
    way_buf_printf(
        out,
        "*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:%u\r\n$40\r\n%040d\r\n",
        n->port, 1);
}

static void answer_nothing(struct kit_node *n, const char *request, struct way_buf *out)
{
    (void)n, (void)request, (void)out;
}

static void answer_garbage(struct kit_node *n, const char *request, struct way_buf *out)
{
    (void)n;
    if (!strcmp(request, "CLUSTER NODES"))
        way_resp_put_bulk(out, "what do you mean", 16);
    else
        way_resp_put_error(out, "ERR no");
}

/* Node `who` as master of slots from..to; from > to: of none. replica_of -1: a master. */
static void say_node(char *text, size_t size, const struct kit_node *n, int who,
                     int replica_of, int epoch, int from, int to)
{
    size_t at = strlen(text);
    char master[48] = "-", slots[32] = "";
    if (replica_of >= 0)
        snprintf(master, sizeof master, "%040d", replica_of + 1);
    if (from <= to)
        snprintf(slots, sizeof slots, " %d-%d", from, to);
    snprintf(text + at, size - at, "%040d 127.0.0.1:%u@1 %s %s 0 0 %d connected%s\n",
             who + 1, n->port, replica_of < 0 ? "master" : "slave", master, epoch, slots);
}

/* --- the fixture --- */

static void on_changed(void *arg, const struct way_node_change *change, unsigned count)
{
    struct fixture *f = arg;
    f->changed += count;
    for (unsigned i = 0; i < count; i++)
        f->added += change[i].what == WAY_CHANGE_ADDED && !change[i].gone;
    f->covered_when_changed = way_health_coverage(f->health);
}

static void on_published(void *arg)
{
    ((struct fixture *)arg)->published++;
}

static void on_failed(void *arg, unsigned node, struct way_event *e)
{
    struct fixture *f = arg;
    assert_true(node < way_health_nodes(f->health));
    f->failed++;
    f->failure = *e;
}

static int set_up(void **state)
{
    struct fixture *f = way_zalloc(sizeof *f);
    struct way_err err = { "" };
    struct way_health_options o = { .guard = true, .failing_share = 0.5 };
    assert_int_equal(way_loop_init(&f->loop, &err), 0);
    assert_int_equal(way_resolver_new(&f->resolver, &f->loop, NULL, &err), 0);
    if (way_health_open(&f->health, &o, &err) < 0)
        fail_msg("%s", err.text);
    way_timeouts_default(&f->timeouts);
    way_limits_default(&f->limits);
    f->timeouts.read = 0.4;
    f->limits.refresh_interval = 0.05;
    for (int i = 0; i < NODES; i++) {
        kit_node_start(&f->node[i], &f->loop, answer_nodes, f->text[i]);
        f->seed[i] = f->node[i].address;
    }
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    way_cluster_free(f->cluster);
    for (int i = 0; i < NODES; i++)
        kit_node_down(&f->node[i]);
    way_resolver_free(f->resolver);
    way_loop_fini(&f->loop);
    way_health_close(f->health);
    way_free(f);
    return 0;
}

static void start(struct fixture *f, unsigned seeds)
{
    f->cluster = way_cluster_new(&(struct way_cluster_options){
        .loop = &f->loop,
        .resolver = f->resolver,
        .health = f->health,
        .timeouts = &f->timeouts,
        .limits = &f->limits,
        .seeds = f->seed,
        .seed_count = seeds,
        .changed = on_changed,
        .failed = on_failed,
        .published = on_published,
        .arg = f,
    });
    f->loop.owner = f;
}

static void on_woken(struct way_loop *l)
{
    way_cluster_woken(((struct fixture *)l->owner)->cluster);
}

static bool is_known(struct fixture *f)
{
    return way_health_coverage(f->health) == 1;
}

static uint64_t refreshes(struct fixture *f)
{
    struct way_cluster_counts n;
    way_cluster_counts(f->cluster, &n);
    return n.refreshes;
}

static uint64_t failures(struct fixture *f)
{
    struct way_cluster_counts n;
    way_cluster_counts(f->cluster, &n);
    return n.failed;
}

/* Two masters, the second with a replica: nodes 0, 1 and 2 say so. */
static void say_three(struct fixture *f)
{
    for (int i = 0; i < 3; i++) {
        f->text[i][0] = 0;
        say_node(f->text[i], sizeof f->text[i], &f->node[0], 0, -1, 1, 0, 8000);
        say_node(f->text[i], sizeof f->text[i], &f->node[1], 1, -1, 2, 8001, 16383);
        say_node(f->text[i], sizeof f->text[i], &f->node[2], 2, 1, 2, 1, 0);
    }
}

static void mark(struct fixture *f, unsigned node, enum way_state to)
{
    struct way_snapshot s;
    struct way_outcome outcome;
    way_health_snapshot(f->health, node, f->loop.now, &s);
    struct way_proposal p = {
        .mark = { .given = true, .has = WAY_MARK_STATE, .state = to },
        .memory = s.view.memory,
        .hard = true
    };
    assert_int_equal(way_health_commit(f->health, &s, &p, false, &outcome),
                     WAY_COMMIT_DONE);
    assert_int_equal(outcome.to, to);
}

static unsigned index_of(struct fixture *f, const struct kit_node *n)
{
    unsigned found = way_health_find(f->health, "127.0.0.1", n->port);
    assert_int_not_equal(found, WAY_NONE);
    return found;
}

/* --- what may be relied on --- */

static void the_topology_is_known_though_shards_is_refused(void **state)
{
    struct fixture *f = *state;
    say_three(f);
    start(f, 1);
    AWAIT(&f->loop, 2, is_known(f));
    assert_int_equal(way_health_nodes(f->health), 3);
    assert_int_equal(f->published, 1);
    assert_int_equal(kit_asked(&f->node[0], "CLUSTER SHARDS"), 1);
    way_cluster_refresh(f->cluster);
    way_cluster_woken(f->cluster);
    AWAIT(&f->loop, 2, refreshes(f) == 2);
    kit_pass_time(&f->loop, 0.1);
    for (int i = 0; i < 3; i++) /* each remembers that it was refused, if it was asked */
        assert_true(kit_asked(&f->node[i], "CLUSTER SHARDS") <= 1);
}

static void a_node_is_heard_of_before_it_is_routed_to(void **state)
{
    struct fixture *f = *state;
    say_three(f);
    start(f, 1);
    AWAIT(&f->loop, 2, is_known(f));
    assert_int_equal(f->added, 3);
    assert_true(f->covered_when_changed == 0);
}

static void where_nodes_is_refused_slots_is_asked(void **state)
{
    struct fixture *f = *state;
    f->node[0].answer = answer_slots;
    start(f, 1);
    AWAIT(&f->loop, 2, is_known(f));
    assert_int_equal(kit_asked(&f->node[0], "CLUSTER NODES"), 1);
    way_cluster_refresh(f->cluster);
    way_cluster_woken(f->cluster);
    AWAIT(&f->loop, 2, kit_asked(&f->node[0], "CLUSTER SLOTS") == 2);
    assert_int_equal(kit_asked(&f->node[0], "CLUSTER NODES"), 1);
}

static void a_silent_seed_is_not_waited_for(void **state)
{
    struct fixture *f = *state;
    say_three(f);
    for (int i = 1; i < NODES; i++)
        f->node[i].answer = answer_nothing;
    double began = way_clock();
    start(f, NODES);
    AWAIT(&f->loop, 2, is_known(f));
    if (way_clock() - began >
        0.35) /* read is 0.4: nobody's time-out may have been needed */
        fail_msg("it took %.3f s", way_clock() - began);
    assert_int_equal(failures(f), 0);
}

static void a_seed_that_talks_nonsense_loses(void **state)
{
    struct fixture *f = *state;
    say_three(f);
    f->node[0].answer = f->node[1].answer = answer_garbage;
    kit_node_down(&f->node[3]);
    start(f, NODES);
    AWAIT(&f->loop, 2, is_known(f));
    assert_int_equal(failures(f), 0);
    assert_int_equal(f->failed, 0); /* none was a known node */
}

static void an_unreachable_cluster_is_tried_again(void **state)
{
    struct fixture *f = *state;
    say_three(f);
    kit_node_down(&f->node[0]);
    start(f, 1);
    AWAIT(&f->loop, 2, failures(f) == 3);
    assert_false(is_known(f));
    kit_node_up(&f->node[0]);
    AWAIT(&f->loop, 4, is_known(f));
}

static void a_node_that_knows_no_slots_is_no_answer(void **state)
{
    struct fixture *f = *state;
    say_node(f->text[0], sizeof f->text[0], &f->node[0], 0, -1, 0, 1, 0);
    start(f, 1);
    AWAIT(&f->loop, 2, failures(f) == 2);
    assert_int_equal(f->published, 0);
}

static void many_wishes_are_few_refreshes(void **state)
{
    struct fixture *f = *state;
    say_three(f);
    f->loop.woken = on_woken;
    start(f, 1);
    AWAIT(&f->loop, 2, is_known(f));
    double end = way_clock() + 0.5;
    while (way_clock() < end) {
        for (int i = 0; i < 100; i++)
            way_cluster_refresh(f->cluster);
        kit_pass_time(&f->loop, 0.002);
    }
    /* one each 0.05 to 0.06 s in half a second */
    assert_in_range(refreshes(f), 6, 12);
}

static void a_shard_without_a_master_is_asked_about_often(void **state)
{
    struct fixture *f = *state;
    say_three(f);
    f->loop.woken = on_woken;
    start(f, 3);
    AWAIT(&f->loop, 2, is_known(f));
    kit_pass_time(&f->loop, 0.3);
    assert_int_equal(refreshes(f), 1);
    kit_node_down(&f->node[1]);
    mark(f, index_of(f, &f->node[1]), WAY_STATE_FAILING);
    way_cluster_woken(f->cluster); /* as the raised epoch does */
    AWAIT(&f->loop, 2, refreshes(f) == 6);
    f->text[0][0] = f->text[2][0] = 0; /* the replica is promoted */
    for (int i = 0; i < 3; i += 2) {
        say_node(f->text[i], sizeof f->text[i], &f->node[0], 0, -1, 1, 0, 8000);
        say_node(f->text[i], sizeof f->text[i], &f->node[2], 2, -1, 3, 8001, 16383);
    }
    AWAIT(&f->loop, 1, f->published == 2);
    kit_pass_time(&f->loop, 0.1);
    uint64_t then = refreshes(f);
    kit_pass_time(&f->loop, 0.3);
    assert_int_equal(refreshes(f), then); /* the need has gone */
}

static void a_master_that_is_back_is_asked_about_until_it_is_a_replica(void **state)
{
    struct fixture *f = *state;
    say_three(f);
    f->loop.woken = on_woken;
    start(f, 3);
    AWAIT(&f->loop, 2, is_known(f));
    mark(f, index_of(f, &f->node[1]), WAY_STATE_FAILING);
    for (int i = 0; i < 3; i++) { /* node 2 was promoted, node 1 has not heard */
        f->text[i][0] = 0;
        say_node(f->text[i], sizeof f->text[i], &f->node[0], 0, -1, 1, 0, 8000);
        say_node(f->text[i], sizeof f->text[i], &f->node[1], 1, -1, 2, 1, 0);
        say_node(f->text[i], sizeof f->text[i], &f->node[2], 2, -1, 3, 8001, 16383);
    }
    way_cluster_woken(f->cluster);
    AWAIT(&f->loop, 1, f->published == 2);
    kit_pass_time(&f->loop, 0.2);
    uint64_t then = refreshes(f);
    kit_pass_time(&f->loop, 0.5);
    assert_int_equal(refreshes(f), then); /* while it is out there is nothing to learn */
    mark(f, index_of(f, &f->node[1]), WAY_STATE_HEALTHY);
    way_cluster_woken(f->cluster);
    AWAIT(&f->loop, 2, refreshes(f) >= then + 3);
    for (int i = 0; i < 3; i++) {
        f->text[i][0] = 0;
        say_node(f->text[i], sizeof f->text[i], &f->node[0], 0, -1, 1, 0, 8000);
        say_node(f->text[i], sizeof f->text[i], &f->node[1], 1, 2, 3, 1, 0);
        say_node(f->text[i], sizeof f->text[i], &f->node[2], 2, -1, 3, 8001, 16383);
    }
    AWAIT(&f->loop, 2,
          atomic_load(&way_health_node(f->health, index_of(f, &f->node[1]))->role) ==
              WAY_ROLE_REPLICA);
    kit_pass_time(&f->loop, 0.2);
    then = refreshes(f);
    kit_pass_time(&f->loop, 0.6);
    assert_int_equal(refreshes(f), then);
}

static void a_known_node_that_cannot_be_asked_is_told(void **state)
{
    struct fixture *f = *state;
    f->text[0][0] = 0;
    say_node(f->text[0], sizeof f->text[0], &f->node[0], 0, -1, 1, 0, 16383);
    start(f, 1);
    AWAIT(&f->loop, 2, is_known(f));
    kit_node_down(&f->node[0]);
    kit_pass_time(&f->loop, 0.05); /* its idle connection closes: that says nothing */
    assert_int_equal(f->failed, 0);
    way_cluster_refresh(f->cluster);
    way_cluster_woken(f->cluster);
    AWAIT(&f->loop, 2, f->failed > 0);
    assert_int_equal(f->failure.kind, WAY_KIND_CONNECTION);
    assert_int_equal(f->failure.phase, WAY_PHASE_CONNECT);
    assert_int_equal(f->failure.error, WAY_ERROR_REFUSED);
    AWAIT(&f->loop, 2, failures(f) > 0);
}

static void when_all_known_nodes_are_gone_the_seeds_are_asked(void **state)
{
    struct fixture *f = *state;
    /* The seed is a name in front of the cluster: first it tells of node 1, then of 2. */
    say_node(f->text[0], sizeof f->text[0], &f->node[1], 1, -1, 1, 0, 16383);
    snprintf(f->text[1], sizeof f->text[1], "%s", f->text[0]);
    start(f, 1);
    AWAIT(&f->loop, 2, is_known(f));
    kit_node_down(&f->node[1]);
    f->text[0][0] = 0;
    say_node(f->text[0], sizeof f->text[0], &f->node[2], 2, -1, 2, 0, 16383);
    way_cluster_refresh(f->cluster);
    way_cluster_woken(f->cluster);
    AWAIT(&f->loop, 3, f->published == 2);
    uint32_t route =
        atomic_load(&way_health_node(f->health, index_of(f, &f->node[2]))->route);
    assert_false(route & WAY_ROUTE_GONE);
    assert_true(is_known(f));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_topology_is_known_though_shards_is_refused),
        TEST(a_node_is_heard_of_before_it_is_routed_to),
        TEST(where_nodes_is_refused_slots_is_asked),
        TEST(a_silent_seed_is_not_waited_for),
        TEST(a_seed_that_talks_nonsense_loses),
        TEST(an_unreachable_cluster_is_tried_again),
        TEST(a_node_that_knows_no_slots_is_no_answer),
        TEST(many_wishes_are_few_refreshes),
        TEST(a_shard_without_a_master_is_asked_about_often),
        TEST(a_master_that_is_back_is_asked_about_until_it_is_a_replica),
        TEST(a_known_node_that_cannot_be_asked_is_told),
        TEST(when_all_known_nodes_are_gone_the_seeds_are_asked),
    };
    struct way_err err;
    way_log_level(WAY_ERROR);
    if (way_resolver_library_init(&err) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
