/* What a configuration may say, what it is told when it says something else, and that
 * flags win over it. Every complaint is compared word for word: it is what an operator
 * reads. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/wayside-config-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const char *text, size_t n)
{
    FILE *f = fopen(path_of(name), "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* The error without the folder's name before it. */
static const char *tail(const struct way_err *err)
{
    size_t n = strlen(folder);
    return strncmp(err->text, folder, n) ? err->text : err->text + n + 1;
}

static void load(struct way_config *c, const char *text)
{
    struct way_err err;
    write_file("conf.lua", text, strlen(text));
    way_config_init(c);
    if (way_config_load(c, path_of("conf.lua"), &err) < 0)
        fail_msg("%s\n%s", text, err.text);
}

static void refuse_bytes(const char *text, size_t n, const char *expected)
{
    struct way_config c;
    struct way_err err = { "" };
    write_file("conf.lua", text, n);
    way_config_init(&c);
    int result = way_config_load(&c, path_of("conf.lua"), &err);
    way_config_fini(&c);
    if (result == 0 || strcmp(tail(&err), expected))
        fail_msg("%s\nexpected: %s\n     got: %s", text, expected,
                 result == 0 ? "nothing to complain of" : tail(&err));
}

static void refuse(const char *text, const char *expected)
{
    refuse_bytes(text, strlen(text), expected);
}

static void flag(struct way_config *c, const char *name, const char *value)
{
    struct way_err err;
    if (way_config_flag(c, name, value, &err) < 0)
        fail_msg("%s", err.text);
}

static void refuse_flag(const char *name, const char *value, const char *expected)
{
    struct way_config c;
    struct way_err err = { "" };
    way_config_init(&c);
    int result = way_config_flag(&c, name, value, &err);
    way_config_fini(&c);
    if (result == 0 || strcmp(err.text, expected))
        fail_msg("--%s %s\nexpected: %s\n     got: %s", name, value, expected, err.text);
}

static const struct way_option *option(const struct way_config *c, const char *name)
{
    for (unsigned i = 0; i < c->options; i++)
        if (!strcmp(c->option[i].name, name))
            return &c->option[i];
    fail_msg("no option %s", name);
    return NULL;
}

/* --- the file --- */

static void every_key_is_read(void **state)
{
    (void)state;
    struct way_config c;
    struct way_err err;
    load(
        &c,
        "return {\n"
        "  listen  = { '127.0.0.1:6380', 'unix:/run/wayside/redis.sock', '[::1]:6380' "
        "},\n"
        "  workers = 2,\n"
        "  cluster = { seeds = { '127.0.0.1:7000', 'redis-1.example:7001' },\n"
        "    user = 'way', password = 'secret', zones = { ['127.0.0.1:7000'] = 'a' },\n"
        "    name_servers = { '10.0.0.2', '10.0.0.3:5353', '::1', '[::1]:54' } },\n"
        "  policy  = { file = 'policies/x.lua',\n"
        "    options = { failing_timeout = 15, word = 'w', yes = true } },\n"
        "  timeouts = { dial = 0.25, total = 4 },\n"
        "  limits  = { guard = false, attempts = 3, failing_share = 0.3 },\n"
        "  segment = '/run/wayside/main.seg',\n"
        "  admin   = { console = 'unix:/run/wayside/admin.sock', http = '127.0.0.1:6381' "
        "},\n"
        "  log     = { level = 'debug' },\n"
        "  journal = { file = '/var/log/j.jsonl', max_bytes = 65536, keep = 0 },\n"
        "}\n");
    assert_int_equal(way_config_check(&c, &err), 0);
    assert_int_equal(c.listens, 3);
    assert_string_equal(c.listen[1], "unix:/run/wayside/redis.sock");
    assert_string_equal(c.listen[2], "[::1]:6380");
    assert_int_equal(c.workers, 2);
    assert_int_equal(c.seed_count, 2);
    assert_string_equal(c.seeds[1], "redis-1.example:7001");
    assert_string_equal(c.user, "way");
    assert_string_equal(c.password, "secret");
    assert_int_equal(c.zone_count, 1);
    assert_string_equal(c.zones[0].address, "127.0.0.1:7000");
    assert_string_equal(c.zones[0].zone, "a");
    assert_string_equal(c.name_servers, "10.0.0.2:53,10.0.0.3:5353,[::1]:53,[::1]:54");
    assert_string_equal(c.policy, path_of("policies/x.lua"));
    assert_int_equal(c.options, 3);
    assert_int_equal(option(&c, "failing_timeout")->type, WAY_OPTION_NUMBER);
    assert_true(option(&c, "failing_timeout")->number == 15);
    assert_int_equal(option(&c, "word")->type, WAY_OPTION_STRING);
    assert_string_equal(option(&c, "word")->text, "w");
    assert_int_equal(option(&c, "yes")->type, WAY_OPTION_BOOLEAN);
    assert_true(option(&c, "yes")->number == 1);
    assert_true(c.timeouts.dial == 0.25 && c.timeouts.total == 4);
    assert_true(c.limits.guard == 0 && c.limits.attempts == 3);
    assert_true(c.limits.failing_share == 0.3);
    assert_string_equal(c.segment, "/run/wayside/main.seg");
    assert_string_equal(c.console, "unix:/run/wayside/admin.sock");
    assert_string_equal(c.http, "127.0.0.1:6381");
    assert_string_equal(c.log_level, "debug");
    assert_string_equal(c.journal, "/var/log/j.jsonl");
    assert_true(c.journal_max_bytes == 65536 && c.journal_keep == 0);
    way_config_fini(&c);
}

