/* config - see config.h. The reader of the file walks the table that the script returned
 * by the table `keys`, and puts file, line and key before what a setter (config_set.h)
 * says; flags put --name there.
 *
 * Values are checked where they are set, so that the message can name the line. What
 * needs the whole is checked last, by way_config_check, for flags may still complete a
 * file.
 *
 * Rejected: a parser of a format of our own (operators know one language here already),
 * and a Lua half that walks the table (the messages would be built in two places). */
#include "config.h"

#include "config_set.h"
#include "file.h"
#include "luatext.h"
#include "script.h"
#include "tls.h"

#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdio.h>

enum { FILE_MAX = 256 * 1024 };

/* --- the file --- */

struct reader {
    lua_State *L;
    struct way_config *c;
    struct way_span text;
    struct way_err *err;
    bool has_password, policy; /* seen so far */
    int result;
    char path[512]; /* of the value being read */
};

typedef int read_fn(struct reader *r); /* the value is on top, and stays there */
struct key {
    const char *group, *name; /* group "": of the table itself */
    read_fn *read;            /* NULL: a group, described by the rest or by limits */
};

static read_fn read_listen, read_workers, read_segment, read_seeds, read_user,
    read_password, read_password_file, read_zones, read_name_servers, read_policy,
    read_policy_file, read_options, read_watch, read_console, read_http, read_log_level,
    read_journal_file, read_journal_bytes, read_journal_keep, read_tls, read_tls_ca,
    read_tls_cert, read_tls_key, read_tls_server_name, read_tls_verify;

static const struct key keys[] = {
    { "", "listen", read_listen },
    { "", "workers", read_workers },
    { "", "cluster", NULL },
    { "cluster", "seeds", read_seeds },
    { "cluster", "user", read_user },
    { "cluster", "password", read_password },
    { "cluster", "password_file", read_password_file },
    { "cluster", "tls", read_tls },
    { "cluster.tls", "ca", read_tls_ca },
    { "cluster.tls", "cert", read_tls_cert },
    { "cluster.tls", "key", read_tls_key },
    { "cluster.tls", "server_name", read_tls_server_name },
    { "cluster.tls", "verify", read_tls_verify },
    { "cluster", "zones", read_zones },
    { "cluster", "name_servers", read_name_servers },
    { "", "policy", read_policy },
    { "policy", "file", read_policy_file },
    { "policy", "options", read_options },
    { "policy", "watch", read_watch },
    { "", "timeouts", NULL },
    { "", "limits", NULL },
    { "", "segment", read_segment },
    { "", "admin", NULL },
    { "admin", "console", read_console },
    { "admin", "http", read_http },
    { "", "journal", NULL },
    { "journal", "file", read_journal_file },
    { "journal", "max_bytes", read_journal_bytes },
    { "journal", "keep", read_journal_keep },
    { "", "log", NULL },
    { "log", "level", read_log_level },
};

/* "file:line: key: why". */
static int bad(struct reader *r, const char *why)
{
    unsigned line = way_luatext_line(r->text, r->path);
    const char *file = r->c->file;
    if (line)
        return way_fail(r->err, "%s:%u: %s: %s", file, line, r->path, why);
    return way_fail(r->err, "%s: %s: %s", file, r->path, why);
}

/* How the value at `index` is called in a message. */
static const char *got(lua_State *L, int index, char *text, size_t size)
{
    switch (lua_type(L, index)) {
    case LUA_TNONE:
    case LUA_TNIL: return "nothing";
    case LUA_TNUMBER: return way_config_number(lua_tonumber(L, index), text, size);
    case LUA_TSTRING: return lua_objlen(L, index) ? "a string" : "an empty string";
    case LUA_TBOOLEAN: return lua_toboolean(L, index) ? "true" : "false";
    case LUA_TTABLE: return "a table";
    case LUA_TFUNCTION: return "a function";
    default: return "something else";
    }
}

static int bad_type(struct reader *r, const char *expected)
{
    char number[32], why[256];
    snprintf(why, sizeof why, "expected %s, got %s", expected,
             got(r->L, -1, number, sizeof number));
    return bad(r, why);
}

