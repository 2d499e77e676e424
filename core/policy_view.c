/* policy_view - node, event, self and memory as a script sees them.
 *
 * Each is a userdata that knows the call it was made for; a field is pushed when it is
 * read, and after the call the userdata is dead. Rejected: tables filled before each call
 * (some forty fields, of which a policy reads five), and cdata (ffi has no bounds). */
#include "policy_view.h"

#include "policy_counters.h"
#include "policy_many.h"

#include <ctype.h>
#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdlib.h>

enum kind {
    SHARD,
    CLUSTER,
    MEMORY,
    MEMORY_SHARD,
    MEMORY_CLUSTER,
    NODE,
    EVENT,
    REQUEST,
    KINDS
};

struct handle {
    struct way_policy *policy;
    uint64_t call;
    unsigned index; /* of the node, where there are several */
};

/* Field names in the order of their numbers, from 1. */
/* clang-format off */
#define NODE_FIELDS(X)                                                                   \
    X(ID, "id")                                                                          \
    X(ADDRESS, "address")                                                                \
    X(ROLE, "role") X(ZONE, "zone") X(STATE, "state") X(SINCE, "since") X(ENDS, "ends")  \
        X(REASON, "reason") X(WEIGHT, "weight") X(INFLIGHT, "inflight")                  \
            X(LATENCY, "latency") X(FAILURES, "failures") X(REPLICATION, "replication")  \
                X(COUNTERS, "counters") X(MEMORY, "memory") X(SHARD, "shard")
#define EVENT_FIELDS(X)                                                                  \
    X(KIND, "kind")                                                                      \
    X(PHASE, "phase")                                                                    \
    X(STEP, "step") X(ERROR, "error") X(ERRNO, "errno") X(MESSAGE, "message")            \
        X(REPLY, "reply") X(CLASS, "class") X(BLAME, "blame") X(N, "n")                  \
            X(REUSED, "reused") X(CONN_AGE, "connection_age")                            \
                X(WRITTEN, "bytes_written") X(REPLIES, "replies_read") X(BEGAN, "began") \
                    X(NOW, "now") X(UNIX, "unix") X(LATENCY, "latency")                  \
                        X(TRIAL, "trial") X(ATTEMPT, "attempt") X(COMMANDS, "commands")  \
                            X(CERTAINTY, "certainty") X(AGE, "age")                      \
                                X(LEFT, "deadline_left") X(WAITED, "waited")             \
                                    X(COUNTER, "counter") X(CHANGE, "change")            \
                                        X(ANSWER, "answer") X(LATE, "late")
#define COUNT_FIELDS(X)                                                                  \
    X(HEALTHY, "healthy")                                                                \
    X(SUSPECT, "suspect")                                                                \
    X(FAILING, "failing") X(PROBING, "probing") X(DRAINING, "draining")                  \
        X(NODES, "nodes") X(INFLIGHT, "inflight") X(RETRYING, "retrying")                \
            X(MEMORY, "memory") X(COUNTERS, "counters")
#define REQUEST_FIELDS(X)                                                                \
    X(SLOT, "slot") X(COMMAND, "command") X(WRITE, "write") X(ATTEMPT, "attempt")        \
        X(TRIED, "tried")
/* clang-format on */
#define NODE_ENUM(N, w) NODE_##N,
#define EVENT_ENUM(N, w) EVENT_##N,
#define COUNT_ENUM(N, w) COUNT_##N,
#define REQUEST_ENUM(N, w) REQUEST_##N,
enum request_field { REQUEST_NONE, REQUEST_FIELDS(REQUEST_ENUM) };
enum node_field { NODE_NONE, NODE_FIELDS(NODE_ENUM) };
enum event_field { EVENT_NONE, EVENT_FIELDS(EVENT_ENUM) };
enum count_field { COUNT_NONE, COUNT_FIELDS(COUNT_ENUM) };
#define WORD(N, w) w,
static const char *const node_words[] = { NODE_FIELDS(WORD) NULL };
static const char *const event_words[] = { EVENT_FIELDS(WORD) NULL };
static const char *const count_words[] = { COUNT_FIELDS(WORD) NULL };
static const char *const request_words[] = { REQUEST_FIELDS(WORD) NULL };

