/* A script can't hurt the thread that runs it. */
#include "script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#include <lauxlib.h>
#include <lua.h>

static struct way_script *s;
static struct way_err err;

static int setup(void **state)
{
    (void)state;
    s = way_script_new(NULL);
    err.text[0] = 0;
    return s ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    way_script_free(s);
    return 0;
}

struct wanted {
    char text[256];
};

static int read_result(lua_State *L, void *arg)
{
    struct wanted *w = arg;
    way_script_result(L);
    const char *text = lua_tostring(L, -1);
    snprintf(w->text, sizeof w->text, "%s", text ? text : luaL_typename(L, -1));
    return 0;
}

/* What the text returns, as a string; or "! " and the error. */
static const char *run(const char *text)
{
    static struct wanted w;
    if (way_script_load_text(s, "t.lua", text, strlen(text), &err) < 0)
        snprintf(w.text, sizeof w.text, "! %.250s", err.text);
    else
        assert_int_equal(way_script_call(s, read_result, &w), 0);
    return w.text;
}

static void expect(const char *text, const char *wanted)
{
    const char *got = run(text);
    if (strcmp(got, wanted) != 0)
        fail_msg("%s\n  gave     %s\n  expected %s", text, got, wanted);
}

/* The call of `return function() ... end` under a call's budget. */
static int call_result(lua_State *L, void *arg)
{
    (void)arg;
    way_script_result(L);
    lua_call(L, 0, 0);
    return 0;
}

static const char *cause_of(const char *body)
{
    char text[1024];
    snprintf(text, sizeof text, "return function() %s end", body);
    assert_int_equal(way_script_load_text(s, "t.lua", text, strlen(text), &err), 0);
    return way_script_call(s, call_result, NULL) ? way_script_failure(s)->cause : "none";
}

static void runs_plain_lua(void **state)
{
    (void)state;
    expect("return 1 + 1", "2");
    expect("return ('key=value'):match('(%w+)=') .. #'abc'", "key3");
    expect("return (('hello world'):gsub('o', '0'))", "hell0 w0rld");
    expect("return select(2, ('abc'):gsub('', '-'))", "4");
    expect("return (('abc'):gsub('', '-'))", "-a-b-c-");
    expect("return (('abc'):gsub('%w', '%0%0', 2))", "aabbc");
    expect("return (('a b'):gsub('%w', { a = 'x' }))", "x b");
    expect("return (('a b'):gsub('%w', function(c) if c == 'b' then return 'y' end end))",
           "a y");
    expect("local t = {} for k, v in ('a=1,b=2'):gmatch('(%w+)=(%w+)') do t[#t + 1] = k "
           ".. v "
           "end return table.concat(t, ';')",
           "a1;b2");
    expect("return string.format('%s %d %5.1f', 'x', 3, 2.5)", "x 3   2.5");
    expect("return ('abcabc'):find('b', 3, true)", "5");
    expect("local t = { 3, 1, 2 } table.sort(t) return table.concat(t)", "123");
    expect("return bit.band(6, 3) + math.floor(2.5)", "4");
    expect("return ('x'):rep(3)", "xxx");
    expect("return tostring({}) .. tostring(nil) .. string.format('%s', print and 1)",
           "! t.lua:1: there is no 'print' here: scripts see the globals listed in the "
           "policies' README only");
    expect("return tostring({}) .. tostring(nil) .. string.format('%s', {})",
           "tableniltable");
    expect("return nil", "nil");
    expect("", "nil");
}

static void tells_file_and_line(void **state)
{
    (void)state;
    expect("\n\nlocal x = nil + 1",
           "! t.lua:3: attempt to perform arithmetic on a nil value");
    expect("return = 3", "! t.lua:1: unexpected symbol near '='");
    expect("error('no good')", "! t.lua:1: no good");
    expect("error({})", "! t.lua: raised a table instead of a text");
    expect("\x1bLJ", "! t.lua: bytecode, expected Lua text");
    expect("while true do end", "! t.lua:1: more than 5000000 instructions in one call");
}

