/* policy_load - from files to a policy in charge.
 *
 *   default.lua (built in) ──run──▶ table ──check.lua──▶ plan ─┐
 *   the policy's file, and     ──run──▶ table ──check.lua──▶ plan ─┴▶ struct way_policy
 *   what it requires beside it
 *
 * The default is loaded into every state but its own, since an absent question is answered
 * by it and a policy may call it. It keeps names of its own for options and memory (its
 * space): its memory lies behind the policy's. Everything here runs within one protected
 * call under the loader's budget; whatever C allocates is the policy's at once. */
#include "policy_load.h"

#include "luatext.h"
#include "policy_counters.h"
#include "policy_many.h"
#include "policy_rows.h"
#include "policy_view.h"
#include "policy_answer.h"
#include "policy_text.h"
#include "runtime_files.h"

#include <ctype.h>
#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>

static const char *const question_names[WAY_ASK_COUNT] = {
    "classify", "mark", "backoff", "probe", "reconnect", "route", "tick"
};
static const char *const scope_names[WAY_SCOPE_COUNT] = { "node", "shard", "cluster" };
static const unsigned scope_rooms[WAY_SCOPE_COUNT] = { WAY_NODE_MEMORY, WAY_SHARD_MEMORY,
                                                       WAY_CLUSTER_MEMORY };
static const char *const pick_names[] = { "master",         "replica",     "replica_only",
                                          "random",         "round_robin", "nearest",
                                          "least_inflight", "p2c" };

const char *way_question_name(enum way_question q)
{
    return question_names[q];
}

const char *way_scope_name(enum way_scope scope)
{
    return scope_names[scope];
}

/* ---- files ---- */

void way_policy_files_fini(struct way_policy *p)
{
    for (unsigned i = 0; i < p->files; i++) {
        way_free(p->file[i].name);
        way_free(p->file[i].text);
    }
    for (unsigned scope = 0; scope < WAY_SCOPE_COUNT; scope++)
        for (unsigned i = 0; i < WAY_NODE_MEMORY; i++)
            way_free(p->memory_name[scope][i].name);
}

/* Lua cuts the names of chunks at 60 bytes, so a long path is told by its last part. */
static const char *short_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strlen(path) < 56 || !slash ? path : slash + 1;
}

/* Takes the text. */
static struct way_policy_file *add_file(struct way_policy *p, const char *name,
                                        char *text, size_t n)
{
    struct way_policy_file *f = &p->file[p->files++];
    f->name = way_strdup(name);
    f->text = text;
    f->n = n;
    return f;
}

/* ---- what the runtime's files get from here ---- */

static struct way_policy *policy_of(lua_State *L)
{
    return way_script_user(L);
}

/* (path, text): raises with the file and the line that the path was written on. */
static int host_refuse(lua_State *L)
{
    struct way_policy *p = policy_of(L);
    const struct way_policy_file *f = &p->file[p->checking];
    const char *path = lua_tostring(L, 1), *text = lua_tostring(L, 2);
    unsigned line =
        path && *path ? way_luatext_line((struct way_span){ f->text, f->n }, path) : 0;
    if (line)
        lua_pushfstring(L, "%s:%d: ", f->name, (int)line);
    else
        lua_pushfstring(L, "%s: ", f->name);
    if (path && *path)
        lua_pushfstring(L, "%s: ", path);
    else
        lua_pushliteral(L, "");
    lua_pushstring(L, text);
    lua_concat(L, 3);
    return lua_error(L);
}

static int host_distance(lua_State *L)
{
    lua_pushinteger(
        L, (lua_Integer)way_distance(luaL_checkstring(L, 1), luaL_checkstring(L, 2)));
    return 1;
}

/* (level, text): one line, rate-limited, with nothing in it that could look like another. */
static int host_log(lua_State *L)
{
    static const char *const levels[] = { "debug", "info", "warn", "error", NULL };
    struct way_policy *p = policy_of(L);
    char text[512];
    int level = luaL_checkoption(L, 1, NULL, levels);
    snprintf(text, sizeof text, "%s", luaL_checkstring(L, 2));
    for (char *c = text; *c; c++)
        if (*c == '"' || *c == '\\' || iscntrl((unsigned char)*c))
            *c = ' ';
    way_script_charge(L, 100);
    if (way_gate_open(&p->gate, way_clock(), 10))
        way_log((enum way_level)level, "policy=%s text=\"%s\"", p->name, text);
    return 0;
}

