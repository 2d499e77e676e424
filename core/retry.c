/* retry - what becomes of commands that failed: the second half of dispatch.
 *
 *   a broken connection ──┐                       ┌─▶ sent again (another, same, master)
 *   error replies ─ batch ┼─▶ groups ─▶ backoff ──┼─▶ waiting: delayed, or held
 *   no node, no room ─────┘   (kind, certainty,   └─▶ the client gets the error
 *                              attempt)
 *
 * The policy is asked once per group, never per command; then each command is dealt with
 * in the order in which it was sent. The limits are the host's: attempts, the retry
 * budget, held bytes, the total time of each command, and that a write of unknown fate is
 * never sent again unless the policy said so. */
#include "upstream.h"

#include "log.h"

#include <stdio.h>

/* Groups: one for each kind, certainty and whether it was held before (SORTS) at least, and
 * some for their attempts. */
enum { SORTS = 18, GROUPS_MAX = 30 };
#define TICK_SECONDS 0.01
#define AGAIN_SECONDS 0.05
/* Between attempts of a held command, after the first few: a table that changes with every
 * failure must not make a storm of it. */
#define PACE_SECONDS 0.02
enum { UNPACED = 3 };

struct group {
    enum way_commands kind;
    enum way_certainty certainty;
    uint16_t attempt;
    uint32_t n;
    double arrived, waited; /* of the oldest */
    bool before;            /* they were held before */
    struct way_retry retry;
    double age; /* that the policy was told */
    struct way_entry entry;
    bool asked;
    unsigned resent, held, failed, again; /* again: resent or delayed, not held */
};

/* ---- what a client sees ---- */

void way_retry_remember(struct way_request *r, unsigned node, const struct way_event *e,
                        enum way_certainty certainty)
{
    bool doubt = r->flags & WAY_FLAG_DOUBT;
    if (certainty == WAY_CERTAINTY_UNKNOWN)
        r->flags |= WAY_FLAG_DOUBT;
    else if (doubt && (certainty == WAY_CERTAINTY_UNSENT || r->flags & WAY_FLAG_WRITE))
        certainty = WAY_CERTAINTY_UNKNOWN; /* an earlier attempt may have been executed */
    r->last.error = (uint8_t)e->error;
    r->last.phase = (uint8_t)e->phase;
    r->last.step = (uint8_t)e->step;
    r->last.class = e->class;
    r->last.certainty = (uint8_t)certainty;
    r->last.node = (uint16_t)node;
    way_free(r->words);
    r->words = e->error == WAY_ERROR_REPLY ? way_strdup(e->message) : NULL;
}

const char *way_upstream_address(struct way_dispatch *d, unsigned node)
{
    if (node >= WAY_NODES_MAX)
        return "none";
    struct way_upstream *u = &d->up[node];
    uint32_t generation = atomic_load(&way_health_node(d->o.health, node)->generation);
    if (!u->address[0] || u->named != generation) {
        struct way_snapshot s;
        way_health_snapshot(d->o.health, node, d->o.loop->now, &s);
        snprintf(u->address, sizeof u->address, "%.63s", s.view.address);
        u->named = generation;
    }
    return u->address;
}

static const char *certainty_words(const struct way_request *r)
{
    if (r->last.certainty == WAY_CERTAINTY_UNSENT)
        return "the command was not sent";
    if (r->last.certainty == WAY_CERTAINTY_ANSWERED)
        return "a node answered with an error";
    if (r->flags & WAY_FLAG_WRITE)
        return "the command may or may not have been executed";
    return "no reply came";
}

void way_retry_fail(struct way_dispatch *d, struct way_request *r)
{
    struct way_buf b = { 0 };
    way_stat_add(d->o.stats, WAY_STAT_ERR_UNSENT + r->last.certainty, 1);
    if (r->pipeline && r->pipeline->failed)
        r->pipeline->failed(r->pipeline, r);
    if (r->words && r->last.certainty == WAY_CERTAINTY_ANSWERED)
        way_resp_put_error(&b, "%s", r->words);
    else
        way_resp_put_error(
            &b, "WAYSIDE %s phase=%s step=%s certainty=%s class=%s node=%s %s",
            way_error_name(r->last.error), way_phase_name(r->last.phase),
            way_step_name(r->last.step), way_certainty_name(r->last.certainty),
            way_decider_class_name(d->o.decider, r->last.class),
            way_upstream_address(d, r->last.node), certainty_words(r));
    way_upstream_answer(d, r, b.p, b.len);
    way_buf_fini(&b);
}

