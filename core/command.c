/* command - see command.h. The table is written by hand in the order of the manual's
 * groups; arity, flags and key positions are those of Redis's own COMMAND reply. It is an
 * allow-list because a new command's worst case is a shared connection that changes hands:
 * what we do not know we do not send. Names are found by open addressing in a table of
 * two bytes per entry, a quarter full; they are folded, hashed and compared eight bytes
 * at a time, since byte by byte that took longer than all else that is done with a name. */
#include "command.h"

#include <stdio.h>
#include <strings.h>

#define NO_KEYS 0, 0, 0
#define ONE_KEY 1, 1, 1
#define TWO_KEYS 1, 2, 1
#define ALL_KEYS 1, -1, 1
#define KEY_AT_2 2, 2, 1
#define ROW(n, a, w, h, j, l, k, f, e, s, by, y)                                         \
    {                                                                                    \
        .name = (n), .arity = (a), .write = (w), .by_args = (by), .how = WAY_HOW_##h,    \
        .join = WAY_JOIN_##j, .local = WAY_LOCAL_##l, .keyspec = WAY_KEYS_##k,           \
        .first = (f), .last = (e), .step = (s), .why = (y)                               \
    }
#define ROW_(...) ROW(__VA_ARGS__)
#define READ(name, arity, keys)                                                          \
    ROW_(name, arity, false, FORWARD, NONE, NONE, RANGE, keys, false, NULL)
#define WRITE(name, arity, keys)                                                         \
    ROW_(name, arity, true, FORWARD, NONE, NONE, RANGE, keys, false, NULL)
#define SUBCOMMANDS(name, arity, write)                                                  \
    ROW_(name, arity, write, FORWARD, NONE, NONE, RANGE, KEY_AT_2, true, NULL)
#define SPLIT(name, arity, write, join, step)                                            \
    ROW(name, arity, write, SPLIT, join, NONE, RANGE, 1, -1, step, false, NULL)
#define NUMKEYS(name, arity, write, at)                                                  \
    ROW(name, arity, write, FORWARD, NONE, NONE, NUMKEYS, at, 0, 1, false, NULL)
#define KEYS(name, arity, write, spec, by_args)                                          \
    ROW(name, arity, write, FORWARD, NONE, NONE, spec, 1, 0, 1, by_args, NULL)
#define LOCAL(name, arity, local)                                                        \
    ROW_(name, arity, false, LOCAL, NONE, local, NONE, NO_KEYS, false, NULL)
#define REFUSE(name, arity, why)                                                         \
    ROW_(name, arity, false, REFUSE, NONE, NONE, NONE, NO_KEYS, false, why)

#define BLOCKS "it blocks its connection, which clients share"
#define CHANGES "it changes its connection, which clients share"
#define TAKES "it takes its connection over, which clients share"
#define PUBSUB "pub/sub needs a connection of its own"
#define ONE_SERVER "it concerns one server: ask the node itself"
#define EACH_SERVER "it concerns every server: ask each node itself"
#define SCRIPTS "scripts live on each node: load them there"
#define MOVING "it is for moving slots between nodes"
#define DATABASES "a cluster has one database only"
#define INTERNAL "it is Redis's own, for tests"

