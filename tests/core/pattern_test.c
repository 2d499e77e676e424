/* Patterns match as the Lua manual says, and never for long. */
#include "pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct way_pattern m;

/* "3-5:a,b" for a match at bytes 3 to 5 with captures a and b, "nil", or the error. */
static const char *find(const char *subject, const char *pattern)
{
    static char out[256];
    memset(&m, 0, sizeof m);
    m.subject = (struct way_span){ subject, strlen(subject) };
    m.pattern = (struct way_span){ pattern, strlen(pattern) };
    m.steps_max = 20000;
    for (size_t from = 0; from <= m.subject.n; from++) {
        const char *end = way_pattern_match(&m, from);
        if (m.error)
            return m.error;
        if (!end && way_pattern_anchored(&m))
            break;
        if (!end)
            continue;
        size_t n = (size_t)snprintf(out, sizeof out, "%zu-%zu", from + 1,
                                    (size_t)(end - subject));
        for (unsigned i = 0; i < m.captures; i++) {
            const struct way_capture *c = &m.capture[i];
            if (c->n == WAY_CAPTURE_POSITION)
                n += (size_t)snprintf(out + n, sizeof out - n, "%c@%zu", i ? ',' : ':',
                                      (size_t)(c->p - subject) + 1);
            else
                n += (size_t)snprintf(out + n, sizeof out - n, "%c%.*s", i ? ',' : ':',
                                      (int)c->n, c->p);
        }
        return out;
    }
    return "nil";
}

static void matches_as_the_manual_says(void **state)
{
    static const char *const cases[][3] = {
        { "hello", "l+", "3-4" },
        { "hello", "xyz", "nil" },
        { "hello", "", "1-0" },
        { "hello", "^h", "1-1" },
        { "hello", "^e", "nil" },
        { "hello", "o$", "5-5" },
        { "hello", "l$", "nil" },
        { "a$b", "a$b", "1-3" },
        { "key=value", "(%w+)=(%w+)", "1-9:key,value" },
        { "  x", "^%s*()", "1-2:@3" },
        { "[[x]]", "%[(.-)%]", "1-4:[x" },
        { "f(a(b)c)d", "%b()", "2-8" },
        { "f(a(b", "%b()", "nil" },
        { "THE (quick) fox", "%f[%a]%a+%f[%A]", "1-3" },
        { "say \"hi\" 'x'", "([\"']).-%1", "5-8:\"" },
        { "a-b", "[a%-]+", "1-2" },
        { "a]b", "[]]", "2-2" },
        { "xyz", "[^x]+", "2-3" },
        { "m5", "[a-f0-9]", "2-2" },
        { "aaa", "a-", "1-0" },
        { "aaab", "a-b", "1-4" },
        { "ac", "ab?c", "1-2" },
        { "abc", "ab?c", "1-3" },
        { "aXb", "%u", "2-2" },
        { "tab\there", "%c", "4-4" },
        { "x", "x*x", "1-1" },
        { "((x))", "((%w))", "3-3:x,x" },
    };
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++) {
        const char *got = find(cases[i][0], cases[i][1]);
        if (strcmp(got, cases[i][2]) != 0)
            fail_msg("'%s' in '%s': got %s, expected %s", cases[i][1], cases[i][0], got,
                     cases[i][2]);
    }
}

static void says_what_is_wrong_with_a_pattern(void **state)
{
    static const char *const cases[][2] = {
        { "%", "the pattern ends with '%'" },
        { "[a", "the pattern misses a ']'" },
        { "[%", "the pattern misses a ']'" },
        { "[]", "the pattern misses a ']'" },
        { "a)", "the pattern closes a capture that is not open" },
        { "(a", "the pattern leaves a capture open" },
        { "%1", "the pattern refers to a capture that is not there" },
        { "(%1)", "the pattern refers to a capture that is not there" },
        { "%b", "the pattern's '%b' needs two characters" },
        { "%bx", "the pattern's '%b' needs two characters" },
        { "%f", "the pattern's '%f' needs a set" },
        { "%fa", "the pattern's '%f' needs a set" },
    };
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++) {
        const char *got = find("aaa", cases[i][0]);
        if (strcmp(got, cases[i][1]) != 0)
            fail_msg("'%s': got %s, expected %s", cases[i][0], got, cases[i][1]);
    }
}

static void gives_up_on_what_would_take_for_ever(void **state)
{
    (void)state;
    double began = way_clock();
    assert_string_equal(
        find("----------------------------------------", ".-.-.-.-.-.-.-x"),
        "the pattern takes too many steps");
    assert_true(way_clock() - began < 0.05);
    char many[301] = "", deep[601] = "";
    memset(many, 'a', 300);
    for (unsigned i = 0; i < 300; i++)
        memcpy(deep + (size_t)2 * i, "a?", 2);
    assert_string_equal(find(many, deep), "the pattern nests too deep");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_as_the_manual_says),
        cmocka_unit_test(says_what_is_wrong_with_a_pattern),
        cmocka_unit_test(gives_up_on_what_would_take_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
