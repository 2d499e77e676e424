/* policy_host - the real loader, sandbox, policies and node table, for specs in Lua and for a
 * policy's own selftest.
 *
 * For specs it is a module of plain LuaJIT, require "policy_host": open(path, options) loads
 * the policy into two states and opens a private table; what it gives has the methods at the
 * end of this file. Every question is asked of both states, of the same view and with the
 * same random numbers; answers that differ raise. Time and events are made up by the caller:
 * core/runtime/test.lua. The caller's Lua and the policies' are one library, many states. A
 * selftest may give anything to what is here: arguments are checked, numbers bounded. */
#include "policy_host.h"

#include "health.h"
#include "policy.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>
#include <stdlib.h>

static const char type_name[] = "wayside.policy_host";

enum { RANDOM_MAX = 256 };

struct host {
    struct way_policy_text text;
    struct way_policy *policy[2];
    struct way_health *health;
    struct way_limits limits;
    int row;
    double random[RANDOM_MAX]; /* scripted: to be drawn next */
    unsigned randoms;
    struct way_snapshot *seen; /* of the last sweep, as is what follows */
    struct way_proposal *proposal[2];
    unsigned zones;
};

/* ---- events and answers as tables ---- */

enum shape { NUMBER, COUNT, BYTES, FLAG, TEXT, WORD };
struct field {
    const char *name;
    enum shape shape;
    size_t offset, size;
    const char *(*word)(unsigned);
    unsigned words;
};
#define AT(member)                                                                       \
    offsetof(struct way_event, member), sizeof(((struct way_event *)0)->member)
static const struct field fields[] = {
    { "kind", WORD, AT(kind), way_kind_name, WAY_KIND_COUNT },
    { "phase", WORD, AT(phase), way_phase_name, WAY_PHASE_COUNT },
    { "step", WORD, AT(step), way_step_name, WAY_STEP_COUNT },
    { "error", WORD, AT(error), way_error_name, WAY_ERROR_COUNT },
    { "commands", WORD, AT(commands), way_commands_name, WAY_COMMANDS_COUNT },
    { "certainty", WORD, AT(certainty), way_certainty_name, WAY_CERTAINTY_COUNT },
    { "change", WORD, AT(change), way_change_name, WAY_CHANGE_COUNT },
    { "errno", COUNT, AT(errnum), NULL, 0 },
    { "n", COUNT, AT(n), NULL, 0 },
    { "replies_read", COUNT, AT(replies_read), NULL, 0 },
    { "attempt", COUNT, AT(attempt), NULL, 0 },
    { "bytes_written", BYTES, AT(bytes_written), NULL, 0 },
    { "message", TEXT, AT(message), NULL, 0 },
    { "reply", TEXT, AT(reply), NULL, 0 },
    { "counter", TEXT, AT(counter), NULL, 0 },
    { "reused", FLAG, AT(reused), NULL, 0 },
    { "trial", FLAG, AT(trial), NULL, 0 },
    { "connection_age", NUMBER, AT(connection_age), NULL, 0 },
    { "began", NUMBER, AT(began), NULL, 0 },
    { "now", NUMBER, AT(now), NULL, 0 },
    { "unix", NUMBER, AT(unix_time), NULL, 0 },
    { "latency", NUMBER, AT(latency), NULL, 0 },
    { "age", NUMBER, AT(age), NULL, 0 },
    { "waited", NUMBER, AT(waited), NULL, 0 },
    { "deadline_left", NUMBER, AT(deadline_left), NULL, 0 },
    { "late", NUMBER, AT(late), NULL, 0 },
};

static void read_word(lua_State *L, const struct field *f, void *at)
{
    int v = way_word(f->word, f->words, luaL_checkstring(L, -1));
    if (v < 0)
        luaL_error(L, "%s: no such word: %s", f->name, lua_tostring(L, -1));
    *(unsigned *)at = (unsigned)v; /* all of these are enums */
}

/* Not every number of Lua's has a whole one; out of bounds, the bound. */
static uint64_t whole(lua_State *L, int index, double most)
{
    double n = luaL_checknumber(L, index);
    return n > 0 ? (uint64_t)(n < most ? n : most) : 0;
}

static void read_field(lua_State *L, const struct field *f, struct way_event *e)
{
    void *at = (char *)e + f->offset;
    switch (f->shape) {
    case NUMBER: *(double *)at = luaL_checknumber(L, -1); break;
    case COUNT: *(uint32_t *)at = (uint32_t)whole(L, -1, UINT32_MAX); break;
    case BYTES: *(uint64_t *)at = whole(L, -1, 1e18); break;
    case FLAG: *(bool *)at = lua_toboolean(L, -1); break;
    case TEXT: snprintf(at, f->size, "%s", luaL_checkstring(L, -1)); break;
    case WORD: read_word(L, f, at); break;
    }
}

