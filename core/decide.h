/* decide - the one path of every error: classify, straggler check, mark with commit, and
 * what is to become of the commands.
 *
 * One decider per thread: it owns that thread's policy state and its journal ring's writing
 * end. A snapshot of the node is shown to the policy; the answer is committed if nothing
 * changed meanwhile, else asked again with the same random numbers, three times at most,
 * then once under the table's lock. Where the policy fails, the fallback decides; after
 * limits.policy_errors in limits.policy_window the policy is set aside.
 *
 * Another policy comes in a seat, which is offered by any thread and taken by the decider's
 * between two events, once the table's policy epoch is the seat's. Until a process has
 * loaded what another one put in charge, its answers hold in the thread alone, as where the
 * lock is busy, and are asked of the new policy afterwards. */
#ifndef WAY_DECIDE_H
#define WAY_DECIDE_H

#include "aside.h"
#include "health.h"
#include "journal.h"
#include "limits.h"
#include "policy.h"
#include "shadow.h"
#include "stats.h"

struct way_decider;

/* A policy's state, ready for one thread. */
struct way_seat {
    struct way_policy *policy; /* owned */
    uint64_t epoch;            /* the policy epoch from which on it is in charge */
    struct way_aside *aside;   /* borrowed, until nobody sits here */
    const struct way_settings *settings; /* borrowed so; NULL: as before */
};
/* NULL is nothing. */
void way_seat_free(struct way_seat *s);

/* A host's own verdicts, asked where else the script would be: WAY_ASKED_ABSENT leaves the
 * question to the fallback. The answer is zeroed. MARK, BACKOFF and PROBE are asked. */
typedef enum way_asked way_judge_fn(void *arg, enum way_asked_function fn,
                                    const struct way_view *node,
                                    const struct way_event *e, union way_answer *out);

struct way_decider_options {
    struct way_health *health;
    const struct way_policy_text *text;
    const struct way_limits *limits; /* borrowed */
    struct way_stats *stats;         /* borrowed, this thread's */
    struct way_ring *ring;           /* borrowed, this thread writes */
    struct way_aside *aside;         /* borrowed; NULL: one of its own */
    struct way_shadows *shadows;     /* borrowed; NULL: none will ever be */
    unsigned place;                  /* among their threads */
    uint16_t thread;                 /* worker number; WAY_NONE: control */
    void (*journaled)(void *arg);    /* an entry was pushed: wakes the reader; or NULL */
    /* The ring is full amid a sweep, and its reader is this thread: makes room at once,
     * asking nothing; or NULL. */
    void (*full)(void *arg);
    /* Another seat was taken, in the decider's thread, between two events; or NULL. */
    void (*taken)(void *arg, const struct way_seat *seat);
    void *arg, *taken_arg;
    way_judge_fn *judge; /* NULL: the policy is asked */
    void *judge_arg;
    /* For replay, NULL otherwise: puts recorded facts into what a question is shown; the
     * seed of a question's random numbers. */
    void (*see)(void *replay, struct way_snapshot *seen);
    uint64_t (*seed)(void *replay);
    void *replay;
};
int way_decider_new(struct way_decider **out, const struct way_decider_options *o,
                    struct way_err *err) WAY_MUST_CHECK;
void way_decider_free(struct way_decider *d);

/* Any thread, one at a time. The seat is the decider's from here on; what was offered before
 * and not taken is given back. */
struct way_seat *way_decider_offer(struct way_decider *d, struct way_seat *seat);
/* Any thread: the seat that it left for another, once; NULL: none (yet). */
struct way_seat *way_decider_left(struct way_decider *d);
/* Any thread: the policy epoch that it decides in. */
uint64_t way_decider_epoch(const struct way_decider *d);
/* The decider's thread, between two events: takes what is due. True: the plan is another. */
bool way_decider_take(struct way_decider *d);

/* Verdicts that found the table's lock taken: they hold in this thread alone until
 * way_decide_pass, once per loop pass, could commit them. */
unsigned way_decider_pending(const struct way_decider *d);
bool way_decider_pending_state(const struct way_decider *d, unsigned node,
                               enum way_state *state);
