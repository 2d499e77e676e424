/* health_topology - see health.h, "topology".
 *
 *     slot ──▶ shard ──▶ master, replicas (nodes)        and back: node ──▶ shard
 *
 *     a node record:  FREE ─adopt─▶ ADOPTED ─publish─▶ MEMBER ─publish without it─▶ GONE
 *                                      ▲                                             │
 *                                      └── adopt: the same id, or after GRACE any ◀──┘
 *
 * A topology is judged slot by slot against the table before anything is written: a claim
 * that the table knows to be superseded makes the whole topology old, and then it gives no
 * more than the slots it wins by a higher config epoch. What is judged is one node's
 * belief, so its silence on a slot counts only if it knows the present owner at least as
 * well as the table does, or not at all. And not at all if that owner is a replica to it:
 * who hears of a demotion before it hears of the promotion knows no owner for a while.
 * Then the shard keeps its slots, and goes to the owner's own master, if that is one to it
 * already, else stays with the owner, which answers MOVED.
 *
 * A shard is a record of its own, with memory, so it must outlive its masters: it goes to
 * the master of the topology that was its master before, else to one that was a member of
 * it (a promoted replica), else to one whose replicas are.
 *
 * While slots and shards are rewritten, `mapping` is set. Every intermediate state can be
 * routed by (indexes are valid, at worst there is no master); a writer that dies leaves
 * one, and mend_map cuts it to size. The next topology does the rest.
 *
 * Invariants (way_health_check_map):
 *   1. a slot is WAY_NONE or a shard in use
 *   2. a shard's master and replicas are distinct nodes, not gone, that point back to it
 *   3. a shard not in use has no nodes, and none points to it
 *   4. a node that is gone or free is of no shard
 * A node may point to a shard that does not list it: a former master that still calls
 * itself one, without slots, after another took its place; or the 32nd replica. It
 * belongs there, but nothing is routed to it. */
#include "health_topology.h"

#include <stdio.h>
#include <stdlib.h>

#define RELAXED memory_order_relaxed
#define RELEASE memory_order_release

enum { GRACE_SECONDS = 60, BUCKETS = 4096 };

enum judgement {
    SAME,   /* as the table has it */
    WINS,   /* the topology's word is newer */
    HIGHER, /* and by a higher config epoch */
    LOSES,  /* the table's is newer */
    STAYS,  /* the topology has no better one: its owner can't be reached by anybody, or
               has become a replica, and nobody is said to have the slot */
};
enum place { UNLISTED, REPLICA, MASTER };

/* One topology set against the table. */
struct plan {
    struct way_health *h;
    struct way_segment *s;
    const struct way_topology *t;
    double began, last_began;
    bool old;
    struct way_identity *who;       /* of each node of t */
    uint16_t *node_of;              /* of each node of t: its record or WAY_NONE */
    uint16_t *shard_of;             /* of each master of t: its shard or WAY_NONE */
    uint32_t *slots_of;             /* of each node of t: slots it owns */
    int32_t of_node[WAY_NODES_MAX]; /* of each record: its node of t, or -1 */
    uint16_t bucket[BUCKETS];       /* records by their id's hash; WAY_NONE: empty */
    uint8_t judged[WAY_SLOTS];      /* enum judgement */
    int32_t claim[WAY_SHARDS_MAX];  /* the master of t that a shard goes to, or -1 */
    uint16_t target[WAY_NODES_MAX]; /* each record's shard to be */
    uint8_t place[WAY_NODES_MAX];   /* enum place */
    uint8_t needed[WAY_SHARDS_MAX]; /* a slot or a node points to it */
    bool surplus;
};

/* ---- identities ---- */

static uint64_t hash_bytes(uint64_t h, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    return h;
}

static uint64_t hash_text(const char *p)
{
    return hash_bytes(0xcbf29ce484222325u, p, strlen(p));
}

/* Of an address; 0 for one without a host. */
static uint64_t hash_address(const char *host, unsigned port)
{
    if (!*host)
        return 0;
    uint64_t h = hash_text(host) ^ (uint64_t)port * 0x9e3779b97f4a7c15u;
    return h ? h : 1;
}

static void identity_get(struct way_segment *s, unsigned node, struct way_identity *out)
{
    way_record_read(s->identity[node], WAY_IDENTITY_WORDS, WAY_IDENTITY_WORDS, out);
}

static void identity_put(struct way_segment *s, unsigned node,
                         const struct way_identity *in)
{
    struct way_aux *aux = &s->aux[node];
    way_record_write(s->identity[node], WAY_IDENTITY_WORDS,
                     way_record_version(s->identity[node]) + 1, in);
    atomic_store_explicit(&aux->id_hash, hash_text(in->id), RELAXED);
    atomic_store_explicit(&aux->address_hash, hash_address(in->host, (unsigned)in->port),
                          RELAXED);
    atomic_store_explicit(&aux->hostname_hash,
                          hash_address(in->hostname, (unsigned)in->port), RELAXED);
}