static const struct way_command commands[] = {
    /* strings */
    READ("get", 2, ONE_KEY),
    READ("getrange", 4, ONE_KEY),
    READ("substr", 4, ONE_KEY),
    READ("strlen", 2, ONE_KEY),
    READ("lcs", -3, TWO_KEYS),
    READ("digest", 2, ONE_KEY),
    WRITE("set", -3, ONE_KEY),
    WRITE("setnx", 3, ONE_KEY),
    WRITE("setex", 4, ONE_KEY),
    WRITE("psetex", 4, ONE_KEY),
    WRITE("setrange", 4, ONE_KEY),
    WRITE("getset", 3, ONE_KEY),
    WRITE("getdel", 2, ONE_KEY),
    WRITE("getex", -2, ONE_KEY),
    WRITE("delex", -2, ONE_KEY),
    WRITE("append", 3, ONE_KEY),
    WRITE("incr", 2, ONE_KEY),
    WRITE("decr", 2, ONE_KEY),
    WRITE("incrby", 3, ONE_KEY),
    WRITE("decrby", 3, ONE_KEY),
    WRITE("incrbyfloat", 3, ONE_KEY),
    SPLIT("mget", -2, false, ARRAY, 1),
    SPLIT("mset", -3, true, OK, 2),
    ROW("msetnx", -3, true, FORWARD, NONE, NONE, RANGE, 1, -1, 2, false, NULL),

    /* bits */
    READ("getbit", 3, ONE_KEY),
    READ("bitcount", -2, ONE_KEY),
    READ("bitpos", -3, ONE_KEY),
    READ("bitfield_ro", -2, ONE_KEY),
    WRITE("setbit", 4, ONE_KEY),
    WRITE("bitfield", -2, ONE_KEY),
    ROW("bitop", -4, true, FORWARD, NONE, NONE, RANGE, 2, -1, 1, false, NULL),

    /* keys */
    READ("dump", 2, ONE_KEY),
    READ("expiretime", 2, ONE_KEY),
    READ("pexpiretime", 2, ONE_KEY),
    READ("ttl", 2, ONE_KEY),
    READ("pttl", 2, ONE_KEY),
    READ("type", 2, ONE_KEY),
    WRITE("copy", -3, TWO_KEYS),
    WRITE("expire", -3, ONE_KEY),
    WRITE("expireat", -3, ONE_KEY),
    WRITE("pexpire", -3, ONE_KEY),
    WRITE("pexpireat", -3, ONE_KEY),
    WRITE("persist", 2, ONE_KEY),
    WRITE("rename", 3, TWO_KEYS),
    WRITE("renamenx", 3, TWO_KEYS),
    WRITE("restore", -4, ONE_KEY),
    SPLIT("del", -2, true, SUM, 1),
    SPLIT("unlink", -2, true, SUM, 1),
    SPLIT("exists", -2, false, SUM, 1),
    SPLIT("touch", -2, false, SUM, 1),
    KEYS("sort", -2, true, SORT, false),
    KEYS("sort_ro", -2, false, SORT, false),
    SUBCOMMANDS("object", -3, false),
    SUBCOMMANDS("memory", -3, false),
    REFUSE("move", 3, DATABASES),
    REFUSE("swapdb", 3, DATABASES),
    REFUSE("migrate", -6, MOVING),
    REFUSE("restore-asking", -4, MOVING),
    REFUSE("dbsize", 1, EACH_SERVER),
    REFUSE("keys", 2, EACH_SERVER),
    REFUSE("scan", -2, EACH_SERVER),
    REFUSE("randomkey", 1, EACH_SERVER),
    REFUSE("flushall", -1, EACH_SERVER),
    REFUSE("flushdb", -1, EACH_SERVER),
    REFUSE("wait", 3, "it waits for the writes of its connection, which clients share"),
    REFUSE("waitaof", 4,
           "it waits for the writes of its connection, which clients share"),

    /* hashes */
    READ("hexists", 3, ONE_KEY),
    READ("hget", 3, ONE_KEY),
    READ("hgetall", 2, ONE_KEY),
    READ("hkeys", 2, ONE_KEY),
    READ("hlen", 2, ONE_KEY),
    READ("hmget", -3, ONE_KEY),
    READ("hrandfield", -2, ONE_KEY),
    READ("hscan", -3, ONE_KEY),
    READ("hstrlen", 3, ONE_KEY),
    READ("hvals", 2, ONE_KEY),
    READ("hexpiretime", -5, ONE_KEY),
    READ("hpexpiretime", -5, ONE_KEY),
    READ("httl", -5, ONE_KEY),
    READ("hpttl", -5, ONE_KEY),
    WRITE("hdel", -3, ONE_KEY),
    WRITE("hincrby", 4, ONE_KEY),
    WRITE("hincrbyfloat", 4, ONE_KEY),
    WRITE("hmset", -4, ONE_KEY),
    WRITE("hset", -4, ONE_KEY),
    WRITE("hsetnx", 4, ONE_KEY),
    WRITE("hexpire", -6, ONE_KEY),
    WRITE("hpexpire", -6, ONE_KEY),
    WRITE("hexpireat", -6, ONE_KEY),
    WRITE("hpexpireat", -6, ONE_KEY),
    WRITE("hpersist", -5, ONE_KEY),
    WRITE("hgetdel", -5, ONE_KEY),
    WRITE("hgetex", -5, ONE_KEY),
    WRITE("hsetex", -6, ONE_KEY),

    /* lists */
    READ("lindex", 3, ONE_KEY),
    READ("llen", 2, ONE_KEY),
    READ("lpos", -3, ONE_KEY),
    READ("lrange", 4, ONE_KEY),
    WRITE("linsert", 5, ONE_KEY),
    WRITE("lmove", 5, TWO_KEYS),
    WRITE("lpop", -2, ONE_KEY),
    WRITE("lpush", -3, ONE_KEY),
    WRITE("lpushx", -3, ONE_KEY),
    WRITE("lrem", 4, ONE_KEY),
    WRITE("lset", 4, ONE_KEY),
    WRITE("ltrim", 4, ONE_KEY),
    WRITE("rpop", -2, ONE_KEY),
    WRITE("rpoplpush", 3, TWO_KEYS),
    WRITE("rpush", -3, ONE_KEY),
    WRITE("rpushx", -3, ONE_KEY),
    NUMKEYS("lmpop", -4, true, 1),
    REFUSE("blmove", 6, BLOCKS),
    REFUSE("blmpop", -5, BLOCKS),
    REFUSE("blpop", -3, BLOCKS),
    REFUSE("brpop", -3, BLOCKS),
    REFUSE("brpoplpush", 4, BLOCKS),

    /* sets */
    READ("scard", 2, ONE_KEY),
    READ("sdiff", -2, ALL_KEYS),
    READ("sinter", -2, ALL_KEYS),
    READ("sismember", 3, ONE_KEY),
    READ("smembers", 2, ONE_KEY),
    READ("smismember", -3, ONE_KEY),
    READ("srandmember", -2, ONE_KEY),
    READ("sscan", -3, ONE_KEY),
    READ("sunion", -2, ALL_KEYS),
    WRITE("sadd", -3, ONE_KEY),
    WRITE("sdiffstore", -3, ALL_KEYS),
    WRITE("sinterstore", -3, ALL_KEYS),
    WRITE("smove", 4, TWO_KEYS),
    WRITE("spop", -2, ONE_KEY),
    WRITE("srem", -3, ONE_KEY),
    WRITE("sunionstore", -3, ALL_KEYS),
    NUMKEYS("sintercard", -3, false, 1),

    /* sorted sets */
    READ("zcard", 2, ONE_KEY),
    READ("zcount", 4, ONE_KEY),
    READ("zlexcount", 4, ONE_KEY),
    READ("zmscore", -3, ONE_KEY),
    READ("zrandmember", -2, ONE_KEY),
    READ("zrange", -4, ONE_KEY),
    READ("zrangebylex", -4, ONE_KEY),
    READ("zrangebyscore", -4, ONE_KEY),
    READ("zrank", -3, ONE_KEY),
    READ("zrevrange", -4, ONE_KEY),
    READ("zrevrangebylex", -4, ONE_KEY),
    READ("zrevrangebyscore", -4, ONE_KEY),
    READ("zrevrank", -3, ONE_KEY),
    READ("zscan", -3, ONE_KEY),
    READ("zscore", 3, ONE_KEY),
    WRITE("zadd", -4, ONE_KEY),
    WRITE("zincrby", 4, ONE_KEY),
    WRITE("zpopmax", -2, ONE_KEY),
    WRITE("zpopmin", -2, ONE_KEY),
    WRITE("zrangestore", -5, TWO_KEYS),
    WRITE("zrem", -3, ONE_KEY),
    WRITE("zremrangebylex", 4, ONE_KEY),
    WRITE("zremrangebyrank", 4, ONE_KEY),
    WRITE("zremrangebyscore", 4, ONE_KEY),
    NUMKEYS("zdiff", -3, false, 1),
    NUMKEYS("zinter", -3, false, 1),
    NUMKEYS("zintercard", -3, false, 1),
    NUMKEYS("zunion", -3, false, 1),
    NUMKEYS("zmpop", -4, true, 1),
    ROW("zdiffstore", -4, true, FORWARD, NONE, NONE, STORE_NUMKEYS, 2, 0, 1, false, NULL),
    ROW("zinterstore", -4, true, FORWARD, NONE, NONE, STORE_NUMKEYS, 2, 0, 1, false,
        NULL),
    ROW("zunionstore", -4, true, FORWARD, NONE, NONE, STORE_NUMKEYS, 2, 0, 1, false,
        NULL),
    REFUSE("bzmpop", -5, BLOCKS),
    REFUSE("bzpopmax", -3, BLOCKS),
    REFUSE("bzpopmin", -3, BLOCKS),

    /* HyperLogLog */
    READ("pfcount", -2, ALL_KEYS),
    WRITE("pfadd", -2, ONE_KEY),
    WRITE("pfmerge", -2, ALL_KEYS),
    REFUSE("pfdebug", 3, INTERNAL),
    REFUSE("pfselftest", 1, INTERNAL),

    /* places */
    READ("geodist", -4, ONE_KEY),
    READ("geohash", -2, ONE_KEY),
    READ("geopos", -2, ONE_KEY),
    READ("georadius_ro", -6, ONE_KEY),
    READ("georadiusbymember_ro", -5, ONE_KEY),
    READ("geosearch", -7, ONE_KEY),
    WRITE("geoadd", -5, ONE_KEY),
    WRITE("geosearchstore", -8, TWO_KEYS),
    KEYS("georadius", -6, true, GEORADIUS, false),
    KEYS("georadiusbymember", -5, true, GEORADIUS, false),

    /* streams */
    READ("xlen", 2, ONE_KEY),
    READ("xpending", -3, ONE_KEY),
    READ("xrange", -4, ONE_KEY),
    READ("xrevrange", -4, ONE_KEY),
    WRITE("xack", -4, ONE_KEY),
    WRITE("xackdel", -6, ONE_KEY),
    WRITE("xadd", -5, ONE_KEY),
    WRITE("xautoclaim", -6, ONE_KEY),
    WRITE("xclaim", -6, ONE_KEY),
    WRITE("xdel", -3, ONE_KEY),
    WRITE("xdelex", -5, ONE_KEY),
    WRITE("xsetid", -3, ONE_KEY),
    WRITE("xtrim", -4, ONE_KEY),
    KEYS("xread", -4, false, STREAMS, true),
    KEYS("xreadgroup", -7, true, STREAMS, true),
    SUBCOMMANDS("xinfo", -3, false),
    SUBCOMMANDS("xgroup", -3, true),

    /* vector sets */
    READ("vcard", 2, ONE_KEY),
    READ("vdim", 2, ONE_KEY),
    READ("vemb", -3, ONE_KEY),
    READ("vgetattr", 3, ONE_KEY),
    READ("vinfo", 2, ONE_KEY),
    READ("vismember", 3, ONE_KEY),
    READ("vlinks", -3, ONE_KEY),
    READ("vrandmember", -2, ONE_KEY),
    READ("vsim", -4, ONE_KEY),
    WRITE("vadd", -5, ONE_KEY),
    WRITE("vrem", 3, ONE_KEY),
    WRITE("vsetattr", 4, ONE_KEY),

    /* scripts: what they do is not told by Redis, so they count as writes */
    NUMKEYS("eval", -3, true, 2),
    NUMKEYS("evalsha", -3, true, 2),
    NUMKEYS("fcall", -3, true, 2),
    NUMKEYS("eval_ro", -3, false, 2),
    NUMKEYS("evalsha_ro", -3, false, 2),
    NUMKEYS("fcall_ro", -3, false, 2),
    REFUSE("script", -2, SCRIPTS),
    REFUSE("function", -2, SCRIPTS),

    /* answered here */
    LOCAL("ping", -1, PING),
    LOCAL("echo", 2, ECHO),
    LOCAL("hello", -1, HELLO),
    LOCAL("command", -1, COMMAND),
    LOCAL("client", -2, CLIENT),
    LOCAL("config", -2, CONFIG),
    LOCAL("quit", -1, QUIT),
    LOCAL("info", -1, INFO),
    LOCAL("select", 2, SELECT),
    LOCAL("auth", -2, AUTH),
    LOCAL("reset", 1, RESET),

    /* transactions, pub/sub */
    LOCAL("multi", 1, MULTI),
    LOCAL("exec", 1, EXEC),
    LOCAL("discard", 1, DISCARD),
    ROW_("watch", -2, false, LOCAL, NONE, WATCH, RANGE, ALL_KEYS, false, NULL),
    LOCAL("unwatch", 1, UNWATCH),
    REFUSE("subscribe", -2, PUBSUB),
    REFUSE("unsubscribe", -1, PUBSUB),
    REFUSE("psubscribe", -2, PUBSUB),
    REFUSE("punsubscribe", -1, PUBSUB),
    REFUSE("ssubscribe", -2, PUBSUB),
    REFUSE("sunsubscribe", -1, PUBSUB),
    REFUSE("publish", 3, "pub/sub goes past wayside: publish at a node"),
    REFUSE("spublish", 3, "pub/sub goes past wayside: publish at a node"),
    REFUSE("pubsub", -2, ONE_SERVER),

    /* connections and servers */
    REFUSE("asking", 1, CHANGES),
    REFUSE("readonly", 1, CHANGES),
    REFUSE("readwrite", 1, CHANGES),
    REFUSE("monitor", 1, TAKES),
    REFUSE("sync", 1, TAKES),
    REFUSE("psync", -3, TAKES),
    REFUSE("replconf", -1, TAKES),
    REFUSE("acl", -2, ONE_SERVER),
    REFUSE("bgrewriteaof", 1, ONE_SERVER),
    REFUSE("bgsave", -1, ONE_SERVER),
    REFUSE("cluster", -2, ONE_SERVER),
    REFUSE("debug", -2, ONE_SERVER),
    REFUSE("failover", -1, ONE_SERVER),
    REFUSE("lastsave", 1, ONE_SERVER),
    REFUSE("latency", -2, ONE_SERVER),
    REFUSE("lolwut", -1, ONE_SERVER),
    REFUSE("module", -2, ONE_SERVER),
    REFUSE("replicaof", 3, ONE_SERVER),
    REFUSE("role", 1, ONE_SERVER),
    REFUSE("save", 1, ONE_SERVER),
    REFUSE("shutdown", -1, ONE_SERVER),
    REFUSE("slaveof", 3, ONE_SERVER),
    REFUSE("slowlog", -2, ONE_SERVER),
    REFUSE("time", 1, ONE_SERVER),
};

