/* dispatch - see dispatch.h.
 *
 * The success path: submit ▶ route (four loads) ▶ way_conn_send (one copy) ▶ write at the
 * pass's end ▶ on_reply ▶ way_pipeline_answer (one copy). No lock, no Lua, no allocation:
 * requests come from a pool, buffers stay with their connections.
 *
 * Whatever fails leaves it for retry.c: a broken connection (way_upstream_broke), an error reply
 * that is no answer (on_error_reply), a command that finds no node or no connection. */
#include "dispatch.h"

#include "log.h"
#include "slots.h"
#include "upstream.h"

#include <stdio.h>

/* ---- answers ---- */

void way_upstream_answer(struct way_dispatch *d, struct way_request *r, const char *bytes,
                         size_t n)
{
    struct way_pipeline *p = r->pipeline;
    bool grew = false;
    if (r->kind == WAY_REQUEST_COMMAND && p)
        grew = way_pipeline_answer(p, r, bytes, n);
    else if (r->kind == WAY_REQUEST_PART)
        grew = way_join_answer(r, bytes, n);
    else if (r->kind == WAY_REQUEST_OWN)
        grew = way_own_answer(d, r, bytes, n);
    else
        way_request_give(d->o.pool, r);
    if (p && (grew ||
              (double)p->held_live + (double)p->joining > d->limits->client_output_bytes))
        d->grew(p); /* early replies without bound are the writer's business too */
}

static void count_inflight(struct way_dispatch *d, unsigned node)
{
    struct way_upstream *u = &d->up[node];
    uint64_t n =
        (u->conn[0] ? u->conn[0]->inflight : 0) + (u->conn[1] ? u->conn[1]->inflight : 0);
    if (!d->o.carry)
        atomic_store_explicit(&d->cells[node].inflight, n, memory_order_relaxed);
}

static void count(_Atomic uint64_t *cell, uint64_t n)
{
    uint64_t v = atomic_load_explicit(cell, memory_order_relaxed);
    atomic_store_explicit(cell, v + n, memory_order_relaxed);
}

/* Where each connection is one pipeline's, there is no list of a node's: the difference
 * counts. */
void way_upstream_inflight(struct way_dispatch *d, struct way_conn *c)
{
    struct way_link *l = c->data;
    if (!d->o.carry) {
        count_inflight(d, c->node);
        return;
    }
    count(&d->cells[c->node].inflight, (uint64_t)c->inflight - l->counted_in);
    l->counted_in = c->inflight;
}

/* ---- decisions ---- */

static void let_go(struct way_dispatch *d, struct way_conn *c)
{
    struct way_conn **place = &d->up[c->node].conn[c->resp - 2];
    if (*place != c)
        return;
    *place = NULL;
    d->retired++;
}

/* What a client compares: it rises when the way of a command may be another one. */
static uint64_t ways(const struct way_dispatch *d)
{
    return atomic_load_explicit(d->epoch, memory_order_acquire) + d->retired;
}

/* A mark said: drop, or drain, this node's connections. Listed first: what breaks may
 * open new ones. */
static void drop_connections(struct way_dispatch *d, unsigned node, bool drain)
{
    unsigned n = 0, most = 0;
    for (struct way_link *l = d->links; l; l = l->next)
        most += l->conn->node == node;
    struct way_conn **all = way_alloc((most + 1) * sizeof *all);
    for (struct way_link *l = d->links; l; l = l->next)
        if (l->conn->node == node)
            all[n++] = l->conn;
    for (unsigned i = 0; i < n; i++) {
        if (all[i]->closed)
            continue;
        let_go(d, all[i]);
        ((struct way_link *)all[i]->data)->dropped = !drain;
        if (drain)
            way_conn_drain(all[i]);
        else
            way_conn_break(all[i], WAY_ERROR_RESET, "dropped: its node was marked");
    }
    way_free(all);
    count_inflight(d, node);
}

static void apply_drops(struct way_dispatch *d, unsigned node)
{
    struct way_verdict v;
    way_health_verdict(d->o.health, node, &v);
    if (v.drops == d->up[node].drops)
        return;
    d->up[node].drops = v.drops;
    drop_connections(d, node, v.connections == WAY_CONNECTIONS_DRAIN);
}

void way_upstream_apply(struct way_dispatch *d, unsigned node,
                        const struct way_decision *decision)
{
    if (decision->refresh)
        d->o.refresh(d->o.arg);
    if (decision->mark.has & WAY_MARK_CONNECTIONS || decision->edges)
        apply_drops(d, node);
}

