/* inside - the whole host on one loop of one thread: table, policy, dispatch, control.
 *
 * What embedders and gateways are made of (wayside.h, gateway.h): worker and control
 * thread in one, no listener, no thread of its own but while a policy is loaded anew. Opened once, which reads and proves
 * the policy and maps the table, then started on a loop; a process that forks in between
 * starts in each child. Fields are ro outside inside. */
#ifndef WAY_INSIDE_H
#define WAY_INSIDE_H

#include "base.h"
#include "config.h"
#include "control.h"
#include "decide.h"
#include "dispatch.h"
#include "health.h"
#include "journal.h"
#include "loop.h"
#include "pipeline.h"
#include "policy.h"
#include "reload.h"
#include "resp.h"
#include "stats.h"

struct way_resolver;

struct way_inside_options {
    const struct way_config *config; /* borrowed; checked for this use */
    way_judge_fn *judge;             /* verdicts of the host's own, or NULL */
    void *judge_arg;
    void (*told)(void *arg, const struct way_entry *e); /* each journal entry, or NULL */
    void *told_arg;
    /* As dispatch's, or NULL. */
    struct way_conn *(*carry)(void *arg, struct way_pipeline *p, unsigned node, bool own);
    void (*carried_gone)(struct way_conn *c);
    void *carry_arg;
    void (*grew)(struct way_pipeline *p); /* a pipeline has more replies */
    /* Reads the configuration anew for a reload, in any thread; NULL: as it was. */
    int (*reread)(void *arg, struct way_config *c, struct way_err *err);
    void *reread_arg;
};

enum { WAY_INSIDE_WORKER, WAY_INSIDE_CONTROL, WAY_INSIDE_THREADS };

struct way_inside {
    struct way_inside_options o;
    struct way_config config; /* its own limits and time-outs; all else is the host's */
    struct way_policy_text *text; /* reload's, once that is there */
    struct way_health *health;
    uint64_t policy_epoch; /* of the table, when `text` was in charge */
    struct way_loop loop;
    bool looping; /* the loop is there */
    struct way_resolver *resolver;
    struct way_ring *rings[WAY_INSIDE_THREADS];
    struct way_stats *stats[WAY_INSIDE_THREADS];
    struct way_aside aside;
    int row; /* -1: none */
    struct way_decider *decider;
    struct way_decider *deciders[WAY_INSIDE_THREADS];
    struct way_request_pool pool;
    struct way_dispatch *dispatch;
    struct way_control *control;
    struct way_reload *reload;
    struct way_reload_watch *watch;   /* NULL: not asked for */
    struct way_request_parser parser; /* for call */
    uint16_t any_slot;                /* for call: the next command without a key */
};

/* -1: nothing is left behind. */
int way_inside_open(struct way_inside *w, const struct way_inside_options *o,
                    struct way_err *err) WAY_MUST_CHECK;
/* In the process that is to work. ev: the caller's loop, which outlives it; NULL: one of
 * its own, which the caller runs by w->loop.ev. -1: way_inside_close is to follow. */
int way_inside_start(struct way_inside *w, struct ev_loop *ev,
                     struct way_err *err) WAY_MUST_CHECK;
/* Started or not; not from one of its callbacks. Pipelines must be gone. */
void way_inside_close(struct way_inside *w);

#endif
