/* peer - see peer.h.
 *
 * Each asking has a number, its series, which its requests carry: whatever comes for an
 * older one is dropped, so that cancelling needs no search, and starting over with CLUSTER
 * SLOTS is just the next series. */
#include "peer.h"

#include "conn.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <strings.h>

enum { IDLE_SECONDS = 30, REFUSED_SECONDS = 60, TICK_SECONDS = 5, FORGET_SECONDS = 600 };
enum { BEHIND_MAX = 4 }; /* unanswered requests that a peer may owe us */

enum question { ASK_NODES, ASK_SLOTS, ASK_SHARDS };
static const char *const words[] = { "NODES", "SLOTS", "SHARDS" };

struct way_peers {
    struct way_peers_options o;
    struct way_peer *first;
    struct way_request_pool pool;
    ev_timer tick;
};

static const struct way_conn_ops ops;

/* --- asking --- */

static void give_queue(struct way_peers *s, struct way_request *r)
{
    while (r) {
        struct way_request *link = r->link;
        way_request_give(&s->pool, r);
        r = link;
    }
}

static void drop_conn(struct way_peer *p)
{
    if (!p->conn)
        return;
    struct way_conn *c = p->conn;
    p->conn = NULL;
    give_queue(p->set, way_conn_take(c));
    way_conn_close(c);
}

static void open_conn(struct way_peer *p)
{
    const struct way_peers_options *o = &p->set->o;
    p->conn = way_conn_open(&(struct way_conn_options){
        .loop = o->loop,
        .resolver = o->resolver,
        .timeouts = o->timeouts,
        .ops = &ops,
        .owner = p,
        .host = p->host,
        .port = p->port,
        .node = p->node,
        .generation = p->generation,
        .resp = 2,
        .user = o->user,
        .password = o->password,
        .tls = o->tls,
        .reply_bytes = (size_t)o->limits->reply_bytes,
    });
}

static void send_question(struct way_peer *p, enum question q)
{
    const char *argv[] = { "CLUSTER", words[q] };
    char *bytes;
    int n = redisFormatCommandArgv(&bytes, 2, argv, NULL);
    if (n < 0)
        return; /* only without memory, and then way_alloc ends us */
    struct way_request *r = way_request_take(&p->set->pool);
    r->kind = WAY_REQUEST_ASK;
    r->ask = p;
    r->part = p->series * 4 + q;
    r->arrived = p->set->o.loop->now;
    way_conn_send(p->conn, r, bytes, (size_t)n);
    redisFreeCommand(bytes);
    p->waiting++;
}

static void send_questions(struct way_peer *p)
{
    double now = p->set->o.loop->now;
    if (!p->conn)
        open_conn(p);
    p->series++;
    p->waiting = 0;
    send_question(p, now < p->nodes_refused ? ASK_SLOTS : ASK_NODES);
    if (now >= p->shards_refused)
        send_question(p, ASK_SHARDS);
}

bool way_peer_ask(struct way_peer *p)
{
    if (p->asking || (p->conn && p->conn->inflight >= BEHIND_MAX))
        return false;
    p->asking = true;
    p->again = false;
    p->used = p->set->o.loop->now;
    if (!p->topology)
        p->topology = way_topology_new();
    send_questions(p);
    return true;
}

static void end_asking(struct way_peer *p)
{
    p->asking = false;
    p->series++;
}

void way_peer_cancel(struct way_peer *p)
{
    if (!p->asking)
        return;
    end_asking(p);
    if (p->conn && p->conn->ready_at == 0)
        drop_conn(p);
}

static void tell(struct way_peer *p, const char *why)
{
    end_asking(p);
    struct way_topology *t = p->topology;
    p->topology = NULL;
    p->set->o.told(p->set->o.arg, p, why ? NULL : t, why);
    way_topology_free(t);
}

/* --- answers --- */

/* "-ERR ..." without its frame. */
static const char *error_text(const char *bytes, size_t n, char out[WAY_MESSAGE_MAX])
{
    snprintf(out, WAY_MESSAGE_MAX, "%.*s", (int)(n > 3 ? n - 3 : 0), bytes + 1);
    return out;
}

static bool is_refusal(const char *text)
{
    return !strncmp(text, "NOPERM", 6) || !strncasecmp(text, "ERR unknown", 11) ||
           !strncasecmp(text, "ERR Unknown", 11);
}

/* The text of CLUSTER NODES out of its reply. */
static int parse_nodes(struct way_peer *p, const char *bytes, size_t n,
                       struct way_err *err)
{
    redisReader *reader = redisReaderCreate();
    void *reply = NULL;
    int result;
    if (redisReaderFeed(reader, bytes, n) != REDIS_OK ||
        redisReaderGetReply(reader, &reply) != REDIS_OK || !reply)
        result = way_fail(err, "CLUSTER NODES: %s", reader->errstr);
    else if (((redisReply *)reply)->type != REDIS_REPLY_STRING)
        result = way_fail(err, "CLUSTER NODES: the reply is no text");
    else
        result = way_topology_parse_nodes(p->topology, ((redisReply *)reply)->str,
                                          ((redisReply *)reply)->len, p->host, err);
    if (reply)
        freeReplyObject(reply);
    redisReaderFree(reader);
    return result;
}