static void what_is_not_said_has_the_tables_default(void **state)
{
    (void)state;
    struct way_config c;
    struct way_timeouts timeouts;
    struct way_limits limits;
    load(&c,
         "return { listen = '127.0.0.1:6380', cluster = { seeds = '127.0.0.1:7000' } }");
    way_timeouts_default(&timeouts);
    way_limits_default(&limits);
    assert_memory_equal(&c.timeouts, &timeouts, sizeof timeouts);
    assert_memory_equal(&c.limits, &limits, sizeof limits);
    assert_int_equal(c.workers, 1);
    assert_null(c.policy);
    assert_null(c.segment);
    assert_null(c.console);
    assert_null(c.http);
    assert_null(c.log_level);
    assert_null(c.journal);
    assert_true(c.journal_max_bytes == 64 * 1024 * 1024 && c.journal_keep == 4);
    way_config_fini(&c);
}

static void a_policy_is_meant_from_the_configurations_folder(void **state)
{
    (void)state;
    static const struct {
        const char *text, *policy;
    } rows[] = {
        { "return { policy = 'p.lua' }", "p.lua" },
        { "return { policy = { file = './none' } }", "./none" },
        { "return { policy = '/etc/p.lua' }", "/etc/p.lua" },
        { "return { policy = 'none' }", "none" },
        { "return { policy = { file = 'default' } }", "default" },
    };
    for (size_t i = 0; i < way_count(rows); i++) {
        struct way_config c;
        const char *policy = rows[i].policy;
        load(&c, rows[i].text);
        assert_string_equal(c.policy, strchr(".p", *policy) ? path_of(policy) : policy);
        way_config_fini(&c);
    }
}

static void a_program_may_build_the_table(void **state)
{
    (void)state;
    struct way_config c;
    load(&c, "local seeds = {}\n"
             "for port = 7000, 7005 do seeds[#seeds + 1] = '127.0.0.1:' .. port end\n"
             "return { cluster = { seeds = seeds } }");
    assert_int_equal(c.seed_count, 6);
    assert_string_equal(c.seeds[5], "127.0.0.1:7005");
    way_config_fini(&c);
}

static void a_password_may_live_in_a_file_of_its_own(void **state)
{
    (void)state;
    struct way_config c;
    write_file("secret", "open sesame\r\nnot this\n", 23);
    load(&c, "return { cluster = { user = 'u', password_file = 'secret' } }");
    assert_string_equal(c.password, "open sesame");
    way_config_fini(&c);
    write_file("secret", "\nopen\n", 6);
    char expected[512];
    snprintf(
        expected, sizeof expected,
        "conf.lua:2: cluster.password_file: %s/secret: expected a password of 1 to 1022 "
        "bytes in the first line",
        folder);
    refuse("return { cluster = {\n password_file = 'secret' } }", expected);
    snprintf(expected, sizeof expected,
             "conf.lua:2: cluster.password_file: %s/no: No such file or directory",
             folder);
    refuse("return { cluster = {\n password_file = 'no' } }", expected);
    refuse("return { cluster = { password = 'x',\n password_file = 'secret' } }",
           "conf.lua:2: cluster.password_file: cluster.password is given too, expected "
           "one of "
           "them");
}

