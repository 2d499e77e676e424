/* own - connections of a client's own: for transactions, and for what follows a WATCH.
 *
 *   way_own_new ──▶ no connection ── attach ──▶ taken ──▶ way_own_unref ──▶ idle, or closed
 *                        ▲                        │
 *                        └── give_back, forget ───┘   (with a WATCH in force: lost)
 *
 * A session (struct way_own) is what a client needs a connection for: one transaction, or a
 * WATCH and all of its slot up to EXEC. Its connection comes from the node's idle ones or
 * is dialed when the first command is sent, and goes back when the session and all its
 * commands have ended; a WATCH that is still in force is ended by an UNWATCH behind which
 * nobody waits.
 *
 * A transaction is one request: its bytes are the whole unit, MULTI to EXEC, which stays
 * with the request. On the connection it is several: those before EXEC are of the kind
 * whose reply is dropped, after a look at it. So certainty is that of EXEC's last byte, and
 * retry.c needs to know nothing of it. ASKING goes once before MULTI: within MULTI it would
 * be queued, and Redis keeps the flag until EXEC.
 *
 * Order: all these requests are detours (pipeline.h), for they go another way than the
 * client's other commands of the slot. They wait for what of their bucket is in flight, and
 * what follows waits for them. */
#include "upstream.h"

#include "resp.h"
#include "slots.h"

#include <assert.h>
#include <stdio.h>

enum { IDLE_MAX = 64 };
enum helper {
    HELPER_ASIDE,
    HELPER_MULTI,
    HELPER_QUEUED
}; /* way_request.part of ASKING */

struct way_own {
    struct way_dispatch *dispatch;
    struct way_link *link; /* NULL: none yet, or no more */
    unsigned refs;         /* the client's, and one per request */
    bool watched;          /* a WATCH is in force on the connection */
    bool lost;             /* it was, and is no more */
    bool asking;           /* the slot is being moved to this node: ASKING before each */
    bool multi_refused, executed; /* of the unit in flight: what its replies told */
    char *error;                  /* the first error reply before EXEC's; owned */
    size_t unit_bytes;
    struct {
        uint8_t error, phase, step, class;
        uint16_t node;
    } cause; /* of lost */
};

static void own_reply(struct way_conn *c, struct way_request *r, const char *bytes,
                      size_t n);
static void own_broke(struct way_conn *c, struct way_event *e);
static void own_drained(struct way_conn *c);

const struct way_conn_ops way_own_ops = {
    .reply = own_reply,
    .batch = way_upstream_batch,
    .ready = way_upstream_ready,
    .broke = own_broke,
    .drained = own_drained,
};

/* ---- the connections of a node that nobody has ---- */

static void make_idle(struct way_link *l)
{
    struct way_dispatch *d = l->dispatch;
    struct way_conn *c = l->conn;
    struct way_upstream *u = &d->up[c->node];
    if (c->closed || c->draining || l->own || l->is_idle || c->carried)
        return; /* who carries it gives it back */
    if (u->idle_count >= IDLE_MAX) {
        way_conn_drain(c);
        return;
    }
    l->is_idle = true;
    l->idle = u->idle;
    u->idle = l;
    u->idle_count++;
}

static void leave_idle(struct way_link *l)
{
    struct way_upstream *u = &l->dispatch->up[l->conn->node];
    struct way_link **at = &u->idle;
    if (!l->is_idle)
        return;
    while (*at != l)
        at = &(*at)->idle;
    *at = l->idle;
    l->is_idle = false;
    u->idle_count--;
}

static struct way_link *find_idle(struct way_dispatch *d, unsigned node, uint8_t resp)
{
    struct way_node *n = way_health_node(d->o.health, node);
    for (struct way_link *l = d->up[node].idle; l; l = l->idle)
        if (l->conn->resp == resp && !l->conn->draining && !l->conn->readonly &&
            l->conn->generation == atomic_load(&n->generation))
            return l;
    return NULL;
}

/* Closes one that is idle, to make room: true if there was one. */
static bool close_an_idle_one(struct way_dispatch *d)
{
    for (struct way_link *l = d->links; l; l = l->next) {
        if (l->is_idle) {
            way_conn_drain(l->conn);
            return true;
        }
    }
    return false;
}

/* The connection is gone, or closes: nobody has it any more. */
static void forget(struct way_link *l)
{
    struct way_own *s = l->own;
    leave_idle(l);
    l->dispatch->own_count--;
    l->dispatch->up[l->conn->node].own_count--;
    l->own = NULL;
    if (!s)
        return;
    s->link = NULL;
    s->lost |= s->watched;
    s->watched = false;
}

