/* cluster - keeps the node table's topology fresh.
 *
 * Asks nodes for CLUSTER NODES (CLUSTER SLOTS where that is refused) and CLUSTER SHARDS for
 * what it adds, over connections of its own, and puts the first good answer into the
 * table: adopt, let the policy hear of each change, publish. Refreshes are single-flight,
 * spaced by limits.refresh_interval with jitter, and raced: up to three nodes, the next
 * one 50 ms after the last or at once when one fails, healthy nodes first, then others,
 * then the seeds by name; who loses is cancelled. While a shard has no usable master the
 * next refresh follows at that interval by itself, and three nodes are asked within it.
 *
 * Belongs to the control loop. Callbacks fire in its thread and must not free the cluster.
 * Only way_cluster_refresh may be called from other threads. */
#ifndef WAY_CLUSTER_H
#define WAY_CLUSTER_H

#include "base.h"
#include "event.h"
#include "health.h"
#include "limits.h"
#include "loop.h"

struct way_resolver;
struct way_tls;
struct way_cluster;

struct way_cluster_options {
    struct way_loop *loop;
    struct way_resolver *resolver;
    struct way_health *health;
    const struct way_timeouts *timeouts; /* borrowed */
    const struct way_limits *limits;     /* borrowed */
    char *const *seeds;                  /* borrowed: "host:port", names allowed */
    unsigned seed_count;
    const char *user, *password; /* borrowed; NULL: none */
    const struct way_tls *tls;   /* borrowed; NULL: in plain */
    /* Between adopt and publish: a node is heard of before it is routed to. May be NULL. */
    void (*changed)(void *arg, const struct way_node_change *change, unsigned count);
    /* A connection of ours to a known node broke or could not be made: e is whole but for
     * class and blame. Cancelled ones are not told. May be NULL. */
    void (*failed)(void *arg, unsigned node, struct way_event *e);
    void (*published)(void *arg); /* the table's topology changed. May be NULL */
    void *arg;
};

/* Asks for the first topology at the loop's next pass. Never fails: an unreachable cluster
 * is tried again, after 0.1 s to 2 s, and told in the log. */
struct way_cluster *way_cluster_new(const struct way_cluster_options *o);
void way_cluster_free(struct way_cluster *c);

/* Wants a refresh, soon: any thread. Many wishes are one refresh. */
void way_cluster_refresh(struct way_cluster *c);

/* From the control loop's `woken`: looks whether somebody wants one. */
void way_cluster_woken(struct way_cluster *c);

struct way_cluster_counts {
    uint64_t refreshes, failed; /* whole races */
};
void way_cluster_counts(const struct way_cluster *c, struct way_cluster_counts *out);

#endif
