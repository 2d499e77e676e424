/* daemon - a whole host: threads, table, listeners, started and stopped.
 *
 * The daemon is a thin user of this. The configuration must outlive the host. */
#ifndef WAY_DAEMON_H
#define WAY_DAEMON_H

#include "base.h"
#include "config.h"

#define WAY_VERSION "0.1.0"

struct way_daemon;

/* Reads the configuration anew, for a reload: called in any thread, while the host serves.
 * NULL: there is nothing but what it was started with. */
typedef int way_reread_fn(void *arg, struct way_config *c, struct way_err *err);

/* Opens the table, loads the policy once to prove it, binds all listeners, starts workers
 * and the control thread. -1: nothing is left behind. */
int way_daemon_start(struct way_daemon **out, const struct way_config *c,
                     way_reread_fn *reread, void *arg,
                     struct way_err *err) WAY_MUST_CHECK;

/* Blocks the calling thread until SIGTERM, SIGINT or SIGQUIT, or way_daemon_stop from
 * another thread. SIGHUP reloads. */
void way_daemon_wait(struct way_daemon *w);
void way_daemon_stop(struct way_daemon *w); /* from any thread, once or more */
void way_daemon_free(struct way_daemon *w); /* stops and joins first */

#endif
