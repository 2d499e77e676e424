/* policy_counters - see policy_counters.h.
 *
 * Checked and put into numbers by core/runtime/check.lua; here they become C. A script gets
 * two kinds of handles, the counters of a scope and one counter, each dead after the call,
 * and reads what the snapshot has. reset() and add() are only noted: the host does them with
 * the commit, so that a question asked again does nothing twice. */
#include "policy_counters.h"

#include "policy_many.h"
#include "policy_view.h"

#include <lauxlib.h>
#include <math.h>
#include <stdio.h>

enum { ALL = -1 };
struct handle {
    uint64_t call;
    enum way_scope scope;
    int index;     /* ALL: the counters of the scope */
    unsigned node; /* its place, where there are several */
};

static const char *const scope_texts[] = { "node.counters", "node.shard.counters",
                                           "self.cluster.counters" };
static const char *const figures[] = { "value", "failed",    "volume",
                                       "mean",  "deviation", "last" };
enum { VALUE = 1, FAILED = 2, VOLUME = 4, MEAN = 8, DEVIATION = 16, LAST = 32 };
static const uint8_t figures_of[WAY_COUNTER_KINDS] = {
    [WAY_COUNTER_CONSECUTIVE] = VALUE,
    [WAY_COUNTER_WINDOW] = VALUE | FAILED | VOLUME,
    [WAY_COUNTER_RING] = VALUE | FAILED | VOLUME,
    [WAY_COUNTER_EWMA] = VALUE | VOLUME,
    [WAY_COUNTER_TOKENS] = VALUE,
    [WAY_COUNTER_SAMPLES] = VALUE | VOLUME | MEAN | DEVIATION | LAST,
};

/* ---- declared ---- */

void way_counters_limits(lua_State *L)
{
    lua_pushinteger(L, WAY_BUCKETS_MAX);
    lua_setfield(L, -2, "buckets");
    lua_pushinteger(L, WAY_RING_MAX);
    lua_setfield(L, -2, "ring");
    lua_pushinteger(L, WAY_SAMPLES_MAX);
    lua_setfield(L, -2, "samples");
}

/* A field of the table on top; 0 where it is nil. */
static double number(lua_State *L, const char *name)
{
    lua_getfield(L, -1, name);
    double n = lua_tonumber(L, -1);
    lua_pop(L, 1);
    return n;
}

static bool flag(lua_State *L, const char *name)
{
    lua_getfield(L, -1, name);
    bool set = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return set;
}

