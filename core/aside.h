/* aside - the errors of one policy, counted together by all threads that ask it, and the
 * switch that too many of them throw. Pure; to be zeroed; any thread. */
#ifndef WAY_ASIDE_H
#define WAY_ASIDE_H

#include "base.h"
#include "limits.h"

#include <stdatomic.h>

struct way_aside {
    _Atomic double window_began; /* private, as the next */
    _Atomic uint32_t window_errors;
    _Atomic bool set;        /* ro: set aside */
    _Atomic uint64_t errors; /* ro: ever */
    _Atomic uint64_t marks;  /* nodes that it took out */
};

/* One more error. Returns how many there are in this window where this one, and no other,
 * threw the switch; else 0. */
unsigned way_aside_error(struct way_aside *a, const struct way_limits *limits,
                         double now);

static inline bool way_aside_is_set(const struct way_aside *a)
{
    return atomic_load_explicit(&a->set, memory_order_relaxed);
}

#endif