/* A result that the policy wants to hear of: the first success, a trial's end. */
static void tell_result(struct way_dispatch *d, unsigned node, struct way_event *e)
{
    struct way_decision decision;
    e->kind = WAY_KIND_RESULT;
    e->phase = WAY_PHASE_READ;
    e->step = WAY_STEP_REPLY;
    e->now = d->o.loop->now;
    e->unix_time = way_unix();
    e->deadline_left = -1;
    way_decide_watched(d->o.decider, node, e, &decision);
    way_upstream_apply(d, node, &decision);
}

/* ---- the policy's counters ---- */

static void report(struct way_dispatch *d, unsigned node, const struct way_report *r)
{
    struct way_decision decision;
    way_decide_report(d->o.decider, node, r, &decision);
    if (decision.edges)
        way_upstream_apply(d, node, &decision);
}

/* The event of a trial's end includes it. */
static void report_trial(struct way_dispatch *d, struct way_link *l,
                         const struct way_request *r)
{
    double now = d->o.loop->now;
    struct way_report good = { .now = now, .good = 1, .latency = now - r->sent };
    if (!way_decider_counts(d->o.decider))
        return;
    l->counted++;
    report(d, l->conn->node, &good);
}

/* A batch of replies, with the failures among them where there are any: they are told at the
 * end of the pass. */
static void report_batch(struct way_dispatch *d, struct way_link *l, unsigned replies)
{
    unsigned node = l->conn->node;
    double now = d->o.loop->now;
    struct way_report good = { .now = now,
                               .good = l->good - l->counted,
                               .latency = now - l->sampled,
                               .requests = replies - l->again };
    l->counted = l->again = 0;
    struct way_batch *b = d->batches;
    while (b && !(b->mark && b->node == node))
        b = b->next;
    if (!b) {
        report(d, node, &good);
        return;
    }
    good.good += b->good.good;
    good.requests += b->good.requests;
    b->good = good;
}

void way_upstream_retried(struct way_dispatch *d, unsigned node, unsigned retries)
{
    struct way_report r = { .now = d->o.loop->now, .retries = retries };
    if (retries && node < WAY_NODES_MAX && way_decider_counts(d->o.decider))
        report(d, node, &r);
}

static void end_trial(struct way_dispatch *d, struct way_link *l, struct way_request *r,
                      bool good)
{
    unsigned node = l->conn->node;
    r->flags &= (uint16_t)~WAY_FLAG_TRIAL;
    l->trials--;
    way_health_trial_end(d->o.health, node, d->o.row, !good);
    if (!good)
        return;
    report_trial(d, l, r);
    struct way_event e = {
        .trial = true, .n = 1, .began = r->sent, .latency = d->o.loop->now - r->sent
    };
    tell_result(d, node, &e);
}

/* ---- redirects ---- */

static void follow_ask(struct way_dispatch *d, struct way_request *r, unsigned node,
                       const char *bytes, size_t n)
{
    way_stat_add(d->o.stats, WAY_STAT_ASK, 1);
    r->target = (uint16_t)node;
    r->flags |= WAY_FLAG_ASKED;
    way_upstream_send(d, r, bytes, n);
}

static void follow_moved(struct way_dispatch *d, struct way_request *r,
                         struct way_conn *on, uint16_t slot, unsigned node,
                         const char *bytes, size_t n)
{
    unsigned from = on->node;
    way_stat_add(d->o.stats, WAY_STAT_MOVED, 1);
    d->o.refresh(d->o.arg);
    if (node == from) {
        /* It says that it moved to itself: the name may mean another machine by now. */
        struct way_conn *c =
            d->o.carry ? on : d->up[node].conn[r->pipeline ? r->pipeline->resp - 2 : 0];
        if (c) {
            let_go(d, c);
            way_conn_drain(c);
        }
    } else {
        way_health_moved(d->o.health, slot, node, d->o.loop->now);
    }
    r->target = (uint16_t)node;
    way_upstream_send(d, r, bytes, n);
    r->target = WAY_NONE_NODE;
}

/* True: it was one, and was followed. r's bytes are copied first: the buffer they are in
 * may be written to meanwhile. */
