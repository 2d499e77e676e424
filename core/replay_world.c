/* replay_world - see replay_world.h.
 *
 * The decider is the daemon's (decide.h), over a private table; recorded facts are put
 * into what it shows to the policy by a hook. So stragglers, the guard, the fallback and
 * the error count are not imitated here. Nodes that the journal never speaks of but that
 * were counted are filled in, silent and healthy: the guard asks for them. */
#include "replay_world.h"

#include "decide.h"

#include <math.h>
#include <stdio.h>

enum { RING = WAY_NODES_MAX + 16, UNSEEN = 64, UNRECORDED = 1000000 };

/* A recorded sweep is one of the policy's own where it is due within this share of its
 * interval. */
static const double BEAT_APART = 0.05;

struct member {
    char address[sizeof((struct way_entry *)0)->address];
    struct way_view facts; /* as last recorded */
    uint16_t shard;
    bool master;
    unsigned node; /* in the table */
    bool swept;    /* said: by the last sweep */
    struct way_entry said;
};

struct way_world {
    const struct way_policy_text *text;
    struct way_limits limits;
    void (*changed)(void *arg, const struct way_entry *e);
    void *arg;
    struct member *member;
    unsigned members, room;
    struct way_health *health;
    struct way_decider *decider;
    struct way_ring *ring;
    struct way_stats stats;
    struct member *about; /* whose question is asked */
    uint64_t hash;        /* of the policy */
    bool counted;         /* the facts have this policy's counters */
    uint64_t seed, epochs;
    double now, unix_time;
    bool has_reconnect;
    double every, sweep_due; /* of tick; 0: it has none */
    struct way_entry own;
};

/* ---- members and topology ---- */

static struct member *find(struct way_world *w, const char *address)
{
    for (unsigned i = 0; i < w->members; i++)
        if (!strcmp(w->member[i].address, address))
            return &w->member[i];
    return NULL;
}

static struct member *add(struct way_world *w, const char *address, uint16_t shard,
                          bool master)
{
    if (w->members == WAY_NODES_MAX)
        return NULL;
    if (w->members == w->room) {
        w->room = w->room ? 2 * w->room : 16;
        w->member = way_realloc(w->member, w->room * sizeof *w->member);
    }
    struct member *m = &w->member[w->members++];
    memset(m, 0, sizeof *m);
    snprintf(m->address, sizeof m->address, "%s", address);
    m->shard = shard;
    m->master = master;
    m->facts.latency = -1;
    return m;
}

static void know(struct member *m, const struct way_view *seen)
{
    m->facts = *seen;
    m->master = seen->role == WAY_ROLE_MASTER;
    m->shard = seen->shard;
}

void way_world_node(struct way_world *w, const struct way_view *seen)
{
    char address[sizeof((struct member *)0)->address];
    snprintf(address, sizeof address, "%.63s", seen->address);
    if (find(w, address))
        return;
    struct member *m = add(w, address, seen->shard, false);
    if (m)
        know(m, seen);
}

static struct member *master_of(struct way_world *w, uint16_t shard)
{
    for (unsigned i = 0; i < w->members; i++)
        if (w->member[i].shard == shard && w->member[i].master)
            return &w->member[i];
    return NULL;
}

static unsigned count_shard(struct way_world *w, uint16_t shard)
{
    unsigned n = 0;
    for (unsigned i = 0; i < w->members; i++)
        n += w->member[i].shard == shard;
    return n;
}

/* Nodes that were counted but never spoken of. */
static void fill_in(struct way_world *w)
{
    unsigned known = w->members, most = 0, unseen = 0;
    char name[32];
    for (unsigned i = 0; i < known; i++) {
        uint16_t shard = w->member[i].shard;
        unsigned nodes = w->member[i].facts.of_shard.nodes;
        if (w->member[i].facts.of_cluster.nodes > most)
            most = w->member[i].facts.of_cluster.nodes;
        while (shard != WAY_NONE && unseen < UNSEEN &&
               (!master_of(w, shard) || count_shard(w, shard) < nodes)) {
            snprintf(name, sizeof name, "unseen:%u", ++unseen);
            add(w, name, shard, !master_of(w, shard));
        }
    }
    for (uint16_t shard = 900; w->members < most && unseen < UNSEEN; shard++) {
        snprintf(name, sizeof name, "unseen:%u", ++unseen);
        add(w, name, shard, true);
    }
}

