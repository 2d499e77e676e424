/* upstream - what dispatch.c, retry.c and own.c share: the worker's side of the nodes. Only they
 * include this.
 *
 * A batch collects, within one loop pass, commands that failed in the same way at the same
 * node, so that the policy is asked once for all of them. A batch and everything on it
 * ends in the same pass. */
#ifndef WAY_UPSTREAM_H
#define WAY_UPSTREAM_H

#include "dispatch.h"
#include "log.h"

/* A connection and what dispatch keeps beside it. */
struct way_link {
    struct way_dispatch *dispatch;
    struct way_conn *conn;
    struct way_link *next, **prev; /* all connections of the worker */
    double sampled;        /* when the last answered command was sent: for the latency */
    unsigned good;         /* replies of this batch that are no failures */
    unsigned counted;      /* of those, trials: the policy's counters have them already */
    unsigned again;        /* replies of this batch to commands that were sent again */
    unsigned trials;       /* trials in flight */
    unsigned counted_in;   /* of a carried one: so many are in the table's `inflight` */
    bool dropped;          /* we broke it, as a mark said */
    bool exclusive;        /* of own.c, as is what follows */
    bool is_idle;          /* nobody has it: it is in its node's list */
    struct way_own *own;   /* who has it */
    struct way_link *idle; /* the next in that list */
};

struct way_upstream {         /* one node */
    struct way_conn *conn[2]; /* RESP2, RESP3; NULL: none */
    uint32_t drops;           /* the verdict's, as applied */
    uint32_t dials_failed;    /* in a row */
    uint32_t named;           /* generation that `address` is of */
    char address[64];         /* for errors; "" until one is told */
    struct way_link *idle;    /* exclusive connections that nobody has */
    unsigned idle_count;
    unsigned own_count; /* exclusive ones, those included */
    unsigned carried;   /* carried ones */
    char *host;         /* where they are dialed; NULL: not looked up */
    uint16_t port;
    uint32_t found; /* generation that `host` is of */
};

struct way_batch {
    struct way_batch *next;
    unsigned node;
    bool mark;              /* `mark` hears of it first (replies) */
    struct way_event event; /* n is counted when it runs */
    struct way_report good; /* what its node answered well in the same pass */
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
    uint64_t retired;        /* connections that were let go of */
    struct way_upstream *up; /* [WAY_NODES_MAX] */
    struct way_link *links;
    unsigned own_count; /* exclusive connections */
    struct way_batch *batches, **batches_end;
    struct way_batch *running; /* of this pass, not yet dealt with */
    struct way_task run_batches;
    struct way_request *waiting,
        **waiting_end; /* held and delayed; each client's in its order */
    unsigned waiting_count;
    size_t waiting_bytes;
    uint32_t round;                /* of looking after them */
    ev_timer tick;                 /* while something waits */
    struct way_gate cut;           /* of the log's lines about holds cut short */
    double tokens;                 /* retry budget */
    uint64_t tokens_at;            /* requests counted when it was last filled */
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
/* As way_upstream_send, over the connection that clients share. */
void way_upstream_plain(struct way_dispatch *d, struct way_request *r, const char *bytes,
                        size_t n);
/* A connection of nobody yet; NULL: the node must not be dialed now. */
struct way_link *way_upstream_link(struct way_dispatch *d, unsigned node, uint8_t resp,
                                   const struct way_conn_ops *ops);
/* The node for r; false: there is none, and r was put to the policy. */
bool way_upstream_route(struct way_dispatch *d, struct way_request *r, const char *bytes,
                        size_t n, struct way_route *to);
/* No connection to be had, no room, no node: an event of its own, without a socket. error NONE:
 * no dial may be made for now; the table knows why. */
void way_upstream_fail(struct way_dispatch *d, struct way_request *r, unsigned node,
                       enum way_error error, enum way_step step, const char *bytes,
                       size_t n);
/* True: the error reply is no answer, and r went another way. */
bool way_upstream_error_reply(struct way_dispatch *d, struct way_conn *c,
                              struct way_request *r, const char *reply, size_t n);
void way_upstream_fail_trial(struct way_dispatch *d, struct way_link *l,
                             struct way_request *r, struct way_event *e);
/* r was answered, and well: counted, and a trial ends. */
void way_upstream_good(struct way_dispatch *d, struct way_conn *c, struct way_request *r);
/* Commands that failed at the node go again: the policy's counters hear of it. */
void way_upstream_retried(struct way_dispatch *d, unsigned node, unsigned retries);
/* Behind a detour of its client. */
void way_upstream_behind(struct way_dispatch *d, struct way_pipeline *p,
                         struct way_request *r, const char *bytes, size_t n);
/* A connection's callbacks. */
void way_upstream_batch(struct way_conn *c, unsigned replies);
void way_upstream_ready(struct way_conn *c);
void way_upstream_drained(struct way_conn *c);
void way_upstream_broke(struct way_conn *c, struct way_event *e);

/* What of c is in flight has changed: the table hears of it. */
void way_upstream_inflight(struct way_dispatch *d, struct way_conn *c);

/* ---- own.c ---- */
extern const struct way_conn_ops way_own_ops;
/* As way_dispatch_submit, in its client's order. */
void way_own_submit(struct way_dispatch *d, struct way_request *r, const char *bytes,
                    size_t n);
void way_own_send(struct way_dispatch *d, struct way_request *r, const char *bytes,
                  size_t n);
bool way_own_answer(struct way_dispatch *d, struct way_request *r, const char *bytes,
                    size_t n);          /* true: its pipeline's out grew */
void way_own_close(struct way_link *l); /* it is about to be closed */

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
/* True: an earlier command of r's client and slot waits, or is in flight otherwise than on
 * c, so r waits too, and was taken over. Only for detours: others queue behind them. */
bool way_retry_wait_turn(struct way_dispatch *d, struct way_request *r,
                         const struct way_conn *c, const char *bytes, size_t n);
/* The table changed: what is held is routed afresh. */
void way_retry_release(struct way_dispatch *d);
/* What waits and has no time left gets the error that it was told last. */
void way_retry_overdue(struct way_dispatch *d);
/* The node's address, for an error's words. */
const char *way_upstream_address(struct way_dispatch *d, unsigned node);
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