static void a_misspelt_key_is_named_with_its_line_and_the_right_one(void **state)
{
    (void)state;
    refuse("return {\n cluster = {\n  seed = { 'a:1' } } }",
           "conf.lua:3: cluster.seed: unknown key, did you mean cluster.seeds?");
    refuse("return {\n listne = 'a:1' }",
           "conf.lua:2: listne: unknown key, did you mean listen?");
    refuse("return { timeouts = { reed = 1 } }",
           "conf.lua:1: timeouts.reed: unknown key, did you mean timeouts.read?");
    refuse("return { seeds = 'a:1' }",
           "conf.lua:1: seeds: unknown key, did you mean cluster.seeds?");
    refuse("return { limits = { dial = 1 } }",
           "conf.lua:1: limits.dial: unknown key, did you mean timeouts.dial?");
    refuse("return { admin = { zanzibar = 1 } }",
           "conf.lua:1: admin.zanzibar: unknown key");
    refuse("return {\n ['no word'] = 1 }", "conf.lua:2: [\"no word\"]: unknown key");
    refuse("return { admin = { 'unix:/x' } }",
           "conf.lua:1: admin[1]: expected names for keys, got an entry without one");
    refuse("return { admin = { [true] = 1 } }",
           "conf.lua:1: admin: expected names for keys, got an entry without one");
}

static void a_wrong_type_says_what_was_expected_and_what_came(void **state)
{
    (void)state;
    refuse("return {\n timeouts = {\n  read = '1' } }",
           "conf.lua:3: timeouts.read: expected seconds (number, 0.001 to 3600), got a "
           "string");
    refuse("return { workers = '2' }",
           "conf.lua:1: workers: expected an integer from 1 to 64, got a string");
    refuse("return { cluster = 5 }", "conf.lua:1: cluster: expected a table, got 5");
    refuse("return { listen = true }",
           "conf.lua:1: listen: expected \"host:port\" or \"unix:/path\", got true");
    refuse("return { cluster = { seeds = { 'a:1', {} } } }",
           "conf.lua:1: cluster.seeds[2]: expected \"host:port\", got a table");
    refuse("return { cluster = { zones = { ['a:1'] = 1 } } }",
           "conf.lua:1: cluster.zones[\"a:1\"]: expected a zone's name, got 1");
    refuse("return { cluster = { zones = 'a' } }",
           "conf.lua:1: cluster.zones: expected a table of \"host:port\" = zone, got a "
           "string");
    refuse("return { cluster = { name_servers = { '10.0.0.2', 'dns.example' } } }",
           "conf.lua:1: cluster.name_servers[2]: expected an address such as "
           "\"10.0.0.2\" or \"10.0.0.2:53\", got \"dns.example\"");
    refuse(
        "return { cluster = { name_servers = 'dns.example:53' } }",
        "conf.lua:1: cluster.name_servers: expected an address such as \"10.0.0.2\" or "
        "\"10.0.0.2:53\", got \"dns.example:53\"");
    refuse(
        "return { cluster = { name_servers = '10.0.0.2:0' } }",
        "conf.lua:1: cluster.name_servers: expected a port from 1 to 65535, got \"0\"");
    refuse("return { policy = function() end }",
           "conf.lua:1: policy: expected a table, got a function");
    refuse("return { policy = { options = { deep = {} } } }",
           "conf.lua:1: policy.options.deep: expected a number, a string, true or false, "
           "got a "
           "table");
    refuse("return { limits = { guard = 0 } }",
           "conf.lua:1: limits.guard: expected true or false, got 0");
    refuse("return { segment = '' }",
           "conf.lua:1: segment: expected a path, got an empty string");
    refuse("return { segment = 'a\\0b' }",
           "conf.lua:1: segment: expected a string without zero bytes, got one with");
    refuse(
        "return { log = { level = 'loud' } }",
        "conf.lua:1: log.level: expected \"debug\", \"info\", \"warn\" or \"error\", got "
        "\"loud\"");
}

