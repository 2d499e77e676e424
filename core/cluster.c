/* cluster - see cluster.h.
 *
 *             want, need, period                 answer: adopt, changed, publish
 *   WAITING ─────────────────────▶ RACING ──────────────────────────────────────▶ WAITING
 *      ▲         on_start            │  go_on: every 50 ms, and on a failure
 *      └───────── fail_race ◀────────┘  nobody left to ask
 *
 * Need is looked at anew at each race's end and whenever the table's epoch rose: a shard
 * whose master is missing or failing makes refreshes follow one another at the least
 * interval. Such a race asks three nodes, spread over that interval, replicas of the shard
 * first, since they are the ones to be promoted; all three answers are taken, for the
 * first may come from a node that has not heard yet. That which is older never wins: the
 * table sees to it. A need that lasts slows down, up to once a second, so that a shard
 * that is gone for good costs little.
 *
 * A master that was replaced and is back is asked about too, until it is told to be a
 * replica: its return is seen, by a probe, before the others have told it so, and until
 * then its shard is one short.
 *
 * Rejected: asking all nodes and taking the majority. A minority's higher config epoch is
 * the newer truth, and the slowest node would set the pace. */
#include "cluster.h"

#include "log.h"
#include "peer.h"

#include <stdio.h>

enum {
    AT_ONCE = 3,      /* asked at a time, not counting those that are slow */
    RACERS_MAX = 16,  /* slow ones included */
    KNOWN_NEEDED = 4, /* of each kind, how many known nodes one race may come to ask */
    KNOWN_HEALTHY = 8,
    KNOWN_OTHERS = 4,
    SEEDS_MAX = 64,
    CANDIDATES_MAX = KNOWN_NEEDED + KNOWN_HEALTHY + KNOWN_OTHERS + SEEDS_MAX,
    CHANGES_MAX = 2 * WAY_NODES_MAX,
    SETTLE_TRIES = 100,
};
static const double STAGGER = 0.05, SLOW = 0.25, SETTLE = 0.01;
static const double BACKOFF_FIRST = 0.1, BACKOFF_MOST = 2, UNCOVERED_PERIOD = 2,
                    ROLES_FIRST = 0.2;

struct seed {
    char host[WAY_HOST_MAX];
    uint16_t port;
};
struct candidate {
    uint16_t node, seed; /* one of them */
};
struct racer {
    struct way_peer *peer;
    double began;
};
enum need { NEED_NOTHING, NEED_ROLES, NEED_SLOTS, NEED_MASTER };

struct way_cluster {
    struct way_cluster_options o;
    struct way_peers *peers;
    struct way_random random;
    struct seed *seed;
    unsigned seeds;
    enum need need;
    double need_since;
    uint64_t epoch; /* of the table, when need was last looked at */
    ev_timer start, stagger, settle;
    atomic_bool wanted; /* any thread */
    bool known;         /* a topology was published by us */
    bool racing;
    bool urgent; /* the race is because a shard waits for its master */

    /* the race */
    unsigned racers, candidates, next, asked, answers;
    unsigned sound;         /* the first so many candidates are healthy nodes */
    double began, answered; /* its start, its last answer (0: none yet) */
    struct racer racer[RACERS_MAX];
    struct candidate candidate[CANDIDATES_MAX];
    char why[256]; /* the last failure */

    /* between races */
    double jitter;     /* drawn at each race's end: 0..1 */
    double log_at;     /* a failure is not logged before */
    unsigned failures; /* races in a row */

    /* the table's lock was busy: tried again */
    unsigned unsettled_tries;
    struct way_topology *unsettled;
    double unsettled_began;
    char unsettled_from[WAY_ADDRESS_MAX];
    struct way_node_change change[CHANGES_MAX];
    struct way_cluster_counts counts;
};

/* --- need --- */

static uint32_t route_of(struct way_cluster *c, unsigned node)
{
    return atomic_load_explicit(&way_health_node(c->o.health, node)->route,
                                memory_order_acquire);
}

static bool is_usable(struct way_cluster *c, unsigned node)
{
    uint32_t route = route_of(c, node);
    return !(route & WAY_ROUTE_GONE) && (route & WAY_ROUTE_STATE) != WAY_STATE_FAILING;
}