/* ---- commands that wait ---- */

void way_retry_own(struct way_request *r, const char *bytes, size_t n)
{
    if (r->own_bytes)
        return;
    r->own_bytes = way_alloc(n);
    memcpy(r->own_bytes, bytes, n);
    r->bytes = (uint32_t)n;
}

static void start_tick(struct way_dispatch *d)
{
    if (!ev_is_active(&d->tick))
        ev_timer_again(d->o.loop->ev, &d->tick);
}

static struct way_bucket *bucket_of(const struct way_request *r)
{
    return r->pipeline ? &r->pipeline->bucket[r->slot % WAY_DETOUR_BUCKETS] : NULL;
}

static bool is_earlier(uint32_t turn, uint32_t other)
{
    return (int32_t)(turn - other) < 0;
}

static bool same_bucket(const struct way_request *a, const struct way_request *r)
{
    return a->pipeline == r->pipeline && bucket_of(a) == bucket_of(r);
}

static bool is_among(const struct way_batch *b, const struct way_request *r)
{
    for (; b; b = b->next)
        for (const struct way_request *a = b->head; a; a = a->link)
            if (same_bucket(a, r) && is_earlier(a->turn, r->turn))
                return true;
    return false;
}

/* Does an earlier command of r's client and slot wait, or has it just failed, so that it
 * may have to? Then r does, too. */
static bool is_held_back(const struct way_dispatch *d, const struct way_request *r)
{
    const struct way_bucket *b = bucket_of(r);
    if (b && (is_among(d->batches, r) || is_among(d->running, r)))
        return true;
    if (!b || !b->waiting)
        return false;
    for (const struct way_request *a = d->waiting; a; a = a->link)
        if (same_bucket(a, r) && is_earlier(a->turn, r->turn))
            return true;
    return false;
}

/* Behind all that are earlier, which is the end but for what failed out of order. */
static struct way_request **place_of(struct way_dispatch *d, const struct way_request *r)
{
    struct way_request **at = &d->waiting;
    while (*at && !(same_bucket(*at, r) && is_earlier(r->turn, (*at)->turn)))
        at = &(*at)->link;
    return at;
}

/* r is a detour and has its own bytes. */
static void wait_for(struct way_dispatch *d, struct way_request *r)
{
    struct way_request **at = d->waiting_end;
    struct way_bucket *b = bucket_of(r);
    if (b && b->waiting && is_earlier(r->turn, b->last))
        at = place_of(d, r);
    else if (b)
        b->last = r->turn;
    if (b) {
        b->waiting++;
        r->flags |= WAY_FLAG_LISTED;
    }
    r->state = WAY_REQUEST_WAITING;
    r->link = *at;
    *at = r;
    if (!r->link)
        d->waiting_end = &r->link;
    d->waiting_count++;
    d->waiting_bytes += r->bytes;
    start_tick(d);
}

/* Stays where it is in the order. */
static void keep_waiting(struct way_dispatch *d, struct way_request *r)
{
    struct way_bucket *b = bucket_of(r);
    if (b)
        b->kept = d->round;
    r->link = NULL;
    *d->waiting_end = r;
    d->waiting_end = &r->link;
}

static void stop_waiting(struct way_dispatch *d, struct way_request *r)
{
    if (r->flags & WAY_FLAG_LISTED)
        bucket_of(r)->waiting--;
    r->flags &= (uint16_t)~WAY_FLAG_LISTED;
    d->waiting_count--;
    d->waiting_bytes -= r->bytes;
    r->link = NULL;
}

static void send_again(struct way_dispatch *d, struct way_request *r)
{
    char *bytes = r->own_bytes;
    r->own_bytes = NULL;
    r->resume = 0;
    if (!(r->flags & WAY_FLAG_HELD))
        r->until = 0; /* it was a delay: no hold was promised */
    r->flags &= (uint16_t)~WAY_FLAG_HELD;
    way_upstream_send(d, r, bytes, r->bytes);
    way_free(bytes);
}

/* A held one goes when the table changed, or soon after if it went just before. */
static bool is_due(struct way_request *r, double now, bool changed)
{
    double next = r->attempt < UNPACED ? 0 : r->sent + PACE_SECONDS;
    bool goes = changed && r->flags & WAY_FLAG_HELD;
    if (goes && now < next && (r->resume <= 0 || r->resume > next))
        r->resume = next;
    return (goes && now >= next) || (r->resume > 0 && now >= r->resume);
}

