/* script - see script.h.
 *
 * The stack of the state holds three functions for ever: the traceback handler, the
 * trampoline, which runs the caller's body, and the collector's slice. An entry pushes the
 * trampoline (no allocation), arms the hook and calls lua_pcall; so even building arguments
 * is protected.
 *
 * The collector is stopped while a script runs. Once enough was allocated, a cycle goes on
 * by a slice after each call. So what a call allocates is bounded by the cap, and no pause
 * falls into it. After a refused allocation the slices go on, at most a millisecond each, until half
 * of the cap is free.
 *
 * Small blocks that Lua gives back are kept by size for its next ones, up to what a cycle
 * frees: a question is a dozen allocations, and malloc was a seventh of its time.
 *
 * Rejected: collecting within the call (a full cycle may come at any instruction), and a
 * fresh state after a refused allocation (a load costs a hundred times as much). */
#include "script.h"

#include "natives.h"
#include "runtime_files.h"

#include <assert.h>
#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    INTERVAL = 10,        /* instructions between two calls of the hook */
    UNLOOKED = 200,       /* instructions between two looks at the clock, or earlier */
    TICKS = 20000,        /* when so many ticks have passed: instructions can be slow */
    CYCLE_BYTES = 262144, /* allocated since the last cycle's end: time for another */
    SLICE_WORK = 32,      /* of lua_gc's step, in KiB */
    STEP = 16,            /* bytes between two sizes of small blocks */
    SIZES = 8,            /* of them */
    TRACED = 8,           /* calls that a traceback tells, the innermost */
    LOADING = 50,         /* times a call's instructions */
    LOADING_WALL = 500,   /* times its seconds: a busy machine must not refuse a file */
    AT_HANDLER = 1,
    AT_TRAMPOLINE,
    AT_SLICE,
    AT_TOP = AT_SLICE, /* stack indexes */
};
static const double standard_instructions = 100000, standard_wall = 0.002,
                    standard_memory = 4 << 20, slice_seconds = 0.001;

struct way_script {
    lua_State *L;
    size_t used, cap; /* bytes */
    struct block {
        struct block *next;
    } * kept[SIZES];  /* small blocks that Lua gave back */
    size_t idle;      /* bytes of them */
    size_t cycle;     /* bytes allocated between two cycles */
    size_t collected; /* used after the last cycle */
    bool collecting;  /* a cycle is on its way */
    bool refused;     /* an allocation was, in this call */
    bool full;        /* one was, and half of the cap is not free yet */
    bool running, tripped;
    double instructions, wall;
    int64_t left;     /* instructions of this call */
    int64_t unlooked; /* since the clock was looked at */
    int64_t granted;
    double allowed;  /* seconds of this call */
    double deadline; /* by the clock; 0: set at the first look */
    double cpu_end;  /* by this thread's time; 0: the first half is not over */
    uint64_t ticked; /* at the last look */
    unsigned depth;  /* of functions called by C that scripts called */
    const char *cause;
    way_script_fn fn;
    void *arg;
    int result, globals, environment, read_only; /* registry references */
    void *user;
    uint64_t calls;
    struct way_script_failure failure;
};

/* The number of a small size; SIZES or more: it is not small. */
static size_t size_class(size_t size)
{
    return (size - 1) / STEP;
}

static void *take_block(struct way_script *s, size_t size)
{
    size_t class = size_class(size);
    if (class >= SIZES)
        return malloc(size);
    struct block *b = s->kept[class];
    if (!b)
        return malloc((class + 1) * STEP);
    s->kept[class] = b->next;
    s->idle -= (class + 1) * STEP;
    return b;
}

static void give_block(struct way_script *s, void *p, size_t size)
{
    size_t class = size_class(size);
    struct block *b = p;
    if (!p)
        return;
    if (class >= SIZES || s->idle > s->cycle) {
        free(p);
        return;
    }
    b->next = s->kept[class];
    s->kept[class] = b;
    s->idle += (class + 1) * STEP;
}