/* A member of a shard whose master is missing or failing. */
static bool is_orphan(struct way_cluster *c, unsigned node)
{
    struct way_node *n = way_health_node(c->o.health, node);
    uint16_t shard = atomic_load_explicit(&n->shard, memory_order_relaxed);
    if (shard == WAY_NONE)
        return false;
    uint16_t master = atomic_load_explicit(&way_health_shard(c->o.health, shard)->master,
                                           memory_order_relaxed);
    return master == WAY_NONE || !is_usable(c, master);
}

/* Once the master of its shard, where another is now: it works again, and will be a replica
 * as soon as it has heard of its successor. */
static bool is_deposed(struct way_cluster *c, unsigned node)
{
    struct way_node *n = way_health_node(c->o.health, node);
    uint16_t shard = atomic_load_explicit(&n->shard, memory_order_relaxed);
    if (shard == WAY_NONE ||
        atomic_load_explicit(&n->role, memory_order_relaxed) != WAY_ROLE_MASTER)
        return false;
    return is_usable(c, node) &&
           atomic_load_explicit(&way_health_shard(c->o.health, shard)->master,
                                memory_order_relaxed) != node;
}

static enum need need_now(struct way_cluster *c)
{
    unsigned nodes = way_health_nodes(c->o.health);
    bool deposed = false;
    for (unsigned i = 0; i < nodes; i++) {
        if (!(route_of(c, i) & WAY_ROUTE_GONE) && is_orphan(c, i))
            return NEED_MASTER;
        deposed = deposed || is_deposed(c, i);
    }
    if (way_health_coverage(c->o.health) < 1)
        return NEED_SLOTS;
    return deposed ? NEED_ROLES : NEED_NOTHING;
}

static void look_at_need(struct way_cluster *c)
{
    c->epoch = atomic_load_explicit(way_health_epoch(c->o.health), memory_order_acquire);
    enum need need = need_now(c);
    if (need != c->need)
        c->need_since = c->o.loop->now;
    c->need = need;
}

/* --- when --- */

static double spread(double seconds, double jitter) /* 0.9 to 1.1 of it */
{
    return seconds * (0.9 + 0.2 * jitter);
}

/* How long after the last race's start the next one may, or must, begin. */
static double interval(struct way_cluster *c, bool wanted)
{
    const struct way_limits *l = c->o.limits;
    double least = l->refresh_interval * (1 + 0.2 * c->jitter);
    if (c->failures) {
        double backoff =
            BACKOFF_FIRST * (double)(1u << (c->failures < 6 ? c->failures - 1 : 5));
        backoff = spread(backoff < BACKOFF_MOST ? backoff : BACKOFF_MOST, c->jitter);
        return backoff > least ? backoff : least;
    }
    if (wanted)
        return least;
    if (c->need == NEED_MASTER) {
        double slower = (c->o.loop->now - c->need_since) * 0.02;
        slower = slower < 1 ? slower : 1;
        return slower > least ? slower : least;
    }
    double period = l->refresh_period, soon = UNCOVERED_PERIOD;
    if (c->need == NEED_ROLES) /* a moment, or for as long as the node can't hear */
        soon = ROLES_FIRST + (c->o.loop->now - c->need_since) * 0.1;
    if (c->need != NEED_NOTHING && period > soon)
        period = soon;
    period = spread(period, c->jitter);
    return period > least ? period : least;
}

static void plan(struct way_cluster *c)
{
    if (c->racing)
        return;
    bool wanted = atomic_load_explicit(&c->wanted, memory_order_acquire);
    double after = c->began + interval(c, wanted) - c->o.loop->now;
    ev_timer_stop(c->o.loop->ev, &c->start);
    ev_timer_set(&c->start, after > 0 ? after : 0, 0.);
    ev_timer_start(c->o.loop->ev, &c->start);
}

void way_cluster_refresh(struct way_cluster *c)
{
    if (!atomic_exchange_explicit(&c->wanted, true, memory_order_acq_rel))
        way_loop_wake(c->o.loop);
}

void way_cluster_woken(struct way_cluster *c)
{
    uint64_t epoch =
        atomic_load_explicit(way_health_epoch(c->o.health), memory_order_acquire);
    if (epoch != c->epoch)
        look_at_need(c);
    plan(c);
}

/* --- whom --- */

