/* dispatch: a command that was submitted is answered exactly once, in its client's order per
 * slot, whatever nodes, the map and the policy do; and what waits, waits within bounds. */
#include "dispatch_kit.h"

/* All that came, in order; each reply as it was. */
static void expect(struct bed *b, const char *expected)
{
    AWAIT(&b->loop, 5, b->p.pending == 0);
    size_t n = way_buf_held(&b->p.out);
    char *got = way_strndup(n ? b->p.out.p + b->p.out.off : "", n);
    if (strcmp(got, expected) != 0)
        fail_msg("the client got '%s', expected '%s'", got, expected);
    way_free(got);
    way_buf_reset(&b->p.out);
    assert_true(b->grew > 0);
}

/* One error, and it contains each of these words. */
static void expect_error(struct bed *b, const char *const *words)
{
    AWAIT(&b->loop, 5, b->p.pending == 0);
    char *got = way_strndup(b->p.out.p + b->p.out.off, way_buf_held(&b->p.out));
    for (; *words; words++)
        if (!strstr(got, *words))
            fail_msg("the client got '%s', expected '%s' in it", got, *words);
    way_free(got);
    way_buf_reset(&b->p.out);
}
#define EXPECT_ERROR(b, ...) expect_error((b), (const char *const[]){ __VA_ARGS__, NULL })

/* ---- policies of the tests ---- */

/* Reads go elsewhere, old answers welcome; what else failed goes to the client. */
static const char elsewhere[] = POLICY(
    "mark = function(_, _, e) if e.error then return { state = 'failing', reason = "
    "e.error } end end, backoff = function(_, _, e) if e.commands == 'reads' then "
    "return { retry = 'other', stale_reads = true } end end");
/* Nobody is marked; everything waits for a change. */
static const char holds[] =
    POLICY("mark = function() end, backoff = function() return { retry = 'hold', "
           "within = 4 } end");
/* Nobody is marked; everything goes to the same node again. */
static const char again[] =
    POLICY("mark = function() end, backoff = function() return { retry = 'same' } end");
static const char nothing[] = POLICY("mark = function() end, backoff = function() end");

/* ---- the straight way ---- */

static void replies_come_back_in_the_clients_order(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, NULL);
    for (unsigned i = 0; i < 4; i++) {
        get(&b, SLOT_A + i);
        get(&b, SLOT_B + i);
    }
    expect(&b, "$1\r\na\r\n$1\r\nb\r\n$1\r\na\r\n$1\r\nb\r\n"
               "$1\r\na\r\n$1\r\nb\r\n$1\r\na\r\n$1\r\nb\r\n");
    assert_int_equal(stat_of(&b, WAY_STAT_DIALS), 2);
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 0);
    end(&b);
}

static void an_error_that_is_an_answer_is_passed_on(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, NULL);
    rule(&b, A, "GET", "-WRONGTYPE Operation against a key\r\n", 1);
    get(&b, SLOT_A);
    get(&b, SLOT_A);
    expect(&b, "-WRONGTYPE Operation against a key\r\n$1\r\na\r\n");
    assert_int_equal(stat_of(&b, WAY_STAT_POLICY_CALLS), 0);
    end(&b);
}

static void each_resp_version_has_a_connection_of_its_own(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, NULL);
    rule(&b, A, "HELLO 3", "%1\r\n+proto\r\n:3\r\n", 1);
    set(&b, SLOT_A, "1");
    way_pipeline_speak(&b.p, 3);
    get(&b, SLOT_A); /* goes after it, though by another connection */
    expect(&b, "+OK\r\n$1\r\na\r\n");
    assert_int_equal(b.node[A].accepted, 2);
    assert_true(strstr(b.node[A].asked, "SET") < strstr(b.node[A].asked, "HELLO"));
    end(&b);
}

/* ---- failures, retried or told ---- */

static void a_read_that_was_refused_is_retried_unseen(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, elsewhere);
    kit_node_down(&b.node[A]);
    get(&b, SLOT_A);
    expect(&b, "$1\r\nc\r\n");
    assert_int_equal(kit_state(b.health, b.index[A]), WAY_STATE_FAILING);
    get(&b, SLOT_A); /* the mark is known before the next command is routed */
    expect(&b, "$1\r\nc\r\n");
    assert_int_equal(stat_of(&b, WAY_STAT_RETRY_UNSENT),
                     1 + 1); /* no_node is a retry too */
    end(&b);
}

static void a_write_that_was_refused_is_told_as_unsent(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, elsewhere);
    kit_node_down(&b.node[A]);
    set(&b, SLOT_A, "1");
    EXPECT_ERROR(&b,
                 "-WAYSIDE refused phase=connect step=dial certainty=unsent class=down",
                 b.node[A].address, "was not sent");
    end(&b);
}

static void an_unknown_write_is_never_sent_again_unasked(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, again);
    rule(&b, A, "SET", "", 1);
    set(&b, SLOT_A, "1");
    EXPECT_ERROR(&b, "-WAYSIDE eof phase=read step=wait certainty=unknown",
                 b.node[A].address, "may or may not have been executed");
    assert_int_equal(kit_asked(&b.node[A], "SET"), 1);
    rule(&b, A, "GET", "", 1);
    get(&b, SLOT_A); /* a read is */
    expect(&b, "$1\r\na\r\n");
    end(&b);
}

static void an_unknown_write_is_sent_again_where_the_policy_says_so(void **state)
{
    (void)state;
    struct bed b;
    begin(&b,
          POLICY("mark = function() end, backoff = function() return { retry = 'same', "
                 "unknown_writes = true } end"));
    rule(&b, A, "SET", "", 1);
    set(&b, SLOT_A, "1");
    expect(&b, "+OK\r\n");
    assert_int_equal(kit_asked(&b.node[A], "SET"), 2);
    end(&b);
}

/* Once in doubt, always: a later attempt that was surely not sent changes nothing. */
static void doubt_about_a_write_stays(void **state)
{
    (void)state;
    struct bed b;
    begin(&b,
          POLICY("mark = function() end, backoff = function(_, _, e) if e.attempt < 2 "
                 "then return { retry = 'same', unknown_writes = true } end end"));
    rule(&b, A, "SET", "", 1);
    rule(&b, A, "SET", "-LOADING x\r\n", 9);
    set(&b, SLOT_A, "1");
    EXPECT_ERROR(&b, "-WAYSIDE reply", "certainty=unknown", "may or may not");
    end(&b);
}

