/* A complaint about a configuration names the line that is to be changed. */
#include "luatext.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

struct row {
    const char *text, *path;
    unsigned line;
};

static void expect_lines(const struct row *row, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct way_span text = { row[i].text, strlen(row[i].text) };
        unsigned line = way_luatext_line(text, row[i].path);
        if (line != row[i].line)
            fail_msg("%s in\n%s\nis on line %u, not %u", row[i].path, row[i].text,
                     row[i].line, line);
    }
}

static void a_key_is_found_by_its_path(void **state)
{
    (void)state;
    static const char text[] =
        "#!/usr/bin/env lua\n"
        "-- listen = 1\n"
        "--[==[ listen = 2\n"
        "]] ]==]\n"
        "return {\n"
        "  listen = { 'a',\n"
        "    [[b]], f{ 1, 2 }, -- three entries\n"
        "    \"c\\\"}\" },\n"
        "  cluster = {\n"
        "    zones = { ['a:1'] = 'x',\n"
        "      [\"b:1\"] = 'y' },\n"
        "    seeds = 'z',\n"
        "  };\n"
        "  hook = function(a, b) local workers = 1; if a == b then return {\n"
        "     listen = 5 } end end,\n"
        "  workers = 3,\n"
        "}\n";
    const struct row rows[] = {
        { text, "listen", 6 },
        { text, "listen[1]", 6 },
        { text, "listen[2]", 7 },
        { text, "listen[3]", 7 },
        { text, "listen[4]", 8 },
        { text, "cluster", 9 },
        { text, "cluster.zones[\"a:1\"]", 10 },
        { text, "cluster.zones[\"b:1\"]", 11 },
        { text, "cluster.seeds", 12 },
        { text, "workers", 16 },
    };
    expect_lines(rows, way_count(rows));
}

static void a_name_assigned_once_is_found_anywhere(void **state)
{
    (void)state;
    const struct row rows[] = {
        { "local c = {}\nc.workers = 2\nreturn c", "workers", 2 },
        { "local c = {}\nc['workers'] = 2\nreturn c", "workers", 2 },
        { "local z = {\n seed = 1 }\nreturn { cluster = z }", "cluster.seed", 2 },
        { "local seeds = {\n 'a' }\nreturn { cluster = { seeds = seeds } }",
          "cluster.seeds", 3 },
    };
    expect_lines(rows, way_count(rows));
}

static void an_entry_that_is_not_written_out_is_on_its_lists_line(void **state)
{
    (void)state;
    const struct row rows[] = {
        { "local l = f()\nreturn {\n listen = l }", "listen[2]", 3 },
        { "return {\n cluster = { zones = z } }", "cluster.zones[\"a:1\"]", 2 },
    };
    expect_lines(rows, way_count(rows));
}

static void what_is_not_known_is_not_guessed(void **state)
{
    (void)state;
    const struct row rows[] = {
        { "", "listen", 0 },
        { "return {}", "listen", 0 },
        { "return { a = { x = 1 }, b = { x = 2 } }", "c.x", 0 },
        { "return { x == 1 }", "x", 0 },
        { "return f()", "listen[1]", 0 },
        { "return { 1, 2 }", "[3]", 0 },
    };
    expect_lines(rows, way_count(rows));
}

/* Any bytes: each prefix of a text with all sorts of tokens, and brackets that never
 * close. */
static void broken_text_ends(void **state)
{
    (void)state;
    static const char text[] =
        "return { a = [==[x]=]]==], b = 'c\\', [\"d\"] = --[[e]]\n 1 } -- f";
    char deep[5000];
    for (size_t n = 0; n < sizeof text; n++) {
        char *copy =
            way_strndup(text, n); /* so that a sanitizer sees a read past the end */
        way_luatext_line((struct way_span){ copy, n }, "zz");
        way_free(copy);
    }
    for (const char *c = "{([}])"; *c; c++) {
        memset(deep, *c, sizeof deep);
        assert_int_equal(way_luatext_line((struct way_span){ deep, sizeof deep }, "a"),
                         0);
    }
}

static void a_path_that_does_not_fit_is_found_nowhere(void **state)
{
    (void)state;
    char path[8] = "";
    way_luatext_step(path, sizeof path, WAY_SPAN("ab"));
    way_luatext_step(path, sizeof path, WAY_SPAN("c"));
    assert_string_equal(path, "ab.c");
    way_luatext_index(path, sizeof path, 12);
    assert_string_equal(path, "?");
    path[0] = 0;
    way_luatext_step(path, sizeof path, WAY_SPAN("a:1"));
    assert_string_equal(path, "[\"a:1\"]");
    assert_int_equal(way_luatext_line(WAY_SPAN("return { ab = 1 }"), "?"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_is_found_by_its_path),
        cmocka_unit_test(a_name_assigned_once_is_found_anywhere),
        cmocka_unit_test(an_entry_that_is_not_written_out_is_on_its_lists_line),
        cmocka_unit_test(what_is_not_known_is_not_guessed),
        cmocka_unit_test(broken_text_ends),
        cmocka_unit_test(a_path_that_does_not_fit_is_found_nowhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