/* Puts where before what a setter said. */
static int told(struct reader *r, int result, const struct way_err *why)
{
    return result < 0 ? bad(r, why->text) : 0;
}

/* The string on top, borrowed from Lua while it stays there; NULL after telling why not.
 */
static const char *string_here(struct reader *r, const char *expected)
{
    size_t n = 0;
    const char *s = NULL;
    if (lua_type(r->L, -1) == LUA_TSTRING)
        s = lua_tolstring(r->L, -1, &n);
    if (!s || !n)
        return bad_type(r, expected), NULL;
    if (n > WAY_CONFIG_STRING_MAX || strlen(s) != n) {
        bad(r, n > WAY_CONFIG_STRING_MAX
                   ? "expected a string of at most 4096 bytes, got more"
                   : "expected a string without zero bytes, got one with");
        return NULL;
    }
    return s;
}

static void enter(struct reader *r, struct way_span key)
{
    way_luatext_step(r->path, sizeof r->path, key);
}

/* Each string of a list, or the one string, to `add`. */
static int read_strings(struct reader *r, const char *expected,
                        int (*add)(struct way_config *, const char *, struct way_err *))
{
    struct way_err why;
    size_t path = strlen(r->path);
    bool list = lua_istable(r->L, -1);
    size_t n = list ? lua_objlen(r->L, -1) : 1;
    if (list && !n)
        return bad(r, "expected at least one entry, got an empty list");
    for (size_t i = 1; i <= n; i++) {
        if (list) {
            lua_rawgeti(r->L, -1, (int)i);
            way_luatext_index(r->path, sizeof r->path, (unsigned)i);
        }
        const char *s = string_here(r, expected);
        if (!s || told(r, add(r->c, s, &why), &why) < 0)
            return -1;
        if (list) {
            lua_pop(r->L, 1);
            r->path[path] = 0;
        }
    }
    return 0;
}

static int read_string(struct reader *r, char **slot, const char *expected)
{
    const char *s = string_here(r, expected);
    if (!s)
        return -1;
    way_config_replace(slot, way_strdup(s));
    return 0;
}

static int read_local(struct reader *r, char **slot)
{
    struct way_err why;
    const char *s = string_here(r, "\"host:port\" or \"unix:/path\"");
    if (!s || told(r, way_config_check_local(s, &why), &why) < 0)
        return -1;
    way_config_replace(slot, way_strdup(s));
    return 0;
}

static int read_listen(struct reader *r)
{
    return read_strings(r, "\"host:port\" or \"unix:/path\"", way_config_add_listen);
}

static int read_seeds(struct reader *r)
{
    return read_strings(r, "\"host:port\"", way_config_add_seed);
}

static int read_name_servers(struct reader *r)
{
    return read_strings(r, "an address such as \"10.0.0.2\" or \"10.0.0.2:53\"",
                        way_config_add_name_server);
}

static int read_workers(struct reader *r)
{
    struct way_err why;
    if (lua_type(r->L, -1) != LUA_TNUMBER)
        return bad_type(r, "an integer from 1 to 64");
    return told(r, way_config_set_workers(r->c, lua_tonumber(r->L, -1), &why), &why);
}

static int read_segment(struct reader *r)
{
    return read_string(r, &r->c->segment, "a path");
}

static int read_user(struct reader *r)
{
    return read_string(r, &r->c->user, "a user's name");
}

static int read_password(struct reader *r)
{
    r->has_password = true;
    return read_string(r, &r->c->password, "a password");
}

/* A path in the file is meant from the file's folder. Owned by the caller. */
static char *beside(const char *file, const char *path)
{
    const char *slash = strrchr(file, '/');
    if (path[0] == '/' || !slash)
        return way_strdup(path);
    struct way_buf b = { 0 };
    way_buf_put(&b, file, (size_t)(slash - file) + 1);
    way_buf_puts(&b, path);
    way_buf_put(&b, "", 1);
    return b.p;
}

