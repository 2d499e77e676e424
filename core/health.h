/* health - the node table: the only thing that workers, and processes, share.
 *
 * One mapped segment: slots, shards, nodes with their verdicts and declared memory, and
 * per-worker rows of additive figures. Offsets and atomics, no pointers. Readers take no
 * lock. A commit is optimistic: take a snapshot, ask the policy, publish if nothing
 * changed. A writer that dies at any instruction leaves the old record whole: each record
 * has two copies, and the low bit of its version says which one counts. The lock is a
 * robust process-shared mutex, waited for at most 1 ms.
 *
 * The module hides the layout, the locking, the redo record and the guard. Hot: the
 * structs below that routers read directly; each field says who writes it. */
#ifndef WAY_HEALTH_H
#define WAY_HEALTH_H

#include "base.h"
#include "counters.h"
#include "event.h"
#include "limits.h"
#include "slots.h"

#include <stdatomic.h>

enum {
    WAY_NODES_MAX = 1024,
    WAY_SHARDS_MAX = 1024,
    WAY_SHARD_REPLICAS = 31,
    WAY_ROWS_MAX = 128, /* attached workers, all processes */
    WAY_NODE_MEMORY = 32,
    WAY_SHARD_MEMORY = 16,
    WAY_CLUSTER_MEMORY = 32,
    WAY_ADDRESS_MAX = WAY_HOST_MAX + 8,
    WAY_NONE = 0xffff,             /* no node, no shard */
    WAY_BUNDLE_BYTES = 512 * 1024, /* of a policy, with all that it requires */
};

/* The route word of a node: 0 means healthy, whole weight, nothing shed: the router's
 * fast case is one load and one comparison. */
enum {
    WAY_ROUTE_STATE = 0x07,  /* enum way_state */
    WAY_ROUTE_WEIGHT = 0x08, /* weight below 1, or still ramping: see the verdict */
    WAY_ROUTE_SHED = 0x10,   /* see the verdict */
    WAY_ROUTE_GONE = 0x20,   /* left the cluster, or never used */
};

/* w: health, at commit and publish; r: routers, per command. The latency is written often,
 * so it has a cache line of its own. */
struct way_node {
    _Alignas(64) _Atomic uint32_t route;
    _Atomic uint16_t shard;      /* WAY_NONE: of no shard */
    _Atomic uint8_t role;        /* enum way_role */
    _Atomic uint32_t generation; /* changes when the record is given to another node or
                                    address: connections of an older one are drained */
    _Atomic uint32_t failures;   /* events in a row that blamed it */
    _Alignas(64) _Atomic uint64_t latency; /* packed EWMA, see way_health_latency */
};
struct way_shard {
    _Atomic uint16_t master; /* node index or WAY_NONE */
    _Atomic uint16_t replicas;
    _Atomic uint16_t replica[WAY_SHARD_REPLICAS];
};

/* What a commit publishes of a node, in one piece. */
struct way_verdict {
    uint8_t state;       /* enum way_state */
    uint8_t hard;        /* marked on hard evidence */
    uint8_t connections; /* enum way_connections, of the last mark but keep */
    uint8_t by_operator; /* marked by an operator: until it ends, or is taken back, marks
                            of a policy and of the host change nothing */
    uint32_t trials;     /* let through in all while probing */
    double since;        /* when the state last changed */
    double ends;         /* 0: until marked otherwise */
    double weight, ramp, ramp_began, shed;
    char reason[WAY_REASON_MAX];
    /* Counts marks with connections = drop or drain: a worker that remembers an older
     * count applies them. Never falls. */
    uint32_t drops;
};

struct way_memory {
    double node[WAY_NODE_MEMORY];
    double shard[WAY_SHARD_MEMORY];
    double cluster[WAY_CLUSTER_MEMORY];
};

/* The first values of declared memory, and what tells two policies apart. */
struct way_layout {
    uint64_t hash;                 /* of policy, requires and options; 0: none */
    unsigned node, shard, cluster; /* how many numbers are used */
    struct way_memory first;
};