static bool on_redirect(struct way_dispatch *d, struct way_conn *c, struct way_request *r,
                        const char *reply, size_t n)
{
    char host[WAY_HOST_MAX];
    uint16_t slot, port;
    char kind = way_redirect_parse(reply, n, &slot, host, &port);
    if (!kind || r->redirects >= d->limits->redirects)
        return false;
    /* The other node's trials are others: this one ended with neither success nor blame. */
    struct way_event neither = { .blame = WAY_BLAME_ROUTE };
    way_upstream_fail_trial(d, c->data, r, &neither);
    r->redirects++;
    r->attempt--; /* a redirect is no failed attempt */
    r->flags &= (uint16_t) ~(WAY_FLAG_ASKED | WAY_FLAG_MASTER);
    r->target = WAY_NONE_NODE;
    if (r->pipeline)
        way_pipeline_detour(r->pipeline, r);
    unsigned node = host[0] ? way_health_find(d->o.health, host, port) : c->node;
    struct way_span own = c->answered_bytes;
    if (node == WAY_NONE) {
        d->o.refresh(d->o.arg);
        way_retry_hold_redirect(d, r, own.p, own.n);
        return true;
    }
    char *copy = way_alloc(own.n);
    memcpy(copy, own.p, own.n);
    if (kind == 'A')
        follow_ask(d, r, node, copy, own.n);
    else
        follow_moved(d, r, c, slot, node, copy, own.n);
    way_free(copy);
    return true;
}

/* ---- error replies ---- */

static void fill_reply_event(struct way_dispatch *d, const struct way_request *r,
                             const char *reply, size_t n, struct way_event *e)
{
    size_t len = n > 3 ? n - 3 : 0;
    *e = (struct way_event){ .kind = WAY_KIND_RESULT,
                             .phase = WAY_PHASE_READ,
                             .step = WAY_STEP_REPLY,
                             .error = WAY_ERROR_REPLY,
                             .n = 1 };
    e->now = d->o.loop->now;
    e->began = r->sent;
    e->latency = e->now - r->sent;
    e->deadline_left = -1;
    if (len > sizeof e->message - 1)
        len = sizeof e->message - 1;
    memcpy(e->message, reply + 1, len);
    e->message[len] = 0;
    size_t word = strcspn(e->message, " ");
    snprintf(e->reply, sizeof e->reply, "%.*s", (int)(word < 23 ? word : 23), e->message);
}

static bool is_answer(const struct way_event *e)
{
    return e->class == WAY_CLASS_ANSWER || e->class == WAY_CLASS_OK ||
           e->class == WAY_CLASS_IGNORE;
}

/* A trial that ended with an error reply: its place is given back unless that blames the
 * node. */
void way_upstream_fail_trial(struct way_dispatch *d, struct way_link *l,
                             struct way_request *r, struct way_event *e)
{
    if (!(r->flags & WAY_FLAG_TRIAL))
        return;
    e->trial = true;
    r->flags &= (uint16_t)~WAY_FLAG_TRIAL;
    l->trials--;
    way_health_trial_end(d->o.health, l->conn->node, d->o.row,
                         e->blame != WAY_BLAME_NODE);
}

/* True: it is no answer, and went another way. What nobody waits for goes no further, but
 * is no success of the node either. */
bool way_upstream_error_reply(struct way_dispatch *d, struct way_conn *c,
                              struct way_request *r, const char *reply, size_t n)
{
    struct way_event e;
    bool waited_for = r->kind != WAY_REQUEST_ASKING && !(r->flags & WAY_FLAG_ABANDONED);
    if (waited_for && on_redirect(d, c, r, reply, n))
        return true;
    fill_reply_event(d, r, reply, n, &e);
    way_decide_classify(d->o.decider, &e);
    if (is_answer(&e))
        return false;
    e.unix_time = way_unix();
    e.reused = c->answered > 1;
    e.connection_age = e.now - c->born;
    way_upstream_fail_trial(d, c->data, r, &e);
    if (!waited_for) {
        way_upstream_answer(d, r, reply, n);
        return true;
    }
    way_retry_remember(r, c->node, &e, WAY_CERTAINTY_ANSWERED);
    struct way_span own = c->answered_bytes;
    way_retry_add(d, c->node, &e, true, r, own.p, own.n);
    return true;
}

/* ---- a connection's callbacks ---- */

void way_upstream_good(struct way_dispatch *d, struct way_conn *c, struct way_request *r)
{
    struct way_link *l = c->data;
    l->good++;
    if (r->flags & WAY_FLAG_TRIAL)
        end_trial(d, l, r, true);
}

static void on_reply(struct way_conn *c, struct way_request *r, const char *bytes,
                     size_t n)
{
    struct way_link *l = c->data;
    struct way_dispatch *d = l->dispatch;
    l->sampled = r->sent;
    l->again += r->attempt > 1;
    if (bytes[0] == '-' && way_upstream_error_reply(d, c, r, bytes, n))
        return;
    l->good++;
    if (r->flags & WAY_FLAG_TRIAL)
        end_trial(d, l, r, true);
    way_upstream_answer(d, r, bytes, n);
}