static void take_classes(lua_State *L, struct way_counter *c)
{
    lua_getfield(L, -1, "classes");
    c->named = lua_istable(L, -1);
    for (int i = 1; c->named && i <= (int)lua_objlen(L, -1); i++) {
        lua_rawgeti(L, -1, i);
        c->classes |= (uint64_t)1 << (lua_tointeger(L, -1) & 63);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void take_edge(lua_State *L, struct way_counter *c)
{
    lua_getfield(L, -1, "edge");
    if (lua_istable(L, -1)) {
        c->edge = (uint8_t)number(L, "kind");
        c->edge_at = number(L, "at");
        c->min_volume = number(L, "min_volume");
    }
    lua_pop(L, 1);
}

static void take_counter(lua_State *L, struct way_counter *c)
{
    lua_getfield(L, -1, "name");
    snprintf(c->name, sizeof c->name, "%s", lua_tostring(L, -1));
    lua_pop(L, 1);
    lua_getfield(L, -1, "start");
    c->has_start = !lua_isnil(L, -1);
    lua_pop(L, 1);
    c->kind = (uint8_t)number(L, "kind");
    c->of = (uint8_t)number(L, "of");
    c->phases = (uint8_t)number(L, "phases");
    c->strict = flag(L, "strict");
    c->peak = flag(L, "peak");
    c->events = flag(L, "events");
    c->slower = number(L, "slower");
    c->seconds = number(L, "seconds");
    c->results = number(L, "results");
    c->size = (unsigned)number(L, "size");
    c->capacity = number(L, "capacity");
    c->start = number(L, "start");
    c->per_second = number(L, "per_second");
    c->request = number(L, "request");
    c->success = number(L, "success");
    c->failure = number(L, "failure");
    c->retry = number(L, "retry");
    take_classes(L, c);
    take_edge(L, c);
}

void way_counters_take(struct way_policy *p, lua_State *L, int plan, lua_CFunction refuse)
{
    struct way_err err;
    lua_getfield(L, plan, "counters");
    for (int i = 1; i <= (int)lua_objlen(L, -1); i++) {
        struct way_counter c;
        memset(&c, 0, sizeof c); /* it goes into a hash, padding too */
        lua_rawgeti(L, -1, i);
        take_counter(L, &c);
        enum way_counter_scope scope = (enum way_counter_scope)number(L, "scope");
        if (way_counters_add(&p->plan.counters, scope, &c, &err) < 0) {
            lua_pushcfunction(L, refuse);
            lua_pushfstring(L, "counters.%s", c.name);
            lua_pushstring(L, err.text);
            lua_call(L, 2, 0);
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* ---- as a script sees them ---- */

static struct way_asking *alive(lua_State *L)
{
    struct way_policy *p = way_script_user(L);
    const struct handle *h = lua_touserdata(L, 1);
    if (!p->asking || h->call != p->call)
        luaL_error(L, "%s are of an earlier call", scope_texts[h->scope]);
    return p->asking;
}

static int push(lua_State *L, enum way_scope scope, int index, unsigned node)
{
    struct way_policy *p = way_script_user(L);
    struct handle *h = lua_newuserdata(L, sizeof *h);
    *h = (struct handle){ p->call, scope, index, node };
    lua_rawgeti(L, LUA_REGISTRYINDEX,
                index == ALL ? p->counters_metatable : p->counter_metatable);
    lua_setmetatable(L, -2);
    return 1;
}

int way_counters_push(lua_State *L, enum way_scope scope, unsigned node)
{
    return push(L, scope, ALL, node);
}

static const char *key_of(lua_State *L)
{
    return lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
}

static int counters_index(lua_State *L)
{
    struct way_asking *a = alive(L);
    const struct handle *h = lua_touserdata(L, 1);
    const struct way_counters_layout *l = &a->policy->plan.counters;
    const char *key = key_of(L), *known[WAY_COUNTERS_MAX + 1] = { NULL };
    for (unsigned i = 0; i < l->count[h->scope]; i++) {
        known[i] = l->counter[h->scope][i].name;
        if (!strcmp(known[i], key))
            return push(L, h->scope, (int)i, h->node);
    }
    way_view_unknown(L, scope_texts[h->scope], key, known);
}

static struct way_touch *touch(lua_State *L)
{
    struct way_asking *a = alive(L);
    const struct handle *h = lua_touserdata(L, 1);
    struct way_touches *all =
        a->sweep ? &a->sweep->proposal[h->node].touches : &a->touches;
    if (a->choice)
        luaL_error(L, "%s are read-only in route", scope_texts[h->scope]);
    if (all->count == WAY_TOUCHES_MAX)
        luaL_error(L, "more than %d resets and samples in one answer", WAY_TOUCHES_MAX);
    struct way_touch *t = &all->touch[all->count++];
    *t = (struct way_touch){ .scope = (uint8_t)h->scope, .index = (uint8_t)h->index };
    return t;
}

/* Is the first argument a counter of ours? (A dot instead of a colon passes anything.) */
static const struct way_counter *checked(lua_State *L, const char *what)
{
    struct way_policy *p = way_script_user(L);
    const struct handle *h = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->counter_metatable);
    if (!h || !lua_getmetatable(L, 1) || !lua_rawequal(L, -1, -2))
        luaL_error(L, "%s: expected a counter before it, as in counter:%s", what, what);
    lua_pop(L, 2);
    return &p->plan.counters.counter[h->scope][h->index];
}

static int counter_reset(lua_State *L)
{
    checked(L, "reset()");
    touch(L);
    return 0;
}

static int counter_add(lua_State *L)
{
    const struct way_counter *c = checked(L, "add(x)");
    if (c->kind != WAY_COUNTER_SAMPLES)
        return luaL_error(L, "counter '%s': only samples are added to, it is of kind %s",
                          c->name, way_counter_kind_name(c->kind));
    if (lua_type(L, 2) != LUA_TNUMBER || !(fabs(lua_tonumber(L, 2)) <= 1e30))
        return luaL_error(
            L, "counter '%s': add: expected a finite number, got %s", c->name,
            lua_type(L, 2) == LUA_TNUMBER ? lua_tostring(L, 2) : luaL_typename(L, 2));
    struct way_touch *t = touch(L);
    t->add = true;
    t->value = lua_tonumber(L, 2);
    return 0;
}

static int counter_index(lua_State *L)
{
    struct way_asking *a = alive(L);
    const struct handle *h = lua_touserdata(L, 1);
    const struct way_view *view = a->view ? a->view : way_many_view(a, h->node, false);
    const struct way_counter *c = &a->policy->plan.counters.counter[h->scope][h->index];
    const struct way_counted *v = &view->counted[h->scope][h->index];
    const double figure[] = { v->value, v->failed,    v->volume,
                              v->mean,  v->deviation, v->last };
    const char *key = key_of(L);
    for (unsigned i = 0; i < way_count(figures); i++) {
        if (!(figures_of[c->kind] & 1u << i) || strcmp(figures[i], key) != 0)
            continue;
        lua_pushnumber(L, figure[i]);
        return 1;
    }
    if (!strcmp(key, "reset"))
        lua_pushcfunction(L, counter_reset);
    else if (!strcmp(key, "add"))
        lua_pushcfunction(L, counter_add);
    else
        return luaL_error(L, "counter '%s' (%s) has no '%s'", c->name,
                          way_counter_kind_name(c->kind), key);
    return 1;
}

static int refuse_write(lua_State *L)
{
    return luaL_error(L, "counters are read-only: can't set '%s'", key_of(L));
}

static int metatable(lua_State *L, lua_CFunction index)
{
    lua_createtable(L, 0, 3);
    lua_pushcfunction(L, index);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, refuse_write);
    lua_setfield(L, -2, "__newindex");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

void way_counters_open(struct way_policy *p, lua_State *L)
{
    p->counters_metatable = metatable(L, counters_index);
    p->counter_metatable = metatable(L, counter_index);
}
