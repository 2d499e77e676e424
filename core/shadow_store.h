/* shadow_store - the nodes as a policy that is not in charge would have them: verdicts,
 * declared memory and counters that nobody routes by.
 *
 * What it holds is only what differs. As long as the shadow's answers are those of the
 * policy in charge, a record follows the node table: nothing is kept of it, and the shadow
 * is shown the very snapshot that the other one was shown. With the first difference it
 * becomes the shadow's own, and is changed by its answers alone. A verdict follows again
 * when both hold the node healthy with nothing left over; memory, when it is the same.
 *
 * Shared by the threads of a process. Its lock is held for copies only, never while a
 * policy is asked, and nobody waits for it: who can't have it within a few hundred
 * nanoseconds is told so. */
#ifndef WAY_SHADOW_STORE_H
#define WAY_SHADOW_STORE_H

#include "health.h"

struct way_shadow_store;

struct way_shadow_store_options {
    struct way_health *health;
    const struct way_layout *layout; /* of the shadow's policy; copied, as the next */
    const struct way_counters_layout *counters;
    /* Its memory has the names, in the places, that the policy in charge has: it follows.
     * Else it begins with the layout's first values. */
    bool same_memory;
};
struct way_shadow_store *way_shadow_store_new(const struct way_shadow_store_options *o);
void way_shadow_store_free(struct way_shadow_store *s);

/* Memory to begin with instead of the first values, before threads use it; not with
 * same_memory. One array of the layout's length each. */
void way_shadow_store_seed_node(struct way_shadow_store *s, unsigned node,
                                const double *memory);
void way_shadow_store_seed_shard(struct way_shadow_store *s, unsigned shard,
                                 const double *memory);
void way_shadow_store_seed_cluster(struct way_shadow_store *s, const double *memory);

/* ---- its counters: it counts by itself, for it classes by itself ---- */
/* Those that the policy of that epoch declared alike go on from there; once, before threads
 * use it. */
void way_shadow_store_inherit(struct way_shadow_store *s,
                              const struct way_counters_layout *of,
                              uint64_t policy_epoch);
/* As way_health_count. */
uint64_t way_shadow_store_count(struct way_shadow_store *s, unsigned node,
                                const struct way_report *r);
/* All of v's node, its shard and the cluster, into v. */
void way_shadow_store_counted(struct way_shadow_store *s, double now, struct way_view *v);

/* A node as the shadow sees it. */
struct way_shadow_look {
    const struct way_view *view; /* in `own`, or in the snapshot where all follows */
    bool own_verdict;
    uint32_t version[3]; /* private, as what follows */
    uint16_t node, shard;
    bool own_memory[3];
    struct way_view own;
};
/* `seen` must live as long as `out`. -1: the lock is not to be had. */
int way_shadow_store_look(struct way_shadow_store *s, const struct way_snapshot *seen,
                          struct way_shadow_look *out) WAY_MUST_CHECK;

/* What an answer makes of it. */
struct way_shadow_change {
    bool verdict_own; /* the verdict is the shadow's own from here on */
    struct way_verdict verdict;
    const struct way_memory *memory; /* as the shadow left it */
    const struct way_memory
        *table; /* as the policy in charge left its own, or found it */
    const struct way_touches *touches; /* of its counters; NULL: none */
};
/* CONFLICT: it changed since the look; BUSY: the lock is not to be had. */
enum way_commit way_shadow_store_commit(struct way_shadow_store *s,
                                        const struct way_shadow_look *look,
                                        const struct way_shadow_change *c) WAY_MUST_CHECK;

/* The other nodes' states for the guard: way_health_suppose. */
struct way_others way_shadow_store_others(struct way_shadow_store *s);

/* The next node at or behind `from` whose own mark's time is over, since `ends`; WAY_NONE:
 * none. */
unsigned way_shadow_store_due(struct way_shadow_store *s, unsigned from, double now,
                              double *ends);
/* Now and then, in one thread: forgets nodes that are gone, lets verdicts follow that are
 * the same again. */
void way_shadow_store_settle(struct way_shadow_store *s, double now);

/* The shadow's own verdict on a node: false, it has the table's. */
bool way_shadow_store_verdict(struct way_shadow_store *s, unsigned node,
                              struct way_verdict *out);

#endif
