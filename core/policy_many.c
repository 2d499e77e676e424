/* policy_many - see policy_many.h.
 *
 * Rejected: a fresh list and fresh handles per route, as the other questions have them.
 * They cost as much again as the call, and the collector comes on top. The price is that a
 * handle kept from an earlier route tells of another node in a later one; the manual says
 * that nothing may be kept. The list itself a script can spoil only for its own call: it
 * is put right before the next. */
#include "policy_many.h"

#include "policy_answer.h"
#include "policy_view.h"

#include <ctype.h>
#include <lauxlib.h>
#include <lua.h>
#include <stdlib.h>

enum { CANDIDATES_MAX = WAY_SHARD_REPLICAS + 1 };

/* How far a candidate's view is filled, in this call. */
enum depth { NOTHING, GLANCED, COUNTED };

struct way_candidates {
    uint64_t call; /* that `depth` is of */
    uint8_t depth[CANDIDATES_MAX];
    struct way_snapshot seen[CANDIDATES_MAX];
    int list;                      /* registry reference: what the script gets as nodes */
    void *handle[CANDIDATES_MAX];  /* its entries */
    int texts;                     /* registry reference: list of kept strings */
    uint32_t known[WAY_NODES_MAX]; /* generation that a node's texts are of, and 1 */
};

void way_many_open(struct way_policy *p, lua_State *L)
{
    if (!p->question[WAY_ASK_ROUTE].fn)
        return;
    struct way_candidates *c = p->candidates = way_zalloc(sizeof *c);
    lua_newtable(L);
    way_view_guard_list(L, "nodes");
    c->list = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    c->texts = luaL_ref(L, LUA_REGISTRYINDEX);
}

void way_many_fini(struct way_policy *p)
{
    way_free(p->candidates);
}

/* ---- what the script gets ---- */

/* Entries beyond the last, of an earlier call or of the script's. */
static void cut_list(lua_State *L, unsigned count)
{
    for (;; count++) {
        lua_rawgeti(L, -1, (int)count + 1);
        bool over = lua_isnil(L, -1);
        lua_pop(L, 1);
        if (over)
            return;
        lua_pushnil(L);
        lua_rawseti(L, -2, (int)count + 1);
    }
}

static void push_candidates(struct way_policy *p, lua_State *L)
{
    struct way_candidates *c = p->candidates;
    unsigned count = p->asking->choice->count;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->list);
    for (unsigned i = 0; i < count; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        void *there = lua_touserdata(L, -1);
        lua_pop(L, 1);
        if (there && there == c->handle[i]) {
            way_view_revive(p, there);
            continue;
        }
        way_view_member(L, i);
        c->handle[i] = lua_touserdata(L, -1);
        lua_rawseti(L, -2, (int)i + 1);
    }
    cut_list(L, count);
}

static void push_sweep(struct way_policy *p, lua_State *L)
{
    unsigned count = p->asking->sweep->count;
    lua_createtable(L, (int)count, 0);
    for (unsigned i = 0; i < count; i++) {
        way_view_member(L, i);
        lua_rawseti(L, -2, (int)i + 1);
    }
}

void way_many_push(struct way_policy *p, lua_State *L)
{
    if (p->asking->choice)
        push_candidates(p, L);
    else
        push_sweep(p, L);
}

/* ---- what it reads of them ---- */

static const struct way_view *view_of_candidate(struct way_asking *a, unsigned index,
                                                enum depth depth)
{
    struct way_candidates *c = a->policy->candidates;
    const struct way_choice *choice = a->choice;
    if (c->call != a->policy->call) {
        c->call = a->policy->call;
        memset(c->depth, NOTHING, sizeof c->depth);
    }
    if (c->depth[index] >= depth)
        return &c->seen[index].view;
    c->depth[index] = (uint8_t)depth;
    if (depth == COUNTED)
        way_health_snapshot_of(choice->health, choice->node[index], choice->now,
                               choice->policy_epoch, &c->seen[index]);
    else
        way_health_glance(choice->health, choice->node[index], choice->now,
                          choice->policy_epoch, &c->seen[index]);
    if (a->policy->plan.counters.all)
        way_health_counted(choice->health, &a->policy->plan.counters, &c->seen[index]);
    if (choice->suppose)
        choice->suppose(choice->arg, &c->seen[index]);
    return &c->seen[index].view;
}