static void there_is_no_way_out(void **state)
{
    static const char *const absent[] = {
        "pcall",        "xpcall",       "coroutine",      "os",
        "io",           "debug",        "package",        "ffi",
        "jit",          "load",         "loadstring",     "loadfile",
        "dofile",       "module",       "setfenv",        "getfenv",
        "setmetatable", "getmetatable", "rawget",         "rawset",
        "rawequal",     "newproxy",     "collectgarbage", "print",
        "_G",           "gcinfo",
    };
    char text[128];
    (void)state;
    for (unsigned i = 0; i < way_count(absent); i++) {
        snprintf(text, sizeof text, "return %s", absent[i]);
        if (!strstr(run(text), "there is no"))
            fail_msg("%s is there: %s", absent[i], run(text));
    }
    expect("return string.dump", "nil");
    expect("return ('x').dump", "nil");
    expect("return math.random", "nil");
    expect("string.rep = nil", "! t.lua:1: string is read-only: can't set 'rep'");
    expect("x = 1", "! t.lua:1: globals can't be set: make 'x' local");
    expect("local s = '' s.x = 1",
           "! t.lua:1: attempt to index local 's' (a string value)");
    expect("return string.format('%p', {})", "! t.lua: format: '%p' is not supported");
}

static void strings_stay_short(void **state)
{
    static const char *const cases[] = {
        "('x'):rep(1e8)",
        "('x'):rep(0/0)",
        "('x'):rep(4097)",
        "(('x'):rep(4096) .. 'x'):upper()",
        "(('x'):rep(4096) .. 'x'):reverse()",
        "(('x'):rep(4096) .. 'x'):find('y')",
        "string.format('%s%s', ('x'):rep(4096), 'x')",
        "(('x'):rep(4000):gsub('x', 'yy'))",
        "table.concat({ ('x'):rep(4096), 'x' })",
        "tonumber((' '):rep(4096) .. '1')",
    };
    char text[160];
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++) {
        snprintf(text, sizeof text, "local x = %s return x", cases[i]);
        const char *got = run(text);
        if (!strstr(got, "4096"))
            fail_msg("%s: %s", text, got);
    }
    expect("return #('x'):rep(4096)", "4096");
}

static void a_call_ends_whatever_it_does(void **state)
{
    static const struct {
        const char *body, *cause;
    } cases[] = {
        { "while true do end", "budget" },
        { "local function f() return f() end f()", "budget" },
        { "local function f() return 1 + f() end f()", "memory" },
        { "local t = {} while true do t[#t + 1] = { #t } end", "memory" },
        { "local s = 'x' while true do s = s .. s end", "memory" },
        { "local t = {} for i = 1, 1e5 do t[i % 8000 + 1] = 'k' .. i end", "memory" },
        { "local s = ('-'):rep(40) while true do s:find('.-.-.-.-.-.-.-x') end",
          "error" },
        { "local s = ('-'):rep(4096) while true do s:reverse() end", "budget" },
        { "local s = ('-'):rep(4096) while true do s:find('x', 1, true) end", "budget" },
        { "local s = ('-'):rep(4096) while true do s:find('.-x') end", "error" },
        { "local t = {} while true do t[#t + 1] = 1 if #t > 3000 then break end end "
          "while true do table.insert(t, 1, 1) end",
          "error" },
        { "local t = {} for i = 1, 1000 do t[i] = i % 7 end while true do table.sort(t) "
          "end",
          "budget" },
        { "local t = {} for i = 1, 1000 do t[i] = '' end while true do table.concat(t) "
          "end",
          "budget" },
        { "local t = {} for i = 1, 200 do t[i] = i end while true do unpack(t) end",
          "budget" },
        { "local t = {} for i = 1, 3000 do t[i] = i end for i = 1, 3000 do t[i] = nil "
          "end "
          "while true do next(t) end",
          "deadline" },
        { "local a = ('x'):rep(4096) for _ = 1, 3 do a = a .. a end local b = a .. 'y' "
          "local n = 0 while true do if a < b then n = n + 1 end end",
          "deadline" },
        { "local a = (' '):rep(4096) for _ = 1, 3 do a = a .. a end a = a .. '1' "
          "local n = 0 while true do n = n + a end",
          "deadline" },
        { "error('x')", "error" },
        { "local x = nil; x()", "error" },
    };
    double longest = 0;
    (void)state;
    for (unsigned i = 0; i < way_count(cases); i++) {
        double began = way_clock();
        const char *cause = cause_of(cases[i].body);
        double took = way_clock() - began;
        longest = took > longest ? took : longest;
        /* On a loaded machine the clock may win over the instructions. */
        if (strcmp(cause, cases[i].cause) != 0 && strcmp(cause, "deadline") != 0)
            fail_msg("%s\n  ended by %s, expected %s: %s", cases[i].body, cause,
                     cases[i].cause, way_script_failure(s)->text);
        expect("return 1", "1");
    }
    print_message("longest call with its loading: %.2f ms\n", longest * 1000);
}

