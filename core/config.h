/* config - a Lua table in, plain structs out.
 *
 * The file is run in a sandbox of its own (no io, no os, bounded), must return one table,
 * and every key is known, typed and bounded; what is wrong is told as "file:line: key:
 * expected ..., got ..." with a suggestion for a misspelt key. Flags win over the file.
 * Owns all its strings. */
#ifndef WAY_CONFIG_H
#define WAY_CONFIG_H

#include "base.h"
#include "limits.h"
#include "policy.h"

enum { WAY_LISTEN_MAX = 16, WAY_SEEDS_MAX = 64, WAY_WORKERS_MAX = 64 };

struct way_zone {
    char *address, *zone;
};

struct way_config {
    char *file; /* NULL: flags only */
    char *listen[WAY_LISTEN_MAX]; /* "host:port" or "unix:/path" */
    unsigned listens;
    unsigned workers;
    char *seeds[WAY_SEEDS_MAX];   /* "host:port", names allowed */
    unsigned seed_count;
    char *user, *password;        /* cluster.user, cluster.password(_file); NULL: none */
    struct way_zone *zones;
    unsigned zone_count;
    char *policy;                 /* path, "default" or "none"; relative to the
                                     configuration's folder when it comes from there */
    struct way_option *option;
    unsigned options;
    struct way_timeouts timeouts;
    struct way_limits limits;
    char *segment;                /* NULL: private */
    char *console;                /* NULL: none */
    char *http;                   /* NULL: none */
    char *log_level;              /* NULL: info */
};

void way_config_init(struct way_config *c); /* defaults: one worker, no listener */
void way_config_fini(struct way_config *c);

int way_config_load(struct way_config *c, const char *file,
                    struct way_err *err) WAY_MUST_CHECK;

/* One flag of the command line: name without dashes, its value. Lists given by flags
 * replace the file's as a whole (first use empties, later ones add; --cluster takes
 * host:port,host:port). -1: unknown or bad value. */
int way_config_flag(struct way_config *c, const char *name, const char *value,
                    struct way_err *err) WAY_MUST_CHECK;

/* What only the whole can tell: a listener and a seed are there, addresses parse, paths
 * fit a unix socket. */
int way_config_check(const struct way_config *c, struct way_err *err) WAY_MUST_CHECK;

#endif
