/* policy_answer - what a script returned, field by field: known names, right types, finite
 * numbers within their ranges, known words. The first thing that is wrong is raised, and
 * nothing of the answer is used. */
#include "policy_answer.h"

#include "policy_view.h"

#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const double seconds_max = 1e9, wait_max = 3600;

enum mark_field {
    M_STATE = 1,
    M_SECONDS,
    M_TRIALS,
    M_WEIGHT,
    M_RAMP,
    M_SHED,
    M_CONNECTIONS,
    M_REFRESH,
    M_REASON,
    M_NODE /* of tick alone */
};
enum backoff_field { B_RETRY = 1, B_AFTER, B_WITHIN, B_STALE, B_UNKNOWN };
enum probe_field { P_AFTER = 1, P_COMMAND, P_TIMEOUT, P_CONNECTION };
enum redial_field { R_AFTER = 1, R_TIMEOUT };
static const char *const mark_words[] = { "state",  "seconds", "trials",      "weight",
                                          "ramp",   "shed",    "connections", "refresh",
                                          "reason", NULL };
static const char *const tick_words[] = { "state",  "seconds", "trials",      "weight",
                                          "ramp",   "shed",    "connections", "refresh",
                                          "reason", "node",    NULL };
static const char *const backoff_words[] = { "retry",       "after",          "within",
                                             "stale_reads", "unknown_writes", NULL };
static const char *const probe_words[] = { "after", "command", "timeout", "connection",
                                           NULL };
static const char *const redial_words[] = { "after", "timeout", NULL };
static const char *const *const words_of[WAY_ASK_COUNT] = {
    [WAY_ASK_MARK] = mark_words,   [WAY_ASK_BACKOFF] = backoff_words,
    [WAY_ASK_PROBE] = probe_words, [WAY_ASK_RECONNECT] = redial_words,
    [WAY_ASK_TICK] = tick_words,
};

/* ---- complaints ---- */

static const char *shown(lua_State *L, int index, char *text, size_t size)
{
    switch (lua_type(L, index)) {
    case LUA_TSTRING: snprintf(text, size, "\"%.40s\"", lua_tostring(L, index)); break;
    case LUA_TNUMBER: snprintf(text, size, "%.14g", lua_tonumber(L, index)); break;
    case LUA_TBOOLEAN:
        snprintf(text, size, "%s", lua_toboolean(L, index) ? "true" : "false");
        break;
    default: snprintf(text, size, "a %s", luaL_typename(L, index)); break;
    }
    return text;
}

/* The value on top is not what the field takes. */
_Noreturn static void bad(struct way_asking *a, lua_State *L, const char *field,
                          const char *expected)
{
    char text[64];
    a->bad_answer = true;
    luaL_error(L, "%s: %s: expected %s, got %s", way_question_name(a->question), field,
               expected, shown(L, -1, text, sizeof text));
    abort(); /* raising does not come back */
}

static double number(struct way_asking *a, lua_State *L, const char *field, double min,
                     double max)
{
    double n = lua_tonumber(L, -1);
    if (lua_type(L, -1) != LUA_TNUMBER || !(n >= min && n <= max)) {
        char expected[64];
        snprintf(expected, sizeof expected, "a number from %g to %g", min, max);
        bad(a, L, field, expected);
    }
    return n;
}

static bool boolean(struct way_asking *a, lua_State *L, const char *field)
{
    if (lua_type(L, -1) != LUA_TBOOLEAN)
        bad(a, L, field, "true or false");
    return lua_toboolean(L, -1);
}

static int word(struct way_asking *a, lua_State *L, const char *field,
                const char *(*name)(unsigned), unsigned first, unsigned count)
{
    int got =
        lua_type(L, -1) == LUA_TSTRING ? way_word(name, count, lua_tostring(L, -1)) : -1;
    if (got < (int)first) {
        char expected[160] = "";
        for (unsigned i = first; i < count; i++) {
            size_t n = strlen(expected);
            snprintf(expected + n, sizeof expected - n, "%s%s",
                     i == first       ? ""
                     : i + 1 == count ? " or "
                                      : ", ",
                     name(i));
        }
        bad(a, L, field, expected);
    }
    return got;
}

/* ---- mark ---- */

static void read_reason(struct way_asking *a, lua_State *L, struct way_mark *m)
{
    size_t n = 0;
    const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &n) : NULL;
    if (!s || !n || n >= sizeof m->reason)
        bad(a, L, "reason", "a word of 1 to 31 bytes");
    for (size_t i = 0; i < n; i++) /* it goes into log lines and labels */
        m->reason[i] =
            (unsigned char)s[i] <= ' ' || s[i] == '"' || s[i] == '\\' || s[i] == 0x7f
                ? '_'
                : s[i];
    m->reason[n] = 0;
}

