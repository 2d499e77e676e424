/* natives - see natives.h. A guarded function is a C closure over the real one, called
 * when its arguments passed; matching is done by pattern.c, with its steps charged.
 *
 * Rejected: checks on the pattern's looks (how many quantifiers), which either refuse
 * harmless patterns or let slow ones through. */
#include "natives.h"

#include "pattern.h"
#include "script.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

enum {
    STEPS_MAX = 50000,
    STEPS_PER_INSTRUCTION = 4,
    BYTES_PER_INSTRUCTION = 16,
    UNPACK_MAX = 250
};

static void check_length(lua_State *L, size_t n)
{
    if (n > WAY_SCRIPT_STRING)
        luaL_error(L, "a string of %d bytes: string functions take and give at most %d",
                   (int)n, WAY_SCRIPT_STRING);
    way_script_charge(L, 1 + n / BYTES_PER_INSTRUCTION);
}

static struct way_span check_string(lua_State *L, int index)
{
    struct way_span s;
    s.p = luaL_checklstring(L, index, &s.n);
    check_length(L, s.n);
    return s;
}

/* Calls the real function with all arguments. */
static int call_real(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* byte, len, lower, reverse, sub, upper, tonumber: strings among the arguments are short. */
static int n_strings(lua_State *L)
{
    for (int i = 1; i <= lua_gettop(L); i++)
        if (lua_type(L, i) == LUA_TSTRING)
            check_length(L, lua_objlen(L, i));
    return call_real(L);
}

/* Turning one string into a number can take 100 us ("1e-308"), and these take hundreds. */
static void check_numbers(lua_State *L)
{
    for (int i = 1; i <= lua_gettop(L); i++)
        if (lua_type(L, i) != LUA_TNUMBER)
            luaL_argerror(
                L, i, lua_pushfstring(L, "number expected, got %s", luaL_typename(L, i)));
}

/* band, bor, bxor */
static int n_numbers(lua_State *L)
{
    check_numbers(L);
    return call_real(L);
}

/* No call of the real ones: policies use these two on every event. */
static int n_max(lua_State *L)
{
    double most = luaL_checknumber(L, 1);
    check_numbers(L);
    for (int i = 2; i <= lua_gettop(L); i++) {
        double n = lua_tonumber(L, i);
        most = n > most ? n : most;
    }
    return lua_pushnumber(L, most), 1;
}

static int n_min(lua_State *L)
{
    double least = luaL_checknumber(L, 1);
    check_numbers(L);
    for (int i = 2; i <= lua_gettop(L); i++) {
        double n = lua_tonumber(L, i);
        least = n < least ? n : least;
    }
    return lua_pushnumber(L, least), 1;
}

static int n_char(lua_State *L)
{
    check_numbers(L);
    check_length(L, (size_t)lua_gettop(L));
    return call_real(L);
}

static int n_rep(lua_State *L)
{
    struct way_span s = check_string(L, 1);
    double times = luaL_checknumber(L, 2);
    if (!(times <= WAY_SCRIPT_STRING) || (times > 0 && s.n * times > WAY_SCRIPT_STRING))
        luaL_error(L, "rep would give more than %d bytes", WAY_SCRIPT_STRING);
    way_script_charge(L, 1 + (times > 0 ? (size_t)(s.n * times) : 0) /
                                 BYTES_PER_INSTRUCTION);
    lua_settop(L, 2);
    return call_real(L);
}

/* Tables and functions have only the name of their type here: an address would differ
 * from one state to the next. */
static void plain_word(lua_State *L, int index)
{
    int type = lua_type(L, index);
    if (type != LUA_TSTRING && type != LUA_TNUMBER && type != LUA_TNIL &&
        type != LUA_TBOOLEAN && !luaL_getmetafield(L, index, "__tostring")) {
        lua_pushstring(L, lua_typename(L, type));
        lua_replace(L, index);
    }
}

static int n_tostring(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    way_script_charge(L, 1);
    if (luaL_callmeta(L, 1, "__tostring"))
        return 1;
    plain_word(L, 1);
    return call_real(L);
}

/* Of the items that take an argument, which is 2 for the first. */
static void check_item(lua_State *L, char letter, int index)
{
    if (letter == 'p')
        luaL_error(L, "format: '%%p' is not supported");
    if (letter != 's' && letter != 'q' && lua_type(L, index) == LUA_TSTRING)
        luaL_argerror(L, index, "number expected, got string");
}

static void check_items(lua_State *L, struct way_span format)
{
    int index = 2;
    for (size_t i = 0; i + 1 < format.n; i++) {
        if (format.p[i] != '%' || format.p[++i] == '%')
            continue;
        while (i + 1 < format.n && format.p[i] && strchr("-+ #0123456789.", format.p[i]))
            i++;
        check_item(L, format.p[i], index++);
    }
}

static int n_format(lua_State *L)
{
    struct way_span format = check_string(L, 1);
    size_t sum = 0;
    check_items(L, format);
    for (int i = 2; i <= lua_gettop(L); i++) {
        if (luaL_callmeta(L, i, "__tostring"))
            lua_replace(L, i);
        plain_word(L, i);
        sum += lua_type(L, i) == LUA_TSTRING ? lua_objlen(L, i) : 100;
        check_length(L, sum);
    }
    return call_real(L);
}

/* ---- patterns ---- */

static void begin(lua_State *L, struct way_pattern *m, int subject, int pattern)
{
    memset(m, 0, sizeof *m);
    m->subject = check_string(L, subject);
    m->pattern = check_string(L, pattern);
    m->steps_max = STEPS_MAX;
}

/* The first match at or behind *from: its end, and *from is its begin. NULL: none. */
static const char *search(lua_State *L, struct way_pattern *m, size_t *from)
{
    const char *got = NULL;
    size_t before = m->steps;
    for (; *from <= m->subject.n; ++*from) {
        got = way_pattern_match(m, *from);
        if (got || m->error || way_pattern_anchored(m))
            break;
    }
    way_script_charge(L, 1 + (m->steps - before) / STEPS_PER_INSTRUCTION);
    if (m->error)
        luaL_error(L, "%s", m->error);
    return got;
}

static void push_capture(lua_State *L, const struct way_pattern *m, unsigned i)
{
    const struct way_capture *c = &m->capture[i];
    if (c->n == WAY_CAPTURE_POSITION)
        lua_pushinteger(L, c->p - m->subject.p + 1);
    else
        lua_pushlstring(L, c->p, (size_t)c->n);
}

/* The captures, or without any the whole match. */
static int push_captures(lua_State *L, const struct way_pattern *m, const char *from,
                         const char *end)
{
    if (!m->captures) {
        lua_pushlstring(L, from, (size_t)(end - from));
        return 1;
    }
    luaL_checkstack(L, (int)m->captures, "captures");
    for (unsigned i = 0; i < m->captures; i++)
        push_capture(L, m, i);
    return (int)m->captures;
}

static size_t first_position(lua_State *L, int index, size_t n)
{
    double at = luaL_optnumber(L, index, 1);
    if (at < 0)
        at += (double)n + 1;
    if (!(at >= 1))
        return 0;
    return at > (double)n + 1 ? n + 1 : (size_t)at - 1;
}

static int find_plain(lua_State *L, const struct way_pattern *m, size_t from)
{
    const char *got = NULL;
    if (from <= m->subject.n)
        got = m->pattern.n ? memmem(m->subject.p + from, m->subject.n - from,
                                    m->pattern.p, m->pattern.n)
                           : m->subject.p + from;
    if (!got)
        return lua_pushnil(L), 1;
    lua_pushinteger(L, got - m->subject.p + 1);
    lua_pushinteger(L, got - m->subject.p + (ptrdiff_t)m->pattern.n);
    return 2;
}

static int find_or_match(lua_State *L, bool find)
{
    struct way_pattern m;
    begin(L, &m, 1, 2);
    size_t from = first_position(L, 3, m.subject.n);
    if (find && lua_toboolean(L, 4))
        return find_plain(L, &m, from);
    const char *end = from > m.subject.n ? NULL : search(L, &m, &from);
    if (!end)
        return lua_pushnil(L), 1;
    if (!find)
        return push_captures(L, &m, m.subject.p + from, end);
    lua_pushinteger(L, (lua_Integer)from + 1);
    lua_pushinteger(L, end - m.subject.p);
    return 2 + (m.captures ? push_captures(L, &m, m.subject.p + from, end) : 0);
}

static int n_find(lua_State *L)
{
    return find_or_match(L, true);
}

static int n_match(lua_State *L)
{
    return find_or_match(L, false);
}

/* Upvalues: subject, pattern, where to go on. */
static int gmatch_next(lua_State *L)
{
    struct way_pattern m;
    lua_settop(L, 0);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, lua_upvalueindex(2));
    begin(L, &m, 1, 2);
    size_t from = (size_t)lua_tointeger(L, lua_upvalueindex(3));
    const char *end = from > m.subject.n ? NULL : search(L, &m, &from);
    if (!end)
        return 0;
    size_t next = (size_t)(end - m.subject.p);
    lua_pushinteger(L, (lua_Integer)(next == from ? next + 1 : next));
    lua_replace(L, lua_upvalueindex(3));
    return push_captures(L, &m, m.subject.p + from, end);
}