static void a_loading_node_is_told_and_another_asked(void **state)
{
    (void)state;
    struct bed b;
    begin(&b,
          POLICY("mark = function(_, _, e) if e.error then return { state = 'failing', "
                 "reason = e.reply } end end, backoff = function() return { retry = "
                 "'other', stale_reads = true } end"));
    rule(&b, A, "GET", "-LOADING Redis is loading the dataset in memory\r\n", 9);
    get(&b, SLOT_A);
    get(&b, SLOT_A + 1);
    get(&b, SLOT_A + 2);
    expect(&b, "$1\r\nc\r\n$1\r\nc\r\n$1\r\nc\r\n");
    assert_int_equal(asked_of(&b, WAY_FN_MARK), 1); /* one pass, one class: one event */
    assert_int_equal(asked_of(&b, WAY_FN_BACKOFF), 1);
    end(&b);
}

static void a_connection_with_many_commands_dies_as_one_event(void **state)
{
    (void)state;
    enum { MANY = 300 };
    struct bed b;
    begin(&b, elsewhere);
    rule(&b, A, "PING last", "", 1);
    rule(&b, A, "GET", NULL, MANY);
    rule(&b, A, "SET", NULL, MANY);
    for (unsigned i = 0; i < MANY; i++)
        i % 2 ? get(&b, SLOT_A) : set(&b, SLOT_A, "1");
    AWAIT(&b.loop, 5, b.node[A].requests == MANY);
    close_clients(&b.node[A]);
    AWAIT(&b.loop, 5, b.p.pending == 0);
    assert_int_equal(asked_of(&b, WAY_FN_MARK), 1);
    assert_int_equal(asked_of(&b, WAY_FN_BACKOFF), 2);
    assert_int_equal(stat_of(&b, WAY_STAT_ERR_UNKNOWN), MANY / 2);
    assert_int_equal(stat_of(&b, WAY_STAT_RETRY_UNKNOWN), MANY / 2);
    assert_int_equal(kit_asked(&b.node[A0], "GET"), MANY / 2);
    way_buf_reset(&b.p.out);
    end(&b);
}

/* More attempts differ than the policy is asked about: none is forgotten for that. */
static void commands_of_many_attempts_die_together(void **state)
{
    (void)state;
    enum { MANY = 40 };
    struct bed b;
    init(&b, again);
    b.config.limits.attempts = 100;
    start(&b);
    rule(&b, A, "GET", NULL, MANY);
    for (unsigned i = 0; i < MANY; i++)
        get(&b, SLOT_A + i)->attempt = (uint16_t)(i + 1);
    AWAIT(&b.loop, 5, b.node[A].requests == MANY);
    close_clients(&b.node[A]);
    AWAIT(&b.loop, 5, b.p.pending == 0);
    assert_int_equal(way_buf_held(&b.p.out), MANY * strlen("$1\r\na\r\n"));
    assert_int_equal(stat_of(&b, WAY_STAT_ERR_UNKNOWN), 0);
    way_buf_reset(&b.p.out);
    end(&b);
}

static void an_idle_connection_that_was_closed_is_made_anew(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, NULL);
    get(&b, SLOT_A);
    expect(&b, "$1\r\na\r\n");
    close_clients(&b.node[A]);
    AWAIT(&b.loop, 5, b.node[A].accepted == 2);
    assert_int_equal(kit_state(b.health, b.index[A]), WAY_STATE_HEALTHY);
    assert_int_equal(asked_of(&b, WAY_FN_MARK), 0);
    get(&b, SLOT_A);
    expect(&b, "$1\r\na\r\n");
    assert_int_equal(b.node[A].accepted, 2);
    end(&b);
}

/* ---- limits ---- */

static void attempts_end(void **state)
{
    (void)state;
    struct bed b;
    init(&b, again);
    b.config.limits.attempts = 3;
    start(&b);
    rule(&b, A, "GET", "-LOADING x\r\n", 99);
    get(&b, SLOT_A);
    expect(&b, "-LOADING x\r\n");
    assert_int_equal(kit_asked(&b.node[A], "GET"), 3);
    assert_int_equal(stat_of(&b, WAY_STAT_RETRY_ATTEMPTS), 1);
    end(&b);
}

/* Without a socket nothing slows an answer that goes in circles down: it must end. */
static void attempts_end_where_no_socket_is_tried(void **state)
{
    (void)state;
    struct bed b;
    init(&b, again);
    b.config.limits.attempts = 1000;
    start(&b);
    kit_node_down(&b.node[A]);
    way_health_dial_after(b.health, b.index[A], way_clock() + 60);
    get(&b, SLOT_A);
    EXPECT_ERROR(&b, "phase=connect step=queue certainty=unsent");
    assert_int_equal(stat_of(&b, WAY_STAT_RETRY_ATTEMPTS), 1);
    end(&b);
}

static void retries_of_what_was_sent_have_a_budget(void **state)
{
    (void)state;
    struct bed b;
    init(&b, again);
    b.config.limits.retry_burst = 2;
    b.config.limits.retry_share = 0;
    start(&b);
    rule(&b, A, "GET", "-LOADING x\r\n", 5);
    for (unsigned i = 0; i < 5; i++)
        get(&b, SLOT_A);
    expect(&b, "$1\r\na\r\n$1\r\na\r\n-LOADING x\r\n-LOADING x\r\n-LOADING x\r\n");
    assert_int_equal(stat_of(&b, WAY_STAT_RETRY_BUDGET), 3);
    end(&b);
}

static void a_node_has_a_bound_of_commands(void **state)
{
    (void)state;
    struct bed b;
    init(&b, nothing);
    b.config.limits.node_inflight = 2;
    start(&b);
    get(&b, SLOT_A);
    get(&b, SLOT_A);
    get(&b, SLOT_A);
    get(&b, SLOT_B);
    AWAIT(&b.loop, 5, b.p.pending == 0);
    assert_int_equal(stat_of(&b, WAY_STAT_OVERFLOW), 1);
    EXPECT_ERROR(&b,
                 "$1\r\na\r\n$1\r\na\r\n-WAYSIDE overflow phase=connect step=queue "
                 "certainty=unsent class=local",
                 "\r\n$1\r\nb\r\n");
    end(&b);
}

static void what_a_node_has_in_hand_is_counted_before_it_answers(void **state)
{
    (void)state;
    struct bed b;
    struct way_snapshot s;
    init(&b, nothing);
    start(&b);
    get(&b, SLOT_A);
    AWAIT(&b.loop, 5, b.p.pending == 0);
    for (unsigned i = 1; i <= 3; i++) { /* the quick way, on an open connection */
        get(&b, SLOT_A);
        way_health_snapshot(b.health, b.index[A], b.loop.now, &s);
        assert_int_equal(s.view.inflight, i);
    }
    AWAIT(&b.loop, 5, b.p.pending == 0);
    way_health_snapshot(b.health, b.index[A], b.loop.now, &s);
    assert_int_equal(s.view.inflight, 0);
    end(&b);
}