struct way_counts {
    uint32_t nodes;
    uint32_t state[WAY_STATE_COUNT];
    uint64_t inflight;
    uint64_t retrying;
};

/* All that a policy may know of a node at one moment. */
struct way_view {
    uint16_t node, shard;
    char id[WAY_ID_MAX];
    char address[WAY_ADDRESS_MAX]; /* "host:port" */
    char host[WAY_HOST_MAX];
    char hostname[WAY_HOST_MAX];
    uint16_t port;
    char zone[WAY_ZONE_MAX];
    enum way_role role;
    uint32_t generation;
    struct way_verdict verdict;
    uint32_t failures;
    double latency; /* seconds, < 0: never measured */
    uint64_t inflight;
    bool has_replication, link_up;
    double last_io;
    double behind;
    struct way_counts of_shard, of_cluster; /* members, those that are gone not counted */
    struct way_memory memory;
    /* Of those that the policy has; set by way_health_counted alone. */
    struct way_counted counted[WAY_COUNTER_SCOPES][WAY_COUNTERS_MAX];
};

/* A view, and the versions it was taken at. */
struct way_snapshot {
    struct way_view view;
    uint64_t node_version, shard_version, cluster_version, commits; /* private */
    uint64_t policy_epoch; /* ro: that its memory is of */
    double now;
};
/* Whether an operator's mark stands. */
static inline bool way_verdict_by_operator(const struct way_verdict *v, double now)
{
    return v->by_operator && (v->ends <= 0 || now < v->ends);
}

struct way_health; /* one per process */

struct way_health_options {
    const char *path; /* NULL: private to this process */
    struct way_layout layout;
    struct way_span bundle; /* what the policy was loaded from, for the other processes:
                               at most WAY_BUNDLE_BYTES. Empty: there is none */
    bool guard;
    double failing_share;
    void (*woken)(void *arg); /* called by the committing thread, lock free, after the
                                 epoch rose: wakes this process's workers. May be NULL */
    void *arg;
};

/* Maps the segment: creates it (temporary name, then link, so that two who start at once
 * agree), or attaches. A segment of a former boot is replaced. One whose policy hash
 * differs starts afresh (verdicts and memory) if no process that is attached lives.
 * -1: no directory, one that anybody may write to, no permission, not a segment, another
 * layout of records, or a differing policy hash while others are attached (the text tells
 * to reload instead). The file is created with mode 0600. Processes that share a segment
 * must see each other in /proc (one pid namespace). */
int way_health_open(struct way_health **out, const struct way_health_options *o,
                    struct way_err *err) WAY_MUST_CHECK;
void way_health_close(struct way_health *h);
/* In a process forked since it was opened, which has the mapping: attaches it by its own
 * name. Nothing in the process that opened it. -1: no place left, or the lock is busy. */
int way_health_forked(struct way_health *h, struct way_err *err) WAY_MUST_CHECK;

uint64_t way_health_commits(struct way_health *h); /* ever made to the table */
/* Hot accessors: direct pointers into the segment, valid until close. */
struct way_node *way_health_node(struct way_health *h, unsigned node);
struct way_shard *way_health_shard(struct way_health *h, unsigned shard);
const _Atomic uint16_t *way_health_slots(struct way_health *h); /* shard of each slot */
const _Atomic uint64_t *way_health_epoch(struct way_health *h);
unsigned way_health_nodes(struct way_health *h); /* records ever used: 0..n-1 */

/* ---- rows: additive figures of one attached worker ---- */
struct way_cell { /* of one worker and one node; w: that worker only, relaxed */
    _Atomic uint64_t inflight, retrying;
    _Atomic uint64_t requests, replies, retries;
    _Atomic uint64_t trials, trials_at; /* private to health */
    _Atomic uint64_t spare;
};
/* A row for the calling worker; rows of dead owners (pid and start time) are zeroed first,
 * as they also are about once a second by way_health_snapshot. -1: all taken. */