static void remember_cause(struct way_own *s, unsigned node, const struct way_event *e)
{
    if (s->lost && s->cause.error)
        return;
    s->cause.error = (uint8_t)e->error;
    s->cause.phase = (uint8_t)e->phase;
    s->cause.step = (uint8_t)e->step;
    s->cause.class = e->class;
    s->cause.node = (uint16_t)node;
}

/* ---- sessions ---- */

static void send_aside(struct way_dispatch *d, struct way_conn *c, const char *bytes,
                       size_t n, enum helper what)
{
    struct way_request *r = way_request_take(d->o.pool);
    r->kind = WAY_REQUEST_ASKING;
    r->part = what;
    way_conn_send(c, r, bytes, n);
}

/* Lets the connection go; a WATCH that is in force is ended, and is lost to the session. */
static void give_back(struct way_own *s)
{
    static const char unwatch[] = "*1\r\n$7\r\nUNWATCH\r\n";
    struct way_link *l = s->link;
    if (!l)
        return;
    bool watched = s->watched;
    s->link = NULL;
    s->watched = false;
    s->lost |= watched;
    l->own = NULL;
    if (l->conn->head) /* what is in flight may watch once more: not for others */
        way_conn_drain(l->conn);
    else if (watched && !l->conn->closed)
        send_aside(l->dispatch, l->conn, unwatch, sizeof unwatch - 1, HELPER_ASIDE);
    else
        make_idle(l);
}

struct way_own *way_own_new(struct way_dispatch *d)
{
    struct way_own *s = way_zalloc(sizeof *s);
    s->dispatch = d;
    s->refs = 1;
    s->cause.node = WAY_NONE_NODE;
    return s;
}

void way_own_unref(struct way_own *s)
{
    if (--s->refs)
        return;
    give_back(s);
    way_free(s->error);
    way_free(s);
}

void way_own_lose(struct way_own *s)
{
    struct way_event e = { .error = WAY_ERROR_CANCELLED,
                           .phase = WAY_PHASE_CONNECT,
                           .step = WAY_STEP_HELLO,
                           .class = WAY_CLASS_CALLER };
    remember_cause(s, WAY_NONE, &e);
    give_back(s);
    s->lost = true;
}

static void watch_failed(struct way_own *s, const struct way_request *r)
{
    struct way_event e = { .phase = (enum way_phase)r->last.phase,
                           .step = (enum way_step)r->last.step,
                           .class = r->last.class };
    e.error = r->last.error ? (enum way_error)r->last.error : WAY_ERROR_CANCELLED;
    if (!s->cause.error)
        remember_cause(s, r->last.node, &e);
    s->lost = true;
}

bool way_own_answer(struct way_dispatch *d, struct way_request *r, const char *bytes,
                    size_t n)
{
    struct way_own *s = r->ask;
    struct way_pipeline *p = r->pipeline;
    bool grew = false;
    if (r->part == WAY_OWN_WATCH && (!n || bytes[0] != '+'))
        watch_failed(s, r);
    if (p)
        grew = way_pipeline_answer(p, r, bytes, n);
    else
        way_request_give(d->o.pool, r);
    way_own_unref(s);
    return grew;
}

/* ---- there ---- */

/* Whatever protected it is gone: it is not sent. */
static void answer_lost(struct way_dispatch *d, struct way_request *r)
{
    struct way_own *s = r->ask;
    bool doubt = r->flags & WAY_FLAG_DOUBT;
    struct way_buf b = { 0 };
    enum way_certainty certainty = doubt ? WAY_CERTAINTY_UNKNOWN : WAY_CERTAINTY_UNSENT;
    way_stat_add(d->o.stats, WAY_STAT_ERR_UNSENT + certainty, 1);
    way_resp_put_error(&b, "WAYSIDE %s phase=%s step=%s certainty=%s class=%s node=%s %s",
                       way_error_name(s->cause.error), way_phase_name(s->cause.phase),
                       way_step_name(s->cause.step), way_certainty_name(certainty),
                       way_decider_class_name(d->o.decider, s->cause.class),
                       way_upstream_address(d, s->cause.node),
                       doubt ? "the watch was lost; the transaction may or may not have "
                               "been executed"
                             : "the watch was lost: the transaction was not executed");
    way_upstream_answer(d, r, b.p, b.len);
    way_buf_fini(&b);
}

