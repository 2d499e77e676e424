/* upstream - what dispatch.c and retry.c share: the worker's side of the nodes. Only they
 * include this.
 *
 * A batch collects, within one loop pass, commands that failed in the same way at the same
 * node, so that the policy is asked once for all of them. A batch and everything on it
 * ends in the same pass. */
#ifndef WAY_UPSTREAM_H
#define WAY_UPSTREAM_H

#include "dispatch.h"

/* A connection and what dispatch keeps beside it. */
struct way_link {
    struct way_dispatch *dispatch;
    struct way_conn *conn;
    struct way_link *next, **prev; /* all connections of the worker */
    double sampled;    /* when the last answered command was sent: for the latency */
    unsigned good;     /* replies of this batch that are no failures */
    unsigned trials;   /* trials in flight */
    bool dropped;      /* we broke it, as a mark said */
};

struct way_upstream { /* one node */
    struct way_conn *conn[2]; /* RESP2, RESP3; NULL: none */
    uint32_t drops;           /* the verdict's, as applied */
    uint32_t dials_failed;    /* in a row */
    uint8_t error, step;      /* of the last failed dial: told to commands meanwhile */
    int errnum;
    uint32_t named;           /* generation that `address` is of */
    char address[64];         /* for errors; "" until one is told */
};

struct way_batch {
    struct way_batch *next;
    unsigned node;
    bool mark;              /* `mark` hears of it first (replies) */
    struct way_event event; /* n is counted when it runs */
    struct way_request *head, **tail;
    unsigned n;
};

/* An answer to no_node stands until the table changes. */
struct way_standing {
    uint64_t epoch;
    struct way_retry retry;
    double age; /* of the command that it was given for */
};

struct way_dispatch {
    struct way_dispatch_options o;
    void (*grew)(struct way_pipeline *p);
    const struct way_timeouts *timeouts;
    const struct way_limits *limits;
    struct way_router router;
    struct way_cell *cells;
    const _Atomic uint64_t *epoch;
    uint64_t seen_epoch;
    struct way_upstream *up; /* [WAY_NODES_MAX] */
    struct way_link *links;
    struct way_batch *batches, **batches_end;
    struct way_task run_batches;
    struct way_request *waiting, **waiting_end; /* held and delayed; each client's in its order */
    unsigned waiting_count;
    size_t waiting_bytes;
    uint32_t round;          /* of looking after them */
    ev_timer tick;           /* while something waits */
    double tokens;           /* retry budget */
    uint64_t tokens_at;      /* requests counted when it was last filled */
    struct way_standing *standing; /* [WAY_SHARDS_MAX][2][2]: at the first and the
                                     second time; reads, writes */
};

/* ---- dispatch.c ---- */
/* Routes and sends a command whose bytes are at hand, without the check of its order. */
void way_upstream_send(struct way_dispatch *d, struct way_request *r, const char *bytes,
                       size_t n);
/* The reply to r from a node or from us: to its pipeline, or nowhere. */
void way_upstream_answer(struct way_dispatch *d, struct way_request *r, const char *bytes,
                         size_t n);
struct way_conn *way_upstream_open(struct way_dispatch *d, unsigned node, uint8_t resp);

/* ---- retry.c ---- */
void way_retry_init(struct way_dispatch *d);
void way_retry_fini(struct way_dispatch *d);
/* Puts r into the batch of its failure; its bytes are copied unless it has its own. */
void way_retry_add(struct way_dispatch *d, unsigned node, const struct way_event *what,
                   bool mark, struct way_request *r, const char *bytes, size_t n);
/* A broken connection's commands (linked; bytes with the connection): asks backoff per
 * kind and certainty, and does what it says. e is classified. */
void way_retry_broken(struct way_dispatch *d, unsigned node, struct way_event *e,
                      struct way_conn *c, struct way_request *all);
/* A redirected command that has to wait for a topology that knows its node. */
void way_retry_hold_redirect(struct way_dispatch *d, struct way_request *r,
                             const char *bytes, size_t n);
/* The table changed: what is held is routed afresh. */
void way_retry_release(struct way_dispatch *d);
/* Keeps r's bytes with it: for who must let go of the buffer they are in. */
void way_retry_own(struct way_request *r, const char *bytes, size_t n);
/* The error that a client sees. */
void way_retry_fail(struct way_dispatch *d, struct way_request *r);
void way_retry_remember(struct way_request *r, unsigned node, const struct way_event *e,
                        enum way_certainty certainty);
/* The effects of a decision in this worker: refresh, dropped connections. */
void way_upstream_apply(struct way_dispatch *d, unsigned node,
                        const struct way_decision *decision);

#endif
