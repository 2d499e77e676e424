/* resolve - names to addresses, through c-ares on the loop. A literal address never
 * touches it. The deadline belongs to the caller, who cancels. One resolver per loop.
 *
 * Hides c-ares: its sockets and timers, and that it reads resolv.conf only once. So a
 * change there is seen by look-ups that begin more than a minute after the last such
 * reading, or after one that failed or was cancelled (as it is when a deadline passes).
 * /etc/hosts comes first and is read each time. */
#ifndef WAY_RESOLVE_H
#define WAY_RESOLVE_H

#include "base.h"
#include "loop.h"

#include <sys/socket.h>

struct way_resolver;
struct way_resolving;

enum { WAY_ADDRESSES_MAX = 8 };

struct way_address {
    struct sockaddr_storage sa;
    socklen_t len;
};

/* n addresses in the resolver's order, or n = 0 and why. Both live until it returns. It
 * may resolve, cancel, and free the resolver. */
typedef void way_resolved_fn(void *arg, const struct way_address *a, unsigned n,
                             const char *error);

struct way_resolver_options {
    const char *servers; /* "ip:port,..." instead of resolv.conf; NULL: the system's */
};

int way_resolver_library_init(struct way_err *err)
    WAY_MUST_CHECK; /* once, before threads */
int way_resolver_new(struct way_resolver **out, struct way_loop *loop,
                     const struct way_resolver_options *o, /* NULL: the system's */
                     struct way_err *err) WAY_MUST_CHECK;
void way_resolver_free(struct way_resolver *r); /* what is pending is never called, its
                                                   handles are dead; before its loop */

/* Returns a handle, which lives until fn was called. Where the answer is known at once (a
 * literal IPv4 or IPv6, perhaps a name in /etc/hosts, a name that can't be one) fn is
 * called inside and the handle is NULL. */
struct way_resolving *way_resolve(struct way_resolver *r, const char *host, uint16_t port,
                                  way_resolved_fn *fn, void *arg);
void way_resolve_cancel(struct way_resolving *handle); /* fn will not be called */

#endif