static const char *const kind_names[KINDS] = { "shard",        "cluster",        "memory",
                                               "shard.memory", "cluster.memory", "node",
                                               "event",        "request" };

static struct way_policy *policy_of(lua_State *L)
{
    return way_script_user(L);
}

/* The question that the handle at index 1 belongs to. */
static struct way_asking *alive(lua_State *L, enum kind kind)
{
    const struct handle *h = lua_touserdata(L, 1);
    struct way_policy *p = h->policy;
    if (!p->asking || h->call != p->call)
        luaL_error(
            L,
            "%s is of an earlier call: what a policy wants to remember it declares "
            "as memory",
            kind_names[kind]);
    return p->asking;
}

/* Strings of a state are unique, so a field's name is known by its address. The names stay
 * alive in a list that the registry keeps. */
void way_keys_keep(struct way_keys *keys, lua_State *L, const char *const *words)
{
    lua_newtable(L);
    for (int i = 0; words && words[i]; i++) {
        lua_pushstring(L, words[i]);
        const char *key = lua_tostring(L, -1);
        unsigned place = way_key_place(key);
        while (keys->key[place])
            place = (place + 1) % WAY_KEY_PLACES;
        keys->key[place] = key;
        keys->field[place] = (uint8_t)(i + 1);
        lua_rawseti(L, -2, i + 1);
    }
    (void)luaL_ref(L, LUA_REGISTRYINDEX);
}

_Noreturn void way_view_unknown(lua_State *L, const char *what, const char *name,
                                const char *const *known)
{
    const char *best = NULL;
    unsigned least = 3;
    for (; *known; known++) {
        unsigned distance = way_distance(name, *known);
        if (distance < least && distance < strlen(*known)) {
            best = *known;
            least = distance;
        }
    }
    if (best)
        luaL_error(L, "%s has no '%s', did you mean '%s'?", what, name, best);
    luaL_error(L, "%s has no '%s'", what, name);
    abort(); /* raising does not come back */
}

/* The number of the field that the key at index 2 names. */
static int field_of(lua_State *L, const struct way_policy *p, enum kind kind,
                    const char *const *words)
{
    const char *key = lua_tostring(L, 2);
    int field = key ? way_keys_find(&p->keys[kind], key) : 0;
    if (!field)
        way_view_unknown(L, kind_names[kind], key ? key : luaL_typename(L, 2), words);
    return field;
}

/* A text of the view or the event; nil where it is empty. */
static void push_text(lua_State *L, const char *text)
{
    if (*text)
        lua_pushstring(L, text);
    else
        lua_pushnil(L);
}

/* Words are made once: upvalue 1 of each __index is the list of them, group after group. */
enum words {
    PHASES,
    STEPS = PHASES + WAY_PHASE_COUNT,
    ERRORS = STEPS + WAY_STEP_COUNT,
    EVENTS = ERRORS + WAY_ERROR_COUNT,
    BLAMES = EVENTS + WAY_KIND_COUNT,
    CERTAINTIES = BLAMES + WAY_BLAME_COUNT,
    COMMANDS = CERTAINTIES + WAY_CERTAINTY_COUNT,
    STATES = COMMANDS + WAY_COMMANDS_COUNT,
    ROLES = STATES + WAY_STATE_COUNT,
    CHANGES = ROLES + WAY_ROLE_COUNT,
    WORDS = CHANGES + WAY_CHANGE_COUNT
};

static void push_word(lua_State *L, enum words group, unsigned value)
{
    lua_rawgeti(L, lua_upvalueindex(1), (int)((unsigned)group + value + 1));
}

