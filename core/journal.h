/* journal - what happened, what the policy answered, what the host did.
 *
 * Each thread that decides has a ring of its own with one reader, the control thread: no
 * lock, bounded, and a full ring loses the new entry and counts it. Pure data. */
#ifndef WAY_JOURNAL_H
#define WAY_JOURNAL_H

#include "base.h"
#include "event.h"
#include "health.h"

#include <stdatomic.h>

enum way_asked_function {
    WAY_FN_CLASSIFY,
    WAY_FN_MARK,
    WAY_FN_BACKOFF,
    WAY_FN_PROBE,
    WAY_FN_RECONNECT,
    WAY_FN_ROUTE,
    WAY_FN_TICK,
    WAY_FN_NONE, /* an event that was not asked about: a straggler, an answer */
};
const char *way_function_name(unsigned fn); /* "mark", ...; "none" */

struct way_entry {
    uint64_t seq;    /* of its thread */
    uint16_t thread; /* worker number; WAY_NONE: control */
    uint16_t node;
    char address[64];       /* cut if longer */
    uint8_t function;       /* enum way_asked_function */
    bool fallback;          /* answered by the fallback */
    bool straggler;         /* not put to mark: known already */
    uint8_t shadow;         /* 1: a candidate's answer, 2: the previous policy's, which
                               nobody obeys; 0: of the policy in charge */
    struct way_event event; /* without `answer` */
    char class_name[24];
    struct way_mark mark;       /* of MARK and TICK */
    struct way_retry retry;     /* of BACKOFF */
    struct way_probe probe;     /* of PROBE */
    struct way_outcome outcome; /* of MARK and TICK */
    enum way_commit commit;
    char where[64]; /* file:line that answered */
    char did[96];   /* what the host did: "retried 12 on 127.0.0.1:7003" */
};

/* Is it a verdict on its node? */
static inline bool way_entry_marks(const struct way_entry *e)
{
    return e->function == WAY_FN_MARK || e->function == WAY_FN_TICK;
}

struct way_ring; /* single producer, single consumer */
struct way_ring *way_ring_new(unsigned entries);
void way_ring_free(struct way_ring *r);
/* A place to write, or NULL if the ring is full; way_ring_push publishes it. */
struct way_entry *way_ring_place(struct way_ring *r);
void way_ring_push(struct way_ring *r);
/* How many more there is a place for, at least. */
uint64_t way_ring_room(struct way_ring *r);
/* The oldest entry, or NULL; way_ring_pop gives its place back. */
const struct way_entry *way_ring_peek(struct way_ring *r);
void way_ring_pop(struct way_ring *r);

/* The verdict in words: "failing 15 s refused", "retry other after 0.05 s", "nil". */
void way_entry_verdict(const struct way_entry *e, char *out, size_t n);
/* The entry as one logfmt line without time, for the log. */
void way_entry_line(const struct way_entry *e, char *out, size_t n);

#endif
