/* policy - one loaded policy in one Lua state: the contract, in C terms.
 *
 * A policy is asked and answers; it never acts. It has no memory of its own: what it may
 * remember comes in as numbers and goes back as numbers. Each worker, and the control
 * thread, loads the same text into a state of its own; a state is used by its thread
 * alone. Every entry is protected, under an instruction budget, a wall deadline and a
 * memory cap: an error never passes this header, it becomes WAY_ASKED_FAILED with a cause
 * and a text, and the caller uses the fallback (fallback.h).
 *
 * The module hides Lua, the sandbox, the runtime's modules (core/runtime, embedded), and
 * the compiled table of classes. */
#ifndef WAY_POLICY_H
#define WAY_POLICY_H

#include "base.h"
#include "event.h"
#include "fallback.h"
#include "health.h"
#include "limits.h"

struct way_policy;

enum way_option_type {
    WAY_OPTION_WORD,
    WAY_OPTION_NUMBER,
    WAY_OPTION_STRING,
    WAY_OPTION_BOOLEAN
};
/* As given by configuration (typed) or by --option k=v (a word, converted to the type of
 * the option's default). */
struct way_option {
    char *name;
    enum way_option_type type;
    char *text;    /* of WORD and STRING */
    double number; /* of NUMBER and BOOLEAN */
};

/* A file that a policy requires. */
struct way_policy_beside {
    char *name; /* "strikes.lua" */
    char *text;
    size_t n;
};
/* A policy's text, read once (way_policy_read) and loaded by every thread. */
struct way_policy_text {
    char *path; /* as given; "default" for the built-in policies/default.lua; "none" */
    char *text; /* the file's bytes; NULL for none */
    size_t n;
    struct way_option *option;
    unsigned options;
    double instructions, wall, memory; /* limits of the same names */
    bool sealed; /* what it requires is in `beside`: no file is read any more */
    struct way_policy_beside *beside;
    unsigned besides;
};
/* path NULL or "default": policies/default.lua as built in. "none": the fallback alone.
 * Copies the options. A file that changes while it is read is read again. -1: file missing,
 * unreadable, over 256 KiB, bytecode, or it never rests. */
int way_policy_read(struct way_policy_text *t, const char *path,
                    const struct way_option *option, unsigned options,
                    const struct way_limits *limits, struct way_err *err) WAY_MUST_CHECK;
void way_policy_text_fini(struct way_policy_text *t);
void way_policy_text_copy(struct way_policy_text *to, const struct way_policy_text *from);
/* Keeps in t what p, which was loaded from it, has required: whoever loads t from here on
 * loads the same bytes, whatever becomes of the files. */
void way_policy_seal(struct way_policy_text *t, const struct way_policy *p);
/* A sealed text as bytes for another process, without the limits, and back. What unpack is
 * given may be anything: -1 if it isn't a whole text. */
void way_policy_pack(const struct way_policy_text *t, struct way_buf *out);
int way_policy_unpack(struct way_policy_text *t, struct way_span bytes,
                      const struct way_limits *limits,
                      struct way_err *err) WAY_MUST_CHECK;

/* Loads, runs and checks the policy's table: -1 with "file:line: field: expected ..., got
 * ..." (and "did you mean" for a misspelt field). */
int way_policy_load(struct way_policy **out, const struct way_policy_text *t,
                    struct way_err *err) WAY_MUST_CHECK;
void way_policy_free(struct way_policy *p);

enum way_pick {
    WAY_PICK_MASTER,
    WAY_PICK_REPLICA,
    WAY_PICK_REPLICA_ONLY,
    WAY_PICK_RANDOM,
    WAY_PICK_ROUND_ROBIN,
    WAY_PICK_NEAREST,
    WAY_PICK_LEAST_INFLIGHT,
    WAY_PICK_P2C
};

/* What is fixed once loaded. */
struct way_plan {
    const char *name, *version; /* never NULL; version "" if absent */
    struct way_layout layout;   /* with hash */
    struct way_counters_layout counters;
    enum way_pick pick;
    char zone[WAY_ZONE_MAX]; /* of pick's knobs; "" none */
    double tolerance;        /* of pick's knobs, seconds or share as documented */
    unsigned load;           /* of pick's knobs: a counter of nodes, from 1; 0: latency */
    bool watches_success;
    bool has_classify, has_mark, has_backoff, has_probe, has_reconnect;
    /* own or the default's; `none` has none */
    bool has_route; /* asked for each command */
    double every;   /* seconds between two sweeps of tick; 0: it has none */
    bool has_selftest, has_migrate;
    unsigned classes; /* names known, built-in ones included */
};
const struct way_plan *way_policy_plan(const struct way_policy *p);
const char *way_policy_class_name(const struct way_policy *p, unsigned class);

enum way_asked {
    WAY_ASKED_ANSWERED, /* `out` holds the answer (which may be nil) */
    WAY_ASKED_FAILED,   /* error, budget, memory, bad answer: see way_policy_failure */
    WAY_ASKED_ABSENT,   /* the policy has no such function (`none`): use the fallback */
};
struct way_policy_failure {
    const char *function; /* "mark", ... */
    const char *cause;    /* "error", "budget", "deadline", "memory", "answer" */
    char text[512];       /* one line: file, line, what; the first lines of the traceback
                             behind ";" */
};
const struct way_policy_failure *way_policy_failure(const struct way_policy *p);
enum way_cause way_policy_failure_cause(const struct way_policy *p);

