/* spec - see spec.h. The runner is Lua (core/runtime/spec.lua), for what it calls is. busted
 * itself is not asked for: a production host has none, and what it finds there would be of
 * another Lua. */
#include "spec.h"

#include "policy_host.h"
#include "runtime_files.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

static const struct way_runtime_file *file_named(const char *name)
{
    const struct way_runtime_file *f = way_runtime_files;
    while (f->name && strcmp(f->name, name) != 0)
        f++;
    return f;
}

/* Pushes the compiled file of core/runtime, or raises. */
static void load_runtime(lua_State *L, const char *name)
{
    const struct way_runtime_file *f = file_named(name);
    if (!f->name || luaL_loadbuffer(L, f->text, f->size, f->name) != 0)
        luaL_error(L, "%s: is not built in", name);
}

static int open_test(lua_State *L)
{
    load_runtime(L, "runtime/test.lua");
    lua_getglobal(L, "require");
    lua_pushliteral(L, "wayside.test_host");
    lua_call(L, 1, 1);
    lua_call(L, 1, 1);
    return 1;
}

static void preload(lua_State *L, const char *name, lua_CFunction open)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, open);
    lua_setfield(L, -2, name);
    lua_pop(L, 2);
}

struct run {
    const char *const *file;
    unsigned files;
    int result;
};

static int run_here(lua_State *L)
{
    struct run *r = lua_touserdata(L, 1);
    luaL_openlibs(L);
    preload(L, "wayside.test_host", luaopen_wayside_test_host);
    preload(L, "wayside.test", open_test);
    load_runtime(L, "runtime/spec.lua");
    lua_call(L, 0, 1); /* the chunk gives the runner */
    lua_createtable(L, (int)r->files, 0);
    for (unsigned i = 0; i < r->files; i++) {
        lua_pushstring(L, r->file[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_call(L, 1, 1);
    r->result = (int)lua_tointeger(L, -1);
    return 0;
}

int way_spec_run(const char *const *file, unsigned files, struct way_err *err)
{
    struct run r = { .file = file, .files = files, .result = -1 };
    lua_State *L = luaL_newstate();
    if (!L)
        return way_fail(err, "test: no memory for a Lua state");
    if (lua_cpcall(L, run_here, &r) != 0) {
        const char *text = lua_tostring(L, -1);
        way_fail(err, "%s",
                 text ? text : "test: the spec raised something without a text");
        r.result = -1;
    }
    lua_close(L);
    return r.result;
}
