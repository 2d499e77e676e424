/* log - see log.h. The one mutable global of the program is the level: set before any
 * thread exists, read by all. */
#include "log.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

static enum way_level least_level = WAY_INFO;
static const char *const level_names[] = { "debug", "info", "warn", "error" };

void way_log_level(enum way_level least)
{
    least_level = least;
}

int way_log_level_named(const char *name)
{
    for (unsigned i = 0; i < way_count(level_names); i++)
        if (!strcmp(name, level_names[i]))
            return (int)i;
    return -1;
}

void way_log(enum way_level level, const char *fmt, ...)
{
    if (level < least_level)
        return;
    char line[2048];
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "time=%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ level=%s ",
                          t.tv_nsec / 1000000, level_names[level]);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
    va_end(ap);
    if (m > 0)
        n += (size_t)m < sizeof line - n - 1 ? (size_t)m : sizeof line - n - 2;
    for (size_t i = 0; i < n; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[n++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written; /* nowhere to tell that the log is gone */
}

bool way_gate_open(struct way_gate *gate, double now, double burst)
{
    if (gate->refill == 0)
        gate->tokens = burst;
    else
        gate->tokens += now - gate->refill;
    if (gate->tokens > burst)
        gate->tokens = burst;
    gate->refill = now;
    if (gate->tokens < 1) {
        gate->dropped++;
        return false;
    }
    gate->tokens -= 1;
    if (gate->dropped) {
        way_log(WAY_WARN, "log=%u similar lines left out", gate->dropped);
        gate->dropped = 0;
    }
    return true;
}