static void *change_block(struct way_script *s, void *p, size_t old, size_t size)
{
    if (old && size_class(old) == size_class(size) && size_class(size) < SIZES)
        return p;
    if (old && size_class(old) >= SIZES && size_class(size) >= SIZES)
        return realloc(p, size);
    void *got = take_block(s, size);
    if (got && old) {
        memcpy(got, p, old < size ? old : size);
        give_block(s, p, old);
    }
    return got;
}

static void *allocate(void *ud, void *p, size_t old, size_t size)
{
    struct way_script *s = ud;
    if (!size) {
        if (p && old)
            give_block(s, p, old);
        s->used -= p ? old : 0;
        return NULL;
    }
    if (!p)
        old = 0;
    if (size > old && (size > WAY_SCRIPT_ALLOCATION || s->used - old + size > s->cap)) {
        s->refused = true;
        return NULL;
    }
    void *got = change_block(s, p, old, size);
    if (!got && size <= old)
        abort(); /* the collector relies on shrinking */
    if (got)
        s->used = s->used - old + size;
    else
        s->refused = true;
    return got;
}

struct way_script *way_script_of(lua_State *L)
{
    void *ud;
    lua_getallocf(L, &ud);
    return ud;
}

/* ---- the budget ---- */

static void hook(lua_State *L, lua_Debug *ar);

/* "file:line: " of the innermost function that has lines. */
static void where(lua_State *L)
{
    lua_Debug ar;
    for (int level = 0; level < 4 && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline > 0) {
            lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
            return;
        }
    }
    lua_pushliteral(L, "");
}

static int trip(lua_State *L, struct way_script *s, const char *cause)
{
    if (!s->tripped) {
        s->tripped = true;
        s->cause = cause;
        lua_sethook(L, hook, LUA_MASKCOUNT, 1);
    }
    where(L);
    if (!strcmp(s->cause, "budget"))
        lua_pushfstring(L, "more than %d instructions in one call", (int)s->granted);
    else
        lua_pushfstring(L, "more than %d ms in one call", (int)(s->allowed * 1000));
    lua_concat(L, 2);
    return lua_error(L);
}

/* A cheap clock of no certain unit, some 0.3 to 10 ns. */
static uint64_t ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return (uint64_t)(way_clock() * 1e9);
#endif
}

static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Half of the time is over by the clock. The other half counts only while this thread
 * runs: on a busy machine a script is not guilty of having been preempted. */
static void late(lua_State *L, struct way_script *s, double now)
{
    double spent = thread_seconds();
    if (s->cpu_end == 0)
        s->cpu_end = spent + s->allowed / 2;
    else if (spent >= s->cpu_end)
        trip(L, s, "deadline");
    s->deadline = now + (s->cpu_end - spent);
}

static void look(lua_State *L, struct way_script *s)
{
    if (s->left < 0)
        trip(L, s, "budget");
    double now = way_clock();
    if (s->deadline == 0)
        s->deadline = now + s->allowed / 2;
    else if (now > s->deadline)
        late(L, s, now);
    s->unlooked = 0;
    s->ticked = ticks();
}

static void hook(lua_State *L, lua_Debug *ar)
{
    struct way_script *s = way_script_of(L);
    (void)ar;
    if (!s->running)
        return;
    if (s->tripped)
        trip(L, s, s->cause);
    s->left -= INTERVAL;
    s->unlooked += INTERVAL;
    if (s->left < 0 || s->unlooked >= UNLOOKED || ticks() - s->ticked > TICKS)
        look(L, s);
}

void way_script_charge(lua_State *L, size_t instructions)
{
    struct way_script *s = way_script_of(L);
    s->left -= (int64_t)instructions;
    s->unlooked += (int64_t)instructions;
    if (s->left < 0 || s->unlooked >= UNLOOKED)
        look(L, s);
}

void way_script_deeper(lua_State *L)
{
    struct way_script *s = way_script_of(L);
    if (s->depth == WAY_SCRIPT_DEPTH)
        luaL_error(L, "functions given to sort and gsub call each other too deep");
    s->depth++;
}

void way_script_back(lua_State *L)
{
    way_script_of(L)->depth--;
}

