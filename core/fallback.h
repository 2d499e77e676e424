/* fallback - what is decided where no script can: in C, and the same for everybody.
 *
 * Hard evidence marks `failing` for five seconds, unsent commands and reads go once to
 * another node, a node that is not healthy gets a `data` probe each second. Each call sets
 * all of `out`. Pure. */
#ifndef WAY_FALLBACK_H
#define WAY_FALLBACK_H

#include "event.h"
#include "health.h"

void way_fallback_mark(const struct way_view *node, const struct way_event *e,
                       struct way_mark *out);
void way_fallback_backoff(const struct way_view *node, const struct way_event *e,
                          struct way_retry *out);
void way_fallback_probe(const struct way_view *node, const struct way_event *e,
                        struct way_probe *out);

#endif
