/* config_flags - the flags of the command line, over what the file said: see
 * way_config_flag in config.h. One table names them, tells --help of them and sets them.
 */
#include "config.h"
#include "config_set.h"

#include <math.h>
#include <stdlib.h>

typedef int set_fn(struct way_config *c, const char *value, struct way_err *err);

static int number_of(const char *text, const char *expected, double *value,
                     struct way_err *err)
{
    char *end;
    *value = strtod(text, &end);
    if (end == text || *end || !isfinite(*value) || strpbrk(text, "xX "))
        return way_fail(err, "expected %s, got \"%s\"", expected, text);
    return 0;
}

static int flag_listen(struct way_config *c, const char *value, struct way_err *err)
{
    while (!c->flagged_listen && c->listens)
        way_free(c->listen[--c->listens]);
    c->flagged_listen = true;
    return way_config_add_listen(c, value, err);
}

static int flag_cluster(struct way_config *c, const char *value, struct way_err *err)
{
    while (!c->flagged_seeds && c->seed_count)
        way_free(c->seeds[--c->seed_count]);
    c->flagged_seeds = true;
    for (;;) {
        size_t n = strcspn(value, ",");
        char *seed = way_strndup(value, n);
        int result = way_config_add_seed(c, seed, err);
        way_free(seed);
        if (result < 0 || !value[n])
            return result;
        value += n + 1;
    }
}

/* What the file set belongs to the file's policy; what flags set stays. */
static int flag_policy(struct way_config *c, const char *value, struct way_err *err)
{
    if (!*value)
        return way_fail(err, "expected a path, \"default\" or \"none\", got nothing");
    bool same = !strcmp(c->policy ? c->policy : "default", value);
    for (unsigned i = c->options; !same && i-- > 0;)
        if (c->option[i].type != WAY_OPTION_WORD)
            way_config_drop_option(c, i);
    way_config_replace(&c->policy, way_strdup(value));
    return 0;
}

/* "name=value": the name's length, or -1. */
static int split(const char *value, const char *expected, struct way_err *err)
{
    const char *equals = strchr(value, '=');
    if (!equals || equals == value)
        return way_fail(err, "expected %s, got \"%s\"", expected, value);
    return (int)(equals - value);
}

static int flag_option(struct way_config *c, const char *value, struct way_err *err)
{
    int n = split(value, "name=value", err);
    if (n < 0)
        return -1;
    struct way_option o = {
        .name = way_strndup(value, (size_t)n),
        .type = WAY_OPTION_WORD,
        .text = (char *)(uintptr_t)(value + n + 1),
    };
    int result = way_config_set_option(c, &o, err);
    way_free(o.name);
    return result;
}

static int flag_workers(struct way_config *c, const char *value, struct way_err *err)
{
    double n;
    if (number_of(value, "an integer from 1 to 64", &n, err) < 0)
        return -1;
    return way_config_set_workers(c, n, err);
}

static int unknown_setting(enum way_setting_group group, const char *name,
                           struct way_err *err)
{
    const struct way_setting *s;
    const char *best = NULL;
    unsigned least = strlen(name) <= 4 ? 2 : 3; /* as near as this is too far */
    for (unsigned i = 0; (s = way_setting_at(i)); i++)
        if (s->group == group && way_distance(name, s->name) < least) {
            least = way_distance(name, s->name);
            best = s->name;
        }
    if (best)
        return way_fail(err, "%s: unknown name, did you mean %s?", name, best);
    return way_fail(err, "%s: unknown name", name);
}

static int setting_value(const struct way_setting *s, const char *text, double *value,
                         struct way_err *err)
{
    char expected[128];
    way_config_setting_expected(s, expected, sizeof expected);
    if (!way_config_is_bool(s))
        return number_of(text, expected, value, err);
    *value = !strcmp(text, "true");
    if (*value == 0 && strcmp(text, "false"))
        return way_fail(err, "expected %s, got \"%s\"", expected, text);
    return 0;
}

static int flag_setting(struct way_config *c, enum way_setting_group group,
                        const char *value, struct way_err *err)
{
    double number;
    int n =
        split(value, group == WAY_GROUP_TIMEOUTS ? "name=seconds" : "name=value", err);
    if (n < 0)
        return -1;
    char *name = way_strndup(value, (size_t)n);
    const struct way_setting *s = way_setting_find(group, name);
    int result = -1;
    if (!s)
        unknown_setting(group, name, err);
    else if (setting_value(s, value + n + 1, &number, err) < 0 ||
             way_config_set_setting(c, s, number, err) < 0)
        way_fail_in(err, "%s", s->name);
    else
        result = 0;
    way_free(name);
    return result;
}

static int flag_timeout(struct way_config *c, const char *value, struct way_err *err)
{
    return flag_setting(c, WAY_GROUP_TIMEOUTS, value, err);
}

static int flag_limit(struct way_config *c, const char *value, struct way_err *err)
{
    return flag_setting(c, WAY_GROUP_LIMITS, value, err);
}

/* "none" takes back what the file says. */
static int flag_string(char **slot, const char *value, struct way_err *err)
{
    if (!*value)
        return way_fail(err, "expected a value or \"none\", got nothing");
    way_config_replace(slot, strcmp(value, "none") ? way_strdup(value) : NULL);
    return 0;
}

static int flag_segment(struct way_config *c, const char *value, struct way_err *err)
{
    return flag_string(&c->segment, value, err);
}

