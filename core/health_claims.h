/* health_claims - the half of health.h about what a worker takes for itself: a row of
 * cells, trials of a probing node, a lease on its probes, its next dial. Lock free; what
 * the dead held is found out by others. Here: what the other halves need of it. */
#ifndef WAY_HEALTH_CLAIMS_H
#define WAY_HEALTH_CLAIMS_H

#include "segment.h"

/* A node's trials in one word: allotment 24 bits, turn 8 (so that no two states of an
 * allotment look alike for long), left 16, out 16. A row's cell holds how many of them are
 * its own: allotment and count. */
static inline uint64_t way_trials_pack(uint64_t allotment, uint64_t turn, uint64_t left,
                                       uint64_t out)
{
    return (allotment & 0xffffff) << 40 | (turn & 0xff) << 32 | left << 16 | out;
}
static inline uint64_t way_trials_allotment(uint64_t w)
{
    return w >> 40;
}
static inline uint64_t way_trials_turn(uint64_t w)
{
    return w >> 32 & 0xff;
}
static inline uint64_t way_trials_left(uint64_t w)
{
    return w >> 16 & 0xffff;
}
static inline uint64_t way_trials_out(uint64_t w)
{
    return w & 0xffff;
}

/* Zeroes the rows of owners that died: at most once in `every` seconds and process. */
void way_health_reap_sometimes(struct way_health *h, double now, double every);

#endif