static void put_words(lua_State *L, enum words group, const char *(*name)(unsigned),
                      unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        lua_pushstring(L, name(i));
        lua_rawseti(L, -2, (int)((unsigned)group + i + 1));
    }
}

static void push_words(lua_State *L)
{
    lua_createtable(L, WORDS, 0);
    put_words(L, PHASES, way_phase_name, WAY_PHASE_COUNT);
    put_words(L, STEPS, way_step_name, WAY_STEP_COUNT);
    put_words(L, ERRORS, way_error_name, WAY_ERROR_COUNT);
    put_words(L, EVENTS, way_kind_name, WAY_KIND_COUNT);
    put_words(L, BLAMES, way_blame_name, WAY_BLAME_COUNT);
    put_words(L, CERTAINTIES, way_certainty_name, WAY_CERTAINTY_COUNT);
    put_words(L, COMMANDS, way_commands_name, WAY_COMMANDS_COUNT);
    put_words(L, STATES, way_state_name, WAY_STATE_COUNT);
    put_words(L, ROLES, way_role_name, WAY_ROLE_COUNT);
    put_words(L, CHANGES, way_change_name, WAY_CHANGE_COUNT);
}

static void push_handle(struct way_policy *p, lua_State *L, enum kind kind,
                        unsigned index)
{
    struct handle *h = lua_newuserdata(L, sizeof *h);
    h->policy = p;
    h->call = p->call;
    h->index = index;
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->metatable[kind]);
    lua_setmetatable(L, -2);
}

/* A handle that is made once in the life of a state: per command none is made. */
static int push_lasting(struct way_policy *p, lua_State *L, enum kind kind,
                        unsigned index)
{
    int place = (int)(kind * (WAY_SHARD_REPLICAS + 1) + index + 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->lasting);
    lua_rawgeti(L, -1, place);
    struct handle *h = lua_touserdata(L, -1);
    if (!h) {
        lua_pop(L, 1);
        push_handle(p, L, kind, index);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, place);
    } else {
        h->call = p->call;
    }
    lua_remove(L, -2);
    return 1;
}

/* The place of the node that the handle at index 1 is of. */
static unsigned index_of(lua_State *L)
{
    const struct handle *h = lua_touserdata(L, 1);
    return h->index;
}

static const struct way_view *view_of(lua_State *L, struct way_asking *a, bool counts)
{
    return a->view ? a->view : way_many_view(a, index_of(L), counts);
}

/* A handle that is made once in a call, where there is one node. */
static int push_kept(lua_State *L, enum kind kind, unsigned index)
{
    struct way_policy *p = policy_of(L);
    if (p->asking->choice)
        return push_lasting(p, L, kind, index);
    if (p->asking->sweep) {
        push_handle(p, L, kind, index);
        return 1;
    }
    if (p->handed[kind] == p->call) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, p->handle[kind]);
        return 1;
    }
    push_handle(p, L, kind, 0);
    lua_pushvalue(L, -1);
    lua_rawseti(L, LUA_REGISTRYINDEX, p->handle[kind]);
    p->handed[kind] = p->call;
    return 1;
}

static void push_replication(lua_State *L, const struct way_view *v)
{
    lua_createtable(L, 0, 3);
    if (!v->has_replication)
        return;
    lua_pushboolean(L, v->link_up);
    lua_setfield(L, -2, "link_up");
    lua_pushnumber(L, v->last_io);
    lua_setfield(L, -2, "last_io");
    lua_pushnumber(L, v->behind);
    lua_setfield(L, -2, "behind");
}