static int read_password_file(struct reader *r)
{
    struct way_err why;
    const char *s = string_here(r, "a path");
    if (!s)
        return -1;
    if (r->has_password)
        return bad(r, "cluster.password is given too, expected one of them");
    char *path = beside(r->c->file, s);
    int result = way_config_set_password_file(r->c, path, &why);
    way_free(path);
    return told(r, result, &why);
}

/* Calls `each` with the value on top for every key, which must be a string. */
static int read_map(struct reader *r, const char *expected,
                    int (*each)(struct reader *r, const char *key))
{
    if (!lua_istable(r->L, -1))
        return bad_type(r, expected);
    size_t path = strlen(r->path);
    for (lua_pushnil(r->L); lua_next(r->L, -2); lua_pop(r->L, 1)) {
        if (lua_type(r->L, -2) != LUA_TSTRING)
            return bad(r, "expected names for keys, got an entry without one");
        size_t n;
        const char *key = lua_tolstring(r->L, -2, &n);
        enter(r, (struct way_span){ key, n });
        if (strlen(key) != n)
            return bad(r, "expected a name without zero bytes, got one with");
        if (each(r, key) < 0)
            return -1;
        r->path[path] = 0;
    }
    return 0;
}

static int read_path(struct reader *r, char **slot)
{
    const char *s = string_here(r, "a path");
    if (!s)
        return -1;
    way_config_replace(slot, beside(r->c->file, s));
    return 0;
}

static int read_tls_ca(struct reader *r)
{
    return read_path(r, &r->c->tls.ca);
}

static int read_tls_cert(struct reader *r)
{
    return read_path(r, &r->c->tls.cert);
}

static int read_tls_key(struct reader *r)
{
    return read_path(r, &r->c->tls.key);
}

static int read_tls_server_name(struct reader *r)
{
    return read_string(r, &r->c->tls.server_name, "a name");
}

static int read_tls_verify(struct reader *r)
{
    if (lua_type(r->L, -1) != LUA_TBOOLEAN)
        return bad_type(r, "true or false");
    r->c->tls.skip_verify = !lua_toboolean(r->L, -1);
    return 0;
}

static int read_zone(struct reader *r, const char *address)
{
    struct way_err why;
    const char *zone = string_here(r, "a zone's name");
    return zone ? told(r, way_config_add_zone(r->c, address, zone, &why), &why) : -1;
}

static int read_zones(struct reader *r)
{
    return read_map(r, "a table of \"host:port\" = zone", read_zone);
}

static int read_option(struct reader *r, const char *name)
{
    struct way_err why;
    struct way_option o = { .name = (char *)(uintptr_t)name };
    switch (lua_type(r->L, -1)) {
    case LUA_TNUMBER:
        o.type = WAY_OPTION_NUMBER;
        o.number = lua_tonumber(r->L, -1);
        if (!isfinite(o.number))
            return bad_type(r, "a finite number");
        break;
    case LUA_TBOOLEAN:
        o.type = WAY_OPTION_BOOLEAN;
        o.number = lua_toboolean(r->L, -1);
        break;
    case LUA_TSTRING:
        o.type = WAY_OPTION_STRING;
        if (lua_objlen(r->L, -1) > WAY_CONFIG_STRING_MAX)
            return bad(r, "expected a string of at most 4096 bytes, got more");
        o.text = (char *)(uintptr_t)lua_tostring(r->L, -1);
        break;
    default: return bad_type(r, "a number, a string, true or false");
    }
    return told(r, way_config_set_option(r->c, &o, &why), &why);
}

static int read_options(struct reader *r)
{
    return read_map(r, "a table of the policy's options", read_option);
}

static int read_watch(struct reader *r)
{
    if (lua_type(r->L, -1) != LUA_TBOOLEAN)
        return bad_type(r, "true or false");
    r->c->watch = lua_toboolean(r->L, -1);
    return 0;
}