static int flag_console(struct way_config *c, const char *value, struct way_err *err)
{
    if (strcmp(value, "none") && way_config_check_local(value, err) < 0)
        return -1;
    return flag_string(&c->console, value, err);
}

static int flag_http(struct way_config *c, const char *value, struct way_err *err)
{
    if (strcmp(value, "none") && way_config_check_local(value, err) < 0)
        return -1;
    return flag_string(&c->http, value, err);
}

static int flag_journal(struct way_config *c, const char *value, struct way_err *err)
{
    return flag_string(&c->journal, value, err);
}

static int flag_user(struct way_config *c, const char *value, struct way_err *err)
{
    return flag_string(&c->user, value, err);
}

static int flag_boolean(const char *value, bool *out, struct way_err *err)
{
    *out = !strcmp(value, "true");
    if (!*out && strcmp(value, "false"))
        return way_fail(err, "expected true or false, got \"%s\"", value);
    return 0;
}

static int flag_tls(struct way_config *c, const char *value, struct way_err *err)
{
    return flag_boolean(value, &c->tls.on, err);
}

/* What says how TLS is to be spoken says that it is. */
static int flag_of_tls(struct way_config *c, char **slot, const char *value,
                       struct way_err *err)
{
    c->tls.on = c->tls.on || strcmp(value, "none");
    return flag_string(slot, value, err);
}

static int flag_tls_ca(struct way_config *c, const char *value, struct way_err *err)
{
    return flag_of_tls(c, &c->tls.ca, value, err);
}

static int flag_tls_cert(struct way_config *c, const char *value, struct way_err *err)
{
    return flag_of_tls(c, &c->tls.cert, value, err);
}

static int flag_tls_key(struct way_config *c, const char *value, struct way_err *err)
{
    return flag_of_tls(c, &c->tls.key, value, err);
}

static int flag_tls_server_name(struct way_config *c, const char *value,
                                struct way_err *err)
{
    return flag_of_tls(c, &c->tls.server_name, value, err);
}

static int flag_tls_verify(struct way_config *c, const char *value, struct way_err *err)
{
    bool verify;
    if (flag_boolean(value, &verify, err) < 0)
        return -1;
    c->tls.skip_verify = !verify;
    return 0;
}

static const struct flag {
    struct way_flag shown;
    set_fn *set;
} flags[] = {
    { { "listen", "ADDRESS", "serve here: HOST:PORT or unix:/PATH (may be repeated)" },
      flag_listen },
    { { "cluster", "SEEDS", "nodes to learn the cluster from: HOST:PORT[,HOST:PORT...]" },
      flag_cluster },
    { { "user", "NAME", "the user to log in as at the nodes, or none" }, flag_user },
    { { "password-file", "PATH", "its first line is the password for the nodes" },
      way_config_set_password_file },
    { { "tls", "BOOLEAN", "speak TLS to the nodes: true or false (false)" }, flag_tls },
    { { "tls-ca", "PATH",
        "TLS, believing this CA: a file or a folder, or none for the system's" },
      flag_tls_ca },
    { { "tls-cert", "FILE", "TLS, showing this certificate (PEM), or none" },
      flag_tls_cert },
    { { "tls-key", "FILE", "its key (PEM), or none" }, flag_tls_key },
    { { "tls-server-name", "NAME",
        "TLS, verifying this name for every node, or none for each node's own" },
      flag_tls_server_name },
    { { "tls-verify", "BOOLEAN", "false: believe whoever answers (true)" },
      flag_tls_verify },
    { { "policy", "FILE", "the policy in charge: a Lua file, default, or none" },
      flag_policy },
    { { "option", "NAME=VALUE", "an option of the policy (may be repeated)" },
      flag_option },
    { { "workers", "N", "worker threads, 1 to 64 (1)" }, flag_workers },
    { { "timeout", "NAME=SECONDS", "a time-out, as in the table of wayside.conf(5)" },
      flag_timeout },
    { { "limit", "NAME=VALUE", "a limit, as in the table of wayside.conf(5)" },
      flag_limit },
    { { "segment", "PATH", "share the node table in this file, or none" }, flag_segment },
    { { "console", "ADDRESS", "the admin console: HOST:PORT, unix:/PATH, or none" },
      flag_console },
    { { "http", "ADDRESS", "/metrics and /healthz: HOST:PORT, unix:/PATH, or none" },
      flag_http },
    { { "journal", "FILE", "write the journal there, as lines of JSON, or none" },
      flag_journal },
    { { "log-level", "LEVEL", "debug, info, warn or error (info)" },
      way_config_set_log_level },
};

const struct way_flag *way_config_flag_at(unsigned i)
{
    return i < way_count(flags) ? &flags[i].shown : NULL;
}

int way_config_flag(struct way_config *c, const char *name, const char *value,
                    struct way_err *err)
{
    for (unsigned i = 0; i < way_count(flags); i++) {
        if (strcmp(flags[i].shown.name, name))
            continue;
        if (strlen(value) > WAY_CONFIG_STRING_MAX)
            return way_fail(err, "--%s: expected at most %d bytes, got more", name,
                            WAY_CONFIG_STRING_MAX);
        return flags[i].set(c, value, err) < 0 ? way_fail_in(err, "--%s", name) : 0;
    }
    return way_fail(err, "--%s: unknown option", name);
}