/* The table at index; its strings must stay there while the event is used. */
static struct way_event read_event(lua_State *L, int index)
{
    struct way_event e = { .deadline_left = -1, .attempt = 1 };
    luaL_checktype(L, index, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        const char *key = luaL_checkstring(L, -2);
        unsigned i = 0;
        while (i < way_count(fields) && strcmp(fields[i].name, key) != 0)
            i++;
        if (i < way_count(fields))
            read_field(L, &fields[i], &e);
        else if (!strcmp(key, "answer"))
            e.answer.p = luaL_checklstring(L, -1, &e.answer.n);
        else
            luaL_error(L, "an event has no '%s'", key);
        e.has_certainty |= !strcmp(key, "certainty");
    }
    return e;
}

static void put_word(lua_State *L, const char *key, const char *word)
{
    lua_pushstring(L, word);
    lua_setfield(L, -2, key);
}

static void put_number(lua_State *L, const char *key, double n)
{
    lua_pushnumber(L, n);
    lua_setfield(L, -2, key);
}

static void put_flag(lua_State *L, const char *key, bool flag)
{
    lua_pushboolean(L, flag);
    lua_setfield(L, -2, key);
}

static void push_mark(lua_State *L, const struct way_mark *m)
{
    lua_newtable(L);
    if (m->has & WAY_MARK_STATE)
        put_word(L, "state", way_state_name(m->state));
    if (m->has & WAY_MARK_SECONDS)
        put_number(L, "seconds", m->seconds);
    if (m->has & WAY_MARK_TRIALS)
        put_number(L, "trials", m->trials);
    if (m->has & WAY_MARK_WEIGHT)
        put_number(L, "weight", m->weight);
    if (m->has & WAY_MARK_RAMP)
        put_number(L, "ramp", m->ramp);
    if (m->has & WAY_MARK_SHED)
        put_number(L, "shed", m->shed);
    if (m->has & WAY_MARK_CONNECTIONS)
        put_word(L, "connections", way_connections_name(m->connections));
    if (m->has & WAY_MARK_REFRESH)
        put_flag(L, "refresh", m->refresh);
    if (m->has & WAY_MARK_REASON)
        put_word(L, "reason", m->reason);
}

static void push_retry(lua_State *L, const struct way_retry *r)
{
    if (r->kind == WAY_RETRY_NONE) {
        lua_pushnil(L);
        return;
    }
    lua_newtable(L);
    put_word(L, "retry", way_retry_name(r->kind));
    put_number(L, "after", r->after);
    if (r->within >= 0)
        put_number(L, "within", r->within);
    put_flag(L, "stale_reads", r->stale_reads);
    put_flag(L, "unknown_writes", r->unknown_writes);
}

static void push_command(lua_State *L, const struct way_probe *p)
{
    const char *word = p->command;
    lua_newtable(L);
    for (unsigned i = 0; i < p->words; i++, word += strlen(word) + 1) {
        lua_pushstring(L, word);
        lua_rawseti(L, -2, (int)i + 1);
    }
}

static void push_probe(lua_State *L, const struct way_probe *p)
{
    if (!p->given) {
        lua_pushnil(L);
        return;
    }
    lua_newtable(L);
    put_number(L, "after", p->after);
    if (p->timeout > 0)
        put_number(L, "timeout", p->timeout);
    put_word(L, "connection", p->pooled ? "pooled" : "new");
    if (p->words)
        push_command(L, p);
    else
        lua_pushliteral(L, "data");
    lua_setfield(L, -2, "command");
}

static void push_redial(lua_State *L, const struct way_redial *r)
{
    if (!r->given) {
        lua_pushnil(L);
        return;
    }
    lua_newtable(L);
    put_number(L, "after", r->after);
    if (r->timeout > 0)
        put_number(L, "timeout", r->timeout);
}

/* ---- questions, asked twice ---- */

union answer {
    struct way_mark mark;
    struct way_retry retry;
    struct way_probe probe;
    struct way_redial redial;
};

static enum way_asked ask(struct way_policy *p, char what, const struct way_view *view,
                          const struct way_event *e, uint64_t seed, struct way_memory *m,
                          union answer *out)
{
    switch (what) {
    case 'm': return way_policy_mark(p, view, e, seed, m, &out->mark);
    case 'b': return way_policy_backoff(p, view, e, seed, m, &out->retry);
    case 'p': return way_policy_probe(p, view, e, seed, m, &out->probe);
    default: return way_policy_reconnect(p, view, e, seed, m, &out->redial);
    }
}

