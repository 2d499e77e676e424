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
/* Pushes a handle of the node at that place in a sweep or among the candidates, alive for
 * this call; of a candidate the same in each call. */
void way_view_member(struct lua_State *L, unsigned index);
/* The place of the node whose handle is on top of the stack; -1: it is none of this call. */
int way_view_index(const struct way_policy *p, struct lua_State *L);
/* Makes the list on top refuse new entries from a script; `what` names it. */
void way_view_guard_list(struct lua_State *L, const char *what);
/* Makes a handle that was pushed so in an earlier call alive for this one. */
void way_view_revive(const struct way_policy *p, void *handle);
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
