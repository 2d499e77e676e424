/* What may be relied on: every value has a word of its own and every word its value; what
 * counts as hard evidence; and how errors are classified where no policy says otherwise. */
#include "event.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

struct list {
    const char *(*name)(unsigned);
    unsigned count;
};
static const struct list lists[] = {
    { way_phase_name, WAY_PHASE_COUNT },
    { way_step_name, WAY_STEP_COUNT },
    { way_error_name, WAY_ERROR_COUNT },
    { way_kind_name, WAY_KIND_COUNT },
    { way_blame_name, WAY_BLAME_COUNT },
    { way_class_name, WAY_CLASS_BUILTIN },
    { way_certainty_name, WAY_CERTAINTY_COUNT },
    { way_commands_name, WAY_COMMANDS_COUNT },
    { way_state_name, WAY_STATE_COUNT },
    { way_role_name, WAY_ROLE_COUNT },
    { way_change_name, WAY_CHANGE_COUNT },
    { way_retry_name, WAY_RETRY_COUNT },
    { way_connections_name, WAY_CONNECTIONS_COUNT },
};

static void every_value_has_a_word_of_its_own(void **state)
{
    (void)state;
    for (size_t i = 0; i < way_count(lists); i++) {
        for (unsigned v = 0; v < lists[i].count; v++) {
            const char *word = lists[i].name(v);
            assert_string_not_equal(word, "?");
            assert_int_equal(way_word(lists[i].name, lists[i].count, word), v);
        }
        assert_string_equal(lists[i].name(lists[i].count), "?");
        assert_string_equal(lists[i].name(UINT32_MAX), "?");
        assert_int_equal(way_word(lists[i].name, lists[i].count, "no such word"), -1);
        assert_int_equal(way_word(lists[i].name, lists[i].count, ""), -1);
    }
}

static void only_what_proves_a_node_dead_is_hard(void **state)
{
    (void)state;
    struct way_event e = { .kind = WAY_KIND_RESULT };
    assert_false(way_event_hard(&e));
    e = (struct way_event){ .kind = WAY_KIND_CONNECTION,
                            .phase = WAY_PHASE_CONNECT,
                            .step = WAY_STEP_DIAL,
                            .error = WAY_ERROR_REFUSED };
    assert_true(way_event_hard(&e));
    e.step = WAY_STEP_QUEUE; /* never left us */
    assert_false(way_event_hard(&e));
    e = (struct way_event){ .kind = WAY_KIND_PROBE,
                            .phase = WAY_PHASE_READ,
                            .step = WAY_STEP_REPLY,
                            .error = WAY_ERROR_REPLY,
                            .blame = WAY_BLAME_NODE };
    assert_true(way_event_hard(&e));
    e.blame = WAY_BLAME_ROUTE; /* CLUSTERDOWN: the cluster's fault */
    assert_false(way_event_hard(&e));
    e.error = WAY_ERROR_TIMEOUT;
    assert_true(way_event_hard(&e));
    e.error = WAY_ERROR_NONE;
    assert_false(way_event_hard(&e));
    e = (struct way_event){ .kind = WAY_KIND_CONNECTION,
                            .phase = WAY_PHASE_READ,
                            .step = WAY_STEP_WAIT,
                            .error = WAY_ERROR_TIMEOUT };
    assert_true(way_event_hard(&e));
    e.replies_read = 1;
    assert_false(way_event_hard(&e));
    e.replies_read = 0;
    e.step = WAY_STEP_REPLY; /* half a reply is a byte received */
    assert_false(way_event_hard(&e));
    e.step = WAY_STEP_WAIT;
    e.error = WAY_ERROR_EOF;
    assert_false(way_event_hard(&e));
}

static void expect_class(struct way_event e, enum way_class class, enum way_blame blame,
                         bool permanent)
{
    way_event_classify_default(&e);
    if (e.class != class || e.blame != blame || e.permanent != permanent)
        fail_msg("%s '%s': %s, %s, %d", way_error_name(e.error), e.message,
                 way_class_name(e.class), way_blame_name(e.blame), e.permanent);
}

static void expect_reply(const char *message, enum way_class class, enum way_blame blame,
                         bool permanent)
{
    struct way_event e = { .phase = WAY_PHASE_READ,
                           .step = WAY_STEP_REPLY,
                           .error = WAY_ERROR_REPLY };
    snprintf(e.message, sizeof e.message, "%s", message);
    expect_class(e, class, blame, permanent);
}