static void shuffle(struct way_cluster *c, uint16_t *list, unsigned n)
{
    for (unsigned i = 0; i + 1 < n; i++) {
        unsigned j = i + (unsigned)(way_random_next(&c->random) % (n - i));
        uint16_t other = list[j];
        list[j] = list[i];
        list[i] = other;
    }
}

static void add_candidates(struct way_cluster *c, uint16_t *list, unsigned n,
                           unsigned most, bool seeds)
{
    shuffle(c, list, n);
    for (unsigned i = 0; i < n && i < most; i++)
        c->candidate[c->candidates++] =
            (struct candidate){ .node = seeds ? WAY_NONE : list[i],
                                .seed = seeds ? list[i] : WAY_NONE };
}

/* Those who are likely to know first, then healthy ones, then others, then the seeds. */
static void choose_candidates(struct way_cluster *c)
{
    uint16_t needed[WAY_NODES_MAX], healthy[WAY_NODES_MAX], others[WAY_NODES_MAX];
    uint16_t seeds[SEEDS_MAX] = { 0 };
    unsigned n_needed = 0, n_healthy = 0, n_others = 0;
    unsigned nodes = way_health_nodes(c->o.health);
    c->candidates = c->next = 0;
    for (unsigned i = 0; i < nodes && i < WAY_NODES_MAX; i++) {
        uint32_t route = route_of(c, i);
        if (route & WAY_ROUTE_GONE)
            continue;
        if ((route & WAY_ROUTE_STATE) != WAY_STATE_HEALTHY)
            others[n_others++] = (uint16_t)i;
        else if (is_orphan(c, i))
            needed[n_needed++] = (uint16_t)i;
        else
            healthy[n_healthy++] = (uint16_t)i;
    }
    for (unsigned i = 0; i < c->seeds; i++)
        seeds[i] = (uint16_t)i;
    add_candidates(c, needed, n_needed, KNOWN_NEEDED, false);
    add_candidates(c, healthy, n_healthy, KNOWN_HEALTHY, false);
    c->sound = c->candidates;
    add_candidates(c, others, n_others, KNOWN_OTHERS, false);
    add_candidates(c, seeds, c->seeds, SEEDS_MAX, true);
}

static struct way_peer *peer_of(struct way_cluster *c, const struct candidate *who)
{
    if (who->seed != WAY_NONE) {
        const struct seed *s = &c->seed[who->seed];
        unsigned node = way_health_find(c->o.health, s->host, s->port);
        uint32_t generation = 0;
        if (node != WAY_NONE)
            generation = atomic_load_explicit(
                &way_health_node(c->o.health, node)->generation, memory_order_relaxed);
        return way_peer_get(c->peers, s->host, s->port, (uint16_t)node, generation);
    }
    struct way_snapshot snapshot;
    way_health_snapshot(c->o.health, who->node, c->o.loop->now, &snapshot);
    const struct way_view *v = &snapshot.view;
    return way_peer_get(c->peers, v->host, v->port, v->node, v->generation);
}

/* --- the race --- */

static unsigned young_racers(const struct way_cluster *c)
{
    unsigned young = 0;
    for (unsigned i = 0; i < c->racers; i++)
        young += c->o.loop->now - c->racer[i].began < SLOW;
    return young;
}

/* Asks one more; false: there is nobody, or no room. */
static bool next_racer(struct way_cluster *c)
{
    while (c->next < c->candidates && c->racers < RACERS_MAX &&
           young_racers(c) < AT_ONCE) {
        struct way_peer *peer = peer_of(c, &c->candidate[c->next++]);
        if (!way_peer_ask(peer))
            continue;
        c->racer[c->racers++] = (struct racer){ peer, c->o.loop->now };
        return true;
    }
    return false;
}

static void end_race(struct way_cluster *c)
{
    for (unsigned i = 0; i < c->racers; i++)
        way_peer_cancel(c->racer[i].peer);
    c->racers = 0;
    c->racing = false;
    ev_timer_stop(c->o.loop->ev, &c->stagger);
    c->jitter = way_random_unit(&c->random);
    look_at_need(c);
    plan(c);
}