/* What a candidate's choice asks most, without a view of it. */
static bool push_of_candidate(lua_State *L, struct way_asking *a, enum node_field field)
{
    const struct way_choice *c = a->choice;
    unsigned index = index_of(L), node = c->node[index];
    const struct way_node *n = way_health_node(c->health, node);
    double latency;
    switch (field) {
    case NODE_ID: way_many_text(a, L, index, WAY_MANY_ID); return true;
    case NODE_ADDRESS: way_many_text(a, L, index, WAY_MANY_ADDRESS); return true;
    case NODE_ZONE: way_many_text(a, L, index, WAY_MANY_ZONE); return true;
    case NODE_STATE: push_word(L, STATES, c->state[index]); return true;
    case NODE_ROLE:
        push_word(L, ROLES, atomic_load_explicit(&n->role, memory_order_relaxed));
        return true;
    case NODE_INFLIGHT:
        lua_pushnumber(L, (double)way_health_inflight(c->health, node));
        return true;
    case NODE_LATENCY:
        latency = way_health_latency_get(c->health, node);
        if (latency >= 0)
            lua_pushnumber(L, latency);
        else
            lua_pushnil(L);
        return true;
    default: return false;
    }
}

static int node_index(lua_State *L)
{
    struct way_asking *a = alive(L, NODE);
    enum node_field field = (enum node_field)field_of(L, a->policy, NODE, node_words);
    if (a->choice && push_of_candidate(L, a, field))
        return 1;
    if (field == NODE_MEMORY || field == NODE_SHARD)
        return push_kept(L, field == NODE_MEMORY ? MEMORY : SHARD, index_of(L));
    const struct way_view *v = view_of(L, a, false);
    switch (field) {
    case NODE_ID: push_text(L, v->id); break;
    case NODE_ADDRESS: push_text(L, v->address); break;
    case NODE_ROLE: push_word(L, ROLES, v->role); break;
    case NODE_ZONE: push_text(L, v->zone); break;
    case NODE_STATE: push_word(L, STATES, v->verdict.state); break;
    case NODE_SINCE: lua_pushnumber(L, v->verdict.since); break;
    case NODE_ENDS:
        if (v->verdict.ends > 0)
            lua_pushnumber(L, v->verdict.ends);
        else
            lua_pushnil(L);
        break;
    case NODE_REASON: push_text(L, v->verdict.reason); break;
    case NODE_WEIGHT: lua_pushnumber(L, v->verdict.weight); break;
    case NODE_INFLIGHT: lua_pushnumber(L, (double)v->inflight); break;
    case NODE_LATENCY:
        if (v->latency >= 0)
            lua_pushnumber(L, v->latency);
        else
            lua_pushnil(L);
        break;
    case NODE_FAILURES: lua_pushnumber(L, v->failures); break;
    case NODE_REPLICATION: push_replication(L, v); break;
    case NODE_COUNTERS: return way_counters_push(L, WAY_SCOPE_NODE, index_of(L));
    case NODE_MEMORY:
    case NODE_SHARD:
    case NODE_NONE: return 0;
    }
    return 1;
}

static int counts_index(lua_State *L, enum kind kind)
{
    struct way_asking *a = alive(L, kind);
    int field = field_of(L, a->policy, kind, count_words);
    if (field == COUNT_MEMORY)
        return push_kept(L, kind == SHARD ? MEMORY_SHARD : MEMORY_CLUSTER, index_of(L));
    const struct way_view *v = view_of(L, a, true);
    const struct way_counts *c = kind == SHARD ? &v->of_shard : &v->of_cluster;
    switch ((enum count_field)field) {
    case COUNT_NODES: lua_pushnumber(L, c->nodes); break;
    case COUNT_INFLIGHT: lua_pushnumber(L, (double)c->inflight); break;
    case COUNT_RETRYING: lua_pushnumber(L, (double)c->retrying); break;
    case COUNT_COUNTERS:
        return way_counters_push(L, kind == SHARD ? WAY_SCOPE_SHARD : WAY_SCOPE_CLUSTER,
                                 index_of(L));
    default: lua_pushnumber(L, c->state[field - COUNT_HEALTHY]); break;
    }
    return 1;
}

static int shard_index(lua_State *L)
{
    return counts_index(L, SHARD);
}