static void what_is_held_has_a_bound(void **state)
{
    (void)state;
    struct bed b;
    size_t bytes;
    init(&b, holds);
    b.config.limits.held_bytes = 64;
    start(&b);
    kit_hard(b.health, b.index[B], b.loop.now, WAY_STATE_FAILING, 0);
    get(&b, SLOT_B); /* some 30 bytes each */
    get(&b, SLOT_B + 1);
    get(&b, SLOT_B + 2);
    AWAIT(&b.loop, 5, stat_of(&b, WAY_STAT_RETRY_HELD) == 1);
    assert_int_equal(way_dispatch_waiting(b.dispatch, &bytes), 2);
    assert_true(bytes > 0 && bytes <= 64);
    kit_hard(b.health, b.index[B], b.loop.now, WAY_STATE_HEALTHY, 0);
    EXPECT_ERROR(&b, "$1\r\nb\r\n$1\r\nb\r\n-WAYSIDE no_node");
    end(&b);
}

/* ---- held ---- */

static void what_is_held_goes_when_the_table_changes(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, holds);
    kit_hard(b.health, b.index[B], b.loop.now, WAY_STATE_FAILING, 0);
    for (unsigned i = 0; i < 63; i++)
        set(&b, SLOT_B + i, "1");
    AWAIT(&b.loop, 5, way_dispatch_waiting(b.dispatch, NULL) == 63);
    assert_int_equal(asked_of(&b, WAY_FN_BACKOFF), 1);
    set(&b, SLOT_B + 63, "1"); /* the answer stands until the table changes */
    AWAIT(&b.loop, 5, way_dispatch_waiting(b.dispatch, NULL) == 64);
    for (unsigned i = 0; i < 37; i++)
        set(&b, SLOT_B + i, "2"); /* behind the first */
    kit_pass_time(&b.loop, 0.03);
    assert_int_equal(asked_of(&b, WAY_FN_BACKOFF), 1);
    assert_int_equal(b.node[B].requests, 0);
    kit_hard(b.health, b.index[B], b.loop.now, WAY_STATE_HEALTHY, 0);
    AWAIT(&b.loop, 5, b.p.pending == 0);
    assert_int_equal(b.node[B].requests, 101);
    assert_int_equal(stat_of(&b, WAY_STAT_HELD), 64);
    assert_int_equal(stat_of(&b, WAY_STAT_ERR_UNSENT), 0);
    way_buf_reset(&b.p.out);
    end(&b);
}

static void a_hold_ends_within_its_time(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("backoff = function() return { retry = 'hold', within = 0.1 } end"));
    kit_hard(b.health, b.index[B], b.loop.now, WAY_STATE_FAILING, 0);
    double before = way_clock();
    set(&b, SLOT_B, "1");
    EXPECT_ERROR(&b, "-WAYSIDE no_node phase=connect step=route certainty=unsent",
                 b.node[B].address);
    assert_true(way_clock() - before >= 0.09);
    assert_true(way_clock() - before < 2);
    end(&b);
}

static void no_hold_outlasts_the_commands_own_time(void **state)
{
    (void)state;
    struct bed b;
    init(&b, holds);
    b.config.timeouts.total = 0.15;
    start(&b);
    kit_hard(b.health, b.index[B], b.loop.now, WAY_STATE_FAILING, 0);
    double before = way_clock();
    set(&b, SLOT_B, "1");
    EXPECT_ERROR(&b, "-WAYSIDE no_node", "certainty=unsent");
    assert_true(way_clock() - before < 2);
    assert_int_equal(stat_of(&b, WAY_STAT_HELD_TOTAL), 1);
    end(&b);
}

static void tryagain_is_tried_again_while_it_is_held(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, holds);
    rule(&b, A, "GET", "-TRYAGAIN Multiple keys request during rehashing\r\n", 3);
    get(&b, SLOT_A);
    expect(&b, "$1\r\na\r\n");
    assert_int_equal(kit_asked(&b.node[A], "GET"), 4);
    end(&b);
}

static void a_hold_for_a_node_that_is_back_already_is_short(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, holds);
    get(&b, SLOT_A);
    expect(&b, "$1\r\na\r\n");
    rule(&b, A, "GET", "-LOADING Redis is loading the dataset in memory\r\n", 1);
    get(&b, SLOT_A);
    /* It was out and came back while the answer was on its way: nothing more will change. */
    kit_hard(b.health, b.index[A], b.loop.now + 1e-6, WAY_STATE_FAILING, 0);
    kit_hard(b.health, b.index[A], b.loop.now + 2e-6, WAY_STATE_HEALTHY, 0);
    double before = way_clock();
    expect(&b, "$1\r\na\r\n");
    assert_true(way_clock() - before < 1); /* the hold has four seconds */
    assert_int_equal(kit_asked(&b.node[A], "GET"), 3);
    end(&b);
}

static void a_hold_for_a_node_that_may_not_be_dialed_yet_ends_with_that(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, holds);
    /* It answers again, but its last dial failed a moment ago: the table has no news of that. */
    way_health_dial_after(b.health, b.index[B], b.loop.now + 0.2);
    double before = way_clock();
    set(&b, SLOT_B, "1");
    expect(&b, "+OK\r\n");
    assert_true(way_clock() - before >= 0.15);
    assert_true(way_clock() - before < 1); /* the hold has four seconds */
    assert_int_equal(b.node[B].requests, 1);
    end(&b);
}

/* Some twelve failures, each of which the table's next change would try again at once. */
static void a_table_that_changes_all_the_time_makes_no_storm(void **state)
{
    (void)state;
    enum { FAILURES = 12 };
    struct bed b;
    begin(&b, holds);
    rule(&b, A, "GET", "-LOADING Redis is loading the dataset in memory\r\n", FAILURES);
    get(&b, SLOT_A);
    double before = way_clock();
    for (unsigned i = 0; b.p.pending; i++) {
        kit_hard(b.health, b.index[B], b.loop.now + i * 1e-6,
                 i % 2 ? WAY_STATE_HEALTHY : WAY_STATE_FAILING, 0);
        kit_pass_time(&b.loop, 0.002);
    }
    assert_true(way_clock() - before > (FAILURES - 4) * 0.02);
    expect(&b, "$1\r\na\r\n"); /* and it is not forgotten */
    assert_int_equal(kit_asked(&b.node[A], "GET"), FAILURES + 1);
    end(&b);
}