static void push_words(lua_State *L, const char *key, const char *(*name)(unsigned),
                       unsigned first, unsigned count)
{
    lua_newtable(L);
    for (unsigned i = first; i < count; i++) {
        lua_pushinteger(L, (lua_Integer)i);
        lua_setfield(L, -2, name(i));
    }
    lua_setfield(L, -2, key);
}

static const char *pick_name(unsigned v)
{
    return v < way_count(pick_names) ? pick_names[v] : "?";
}

static void push_built_in_classes(lua_State *L)
{
    lua_newtable(L);
    for (unsigned i = 0; i < WAY_CLASS_BUILTIN; i++) {
        lua_newtable(L);
        lua_pushstring(L, way_class_name(i));
        lua_setfield(L, -2, "name");
        lua_pushstring(L, way_blame_name(way_class_blame(i)));
        lua_setfield(L, -2, "blame");
        lua_pushboolean(L, i == WAY_CLASS_CONFIG || i == WAY_CLASS_CALLER ||
                               i == WAY_CLASS_ANSWER);
        lua_setfield(L, -2, "permanent");
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_setfield(L, -2, "classes");
}

static const char *scope_name(unsigned v)
{
    return v < WAY_SCOPE_COUNT ? scope_names[v] : "?";
}

static const char *count_name(unsigned v)
{
    return v == 0 ? "commands" : v == 1 ? "events" : "?";
}

static void push_counter_words(lua_State *L)
{
    push_words(L, "counter", way_counter_kind_name, 0, WAY_COUNTER_KINDS);
    push_words(L, "window_of", way_counter_of_name, WAY_COUNTER_OF_RESULTS,
               WAY_COUNTER_OF_RETRIES + 1);
    push_words(L, "ewma_of", way_counter_of_name, WAY_COUNTER_OF_FAILED,
               WAY_COUNTER_OF_LATENCY + 1);
    push_words(L, "edge", way_counter_edge_name, WAY_EDGE_NONE + 1, WAY_EDGE_KINDS);
    push_words(L, "scope", scope_name, 0, WAY_SCOPE_COUNT);
    push_words(L, "count", count_name, 0, 2);
}

static void push_check_host(lua_State *L)
{
    lua_newtable(L);
    lua_pushcfunction(L, host_refuse);
    lua_setfield(L, -2, "refuse");
    lua_pushcfunction(L, host_distance);
    lua_setfield(L, -2, "distance");
    lua_newtable(L);
    lua_pushinteger(L, WAY_CLASSES_MAX);
    lua_setfield(L, -2, "classes");
    lua_pushinteger(L, WAY_ROWS_OF_CLASSES);
    lua_setfield(L, -2, "rows");
    way_counters_limits(L);
    lua_setfield(L, -2, "limits");
    lua_newtable(L);
    push_words(L, "kind", way_kind_name, 0, WAY_KIND_COUNT);
    push_words(L, "phase", way_phase_name, 0, WAY_PHASE_COUNT);
    push_words(L, "step", way_step_name, 0, WAY_STEP_COUNT);
    push_words(L, "error", way_error_name, WAY_ERROR_NONE + 1, WAY_ERROR_COUNT);
    push_words(L, "blame", way_blame_name, 0, WAY_BLAME_COUNT);
    push_words(L, "pick", pick_name, 0, way_count(pick_names));
    push_counter_words(L);
    push_built_in_classes(L);
    lua_setfield(L, -2, "words");
}

static void push_wayside(lua_State *L)
{
    lua_newtable(L);
    lua_pushcfunction(L, way_view_random);
    lua_setfield(L, -2, "random");
    lua_pushcfunction(L, host_log);
    lua_setfield(L, -2, "log");
    lua_pushcfunction(L, way_view_info);
    lua_setfield(L, -2, "info");
    way_script_runtime(L, "runtime/wayside.lua");
}

/* ---- require ---- */

static bool plain_name(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '_' && name[i] != '-')
            return false;
    return n > 0 && n < 64;
}

static int require_sibling(lua_State *L, struct way_policy *p, const char *name)
{
    char file[80];
    struct way_err err = { "" };
    char *text = NULL;
    size_t n = 0;
    snprintf(file, sizeof file, "%s.lua", name);
    for (unsigned i = 0; i < p->files; i++) {
        if (strcmp(p->file[i].name, file) != 0)
            continue;
        if (!p->file[i].result)
            return luaL_error(L, "require: '%s' requires itself", name);
        lua_rawgeti(L, LUA_REGISTRYINDEX, p->file[i].result);
        return 1;
    }
    if (p->files == way_count(p->file))
        return luaL_error(L, "require: more than %d files", WAY_SIBLINGS_MAX);
    if (way_policy_read_beside(p->loading, file, &text, &n, &err) < 0)
        return luaL_error(L, "require: %s", err.text);
    struct way_policy_file *f = add_file(p, file, text, n);
    way_script_run(L, f->name, f->text, f->n);
    lua_pushvalue(L, -1);
    f->result = luaL_ref(L, LUA_REGISTRYINDEX);
    return 1;
}

