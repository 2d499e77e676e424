/* spool - the journal on disk: a bounded queue, a thread of its own that writes, rotation.
 *
 * Entries are handed over by one thread (control) and written by the spool's own, so that
 * a slow disk holds up nobody: past QUEUE entries new ones are lost and counted. A file
 * that can't be opened or written, a full disk: logged (rate-limited), counted, tried
 * again with what comes next. A line is written by one write(2); what a full disk left of
 * one is cut off again.
 *
 * At max_bytes FILE becomes FILE.1, that FILE.2, and so on up to keep; the oldest goes.
 * Each file begins with a header (jsonline.h). */
#ifndef WAY_SPOOL_H
#define WAY_SPOOL_H

#include "base.h"
#include "journal.h"
#include "policy.h"
#include "stats.h"

struct way_spool;

struct way_spool_options {
    const char *file;       /* borrowed */
    double max_bytes, keep; /* bytes of a file before it is rotated; old files kept */
    const char *wayside;    /* the version, for headers; borrowed */
};
/* Starts the thread. A file that can't be opened is no failure: it is tried again. -1: no
 * thread. */
int way_spool_new(struct way_spool **out, const struct way_spool_options *o,
                  struct way_err *err) WAY_MUST_CHECK;
/* Writes what is queued, at most for a second, and ends the thread. */
void way_spool_free(struct way_spool *s);

/* Who is in charge from here on: the first time before any entry; then a line of its own.
 * Copies. From the thread that hands over entries. */
void way_spool_policy(struct way_spool *s, const struct way_plan *plan,
                      const struct way_policy_text *text, double now);
/* Copies the entry into the queue, or counts it as lost. */
void way_spool_put(struct way_spool *s, const struct way_entry *e);
/* Wakes the writer, if anything was put since: once per batch. */
void way_spool_flush(struct way_spool *s);

/* Any thread: the file is to be opened anew, for somebody moved it away. */
void way_spool_reopen(struct way_spool *s);

struct way_spool_counts {
    uint64_t written;   /* lines of entries */
    uint64_t no_room;   /* lost: the queue was full */
    uint64_t unwritten; /* lost: the file could not be opened or written */
    uint64_t rotations;
};
void way_spool_counts(const struct way_spool *s, struct way_spool_counts *out);

#endif