static int cluster_index(lua_State *L)
{
    return counts_index(L, CLUSTER);
}

/* ---- the event ---- */

static const char *decode(lua_State *L, const char *p, const char *end, unsigned depth);

static const char *decode_many(lua_State *L, const char *p, const char *end, double count,
                               bool map, unsigned depth)
{
    lua_newtable(L);
    for (int i = 1; i <= count && p; i++) {
        p = decode(L, p, end, depth + 1);
        if (p && map)
            p = decode(L, p, end, depth + 1);
        if (!p)
            break;
        if (map && (lua_isnil(L, -2) || lua_type(L, -2) == LUA_TTABLE))
            lua_pop(L, 2);
        else if (map)
            lua_rawset(L, -3);
        else
            lua_rawseti(L, -2, i);
    }
    return p;
}

/* Pushes the value at p: text, number, boolean, table or nil, which is false within an
 * array. The bytes were framed before; NULL where they are no such value after all. */
static const char *decode(lua_State *L, const char *p, const char *end, unsigned depth)
{
    const char *line = p + 1, *stop = p < end ? memchr(p, '\r', (size_t)(end - p)) : NULL;
    if (!stop || stop + 1 >= end || depth > 8)
        return NULL;
    const char *next = stop + 2;
    double n = strtod(line, NULL);
    luaL_checkstack(L, 8, "answer");
    switch (*p) {
    case ':':
    case ',': lua_pushnumber(L, n); return next;
    case '#': lua_pushboolean(L, *line == 't'); return next;
    case '$':
    case '=':
    case '!':
        if (n < 0)
            break;
        if (n > end - next)
            return NULL;
        line = *p == '=' && n >= 4 ? next + 4 : next;
        lua_pushlstring(L, line, (size_t)(next + (size_t)n - line));
        return end - next >= n + 2 ? next + (size_t)n + 2 : NULL;
    case '*':
    case '~':
    case '>':
    case '%':
        if (n >= 0)
            return decode_many(L, next, end, n, *p == '%', depth);
        break;
    case '_': break;
    default: lua_pushlstring(L, line, (size_t)(stop - line)); return next;
    }
    if (depth)
        lua_pushboolean(L, 0);
    else
        lua_pushnil(L);
    return next;
}

static void push_answer(lua_State *L, struct way_span answer)
{
    int top = lua_gettop(L);
    way_script_charge(L, 1 + answer.n / 4);
    if (!answer.n || !decode(L, answer.p, answer.p + answer.n, 0)) {
        lua_settop(L, top);
        lua_pushnil(L);
    }
}

static void push_word_if(lua_State *L, bool known, enum words group, unsigned value)
{
    if (known)
        push_word(L, group, value);
    else
        lua_pushnil(L);
}

static void push_what(lua_State *L, const struct way_event *e, enum event_field field)
{
    switch (field) {
    case EVENT_KIND: push_word(L, EVENTS, e->kind); break;
    case EVENT_PHASE: push_word(L, PHASES, e->phase); break;
    case EVENT_STEP: push_word(L, STEPS, e->step); break;
    case EVENT_ERROR: push_word_if(L, e->error, ERRORS, e->error); break;
    case EVENT_MESSAGE: push_text(L, e->message); break;
    case EVENT_REPLY: push_text(L, e->reply); break;
    case EVENT_CLASS:
        lua_pushstring(L, way_policy_class_name(policy_of(L), e->class));
        break;
    case EVENT_BLAME: push_word(L, BLAMES, e->blame); break;
    case EVENT_REUSED: lua_pushboolean(L, e->reused); break;
    case EVENT_TRIAL: lua_pushboolean(L, e->trial); break;
    case EVENT_COMMANDS:
        push_word_if(L, e->kind == WAY_KIND_COMMANDS, COMMANDS, e->commands);
        break;
    case EVENT_CERTAINTY:
        push_word_if(L, e->has_certainty, CERTAINTIES, e->certainty);
        break;
    case EVENT_CHANGE:
        push_word_if(L, e->kind == WAY_KIND_CHANGE, CHANGES, e->change);
        break;
    case EVENT_COUNTER: push_text(L, e->counter); break;
    case EVENT_ANSWER: push_answer(L, e->answer); break;
    default: lua_pushnil(L); break;
    }
}