static int require(lua_State *L)
{
    struct way_policy *p = policy_of(L);
    size_t n;
    const char *name = luaL_checklstring(L, 1, &n);
    if (!strcmp(name, "wayside")) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, p->module);
        return 1;
    }
    if (!p->loading)
        return luaL_error(L, "require: only while the policy is loaded");
    if (!plain_name(name, n))
        return luaL_error(
            L,
            "require: '%s': expected \"wayside\" or the plain name of a file "
            "beside the policy",
            name);
    if (!strcmp(p->loading->path, "default"))
        return luaL_error(L, "require: the built-in policy has no files beside it");
    return require_sibling(L, p, name);
}

/* ---- plans ---- */

static void push_given(lua_State *L, const struct way_policy_text *t)
{
    lua_newtable(L);
    for (unsigned i = 0; i < t->options; i++) {
        const struct way_option *o = &t->option[i];
        lua_newtable(L);
        if (o->type == WAY_OPTION_NUMBER)
            lua_pushnumber(L, o->number);
        else if (o->type == WAY_OPTION_BOOLEAN)
            lua_pushboolean(L, o->number != 0);
        else
            lua_pushstring(L, o->text);
        lua_setfield(L, -2, "value");
        lua_pushboolean(L, o->type == WAY_OPTION_WORD);
        lua_setfield(L, -2, "word");
        lua_setfield(L, -2, o->name);
    }
}

static void push_room(lua_State *L, const struct way_layout *used)
{
    const unsigned taken[] = { used->node, used->shard, used->cluster };
    lua_newtable(L);
    for (int i = 0; i < WAY_SCOPE_COUNT; i++) {
        lua_pushinteger(L, (lua_Integer)(scope_rooms[i] - taken[i]));
        lua_setfield(L, -2, scope_names[i]);
    }
}

static void get(lua_State *L, int index, const char *a, const char *b)
{
    lua_getfield(L, index, a);
    if (b) {
        lua_getfield(L, -1, b);
        lua_remove(L, -2);
    }
}

static void keep_name(struct way_policy *p, enum way_scope scope, unsigned at,
                      const char *name, enum way_space space)
{
    struct way_memory_name *slot = &p->memory_name[scope][at];
    way_free(slot->name);
    *slot = (struct way_memory_name){ way_strdup(name), space };
}

/* Appends the memory of the plan at `plan` to the layout, and keeps its names. */
static void take_memory(struct way_policy *p, lua_State *L, int plan,
                        enum way_space space)
{
    struct way_layout *l = &p->plan.layout;
    unsigned *used[] = { &l->node, &l->shard, &l->cluster };
    double *first[] = { l->first.node, l->first.shard, l->first.cluster };
    for (int scope = 0; scope < WAY_SCOPE_COUNT; scope++) {
        get(L, plan, "memory", scope_names[scope]);
        get(L, -1, "names", NULL);
        get(L, -2, "first", NULL);
        lua_newtable(L);
        for (int i = 1; i <= (int)lua_objlen(L, -3); i++) {
            lua_rawgeti(L, -2, i);
            first[scope][*used[scope]] = lua_tonumber(L, -1);
            lua_pop(L, 1);
            lua_rawgeti(L, -3, i);
            keep_name(p, (enum way_scope)scope, *used[scope], lua_tostring(L, -1), space);
            lua_pushinteger(L, (lua_Integer)++ * used[scope]);
            lua_rawset(L, -3);
        }
        p->names[space][scope] = luaL_ref(L, LUA_REGISTRYINDEX);
        lua_pop(L, 3);
    }
}

/* The functions of the plan answer what nobody answers yet. */
static void take_functions(struct way_policy *p, lua_State *L, int plan,
                           enum way_space space)
{
    for (int q = 0; q < WAY_ASK_COUNT; q++) {
        lua_Debug ar;
        get(L, plan, "functions", question_names[q]);
        if (lua_isnil(L, -1) || p->question[q].fn) {
            lua_pop(L, 1);
            continue;
        }
        lua_pushvalue(L, -1);
        lua_getinfo(L, ">S", &ar);
        snprintf(p->question[q].where, sizeof p->question[q].where, "%.50s:%d",
                 ar.short_src, ar.linedefined);
        p->question[q].space = space;
        p->question[q].fn = luaL_ref(L, LUA_REGISTRYINDEX);
    }
}

