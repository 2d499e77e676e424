/* jsonline - a journal entry as a line of JSON, and back.
 *
 * A file of records begins with a header: the format's version, wayside's, and the policy
 * in charge with its options. Another policy gets a line of its own, each entry one.
 * Numbers survive the way exactly, 64-bit ones that JSON readers would round are strings,
 * and what is zero, false or empty is left out. Texts are bytes, as the network gave them:
 * each is written as the character of its number (ISO 8859-1), so that none is lost.
 *
 * Pure: it opens no file. */
#ifndef WAY_JSONLINE_H
#define WAY_JSONLINE_H

#include "base.h"
#include "journal.h"
#include "policy.h"

enum {
    WAY_JSONLINE_FORMAT = 1,
    WAY_JSONLINE_LINE =
        128 * 1024, /* bytes: no line is longer, and no reader takes one */
};

/* Appends a line with its end: the header of a file, or, where `wayside` is NULL, a change
 * of policy. `run` tells one process from the next: commits are numbered within it. */
void way_jsonline_policy(struct way_buf *out, const char *wayside, uint64_t run,
                         const struct way_plan *plan, const struct way_policy_text *text,
                         double now, double unix_time);
void way_jsonline_entry(struct way_buf *out, const struct way_entry *e);

enum way_jsonline_kind { WAY_JSONLINE_HEADER, WAY_JSONLINE_POLICY, WAY_JSONLINE_ENTRY };
struct way_jsonline {
    enum way_jsonline_kind kind;
    /* of HEADER and POLICY */
    double now, unix_time;
    uint64_t run, hash;
    char wayside[32], name[WAY_POLICY_NAME], version[WAY_POLICY_VERSION], file[256];
    char options[512]; /* "a=1 b=two", cut if longer */
    /* of ENTRY */
    struct way_entry entry; /* its input is empty */
    bool has_input;
    struct way_input input; /* its answer lies in `answer` */
    struct way_buf answer;
};
/* One line, without its end. `r` is zero, or was read into before. -1: "column 12: ...",
 * "event.phase: expected ..., got ...", or a format of a later version. */
int way_jsonline_read(struct way_jsonline *r, const char *line, size_t n,
                      struct way_err *err) WAY_MUST_CHECK;
void way_jsonline_fini(struct way_jsonline *r);

#endif