int way_health_row_attach(struct way_health *h, struct way_err *err) WAY_MUST_CHECK;
void way_health_row_detach(struct way_health *h, int row);
struct way_cell *way_health_cells(struct way_health *h, int row); /* [WAY_NODES_MAX] */

/* One batched report per loop pass and node: commands answered well. Resets `failures`
 * when it is not 0 and returns true then: the first success after a failure. */
bool way_health_success(struct way_health *h, unsigned node);
/* EWMA over ten seconds (value and time packed in one word, lock free; of samples within
 * one millisecond, or simultaneous ones, only the first counts). */
void way_health_latency(struct way_health *h, unsigned node, double seconds, double now);
double way_health_latency_get(struct way_health *h, unsigned node);
/* One more event in a row that blamed it; returns the count with it. */
uint32_t way_health_failure(struct way_health *h, unsigned node);
/* One that turned out to be of a fault known already. A success meanwhile took all. */
void way_health_failure_taken_back(struct way_health *h, unsigned node);

/* ---- counters of the policy: counters.h. Versions do not depend on them ---- */
/* Counts a report, in the area of the policy of that epoch; the bits of those whose edge
 * came true. Nothing if another policy is in charge. */
uint64_t way_health_count(struct way_health *h, unsigned node,
                          const struct way_counters_layout *l, uint64_t policy_epoch,
                          const struct way_report *r);
/* All as of the snapshot's time and policy, into its view. */
void way_health_counted(struct way_health *h, const struct way_counters_layout *l,
                        struct way_snapshot *s);
/* The value of one of a node's. */
double way_health_counter(struct way_health *h, unsigned node,
                          const struct way_counter *c, uint64_t policy_epoch, double now);
/* The blocks of a node, of its shard and of the cluster, of the policy of that epoch. */
void way_health_counter_blocks(struct way_health *h, unsigned node, unsigned shard,
                               uint64_t policy_epoch, struct way_counter_blocks *out);

/* ---- verdicts ---- */
void way_health_verdict(struct way_health *h, unsigned node, struct way_verdict *out);
void way_health_snapshot(struct way_health *h, unsigned node, double now,
                         struct way_snapshot *out);
/* A node's "host:port", cut if it does not fit. */
void way_health_address(struct way_health *h, unsigned node, char *out, size_t bytes);
/* The same with memory as of that policy epoch: the one in charge, or the one before it. */
void way_health_snapshot_of(struct way_health *h, unsigned node, double now,
                            uint64_t policy_epoch, struct way_snapshot *out);
/* As that, without the counts of_shard and of_cluster and without `inflight`, for who asks
 * often and seldom needs those: they are a walk over all nodes. */
void way_health_glance(struct way_health *h, unsigned node, double now,
                       uint64_t policy_epoch, struct way_snapshot *out);
/* Commands in flight to the node, of all workers. */
uint64_t way_health_inflight(struct way_health *h, unsigned node);
/* Snapshots of all members, at most max, their counts made in one walk. Returns how many. */
unsigned way_health_survey(struct way_health *h, double now, uint64_t policy_epoch,
                           struct way_snapshot *out, unsigned max);
/* The share of traffic a node gets now: weight and ramp. 0..1 */
double way_verdict_weight(const struct way_verdict *v, double now);
/* Clears WAY_ROUTE_WEIGHT of a node whose ramp is over, if the lock is free: for a router
 * that found a weight of 1 behind the flag. */
void way_health_settle(struct way_health *h, unsigned node, double now);

/* What is to be published. A nil mark with changed memory is a commit too. A mark that
 * names a state also sets its end (now + seconds, or none); what else it leaves out is
 * kept while the state stays, and is whole weight, no ramp, nothing shed, no reason where
 * the state changes. One without a state changes what it names. */
