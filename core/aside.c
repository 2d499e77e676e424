/* aside - see aside.h. */
#include "aside.h"

unsigned way_aside_error(struct way_aside *a, const struct way_limits *limits, double now)
{
    atomic_fetch_add_explicit(&a->errors, 1, memory_order_relaxed);
    double began = atomic_load_explicit(&a->window_began, memory_order_relaxed);
    if (now - began > limits->policy_window &&
        atomic_compare_exchange_strong(&a->window_began, &began, now))
        atomic_store(&a->window_errors, 0);
    unsigned errors = atomic_fetch_add(&a->window_errors, 1) + 1;
    bool throws = errors >= limits->policy_errors && !atomic_exchange(&a->set, true);
    return throws ? errors : 0;
}