/* ---- entries ---- */

/* Where a function of the stack is: false if there is nothing to tell of it. */
static bool push_frame(lua_State *L, lua_Debug *ar)
{
    lua_getinfo(L, "Snl", ar);
    bool c = *ar->what == 'C';
    if (c && !ar->name)
        return false; /* our own trampoline, and library functions without a name */
    if (ar->currentline > 0)
        lua_pushfstring(L, "\n\t%s:%d: in ", ar->short_src, ar->currentline);
    else
        lua_pushfstring(L, "\n\t%s: in ", ar->short_src);
    if (ar->name)
        lua_pushfstring(L, "function '%s'", ar->name);
    else if (*ar->what == 'm')
        lua_pushliteral(L, "main chunk");
    else
        lua_pushfstring(L, "function <%s:%d>", ar->short_src, ar->linedefined);
    lua_concat(L, 2);
    return true;
}

/* Behind the text on top. Of the innermost calls only: the library's own traceback looks
 * for the outermost ones too, which takes milliseconds in a deep recursion. */
static void add_traceback(lua_State *L)
{
    lua_Debug ar;
    int pieces = 2;
    lua_pushliteral(L, "\nstack traceback:");
    for (int level = 1; level <= TRACED && lua_getstack(L, level, &ar); level++)
        pieces += push_frame(L, &ar);
    lua_concat(L, pieces);
}

static int on_error(lua_State *L)
{
    if (!lua_isstring(L, 1)) {
        lua_pushfstring(L, "raised a %s instead of a text", luaL_typename(L, 1));
        lua_replace(L, 1);
    }
    lua_settop(L, 1);
    add_traceback(L);
    return 1;
}

static int trampoline(lua_State *L)
{
    struct way_script *s = way_script_of(L);
    luaL_checkstack(L, 40, NULL);
    s->fn(L, s->arg);
    return 0;
}

static int slice(lua_State *L)
{
    struct way_script *s = way_script_of(L);
    double until = s->full ? way_clock() + slice_seconds : 0;
    do
        s->collecting = !lua_gc(L, LUA_GCSTEP, SLICE_WORK);
    while (s->full && s->collecting && way_clock() < until);
    return 0;
}

/* The collector allocates too (it resizes the table of strings), so it is protected. */
static void collect(struct way_script *s)
{
    lua_pushvalue(s->L, AT_SLICE);
    (void)lua_pcall(s->L, 0, 0, 0);
    lua_settop(s->L, AT_TOP);
    (void)lua_gc(s->L, LUA_GCSTOP, 0);
    if (!s->collecting)
        s->collected = s->used;
    if (s->full && s->used < s->cap / 2)
        s->full = false;
}

static void note_failure(struct way_script *s, int status)
{
    const char *text = lua_tostring(s->L, -1);
    bool memory = status == LUA_ERRMEM || (status == LUA_ERRERR && s->refused);
    s->failure.cause = memory ? "memory" : s->tripped ? s->cause : "error";
    if (memory)
        snprintf(s->failure.text, sizeof s->failure.text,
                 "out of memory: %zu of %zu bytes held, at most %d in one piece", s->used,
                 s->cap, WAY_SCRIPT_ALLOCATION);
    else
        snprintf(s->failure.text, sizeof s->failure.text, "%s", text ? text : "?");
    if (s->refused)
        s->full = true;
}

static int enter(struct way_script *s, way_script_fn fn, void *arg, double instructions,
                 double wall)
{
    lua_State *L = s->L;
    assert(!s->running && lua_gettop(L) == AT_TOP);
    s->fn = fn;
    s->arg = arg;
    s->left = s->granted = (int64_t)instructions;
    s->unlooked = 0;
    s->allowed = wall;
    s->deadline = s->cpu_end = 0;
    s->ticked = ticks();
    s->depth = 0;
    s->refused = s->tripped = false;
    s->running = true;
    s->calls++;
    lua_sethook(L, hook, LUA_MASKCOUNT, INTERVAL);
    lua_pushvalue(L, AT_TRAMPOLINE);
    int status = lua_pcall(L, 0, 0, AT_HANDLER);
    s->running = false;
    if (status)
        note_failure(s, status);
    lua_settop(L, AT_TOP);
    if (s->used > s->collected + s->cycle || s->collecting || s->full)
        collect(s);
    return status ? -1 : 0;
}