void way_decide_pass(struct way_decider *d, double now);
const struct way_plan *way_decider_plan(const struct way_decider *d);
/* In charge; in other threads for what no call needs: its names, its classes. */
const struct way_policy *way_decider_policy(const struct way_decider *d);
bool way_decider_set_aside(const struct way_decider *d); /* by its errors */
/* Where it hears of what shadows are asked; NULL: nowhere. */
struct way_shadow_place *way_decider_shadows(struct way_decider *d);
const char *way_decider_class_name(const struct way_decider *d, unsigned class);

struct way_decision {
    bool asked;   /* mark was asked */
    bool refresh; /* the policy wants the topology refreshed, or the class says so */
    bool edges;   /* counters' edges were asked about too: drops may be due */
    struct way_mark mark;
    struct way_outcome outcome;
    enum way_commit commit;
};
/* Sets class and blame of e (now, unix_time too must be set by the caller: e->now), counts
 * the failure, asks mark if it is to be asked, commits. Kinds: connection, result, probe,
 * expiry, change. Every call writes one journal entry, but a success that changed
 * nothing; so does each question below. */
void way_decide(struct way_decider *d, unsigned node, struct way_event *e,
                struct way_decision *out);

/* Does the policy, or a shadow, have counters? Else nothing is to be reported. */
bool way_decider_counts(const struct way_decider *d);
/* Counts what was seen of a node in this pass, and asks mark about the edges that came true.
 * An event that fails commands is counted by way_decide. */
void way_decide_report(struct way_decider *d, unsigned node, const struct way_report *r,
                       struct way_decision *out);
/* way_decide, of an event in the same pass as the good commands in `with`, which count
 * before it. */
void way_decide_with(struct way_decider *d, unsigned node, struct way_event *e,
                     const struct way_report *with, struct way_decision *out);
/* Does anybody want to hear of a success that follows no failure: the policy, by its
 * `watch`, or a shadow, by its own? Then way_decide_watched is to be called with
 * e->watched; for the first success after a failure without. */
bool way_decide_watches(struct way_decider *d);
void way_decide_watched(struct way_decider *d, unsigned node, struct way_event *e,
                        struct way_decision *out);

/* Asks backoff, unless the class is permanent. e must have been classified (way_decide or
 * way_decide_classify). `entry` is the caller's: it tells by way_decide_did what it made
 * of the answer. */
void way_decide_classify(struct way_decider *d, struct way_event *e);
void way_decide_retry(struct way_decider *d, unsigned node, struct way_event *e,
                      struct way_retry *out, struct way_entry *entry);
/* Says in `entry` what the host did of it, and publishes it in the journal: before the
 * 32nd question to backoff after it, or its input is another's. */
void way_decide_did(struct way_decider *d, struct way_entry *entry, const char *fmt, ...)
    WAY_PRINTF(3, 4);

/* Asks probe: when a node is first seen, after each probe, after mark returned a table. */
void way_decide_probe(struct way_decider *d, unsigned node, struct way_event *e,
                      struct way_probe *out);
/* Asks route, where the policy has it: the candidate's number from 1; 0: `pick` decides. */
unsigned way_decide_route(struct way_decider *d, struct way_choice *c);
/* Has a shadow a route? And is it to be asked about this command, which nothing binds to a
 * node? Then way_decide_routed is to be called: `index` is what way_decide_route said, if it
 * was asked, else 0; `node`: where the command goes, `master`: where a write would have to. */
bool way_decider_shadow_routes(const struct way_decider *d);
bool way_decide_samples_route(struct way_decider *d);
void way_decide_routed(struct way_decider *d, const struct way_choice *c, bool asked,
                       unsigned index, unsigned node, unsigned master);
/* Asks tick of all nodes, and commits what it answered, node by node: one that changed
 * meanwhile is left to the next sweep. e: of kind tick. One journal entry for each node,
 * with its part of the input, if any was given an answer or the policy failed. */
struct way_swept {
    unsigned nodes, marked, left; /* asked about, given an answer, of which left */
    bool refresh;                 /* the topology should be looked at */
};
void way_decide_tick(struct way_decider *d, struct way_event *e, struct way_swept *out);
/* Asks the shadows whose tick has an interval of its own, if one is due: for the thread that
 * sweeps, again and again, while no other process does. Sets e's late. */
void way_decide_tick_shadows(struct way_decider *d, struct way_event *e);
/* Asks reconnect; given = false where the policy has none. */
void way_decide_redial(struct way_decider *d, unsigned node, struct way_event *e,
                       struct way_redial *out);

#endif