static void numbers_keep_their_bounds(void **state)
{
    (void)state;
    refuse("return { timeouts = { read = 0 } }",
           "conf.lua:1: timeouts.read: expected seconds (number, 0.001 to 3600), got 0");
    refuse(
        "return { timeouts = { read = 3601 } }",
        "conf.lua:1: timeouts.read: expected seconds (number, 0.001 to 3600), got 3601");
    refuse(
        "return { timeouts = { read = 0/0 } }",
        "conf.lua:1: timeouts.read: expected seconds (number, 0.001 to 3600), got not a "
        "number (nan)");
    refuse(
        "return { timeouts = { read = 1/0 } }",
        "conf.lua:1: timeouts.read: expected seconds (number, 0.001 to 3600), got inf");
    refuse(
        "return { limits = { attempts = 1.5 } }",
        "conf.lua:1: limits.attempts: expected attempts (integer, 1 to 1000), got 1.5");
    refuse(
        "return { limits = { failing_share = 1.1 } }",
        "conf.lua:1: limits.failing_share: expected a share (number, 0 to 1), got 1.1");
    refuse(
        "return { journal = { max_bytes = 1 } }",
        "conf.lua:1: journal.max_bytes: expected bytes (number, 16384 to 1e12), got 1");
    refuse("return { journal = { keep = 1.5 } }",
           "conf.lua:1: journal.keep: expected files (integer, 0 to 1000), got 1.5");
    refuse("return { journal = { keep = '1' } }",
           "conf.lua:1: journal.keep: expected files (integer, 0 to 1000), got a string");
    refuse("return { journal = { fil = 'x' } }",
           "conf.lua:1: journal.fil: unknown key, did you mean journal.file?");
    refuse("return { workers = 65 }",
           "conf.lua:1: workers: expected an integer from 1 to 64, got 65");
    refuse(
        "return { workers = 0/0 }",
        "conf.lua:1: workers: expected an integer from 1 to 64, got not a number (nan)");
    refuse("return { policy = { options = { x = 1/0 } } }",
           "conf.lua:1: policy.options.x: expected a finite number, got inf");
}

static void lists_are_neither_empty_nor_endless(void **state)
{
    (void)state;
    refuse("return { listen = {} }",
           "conf.lua:1: listen: expected at least one entry, got an empty list");
    refuse("return {\n cluster = {\n seeds = {} } }",
           "conf.lua:3: cluster.seeds: expected at least one entry, got an empty list");
    refuse("local l = {} for i = 1, 17 do l[i] = 'a:' .. i end\nreturn { listen = l }",
           "conf.lua:2: listen[17]: expected at most 16 addresses, got more");
    refuse("local l = {} for i = 1, 65 do l[i] = 'a:' .. i end\nreturn { cluster = {\n "
           "seeds = l } }",
           "conf.lua:3: cluster.seeds[65]: expected at most 64 seeds, got more");
}

static void addresses_parse(void **state)
{
    (void)state;
    refuse("return { listen = 'localhost' }",
           "conf.lua:1: listen: expected \"host:port\" or \"unix:/path\", got "
           "\"localhost\"");
    refuse("return { listen = ':6380' }",
           "conf.lua:1: listen: expected \"host:port\" or \"unix:/path\", got \":6380\"");
    refuse("return { listen = '::1:6380' }",
           "conf.lua:1: listen: expected an IPv6 address in brackets, [::1]:6379, got "
           "\"::1:6380\"");
    refuse("return { listen = '[::1:6380' }",
           "conf.lua:1: listen: expected an IPv6 address in brackets, [::1]:6379, got "
           "\"[::1:6380\"");
    refuse("return { listen = 'a:0' }",
           "conf.lua:1: listen: expected a port from 1 to 65535, got \"0\"");
    refuse("return { listen = 'a:65536' }",
           "conf.lua:1: listen: expected a port from 1 to 65535, got \"65536\"");
    refuse("return { listen = 'a:1x' }",
           "conf.lua:1: listen: expected a port from 1 to 65535, got \"1x\"");
    refuse("return { listen = 'unix:' }",
           "conf.lua:1: listen: expected a path behind \"unix:\", got nothing");
    refuse("return { cluster = { seeds = 'unix:/x' } }",
           "conf.lua:1: cluster.seeds: expected \"host:port\", got \"unix:/x\"");
    refuse(
        "return { admin = { http = '6381' } }",
        "conf.lua:1: admin.http: expected \"host:port\" or \"unix:/path\", got \"6381\"");
    refuse("return { listen = 'unix:/' .. ('x'):rep(107) }",
           "conf.lua:1: listen: expected a path for a unix socket (at most 107 bytes), "
           "got 108 "
           "bytes");
}

