/* What may be relied on: our table agrees with Redis's own, nothing that would harm a
 * connection that clients share is forwarded, keys are found where Redis finds them. */
#include "command.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

/* Redis 7.0.15's COMMAND: name, arity, flags (write, readonly, blocking, pubsub, admin,
 * noscript, movablekeys), first and last key, step. */
static const char redis_commands[] =
    "acl -2 - 0 0 0\nappend 3 w 1 1 1\nasking 1 - 0 0 0\nauth -2 n 0 0 0\n"
    "bgrewriteaof 1 an 0 0 0\nbgsave -1 an 0 0 0\nbitcount -2 r 1 1 1\n"
    "bitfield -2 w 1 1 1\nbitfield_ro -2 r 1 1 1\nbitop -4 w 2 -1 1\n"
    "bitpos -3 r 1 1 1\nblmove 6 wbn 1 2 1\nblmpop -5 wbm 0 0 0\n"
    "blpop -3 wbn 1 -2 1\nbrpop -3 wbn 1 -2 1\nbrpoplpush 4 wbn 1 2 1\n"
    "bzmpop -5 wbm 0 0 0\nbzpopmax -3 wbn 1 -2 1\nbzpopmin -3 wbn 1 -2 1\n"
    "client -2 - 0 0 0\ncluster -2 - 0 0 0\ncommand -1 - 0 0 0\nconfig -2 - 0 0 0\n"
    "copy -3 w 1 2 1\ndbsize 1 r 0 0 0\ndebug -2 an 0 0 0\ndecr 2 w 1 1 1\n"
    "decrby 3 w 1 1 1\ndel -2 w 1 -1 1\ndiscard 1 n 0 0 0\ndump 2 r 1 1 1\n"
    "echo 2 - 0 0 0\neval -3 nm 0 0 0\neval_ro -3 rnm 0 0 0\nevalsha -3 nm 0 0 0\n"
    "evalsha_ro -3 rnm 0 0 0\nexec 1 n 0 0 0\nexists -2 r 1 -1 1\nexpire -3 w 1 1 1\n"
    "expireat -3 w 1 1 1\nexpiretime 2 r 1 1 1\nfailover -1 an 0 0 0\n"
    "fcall -3 nm 0 0 0\nfcall_ro -3 rnm 0 0 0\nflushall -1 w 0 0 0\n"
    "flushdb -1 w 0 0 0\nfunction -2 - 0 0 0\ngeoadd -5 w 1 1 1\ngeodist -4 r 1 1 1\n"
    "geohash -2 r 1 1 1\ngeopos -2 r 1 1 1\ngeoradius -6 wm 1 1 1\n"
    "georadius_ro -6 r 1 1 1\ngeoradiusbymember -5 wm 1 1 1\n"
    "georadiusbymember_ro -5 r 1 1 1\ngeosearch -7 r 1 1 1\n"
    "geosearchstore -8 w 1 2 1\nget 2 r 1 1 1\ngetbit 3 r 1 1 1\ngetdel 2 w 1 1 1\n"
    "getex -2 w 1 1 1\ngetrange 4 r 1 1 1\ngetset 3 w 1 1 1\nhdel -3 w 1 1 1\n"
    "hello -1 n 0 0 0\nhexists 3 r 1 1 1\nhget 3 r 1 1 1\nhgetall 2 r 1 1 1\n"
    "hincrby 4 w 1 1 1\nhincrbyfloat 4 w 1 1 1\nhkeys 2 r 1 1 1\nhlen 2 r 1 1 1\n"
    "hmget -3 r 1 1 1\nhmset -4 w 1 1 1\nhrandfield -2 r 1 1 1\nhscan -3 r 1 1 1\n"
    "hset -4 w 1 1 1\nhsetnx 4 w 1 1 1\nhstrlen 3 r 1 1 1\nhvals 2 r 1 1 1\n"
    "incr 2 w 1 1 1\nincrby 3 w 1 1 1\nincrbyfloat 3 w 1 1 1\ninfo -1 - 0 0 0\n"
    "keys 2 r 0 0 0\nlastsave 1 - 0 0 0\nlatency -2 - 0 0 0\nlcs -3 r 1 2 1\n"
    "lindex 3 r 1 1 1\nlinsert 5 w 1 1 1\nllen 2 r 1 1 1\nlmove 5 w 1 2 1\n"
    "lmpop -4 wm 0 0 0\nlolwut -1 r 0 0 0\nlpop -2 w 1 1 1\nlpos -3 r 1 1 1\n"
    "lpush -3 w 1 1 1\nlpushx -3 w 1 1 1\nlrange 4 r 1 1 1\nlrem 4 w 1 1 1\n"
    "lset 4 w 1 1 1\nltrim 4 w 1 1 1\nmemory -2 - 0 0 0\nmget -2 r 1 -1 1\n"
    "migrate -6 wm 3 3 1\nmodule -2 - 0 0 0\nmonitor 1 an 0 0 0\nmove 3 w 1 1 1\n"
    "mset -3 w 1 -1 2\nmsetnx -3 w 1 -1 2\nmulti 1 n 0 0 0\nobject -2 - 0 0 0\n"
    "persist 2 w 1 1 1\npexpire -3 w 1 1 1\npexpireat -3 w 1 1 1\n"
    "pexpiretime 2 r 1 1 1\npfadd -2 w 1 1 1\npfcount -2 r 1 -1 1\n"
    "pfdebug 3 wa 2 2 1\npfmerge -2 w 1 -1 1\npfselftest 1 a 0 0 0\nping -1 - 0 0 0\n"
    "psetex 4 w 1 1 1\npsubscribe -2 pn 0 0 0\npsync -3 an 0 0 0\npttl 2 r 1 1 1\n"
    "publish 3 p 0 0 0\npubsub -2 - 0 0 0\npunsubscribe -1 pn 0 0 0\n"
    "quit -1 n 0 0 0\nrandomkey 1 r 0 0 0\nreadonly 1 - 0 0 0\nreadwrite 1 - 0 0 0\n"
    "rename 3 w 1 2 1\nrenamenx 3 w 1 2 1\nreplconf -1 an 0 0 0\n"
    "replicaof 3 an 0 0 0\nreset 1 n 0 0 0\nrestore -4 w 1 1 1\n"
    "restore-asking -4 w 1 1 1\nrole 1 n 0 0 0\nrpop -2 w 1 1 1\n"
    "rpoplpush 3 w 1 2 1\nrpush -3 w 1 1 1\nrpushx -3 w 1 1 1\nsadd -3 w 1 1 1\n"
    "save 1 an 0 0 0\nscan -2 r 0 0 0\nscard 2 r 1 1 1\nscript -2 - 0 0 0\n"
    "sdiff -2 r 1 -1 1\nsdiffstore -3 w 1 -1 1\nselect 2 - 0 0 0\nset -3 w 1 1 1\n"
    "setbit 4 w 1 1 1\nsetex 4 w 1 1 1\nsetnx 3 w 1 1 1\nsetrange 4 w 1 1 1\n"
    "shutdown -1 an 0 0 0\nsinter -2 r 1 -1 1\nsintercard -3 rm 0 0 0\n"
    "sinterstore -3 w 1 -1 1\nsismember 3 r 1 1 1\nslaveof 3 an 0 0 0\n"
    "slowlog -2 - 0 0 0\nsmembers 2 r 1 1 1\nsmismember -3 r 1 1 1\nsmove 4 w 1 2 1\n"
    "sort -2 wm 1 1 1\nsort_ro -2 rm 1 1 1\nspop -2 w 1 1 1\nspublish 3 p 1 1 1\n"
    "srandmember -2 r 1 1 1\nsrem -3 w 1 1 1\nsscan -3 r 1 1 1\n"
    "ssubscribe -2 pn 1 -1 1\nstrlen 2 r 1 1 1\nsubscribe -2 pn 0 0 0\n"
    "substr 4 r 1 1 1\nsunion -2 r 1 -1 1\nsunionstore -3 w 1 -1 1\n"
    "sunsubscribe -1 pn 1 -1 1\nswapdb 3 w 0 0 0\nsync 1 an 0 0 0\ntime 1 - 0 0 0\n"
    "touch -2 r 1 -1 1\nttl 2 r 1 1 1\ntype 2 r 1 1 1\nunlink -2 w 1 -1 1\n"
    "unsubscribe -1 pn 0 0 0\nunwatch 1 n 0 0 0\nwait 3 n 0 0 0\nwatch -2 n 1 -1 1\n"
    "xack -4 w 1 1 1\nxadd -5 w 1 1 1\nxautoclaim -6 w 1 1 1\nxclaim -6 w 1 1 1\n"
    "xdel -3 w 1 1 1\nxgroup -2 - 0 0 0\nxinfo -2 - 0 0 0\nxlen 2 r 1 1 1\n"
    "xpending -3 r 1 1 1\nxrange -4 r 1 1 1\nxread -4 rbm 0 0 0\n"
    "xreadgroup -7 wbm 0 0 0\nxrevrange -4 r 1 1 1\nxsetid -3 w 1 1 1\n"
    "xtrim -4 w 1 1 1\nzadd -4 w 1 1 1\nzcard 2 r 1 1 1\nzcount 4 r 1 1 1\n"
    "zdiff -3 rm 0 0 0\nzdiffstore -4 wm 1 1 1\nzincrby 4 w 1 1 1\n"
    "zinter -3 rm 0 0 0\nzintercard -3 rm 0 0 0\nzinterstore -4 wm 1 1 1\n"
    "zlexcount 4 r 1 1 1\nzmpop -4 wm 0 0 0\nzmscore -3 r 1 1 1\nzpopmax -2 w 1 1 1\n"
    "zpopmin -2 w 1 1 1\nzrandmember -2 r 1 1 1\nzrange -4 r 1 1 1\n"
    "zrangebylex -4 r 1 1 1\nzrangebyscore -4 r 1 1 1\nzrangestore -5 w 1 2 1\n"
    "zrank 3 r 1 1 1\nzrem -3 w 1 1 1\nzremrangebylex 4 w 1 1 1\n"
    "zremrangebyrank 4 w 1 1 1\nzremrangebyscore 4 w 1 1 1\nzrevrange -4 r 1 1 1\n"
    "zrevrangebylex -4 r 1 1 1\nzrevrangebyscore -4 r 1 1 1\nzrevrank 3 r 1 1 1\n"
    "zscan -3 r 1 1 1\nzscore 3 r 1 1 1\nzunion -3 rm 0 0 0\n"
    "zunionstore -4 wm 1 1 1\n";