static void put_member(struct way_buf *out, struct way_world *w, unsigned i)
{
    const struct member *m = &w->member[i], *master = master_of(w, m->shard);
    unsigned shard = m->shard % WAY_SHARDS_MAX;
    way_buf_printf(out, "%040x 10.%u.%u.%u:7000@0 ", i + 1, 1 + i / 62500, i / 250 % 250,
                   1 + i % 250);
    if (m == master)
        way_buf_printf(out, "master - 0 0 %llu connected %u-%u\n",
                       (unsigned long long)w->epochs, shard * 16, shard * 16 + 15);
    else if (master)
        way_buf_printf(out, "slave %040x 0 0 %llu connected\n",
                       (unsigned)(master - w->member) + 1, (unsigned long long)w->epochs);
    else
        way_buf_puts(out, "slave - 0 0 0 connected\n");
}

/* The members as a topology, newer than all before. */
static int publish(struct way_world *w, struct way_err *err)
{
    static const unsigned most = WAY_NODES_MAX * 2;
    struct way_buf text = { 0 };
    struct way_topology *t = way_topology_new();
    struct way_node_change *change = way_zalloc(most * sizeof *change);
    struct way_err why = { "" };
    w->epochs++;
    for (unsigned i = 0; i < w->members; i++)
        put_member(&text, w, i);
    int result = way_topology_parse_nodes(t, text.p + text.off, way_buf_held(&text),
                                          "127.0.0.1", &why);
    if (result >= 0)
        result = way_health_adopt(w->health, t, w->now, w->now, change, most, &why);
    if (result >= 0)
        result = way_health_publish(w->health, t, w->now, &why);
    way_free(change);
    way_topology_free(t);
    way_buf_fini(&text);
    for (unsigned i = 0; i < w->members && result >= 0; i++) {
        char host[32];
        snprintf(host, sizeof host, "10.%u.%u.%u", 1 + i / 62500, i / 250 % 250,
                 1 + i % 250);
        w->member[i].node = way_health_find(w->health, host, 7000);
    }
    return result < 0 ? way_fail(err, "the replayed cluster: %s", why.text) : 0;
}

/* One master a shard: who took over leaves the other a replica. */
static void follow_role(struct way_world *w, struct member *m,
                        const struct way_view *seen)
{
    struct way_err err;
    struct member *former;
    bool master = seen->role == WAY_ROLE_MASTER;
    bool same = m->master == master && m->shard == seen->shard;
    former = master_of(w, seen->shard);
    know(m, seen);
    if (same || !former || former == m)
        return;
    if (master)
        former->master = false;
    (void)publish(w, &err); /* what it can't be, it stays */
}

/* ---- hooks of the decider ---- */

static struct member *of_node(struct way_world *w, unsigned node)
{
    for (unsigned i = 0; i < w->members; i++)
        if (w->member[i].node == node)
            return &w->member[i];
    return NULL;
}

static void see(void *arg, struct way_snapshot *seen)
{
    struct way_world *w = arg;
    struct way_view *v = &seen->view;
    const struct member *m = w->about ? w->about : of_node(w, v->node);
    const struct way_view *f = m ? &m->facts : NULL;
    if (!f || !f->address[0])
        return;
    memcpy(v->id, f->id, sizeof v->id);
    memcpy(v->address, f->address, sizeof v->address);
    memcpy(v->host, f->host, sizeof v->host);
    memcpy(v->hostname, f->hostname, sizeof v->hostname);
    memcpy(v->zone, f->zone, sizeof v->zone);
    v->port = f->port;
    v->role = f->role;
    v->generation = f->generation;
    v->failures = f->failures;
    v->latency = f->latency;
    v->inflight = f->inflight;
    v->has_replication = f->has_replication;
    v->link_up = f->link_up;
    v->last_io = f->last_io;
    v->behind = f->behind;
    v->of_shard.inflight = f->of_shard.inflight;
    v->of_shard.retrying = f->of_shard.retrying;
    v->of_cluster.inflight = f->of_cluster.inflight;
    v->of_cluster.retrying = f->of_cluster.retrying;
    if (w->counted)
        memcpy(v->counted, f->counted, sizeof v->counted);
}

