/* policy_rows - the table of classes, in C. Part of policy: policy_parts.h. */
#ifndef WAY_POLICY_ROWS_H
#define WAY_POLICY_ROWS_H

#include "policy_parts.h"

struct lua_State;

/* Compiles the rows of the plan on top of the stack (not popped). Raises. */
void way_rows_compile(struct way_policy *p, struct lua_State *L);
void way_rows_fini(struct way_rows *rows);
/* Sets class and permanent and returns true where a row matches. */
bool way_rows_match(const struct way_rows *rows, struct way_event *e);

#endif