static void push_answer(lua_State *L, char what, const union answer *a)
{
    if (what == 'm' && a->mark.given)
        push_mark(L, &a->mark);
    else if (what == 'm')
        lua_pushnil(L);
    else if (what == 'b')
        push_retry(L, &a->retry);
    else if (what == 'p')
        push_probe(L, &a->probe);
    else
        push_redial(L, &a->redial);
}

static bool same_retry(const struct way_retry *a, const struct way_retry *b)
{
    return a->kind == b->kind && a->after == b->after && a->within == b->within &&
           a->stale_reads == b->stale_reads && a->unknown_writes == b->unknown_writes;
}

static bool same_mark(const struct way_mark *a, const struct way_mark *b)
{
    return a->given == b->given && a->has == b->has && a->state == b->state &&
           a->seconds == b->seconds && a->trials == b->trials && a->weight == b->weight &&
           a->ramp == b->ramp && a->shed == b->shed && a->connections == b->connections &&
           a->refresh == b->refresh && !strcmp(a->reason, b->reason);
}

static bool same_probe(const struct way_probe *a, const struct way_probe *b)
{
    return a->given == b->given && a->after == b->after && a->timeout == b->timeout &&
           a->pooled == b->pooled && a->words == b->words &&
           !memcmp(a->command, b->command, sizeof a->command);
}

static bool same_redial(const struct way_redial *a, const struct way_redial *b)
{
    return a->given == b->given && a->after == b->after && a->timeout == b->timeout;
}