static int n_gmatch(lua_State *L)
{
    check_string(L, 1);
    check_string(L, 2);
    lua_settop(L, 2);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, gmatch_next, 3);
    return 1;
}

/* What gsub gives, no longer than a string may be. */
struct text {
    size_t n;
    char p[WAY_SCRIPT_STRING];
};

static void add(lua_State *L, struct text *out, const char *p, size_t n)
{
    if (n > sizeof out->p - out->n)
        luaL_error(L, "gsub would give more than %d bytes", WAY_SCRIPT_STRING);
    memcpy(out->p + out->n, p, n);
    out->n += n;
}

static void add_top(lua_State *L, struct text *out)
{
    size_t n;
    const char *p = lua_tolstring(L, -1, &n);
    add(L, out, p, n);
    lua_pop(L, 1);
}

/* "%1" and so on in the replacement text. */
static void add_text(lua_State *L, struct text *out, const struct way_pattern *m,
                     const char *from, const char *end)
{
    size_t n;
    const char *r = lua_tolstring(L, 3, &n);
    for (size_t i = 0; i < n; i++) {
        char c = r[i] == '%' && i + 1 < n ? r[i + 1] : 0;
        if (r[i] != '%') {
            add(L, out, &r[i], 1);
            continue;
        }
        i++;
        if (c == '%') {
            add(L, out, "%", 1);
        } else if (c == '0' || (c == '1' && !m->captures)) {
            add(L, out, from, (size_t)(end - from));
        } else if (c >= '1' && c <= '9' && (unsigned)(c - '1') < m->captures) {
            push_capture(L, m, (unsigned)(c - '1'));
            add_top(L, out);
        } else {
            luaL_error(L, "gsub: bad '%%' in the replacement");
        }
    }
}