static uint64_t seed(void *arg)
{
    return ((struct way_world *)arg)->seed;
}

/* ---- life ---- */

int way_world_new(struct way_world **out, const struct way_policy_text *text,
                  const struct way_limits *limits,
                  void (*changed)(void *arg, const struct way_entry *e), void *arg,
                  struct way_err *err)
{
    struct way_policy *policy;
    if (way_policy_load(&policy, text, err) < 0)
        return -1;
    way_policy_free(policy);
    struct way_world *w = way_zalloc(sizeof *w);
    w->text = text;
    w->limits = *limits;
    w->changed = changed;
    w->arg = arg;
    w->ring = way_ring_new(RING);
    *out = w;
    return 0;
}

void way_world_free(struct way_world *w)
{
    if (!w)
        return;
    way_decider_free(w->decider);
    way_health_close(w->health);
    way_ring_free(w->ring);
    way_free(w->member);
    way_free(w);
}

static int open_table(struct way_world *w, struct way_err *err)
{
    struct way_policy *policy;
    if (way_policy_load(&policy, w->text, err) < 0)
        return -1;
    struct way_health_options o = { .layout = way_policy_plan(policy)->layout,
                                    .guard = w->limits.guard != 0,
                                    .failing_share = w->limits.failing_share };
    w->has_reconnect = way_policy_plan(policy)->has_reconnect;
    w->every = way_policy_plan(policy)->every;
    w->hash = way_policy_plan(policy)->layout.hash;
    way_policy_free(policy);
    return way_health_open(&w->health, &o, err);
}

int way_world_open(struct way_world *w, double now, struct way_err *err)
{
    struct way_decider_options d = { .text = w->text,
                                     .limits = &w->limits,
                                     .stats = &w->stats,
                                     .ring = w->ring,
                                     .see = see,
                                     .seed = seed,
                                     .replay = w };
    w->now = now;
    if (open_table(w, err) < 0)
        return -1;
    w->sweep_due = now + w->every;
    d.health = w->health;
    fill_in(w);
    return publish(w, err) < 0 ? -1 : way_decider_new(&w->decider, &d, err);
}

/* ---- living ---- */

/* What the decider wrote down, NULL if nothing: the first of it, for edges that come true
 * by an event are asked after it. */
static const struct way_entry *own_entry(struct way_world *w)
{
    const struct way_entry *e, *found = NULL;
    struct way_entry more = { .node = 0 };
    while ((e = way_ring_peek(w->ring))) {
        struct way_entry *own = found ? &more : &w->own;
        way_entry_copy(own, e);
        own->input = (struct way_span){ NULL, 0 };
        snprintf(own->address, sizeof own->address, "%s", w->about->address);
        found = &w->own;
        if (way_entry_marks(own) && own->outcome.changed)
            w->changed(w->arg, own);
        way_ring_pop(w->ring);
    }
    return found;
}

static void commit_own(struct way_world *w, const struct way_proposal *given,
                       const char *where)
{
    struct way_snapshot seen;
    struct way_proposal p = *given;
    struct way_entry e = { .function = WAY_FN_MARK, .by_operator = p.by_operator };
    way_health_snapshot(w->health, w->about->node, w->now, &seen);
    p.memory = seen.view.memory;
    if (way_health_commit(w->health, &seen, &p, false, &e.outcome) != WAY_COMMIT_DONE ||
        !e.outcome.changed)
        return;
    e.mark = p.mark;
    e.event.now = w->now;
    snprintf(e.where, sizeof e.where, "%s", where);
    snprintf(e.address, sizeof e.address, "%s", w->about->address);
    w->changed(w->arg, &e);
}

static void pass_to(struct way_world *w, double at)
{
    if (at <= w->now)
        return;
    w->unix_time += at - w->now;
    w->now = at;
}