static void the_longest_path_of_a_unix_socket_fits(void **state)
{
    (void)state;
    struct way_config c;
    load(&c, "return { listen = 'unix:/' .. ('x'):rep(106) }");
    assert_int_equal(strlen(c.listen[0]), 5 + 107);
    way_config_fini(&c);
}

static void a_file_that_does_not_run_says_where(void **state)
{
    (void)state;
    refuse("return {\n listen = = 1 }", "conf.lua:2: unexpected symbol near '='");
    refuse("local x\nreturn x.y", "conf.lua:2: attempt to index local 'x' (a nil value)");
    refuse("return 5", "conf.lua: expected the file to return a table, got 5");
    refuse("local x = 1", "conf.lua: expected the file to return a table, got nothing");
    refuse("", "conf.lua: expected the file to return a table, got nothing");
    refuse("require 'x'", "conf.lua:1: a configuration can't require anything");
    struct way_config c;
    struct way_err err;
    way_config_init(&c);
    assert_int_equal(way_config_load(&c, path_of("absent.lua"), &err), -1);
    assert_string_equal(tail(&err), "absent.lua: No such file or directory");
    way_config_fini(&c);
    way_config_init(&c);
    assert_int_equal(way_config_load(&c, folder, &err), -1);
    assert_non_null(strstr(err.text, ": Is a directory"));
    way_config_fini(&c);
}

/* No file, however it is meant, gets further than its own sandbox. */
static void a_hostile_file_is_stopped(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "while true do end",
        "local t = {} for i = 1, 1e9 do t[i] = {} end",
        "return { listen = os.getenv('HOME') }",
        "return { listen = io.open('/etc/passwd'):read() }",
        "return { listen = setmetatable({}, {}) }",
        "return { listen = load('return 1')() }",
        "\x1bLJ\x02",
    };
    for (size_t i = 0; i < way_count(texts); i++) {
        struct way_config c;
        struct way_err err;
        write_file("conf.lua", texts[i], strlen(texts[i]));
        way_config_init(&c);
        if (way_config_load(&c, path_of("conf.lua"), &err) == 0)
            fail_msg("%s was run to its end", texts[i]);
        if (strncmp(tail(&err), "conf.lua:", 9))
            fail_msg("%s: %s", texts[i], err.text);
        way_config_fini(&c);
    }
    size_t n = 256 * 1024 + 1;
    char *large = way_alloc(n);
    memset(large, ' ', n);
    refuse_bytes(large, n, "conf.lua: expected at most 262144 bytes, got more");
    way_free(large);
}

/* --- policies in its place --- */

static void a_policy_is_told_from_a_configuration(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool policy;
    } rows[] = {
        { "return { name = 'x' }", true },
        { "return { mark = function() end }", true },
        { "local wayside = require 'wayside'\nreturn wayside.policy { name = 'x' }",
          true },
        { "return { name = 'x', listen = 'a:1' }", false },
        { "return { listen = 'a:1' }", false },
        { "return {}", false },
        { "return 5", false },
        { "return {", false },
    };
    for (size_t i = 0; i < way_count(rows); i++) {
        write_file("conf.lua", rows[i].text, strlen(rows[i].text));
        if (way_config_is_policy(path_of("conf.lua")) != rows[i].policy)
            fail_msg("%s: %s", rows[i].text, rows[i].policy ? "is a policy" : "is none");
    }
    assert_false(way_config_is_policy(path_of("absent.lua")));
    refuse("return { name = 'x' }",
           "conf.lua: is a policy, not a configuration (which would name it: policy = "
           "\"conf.lua\"; or --policy)");
}

