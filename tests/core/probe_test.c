/* What an operator may rely on: a probe means that data is served, it ends in its time, one
 * series runs per node whatever the number of processes, limits hold whatever a policy
 * wishes, and a node that fails without end is tried all the same. */
#include "listen.h"
#include "node_kit.h"
#include "probe.h"
#include "resolve.h"
#include "resp.h"

#include <stdlib.h>

enum { MASTER, REPLICA, PROBERS = 2 };

struct fixture {
    struct way_loop loop;
    struct way_resolver *resolver;
    struct way_health *health;
    struct way_prober *prober[PROBERS];
    struct kit_node node[2];
    struct way_timeouts timeouts;
    struct way_limits limits;
    struct way_probe wish; /* for every node, by every prober */
    unsigned asked, results;
    bool own;                /* of the last result */
    struct way_event result; /* the last one */
    char answer[256];        /* its answer */
    double first, last;      /* when results came */
};

static void answer(struct kit_node *n, const char *request, struct way_buf *out)
{
    if (!strcmp(request, "READONLY"))
        way_buf_puts(out, "+OK\r\n");
    else if (n->text)
        way_buf_puts(out, n->text);
}

static void on_ask(void *arg, unsigned node, struct way_event *e, struct way_probe *out)
{
    struct fixture *f = arg;
    (void)node, (void)e;
    f->asked++;
    *out = f->wish;
}

static void on_result(void *arg, unsigned node, struct way_event *e, bool own)
{
    struct fixture *f = arg;
    (void)node;
    f->result = *e;
    f->own = own;
    snprintf(f->answer, sizeof f->answer, "%.*s", (int)e->answer.n, e->answer.p);
    f->last = way_clock();
    if (f->results++ == 0)
        f->first = f->last;
}

/* One shard: master 0, replica 1. */
static void make_table(struct fixture *f)
{
    struct way_topology *t = way_topology_new();
    struct way_err err = { "" };
    struct way_node_change change[8];
    char text[512];
    snprintf(text, sizeof text,
             "%040d 127.0.0.1:%u@1 master - 0 0 1 connected 0-16383\n"
             "%040d 127.0.0.1:%u@1 slave %040d 0 0 1 connected\n",
             1, f->node[MASTER].port, 2, f->node[REPLICA].port, 1);
    assert_int_equal(way_topology_parse_nodes(t, text, strlen(text), "", &err), 0);
    assert_int_equal(way_health_adopt(f->health, t, 1, 1, change, 8, &err), 2);
    assert_int_equal(way_health_publish(f->health, t, 1, &err), 1);
    assert_int_equal(way_health_find(f->health, "127.0.0.1", f->node[MASTER].port),
                     MASTER);
    way_topology_free(t);
}

static struct way_prober *make_prober(struct fixture *f)
{
    return way_prober_new(&(struct way_prober_options){
        .loop = &f->loop,
        .resolver = f->resolver,
        .health = f->health,
        .timeouts = &f->timeouts,
        .limits = &f->limits,
        .host_after = 0.1,
        .ask = on_ask,
        .result = on_result,
        .arg = f,
    });
}

static int set_up(void **state)
{
    struct fixture *f = way_zalloc(sizeof *f);
    struct way_err err = { "" };
    struct way_health_options o = { .guard = true, .failing_share = 1 };
    assert_int_equal(way_loop_init(&f->loop, &err), 0);
    assert_int_equal(way_resolver_new(&f->resolver, &f->loop, NULL, &err), 0);
    if (way_health_open(&f->health, &o, &err) < 0)
        fail_msg("%s", err.text);
    way_timeouts_default(&f->timeouts);
    way_limits_default(&f->limits);
    f->wish = (struct way_probe){ .given = true, .after = 0.02, .timeout = 0.2 };
    for (int i = 0; i < 2; i++)
        kit_node_start(&f->node[i], &f->loop, answer, "$-1\r\n");
    make_table(f);
    f->prober[0] = make_prober(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < PROBERS; i++)
        way_prober_free(f->prober[i]);
    for (int i = 0; i < 2; i++)
        kit_node_down(&f->node[i]);
    way_resolver_free(f->resolver);
    way_loop_fini(&f->loop);
    way_health_close(f->health);
    way_free(f);
    return 0;
}