/* The command's own time ended it, not its hold: an operator may have meant the latter. */
static void tell_cut(struct way_dispatch *d, const struct way_request *r)
{
    way_stat_add(d->o.stats, WAY_STAT_HELD_TOTAL, 1);
    if (way_gate_open(&d->cut, d->o.loop->now, 1))
        way_log(WAY_WARN, "hold=cut_short after=%.4g limit=timeouts.total node=%s",
                d->timeouts->total, way_upstream_address(d, r->last.node));
}

/* What becomes of one that waits: true if it goes on waiting. One that is due behind one
 * that is not goes as soon as that has gone. */
static bool look_after(struct way_dispatch *d, struct way_request *r, bool changed)
{
    double now = d->o.loop->now;
    const struct way_bucket *b = bucket_of(r);
    bool over = r->flags & WAY_FLAG_ABANDONED || now >= r->until;
    if (!over && !is_due(r, now, changed))
        return true;
    if (!over && b && b->kept == d->round) {
        r->resume = now;
        return true;
    }
    stop_waiting(d, r);
    if (r->flags & WAY_FLAG_ABANDONED) {
        way_upstream_answer(d, r, "", 0);
    } else if (over) {
        if (r->flags & WAY_FLAG_HELD && now >= r->arrived + d->timeouts->total)
            tell_cut(d, r);
        way_retry_fail(d, r);
    } else {
        send_again(d, r);
    }
    return false;
}

/* Goes through all that wait, or only those whose wait is over, in order; `changed`: the
 * table did. */
static void look_after_waiting(struct way_dispatch *d, bool changed, bool only_over)
{
    struct way_request *all = d->waiting;
    d->waiting = NULL;
    d->waiting_end = &d->waiting;
    d->round++;
    while (all) {
        struct way_request *r = all;
        all = r->link;
        if ((only_over && d->o.loop->now < r->until) || look_after(d, r, changed))
            keep_waiting(d, r);
    }
}

void way_retry_overdue(struct way_dispatch *d)
{
    look_after_waiting(d, false, true);
}

static void on_tick(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)events;
    struct way_dispatch *d = way_container(w, struct way_dispatch, tick);
    way_dispatch_pass(d); /* another process may have changed the table */
    look_after_waiting(d, false, false);
    if (!d->waiting)
        ev_timer_stop(ev, w);
}

void way_retry_release(struct way_dispatch *d)
{
    if (d->waiting)
        look_after_waiting(d, true, false);
}

static bool has_room(struct way_dispatch *d, size_t n)
{
    bool room = (double)(d->waiting_bytes + n) <= d->limits->held_bytes;
    if (!room)
        way_stat_add(d->o.stats, WAY_STAT_RETRY_HELD, 1);
    return room;
}

/* A redirected command that can't follow yet waits as long as it lives. */
static void wait_to_follow(struct way_dispatch *d, struct way_request *r,
                           const char *bytes, size_t n)
{
    struct way_event e = { .error = WAY_ERROR_NO_NODE,
                           .phase = WAY_PHASE_CONNECT,
                           .step = WAY_STEP_ROUTE,
                           .class = WAY_CLASS_LOCAL };
    if (!r->last.error)
        way_retry_remember(r, WAY_NONE, &e, WAY_CERTAINTY_ANSWERED);
    if (!has_room(d, n)) {
        way_retry_fail(d, r);
        return;
    }
    way_retry_own(r, bytes, n);
    if (r->until <= d->o.loop->now)
        r->until = r->arrived + d->timeouts->total;
    wait_for(d, r);
}

void way_retry_hold_redirect(struct way_dispatch *d, struct way_request *r,
                             const char *bytes, size_t n)
{
    r->last.error = WAY_ERROR_NONE;
    r->flags |= WAY_FLAG_HELD;
    wait_to_follow(d, r, bytes, n);
}

/* Is a in flight elsewhere than on c, and of r's client and slot? Reads may pass reads. */
static bool may_be_passed(const struct way_request *a, const struct way_request *r,
                          const struct way_conn *c)
{
    return a && a->state == WAY_REQUEST_SENT && a->conn != c && same_bucket(a, r) &&
           (a->flags | r->flags) & WAY_FLAG_WRITE;
}