static void mark_field(struct way_asking *a, lua_State *L, int field)
{
    struct way_mark *m = a->out.mark;
    if (field != M_NODE)
        m->has |= 1u << (field - 1); /* enum way_mark_field has the same order */
    switch ((enum mark_field)field) {
    case M_STATE:
        m->state =
            (enum way_state)word(a, L, "state", way_state_name, 0, WAY_STATE_COUNT);
        break;
    case M_SECONDS: m->seconds = number(a, L, "seconds", 0, seconds_max); break;
    case M_TRIALS:
        m->trials = (uint32_t)number(a, L, "trials", 1, 1e6);
        if (m->trials != lua_tonumber(L, -1))
            bad(a, L, "trials", "a whole number");
        break;
    case M_WEIGHT: m->weight = number(a, L, "weight", 0, 1); break;
    case M_RAMP: m->ramp = number(a, L, "ramp", 0, seconds_max); break;
    case M_SHED: m->shed = number(a, L, "shed", 0, 1); break;
    case M_CONNECTIONS:
        m->connections = (enum way_connections)word(
            a, L, "connections", way_connections_name, 0, WAY_CONNECTIONS_COUNT);
        break;
    case M_REFRESH: m->refresh = boolean(a, L, "refresh"); break;
    case M_REASON: read_reason(a, L, m); break;
    case M_NODE: break; /* read first: it says whose mark this is */
    }
}

static void mark_whole(struct way_asking *a, lua_State *L)
{
    const struct way_mark *m = a->out.mark;
    bool probing = (m->has & WAY_MARK_STATE) && m->state == WAY_STATE_PROBING;
    a->out.mark->given = true;
    if ((m->has & WAY_MARK_TRIALS) && !probing) {
        lua_pushinteger(L, (lua_Integer)m->trials);
        bad(a, L, "trials", "nothing but with state = \"probing\"");
    }
    if ((m->has & WAY_MARK_SECONDS) && !(m->has & WAY_MARK_STATE)) {
        lua_pushnumber(L, m->seconds);
        bad(a, L, "seconds", "nothing but with a state");
    }
}

/* ---- backoff ---- */

static void backoff_field(struct way_asking *a, lua_State *L, int field)
{
    struct way_retry *r = a->out.retry;
    switch ((enum backoff_field)field) {
    case B_RETRY:
        r->kind = (enum way_retry_kind)word(a, L, "retry", way_retry_name,
                                            WAY_RETRY_OTHER, WAY_RETRY_COUNT);
        break;
    case B_AFTER: r->after = number(a, L, "after", 0, wait_max); break;
    case B_WITHIN:
        r->within = number(a, L, "within", -seconds_max, seconds_max);
        if (r->within <= 0) {
            r->over = -r->within;
            r->within = 0;
        }
        break;
    case B_STALE: r->stale_reads = boolean(a, L, "stale_reads"); break;
    case B_UNKNOWN: r->unknown_writes = boolean(a, L, "unknown_writes"); break;
    }
}

static void backoff_whole(struct way_asking *a, lua_State *L)
{
    struct way_retry *r = a->out.retry;
    if (r->kind == WAY_RETRY_NONE) {
        lua_pushnil(L);
        bad(a, L, "retry", "other, same, master or hold");
    }
    if (r->within >= 0 && r->kind != WAY_RETRY_HOLD) {
        lua_pushnumber(L, r->within);
        bad(a, L, "within", "nothing but with retry = \"hold\"");
    }
    if (r->kind == WAY_RETRY_HOLD && r->within == 0)
        r->kind = WAY_RETRY_NONE; /* its time is over */
}

/* ---- probe, reconnect ---- */

static void read_command(struct way_asking *a, lua_State *L, struct way_probe *p)
{
    static const char expected[] =
        "\"data\" or a list of 1 to 32 words, 255 bytes in all";
    size_t used = 0, n = 0;
    if (lua_type(L, -1) == LUA_TSTRING && !strcmp(lua_tostring(L, -1), "data"))
        return;
    unsigned words = lua_type(L, -1) == LUA_TTABLE ? (unsigned)lua_objlen(L, -1) : 0;
    if (!words || words > 32)
        bad(a, L, "command", expected);
    for (unsigned i = 0; i < words; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &n) : NULL;
        if (!s || !n || memchr(s, 0, n) || used + n + 1 > sizeof p->command)
            bad(a, L, "command", expected);
        memcpy(p->command + used, s, n + 1);
        used += n + 1;
        lua_pop(L, 1);
    }
    p->words = words;
}

static const char *connection_name(unsigned v)
{
    return v == 0 ? "new" : v == 1 ? "pooled" : "?";
}

static void probe_field(struct way_asking *a, lua_State *L, int field)
{
    struct way_probe *p = a->out.probe;
    switch ((enum probe_field)field) {
    case P_AFTER: p->after = number(a, L, "after", 0, seconds_max); break;
    case P_COMMAND: read_command(a, L, p); break;
    case P_TIMEOUT: p->timeout = number(a, L, "timeout", 0.001, wait_max); break;
    case P_CONNECTION:
        p->pooled = word(a, L, "connection", connection_name, 0, 2) == 1;
        break;
    }
}

