/* policy_parts - what the files of policy share: the loaded policy, and a question being
 * asked. For policy, policy_load, policy_view, policy_many, policy_counters, policy_answer
 * and policy_rows alone; the headers of all but policy are for each other and for policy.
 *
 *   policy           entry points, one protected call per question, failures
 *   policy_text      the bytes: read, kept, packed
 *   policy_prove     selftest and migrate
 *   policy_host      what selftest and specs are given: made-up nodes, any event
 *   policy_load      the file, what it requires, its plan
 *   policy_rows      the table of classes
 *   policy_view      node, event, self and memory as a script sees them
 *   policy_many      the same of several nodes: route's candidates, tick's sweep
 *   policy_counters  counters as declared, and as a script sees them
 *   policy_answer    what a script returned, field by field */
#ifndef WAY_POLICY_PARTS_H
#define WAY_POLICY_PARTS_H

#include "log.h"
#include "policy.h"
#include "script.h"

enum {
    WAY_CLASSES_MAX = 64, /* built-in ones included */
    WAY_ROWS_OF_CLASSES = 128,
    WAY_CLASS_NAME = 24,
    WAY_SIBLINGS_MAX = 16, /* files beside the policy that it requires */
    WAY_PATH_BYTES = 4096, /* what realpath needs */
    WAY_KEY_PLACES = 128,  /* a power of two: way_key_place */
    WAY_HANDLES = 8,
    WAY_HANDLES_KEPT = 5, /* kinds of userdata: policy_view.c */
};

enum way_question {
    WAY_ASK_CLASSIFY,
    WAY_ASK_MARK,
    WAY_ASK_BACKOFF,
    WAY_ASK_PROBE,
    WAY_ASK_RECONNECT,
    WAY_ASK_ROUTE,
    WAY_ASK_TICK,
    WAY_ASK_COUNT
};
/* Whose names hold: the policy's own, or those of the default that it calls. */
enum way_space { WAY_SPACE_OWN, WAY_SPACE_DEFAULT, WAY_SPACE_COUNT };

/* One condition of a row: any of its alternatives. */
struct way_condition {
    uint8_t field; /* enum in policy_rows.c */
    uint8_t count;
    double *number; /* of a number field, else NULL */
    char **text;    /* of a text field, else NULL */
};
struct way_row {
    uint32_t kinds, phases, steps, errors; /* masks of values; 0: any */
    int8_t reused, trial;                  /* -1: either */
    bool permanent;
    uint8_t class;
    uint8_t conditions;
    struct way_condition condition[7];
};
struct way_rows {
    struct way_row *row;
    unsigned count;
};

/* Field names by the address of the state's string, open addressing. */
struct way_keys {
    const char *key[WAY_KEY_PLACES];
    uint8_t field[WAY_KEY_PLACES];
};
static inline unsigned way_key_place(const char *key)
{
    return (unsigned)((uint64_t)(uintptr_t)key * 0x9e3779b97f4a7c15ull >> 57);
}
static inline int way_keys_find(const struct way_keys *keys, const char *key)
{
    for (unsigned i = way_key_place(key); keys->key[i]; i = (i + 1) % WAY_KEY_PLACES)
        if (keys->key[i] == key)
            return keys->field[i];
    return 0;
}

struct way_policy_file {
    char *name; /* as messages have it */
    char *text;
    size_t n;
    int result; /* registry reference of what it returned; 0: it is running */
};

/* One question on its way. Lives on the C stack of the call. */
struct way_asking {
    struct way_policy *policy;
    enum way_question question;
    const struct way_view *view; /* of the one node; NULL: there are several */
    const struct way_event *event;
    const struct way_choice *choice; /* of route, else NULL */
    const struct way_sweep *sweep;   /* of tick, else NULL */
    struct way_memory memory;        /* working copy, of the one node */
    struct way_touches touches;      /* of the one node */
    struct way_random random;
    union {
        struct way_mark *mark;
        struct way_retry *retry;
        struct way_probe *probe;
        struct way_redial *redial;
        int *class; /* stays -1 where the answer was nil */
        unsigned *index;
    } out;
    bool bad_answer; /* what it raised is about the answer */
};

struct way_policy {
    struct way_script *script; /* NULL: none */
    struct way_plan plan;
    char name[64], version[32];
    struct way_rows rows;
    char class_name[WAY_CLASSES_MAX][WAY_CLASS_NAME];
    uint8_t class_blame[WAY_CLASSES_MAX];
    bool class_permanent[WAY_CLASSES_MAX];

    struct way_policy_file file[WAY_SIBLINGS_MAX + 2]; /* [0] the policy's own */
    unsigned files, checking;              /* the file whose table is being checked */
    const struct way_policy_text *loading; /* NULL once it is loaded */
    int module;                            /* registry reference of wayside */
    uint64_t calls_before;                 /* entries that loading took */

    struct {
        int fn; /* registry reference; 0: none */
        enum way_space space;
        char where[64];
    } question[WAY_ASK_COUNT];
    int self[WAY_SPACE_COUNT];                   /* registry references */
    int names[WAY_SPACE_COUNT][WAY_SCOPE_COUNT]; /* of tables name -> slot */
    struct way_memory_name {                     /* of each number of the layout */
        char *name;
        enum way_space space;
    } memory_name[WAY_SCOPE_COUNT][WAY_NODE_MEMORY];
    int selftest, migrate;                 /* registry references; 0: none */
    struct way_keys fields[WAY_ASK_COUNT]; /* of answers */

    /* handles: what node.memory, node.shard and self.cluster gave in this call */
    int metatable[WAY_HANDLES];
    struct way_keys keys[WAY_HANDLES]; /* their fields */
    int handle[WAY_HANDLES_KEPT];
    uint64_t handed[WAY_HANDLES_KEPT]; /* the call in which handle[i] was made */
    int lasting;                       /* list of handles made once: route's */
    uint64_t call;                     /* counts; a handle of another call is dead */
    struct way_candidates *candidates; /* of route; NULL: it has none */
    struct way_asking *asking;
    const double *scripted; /* random numbers to be drawn before others */
    unsigned scripts;
    enum way_space space;
    int counters_metatable, counter_metatable; /* registry references */
    struct way_touches touches;                /* of the last answer */

    const char *where;
    struct way_policy_failure failure;
    struct way_gate gate; /* of wayside.log */
};

const char *way_question_name(enum way_question q);
const char *way_scope_name(enum way_scope scope);

/* Asks, with a->question, event, out and either view, choice or sweep set; m: the one
 * node's memory, read and, with WAY_ASKED_ANSWERED, written; NULL where there are several.
 * The budget is that of `times` calls. */
enum way_asked way_policy_ask(struct way_policy *p, struct way_asking *a, uint64_t seed,
                              struct way_memory *m, unsigned times);

#endif
