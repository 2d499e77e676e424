/* pattern - Lua's string patterns, matched within a bound on the work.
 *
 * The patterns are those of the Lua 5.1 reference manual, section 5.4.1: classes, sets,
 * * + - ?, anchors, captures, back references, %b and %f. A match that takes more steps
 * than it was given ends with an error: seven `.-` on forty bytes would else run for
 * seconds. Pure; any bytes may be given. */
#ifndef WAY_PATTERN_H
#define WAY_PATTERN_H

#include "base.h"

enum { WAY_PATTERN_CAPTURES = 32 };

struct way_capture {
    const char *p;
    ptrdiff_t n; /* bytes; WAY_CAPTURE_OPEN, WAY_CAPTURE_POSITION */
};
enum { WAY_CAPTURE_OPEN = -1, WAY_CAPTURE_POSITION = -2 };

struct way_pattern {
    struct way_span subject, pattern; /* set by the caller; borrowed */
    size_t steps_max;                 /* set by the caller, for all matches together */
    size_t steps;                     /* ro: taken so far */
    const char *error;                /* ro: NULL, or what is wrong; it stays */
    unsigned captures;                /* ro after a match */
    struct way_capture capture[WAY_PATTERN_CAPTURES]; /* ro */
    unsigned depth;                                   /* private */
};

/* The end of the match that begins at subject.p + from, or NULL: there is none, or `error`
 * tells why. A leading ^ of the pattern is the caller's business: it is skipped here. */
const char *way_pattern_match(struct way_pattern *m, size_t from);
static inline bool way_pattern_anchored(const struct way_pattern *m)
{
    return m->pattern.n && m->pattern.p[0] == '^';
}

#endif
