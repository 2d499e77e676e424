/* candidate - a policy that somebody wants to try: loaded beside those that serve, and put
 * into the shadow of the one in charge (shadow.h).
 *
 * It begins with the states that the nodes have, and with the memory that the policy in
 * charge has under the same names; where all names are the same it follows that one's until
 * it differs. It is not proved: that it fails is one of the things that are to be seen.
 * Belongs to the control loop. */
#ifndef WAY_CANDIDATE_H
#define WAY_CANDIDATE_H

#include "decide.h"
#include "health.h"
#include "limits.h"
#include "loop.h"
#include "policy.h"
#include "shadow.h"

struct way_candidate; /* one per process: at most one load on its way */

struct way_candidate_options {
    struct way_loop *loop;
    struct way_health *health;
    struct way_shadows *shadows; /* borrowed */
    struct way_decider *decider; /* borrowed, of the loop's thread: who is in charge */
    unsigned threads;            /* that decide */
};
struct way_candidate *way_candidate_new(const struct way_candidate_options *o);
/* In the loop's thread, or after it ended. A load on its way is waited for. */
void way_candidate_free(struct way_candidate *c);

/* Begins to load; the path and the options are copied. done is called once, in the loop's
 * thread: err NULL, and it is in the shadow; or what is wrong with it. -1: another one is on
 * its way (done is not called). */
int way_candidate_begin(struct way_candidate *c, const char *path,
                        const struct way_option *option, unsigned options,
                        const struct way_limits *limits,
                        void (*done)(void *arg, const struct way_err *err), void *arg,
                        struct way_err *err) WAY_MUST_CHECK;
/* The path of the one that is being loaded; NULL: none is. */
const char *way_candidate_loading(const struct way_candidate *c);
/* Nobody is in the shadow any more; one that is being loaded will not come there. False:
 * there was none. */
bool way_candidate_end(struct way_candidate *c);
/* Now and then: one that was put in charge leaves the shadow. */
void way_candidate_look(struct way_candidate *c);

#endif