static int event_index(lua_State *L)
{
    const struct way_asking *a = alive(L, EVENT);
    const struct way_event *e = a->event;
    enum event_field field = (enum event_field)field_of(L, a->policy, EVENT, event_words);
    double n;
    switch (field) {
    case EVENT_ERRNO: n = e->errnum; break;
    case EVENT_N: n = e->n; break;
    case EVENT_CONN_AGE: n = e->connection_age; break;
    case EVENT_WRITTEN: n = (double)e->bytes_written; break;
    case EVENT_REPLIES: n = e->replies_read; break;
    case EVENT_BEGAN: n = e->began; break;
    case EVENT_NOW: n = e->now; break;
    case EVENT_UNIX: n = e->unix_time; break;
    case EVENT_LATENCY: n = e->latency; break;
    case EVENT_ATTEMPT: n = e->attempt; break;
    case EVENT_AGE: n = e->age; break;
    case EVENT_WAITED: n = e->waited; break;
    case EVENT_LATE: n = e->late; break;
    case EVENT_LEFT:
        if (e->deadline_left < 0)
            return lua_pushnil(L), 1;
        n = e->deadline_left;
        break;
    default: push_what(L, e, field); return 1;
    }
    lua_pushnumber(L, n);
    return 1;
}

/* ---- the request ---- */

static int request_index(lua_State *L)
{
    const struct way_asking *a = alive(L, REQUEST);
    const struct way_choice *c = a->choice;
    switch ((enum request_field)field_of(L, a->policy, REQUEST, request_words)) {
    case REQUEST_SLOT: lua_pushinteger(L, c->slot); break;
    case REQUEST_COMMAND: way_many_command(c, L); break;
    case REQUEST_WRITE: lua_pushboolean(L, c->write); break;
    case REQUEST_ATTEMPT: lua_pushinteger(L, (lua_Integer)c->attempt); break;
    case REQUEST_TRIED:
        if (c->tried)
            lua_pushinteger(L, (lua_Integer)c->tried);
        else
            lua_pushnil(L);
        break;
    case REQUEST_NONE: return 0;
    }
    return 1;
}

/* ---- memory ---- */

static double *slot_of(lua_State *L, enum kind kind)
{
    struct way_asking *a = alive(L, kind);
    struct way_policy *p = a->policy;
    enum way_scope scope = kind == MEMORY         ? WAY_SCOPE_NODE
                           : kind == MEMORY_SHARD ? WAY_SCOPE_SHARD
                                                  : WAY_SCOPE_CLUSTER;
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->names[p->space][scope]);
    lua_pushvalue(L, 2);
    lua_rawget(L, -2);
    int slot = (int)lua_tointeger(L, -1);
    lua_pop(L, 2);
    if (!slot)
        luaL_error(L, "%s '%s' is not declared in the policy's memory", kind_names[kind],
                   lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2)
                                                 : luaL_typename(L, 2));
    struct way_memory *m = a->view ? &a->memory : way_many_memory(a, index_of(L));
    double *first = scope == WAY_SCOPE_NODE    ? m->node
                    : scope == WAY_SCOPE_SHARD ? m->shard
                                               : m->cluster;
    return &first[slot - 1];
}

static int memory_get(lua_State *L, enum kind kind)
{
    lua_pushnumber(L, *slot_of(L, kind));
    return 1;
}

