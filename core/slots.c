/* slots - see slots.h. The sum is taken four bytes at a step (slicing): a key's bytes would
 * otherwise wait for each other. CRC is linear, so each table follows from the sums of the
 * eight single bits, and the tables below are written as that. Texts are walked in place;
 * nodes are few, so finding one by its id is a walk too. */
#include "slots.h"

#include "resp.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <strings.h>

/* --- keys --- */

#define BIT(i, b, sum) (((i) >> (b)&1) ? (sum) : 0)
#define ENTRY(i, s0, s1, s2, s3, s4, s5, s6, s7)                                         \
    (BIT(i, 0, s0) ^ BIT(i, 1, s1) ^ BIT(i, 2, s2) ^ BIT(i, 3, s3) ^ BIT(i, 4, s4) ^     \
     BIT(i, 5, s5) ^ BIT(i, 6, s6) ^ BIT(i, 7, s7))
/* The sum of byte i, and of byte i followed by one, two, three zero bytes. */
#define SUM0(i) ENTRY(i, 0x1021, 0x2042, 0x4084, 0x8108, 0x1231, 0x2462, 0x48c4, 0x9188)
#define SUM1(i) ENTRY(i, 0x3331, 0x6662, 0xccc4, 0x89a9, 0x0373, 0x06e6, 0x0dcc, 0x1b98)
#define SUM2(i) ENTRY(i, 0x3730, 0x6e60, 0xdcc0, 0xa9a1, 0x4363, 0x86c6, 0x1dad, 0x3b5a)
#define SUM3(i) ENTRY(i, 0x76b4, 0xed68, 0xcaf1, 0x85c3, 0x1ba7, 0x374e, 0x6e9c, 0xdd38)
#define FOUR(sum, i) sum(i), sum((i) + 1), sum((i) + 2), sum((i) + 3)
#define SIXTEEN(sum, i)                                                                  \
    FOUR(sum, i), FOUR(sum, (i) + 4), FOUR(sum, (i) + 8), FOUR(sum, (i) + 12)
#define SIXTYFOUR(sum, i)                                                                \
    SIXTEEN(sum, i), SIXTEEN(sum, (i) + 16), SIXTEEN(sum, (i) + 32),                     \
        SIXTEEN(sum, (i) + 48)
#define TABLE(sum)                                                                       \
    {                                                                                    \
        SIXTYFOUR(sum, 0), SIXTYFOUR(sum, 64), SIXTYFOUR(sum, 128), SIXTYFOUR(sum, 192)  \
    }
static const uint16_t sums[4][256] = { TABLE(SUM0), TABLE(SUM1), TABLE(SUM2),
                                       TABLE(SUM3) };

static inline uint16_t crc_byte(uint16_t crc, char c)
{
    return (uint16_t)(crc << 8 ^ sums[0][crc >> 8 ^ (uint8_t)c]);
}

static inline uint16_t crc16(const char *s, size_t n)
{
    const uint8_t *p = (const uint8_t *)s;
    uint16_t crc = 0;
    for (; n >= 4; n -= 4, p += 4)
        crc = sums[3][p[0] ^ crc >> 8] ^ sums[2][p[1] ^ (crc & 0xff)] ^ sums[1][p[2]] ^
              sums[0][p[3]];
    for (; n; n--, p++)
        crc = crc_byte(crc, (char)*p);
    return crc;
}

uint16_t way_slot_of(const char *key, size_t n)
{
    const char *open = n ? memchr(key, '{', n) : NULL;
    if (open) {
        const char *tag = open + 1;
        const char *close = memchr(tag, '}', n - (size_t)(tag - key));
        if (close && close > tag) {
            key = tag;
            n = (size_t)(close - tag);
        }
    }
    return crc16(key, n) % WAY_SLOTS;
}

/* A key, whose first four digits are in place with their sum crc, gets two more: true if it
 * is of slot then. */
static bool end_key(uint16_t crc, uint16_t slot, char *digit)
{
    for (digit[0] = '0'; digit[0] <= '9'; digit[0]++) {
        uint16_t next = crc_byte(crc, digit[0]);
        for (digit[1] = '0'; digit[1] <= '9'; digit[1]++)
            if (crc_byte(next, digit[1]) % WAY_SLOTS == slot)
                return true;
    }
    return false;
}