/* NULL, or why the answer is of no use; sets *over where the asking began anew. */
static const char *take_answer(struct way_peer *p, enum question q, const char *bytes,
                               size_t n, struct way_err *err, bool *over)
{
    double now = p->set->o.loop->now;
    char text[WAY_MESSAGE_MAX];
    bool error = bytes[0] == '-';
    if (q == ASK_SHARDS) {
        if (error ? is_refusal(error_text(bytes, n, text))
                  : way_topology_add_shards(p->topology, bytes, n, err) < 0)
            p->shards_refused = now + REFUSED_SECONDS;
        return NULL;
    }
    if (error && q == ASK_NODES && is_refusal(error_text(bytes, n, text))) {
        p->nodes_refused = now + REFUSED_SECONDS;
        *over = true;
        send_questions(p);
        return NULL;
    }
    if (error) {
        way_fail(err, "CLUSTER %s: %s", words[q], error_text(bytes, n, text));
        return err->text;
    }
    int bad = q == ASK_NODES
                  ? parse_nodes(p, bytes, n, err)
                  : way_topology_parse_slots(p->topology, bytes, n, p->host, err);
    return bad < 0 ? err->text : NULL;
}

static bool owns_slots(const struct way_topology *t)
{
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++)
        if (t->owner[slot] != WAY_SLOT_UNOWNED)
            return true;
    return false;
}

static void on_reply(struct way_conn *c, struct way_request *r, const char *bytes,
                     size_t n)
{
    struct way_peer *p = c->owner;
    enum question q = r->part % 4;
    bool current = p->asking && r->part / 4 == (p->series & (UINT32_MAX / 4));
    way_request_give(&p->set->pool, r);
    if (!current)
        return;
    struct way_err err = { "" };
    bool over = false;
    const char *why = take_answer(p, q, bytes, n, &err, &over);
    p->waiting -= over ? 0 : 1;
    if (why)
        tell(p, why);
    else if (!over && p->waiting == 0)
        tell(p, owns_slots(p->topology) ? NULL : "it knows of no slot's owner");
}

static void on_batch(struct way_conn *c, unsigned replies)
{
    (void)c, (void)replies;
}

/* The node closed a connection that had served: that says nothing, a fresh one will. */
static bool is_stale(const struct way_event *e)
{
    return e->reused && e->replies_read == 0 && e->phase != WAY_PHASE_CONNECT &&
           (e->error == WAY_ERROR_EOF || e->error == WAY_ERROR_RESET);
}

static void on_broke(struct way_conn *c, struct way_event *e)
{
    struct way_peer *p = c->owner;
    struct way_peers *s = p->set;
    bool idle = !c->head && e->phase != WAY_PHASE_CONNECT;
    p->conn = NULL;
    give_queue(s, way_conn_take(c));
    if (p->asking && !p->again && is_stale(e)) {
        p->again = true;
        send_questions(p);
        return;
    }
    char why[WAY_MESSAGE_MAX + 64];
    snprintf(why, sizeof why, "%s: %s %s%s%s", way_phase_name(e->phase),
             way_step_name(e->step), way_error_name(e->error), e->message[0] ? ": " : "",
             e->message);
    if (!idle && p->node != WAY_NONE_NODE && s->o.failed)
        s->o.failed(s->o.arg, p, e);
    if (p->asking)
        tell(p, why);
}

static const struct way_conn_ops ops = { .reply = on_reply,
                                         .batch = on_batch,
                                         .broke = on_broke };

/* --- the set --- */

static void free_peer(struct way_peer *p)
{
    drop_conn(p);
    way_topology_free(p->topology);
    way_free(p);
}

/* Closes what was not used for a while, and forgets whom nobody asks any more. */
static void on_tick(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)events;
    struct way_peers *s = way_container(w, struct way_peers, tick);
    double now = s->o.loop->now;
    for (struct way_peer **at = &s->first; *at;) {
        struct way_peer *p = *at;
        if (!p->asking && now - p->used > IDLE_SECONDS)
            drop_conn(p);
        if (!p->asking && now - p->used > FORGET_SECONDS) {
            *at = p->next;
            free_peer(p);
        } else {
            at = &p->next;
        }
    }
}

struct way_peer *way_peer_get(struct way_peers *s, const char *host, uint16_t port,
                              uint16_t node, uint32_t generation)
{
    struct way_peer *p = s->first;
    while (p && (p->port != port || strcmp(p->host, host)))
        p = p->next;
    if (!p) {
        p = way_zalloc(sizeof *p);
        p->set = s;
        p->port = port;
        p->used = s->o.loop->now;
        snprintf(p->host, sizeof p->host, "%s", host);
        p->next = s->first;
        s->first = p;
    }
    p->node = node;
    p->generation = generation;
    return p;
}

struct way_peers *way_peers_new(const struct way_peers_options *o)
{
    struct way_peers *s = way_zalloc(sizeof *s);
    s->o = *o;
    ev_timer_init(&s->tick, on_tick, TICK_SECONDS, TICK_SECONDS);
    ev_timer_start(o->loop->ev, &s->tick);
    return s;
}

void way_peers_free(struct way_peers *s)
{
    if (!s)
        return;
    ev_timer_stop(s->o.loop->ev, &s->tick);
    while (s->first) {
        struct way_peer *p = s->first;
        s->first = p->next;
        free_peer(p);
    }
    way_request_pool_fini(&s->pool);
    way_free(s);
}
