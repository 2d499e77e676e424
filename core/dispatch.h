/* dispatch - brings commands to nodes and their replies back, and whatever happens on the
 * way to the policy.
 *
 * One per worker, on its loop. Owns the worker's connections to nodes and the commands that
 * wait. Requests belong to pipelines; a request that was submitted is answered exactly
 * once: by a node's reply, or by an error that names node, phase and certainty. Order
 * holds per client and slot. Never calls back from inside way_dispatch_submit but grew().
 *
 * dispatch.c: the way to a node and back. retry.c: what becomes of commands that failed.
 * own.c: connections that one client has for itself. */
#ifndef WAY_DISPATCH_H
#define WAY_DISPATCH_H

#include "config.h"
#include "conn.h"
#include "decide.h"
#include "health.h"
#include "loop.h"
#include "pipeline.h"
#include "route.h"
#include "stats.h"

struct way_dispatch;
struct way_resolver;

struct way_dispatch_options {
    struct way_loop *loop;
    struct way_resolver *resolver;
    const struct way_config *config; /* borrowed */
    struct way_health *health;       /* borrowed */
    struct way_decider *decider;     /* borrowed, this worker's */
    struct way_stats *stats;         /* borrowed, this worker's */
    struct way_request_pool *pool;   /* borrowed, this worker's */
    int row;                         /* this worker's in the table */
    void (*refresh)(void *arg);      /* the topology should be asked for again */
    void *arg;
    /* Where somebody else moves the bytes: p's connection to the node, a new one by
     * way_dispatch_carry if it has none, or if it is to be a transaction's own. NULL from
     * it: the node must not be dialed now. NULL itself: connections are dispatch's own,
     * shared by all pipelines. */
    struct way_conn *(*carry)(void *arg, struct way_pipeline *p, unsigned node, bool own);
    void (*carried_gone)(struct way_conn *c); /* it is closed, and freed after the pass */
    void *carry_arg;
};
struct way_dispatch *way_dispatch_new(const struct way_dispatch_options *o);
/* Who is told when a pipeline's out has more to write; before the first submit. */
void way_dispatch_on_grew(struct way_dispatch *d, void (*grew)(struct way_pipeline *p));
/* Closes all connections; pipelines must be gone. */
void way_dispatch_free(struct way_dispatch *d);

/* For each pipeline before its first request: the hooks that keep its order. */
void way_dispatch_attach(struct way_dispatch *d, struct way_pipeline *p);
/* Before way_pipeline_fini: gives back what only waits for the client's own order. */
void way_dispatch_detach(struct way_dispatch *d, struct way_pipeline *p);

/* Sends r (slot, flags and pipeline set) on its way; the n bytes are copied. r may be
 * answered, and gone, when it returns. */
void way_dispatch_submit(struct way_dispatch *d, struct way_request *r, const char *bytes,
                         size_t n);

/* ---- connections of a client's own ----
 * A session is what a client needs one for: a transaction, or all from a WATCH to EXEC. Its
 * connection is taken from the worker's idle ones when the first command is sent, and goes
 * back, clean, when the session was released and its commands are answered. */
struct way_own;
enum way_own_part {                /* way_request.part */
                    WAY_OWN_PLAIN, /* a command of a watching client */
                    WAY_OWN_WATCH, /* WATCH: the session opens a connection for it */
                    WAY_OWN_UNIT, /* MULTI, commands and EXEC, in one piece: answered by EXEC's reply */
};
struct way_own *way_own_new(struct way_dispatch *d);
/* The client is done with it; commands that were submitted hold it as long as they need.
 * What is watched and was not executed is unwatched. */
void way_own_unref(struct way_own *s);
/* What it watches is not protected any more: its EXEC will be an error. A watch is also
 * lost when its connection breaks or its slot moves. */
void way_own_lose(struct way_own *s);
/* As way_dispatch_submit, over the session's connection: behind all that is in flight of
 * r's client and bucket, and before all that comes after it. */
void way_dispatch_own(struct way_dispatch *d, struct way_own *s, struct way_request *r,
                      enum way_own_part part, const char *bytes, size_t n);

/* What is certain of r, which is not answered: UNKNOWN once it is on a connection, for what
 * is queued there will be sent. */
enum way_certainty way_dispatch_certainty(const struct way_request *r);

/* Answers r with an error of the caller's time running out; what a node still says to it
 * is dropped. */
void way_dispatch_expire(struct way_dispatch *d, struct way_request *r);

/* Answers what waits and has no time left with the error that it was told last: before
 * anything is called expired. */
void way_dispatch_overdue(struct way_dispatch *d);

/* Once per loop pass, and when the table's epoch may have risen. */
void way_dispatch_pass(struct way_dispatch *d);

/* ---- carried connections: one pipeline's each; see conn.h ---- */
/* own: as a session takes one (way_own_new). NULL: the node must not be dialed now. */
struct way_conn *way_dispatch_carry(struct way_dispatch *d, unsigned node, bool own);
/* Where it is to be dialed. */
void way_dispatch_carried_at(struct way_dispatch *d, unsigned node, char *host,
                             size_t bytes, int *port);
/* The pipeline is done with it. What is in flight on it is given up without a word, which
 * only who abandoned its pipeline may do. The connection is closed. */
void way_dispatch_uncarry(struct way_dispatch *d, struct way_conn *c);

/* How many commands are held or delayed, and their bytes. */
unsigned way_dispatch_waiting(const struct way_dispatch *d, size_t *bytes);

#endif