static struct way_link *open_own(struct way_dispatch *d, struct way_request *r,
                                 unsigned node, uint8_t resp)
{
    if (!d->o.carry)
        return way_upstream_link(d, node, resp, &way_own_ops);
    struct way_conn *c = d->o.carry(d->o.carry_arg, r->pipeline, node, true);
    return c ? c->data : NULL;
}

/* A connection for the session: false if there is none, and r goes another way then. */
static bool attach(struct way_dispatch *d, struct way_own *s, struct way_request *r,
                   const char *bytes, size_t n, bool *trial)
{
    struct way_route to = { 0 };
    uint8_t resp = r->pipeline ? r->pipeline->resp : 2;
    if (!way_upstream_route(d, r, bytes, n, &to))
        return false;
    struct way_link *l = find_idle(d, to.node, resp);
    enum way_error error = WAY_ERROR_NONE;
    if (l) {
        leave_idle(l);
    } else if (d->own_count >= d->limits->transaction_connections &&
               !close_an_idle_one(d)) {
        error = WAY_ERROR_OVERFLOW;
    } else if ((l = open_own(d, r, to.node, resp))) {
        d->own_count++;
        d->up[to.node].own_count++;
    }
    if (!l) {
        if (to.trial)
            way_health_trial_end(d->o.health, to.node, d->o.row, true);
        way_upstream_fail(d, r, to.node, error, WAY_STEP_QUEUE, bytes, n);
        return false;
    }
    *trial = to.trial;
    s->asking = r->flags & WAY_FLAG_ASKED;
    s->link = l;
    l->own = s;
    return true;
}

/* MULTI, the commands, EXEC: each a request of its own on the connection, the last is r. */
static void send_unit(struct way_dispatch *d, struct way_own *s, struct way_request *r)
{
    struct way_request_parser parser = { 0 };
    struct way_err err;
    struct way_conn *c = s->link->conn;
    const char *p = r->own_bytes;
    size_t left = s->unit_bytes;
    enum helper what = HELPER_MULTI;
    way_free(s->error);
    s->error = NULL;
    s->multi_refused = s->executed = false;
    while (left) {
        ssize_t len =
            way_request_parse(&parser, p, left, SIZE_MAX / 64, SIZE_MAX / 2, &err);
        assert(len > 0); /* it was parsed when it was queued */
        if ((size_t)len == left)
            way_conn_send(c, r, p, left);
        else
            send_aside(d, c, p, (size_t)len, what);
        what = HELPER_QUEUED;
        p += len;
        left -= (size_t)len;
        way_request_parser_reset(&parser);
    }
    way_request_parser_fini(&parser);
}

static void put(struct way_dispatch *d, struct way_own *s, struct way_request *r,
                const char *bytes, size_t n, bool trial)
{
    static const char asking[] = "*1\r\n$6\r\nASKING\r\n";
    struct way_conn *c = s->link->conn;
    if (s->asking)
        send_aside(d, c, asking, sizeof asking - 1, HELPER_ASIDE);
    if (r->part == WAY_OWN_UNIT) {
        way_retry_own(r, bytes, n);
        send_unit(d, s, r);
    } else {
        way_conn_send(c, r, bytes, n);
    }
    if (c->carried)
        way_upstream_inflight(d, c);
    if (trial) {
        r->flags |= WAY_FLAG_TRIAL;
        s->link->trials++;
    }
}

/* The connection closes when it is empty, for its node has changed. */
static void leave(struct way_own *s)
{
    struct way_event e = { .error = WAY_ERROR_RESET,
                           .phase = WAY_PHASE_CONNECT,
                           .step = WAY_STEP_ROUTE,
                           .class = WAY_CLASS_STALE_ROUTE };
    remember_cause(s, s->link->conn->node, &e);
    s->link->own = NULL;
    s->link = NULL;
    s->lost |= s->watched;
    s->watched = false;
}

void way_own_send(struct way_dispatch *d, struct way_request *r, const char *bytes,
                  size_t n)
{
    struct way_own *s = r->ask;
    bool trial = false;
    if (r->pipeline)
        way_pipeline_detour(r->pipeline, r);
    if (s->link && s->link->conn->draining)
        leave(s);
    if (r->part == WAY_OWN_UNIT) {
        s->unit_bytes = n;
        r->bytes = (uint32_t)n;
    }
    if (s->lost && r->part != WAY_OWN_PLAIN)
        answer_lost(d, r);
    else if (!s->link && r->part == WAY_OWN_PLAIN)
        way_upstream_plain(d, r, bytes, n); /* nothing is watched: no need of its own */
    else if (s->link || attach(d, s, r, bytes, n, &trial))
        put(d, s, r, bytes, n, trial);
}

/* ---- and back ---- */