static void ask(struct fixture *f, unsigned prober, unsigned node)
{
    struct way_event e = { .kind = WAY_KIND_CHANGE, .now = f->loop.now };
    way_prober_ask(f->prober[prober], node, &e, false);
}

static void mark(struct fixture *f, unsigned node, enum way_state to, double seconds)
{
    struct way_snapshot s;
    struct way_outcome outcome;
    way_health_snapshot(f->health, node, f->loop.now, &s);
    struct way_proposal p = {
        .mark = { .given = true, .has = WAY_MARK_STATE, .state = to },
        .memory = s.view.memory,
        .hard = true
    };
    p.mark.seconds = seconds;
    p.mark.has |= seconds > 0 ? WAY_MARK_SECONDS : 0;
    assert_int_equal(way_health_commit(f->health, &s, &p, false, &outcome),
                     WAY_COMMIT_DONE);
}

/* --- what a probe asks, and what counts --- */

static void data_reads_a_key_and_nothing_there_is_a_success(void **state)
{
    struct fixture *f = *state;
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results == 1);
    assert_int_equal(f->result.kind, WAY_KIND_PROBE);
    assert_int_equal(f->result.error, WAY_ERROR_NONE);
    assert_true(f->result.latency > 0 && f->result.latency < 0.2);
    assert_string_equal(f->answer, "$-1\r\n");
    assert_int_equal(kit_asked(&f->node[MASTER], "GET {"), 1);
    assert_int_equal(kit_asked(&f->node[MASTER], "READONLY"), 0);
}

static void a_replica_is_told_readonly_first(void **state)
{
    struct fixture *f = *state;
    ask(f, 0, REPLICA);
    AWAIT(&f->loop, 2, f->results == 1);
    assert_int_equal(f->result.error, WAY_ERROR_NONE);
    assert_memory_equal(f->node[REPLICA].asked, "READONLY\nGET {", 14);
}

static void the_key_belongs_to_a_slot_of_the_node(void **state)
{
    struct fixture *f = *state;
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results == 1);
    char key[64];
    assert_int_equal(sscanf(f->node[MASTER].asked, "GET %63s", key), 1);
    uint16_t slot = way_slot_of(key, strlen(key));
    unsigned shard = atomic_load(&way_health_node(f->health, MASTER)->shard);
    assert_int_equal(atomic_load(&way_health_slots(f->health)[slot]), shard);
}

static void an_error_reply_is_a_failure_with_its_words(void **state)
{
    struct fixture *f = *state;
    f->node[MASTER].text = "-LOADING Redis is loading the dataset in memory\r\n";
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results == 1);
    assert_int_equal(f->result.error, WAY_ERROR_REPLY);
    assert_string_equal(f->result.reply, "LOADING");
    assert_string_equal(f->result.message,
                        "LOADING Redis is loading the dataset in memory");
}

static void a_refused_probe_is_hard_evidence(void **state)
{
    struct fixture *f = *state;
    kit_node_down(&f->node[MASTER]);
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results == 1);
    assert_int_equal(f->result.error, WAY_ERROR_REFUSED);
    assert_int_equal(f->result.phase, WAY_PHASE_CONNECT);
    assert_int_equal(f->result.step, WAY_STEP_DIAL);
    assert_true(way_event_hard(&f->result));
}

static void a_silent_node_costs_its_timeout_and_no_more(void **state)
{
    struct fixture *f = *state;
    f->node[MASTER].text = NULL;
    double began = way_clock();
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results == 1);
    double took = way_clock() - began;
    assert_int_equal(f->result.error, WAY_ERROR_TIMEOUT);
    assert_int_equal(f->result.phase, WAY_PHASE_READ);
    if (took < 0.2 || took > 0.6) /* after 0.02, timeout 0.2 */
        fail_msg("it took %.3f s", took);
}