void way_upstream_batch(struct way_conn *c, unsigned replies)
{
    struct way_link *l = c->data;
    struct way_dispatch *d = l->dispatch;
    struct way_cell *cell = &d->cells[c->node];
    double now = d->o.loop->now;
    way_upstream_inflight(d, c);
    count(&cell->requests, replies);
    count(&cell->replies, l->good);
    way_health_latency(d->o.health, c->node, now - l->sampled, now);
    unsigned good = l->good;
    if (way_decider_counts(d->o.decider))
        report_batch(d, l, replies);
    l->good = 0;
    bool first = good && way_health_success(d->o.health, c->node);
    if (good && (first || way_decide_watches(d->o.decider))) {
        struct way_event e = {
            .n = good, .watched = !first, .began = l->sampled, .latency = now - l->sampled
        };
        tell_result(d, c->node, &e);
    }
}

static void unlink_conn(struct way_dispatch *d, struct way_conn *c)
{
    struct way_link *l = c->data;
    let_go(d, c);
    *l->prev = l->next;
    if (l->next)
        l->next->prev = l->prev;
    if (c->carried) {
        d->up[c->node].carried--;
        d->o.carried_gone(c);
    }
}

void way_upstream_drained(struct way_conn *c)
{
    struct way_link *l = c->data;
    unlink_conn(l->dispatch, c);
    way_loop_reclaim(l->dispatch->o.loop, l, way_free);
}

void way_upstream_ready(struct way_conn *c)
{
    struct way_link *l = c->data;
    struct way_dispatch *d = l->dispatch;
    d->up[c->node].dials_failed = 0;
    way_health_dial_after(d->o.health, c->node, 0);
}

/* No dial by any worker before that: as the policy says, or the least interval. */
static void space_dials(struct way_dispatch *d, unsigned node, struct way_event *e)
{
    struct way_upstream *u = &d->up[node];
    struct way_redial redial;
    bool dialing = e->phase == WAY_PHASE_CONNECT;
    u->dials_failed += dialing;
    struct way_event asked = *e;
    asked.attempt = u->dials_failed ? u->dials_failed : 1;
    way_decide_redial(d->o.decider, node, &asked, &redial);
    double after = redial.given ? redial.after : 0;
    double least =
        d->limits->dial_interval * (0.75 + 0.5 * way_random_unit(&d->router.random));
    if (dialing && after < least)
        after = least;
    if (after <= 0)
        return;
    way_health_dial_failed(d->o.health, node, e->error, e->errnum);
    way_health_dial_after(d->o.health, node, e->now + after);
}

static void end_trials(struct way_dispatch *d, struct way_link *l, struct way_event *e,
                       struct way_request *all)
{
    if (!l->trials)
        return;
    e->trial = true;
    for (struct way_request *r = all; r; r = r->link)
        r->flags &= (uint16_t)~WAY_FLAG_TRIAL;
    while (l->trials) {
        l->trials--;
        way_health_trial_end(d->o.health, l->conn->node, d->o.row,
                             e->blame != WAY_BLAME_NODE);
    }
}

void way_upstream_broke(struct way_conn *c, struct way_event *e)
{
    struct way_link *l = c->data;
    struct way_dispatch *d = l->dispatch;
    struct way_decision decision;
    unsigned node = c->node;
    struct way_request *all = way_conn_take(c);
    way_stat_add(d->o.stats, WAY_STAT_BREAKS, 1);
    unlink_conn(d, c);
    way_upstream_inflight(d, c);
    way_decide_classify(d->o.decider, e);
    end_trials(d, l, e, all);
    if (!l->dropped) { /* else it was us: no fault of the node's */
        way_decide(d->o.decider, node, e, &decision);
        space_dials(d, node, e);
        way_upstream_apply(d, node, &decision);
    }
    if (!l->dropped && e->class == WAY_CLASS_STALE_CONNECTION && !d->o.carry)
        way_upstream_open(d, node, c->resp); /* its result decides about the node */
    way_retry_broken(d, node, e, c, all);
    way_loop_reclaim(d->o.loop, l, way_free);
}

static const struct way_conn_ops conn_ops = {
    .reply = on_reply,
    .batch = way_upstream_batch,
    .ready = way_upstream_ready,
    .broke = way_upstream_broke,
    .drained = way_upstream_drained,
};

/* ---- connections ---- */

/* Where it is dialed: looked up once per generation, since a carried connection is asked
 * for with each pipeline. */
static struct way_upstream *find_upstream(struct way_dispatch *d, unsigned node)
{
    struct way_upstream *u = &d->up[node];
    uint32_t generation = atomic_load(&way_health_node(d->o.health, node)->generation);
    if (u->host && u->found == generation)
        return u;
    struct way_snapshot s;
    way_health_snapshot(d->o.health, node, d->o.loop->now, &s);
    way_free(u->host);
    u->host = way_strdup(s.view.host);
    u->port = s.view.port;
    u->found = s.view.generation;
    return u;
}

