/* loader - a policy made ready off the threads that serve: read, loaded into as many fresh
 * states as are wanted, and, if asked, proved.
 *
 * Loading a script may take a second, proving it another; neither a worker nor the control
 * thread may wait for that. Each load is a thread of its own, which ends with it; what it
 * made is told in the thread of a loop. The states it made belong to nobody until then: a
 * Lua state is no thread's own, it only must not be used by two at once.
 *
 * Proving is, on top of the contract's check that every load makes: the policy's selftest,
 * and the last events of the journal put to the candidate again, in the nodes' present
 * state, with memory as it would be taken over. One question that it fails to answer
 * refuses it. */
#ifndef WAY_LOADER_H
#define WAY_LOADER_H

#include "health.h"
#include "journal.h"
#include "loop.h"
#include "policy.h"

struct way_load; /* one load on its way */

/* What is to be loaded: a path with options and limits, or a text that is there. */
struct way_load_wish {
    char *path; /* NULL, "default", "none" or a file's */
    struct way_option *option;
    unsigned options;
    struct way_limits limits;
    struct way_policy_text *text; /* instead of path: taken, limits and all */
};

struct way_loaded {
    struct way_policy_text *text; /* sealed: the bytes that all states were made of */
    struct way_policy **policy;   /* [states] */
    unsigned states;
};

struct way_load_order {
    struct way_loop *loop; /* whose thread is told */
    unsigned states;
    /* Runs first, in the load's thread, and fills the wish (owned strings), or refuses. */
    int (*prepare)(void *arg, struct way_load_wish *wish, struct way_err *err);
    /* To prove it; `entries` are copied, oldest first. health NULL: not proved. */
    struct way_health *health;
    const struct way_policy
        *before; /* in charge now: memory is taken over from it. Not used
                                        by calls, so its thread may go on asking it */
    const struct way_entry *entry;
    unsigned entries;
    /* In the loop's thread, once. l: the receiver's from here on, by way_loaded_free; NULL:
     * err says why not, until the load itself is freed by way_load_free: here or later. */
    void (*done)(void *arg, struct way_loaded *l, const struct way_err *err);
    void *arg;
};

/* Begins. -1: no thread is to be had; done is not called. */
int way_load_begin(struct way_load **out, const struct way_load_order *o,
                   struct way_err *err) WAY_MUST_CHECK;
/* In the loop's thread. Before done was called it waits for the thread's end (which bounds of
 * the scripts bound), and done is not called. NULL is nothing. */
void way_load_free(struct way_load *l);

void way_loaded_free(struct way_loaded *l);
/* Takes state i out: it is the caller's. */
struct way_policy *way_loaded_take(struct way_loaded *l, unsigned i);

/* A wish for a path with options, all copied. */
void way_load_wish_set(struct way_load_wish *wish, const char *path,
                       const struct way_option *option, unsigned options,
                       const struct way_limits *limits);
/* Of one that no load has taken over. */
void way_load_wish_fini(struct way_load_wish *wish);

#endif