static int read_policy_file(struct reader *r)
{
    const char *s = string_here(r, "a path, \"default\" or \"none\"");
    if (!s)
        return -1;
    bool word = !strcmp(s, "default") || !strcmp(s, "none");
    way_config_replace(&r->c->policy, word ? way_strdup(s) : beside(r->c->file, s));
    return 0;
}

static int read_console(struct reader *r)
{
    return read_local(r, &r->c->console);
}

static int read_http(struct reader *r)
{
    return read_local(r, &r->c->http);
}

static int read_journal_file(struct reader *r)
{
    return read_string(r, &r->c->journal, "a path");
}

static int read_number(struct reader *r, const char *expected,
                       int (*set)(struct way_config *, double, struct way_err *))
{
    struct way_err why;
    if (lua_type(r->L, -1) != LUA_TNUMBER)
        return bad_type(r, expected);
    return told(r, set(r->c, lua_tonumber(r->L, -1), &why), &why);
}

static int read_journal_bytes(struct reader *r)
{
    return read_number(r, "bytes (number, 16384 to 1e12)", way_config_set_journal_bytes);
}

static int read_journal_keep(struct reader *r)
{
    return read_number(r, "files (integer, 0 to 1000)", way_config_set_journal_keep);
}

static int read_log_level(struct reader *r)
{
    struct way_err why;
    const char *s = string_here(r, "a level");
    return s ? told(r, way_config_set_log_level(r->c, s, &why), &why) : -1;
}

static int read_setting(struct reader *r, const struct way_setting *s)
{
    struct way_err why;
    char text[128];
    bool boolean = way_config_is_bool(s);
    if (lua_type(r->L, -1) != (boolean ? LUA_TBOOLEAN : LUA_TNUMBER))
        return bad_type(r, way_config_setting_expected(s, text, sizeof text));
    double value = boolean ? lua_toboolean(r->L, -1) : lua_tonumber(r->L, -1);
    return told(r, way_config_set_setting(r->c, s, value, &why), &why);
}

/* --- keys: known, unknown, nearly known --- */

static int settings_group(const char *group)
{
    if (!strcmp(group, "timeouts"))
        return WAY_GROUP_TIMEOUTS;
    return strcmp(group, "limits") ? -1 : WAY_GROUP_LIMITS;
}

static const struct key *key_find(const char *group, const char *name)
{
    for (unsigned i = 0; i < way_count(keys); i++)
        if (!strcmp(keys[i].group, group) && !strcmp(keys[i].name, name))
            return &keys[i];
    return NULL;
}

/* Every key there is, settings included; false past the end. */
static bool key_at(unsigned i, const char **group, const char **name)
{
    if (i < way_count(keys)) {
        *group = keys[i].group;
        *name = keys[i].name;
        return true;
    }
    const struct way_setting *s = way_setting_at(i - way_count(keys));
    if (!s)
        return false;
    *group = s->group == WAY_GROUP_TIMEOUTS ? "timeouts" : "limits";
    *name = s->name;
    return true;
}

/* The nearest key of the same group, or one that is named so elsewhere. */
static bool suggest(const char *group, const char *word, const char **best_group,
                    const char **best_name)
{
    size_t n = strlen(word);
    unsigned best = n <= 4 ? 2 : n <= 8 ? 3 : 4; /* as near as this is too far */
    bool found = false;
    const char *in, *name;
    for (unsigned i = 0; key_at(i, &in, &name); i++) {
        bool here = !strcmp(in, group);
        unsigned distance = way_distance(word, name);
        if (here ? distance < best : !distance && !found) {
            if (here)
                best = distance;
            *best_group = in;
            *best_name = name;
            found = true;
        }
    }
    return found;
}

static int unknown_key(struct reader *r, const char *group, const char *word)
{
    const char *in, *name;
    char why[256];
    if (!suggest(group, word, &in, &name))
        return bad(r, "unknown key");
    snprintf(why, sizeof why, "unknown key, did you mean %s%s%s?", in, *in ? "." : "",
             name);
    return bad(r, why);
}