static void text_put(char *to, size_t room, const char *from)
{
    size_t n = strnlen(from, room - 1);
    memcpy(to, from, n);
}

static const char *zone_of(const struct way_health *h, const struct way_identity *who)
{
    char named[WAY_ADDRESS_MAX];
    snprintf(named, sizeof named, "%s:%u", who->hostname, (unsigned)who->port);
    for (unsigned i = 0; i < h->zones; i++) {
        const char *a = h->zone[i].address;
        if (!strcmp(a, who->address) || !strcmp(a, who->host) ||
            (*who->hostname && (!strcmp(a, named) || !strcmp(a, who->hostname))))
            return h->zone[i].zone;
    }
    return "";
}

/* Nodes that tell no id (very old servers) are told apart by their address. */
static void identity_of(const struct way_health *h, const struct way_topo_node *n,
                        struct way_identity *out)
{
    memset(out, 0, sizeof *out);
    out->port = n->port;
    out->tls_port = n->tls_port;
    text_put(out->host, sizeof out->host, n->host);
    text_put(out->hostname, sizeof out->hostname, n->hostname);
    snprintf(out->address, sizeof out->address, "%s:%u", out->host, (unsigned)n->port);
    text_put(out->id, WAY_ID_MAX, *n->id ? n->id : out->address);
    text_put(out->zone, sizeof out->zone, zone_of(h, out));
}

static bool reachable(const struct way_topo_node *n)
{
    return !n->noaddr && !n->handshake && n->port && *n->host;
}

static unsigned life_of(struct way_segment *s, unsigned node)
{
    return atomic_load_explicit(&s->aux[node].life, RELAXED);
}

static bool lives(struct way_segment *s, unsigned node)
{
    unsigned life = life_of(s, node);
    return life == WAY_LIFE_ADOPTED || life == WAY_LIFE_MEMBER;
}

static unsigned shard_of_node(struct way_segment *s, unsigned node)
{
    return atomic_load_explicit(&s->node[node].shard, RELAXED);
}

static unsigned master_of(struct way_segment *s, unsigned shard)
{
    return atomic_load_explicit(&s->shard[shard].master, RELAXED);
}

/* ---- the plan ---- */

static void plan_index(struct plan *p, unsigned node)
{
    uint64_t h = atomic_load_explicit(&p->s->aux[node].id_hash, RELAXED);
    unsigned b = h % BUCKETS;
    while (p->bucket[b] != WAY_NONE)
        b = (b + 1) % BUCKETS;
    p->bucket[b] = (uint16_t)node;
}

static unsigned plan_find(const struct plan *p, const char *id)
{
    uint64_t h = hash_text(id);
    for (unsigned b = h % BUCKETS; p->bucket[b] != WAY_NONE; b = (b + 1) % BUCKETS) {
        unsigned node = p->bucket[b];
        char its[sizeof((struct way_identity *)0)->id];
        if (atomic_load_explicit(&p->s->aux[node].id_hash, RELAXED) != h)
            continue;
        way_record_read(p->s->identity[node], WAY_IDENTITY_WORDS, WAY_WORDS(its), its);
        if (!strcmp(its, id))
            return node;
    }
    return WAY_NONE;
}

/* The present owner's claim is out of date by what this topology knows of that owner. */
static bool refutes(const struct plan *p, unsigned owner, unsigned slot)
{
    double moved = way_load_double(&p->s->slot_moved[slot]);
    if (p->began < moved)
        return false;
    int32_t i = owner < WAY_NODES_MAX ? p->of_node[owner] : -1;
    if (i < 0 || !p->t->has_epochs)
        return p->began >= p->last_began;
    return p->t->node[i].config_epoch >=
           atomic_load_explicit(&p->s->slot_epoch[slot], RELAXED);
}

/* Is it a replica by this topology? */
static bool is_demoted(const struct plan *p, unsigned owner)
{
    int32_t i = owner < WAY_NODES_MAX ? p->of_node[owner] : -1;
    return i >= 0 && !p->t->node[i].master && reachable(&p->t->node[i]);
}

static enum judgement judge(const struct plan *p, unsigned slot)
{
    struct way_segment *s = p->s;
    unsigned i = p->t->owner[slot];
    unsigned shard = atomic_load_explicit(&s->slot[slot], RELAXED);
    unsigned owner = shard < WAY_SHARDS_MAX ? master_of(s, shard) : WAY_NONE;
    if (i >= p->t->count && shard != WAY_NONE && is_demoted(p, owner))
        return STAYS;
    if (i >= p->t->count)
        return shard == WAY_NONE ? SAME : refutes(p, owner, slot) ? WINS : LOSES;
    if (!reachable(&p->t->node[i]))
        return STAYS;
    if (shard == WAY_NONE)
        return WINS;
    if (owner != WAY_NONE && p->node_of[i] == owner)
        return SAME;
    if (p->t->has_epochs) {
        uint64_t epoch = p->t->node[i].config_epoch;
        uint64_t known = atomic_load_explicit(&s->slot_epoch[slot], RELAXED);
        if (epoch > known)
            return HIGHER;
        if (epoch < known)
            return refutes(p, owner, slot) ? WINS : LOSES;
    }
    return p->began >= p->last_began && p->began >= way_load_double(&s->slot_moved[slot])
               ? WINS
               : LOSES;
}