static struct way_event event_now(const struct way_world *w, enum way_kind kind)
{
    return (struct way_event){ .kind = kind,
                               .now = w->now,
                               .began = w->now,
                               .unix_time = w->unix_time,
                               .deadline_left = -1 };
}

/* The mark's time is over: mark is asked; nil, and the node is healthy. */
static void expire(struct way_world *w, struct member *m, double ends)
{
    static const struct way_proposal healthy = { .host = true,
                                                 .mark = { .given = true,
                                                           .has = WAY_MARK_STATE |
                                                                  WAY_MARK_REASON,
                                                           .state = WAY_STATE_HEALTHY,
                                                           .reason = "expired" } };
    struct way_decision d;
    struct way_verdict v;
    pass_to(w, ends);
    struct way_event e = event_now(w, WAY_KIND_EXPIRY);
    w->about = m;
    w->counted = false;
    w->seed = (uint64_t)(ends * 1e6) * 0x9e3779b97f4a7c15u | 1;
    way_decide(w->decider, m->node, &e, &d);
    own_entry(w);
    way_health_verdict(w->health, m->node, &v);
    if (v.ends > 0 && v.ends <= w->now)
        commit_own(w, &healthy, "host");
}

/* What the sweep said, node by node: nothing, where nobody has an entry. */
static void take_answers(struct way_world *w)
{
    const struct way_entry *e;
    for (unsigned i = 0; i < w->members; i++) {
        struct member *m = &w->member[i];
        struct way_verdict v;
        way_health_verdict(w->health, m->node, &v);
        memset(&m->said, 0, sizeof m->said);
        m->said.function = WAY_FN_TICK;
        m->said.outcome.from = m->said.outcome.to = (enum way_state)v.state;
        m->swept = true;
    }
    while ((e = way_ring_peek(w->ring))) {
        struct member *m = of_node(w, e->node);
        if (m) {
            way_entry_copy(&m->said, e);
            m->said.input = (struct way_span){ NULL, 0 };
            snprintf(m->said.address, sizeof m->said.address, "%s", m->address);
            if (m->said.outcome.changed)
                w->changed(w->arg, &m->said);
        }
        way_ring_pop(w->ring);
    }
}

static void sweep(struct way_world *w, double at, double late, uint64_t drawn)
{
    struct way_swept out;
    pass_to(w, at);
    struct way_event e = event_now(w, WAY_KIND_TICK);
    e.late = late;
    w->about = NULL;
    w->seed = drawn;
    way_decide_tick(w->decider, &e, &out);
    take_answers(w);
    w->sweep_due = w->now - late + w->every;
}

static void sweep_unrecorded(struct way_world *w)
{
    w->counted = false;
    sweep(w, w->sweep_due, 0, (uint64_t)(w->sweep_due * 1e6) * 0x9e3779b97f4a7c15u | 1);
}

void way_world_know(struct way_world *w, const struct way_entry *e,
                    const struct way_input *in)
{
    struct member *m = find(w, e->address);
    if (m)
        follow_role(w, m, &in->view);
}

static double beat_of(const struct way_entry *e)
{
    return e->event.now - e->event.late;
}

void way_world_beat(struct way_world *w, const struct way_entry *e)
{
    if (w->every > 0)
        w->sweep_due = beat_of(e) - floor((beat_of(e) - w->now) / w->every) * w->every;
}

bool way_world_sweep(struct way_world *w, const struct way_entry *e)
{
    double apart = BEAT_APART * w->every;
    for (unsigned i = 0; i < w->members; i++)
        w->member[i].swept = false;
    if (w->every <= 0)
        return false;
    way_world_until(w, beat_of(e) - apart);
    if (w->sweep_due > beat_of(e) + apart)
        return false;
    w->sweep_due = INFINITY; /* this one is it */
    way_world_until(w, e->event.now);
    w->unix_time = e->event.unix_time;
    w->counted = e->policy == w->hash;
    sweep(w, e->event.now, e->event.late, e->seed);
    return true;
}

const struct way_entry *way_world_swept(struct way_world *w, const char *address)
{
    struct member *m = find(w, address);
    return m && m->swept ? &m->said : NULL;
}

/* In the order of their times: marks that end, and sweeps; of a gap that is longer than any
 * journal has, only the first of them. */
