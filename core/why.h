/* why - the chain of recorded entries that led to a node's present state, in words. Pure. */
#ifndef WAY_WHY_H
#define WAY_WHY_H

#include "base.h"
#include "health.h"
#include "history.h"

enum { WAY_WHY_LINES = 100, WAY_WHY_LINE = 512 };

/* Calls line() for each line, the present state first, then what happened, oldest first:
 * from the last change away from `healthy`, with the faults of the minute before it that
 * blamed the node. What repeats is told once with its count; of more than WAY_WHY_LINES
 * the oldest and the newest are kept. */
void way_why(const struct way_history *h, const struct way_view *node, double now,
             void (*line)(void *arg, const char *text), void *arg);

#endif