void way_slot_key(uint16_t slot, char key[16])
{
    for (unsigned high = 0; high < 10000; high++) {
        snprintf(key, 16, "{%04u__}", high);
        if (end_key(crc16(key + 1, 4), slot, key + 5))
            return;
    }
    key[0] = 0; /* no such slot: 0..16383 all have a key of six digits */
}

/* --- topologies --- */

enum { NODES_MAX = 4096 };

struct way_topology *way_topology_new(void)
{
    struct way_topology *t = way_zalloc(sizeof *t);
    memset(t->owner, 0xff, sizeof t->owner);
    return t;
}

void way_topology_free(struct way_topology *t)
{
    if (t)
        way_free(t->node);
    way_free(t);
}

static void topology_clear(struct way_topology *t)
{
    t->count = 0;
    t->has_epochs = false;
    t->current_epoch = 0;
    memset(t->owner, 0xff, sizeof t->owner);
}

/* A zeroed node more, or NULL: too many. */
static struct way_topo_node *node_add(struct way_topology *t)
{
    if (t->count == NODES_MAX)
        return NULL;
    if (t->count == t->room) {
        t->room = t->room ? t->room * 2 : 16;
        t->node = way_realloc(t->node, t->room * sizeof *t->node);
    }
    struct way_topo_node *node = &t->node[t->count++];
    *node = (struct way_topo_node){ 0 };
    return node;
}

static struct way_topo_node *node_find(struct way_topology *t, const char *id, size_t n)
{
    for (unsigned i = 0; i < t->count; i++)
        if (strlen(t->node[i].id) == n && !memcmp(t->node[i].id, id, n))
            return &t->node[i];
    return NULL;
}

static bool may_own(const struct way_topo_node *node)
{
    return node->master && !node->handshake && !node->noaddr && node->port &&
           node->host[0];
}

/* Copies with NUL; false: does not fit. */
static bool copy(char *to, size_t room, struct way_span s)
{
    if (s.n >= room || memchr(s.p, 0, s.n))
        return false;
    memcpy(to, s.p, s.n);
    to[s.n] = 0;
    return true;
}

static bool span_is(struct way_span s, const char *word)
{
    return s.n == strlen(word) && !memcmp(s.p, word, s.n);
}

/* Takes off what stands before the next separator, and the separator. */
static struct way_span cut(struct way_span *rest, char separator)
{
    const char *end = rest->n ? memchr(rest->p, separator, rest->n) : NULL;
    struct way_span part = { rest->p, end ? (size_t)(end - rest->p) : rest->n };
    size_t taken = part.n + (end != NULL);
    rest->p += taken;
    rest->n -= taken;
    return part;
}

/* Decimal digits only, at most max. */
static bool decimal(struct way_span s, uint64_t max, uint64_t *value)
{
    uint64_t v = 0;
    for (size_t i = 0; i < s.n; i++) {
        unsigned digit = (unsigned)(unsigned char)s.p[i] - '0';
        if (digit > 9 || __builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, digit, &v))
            return false;
    }
    *value = v;
    return s.n && v <= max;
}

static const char *last_colon(struct way_span s)
{
    return s.n ? memrchr(s.p, ':', s.n) : NULL;
}

/* "host:port", host perhaps in brackets or empty; -1: not that shape. Port may be 0. */
static int host_and_port(struct way_span s, char host[WAY_HOST_MAX], uint16_t *port)
{
    const char *colon = last_colon(s);
    if (!colon)
        return -1;
    struct way_span h = { s.p, (size_t)(colon - s.p) };
    struct way_span digits = { colon + 1, s.n - h.n - 1 };
    uint64_t v;
    if (h.n >= 2 && h.p[0] == '[' && h.p[h.n - 1] == ']') {
        h.p++;
        h.n -= 2;
    }
    if (!decimal(digits, 65535, &v) || !copy(host, WAY_HOST_MAX, h))
        return -1;
    *port = (uint16_t)v;
    return 0;
}

int way_split_address(const char *text, size_t n, char host[WAY_HOST_MAX], uint16_t *port,
                      struct way_err *err)
{
    if (host_and_port((struct way_span){ text, n }, host, port) || !*port)
        return way_fail(err, "'%.*s' is not host:port with a port in 1..65535",
                        n > 300 ? 300 : (int)n, text);
    return 0;
}

