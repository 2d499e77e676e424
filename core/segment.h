/* segment - the mapped memory under the node table: its layout, making and finding it,
 * records that are whole at any moment, and who is attached.
 *
 * For health and health_topology only; everything else sees health.h. A segment holds no
 * pointers (but those that the C library keeps inside its mutex), may be mapped anywhere,
 * and is never assumed to have been left in order: its last writer may have been killed.
 * All of it is atomics but the stamp, which never changes, and the bundles and what there is
 * of a probation, which are read and written under the lock.
 *
 * What a policy remembers exists twice, in areas. The low bit of the policy epoch says which
 * one is in charge; the other is the previous policy's, until a reload fills it for the next.
 * Verdicts are not a policy's own: they exist once, and outlive it. */
#ifndef WAY_SEGMENT_H
#define WAY_SEGMENT_H

#include "health.h"

#include <pthread.h>

enum {
    WAY_PROCESSES_MAX = 128,
    WAY_AREAS = 2,
};

/* What a commit publishes of a node, and what only the host keeps beside it. */
struct way_own {
    struct way_verdict verdict;
    uint64_t allotment; /* counts allotments of trials */
    double memory[WAY_AREAS][WAY_NODE_MEMORY];
};
/* Who a node is. */
struct way_identity {
    char id[48]; /* 41 in use; texts begin at whole words */
    char host[WAY_HOST_MAX], hostname[WAY_HOST_MAX], address[WAY_ADDRESS_MAX];
    char zone[WAY_ZONE_MAX];
    uint64_t port, tls_port;
};

/* A record of n words: its version, whose low bit says which copy counts, and two copies;
 * the one that does not count is the next writer's. Written under the lock, read by
 * anybody at any moment. Declared as `_Atomic uint64_t name WAY_RECORD(n)`. */
#define WAY_RECORD(n) [1 + 2 * (n)]
#define WAY_WORDS(type) (sizeof(type) / sizeof(uint64_t))
enum {
    WAY_OWN_WORDS = WAY_WORDS(struct way_own),
    WAY_IDENTITY_WORDS = WAY_WORDS(struct way_identity),
    WAY_LAYOUT_WORDS = WAY_WORDS(struct way_layout),
    WAY_SHARD_WORDS = WAY_AREAS * WAY_SHARD_MEMORY,
    WAY_CLUSTER_WORDS = WAY_AREAS * WAY_CLUSTER_MEMORY,
};
/* Reads the first `take` words of a record of n; returns the version they were read at. */
uint64_t way_record_read(const _Atomic uint64_t *record, unsigned words, unsigned take,
                         void *out);
/* Reads a text at byte `offset` of a copy of n words, as far as its NUL, at most `bytes`;
 * what follows in `out` is left alone. It counts only if the version, read before, is
 * still the same afterwards. */
void way_record_text(const _Atomic uint64_t *record, unsigned words, uint64_t version,
                     size_t offset, char *out, size_t bytes);
static inline uint64_t way_record_version(const _Atomic uint64_t *record)
{
    return atomic_load_explicit(record, memory_order_acquire);
}
/* Publishes as the given version, one above the present. Under the lock. */
void way_record_write(_Atomic uint64_t *record, unsigned words, uint64_t version,
                      const void *in);

/* A node record's life: free, known but not yet published, in the cluster, left it. */
enum way_life { WAY_LIFE_FREE, WAY_LIFE_ADOPTED, WAY_LIFE_MEMBER, WAY_LIFE_GONE };

struct way_aux {                          /* of a node, what routers don't read */
    _Alignas(64) _Atomic uint64_t trials; /* packed, see health.c */
    _Atomic uint64_t lease;               /* packed, see health.c */
    _Atomic uint64_t dial_at;             /* double */
    _Atomic uint32_t life;                /* enum way_life */
    _Atomic uint32_t replication;         /* 0 not told, 1 link down, 2 link up */
    _Atomic uint32_t dial_error;          /* enum way_error, and errno from bit 8 on */
    _Atomic uint64_t last_io, behind;     /* doubles */
    _Atomic uint64_t gone_at;             /* double */
    _Atomic uint64_t id_hash, address_hash, hostname_hash;
};

