/* transaction - MULTI, EXEC, DISCARD, WATCH and UNWATCH of one client.
 *
 * All keys of a transaction are of one slot. What follows MULTI is checked and kept here,
 * and answered with QUEUED; EXEC sends it in one piece over a connection of the client's
 * own (dispatch.h), which MULTI alone does not take. WATCH does, and keeps it. A client's
 * transaction is made by MULTI or WATCH and gone after EXEC, DISCARD, UNWATCH or its end. */
#ifndef WAY_TRANSACTION_H
#define WAY_TRANSACTION_H

#include "client.h"

/* Of a client that has one: false if the command (NULL: unknown) is to be served as of any
 * other client. p[0..n) is the whole request, parsed. */
bool way_transaction_takes(struct way_client *c, const struct way_command *command,
                           const char *p, size_t n);

/* Serves one of the five; its arity fits. */
void way_transaction_command(struct way_client *c, const struct way_command *command,
                             const char *p);

/* Forgets it: what is watched is unwatched, what was submitted goes on. */
void way_transaction_end(struct way_client *c);

#endif
