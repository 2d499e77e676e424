/* console_shadow - what the console tells of a candidate in the shadow: WAYSIDE SHADOW. */
#ifndef WAY_CONSOLE_SHADOW_H
#define WAY_CONSOLE_SHADOW_H

#include "control.h"
#include "policy.h"
#include "tell.h"

/* Each puts exactly one reply, or promises one. */
void way_console_shadow_begin(struct way_control *c, const char *path,
                              const struct way_option *option, unsigned options,
                              struct way_tell *t);
void way_console_shadow_status(struct way_control *c, struct way_tell *t);
/* The last n differences, newest last. */
void way_console_shadow_diff(struct way_control *c, unsigned n, struct way_tell *t);
void way_console_shadow_off(struct way_control *c, struct way_tell *t);

#endif
