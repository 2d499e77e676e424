/* ctl: the console's RESP3 as JSON, whole or not, and as tables. */
#include "ctl.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static char *dumped(const char *p, size_t n)
{
    json_t *v;
    char error[128];
    long taken = way_ctl_decode(p, n, &v, error, sizeof error);
    if (taken != (long)n)
        fail_msg("%ld of %zu bytes", taken, n);
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    json_decref(v);
    return text;
}

static const struct {
    const char *resp, *json;
} cases[] = {
    { "+OK\r\n", "\"OK\"" },
    { ":-12\r\n", "-12" },
    { ",0.25\r\n", "0.25" },
    { ",inf\r\n", "\"inf\"" },
    { "#t\r\n", "true" },
    { "#f\r\n", "false" },
    { "_\r\n", "null" },
    { "$-1\r\n", "null" },
    { "$0\r\n\r\n", "\"\"" },
    { "$5\r\na\"\r\nb\r\n", "\"a\\\"\\r\\nb\"" },
    { "$2\r\n\xff"
      "a\r\n",
      "\"\u00ffa\"" },
    { "=7\r\ntxt:abc\r\n", "\"abc\"" },
    { "*0\r\n", "[]" },
    { "*2\r\n:1\r\n*1\r\n+x\r\n", "[1,[\"x\"]]" },
    { "%2\r\n+b\r\n:1\r\n+a\r\n%0\r\n", "{\"b\":1,\"a\":{}}" },
    { "*2\r\n%1\r\n$1\r\nk\r\n,1.5\r\n_\r\n", "[{\"k\":1.5},null]" },
};

static void replies_become_json(void **state)
{
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++) {
        char *text = dumped(cases[i].resp, strlen(cases[i].resp));
        assert_string_equal(text, cases[i].json);
        free(text);
    }
}

/* However the bytes come: nothing is taken until all are there. */
static void half_a_reply_waits_for_the_rest(void **state)
{
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++)
        for (size_t n = 0; n < strlen(cases[i].resp); n++) {
            json_t *v;
            char error[128], *half = way_alloc(n + 1);
            memcpy(half, cases[i].resp, n); /* exactly so long, for the sanitizer */
            long taken = way_ctl_decode(half, n, &v, error, sizeof error);
            way_free(half);
            if (taken != 0)
                fail_msg("case %u, %zu bytes: %ld", i, n, taken);
        }
}

static void errors_and_nonsense_are_told_apart(void **state)
{
    (void)state;
    static const char *const bad[] = { "?\r\n",   "hello\r\n", "*9999999999\r\n",
                                       "*-2\r\n", "+no end\n", "%1\r\n:1\r\n:2\r\n" };
    json_t *v;
    char error[128];
    assert_int_equal(way_ctl_decode("-ERR so\r\n", 9, &v, error, sizeof error), 9);
    assert_null(v);
    assert_string_equal(error, "ERR so");
    for (unsigned i = 0; i < way_count(bad); i++)
        if (way_ctl_decode(bad[i], strlen(bad[i]), &v, error, sizeof error) != -1)
            fail_msg("%s is taken", bad[i]);
    char deep[256] = "";
    for (unsigned i = 0; i < 40; i++)
        strcat(deep, "*1\r\n");
    assert_int_equal(way_ctl_decode(deep, strlen(deep), &v, error, sizeof error), -1);
}

static char *printed(const char *json)
{
    char *text;
    size_t n;
    json_t *v = json_loads(json, JSON_DECODE_ANY, NULL);
    FILE *out = open_memstream(&text, &n);
    assert_non_null(v);
    way_ctl_print(v, out);
    fclose(out);
    json_decref(v);
    return text;
}

static void lists_of_maps_are_tables(void **state)
{
    (void)state;
    static const struct {
        const char *json, *text;
    } prints[] = {
        { "[{\"id\":\"abc\",\"n\":1},{\"id\":\"d\",\"up\":true}]", "id   n  up\n"
                                                                   "abc  1  -\n"
                                                                   "d    -  yes\n" },
        { "[{\"a\":\"\u00e9\"},{\"a\":\"xyz\",\"b\":0.5}]", "a    b\n"
                                                            "\u00e9    -\n"
                                                            "xyz  0.5\n" },
        { "{\"name\":\"p\",\"set_aside\":false,\"of\":[1,2]}", "name       p\n"
                                                               "set_aside  no\n"
                                                               "of         [1,2]\n" },
        { "[\"one\",\"two words\"]", "one\ntwo words\n" },
        { "[]", "" },
        { "\"OK\"", "OK\n" },
        { "null", "-\n" },
    };
    for (unsigned i = 0; i < way_count(prints); i++) {
        char *text = printed(prints[i].json);
        assert_string_equal(text, prints[i].text);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_become_json),
        cmocka_unit_test(half_a_reply_waits_for_the_rest),
        cmocka_unit_test(errors_and_nonsense_are_told_apart),
        cmocka_unit_test(lists_of_maps_are_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