/* ---- redirects ---- */

static void moved_is_followed_and_believed(void **state)
{
    (void)state;
    struct bed b;
    char reply[64];
    begin(&b, nothing);
    moved(reply, sizeof reply, "MOVED", SLOT_A, &b.node[B]);
    rule(&b, A, "GET", reply, 1);
    get(&b, SLOT_A);
    get(&b, SLOT_A + 1);
    expect(&b, "$1\r\nb\r\n$1\r\na\r\n");
    get(&b, SLOT_A);
    expect(&b, "$1\r\nb\r\n");
    assert_int_equal(kit_asked(&b.node[A], "GET"), 2);
    assert_int_equal(stat_of(&b, WAY_STAT_MOVED), 1);
    assert_true(b.refreshes >= 1);
    assert_int_equal(asked_of(&b, WAY_FN_BACKOFF), 0);
    end(&b);
}

static void moved_to_a_stranger_waits_for_the_topology(void **state)
{
    (void)state;
    struct bed b;
    char reply[64];
    begin(&b, nothing);
    moved(reply, sizeof reply, "MOVED", SLOT_B, &b.node[SPARE]);
    rule(&b, B, "SET", reply, 1);
    set(&b, SLOT_B, "1");
    AWAIT(&b.loop, 5, way_dispatch_waiting(b.dispatch, NULL) == 1);
    assert_true(b.refreshes >= 1);
    publish(&b, true, way_clock());
    expect(&b, "+OK\r\n");
    end(&b);
}

static void ask_is_followed_once_and_not_believed(void **state)
{
    (void)state;
    struct bed b;
    char reply[64];
    begin(&b, nothing);
    moved(reply, sizeof reply, "ASK", SLOT_A, &b.node[B]);
    rule(&b, A, "GET", reply, 1);
    get(&b, SLOT_A);
    expect(&b, "$1\r\nb\r\n");
    get(&b, SLOT_A);
    expect(&b, "$1\r\na\r\n");
    assert_true(strstr(b.node[B].asked, "ASKING\nGET") != NULL);
    assert_int_equal(kit_asked(&b.node[B], "ASKING"), 1);
    end(&b);
}

static void asking_goes_with_its_command_when_the_target_dies(void **state)
{
    (void)state;
    struct bed b;
    char reply[64];
    begin(&b, again);
    moved(reply, sizeof reply, "ASK", SLOT_A, &b.node[B]);
    rule(&b, A, "GET", reply, 1);
    rule(&b, B, "GET", "", 1);
    get(&b, SLOT_A);
    expect(&b, "$1\r\nb\r\n");
    char key[16], order[128];
    way_slot_key(SLOT_A, key);
    snprintf(order, sizeof order, "ASKING\nGET %s\nASKING\nGET %s\n", key, key);
    assert_string_equal(b.node[B].asked, order);
    end(&b);
}

static void a_command_whose_asking_target_went_is_routed_afresh(void **state)
{
    (void)state;
    struct bed b;
    char reply[64];
    begin(&b, holds);
    moved(reply, sizeof reply, "ASK", SLOT_A, &b.node[B]);
    kit_hard(b.health, b.index[B], b.loop.now, WAY_STATE_FAILING, 0);
    rule(&b, A, "GET", reply, 1);
    get(&b, SLOT_A);
    AWAIT(&b.loop, 5, way_dispatch_waiting(b.dispatch, NULL) == 1);
    kit_soft(b.health, b.index[A0], b.loop.now, WAY_STATE_SUSPECT, 0); /* any change */
    expect(&b, "$1\r\na\r\n");
    end(&b);
}

static void redirects_end_with_the_redirect_itself(void **state)
{
    (void)state;
    struct bed b;
    char to_a[64], to_b[64];
    init(&b, nothing);
    b.config.limits.redirects = 4;
    start(&b);
    moved(to_a, sizeof to_a, "MOVED", SLOT_A, &b.node[A]);
    moved(to_b, sizeof to_b, "MOVED", SLOT_A, &b.node[B]);
    rule(&b, A, "GET", to_b, 99);
    rule(&b, B, "GET", to_a, 99);
    get(&b, SLOT_A);
    expect(&b, to_b);
    assert_int_equal(stat_of(&b, WAY_STAT_MOVED), 4);
    end(&b);
}

static void moved_to_itself_dials_anew(void **state)
{
    (void)state;
    struct bed b;
    char reply[64];
    begin(&b, nothing);
    moved(reply, sizeof reply, "MOVED", SLOT_A, &b.node[A]);
    rule(&b, A, "GET", reply, 1);
    get(&b, SLOT_A);
    expect(&b, "$1\r\na\r\n");
    assert_int_equal(b.node[A].accepted, 2);
    AWAIT(&b.loop, 5, !b.node[A].client[0].node || !b.node[A].client[1].node);
    end(&b);
}

/* ---- order ---- */

static void later_commands_of_a_slot_wait_behind_a_detour(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, holds);
    rule(&b, A, "SET", "-TRYAGAIN x\r\n", 2);
    set(&b, SLOT_A, "1");
    AWAIT(&b.loop, 5, b.node[A].requests == 1);
    AWAIT(&b.loop, 5, b.p.detours == 1);
    get(&b, SLOT_A);     /* waits behind it */
    get(&b, SLOT_A + 1); /* another bucket: does not */
    assert_true(b.p.behind_bytes > 0);
    AWAIT(&b.loop, 5, b.node[A].requests == 2);
    assert_int_equal(kit_asked(&b.node[A], "GET"), 1);
    expect(&b, "+OK\r\n$1\r\na\r\n$1\r\na\r\n");
    assert_int_equal(kit_asked(&b.node[A], "SET"), 3);
    end(&b);
}

/* Both were in flight: the first is held, the second failed otherwise and may go at once. */
static void a_retry_does_not_overtake_an_earlier_command_that_waits(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, POLICY("mark = function() end, backoff = function(_, _, e) if e.reply == "
                     "'TRYAGAIN' then return { retry = 'hold' } end return { retry = "
                     "'same' } end"));
    rule(&b, A, "SET", "-TRYAGAIN x\r\n", 1);
    rule(&b, A, "GET", "-LOADING x\r\n", 1);
    set(&b, SLOT_A, "1");
    get(&b, SLOT_A);
    expect(&b, "+OK\r\n$1\r\na\r\n");
    char key[16], order[128];
    way_slot_key(SLOT_A, key);
    snprintf(order, sizeof order, "SET %s 1\nGET %s\nSET %s 1\nGET %s\n", key, key, key,
             key);
    assert_string_equal(b.node[A].asked, order);
    end(&b);
}

