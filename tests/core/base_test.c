/* What may be relied on: errors are cut and never overrun, a buffer keeps its bytes in order
 * whatever is put and taken, randomness can be replayed. */
#include "base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static void an_error_is_cut_and_never_overrun(void **state)
{
    (void)state;
    struct way_err *err = malloc(sizeof *err); /* so that a sanitizer sees its end */
    assert_non_null(err);
    char longer[3000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    assert_int_equal(way_fail(err, "%s", longer), -1);
    assert_int_equal(strlen(err->text), sizeof err->text - 1);
    assert_int_equal(way_fail_in(err, "where %d", 7), -1);
    assert_int_equal(strlen(err->text), sizeof err->text - 1);
    assert_memory_equal(err->text, "where 7: xxx", 12);
    assert_int_equal(way_fail(err, "short"), -1);
    assert_int_equal(way_fail_in(err, "%s", longer), -1);
    assert_int_equal(strlen(err->text), sizeof err->text - 1);
    assert_int_equal(way_fail(err, "no %s", "node"), -1);
    assert_int_equal(way_fail_in(err, "file.lua:%d", 3), -1);
    assert_string_equal(err->text, "file.lua:3: no node");
    assert_int_equal(way_fail(NULL, "nobody asks"), -1);
    assert_int_equal(way_fail_in(NULL, "nobody asks"), -1);
    free(err);
}

/* Against a plain array that nothing is ever taken from. */
static void a_buffer_keeps_its_bytes_in_order(void **state)
{
    (void)state;
    enum { TOTAL = 400000 };
    struct way_random r;
    struct way_buf b = { 0 };
    char *all = malloc(TOTAL);
    size_t put = 0, taken = 0;
    assert_non_null(all);
    way_random_seed(&r, 7);
    while (taken < TOTAL) {
        size_t n = way_random_next(&r) % 3000;
        if (way_random_next(&r) % 2 && put < TOTAL) {
            n = n < TOTAL - put ? n : TOTAL - put;
            for (size_t i = 0; i < n; i++)
                all[put + i] = (char)way_random_next(&r);
            way_buf_put(&b, all + put, n);
            put += n;
        } else {
            n = n < way_buf_held(&b) ? n : way_buf_held(&b);
            if (n)
                assert_memory_equal(b.p + b.off, all + taken, n);
            b.off += n;
            taken += n;
        }
        assert_int_equal(way_buf_held(&b), put - taken);
        assert_true(b.off <= b.len && b.len <= b.cap);
    }
    way_buf_fini(&b);
    assert_null(b.p);
    free(all);
}

static void a_buffer_that_is_emptied_as_fast_as_it_fills_does_not_grow(void **state)
{
    (void)state;
    struct way_buf b = { 0 };
    char bytes[300] = { 0 };
    way_buf_put(&b, bytes, sizeof bytes);
    for (int i = 0; i < 10000; i++) {
        way_buf_put(&b, bytes, sizeof bytes);
        b.off += sizeof bytes;
    }
    assert_true(b.cap <= 2048);
    way_buf_fini(&b);
}

static void a_buffer_gives_memory_back_only_when_it_holds_nothing(void **state)
{
    (void)state;
    struct way_buf b = { 0 };
    way_buf_room(&b, 100000);
    way_buf_puts(&b, "x");
    way_buf_trim(&b, 4096);
    assert_int_equal(way_buf_held(&b), 1);
    b.off = b.len;
    way_buf_trim(&b, 1 << 20);
    assert_true(b.cap >= 100000);
    assert_int_equal(b.len, 0);
    way_buf_trim(&b, 4096);
    assert_int_equal(b.cap, 0);
    way_buf_trim(&b, 4096);
    way_buf_fini(&b);
}

static void printing_appends_what_was_meant_however_long(void **state)
{
    (void)state;
    struct way_buf b = { 0 };
    char longer[2000];
    memset(longer, 'y', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    way_buf_puts(&b, "a");
    way_buf_printf(&b, "%s%d", "b", 12);
    way_buf_printf(&b, "%s", "");
    way_buf_printf(&b, "%s|", longer);
    assert_int_equal(way_buf_held(&b), 4 + sizeof longer - 1 + 1);
    assert_memory_equal(b.p, "ab12yyy", 7);
    assert_int_equal(b.p[b.len - 1], '|');
    way_buf_fini(&b);
}

static void a_seed_can_be_replayed_and_units_stay_below_one(void **state)
{
    (void)state;
    struct way_random a, b, c;
    double sum = 0;
    way_random_seed(&a, 42);
    way_random_seed(&b, 42);
    way_random_seed(&c, 0);
    assert_int_not_equal(c.state, 0);
    for (int i = 0; i < 10000; i++) {
        assert_true(way_random_next(&a) == way_random_next(&b));
        double unit = way_random_unit(&c);
        assert_true(unit >= 0 && unit < 1);
        sum += unit;
    }
    assert_true(sum > 4500 && sum < 5500);
}

static void words_that_look_alike_are_near(void **state)
{
    (void)state;
    assert_int_equal(way_distance("", ""), 0);
    assert_int_equal(way_distance("dial", "dial"), 0);
    assert_int_equal(way_distance("dail", "dial"), 2);
    assert_int_equal(way_distance("timeout", "timeouts"), 1);
    assert_int_equal(way_distance("", "abc"), 3);
    assert_int_equal(way_distance("kitten", "sitting"), 3);
    char longer[65];
    memset(longer, 'z', 64);
    longer[64] = 0;
    assert_true(way_distance(longer, "z") > 63);
    longer[63] = 0;
    assert_int_equal(way_distance(longer, longer), 0);
    assert_int_equal(way_distance("", longer), 63);
}

static void clocks_go_forward(void **state)
{
    (void)state;
    double before = way_clock();
    assert_true(way_clock() >= before);
    assert_true(way_unix() > 1.6e9);
}

static void copies_end_with_nul(void **state)
{
    (void)state;
    char *s = way_strndup("abcdef", 3), *t = way_strdup("");
    assert_string_equal(s, "abc");
    assert_string_equal(t, "");
    way_free(s);
    way_free(t);
    way_free(NULL);
    char *z = way_zalloc(0);
    assert_non_null(z);
    way_free(z);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_is_cut_and_never_overrun),
        cmocka_unit_test(a_buffer_keeps_its_bytes_in_order),
        cmocka_unit_test(a_buffer_that_is_emptied_as_fast_as_it_fills_does_not_grow),
        cmocka_unit_test(a_buffer_gives_memory_back_only_when_it_holds_nothing),
        cmocka_unit_test(printing_appends_what_was_meant_however_long),
        cmocka_unit_test(a_seed_can_be_replayed_and_units_stay_below_one),
        cmocka_unit_test(words_that_look_alike_are_near),
        cmocka_unit_test(clocks_go_forward),
        cmocka_unit_test(copies_end_with_nul),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
