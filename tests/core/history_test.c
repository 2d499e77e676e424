/* What an operator may rely on: the last 1,024 entries are there, newest first; an error
 * counts once however many questions it raised; counts stay bounded. */
#include "history.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

static struct way_entry entry(unsigned node, enum way_asked_function fn,
                              enum way_error error)
{
    return (struct way_entry){ .node = (uint16_t)node,
                               .function = (uint8_t)fn,
                               .event = { .error = error, .phase = WAY_PHASE_READ } };
}

static void the_last_entries_come_newest_first(void **state)
{
    (void)state;
    struct way_history *h = way_history_new();
    assert_null(way_history_at(h, WAY_NONE, 0));
    for (unsigned i = 0; i < WAY_HISTORY_ENTRIES + 10; i++) {
        struct way_entry e = entry(i % 3, WAY_FN_MARK, WAY_ERROR_NONE);
        e.seq = i;
        way_history_add(h, &e);
    }
    for (unsigned i = 0; i < WAY_HISTORY_ENTRIES; i++)
        assert_int_equal(way_history_at(h, WAY_NONE, i)->seq,
                         WAY_HISTORY_ENTRIES + 9 - i);
    assert_null(way_history_at(h, WAY_NONE, WAY_HISTORY_ENTRIES));
    assert_int_equal(way_history_total(h), WAY_HISTORY_ENTRIES + 10);
    unsigned of_one = 0;
    for (const struct way_entry *e; (e = way_history_at(h, 1, of_one)); of_one++)
        assert_int_equal(e->node, 1);
    assert_in_range(of_one, WAY_HISTORY_ENTRIES / 3, WAY_HISTORY_ENTRIES / 3 + 1);
    way_history_free(h);
}

static void a_fault_counts_once_however_often_backoff_was_asked(void **state)
{
    (void)state;
    struct way_history *h = way_history_new();
    struct way_entry mark = entry(5, WAY_FN_MARK, WAY_ERROR_TIMEOUT);
    struct way_entry backoff = entry(5, WAY_FN_BACKOFF, WAY_ERROR_TIMEOUT);
    struct way_entry straggler = entry(5, WAY_FN_NONE, WAY_ERROR_TIMEOUT);
    struct way_entry fine = entry(5, WAY_FN_MARK, WAY_ERROR_NONE);
    way_history_add(h, &mark);
    way_history_add(h, &backoff);
    way_history_add(h, &straggler);
    way_history_add(h, &fine);
    assert_int_equal(way_history_errors(h, 5, WAY_PHASE_READ, WAY_ERROR_TIMEOUT), 2);
    assert_int_equal(way_history_errors(h, 5, WAY_PHASE_READ, WAY_ERROR_NONE), 0);
    assert_int_equal(way_history_errors(h, 6, WAY_PHASE_READ, WAY_ERROR_TIMEOUT), 0);
    way_history_forget(h, 5);
    assert_int_equal(way_history_errors(h, 5, WAY_PHASE_READ, WAY_ERROR_TIMEOUT), 0);
    way_history_free(h);
}

static void no_node_is_no_nodes_error(void **state)
{
    (void)state;
    struct way_history *h = way_history_new();
    struct way_entry e = entry(WAY_NONE, WAY_FN_MARK, WAY_ERROR_NO_NODE);
    way_history_add(h, &e);
    assert_int_equal(way_history_total(h), 1);
    way_history_free(h);
}

static void change(struct way_history *h, enum way_state from, enum way_state to,
                   const char *reason)
{
    struct way_entry e = entry(1, WAY_FN_MARK, WAY_ERROR_NONE);
    e.outcome = (struct way_outcome){ .from = from, .to = to, .changed = true };
    e.mark.has = WAY_MARK_REASON;
    snprintf(e.mark.reason, sizeof e.mark.reason, "%s", reason);
    way_history_add(h, &e);
}

static uint64_t count_of(struct way_history *h, enum way_state from, enum way_state to,
                         const char *reason)
{
    const struct way_transition *t;
    for (unsigned i = 0; (t = way_history_transition(h, i)); i++)
        if (t->from == from && t->to == to && !strcmp(t->reason, reason))
            return t->count;
    return 0;
}

static void changes_of_state_are_counted_by_reason(void **state)
{
    (void)state;
    struct way_history *h = way_history_new();
    change(h, WAY_STATE_HEALTHY, WAY_STATE_FAILING, "refused");
    change(h, WAY_STATE_HEALTHY, WAY_STATE_FAILING, "refused");
    change(h, WAY_STATE_FAILING, WAY_STATE_HEALTHY, "");
    assert_int_equal(count_of(h, WAY_STATE_HEALTHY, WAY_STATE_FAILING, "refused"), 2);
    assert_int_equal(count_of(h, WAY_STATE_FAILING, WAY_STATE_HEALTHY, ""), 1);
    way_history_free(h);
}

static void reasons_without_end_become_other(void **state)
{
    (void)state;
    struct way_history *h = way_history_new();
    char reason[32];
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(reason, sizeof reason, "reason %u", i);
        change(h, WAY_STATE_HEALTHY, WAY_STATE_FAILING, reason);
    }
    change(h, WAY_STATE_HEALTHY, WAY_STATE_FAILING, "reason 0");
    assert_int_equal(count_of(h, WAY_STATE_HEALTHY, WAY_STATE_FAILING, "reason 0"), 2);
    unsigned places = 0;
    uint64_t all = 0;
    for (const struct way_transition *t; (t = way_history_transition(h, places));
         places++)
        all += t->count;
    assert_in_range(places, 2, WAY_HISTORY_TRANSITIONS);
    assert_int_equal(all, 1001);
    assert_in_range(count_of(h, WAY_STATE_HEALTHY, WAY_STATE_FAILING, "other"), 700,
                    1000);
    change(h, WAY_STATE_FAILING, WAY_STATE_HEALTHY, "one more");
    assert_int_equal(count_of(h, WAY_STATE_FAILING, WAY_STATE_HEALTHY, "other"), 1);
    way_history_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_entries_come_newest_first),
        cmocka_unit_test(a_fault_counts_once_however_often_backoff_was_asked),
        cmocka_unit_test(no_node_is_no_nodes_error),
        cmocka_unit_test(changes_of_state_are_counted_by_reason),
        cmocka_unit_test(reasons_without_end_become_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
