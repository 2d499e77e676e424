/* stats: each counter has a name that a metric may have, and metrics of one name stand
 * together, the first of them with the help. */
#include "stats.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void counters_add_up(void **state)
{
    (void)state;
    struct way_stats s = { 0 };
    way_stat_add(&s, WAY_STAT_REQUESTS, 3);
    way_stat_add(&s, WAY_STAT_REQUESTS, UINT32_MAX);
    assert_int_equal(way_stat_get(&s, WAY_STAT_REQUESTS), 3 + (uint64_t)UINT32_MAX);
    assert_int_equal(way_stat_get(&s, WAY_STAT_REPLIES), 0);
}

static void the_list_ends_where_the_counters_do(void **state)
{
    (void)state;
    for (unsigned i = 0; i < WAY_STAT_COUNT; i++)
        assert_non_null(way_stat_info(i));
    assert_null(way_stat_info(WAY_STAT_COUNT));
    assert_null(way_stat_info(~0u));
}

static void names_are_metrics_names(void **state)
{
    (void)state;
    for (unsigned i = 0; i < WAY_STAT_COUNT; i++) {
        const char *name = way_stat_info(i)->metric;
        assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz_"), strlen(name));
        size_t n = strlen(name);
        assert_true(n > 6 && !strcmp(name + n - 6, "_total"));
    }
}

static void metrics_of_one_name_stand_together_and_differ_in_labels(void **state)
{
    (void)state;
    for (unsigned i = 0; i < WAY_STAT_COUNT; i++) {
        const struct way_stat_info *a = way_stat_info(i);
        bool first = i == 0 || strcmp(way_stat_info(i - 1)->metric, a->metric) != 0;
        if (first && !a->help[0])
            fail_msg("%s has no help", a->metric);
        for (unsigned k = 0; k < i; k++) {
            const struct way_stat_info *b = way_stat_info(k);
            if (strcmp(a->metric, b->metric) != 0)
                continue;
            if (first)
                fail_msg("%s stands in two places", a->metric);
            if (!strcmp(a->labels, b->labels))
                fail_msg("%s{%s} is there twice", a->metric, a->labels);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counters_add_up),
        cmocka_unit_test(the_list_ends_where_the_counters_do),
        cmocka_unit_test(names_are_metrics_names),
        cmocka_unit_test(metrics_of_one_name_stand_together_and_differ_in_labels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