char way_redirect_parse(const char *p, size_t n, uint16_t *slot, char host[WAY_HOST_MAX],
                        uint16_t *port)
{
    struct way_span rest = { p, n };
    while (rest.n && (rest.p[rest.n - 1] == '\n' || rest.p[rest.n - 1] == '\r'))
        rest.n--;
    struct way_span word = cut(&rest, ' ');
    char kind = span_is(word, "-MOVED") ? 'M' : span_is(word, "-ASK") ? 'A' : 0;
    uint64_t v;
    if (!kind || !decimal(cut(&rest, ' '), WAY_SLOTS - 1, &v))
        return 0;
    struct way_span address = cut(&rest, ' ');
    if (host_and_port(address, host, port) || !*port)
        return 0;
    *slot = (uint16_t)v;
    return kind;
}

/* --- CLUSTER NODES --- */

/* What may follow an address behind commas: a hostname, then name=value. */
static int parse_aux(struct way_topo_node *node, struct way_span aux)
{
    if (!copy(node->hostname, sizeof node->hostname, cut(&aux, ',')))
        return -1;
    while (aux.n) {
        struct way_span value = cut(&aux, ',');
        struct way_span name = cut(&value, '=');
        uint64_t port;
        if (!span_is(name, "tls-port"))
            continue;
        if (!decimal(value, 65535, &port))
            return -1;
        node->tls_port = (uint16_t)port;
    }
    return 0;
}

/* host:port[@cport][,hostname[,name=value]...] */
static int parse_address(struct way_topo_node *node, struct way_span field)
{
    struct way_span address = cut(&field, ',');
    struct way_span rest = address;
    struct way_span plain = cut(&rest, '@');
    if (host_and_port(plain, node->host, &node->port))
        return -1;
    return parse_aux(node, field);
}

static void parse_flags(struct way_topo_node *node, struct way_span field)
{
    while (field.n) {
        struct way_span flag = cut(&field, ',');
        node->myself |= span_is(flag, "myself");
        node->master |= span_is(flag, "master");
        node->fail |= span_is(flag, "fail");
        node->pfail |= span_is(flag, "fail?");
        node->handshake |= span_is(flag, "handshake");
        node->noaddr |= span_is(flag, "noaddr");
    }
}

/* "7" or "0-5460"; those that are moving ("[93-<-id]") are told by redirects. */
static int parse_slots(struct way_topology *t, unsigned owner, struct way_span field)
{
    uint64_t first, last;
    if (field.n && field.p[0] == '[')
        return 0;
    struct way_span from = cut(&field, '-');
    if (!decimal(from, WAY_SLOTS - 1, &first))
        return -1;
    last = first;
    if (field.n && !decimal(field, WAY_SLOTS - 1, &last))
        return -1;
    if (!may_own(&t->node[owner]))
        return 0;
    for (uint64_t slot = first; slot <= last; slot++)
        t->owner[slot] = (uint16_t)owner;
    return 0;
}

/* The fields before the slots; NULL or what is wrong. */
static const char *parse_node(struct way_topo_node *node, struct way_span *line,
                              const char *asked_host)
{
    struct way_span id = cut(line, ' ');
    if (!id.n || !copy(node->id, sizeof node->id, id))
        return "no node id";
    if (parse_address(node, cut(line, ' ')))
        return "no address";
    parse_flags(node, cut(line, ' '));
    struct way_span master = cut(line, ' ');
    if (!master.n || !copy(node->master_id, sizeof node->master_id, master))
        return "no master id";
    if (span_is(master, "-"))
        node->master_id[0] = 0;
    cut(line, ' '); /* ping sent */
    cut(line, ' '); /* pong received */
    if (!decimal(cut(line, ' '), UINT64_MAX, &node->config_epoch))
        return "no config epoch";
    struct way_span link = cut(line, ' ');
    node->link_up = span_is(link, "connected");
    if (!node->link_up && !span_is(link, "disconnected"))
        return "no link state";
    if (!node->host[0] && !node->noaddr)
        snprintf(node->host, sizeof node->host, "%s", asked_host);
    return NULL;
}

static const char *parse_line(struct way_topology *t, struct way_span line,
                              const char *asked_host)
{
    struct way_topo_node *node = node_add(t);
    if (!node)
        return "too many nodes";
    const char *wrong = parse_node(node, &line, asked_host);
    if (wrong)
        return wrong;
    if (node_find(t, node->id, strlen(node->id)) != node)
        return "a node id that was there before";
    if (node->config_epoch > t->current_epoch)
        t->current_epoch = node->config_epoch;
    while (line.n) {
        struct way_span field = cut(&line, ' ');
        if (field.n && parse_slots(t, t->count - 1, field))
            return "no slot range";
    }
    return NULL;
}