/* --- flags --- */

static void flags_win_over_the_file(void **state)
{
    (void)state;
    struct way_config c;
    load(&c, "return { listen = { 'a:1', 'b:1' }, workers = 2, segment = '/s', log = { "
             "level = "
             "'warn' }, timeouts = { read = 3 }, limits = { guard = true }, cluster = { "
             "seeds = "
             "{ 'c:1', 'd:1' } }, admin = { console = 'unix:/c', http = 'e:1' } }");
    flag(&c, "listen", "x:1");
    flag(&c, "listen", "unix:/y");
    flag(&c, "cluster", "m:1,n:2");
    flag(&c, "cluster", "o:3");
    flag(&c, "workers", "4");
    flag(&c, "segment", "none");
    flag(&c, "console", "none");
    flag(&c, "http", "127.0.0.1:9");
    flag(&c, "timeout", "read=0.5");
    flag(&c, "limit", "guard=false");
    flag(&c, "limit", "attempts=7");
    flag(&c, "log-level", "debug");
    flag(&c, "journal", "/j");
    assert_int_equal(c.listens, 2);
    assert_string_equal(c.listen[0], "x:1");
    assert_string_equal(c.listen[1], "unix:/y");
    assert_int_equal(c.seed_count, 3);
    assert_string_equal(c.seeds[0], "m:1");
    assert_string_equal(c.seeds[2], "o:3");
    assert_int_equal(c.workers, 4);
    assert_string_equal(c.journal, "/j");
    assert_null(c.segment);
    assert_null(c.console);
    assert_string_equal(c.http, "127.0.0.1:9");
    assert_true(c.timeouts.read == 0.5);
    assert_true(c.limits.guard == 0 && c.limits.attempts == 7);
    assert_string_equal(c.log_level, "debug");
    way_config_fini(&c);
}

static void options_of_flags_are_words_and_go_with_any_policy(void **state)
{
    (void)state;
    static const char text[] =
        "return { policy = { file = '/p.lua', options = { a = 1, b = 2 } } }";
    struct way_config c;
    load(&c, text);
    flag(&c, "option", "a=5");
    flag(&c, "option", "c=x=y");
    flag(&c, "option", "c=");
    assert_int_equal(c.options, 3);
    assert_int_equal(option(&c, "a")->type, WAY_OPTION_WORD);
    assert_string_equal(option(&c, "a")->text, "5");
    assert_int_equal(option(&c, "b")->type, WAY_OPTION_NUMBER);
    assert_string_equal(option(&c, "c")->text, "");
    flag(&c, "policy", "/p.lua"); /* the same: its options stay */
    assert_int_equal(c.options, 3);
    flag(&c, "policy", "other.lua");
    assert_string_equal(c.policy, "other.lua");
    assert_int_equal(c.options, 2);
    assert_string_equal(option(&c, "a")->text, "5");
    way_config_fini(&c);
}

