/* reload_shadow - the policy before, in shadow, while the one that replaced it is on
 * probation. Part of reload.
 *
 * It is asked the same in states of its own, loaded for that: those that it served with wait
 * to serve again. Belongs to the control loop. */
#ifndef WAY_RELOAD_SHADOW_H
#define WAY_RELOAD_SHADOW_H

#include "control.h"

struct way_reload_shadow;

struct way_reload_shadow *way_reload_shadow_new(struct way_loop *loop,
                                                struct way_control *control,
                                                struct way_health *health,
                                                unsigned threads);
void way_reload_shadow_free(struct way_reload_shadow *s);

/* From soon on: once it is loaded. Copies the text, which must be sealed. `epoch`: the policy
 * epoch of the one on probation. */
void way_reload_shadow_begin(struct way_reload_shadow *s,
                             const struct way_policy_text *text, uint64_t epoch,
                             const struct way_limits *limits);
void way_reload_shadow_end(struct way_reload_shadow *s);

/* How often the one in charge, and this one, took a node out of use since both are asked.
 * False: nobody knows. */
bool way_reload_shadow_marks(const struct way_reload_shadow *s, double *in_charge,
                             double *own);

#endif