/* What is asked before and while it is put in charge: its own alone. */
static void take_proofs(struct way_policy *p, lua_State *L, int plan)
{
    int *at[] = { &p->selftest, &p->migrate };
    static const char *const name[] = { "selftest", "migrate" };
    for (unsigned i = 0; i < way_count(at); i++) {
        get(L, plan, "functions", name[i]);
        if (lua_isnil(L, -1))
            lua_pop(L, 1);
        else
            *at[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
}

/* FNV-1a, 64 bits. */
static uint64_t hash(uint64_t h, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 0x100000001b3ull;
    return (h ^ n) * 0x100000001b3ull;
}

static void take_hash(struct way_policy *p, lua_State *L, int plan)
{
    uint64_t h = 0xcbf29ce484222325ull;
    size_t n;
    for (unsigned i = 0; i < p->files; i++)
        h = hash(h, p->file[i].text, p->file[i].n);
    get(L, plan, "canonical", NULL);
    const char *options = lua_tolstring(L, -1, &n);
    h = hash(h, options, n);
    lua_pop(L, 1);
    h = hash(h, (const char *)&p->plan.counters, sizeof p->plan.counters);
    p->plan.layout.hash = h ? h : 1;
}

static void take_plan(struct way_policy *p, lua_State *L, int plan)
{
    struct way_plan *out = &p->plan;
    get(L, plan, "name", NULL);
    snprintf(p->name, sizeof p->name, "%s", lua_tostring(L, -1));
    get(L, plan, "version", NULL);
    snprintf(p->version, sizeof p->version, "%s", lua_tostring(L, -1));
    get(L, plan, "watch", NULL);
    out->watches_success = lua_toboolean(L, -1);
    get(L, plan, "pick", "word");
    out->pick = (enum way_pick)lua_tointeger(L, -1);
    get(L, plan, "pick", "zone");
    snprintf(out->zone, sizeof out->zone, "%s", lua_tostring(L, -1));
    get(L, plan, "pick", "tolerance");
    out->tolerance = lua_tonumber(L, -1);
    get(L, plan, "pick", "load");
    out->load = (unsigned)lua_tointeger(L, -1);
    lua_pop(L, 7);
    way_counters_take(p, L, plan, host_refuse);
    lua_pushvalue(L, plan);
    way_rows_compile(p, L);
    lua_pop(L, 1);
    out->name = p->name;
    out->version = p->version;
    out->has_classify = p->question[WAY_ASK_CLASSIFY].fn != 0;
    out->has_mark = p->question[WAY_ASK_MARK].fn != 0;
    out->has_backoff = p->question[WAY_ASK_BACKOFF].fn != 0;
    out->has_probe = p->question[WAY_ASK_PROBE].fn != 0;
    out->has_reconnect = p->question[WAY_ASK_RECONNECT].fn != 0;
    out->has_route = p->question[WAY_ASK_ROUTE].fn != 0;
    get(L, plan, "every", NULL);
    out->every = lua_tonumber(L, -1);
    lua_pop(L, 1);
    out->has_selftest = p->selftest != 0;
    out->has_migrate = p->migrate != 0;
}

static void take_self(struct way_policy *p, lua_State *L, int plan, enum way_space space)
{
    get(L, plan, "name", NULL);
    get(L, plan, "version", NULL);
    lua_pushvalue(L, -3); /* the options, left there by the caller */
    way_view_self(L, lua_tostring(L, -3), lua_tostring(L, -2));
    p->self[space] = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pop(L, 3);
}

/* ---- the default ---- */

/* Upvalue: a function of the default. Its names hold while it runs; an error ends the whole
 * call, so nothing has to be put back then. */
static int call_default(lua_State *L)
{
    struct way_policy *p = policy_of(L);
    if (!p->asking)
        return luaL_error(L, "wayside.default: only while a question is asked");
    enum way_space before = p->space;
    p->space = WAY_SPACE_DEFAULT;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->self[WAY_SPACE_DEFAULT]);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, 3);
    lua_call(L, 3, 1);
    p->space = before;
    return 1;
}

/* Puts wayside.default into the module at `module`, of the default's table and plan. */
static void offer_default(lua_State *L, int module, int policy, int plan)
{
    lua_newtable(L);
    for (int q = 0; q < WAY_ASK_COUNT; q++) {
        get(L, plan, "functions", question_names[q]);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            continue;
        }
        lua_pushcclosure(L, call_default, 1);
        lua_setfield(L, -2, question_names[q]);
    }
    get(L, policy, "classes", NULL);
    lua_setfield(L, -2, "classes");
    way_script_read_only(L, "wayside.default", true);
    lua_setfield(L, module, "default");
}