struct way_proposal {
    struct way_mark mark;
    struct way_memory memory; /* compared with the snapshot's: only what changed counts */
    struct way_touches touches; /* of counters: done with the commit, after it, once */
    const struct way_counters_layout *counters; /* that these are of; NULL: no touches */
    bool hard;        /* way_event_hard(): what the guard asks */
    bool by_operator; /* outranks the guard, and the policy while it lasts */
    bool taken_back;  /* with by_operator: the mark is the policy's to change */
    bool host;        /* the host's own mark (a former replica's role, ...) */
};
enum way_refusal {
    WAY_REFUSED_NOT,
    WAY_REFUSED_LAST_NODE,
    WAY_REFUSED_SHARE,
    WAY_REFUSED_OPERATOR /* an operator's mark stands: only memory was committed */
};
/* "last_node", "share", "operator"; "" for WAY_REFUSED_NOT and what is none. */
const char *way_refusal_name(unsigned refusal);
struct way_outcome {
    enum way_state from, to;
    bool changed;             /* the state changed */
    enum way_refusal refused; /* failing became suspect, and why; where the node stands
                                   failing on hard evidence, that stands, not prolonged */
    /* The number of this commit among all that were made to the table; where nothing was
     * to be published, that of the last one before the question was put. */
    uint64_t commit;
    bool published;
};
enum way_commit {
    WAY_COMMIT_DONE,     /* published (or nothing to publish) */
    WAY_COMMIT_CONFLICT, /* the snapshot is old, or of a policy that is no longer in
                            charge: take another and ask again. Taken under the lock, a
                            snapshot never conflicts */
    WAY_COMMIT_BUSY,     /* the lock was not to be had within 1 ms: the verdict should
                            hold in this worker alone and be tried again */
};
/* Does the guard stand before this node, as the last that can serve its shard's reads or
 * its writes? Never without the guard. */
bool way_health_guards(const struct way_health *h, unsigned node);
/* The guard (contract, section "mark"): on soft evidence the last node that can serve a
 * shard's reads or its writes, and more than failing_share of all nodes, become suspect
 * instead of failing. `locked`: the caller holds the lock by way_health_lock. A commit
 * that changes a state, or drains or drops connections, raises the epoch and calls
 * woken(): here, or in way_health_unlock. */
enum way_commit way_health_commit(struct way_health *h, const struct way_snapshot *seen,
                                  const struct way_proposal *p, bool locked,
                                  struct way_outcome *out) WAY_MUST_CHECK;
/* Of nodes whose state is supposed to be another than the table's: false, it is not. */
struct way_others {
    bool (*state)(void *arg, unsigned node, enum way_state *state, bool *hard);
    void *arg;
};
/* What a commit of p would make of a verdict, in the table or not, under the guard, were
 * the other nodes as `others` has them (NULL: as they are). Nothing is published, and no
 * lock taken: `out` has no commit. */
void way_health_suppose(struct way_health *h, unsigned node, const struct way_proposal *p,
                        double now, const struct way_others *others,
                        struct way_verdict *v, struct way_outcome *out);
/* 0, or -1 after 1 ms. Recovers from a dead owner (finishes its redo record). */
int way_health_lock(struct way_health *h) WAY_MUST_CHECK;
void way_health_unlock(struct way_health *h);

/* Other bounds for the guard, from now on; those that it was opened with. */
void way_health_bounds(struct way_health *h, bool guard, double failing_share);

/* ---- policies ----
 * What a policy remembers exists twice: of the one in charge and of the one before it. The
 * policy epoch, from 1, says which is which; a reload fills the idle area, then raises it.
 * Killed anywhere in between, the old one is whole. Verdicts survive. */
const _Atomic uint64_t *way_health_policy_epoch(struct way_health *h);

/* A policy on probation is watched by every process, each by what all of them together have
 * counted: whoever of them dies leaves the watch, and what it has seen, to the others. */
