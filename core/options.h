/* options - the command line: which command, which files, which flags.
 *
 * Hides how words are spelt (--name value, --name=value, -c FILE, -- ends flags). Flags of
 * the configuration are those of way_config_flag_at; their values are kept as given and
 * judged when they are put into a configuration. Borrows argv. */
#ifndef WAY_OPTIONS_H
#define WAY_OPTIONS_H

#include "base.h"
#include "config.h"

#include <stdio.h>

enum way_verb {
    WAY_VERB_SERVE,
    WAY_VERB_CHECK,
    WAY_VERB_REPLAY,
    WAY_VERB_CTL,
    WAY_VERB_TEST,
    WAY_VERB_RELOAD,
    WAY_VERB_DEFAULTS,
    WAY_VERB_HELP,
    WAY_VERB_VERSION
};

struct way_options {
    enum way_verb verb;
    const char *config; /* of serve, reload, ctl, replay: -c FILE; NULL: flags alone */
    const char *
        *file; /* of check and test; words of reload and ctl; journals and policy of
                           replay */
    unsigned files;
    struct way_given {
        const char *name, *value;
    } * given; /* flags, in their order */
    unsigned givens;
    bool roff;              /* of DEFAULTS: for the manual */
    bool json;              /* of CTL */
    bool as_asked, evolved; /* of REPLAY: --as-asked, --evolve */
};

/* -1: bad usage, with a suggestion for a misspelt word. Call _fini in any case. */
int way_options_parse(struct way_options *o, int argc, char **argv,
                      struct way_err *err) WAY_MUST_CHECK;
void way_options_fini(struct way_options *o);

/* The flags, in their order, into c. -1: a bad value. */
int way_options_apply(const struct way_options *o, struct way_config *c,
                      struct way_err *err) WAY_MUST_CHECK;

void way_options_help(FILE *out);
/* Every limit and time-out: as text, or as rows for the manual. */
void way_options_settings(FILE *out, bool roff);

#endif