static struct way_link *link_by(struct way_dispatch *d, unsigned node, uint8_t resp,
                                const struct way_conn_ops *ops,
                                struct way_conn *(*make)(const struct way_conn_options *))
{
    if (way_health_dial_at(d->o.health, node) > d->o.loop->now)
        return NULL;
    struct way_upstream *u = find_upstream(d, node);
    struct way_conn_options o = {
        .loop = d->o.loop,
        .resolver = d->o.resolver,
        .timeouts = d->timeouts,
        .ops = ops,
        .owner = d,
        .host = u->host,
        .port = u->port,
        .node = (uint16_t)node,
        .generation = u->found,
        .resp = resp,
        .readonly =
            atomic_load(&way_health_node(d->o.health, node)->role) == WAY_ROLE_REPLICA,
        .user = d->o.config->user,
        .password = d->o.config->password,
        .tls = d->o.config->tls.context,
        .reply_bytes = (size_t)d->limits->reply_bytes,
    };
    if (!u->conn[0] && !u->conn[1] && !u->own_count && !u->carried) {
        struct way_verdict v;
        way_health_verdict(d->o.health, node, &v);
        u->drops = v.drops;
    }
    struct way_link *l = way_zalloc(sizeof *l);
    struct way_conn *c = make(&o);
    *l = (struct way_link){ .dispatch = d,
                            .conn = c,
                            .next = d->links,
                            .prev = &d->links,
                            .exclusive = ops != &conn_ops };
    if (d->links)
        d->links->prev = &l->next;
    d->links = l;
    c->data = l;
    return l;
}

struct way_link *way_upstream_link(struct way_dispatch *d, unsigned node, uint8_t resp,
                                   const struct way_conn_ops *ops)
{
    struct way_link *l = link_by(d, node, resp, ops, way_conn_open);
    if (l)
        way_stat_add(d->o.stats, WAY_STAT_DIALS, 1);
    return l;
}

struct way_conn *way_dispatch_carry(struct way_dispatch *d, unsigned node, bool own)
{
    struct way_link *l =
        link_by(d, node, 2, own ? &way_own_ops : &conn_ops, way_conn_carry);
    if (!l)
        return NULL;
    d->up[node].carried++;
    return l->conn;
}

void way_dispatch_carried_at(struct way_dispatch *d, unsigned node, char *host,
                             size_t bytes, int *port)
{
    const struct way_upstream *u = find_upstream(d, node);
    snprintf(host, bytes, "%s", u->host);
    *port = u->port;
}

void way_dispatch_uncarry(struct way_dispatch *d, struct way_conn *c)
{
    struct way_link *l = c->data;
    if (c->closed)
        return; /* it broke or drained, and is on its way out */
    struct way_event neither = { .blame = WAY_BLAME_CALLER };
    struct way_request *all = way_conn_take(c);
    way_upstream_inflight(d, c);
    way_own_close(l);
    end_trials(d, l, &neither, all);
    for (struct way_request *r = all, *next; r; r = next) {
        next = r->link;
        way_upstream_answer(d, r, "", 0);
    }
    unlink_conn(d, c);
    way_conn_close(c);
    way_loop_reclaim(d->o.loop, l, way_free);
}

struct way_conn *way_upstream_open(struct way_dispatch *d, unsigned node, uint8_t resp)
{
    struct way_conn **place = &d->up[node].conn[resp - 2];
    if (!*place) {
        struct way_link *l = way_upstream_link(d, node, resp, &conn_ops);
        *place = l ? l->conn : NULL;
    }
    return *place;
}

/* Nodes that left, changed role or address: their connections carry no new commands. */
static void retire_connections(struct way_dispatch *d)
{
    for (struct way_link *l = d->links, *next; l; l = next) {
        next = l->next;
        struct way_conn *c = l->conn;
        struct way_node *n = way_health_node(d->o.health, c->node);
        uint32_t word = atomic_load_explicit(&n->route, memory_order_acquire);
        bool replica = atomic_load(&n->role) == WAY_ROLE_REPLICA;
        if (c->draining || (!(word & WAY_ROUTE_GONE) && replica == c->readonly &&
                            atomic_load(&n->generation) == c->generation))
            continue;
        let_go(d, c);
        way_conn_drain(c);
    }
}

/* ---- the way to a node ---- */