struct way_probation {
    double ends; /* by way_clock() */
    /* limits.probation_errors, _marks and _ratio of who put it in charge. */
    double errors_most, marks_most, ratio;
};
struct way_probation_counts {
    uint64_t errors, marks; /* of the policy on probation */
    /* How often it, and the one before in its shadow, took a node out of use, where both
     * are asked. */
    uint64_t out, out_before;
};
/* Adds `more` (what this process has seen since it last added) to what all have, if the
 * policy of `epoch` is on probation. 1: it is, and the outs are set; 0: it is not (any
 * more), or another one is in charge; -1: the lock is busy, and nothing was added. */
int way_health_probation(struct way_health *h, uint64_t epoch,
                         const struct way_probation_counts *more,
                         struct way_probation *out,
                         struct way_probation_counts *sum) WAY_MUST_CHECK;
/* The policy epoch that is on probation; 0: none. No lock. */
uint64_t way_health_on_probation(const struct way_health *h);
/* Confirmed, for all: false, where somebody else was quicker. */
bool way_health_probation_end(struct way_health *h, uint64_t epoch);

enum { WAY_WHY_MAX = 160, WAY_POLICY_NAMED = 112 };
/* Why the policy in charge is so again. */
struct way_rollback {
    char policy[WAY_POLICY_NAMED]; /* that was replaced: name and version */
    char why[WAY_WHY_MAX];
};

enum way_memory_scope { WAY_OF_NODE, WAY_OF_SHARD, WAY_OF_CLUSTER };
struct way_takeover {
    uint64_t from;                   /* the policy epoch it was prepared in */
    const struct way_layout *layout; /* of the new policy */
    struct way_span bundle;          /* at most WAY_BUNDLE_BYTES */
    /* Of the new policy and the old; NULL: it has none */
    const struct way_counters_layout *counters, *counters_before;
    /* What the new policy remembers of a record, from what the old one did. Most calls come
     * without the lock, those for records that changed meanwhile under it. -1: refused */
    int (*convert)(void *arg, enum way_memory_scope scope,
                   const struct way_memory *before, struct way_memory *after,
                   struct way_err *err);
    /* Under the lock, at the last moment before it is in charge: nothing can refuse it any
     * more. Its states are handed to those who will need them. */
    void (*ready)(void *arg, uint64_t epoch);
    void *arg;
    const struct way_probation *probation; /* that it is on from then on; NULL: none */
};
/* Puts another policy in charge, raises the policy epoch (*epoch) and the table's. -1:
 * nothing changed: another process was quicker, the lock was not to be had, too long a
 * bundle, or convert refused. */
int way_health_take_over(struct way_health *h, const struct way_takeover *t,
                         uint64_t *epoch, struct way_err *err) WAY_MUST_CHECK;
/* The policy before `from` is in charge again, with the memory that it had. -1 as above;
 * ready as above. `because`: for way_health_rolled_back; NULL: nobody will ask. */
int way_health_go_back(struct way_health *h, uint64_t from,
                       const struct way_rollback *because,
                       void (*ready)(void *arg, uint64_t epoch), void *arg,
                       uint64_t *epoch, struct way_err *err) WAY_MUST_CHECK;
/* Has the policy of `epoch` come in charge by going back? -1: the lock is busy. */
int way_health_rolled_back(struct way_health *h, uint64_t epoch,
                           struct way_rollback *out) WAY_MUST_CHECK;
/* Appends the bundle of the policy in charge, and tells its epoch. -1: the lock is busy. */
int way_health_bundle(struct way_health *h, struct way_buf *out,
                      uint64_t *epoch) WAY_MUST_CHECK;
/* That of the policy before `epoch`, which is in charge: nothing is appended where there is
 * none. -1: the lock is busy, or another one is in charge. */
int way_health_bundle_before(struct way_health *h, uint64_t epoch,
                             struct way_buf *out) WAY_MUST_CHECK;

/* ---- trials of a probing node: one word of (version, left, out) ---- */
/* True: this command may go. A permit that is not ended within 10 s, or whose row's owner
 * died, is given to the next. */
bool way_health_trial_take(struct way_health *h, unsigned node, int row, double now);
/* Ends one. `again`: it ended with neither success nor blame, its place is given back. */
void way_health_trial_end(struct way_health *h, unsigned node, int row, bool again);