/* Sets `judged` of each slot and `old`. */
static void plan_judge(struct plan *p)
{
    unsigned count[STAYS + 1] = { 0 };
    unsigned owned = 0, owned_before = 0;
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++) {
        p->judged[slot] = (uint8_t)judge(p, slot);
        count[p->judged[slot]]++;
        owned += p->t->owner[slot] < p->t->count;
        owned_before += atomic_load_explicit(&p->s->slot[slot], RELAXED) != WAY_NONE;
    }
    p->old = count[LOSES] || (!count[HIGHER] && p->began < p->last_began) ||
             (!owned && owned_before); /* one node that was reset knows nothing */
}

static void plan_free(struct plan *p)
{
    way_free(p->who);
    way_free(p->node_of);
    way_free(p->shard_of);
    way_free(p->slots_of);
    way_free(p);
}

/* Allocates outside the lock; plan_fill is under it. */
static struct plan *plan_new(struct way_health *h, const struct way_topology *t,
                             double began)
{
    struct plan *p = way_zalloc(sizeof *p);
    p->h = h;
    p->s = h->s;
    p->t = t;
    p->began = began;
    p->who = way_alloc(t->count * sizeof *p->who);
    for (unsigned i = 0; i < t->count; i++)
        identity_of(h, &t->node[i], &p->who[i]);
    p->node_of = way_alloc(t->count * sizeof *p->node_of);
    p->shard_of = way_alloc(t->count * sizeof *p->shard_of);
    p->slots_of = way_zalloc(t->count * sizeof *p->slots_of);
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++)
        if (t->owner[slot] < t->count)
            p->slots_of[t->owner[slot]]++;
    return p;
}

static void plan_fill(struct plan *p)
{
    unsigned nodes = way_health_nodes(p->h);
    p->last_began = way_load_double(&p->s->topology_began);
    memset(p->of_node, 0xff, sizeof p->of_node);
    memset(p->bucket, 0xff, sizeof p->bucket);
    for (unsigned n = 0; n < nodes; n++)
        if (life_of(p->s, n) != WAY_LIFE_FREE)
            plan_index(p, n);
    for (unsigned i = 0; i < p->t->count; i++) {
        unsigned node = plan_find(p, p->who[i].id);
        if (node < WAY_NODES_MAX && p->of_node[node] >= 0)
            node = WAY_NONE; /* the same id twice */
        p->node_of[i] = (uint16_t)node;
        p->shard_of[i] = WAY_NONE;
        if (node < WAY_NODES_MAX)
            p->of_node[node] = (int32_t)i;
    }
    plan_judge(p);
}

/* Does the record stay in the cluster, by this topology? */
static bool stays(const struct plan *p, unsigned node)
{
    return p->of_node[node] >= 0 && reachable(&p->t->node[p->of_node[node]]);
}

/* ---- adopt ---- */

/* A record for a new node: of one that left long ago, or the next unused. */
static unsigned record_take(struct way_segment *s, double now)
{
    unsigned nodes = atomic_load_explicit(&s->nodes, RELAXED);
    for (unsigned n = 0; n < nodes; n++)
        if (life_of(s, n) == WAY_LIFE_FREE ||
            (life_of(s, n) == WAY_LIFE_GONE &&
             way_load_double(&s->aux[n].gone_at) + GRACE_SECONDS <= now))
            return n;
    return nodes < WAY_NODES_MAX ? nodes : WAY_NONE;
}

/* Life comes last, and `nodes` after it: cut short, the record is as it was or unused. */
static void record_begin(struct way_segment *s, unsigned node,
                         const struct way_topo_node *tn, const struct way_identity *who,
                         double now)
{
    struct way_node *n = &s->node[node];
    atomic_fetch_add_explicit(&n->generation, 1, RELAXED);
    identity_put(s, node, who);
    way_segment_fresh_node(s, node, now);
    atomic_store_explicit(&n->role, tn->master ? WAY_ROLE_MASTER : WAY_ROLE_REPLICA,
                          RELAXED);
    atomic_store_explicit(&n->shard, WAY_NONE, RELAXED);
    atomic_store_explicit(&n->route, 0, RELEASE); /* as a fresh verdict says */
    atomic_store_explicit(&s->aux[node].life, WAY_LIFE_ADOPTED, RELEASE);
    if (node >= atomic_load_explicit(&s->nodes, RELAXED))
        atomic_store_explicit(&s->nodes, node + 1, RELEASE);
}