static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Each once took 5 to 150 ms. Measured is what this thread computed, the best of five: what
 * else runs on the machine is not the script's fault. */
static void no_call_stalls_its_thread(void **state)
{
    static const char *const bodies[] = {
        "local set = '[' .. ('b'):rep(4000) .. ']' local s = ('a'):rep(4096) s:find(set)",
        "local set = '[^' .. ('b'):rep(4000) .. ']*x' local s = ('a'):rep(4096) "
        "s:find(set)",
        "local set = '%f[' .. ('b'):rep(4000) .. ']' local s = ('a'):rep(4096) "
        "s:find(set)",
        "local s = ('x'):rep(4096) for _ = 1, 3 do s = s .. s end local t = {} "
        "for i = 1, 1000 do t[i] = i % 2 == 0 and s or s .. 1 end table.sort(t)",
        "local s = (' '):rep(4096) .. 1 for i = 1, 1e6 do i = s + s + s + s + s + s end",
        "local s = '1e-308' for i = 1, 1e6 do i = s + s + s + s + s + s + s + s + s end",
        "local t = {} for i = 1, 249 do t[i] = '1e-308' end bit.bor(unpack(t))",
        "local t = {} for i = 1, 249 do t[i] = '1e-308' end math.max(unpack(t))",
        "local t = {} for i = 1, 249 do t[i] = '1e-308' end string.char(unpack(t))",
        "local t = {} for i = 1, 249 do t[i] = '1e-308' end "
        "string.format(('%f'):rep(249), unpack(t))",
        "local f f = function(s) return (s:gsub('.', f)) end f('x')",
        "local f f = function() table.sort({ 2, 1 }, f) return true end f()",
        "local t = {} for i = 1, 1e6 do t[i % 4000 + 1] = 'k' .. i end",
    };
    double longest = 0;
    (void)state;
    for (unsigned i = 0; i < way_count(bodies); i++) {
        double best = 1;
        for (int round = 0; round < 5; round++) {
            char text[1024];
            snprintf(text, sizeof text, "return function() %s end", bodies[i]);
            assert_int_equal(way_script_load_text(s, "t.lua", text, strlen(text), &err),
                             0);
            double began = thread_seconds();
            assert_int_equal(way_script_call(s, call_result, NULL), -1);
            double took = thread_seconds() - began;
            best = took < best ? took : best;
        }
        longest = best > longest ? best : longest;
        if (best > 0.05) /* ten times the goal: builds and machines differ */
            fail_msg("%s\n  took %.2f ms: %s", bodies[i], best * 1000,
                     way_script_failure(s)->text);
    }
    print_message("longest stall: %.2f ms\n", longest * 1000);
}

static int call_with_a_pause(lua_State *L, void *arg)
{
    struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
    for (int i = 0; i < 3; i++) {
        call_result(L, arg);
        nanosleep(&pause, NULL);
    }
    return 0;
}

