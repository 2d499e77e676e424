/* pipeline - the ordered commands of one client: what state each is in, and its replies,
 * joined in the order in which they were asked.
 *
 * Pure: no socket, no clock, no node. A request is one command on its way. It is owned by
 * the pipeline until it is answered and taken off; a connection, a hold list or a timer
 * only link it. A reply that comes in order goes straight to `out`; one that comes early
 * is kept in `held` until its turn. A command that is split has parts: requests of their
 * own that answer into its join. */
#ifndef WAY_PIPELINE_H
#define WAY_PIPELINE_H

#include "base.h"
#include "command.h"

struct way_conn;
struct way_join;

enum way_request_kind {
    WAY_REQUEST_COMMAND, /* of a pipeline */
    WAY_REQUEST_PART,    /* of a join */
    WAY_REQUEST_ASKING, /* the ASKING before a redirected command: its reply is dropped */
    WAY_REQUEST_ASK,    /* of a control connection: see cluster, control */
    WAY_REQUEST_OWN,    /* of a pipeline, over a connection of its client's own */
};
enum way_request_state {
    WAY_REQUEST_NEW,
    WAY_REQUEST_SENT,     /* on a connection: queued, in flight; its bytes are there */
    WAY_REQUEST_WAITING,  /* held, delayed or behind another: own_bytes has its bytes */
    WAY_REQUEST_ANSWERED, /* its reply is in `held` or was emitted */
};
enum way_request_flag {
    WAY_FLAG_WRITE = 1 << 0,
    WAY_FLAG_TRIAL = 1 << 1,
    WAY_FLAG_DETOUR = 1 << 2,     /* counted in its pipeline's detours */
    WAY_FLAG_ABANDONED = 1 << 3,  /* nobody waits: its reply is read and dropped */
    WAY_FLAG_STALE_OK = 1 << 4,   /* a read that the policy allowed to go to a replica */
    WAY_FLAG_ASKED = 1 << 5,      /* to be sent with ASKING before it */
    WAY_FLAG_MASTER = 1 << 6,     /* the policy said: to the master */
    WAY_FLAG_UNKNOWN_OK = 1 << 7, /* may be sent again though its fate is unknown */
    WAY_FLAG_NO_KEY = 1 << 8,     /* has no key: any master will do */
    WAY_FLAG_HELD = 1 << 9,       /* waits for a change of the table */
    WAY_FLAG_DOUBT = 1 << 10,     /* once it was of unknown fate: it stays so */
    WAY_FLAG_LISTED = 1 << 11,    /* counted in its bucket's `waiting` */
};

struct way_request {
    struct way_request *next; /* in its pipeline, or the pool's free list */
    struct way_request *link; /* in its connection's queue, or the list that holds it */
    struct way_pipeline *pipeline; /* of a COMMAND or a PART; NULL: none */
    struct way_conn *conn;         /* while SENT */
    uint64_t end;   /* where its last byte lies in the connection's stream */
    uint32_t bytes; /* its length */
    uint16_t slot;
    uint16_t flags; /* enum way_request_flag */
    uint8_t kind, state;
    uint32_t turn;    /* its place among its client's commands; wraps */
    uint16_t attempt; /* times it was given to a connection */
    uint16_t redirects;
    uint16_t avoid;                /* node that failed it last, WAY_NONE_NODE: none */
    uint16_t target;               /* node it must go to (ASK, same), else none */
    double arrived;                /* when the client's bytes were read */
    double sent;                   /* when its last byte was accepted, once it was */
    double until;                  /* while held: not after this */
    double waited;                 /* the last delay a policy gave it */
    char *own_bytes;               /* while WAITING; owned */
    char *words;                   /* the server's words of `last`; owned, or NULL */
    size_t reply_off, reply_bytes; /* while ANSWERED and early: in held */
    double resume; /* while WAITING: try again then, 0: when the table changes */
    struct {
        uint8_t error, phase, step, class, certainty;
        uint8_t verdict; /* enum way_retry_kind: what backoff said of it */
        uint16_t node;
    } last;                /* why it is not answered yet */
    struct way_join *join; /* of a PART, or of the COMMAND that was split */
    uint32_t part;         /* which part; of an OWN: see dispatch.h */
    void *ask;             /* of an ASK: its owner's; of an OWN: its session */
};
#define WAY_NONE_NODE 0xffff /* == WAY_NONE of health.h */

/* The next one to be looked at: with many under way each would be a cache miss. */
static inline void way_request_prefetch(const struct way_request *r)
{
    __builtin_prefetch(r, 1);
    __builtin_prefetch((const char *)r + 64, 1);
    __builtin_prefetch((const char *)r + 128, 1);
}

/* Requests come from a pool; one pool per thread. Zeroed is ready. */
struct way_request_pool {
    struct way_request *free;
    void *slabs;
    unsigned live; /* ro */
};
struct way_request *way_request_take(struct way_request_pool *pool); /* zeroed but for
                                               avoid and target, which are none */