/* Returns true if connections must be made anew. */
static bool record_update(struct way_segment *s, unsigned node,
                          const struct way_identity *who)
{
    struct way_identity old;
    identity_get(s, node, &old);
    bool elsewhere = strcmp(old.address, who->address) != 0;
    if (elsewhere) {
        atomic_fetch_add_explicit(&s->node[node].generation, 1, RELAXED);
        atomic_store_explicit(&s->node[node].failures, 0, RELAXED);
        atomic_store_explicit(&s->node[node].latency, 0, RELAXED);
        way_store_double(&s->aux[node].dial_at, 0);
        atomic_store_explicit(&s->aux[node].dial_error, 0, RELAXED);
    }
    if (memcmp(&old, who, sizeof old) ||
        atomic_load_explicit(&s->aux[node].address_hash, RELAXED) !=
            hash_address(who->host, (unsigned)who->port))
        identity_put(s, node, who);
    return elsewhere;
}

/* One node of the topology; returns how many changes it wrote, at most 2. */
static unsigned adopt_node(struct plan *p, unsigned i, double now,
                           struct way_node_change *out)
{
    const struct way_topo_node *tn = &p->t->node[i];
    enum way_role role = tn->master ? WAY_ROLE_MASTER : WAY_ROLE_REPLICA;
    const struct way_identity *who = &p->who[i];
    unsigned node = plan_find(p, who->id), changes = 0;
    bool known = node != WAY_NONE;
    if (known && p->of_node[node] != (int32_t)i)
        return 0; /* the same id twice */
    if (!known && (node = record_take(p->s, now)) == WAY_NONE) {
        p->surplus = true;
        return 0;
    }
    if (!known || life_of(p->s, node) == WAY_LIFE_GONE)
        record_begin(p->s, node, tn, who, now);
    if (!known) {
        plan_index(p, node);
        p->of_node[node] = (int32_t)i;
        p->node_of[i] = (uint16_t)node;
    }
    bool elsewhere = record_update(p->s, node, who);
    unsigned before =
        atomic_exchange_explicit(&p->s->node[node].role, (uint8_t)role, RELAXED);
    struct way_node_change change = { .node = (uint16_t)node, .role = role };
    if (life_of(p->s, node) == WAY_LIFE_ADOPTED) {
        change.what = WAY_CHANGE_ADDED;
        out[changes++] = change;
        return changes;
    }
    if (before != role) {
        change.what = WAY_CHANGE_ROLE;
        out[changes++] = change;
    }
    if (elsewhere) {
        change.what = WAY_CHANGE_ADDRESS;
        out[changes++] = change;
    }
    return changes;
}

static unsigned adopt_all(struct plan *p, double now, struct way_node_change *out,
                          unsigned max)
{
    unsigned changes = 0, nodes = way_health_nodes(p->h);
    for (unsigned i = 0; i < p->t->count && changes + 2 <= max; i++)
        if (reachable(&p->t->node[i]))
            changes += adopt_node(p, i, now, out + changes);
    for (unsigned n = 0; n < nodes && changes < max; n++)
        if (lives(p->s, n) && !stays(p, n))
            out[changes++] = (struct way_node_change){
                .node = (uint16_t)n,
                .gone = true,
                .role = (enum way_role)atomic_load_explicit(&p->s->node[n].role, RELAXED),
            };
    return changes;
}

int way_health_adopt(struct way_health *h, const struct way_topology *t, double began,
                     double now, struct way_node_change *out, unsigned max,
                     struct way_err *err)
{
    struct plan *p = plan_new(h, t, began);
    int rc = 0;
    if (err)
        err->text[0] = 0;
    if (way_health_lock(h)) {
        plan_free(p);
        return way_fail(err, "the node table's lock was not to be had within 1 ms");
    }
    plan_fill(p);
    if (!p->old) {
        way_store_double(&h->s->adopted_at, now);
        rc = (int)adopt_all(p, now, out, max);
    }
    way_health_unlock(h);
    if (p->surplus)
        way_fail(err, "the cluster has more than %d nodes: the rest is left out",
                 WAY_NODES_MAX);
    plan_free(p);
    return rc;
}

/* ---- publish: which shard is whose ---- */

/* One that is not in use, from `hint` on, which is put behind it. */
static unsigned shard_take(struct way_segment *s, unsigned *hint)
{
    for (unsigned i = *hint; i < WAY_SHARDS_MAX; i++) {
        *hint = i + 1;
        if (atomic_load_explicit(&s->shard_used[i], RELAXED))
            continue;
        way_segment_fresh_shard(s, i);
        atomic_store_explicit(&s->shard_used[i], 1, RELEASE);
        if (i >= atomic_load_explicit(&s->shards, RELAXED))
            atomic_store_explicit(&s->shards, i + 1, RELEASE);
        return i;
    }
    return WAY_NONE;
}

static bool claim(struct plan *p, unsigned i, unsigned shard)
{
    if (shard >= WAY_SHARDS_MAX || p->claim[shard] >= 0 || p->shard_of[i] != WAY_NONE)
        return false;
    p->claim[shard] = (int32_t)i;
    p->shard_of[i] = (uint16_t)shard;
    return true;
}