/* No connection to be had, no room on it, no node: an event of its own, without a socket. */
void way_upstream_fail(struct way_dispatch *d, struct way_request *r, unsigned node,
                       enum way_error error, enum way_step step, const char *bytes,
                       size_t n)
{
    struct way_event e = { .kind = WAY_KIND_COMMANDS, .error = error, .step = step };
    e.phase = WAY_PHASE_CONNECT;
    e.now = e.began = d->o.loop->now;
    e.unix_time = way_unix();
    e.deadline_left = -1;
    if (error == WAY_ERROR_NONE) { /* no dial may be made, and that is why */
        e.error = way_health_dial_error(d->o.health, node, &e.errnum);
        e.error = e.error ? e.error : WAY_ERROR_REFUSED;
    }
    if (error == WAY_ERROR_OVERFLOW)
        way_stat_add(d->o.stats, WAY_STAT_OVERFLOW, 1);
    way_decide_classify(d->o.decider, &e);
    way_retry_remember(r, node, &e, WAY_CERTAINTY_UNSENT);
    way_retry_add(d, node, &e, false, r, bytes, n);
}

static void send_on(struct way_dispatch *d, struct way_conn *c, struct way_request *r,
                    bool trial, const char *bytes, size_t n)
{
    if (r->flags & WAY_FLAG_ASKED) {
        static const char asking[] = "*1\r\n$6\r\nASKING\r\n";
        struct way_request *a = way_request_take(d->o.pool);
        a->kind = WAY_REQUEST_ASKING;
        way_conn_send(c, a, asking, sizeof asking - 1);
    }
    way_conn_send(c, r, bytes, n);
    if (trial) {
        struct way_link *l = c->data;
        r->flags |= WAY_FLAG_TRIAL;
        l->trials++;
    }
    way_upstream_inflight(d, c);
}

bool way_upstream_route(struct way_dispatch *d, struct way_request *r, const char *bytes,
                        size_t n, struct way_route *to)
{
    *to = way_route_ask(&d->router, r, (struct way_span){ bytes, n }, d->o.loop->now);
    if (to->node != WAY_NONE)
        return true;
    unsigned master = WAY_NONE;
    if (to->shard != WAY_NONE)
        master = atomic_load(&way_health_shard(d->o.health, to->shard)->master);
    way_upstream_fail(d, r, master, to->shed ? WAY_ERROR_SHED : WAY_ERROR_NO_NODE,
                      WAY_STEP_ROUTE, bytes, n);
    return false;
}

static void send_slowly(struct way_dispatch *d, struct way_request *r, const char *bytes,
                        size_t n)
{
    struct way_route to;
    if (!way_upstream_route(d, r, bytes, n, &to))
        return;
    uint8_t resp = r->pipeline ? r->pipeline->resp : 2;
    struct way_conn *c = d->o.carry
                             ? d->o.carry(d->o.carry_arg, r->pipeline, to.node, false)
                             : way_upstream_open(d, to.node, resp);
    if (!c) {
        if (to.trial)
            way_health_trial_end(d->o.health, to.node, d->o.row, true);
        way_upstream_fail(d, r, to.node, WAY_ERROR_NONE, WAY_STEP_QUEUE, bytes, n);
        return;
    }
    if (way_retry_wait_turn(d, r, c, bytes, n)) {
        if (to.trial)
            way_health_trial_end(d->o.health, to.node, d->o.row, true);
        return;
    }
    if (c->inflight >= d->limits->node_inflight ||
        (double)(way_buf_held(&c->out) + n) > d->limits->node_bytes) {
        if (to.trial)
            way_health_trial_end(d->o.health, to.node, d->o.row, true);
        way_upstream_fail(d, r, to.node, WAY_ERROR_OVERFLOW, WAY_STEP_QUEUE, bytes, n);
        return;
    }
    send_on(d, c, r, to.trial, bytes, n);
}

void way_upstream_plain(struct way_dispatch *d, struct way_request *r, const char *bytes,
                        size_t n)
{
    bool plain =
        way_route_straight(&d->router, r) && !(r->flags & WAY_FLAG_DETOUR) && !d->o.carry;
    if (plain && r->target == WAY_NONE_NODE && r->avoid == WAY_NONE_NODE && r->pipeline) {
        unsigned node = way_route_fast(&d->router, r->slot);
        struct way_conn *c =
            node < WAY_NODES_MAX ? d->up[node].conn[r->pipeline->resp - 2] : NULL;
        if (c && c->inflight < d->limits->node_inflight &&
            (double)(way_buf_held(&c->out) + n) <= d->limits->node_bytes) {
            way_conn_send(c, r, bytes, n);
            count_inflight(d, node);
            return;
        }
    }
    send_slowly(d, r, bytes, n);
}

