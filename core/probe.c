/* probe - see probe.h.
 *
 *             wish given               lease held, tokens there
 *   IDLE ────────────────▶ WAITING ───────────────────────────▶ RUNNING
 *    ▲ ▲     schedule        │ ▲ ▲             start              │
 *    │ └─────────────────────┘ │ └── else: later ──┐              │ finish: result, ask
 *    │        no wish          └───────────────────┘              │
 *    └────────────────────────────────────────────────────────────┘
 *
 * A series is what is known of one node's probes; it stays until the prober ends, for a
 * callback may still look at it when its node has gone. Only the holder of the lease asks
 * the policy after a probe; the others wait on the wish they have, and ask anew when the
 * node's state changes. */
#include "probe.h"

#include "conn.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

enum { WORDS_MAX = 128, POOLED_IDLE = 30, OFFSET_AGE = 10 };
static const double HOST_AFTER = 5;
static const double LEASE_GRACE = 0.5;
/* How often a lease that another process holds is looked at. */
static const double OTHERS_LEAST = 0.25, OTHERS_MOST = 1;

struct series {
    struct way_prober *prober;
    uint16_t node;
    uint32_t generation;
    struct way_probe wish;
    ev_timer due;      /* the next probe, while WAITING */
    ev_timer deadline; /* of the one that runs */
    double due_at, started;
    bool running, leased, again;
    bool own;      /* the wish is the host's, not the policy's */
    uint16_t slot; /* of its shard, when last looked */
    double timeout;
    struct way_conn *conn;
    bool readonly; /* the connection said READONLY */
    struct way_timeouts timeouts;
    int64_t offset;   /* in the replication stream */
    double offset_at; /* 0: never told */
};

struct way_prober {
    struct way_prober_options o;
    struct series *series[WAY_NODES_MAX];
    struct way_request_pool pool;
    uint64_t holder;
    double tokens, refilled; /* of limits.probes_per_second */
    struct way_prober_counts counts;
};

static const struct way_conn_ops ops;
static void start(struct series *s);
static void schedule(struct series *s, bool repeated);

static double now_of(const struct series *s)
{
    return s->prober->o.loop->now;
}

static uint32_t generation_of(struct way_prober *p, unsigned node)
{
    return atomic_load_explicit(&way_health_node(p->o.health, node)->generation,
                                memory_order_relaxed);
}

/* --- INFO replication --- */

/* The value behind "name:" at a line's start, or NULL. */
static const char *field(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = text; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (!strncmp(at, name, n) && at[n] == ':')
            return at + n + 1;
    }
    return NULL;
}

static int64_t number(const char *text, const char *name, int64_t otherwise)
{
    const char *value = field(text, name);
    return value ? strtoll(value, NULL, 10) : otherwise;
}

bool way_replication_parse(const char *text, size_t n, struct way_replication *out)
{
    char *copy = way_strndup(text, n < 65536 ? n : 65536);
    const char *role = field(copy, "role");
    *out = (struct way_replication){ .behind = -1 };
    if (role) {
        out->master = !strncmp(role, "master", 6);
        out->link_up = out->master;
        const char *link = field(copy, "master_link_status");
        if (link)
            out->link_up = !strncmp(link, "up", 2);
        out->last_io = (double)number(copy, "master_last_io_seconds_ago", 0);
        int64_t own = number(copy, "master_repl_offset", 0);
        int64_t done = number(copy, "slave_repl_offset", own);
        int64_t read = number(copy, "slave_read_repl_offset", done);
        out->offset = done;
        out->behind = out->master ? 0 : read > done ? (double)(read - done) : -1;
    }
    way_free(copy);
    return role;
}

