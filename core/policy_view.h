/* policy_view - node, event, self and memory as a script sees them. Part of policy:
 * policy_parts.h. */
#ifndef WAY_POLICY_VIEW_H
#define WAY_POLICY_VIEW_H

#include "policy_parts.h"

struct lua_State;

/* Creates metatables and field tables, once per state. Raises. */
void way_view_open(struct way_policy *p, struct lua_State *L);
/* Pushes what the question's function takes: self, node (not for classify), event. Returns
 * how many. */
int way_view_push(struct way_policy *p, struct lua_State *L, enum way_question question);
/* Replaces the table of options on top by the policy's `self`. */
void way_view_self(struct lua_State *L, const char *name, const char *version);
/* Functions of the wayside module: (), (answer). */
int way_view_random(struct lua_State *L);
int way_view_info(struct lua_State *L);
/* Makes the words, a list ended by NULL, known by number, from 1. Raises. */
void way_keys_keep(struct way_keys *keys, struct lua_State *L, const char *const *words);
/* Raises "<what> has no 'name', did you mean ..."; `known` ends with NULL. */
_Noreturn void way_view_unknown(struct lua_State *L, const char *what, const char *name,
                                const char *const *known);

#endif