/* Whether node i of t is a master with a record, with or without slots, still homeless. */
static bool homeless(const struct plan *p, unsigned i, bool with_slots)
{
    return p->t->node[i].master && p->node_of[i] != WAY_NONE &&
           lives(p->s, p->node_of[i]) && reachable(&p->t->node[i]) &&
           p->shard_of[i] == WAY_NONE && (p->slots_of[i] > 0) == with_slots;
}

static int32_t master_in_topology(const struct plan *p, unsigned i)
{
    unsigned node = plan_find(p, p->t->node[i].master_id);
    return node < WAY_NODES_MAX ? p->of_node[node] : -1;
}

static void claim_by_replicas(struct plan *p)
{
    for (unsigned r = 0; r < p->t->count; r++) {
        if (p->t->node[r].master || p->node_of[r] == WAY_NONE)
            continue;
        int32_t i = master_in_topology(p, r);
        if (i >= 0 && homeless(p, (unsigned)i, true))
            claim(p, (unsigned)i, shard_of_node(p->s, p->node_of[r]));
    }
}

/* A shard whose slots stay though its master is a replica now. */
static void claim_by_demoted(struct plan *p)
{
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++) {
        unsigned shard = atomic_load_explicit(&p->s->slot[slot], RELAXED);
        if (p->judged[slot] != STAYS || shard >= WAY_SHARDS_MAX || p->claim[shard] >= 0)
            continue;
        unsigned owner = master_of(p->s, shard);
        if (!is_demoted(p, owner) || !lives(p->s, owner))
            continue;
        unsigned i = (unsigned)p->of_node[owner];
        int32_t promoted = master_in_topology(p, i);
        if (promoted < 0 || !homeless(p, (unsigned)promoted, false) ||
            !claim(p, (unsigned)promoted, shard))
            claim(p, i, shard);
    }
}

static void claim_shards(struct plan *p)
{
    struct way_segment *s = p->s;
    unsigned hint = 0;
    memset(p->claim, 0xff, sizeof p->claim);
    for (unsigned i = 0; i < p->t->count; i++) {
        unsigned node = p->node_of[i];
        unsigned shard = node == WAY_NONE ? WAY_NONE : shard_of_node(s, node);
        if (shard != WAY_NONE && homeless(p, i, true) && master_of(s, shard) == node)
            claim(p, i, shard);
    }
    for (unsigned i = 0; i < p->t->count; i++)
        if (homeless(p, i, true))
            claim(p, i, shard_of_node(s, p->node_of[i]));
    claim_by_replicas(p);
    for (unsigned i = 0; i < p->t->count; i++)
        if (homeless(p, i, true) && !claim(p, i, shard_take(s, &hint)))
            p->surplus = true;
    claim_by_demoted(p);
    for (unsigned i = 0; i < p->t->count; i++) {
        if (!homeless(p, i, false))
            continue;
        unsigned node = p->node_of[i], shard = shard_of_node(s, node);
        if (shard != WAY_NONE && p->claim[shard] >= 0)
            continue; /* another took its place: a member that is not listed */
        if (shard == WAY_NONE || master_of(s, shard) != node || !claim(p, i, shard))
            claim(p, i, shard_take(s, &hint));
    }
}

/* Where each record that stays will be. */
static void place_nodes(struct plan *p)
{
    for (unsigned n = 0; n < WAY_NODES_MAX; n++)
        p->target[n] = WAY_NONE;
    for (unsigned i = 0; i < p->t->count; i++) {
        unsigned node = p->node_of[i];
        if (node == WAY_NONE || !stays(p, node) || !lives(p->s, node))
            continue;
        p->target[node] = atomic_load_explicit(&p->s->node[node].shard, RELAXED);
        p->place[node] = UNLISTED;
        if (p->shard_of[i] != WAY_NONE) {
            p->target[node] = p->shard_of[i];
            p->place[node] = MASTER;
        } else if (!p->t->node[i].master) {
            int32_t m = master_in_topology(p, i);
            if (m >= 0 && p->shard_of[m] != WAY_NONE)
                p->target[node] = p->shard_of[m];
            p->place[node] = REPLICA;
        }
    }
}

/* ---- publish: writing ---- */

static bool put16(_Atomic uint16_t *to, unsigned value)
{
    if (atomic_load_explicit(to, RELAXED) == value)
        return false;
    atomic_store_explicit(to, (uint16_t)value, RELEASE);
    return true;
}

static bool write_members(struct plan *p)
{
    bool changed = false;
    unsigned nodes = way_health_nodes(p->h);
    for (unsigned n = 0; n < nodes; n++) {
        if (!lives(p->s, n) || !stays(p, n))
            continue;
        changed |= put16(&p->s->node[n].shard, p->target[n]);
        if (life_of(p->s, n) == WAY_LIFE_ADOPTED) {
            atomic_store_explicit(&p->s->aux[n].life, WAY_LIFE_MEMBER, RELEASE);
            changed = true;
        }
    }
    return changed;
}