/* Where the last answer came from: "file:line" of the function asked, "fallback", ... For
 * the journal. Valid until the next call. */
const char *way_policy_where(const struct way_policy *p);
/* Exact count of entries into Lua since load. */
uint64_t way_policy_calls(const struct way_policy *p);

/* Sets class, blame and permanent: the compiled rows first, then the policy's classify,
 * then way_event_classify_default. Never fails; counts a failing classify. */
enum way_asked way_policy_classify(struct way_policy *p, struct way_event *e);

/* The random numbers that a call draws come from `seed`: asked again with the same seed it
 * draws the same ones. `m` is read and written: the declared memory. Written back only
 * with WAY_ASKED_ANSWERED. */
enum way_asked way_policy_mark(struct way_policy *p, const struct way_view *node,
                               const struct way_event *e, uint64_t seed,
                               struct way_memory *m, struct way_mark *out);
enum way_asked way_policy_backoff(struct way_policy *p, const struct way_view *node,
                                  const struct way_event *e, uint64_t seed,
                                  struct way_memory *m, struct way_retry *out);
enum way_asked way_policy_probe(struct way_policy *p, const struct way_view *node,
                                const struct way_event *e, uint64_t seed,
                                struct way_memory *m, struct way_probe *out);
/* For specs: numbers that the script draws before those of the seed. Borrowed until they
 * are drawn or replaced; returns how many of the former ones were not drawn. */
unsigned way_policy_script_random(struct way_policy *p, const double *number, unsigned n);
/* What the last call did to counters: to be committed with its answer; nothing after one
 * that failed. Valid until the next. */
const struct way_touches *way_policy_touches(const struct way_policy *p);

/* What a question is answered with: by its function. */
union way_answer {
    struct way_mark mark;
    struct way_retry retry;
    struct way_probe probe;
    struct way_redial redial;
};
enum way_asked way_policy_reconnect(struct way_policy *p, const struct way_view *node,
                                    const struct way_event *e, uint64_t seed,
                                    struct way_memory *m, struct way_redial *out);

/* ---- questions about several nodes: policy_many.c ---- */

/* What route is asked of one command. All borrowed for the time of the call. */
struct way_choice {
    struct way_health *health;
    uint64_t policy_epoch; /* whose memory is shown */
    double now;
    uint16_t slot;
    bool write;
    uint32_t attempt;
    unsigned count; /* of candidates, 1 to WAY_SHARD_REPLICAS + 1 */
    const uint16_t *node;
    const uint8_t *state;  /* as this worker sees them */
    unsigned tried;        /* that failed it last: 1 for the first; 0: none of them */
    struct way_span bytes; /* the request, a multi bulk */
    /* Makes of a node what a policy that is not in charge would have it be; NULL: it is as
     * the table has it. */
    void (*suppose)(void *arg, struct way_snapshot *seen);
    void *arg;
};
/* *out: 1 for the first candidate; 0: nil, `pick` decides. Memory is read, not written. */
enum way_asked way_policy_route(struct way_policy *p, const struct way_choice *c,
                                uint64_t seed, unsigned *out);

/* What tick is asked: each node's snapshot, and what is to become of it. */
struct way_sweep {
    unsigned count;
    const struct way_snapshot *seen;
    struct way_proposal *proposal; /* zeroed but for memory, which is as seen; mark, the
                                      node's memory and touches are written */
};
/* Its budget is that of a call for each WAY_SWEEP_NODES nodes or part of them. With any
 * result but WAY_ASKED_ANSWERED the proposals are to be dropped. */
enum { WAY_SWEEP_NODES = 64 };
enum way_asked way_policy_tick(struct way_policy *p, const struct way_sweep *s,
                               const struct way_event *e, uint64_t seed);

/* ---- before it is put in charge ---- */

/* Runs its selftest(test), if it has one; `t`: what p was loaded from. Made-up nodes and
 * events are put to two further states of it. Takes up to 500 times limits.policy_wall.
 * -1: it raised; "file:line: why". */
int way_policy_selftest(struct way_policy *p, const struct way_policy_text *t,
                        struct way_err *err) WAY_MUST_CHECK;

enum way_scope { WAY_SCOPE_NODE, WAY_SCOPE_SHARD, WAY_SCOPE_CLUSTER, WAY_SCOPE_COUNT };
/* The same by names alone: no script is asked. */
void way_policy_carry(const struct way_policy *to, const struct way_policy *from,
                      enum way_scope scope, const struct way_memory *before,
                      struct way_memory *after);
/* Have both the same names in the same places? Then their memory needs no conversion. */
bool way_policy_same_memory(const struct way_policy *a, const struct way_policy *b);
/* What the memory of `from` becomes under `to`: a number declared again under its name keeps
 * its value, a new one has its first; then to's migrate(memory, version, scope), if it has
 * one, may give others. One scope at a time: numbers of others are left alone. -1: migrate
 * raised, or gave what can't be remembered. */
int way_policy_migrate(struct way_policy *to, const struct way_policy *from,
                       enum way_scope scope, const struct way_memory *before,
                       struct way_memory *after, struct way_err *err) WAY_MUST_CHECK;

#endif