static bool same_numbers(const double *a, const double *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

static bool same_memory(const struct way_memory *a, const struct way_memory *b)
{
    return same_numbers(a->node, b->node, WAY_NODE_MEMORY) &&
           same_numbers(a->shard, b->shard, WAY_SHARD_MEMORY) &&
           same_numbers(a->cluster, b->cluster, WAY_CLUSTER_MEMORY);
}

static bool same(char what, const union answer *a, const union answer *b,
                 const struct way_memory *m, const struct way_memory *n)
{
    if (!same_memory(m, n))
        return false;
    switch (what) {
    case 'm': return same_mark(&a->mark, &b->mark);
    case 'b': return same_retry(&a->retry, &b->retry);
    case 'p': return same_probe(&a->probe, &b->probe);
    default: return same_redial(&a->redial, &b->redial);
    }
}

static bool same_touches(const struct way_touches *a, const struct way_touches *b)
{
    if (a->count != b->count)
        return false;
    for (unsigned i = 0; i < a->count; i++) {
        const struct way_touch *x = &a->touch[i], *y = &b->touch[i];
        if (x->scope != y->scope || x->index != y->index || x->add != y->add ||
            x->value != y->value)
            return false;
    }
    return true;
}

static void ask_both(lua_State *L, struct host *h, char what, const struct way_view *view,
                     const struct way_event *e, uint64_t seed, struct way_memory *m,
                     union answer *out)
{
    union answer again;
    struct way_memory other = *m;
    memset(out, 0, sizeof *out);
    memset(&again, 0, sizeof again);
    way_policy_script_random(h->policy[0], h->random, h->randoms);
    way_policy_script_random(h->policy[1], h->random, h->randoms);
    enum way_asked how = ask(h->policy[0], what, view, e, seed, m, out);
    ask(h->policy[1], what, view, e, seed, &other, &again);
    unsigned left = way_policy_script_random(h->policy[0], NULL, 0);
    way_policy_script_random(h->policy[1], NULL, 0);
    memmove(h->random, h->random + (h->randoms - left), left * sizeof *h->random);
    h->randoms = left;
    bool touch_alike =
        same_touches(way_policy_touches(h->policy[0]), way_policy_touches(h->policy[1]));
    if (how == WAY_ASKED_FAILED)
        luaL_error(L, "%s", way_policy_failure(h->policy[0])->text);
    if (how == WAY_ASKED_ANSWERED &&
        (!touch_alike || !same(what, out, &again, m, &other)))
        luaL_error(L,
                   "%s: two states answer differently: it depends on more than it is "
                   "given",
                   way_policy_where(h->policy[0]));
}

static const struct way_counters_layout *counters_of(const struct host *h)
{
    return &way_policy_plan(h->policy[0])->counters;
}

static void look(struct host *h, unsigned node, double now, struct way_snapshot *seen)
{
    way_health_snapshot(h->health, node, now, seen);
    way_health_counted(h->health, counters_of(h), seen);
}

static uint64_t count(struct host *h, unsigned node, const struct way_report *r)
{
    uint64_t epoch = atomic_load(way_health_policy_epoch(h->health));
    return way_health_count(h->health, node, counters_of(h), epoch, r);
}

/* Asks and commits, as the daemon does; alone on the table, so no commit conflicts. */
static void ask_and_commit(lua_State *L, struct host *h, char what, unsigned node,
                           const struct way_event *e, uint64_t seed, union answer *out,
                           struct way_outcome *outcome)
{
    struct way_snapshot seen;
    look(h, node, e->now, &seen);
    struct way_proposal p = { .memory = seen.view.memory,
                              .hard = way_event_hard(e),
                              .counters = counters_of(h) };
    ask_both(L, h, what, &seen.view, e, seed, &p.memory, out);
    if (what == 'm')
        p.mark = out->mark;
    p.touches = *way_policy_touches(h->policy[0]);
    outcome->from = outcome->to = (enum way_state)seen.view.verdict.state;
    outcome->refused = WAY_REFUSED_NOT;
    if (way_health_commit(h->health, &seen, &p, false, outcome) != WAY_COMMIT_DONE)
        luaL_error(L, "the table could not be written");
}

/* ---- methods ---- */

static struct host *host_of(lua_State *L)
{
    return luaL_checkudata(L, 1, type_name);
}

static unsigned node_of(lua_State *L, struct host *h)
{
    unsigned node = (unsigned)whole(L, 2, UINT32_MAX);
    if (node >= way_health_nodes(h->health))
        luaL_error(L, "no such node");
    return node;
}

/* Pushes the names of the counters whose edges came true. */
static void push_edges(lua_State *L, const struct host *h, uint64_t edges)
{
    const struct way_counters_layout *l = counters_of(h);
    lua_newtable(L);
    for (int i = 1; edges; i++, edges &= edges - 1) {
        unsigned bit = (unsigned)__builtin_ctzll(edges);
        lua_pushstring(L,
                       l->counter[bit / WAY_COUNTERS_MAX][bit % WAY_COUNTERS_MAX].name);
        lua_rawseti(L, -2, i);
    }
}

/* Counts a failure as the daemon does: of a reply, who read it tells that it was one. */
static uint64_t count_failure(struct host *h, unsigned node, const struct way_event *e)
{
    struct way_report r = { .requests = e->kind == WAY_KIND_RESULT ? e->n : 0 };
    way_report_failure(&r, e);
    return count(h, node, &r);
}

/* host:report(node, now, good, latency, requests, retries): the names of edges. */
static int h_report(lua_State *L)
{
    struct host *h = host_of(L);
    unsigned node = node_of(L, h);
    struct way_report r = { .now = luaL_checknumber(L, 3),
                            .good = (uint32_t)whole(L, 4, UINT32_MAX),
                            .latency = luaL_checknumber(L, 5),
                            .requests = (uint32_t)whole(L, 6, UINT32_MAX),
                            .retries = (uint32_t)whole(L, 7, UINT32_MAX) };
    push_edges(L, h, count(h, node, &r));
    return 1;
}

/* host:decide(node, event, seed): classification, mark, commit. What happened, as a table. */
static int h_decide(lua_State *L)
{
    struct host *h = host_of(L);
    unsigned node = node_of(L, h);
    struct way_event e = read_event(L, 3);
    uint64_t seed = whole(L, 4, 1e18);
    struct way_outcome outcome = { .from = WAY_STATE_HEALTHY };
    struct way_verdict verdict;
    union answer answer;
    memset(&answer, 0, sizeof answer);
    if (way_policy_classify(h->policy[0], &e) == WAY_ASKED_FAILED)
        luaL_error(L, "%s", way_policy_failure(h->policy[0])->text);
    way_health_verdict(h->health, node, &verdict);
    bool traffic = e.kind == WAY_KIND_CONNECTION || e.kind == WAY_KIND_RESULT;
    bool straggler = (traffic || e.kind == WAY_KIND_PROBE) && e.began < verdict.since;
    if (e.error && e.blame == WAY_BLAME_NODE && !straggler && traffic)
        way_health_failure(h->health, node);
    uint64_t edges = e.error && !straggler && traffic ? count_failure(h, node, &e) : 0;
    bool asked =
        !straggler && (!traffic || !e.error || e.blame == WAY_BLAME_NODE || e.trial);
    if (asked)
        ask_and_commit(L, h, 'm', node, &e, seed, &answer, &outcome);
    lua_newtable(L);
    put_word(L, "class", way_policy_class_name(h->policy[0], e.class));
    put_word(L, "blame", way_blame_name(e.blame));
    put_flag(L, "permanent", e.permanent);
    put_flag(L, "straggler", straggler);
    put_flag(L, "asked", asked);
    if (asked)
        put_flag(L, "refused", outcome.refused != WAY_REFUSED_NOT);
    push_answer(L, 'm', &answer);
    lua_setfield(L, -2, "mark");
    push_edges(L, h, edges);
    lua_setfield(L, -2, "edges");
    return 1;
}

static int question(lua_State *L, char what)
{
    struct host *h = host_of(L);
    unsigned node = node_of(L, h);
    struct way_event e = read_event(L, 3);
    uint64_t seed = whole(L, 4, 1e18);
    struct way_outcome outcome;
    union answer answer;
    way_policy_classify(h->policy[0], &e);
    if (what == 'b' && e.permanent)
        return lua_pushnil(L), 1;
    ask_and_commit(L, h, what, node, &e, seed, &answer, &outcome);
    push_answer(L, what, &answer);
    return 1;
}

static int h_backoff(lua_State *L)
{
    return question(L, 'b');
}

static int h_probe(lua_State *L)
{
    return question(L, 'p');
}

static int h_reconnect(lua_State *L)
{
    return question(L, 'r');
}

static bool same_sweep(const struct way_proposal *a, const struct way_proposal *b,
                       unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!same_mark(&a[i].mark, &b[i].mark) ||
            !same_memory(&a[i].memory, &b[i].memory) ||
            a[i].touches.count != b[i].touches.count)
            return false;
    return true;
}

