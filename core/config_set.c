/* config_set - see config_set.h. */
#include "config_set.h"

#include "log.h"
#include "slots.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>

enum { NAME_MAX_BYTES = 255 };

void way_config_replace(char **slot, char *owned)
{
    way_free(*slot);
    *slot = owned;
}

const char *way_config_number(double n, char *text, size_t size)
{
    if (isnan(n))
        snprintf(text, size, "not a number (nan)");
    else
        snprintf(text, size, "%.15g", n);
    return text;
}

static int expected_port(const char *port, struct way_err *err)
{
    char *end;
    long n = strtol(port, &end, 10);
    if (port[0] < '0' || port[0] > '9' || *end || n < 1 || n > 65535)
        return way_fail(err, "expected a port from 1 to 65535, got \"%s\"", port);
    return 0;
}

static int check_unix(const char *path, struct way_err *err)
{
    const size_t most = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    if (!*path)
        return way_fail(err, "expected a path behind \"unix:\", got nothing");
    if (strlen(path) > most)
        return way_fail(err,
                        "expected a path for a unix socket (at most %zu bytes), got %zu "
                        "bytes",
                        most, strlen(path));
    return 0;
}

static int check_host_port(const char *s, const char *expected, struct way_err *err)
{
    const char *colon = strrchr(s, ':');
    if (!colon || colon == s || strpbrk(s, " \t\r\n/"))
        return way_fail(err, "expected %s, got \"%s\"", expected, s);
    const char *bracket = s[0] == '[' ? strchr(s, ']') : NULL;
    if (s[0] == '[' ? !bracket || bracket + 1 != colon || bracket == s + 1
                    : memchr(s, ':', (size_t)(colon - s)) != NULL)
        return way_fail(
            err, "expected an IPv6 address in brackets, [::1]:6379, got \"%s\"", s);
    if (colon - s >= WAY_HOST_MAX)
        return way_fail(err, "expected a host of at most %d bytes, got %zu bytes",
                        WAY_HOST_MAX - 1, (size_t)(colon - s));
    return expected_port(colon + 1, err);
}

/* Where we listen. */
int way_config_check_local(const char *s, struct way_err *err)
{
    if (!strncmp(s, "unix:", 5))
        return check_unix(s + 5, err);
    return check_host_port(s, "\"host:port\" or \"unix:/path\"", err);
}

/* Where a node is. */
int way_config_check_node(const char *s, struct way_err *err)
{
    return check_host_port(s, "\"host:port\"", err);
}

int way_config_add_listen(struct way_config *c, const char *s, struct way_err *err)
{
    if (c->listens == WAY_LISTEN_MAX)
        return way_fail(err, "expected at most %d addresses, got more", WAY_LISTEN_MAX);
    if (way_config_check_local(s, err) < 0)
        return -1;
    c->listen[c->listens++] = way_strdup(s);
    return 0;
}

int way_config_add_seed(struct way_config *c, const char *s, struct way_err *err)
{
    if (c->seed_count == WAY_SEEDS_MAX)
        return way_fail(err, "expected at most %d seeds, got more", WAY_SEEDS_MAX);
    if (way_config_check_node(s, err) < 0)
        return -1;
    c->seeds[c->seed_count++] = way_strdup(s);
    return 0;
}

/* "ip" as "ip:53", which every version of c-ares reads alike. */
static void spell_name_server(const char *s, char *out, size_t size)
{
    struct in6_addr any;
    if (inet_pton(AF_INET6, s, &any) == 1)
        snprintf(out, size, "[%s]:53", s);
    else if (inet_pton(AF_INET, s, &any) == 1)
        snprintf(out, size, "%s:53", s);
    else
        snprintf(out, size, "%s", s);
}

int way_config_add_name_server(struct way_config *c, const char *s, struct way_err *err)
{
    static const char expected[] = "an address such as \"10.0.0.2\" or \"10.0.0.2:53\"";
    char text[WAY_ADDRESS_MAX], host[WAY_HOST_MAX];
    struct in6_addr any;
    uint16_t port;
    if (c->name_server_count == WAY_NAME_SERVERS_MAX)
        return way_fail(err, "expected at most %d name servers, got more",
                        WAY_NAME_SERVERS_MAX);
    spell_name_server(s, text, sizeof text);
    if (check_host_port(text, expected, err) < 0 ||
        way_split_address(text, strlen(text), host, &port, err) < 0)
        return -1;
    if (inet_pton(AF_INET, host, &any) != 1 && inet_pton(AF_INET6, host, &any) != 1)
        return way_fail(err, "expected %s, got \"%s\"", expected, s);
    struct way_buf b = { 0 };
    if (c->name_servers)
        way_buf_printf(&b, "%s,", c->name_servers);
    way_buf_puts(&b, text);
    way_buf_put(&b, "", 1);
    way_config_replace(&c->name_servers, b.p);
    c->name_server_count++;
    return 0;
}