static void add_replacement(lua_State *L, struct text *out, const struct way_pattern *m,
                            const char *from, const char *end)
{
    if (lua_type(L, 3) == LUA_TFUNCTION) {
        way_script_deeper(L);
        lua_pushvalue(L, 3);
        lua_call(L, push_captures(L, m, from, end), 1);
        way_script_back(L);
    } else if (lua_type(L, 3) == LUA_TTABLE) {
        if (m->captures)
            push_capture(L, m, 0);
        else
            lua_pushlstring(L, from, (size_t)(end - from));
        lua_gettable(L, 3);
    } else {
        add_text(L, out, m, from, end);
        return;
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        add(L, out, from, (size_t)(end - from));
    } else if (lua_isstring(L, -1)) {
        add_top(L, out);
    } else {
        luaL_error(L, "gsub: expected a string as replacement, got a %s",
                   luaL_typename(L, -1));
    }
}

static int n_gsub(lua_State *L)
{
    struct way_pattern m;
    struct text out;
    begin(L, &m, 1, 2);
    int type = lua_type(L, 3);
    if (type == LUA_TNUMBER || type == LUA_TSTRING)
        check_string(L, 3);
    else if (type != LUA_TTABLE && type != LUA_TFUNCTION)
        return luaL_error(L, "gsub: expected a string, table or function, got a %s",
                          luaL_typename(L, 3));
    double most = luaL_optnumber(L, 4, WAY_SCRIPT_STRING + 1);
    lua_settop(L, 3);
    out.n = 0;
    size_t at = 0, copied = 0;
    int count = 0;
    while (count < most && at <= m.subject.n) {
        size_t from = at;
        const char *end = search(L, &m, &from);
        if (!end)
            break;
        add(L, &out, m.subject.p + copied, from - copied);
        add_replacement(L, &out, &m, m.subject.p + from, end);
        copied = (size_t)(end - m.subject.p);
        at = copied == from ? copied + 1 : copied;
        count++;
        if (way_pattern_anchored(&m))
            break;
    }
    add(L, &out, m.subject.p + copied, m.subject.n - copied);
    lua_pushlstring(L, out.p, out.n);
    lua_pushinteger(L, count);
    return 2;
}

/* ---- tables ---- */

/* Scripts set no metatables: a table that has one is the host's, and read-only, which the
 * real functions, working behind its back, would not see. */
static void check_own(lua_State *L, const char *what)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    if (lua_getmetatable(L, 1))
        luaL_error(L, "%s: the table is read-only", what);
}

static size_t check_list(lua_State *L, const char *what)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    size_t n = lua_objlen(L, 1);
    if (n > WAY_SCRIPT_LIST)
        luaL_error(L, "%s: a list of %d elements, at most %d", what, (int)n,
                   WAY_SCRIPT_LIST);
    return n;
}