static int check_known(struct reader *r, const char *group)
{
    int settings = settings_group(group);
    for (lua_pushnil(r->L); lua_next(r->L, -2); lua_pop(r->L, 1)) {
        if (lua_type(r->L, -2) != LUA_TSTRING) {
            if (lua_type(r->L, -2) == LUA_TNUMBER)
                way_luatext_index(r->path, sizeof r->path,
                                  (unsigned)lua_tointeger(r->L, -2));
            return bad(r, "expected names for keys, got an entry without one");
        }
        size_t n;
        const char *name = lua_tolstring(r->L, -2, &n);
        bool known = settings < 0 ? key_find(group, name) != NULL
                                  : way_setting_find((enum way_setting_group)settings,
                                                     name) != NULL;
        if (known && strlen(name) == n)
            continue;
        enter(r, (struct way_span){ name, n });
        return unknown_key(r, group, name);
    }
    return 0;
}

static int read_group(struct reader *r, const char *group);

/* The value of one key, if it is given. */
static int read_key(struct reader *r, const char *name, const struct key *key,
                    const struct way_setting *setting)
{
    size_t path = strlen(r->path);
    int result = 0;
    lua_pushstring(r->L, name);
    lua_rawget(r->L, -2);
    if (!lua_isnil(r->L, -1)) {
        enter(r, (struct way_span){ name, strlen(name) });
        result = setting     ? read_setting(r, setting)
                 : key->read ? key->read(r)
                             : read_group(r, name);
        r->path[path] = 0;
    }
    lua_pop(r->L, 1);
    return result;
}

static int read_group(struct reader *r, const char *group)
{
    int settings = settings_group(group);
    if (!lua_istable(r->L, -1))
        return bad_type(r, "a table");
    if (check_known(r, group) < 0)
        return -1;
    for (unsigned i = 0; i < way_count(keys); i++)
        if (!strcmp(keys[i].group, group) &&
            read_key(r, keys[i].name, &keys[i], NULL) < 0)
            return -1;
    const struct way_setting *s;
    for (unsigned i = 0; settings >= 0 && (s = way_setting_at(i)); i++)
        if ((int)s->group == settings && read_key(r, s->name, NULL, s) < 0)
            return -1;
    return 0;
}

/* true is a table with nothing in it. */
static int read_tls(struct reader *r)
{
    int type = lua_type(r->L, -1);
    if (type != LUA_TBOOLEAN && type != LUA_TTABLE)
        return bad_type(r, "true, false or a table");
    r->c->tls.on = type == LUA_TTABLE || lua_toboolean(r->L, -1);
    return type == LUA_TTABLE ? read_group(r, "cluster.tls") : 0;
}

static int read_policy(struct reader *r)
{
    return lua_type(r->L, -1) == LUA_TSTRING ? read_policy_file(r)
                                             : read_group(r, "policy");
}

/* --- running the file --- */

/* What a policy's table may hold; a configuration's keys are all others. */
static const char *const policy_fields[] = {
    "name",    "version", "options",   "classes", "classify", "mark",
    "backoff", "probe",   "reconnect", "memory",  "counters", "pick",
    "route",   "tick",    "every",     "watch",   "migrate",  "selftest"
};

static bool has_field(lua_State *L, const char *name)
{
    lua_pushstring(L, name);
    lua_rawget(L, -2);
    bool has = !lua_isnil(L, -1);
    lua_pop(L, 1);
    return has;
}

/* Whether the table on top is a policy's. */
static bool policy_here(lua_State *L)
{
    bool policy = false;
    if (!lua_istable(L, -1))
        return false;
    for (unsigned i = 0; i < way_count(keys); i++)
        if (!*keys[i].group && has_field(L, keys[i].name))
            return false;
    for (unsigned i = 0; i < way_count(policy_fields); i++)
        policy = policy || has_field(L, policy_fields[i]);
    return policy;
}

/* Stands for `require`, which only policies have. */
static int refuse_require(lua_State *L)
{
    struct reader *r = lua_touserdata(L, lua_upvalueindex(1));
    r->policy = true;
    return luaL_error(L, "a configuration can't require anything");
}

