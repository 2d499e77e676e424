/* reload - another policy, other limits, while serving: prepare all, prove all, commit at
 * once, or change nothing and say why.
 *
 * Owns the policies of this process from its start on: their texts, what threads share of
 * their errors, and the states that deciders have left. Belongs to the control loop;
 * everything here is called, and calls, in its thread. One reload at a time.
 *
 * On probation the policy before is kept, with its states and its memory; errors or marks
 * of the new one beyond the limits.probation_... put it back, by itself and with the reason
 * told. Another process on the same segment that reloads is followed: its policy is loaded
 * from the bytes that it proved. What one process has put on probation all watch together,
 * whoever of them dies; and what one puts back, or confirms, is so for all. */
#ifndef WAY_RELOAD_H
#define WAY_RELOAD_H

#include "config.h"
#include "control.h"
#include "decide.h"
#include "health.h"
#include "loop.h"
#include "policy.h"

struct way_reload;

struct way_reload_options {
    struct way_loop *loop;
    struct way_control *control; /* borrowed */
    struct way_health *health;
    struct way_decider *const *decider; /* [threads]; the control thread's is the last */
    unsigned threads;
    struct way_policy_text *text;    /* in charge now: taken, sealed */
    struct way_aside *aside;         /* of the policy in charge now: borrowed */
    struct way_stats *stats;         /* borrowed, the control thread's */
    const struct way_config *config; /* as it was started with: borrowed */
    /* Reads the configuration anew, flags and all, in any thread. NULL: as it was started
     * with. */
    int (*reread)(void *arg, struct way_config *c, struct way_err *err);
    void *reread_arg;
    void (*wake)(void *arg); /* all threads that decide */
    void *arg;
};
/* After control and all deciders, before the loop runs. */
struct way_reload *way_reload_new(const struct way_reload_options *o);
/* After the loop ended, before the deciders are freed. A load on its way is waited for. */
void way_reload_free(struct way_reload *r);

/* What came of it. Borrowed strings, valid during the call. */
struct way_reload_report {
    const char *refused; /* why nothing changed; NULL: it is in charge */
    bool unchanged;      /* it is in charge already, and nothing was done */
    const char *name, *version, *file;
    uint64_t epoch;
    double probation;       /* seconds; 0: confirmed at once */
    unsigned threads, late; /* how many decide, and have not yet come to take it */
    const uint64_t *hash;   /* [threads] of the policy that each decides by; 0: late */
};
struct way_reload_wish {
    const char *policy; /* with options below: instead of the configuration's; NULL and no
                           options: the configuration is read again */
    const struct way_option *option; /* words, as on the command line */
    unsigned options;
    const struct way_policy_text *text; /* or these bytes, options and all: copied */
    bool if_changed; /* nothing is done for the same policy with the same settings */
    void (*done)(void *arg,
                 const struct way_reload_report *report); /* once; may be NULL */
    void *arg;
};
/* Copies the wish. -1: another one is on its way (done is not called). Policy on probation is
 * confirmed first. `by`: for the log, "console", "signal", ... */
int way_reload_begin(struct way_reload *r, const struct way_reload_wish *wish,
                     const char *by, struct way_err *err) WAY_MUST_CHECK;
/* By itself, as soon as no other is on its way: of a signal, of a watched file. */
void way_reload_soon(struct way_reload *r, const char *by, bool if_changed);

/* In the loop's thread, after it was woken: threads may have taken what was offered. */
void way_reload_woken(struct way_reload *r);

struct way_reload_status {
    uint64_t epoch;
    const char *state; /* "idle", "loading", "swapping", "probation", "following" */
    const char *file;
    double probation_left;   /* s; 0: none */
    uint64_t errors, marks;  /* of the policy in charge; on probation, in all processes */
    const char *last;        /* "", or what came of the last reload, in words */
    const char *rolled_back; /* "", or the policy that was replaced */
    const char *reason;      /* "", and why */
};
void way_reload_status(const struct way_reload *r, struct way_reload_status *out);

#endif