struct fact {
    char name[32], flags[8];
    int arity, first, last, step;
};

/* The next line of redis_commands; false at the end. */
static bool next_fact(const char **at, struct fact *f)
{
    int n = 0;
    if (sscanf(*at, "%31s %d %7s %d %d %d%n", f->name, &f->arity, f->flags, &f->first,
               &f->last, &f->step, &n) != 6)
        return false;
    *at += n + 1;
    return true;
}

static const struct way_command *find(const char *name)
{
    return way_command_find(name, strlen(name));
}

static bool is_served(const struct way_command *c)
{
    return c->how == WAY_HOW_FORWARD || c->how == WAY_HOW_SPLIT;
}

static bool has_subcommands(const char *name)
{
    return !strcmp(name, "object") || !strcmp(name, "memory") || !strcmp(name, "xinfo") ||
           !strcmp(name, "xgroup");
}

static bool is_script(const char *name)
{
    return !strncmp(name, "eval", 4) || !strncmp(name, "fcall", 5);
}

static void every_command_of_redis_is_known(void **state)
{
    (void)state;
    const char *at = redis_commands;
    struct fact f;
    unsigned n = 0;
    for (; next_fact(&at, &f); n++) {
        const struct way_command *c = find(f.name);
        if (!c)
            fail_msg("%s is not in the table", f.name);
        /* Redis 7.2 gave these an option; a node that has it not says so itself */
        bool grew = !strcmp(f.name, "zrank") || !strcmp(f.name, "zrevrank");
        int arity = has_subcommands(f.name) ? -3 : grew ? -3 : f.arity;
        if (c->arity != arity)
            fail_msg("%s: arity %d, Redis %d", f.name, c->arity, f.arity);
    }
    assert_int_equal(n, 240);
}