int way_config_add_zone(struct way_config *c, const char *address, const char *zone,
                        struct way_err *err)
{
    if (c->zone_count == WAY_ZONES_MAX)
        return way_fail(err, "expected at most %d addresses, got more", WAY_ZONES_MAX);
    if (way_config_check_node(address, err) < 0)
        return -1;
    if (!*zone || strlen(zone) >= WAY_ZONE_MAX)
        return way_fail(err, "expected a zone's name of 1 to %d bytes, got %zu bytes",
                        WAY_ZONE_MAX - 1, strlen(zone));
    c->zones = way_realloc(c->zones, (c->zone_count + 1) * sizeof *c->zones);
    c->zones[c->zone_count++] =
        (struct way_zone){ .address = way_strdup(address), .zone = way_strdup(zone) };
    return 0;
}

void way_config_drop_option(struct way_config *c, unsigned i)
{
    way_free(c->option[i].name);
    way_free(c->option[i].text);
    c->option[i] = c->option[--c->options];
}

/* Takes a copy of what `o` points to. A name that was set before is replaced. */
int way_config_set_option(struct way_config *c, const struct way_option *o,
                          struct way_err *err)
{
    if (!*o->name || strlen(o->name) > NAME_MAX_BYTES)
        return way_fail(err, "expected an option's name of 1 to %d bytes, got %zu bytes",
                        NAME_MAX_BYTES, strlen(o->name));
    for (unsigned i = 0; i < c->options; i++)
        if (!strcmp(c->option[i].name, o->name)) {
            way_config_drop_option(c, i);
            break;
        }
    if (c->options == WAY_OPTIONS_MAX)
        return way_fail(err, "expected at most %d options, got more", WAY_OPTIONS_MAX);
    c->option = way_realloc(c->option, (c->options + 1) * sizeof *c->option);
    c->option[c->options++] = (struct way_option){
        .name = way_strdup(o->name),
        .type = o->type,
        .text = o->text ? way_strdup(o->text) : NULL,
        .number = o->number,
    };
    return 0;
}

int way_config_set_workers(struct way_config *c, double n, struct way_err *err)
{
    char text[32];
    if (!(n >= 1 && n <= WAY_WORKERS_MAX) || n != floor(n))
        return way_fail(err, "expected an integer from 1 to %d, got %s", WAY_WORKERS_MAX,
                        way_config_number(n, text, sizeof text));
    c->workers = (unsigned)n;
    return 0;
}

int way_config_set_journal_bytes(struct way_config *c, double n, struct way_err *err)
{
    char text[32];
    if (!(n >= 16384 && n <= 1e12))
        return way_fail(err, "expected bytes (number, 16384 to 1e12), got %s",
                        way_config_number(n, text, sizeof text));
    c->journal_max_bytes = n;
    return 0;
}

int way_config_set_journal_keep(struct way_config *c, double n, struct way_err *err)
{
    char text[32];
    if (!(n >= 0 && n <= 1000) || n != floor(n))
        return way_fail(err, "expected files (integer, 0 to 1000), got %s",
                        way_config_number(n, text, sizeof text));
    c->journal_keep = n;
    return 0;
}

bool way_config_is_bool(const struct way_setting *s)
{
    return !strcmp(s->unit, "bool");
}

static bool is_whole(const struct way_setting *s)
{
    return strcmp(s->unit, "s") && strcmp(s->unit, "share") && !strchr(s->unit, '/');
}

/* "seconds (number, 0.001 to 3600)". */
const char *way_config_setting_expected(const struct way_setting *s, char *text,
                                        size_t size)
{
    const char *unit = !strcmp(s->unit, "s")       ? "seconds"
                       : !strcmp(s->unit, "share") ? "a share"
                                                   : s->unit;
    if (way_config_is_bool(s))
        snprintf(text, size, "true or false");
    else
        snprintf(text, size, "%s (%s, %.15g to %.15g)", unit,
                 is_whole(s) ? "integer" : "number", s->min, s->max);
    return text;
}

