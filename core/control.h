/* control - the control thread's work: topology, probes, the ends of marks, journals.
 *
 * Runs on a loop that wayside owns, in the thread that runs it, with a policy state of its
 * own. Drains the journal rings of all threads (on wake-up and every 50 ms), keeps the
 * last entries, counts them, and logs one line for each change of a node's state.
 *
 * To be assembled so:
 *   way_loop_init; way_control_new; way_admin_new; way_http_new; loop->woken = a function
 *   that calls way_control_woken; way_loop_run; http, admin, control freed; way_loop_fini.
 * The options' arrays, configuration, policy text and table must outlive it; so must the
 * rings and stats, so it is freed after the workers were joined. */
#ifndef WAY_CONTROL_H
#define WAY_CONTROL_H

#include "base.h"
#include "config.h"
#include "decide.h"
#include "health.h"
#include "history.h"
#include "journal.h"
#include "loop.h"
#include "policy.h"
#include "stats.h"

struct way_resolver;
struct way_control;
struct way_spool;
struct way_candidate;
struct way_shadows;
struct way_reload;

struct way_control_options {
    struct way_loop *loop;
    struct way_resolver *resolver;      /* of this loop; borrowed */
    const struct way_config *config;    /* borrowed */
    struct way_health *health;          /* borrowed */
    const struct way_policy_text *text; /* borrowed */
    struct way_ring *const *rings;      /* borrowed: [threads], all threads' journals */
    struct way_stats *const *stats;     /* borrowed: [threads] */
    unsigned threads;                   /* workers, and the control thread as the last */
    struct way_aside *aside;            /* borrowed; NULL: one of its own */
    way_judge_fn *judge;                /* as a decider's; NULL: the policy is asked */
    void *judge_arg;
    /* Hears of each journal entry; NULL: nobody does. */
    void (*told)(void *arg, const struct way_entry *e);
    void *told_arg;
    struct way_spool *spool;     /* borrowed: the journal on disk; NULL: none */
    struct way_shadows *shadows; /* borrowed; NULL: there will be none */
    void (*taken)(void *arg, const struct way_seat *seat); /* as a decider's; or NULL */
    void *taken_arg;
};
/* Before the loop runs, or from its thread. -1: the policy can't be loaded. */
int way_control_new(struct way_control **out, const struct way_control_options *o,
                    struct way_err *err) WAY_MUST_CHECK;
/* In the loop's thread, or after it ended; before way_loop_fini. */
void way_control_free(struct way_control *c);

/* In the loop's thread: an operator's mark, which outranks policy and guard until it ends
 * or is taken back (`taken_back`: then m says what the node is from now on). It is written
 * down in the journal. -1: the table's lock was busy. */
int way_control_mark(struct way_control *c, unsigned node, const struct way_mark *m,
                     bool taken_back, struct way_outcome *out,
                     struct way_err *err) WAY_MUST_CHECK;

/* Any thread: the topology should be asked for again (a MOVED, a failure, a policy). */
void way_control_refresh(struct way_control *c);

/* In the loop's thread, after each way_loop_wake: rings may hold entries, the table's
 * epoch may have risen, somebody may want a refresh. */
void way_control_woken(struct way_control *c);

/* For reload; all in the loop's thread. Its decider takes what is due; probes are asked
 * afresh, of another policy; the text that is in charge is another (borrowed). */
struct way_decider *way_control_decider(struct way_control *c);
void way_control_take(struct way_control *c);
void way_control_policy_changed(struct way_control *c);
void way_control_text_set(struct way_control *c, const struct way_policy_text *text);
/* Carried for the console, which reloads by it. NULL: nothing can be reloaded. */
void way_control_reload_set(struct way_control *c, struct way_reload *r);
struct way_reload *way_control_reload(const struct way_control *c);

/* For the console and metrics; all in the loop's thread. */
struct way_loop *way_control_loop(struct way_control *c);
struct way_health *way_control_health(struct way_control *c);
const struct way_config *way_control_config(const struct way_control *c);
const struct way_policy_text *way_control_text(const struct way_control *c);
const struct way_plan *way_control_plan(const struct way_control *c);
bool way_control_set_aside(const struct way_control *c); /* the policy, by its errors */
const struct way_history *way_control_history(const struct way_control *c);
const struct way_spool *way_control_spool(const struct way_control *c);      /* or NULL */
uint64_t way_control_stat(const struct way_control *c, enum way_stat which); /* summed */
unsigned way_control_threads(const struct way_control *c);
/* Of a node of the table; NULL: not yet greeted, or gone. Valid until the loop's next
 * pass. */
const char *way_control_address(const struct way_control *c, unsigned node);

/* Policies that are tried; NULL where there are no shadows. */
struct way_candidate *way_control_candidate(const struct way_control *c);
struct way_shadows *way_control_shadows(const struct way_control *c);

struct way_control_counts {
    uint64_t refreshes, refreshes_failed;
    uint64_t probes, probes_failed, probes_delayed;
};
void way_control_counts(const struct way_control *c, struct way_control_counts *out);

#endif