/* How far the shard's master had come when it was last asked, or -1. */
static int64_t master_offset(struct series *s)
{
    struct way_health *h = s->prober->o.health;
    uint16_t shard =
        atomic_load_explicit(&way_health_node(h, s->node)->shard, memory_order_relaxed);
    if (shard == WAY_NONE)
        return -1;
    uint16_t master =
        atomic_load_explicit(&way_health_shard(h, shard)->master, memory_order_relaxed);
    const struct series *m = master == WAY_NONE ? NULL : s->prober->series[master];
    bool fresh = m && m->offset_at > 0 && now_of(s) - m->offset_at < OFFSET_AGE;
    return fresh ? m->offset : -1;
}

static void take_replication(struct series *s, const char *bytes, size_t n)
{
    redisReader *reader = redisReaderCreate();
    void *any = NULL;
    struct way_replication r;
    if (redisReaderFeed(reader, bytes, n) == REDIS_OK &&
        redisReaderGetReply(reader, &any) == REDIS_OK && any) {
        redisReply *reply = any;
        if (reply->type == REDIS_REPLY_STRING &&
            way_replication_parse(reply->str, reply->len, &r)) {
            int64_t master = r.master ? -1 : master_offset(s);
            if (master >= 0)
                r.behind = master > r.offset ? (double)(master - r.offset) : 0;
            s->offset = r.offset;
            s->offset_at = now_of(s);
            way_health_replication(s->prober->o.health, s->node, r.link_up, r.last_io,
                                   r.behind);
        }
    }
    if (any)
        freeReplyObject(any);
    redisReaderFree(reader);
}

/* --- one probe --- */

static void close_conn(struct series *s)
{
    if (!s->conn)
        return;
    struct way_conn *c = s->conn;
    s->conn = NULL;
    for (struct way_request *r = way_conn_take(c), *link; r; r = link) {
        link = r->link;
        way_request_give(&s->prober->pool, r);
    }
    way_conn_close(c);
}

/* The words of the wish, its first one's place; 0: "data". */
static unsigned words_of(const struct way_probe *wish, const char *argv[WORDS_MAX])
{
    unsigned n = 0;
    size_t at = 0;
    while (n < wish->words && n < WORDS_MAX && at < sizeof wish->command) {
        argv[n++] = &wish->command[at];
        at += strnlen(wish->command + at, sizeof wish->command - at) + 1;
    }
    return n;
}

/* A slot of the node's shard; false: it owns none. */
static bool find_slot(struct series *s)
{
    const _Atomic uint16_t *slots = way_health_slots(s->prober->o.health);
    uint16_t shard = atomic_load_explicit(
        &way_health_node(s->prober->o.health, s->node)->shard, memory_order_relaxed);
    if (shard == WAY_NONE)
        return false;
    for (unsigned i = 0; i < WAY_SLOTS; i++) {
        uint16_t slot = (uint16_t)((s->slot + i) % WAY_SLOTS);
        if (atomic_load_explicit(&slots[slot], memory_order_relaxed) == shard) {
            s->slot = slot;
            return true;
        }
    }
    return false;
}

static void send_command(struct series *s)
{
    const char *argv[WORDS_MAX];
    char key[16], *bytes;
    unsigned argc = words_of(&s->wish, argv);
    if (argc == 0 && find_slot(s)) {
        way_slot_key(s->slot, key);
        argv[argc++] = "GET";
        argv[argc++] = key;
    } else if (argc == 0) {
        argv[argc++] = "PING"; /* there is no key that it would serve */
    }
    int n = redisFormatCommandArgv(&bytes, (int)argc, argv, NULL);
    if (n < 0)
        return; /* only without memory, and then way_alloc ends us */
    struct way_request *r = way_request_take(&s->prober->pool);
    r->kind = WAY_REQUEST_ASK;
    r->ask = s;
    r->arrived = now_of(s);
    way_conn_send(s->conn, r, bytes, (size_t)n);
    redisFreeCommand(bytes);
}

