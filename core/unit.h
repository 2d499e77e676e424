/* unit - the commands from MULTI to EXEC, checked and kept until they are sent as one
 * request (way_dispatch_own).
 *
 * All keys are of one slot. For who has commands in the form that clients send: a client's
 * transaction, and a program's pipeline. Hides what may be queued and what makes EXEC an
 * error. Zeroed is ready. */
#ifndef WAY_UNIT_H
#define WAY_UNIT_H

#include "forward.h"
#include "limits.h"

struct way_unit {
    bool queueing; /* ro: MULTI was said */
    bool has_slot; /* rw by who watches: its slot is the unit's */
    uint16_t slot;
    unsigned commands; /* ro: queued */
    struct way_buf
        bytes;   /* ro: MULTI and what is queued; after way_unit_close the whole */
    char *error; /* ro: why EXEC will be refused: the first reason; owned */
};
void way_unit_begin(struct way_unit *u);
void way_unit_fini(struct way_unit *u); /* zeroed again */

/* p[0..n), parsed (f has its words), follows MULTI; command NULL: it is none. -1: err has
 * the words of its error reply; but for a nested MULTI or a WATCH, EXEC is refused then. */
int way_unit_queue(struct way_unit *u, const struct way_forward *f,
                   const struct way_limits *l, const struct way_command *command,
                   const char *p, size_t n, struct way_err *err) WAY_MUST_CHECK;

/* The unit is whole: `bytes` has EXEC too. -1: err has the words of EXEC's error reply. */
int way_unit_close(struct way_unit *u, struct way_err *err) WAY_MUST_CHECK;

/* The one slot of the command's keys: *slot, untouched if there are none. -1: err has
 * Redis's words. */
int way_unit_slot(const struct way_forward *f, const struct way_command *command,
                  const char *p, uint16_t *slot, bool *found,
                  struct way_err *err) WAY_MUST_CHECK;

#endif