static void a_command_of_the_policy_is_sent_as_given(void **state)
{
    struct fixture *f = *state;
    f->node[MASTER].text = "+PONG\r\n";
    f->wish.words = 2;
    memcpy(f->wish.command, "PING\0hello", 11);
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results == 1);
    assert_int_equal(f->result.error, WAY_ERROR_NONE);
    assert_memory_equal(f->node[MASTER].asked, "PING hello\n", 11);
}

static void a_new_connection_each_time_unless_pooled(void **state)
{
    struct fixture *f = *state;
    f->limits.node_probes_per_second = 1000;
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results == 3);
    assert_in_range(f->node[MASTER].accepted, 3, 4);
    f->wish.pooled = true;
    AWAIT(&f->loop, 2, f->results == 5);
    unsigned accepted = f->node[MASTER].accepted;
    AWAIT(&f->loop, 2, f->results == 10);
    assert_int_equal(f->node[MASTER].accepted, accepted);
    assert_true(f->result.reused);
}

static void a_stale_pooled_connection_says_nothing(void **state)
{
    struct fixture *f = *state;
    f->wish.pooled = true;
    f->wish.after = 0.1;
    f->limits.node_probes_per_second = 1000;
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results == 2);
    kit_node_down(&f->node[MASTER]); /* restarts: its connections are gone */
    kit_node_up(&f->node[MASTER]);
    AWAIT(&f->loop, 2, f->results == 4);
    assert_int_equal(f->result.error, WAY_ERROR_NONE);
    struct way_prober_counts n;
    way_prober_counts(f->prober[0], &n);
    assert_int_equal(n.failed, 0);
}

/* --- when --- */

static void no_wish_no_probe(void **state)
{
    struct fixture *f = *state;
    f->wish.given = false;
    ask(f, 0, REPLICA);
    mark(f, REPLICA, WAY_STATE_FAILING, 5);
    ask(f, 0, REPLICA);
    kit_pass_time(&f->loop, 0.3);
    assert_int_equal(f->results, 0);
    assert_int_equal(f->node[REPLICA].accepted, 0);
}

static void a_node_that_fails_without_end_is_tried_by_the_host(void **state)
{
    struct fixture *f = *state;
    f->wish.given = false;
    mark(f, MASTER, WAY_STATE_FAILING, 0);
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results == 2);
    assert_int_equal(f->result.kind, WAY_KIND_PROBE);
    assert_true(f->own);
    mark(f, MASTER, WAY_STATE_HEALTHY, 0);
    unsigned then = f->results;
    kit_pass_time(&f->loop, 0.3);
    assert_int_equal(f->results, then);
}

static void the_last_node_that_serves_is_tried_by_the_host_whatever_its_mark(void **state)
{
    struct fixture *f = *state;
    f->wish.given = false;
    mark(f, MASTER, WAY_STATE_FAILING, 60); /* nobody else takes its writes */
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results == 1);
    assert_true(f->own);
}

static void a_node_that_is_not_the_last_is_left_alone_until_it_is(void **state)
{
    struct fixture *f = *state;
    f->wish.given = false;
    mark(f, REPLICA, WAY_STATE_FAILING, 60);
    ask(f, 0, REPLICA);
    kit_pass_time(&f->loop, 0.35); /* three times what the host waits */
    assert_int_equal(f->results, 0);
    mark(f, MASTER, WAY_STATE_FAILING, 60);
    AWAIT(&f->loop, 2, f->results == 1);
    assert_true(f->own);
}

static void a_mark_that_ends_sooner_than_the_host_would_try_just_ends(void **state)
{
    struct fixture *f = *state;
    f->wish.given = false;
    mark(f, MASTER, WAY_STATE_FAILING, 0.05);
    ask(f, 0, MASTER);
    kit_pass_time(&f->loop, 0.3);
    assert_int_equal(f->results, 0);
}