static void set_timeouts(struct series *s)
{
    const struct way_timeouts *t = s->prober->o.timeouts;
    double most = s->wish.timeout > 0 ? s->wish.timeout : t->read;
    s->timeouts = *t;
    s->timeouts.resolve = t->resolve < most ? t->resolve : most;
    s->timeouts.dial = t->dial < most ? t->dial : most;
    s->timeouts.tls = t->tls < most ? t->tls : most;
    s->timeouts.hello = t->hello < most ? t->hello : most;
    s->timeouts.write = s->timeouts.read = most;
    s->timeout = most;
}

static void open_conn(struct series *s, const struct way_view *v)
{
    const struct way_prober_options *o = &s->prober->o;
    s->readonly = v->role == WAY_ROLE_REPLICA;
    s->conn = way_conn_open(&(struct way_conn_options){
        .loop = o->loop,
        .resolver = o->resolver,
        .timeouts = &s->timeouts,
        .ops = &ops,
        .owner = s,
        .host = v->host,
        .port = v->port,
        .node = s->node,
        .generation = s->generation,
        .resp = 2,
        .readonly = s->readonly,
        .user = o->user,
        .password = o->password,
        .tls = o->tls,
        .reply_bytes = (size_t)o->limits->reply_bytes,
    });
}

static void send_probe(struct series *s)
{
    struct way_snapshot snapshot;
    way_health_snapshot(s->prober->o.health, s->node, now_of(s), &snapshot);
    bool replica = snapshot.view.role == WAY_ROLE_REPLICA;
    if (s->conn && (!s->wish.pooled || s->readonly != replica || s->conn->head ||
                    now_of(s) - s->conn->last_reply > POOLED_IDLE))
        close_conn(s);
    if (!s->conn)
        open_conn(s, &snapshot.view);
    send_command(s);
}

/* e is whole but for what makes it a probe's. */
static void finish(struct series *s, struct way_event *e)
{
    struct way_prober *p = s->prober;
    uint32_t generation = s->generation;
    ev_timer_stop(p->o.loop->ev, &s->deadline);
    s->running = false;
    if (!s->wish.pooled)
        close_conn(s);
    p->counts.failed += e->error != WAY_ERROR_NONE;
    e->kind = WAY_KIND_PROBE;
    e->n = 1;
    e->began = s->started;
    e->now = now_of(s);
    e->unix_time = way_unix();
    e->latency = e->now - s->started;
    e->deadline_left = -1;
    p->o.result(p->o.arg, s->node, e, s->own);
    if (!s->running && generation == s->generation)
        way_prober_ask(p, s->node, e, false);
}

/* The words of an error reply. */
static void fill_error(struct way_event *e, const char *bytes, size_t n)
{
    e->error = WAY_ERROR_REPLY;
    snprintf(e->message, sizeof e->message, "%.*s", (int)(n > 3 ? n - 3 : 0), bytes + 1);
    int word = (int)strcspn(e->message, " ");
    snprintf(e->reply, sizeof e->reply, "%.*s", word, e->message);
}

static void on_reply(struct way_conn *c, struct way_request *r, const char *bytes,
                     size_t n)
{
    struct series *s = c->owner;
    uint32_t written = r->bytes;
    way_request_give(&s->prober->pool, r);
    if (!s->running)
        return;
    struct way_event e = { .bytes_written = written,
                           .phase = WAY_PHASE_READ,
                           .step = WAY_STEP_REPLY,
                           .reused = c->answered > 1,
                           .replies_read = 1,
                           .connection_age = now_of(s) - c->born,
                           .answer = { bytes, n } };
    if (bytes[0] == '-')
        fill_error(&e, bytes, n);
    else if (s->wish.words && !strcasecmp(s->wish.command, "info"))
        take_replication(s, bytes, n);
    finish(s, &e);
}

static void on_batch(struct way_conn *c, unsigned replies)
{
    (void)c, (void)replies;
}