enum { INDEX_BITS = 10, INDEX_SIZE = 1 << INDEX_BITS, NAME_MAX_BYTES = 24 };
_Static_assert(way_count(commands) <= INDEX_SIZE / 3, "the index is to stay sparse");

/* A name in lower case as three words, which overlap where it is no multiple of eight. */
struct folded_name {
    uint64_t word[3];
    uint64_t bytes;
};

/* Both are written by way_command_init only: 1 + position in commands, 0 free; and the
 * names as they are compared. */
static uint16_t command_index[INDEX_SIZE];
static struct folded_name command_names[way_count(commands)];

/* Eight bytes at once: a bit 0x20 more wherever one is in A..Z. */
static inline uint64_t fold(uint64_t x)
{
    const uint64_t ones = 0x0101010101010101u, high = 0x80 * ones;
    uint64_t low = x & ~high;
    uint64_t from_a = low + (0x80 - 'A') * ones, past_z = low + (0x80 - 'Z' - 1) * ones;
    return x | ((from_a ^ past_z) & ~x & high) >> 2;
}

static inline uint64_t load8(const char *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline uint64_t load_short(const char *p, size_t n)
{
    uint32_t first = 0, last = 0;
    if (n >= 4) {
        memcpy(&first, p, 4);
        memcpy(&last, p + n - 4, 4);
    } else {
        first = (uint32_t)(uint8_t)p[0] | (uint32_t)(uint8_t)p[n / 2] << 8 |
                (uint32_t)(uint8_t)p[n - 1] << 16;
    }
    return first | (uint64_t)last << 32;
}

/* n: 1..NAME_MAX_BYTES. */
static inline struct folded_name folded_name(const char *p, size_t n)
{
    struct folded_name f = { { 0, 0, 0 }, n };
    if (n < 8) {
        f.word[0] = fold(load_short(p, n));
        return f;
    }
    f.word[0] = fold(load8(p));
    f.word[1] = fold(load8(p + n - 8));
    if (n > 16)
        f.word[2] = fold(load8(p + 8));
    return f;
}

static inline unsigned hash_of(const struct folded_name *f)
{
    uint64_t h = (f->word[0] + f->bytes) * 0x9e3779b97f4a7c15u;
    h = (h ^ h >> 32 ^ f->word[1]) * 0xd6e8feb86659fd93u;
    return (unsigned)(h >> (64 - INDEX_BITS));
}

static inline bool same_name(const struct folded_name *a, const struct folded_name *b)
{
    return !((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) |
             (a->word[2] ^ b->word[2]) | (a->bytes ^ b->bytes));
}

void way_command_init(void)
{
    memset(command_index, 0, sizeof command_index);
    for (unsigned i = 0; i < way_count(commands); i++) {
        command_names[i] = folded_name(commands[i].name, strlen(commands[i].name));
        unsigned at = hash_of(&command_names[i]);
        while (command_index[at])
            at = (at + 1) % INDEX_SIZE;
        command_index[at] = (uint16_t)(i + 1);
    }
}

const struct way_command *way_command_find(const char *name, size_t n)
{
    if (!n || n > NAME_MAX_BYTES)
        return NULL;
    struct folded_name f = folded_name(name, n);
    unsigned at = hash_of(&f);
    for (; command_index[at]; at = (at + 1) % INDEX_SIZE) {
        unsigned i = command_index[at] - 1u;
        if (same_name(&f, &command_names[i]))
            return &commands[i];
    }
    return NULL;
}

const struct way_command *way_command_at(unsigned i)
{
    return i < way_count(commands) ? &commands[i] : NULL;
}

static int wrong_number(const struct way_command *c, struct way_err *err)
{
    return way_fail(err, "ERR wrong number of arguments for '%s' command", c->name);
}

int way_command_arity(const struct way_command *c, unsigned count, struct way_err *err)
{
    if (c->arity > 0 ? count != (unsigned)c->arity : count < (unsigned)-c->arity)
        return wrong_number(c, err);
    return 0;
}

int way_command_unknown(const char *p, const struct way_arg *arg, unsigned count,
                        struct way_err *err)
{
    char args[160] = "";
    size_t n = 0;
    for (unsigned i = 1; i < count && n < 128; i++)
        n += (size_t)snprintf(args + n, sizeof args - n, "'%.*s' ",
                              (int)(arg[i].n < 24 ? arg[i].n : 24), p + arg[i].off);
    return way_fail(err, "ERR unknown command '%.*s', with args beginning with: %s",
                    (int)(arg[0].n < 128 ? arg[0].n : 128), p + arg[0].off, args);
}

void way_command_echo(const struct way_command *c, const char *p,
                      const struct way_arg *arg, unsigned count, struct way_buf *out)
{
    if (c->local == WAY_LOCAL_PING && count > 2)
        way_resp_put_error(out, "ERR wrong number of arguments for 'ping' command");
    else if (c->local == WAY_LOCAL_PING && count < 2)
        way_buf_puts(out, "+PONG\r\n");
    else
        way_resp_put_bulk(out, p + arg[1].off, arg[1].n);
}

/* --- keys --- */

/* The request whose keys are looked for, and the list they go to. */
struct search {
    const struct way_command *c;
    const char *p;
    const struct way_arg *arg;
    unsigned count;
    unsigned *position;
    unsigned max, found;
};

static inline void found(struct search *s, unsigned position)
{
    if (s->found < s->max)
        s->position[s->found] = position;
    s->found++;
}

/* Argument i is this word, any case. */
static bool arg_is(const char *p, const struct way_arg *arg, unsigned i,
                   const char *lower)
{
    return arg[i].n == strlen(lower) && !strncasecmp(p + arg[i].off, lower, arg[i].n);
}

static int find_range(struct search *s, struct way_err *err)
{
    unsigned first = (unsigned)s->c->first, step = (unsigned)s->c->step;
    long last = s->c->last < 0 ? (long)s->count + s->c->last : s->c->last;
    if ((long)s->count <= s->c->first || (long)s->count <= last ||
        (s->c->last < 0 && (s->count - first) % step))
        return wrong_number(s->c, err);
    for (long i = first; i <= last; i += step)
        found(s, (unsigned)i);
    return (int)s->found;
}

/* A decimal number, false where it is none. Larger than any count: INT32_MAX. */
static bool small_number(const char *p, size_t n, int64_t *value)
{
    bool negative = n && p[0] == '-';
    int64_t v = 0;
    if (n == negative || n > 20)
        return false;
    for (size_t i = negative; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        v = v * 10 + (p[i] - '0');
        if (v > INT32_MAX)
            v = INT32_MAX;
    }
    *value = negative ? -v : v;
    return true;
}

/* Redis has three families of words for it. */
static int bad_numkeys(const struct search *s, bool number, int64_t n,
                       struct way_err *err)
{
    const char *name = s->c->name;
    bool pops = strstr(name, "mpop"), card = !strcmp(name, "sintercard");
    if (pops || card) {
        if (!number || n <= 0)
            return way_fail(err, "ERR numkeys should be greater than 0");
        return way_fail(err,
                        card ? "ERR Number of keys can't be greater than number of args"
                             : "ERR syntax error");
    }
    if (!number)
        return way_fail(err, "ERR value is not an integer or out of range");
    if (name[0] == 'z')
        return n <= 0
                   ? way_fail(err, "ERR at least 1 input key is needed for '%s' command",
                              name)
                   : way_fail(err, "ERR syntax error");
    return way_fail(err, n < 0
                             ? "ERR Number of keys can't be negative"
                             : "ERR Number of keys can't be greater than number of args");
}

static int find_numkeys(struct search *s, struct way_err *err)
{
    unsigned at = (unsigned)s->c->first;
    int64_t n = 0;
    if (at >= s->count)
        return wrong_number(s->c, err);
    bool number = small_number(s->p + s->arg[at].off, s->arg[at].n, &n);
    bool may_be_none = at == 2 && s->c->keyspec == WAY_KEYS_NUMKEYS; /* scripts */
    if (!number || n < !may_be_none || n > (int64_t)(s->count - at - 1))
        return bad_numkeys(s, number, n, err);
    if (s->c->keyspec == WAY_KEYS_STORE_NUMKEYS)
        found(s, 1);
    for (unsigned i = 1; i <= (unsigned)n; i++)
        found(s, at + i);
    return (int)s->found;
}

/* The options in front of STREAMS: its position, 0 if it is not there. *blocks: BLOCK was
 * among them. */
static unsigned streams_at(const char *p, const struct way_arg *arg, unsigned count,
                           bool *blocks)
{
    for (unsigned i = 1; i < count; i++) {
        if (arg_is(p, arg, i, "streams"))
            return i;
        if (arg_is(p, arg, i, "block")) {
            *blocks = true;
            i++;
        } else if (arg_is(p, arg, i, "count") || arg_is(p, arg, i, "claim")) {
            i++;
        } else if (arg_is(p, arg, i, "group")) {
            i += 2;
        } else if (!arg_is(p, arg, i, "noack")) {
            return 0;
        }
    }
    return 0;
}

static int find_streams(struct search *s, struct way_err *err)
{
    bool blocks = false;
    unsigned at = streams_at(s->p, s->arg, s->count, &blocks);
    if (!at || at + 1 == s->count)
        return way_fail(err, "ERR syntax error");
    unsigned rest = s->count - at - 1;
    if (rest % 2)
        return way_fail(err,
                        "ERR Unbalanced %s list of streams: for each stream key an ID "
                        "or '$' must be specified.",
                        s->c->name[5] ? "XREADGROUP" : "XREAD");
    for (unsigned i = 1; i <= rest / 2; i++)
        found(s, at + i);
    return (int)s->found;
}

static int find_sort(struct search *s)
{
    found(s, 1);
    for (unsigned i = 2; i < s->count; i++) {
        if (arg_is(s->p, s->arg, i, "limit"))
            i += 2;
        else if (arg_is(s->p, s->arg, i, "get") || arg_is(s->p, s->arg, i, "by"))
            i++;
        else if (arg_is(s->p, s->arg, i, "store") && i + 1 < s->count)
            found(s, ++i);
    }
    return (int)s->found;
}

static int find_georadius(struct search *s)
{
    found(s, 1);
    for (unsigned i = 5; i + 1 < s->count; i++)
        if (arg_is(s->p, s->arg, i, "store") || arg_is(s->p, s->arg, i, "storedist"))
            found(s, ++i);
    return (int)s->found;
}

int way_command_keys(const struct way_command *c, const char *p,
                     const struct way_arg *arg, unsigned count, unsigned *position,
                     unsigned max, struct way_err *err)
{
    struct search s = { c, p, arg, count, position, max, 0 };
    switch (c->keyspec) {
    case WAY_KEYS_RANGE: return find_range(&s, err);
    case WAY_KEYS_NUMKEYS:
    case WAY_KEYS_STORE_NUMKEYS: return find_numkeys(&s, err);
    case WAY_KEYS_STREAMS: return find_streams(&s, err);
    case WAY_KEYS_SORT: return count > 1 ? find_sort(&s) : wrong_number(c, err);
    case WAY_KEYS_GEORADIUS: return count > 1 ? find_georadius(&s) : wrong_number(c, err);
    default: return 0;
    }
}

/* --- refusals that depend on the arguments --- */

struct subcommands {
    const char *command;
    const char *with_key[6];
    const char *why;
};

static const struct subcommands subcommands[] = {
    { "object",
      { "encoding", "freq", "idletime", "refcount" },
      "only its subcommands ENCODING, FREQ, IDLETIME and REFCOUNT name a key" },
    { "memory", { "usage" }, "only its subcommand USAGE names a key" },
    { "xinfo",
      { "stream", "groups", "consumers" },
      "only its subcommands STREAM, GROUPS and CONSUMERS name a key" },
    { "xgroup",
      { "create", "createconsumer", "delconsumer", "destroy", "setid" },
      "only its subcommands CREATE, CREATECONSUMER, DELCONSUMER, DESTROY and SETID name "
      "a "
      "key" },
};

static const char *without_key(const struct way_command *c, const char *p,
                               const struct way_arg *arg, unsigned count)
{
    for (unsigned i = 0; i < way_count(subcommands); i++) {
        const struct subcommands *s = &subcommands[i];
        if (strcmp(s->command, c->name))
            continue;
        for (unsigned j = 0; j < way_count(s->with_key) && s->with_key[j]; j++)
            if (count > 2 && arg_is(p, arg, 1, s->with_key[j]))
                return NULL;
        return s->why;
    }
    return NULL;
}

const char *way_command_refused(const struct way_command *c, const char *p,
                                const struct way_arg *arg, unsigned count)
{
    if (c->how == WAY_HOW_REFUSE)
        return c->why;
    if (!c->by_args)
        return NULL;
    if (c->keyspec == WAY_KEYS_STREAMS) {
        bool blocks = false;
        streams_at(p, arg, count, &blocks);
        return blocks ? "with BLOCK " BLOCKS : NULL;
    }
    return without_key(c, p, arg, count);
}