const struct way_view *way_many_view(struct way_asking *a, unsigned index, bool counts)
{
    if (a->sweep)
        return &a->sweep->seen[index].view;
    return view_of_candidate(a, index, counts ? COUNTED : GLANCED);
}

struct way_memory *way_many_memory(struct way_asking *a, unsigned index)
{
    if (a->sweep)
        return &a->sweep->proposal[index].memory;
    (void)view_of_candidate(a, index, GLANCED);
    return &a->policy->candidates->seen[index].view.memory;
}

static void keep_texts(lua_State *L, const struct way_view *v)
{
    const char *const texts[WAY_MANY_TEXTS] = {
        [WAY_MANY_ID] = v->id,
        [WAY_MANY_ADDRESS] = v->address,
        [WAY_MANY_ZONE] = v->zone,
    };
    for (int i = 0; i < WAY_MANY_TEXTS; i++) {
        if (texts[i][0])
            lua_pushstring(L, texts[i]);
        else
            lua_pushboolean(L, false);
        lua_rawseti(L, -2, v->node * WAY_MANY_TEXTS + i + 1);
    }
}

void way_many_text(struct way_asking *a, lua_State *L, unsigned index,
                   enum way_many_text which)
{
    struct way_candidates *c = a->policy->candidates;
    unsigned node = a->choice->node[index];
    const struct way_node *n = way_health_node(a->choice->health, node);
    uint32_t now = atomic_load_explicit(&n->generation, memory_order_relaxed) + 1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->texts);
    if (c->known[node] != now) {
        keep_texts(L, view_of_candidate(a, index, GLANCED));
        c->known[node] = now;
    }
    lua_rawgeti(L, -1, (int)(node * WAY_MANY_TEXTS + which + 1));
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        lua_pushnil(L);
    }
    lua_remove(L, -2);
}

void way_many_command(const struct way_choice *c, lua_State *L)
{
    char name[64];
    const char *p = c->bytes.p, *end = p + c->bytes.n;
    const char *at = c->bytes.n ? memchr(p, '$', c->bytes.n) : NULL;
    const char *line = at ? memchr(at, '\n', (size_t)(end - at)) : NULL;
    size_t n = line ? (size_t)strtoul(at + 1, NULL, 10) : 0;
    if (!n || n > sizeof name || n > (size_t)(end - line - 1)) {
        lua_pushnil(L);
        return;
    }
    for (size_t i = 0; i < n; i++)
        name[i] = (char)tolower((unsigned char)line[1 + i]);
    lua_pushlstring(L, name, n);
}

/* ---- asking ---- */

enum way_asked way_policy_route(struct way_policy *p, const struct way_choice *c,
                                uint64_t seed, unsigned *out)
{
    struct way_asking a;
    *out = 0;
    a.question = WAY_ASK_ROUTE;
    a.view = NULL;
    a.event = NULL;
    a.choice = c;
    a.sweep = NULL;
    a.out.index = out;
    enum way_asked how = way_policy_ask(p, &a, seed, NULL, 1);
    if (how == WAY_ASKED_FAILED)
        *out = 0;
    return how;
}

enum way_asked way_policy_tick(struct way_policy *p, const struct way_sweep *s,
                               const struct way_event *e, uint64_t seed)
{
    struct way_asking a;
    a.question = WAY_ASK_TICK;
    a.view = NULL;
    a.event = e;
    a.choice = NULL;
    a.sweep = s;
    a.out.mark = NULL;
    unsigned times = (s->count + WAY_SWEEP_NODES - 1) / WAY_SWEEP_NODES;
    return way_policy_ask(p, &a, seed, NULL, times);
}