static void on_broke(struct way_conn *c, struct way_event *e)
{
    struct series *s = c->owner;
    for (struct way_request *r = way_conn_take(c), *link; r; r = link) {
        link = r->link;
        way_request_give(&s->prober->pool, r);
    }
    s->conn = NULL;
    bool closed = e->error == WAY_ERROR_EOF || e->error == WAY_ERROR_RESET;
    if (s->running && !s->again && closed && e->reused && !e->replies_read) {
        s->again = true; /* a pooled connection that had gone stale says nothing */
        send_probe(s);
    } else if (s->running) {
        finish(s, e);
    }
}

static const struct way_conn_ops ops = { .reply = on_reply,
                                         .batch = on_batch,
                                         .broke = on_broke };

static void on_deadline(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)events;
    struct series *s = way_container(w, struct series, deadline);
    way_conn_break(s->conn, WAY_ERROR_TIMEOUT, "the probe's time-out");
}

static void start(struct series *s)
{
    struct way_loop *l = s->prober->o.loop;
    s->running = true;
    s->again = false;
    s->started = now_of(s);
    s->prober->counts.probes++;
    set_timeouts(s);
    ev_timer_stop(l->ev, &s->deadline);
    ev_timer_set(&s->deadline, s->timeout, 0.);
    ev_timer_start(l->ev, &s->deadline);
    send_probe(s);
}

/* --- the series --- */

static void wait_until(struct series *s, double at)
{
    struct way_loop *l = s->prober->o.loop;
    s->due_at = at;
    ev_timer_stop(l->ev, &s->due);
    ev_timer_set(&s->due, at > l->now ? at - l->now : 0, 0.);
    ev_timer_start(l->ev, &s->due);
}

static bool is_waiting(const struct series *s)
{
    return ev_is_active(&s->due);
}

/* For as long as a probe that begins after `wait` seconds may take, and half of the wait
 * more: a holder that lives renews it before, one that died is not waited for much longer. */
static bool take_lease(struct series *s, double wait)
{
    double timeout = s->wish.timeout > 0 ? s->wish.timeout : s->prober->o.timeouts->read;
    s->leased = way_health_lease(s->prober->o.health, s->node, s->prober->holder,
                                 now_of(s), 1.5 * wait + timeout + LEASE_GRACE);
    return s->leased;
}

static void give_lease(struct series *s)
{
    if (s->leased)
        way_health_release(s->prober->o.health, s->node, s->prober->holder);
    s->leased = false;
}

/* 0, or how long until a probe may begin. */
static double take_token(struct way_prober *p)
{
    double rate = p->o.limits->probes_per_second, most = rate > 1 ? rate : 1;
    p->tokens += (p->o.loop->now - p->refilled) * rate;
    p->tokens = p->tokens < most ? p->tokens : most;
    p->refilled = p->o.loop->now;
    if (p->tokens < 1)
        return (1 - p->tokens) / rate;
    p->tokens -= 1;
    return 0;
}

/* The time for a probe of the host's own: is one due now? Somebody else may serve in the
 * node's place until its mark ends, and a node that fails no more needs none. */
static bool is_tried(struct series *s)
{
    struct way_verdict v;
    way_health_verdict(s->prober->o.health, s->node, &v);
    if (v.state != WAY_STATE_FAILING)
        give_lease(s);
    else if (v.ends <= 0 || way_health_guards(s->prober->o.health, s->node))
        return true;
    else
        wait_until(s, now_of(s) + s->wish.after);
    return false;
}

static void on_due(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)events;
    struct series *s = way_container(w, struct series, due);
    if (s->own && !is_tried(s))
        return;
    if (!take_lease(s, s->wish.after)) { /* somebody else's: looked at now and then */
        double after = s->wish.after < OTHERS_MOST ? s->wish.after : OTHERS_MOST;
        wait_until(s, now_of(s) + (after > OTHERS_LEAST ? after : OTHERS_LEAST));
        return;
    }
    double later = take_token(s->prober);
    if (later > 0) {
        s->prober->counts.delayed++;
        wait_until(s, now_of(s) + later);
        return;
    }
    start(s);
}