static void what_redis_calls_a_write_is_one(void **state)
{
    (void)state;
    const char *at = redis_commands;
    struct fact f;
    while (next_fact(&at, &f)) {
        const struct way_command *c = find(f.name);
        bool write = strchr(f.flags, 'w') ||
                     (is_script(f.name) && !strchr(f.flags, 'r')) ||
                     !strcmp(f.name, "xgroup");
        if (is_served(c) && c->write != write)
            fail_msg("%s: write %d, Redis %s", f.name, c->write, f.flags);
    }
}

static void keys_are_where_redis_has_them(void **state)
{
    (void)state;
    const char *at = redis_commands;
    struct fact f;
    while (next_fact(&at, &f)) {
        const struct way_command *c = find(f.name);
        if (!is_served(c))
            continue;
        if (c->keyspec == WAY_KEYS_NONE)
            fail_msg("%s has no keys and is forwarded", f.name);
        bool movable = strchr(f.flags, 'm');
        if (movable != (c->keyspec != WAY_KEYS_RANGE))
            fail_msg("%s: key specification %d, Redis %s", f.name, c->keyspec, f.flags);
        if (!movable && !has_subcommands(f.name) &&
            (c->first != f.first || c->last != f.last || c->step != f.step))
            fail_msg("%s: keys %d %d %d, Redis %d %d %d", f.name, c->first, c->last,
                     c->step, f.first, f.last, f.step);
    }
}

