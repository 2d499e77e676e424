/* replay - a recorded journal put to a policy, and where its answers differ.
 *
 * Two ways. As asked: each question is put again with what it was asked with (event, node,
 * memory, random numbers); with the policy that made the journal nothing differs. Evolved:
 * the facts as recorded, states and memory the policy's own, in virtual time: what another
 * policy would have done that night. Entries go in commit order; the same input gives the
 * same bytes. Instructions are counted as in the daemon, its wall deadline is not kept. */
#ifndef WAY_REPLAY_H
#define WAY_REPLAY_H

#include "base.h"
#include "journal.h"
#include "limits.h"
#include "policy.h"

#include <stdio.h>

enum way_replay_mode {
    WAY_REPLAY_AUTO, /* as asked for the policy that made the journal, else evolved */
    WAY_REPLAY_ASKED,
    WAY_REPLAY_EVOLVED
};
struct way_replay_options {
    const char *const *journal; /* files, the oldest first */
    unsigned journals;
    const struct way_policy_text *text; /* its wall deadline should be 0: none */
    const struct way_limits *limits;
    enum way_replay_mode mode;
    FILE *out;     /* differences, states, totals */
    bool progress; /* on standard error, once it takes long */
};
struct way_replay_totals {
    uint64_t entries, asked, differences;
    uint64_t bad; /* lines that are none, but those that a crash cut short */
    uint64_t cut;
    uint64_t shadow; /* lines of a shadow's differences: left out */
};
/* Bad lines are told on standard error as "file:line: ...". -1: a file can't be read, holds
 * no entry at all, was made by another policy (as asked), or the policy does not load. */
int way_replay_run(const struct way_replay_options *o, struct way_replay_totals *totals,
                   struct way_err *err) WAY_MUST_CHECK;

/* One entry asked again, with the input that it was asked with. false: that can't be
 * compared (no input kept, its answer cut, a wall deadline ended it, nobody was asked).
 * `differs`: a text of what is not the same, "" if nothing is. */
bool way_replay_ask(struct way_policy *p, const struct way_entry *e,
                    const struct way_input *in, char *differs, size_t bytes);

#endif