static void log_failure(struct way_cluster *c, double retry)
{
    double now = c->o.loop->now;
    if (now < c->log_at)
        return;
    c->log_at = now + (c->failures < 5 ? 1u << c->failures : 30);
    way_log(WAY_WARN, "topology=%s asked=%u last=\"%s\" retry_in=%.2f",
            c->known ? "not_refreshed" : "unknown", c->next, c->why, retry);
}

static void fail_race(struct way_cluster *c)
{
    c->failures++;
    c->counts.failed++;
    end_race(c);
    log_failure(c, interval(c, false));
}

/* After an answer, and with `ask` after a failure or when the time for one more has come:
 * asks on, or ends. */
static void go_on(struct way_cluster *c, bool ask)
{
    bool enough = c->answers && (!c->urgent || c->asked >= AT_ONCE);
    if (c->answers && !enough && c->sound && c->next >= c->sound)
        c->next = 0; /* those that work are asked again, rather than dead ones */
    if (ask && !enough && next_racer(c))
        c->asked++;
    bool waits = c->racers && c->o.loop->now - c->answered < 2 * STAGGER;
    bool nobody_left = c->racers == 0 && c->next == c->candidates;
    if (c->answers && (nobody_left || (enough && !(c->urgent && waits))))
        end_race(c);
    else if (nobody_left)
        fail_race(c);
}

static void on_stagger(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)events;
    go_on(way_container(w, struct way_cluster, stagger), true);
}

static void on_start(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)events;
    struct way_cluster *c = way_container(w, struct way_cluster, start);
    atomic_store_explicit(&c->wanted, false, memory_order_release);
    look_at_need(c);
    c->counts.refreshes++;
    c->racing = true;
    c->began = c->o.loop->now;
    c->answered = 0;
    c->answers = c->asked = 0;
    c->urgent = c->need == NEED_MASTER;
    c->stagger.repeat = c->urgent ? c->o.limits->refresh_interval / AT_ONCE : STAGGER;
    snprintf(c->why, sizeof c->why, "%s",
             c->seeds ? "all are busy" : "there are no seeds");
    choose_candidates(c);
    ev_timer_again(ev, &c->stagger);
    go_on(c, true);
}

/* --- publishing --- */

static void log_published(struct way_cluster *c, const struct way_topology *t,
                          const char *from)
{
    unsigned masters = 0;
    for (unsigned i = 0; i < t->count; i++)
        masters += t->node[i].master;
    way_log(WAY_INFO, "topology=%s from=%s nodes=%u masters=%u covered=%.4g",
            c->known ? "changed" : "known", from, t->count, masters,
            way_health_coverage(c->o.health));
}

static void tell_changes(struct way_cluster *c, int changes)
{
    if (changes > 0 && c->o.changed)
        c->o.changed(c->o.arg, c->change, (unsigned)changes);
    if (changes >= CHANGES_MAX)
        way_cluster_refresh(c); /* the rest of them */
}

/* 0, or -1: the table's lock was busy. */
static int put_into_table(struct way_cluster *c, const struct way_topology *t,
                          double began, const char *from)
{
    struct way_err err = { "" };
    double now = c->o.loop->now;
    int changes =
        way_health_adopt(c->o.health, t, began, now, c->change, CHANGES_MAX, &err);
    if (changes < 0)
        return -1;
    if (err.text[0])
        way_log(WAY_WARN, "topology=too_large error=\"%s\"", err.text);
    tell_changes(c, changes);
    int published = way_health_publish(c->o.health, t, began, &err);
    if (published < 0)
        return -1;
    if (published || !c->known)
        log_published(c, t, from);
    c->known = true;
    if (published && c->o.published)
        c->o.published(c->o.arg);
    return 0;
}

static void forget_unsettled(struct way_cluster *c)
{
    way_topology_free(c->unsettled);
    c->unsettled = NULL;
    c->unsettled_tries = 0;
    ev_timer_stop(c->o.loop->ev, &c->settle);
}

static void on_settle(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)events;
    struct way_cluster *c = way_container(w, struct way_cluster, settle);
    if (put_into_table(c, c->unsettled, c->unsettled_began, c->unsettled_from) == 0) {
        forget_unsettled(c);
    } else if (++c->unsettled_tries == SETTLE_TRIES) {
        way_log(WAY_WARN, "topology=not_published error=\"the table's lock is busy\"");
        forget_unsettled(c);
        way_cluster_refresh(c);
    }
}