/* The sweep, asked of both states. */
static void sweep_both(lua_State *L, struct host *h, const struct way_sweep *s,
                       struct way_proposal *again, const struct way_event *e,
                       uint64_t seed)
{
    struct way_sweep other = { s->count, s->seen, again };
    for (unsigned i = 0; i < s->count; i++)
        s->proposal[i].memory = again[i].memory = s->seen[i].view.memory;
    if (way_policy_tick(h->policy[0], s, e, seed) == WAY_ASKED_FAILED)
        luaL_error(L, "%s", way_policy_failure(h->policy[0])->text);
    (void)way_policy_tick(h->policy[1], &other, e, seed);
    if (!same_sweep(s->proposal, again, s->count))
        luaL_error(L,
                   "%s: two states answer differently: it depends on more than it is "
                   "given",
                   way_policy_where(h->policy[0]));
}

static void push_swept(lua_State *L, const struct way_snapshot *seen,
                       const struct way_proposal *p, const struct way_outcome *outcome)
{
    lua_newtable(L);
    put_number(L, "node", seen->view.node);
    put_flag(L, "refused", outcome->refused != WAY_REFUSED_NOT);
    push_mark(L, &p->mark);
    lua_setfield(L, -2, "mark");
}

/* What a sweep needs belongs to the host, for asking may raise. */
static void end_sweep(struct host *h)
{
    way_free(h->seen);
    way_free(h->proposal[0]);
    way_free(h->proposal[1]);
    h->seen = NULL;
    h->proposal[0] = h->proposal[1] = NULL;
}

static struct way_sweep begin_sweep(struct host *h, double now)
{
    const struct way_counters_layout *l = &way_policy_plan(h->policy[0])->counters;
    unsigned most = way_health_nodes(h->health) + 1;
    end_sweep(h);
    h->seen = way_alloc(most * sizeof *h->seen);
    for (int i = 0; i < 2; i++)
        h->proposal[i] = way_zalloc(most * sizeof *h->proposal[i]);
    uint64_t epoch = atomic_load(way_health_policy_epoch(h->health));
    unsigned n = way_health_survey(h->health, now, epoch, h->seen, most);
    for (unsigned i = 0; i < n; i++) {
        way_health_counted(h->health, l, &h->seen[i]);
        h->proposal[0][i].counters = l;
    }
    return (struct way_sweep){ n, h->seen, h->proposal[0] };
}

/* host:tick(event, seed): what was answered, a list of { node =, mark =, refused = }. */
static int h_tick(lua_State *L)
{
    struct host *h = host_of(L);
    struct way_event e = read_event(L, 2);
    uint64_t seed = whole(L, 3, 1e18);
    struct way_sweep s = begin_sweep(h, e.now);
    if (s.count)
        sweep_both(L, h, &s, h->proposal[1], &e, seed);
    lua_newtable(L);
    for (unsigned i = 0, n = 0; i < s.count; i++) {
        struct way_outcome outcome;
        if (way_health_commit(h->health, &s.seen[i], &s.proposal[i], false, &outcome) !=
            WAY_COMMIT_DONE)
            luaL_error(L, "the table could not be written");
        if (!s.proposal[i].mark.given)
            continue;
        push_swept(L, &s.seen[i], &s.proposal[i], &outcome);
        lua_rawseti(L, -2, (int)++n);
    }
    return 1;
}

/* A whole number of the table at index. */
static unsigned field_of(lua_State *L, int index, const char *name, unsigned otherwise,
                         unsigned most)
{
    lua_getfield(L, index, name);
    double n = luaL_optnumber(L, -1, otherwise);
    if (!(n >= 0 && n <= most))
        luaL_error(L, "%s: expected a number from 0 to %d", name, (int)most);
    lua_pop(L, 1);
    return (unsigned)n;
}

