/* policy_answer - what a script returned, checked field by field. Part of policy:
 * policy_parts.h. */
#ifndef WAY_POLICY_ANSWER_H
#define WAY_POLICY_ANSWER_H

#include "policy_parts.h"

struct lua_State;

/* Creates the tables of field names, once per state. Raises. */
void way_answer_open(struct way_policy *p, struct lua_State *L);
/* Reads the answer on top of the stack into a->out. Raises, with a->bad_answer set. */
void way_answer_read(struct way_asking *a, struct lua_State *L);

#endif
