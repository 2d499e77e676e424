/* admin - the console: a small Redis server that tells what wayside knows, for redis-cli.
 *
 * Speaks RESP2 and RESP3 on the control loop. Commands: WAYSIDE HELP tells them. Bounded:
 * 16 clients, requests of 64 KiB, and an output that must be taken within 10 s. Serves what
 * control knows; changes nothing. */
#ifndef WAY_ADMIN_H
#define WAY_ADMIN_H

#include "base.h"
#include "control.h"

struct way_admin;

/* Listens on "unix:/path" (made with mode 0600) or "host:port", on control's loop. Before
 * the loop runs, or from its thread. -1: the address can't be had. */
int way_admin_new(struct way_admin **out, struct way_control *control,
                  const char *address, struct way_err *err) WAY_MUST_CHECK;
void way_admin_free(struct way_admin *a); /* before control is freed */

#endif