static void what_is_in_flight_when_its_slot_moves_is_waited_for(void **state)
{
    (void)state;
    for (unsigned split = 0; split < 2; split++) {
        struct bed b;
        begin(&b, nothing);
        rule(&b, A, "SET", NULL, 1);
        struct way_join *j = NULL;
        if (split) {
            struct way_buf bytes = { 0 };
            j = way_join_new(way_pipeline_push(&b.p, b.loop.now), WAY_JOIN_OK, 1, 0);
            struct way_request *part = way_join_part(j, 0);
            part->slot = SLOT_A;
            part->flags = WAY_FLAG_WRITE;
            put_command(&bytes, "SET", SLOT_A, "1");
            way_dispatch_submit(b.dispatch, part, bytes.p, bytes.len);
            way_buf_fini(&bytes);
        } else {
            set(&b, SLOT_A, "1");
        }
        AWAIT(&b.loop, 5, b.node[A].requests == 1);
        way_health_moved(b.health, SLOT_A, b.index[B], b.loop.now);
        get(&b, SLOT_A);
        get(&b, SLOT_B + 1);
        AWAIT(&b.loop, 5, b.node[B].requests == 1);
        kit_pass_time(&b.loop, 0.02);
        assert_int_equal(b.node[B].requests, 1); /* the other slot's alone */
        assert_int_equal(b.p.detours, 1);
        for (unsigned i = 0; i < KIT_CLIENTS; i++)
            if (b.node[A].client[i].node)
                assert_int_equal(send(b.node[A].client[i].fd, "+OK\r\n", 5, 0), 5);
        expect(&b, "+OK\r\n$1\r\nb\r\n$1\r\nb\r\n");
        end(&b);
    }
}

/* ---- the client's own time, and clients that leave ---- */

static void a_late_reply_is_dropped_and_taken_for_no_other(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, nothing);
    rule(&b, A, "SET", NULL, 1);
    struct way_request *r = set(&b, SLOT_A, "1");
    AWAIT(&b.loop, 5, b.node[A].requests == 1);
    way_dispatch_expire(b.dispatch, r);
    EXPECT_ERROR(&b,
                 "-WAYSIDE deadline phase=read step=wait certainty=unknown class=caller",
                 b.node[A].address);
    get(&b, SLOT_A);
    AWAIT(&b.loop, 5, b.node[A].requests == 2);
    assert_int_equal(b.p.pending, 1); /* its reply stands behind the one that is late */
    close_clients(&b.node[A]);
    AWAIT(&b.loop, 5, b.p.pending == 0);
    way_buf_reset(&b.p.out);
    end(&b);
}

/* What a connection has still queued will be written though nobody waits. */
static void what_may_still_be_sent_is_not_told_as_unsent(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, nothing);
    way_dispatch_expire(b.dispatch, set(&b, SLOT_A, "1"));
    EXPECT_ERROR(&b, "-WAYSIDE deadline phase=connect", "certainty=unknown",
                 "may or may not have been executed");
    AWAIT(&b.loop, 5, b.node[A].requests == 1);
    end(&b);
}

static void what_only_waited_is_told_as_unsent_and_never_sent(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, holds);
    rule(&b, A, "SET", NULL, 1);
    set(&b, SLOT_A, "1");
    AWAIT(&b.loop, 5, b.node[A].requests == 1);
    way_pipeline_detour(&b.p, b.p.head);
    struct way_request *behind = set(&b, SLOT_A, "2");
    way_dispatch_expire(b.dispatch, behind);
    assert_int_equal(stat_of(&b, WAY_STAT_ERR_UNSENT), 1);
    close_clients(&b.node[A]); /* the first is unknown, and a write: an error */
    AWAIT(&b.loop, 5, b.p.pending == 0);
    EXPECT_ERROR(&b, "certainty=unknown", "certainty=unsent class=caller node=none");
    kit_pass_time(&b.loop, 0.02);
    assert_int_equal(kit_asked(&b.node[A], "SET"), 1);
    end(&b);
}

static void a_split_command_of_which_a_part_was_answered_is_unknown(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, holds);
    kit_hard(b.health, b.index[B], b.loop.now, WAY_STATE_FAILING, 0);
    struct way_request *whole = way_pipeline_push(&b.p, b.loop.now);
    whole->flags = WAY_FLAG_WRITE;
    struct way_join *j = way_join_new(whole, WAY_JOIN_OK, 2, 0);
    for (unsigned i = 0; i < 2; i++) {
        struct way_buf bytes = { 0 };
        struct way_request *part = way_join_part(j, i);
        part->slot = i ? SLOT_B : SLOT_A;
        put_command(&bytes, "MSET", part->slot, "1");
        way_dispatch_submit(b.dispatch, part, bytes.p, bytes.len);
        way_buf_fini(&bytes);
    }
    AWAIT(&b.loop, 5, !way_join_pending(j, 0));
    AWAIT(&b.loop, 5, way_dispatch_waiting(b.dispatch, NULL) == 1);
    way_dispatch_expire(b.dispatch, whole);
    EXPECT_ERROR(&b, "-WAYSIDE deadline", "certainty=unknown", "may or may not");
    end(&b);
    assert_int_equal(b.node[B].requests, 0);
}

static void a_client_leaves_with_commands_everywhere(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, holds);
    rule(&b, A, "SET", "-TRYAGAIN x\r\n", 99);
    rule(&b, A, "GET", NULL, 1);
    kit_hard(b.health, b.index[B], b.loop.now, WAY_STATE_FAILING, 0);
    set(&b, SLOT_A, "held");
    get(&b, SLOT_A + 1); /* in flight */
    set(&b, SLOT_B, "held too");
    AWAIT(&b.loop, 5, way_dispatch_waiting(b.dispatch, NULL) == 2);
    set(&b, SLOT_A, "behind");
    set(&b, SLOT_B, "behind");
    assert_true(b.p.behind_bytes > 0);
    struct way_join *j = way_join_new(way_pipeline_push(&b.p, 1), WAY_JOIN_OK, 3, 0);
    static const uint16_t slots[] = { SLOT_A, SLOT_A + 2, SLOT_B + 2 };
    for (unsigned i = 0; i < 3; i++) {
        struct way_buf bytes = { 0 };
        struct way_request *part = way_join_part(j, i);
        part->slot = slots[i];
        put_command(&bytes, "SET", part->slot, "part");
        way_dispatch_submit(b.dispatch, part, bytes.p, bytes.len);
        way_buf_fini(&bytes);
    }
    get(&b, SLOT_A + 3); /* not yet written */
    drop_client(&b);
    unsigned before = kit_asked(&b.node[A], "SET");
    close_clients(&b.node[A]);
    AWAIT(&b.loop, 5, b.pool.live == 0);
    kit_pass_time(&b.loop, 0.08);
    assert_true(kit_asked(&b.node[A], "SET") <=
                before + 1); /* the part that was queued */
    memset(&b.p, 0, sizeof b.p);
    end(&b);
}