static int memory_set(lua_State *L, enum kind kind)
{
    double *slot = slot_of(L, kind);
    const struct way_asking *a = policy_of(L)->asking;
    if (a->choice || (a->sweep && kind != MEMORY))
        luaL_error(L, "%s is read-only in %s: can't set '%s'", kind_names[kind],
                   way_question_name(a->question), lua_tostring(L, 2));
    if (lua_type(L, 3) != LUA_TNUMBER || !isfinite(lua_tonumber(L, 3)))
        luaL_error(L, "%s '%s': expected a finite number, got %s", kind_names[kind],
                   lua_tostring(L, 2),
                   lua_type(L, 3) == LUA_TNUMBER ? lua_tostring(L, 3)
                                                 : luaL_typename(L, 3));
    *slot = lua_tonumber(L, 3);
    return 0;
}

#define MEMORY_FUNCTIONS(name, kind)                                                     \
    static int name##_index(lua_State *L)                                                \
    {                                                                                    \
        return memory_get(L, kind);                                                      \
    }                                                                                    \
    static int name##_newindex(lua_State *L)                                             \
    {                                                                                    \
        return memory_set(L, kind);                                                      \
    }
MEMORY_FUNCTIONS(memory, MEMORY)
MEMORY_FUNCTIONS(memory_shard, MEMORY_SHARD)
MEMORY_FUNCTIONS(memory_cluster, MEMORY_CLUSTER)

/* ---- self ---- */

/* Upvalue: { options =, name =, version = }. */
static int self_index(lua_State *L)
{
    static const char *const known[] = { "options", "cluster", "name", "version", NULL };
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    if (!lua_isnil(L, -1))
        return 1;
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?";
    if (strcmp(key, "cluster") != 0)
        way_view_unknown(L, "self", key, known);
    if (!policy_of(L)->asking)
        luaL_error(L, "self.cluster: only while a question is asked");
    return push_kept(L, CLUSTER, 0);
}

static int refuse_write(lua_State *L)
{
    return luaL_error(L, "%s is read-only: can't set '%s'",
                      lua_tostring(L, lua_upvalueindex(1)),
                      lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?");
}

static void push_refusal(lua_State *L, const char *what)
{
    lua_pushstring(L, what);
    lua_pushcclosure(L, refuse_write, 1);
}

void way_view_self(lua_State *L, const char *name, const char *version)
{
    way_script_read_only(L, "self.options", true);
    lua_createtable(L, 0, 3);
    lua_insert(L, -2);
    lua_setfield(L, -2, "options");
    lua_pushstring(L, name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, version);
    lua_setfield(L, -2, "version");
    lua_pushcclosure(L, self_index, 1);
    lua_createtable(L, 0, 3);
    lua_insert(L, -2);
    lua_setfield(L, -2, "__index");
    push_refusal(L, "self");
    lua_setfield(L, -2, "__newindex");
    lua_newtable(L);
    lua_insert(L, -2);
    lua_setmetatable(L, -2);
}

/* ---- opening and pushing ---- */

void way_view_open(struct way_policy *p, lua_State *L)
{
    static const struct {
        lua_CFunction index, newindex;
        const char *const *words;
    } kinds[KINDS] = {
        [SHARD] = { shard_index, NULL, count_words },
        [CLUSTER] = { cluster_index, NULL, count_words },
        [MEMORY] = { memory_index, memory_newindex, NULL },
        [MEMORY_SHARD] = { memory_shard_index, memory_shard_newindex, NULL },
        [MEMORY_CLUSTER] = { memory_cluster_index, memory_cluster_newindex, NULL },
        [NODE] = { node_index, NULL, node_words },
        [EVENT] = { event_index, NULL, event_words },
        [REQUEST] = { request_index, NULL, request_words },
    };
    push_words(L);
    for (int kind = 0; kind < KINDS; kind++) {
        way_keys_keep(&p->keys[kind], L, kinds[kind].words);
        lua_createtable(L, 0, 3);
        lua_pushvalue(L, -2);
        lua_pushcclosure(L, kinds[kind].index, 1);
        lua_setfield(L, -2, "__index");
        if (kinds[kind].newindex)
            lua_pushcfunction(L, kinds[kind].newindex);
        else
            push_refusal(L, kind_names[kind]);
        lua_setfield(L, -2, "__newindex");
        p->metatable[kind] = luaL_ref(L, LUA_REGISTRYINDEX);
        if (kind < WAY_HANDLES_KEPT) {
            lua_pushboolean(L, 0);
            p->handle[kind] = luaL_ref(L, LUA_REGISTRYINDEX);
        }
    }
    lua_pop(L, 1);
    lua_newtable(L);
    p->lasting = luaL_ref(L, LUA_REGISTRYINDEX);
}

void way_view_member(lua_State *L, unsigned index)
{
    push_kept(L, NODE, index);
}

int way_view_index(const struct way_policy *p, lua_State *L)
{
    const struct handle *h = lua_touserdata(L, -1);
    if (!h || !lua_getmetatable(L, -1))
        return -1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->metatable[NODE]);
    bool is_node = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is_node && h->call == p->call ? (int)h->index : -1;
}

