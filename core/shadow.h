/* shadow - a policy that is asked what the policy in charge is asked, and never obeyed.
 *
 * A candidate, that somebody wants to try on live events; or the previous policy, while
 * the one that replaced it is on probation. Each thread has a seat: a Lua state of its own.
 * The seats share the nodes as this policy would have them (shadow_store.h). A question
 * goes to the shadow after the policy in charge has answered and its answer was committed:
 * with the same snapshot, the same random numbers and the event classified by the shadow's
 * own rows. So an equal policy answers equally, whatever threads did meanwhile. Answers
 * that differ are counted by function, and the last of them kept, both sides.
 *
 * A shadow's errors are its own: where it fails, the fallback answers for it, as it would
 * if it were in charge, and after limits.policy_errors in limits.policy_window it is asked
 * no more. It costs a decider its questions, budgets and all, and holds it up by nothing
 * else. What nobody is asked about costs nothing, but successes that its `watch` wants to
 * hear of and commands that it has a `route` for: a share of them, limits.shadow_sample; and
 * sweeps of a `tick` whose interval is its own.
 *
 * Threads: struct way_shadows belongs to the thread that controls (put, take off, tend,
 * look at); each place to its decider's thread. Seats change hands by an atomic exchange,
 * and come back for the controlling thread to free. */
#ifndef WAY_SHADOW_H
#define WAY_SHADOW_H

#include "aside.h"
#include "health.h"
#include "journal.h"
#include "limits.h"
#include "policy.h"
#include "stats.h"

enum way_shadow_kind { WAY_SHADOW_CANDIDATE, WAY_SHADOW_PREVIOUS, WAY_SHADOW_KINDS };
enum { WAY_SHADOW_DIFFERENCES = 128, WAY_SHADOW_CAUSES = 5 };

struct way_shadow;
struct way_shadows; /* one per process: who has which seat */

/* ---- for the thread that controls ---- */

struct way_shadows_options {
    struct way_health *health;
    unsigned threads; /* that decide */
};
struct way_shadows *way_shadows_new(const struct way_shadows_options *o);
/* When no thread decides any more. */
void way_shadows_free(struct way_shadows *all);

/* What a shadow is made of. */
struct way_shadow_of {
    struct way_policy_text *text; /* taken, with what it holds */
    struct way_policy **policy;   /* [threads]: the states are taken, the array is not */
    uint64_t epoch;               /* the policy epoch of the one in charge, that it is
                                     compared with: it hears of no other */
    struct way_limits limits;     /* for its errors and samples */
    bool same_memory;             /* see shadow_store.h */
    const struct way_counters_layout *charge_counters; /* of the one in charge; NULL: it
                                                          has none. Equal ones follow */
    /* Gives the memory to begin with of a node, its shard and the cluster; NULL: the first
     * values. */
    void (*seed)(void *arg, unsigned node, struct way_memory *memory);
    void *arg;
    /* Else: what the policy of that epoch counts; what it has alike goes on. NULL: all
     * begins */
    const struct way_counters_layout *counters;
    uint64_t counters_epoch;
    double now, unix_time;
};
/* Asked from each thread's next question on; takes the place of one of its kind. */
struct way_shadow *way_shadows_put(struct way_shadows *all, enum way_shadow_kind kind,
                                   const struct way_shadow_of *of);
void way_shadows_take_off(struct way_shadows *all, enum way_shadow_kind kind);
/* Tells `told` of each difference, within way_shadows_tend: what the policy in charge was
 * asked and said, and the shadow's own answer (its entry.shadow tells whose). */
typedef void way_difference_fn(void *arg, const struct way_entry *charge,
                               const struct way_entry *own);
void way_shadows_tell(struct way_shadows *all, way_difference_fn *told, void *arg);
/* The present one; NULL: none. Valid until it is replaced, taken off, or all are freed. */
struct way_shadow *way_shadows_get(struct way_shadows *all, enum way_shadow_kind kind);
/* Every 50 ms or so: ends of its own marks, differences, what is to be freed. `own` is this
 * thread's place. */
struct way_shadow_place;
void way_shadows_tend(struct way_shadows *all, struct way_shadow_place *own, double now,
                      double unix_time);

struct way_shadow_about {
    const struct way_policy_text *text;
    const struct way_plan *plan;
    uint64_t epoch;          /* the policy epoch that it is compared with */
    double began, unix_time; /* when it was put */
    const char *off; /* why it is asked no more: its errors, or another policy is in
                        charge than it was compared with; NULL: it is asked */
};
void way_shadow_about(struct way_shadow *s, struct way_shadow_about *out);
/* Its name for one of its classes. */
const char *way_shadow_class_name(const struct way_shadow *s, unsigned class);

/* What came of it so far, of all threads; any thread may look. */
struct way_shadow_counts {
    uint64_t events; /* that it heard of */
    /* By enum way_asked_function; of a sweep, nodes that either side gave an answer. */
    uint64_t agreed, disagreed[WAY_FN_NONE];
    uint64_t asked;                     /* questions that its script was put */
    uint64_t errors[WAY_SHADOW_CAUSES]; /* in the order of way_stat_of_failure */
    /* Questions given up: its nodes were being written, or a deadline cut either side short. */
    uint64_t dropped;
    uint64_t unshown; /* differences that found no room */
    /* Of events that reached `mark` on either side, and answers of sweeps: */
    uint64_t marks;
    uint64_t out, out_in_charge; /* a used node became failing */
    uint64_t fallback_in_charge; /* the fallback stood in for the policy in charge */
};
void way_shadow_counts(const struct way_shadow *s, struct way_shadow_counts *out);
uint64_t way_shadow_errors(const struct way_shadow_counts *c);

