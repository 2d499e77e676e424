/* ctl - asks a running daemon's console and prints what it answers, as tables or as JSON.
 *
 * Speaks RESP3, so that maps, numbers and booleans come as what they are. */
#ifndef WAY_CTL_H
#define WAY_CTL_H

#include "base.h"

#include <stdio.h>

/* Asks `WAYSIDE word...` of the console at address ("host:port", "unix:/path"). 0: printed;
 * 1: the console answered with an error, which is in err; -1: it could not be asked. */
int way_ctl_run(const char *address, const char *const *word, unsigned words, bool json,
                FILE *out, struct way_err *err) WAY_MUST_CHECK;

/* The reply at p as a JSON value, for way_ctl_print; the bytes read, 0: more are needed,
 * -1: no RESP. An error reply is taken too: *error is then its text, and *out NULL. */
struct json_t;
long way_ctl_decode(const char *p, size_t n, struct json_t **out, char *error,
                    size_t error_bytes);
/* Lists of maps become a table with a column per name, maps one line per name, lists one
 * line per item. */
void way_ctl_print(const struct json_t *reply, FILE *out);

#endif