/* All shards' masters and replica lists from target and place, in the records' order. */
static bool write_shards(struct plan *p)
{
    struct way_segment *s = p->s;
    unsigned nodes = way_health_nodes(p->h), shards = atomic_load(&s->shards);
    uint8_t listed[WAY_SHARDS_MAX] = { 0 };
    bool changed = false;
    for (unsigned i = 0; i < shards; i++)
        changed |= put16(&s->shard[i].master,
                         p->claim[i] >= 0 ? p->node_of[p->claim[i]] : WAY_NONE);
    for (unsigned n = 0; n < nodes; n++) {
        unsigned shard = p->target[n];
        if (shard >= WAY_SHARDS_MAX || p->place[n] != REPLICA ||
            listed[shard] == WAY_SHARD_REPLICAS)
            continue;
        changed |= put16(&s->shard[shard].replica[listed[shard]++], n);
    }
    for (unsigned i = 0; i < shards; i++)
        changed |= put16(&s->shard[i].replicas, listed[i]);
    return changed;
}

static bool write_slots(struct plan *p)
{
    bool changed = false;
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++) {
        unsigned i = p->t->owner[slot];
        if (p->judged[slot] == STAYS)
            continue;
        bool owned = i < p->t->count;
        changed |= put16(&p->s->slot[slot], owned ? p->shard_of[i] : WAY_NONE);
        uint64_t epoch = owned ? p->t->node[i].config_epoch : 0;
        if (atomic_load_explicit(&p->s->slot_epoch[slot], RELAXED) != epoch)
            atomic_store_explicit(&p->s->slot_epoch[slot], epoch, RELAXED);
    }
    return changed;
}

static bool write_departures(struct plan *p)
{
    struct way_segment *s = p->s;
    bool changed = false;
    unsigned nodes = way_health_nodes(p->h);
    double now = way_load_double(&s->adopted_at);
    for (unsigned n = 0; n < nodes; n++) {
        if (!lives(s, n) || stays(p, n))
            continue;
        way_store_double(&s->aux[n].gone_at, now > p->began ? now : p->began);
        atomic_fetch_or_explicit(&s->node[n].route, WAY_ROUTE_GONE, RELEASE);
        atomic_store_explicit(&s->node[n].shard, WAY_NONE, RELAXED);
        atomic_store_explicit(&s->aux[n].life, WAY_LIFE_GONE, RELEASE);
        atomic_fetch_add_explicit(&s->node[n].generation, 1, RELEASE);
        changed = true;
    }
    return changed;
}

static void free_shards(struct plan *p)
{
    struct way_segment *s = p->s;
    unsigned nodes = way_health_nodes(p->h), shards = atomic_load(&s->shards);
    memset(p->needed, 0, sizeof p->needed);
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++) {
        unsigned shard = atomic_load_explicit(&s->slot[slot], RELAXED);
        if (shard < WAY_SHARDS_MAX)
            p->needed[shard] = 1;
    }
    for (unsigned n = 0; n < nodes; n++)
        if (shard_of_node(s, n) < WAY_SHARDS_MAX)
            p->needed[shard_of_node(s, n)] = 1;
    for (unsigned i = 0; i < shards; i++)
        if (!p->needed[i])
            atomic_store_explicit(&s->shard_used[i], 0, RELAXED);
}

static bool publish_all(struct plan *p)
{
    bool changed = false;
    atomic_store(&p->s->mapping, 1);
    claim_shards(p);
    place_nodes(p);
    changed |= write_members(p);
    changed |= write_shards(p);
    changed |= write_slots(p);
    changed |= write_departures(p);
    free_shards(p);
    double at = way_load_double(&p->s->adopted_at);
    way_store_double(&p->s->topology_began,
                     p->began > p->last_began ? p->began : p->last_began);
    way_store_double(&p->s->topology_at, at > p->began ? at : p->began);
    atomic_store(&p->s->mapping, 0);
    return changed;
}

/* Of an old topology: slots won by a higher epoch, by a node that is its shard's master. */
static bool publish_higher(struct plan *p)
{
    bool changed = false;
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++) {
        unsigned i = p->t->owner[slot];
        unsigned node = p->judged[slot] == HIGHER ? p->node_of[i] : WAY_NONE;
        unsigned shard = node == WAY_NONE ? WAY_NONE : shard_of_node(p->s, node);
        if (shard == WAY_NONE || master_of(p->s, shard) != node)
            continue;
        changed |= put16(&p->s->slot[slot], shard);
        atomic_store_explicit(&p->s->slot_epoch[slot], p->t->node[i].config_epoch,
                              RELAXED);
    }
    return changed;
}

static void map_changed(struct way_health *h)
{
    atomic_fetch_add_explicit(&h->s->epoch, 1, memory_order_acq_rel);
    h->woken_due = true;
}

