/* counters - what a policy declared to be counted, counted without it.
 *
 * A layout says what is counted; a block is a plain array of atomic words, one for each
 * node, shard and the cluster, wherever it lies: in the segment that processes share, or in
 * anybody's own memory. Zeros are a block in which nothing was counted. All is lock free:
 * whatever must be consistent is one word and changes by compare-and-swap, so that a writer
 * killed at any instruction leaves what it had begun uncounted, never half counted. Workers
 * report once per loop pass and node. Time is an argument; nothing here is owned. */
#ifndef WAY_COUNTERS_H
#define WAY_COUNTERS_H

#include "base.h"
#include "event.h"

#include <stdatomic.h>

enum {
    WAY_COUNTERS_MAX = 16, /* of one scope */
    WAY_RING_MAX = 8192,
    WAY_SAMPLES_MAX = 512,
    WAY_BUCKETS_MAX = 128,
};
enum way_counter_kind {
    WAY_COUNTER_CONSECUTIVE,
    WAY_COUNTER_WINDOW,
    WAY_COUNTER_RING,
    WAY_COUNTER_EWMA,
    WAY_COUNTER_TOKENS,
    WAY_COUNTER_SAMPLES,
    WAY_COUNTER_KINDS
};
enum way_counter_of { /* of a window or an ewma */
                      WAY_COUNTER_OF_RESULTS,
                      WAY_COUNTER_OF_REQUESTS,
                      WAY_COUNTER_OF_RETRIES,
                      WAY_COUNTER_OF_FAILED,
                      WAY_COUNTER_OF_LATENCY,
                      WAY_COUNTER_OFS
};
enum way_counter_edge {
    WAY_EDGE_NONE,
    WAY_EDGE_AT_LEAST,
    WAY_EDGE_ABOVE,
    WAY_EDGE_BELOW,
    WAY_EDGE_KINDS
};
enum way_counter_scope {
    WAY_COUNTERS_NODE,
    WAY_COUNTERS_SHARD,
    WAY_COUNTERS_CLUSTER,
    WAY_COUNTER_SCOPES
};
const char *way_counter_kind_name(unsigned v);
const char *way_counter_of_name(unsigned v);
const char *way_counter_edge_name(unsigned v); /* "none" for WAY_EDGE_NONE */

/* The words that a block of each scope has. Odd numbers of cache lines for the nodes', so
 * that the beginnings of their blocks don't all fall into the same sets of a cache. */
enum {
    WAY_NODE_COUNTER_WORDS = 264,
    WAY_SHARD_COUNTER_WORDS = 72,
    WAY_CLUSTER_COUNTER_WORDS = 512,
};
unsigned way_counters_room(enum way_counter_scope scope);

/* One declared counter. Set by who compiles the layout, but for word and edge_word; to be
 * zeroed first, padding too. */
struct way_counter {
    char name[WAY_COUNTER_NAME];
    uint8_t kind, of, edge; /* the enums above */
    uint8_t phases;         /* mask of phases in which a failure counts; 0: any */
    bool strict, peak;
    bool events;      /* counts events, not commands */
    bool named;       /* `classes` says what is a failure */
    bool has_start;   /* an ewma's */
    uint64_t classes; /* mask */
    double slower;    /* a success that took longer is a failure; 0: none does */
    double seconds;   /* a bucket's length; tau */
    double results;   /* an ewma's; 0: by tau */
    unsigned size;    /* buckets, results, samples */
    double capacity, start, per_second, request, success, failure, retry;
    double edge_at;
    double min_volume;
    unsigned word, edge_word; /* where it begins in its block; 0: no edge */
};
struct way_counters_layout {
    unsigned all; /* of all scopes; 0: nothing is counted */
    unsigned count[WAY_COUNTER_SCOPES];
    unsigned words[WAY_COUNTER_SCOPES]; /* in use of each block */
    struct way_counter counter[WAY_COUNTER_SCOPES][WAY_COUNTERS_MAX];
};
/* Gives the counter its place. -1: there is no room, as err says. */
int way_counters_add(struct way_counters_layout *l, enum way_counter_scope scope,
                     const struct way_counter *c, struct way_err *err) WAY_MUST_CHECK;

/* The blocks of one node, its shard and the cluster; NULL: there is none. */
struct way_counter_blocks {
    _Atomic uint64_t *of[WAY_COUNTER_SCOPES];
};

/* What one worker saw of one node in one pass: commands answered well, and one event that
 * failed some. Those count before these. */
struct way_report {
    double now;
    uint32_t good;
    double latency;  /* seconds, of the last of the good ones */
    bool failure;    /* there is an event: what follows is of it */
    uint32_t failed; /* commands, 0 for an idle connection */
    uint8_t class;
    enum way_blame blame;
    enum way_phase phase;
    uint32_t requests, retries; /* commands of a first attempt; sent again */
};
/* The part of a report that is about an event which failed commands. */
void way_report_failure(struct way_report *r, const struct way_event *e);

/* A counter by its scope and index, as one bit. */
#define WAY_COUNTER_BIT(scope, index)                                                    \
    ((uint64_t)1 << ((unsigned)(scope)*WAY_COUNTERS_MAX + (index)))
/* Counts; returns the bits of those whose edge came true: each once until it was false
 * again, or reset. */
uint64_t way_counters_report(const struct way_counters_layout *l,
                             const struct way_counter_blocks *b,
                             const struct way_report *r);

/* A counter as a policy reads it; what its kind does not have is 0. */
struct way_counted {
    double value, failed, volume, mean, deviation, last;
};
void way_counter_read(const struct way_counter *c, const _Atomic uint64_t *block,
                      double now, struct way_counted *out);
/* All of a scope. block NULL: there is none, and nothing was counted. */
void way_counters_read(const struct way_counters_layout *l, enum way_counter_scope scope,
                       const _Atomic uint64_t *block, double now,
                       struct way_counted out[WAY_COUNTERS_MAX]);

/* What an answer does to counters: resets, and samples to be added. */
enum { WAY_TOUCHES_MAX = 16 };
struct way_touch {
    uint8_t scope, index;
    bool add; /* else reset */
    double value;
};
struct way_touches {
    unsigned count;
    struct way_touch touch[WAY_TOUCHES_MAX];
};
/* Does them in their order, each whole. One caller at a time: adding is not lock free. */
void way_counters_touch(const struct way_counters_layout *l,
                        const struct way_counter_blocks *b, const struct way_touches *t);

/* Counters of the block that its owner's former policy declared alike, wherever they lay,
 * go on from there; the block is zero. Both may be written meanwhile: then some of what is
 * counted in this moment is lost. */
void way_counters_inherit(const struct way_counters_layout *l, _Atomic uint64_t *block,
                          const struct way_counters_layout *old,
                          const _Atomic uint64_t *from, enum way_counter_scope scope);

/* e to the -x, x >= 0, to a millionth; libm is not worth a dependency here. */
double way_decay(double x);

#endif