static void redial_field(struct way_asking *a, lua_State *L, int field)
{
    struct way_redial *r = a->out.redial;
    switch ((enum redial_field)field) {
    case R_AFTER: r->after = number(a, L, "after", 0, seconds_max); break;
    case R_TIMEOUT: r->timeout = number(a, L, "timeout", 0.001, wait_max); break;
    }
}

/* ---- the whole ---- */

static void read_class(struct way_asking *a, lua_State *L)
{
    struct way_policy *p = a->policy;
    const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    for (unsigned i = 0; name && i < p->plan.classes; i++) {
        if (!strcmp(p->class_name[i], name)) {
            *a->out.class = (int)i;
            return;
        }
    }
    a->bad_answer = true;
    const char *known[WAY_CLASSES_MAX + 1] = { NULL };
    for (unsigned i = 0; i < p->plan.classes; i++)
        known[i] = p->class_name[i];
    if (!name)
        bad(a, L, "the answer", "a class's name or nil");
    way_view_unknown(L, "classify: the table of classes", name, known);
}

static void read_field(struct way_asking *a, lua_State *L, int field)
{
    switch (a->question) {
    case WAY_ASK_TICK:
    case WAY_ASK_MARK: mark_field(a, L, field); break;
    case WAY_ASK_BACKOFF: backoff_field(a, L, field); break;
    case WAY_ASK_PROBE: probe_field(a, L, field); break;
    default: redial_field(a, L, field); break;
    }
}

_Noreturn static void unknown_field(struct way_asking *a, lua_State *L, const char *key)
{
    a->bad_answer = true;
    lua_pushfstring(L, "%s: the answer", way_question_name(a->question));
    way_view_unknown(L, lua_tostring(L, -1), key, words_of[a->question]);
}

static void read_fields(struct way_asking *a, lua_State *L)
{
    const struct way_keys *keys = &a->policy->fields[a->question];
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
        int field = key ? way_keys_find(keys, key) : 0;
        if (!field)
            unknown_field(a, L, key ? key : luaL_typename(L, -2));
        read_field(a, L, field);
    }
}

/* ---- route, tick ---- */

static void read_index(struct way_asking *a, lua_State *L)
{
    char expected[64];
    double n = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
    if (!(n >= 1 && n <= a->choice->count) || n != (double)(unsigned)n) {
        snprintf(expected, sizeof expected, "an index from 1 to %u, or nil",
                 a->choice->count);
        bad(a, L, "the answer", expected);
    }
    *a->out.index = (unsigned)n;
}

/* One answer of a sweep, on top of the stack. */
static void read_of_sweep(struct way_asking *a, lua_State *L)
{
    if (lua_type(L, -1) != LUA_TTABLE)
        bad(a, L, "the answer", "a list of tables with node");
    lua_getfield(L, -1, "node");
    int index = way_view_index(a->policy, L);
    if (index < 0)
        bad(a, L, "node", "one of the nodes given");
    if (a->sweep->proposal[index].mark.given)
        bad(a, L, "node", "each node once at most");
    lua_pop(L, 1);
    a->out.mark = &a->sweep->proposal[index].mark;
    read_fields(a, L);
    mark_whole(a, L);
}

static void read_sweep(struct way_asking *a, lua_State *L)
{
    if (lua_type(L, -1) != LUA_TTABLE)
        bad(a, L, "the answer", "a list or nil");
    size_t n = lua_objlen(L, -1);
    unsigned entries = 0;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        double key = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
        if (!(key >= 1 && key <= (double)n) || key != (double)(size_t)key) {
            lua_pushvalue(L, -2);
            bad(a, L, "the answer", "a list");
        }
        if (++entries > a->sweep->count)
            bad(a, L, "the answer", "one entry per node at most");
        read_of_sweep(a, L);
    }
}

void way_answer_read(struct way_asking *a, lua_State *L)
{
    if (lua_isnil(L, -1))
        return;
    if (a->question == WAY_ASK_ROUTE) {
        read_index(a, L);
        return;
    }
    if (a->question == WAY_ASK_TICK) {
        read_sweep(a, L);
        return;
    }
    if (a->question == WAY_ASK_CLASSIFY) {
        read_class(a, L);
        return;
    }
    if (lua_type(L, -1) != LUA_TTABLE)
        bad(a, L, "the answer", "a table or nil");
    read_fields(a, L);
    switch (a->question) {
    case WAY_ASK_MARK: mark_whole(a, L); break;
    case WAY_ASK_BACKOFF: backoff_whole(a, L); break;
    case WAY_ASK_PROBE: a->out.probe->given = true; break;
    default: a->out.redial->given = true; break;
    }
}

void way_answer_open(struct way_policy *p, lua_State *L)
{
    for (int q = 0; q < WAY_ASK_COUNT; q++)
        way_keys_keep(&p->fields[q], L, words_of[q]);
}
