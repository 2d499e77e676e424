/* script - a Lua state that can't hurt: capped, budgeted, sandboxed, always protected.
 *
 * One state belongs to one thread. Its memory is capped (by state and by allocation), the
 * JIT is off so that the count hook always fires, and every entry runs under an
 * instruction budget with a deadline as backstop, which a preempted thread does not miss. Scripts see the allow-list of
 * core/runtime/allow.lua and nothing else: no pcall, no coroutines, no way to the real
 * string functions. What C functions do on a script's behalf is charged to its budget.
 *
 * Nothing touches the state outside way_script_call, not even to build arguments: there an
 * error, a tripped budget or a refused allocation becomes -1 with a cause. The module hides
 * the allocator, the hook, the collector's pace and the sandbox. It, policy and config alone
 * include lua.h. */
#ifndef WAY_SCRIPT_H
#define WAY_SCRIPT_H

#include "base.h"

struct lua_State;
struct way_script;

enum {
    WAY_SCRIPT_ALLOCATION = 65536, /* bytes: no single allocation is larger */
    WAY_SCRIPT_STRING = 4096, /* bytes: string functions take and give no longer ones */
    WAY_SCRIPT_LIST = 1024,   /* elements that one table function may walk or move */
    WAY_SCRIPT_TEXT = 262144, /* bytes of a script's text */
    WAY_SCRIPT_DEPTH = 16, /* calls of a script's function by C that it called, nested */
};

/* 0 in a field: the default in brackets. */
struct way_script_limits {
    double instructions; /* per call (100,000) */
    double wall;         /* seconds per call (0.002) */
    double memory;       /* bytes per state (4 MiB) */
};

/* NULL: the memory limit is too small for the libraries. Loading has a budget of its
 * own: fifty times the instructions of a call, five hundred times its seconds. */
struct way_script *way_script_new(const struct way_script_limits *limits);
void way_script_free(struct way_script *s);

/* Runs inside the protected call. Arguments and results travel by `arg`; what it leaves on
 * the stack is dropped; it may raise (lua_error) as long as it owns nothing that the raise
 * would leak. Returns 0. */
typedef int (*way_script_fn)(struct lua_State *L, void *arg);

/* 0, or -1: see way_script_failure. Not to be entered from within itself. */
int way_script_call(struct way_script *s, way_script_fn fn, void *arg) WAY_MUST_CHECK;
/* The same under a budget of so many calls: for what is done for many at once. */
int way_script_call_times(struct way_script *s, way_script_fn fn, void *arg,
                          unsigned times) WAY_MUST_CHECK;
/* The same under the loader's budget. */
int way_script_call_loading(struct way_script *s, way_script_fn fn,
                            void *arg) WAY_MUST_CHECK;

struct way_script_failure {
    const char *cause; /* "error", "budget", "deadline", "memory" */
    char text[512];    /* with file and line; the traceback's first lines below */
};
/* Of the last call that returned -1. */
const struct way_script_failure *way_script_failure(const struct way_script *s);

/* Compiles the text (never bytecode), runs it in the sandbox and keeps its first result for
 * way_script_result. `name` is the file's name in messages. -1 with "name:line: ..." for a
 * syntax error, an error raised, a budget exceeded. */
int way_script_load_text(struct way_script *s, const char *name, const char *text,
                         size_t n, struct way_err *err) WAY_MUST_CHECK;

/* ---- inside way_script_call ---- */
/* Pushes the result of the last way_script_load_text; nil if it returned nothing. */
void way_script_result(struct lua_State *L);
/* Compiles, runs in the sandbox, leaves exactly one result. Raises. */
void way_script_run(struct lua_State *L, const char *name, const char *text, size_t n);
/* Runs a file of core/runtime ("runtime/wayside.lua") with the real globals and the host's
 * table, which is on top of the stack and replaced by the file's one result. Raises. */
void way_script_runtime(struct lua_State *L, const char *name);
/* Pushes the table that scripts' globals are read from: what is put there they can see. */
void way_script_globals(struct lua_State *L);
/* Replaces the table on top by one that reads from it and can't be written to; strict:
 * reading what is not there raises. `what` names it in messages. */
void way_script_read_only(struct lua_State *L, const char *what, bool strict);
struct way_script *way_script_of(struct lua_State *L);
/* What the owner of the script wants its functions to find; borrowed. */
void *way_script_user(struct lua_State *L);
void way_script_user_set(struct way_script *s, void *user);
/* Charges work done by C to the call, in instructions. Raises once the budget is spent. */
void way_script_charge(struct lua_State *L, size_t instructions);
/* Around what C has to ask of a script's function. Raises at WAY_SCRIPT_DEPTH: to unwind
 * hundreds of C frames takes milliseconds. An error ends the call, so needs no way back. */
void way_script_deeper(struct lua_State *L);
void way_script_back(struct lua_State *L);

/* The state, for those who push and read inside way_script_call. */
struct lua_State *way_script_lua(struct way_script *s);
size_t way_script_bytes(const struct way_script *s);   /* memory held now */
uint64_t way_script_calls(const struct way_script *s); /* entries, loading included */
/* Instructions that the last call was charged with, in steps of the hook's interval. */
uint64_t way_script_spent(const struct way_script *s);

#endif
