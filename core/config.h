/* config - a Lua table in, plain structs out.
 *
 * The file is run in a sandbox of its own (no io, no os, bounded), must return one table,
 * and every key is known, typed and bounded; what is wrong is told as "file:line: key:
 * expected ..., got ..." (the line where it is known) with a suggestion for a misspelt key.
 * Flags win over the file. Owns all its strings. Hides Lua and the table of keys. */
#ifndef WAY_CONFIG_H
#define WAY_CONFIG_H

#include "base.h"
#include "limits.h"
#include "policy.h"

struct way_tls;

enum {
    WAY_LISTEN_MAX = 16,
    WAY_SEEDS_MAX = 64,
    WAY_NAME_SERVERS_MAX = 8,
    WAY_WORKERS_MAX = 64,
    WAY_ZONES_MAX = 1024,
    WAY_OPTIONS_MAX = 64
};

struct way_zone {
    char *address, *zone;
};

/* TLS to the nodes: cluster.tls. */
struct way_config_tls {
    bool on;
    char *ca;          /* file or folder; NULL: the system's */
    char *cert, *key;  /* NULL: none */
    char *server_name; /* NULL: each node's own host */
    bool skip_verify;
    struct way_tls
        *context; /* what the files hold: NULL before way_config_check, or off */
};

struct way_config {
    char *file;                   /* NULL: flags only */
    char *listen[WAY_LISTEN_MAX]; /* "host:port", "[v6]:port" or "unix:/path" */
    unsigned listens;
    unsigned workers;
    char *seeds[WAY_SEEDS_MAX]; /* "host:port", names allowed */
    unsigned seed_count;
    char *name_servers; /* "ip:port,...", as the resolver takes it; NULL: the system's */
    unsigned name_server_count;
    char *user, *password; /* cluster.user, cluster.password(_file); NULL: none */
    struct way_config_tls tls;
    struct way_zone *zones;
    unsigned zone_count;
    char *policy; /* path, "default" or "none"; relative to the
                                     configuration's folder when it comes from there */
    struct way_option *option;
    unsigned options;
    bool watch; /* policy.watch: reload when its files change */
    struct way_timeouts timeouts;
    struct way_limits limits;
    char *segment; /* NULL: private */
    char *console; /* NULL: none */
    char *http;    /* NULL: none */
    char *journal; /* file; NULL: none */
    double journal_max_bytes, journal_keep;
    char *log_level;                    /* NULL: info */
    bool flagged_listen, flagged_seeds; /* private: a flag has emptied the file's list */
};

void way_config_init(struct way_config *c); /* defaults: one worker, no listener */
void way_config_fini(struct way_config *c);

/* Into a configuration that was just initialised. -1: it is to be finished, not used. */
int way_config_load(struct way_config *c, const char *file,
                    struct way_err *err) WAY_MUST_CHECK;

/* The same from a text, which messages call `name`; paths in it are relative to where the
 * process is. */
int way_config_load_text(struct way_config *c, const char *name, const char *text,
                         size_t n, struct way_err *err) WAY_MUST_CHECK;

/* Whether the file is a policy rather than a configuration: it requires something, or
 * returns a table with a policy's fields and none of a configuration's. False for what
 * can't be run at all: loading it tells why. */
bool way_config_is_policy(const char *file);

/* One flag of the command line: name without dashes, its value. Lists given by flags
 * replace the file's as a whole (first use empties, later ones add; --cluster takes
 * host:port,host:port); options are set one by one; another policy drops the options that
 * the file gave its own. -1: unknown or bad value, "--name: expected ..., got ...". */
int way_config_flag(struct way_config *c, const char *name, const char *value,
                    struct way_err *err) WAY_MUST_CHECK;

/* The flags there are, for --help. NULL past the end. */
struct way_flag {
    const char *name, *value, *help;
};
const struct way_flag *way_config_flag_at(unsigned i);

/* What only the whole can tell: a listener and a seed are there, none is there twice, a
 * user has a password; and that addresses parse and paths fit a unix socket, for who filled
 * the struct by other means. Reads the files of cluster.tls into tls.context. */
int way_config_check(struct way_config *c, struct way_err *err) WAY_MUST_CHECK;
/* The same for a host that serves nobody but its own program: it needs no listener, and
 * has no use for `listen`, `workers` and `admin`. */
int way_config_check_inside(struct way_config *c, struct way_err *err) WAY_MUST_CHECK;

/* Of the keys that hold until the next start, the first in which the two differ, as the file
 * spells it; NULL: none. All others can be reloaded: policy, options, timeouts, limits. */
const char *way_config_fixed(const struct way_config *a, const struct way_config *b);

#endif