void way_world_until(struct way_world *w, double now)
{
    unsigned sweeps = 0;
    for (;;) {
        struct member *first = NULL;
        double at = now;
        for (unsigned i = 0; i < w->members; i++) {
            struct way_verdict v;
            way_health_verdict(w->health, w->member[i].node, &v);
            if (v.ends > 0 && v.ends <= at && (!first || v.ends < at)) {
                first = &w->member[i];
                at = v.ends;
            }
        }
        bool swept = w->every > 0 && w->sweep_due <= now && (!first || w->sweep_due < at);
        if (swept && sweeps++ < UNRECORDED)
            sweep_unrecorded(w);
        else if (swept)
            w->sweep_due = now + w->every;
        else if (first)
            expire(w, first, at);
        else
            break;
    }
    pass_to(w, now);
}

/* An event's class is the policy's own: by name, where there is a name for it here. */
static void name_class(struct way_world *w, const struct way_entry *e,
                       struct way_event *event)
{
    const struct way_plan *plan = way_decider_plan(w->decider);
    for (unsigned i = 0; i < plan->classes; i++)
        if (!strcmp(way_decider_class_name(w->decider, i), e->class_name)) {
            event->class = (uint8_t)i;
            return;
        }
    way_event_classify_default(event);
}

/* What commands met was classified as what it was then: a break, or a reply. */
static void classify_commands(struct way_world *w, struct way_event *event)
{
    event->kind = event->error == WAY_ERROR_REPLY ? WAY_KIND_RESULT : WAY_KIND_CONNECTION;
    way_decide_classify(w->decider, event);
    event->kind = WAY_KIND_COMMANDS;
}

static const struct way_entry *nothing(struct way_world *w, unsigned function)
{
    memset(&w->own, 0, sizeof w->own);
    w->own.function = (uint8_t)function;
    return &w->own;
}

static const struct way_entry *ask(struct way_world *w, const struct way_entry *e,
                                   struct way_event *event)
{
    const struct way_entry *own;
    struct way_decision decision;
    struct way_probe probe;
    struct way_redial redial;
    struct way_retry retry;
    struct way_entry entry;
    unsigned node = w->about->node;
    if (event->kind == WAY_KIND_COMMANDS && e->function != WAY_FN_PROBE &&
        e->function != WAY_FN_RECONNECT) {
        classify_commands(w, event);
        way_decide_retry(w->decider, node, event, &retry, &entry);
        way_decide_did(w->decider, &entry, "%s", "");
    } else if (e->function == WAY_FN_PROBE) {
        name_class(w, e, event);
        way_decide_probe(w->decider, node, event, &probe);
    } else if (e->function == WAY_FN_RECONNECT) {
        if (!w->has_reconnect)
            return nothing(w, WAY_FN_RECONNECT);
        name_class(w, e, event);
        way_decide_redial(w->decider, node, event, &redial);
    } else {
        way_decide(w->decider, node, event, &decision);
    }
    own = own_entry(w);
    return own ? own : nothing(w, WAY_FN_MARK);
}

const struct way_entry *way_world_live(struct way_world *w, const struct way_entry *e,
                                       const struct way_input *in)
{
    struct way_event event = e->event;
    struct member *m = find(w, e->address);
    way_world_until(w, event.now);
    w->unix_time = event.unix_time;
    if (!m)
        return NULL;
    w->about = m;
    if (in)
        follow_role(w, m, &in->view);
    if (e->by_operator) {
        struct way_proposal p = { .mark = e->mark,
                                  .by_operator = true,
                                  .taken_back = !strcmp(e->mark.reason, "unmarked") };
        commit_own(w, &p, "operator");
        return NULL;
    }
    w->counted = in && e->policy == w->hash;
    if (event.kind == WAY_KIND_EXPIRY || !strcmp(e->where, "host") ||
        event.kind == WAY_KIND_EDGE) /* this policy's own come by what it counts */
        return NULL;
    event.answer = in ? in->answer : (struct way_span){ NULL, 0 };
    w->seed = e->seed ? e->seed : (e->seq << 16 | e->thread) * 0x9e3779b97f4a7c15u | 1;
    return ask(w, e, &event);
}