/* The list of numbers at index. */
static unsigned read_nodes(lua_State *L, struct host *h, int index,
                           uint16_t node[WAY_SHARD_REPLICAS + 1],
                           uint8_t state[WAY_SHARD_REPLICAS + 1])
{
    unsigned n = (unsigned)lua_objlen(L, index);
    luaL_argcheck(L, n && n <= WAY_SHARD_REPLICAS + 1, index, "1 to 32 nodes");
    for (unsigned i = 0; i < n; i++) {
        struct way_verdict v;
        lua_rawgeti(L, index, (int)i + 1);
        double number = luaL_checknumber(L, -1);
        luaL_argcheck(L, number >= 0 && number < way_health_nodes(h->health), index,
                      "no such node");
        node[i] = (uint16_t)number;
        way_health_verdict(h->health, node[i], &v);
        state[i] = v.state;
        lua_pop(L, 1);
    }
    return n;
}

/* host:route(request, nodes, now, seed): the index, or nil. */
static int h_route(lua_State *L)
{
    struct host *h = host_of(L);
    uint16_t node[WAY_SHARD_REPLICAS + 1];
    uint8_t state[WAY_SHARD_REPLICAS + 1];
    luaL_checktype(L, 2, LUA_TTABLE);
    luaL_checktype(L, 3, LUA_TTABLE);
    struct way_choice c = { .health = h->health, .node = node, .state = state };
    c.now = luaL_checknumber(L, 4);
    c.count = read_nodes(L, h, 3, node, state);
    c.policy_epoch = atomic_load(way_health_policy_epoch(h->health));
    c.slot = (uint16_t)field_of(L, 2, "slot", 0, WAY_SLOTS - 1);
    c.attempt = field_of(L, 2, "attempt", 1, 1000000);
    c.tried = field_of(L, 2, "tried", 0, c.count);
    lua_getfield(L, 2, "write");
    c.write = lua_toboolean(L, -1);
    lua_getfield(L, 2, "command");
    const char *name = luaL_optstring(L, -1, "get");
    lua_pushfstring(L, "*1\r\n$%d\r\n%s\r\n", (int)strlen(name), name);
    c.bytes.p = lua_tolstring(L, -1, &c.bytes.n);
    uint64_t seed = whole(L, 5, 1e18);
    unsigned index[2];
    for (int i = 0; i < 2; i++)
        if (way_policy_route(h->policy[i], &c, seed, &index[i]) == WAY_ASKED_FAILED)
            luaL_error(L, "%s", way_policy_failure(h->policy[i])->text);
    if (index[0] != index[1])
        luaL_error(L, "route: two states answer differently");
    if (!index[0])
        return lua_pushnil(L), 1;
    lua_pushinteger(L, (lua_Integer)index[0]);
    return 1;
}

/* host:zone(address, zone), before the node is published. */
static int h_zone(lua_State *L)
{
    struct host *h = host_of(L);
    const char *address = luaL_checkstring(L, 2), *zone = luaL_checkstring(L, 3);
    if (++h->zones > WAY_NODES_MAX)
        return luaL_error(L, "more than %d zones", WAY_NODES_MAX);
    way_health_zone(h->health, address, zone);
    return 0;
}

/* host:latency(node, seconds, now): commands were answered in that time. */
static int h_latency(lua_State *L)
{
    struct host *h = host_of(L);
    way_health_latency(h->health, node_of(L, h), luaL_checknumber(L, 3),
                       luaL_checknumber(L, 4));
    return 0;
}

/* host:inflight(node, commands) */
static int h_inflight(lua_State *L)
{
    struct host *h = host_of(L);
    unsigned node = node_of(L, h);
    atomic_store(&way_health_cells(h->health, h->row)[node].inflight, whole(L, 3, 1e9));
    return 0;
}

/* host:heal(node, now): a mark's time is over and nobody said otherwise. */
static int h_heal(lua_State *L)
{
    struct host *h = host_of(L);
    unsigned node = node_of(L, h);
    struct way_snapshot seen;
    struct way_outcome outcome;
    double now = luaL_checknumber(L, 3);
    way_health_snapshot(h->health, node, now, &seen);
    if (seen.view.verdict.ends <= 0 || seen.view.verdict.ends > now)
        return 0;
    struct way_proposal p = { .memory = seen.view.memory,
                              .host = true,
                              .mark = { .given = true,
                                        .state = WAY_STATE_HEALTHY,
                                        .reason = "expired",
                                        .has = WAY_MARK_STATE | WAY_MARK_REASON } };
    if (way_health_commit(h->health, &seen, &p, false, &outcome) != WAY_COMMIT_DONE)
        return luaL_error(L, "the table could not be written");
    return 0;
}

/* host:answered(node): a command was answered well; true for the first after a failure. */
static int h_answered(lua_State *L)
{
    struct host *h = host_of(L);
    lua_pushboolean(L, way_health_success(h->health, node_of(L, h)));
    return 1;
}

