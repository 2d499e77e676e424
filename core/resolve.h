/* resolve - names to addresses, through c-ares on the loop. A literal address never
 * touches it. The deadline belongs to the caller, who cancels. One resolver per loop. */
#ifndef WAY_RESOLVE_H
#define WAY_RESOLVE_H

#include "base.h"
#include "loop.h"

#include <sys/socket.h>

enum { WAY_ADDRESSES_MAX = 8 };

struct way_address {
    struct sockaddr_storage sa;
    socklen_t len;
};

/* n addresses in the resolver's order, or n = 0 and why. */
typedef void way_resolved_fn(void *arg, const struct way_address *a, unsigned n,
                             const char *error);

struct way_resolver_options {
    const char *servers; /* "ip:port,..." instead of resolv.conf; NULL: the system's */
};

int way_resolver_library_init(struct way_err *err) WAY_MUST_CHECK; /* once, before threads */
int way_resolver_new(struct way_resolver **out, struct way_loop *loop,
                     const struct way_resolver_options *o, /* NULL: the system's */
                     struct way_err *err) WAY_MUST_CHECK;
void way_resolver_free(struct way_resolver *r); /* what is pending is never called */

/* Returns a handle until fn was called. For a literal (IPv4, IPv6) fn is called inside
 * and the handle is NULL. */
struct way_resolving *way_resolve(struct way_resolver *r, const char *host, uint16_t port,
                                  way_resolved_fn *fn, void *arg);
void way_resolve_cancel(struct way_resolving *handle); /* fn will not be called */

#endif
