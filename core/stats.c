/* stats - see stats.h. */
#include "stats.h"

#define INFO(N, metric, labels, help) { metric, labels, help },
static const struct way_stat_info infos[] = { WAY_STATS(INFO) };

const struct way_stat_info *way_stat_info(unsigned i)
{
    return i < way_count(infos) ? &infos[i] : NULL;
}