/* ---- leases and dial times ---- */
/* The lease on a node's probe series: taken, renewed, or taken over when expired. */
bool way_health_lease(struct way_health *h, unsigned node, uint64_t holder, double now,
                      double seconds);
void way_health_release(struct way_health *h, unsigned node, uint64_t holder);
/* The one lease on sweeps over all nodes. With true, *lapsed is how long ago the lease of
 * another holder had run out, < 0 if there was none. */
bool way_health_sweep_lease(struct way_health *h, uint64_t holder, double now,
                            double seconds, double *lapsed);
/* No dial to the node before this time, by any worker: 0 none. Claiming is atomic: true
 * for one caller, which moves the time to `next`. */
double way_health_dial_at(struct way_health *h, unsigned node);
bool way_health_dial_claim(struct way_health *h, unsigned node, double now, double next);
void way_health_dial_after(struct way_health *h, unsigned node, double at);
/* Why: what the last dial by anybody, or the connection before it, failed with. NONE: nobody
 * has said. */
void way_health_dial_failed(struct way_health *h, unsigned node, enum way_error error,
                            int errnum);
enum way_error way_health_dial_error(struct way_health *h, unsigned node, int *errnum);

/* What a probe with INFO replication told. */
void way_health_replication(struct way_health *h, unsigned node, bool link_up,
                            double last_io, double behind);

/* ---- topology ---- */
struct way_node_change {
    uint16_t node;
    enum way_change what;
    bool gone;
    enum way_role role; /* as it will be */
};
/* Step one: nodes, ids, addresses, roles. New records are healthy and not yet routed to.
 * Returns how many changes were written to out (at most max, at least 2: what does not fit
 * is left as it was, for the next time), -1 if the lock was busy (err). Departures are told (gone),
 * but those nodes stay until publish. Nodes in handshake, without an address, or past
 * WAY_NODES_MAX are left out; for the latter err has a text though the result is not -1,
 * else its text is empty. A topology that is older than the table (as in publish) changes
 * nothing: 0. `began`: when its refresh was begun. */
int way_health_adopt(struct way_health *h, const struct way_topology *t, double began,
                     double now, struct way_node_change *out, unsigned max,
                     struct way_err *err) WAY_MUST_CHECK;
/* Step two: slots and shards point to them, departed nodes are marked gone; a master that
 * became a replica keeps its record, and a shard whose replica was promoted its own. Per
 * slot the owner with the higher config epoch wins; without epochs, or with the same, the
 * topology whose refresh `began` later (and no earlier than a MOVED). One that loses a
 * slot is older than the table: it gives only the slots that it wins by a higher epoch.
 * Raises the epoch when anything changed; returns 1 then, 0 if nothing changed, -1 if the
 * lock was busy. */
int way_health_publish(struct way_health *h, const struct way_topology *t, double began,
                       struct way_err *err) WAY_MUST_CHECK;
/* The node at that address (IP or announced name): its index, WAY_NONE if there is none. */
unsigned way_health_find(struct way_health *h, const char *host, uint16_t port);
/* Of a MOVED at `now`: the slot belongs to the shard of that node from here on. A replica
 * becomes its shard's master (they change places), a node of no shard gets one: a guess
 * that the refresh which follows confirms or corrects. Nothing if the lock is busy. */
void way_health_moved(struct way_health *h, unsigned slot, unsigned node, double now);
/* Fraction of slots that have an owner, 0..1. */
double way_health_coverage(struct way_health *h);
/* `now` of the last publish, 0: never. */
double way_health_topology_at(struct way_health *h);

/* The zone of an address ("host:port", "name:port", or a host alone), set before threads
 * start; nodes that are known get it now, others when adopted. */
void way_health_zone(struct way_health *h, const char *address, const char *zone);

/* Asserts the invariants drawn at the top of health.c. For tests. */
void way_health_check(struct way_health *h);

#endif