/* A reply before EXEC's: what it means for the unit. */
static void note(struct way_own *s, enum helper what, const char *bytes, size_t n)
{
    static const char queued[] = "+QUEUED\r\n", ok[] = "+OK\r\n";
    if (what == HELPER_ASIDE)
        return;
    const char *want = what == HELPER_MULTI ? ok : queued;
    if (bytes[0] != '-') {
        s->executed |= n != strlen(want) || memcmp(bytes, want, n) != 0;
        return;
    }
    s->multi_refused |= what == HELPER_MULTI;
    if (!s->error)
        s->error = way_strndup(bytes, n);
}

/* The error that decides what becomes of a discarded transaction: the first one at
 * queueing, or the reason that EXEC's reply names, or that reply. */
static void deciding_error(const struct way_own *s, const char *bytes, size_t n,
                           struct way_buf *out)
{
    static const char discarded[] = "-EXECABORT Transaction discarded because of: ";
    size_t skip = sizeof discarded - 1;
    if (s->error) {
        way_buf_puts(out, s->error);
    } else if (n > skip && !strncmp(bytes, discarded, skip)) {
        way_buf_puts(out, "-");
        way_buf_put(out, bytes + skip, n - skip);
    } else {
        way_buf_put(out, bytes, n);
    }
}

/* The node ran a command outside of the transaction, or said what nobody says there: what
 * has happened is unknown, and the connection can't be trusted. */
static void unit_broken(struct way_dispatch *d, struct way_conn *c, struct way_request *r)
{
    struct way_link *l = c->data;
    struct way_event e = { .kind = WAY_KIND_RESULT,
                           .phase = WAY_PHASE_READ,
                           .step = WAY_STEP_REPLY,
                           .error = WAY_ERROR_PROTOCOL,
                           .n = 1 };
    snprintf(e.message, sizeof e.message, "a transaction's command was not queued");
    e.now = d->o.loop->now;
    e.unix_time = way_unix();
    e.began = r->sent;
    e.deadline_left = -1;
    way_decide_classify(d->o.decider, &e);
    way_upstream_fail_trial(d, l, r, &e);
    way_conn_drain(c); /* nothing is in flight on it: it closes */
    way_retry_remember(r, c->node, &e, WAY_CERTAINTY_UNKNOWN);
    way_retry_add(d, c->node, &e, true, r, r->own_bytes, r->bytes);
}

static void exec_failed(struct way_dispatch *d, struct way_conn *c, struct way_request *r,
                        const char *bytes, size_t n)
{
    struct way_own *s = r->ask;
    struct way_buf why = { 0 };
    deciding_error(s, bytes, n, &why);
    c->answered_bytes = (struct way_span){ r->own_bytes, r->bytes }; /* the whole unit */
    if (!way_upstream_error_reply(d, c, r, why.p, why.len)) {
        struct way_buf b = { 0 };
        if (s->error)
            way_resp_put_error(&b, "EXECABORT Transaction discarded because of: %.*s",
                               (int)(why.len > 3 ? why.len - 3 : 0), why.p + 1);
        else
            way_buf_put(&b, bytes, n);
        way_upstream_good(d, c, r);
        way_upstream_answer(d, r, b.p, b.len);
        way_buf_fini(&b);
    }
    way_buf_fini(&why);
}

/* EXEC's reply: the watch is over, the connection clean. */
static void unit_replied(struct way_dispatch *d, struct way_conn *c,
                         struct way_request *r, const char *bytes, size_t n)
{
    struct way_own *s = r->ask;
    bool abandoned = r->flags & WAY_FLAG_ABANDONED;
    r->bytes = (uint32_t)s->unit_bytes;
    if (s->executed || (s->multi_refused && bytes[0] != '-')) {
        if (!abandoned) {
            unit_broken(d, c, r);
            return;
        }
        way_conn_drain(c);
    }
    if (bytes[0] == '-' && s->watched) { /* a further attempt would be unprotected */
        struct way_event e = { .error = WAY_ERROR_REPLY,
                               .phase = WAY_PHASE_READ,
                               .step = WAY_STEP_REPLY,
                               .class = WAY_CLASS_STALE_ROUTE };
        remember_cause(s, c->node, &e);
        s->lost = true;
    }
    s->watched = false;
    if (bytes[0] == '-') {
        s->refs++; /* it may end with r */
        give_back(s);
        exec_failed(d, c, r, bytes, n);
        way_own_unref(s);
        return;
    }
    way_upstream_good(d, c, r);
    way_upstream_answer(d, r, bytes, n);
}