static void nothing_that_harms_a_shared_connection_is_forwarded(void **state)
{
    (void)state;
    const char *at = redis_commands;
    struct fact f;
    while (next_fact(&at, &f)) {
        const struct way_command *c = find(f.name);
        bool harms =
            strpbrk(f.flags, "bpa") || (strchr(f.flags, 'n') && !is_script(f.name));
        if (strchr(f.flags, 'b') && !strncmp(f.name, "xread", 5))
            continue; /* only with BLOCK: below */
        if (harms && is_served(c))
            fail_msg("%s (%s) is forwarded", f.name, f.flags);
    }
    static const char *const never[] = {
        "client",   "hello",    "auth",           "select",     "reset",      "monitor",
        "sync",     "psync",    "debug",          "asking",     "readonly",   "readwrite",
        "script",   "function", "subscribe",      "ssubscribe", "psubscribe", "publish",
        "wait",     "waitaof",  "blpop",          "bzmpop",     "replconf",   "cluster",
        "shutdown", "flushall", "keys",           "scan",       "dbsize",     "randomkey",
        "config",   "migrate",  "restore-asking", "quit",
    };
    for (size_t i = 0; i < way_count(never); i++)
        assert_false(is_served(find(never[i])));
}

static void every_row_is_sound(void **state)
{
    (void)state;
    const struct way_command *c;
    unsigned n = 0;
    for (; (c = way_command_at(n)); n++) {
        assert_ptr_equal(find(c->name), c); /* so no name comes twice */
        assert_true(strlen(c->name) <= 24);
        assert_int_equal(c->how == WAY_HOW_REFUSE, c->why != NULL);
        assert_int_equal(c->how == WAY_HOW_LOCAL, c->local != WAY_LOCAL_NONE);
        assert_int_equal(c->how == WAY_HOW_SPLIT, c->join != WAY_JOIN_NONE);
        int least = c->arity < 0 ? -c->arity : c->arity;
        if (c->keyspec == WAY_KEYS_RANGE && (c->first >= least || c->last >= least))
            fail_msg("%s: its arity does not cover its keys", c->name);
    }
    assert_true(n > 240);
    assert_null(way_command_at(n + 1));
}