static void error_replies_are_classed_by_their_words(void **state)
{
    (void)state;
    expect_reply("LOADING Redis is loading the dataset in memory", WAY_CLASS_NOT_READY,
                 WAY_BLAME_NODE, false);
    expect_reply("MASTERDOWN Link with MASTER is down", WAY_CLASS_NOT_READY,
                 WAY_BLAME_NODE, false);
    expect_reply("READONLY You can't write against a read only replica.",
                 WAY_CLASS_STALE_ROUTE, WAY_BLAME_ROUTE, false);
    expect_reply("CLUSTERDOWN The cluster is down", WAY_CLASS_AGAIN, WAY_BLAME_ROUTE,
                 false);
    expect_reply("TRYAGAIN Multiple keys request during rehashing of slot",
                 WAY_CLASS_AGAIN, WAY_BLAME_ROUTE, false);
    expect_reply("BUSY Redis is busy running a script.", WAY_CLASS_BUSY, WAY_BLAME_NODE,
                 false);
    expect_reply("BUSY", WAY_CLASS_BUSY, WAY_BLAME_NODE, false);
    expect_reply("BUSYGROUP Consumer Group name already exists", WAY_CLASS_ANSWER,
                 WAY_BLAME_NONE, true);
    expect_reply("BUSYKEY Target key name already exists.", WAY_CLASS_ANSWER,
                 WAY_BLAME_NONE, true);
    expect_reply("WRONGPASS invalid username-password pair", WAY_CLASS_CONFIG,
                 WAY_BLAME_CONFIG, true);
    expect_reply("NOAUTH Authentication required.", WAY_CLASS_CONFIG, WAY_BLAME_CONFIG,
                 true);
    expect_reply("ERR max number of clients reached", WAY_CLASS_BUSY, WAY_BLAME_NODE,
                 false);
    expect_reply("ERR syntax error", WAY_CLASS_ANSWER, WAY_BLAME_NONE, true);
    expect_reply("WRONGTYPE Operation against a key", WAY_CLASS_ANSWER, WAY_BLAME_NONE,
                 true);
    expect_reply("", WAY_CLASS_ANSWER, WAY_BLAME_NONE, true);
}

static void errors_without_a_reply_are_classed_by_where_they_happened(void **state)
{
    (void)state;
    struct way_event e = { .phase = WAY_PHASE_CONNECT,
                           .step = WAY_STEP_DIAL,
                           .error = WAY_ERROR_REFUSED };
    expect_class(e, WAY_CLASS_DOWN, WAY_BLAME_NODE, false);
    e.error = WAY_ERROR_TIMEOUT;
    expect_class(e, WAY_CLASS_SLOW, WAY_BLAME_NODE, false);
    e.error = WAY_ERROR_AUTH;
    expect_class(e, WAY_CLASS_CONFIG, WAY_BLAME_CONFIG, true);
    e = (struct way_event){ .error = WAY_ERROR_NONE };
    expect_class(e, WAY_CLASS_OK, WAY_BLAME_NONE, false);
    static const enum way_error local[] = { WAY_ERROR_OVERFLOW, WAY_ERROR_SHED,
                                            WAY_ERROR_NO_NODE };
    for (size_t i = 0; i < way_count(local); i++)
        expect_class((struct way_event){ .error = local[i] }, WAY_CLASS_LOCAL,
                     WAY_BLAME_HOST, false);
    expect_class((struct way_event){ .error = WAY_ERROR_CANCELLED }, WAY_CLASS_CALLER,
                 WAY_BLAME_CALLER, true);
    expect_class((struct way_event){ .error = WAY_ERROR_DEADLINE }, WAY_CLASS_CALLER,
                 WAY_BLAME_CALLER, true);
}

static void a_used_connection_that_closes_before_it_answers_is_stale(void **state)
{
    (void)state;
    struct way_event e = { .phase = WAY_PHASE_READ,
                           .step = WAY_STEP_WAIT,
                           .error = WAY_ERROR_EOF,
                           .reused = true };
    expect_class(e, WAY_CLASS_STALE_CONNECTION, WAY_BLAME_CONNECTION, false);
    e.error = WAY_ERROR_RESET;
    expect_class(e, WAY_CLASS_STALE_CONNECTION, WAY_BLAME_CONNECTION, false);
    e.phase = WAY_PHASE_WRITE;
    e.step = WAY_STEP_SEND;
    expect_class(e, WAY_CLASS_STALE_CONNECTION, WAY_BLAME_CONNECTION, false);
    e.reused = false;
    expect_class(e, WAY_CLASS_DOWN, WAY_BLAME_NODE, false);
    e = (struct way_event){ .phase = WAY_PHASE_READ,
                            .step = WAY_STEP_WAIT,
                            .reused = true,
                            .error = WAY_ERROR_EOF,
                            .replies_read = 1 };
    expect_class(e, WAY_CLASS_DOWN, WAY_BLAME_NODE, false);
    e.replies_read = 0;
    e.step = WAY_STEP_REPLY;
    expect_class(e, WAY_CLASS_DOWN, WAY_BLAME_NODE, false);
    e.step = WAY_STEP_WAIT;
    e.error = WAY_ERROR_PROTOCOL;
    expect_class(e, WAY_CLASS_DOWN, WAY_BLAME_NODE, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_has_a_word_of_its_own),
        cmocka_unit_test(only_what_proves_a_node_dead_is_hard),
        cmocka_unit_test(error_replies_are_classed_by_their_words),
        cmocka_unit_test(errors_without_a_reply_are_classed_by_where_they_happened),
        cmocka_unit_test(a_used_connection_that_closes_before_it_answers_is_stale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
