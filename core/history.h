/* history - what the journals of all threads told: the last entries, and counts of them.
 *
 * Pure and bounded: 1,024 entries; errors counted by node, phase and error; changes of
 * state by from, to and reason (256 of them; where reasons are too many they count as
 * "other").
 * Belongs to the control thread. */
#ifndef WAY_HISTORY_H
#define WAY_HISTORY_H

#include "base.h"
#include "journal.h"

enum { WAY_HISTORY_ENTRIES = 1024, WAY_HISTORY_TRANSITIONS = 256 };

struct way_history;
struct way_history *way_history_new(void);
void way_history_free(struct way_history *h);

/* Copies the entry. */
void way_history_add(struct way_history *h, const struct way_entry *e);

/* The i-th newest entry, 0 the last; NULL: there are no more. node WAY_NONE: of all. Valid
 * until the next add. */
const struct way_entry *way_history_at(const struct way_history *h, unsigned node,
                                       unsigned i);
/* Entries ever added: a reader that remembers it knows how many are new. */
uint64_t way_history_total(const struct way_history *h);

uint64_t way_history_errors(const struct way_history *h, unsigned node,
                            enum way_phase phase, enum way_error error);
/* The record was given to another node: its counts begin anew. */
void way_history_forget(struct way_history *h, unsigned node);

struct way_transition {
    uint8_t from, to; /* enum way_state */
    char reason[WAY_REASON_MAX];
    uint64_t count;
};
const struct way_transition *way_history_transition(const struct way_history *h,
                                                    unsigned i); /* NULL past the end */

#endif