static void a_new_wish_replaces_the_waiting_one(void **state)
{
    struct fixture *f = *state;
    f->wish.after = 60;
    ask(f, 0, MASTER);
    f->wish.after = 0;
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results >= 1);
    f->wish.given = false;
    ask(f, 0, MASTER);
}

static void repeated_marks_never_put_a_probe_off(void **state)
{
    struct fixture *f = *state;
    struct way_event e = { .kind = WAY_KIND_RESULT };
    f->wish.after = 0.2;
    ask(f, 0, MASTER);
    double end = way_clock() + 0.5;
    while (way_clock() < end && !f->results) {
        way_prober_ask(f->prober[0], MASTER, &e, true);
        kit_pass_time(&f->loop, 0.02);
    }
    assert_true(f->results >= 1);
}

static void a_node_is_not_probed_more_often_than_the_limit(void **state)
{
    struct fixture *f = *state;
    struct way_prober_counts n;
    f->wish.after = 0;
    f->limits.node_probes_per_second = 20;
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 3, f->results == 11);
    if (f->last - f->first < 0.49) /* ten steps of 0.05 s */
        fail_msg("ten probes took %.3f s", f->last - f->first);
    way_prober_counts(f->prober[0], &n);
    assert_true(n.delayed >= 10);
}

static void all_nodes_share_one_limit(void **state)
{
    struct fixture *f = *state;
    f->wish.after = 0;
    f->limits.node_probes_per_second = 10000;
    f->limits.probes_per_second = 20;
    way_prober_free(f->prober[0]);
    f->prober[0] = make_prober(f);
    ask(f, 0, MASTER);
    ask(f, 0, REPLICA);
    kit_pass_time(&f->loop, 0.5);
    assert_in_range(f->results, 20, 33); /* 20 at once, then 10 in half a second */
}

static void two_processes_make_one_series_and_one_takes_over(void **state)
{
    struct fixture *f = *state;
    f->wish = (struct way_probe){ .given = true, .after = 0.1, .timeout = 0.1 };
    f->prober[1] = make_prober(f); /* as another process on the same table */
    ask(f, 0, MASTER);
    ask(f, 1, MASTER);
    AWAIT(&f->loop, 3, f->results == 6);
    if (f->last - f->first < 0.49)
        fail_msg("six probes at 0.1 s took %.3f s: both probe", f->last - f->first);
    struct way_prober_counts n[2];
    way_prober_counts(f->prober[0], &n[0]);
    way_prober_counts(f->prober[1], &n[1]);
    assert_true((n[0].probes == 0) != (n[1].probes == 0));
    unsigned holder = n[0].probes ? 0 : 1;
    way_prober_free(f->prober[holder]);
    f->prober[holder] = NULL;
    unsigned then = f->results;
    AWAIT(&f->loop, 3, f->results > then + 1);
}

static void a_holder_that_died_is_not_waited_for_long(void **state)
{
    struct fixture *f = *state;
    f->wish = (struct way_probe){ .given = true, .after = 0.4, .timeout = 0.1 };
    double now = f->loop.now, began = way_clock();
    assert_true(way_health_lease(f->health, MASTER, 12345, now, 1.2)); /* and is gone */
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 4, f->results >= 1);
    if (way_clock() - began < 1.1 || way_clock() - began > 2.2)
        fail_msg("taken over after %.3f s", way_clock() - began);
    /* what the new holder takes is not much longer than its own interval */
    AWAIT(&f->loop, 2, f->results >= 2);
    assert_false(way_health_lease(f->health, MASTER, 12345, f->loop.now, 1));
    assert_true(way_health_lease(f->health, MASTER, 12345, f->loop.now + 1.5, 1));
}

static void a_forgotten_node_is_left_alone(void **state)
{
    struct fixture *f = *state;
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->node[MASTER].accepted == 1);
    way_prober_forget(f->prober[0], MASTER);
    unsigned then = f->results;
    kit_pass_time(&f->loop, 0.2);
    assert_int_equal(f->results, then);
    assert_int_equal(f->node[MASTER].accepted, 1);
}

