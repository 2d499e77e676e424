/* natives - what scripts may call that runs in C: the count hook does not see into it.
 *
 * So each of these bounds what it takes (WAY_SCRIPT_STRING bytes, WAY_SCRIPT_LIST elements)
 * and charges the call's budget for its work. Part of script. */
#ifndef WAY_NATIVES_H
#define WAY_NATIVES_H

struct lua_State;

/* Pushes { _G = {...}, string = {...}, table = {...} }: the guarded functions by library and
 * name. The real libraries must be open. */
void way_natives_push(struct lua_State *L);

#endif