static bool would_overtake(const struct way_request *r, const struct way_conn *c)
{
    struct way_bucket *b = bucket_of(r);
    if (b->way == c)
        return false;
    for (const struct way_request *a = r->pipeline->head;
         a && is_earlier(a->turn, r->turn); a = a->next) {
        if (!a->join && may_be_passed(a, r, c))
            return true;
        for (unsigned i = 0; a->join && i < way_join_parts(a->join); i++)
            if (may_be_passed(way_join_pending(a->join, i), r, c))
                return true;
    }
    b->way = r->flags & WAY_FLAG_WRITE ? c : NULL; /* reads may be anywhere */
    return false;
}

bool way_retry_wait_turn(struct way_dispatch *d, struct way_request *r,
                         const struct way_conn *c, const char *bytes, size_t n)
{
    if (!r->pipeline || !(r->flags & WAY_FLAG_DETOUR))
        return false;
    if (!is_held_back(d, r) && !would_overtake(r, c))
        return false;
    r->resume = d->o.loop->now;
    wait_to_follow(d, r, bytes, n);
    return true;
}

/* ---- the limits ---- */

static bool take_token(struct way_dispatch *d)
{
    uint64_t requests = way_stat_get(d->o.stats, WAY_STAT_REQUESTS);
    d->tokens += (double)(requests - d->tokens_at) * d->limits->retry_share;
    d->tokens_at = requests;
    if (d->tokens > d->limits->retry_burst)
        d->tokens = d->limits->retry_burst;
    if (d->tokens < 1)
        return false;
    d->tokens -= 1;
    return true;
}

/* May r go again, as the answer says? */
static bool may_go_again(struct way_dispatch *d, const struct group *g,
                         const struct way_request *r)
{
    bool hold = g->retry.kind == WAY_RETRY_HOLD;
    if (g->retry.kind == WAY_RETRY_NONE)
        return false;
    if (g->certainty == WAY_CERTAINTY_UNKNOWN && r->flags & WAY_FLAG_WRITE &&
        !g->retry.unknown_writes)
        return false;
    if (d->o.loop->now >= r->arrived + d->timeouts->total)
        return false;
    if (!hold && r->attempt >= d->limits->attempts) {
        way_stat_add(d->o.stats, WAY_STAT_RETRY_ATTEMPTS, 1);
        return false;
    }
    /* What a node answered and then is held is paced by that: no storm to be feared. */
    bool free = g->certainty == WAY_CERTAINTY_UNSENT ||
                (hold && g->certainty == WAY_CERTAINTY_ANSWERED);
    if (!free && !take_token(d)) {
        way_stat_add(d->o.stats, WAY_STAT_RETRY_BUDGET, 1);
        return false;
    }
    return true;
}

/* ---- what the policy said, done ---- */

static void aim(struct way_request *r, unsigned node, const struct way_retry *retry,
                const struct way_event *e)
{
    r->avoid = WAY_NONE_NODE;
    r->flags &= (uint16_t)~WAY_FLAG_MASTER;
    if (retry->kind == WAY_RETRY_HOLD && e->error == WAY_ERROR_NO_NODE)
        r->flags &=
            (uint16_t)~WAY_FLAG_ASKED; /* its target went: the slot's owner knows */
    if (!(r->flags & WAY_FLAG_ASKED))
        r->target = WAY_NONE_NODE;
    if (retry->kind == WAY_RETRY_OTHER)
        r->avoid = (uint16_t)node;
    else if (retry->kind == WAY_RETRY_SAME)
        r->target = (uint16_t)node;
    else if (retry->kind == WAY_RETRY_MASTER)
        r->flags |= WAY_FLAG_MASTER;
    if (retry->stale_reads && !(r->flags & WAY_FLAG_WRITE))
        r->flags |= WAY_FLAG_STALE_OK;
}

/* What r's hold would wait for came before its failure did: the node's state has changed
 * since that began, and it is used. */
static bool is_back(const struct way_dispatch *d, unsigned node,
                    const struct way_event *e)
{
    struct way_verdict v;
    if (node >= WAY_NODES_MAX || e->error == WAY_ERROR_NO_NODE)
        return false;
    way_health_verdict(d->o.health, node, &v);
    return v.state == WAY_STATE_HEALTHY && e->began < v.since;
}

/* When what nothing in the table will tell of may be over: 0, a change of it will. The
 * node is used, but may not be dialed yet: the more often in vain, the later. */