int way_health_publish(struct way_health *h, const struct way_topology *t, double began,
                       struct way_err *err)
{
    struct plan *p = plan_new(h, t, began);
    if (way_health_lock(h)) {
        plan_free(p);
        return way_fail(err, "the node table's lock was not to be had within 1 ms");
    }
    plan_fill(p);
    bool changed = p->old ? publish_higher(p) : publish_all(p);
    if (changed)
        map_changed(h);
    way_health_unlock(h);
    plan_free(p);
    return changed;
}

/* ---- redirects ---- */

static bool is_at(struct way_segment *s, unsigned node, const char *host, uint16_t port)
{
    struct way_identity who;
    identity_get(s, node, &who);
    return who.port == port && (!strcmp(who.host, host) || !strcmp(who.hostname, host));
}

unsigned way_health_find(struct way_health *h, const char *host, uint16_t port)
{
    struct way_segment *s = h->s;
    unsigned nodes = way_health_nodes(h), found = WAY_NONE;
    uint64_t hash = hash_address(host, port);
    for (unsigned n = 0; hash && n < nodes; n++) {
        if ((atomic_load_explicit(&s->aux[n].address_hash, RELAXED) != hash &&
             atomic_load_explicit(&s->aux[n].hostname_hash, RELAXED) != hash) ||
            !lives(s, n) || !is_at(s, n, host, port))
            continue;
        if (shard_of_node(s, n) != WAY_NONE)
            return n;
        found = n;
    }
    return found;
}

/* The node and its shard's master change places. Slots of the shard count as told of now,
 * so that a topology begun before can't turn it back. */
static void promote(struct way_segment *s, unsigned shard, unsigned node, double now)
{
    struct way_shard *sh = &s->shard[shard];
    unsigned old = master_of(s, shard);
    unsigned replicas = atomic_load_explicit(&sh->replicas, RELAXED), at = 0;
    while (at < replicas && atomic_load_explicit(&sh->replica[at], RELAXED) != node)
        at++;
    if (old != WAY_NONE) {
        atomic_store_explicit(&s->node[old].role, WAY_ROLE_REPLICA, RELAXED);
        if (at < WAY_SHARD_REPLICAS)
            put16(&sh->replica[at], old);
        if (at == replicas && at < WAY_SHARD_REPLICAS)
            put16(&sh->replicas, replicas + 1);
    } else if (at < replicas) {
        put16(&sh->replica[at], atomic_load(&sh->replica[replicas - 1]));
        put16(&sh->replicas, replicas - 1);
    }
    atomic_store_explicit(&s->node[node].role, WAY_ROLE_MASTER, RELAXED);
    put16(&sh->master, node);
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++)
        if (atomic_load_explicit(&s->slot[slot], RELAXED) == shard)
            way_store_double(&s->slot_moved[slot], now);
}

static void moved_locked(struct way_health *h, unsigned slot, unsigned node, double now)
{
    struct way_segment *s = h->s;
    if (!lives(s, node))
        return;
    atomic_store(&s->mapping, 1);
    unsigned shard = shard_of_node(s, node), hint = 0;
    if (shard == WAY_NONE) {
        shard = shard_take(s, &hint);
        if (shard != WAY_NONE)
            put16(&s->node[node].shard, shard);
    }
    if (shard != WAY_NONE) {
        bool changed = put16(&s->slot[slot], shard);
        way_store_double(&s->slot_moved[slot], now);
        if (master_of(s, shard) != node) {
            promote(s, shard, node, now);
            changed = true;
        }
        if (changed)
            map_changed(h);
    }
    atomic_store(&s->mapping, 0);
}

void way_health_moved(struct way_health *h, unsigned slot, unsigned node, double now)
{
    if (slot >= WAY_SLOTS || node >= WAY_NODES_MAX)
        return;
    unsigned shard = shard_of_node(h->s, node);
    if (shard != WAY_NONE && atomic_load_explicit(&h->s->slot[slot], RELAXED) == shard &&
        master_of(h->s, shard) == node)
        return; /* known by now */
    if (way_health_lock(h))
        return;
    moved_locked(h, slot, node, now);
    way_health_unlock(h);
}

double way_health_coverage(struct way_health *h)
{
    unsigned covered = 0;
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++) {
        unsigned shard = atomic_load_explicit(&h->s->slot[slot], RELAXED);
        covered += shard < WAY_SHARDS_MAX && master_of(h->s, shard) != WAY_NONE;
    }
    return (double)covered / WAY_SLOTS;
}

double way_health_topology_at(struct way_health *h)
{
    return way_load_double(&h->s->topology_at);
}