static void a_name_is_found_in_any_case_and_only_whole(void **state)
{
    (void)state;
    const struct way_command *c;
    for (unsigned i = 0; (c = way_command_at(i)); i++) {
        char name[64];
        size_t n = strlen(c->name);
        for (unsigned round = 0; round < 3; round++) {
            memcpy(name, c->name, n + 1);
            for (size_t j = 0; j < n; j++)
                if ((round == 0 || j % 2 == round - 1) && name[j] >= 'a' &&
                    name[j] <= 'z')
                    name[j] = (char)(name[j] - 32);
            assert_ptr_equal(way_command_find(name, n), c);
        }
        for (size_t j = 0; j < n; j++) { /* no other byte passes for one of the name */
            for (int bit = 0; bit < 8; bit++) {
                memcpy(name, c->name, n + 1);
                name[j] = (char)(name[j] ^ 1 << bit);
                const struct way_command *other = way_command_find(name, n);
                bool letter = bit == 5 && c->name[j] >= 'a' && c->name[j] <= 'z';
                assert_int_equal(other == c, letter);
            }
        }
        char *exact = malloc(n);
        assert_non_null(exact);
        memcpy(exact, c->name, n);
        assert_ptr_equal(way_command_find(exact, n), c);
        free(exact);
    }
    assert_null(find(""));
    assert_null(find("ge"));
    assert_null(find("gett"));
    assert_null(way_command_find("get", 4));
    assert_null(way_command_find("get\0\0", 5));
    assert_null(way_command_find("\0", 1));
    assert_null(find("averylongnamethatnocommandhas"));
}

/* --- one request, written with blanks between its words --- */

struct asked {
    struct way_buf bytes;
    struct way_request_parser parser;
    const struct way_command *command;
};

static void ask(struct asked *a, const char *words)
{
    struct way_err err;
    *a = (struct asked){ 0 };
    char *copy = strdup(words), *rest = copy;
    const char *argv[32];
    unsigned argc = 0;
    for (char *word; (word = strsep(&rest, " "));)
        argv[argc++] = word;
    way_resp_put_command(&a->bytes, argc, argv);
    assert_true(way_request_parse(&a->parser, a->bytes.p, a->bytes.len, 100, 1000, &err) >
                0);
    a->command = find(argv[0]);
    assert_non_null(a->command);
    free(copy);
}

static void done(struct asked *a)
{
    way_request_parser_fini(&a->parser);
    way_buf_fini(&a->bytes);
}

/* The keys' positions as "1 3 5", or the error. */
static void expect_keys(const char *words, const char *expected)
{
    struct asked a;
    struct way_err err = { "" };
    unsigned position[32];
    char text[256] = "";
    ask(&a, words);
    int n = way_command_keys(a.command, a.bytes.p, a.parser.arg, a.parser.count, position,
                             way_count(position), &err);
    for (int i = 0; i < n; i++)
        sprintf(text + strlen(text), i ? " %u" : "%u", position[i]);
    if (strcmp(n < 0 ? err.text : text, expected))
        fail_msg("%s: %s, expected %s", words, n < 0 ? err.text : text, expected);
    done(&a);
}