/* check.policy(the table on top, given, room, standard): replaced by its plan. given is the
 * index of the options given, 0: none; standard of the default's table, 0: none. */
static void check(struct way_policy *p, lua_State *L, int checks, int given, int standard)
{
    get(L, checks, "policy", NULL);
    lua_insert(L, -2);
    if (given)
        lua_pushvalue(L, given);
    else
        lua_newtable(L);
    push_room(L, &p->plan.layout);
    if (standard)
        get(L, standard, "classes", NULL);
    else
        lua_pushnil(L);
    lua_call(L, 4, 1);
}

static void run_file(struct way_policy *p, lua_State *L, struct way_policy_file *f)
{
    p->checking = (unsigned)(f - p->file);
    way_script_run(L, f->name, f->text, f->n);
}

/* ---- the whole ---- */

/* Absolute stack indexes of the load. */
enum { CHECKS = 1, MODULE, GIVEN, DEFAULT, DEFAULT_PLAN, POLICY, PLAN };

static void load_default(struct way_policy *p, lua_State *L)
{
    const struct way_runtime_file *file = way_policy_built_in();
    if (!file) {
        luaL_error(L, "policies/default.lua is not part of this program");
        return;
    }
    struct way_policy_file *f = add_file(p, "policies/default.lua",
                                         way_strndup(file->text, file->size), file->size);
    run_file(p, L, f);
    lua_pushvalue(L, DEFAULT);
    check(p, L, CHECKS, 0, 0);
    offer_default(L, MODULE, DEFAULT, DEFAULT_PLAN);
}

/* Its options are at their defaults, but for those that the policy declares too. */
static void settle_default(struct way_policy *p, lua_State *L)
{
    take_memory(p, L, DEFAULT_PLAN, WAY_SPACE_DEFAULT);
    take_functions(p, L, DEFAULT_PLAN, WAY_SPACE_DEFAULT);
    get(L, CHECKS, "default_options", NULL);
    get(L, DEFAULT, "options", NULL);
    get(L, PLAN, "options", NULL);
    lua_call(L, 2, 1);
    take_self(p, L, DEFAULT_PLAN, WAY_SPACE_DEFAULT);
}

/* The default's memory must fit behind the policy's. */
static void reserve_memory(struct way_policy *p, lua_State *L,
                           struct way_layout *reserved)
{
    struct way_layout before = p->plan.layout;
    take_memory(p, L, DEFAULT_PLAN, WAY_SPACE_DEFAULT);
    *reserved = p->plan.layout;
    p->plan.layout = before;
}

int way_policy_load_body(lua_State *L, void *policy)
{
    struct way_policy *p = policy;
    const struct way_policy_text *t = p->loading;
    bool with_default = strcmp(t->path, "default") != 0;
    struct way_layout reserved = { .hash = 0 };
    struct way_policy_file *own;
    way_view_open(p, L);
    way_counters_open(p, L);
    way_answer_open(p, L);
    push_check_host(L);
    way_script_runtime(L, "runtime/check.lua");
    push_wayside(L);
    push_given(L, t);
    lua_pushvalue(L, MODULE);
    way_script_read_only(L, "wayside", true);
    p->module = luaL_ref(L, LUA_REGISTRYINDEX);
    way_script_globals(L);
    lua_pushcfunction(L, require);
    lua_setfield(L, -2, "require");
    lua_pop(L, 1);
    own = add_file(p, with_default ? short_name(t->path) : "policies/default.lua",
                   way_strndup(t->text, t->n), t->n);
    if (with_default) {
        load_default(p, L);
        reserve_memory(p, L, &reserved);
    } else {
        lua_settop(L, DEFAULT_PLAN);
    }
    run_file(p, L, own);
    lua_pushvalue(L, POLICY);
    p->plan.layout = reserved; /* what check may not use */
    check(p, L, CHECKS, GIVEN, with_default ? DEFAULT : 0);
    memset(&p->plan.layout, 0, sizeof p->plan.layout);
    take_memory(p, L, PLAN, WAY_SPACE_OWN);
    take_functions(p, L, PLAN, WAY_SPACE_OWN);
    take_proofs(p, L, PLAN);
    get(L, PLAN, "options", NULL);
    take_self(p, L, PLAN, WAY_SPACE_OWN);
    if (with_default)
        settle_default(p, L);
    take_plan(p, L, PLAN);
    take_hash(p, L, PLAN);
    way_many_open(p, L);
    return 0;
}