void way_request_give(struct way_request_pool *pool, struct way_request *r);
void way_request_pool_fini(struct way_request_pool *pool);

enum { WAY_DETOUR_BUCKETS = 64 };
struct way_bucket {   /* of slots: what of it is off the straight way */
    uint32_t detours; /* ro */
    uint32_t waiting; /* rw by dispatch: of them, those that are held or delayed */
    uint32_t last;    /* rw by dispatch: the turn of the last of those */
    uint32_t kept;    /* rw by dispatch: the round in which one of them stayed */
    const struct way_conn
        *way; /* rw by dispatch: where those in flight are; NULL: who knows */
};

struct way_pipeline {
    struct way_request *head, *tail; /* ro: in the order of the client's commands */
    unsigned pending;                /* ro */
    struct way_buf out;              /* replies in order; taken by the client's writer */
    struct way_buf held;             /* private: early replies */
    size_t held_live;                /* ro: bytes of them */
    size_t joining;                  /* ro: bytes of parts whose whole is not answered */
    struct way_request_pool *pool;
    uint64_t epoch;            /* rw by dispatch: the table's, when last compared */
    unsigned detours;          /* ro: requests off the straight way */
    struct way_bucket *bucket; /* [WAY_DETOUR_BUCKETS]; NULL: never had a detour */
    uint8_t resp;              /* 2 or 3 */
    uint32_t turns;            /* private */
    struct way_request *behind,
        **behind_end;    /* rw by dispatch: wait for a detour's end */
    size_t behind_bytes; /* rw by dispatch: theirs */
    void *owner;
    void *router;                                            /* rw by dispatch: itself */
    void (*straight)(struct way_pipeline *p, uint16_t slot); /* the last detour of the
                                            slot's bucket is answered, and its reply in
                                            its place; may be NULL */
    /* Its r is about to be answered with the error of r->last; may be NULL. */
    void (*failed)(struct way_pipeline *p, const struct way_request *r);
    void (*lend)(struct way_pipeline *p, struct way_buf *b); /* gives memory to `out` or
                                                `held` when it has none; may be NULL */
};
void way_pipeline_init(struct way_pipeline *p, struct way_request_pool *pool,
                       void *owner);
/* Gives back answered requests; those on a connection, held, or delayed are abandoned:
 * they stay alive, without pipeline, until who links them is done with them. */
void way_pipeline_fini(struct way_pipeline *p);

/* A request at the tail. */
struct way_request *way_pipeline_push(struct way_pipeline *p, double now);

/* The whole reply to r: copied; all that is in order now goes to out and its requests back
 * to the pool (r too, unless it is early). True if out grew. */
bool way_pipeline_answer(struct way_pipeline *p, struct way_request *r, const char *reply,
                         size_t n);
bool way_pipeline_error(struct way_pipeline *p, struct way_request *r, const char *fmt,
                        ...) WAY_PRINTF(3, 4);

/* Puts a new request in r's place in the order and abandons r, which stays with its
 * connection: for a client that is answered before its node is. Returns the new one; a
 * split command, whose parts alone are under way, is returned itself. */
struct way_request *way_pipeline_replace(struct way_pipeline *p, struct way_request *r);

/* Marks r as off the straight way, and takes the mark back: while a client has detours in
 * a slot's bucket, its later commands of that bucket queue behind them. */
void way_pipeline_detour(struct way_pipeline *p, struct way_request *r);
static inline bool way_pipeline_has_detour(const struct way_pipeline *p, uint16_t slot)
{
    return p->detours && p->bucket[slot % WAY_DETOUR_BUCKETS].detours;
}

/* The client speaks RESP version `resp` from now on. What is in flight went to another
 * connection than what follows, so it is a detour. */
void way_pipeline_speak(struct way_pipeline *p, uint8_t resp);

/* ---- split commands ---- */
/* Makes r's join with `parts` parts; element e of the whole reply is element
 * where[e].index of part where[e].part (WAY_JOIN_ARRAY only). */
struct way_join_place {
    uint32_t part, index;
};
struct way_join *way_join_new(struct way_request *r, enum way_command_join how,
                              unsigned parts, unsigned elements);
struct way_join_place *way_join_places(struct way_join *j);
struct way_request *way_join_part(struct way_join *j, unsigned part); /* a new request */
/* How many parts it has, and each that is not answered yet (NULL: it is). */
unsigned way_join_parts(const struct way_join *j);
struct way_request *way_join_pending(const struct way_join *j, unsigned part);
/* The reply to one part: kept; with the last one the whole is answered (true if the
 * pipeline's out grew). The part goes back to the pool. A failed part makes the whole an
 * error: the first in order of parts, with what is known of the others in words. So does
 * one whose reply has not the shape that the join needs. */
bool way_join_answer(struct way_request *part, const char *reply, size_t n);

#endif