static void a_bad_flag_says_what_was_expected(void **state)
{
    (void)state;
    refuse_flag("listne", "a:1", "--listne: unknown option");
    refuse_flag("listen", "a",
                "--listen: expected \"host:port\" or \"unix:/path\", got \"a\"");
    refuse_flag("cluster", "a:1,,b:1", "--cluster: expected \"host:port\", got \"\"");
    refuse_flag("workers", "two",
                "--workers: expected an integer from 1 to 64, got \"two\"");
    refuse_flag("workers", "1.5", "--workers: expected an integer from 1 to 64, got 1.5");
    refuse_flag("workers", "inf",
                "--workers: expected an integer from 1 to 64, got \"inf\"");
    refuse_flag("workers", "0x2",
                "--workers: expected an integer from 1 to 64, got \"0x2\"");
    refuse_flag("option", "k", "--option: expected name=value, got \"k\"");
    refuse_flag("option", "=v", "--option: expected name=value, got \"=v\"");
    refuse_flag("timeout", "read", "--timeout: expected name=seconds, got \"read\"");
    refuse_flag("timeout", "reed=1", "--timeout: reed: unknown name, did you mean read?");
    refuse_flag("timeout", "attempts=1", "--timeout: attempts: unknown name");
    refuse_flag("timeout", "read=1s",
                "--timeout: read: expected seconds (number, 0.001 to 3600), got \"1s\"");
    refuse_flag("timeout", "read=nan",
                "--timeout: read: expected seconds (number, 0.001 to 3600), got \"nan\"");
    refuse_flag("limit", "guard=1", "--limit: guard: expected true or false, got \"1\"");
    refuse_flag("http", "6381",
                "--http: expected \"host:port\" or \"unix:/path\", got \"6381\"");
    refuse_flag("tls", "yes", "--tls: expected true or false, got \"yes\"");
    refuse_flag("tls-key", "", "--tls-key: expected a value or \"none\", got nothing");
    refuse_flag("segment", "", "--segment: expected a value or \"none\", got nothing");
    refuse_flag("policy", "",
                "--policy: expected a path, \"default\" or \"none\", got nothing");
}

/* --- the whole --- */

static void expect_whole(const char *text, const char *expected)
{
    struct way_config c;
    struct way_err err = { "" };
    load(&c, text);
    int result = way_config_check(&c, &err);
    way_config_fini(&c);
    if (result == 0 || strcmp(tail(&err), expected))
        fail_msg("%s\nexpected: %s\n     got: %s", text, expected, tail(&err));
}

static void tls_is_on_or_off_or_told_in_full(void **state)
{
    (void)state;
    struct way_config c;
    struct way_err err = { "" };
    load(&c, "return { cluster = { tls = true } }");
    assert_true(c.tls.on && !c.tls.skip_verify && !c.tls.ca && !c.tls.context);
    assert_int_equal(way_config_flag(&c, "tls", "false", &err), 0);
    assert_false(c.tls.on);
    assert_int_equal(way_config_flag(&c, "tls-server-name", "node.test", &err), 0);
    assert_true(c.tls.on);
    assert_string_equal(c.tls.server_name, "node.test");
    way_config_fini(&c);
    load(&c, "return { cluster = { tls = { ca = '/ca', cert = 'c.pem', key = '/k',\n"
             "server_name = 'n', verify = false } } }");
    assert_true(c.tls.on && c.tls.skip_verify);
    assert_string_equal(c.tls.ca, "/ca");
    assert_string_equal(c.tls.cert + strlen(c.tls.cert) - 6, "/c.pem");
    assert_string_equal(c.tls.key, "/k");
    assert_int_equal(way_config_flag(&c, "tls-cert", "none", &err), 0);
    assert_null(c.tls.cert);
    way_config_fini(&c);
    load(&c, "return { listen = 'a:1', cluster = { seeds = 'b:1', tls = true } }");
    assert_int_equal(way_config_check(&c, &err), 0);
    assert_non_null(c.tls.context);
    way_config_fini(&c);
    assert_null(c.tls.context);
    refuse("return { cluster = { tls = 'yes' } }",
           "conf.lua:1: cluster.tls: expected true, false or a table, got a string");
    refuse("return { cluster = { tls = {\nverify = 1 } } }",
           "conf.lua:2: cluster.tls.verify: expected true or false, got 1");
    refuse("return { cluster = { tls = {\nsni = 'x' } } }",
           "conf.lua:2: cluster.tls.sni: unknown key");
}