int way_topology_parse_nodes(struct way_topology *t, const char *text, size_t n,
                             const char *asked_host, struct way_err *err)
{
    struct way_span rest = { text, n };
    topology_clear(t);
    for (unsigned number = 1; rest.n; number++) {
        struct way_span line = cut(&rest, '\n');
        if (line.n && line.p[line.n - 1] == '\r')
            line.n--;
        if (!line.n)
            continue;
        const char *wrong = parse_line(t, line, asked_host);
        if (wrong)
            return way_fail(err, "CLUSTER NODES, line %u: %s", number, wrong);
    }
    if (!t->count)
        return way_fail(err, "CLUSTER NODES: no nodes");
    t->has_epochs = true;
    return 0;
}

/* --- CLUSTER SLOTS and SHARDS --- */

/* RESP3's maps and sets come from hiredis with their own types, elements as in an array;
 * hiredis before 1.0 knows neither types nor names. */
static bool is_list(const redisReply *r)
{
#ifdef REDIS_REPLY_MAP
    if (r->type == REDIS_REPLY_MAP || r->type == REDIS_REPLY_SET)
        return true;
#endif
    return r->type == REDIS_REPLY_ARRAY;
}

static bool is_text(const redisReply *r)
{
    return r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS;
}

/* The text of a reply; what is none (a null) is empty. */
static struct way_span text_of(const redisReply *r)
{
    return is_text(r) ? (struct way_span){ r->str, (size_t)r->len } : WAY_SPAN("");
}

static const redisReply *list_at(const redisReply *list, size_t i)
{
    return i < list->elements && is_list(list->element[i]) ? list->element[i] : NULL;
}

/* The value behind a name in a flat list of names and values, or NULL. */
static const redisReply *value_of(const redisReply *list, const char *name)
{
    for (size_t i = 0; i + 1 < list->elements; i += 2) {
        struct way_span s = text_of(list->element[i]);
        if (s.n == strlen(name) && !strncasecmp(s.p, name, s.n))
            return list->element[i + 1];
    }
    return NULL;
}

static bool port_of(const redisReply *r, uint16_t *port)
{
    if (!r || r->type != REDIS_REPLY_INTEGER || r->integer < 0 || r->integer > 65535)
        return false;
    *port = (uint16_t)r->integer;
    return true;
}

/* Decodes a whole reply that must be a list. It is framed first: what hiredis allocates
 * for a count is then bounded by the bytes that came. NULL: err is told. */
static redisReply *decode(const char *resp, size_t n, const char *command,
                          struct way_err *err)
{
    void *decoded = NULL;
    if (way_reply_length(resp, n) != n || !n) {
        way_fail(err, "%s: not a whole reply", command);
        return NULL;
    }
    redisReader *reader = redisReaderCreate();
    redisReply *r = NULL;
    if (!reader || redisReaderFeed(reader, resp, n) ||
        redisReaderGetReply(reader, &decoded)) {
        way_fail(err, "%s: %s", command, reader ? reader->errstr : "out of memory");
    } else if ((r = decoded) && !is_list(r)) {
        way_fail(err, "%s: %.*s", command,
                 r->type == REDIS_REPLY_ERROR ? (int)r->len : 10,
                 r->type == REDIS_REPLY_ERROR ? r->str : "not a list");
        freeReplyObject(r);
        r = NULL;
    } else if (!r) {
        way_fail(err, "%s: not a reply that can be decoded", command);
    }
    if (reader)
        redisReaderFree(reader);
    return r;
}

/* What else is told of a node in CLUSTER SLOTS, by name. An ip there means that the host is
 * a name, or "?" where the node has none. */
static int slots_names(struct way_topo_node *node, const redisReply *more)
{
    const redisReply *name = more ? value_of(more, "hostname") : NULL;
    const redisReply *ip = more ? value_of(more, "ip") : NULL;
    if (!strcmp(node->host, "?")) {
        node->host[0] = 0;
        if (ip && !copy(node->host, sizeof node->host, text_of(ip)))
            return -1;
    } else if (ip && !name) {
        memcpy(node->hostname, node->host, sizeof node->hostname);
    }
    return name && !copy(node->hostname, sizeof node->hostname, text_of(name)) ? -1 : 0;
}

