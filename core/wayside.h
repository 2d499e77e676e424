/* wayside - a whole host: threads, table, listeners, started and stopped.
 *
 * The daemon is a thin user of this. The configuration must outlive the host. */
#ifndef WAY_WAYSIDE_H
#define WAY_WAYSIDE_H

#include "base.h"
#include "config.h"

#define WAY_VERSION "0.1.0"

struct wayside;

/* Opens the table, loads the policy once to prove it, binds all listeners, starts workers
 * and the control thread. -1: nothing is left behind. */
int wayside_start(struct wayside **out, const struct way_config *c,
                  struct way_err *err) WAY_MUST_CHECK;

/* Blocks the calling thread until SIGTERM, SIGINT or SIGQUIT, or wayside_stop from
 * another thread. */
void wayside_wait(struct wayside *w);
void wayside_stop(struct wayside *w); /* from any thread, once or more */
void wayside_free(struct wayside *w); /* stops and joins first */

#endif