void way_health_zone(struct way_health *h, const char *address, const char *zone)
{
    h->zone = way_realloc(h->zone, (h->zones + 1) * sizeof *h->zone);
    struct way_zone *z = &h->zone[h->zones++];
    memset(z, 0, sizeof *z);
    text_put(z->address, sizeof z->address, address);
    text_put(z->zone, sizeof z->zone, zone);
    if (way_health_lock(h))
        return; /* adopt will see to it */
    unsigned nodes = way_health_nodes(h);
    for (unsigned n = 0; n < nodes; n++) {
        struct way_identity who;
        identity_get(h->s, n, &who);
        const char *its = zone_of(h, &who);
        if (!strcmp(who.zone, its))
            continue;
        memset(who.zone, 0, sizeof who.zone);
        text_put(who.zone, sizeof who.zone, its);
        identity_put(h->s, n, &who);
    }
    way_health_unlock(h);
}

/* ---- mending and checking ---- */

static bool belongs(struct way_segment *s, unsigned node, unsigned shard)
{
    return node < WAY_NODES_MAX && lives(s, node) && shard_of_node(s, node) == shard;
}

static void mend_shard(struct way_segment *s, unsigned shard)
{
    struct way_shard *sh = &s->shard[shard];
    bool used = atomic_load_explicit(&s->shard_used[shard], RELAXED);
    unsigned master = master_of(s, shard), kept = 0;
    unsigned replicas = atomic_load_explicit(&sh->replicas, RELAXED);
    if (!used || !belongs(s, master, shard))
        put16(&sh->master, master = WAY_NONE);
    for (unsigned i = 0; used && i < replicas && i < WAY_SHARD_REPLICAS; i++) {
        unsigned n = atomic_load_explicit(&sh->replica[i], RELAXED), j = 0;
        while (j < kept && atomic_load_explicit(&sh->replica[j], RELAXED) != n)
            j++;
        if (j == kept && n != master && belongs(s, n, shard))
            put16(&sh->replica[kept++], n);
    }
    put16(&sh->replicas, kept);
}

void way_health_mend_map(struct way_segment *s)
{
    unsigned nodes = atomic_load(&s->nodes);
    for (unsigned n = 0; n < nodes; n++) {
        unsigned shard = shard_of_node(s, n);
        if (shard != WAY_NONE && (!lives(s, n) || shard >= WAY_SHARDS_MAX ||
                                  !atomic_load(&s->shard_used[shard])))
            put16(&s->node[n].shard, WAY_NONE);
    }
    for (unsigned i = 0; i < WAY_SHARDS_MAX; i++) {
        mend_shard(s, i);
        if (atomic_load(&s->shard_used[i]) && i >= atomic_load(&s->shards))
            atomic_store(&s->shards, i + 1);
    }
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++) {
        unsigned shard = atomic_load_explicit(&s->slot[slot], RELAXED);
        if (shard != WAY_NONE &&
            (shard >= WAY_SHARDS_MAX || !atomic_load(&s->shard_used[shard])))
            put16(&s->slot[slot], WAY_NONE);
    }
    way_store_double(&s->topology_began, 0);
    atomic_store(&s->mapping, 0);
}

#define MUST(condition, ...)                                                             \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            fprintf(stderr, "node table: " __VA_ARGS__);                                 \
            fprintf(stderr, ": not %s\n", #condition);                                   \
            abort();                                                                     \
        }                                                                                \
    } while (0)

static void check_shard(struct way_segment *s, unsigned shard)
{
    struct way_shard *sh = &s->shard[shard];
    bool used = atomic_load(&s->shard_used[shard]);
    unsigned master = master_of(s, shard), replicas = atomic_load(&sh->replicas);
    MUST(used || (master == WAY_NONE && !replicas), "shard %u", shard);
    MUST(replicas <= WAY_SHARD_REPLICAS, "shard %u, %u replicas", shard, replicas);
    MUST(master == WAY_NONE || belongs(s, master, shard), "shard %u, master %u", shard,
         master);
    for (unsigned i = 0; i < replicas; i++) {
        unsigned n = atomic_load(&sh->replica[i]);
        MUST(n != master && belongs(s, n, shard), "shard %u, replica %u", shard, n);
        for (unsigned j = 0; j < i; j++)
            MUST(atomic_load(&sh->replica[j]) != n, "shard %u, replica %u twice", shard,
                 n);
    }
}

void way_health_check_map(struct way_segment *s)
{
    unsigned nodes = atomic_load(&s->nodes), shards = atomic_load(&s->shards);
    for (unsigned i = 0; i < WAY_SHARDS_MAX; i++) {
        MUST(i < shards || !atomic_load(&s->shard_used[i]), "shard %u of %u", i, shards);
        check_shard(s, i);
    }
    for (unsigned n = 0; n < nodes; n++) {
        unsigned shard = shard_of_node(s, n);
        MUST(shard == WAY_NONE || (shard < WAY_SHARDS_MAX && lives(s, n) &&
                                   atomic_load(&s->shard_used[shard])),
             "node %u, shard %u", n, shard);
    }
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++) {
        unsigned shard = atomic_load(&s->slot[slot]);
        MUST(shard == WAY_NONE ||
                 (shard < WAY_SHARDS_MAX && atomic_load(&s->shard_used[shard])),
             "slot %u, shard %u", slot, shard);
    }
}