/* What the host does by itself where the policy wishes nothing. The node may be the last
 * one only later, when another is marked: it is looked at then (on_due). */
static void wish_of_host(struct series *s)
{
    struct way_verdict v;
    double after = s->prober->o.host_after;
    after = after > 0 ? after : HOST_AFTER;
    way_health_verdict(s->prober->o.health, s->node, &v);
    s->own = v.state == WAY_STATE_FAILING && (v.ends <= 0 || v.ends - now_of(s) > after);
    if (s->own)
        s->wish = (struct way_probe){ .given = true, .after = after };
}

static void schedule(struct series *s, bool repeated)
{
    s->own = false;
    if (!s->wish.given)
        wish_of_host(s);
    if (!s->wish.given) {
        ev_timer_stop(s->prober->o.loop->ev, &s->due);
        give_lease(s);
        close_conn(s);
        return;
    }
    double now = now_of(s), due = now + (s->wish.after > 0 ? s->wish.after : 0);
    double least = s->started + 1 / s->prober->o.limits->node_probes_per_second;
    if (s->started > 0 && due < least) {
        s->prober->counts.delayed++;
        due = least;
    }
    if (repeated && is_waiting(s) && s->due_at < due)
        due = s->due_at;
    if (s->leased)
        take_lease(s, due - now);
    wait_until(s, due);
}

static void reset(struct series *s)
{
    ev_timer_stop(s->prober->o.loop->ev, &s->due);
    ev_timer_stop(s->prober->o.loop->ev, &s->deadline);
    close_conn(s);
    give_lease(s);
    s->running = s->own = false;
    s->wish = (struct way_probe){ .given = false };
    s->started = s->offset_at = 0;
}

static struct series *series_get(struct way_prober *p, unsigned node)
{
    struct series *s = p->series[node];
    if (!s) {
        s = p->series[node] = way_zalloc(sizeof *s);
        s->prober = p;
        s->node = (uint16_t)node;
        s->generation = generation_of(p, node);
        s->slot = (uint16_t)(way_clock() * 1000);
        ev_timer_init(&s->due, on_due, 0., 0.);
        ev_timer_init(&s->deadline, on_deadline, 0., 0.);
        ev_set_priority(&s->deadline, EV_MINPRI); /* an answer that is here counts */
    }
    if (s->generation != generation_of(p, node)) {
        reset(s);
        s->generation = generation_of(p, node);
    }
    return s;
}

void way_prober_ask(struct way_prober *p, unsigned node, struct way_event *e,
                    bool repeated)
{
    struct series *s = series_get(p, node);
    if (s->running)
        return;
    struct way_probe wish = { .given = false };
    p->o.ask(p->o.arg, node, e, &wish);
    s->wish = wish;
    schedule(s, repeated);
}

void way_prober_forget(struct way_prober *p, unsigned node)
{
    if (!p->series[node])
        return;
    reset(p->series[node]);
    p->series[node]->generation = generation_of(p, node);
}

/* --- life --- */

struct way_prober *way_prober_new(const struct way_prober_options *o)
{
    struct way_prober *p = way_zalloc(sizeof *p);
    struct way_random random;
    p->o = *o;
    p->tokens = o->limits->probes_per_second;
    p->refilled = o->loop->now;
    way_random_seed(&random, 0);
    p->holder = way_random_next(&random) | 1;
    return p;
}

void way_prober_free(struct way_prober *p)
{
    if (!p)
        return;
    for (unsigned i = 0; i < WAY_NODES_MAX; i++) {
        if (p->series[i])
            reset(p->series[i]);
        way_free(p->series[i]);
    }
    way_request_pool_fini(&p->pool);
    way_free(p);
}

void way_prober_counts(const struct way_prober *p, struct way_prober_counts *out)
{
    *out = p->counts;
}