/* One node of CLUSTER SLOTS: [host, port, id, [name, value, ...]]. NULL: out of shape. */
static struct way_topo_node *slots_node(struct way_topology *t, const redisReply *r,
                                        const char *asked_host)
{
    if (r->elements < 3)
        return NULL;
    struct way_span host = text_of(r->element[0]), id = text_of(r->element[2]);
    uint16_t port;
    if (!id.n || id.n >= WAY_ID_MAX || !port_of(r->element[1], &port))
        return NULL;
    struct way_topo_node *node = node_find(t, id.p, id.n);
    if (node)
        return node;
    node = node_add(t);
    if (!node || !copy(node->id, sizeof node->id, id) ||
        !copy(node->host, sizeof node->host, host))
        return NULL;
    node->port = port;
    node->link_up = true;
    if (!host.n)
        snprintf(node->host, sizeof node->host, "%s", asked_host);
    return slots_names(node, list_at(r, 3)) ? NULL : node;
}

/* [first, last, master, replica...] */
static int slots_range(struct way_topology *t, const redisReply *r,
                       const char *asked_host)
{
    const redisReply *master = list_at(r, 2);
    if (!master || r->element[0]->type != REDIS_REPLY_INTEGER ||
        r->element[1]->type != REDIS_REPLY_INTEGER)
        return -1;
    long long first = r->element[0]->integer, last = r->element[1]->integer;
    if (first < 0 || last >= WAY_SLOTS || first > last)
        return -1;
    struct way_topo_node *node = slots_node(t, master, asked_host);
    if (!node)
        return -1;
    node->master = true;
    node->master_id[0] = 0;
    unsigned owner = (unsigned)(node - t->node);
    if (may_own(node))
        for (long long slot = first; slot <= last; slot++)
            t->owner[slot] = (uint16_t)owner;
    for (size_t i = 3; i < r->elements; i++) {
        const redisReply *replica = list_at(r, i);
        node = replica ? slots_node(t, replica, asked_host) : NULL;
        if (!node)
            return -1;
        if (!node->master)
            memcpy(node->master_id, t->node[owner].id, sizeof node->master_id);
    }
    return 0;
}

int way_topology_parse_slots(struct way_topology *t, const char *resp, size_t n,
                             const char *asked_host, struct way_err *err)
{
    topology_clear(t);
    redisReply *r = decode(resp, n, "CLUSTER SLOTS", err);
    if (!r)
        return -1;
    int result = 0;
    for (size_t i = 0; i < r->elements && !result; i++) {
        const redisReply *range = list_at(r, i);
        if (!range || slots_range(t, range, asked_host))
            result = way_fail(err, "CLUSTER SLOTS: entry %zu is out of shape", i + 1);
    }
    if (!result && !t->count)
        result = way_fail(err, "CLUSTER SLOTS: no nodes");
    freeReplyObject(r);
    return result;
}

/* One node of CLUSTER SHARDS; those that t does not have, and odd values, are passed by. */
static void shards_node(struct way_topology *t, const redisReply *r)
{
    const redisReply *id = value_of(r, "id"), *hostname = value_of(r, "hostname");
    const redisReply *health = value_of(r, "health");
    struct way_topo_node *node = id ? node_find(t, text_of(id).p, text_of(id).n) : NULL;
    if (!node)
        return;
    port_of(value_of(r, "tls-port"), &node->tls_port);
    if (hostname && text_of(hostname).n && text_of(hostname).n < WAY_HOST_MAX)
        copy(node->hostname, sizeof node->hostname, text_of(hostname));
    if (health && is_text(health)) {
        node->health_known = true;
        node->online = span_is(text_of(health), "online");
        node->loading = span_is(text_of(health), "loading");
    }
}

int way_topology_add_shards(struct way_topology *t, const char *resp, size_t n,
                            struct way_err *err)
{
    redisReply *r = decode(resp, n, "CLUSTER SHARDS", err);
    if (!r)
        return -1;
    int result = 0;
    for (size_t i = 0; i < r->elements && !result; i++) {
        const redisReply *shard = list_at(r, i);
        const redisReply *nodes = shard ? value_of(shard, "nodes") : NULL;
        if (!nodes || !is_list(nodes)) {
            result = way_fail(err, "CLUSTER SHARDS: shard %zu has no nodes", i + 1);
            break;
        }
        for (size_t j = 0; j < nodes->elements; j++)
            if (list_at(nodes, j))
                shards_node(t, list_at(nodes, j));
    }
    freeReplyObject(r);
    return result;
}