static double look_again_at(const struct way_dispatch *d, unsigned node,
                            const struct way_request *r, const struct way_event *e)
{
    double now = d->o.loop->now;
    if (e->class == WAY_CLASS_AGAIN || is_back(d, node, e))
        return now + AGAIN_SECONDS;
    if (node >= WAY_NODES_MAX || e->step != WAY_STEP_QUEUE ||
        e->error == WAY_ERROR_OVERFLOW)
        return 0;
    double dial = way_health_dial_at(d->o.health, node);
    double later = now + AGAIN_SECONDS * (1u << (r->attempt < 4 ? r->attempt : 4));
    return dial > later ? dial : later;
}

/* Until when and how r waits; false: not at all, its time is over. */
static bool plan_wait(struct way_dispatch *d, unsigned node, struct group *g,
                      struct way_request *r, const struct way_event *e)
{
    double now = d->o.loop->now, latest = r->arrived + d->timeouts->total;
    r->resume =
        g->retry.after > 0 || g->retry.kind != WAY_RETRY_HOLD ? now + g->retry.after : 0;
    r->waited = g->retry.after;
    if (g->retry.kind != WAY_RETRY_HOLD) {
        r->until = latest;
        return true;
    }
    double until = latest;
    if (g->retry.within >= 0) /* of a command as old as the policy was told */
        until = r->arrived + g->age + g->retry.within - g->retry.over;
    if (until > r->until) /* what it was promised before stands */
        r->until = until;
    if (r->until > latest)
        r->until = latest;
    if (r->resume == 0)
        r->resume = look_again_at(d, node, r, e);
    r->flags |= WAY_FLAG_HELD;
    return r->until > now;
}

static void go_again(struct way_dispatch *d, unsigned node, struct group *g,
                     struct way_request *r, const struct way_event *e, const char *bytes,
                     size_t n)
{
    aim(r, node, &g->retry, e);
    if (r->pipeline)
        way_pipeline_detour(r->pipeline, r);
    if (g->retry.kind != WAY_RETRY_HOLD) {
        way_stat_add(d->o.stats, WAY_STAT_RETRY_UNSENT + g->certainty, 1);
        g->again++;
        if (e->kind == WAY_KIND_COMMANDS && r->attempt < UINT16_MAX)
            r->attempt++; /* no socket counted it: an answer that goes in circles ends */
    } else if (e->class == WAY_CLASS_AGAIN && r->attempt) {
        r->attempt--; /* the cluster said wait: no failed attempt */
    }
    bool in_turn = !is_held_back(d, r);
    if (g->retry.kind == WAY_RETRY_HOLD || g->retry.after > 0 || !in_turn) {
        if (!has_room(d, n) || !plan_wait(d, node, g, r, e)) {
            g->failed++;
            way_retry_fail(d, r);
            return;
        }
        g->held++;
        way_stat_add(d->o.stats, WAY_STAT_HELD, 1);
        way_retry_own(r, bytes, n);
        wait_for(d, r);
        return;
    }
    g->resent++;
    if (r->own_bytes)
        send_again(d, r);
    else
        way_upstream_send(d, r, bytes, n);
}

/* ---- groups ---- */

static enum way_commands kind_of(const struct way_request *r)
{
    if (r->kind == WAY_REQUEST_OWN && r->part == WAY_OWN_UNIT)
        return WAY_COMMANDS_TRANSACTION;
    return r->flags & WAY_FLAG_WRITE ? WAY_COMMANDS_WRITES : WAY_COMMANDS_READS;
}

static bool of_sort(const struct group *g, const struct way_request *r)
{
    return g->kind == kind_of(r) && (unsigned)g->certainty == r->last.certainty &&
           g->before == (r->until > 0);
}

static bool in_group(const struct group *g, const struct way_request *r)
{
    return of_sort(g, r) && g->attempt == r->attempt;
}

/* Where too many attempts differ, the last of them go with others of their sort. */
static struct group *group_of(struct group *groups, unsigned count,
                              const struct way_request *r)
{
    struct group *alike = NULL;
    for (unsigned i = 0; i < count; i++) {
        if (in_group(&groups[i], r))
            return &groups[i];
        if (!alike && of_sort(&groups[i], r))
            alike = &groups[i];
    }
    return count > GROUPS_MAX - SORTS ? alike : NULL;
}

