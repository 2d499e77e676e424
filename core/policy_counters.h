/* policy_counters - counters as a policy declares them, and as its script sees them. See
 * policy_parts.h. */
#ifndef WAY_POLICY_COUNTERS_H
#define WAY_POLICY_COUNTERS_H

#include "policy_parts.h"

#include <lua.h>

/* Puts how many of what there may be into the table on top. */
void way_counters_limits(lua_State *L);
/* The counters of the plan at `plan` go into the policy's layout. One that finds no room is
 * raised by refuse(path, text). */
void way_counters_take(struct way_policy *p, lua_State *L, int plan,
                       lua_CFunction refuse);
/* Makes the metatables of handles. */
void way_counters_open(struct way_policy *p, lua_State *L);
/* Pushes node.counters, node.shard.counters or self.cluster.counters; returns 1. `node`: its
 * place, where there are several. */
int way_counters_push(lua_State *L, enum way_scope scope, unsigned node);

#endif
