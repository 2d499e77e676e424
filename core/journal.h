/* journal - what happened, what the policy answered, what the host did.
 *
 * An entry has all that an answer came from, so that the question can be put again, to the
 * same policy or another: the event, the node as the policy saw it, memory before and
 * after, the seed of its random numbers. That part (struct way_input) is some kilobytes
 * large and mostly empty, so it travels packed, as far as it is used.
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

enum {
    WAY_POLICY_NAME = 64,
    WAY_POLICY_VERSION = 32,
    WAY_ANSWER_KEPT = 4096, /* bytes of a probe's answer */
};

/* What an answer came from, and what it left. */
struct way_input {
    struct way_view view;    /* with the memory before */
    struct way_memory after; /* as committed */
    struct way_layout_of {   /* how many numbers of memory there are */
        uint8_t node, shard, cluster;
        uint8_t counters[WAY_COUNTER_SCOPES]; /* and counters */
    } layout;
    char policy[WAY_POLICY_NAME], version[WAY_POLICY_VERSION];
    bool answer_cut;        /* the policy saw more of the probe's answer */
    struct way_span answer; /* raw RESP; lies in the packed bytes */
};

/* Whose an entry is, where policies are compared: IN_CHARGE is said once more, beside the
 * answer that differs. */
enum way_entry_shadow {
    WAY_ENTRY_OBEYED,
    WAY_ENTRY_CANDIDATE,
    WAY_ENTRY_PREVIOUS,
    WAY_ENTRY_IN_CHARGE,
    WAY_ENTRY_SHADOWS
};
const char *way_entry_shadow_name(unsigned v);

struct way_entry {
    uint64_t seq;    /* of its thread */
    uint64_t seed;   /* of the random numbers that it drew; 0: nobody was asked */
    uint64_t policy; /* hash of who was in charge */
    uint16_t thread; /* worker number; WAY_NONE: control */
    uint16_t node;
    uint8_t function; /* enum way_asked_function */
    uint8_t asking;   /* which asking of a repeated ask, from 1; 0: nobody was asked */
    uint8_t cause;    /* enum way_cause: why the policy did not answer */
    bool fallback;    /* answered by the fallback */
    bool straggler;   /* not put to mark: known already */
    bool by_operator; /* an operator's mark; event has only its time */
    uint8_t shadow;   /* enum way_entry_shadow: whose answer nobody obeys */
    /* Of TICK: one of so many nodes, counted from 0, that were asked about in one sweep; its
     * seed is theirs alone. Who was given no answer has an entry where another one was. */
    uint16_t sweep_at, sweep_of;
    struct way_span input;      /* packed; empty: not kept. Valid as long as the entry */
    struct way_mark mark;       /* of MARK and TICK */
    struct way_retry retry;     /* of BACKOFF */
    struct way_redial redial;   /* of RECONNECT */
    struct way_outcome outcome; /* what was committed: of MARK and TICK a verdict, of all
                                   memory */
    enum way_commit commit;
    struct way_event event; /* without `answer` */
    char class_name[24];
    char address[64];       /* cut if longer */
    char where[64];         /* file:line that answered; "host", "operator", "fallback" */
    char did[96];           /* what the host did: "retried 12 on 127.0.0.1:7003" */
    struct way_probe probe; /* of PROBE, else not set: last, for it is large */
};
/* Copies what is set; `input` is not looked at. */
void way_entry_copy(struct way_entry *to, const struct way_entry *from);
/* "operator", or the kind of the event. */
const char *way_entry_kind(const struct way_entry *e);

/* Appends the packed form. `counters`: how many of each scope are in the view; NULL: none.
 * `answer`: of the event, cut to WAY_ANSWER_KEPT. */
void way_input_pack(struct way_buf *out, const struct way_view *view,
                    const struct way_memory *after, const struct way_layout *layout,
                    const unsigned counters[WAY_COUNTER_SCOPES], const char *policy,
                    const char *version, struct way_span answer);
/* False: the entry has none. What the layout does not use of memory is zero. */
bool way_input_unpack(const struct way_entry *e, struct way_input *out);

/* Is it a verdict on its node? */
static inline bool way_entry_marks(const struct way_entry *e)
{
    return e->function == WAY_FN_MARK || e->function == WAY_FN_TICK;
}

struct way_ring; /* single producer, single consumer */
struct way_ring *way_ring_new(unsigned entries);
void way_ring_free(struct way_ring *r);
/* A place to write, or NULL if the ring is full; way_ring_push publishes it. Its input is
 * empty. */
struct way_entry *way_ring_place(struct way_ring *r);
/* Where the place's input may be put: emptied, and what is in it once the place is pushed
 * is the entry's input. */
struct way_buf *way_ring_input(struct way_ring *r);
void way_ring_push(struct way_ring *r);
/* place, copy with the input, push: false if the ring is full. */
bool way_ring_put(struct way_ring *r, const struct way_entry *e);
/* How many more there is a place for, at least. */
uint64_t way_ring_room(struct way_ring *r);
/* How many there are to be read, at least. */
uint64_t way_ring_held(struct way_ring *r);
/* The oldest entry, or NULL; way_ring_pop gives its place back. */
const struct way_entry *way_ring_peek(struct way_ring *r);
void way_ring_pop(struct way_ring *r);

/* The verdict in words: "failing 15 s refused", "retry other after 0.05 s", "nil". */
void way_entry_verdict(const struct way_entry *e, char *out, size_t n);
/* The entry as one logfmt line without time, for the log. */
void way_entry_line(const struct way_entry *e, char *out, size_t n);

#endif