static struct way_topology *copy_topology(const struct way_topology *t)
{
    struct way_topology *copy = way_alloc(sizeof *copy);
    *copy = *t;
    copy->room = t->count ? t->count : 1;
    copy->node = way_alloc(copy->room * sizeof *copy->node);
    memcpy(copy->node, t->node, t->count * sizeof *copy->node);
    return copy;
}

static void publish(struct way_cluster *c, const struct way_topology *t, double began,
                    const char *from)
{
    forget_unsettled(c);
    if (put_into_table(c, t, began, from) == 0)
        return;
    c->unsettled = copy_topology(t);
    c->unsettled_began = began;
    snprintf(c->unsettled_from, sizeof c->unsettled_from, "%s", from);
    ev_timer_again(c->o.loop->ev, &c->settle);
}

/* --- what peers tell --- */

/* Takes the peer out of the race: when it was asked, or -1 if it was not in it. */
static double leave_race(struct way_cluster *c, const struct way_peer *p)
{
    for (unsigned i = 0; i < c->racers; i++) {
        if (c->racer[i].peer != p)
            continue;
        double began = c->racer[i].began;
        c->racer[i] = c->racer[--c->racers];
        return began;
    }
    return -1;
}

static void on_told(void *arg, struct way_peer *p, const struct way_topology *t,
                    const char *why)
{
    struct way_cluster *c = arg;
    char from[WAY_ADDRESS_MAX];
    snprintf(from, sizeof from, "%s:%u", p->host, p->port);
    double began = leave_race(c, p);
    if (began < 0)
        return;
    if (t) {
        c->answers++;
        c->answered = c->o.loop->now;
        c->failures = 0;
        c->log_at = 0;
        publish(c, t, began, from);
    } else {
        snprintf(c->why, sizeof c->why, "%.100s: %.140s", from, why);
    }
    if (c->racing)
        go_on(c, !t);
}

static void on_failed(void *arg, struct way_peer *p, struct way_event *e)
{
    struct way_cluster *c = arg;
    uint32_t generation = atomic_load_explicit(
        &way_health_node(c->o.health, p->node)->generation, memory_order_relaxed);
    if (c->o.failed && generation == p->generation)
        c->o.failed(c->o.arg, p->node, e);
}

/* --- life --- */

static void read_seeds(struct way_cluster *c)
{
    unsigned n = c->o.seed_count < SEEDS_MAX ? c->o.seed_count : SEEDS_MAX;
    c->seed = way_zalloc((n ? n : 1) * sizeof *c->seed);
    for (unsigned i = 0; i < n; i++) {
        struct way_err err;
        struct seed *s = &c->seed[c->seeds];
        const char *text = c->o.seeds[i];
        if (way_split_address(text, strlen(text), s->host, &s->port, &err) < 0)
            way_log(WAY_ERROR, "seed=%s error=\"%s\"", text, err.text);
        else
            c->seeds++;
    }
}

struct way_cluster *way_cluster_new(const struct way_cluster_options *o)
{
    struct way_cluster *c = way_zalloc(sizeof *c);
    c->o = *o;
    way_random_seed(&c->random, 0);
    read_seeds(c);
    c->peers = way_peers_new(&(struct way_peers_options){
        .loop = o->loop,
        .resolver = o->resolver,
        .timeouts = o->timeouts,
        .limits = o->limits,
        .user = o->user,
        .password = o->password,
        .tls = o->tls,
        .told = on_told,
        .failed = on_failed,
        .arg = c,
    });
    ev_timer_init(&c->start, on_start, 0., 0.);
    ev_timer_init(&c->stagger, on_stagger, 0., STAGGER);
    ev_timer_init(&c->settle, on_settle, 0., SETTLE);
    ev_timer_start(o->loop->ev, &c->start);
    return c;
}

void way_cluster_free(struct way_cluster *c)
{
    if (!c)
        return;
    ev_timer_stop(c->o.loop->ev, &c->start);
    ev_timer_stop(c->o.loop->ev, &c->stagger);
    forget_unsettled(c);
    way_peers_free(c->peers);
    way_free(c->seed);
    way_free(c);
}

void way_cluster_counts(const struct way_cluster *c, struct way_cluster_counts *out)
{
    *out = c->counts;
}
