/* replay_world - what would have become of the nodes with another policy: a node table of
 * its own, virtual time, the daemon's own path of an error.
 *
 * Sweeps are made at the policy's own interval, as recorded where that is one of them. A sweep
 * that said nothing is in no journal: facts are then those last recorded.
 *
 * Counters hear of what the journal has: failures, and successes that were asked about. Facts
 * are as recorded: what happened, when, and what the host measured (in flight,
 * latency, failures in a row, replication, roles). Opinions are the policy's own: states,
 * how long they last, memory. For replay alone; one thread. */
#ifndef WAY_REPLAY_WORLD_H
#define WAY_REPLAY_WORLD_H

#include "journal.h"
#include "limits.h"
#include "policy.h"

struct way_world;

/* changed: a node's state changed, by an event or because a mark ended; the entry is valid
 * during the call. -1: the policy does not load. */
int way_world_new(struct way_world **out, const struct way_policy_text *text,
                  const struct way_limits *limits,
                  void (*changed)(void *arg, const struct way_entry *e), void *arg,
                  struct way_err *err) WAY_MUST_CHECK;
void way_world_free(struct way_world *w);

/* A node that the journal will speak of, as it is first seen; before way_world_open. */
void way_world_node(struct way_world *w, const struct way_view *seen);
/* Makes the table and everybody healthy in it. */
int way_world_open(struct way_world *w, double now, struct way_err *err) WAY_MUST_CHECK;

/* Lives through one recorded entry. What this policy would have written down instead,
 * valid until the next call; NULL: it was nobody's question to answer (an operator's mark,
 * the end of a mark that this policy may not have given). in: NULL where the entry has
 * none. */
const struct way_entry *way_world_live(struct way_world *w, const struct way_entry *e,
                                       const struct way_input *in);
/* The first recorded sweep, once the world is open: this policy's own come at its own
 * interval, in step with that. */
void way_world_beat(struct way_world *w, const struct way_entry *e);
/* A sweep as recorded: the facts that it had of each node, then whether it is one of this
 * policy's own. True: and it was asked as it is, at that time and with that seed; false: it
 * has no tick, or none due. */
void way_world_know(struct way_world *w, const struct way_entry *e,
                    const struct way_input *in);
bool way_world_sweep(struct way_world *w, const struct way_entry *e) WAY_MUST_CHECK;
/* What it said then of that node, valid until the next call; NULL: it was not asked. */
const struct way_entry *way_world_swept(struct way_world *w, const char *address);
/* Time passes: marks end, and sweeps of which the journal has nothing are made. */
void way_world_until(struct way_world *w, double now);

#endif