/* A commit of several records that has begun: whoever finds it so finishes it. */
struct way_redo {
    _Atomic uint64_t turn; /* odd: to be applied */
    _Atomic uint32_t parts, node, shard;
    _Atomic uint64_t version[3]; /* that each part will have: node, shard, cluster */
    _Atomic uint64_t own[WAY_OWN_WORDS];
    _Atomic uint64_t shard_memory[WAY_SHARD_WORDS];
    _Atomic uint64_t cluster_memory[WAY_CLUSTER_WORDS];
};
enum { WAY_PART_NODE = 1, WAY_PART_SHARD = 2, WAY_PART_CLUSTER = 4 };

/* First in the file, of a form that never changes: what tells two builds, or two boots,
 * apart. */
struct way_stamp {
    char magic[8];
    char boot[40];
    uint32_t sizes[13];
};

/* What a policy has counted. */
struct way_tally {
    _Alignas(64) _Atomic uint64_t node[WAY_NODES_MAX][WAY_NODE_COUNTER_WORDS];
    _Alignas(64) _Atomic uint64_t shard[WAY_SHARDS_MAX][WAY_SHARD_COUNTER_WORDS];
    _Alignas(64) _Atomic uint64_t cluster[WAY_CLUSTER_COUNTER_WORDS];
};

struct way_segment {
    struct way_stamp stamp;
    _Atomic uint64_t policy_epoch; /* from 1; its low bit: the area in charge */
    _Atomic uint64_t layout[WAY_AREAS] WAY_RECORD(WAY_LAYOUT_WORDS);
    _Alignas(64) pthread_mutex_t lock;
    _Alignas(64) _Atomic uint64_t epoch;
    _Atomic uint64_t commits; /* ever made; raised under the lock, before a commit */
    _Atomic uint32_t nodes, rows, shards; /* records ever used */
    _Atomic uint32_t mapping;             /* shards and slots are being rewritten */
    _Atomic uint64_t topology_at, topology_began, adopted_at; /* doubles */
    _Atomic uint64_t sweep_lease; /* packed as a node's: health_claims.c */
    _Alignas(64) struct way_redo redo;
    _Atomic uint64_t process[WAY_PROCESSES_MAX]; /* owners attached */
    _Atomic uint64_t row_owner[WAY_ROWS_MAX];
    _Alignas(64) struct way_node node[WAY_NODES_MAX];
    _Alignas(64) struct way_shard shard[WAY_SHARDS_MAX];
    _Alignas(64) _Atomic uint16_t slot[WAY_SLOTS];
    _Atomic uint8_t shard_used[WAY_SHARDS_MAX];
    struct way_aux aux[WAY_NODES_MAX];
    _Atomic uint64_t cluster WAY_RECORD(WAY_CLUSTER_WORDS);
    _Atomic uint64_t shard_memory[WAY_SHARDS_MAX] WAY_RECORD(WAY_SHARD_WORDS);
    _Atomic uint64_t own[WAY_NODES_MAX] WAY_RECORD(WAY_OWN_WORDS);
    _Atomic uint64_t identity[WAY_NODES_MAX] WAY_RECORD(WAY_IDENTITY_WORDS);
    _Atomic uint64_t slot_epoch[WAY_SLOTS]; /* config epoch of who claimed it */
    _Atomic uint64_t slot_moved[WAY_SLOTS]; /* double: when a MOVED told of it */
    _Alignas(64) struct way_cell cell[WAY_ROWS_MAX][WAY_NODES_MAX];
    /* The policy epoch that is on probation, 0 for none; the rest under the lock, and of
     * the epoch that it says. */
    _Atomic uint64_t probation_epoch;
    struct way_probation probation;
    struct way_probation_counts probation_counts;
    uint64_t rollback_epoch;
    struct way_rollback rollback;
    /* Of each area, what its policy was loaded from. Under the lock. */
    uint32_t bundle_bytes[WAY_AREAS];
    char bundle[WAY_AREAS][WAY_BUNDLE_BYTES];
    struct way_tally tally[WAY_AREAS];
};

