/* What may be relied on: each field has one row, each row a field of its own, defaults lie
 * in their bounds, and every row says what it bounds and what is seen. */
#include "event.h"
#include "limits.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static void every_field_has_its_row(void **state)
{
    (void)state;
    enum {
        TIMEOUTS = sizeof(struct way_timeouts) / sizeof(double),
        LIMITS = sizeof(struct way_limits) / sizeof(double)
    };
    unsigned timeouts[TIMEOUTS] = { 0 }, limits[LIMITS] = { 0 };
    const struct way_setting *s;
    for (unsigned i = 0; (s = way_setting_at(i)); i++) {
        assert_int_equal(s->offset % sizeof(double), 0);
        size_t field = s->offset / sizeof(double);
        assert_true(field < (s->group == WAY_GROUP_TIMEOUTS ? (size_t)TIMEOUTS : LIMITS));
        ++*(s->group == WAY_GROUP_TIMEOUTS ? &timeouts[field] : &limits[field]);
    }
    for (unsigned i = 0; i < TIMEOUTS; i++)
        assert_int_equal(timeouts[i], 1);
    for (unsigned i = 0; i < LIMITS; i++)
        assert_int_equal(limits[i], 1);
}

static void defaults_lie_within_their_bounds(void **state)
{
    (void)state;
    const struct way_setting *s;
    for (unsigned i = 0; (s = way_setting_at(i)); i++)
        if (!(s->min <= s->standard && s->standard <= s->max && s->min < s->max))
            fail_msg("%s: %g is not in %g..%g", s->name, s->standard, s->min, s->max);
}

static void every_row_says_what_it_is(void **state)
{
    (void)state;
    const struct way_setting *s;
    for (unsigned i = 0; (s = way_setting_at(i)); i++) {
        assert_true(s->name[0] && s->unit[0] && s->help[0] && s->seen[0]);
        assert_ptr_equal(way_setting_find(s->group, s->name), s);
    }
    assert_null(way_setting_at(1000));
    assert_null(way_setting_find(WAY_GROUP_LIMITS, "dial"));
    assert_null(way_setting_find(WAY_GROUP_TIMEOUTS, "clients"));
    assert_non_null(way_setting_find(WAY_GROUP_TIMEOUTS, "dial"));
}

/* Errors that a row promises exist. */
static void the_errors_that_are_promised_exist(void **state)
{
    (void)state;
    const struct way_setting *s;
    unsigned promised = 0;
    for (unsigned i = 0; (s = way_setting_at(i)); i++) {
        char word[32];
        const char *at = strstr(s->seen, "-WAYSIDE ");
        if (!at || sscanf(at, "-WAYSIDE %31[a-z_]", word) != 1)
            continue;
        promised++;
        if (way_word(way_error_name, WAY_ERROR_COUNT, word) < 0)
            fail_msg("%s promises the error '%s'", s->name, word);
    }
    assert_true(promised > 10);
}

static void defaults_are_those_of_the_table(void **state)
{
    (void)state;
    struct way_timeouts t;
    struct way_limits l;
    memset(&t, 0xff, sizeof t); /* not a number, each */
    memset(&l, 0xff, sizeof l);
    way_timeouts_default(&t);
    way_limits_default(&l);
    const struct way_setting *s;
    for (unsigned i = 0; (s = way_setting_at(i)); i++) {
        double v;
        const void *fields = s->group == WAY_GROUP_TIMEOUTS ? (void *)&t : (void *)&l;
        memcpy(&v, (const char *)fields + s->offset, sizeof v);
        if (isnan(v) || v < s->standard || v > s->standard)
            fail_msg("%s: %g, not %g", s->name, v, s->standard);
    }
    assert_true(t.dial > 0.49 && t.dial < 0.51 && t.total > 7.9 && l.redirects > 4.9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_has_its_row),
        cmocka_unit_test(defaults_lie_within_their_bounds),
        cmocka_unit_test(every_row_says_what_it_is),
        cmocka_unit_test(the_errors_that_are_promised_exist),
        cmocka_unit_test(defaults_are_those_of_the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