int way_script_call(struct way_script *s, way_script_fn fn, void *arg)
{
    return enter(s, fn, arg, s->instructions, s->wall);
}

int way_script_call_times(struct way_script *s, way_script_fn fn, void *arg,
                          unsigned times)
{
    return enter(s, fn, arg, s->instructions * times, s->wall * times);
}

int way_script_call_loading(struct way_script *s, way_script_fn fn, void *arg)
{
    return enter(s, fn, arg, s->instructions * LOADING, s->wall * LOADING_WALL);
}

/* ---- loading ---- */

static void compile(lua_State *L, const char *name, const char *text, size_t n)
{
    char at[256];
    snprintf(at, sizeof at, "@%s", name);
    if (n > WAY_SCRIPT_TEXT)
        luaL_error(L, "%s: longer than %d bytes", name, WAY_SCRIPT_TEXT);
    if (n && text[0] == '\x1b')
        luaL_error(L, "%s: bytecode, expected Lua text", name);
    if (luaL_loadbufferx(L, text, n, at, "t"))
        lua_error(L);
}

void way_script_run(lua_State *L, const char *name, const char *text, size_t n)
{
    compile(L, name, text, n);
    lua_rawgeti(L, LUA_REGISTRYINDEX, way_script_of(L)->environment);
    lua_setfenv(L, -2);
    lua_call(L, 0, 1);
}

void way_script_runtime(lua_State *L, const char *name)
{
    const struct way_runtime_file *f = way_runtime_files;
    while (f->name && strcmp(f->name, name))
        f++;
    if (!f->name)
        luaL_error(L, "%s: not part of this program", name);
    compile(L, f->name, f->text, f->size);
    lua_insert(L, -2);
    lua_call(L, 1, 1);
}

void way_script_result(lua_State *L)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, way_script_of(L)->result);
}

void way_script_globals(lua_State *L)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, way_script_of(L)->globals);
}

void way_script_read_only(lua_State *L, const char *what, bool strict)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, way_script_of(L)->read_only);
    lua_insert(L, -2);
    lua_pushstring(L, what);
    lua_pushboolean(L, strict);
    lua_call(L, 3, 1);
}

void way_script_user_set(struct way_script *s, void *user)
{
    s->user = user;
}

void *way_script_user(lua_State *L)
{
    return way_script_of(L)->user;
}

struct text {
    const char *name, *text;
    size_t n;
};

static int load_body(lua_State *L, void *arg)
{
    const struct text *t = arg;
    way_script_run(L, t->name, t->text, t->n);
    lua_rawseti(L, LUA_REGISTRYINDEX, way_script_of(L)->result);
    return 0;
}

int way_script_load_text(struct way_script *s, const char *name, const char *text,
                         size_t n, struct way_err *err)
{
    struct text t = { name, text, n };
    if (!way_script_call_loading(s, load_body, &t))
        return 0;
    char *trace = strstr(s->failure.text, "\nstack traceback:");
    if (trace)
        *trace = 0;
    bool placed = !strncmp(s->failure.text, name, strlen(name));
    return placed ? way_fail(err, "%s", s->failure.text)
                  : way_fail(err, "%s: %s", name, s->failure.text);
}

/* ---- creation ---- */

