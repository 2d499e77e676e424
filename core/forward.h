/* forward - one whole command on its way to the nodes of its keys: as it is, or split over
 * their slots and joined again.
 *
 * For who has commands in the form that clients send: front, and call. Hides how keys are
 * found and how a command is cut. Owns nothing; allocates only where it cuts. */
#ifndef WAY_FORWARD_H
#define WAY_FORWARD_H

#include "command.h"
#include "dispatch.h"
#include "pipeline.h"
#include "stats.h"

enum { WAY_KEYS_INLINE = 64 };

struct way_forward { /* all borrowed */
    struct way_dispatch *dispatch;
    struct way_pipeline *pipeline; /* attached to dispatch */
    struct way_stats *stats;
    const struct way_arg *arg; /* of the command, as parsed */
    unsigned count;
    uint16_t any_slot; /* for a command without a key */
    double now;
};

/* p[0..n) is the command, of this slot; flags: enum way_request_flag. */
void way_forward_to(const struct way_forward *f, const struct way_command *command,
                    uint16_t slot, uint16_t flags, const char *p, size_t n);

/* The same wherever its keys lie. -1: Redis's words ("ERR ...", "CROSSSLOT ..."), and
 * nothing was put into the pipeline. */
int way_forward(const struct way_forward *f, const struct way_command *command,
                const char *p, size_t n, struct way_err *err) WAY_MUST_CHECK;

/* The positions of its keys; *key has WAY_KEYS_INLINE places and is replaced if there are
 * more (*owned: to be freed). -1: err has Redis's words. */
int way_forward_keys(const struct way_forward *f, const struct way_command *command,
                     const char *p, unsigned **key, bool *owned, struct way_err *err);

#endif
