/* limits - every limit and time-out: name, unit, default, bounds, what a client sees.
 *
 * One table (WAY_SETTINGS in limits.c); the configuration reader, `wayside check` and the
 * manual are driven by it. Pure data. */
#ifndef WAY_LIMITS_H
#define WAY_LIMITS_H

#include "base.h"

/* Seconds. */
struct way_timeouts {
    double resolve, dial, tls, hello; /* connect phase, each step */
    double write;    /* bytes are queued and none was accepted for so long */
    double read;     /* the oldest unanswered command waits so long since the later of its
                     last byte written and the previous reply's end */
    double total;    /* from arrival, every attempt and hold included */
    double tcp_user; /* TCP_USER_TIMEOUT, 0: the system's */
    double keepalive_idle, keepalive_interval;
    double keepalive_count;
    double client_idle; /* 0: never */
};

/* Numbers are doubles: Lua's, and large enough. Booleans are 0 or 1. */
struct way_limits {
    double guard;         /* bool */
    double failing_share; /* 0..1 */
    double dial_interval; /* s between dials to one node, with jitter */
    double probes_per_second;
    double node_probes_per_second;
    double refresh_interval;    /* s, least between topology refreshes */
    double refresh_period;      /* s, a refresh by timer */
    double retry_share;         /* retries per request */
    double retry_burst;         /* commands */
    double attempts;            /* per command */
    double redirects;           /* per command */
    double node_inflight;       /* commands per node and worker */
    double node_bytes;          /* queued and in flight per node and worker */
    double client_inflight;     /* commands: reading stops above */
    double client_output_bytes; /* replies not yet taken: reading stops at a quarter, the
                                   client is closed above */
    double request_bytes, request_args;
    double reply_bytes;
    double held_bytes; /* commands held or waiting, per worker */
    double clients;
    double transaction_connections; /* per worker, idle ones included */
    double transaction_commands;    /* queued by one client */
    double instructions;            /* per call of a policy */
    double policy_wall;             /* s */
    double policy_memory;           /* bytes */
    double policy_errors;           /* in policy_window, then the fallback decides */
    double policy_window;           /* s */
    double shadow_sample;           /* 0..1, of what only a candidate wants to hear of */
    double probation;               /* s after a reload; 0: none */
    double probation_errors;        /* of the new policy, then the old one returns */
    double probation_marks;         /* nodes taken out, then the old one returns */
    double probation_ratio;         /* of its marks to what the old one would have made */
};
/* What a reload may change, together. */
struct way_settings {
    struct way_timeouts timeouts;
    struct way_limits limits;
};

enum way_setting_group { WAY_GROUP_TIMEOUTS, WAY_GROUP_LIMITS };
struct way_setting {
    const char *name;
    enum way_setting_group group;
    size_t offset;    /* of a double in way_timeouts or way_limits */
    const char *unit; /* "s", "bytes", "commands", "share", "bool", ... */
    double standard, min, max;
    const char *help; /* what it bounds */
    const char *seen; /* what the client (or operator) sees when it is hit */
};
const struct way_setting *way_setting_at(unsigned i); /* NULL past the end */
const struct way_setting *way_setting_find(enum way_setting_group group,
                                           const char *name);

void way_timeouts_default(struct way_timeouts *t);
void way_limits_default(struct way_limits *l);

#endif