static int new_reference(lua_State *L)
{
    lua_pushboolean(L, 0); /* luaL_ref keeps nil apart */
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

static void open_libraries(lua_State *L)
{
    static const lua_CFunction open[] = { luaopen_base, luaopen_table, luaopen_string,
                                          luaopen_math, luaopen_bit };
    for (unsigned i = 0; i < way_count(open); i++) {
        lua_pushcfunction(L, open[i]);
        lua_call(L, 0, 0);
    }
}

/* The host's table for the sandbox: the allow-list and the guarded functions. What comes
 * back are the globals, and the environment through which scripts read them. */
static void build_sandbox(lua_State *L, struct way_script *s)
{
    lua_createtable(L, 0, 4);
    lua_newtable(L);
    way_script_runtime(L, "runtime/allow.lua");
    lua_setfield(L, -2, "allow");
    way_natives_push(L);
    lua_setfield(L, -2, "natives");
    way_script_runtime(L, "runtime/sandbox.lua");
    lua_getfield(L, -1, "globals");
    lua_rawseti(L, LUA_REGISTRYINDEX, s->globals);
    lua_getfield(L, -1, "environment");
    lua_rawseti(L, LUA_REGISTRYINDEX, s->environment);
    lua_getfield(L, -1, "read_only");
    lua_rawseti(L, LUA_REGISTRYINDEX, s->read_only);
    lua_pop(L, 1);
}

static const char *const fixed_names[AT_TOP] = { "wayside.handler", "wayside.trampoline",
                                                 "wayside.slice" };

static int build(lua_State *L)
{
    struct way_script *s = way_script_of(L);
    luaL_checkstack(L, 40, NULL);
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    open_libraries(L);
    s->result = new_reference(L);
    s->globals = new_reference(L);
    s->environment = new_reference(L);
    s->read_only = new_reference(L);
    build_sandbox(L, s);
    lua_pushnil(L);
    lua_rawseti(L, LUA_REGISTRYINDEX, s->result);
    static const lua_CFunction fixed[] = { on_error, trampoline, slice };
    for (unsigned i = 0; i < way_count(fixed); i++) {
        lua_pushcfunction(L, fixed[i]);
        lua_setfield(L, LUA_REGISTRYINDEX, fixed_names[i]);
    }
    return 0;
}

/* The only names looked up outside a protected call: they exist, nothing is allocated. */
static void settle(struct way_script *s)
{
    lua_settop(s->L, 0);
    for (unsigned i = 0; i < AT_TOP; i++)
        lua_getfield(s->L, LUA_REGISTRYINDEX, fixed_names[i]);
    (void)lua_gc(s->L, LUA_GCSTOP, 0);
    s->collected = s->used;
}

static double or_standard(double given, double standard)
{
    return given > 0 ? given : standard;
}

struct way_script *way_script_new(const struct way_script_limits *limits)
{
    struct way_script *s = way_zalloc(sizeof *s);
    s->instructions =
        or_standard(limits ? limits->instructions : 0, standard_instructions);
    s->wall = or_standard(limits ? limits->wall : 0, standard_wall);
    s->cap = (size_t)or_standard(limits ? limits->memory : 0, standard_memory);
    s->cycle = s->cap / 8 < CYCLE_BYTES ? s->cap / 8 : CYCLE_BYTES;
    s->L = lua_newstate(allocate, s);
    if (!s->L)
        goto fail;
    int status = lua_cpcall(s->L, build, NULL);
    if (status) {
        /* Our own files are broken, unless the cap is too small for them. */
        const char *text = lua_tostring(s->L, -1);
        if (!s->refused)
            fprintf(stderr, "wayside: runtime: %s\n", text ? text : "?");
        assert(s->refused);
        goto fail;
    }
    settle(s);
    return s;
fail:
    way_script_free(s);
    return NULL;
}

void way_script_free(struct way_script *s)
{
    if (!s)
        return;
    if (s->L)
        lua_close(s->L);
    for (unsigned i = 0; i < SIZES; i++)
        while (s->kept[i]) {
            struct block *b = s->kept[i];
            s->kept[i] = b->next;
            free(b);
        }
    way_free(s);
}

const struct way_script_failure *way_script_failure(const struct way_script *s)
{
    return &s->failure;
}

lua_State *way_script_lua(struct way_script *s)
{
    return s->L;
}

size_t way_script_bytes(const struct way_script *s)
{
    return s->used;
}

uint64_t way_script_calls(const struct way_script *s)
{
    return s->calls;
}

uint64_t way_script_spent(const struct way_script *s)
{
    return (uint64_t)(s->granted - s->left);
}