static void keys_of_each_shape_are_found(void **state)
{
    (void)state;
    expect_keys("GET k", "1");
    expect_keys("set k v EX 10", "1");
    expect_keys("MGET a b c", "1 2 3");
    expect_keys("MSET a 1 b 2", "1 3");
    expect_keys("MSETNX a 1 b 2 c 3", "1 3 5");
    expect_keys("BITOP AND d a b", "2 3 4");
    expect_keys("RENAME a b", "1 2");
    expect_keys("OBJECT ENCODING k", "2");
    expect_keys("XGROUP CREATE k g $", "2");
    expect_keys("LMPOP 2 a b LEFT", "2 3");
    expect_keys("ZUNION 2 a b WEIGHTS 1 2", "2 3");
    expect_keys("SINTERCARD 1 a LIMIT 5", "2");
    expect_keys("ZUNIONSTORE d 2 a b", "1 3 4");
    expect_keys("EVAL s 0", "");
    expect_keys("EVAL s 0 x y", "");
    expect_keys("EVALSHA s 2 a b c", "3 4");
    expect_keys("FCALL_RO f 1 a", "3");
    expect_keys("XREAD COUNT 2 STREAMS a b 0 0", "4 5");
    expect_keys("XREADGROUP GROUP g c NOACK COUNT 1 STREAMS streams >", "8");
    expect_keys("XREAD BLOCK 5 STREAMS a $", "4");
    expect_keys("SORT k", "1");
    expect_keys("SORT k BY nosort GET store GET # LIMIT 0 store STORE d", "1 12");
    expect_keys("SORT k STORE", "1");
    expect_keys("GEORADIUS k 1 2 3 km STORE a", "1 7");
    expect_keys("GEORADIUS k 1 2 3 km STORE a storedist b", "1 7 9");
    expect_keys("GEORADIUSBYMEMBER k store 3 km", "1");
    expect_keys("GEORADIUSBYMEMBER k m 3 km STORE d", "1 6");
    expect_keys("GEORADIUS_RO k 1 2 3 km", "1");
    expect_keys("PING", "");
}

static void arguments_out_of_shape_get_rediss_words(void **state)
{
    (void)state;
    expect_keys("EVAL s x", "ERR value is not an integer or out of range");
    expect_keys("EVAL s -1", "ERR Number of keys can't be negative");
    expect_keys("EVAL s 5 a", "ERR Number of keys can't be greater than number of args");
    expect_keys("EVAL s 99999999999999999999 a",
                "ERR Number of keys can't be greater than number of args");
    expect_keys("EVAL s", "ERR wrong number of arguments for 'eval' command");
    expect_keys("ZUNION 0 a", "ERR at least 1 input key is needed for 'zunion' command");
    expect_keys("ZDIFF -1 a", "ERR at least 1 input key is needed for 'zdiff' command");
    expect_keys("ZINTER x a", "ERR value is not an integer or out of range");
    expect_keys("ZUNION 2 a", "ERR syntax error");
    expect_keys("ZUNIONSTORE d 3 a", "ERR syntax error");
    expect_keys("SINTERCARD 0 a", "ERR numkeys should be greater than 0");
    expect_keys("SINTERCARD 9 a",
                "ERR Number of keys can't be greater than number of args");
    expect_keys("LMPOP x a LEFT", "ERR numkeys should be greater than 0");
    expect_keys("LMPOP 5 a LEFT", "ERR syntax error");
    expect_keys("ZMPOP -2 a MIN", "ERR numkeys should be greater than 0");
    expect_keys("XREAD COUNT 1 a b", "ERR syntax error");
    expect_keys("XREAD COUNT 1 STREAMS", "ERR syntax error");
    expect_keys("XREAD COUNT 1 BLOCK", "ERR syntax error");
    expect_keys("XREAD STREAMS a b c",
                "ERR Unbalanced XREAD list of streams: for each stream "
                "key an ID or '$' must be specified.");
    expect_keys("MSET a 1 b", "ERR wrong number of arguments for 'mset' command");
    expect_keys("MGET", "ERR wrong number of arguments for 'mget' command");
    expect_keys("SORT", "ERR wrong number of arguments for 'sort' command");
}