static void a_preempted_call_is_not_late(void **state)
{
    static const char text[] = "return function() for i = 1, 1000 do end end";
    (void)state;
    assert_int_equal(way_script_load_text(s, "t.lua", text, sizeof text - 1, &err), 0);
    for (int i = 0; i < 5; i++)
        if (way_script_call(s, call_with_a_pause, NULL))
            fail_msg("%s", way_script_failure(s)->text);
}

static void a_traceback_tells_the_innermost_calls(void **state)
{
    static const char text[] = "local function inner() local x = nil; x() end\n"
                               "local function outer() inner() return 1 end\n"
                               "return function() outer() return 1 end";
    (void)state;
    assert_int_equal(way_script_load_text(s, "t.lua", text, sizeof text - 1, &err), 0);
    assert_int_equal(way_script_call(s, call_result, NULL), -1);
    assert_string_equal(way_script_failure(s)->text,
                        "t.lua:1: attempt to call local 'x' (a nil value)\n"
                        "stack traceback:\n"
                        "\tt.lua:1: in function 'inner'\n"
                        "\tt.lua:2: in function 'outer'\n"
                        "\tt.lua:3: in function <t.lua:3>");
}

static void an_innocent_call_follows_a_guilty_one(void **state)
{
    (void)state;
    assert_string_equal(cause_of("while true do end"), "budget");
    for (int i = 0; i < 100; i++)
        assert_string_equal(cause_of("for i = 1, 1000 do end"), "none");
}

static void memory_comes_back_after_the_cap(void **state)
{
    (void)state;
    /* A wall far off: on a slow build the deadline would come before the cap. */
    const struct way_script_limits patient = { .wall = 1 };
    way_script_free(s);
    s = way_script_new(&patient);
    assert_non_null(s);
    assert_string_equal(cause_of("local t = {} while true do t[#t + 1] = { #t } end"),
                        "memory");
    for (int i = 0; i < 50; i++)
        assert_string_equal(cause_of("local x = 1"), "none");
    assert_true(way_script_bytes(s) < 1 << 20);
}

static void garbage_is_collected_between_calls(void **state)
{
    static const char text[] =
        "return function() local t = {} for i = 1, 20 do t[i] = { i } "
        "end end";
    (void)state;
    assert_int_equal(way_script_load_text(s, "t.lua", text, strlen(text), &err), 0);
    for (int i = 0; i < 20000; i++)
        assert_int_equal(way_script_call(s, call_result, NULL), 0);
    assert_true(way_script_bytes(s) < 1 << 19);
}

static void instructions_are_counted_alike_each_time(void **state)
{
    static const char text[] =
        "return function() for i = 1, 5000 do local x = i * 2 end end";
    uint64_t first = 0;
    (void)state;
    assert_int_equal(way_script_load_text(s, "t.lua", text, strlen(text), &err), 0);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(way_script_call(s, call_result, NULL), 0);
        if (!i)
            first = way_script_spent(s);
        assert_true(first > 0);
        assert_int_equal(way_script_spent(s), first);
    }
}

static void a_cap_too_small_is_told(void **state)
{
    const struct way_script_limits tiny = { .memory = 20000 };
    (void)state;
    assert_null(way_script_new(&tiny));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(runs_plain_lua),
        TEST(tells_file_and_line),
        TEST(there_is_no_way_out),
        TEST(strings_stay_short),
        TEST(a_call_ends_whatever_it_does),
        TEST(no_call_stalls_its_thread),
        TEST(a_preempted_call_is_not_late),
        TEST(a_traceback_tells_the_innermost_calls),
        TEST(an_innocent_call_follows_a_guilty_one),
        TEST(memory_comes_back_after_the_cap),
        TEST(garbage_is_collected_between_calls),
        TEST(instructions_are_counted_alike_each_time),
        TEST(a_cap_too_small_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