static void all_is_given_back_when_the_worker_ends(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, holds);
    rule(&b, A, "SET", "-TRYAGAIN x\r\n", 99);
    rule(&b, A, "GET", NULL, 1);
    set(&b, SLOT_A, "held");
    get(&b, SLOT_A + 1);
    AWAIT(&b.loop, 5, way_dispatch_waiting(b.dispatch, NULL) == 1);
    set(&b, SLOT_A, "behind");
    get(&b, SLOT_A + 1);
    finish(&b); /* asserts that no request is left */
}

/* ---- marks ---- */

static void dropped_connections_blame_nobody(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, again);
    rule(&b, A, "GET", NULL, 2);
    get(&b, SLOT_A);
    get(&b, SLOT_A);
    AWAIT(&b.loop, 5, b.node[A].requests == 2);
    struct way_proposal p = kit_mark(WAY_STATE_SUSPECT, 0);
    p.mark.has |= WAY_MARK_CONNECTIONS;
    p.mark.connections = WAY_CONNECTIONS_DROP;
    kit_commit(b.health, b.index[A], b.loop.now, p);
    expect(&b, "$1\r\na\r\n$1\r\na\r\n");
    assert_int_equal(b.node[A].accepted, 2);
    assert_int_equal(asked_of(&b, WAY_FN_MARK), 0);
    assert_int_equal(atomic_load(&way_health_node(b.health, b.index[A])->failures), 0);
    end(&b);
}

static void drained_connections_finish_what_they_have(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, again);
    rule(&b, A, "GET", NULL, 1);
    get(&b, SLOT_A);
    AWAIT(&b.loop, 5, b.node[A].requests == 1);
    struct way_proposal p = kit_mark(WAY_STATE_SUSPECT, 0);
    p.mark.has |= WAY_MARK_CONNECTIONS;
    p.mark.connections = WAY_CONNECTIONS_DRAIN;
    kit_commit(b.health, b.index[A], b.loop.now, p);
    kit_pass_time(&b.loop, 0.01);
    get(&b, SLOT_A + 1);
    AWAIT(&b.loop, 5, b.node[A].requests == 2);
    assert_int_equal(b.node[A].accepted, 2);
    assert_int_equal(b.p.pending, 2);
    assert_int_equal(send(b.node[A].client[0].fd, "+late\r\n", 7, 0), 7);
    expect(&b, "+late\r\n$1\r\na\r\n");
    assert_int_equal(stat_of(&b, WAY_STAT_BREAKS), 0);
    end(&b);
}

/* One trial at a time: its end, whatever it is, lets the next one go. */
static void trials_give_their_places_back(void **state)
{
    (void)state;
    static const char *const replies[] = { "-TRYAGAIN x\r\n", "-WRONGTYPE x\r\n", "",
                                           "-LOADING x\r\n" };
    for (unsigned i = 0; i < way_count(replies); i++) {
        struct bed b;
        begin(&b, nothing);
        struct way_proposal p = kit_mark(WAY_STATE_PROBING, 0);
        p.mark.has |= WAY_MARK_TRIALS;
        p.mark.trials = 1;
        kit_commit(b.health, b.index[A], b.loop.now, p);
        rule(&b, A, "GET", replies[i], 1);
        get(&b, SLOT_A);
        get(&b, SLOT_A + 1); /* finds no node */
        AWAIT(&b.loop, 5, b.p.pending == 0);
        assert_int_equal(b.node[A].requests, 1);
        way_buf_reset(&b.p.out);
        bool again_free = way_health_trial_take(b.health, b.index[A], b.row, way_clock());
        bool neither = i == 0; /* neither success nor blame */
        assert_int_equal(again_free, neither);
        if (again_free)
            way_health_trial_end(b.health, b.index[A], b.row, true);
        end(&b);
    }
}

static void a_trial_that_is_redirected_is_over(void **state)
{
    (void)state;
    for (unsigned known = 0; known < 2; known++) {
        struct bed b;
        char reply[64];
        begin(&b, nothing);
        for (unsigned i = 0; i < 2; i++) {
            struct way_proposal p = kit_mark(WAY_STATE_PROBING, 0);
            p.mark.has |= WAY_MARK_TRIALS;
            p.mark.trials = 1;
            kit_commit(b.health, b.index[i], b.loop.now, p);
        }
        moved(reply, sizeof reply, known ? "ASK" : "MOVED", SLOT_A,
              &b.node[known ? B : SPARE]);
        rule(&b, A, "GET", reply, 1);
        get(&b, SLOT_A);
        if (known) { /* the other node's trial is another, and ends with its success */
            expect(&b, "$1\r\nb\r\n");
            assert_false(way_health_trial_take(b.health, b.index[B], b.row, way_clock()));
        } else {
            AWAIT(&b.loop, 5, way_dispatch_waiting(b.dispatch, NULL) == 1);
        }
        assert_true(way_health_trial_take(b.health, b.index[A], b.row, way_clock()));
        way_health_trial_end(b.health, b.index[A], b.row, true);
        if (!known) {
            close_clients(&b.node[A]);
            way_dispatch_expire(b.dispatch, b.p.head);
        }
        way_buf_reset(&b.p.out);
        end(&b);
    }
}

static void an_error_that_nobody_waits_for_is_no_success(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, nothing);
    way_health_failure(b.health, b.index[A]);
    rule(&b, A, "GET", "-LOADING x\r\n", 1);
    way_dispatch_expire(b.dispatch, get(&b, SLOT_A));
    AWAIT(&b.loop, 5, b.node[A].requests == 1 && b.pool.live == 0);
    assert_int_equal(atomic_load(&way_health_node(b.health, b.index[A])->failures), 1);
    way_buf_reset(&b.p.out);
    end(&b);
}