/* host:replication(node, link_up, last_io, behind) */
static int h_replication(lua_State *L)
{
    struct host *h = host_of(L);
    way_health_replication(h->health, node_of(L, h), lua_toboolean(L, 3),
                           luaL_checknumber(L, 4), luaL_checknumber(L, 5));
    return 0;
}

/* host:random(list): the numbers that wayside.random gives next. How many are not yet
 * drawn. */
static int h_random(lua_State *L)
{
    struct host *h = host_of(L);
    size_t n = lua_istable(L, 2) ? lua_objlen(L, 2) : 0;
    if (h->randoms + n > RANDOM_MAX)
        luaL_error(L, "random: at most %d numbers", RANDOM_MAX);
    for (size_t i = 1; i <= n; i++) {
        lua_rawgeti(L, 2, (int)i);
        double number = luaL_checknumber(L, -1);
        if (!(number >= 0 && number < 1))
            luaL_error(L, "random: expected numbers from 0 to below 1");
        h->random[h->randoms++] = number;
        lua_pop(L, 1);
    }
    lua_pushinteger(L, (lua_Integer)h->randoms);
    return 1;
}

/* host:publish(text, now): the nodes of a CLUSTER NODES text. */
static int h_publish(lua_State *L)
{
    static const unsigned most = 64;
    struct host *h = host_of(L);
    struct way_node_change change[64];
    struct way_err err = { "" };
    size_t n;
    const char *text = luaL_checklstring(L, 2, &n);
    double now = luaL_checknumber(L, 3);
    struct way_topology *t = way_topology_new();
    bool well = way_topology_parse_nodes(t, text, n, "127.0.0.1", &err) == 0 &&
                way_health_adopt(h->health, t, now, now, change, most, &err) >= 0 &&
                way_health_publish(h->health, t, now, &err) >= 0;
    way_topology_free(t);
    return well ? 0 : luaL_error(L, "%s", err.text);
}

/* host:find(host, port): the node's number. */
static int h_find(lua_State *L)
{
    struct host *h = host_of(L);
    unsigned node = way_health_find(h->health, luaL_checkstring(L, 2),
                                    (uint16_t)whole(L, 3, UINT16_MAX));
    if (node == WAY_NONE)
        return luaL_error(L, "no node has that address");
    lua_pushinteger(L, (lua_Integer)node);
    return 1;
}

