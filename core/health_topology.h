/* health_topology - the half of health.h that turns what nodes tell of the cluster into
 * records, shards and slots. Here: what the other half needs of it. */
#ifndef WAY_HEALTH_TOPOLOGY_H
#define WAY_HEALTH_TOPOLOGY_H

#include "segment.h"

/* Puts shards and slots in order that a writer left while it rewrote them: what points
 * nowhere is cut, and the next topology counts as later than the one that was cut short.
 * Under the lock. */
void way_health_mend_map(struct way_segment *s);
/* Aborts with what is wrong unless shards, slots and nodes point to each other as drawn
 * in health_topology.c. Under the lock. */
void way_health_check_map(struct way_segment *s);

#endif
