/* stats - see stats.h. */
#include "stats.h"

#define INFO(N, metric, labels, help) { metric, labels, help },
static const struct way_stat_info infos[] = { WAY_STATS(INFO) };

enum way_stat way_stat_of_failure(unsigned function, const char *cause)
{
    static const char *const causes[] = { "error", "budget", "deadline", "memory",
                                          "answer" };
    unsigned i = 0;
    while (i + 1 < way_count(causes) && strcmp(causes[i], cause) != 0)
        i++;
    return (enum way_stat)(WAY_STAT_POLICY_FIRST + function * way_count(causes) + i);
}

const struct way_stat_info *way_stat_info(unsigned i)
{
    return i < way_count(infos) ? &infos[i] : NULL;
}