static void a_role_that_changed_retires_the_connection(void **state)
{
    (void)state;
    struct bed b;
    begin(&b, nothing);
    get(&b, SLOT_B);
    expect(&b, "$1\r\nb\r\n");
    struct way_topology *t = kit_topology(3);
    kit_node(t, "a", b.node[A].port, NULL, 1);
    kit_node(t, "a0", b.node[A0].port, "a", 1);
    kit_slots(t, 0, 0, WAY_SLOTS - 1);
    t->node[0].config_epoch = 9;
    kit_publish(b.health, t, way_clock()); /* b has left */
    kit_topology_free(t);
    AWAIT(&b.loop, 5, !b.node[B].client[0].node);
    get(&b, SLOT_B);
    expect(&b, "$1\r\na\r\n");
    end(&b);
}

/* ---- everything at once ---- */

enum { CLIENTS = 3, UNDER_WAY = 4096 };

struct caller {
    struct way_pipeline p;
    bool here;
    unsigned number[UNDER_WAY]; /* of the commands that are not answered, oldest first */
    unsigned from, to, asked, answered;
};

static struct {
    struct way_random random;
    bool calm;
} chaos;

static unsigned one_of(unsigned n)
{
    return (unsigned)(way_random_next(&chaos.random) % n);
}

/* Says the command's number, when it says anything to the purpose. */
static void answer_somehow(struct kit_node *n, const char *request, struct way_buf *out)
{
    unsigned what = chaos.calm ? 99 : one_of(100);
    const char *number = strrchr(request, ' ');
    if (!number || strncmp(request, "S", 1) != 0) {
        way_buf_puts(out, "+OK\r\n"); /* to READONLY, ASKING */
        return;
    }
    const struct kit_node *other = &the_bed->node[one_of(NODES)];
    char redirect[64];
    if (what < 3)
        close_clients(n);
    else if (what < 4)
        way_buf_puts(out, "nonsense\r\n");
    else if (what < 8)
        way_buf_puts(out, "-LOADING x\r\n");
    else if (what < 12)
        way_buf_puts(out, "-TRYAGAIN x\r\n");
    else if (what < 20) {
        moved(redirect, sizeof redirect, what % 2 ? "MOVED" : "ASK", SLOT_A + one_of(40),
              other);
        way_buf_puts(out, redirect);
    } else {
        way_buf_printf(out, "+%s\r\n", number + 1);
    }
}

static void ask_something(struct bed *b, struct caller *c)
{
    char number[16];
    struct way_buf bytes = { 0 };
    bool write = one_of(2);
    unsigned slot = (one_of(2) ? SLOT_A : SLOT_B) + one_of(40);
    if (c->to - c->from == UNDER_WAY)
        return;
    snprintf(number, sizeof number, "%u", c->asked);
    put_command(&bytes, write ? "SET" : "SGET", slot, number);
    way_stat_add(&b->stats, WAY_STAT_REQUESTS, 1);
    c->number[c->to++ % UNDER_WAY] = c->asked++;
    struct way_request *r = way_pipeline_push(&c->p, b->loop.now);
    r->slot = (uint16_t)slot;
    r->flags = write ? WAY_FLAG_WRITE : 0;
    if (one_of(8)) {
        way_dispatch_submit(b->dispatch, r, bytes.p, bytes.len);
    } else { /* the same as a split command of one part */
        struct way_request *part = way_join_part(way_join_new(r, WAY_JOIN_OK, 1, 0), 0);
        part->slot = r->slot;
        way_dispatch_submit(b->dispatch, part, bytes.p, bytes.len);
    }
    way_buf_fini(&bytes);
}

/* Each reply is an error or its command's own number: none is lost, doubled or mixed up. */
static void check_replies(struct caller *c)
{
    struct way_buf *out = &c->p.out;
    while (way_buf_held(out)) {
        const char *p = out->p + out->off, *lf = memchr(p, '\n', way_buf_held(out));
        assert_non_null(lf);
        assert_true(c->from < c->to);
        unsigned expected = c->number[c->from++ % UNDER_WAY], got;
        bool ok = p[0] == '-' || !strncmp(p, "+OK\r", 4) ||
                  (sscanf(p, "+%u\r", &got) == 1 && got == expected);
        if (!ok)
            fail_msg("command %u was answered by '%.*s'", expected, (int)(lf - p), p);
        c->answered += p[0] == '+';
        out->off += (size_t)(lf + 1 - p);
    }
    way_buf_reset(out);
}

static void leave(struct bed *b, struct caller *c)
{
    check_replies(c);
    way_dispatch_detach(b->dispatch, &c->p);
    c->here = false;
}

static void come(struct bed *b, struct caller *c)
{
    way_pipeline_init(&c->p, &b->pool, b);
    way_dispatch_attach(b->dispatch, &c->p);
    c->from = c->to;
    c->here = true;
}

static void mark_somebody(struct bed *b)
{
    static const enum way_state states[] = { WAY_STATE_HEALTHY, WAY_STATE_SUSPECT,
                                             WAY_STATE_FAILING, WAY_STATE_PROBING };
    struct way_proposal p = kit_mark(states[one_of(4)], 0);
    p.hard = true;
    p.mark.has |= WAY_MARK_TRIALS | (one_of(3) ? 0 : WAY_MARK_CONNECTIONS);
    p.mark.trials = 1 + one_of(3);
    p.mark.connections = one_of(2) ? WAY_CONNECTIONS_DROP : WAY_CONNECTIONS_DRAIN;
    kit_commit(b->health, b->index[one_of(3)], b->loop.now, p);
}

static void make_trouble(struct bed *b, struct caller *c)
{
    struct kit_node *n = &b->node[one_of(3)];
    switch (one_of(40)) {
    case 0: mark_somebody(b); break;
    case 1: n->fd < 0 ? kit_node_up(n) : kit_node_down(n); break;
    case 2: leave(b, c); break;
    case 3:
        if (c->p.head)
            way_dispatch_expire(b->dispatch, c->p.head);
        break;
    case 4: way_pipeline_speak(&c->p, c->p.resp == 2 ? 3 : 2); break;
    case 5: publish(b, one_of(2), way_clock()); break;
    default: break;
    }
}

static void calm_down(struct bed *b)
{
    chaos.calm = true;
    for (unsigned i = 0; i < NODES; i++)
        if (b->node[i].fd < 0)
            kit_node_up(&b->node[i]);
    publish(b, false, way_clock());
    for (unsigned i = 0; i < 3; i++)
        kit_hard(b->health, b->index[i], b->loop.now, WAY_STATE_HEALTHY, 0);
}

static bool all_answered(struct bed *b, struct caller *c)
{
    unsigned left = 0;
    b->entries = 0;
    for (unsigned i = 0; i < CLIENTS; i++) {
        check_replies(&c[i]);
        while (c[i].p.head && c[i].p.head->arrived + 2 < b->loop.now)
            way_dispatch_expire(b->dispatch, c[i].p.head);
        left += c[i].p.pending;
    }
    return left == 0;
}

