/* log - one line per event on standard error, logfmt: time, level, what, fields.
 *
 * Any thread may log; a line is written by one write(2), so lines never mix. The level is
 * set once, before threads start. Not for the success path. */
#ifndef WAY_LOG_H
#define WAY_LOG_H

#include "base.h"

enum way_level { WAY_DEBUG, WAY_INFO, WAY_WARN, WAY_ERROR };

void way_log_level(enum way_level least);
int way_log_level_named(const char *name); /* -1: no such level */

/* The text is logfmt already: way_log(WAY_INFO, "node=%s state=failing", address). */
void way_log(enum way_level level, const char *fmt, ...) WAY_PRINTF(2, 3);

/* At most `burst` lines, then one a second; what was left out is told by the next line.
 * One gate belongs to one thread. */
struct way_gate {
    double refill;    /* private */
    double tokens;    /* private */
    unsigned dropped; /* private */
};
bool way_gate_open(struct way_gate *gate, double now, double burst);

#endif
