/* http - /metrics for Prometheus, /healthz for load balancers, on the control loop.
 *
 * libmicrohttpd without a thread of its own: the loop watches its epoll descriptor. */
#ifndef WAY_HTTP_H
#define WAY_HTTP_H

#include "base.h"
#include "control.h"

struct way_http;

/* Listens on "host:port" or "unix:/path", on control's loop. Before the loop runs, or from
 * its thread. -1: the address can't be had. */
int way_http_new(struct way_http **out, struct way_control *control, const char *address,
                 struct way_err *err) WAY_MUST_CHECK;
void way_http_free(struct way_http *h); /* before control is freed */

#endif