/* --- INFO replication --- */

static const char master_info[] = "# Replication\r\nrole:master\r\nconnected_slaves:1\r\n"
                                  "master_repl_offset:1500\r\n";
static const char replica_info[] =
    "# Replication\r\nrole:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:7000\r\n"
    "master_link_status:down\r\nmaster_last_io_seconds_ago:7\r\n"
    "slave_read_repl_offset:1200\r\nslave_repl_offset:1100\r\nmaster_repl_offset:"
    "1100\r\n";

static void replication_is_read_out_of_info(void **state)
{
    (void)state;
    struct way_replication r;
    assert_true(way_replication_parse(master_info, strlen(master_info), &r));
    assert_true(r.master && r.link_up);
    assert_int_equal(r.offset, 1500);
    assert_true(r.behind == 0);
    assert_true(way_replication_parse(replica_info, strlen(replica_info), &r));
    assert_false(r.master || r.link_up);
    assert_true(r.last_io == 7 && r.behind == 100);
    assert_int_equal(r.offset, 1100);
    assert_false(way_replication_parse("", 0, &r));
    assert_false(way_replication_parse("xrole:master\r\n", 14, &r));
}

static void how_far_a_replica_is_behind_its_master_is_kept(void **state)
{
    struct fixture *f = *state;
    char master[512], replica[512];
    snprintf(master, sizeof master, "$%zu\r\n%s\r\n", strlen(master_info), master_info);
    snprintf(replica, sizeof replica, "$%zu\r\n%s\r\n", strlen(replica_info),
             replica_info);
    f->node[MASTER].text = master;
    f->node[REPLICA].text = replica;
    f->wish.words = 2;
    memcpy(f->wish.command, "info\0replication", 17);
    f->wish.after = 0;
    ask(f, 0, MASTER);
    AWAIT(&f->loop, 2, f->results >= 1);
    f->results = 0;
    ask(f, 0, REPLICA);
    AWAIT(&f->loop, 2, kit_asked(&f->node[REPLICA], "info") >= 1 && f->results >= 4);
    struct way_snapshot s;
    way_health_snapshot(f->health, REPLICA, f->loop.now, &s);
    assert_true(s.view.has_replication);
    assert_false(s.view.link_up);
    assert_true(s.view.behind == 400);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(data_reads_a_key_and_nothing_there_is_a_success),
        TEST(a_replica_is_told_readonly_first),
        TEST(the_key_belongs_to_a_slot_of_the_node),
        TEST(an_error_reply_is_a_failure_with_its_words),
        TEST(a_refused_probe_is_hard_evidence),
        TEST(a_silent_node_costs_its_timeout_and_no_more),
        TEST(a_command_of_the_policy_is_sent_as_given),
        TEST(a_new_connection_each_time_unless_pooled),
        TEST(a_stale_pooled_connection_says_nothing),
        TEST(no_wish_no_probe),
        TEST(a_node_that_fails_without_end_is_tried_by_the_host),
        TEST(the_last_node_that_serves_is_tried_by_the_host_whatever_its_mark),
        TEST(a_node_that_is_not_the_last_is_left_alone_until_it_is),
        TEST(a_mark_that_ends_sooner_than_the_host_would_try_just_ends),
        TEST(a_new_wish_replaces_the_waiting_one),
        TEST(repeated_marks_never_put_a_probe_off),
        TEST(a_node_is_not_probed_more_often_than_the_limit),
        TEST(all_nodes_share_one_limit),
        TEST(two_processes_make_one_series_and_one_takes_over),
        TEST(a_holder_that_died_is_not_waited_for_long),
        TEST(a_forgotten_node_is_left_alone),
        cmocka_unit_test(replication_is_read_out_of_info),
        TEST(how_far_a_replica_is_behind_its_master_is_kept),
    };
    struct way_err err;
    if (way_resolver_library_init(&err) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
