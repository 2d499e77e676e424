/* log: one event is one line, whatever is in it, and a flood becomes a trickle that says
 * what it left out. */
#include "log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static int kept_stderr, reader;

/* From here on standard error is a pipe. */
static int catch_log(void **state)
{
    (void)state;
    int ends[2];
    if (pipe(ends) < 0)
        return -1;
    kept_stderr = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    reader = ends[0];
    return 0;
}

static int give_back(void **state)
{
    (void)state;
    char left[4096]; /* what a failed test said is not lost */
    ssize_t n;
    dup2(kept_stderr, STDERR_FILENO);
    close(kept_stderr);
    while ((n = read(reader, left, sizeof left)) > 0)
        fwrite(left, 1, (size_t)n, stderr);
    close(reader);
    way_log_level(WAY_INFO);
    return 0;
}

/* What was logged since the last time. */
static const char *said(void)
{
    static char text[8192];
    way_log(WAY_ERROR, "end");
    ssize_t n = read(reader, text, sizeof text - 1);
    assert_true(n > 0);
    text[n] = 0;
    char *end = strstr(text, "level=error end\n");
    assert_non_null(end);
    while (end > text && end[-1] != '\n')
        end--;
    *end = 0;
    return text;
}

static unsigned lines(const char *s)
{
    unsigned n = 0;
    for (; *s; s++)
        n += *s == '\n';
    return n;
}

static void a_line_has_time_level_and_text(void **state)
{
    (void)state;
    unsigned y, mo, d, h, mi, s, ms;
    int n = 0;
    way_log(WAY_WARN, "node=%s state=%s", "127.0.0.1:7000", "failing");
    const char *line = said();
    assert_int_equal(sscanf(line, "time=%4u-%2u-%2uT%2u:%2u:%2u.%3uZ %n", &y, &mo, &d, &h,
                            &mi, &s, &ms, &n),
                     7);
    assert_string_equal(line + n, "level=warn node=127.0.0.1:7000 state=failing\n");
}

static void line_breaks_within_do_not_break_it(void **state)
{
    (void)state;
    way_log(WAY_INFO, "message=\"%s\"", "a\r\ntime=forged level=error");
    const char *line = said();
    assert_int_equal(lines(line), 1);
    assert_non_null(strstr(line, "message=\"a  time=forged level=error\"\n"));
}

static void a_long_text_is_cut_and_ends_its_line(void **state)
{
    (void)state;
    char *text = way_alloc(5000);
    memset(text, 'x', 4999);
    text[4999] = 0;
    way_log(WAY_INFO, "%s", text);
    const char *line = said();
    assert_int_equal(lines(line), 1);
    assert_true(strlen(line) > 1000 && strlen(line) <= 2048);
    way_free(text);
}

static void what_is_below_the_level_is_not_said(void **state)
{
    (void)state;
    way_log_level(WAY_WARN);
    way_log(WAY_DEBUG, "no");
    way_log(WAY_INFO, "no");
    way_log(WAY_WARN, "yes");
    const char *text = said();
    assert_int_equal(lines(text), 1);
    assert_non_null(strstr(text, "yes"));
}

static void levels_have_names(void **state)
{
    (void)state;
    assert_int_equal(way_log_level_named("debug"), WAY_DEBUG);
    assert_int_equal(way_log_level_named("error"), WAY_ERROR);
    assert_int_equal(way_log_level_named("loud"), -1);
    assert_int_equal(way_log_level_named(""), -1);
}

static void a_gate_lets_a_burst_through_then_one_a_second(void **state)
{
    (void)state;
    struct way_gate gate = { 0 };
    for (unsigned i = 0; i < 5; i++)
        assert_true(way_gate_open(&gate, 1000, 5));
    for (unsigned i = 0; i < 7; i++)
        assert_false(way_gate_open(&gate, 1000 + i * 0.1, 5));
    assert_string_equal(said(), "");
    assert_true(way_gate_open(&gate, 1001.5, 5));
    assert_non_null(strstr(said(), "log=7 similar lines left out\n"));
    assert_false(way_gate_open(&gate, 1001.6, 5));
    for (unsigned i = 0; i < 5; i++) /* a rest fills it again, no more than that */
        assert_true(way_gate_open(&gate, 9000, 5));
    assert_false(way_gate_open(&gate, 9000, 5));
}

#define CAUGHT(test) cmocka_unit_test_setup_teardown(test, catch_log, give_back)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CAUGHT(a_line_has_time_level_and_text),
        CAUGHT(line_breaks_within_do_not_break_it),
        CAUGHT(a_long_text_is_cut_and_ends_its_line),
        CAUGHT(what_is_below_the_level_is_not_said),
        cmocka_unit_test(levels_have_names),
        CAUGHT(a_gate_lets_a_burst_through_then_one_a_second),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