static unsigned make_groups(struct group *groups, const struct way_request *all)
{
    unsigned count = 0;
    for (const struct way_request *r = all; r; r = r->link) {
        if (r->flags & WAY_FLAG_ABANDONED)
            continue;
        struct group *g = group_of(groups, count, r);
        if (!g) {
            g = &groups[count++];
            memset(g, 0, offsetof(struct group, entry));
            g->kind = kind_of(r);
            g->certainty = (enum way_certainty)r->last.certainty;
            g->attempt = r->attempt;
            g->before = r->until > 0;
            g->arrived = r->arrived;
            g->waited = r->waited;
            g->asked = false;
            g->resent = g->held = g->failed = g->again = 0;
        }
        g->n++;
        if (r->arrived < g->arrived)
            g->arrived = r->arrived;
    }
    return count;
}

/* Of arrivals, and of those that went once more and found nobody either: what held
 * commands were told goes by their age. */
static struct way_standing *standing_of(struct way_dispatch *d, const struct way_event *e,
                                        const struct way_request *r)
{
    unsigned shard = atomic_load(&d->router.slots[r->slot]);
    if (e->error != WAY_ERROR_NO_NODE || shard >= WAY_SHARDS_MAX || r->until > 0 ||
        r->attempt > 1 || kind_of(r) == WAY_COMMANDS_TRANSACTION)
        return NULL;
    if (!d->standing)
        d->standing = way_zalloc(WAY_SHARDS_MAX * 4 * sizeof *d->standing);
    return &d->standing[shard * 4 + r->attempt * 2 + !!(r->flags & WAY_FLAG_WRITE)];
}

static void ask_group(struct way_dispatch *d, unsigned node, const struct way_event *what,
                      struct group *g, const struct way_request *first)
{
    struct way_standing *s = standing_of(d, what, first);
    uint64_t epoch = atomic_load(d->epoch) + 1; /* 0 is never */
    if (s && s->epoch == epoch) {
        g->retry = s->retry;
        g->age = s->age;
        return;
    }
    struct way_event e = *what;
    e.kind = WAY_KIND_COMMANDS;
    e.commands = g->kind;
    e.certainty = g->certainty;
    e.has_certainty = true;
    e.n = g->n;
    e.attempt = g->attempt + (what->kind == WAY_KIND_COMMANDS);
    e.age = g->age = e.now - g->arrived;
    e.deadline_left = g->arrived + d->timeouts->total - e.now;
    if (e.deadline_left < 0)
        e.deadline_left = 0;
    e.waited = g->waited;
    way_decide_retry(d->o.decider, node, &e, &g->retry, &g->entry);
    g->asked = true;
    if (g->retry.kind == WAY_RETRY_NONE && g->retry.over > 0)
        g->retry.kind = WAY_RETRY_HOLD; /* over for the oldest: plan_wait looks at each */
    if (s)
        *s = (struct way_standing){ .epoch = epoch, .retry = g->retry, .age = g->age };
}

static void ask_groups(struct way_dispatch *d, unsigned node, const struct way_event *e,
                       struct group *groups, unsigned count,
                       const struct way_request *all)
{
    for (unsigned i = 0; i < count && node != WAY_NONE; i++) {
        const struct way_request *first = all;
        while (first &&
               (first->flags & WAY_FLAG_ABANDONED || !in_group(&groups[i], first)))
            first = first->link;
        if (!first)
            continue;
        ask_group(d, node, e, &groups[i], first);
    }
}

static void tell_groups(struct way_dispatch *d, struct group *groups, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (groups[i].asked)
            way_decide_did(d->o.decider, &groups[i].entry,
                           "%u sent again, %u held, %u failed", groups[i].resent,
                           groups[i].held, groups[i].failed);
}

static void report_retries(struct way_dispatch *d, unsigned node,
                           const struct group *groups, unsigned count)
{
    unsigned again = 0;
    for (unsigned i = 0; i < count; i++)
        again += groups[i].again;
    way_upstream_retried(d, node, again);
}