void way_upstream_send(struct way_dispatch *d, struct way_request *r, const char *bytes,
                       size_t n)
{
    if (r->kind == WAY_REQUEST_OWN)
        way_own_send(d, r, bytes, n);
    else
        way_upstream_plain(d, r, bytes, n);
}

/* ---- order per client and slot ---- */

/* The map changed, or a connection was retired: what is in flight on a way that its slot
 * no longer takes is a detour. */
static void detour_if_stray(struct way_dispatch *d, struct way_pipeline *p,
                            struct way_request *r)
{
    if (r->state != WAY_REQUEST_SENT || r->flags & WAY_FLAG_DETOUR)
        return;
    if (!r->conn->draining &&
        way_route_serves(&d->router, r->slot, r->conn->node, r->flags & WAY_FLAG_WRITE))
        return;
    way_pipeline_detour(p, r);
    p->bucket[r->slot % WAY_DETOUR_BUCKETS].way = NULL;
}

static void find_detours(struct way_dispatch *d, struct way_pipeline *p)
{
    for (struct way_request *r = p->head; r; r = r->next) {
        if (!r->join) {
            detour_if_stray(d, p, r);
            continue;
        }
        for (unsigned i = 0; i < way_join_parts(r->join); i++) {
            struct way_request *part = way_join_pending(r->join, i);
            if (part)
                detour_if_stray(d, p, part);
        }
    }
}

void way_upstream_behind(struct way_dispatch *d, struct way_pipeline *p,
                         struct way_request *r, const char *bytes, size_t n)
{
    way_retry_own(r, bytes, n);
    r->state = WAY_REQUEST_WAITING;
    r->link = NULL;
    *p->behind_end = r;
    p->behind_end = &r->link;
    p->behind_bytes += r->bytes;
    d->waiting_bytes += r->bytes;
}

/* The last detour of a bucket is answered: those behind it go, in their order. */
static void on_straight(struct way_pipeline *p, uint16_t slot)
{
    struct way_dispatch *d = p->router;
    struct way_request *all = p->behind;
    p->behind = NULL;
    p->behind_end = &p->behind;
    while (all) {
        struct way_request *r = all;
        all = r->link;
        r->link = NULL;
        bool same = r->slot % WAY_DETOUR_BUCKETS == slot % WAY_DETOUR_BUCKETS;
        if (!(r->flags & WAY_FLAG_ABANDONED) && !same) {
            *p->behind_end = r;
            p->behind_end = &r->link;
            continue;
        }
        p->behind_bytes -= r->bytes;
        d->waiting_bytes -= r->bytes;
        char *bytes = r->own_bytes;
        r->own_bytes = NULL;
        if (r->flags & WAY_FLAG_ABANDONED)
            way_upstream_answer(d, r, "", 0);
        else if (r->kind != WAY_REQUEST_OWN)
            way_dispatch_submit(d, r, bytes, r->bytes);
        else
            way_own_submit(d, r, bytes, r->bytes);
        way_free(bytes);
    }
}

void way_dispatch_submit(struct way_dispatch *d, struct way_request *r, const char *bytes,
                         size_t n)
{
    struct way_pipeline *p = r->pipeline;
    uint64_t epoch = ways(d);
    if (p->detours || p->epoch != epoch) {
        if (p->epoch != epoch) {
            p->epoch = epoch;
            find_detours(d, p);
        }
        if (way_pipeline_has_detour(p, r->slot)) {
            way_upstream_behind(d, p, r, bytes, n);
            return;
        }
    }
    way_upstream_plain(d, r, bytes, n);
}

void way_dispatch_attach(struct way_dispatch *d, struct way_pipeline *p)
{
    p->router = d;
    p->straight = on_straight;
    p->epoch = ways(d);
}

void way_dispatch_detach(struct way_dispatch *d, struct way_pipeline *p)
{
    p->straight = NULL;
    struct way_request *all = p->behind;
    way_pipeline_fini(p);
    while (all) {
        struct way_request *r = all;
        all = r->link;
        d->waiting_bytes -= r->bytes;
        way_upstream_answer(d, r, "", 0);
    }
}

/* How far r came, and what is certain of it. What a connection still has queued will be
 * sent though nobody waits for it, so its fate is as unknown as that of what was. */