static int bad_result(struct reader *r)
{
    char number[32];
    return way_fail(r->err, "%s: expected the file to return a table, got %s", r->c->file,
                    got(r->L, -1, number, sizeof number));
}

/* Inside the protected call: runs the file and reads what it returned. */
static int run_here(lua_State *L, void *arg)
{
    struct reader *r = arg;
    const char *slash = strrchr(r->c->file, '/');
    r->L = L;
    way_script_globals(L);
    lua_pushlightuserdata(L, r);
    lua_pushcclosure(L, refuse_require, 1);
    lua_setfield(L, -2, "require");
    lua_pop(L, 1);
    /* Lua cuts long names from the left: the folder is put back by bad_run. */
    way_script_run(L, slash ? slash + 1 : r->c->file, r->text.p, r->text.n);
    r->policy = policy_here(L);
    if (r->policy)
        r->result = way_fail(r->err,
                             "%s: is a policy, not a configuration (which would name it: "
                             "policy = \"%s\"; or --policy)",
                             r->c->file, slash ? slash + 1 : r->c->file);
    else
        r->result = lua_istable(L, -1) ? read_group(r, "") : bad_result(r);
    return 0;
}

/* The script's own error: its first line, with the file's folder or name before it. */
static int bad_run(struct reader *r, const struct way_script_failure *failure)
{
    const char *file = r->c->file, *slash = strrchr(file, '/');
    const char *base = slash ? slash + 1 : file;
    int line = (int)strcspn(failure->text, "\n");
    if (strncmp(failure->text, base, strlen(base)) == 0)
        return way_fail(r->err, "%.*s%.*s", (int)(base - file), file, line,
                        failure->text);
    return way_fail(r->err, "%s: %.*s", file, line, failure->text);
}

static int load_text(struct reader *r)
{
    struct way_script *script =
        way_script_new(&(struct way_script_limits){ .wall = 0.02 });
    int result;
    if (!script)
        result = way_fail(r->err, "%s: no memory to run it", r->c->file);
    else if (way_script_call_loading(script, run_here, r) < 0)
        result = bad_run(r, way_script_failure(script));
    else
        result = r->result;
    way_script_free(script);
    return result;
}

/* Runs c->file into c. *policy: it turned out to be one. */
static int load(struct way_config *c, bool *policy, struct way_err *err)
{
    char *text = NULL;
    struct reader r = { .c = c, .err = err };
    int result = way_file_read(c->file, FILE_MAX, &text, &r.text.n, err);
    if (result == 0) {
        r.text.p = text;
        result = load_text(&r);
    }
    way_free(text);
    *policy = r.policy;
    return result;
}

int way_config_load(struct way_config *c, const char *file, struct way_err *err)
{
    bool policy;
    way_config_replace(&c->file, way_strdup(file));
    return load(c, &policy, err);
}

int way_config_load_text(struct way_config *c, const char *name, const char *text,
                         size_t n, struct way_err *err)
{
    way_config_replace(&c->file, way_strdup(name));
    if (n > FILE_MAX)
        return way_fail(err, "%s: expected at most %d bytes, got more", name, FILE_MAX);
    struct reader r = { .c = c, .err = err, .text = { text, n } };
    return load_text(&r);
}

bool way_config_is_policy(const char *file)
{
    struct way_config c;
    bool policy;
    struct way_err err;
    way_config_init(&c);
    c.file = way_strdup(file);
    int result = load(&c, &policy, &err);
    way_config_fini(&c);
    return result < 0 && policy;
}

/* --- the whole --- */

void way_config_init(struct way_config *c)
{
    *c = (struct way_config){ .workers = 1,
                              .journal_max_bytes = 64 * 1024 * 1024,
                              .journal_keep = 4 };
    way_timeouts_default(&c->timeouts);
    way_limits_default(&c->limits);
}