void way_view_guard_list(lua_State *L, const char *what)
{
    lua_createtable(L, 0, 1);
    push_refusal(L, what);
    lua_setfield(L, -2, "__newindex");
    lua_setmetatable(L, -2);
}

void way_view_revive(const struct way_policy *p, void *handle)
{
    ((struct handle *)handle)->call = p->call;
}

int way_view_push(struct way_policy *p, lua_State *L, enum way_question question)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->self[p->space]);
    if (question == WAY_ASK_ROUTE) {
        push_lasting(p, L, REQUEST, 0);
        way_many_push(p, L);
        return 3;
    }
    if (question == WAY_ASK_TICK)
        way_many_push(p, L);
    else if (question != WAY_ASK_CLASSIFY)
        push_handle(p, L, NODE, 0);
    push_handle(p, L, EVENT, 0);
    return question != WAY_ASK_CLASSIFY ? 3 : 2;
}

/* ---- functions of the wayside module ---- */

int way_view_random(lua_State *L)
{
    struct way_policy *p = policy_of(L);
    if (!p->asking)
        luaL_error(L, "wayside.random: only while a question is asked");
    if (p->scripts) {
        p->scripts--;
        lua_pushnumber(L, *p->scripted++);
    } else {
        lua_pushnumber(L, way_random_unit(&p->asking->random));
    }
    return 1;
}

/* A plain decimal number, as INFO writes them; ids of digits and letters stay text. */
static bool is_number(const char *p, size_t n)
{
    size_t digits = 0, dots = 0, i = n && *p == '-';
    for (; i < n; i++) {
        digits += isdigit((unsigned char)p[i]) != 0;
        dots += p[i] == '.';
    }
    return digits && digits <= 15 && dots <= 1 && digits + dots + (*p == '-') == n;
}

static void push_value(lua_State *L, const char *p, size_t n)
{
    lua_pushlstring(L, p, n);
    if (is_number(p, n)) {
        lua_pushnumber(L, lua_tonumber(L, -1));
        lua_remove(L, -2);
    }
}

int way_view_info(lua_State *L)
{
    size_t n;
    const char *p = lua_tolstring(L, 1, &n);
    if (lua_type(L, 1) != LUA_TSTRING)
        return lua_pushnil(L), 1;
    way_script_charge(L, 1 + n / 4);
    lua_newtable(L);
    for (const char *end = p + n; p < end;) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        const char *next = stop ? stop + 1 : end;
        const char *last = stop ? stop : end;
        if (last > p && last[-1] == '\r')
            last--;
        const char *colon = memchr(p, ':', (size_t)(last - p));
        if (colon && *p != '#') {
            lua_pushlstring(L, p, (size_t)(colon - p));
            push_value(L, colon + 1, (size_t)(last - colon - 1));
            lua_rawset(L, -3);
        }
        p = next;
    }
    return 1;
}
