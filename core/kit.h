/* kit - the real loader, sandbox, policies and node table, for specs in Lua: the C half of
 * `require "wayside.test"`.
 *
 * A module for an unrestricted Lua state, that of busted or of `wayside test`. Raises what
 * goes wrong. One module serves both: inside the program, and alone as wayside/test_host.so
 * for a plain LuaJIT, whose own library it then uses. */
#ifndef WAY_KIT_H
#define WAY_KIT_H

struct lua_State;

__attribute__((visibility("default"))) int luaopen_wayside_test_host(struct lua_State *L);

#endif