/* The i-th newest difference, 0 the last; false: there are no more. Valid until the next
 * tend. `charge` is what the policy in charge was asked and said. */
bool way_shadow_difference(const struct way_shadow *s, unsigned i,
                           const struct way_entry **charge, const struct way_entry **own);
/* Its verdict on a node where that differs from the table's; false: it doesn't. */
bool way_shadow_verdict(struct way_shadow *s, unsigned node, struct way_verdict *out);

/* ---- for a decider's thread ---- */

/* `number`: below `threads`, of no other place. Counted in `stats`. NULL board: NULL. */
struct way_shadow_place *way_shadow_place_new(struct way_shadows *all, unsigned number,
                                              struct way_stats *stats);
void way_shadow_place_free(struct way_shadow_place *p); /* gives its seats back */

/* Is anybody seated? Looks for new seats. p may be NULL. */
bool way_shadow_place_taken(struct way_shadow_place *p);
/* The shadow of a success that only its `watch` wants: draws whether it is of the sample. */
bool way_shadow_place_samples(struct way_shadow_place *p);

/* Does anybody count? */
bool way_shadow_place_counts(struct way_shadow_place *p);
/* What was seen of a node, as the policy in charge was told, if it counts: the good ones, and
 * `e`, NULL for none, failed commands, and is a straggler or not. */
void way_shadow_reported(struct way_shadow_place *p, uint64_t epoch, unsigned node,
                         const struct way_report *good, const struct way_event *e,
                         bool straggler);
/* After the mark that the report came with: asks about edges of the shadows' own. */
void way_shadow_edges(struct way_shadow_place *p);

/* After e was classified by the policy in charge; remembers in e how the shadows class it.
 * `class_name` as the policy in charge has it, `where` it has it from. */
void way_shadow_classified(struct way_shadow_place *p, struct way_event *e,
                           const char *class_name, const char *where);

/* What the policy in charge was asked, and what it said. */
struct way_shadow_heard {
    uint64_t epoch; /* the policy epoch of the one in charge */
    enum way_asked_function fn;
    unsigned node;
    const struct way_event *event;
    const char *class_name;
    bool asked;     /* else what follows is not set: it was not put to it */
    bool straggler; /* ... because the event belongs to a fault that was known */
    bool fallback;  /* the fallback answered */
    bool cut;       /* ... for a deadline was met: no matter of what the policy says */
    const struct way_snapshot *seen; /* that it answered to */
    const struct way_memory *after;  /* as it left its memory */
    uint64_t seed;
    const union way_answer *answer;
    const struct way_touches *touches; /* of counters */
    struct way_outcome outcome;        /* of MARK */
    enum way_commit commit;
    const char *where;
};
void way_shadow_heard(struct way_shadow_place *p, const struct way_shadow_heard *h);

/* Has anybody a route? Looks for new seats. p may be NULL. */
bool way_shadow_place_routes(struct way_shadow_place *p);
/* Of a command that nothing binds to a node: draws whether it is of the sample. */
bool way_shadow_place_samples_route(struct way_shadow_place *p);

/* A command of the sample, and where it went. */
struct way_shadow_routed {
    uint64_t epoch;                  /* the policy epoch of the one in charge */
    const struct way_choice *choice; /* what its route was asked, or would have been */
    uint64_t seed;
    unsigned index;    /* its answer, from 1; 0: pick decided */
    unsigned node;     /* that the command goes to; WAY_NONE: none may be used */
    unsigned master;   /* the only one that a write may go to */
    const char *where; /* "pick", or the line of its route */
};
void way_shadow_routed(struct way_shadow_place *p, const struct way_shadow_routed *h);

/* What became of one node's part of a sweep. */
struct way_shadow_fate {
    struct way_outcome outcome;
    enum way_commit commit; /* not DONE: it was left, and the shadow leaves it too */
};
/* A sweep over all nodes: what the policy in charge was asked, and said; or, not `asked`, one
 * of the shadow's alone. */
struct way_shadow_swept {
    uint64_t epoch;                /* the policy epoch of the one in charge */
    double every;                  /* the interval of its tick; 0: it is not asked */
    const struct way_event *event; /* of kind tick */
    /* The nodes as it saw them, and what it proposed; not asked, or failed: no mark, and the
     * memory that it saw. */
    const struct way_sweep *sweep;
    bool asked;
    bool cut;                           /* a deadline was met */
    uint64_t seed;                      /* of its random numbers */
    const struct way_shadow_fate *fate; /* [sweep->count]; where asked */
    const char *class_name, *where;     /* where asked */
};
/* With `asked` a shadow whose tick has the same interval is asked the same, of the nodes as
 * it has them; what others would not have marked then differs. Without, those that
 * way_shadow_place_sweeps found due are asked: an answer differs where the node is not
 * already what it says. */
void way_shadow_swept(struct way_shadow_place *p, const struct way_shadow_swept *h);
/* Is a tick due that has not the interval `every` of the one in charge? In the thread that
 * sweeps. *late: by how many seconds. Looks for new seats. p may be NULL. */
bool way_shadow_place_sweeps(struct way_shadow_place *p, double every, double now,
                             double *late);

#endif