/* A command of a watching client. A redirect ends what is watched; any error before that
 * leaves the connection, for the next attempt may go elsewhere. */
static void plain_replied(struct way_dispatch *d, struct way_conn *c,
                          struct way_request *r, const char *bytes, size_t n)
{
    struct way_own *s = r->ask;
    char host[WAY_HOST_MAX];
    uint16_t slot, port;
    bool good = bytes[0] != '-';
    if (r->part == WAY_OWN_WATCH && good)
        s->watched = s->link == c->data;
    if (!good && (!s->watched || way_redirect_parse(bytes, n, &slot, host, &port))) {
        struct way_event e = { .error = WAY_ERROR_REPLY,
                               .phase = WAY_PHASE_READ,
                               .step = WAY_STEP_REPLY,
                               .class = WAY_CLASS_STALE_ROUTE };
        struct way_span own = c->answered_bytes;
        char *copy = way_strndup(own.p, own.n); /* UNWATCH may go behind it */
        remember_cause(s, c->node, &e);
        give_back(s);
        c->answered_bytes = (struct way_span){ copy, own.n };
        if (!way_upstream_error_reply(d, c, r, bytes, n)) {
            way_upstream_good(d, c, r);
            way_upstream_answer(d, r, bytes, n);
        }
        way_free(copy);
        return;
    }
    if (!good && way_upstream_error_reply(d, c, r, bytes, n))
        return;
    way_upstream_good(d, c, r);
    way_upstream_answer(d, r, bytes, n);
}

static void own_reply(struct way_conn *c, struct way_request *r, const char *bytes,
                      size_t n)
{
    struct way_link *l = c->data;
    struct way_dispatch *d = l->dispatch;
    l->sampled = r->sent;
    l->again += r->attempt > 1;
    if (r->kind == WAY_REQUEST_OWN && r->part == WAY_OWN_UNIT) {
        unit_replied(d, c, r, bytes, n);
    } else if (r->kind == WAY_REQUEST_OWN) {
        plain_replied(d, c, r, bytes, n);
    } else {
        if (l->own)
            note(l->own, (enum helper)r->part, bytes, n);
        way_request_give(d->o.pool, r);
        if (!l->own && !c->head)
            make_idle(l);
    }
}

static void own_drained(struct way_conn *c)
{
    forget(c->data);
    way_upstream_drained(c);
}

static const struct way_own *unit_of(const struct way_request *r)
{
    return r->ask;
}

static void own_broke(struct way_conn *c, struct way_event *e)
{
    struct way_link *l = c->data;
    struct way_own *s = l->own;
    e->n = 0;
    for (struct way_request *r = c->head; r; r = r->link) {
        e->n += r->kind == WAY_REQUEST_OWN;
        if (r->kind == WAY_REQUEST_OWN && r->part == WAY_OWN_UNIT)
            r->bytes =
                (uint32_t)unit_of(r)->unit_bytes; /* all of it goes again, if any does */
    }
    if (s) {
        way_decide_classify(l->dispatch->o.decider, e);
        remember_cause(s, c->node, e);
    }
    forget(l);
    way_upstream_broke(c, e);
}

void way_own_close(struct way_link *l)
{
    if (l->exclusive)
        forget(l);
}

/* ---- order per client and slot ---- */

static void detour_if_in_flight(struct way_pipeline *p, struct way_request *q,
                                uint16_t slot)
{
    if (q && q->state == WAY_REQUEST_SENT &&
        q->slot % WAY_DETOUR_BUCKETS == slot % WAY_DETOUR_BUCKETS)
        way_pipeline_detour(p, q);
}

void way_own_submit(struct way_dispatch *d, struct way_request *r, const char *bytes,
                    size_t n)
{
    struct way_pipeline *p = r->pipeline;
    for (struct way_request *q = p->head; q != r; q = q->next) {
        detour_if_in_flight(p, q->join ? NULL : q, r->slot);
        for (unsigned i = 0; q->join && i < way_join_parts(q->join); i++)
            detour_if_in_flight(p, way_join_pending(q->join, i), r->slot);
    }
    if (way_pipeline_has_detour(p, r->slot))
        way_upstream_behind(d, p, r, bytes, n);
    else
        way_own_send(d, r, bytes, n);
}

void way_dispatch_own(struct way_dispatch *d, struct way_own *s, struct way_request *r,
                      enum way_own_part part, const char *bytes, size_t n)
{
    r->kind = WAY_REQUEST_OWN;
    r->part = part;
    r->ask = s;
    s->refs++;
    way_own_submit(d, r, bytes, n);
}