static void whatever_happens_each_command_is_answered_once_and_nothing_is_left(
    void **state)
{
    (void)state;
    const char *seed = getenv("SEED");
    struct bed b;
    struct caller *c = way_zalloc(CLIENTS * sizeof *c);
    chaos.calm = false;
    way_random_seed(&chaos.random, (seed ? strtoull(seed, NULL, 10) : 0) + 7);
    init(&b,
         POLICY("mark = function(_, _, e) if e.error and wayside.random() < 0.1 then "
                "return { state = 'failing', seconds = 0.05 } end end, backoff = "
                "function() local x = wayside.random() local how = x < 0.2 and 'other' "
                "or x < 0.4 and 'same' or x < 0.6 and 'hold' or x < 0.7 and 'master' or "
                "nil return how and { retry = how, after = x * 0.05, within = how == "
                "'hold' and x or nil, stale_reads = x < 0.5, unknown_writes = x < 0.3 "
                "} or nil end"));
    b.config.timeouts.read = 0.1;
    b.config.limits.dial_interval = 0.01;
    start(&b);
    drop_client(&b);
    for (unsigned i = 0; i < NODES; i++)
        b.node[i].answer = answer_somehow;
    for (unsigned step = 0; step < 3000; step++) {
        struct caller *one = &c[step % CLIENTS];
        if (!one->here)
            come(&b, one);
        for (unsigned i = one_of(6); i > 0; i--)
            ask_something(&b, one);
        make_trouble(&b, one);
        ev_run(b.loop.ev, EVRUN_NOWAIT);
        for (unsigned i = 0; i < CLIENTS; i++)
            if (c[i].here)
                check_replies(&c[i]);
        for (unsigned i = 0; i < NODES; i++)
            b.node[i].asked[0] = 0;
        b.entries = 0;
    }
    calm_down(&b);
    for (unsigned i = 0; i < CLIENTS; i++)
        if (!c[i].here)
            come(&b, &c[i]);
    AWAIT(&b.loop, 10, all_answered(&b, c));
    unsigned answered = 0;
    for (unsigned i = 0; i < CLIENTS; i++) {
        assert_int_equal(c[i].from, c[i].to);
        assert_int_equal(c[i].p.detours, 0);
        assert_int_equal(c[i].p.behind_bytes, 0);
        assert_int_equal(c[i].p.held_live + c[i].p.joining, 0);
        answered += c[i].answered;
        leave(&b, &c[i]);
    }
    assert_true(answered > 100);
    memset(&b.p, 0, sizeof b.p);
    end(&b);
    way_free(c);
}

int main(void)
{
    struct way_err err;
    if (way_resolver_library_init(&err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_come_back_in_the_clients_order),
        cmocka_unit_test(an_error_that_is_an_answer_is_passed_on),
        cmocka_unit_test(each_resp_version_has_a_connection_of_its_own),
        cmocka_unit_test(a_read_that_was_refused_is_retried_unseen),
        cmocka_unit_test(a_write_that_was_refused_is_told_as_unsent),
        cmocka_unit_test(an_unknown_write_is_never_sent_again_unasked),
        cmocka_unit_test(an_unknown_write_is_sent_again_where_the_policy_says_so),
        cmocka_unit_test(doubt_about_a_write_stays),
        cmocka_unit_test(a_loading_node_is_told_and_another_asked),
        cmocka_unit_test(a_connection_with_many_commands_dies_as_one_event),
        cmocka_unit_test(commands_of_many_attempts_die_together),
        cmocka_unit_test(an_idle_connection_that_was_closed_is_made_anew),
        cmocka_unit_test(attempts_end),
        cmocka_unit_test(attempts_end_where_no_socket_is_tried),
        cmocka_unit_test(retries_of_what_was_sent_have_a_budget),
        cmocka_unit_test(a_node_has_a_bound_of_commands),
        cmocka_unit_test(what_a_node_has_in_hand_is_counted_before_it_answers),
        cmocka_unit_test(what_is_held_has_a_bound),
        cmocka_unit_test(what_is_held_goes_when_the_table_changes),
        cmocka_unit_test(a_hold_ends_within_its_time),
        cmocka_unit_test(no_hold_outlasts_the_commands_own_time),
        cmocka_unit_test(tryagain_is_tried_again_while_it_is_held),
        cmocka_unit_test(a_hold_for_a_node_that_is_back_already_is_short),
        cmocka_unit_test(a_hold_for_a_node_that_may_not_be_dialed_yet_ends_with_that),
        cmocka_unit_test(a_table_that_changes_all_the_time_makes_no_storm),
        cmocka_unit_test(moved_is_followed_and_believed),
        cmocka_unit_test(moved_to_a_stranger_waits_for_the_topology),
        cmocka_unit_test(ask_is_followed_once_and_not_believed),
        cmocka_unit_test(asking_goes_with_its_command_when_the_target_dies),
        cmocka_unit_test(a_command_whose_asking_target_went_is_routed_afresh),
        cmocka_unit_test(redirects_end_with_the_redirect_itself),
        cmocka_unit_test(moved_to_itself_dials_anew),
        cmocka_unit_test(later_commands_of_a_slot_wait_behind_a_detour),
        cmocka_unit_test(a_retry_does_not_overtake_an_earlier_command_that_waits),
        cmocka_unit_test(what_is_in_flight_when_its_slot_moves_is_waited_for),
        cmocka_unit_test(a_late_reply_is_dropped_and_taken_for_no_other),
        cmocka_unit_test(what_may_still_be_sent_is_not_told_as_unsent),
        cmocka_unit_test(what_only_waited_is_told_as_unsent_and_never_sent),
        cmocka_unit_test(a_split_command_of_which_a_part_was_answered_is_unknown),
        cmocka_unit_test(a_client_leaves_with_commands_everywhere),
        cmocka_unit_test(all_is_given_back_when_the_worker_ends),
        cmocka_unit_test(dropped_connections_blame_nobody),
        cmocka_unit_test(drained_connections_finish_what_they_have),
        cmocka_unit_test(trials_give_their_places_back),
        cmocka_unit_test(a_trial_that_is_redirected_is_over),
        cmocka_unit_test(an_error_that_nobody_waits_for_is_no_success),
        cmocka_unit_test(a_role_that_changed_retires_the_connection),
        cmocka_unit_test(
            whatever_happens_each_command_is_answered_once_and_nothing_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
