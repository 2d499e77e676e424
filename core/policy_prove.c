/* policy_prove - what a policy is asked before it is put in charge: its selftest, and what
 * becomes of the memory that another one left.
 *
 * A selftest runs in one state and asks its questions of others, so no state is entered
 * twice. Numbers of memory go from one policy to the next by their names; those of the
 * default that lie behind a policy's own go by theirs, also where the default itself was in
 * charge. */
#include "policy_host.h"
#include "policy_parts.h"

#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdio.h>

/* "file:line: why", without the traceback. */
static int told(struct way_policy *p, const char *what, struct way_err *err)
{
    const struct way_script_failure *f = way_script_failure(p->script);
    return way_fail(err, "%s: %.*s", what, (int)strcspn(f->text, "\n"), f->text);
}

/* ---- selftest ---- */

struct selftest {
    struct way_policy *policy;
    const struct way_policy_text *text;
};

static int selftest_body(lua_State *L, void *arg)
{
    struct selftest *s = arg;
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->policy->selftest);
    lua_newtable(L); /* no open() here: the one policy is this one */
    way_script_runtime(L, "runtime/test.lua");
    lua_getfield(L, -1, "attach");
    lua_remove(L, -2);
    way_policy_host_push(L, s->text);
    lua_call(L, 1, 1);
    lua_call(L, 1, 0);
    return 0;
}

int way_policy_selftest(struct way_policy *p, const struct way_policy_text *t,
                        struct way_err *err)
{
    struct selftest s = { p, t };
    if (!p->selftest)
        return 0;
    return way_script_call_loading(p->script, selftest_body, &s) < 0
               ? told(p, "selftest", err)
               : 0;
}

/* ---- memory ---- */

/* The numbers of a scope and how many there are. */
static double *numbers(struct way_memory *m, enum way_scope scope)
{
    return scope == WAY_SCOPE_NODE    ? m->node
           : scope == WAY_SCOPE_SHARD ? m->shard
                                      : m->cluster;
}

static unsigned count(const struct way_policy *p, enum way_scope scope)
{
    const struct way_layout *l = &p->plan.layout;
    return scope == WAY_SCOPE_NODE    ? l->node
           : scope == WAY_SCOPE_SHARD ? l->shard
                                      : l->cluster;
}

/* The default in charge has its memory as its own. */
static bool is_default(const struct way_policy *p)
{
    return p->files && !strcmp(p->file[0].name, "policies/default.lua");
}

static bool of_default(const struct way_policy *p, const struct way_memory_name *name)
{
    return name->space == WAY_SPACE_DEFAULT || is_default(p);
}

static int find(const struct way_policy *p, enum way_scope scope, const char *name,
                bool defaults)
{
    for (unsigned i = 0; i < count(p, scope); i++) {
        const struct way_memory_name *known = &p->memory_name[scope][i];
        if (of_default(p, known) == defaults && !strcmp(known->name, name))
            return (int)i;
    }
    return -1;
}

void way_policy_carry(const struct way_policy *to, const struct way_policy *from,
                      enum way_scope scope, const struct way_memory *before,
                      struct way_memory *after)
{
    const double *old = numbers((struct way_memory *)(uintptr_t)before, scope);
    const double *first =
        numbers((struct way_memory *)(uintptr_t)&to->plan.layout.first, scope);
    double *new = numbers(after, scope);
    for (unsigned i = 0; i < count(to, scope); i++) {
        const struct way_memory_name *name = &to->memory_name[scope][i];
        int at = find(from, scope, name->name, of_default(to, name));
        new[i] = at < 0 ? first[i] : old[at];
    }
}

bool way_policy_same_memory(const struct way_policy *a, const struct way_policy *b)
{
    for (int scope = 0; scope < WAY_SCOPE_COUNT; scope++) {
        unsigned n = count(a, (enum way_scope)scope);
        if (count(b, (enum way_scope)scope) != n)
            return false;
        for (unsigned i = 0; i < n; i++) {
            const struct way_memory_name *name = &a->memory_name[scope][i];
            if (find(b, (enum way_scope)scope, name->name, of_default(a, name)) != (int)i)
                return false;
        }
    }
    return true;
}

struct migration {
    struct way_policy *to;
    const struct way_policy *from;
    enum way_scope scope;
    const double *before;
    double after[WAY_NODE_MEMORY];
};

static void push_before(lua_State *L, const struct migration *m)
{
    lua_newtable(L);
    for (unsigned i = 0; i < count(m->from, m->scope); i++) {
        const struct way_memory_name *name = &m->from->memory_name[m->scope][i];
        if (name->space != WAY_SPACE_OWN)
            continue;
        lua_pushnumber(L, m->before[i]);
        lua_setfield(L, -2, name->name);
    }
}

/* The number on top, under the name below it. */
static void take_number(lua_State *L, struct migration *m)
{
    const char *scope = way_scope_name(m->scope);
    if (lua_type(L, -2) != LUA_TSTRING)
        luaL_error(L, "expected names of memory.%s, got another key", scope);
    const char *name = lua_tostring(L, -2);
    int at = find(m->to, m->scope, name, is_default(m->to));
    if (at < 0)
        luaL_error(L, "memory.%s declares no '%s'", scope, name);
    if (lua_type(L, -1) != LUA_TNUMBER || !isfinite(lua_tonumber(L, -1)))
        luaL_error(L, "memory.%s.%s: expected a finite number", scope, name);
    m->after[at] = lua_tonumber(L, -1);
}

static int migrate_body(lua_State *L, void *arg)
{
    struct migration *m = arg;
    lua_rawgeti(L, LUA_REGISTRYINDEX, m->to->migrate);
    push_before(L, m);
    lua_pushstring(L, m->from->plan.version);
    lua_pushstring(L, way_scope_name(m->scope));
    lua_call(L, 3, 1);
    if (lua_isnil(L, -1))
        return 0;
    if (!lua_istable(L, -1))
        luaL_error(L, "expected nil or a table of numbers by name, got a %s",
                   luaL_typename(L, -1));
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
        take_number(L, m);
    return 0;
}

int way_policy_migrate(struct way_policy *to, const struct way_policy *from,
                       enum way_scope scope, const struct way_memory *before,
                       struct way_memory *after, struct way_err *err)
{
    struct migration m = { to, from, scope, NULL, { 0 } };
    size_t bytes = count(to, scope) * sizeof(double);
    way_policy_carry(to, from, scope, before, after);
    if (!to->migrate || from->plan.layout.hash == to->plan.layout.hash)
        return 0;
    m.before = numbers((struct way_memory *)(uintptr_t)before, scope);
    memcpy(m.after, numbers(after, scope), bytes);
    if (way_script_call(to->script, migrate_body, &m) < 0)
        return told(to, "migrate", err);
    memcpy(numbers(after, scope), m.after, bytes);
    return 0;
}
