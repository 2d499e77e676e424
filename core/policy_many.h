/* policy_many - several nodes as a script sees them: the candidates of a route, the nodes
 * of a sweep. Part of policy: policy_parts.h.
 *
 * A route is asked per command, so what it is shown is made once per state and filled anew
 * for each call: one list, one handle for each place in it. A field is read when the
 * script asks for it, from the node table itself. */
#ifndef WAY_POLICY_MANY_H
#define WAY_POLICY_MANY_H

#include "policy_parts.h"

struct lua_State;

/* Makes room for what route needs, where the policy has it. Raises. */
void way_many_open(struct way_policy *p, struct lua_State *L);
void way_many_fini(struct way_policy *p);

/* Pushes self's companions: of route request and nodes, of tick nodes and event. */
void way_many_push(struct way_policy *p, struct lua_State *L);

/* The view of the node at that place, from 0; of a candidate it is taken now. With counts:
 * shard's and cluster's too. */
const struct way_view *way_many_view(struct way_asking *a, unsigned index, bool counts);
/* The working copy of its memory; of route nobody may write to it. */
struct way_memory *way_many_memory(struct way_asking *a, unsigned index);

/* What seldom changes of a candidate, as a string of the state. */
enum way_many_text { WAY_MANY_ID, WAY_MANY_ADDRESS, WAY_MANY_ZONE, WAY_MANY_TEXTS };
void way_many_text(struct way_asking *a, struct lua_State *L, unsigned index,
                   enum way_many_text which);
/* The command's name, in lower case. */
void way_many_command(const struct way_choice *c, struct lua_State *L);

#endif