static void what_only_the_whole_can_tell(void **state)
{
    (void)state;
    struct way_config c;
    struct way_err err;
    way_config_init(&c);
    assert_int_equal(way_config_check(&c, &err), -1);
    assert_string_equal(
        err.text, "listen: expected an address to serve on (or --listen), got nothing");
    way_config_fini(&c);
    expect_whole(
        "return { listen = 'a:1' }",
        "conf.lua: cluster.seeds: expected an address of a node (or --cluster), got "
        "nothing");
    expect_whole(
        "return { listen = 'a:1', cluster = { seeds = 'b:1', user = 'u' } }",
        "conf.lua: cluster.user: expected cluster.password or cluster.password_file "
        "beside it, got neither");
    expect_whole(
        "return { listen = { 'a:1', 'b:1', 'a:1' }, cluster = { seeds = 'b:1' } }",
        "conf.lua: listen[3]: a:1 is there twice");
    expect_whole("return { listen = 'a:1', cluster = { seeds = { 'b:1', 'b:1' } } }",
                 "conf.lua: cluster.seeds[2]: b:1 is there twice");
    expect_whole("return { listen = 'a:1', cluster = { seeds = 'b:1' }, admin = { http = "
                 "'a:1' } }",
                 "conf.lua: admin.http: a:1 is there twice, in listen too");
    expect_whole(
        "return { listen = 'a:1', cluster = { seeds = 'b:1' }, admin = { http = 'c:1', "
        "console = 'c:1' } }",
        "conf.lua: admin.http: c:1 is there twice, in admin.console too");
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    unlink(path_of("conf.lua"));
    unlink(path_of("secret"));
    return rmdir(folder);
}

static void what_differs_and_needs_a_restart_is_named(void **state)
{
    (void)state;
    struct way_config a, b;
    struct way_err err;
    way_config_init(&a);
    way_config_init(&b);
    assert_null(way_config_fixed(&a, &b));
    assert_int_equal(way_config_flag(&b, "timeout", "read=0.2", &err), 0);
    assert_int_equal(way_config_flag(&b, "limit", "attempts=2", &err), 0);
    assert_int_equal(way_config_flag(&b, "policy", "other.lua", &err), 0);
    assert_int_equal(way_config_flag(&b, "option", "a=1", &err), 0);
    assert_null(way_config_fixed(&a, &b));
    static const struct {
        const char *flag, *value, *key;
    } fixed[] = {
        { "http", "127.0.0.1:1", "admin.http" },
        { "console", "127.0.0.1:2", "admin.console" },
        { "segment", "/tmp/x.seg", "segment" },
        { "tls-verify", "false", "cluster.tls" },
        { "tls-ca", "/tmp/ca", "cluster.tls" },
        { "user", "me", "cluster.user" },
        { "cluster", "127.0.0.1:7000", "cluster.seeds" },
        { "workers", "2", "workers" },
        { "listen", "127.0.0.1:3", "listen" },
    };
    for (unsigned i = 0; i < way_count(fixed);
         i++) { /* each comes before those above it */
        assert_int_equal(way_config_flag(&b, fixed[i].flag, fixed[i].value, &err), 0);
        assert_string_equal(way_config_fixed(&a, &b), fixed[i].key);
        assert_string_equal(way_config_fixed(&b, &a), fixed[i].key);
        assert_null(way_config_fixed(&b, &b));
    }
    way_config_fini(&a);
    way_config_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_read),
        cmocka_unit_test(tls_is_on_or_off_or_told_in_full),
        cmocka_unit_test(what_differs_and_needs_a_restart_is_named),
        cmocka_unit_test(what_is_not_said_has_the_tables_default),
        cmocka_unit_test(a_policy_is_meant_from_the_configurations_folder),
        cmocka_unit_test(a_program_may_build_the_table),
        cmocka_unit_test(a_password_may_live_in_a_file_of_its_own),
        cmocka_unit_test(a_misspelt_key_is_named_with_its_line_and_the_right_one),
        cmocka_unit_test(a_wrong_type_says_what_was_expected_and_what_came),
        cmocka_unit_test(numbers_keep_their_bounds),
        cmocka_unit_test(lists_are_neither_empty_nor_endless),
        cmocka_unit_test(addresses_parse),
        cmocka_unit_test(the_longest_path_of_a_unix_socket_fits),
        cmocka_unit_test(a_file_that_does_not_run_says_where),
        cmocka_unit_test(a_hostile_file_is_stopped),
        cmocka_unit_test(a_policy_is_told_from_a_configuration),
        cmocka_unit_test(flags_win_over_the_file),
        cmocka_unit_test(options_of_flags_are_words_and_go_with_any_policy),
        cmocka_unit_test(a_bad_flag_says_what_was_expected),
        cmocka_unit_test(what_only_the_whole_can_tell),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