static int n_concat(lua_State *L)
{
    size_t n = check_list(L, "concat"), separator = 0, sum = 0;
    if (!lua_isnoneornil(L, 2))
        separator = check_string(L, 2).n;
    for (size_t i = 1; i <= n; i++) {
        lua_rawgeti(L, 1, (int)i);
        sum += lua_objlen(L, -1) + separator;
        lua_pop(L, 1);
    }
    way_script_charge(L, 1 + n);
    check_length(L, sum);
    lua_settop(L, 2); /* the whole list: bounds beyond it would walk past the check */
    return call_real(L);
}

/* Only what has to be moved counts. */
static void charge_move(lua_State *L, size_t n, double position, const char *what)
{
    double moved = (double)n - position + 1;
    if (position >= 1 && moved > WAY_SCRIPT_LIST)
        luaL_error(L, "%s: would move %d elements, at most %d", what, (int)moved,
                   WAY_SCRIPT_LIST);
    way_script_charge(L, 1 + (moved > 0 && position >= 1 ? (size_t)moved / 4 : 0));
}

static int n_insert(lua_State *L)
{
    check_own(L, "insert");
    size_t n = lua_objlen(L, 1);
    if (lua_gettop(L) > 2) {
        double position = luaL_checknumber(L, 2);
        if (!(position >= 1 && position <= (double)n + 1))
            luaL_error(L, "insert: position %f is not in the list", position);
        charge_move(L, n, position, "insert");
    } else {
        way_script_charge(L, 1);
    }
    return call_real(L);
}

static int n_remove(lua_State *L)
{
    check_own(L, "remove");
    size_t n = lua_objlen(L, 1);
    if (lua_gettop(L) > 1)
        charge_move(L, n, luaL_checknumber(L, 2), "remove");
    else
        way_script_charge(L, 1);
    return call_real(L);
}

static int n_sort(lua_State *L)
{
    check_own(L, "sort");
    size_t n = check_list(L, "sort"), bytes = 0;
    for (size_t i = 1; i <= n; i++) {
        lua_rawgeti(L, 1, (int)i);
        bytes += lua_type(L, -1) == LUA_TSTRING ? lua_objlen(L, -1) : 0;
        lua_pop(L, 1);
    }
    way_script_charge(L, 1 + 10 * (n + bytes / BYTES_PER_INSTRUCTION));
    way_script_deeper(L);
    call_real(L);
    way_script_back(L);
    return 0;
}

static int n_unpack(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    double first = luaL_optnumber(L, 2, 1);
    double last = luaL_optnumber(L, 3, (double)lua_objlen(L, 1));
    if (!(last - first < UNPACK_MAX))
        luaL_error(L, "unpack: more than %d values", UNPACK_MAX);
    way_script_charge(L, 1 + UNPACK_MAX / 16);
    return call_real(L);
}

/* ---- the table of them ---- */

struct guarded {
    const char *library, *name;
    lua_CFunction fn;
};

static const struct guarded list[] = {
    { "_G", "tonumber", n_strings },    { "_G", "tostring", n_tostring },
    { "_G", "unpack", n_unpack },       { "bit", "band", n_numbers },
    { "bit", "bor", n_numbers },        { "bit", "bxor", n_numbers },
    { "math", "max", n_max },           { "math", "min", n_min },
    { "string", "byte", n_strings },    { "string", "char", n_char },
    { "string", "find", n_find },       { "string", "format", n_format },
    { "string", "gmatch", n_gmatch },   { "string", "gsub", n_gsub },
    { "string", "len", n_strings },     { "string", "lower", n_strings },
    { "string", "match", n_match },     { "string", "rep", n_rep },
    { "string", "reverse", n_strings }, { "string", "sub", n_strings },
    { "string", "upper", n_strings },   { "table", "concat", n_concat },
    { "table", "insert", n_insert },    { "table", "remove", n_remove },
    { "table", "sort", n_sort },
};

void way_natives_push(lua_State *L)
{
    lua_newtable(L);
    for (unsigned i = 0; i < way_count(list); i++) {
        const struct guarded *g = &list[i];
        lua_getfield(L, -1, g->library);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_newtable(L);
            lua_pushvalue(L, -1);
            lua_setfield(L, -3, g->library);
        }
        lua_getglobal(L, !strcmp(g->library, "_G") ? "_G" : g->library);
        lua_getfield(L, -1, g->name);
        lua_remove(L, -2);
        lua_pushcclosure(L, g->fn, 1);
        lua_setfield(L, -2, g->name);
        lua_pop(L, 1);
    }
}