static enum way_certainty how_far(const struct way_request *r, struct way_event *e,
                                  unsigned *node)
{
    if (r->state != WAY_REQUEST_SENT) {
        *node = r->last.node;
        return r->last.error ? (enum way_certainty)r->last.certainty
                             : WAY_CERTAINTY_UNSENT;
    }
    const struct way_conn *c = r->conn;
    *node = c->node;
    if (c->ready_at <= 0) {
        e->step = c->step;
    } else {
        bool sent = way_conn_was_sent(c, r);
        e->phase = sent ? WAY_PHASE_READ : WAY_PHASE_WRITE;
        e->step = sent ? WAY_STEP_WAIT : WAY_STEP_SEND;
    }
    return WAY_CERTAINTY_UNKNOWN;
}

/* Of a split command: as far as its parts, where one was answered or may have been sent. */
static enum way_certainty how_far_split(const struct way_join *j, struct way_event *e,
                                        unsigned *node)
{
    enum way_certainty certainty = WAY_CERTAINTY_UNSENT;
    for (unsigned i = 0; i < way_join_parts(j); i++) {
        const struct way_request *part = way_join_pending(j, i);
        if (!part)
            certainty = WAY_CERTAINTY_UNKNOWN;
        else if (how_far(part, e, node) == WAY_CERTAINTY_UNKNOWN)
            return WAY_CERTAINTY_UNKNOWN;
    }
    return certainty;
}

enum way_certainty way_dispatch_certainty(const struct way_request *r)
{
    struct way_event e;
    unsigned node;
    return r->join ? how_far_split(r->join, &e, &node) : how_far(r, &e, &node);
}

void way_dispatch_expire(struct way_dispatch *d, struct way_request *r)
{
    struct way_pipeline *p = r->pipeline;
    unsigned node = WAY_NONE;
    struct way_event e = { .error = WAY_ERROR_DEADLINE,
                           .phase = WAY_PHASE_CONNECT,
                           .step = WAY_STEP_QUEUE,
                           .class = WAY_CLASS_CALLER };
    enum way_certainty certainty =
        r->join ? how_far_split(r->join, &e, &node) : how_far(r, &e, &node);
    struct way_request *stand_in = way_pipeline_replace(p, r);
    way_retry_remember(stand_in, node, &e, certainty);
    way_retry_fail(d, stand_in);
}

void way_dispatch_overdue(struct way_dispatch *d)
{
    way_retry_overdue(d);
}

/* ---- the pass, birth and death ---- */

void way_dispatch_pass(struct way_dispatch *d)
{
    uint64_t epoch = atomic_load_explicit(d->epoch, memory_order_acquire);
    if (way_decider_take(d->o.decider) ||
        way_decider_shadow_routes(d->o.decider) != d->router.shadow_asks)
        way_router_refresh(&d->router);
    if (way_decider_pending(d->o.decider))
        way_decide_pass(d->o.decider, d->o.loop->now);
    if (epoch == d->seen_epoch)
        return;
    d->seen_epoch = epoch;
    way_router_refresh(&d->router);
    retire_connections(d);
    for (unsigned i = 0; i < way_health_nodes(d->o.health) && i < WAY_NODES_MAX; i++)
        if (d->up[i].conn[0] || d->up[i].conn[1] || d->up[i].own_count ||
            d->up[i].carried)
            apply_drops(d, i);
    way_retry_release(d);
}

unsigned way_dispatch_waiting(const struct way_dispatch *d, size_t *bytes)
{
    if (bytes)
        *bytes = d->waiting_bytes;
    return d->waiting_count;
}

void way_dispatch_on_grew(struct way_dispatch *d, void (*grew)(struct way_pipeline *p))
{
    d->grew = grew;
}

struct way_dispatch *way_dispatch_new(const struct way_dispatch_options *o)
{
    struct way_dispatch *d = way_zalloc(sizeof *d);
    d->o = *o;
    d->timeouts = &o->config->timeouts;
    d->limits = &o->config->limits;
    d->epoch = way_health_epoch(o->health);
    d->cells = way_health_cells(o->health, o->row);
    d->up = way_zalloc(WAY_NODES_MAX * sizeof *d->up);
    way_router_init(&d->router, o->health, o->decider, o->stats, o->row);
    way_retry_init(d);
    return d;
}

void way_dispatch_free(struct way_dispatch *d)
{
    while (d->links) {
        struct way_link *l = d->links;
        struct way_conn *c = l->conn;
        way_own_close(l);
        for (struct way_request *r = way_conn_take(c), *next; r; r = next) {
            next = r->link;
            way_upstream_answer(d, r, "$-1\r\n", 5);
        }
        unlink_conn(d, c);
        way_conn_close(c);
        way_loop_reclaim(d->o.loop, l, way_free);
    }
    way_retry_fini(d);
    way_router_fini(&d->router);
    for (unsigned i = 0; i < WAY_NODES_MAX; i++)
        way_free(d->up[i].host);
    way_free(d->up);
    way_free(d);
}
