/* policy_host - a policy among made-up nodes, for specs and selftests. Part of policy:
 * policy_parts.h; for policy_prove and, as a module of LuaJIT, for specs. */
#ifndef WAY_POLICY_HOST_H
#define WAY_POLICY_HOST_H

#include "policy.h"

struct lua_State;

/* Pushes a host of that policy, loaded into two states of its own, with a table of its own;
 * freed by L's collector. Raises. */
void way_policy_host_push(struct lua_State *L, const struct way_policy_text *t);

/* The module wayside.test_host, by which `require "wayside.test"` opens policies: within the
 * program, and alone as wayside/test_host.so for a plain LuaJIT, whose own library it then
 * uses. */
__attribute__((visibility("default"))) int luaopen_wayside_test_host(struct lua_State *L);

#endif
