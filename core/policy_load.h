/* policy_load - from files to a policy in charge. Part of policy: policy_parts.h. */
#ifndef WAY_POLICY_LOAD_H
#define WAY_POLICY_LOAD_H

#include "policy_parts.h"

struct lua_State;

/* The body of way_policy_load: runs and checks everything. Raises. */
int way_policy_load_body(struct lua_State *L, void *policy);
void way_policy_files_fini(struct way_policy *p);

#endif