static void more_keys_than_there_is_room_for_are_counted(void **state)
{
    (void)state;
    struct asked a;
    struct way_err err;
    unsigned position[2] = { 0, 77 };
    ask(&a, "MGET a b c");
    assert_int_equal(way_command_keys(a.command, a.bytes.p, a.parser.arg, a.parser.count,
                                      position, 1, &err),
                     3);
    assert_int_equal(position[0], 1);
    assert_int_equal(position[1], 77);
    done(&a);
}

static void a_wrong_number_of_arguments_gets_rediss_words(void **state)
{
    (void)state;
    struct way_err err = { "" };
    assert_int_equal(way_command_arity(find("get"), 2, &err), 0);
    assert_int_equal(way_command_arity(find("get"), 1, &err), -1);
    assert_string_equal(err.text, "ERR wrong number of arguments for 'get' command");
    assert_int_equal(way_command_arity(find("get"), 3, &err), -1);
    assert_int_equal(way_command_arity(find("set"), 2, &err), -1);
    assert_int_equal(way_command_arity(find("set"), 3, &err), 0);
    assert_int_equal(way_command_arity(find("set"), 9, &err), 0);
}

static void expect_refused(const char *words, bool refused)
{
    struct asked a;
    ask(&a, words);
    const char *why =
        way_command_refused(a.command, a.bytes.p, a.parser.arg, a.parser.count);
    if ((why != NULL) != refused)
        fail_msg("%s: %s", words, why ? why : "not refused");
    if (refused && !a.command->by_args)
        assert_int_equal(a.command->how, WAY_HOW_REFUSE);
    done(&a);
}

static void what_blocks_or_has_no_key_is_refused_by_its_arguments(void **state)
{
    (void)state;
    expect_refused("XREAD STREAMS a 0", false);
    expect_refused("XREAD STREAMS block 0", false);
    expect_refused("XREAD COUNT 2 STREAMS a 0", false);
    expect_refused("XREAD BLOCK 0 STREAMS a $", true);
    expect_refused("xread count 1 block 0 streams a $", true);
    expect_refused("XREADGROUP GROUP block c STREAMS a >", false);
    expect_refused("XREADGROUP GROUP g c NOACK BLOCK 1 STREAMS a >", true);
    expect_refused("OBJECT ENCODING k", false);
    expect_refused("object freq k", false);
    expect_refused("OBJECT HELP", true);
    expect_refused("OBJECT HELP me", true);
    expect_refused("MEMORY USAGE k SAMPLES 5", false);
    expect_refused("MEMORY USAGE", true);
    expect_refused("MEMORY DOCTOR", true);
    expect_refused("XINFO STREAM k FULL", false);
    expect_refused("XINFO HELP", true);
    expect_refused("XGROUP CREATECONSUMER k g c", false);
    expect_refused("XGROUP HELP", true);
    expect_refused("BLPOP k 0", true);
    expect_refused("GET k", false);
    expect_refused("BITFIELD k GET u8 0", false);
}

static int init(void **state)
{
    (void)state;
    assert_null(way_command_find("get", 3));
    way_command_init();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_command_of_redis_is_known),
        cmocka_unit_test(what_redis_calls_a_write_is_one),
        cmocka_unit_test(keys_are_where_redis_has_them),
        cmocka_unit_test(nothing_that_harms_a_shared_connection_is_forwarded),
        cmocka_unit_test(every_row_is_sound),
        cmocka_unit_test(a_name_is_found_in_any_case_and_only_whole),
        cmocka_unit_test(keys_of_each_shape_are_found),
        cmocka_unit_test(arguments_out_of_shape_get_rediss_words),
        cmocka_unit_test(more_keys_than_there_is_room_for_are_counted),
        cmocka_unit_test(a_wrong_number_of_arguments_gets_rediss_words),
        cmocka_unit_test(what_blocks_or_has_no_key_is_refused_by_its_arguments),
    };
    return cmocka_run_group_tests(tests, init, NULL);
}