/* The area in charge at that policy epoch. */
static inline unsigned way_area_of(uint64_t policy_epoch)
{
    return (unsigned)(policy_epoch & 1);
}
/* The area in charge now. Stays so only for who holds the lock. */
static inline unsigned way_segment_area(const struct way_segment *s)
{
    return way_area_of(atomic_load_explicit(&s->policy_epoch, memory_order_acquire));
}
/* The layout of an area, whole, at any moment. */
static inline void way_segment_layout(const struct way_segment *s, unsigned area,
                                      struct way_layout *out)
{
    way_record_read(s->layout[area], WAY_LAYOUT_WORDS, WAY_LAYOUT_WORDS, out);
}
/* Under the lock. */
void way_segment_layout_set(struct way_segment *s, unsigned area,
                            const struct way_layout *layout);
void way_segment_bundle_set(struct way_segment *s, unsigned area, struct way_span bundle);

struct way_zone {
    char address[WAY_ADDRESS_MAX], zone[WAY_ZONE_MAX];
};
struct way_health { /* one per process; fixed once threads start, but where it is said */
    struct way_segment *s;
    _Atomic bool guard; /* rw: way_health_bounds, as the next */
    _Atomic double failing_share;
    void (*woken)(void *arg);
    void *arg;
    uint64_t owner;           /* this process: pid and start time */
    int process;              /* its entry in s->process */
    bool woken_due;           /* under the lock: woken() once it is given back */
    _Atomic uint64_t reap_at; /* double: next look for dead owners */
    struct way_zone *zone;
    unsigned zones;
};

/* A double in an atomic word. */
static inline double way_load_double(const _Atomic uint64_t *w)
{
    uint64_t bits = atomic_load_explicit(w, memory_order_relaxed);
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}
static inline uint64_t way_double_bits(double d)
{
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    return bits;
}
static inline void way_store_double(_Atomic uint64_t *w, double d)
{
    atomic_store_explicit(w, way_double_bits(d), memory_order_relaxed);
}

/* Milliseconds, of which 32 bits come round in 49 days: for differences. */
static inline uint32_t way_milliseconds(double seconds)
{
    return (uint32_t)(uint64_t)(int64_t)(seconds * 1000);
}

/* This process as an owner, and whether an owner lives (0 never does). A zombie does not. */
uint64_t way_owner_self(void);
bool way_owner_alive(uint64_t owner);

/* Maps the segment at path (NULL: one of its own). Does not look at its policy. */
int way_segment_map(struct way_segment **out, const char *path,
                    const struct way_layout *layout, struct way_err *err) WAY_MUST_CHECK;
void way_segment_unmap(struct way_segment *s);
/* Verdicts, memory, trials and leases back to the beginning, for another policy. */
void way_segment_restart(struct way_segment *s, const struct way_layout *layout);
/* The record of a node or shard that begins: healthy, the first memory of either area. */
void way_segment_fresh_node(struct way_segment *s, unsigned node, double now);
void way_segment_fresh_shard(struct way_segment *s, unsigned shard);

/* Counters back to nothing; under the lock. */
void way_segment_zero(_Atomic uint64_t *words, unsigned n);

/* ---- health_counters.c: what the rest of health needs of it; under the lock ---- */
void way_health_counters_touch(struct way_health *h, const struct way_snapshot *seen,
                               const struct way_proposal *p);
/* Of the new policy's counters those that the old one had alike go on from where they are;
 * the others begin. */
void way_health_counters_take_over(struct way_health *h, const struct way_takeover *t);

#endif