static void put_memory(lua_State *L, const char *key, const double *value, unsigned count)
{
    lua_newtable(L);
    for (unsigned i = 0; i < count; i++) {
        lua_pushnumber(L, value[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_setfield(L, -2, key);
}

static void put_counters(lua_State *L, const char *key,
                         const struct way_counters_layout *l,
                         enum way_counter_scope scope, const struct way_view *v)
{
    lua_newtable(L);
    for (unsigned i = 0; i < l->count[scope]; i++) {
        const struct way_counted *c = &v->counted[scope][i];
        lua_newtable(L);
        put_number(L, "value", c->value);
        put_number(L, "failed", c->failed);
        put_number(L, "volume", c->volume);
        put_number(L, "mean", c->mean);
        put_number(L, "deviation", c->deviation);
        put_number(L, "last", c->last);
        lua_setfield(L, -2, l->counter[scope][i].name);
    }
    lua_setfield(L, -2, key);
}

/* host:view(node, now) */
static int h_view(lua_State *L)
{
    struct host *h = host_of(L);
    struct way_snapshot seen;
    unsigned node = node_of(L, h);
    double now = luaL_checknumber(L, 3);
    look(h, node, now, &seen);
    const struct way_view *v = &seen.view;
    const struct way_layout *l = &way_policy_plan(h->policy[0])->layout;
    lua_newtable(L);
    put_word(L, "state", way_state_name(v->verdict.state));
    put_word(L, "role", way_role_name(v->role));
    put_word(L, "address", v->address);
    put_word(L, "id", v->id);
    if (v->verdict.reason[0])
        put_word(L, "reason", v->verdict.reason);
    put_number(L, "since", v->verdict.since);
    if (v->verdict.ends > 0)
        put_number(L, "ends", v->verdict.ends);
    put_number(L, "weight", way_verdict_weight(&v->verdict, now));
    put_number(L, "failures", v->failures);
    put_memory(L, "memory", v->memory.node, l->node);
    put_memory(L, "shard_memory", v->memory.shard, l->shard);
    put_memory(L, "cluster_memory", v->memory.cluster, l->cluster);
    put_counters(L, "counters", counters_of(h), WAY_COUNTERS_NODE, v);
    put_counters(L, "shard_counters", counters_of(h), WAY_COUNTERS_SHARD, v);
    put_counters(L, "cluster_counters", counters_of(h), WAY_COUNTERS_CLUSTER, v);
    return 1;
}

static int h_plan(lua_State *L)
{
    const struct way_plan *p = way_policy_plan(host_of(L)->policy[0]);
    lua_newtable(L);
    put_word(L, "name", p->name);
    put_word(L, "version", p->version);
    put_number(L, "pick", p->pick);
    put_number(L, "load", p->load);
    put_flag(L, "watches_success", p->watches_success);
    put_number(L, "every", p->every);
    put_flag(L, "has_route", p->has_route);
    return 1;
}

static int h_close(lua_State *L)
{
    struct host *h = host_of(L);
    end_sweep(h);
    if (h->health)
        way_health_close(h->health);
    way_policy_free(h->policy[0]);
    way_policy_free(h->policy[1]);
    way_policy_text_fini(&h->text);
    memset(h, 0, sizeof *h);
    return 0;
}

/* ---- opening ---- */

enum { OPTIONS_MAX = 32 };

static unsigned read_options(lua_State *L, int index, struct way_option *option)
{
    unsigned n = 0;
    if (lua_isnoneornil(L, index))
        return 0;
    for (lua_pushnil(L); lua_next(L, index) && n < OPTIONS_MAX; lua_pop(L, 1)) {
        struct way_option *o = &option[n++];
        memset(o, 0, sizeof *o);
        o->name = (char *)(uintptr_t)luaL_checkstring(L, -2);
        o->type = lua_type(L, -1) == LUA_TNUMBER    ? WAY_OPTION_NUMBER
                  : lua_type(L, -1) == LUA_TBOOLEAN ? WAY_OPTION_BOOLEAN
                                                    : WAY_OPTION_STRING;
        o->number =
            lua_type(L, -1) == LUA_TBOOLEAN ? lua_toboolean(L, -1) : lua_tonumber(L, -1);
        if (o->type == WAY_OPTION_STRING)
            o->text = (char *)(uintptr_t)luaL_checkstring(L, -1);
    }
    return n;
}

static int open_parts(struct host *h, struct way_err *err)
{
    h->text.wall = 1; /* a busy machine must not fail a spec */
    if (way_policy_load(&h->policy[0], &h->text, err) < 0 ||
        way_policy_load(&h->policy[1], &h->text, err) < 0)
        return -1;
    struct way_health_options o = { .layout = way_policy_plan(h->policy[0])->layout,
                                    .guard = true,
                                    .failing_share = h->limits.failing_share };
    if (way_health_open(&h->health, &o, err) < 0)
        return -1;
    h->row = way_health_row_attach(h->health, err);
    return h->row < 0 ? -1 : 0;
}

static const luaL_Reg methods[] = {
    { "decide", h_decide },
    { "backoff", h_backoff },
    { "probe", h_probe },
    { "reconnect", h_reconnect },
    { "tick", h_tick },
    { "route", h_route },
    { "zone", h_zone },
    { "latency", h_latency },
    { "inflight", h_inflight },
    { "heal", h_heal },
    { "answered", h_answered },
    { "report", h_report },
    { "replication", h_replication },
    { "random", h_random },
    { "publish", h_publish },
    { "find", h_find },
    { "view", h_view },
    { "plan", h_plan },
    { "__gc", h_close },
    { NULL, NULL },
};

static struct host *push_host(lua_State *L)
{
    struct host *h = lua_newuserdata(L, sizeof *h);
    memset(h, 0, sizeof *h);
    way_limits_default(&h->limits);
    if (luaL_newmetatable(L, type_name)) {
        luaL_setfuncs(L, methods, 0);
        lua_pushvalue(L, -1);
        lua_setfield(L, -2, "__index");
    }
    lua_setmetatable(L, -2);
    return h;
}

void way_policy_host_push(lua_State *L, const struct way_policy_text *t)
{
    struct way_err err = { "" };
    struct host *h = push_host(L);
    way_policy_text_copy(&h->text, t);
    if (open_parts(h, &err) < 0)
        luaL_error(L, "%s", err.text);
}

/* open(path, options): the host; or nil and what is wrong. */
static int host_open(lua_State *L)
{
    struct way_option option[OPTIONS_MAX];
    struct way_err err = { "" };
    const char *path = luaL_checkstring(L, 1);
    unsigned options = read_options(L, 2, option);
    struct host *h = push_host(L);
    if (way_policy_read(&h->text, path, option, options, &h->limits, &err) == 0 &&
        open_parts(h, &err) == 0)
        return 1;
    lua_pushnil(L);
    lua_pushstring(L, err.text);
    return 2;
}

int luaopen_wayside_test_host(lua_State *L)
{
    lua_newtable(L);
    lua_pushcfunction(L, host_open);
    lua_setfield(L, -2, "open");
    return 1;
}