void way_config_fini(struct way_config *c)
{
    while (c->listens)
        way_free(c->listen[--c->listens]);
    while (c->seed_count)
        way_free(c->seeds[--c->seed_count]);
    while (c->options)
        way_config_drop_option(c, c->options - 1);
    while (c->zone_count) {
        way_free(c->zones[--c->zone_count].address);
        way_free(c->zones[c->zone_count].zone);
    }
    way_free(c->option);
    way_free(c->zones);
    way_tls_free(c->tls.context);
    c->tls.context = NULL;
    char **strings[] = { &c->tls.ca,          &c->tls.cert, &c->tls.key,
                         &c->tls.server_name, &c->file,     &c->user,
                         &c->password,        &c->policy,   &c->segment,
                         &c->console,         &c->http,     &c->log_level,
                         &c->name_servers,    &c->journal };
    for (unsigned i = 0; i < way_count(strings); i++)
        way_config_replace(strings[i], NULL);
}

static int check_list(const char *name, char *const *list, unsigned n,
                      int (*check)(const char *, struct way_err *), struct way_err *err)
{
    for (unsigned i = 0; i < n; i++) {
        if (check(list[i], err) < 0)
            return way_fail_in(err, "%s[%u]", name, i + 1);
        for (unsigned k = 0; k < i; k++)
            if (!strcmp(list[i], list[k]))
                return way_fail(err, "%s[%u]: %s is there twice", name, i + 1, list[i]);
    }
    return 0;
}

/* Two sockets can't be bound to one address. */
static int check_apart(const struct way_config *c, const char *name, const char *address,
                       struct way_err *err)
{
    if (!address)
        return 0;
    if (way_config_check_local(address, err) < 0)
        return way_fail_in(err, "%s", name);
    for (unsigned i = 0; i < c->listens; i++)
        if (!strcmp(address, c->listen[i]))
            return way_fail(err, "%s: %s is there twice, in listen too", name, address);
    return 0;
}

static int check_cluster(const struct way_config *c, struct way_err *err)
{
    if (!c->seed_count)
        return way_fail(err, "cluster.seeds: expected an address of a node (or "
                             "--cluster), got nothing");
    if (c->user && !c->password)
        return way_fail(err, "cluster.user: expected cluster.password or "
                             "cluster.password_file beside it, got neither");
    return check_list("cluster.seeds", c->seeds, c->seed_count, way_config_check_node,
                      err);
}

/* What the files hold comes of this: so that a host never starts without. */
static int load_tls(struct way_config_tls *t, struct way_err *err)
{
    struct way_tls_options o = { .ca = t->ca,
                                 .cert = t->cert,
                                 .key = t->key,
                                 .name = t->server_name,
                                 .skip_verify = t->skip_verify };
    struct way_err why = { "" };
    way_tls_free(t->context);
    t->context = NULL;
    if (!t->on)
        return 0;
    t->context = way_tls_new(&o, &why);
    return t->context ? 0 : way_fail(err, "cluster.tls.%s", why.text);
}

static int check_whole(const struct way_config *c, struct way_err *err)
{
    if (!c->listens)
        return way_fail(err, "listen: expected an address to serve on (or --listen), got "
                             "nothing");
    if (check_cluster(c, err) < 0 ||
        check_list("listen", c->listen, c->listens, way_config_check_local, err) < 0 ||
        check_apart(c, "admin.console", c->console, err) < 0 ||
        check_apart(c, "admin.http", c->http, err) < 0)
        return -1;
    if (c->console && c->http && !strcmp(c->console, c->http))
        return way_fail(err, "admin.http: %s is there twice, in admin.console too",
                        c->http);
    return 0;
}

int way_config_check(struct way_config *c, struct way_err *err)
{
    if (check_whole(c, err) == 0 && load_tls(&c->tls, err) == 0)
        return 0;
    return c->file ? way_fail_in(err, "%s", c->file) : -1;
}

int way_config_check_inside(struct way_config *c, struct way_err *err)
{
    if (check_cluster(c, err) == 0 && load_tls(&c->tls, err) == 0)
        return 0;
    return c->file ? way_fail_in(err, "%s", c->file) : -1;
}