int way_config_set_setting(struct way_config *c, const struct way_setting *s,
                           double value, struct way_err *err)
{
    char *base =
        s->group == WAY_GROUP_TIMEOUTS ? (char *)&c->timeouts : (char *)&c->limits;
    char text[128], number[32];
    if (!(value >= s->min && value <= s->max) || (is_whole(s) && value != floor(value)))
        return way_fail(err, "expected %s, got %s",
                        way_config_setting_expected(s, text, sizeof text),
                        way_config_number(value, number, sizeof number));
    memcpy(base + s->offset, &value, sizeof value);
    return 0;
}

int way_config_set_log_level(struct way_config *c, const char *s, struct way_err *err)
{
    if (way_log_level_named(s) < 0)
        return way_fail(err,
                        "expected \"debug\", \"info\", \"warn\" or \"error\", got "
                        "\"%s\"",
                        s);
    way_config_replace(&c->log_level, way_strdup(s));
    return 0;
}

/* The first line of a file, for what should not be seen in a list of processes. */
int way_config_set_password_file(struct way_config *c, const char *path,
                                 struct way_err *err)
{
    char line[1024];
    FILE *f = fopen(path, "re");
    if (!f)
        return way_fail(err, "%s: %s", path, strerror(errno));
    char *got = fgets(line, sizeof line, f);
    fclose(f);
    if (got)
        line[strcspn(line, "\r\n")] = 0;
    if (!got || !*line || strlen(line) == sizeof line - 1)
        return way_fail(err,
                        "%s: expected a password of 1 to %zu bytes in the first line",
                        path, sizeof line - 2);
    way_config_replace(&c->password, way_strdup(line));
    return 0;
}

/* ---- what holds until the next start ---- */

static bool same_text(const char *a, const char *b)
{
    return a && b ? !strcmp(a, b) : a == b;
}

static bool same_list(char *const *a, unsigned n, char *const *b, unsigned m)
{
    for (unsigned i = 0; n == m && i < n; i++)
        if (strcmp(a[i], b[i]) != 0)
            return false;
    return n == m;
}

/* In whatever order a table of Lua's gave them. */
static bool same_zones(const struct way_config *a, const struct way_config *b)
{
    for (unsigned i = 0; i < a->zone_count; i++) {
        unsigned k = 0;
        while (k < b->zone_count && (strcmp(a->zones[i].address, b->zones[k].address) ||
                                     strcmp(a->zones[i].zone, b->zones[k].zone)))
            k++;
        if (k == b->zone_count)
            return false;
    }
    return a->zone_count == b->zone_count;
}

static bool same_tls(const struct way_config_tls *a, const struct way_config_tls *b)
{
    return a->on == b->on && a->skip_verify == b->skip_verify &&
           same_text(a->ca, b->ca) && same_text(a->cert, b->cert) &&
           same_text(a->key, b->key) && same_text(a->server_name, b->server_name);
}

const char *way_config_fixed(const struct way_config *a, const struct way_config *b)
{
    const struct {
        const char *key;
        bool same;
    } keys[] = {
        { "listen", same_list(a->listen, a->listens, b->listen, b->listens) },
        { "workers", a->workers == b->workers },
        { "cluster.seeds", same_list(a->seeds, a->seed_count, b->seeds, b->seed_count) },
        { "cluster.user", same_text(a->user, b->user) },
        { "cluster.password", same_text(a->password, b->password) },
        { "cluster.tls", same_tls(&a->tls, &b->tls) },
        { "cluster.zones", same_zones(a, b) },
        { "cluster.name_servers", same_text(a->name_servers, b->name_servers) },
        { "policy.watch", a->watch == b->watch },
        { "segment", same_text(a->segment, b->segment) },
        { "admin.console", same_text(a->console, b->console) },
        { "admin.http", same_text(a->http, b->http) },
        { "log.level", same_text(a->log_level, b->log_level) },
    };
    for (unsigned i = 0; i < way_count(keys); i++)
        if (!keys[i].same)
            return keys[i].key;
    return NULL;
}