/* Asks and does. c: whose buffer has the bytes of requests without their own. */
static void deal_with(struct way_dispatch *d, unsigned node, const struct way_event *e,
                      struct way_conn *c, struct way_request *all)
{
    struct group groups[GROUPS_MAX];
    unsigned count = make_groups(groups, all);
    ask_groups(d, node, e, groups, count, all);
    while (all) {
        struct way_request *r = all;
        all = r->link;
        r->link = NULL;
        struct group *g = group_of(groups, count, r);
        r->last.verdict = g ? (uint8_t)g->retry.kind : WAY_RETRY_NONE;
        if (r->flags & WAY_FLAG_ABANDONED) {
            way_upstream_answer(d, r, "", 0);
        } else if (!g || !may_go_again(d, g, r)) {
            if (g)
                g->failed++;
            way_retry_fail(d, r);
        } else {
            struct way_span bytes = { r->own_bytes, r->bytes };
            if (!r->own_bytes && c)
                bytes = way_conn_bytes(c, r);
            go_again(d, node, g, r, e, bytes.p, bytes.n);
        }
    }
    tell_groups(d, groups, count);
    report_retries(d, node, groups, count);
}

void way_retry_broken(struct way_dispatch *d, unsigned node, struct way_event *e,
                      struct way_conn *c, struct way_request *all)
{
    struct way_request *commands = NULL, **end = &commands;
    for (struct way_request *r = all, *next; r; r = next) {
        next = r->link;
        r->link = NULL;
        if (r->kind == WAY_REQUEST_ASKING) {
            way_request_give(d->o.pool, r);
            continue;
        }
        enum way_certainty certainty =
            way_conn_was_sent(c, r) ? WAY_CERTAINTY_UNKNOWN : WAY_CERTAINTY_UNSENT;
        way_retry_remember(r, node, e, certainty);
        *end = r;
        end = &r->link;
    }
    if (commands)
        deal_with(d, node, e, c, commands);
}

/* ---- batches ---- */

static bool same_failure(const struct way_batch *b, unsigned node,
                         const struct way_event *e, bool mark)
{
    return b->node == node && b->mark == mark && b->event.error == e->error &&
           b->event.step == e->step && b->event.class == e->class &&
           !strcmp(b->event.reply, e->reply);
}

void way_retry_add(struct way_dispatch *d, unsigned node, const struct way_event *what,
                   bool mark, struct way_request *r, const char *bytes, size_t n)
{
    struct way_batch *b = d->batches;
    while (b && !same_failure(b, node, what, mark))
        b = b->next;
    if (!b) {
        b = way_zalloc(sizeof *b);
        b->node = node;
        b->mark = mark;
        b->event = *what;
        b->tail = &b->head;
        *d->batches_end = b;
        d->batches_end = &b->next;
    }
    way_retry_own(r, bytes, n);
    if (r->pipeline)
        way_pipeline_detour(r->pipeline, r);
    r->state = WAY_REQUEST_WAITING;
    r->link = NULL;
    *b->tail = r;
    b->tail = &r->link;
    b->n++;
    way_loop_later(d->o.loop, &d->run_batches);
}

static void run_batches(struct way_task *t)
{
    struct way_dispatch *d = way_container(t, struct way_dispatch, run_batches);
    d->running = d->batches;
    d->batches = NULL;
    d->batches_end = &d->batches;
    while (d->running) {
        struct way_batch *b = d->running;
        d->running = b->next;
        b->event.n = b->n;
        if (b->mark) {
            struct way_decision decision;
            way_decide_with(d->o.decider, b->node, &b->event,
                            b->good.now > 0 ? &b->good : NULL, &decision);
            way_upstream_apply(d, b->node, &decision);
        }
        deal_with(d, b->node, &b->event, NULL, b->head);
        way_free(b);
    }
}

void way_retry_init(struct way_dispatch *d)
{
    d->batches_end = &d->batches;
    d->waiting_end = &d->waiting;
    d->run_batches.run = run_batches;
    d->tokens = d->limits->retry_burst;
    ev_init(&d->tick, on_tick);
    d->tick.repeat = TICK_SECONDS;
}

void way_retry_fini(struct way_dispatch *d)
{
    way_loop_forget(d->o.loop, &d->run_batches);
    ev_timer_stop(d->o.loop->ev, &d->tick);
    struct way_request *all = d->waiting;
    while (all) {
        struct way_request *r = all;
        all = r->link;
        way_upstream_answer(d, r, "", 0);
    }
    while (d->batches) {
        struct way_batch *b = d->batches;
        d->batches = b->next;
        for (struct way_request *r = b->head, *next; r; r = next) {
            next = r->link;
            way_upstream_answer(d, r, "", 0);
        }
        way_free(b);
    }
    way_free(d->standing);
}
