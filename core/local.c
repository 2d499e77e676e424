/* local - what wayside answers itself: the connection's own affairs, which concern no node.
 * Clients' libraries ask these on connecting, so the answers are shaped as Redis's. */
#include "client.h"
#include "daemon.h"

#include <stdio.h>
#include <strings.h>
#include <unistd.h>

struct words {
    const char *p;
    const struct way_arg *arg;
    unsigned count;
};

static struct way_span word(const struct words *w, unsigned i)
{
    return (struct way_span){ w->p + w->arg[i].off, w->arg[i].n };
}

static bool is(const struct words *w, unsigned i, const char *name)
{
    if (i >= w->count)
        return false;
    struct way_span s = word(w, i);
    return s.n == strlen(name) && !strncasecmp(s.p, name, s.n);
}

static void put_simple(struct way_buf *out, const char *text)
{
    way_buf_printf(out, "+%s\r\n", text);
}

static void put_string(struct way_buf *out, const char *text)
{
    way_resp_put_bulk(out, text, strlen(text));
}

static void put_null(const struct way_client *c, struct way_buf *out)
{
    way_buf_puts(out, c->pipeline.resp == 3 ? "_\r\n" : "$-1\r\n");
}

static void put_map(const struct way_client *c, struct way_buf *out, unsigned pairs)
{
    if (c->pipeline.resp == 3)
        way_buf_printf(out, "%%%u\r\n", pairs);
    else
        way_resp_put_array(out, (size_t)pairs * 2);
}

/* A name as Redis takes it: printable, no spaces. */
static bool good_name(struct way_span s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < '!' || s.p[i] > '~')
            return false;
    return s.n <= 256;
}

static bool set_name(struct way_client *c, struct way_span name, struct way_buf *out)
{
    if (!good_name(name)) {
        way_resp_put_error(out, "ERR Client names cannot contain spaces, newlines or "
                                "special characters.");
        return false;
    }
    way_free(c->name);
    c->name = name.n ? way_strndup(name.p, name.n) : NULL;
    return true;
}

/* The reply to HELLO itself is already in the version that it asked for. */
static void hello(struct way_client *c, const struct words *w, struct way_buf *out)
{
    uint8_t version = c->pipeline.resp;
    if (w->count > 1) {
        if (!is(w, 1, "2") && !is(w, 1, "3")) {
            way_resp_put_error(out, "NOPROTO unsupported protocol version");
            return;
        }
        version = (uint8_t)(word(w, 1).p[0] - '0');
    }
    for (unsigned i = 2; i < w->count; i++) {
        if (is(w, i, "SETNAME") && i + 1 < w->count) {
            if (!set_name(c, word(w, ++i), out))
                return;
        } else if (is(w, i, "AUTH") && i + 2 < w->count) {
            way_resp_put_error(out,
                               "ERR wayside asks its clients for no password: its own "
                               "to the nodes is in the configuration");
            return;
        } else {
            way_resp_put_error(out, "ERR Syntax error in HELLO option '%.*s'",
                               (int)(word(w, i).n < 64 ? word(w, i).n : 64),
                               word(w, i).p);
            return;
        }
    }
    way_pipeline_speak(&c->pipeline, version);
    put_map(c, out, 7);
    put_string(out, "server"), put_string(out, "redis");
    put_string(out, "version"), put_string(out, "7.0.0");
    put_string(out, "proto"), way_resp_put_integer(out, version);
    put_string(out, "id"), way_resp_put_integer(out, (int64_t)c->id);
    put_string(out, "mode"), put_string(out, "standalone");
    put_string(out, "role"), put_string(out, "master");
    put_string(out, "modules"), way_resp_put_array(out, 0);
}

/* ---- COMMAND ---- */

static void put_command(const struct way_command *k, struct way_buf *out)
{
    bool range = k->keyspec != WAY_KEYS_NONE;
    way_resp_put_array(out, 6);
    put_string(out, k->name);
    way_resp_put_integer(out, k->arity);
    way_resp_put_array(out, 1);
    put_simple(out, k->write ? "write" : "readonly");
    way_resp_put_integer(out, range ? k->first : 0);
    way_resp_put_integer(out, range ? k->last : 0);
    way_resp_put_integer(out, range ? k->step : 0);
}

static unsigned served_commands(void)
{
    unsigned n = 0;
    for (unsigned i = 0; way_command_at(i); i++)
        n += way_command_at(i)->how != WAY_HOW_REFUSE;
    return n;
}

static void all_commands(struct way_buf *out)
{
    way_resp_put_array(out, served_commands());
    for (unsigned i = 0; way_command_at(i); i++)
        if (way_command_at(i)->how != WAY_HOW_REFUSE)
            put_command(way_command_at(i), out);
}

static void command(struct way_client *c, const struct words *w, struct way_buf *out)
{
    if (w->count == 1) {
        all_commands(out);
    } else if (is(w, 1, "COUNT") && w->count == 2) {
        way_resp_put_integer(out, served_commands());
    } else if (is(w, 1, "INFO")) {
        way_resp_put_array(out, w->count - 2);
        for (unsigned i = 2; i < w->count; i++) {
            const struct way_command *k = way_command_find(word(w, i).p, word(w, i).n);
            if (k && k->how != WAY_HOW_REFUSE)
                put_command(k, out);
            else
                way_buf_puts(out, c->pipeline.resp == 3 ? "_\r\n" : "*-1\r\n");
        }
    } else if (is(w, 1, "DOCS")) {
        put_map(c, out, 0); /* redis-cli asks for its hints */
    } else {
        way_resp_put_error(out, "ERR wayside does not serve 'COMMAND %.*s'",
                           (int)(word(w, 1).n < 64 ? word(w, 1).n : 64), word(w, 1).p);
    }
}

/* ---- CLIENT, CONFIG, INFO ---- */

static void client(struct way_client *c, const struct words *w, struct way_buf *out)
{
    if (is(w, 1, "SETNAME") && w->count == 3) {
        if (set_name(c, word(w, 2), out))
            put_simple(out, "OK");
    } else if (is(w, 1, "GETNAME") && w->count == 2) {
        if (c->name)
            put_string(out, c->name);
        else
            put_null(c, out);
    } else if (is(w, 1, "ID") && w->count == 2) {
        way_resp_put_integer(out, (int64_t)c->id);
    } else if (is(w, 1, "SETINFO") && w->count == 4) {
        put_simple(out, "OK");
    } else if (is(w, 1, "INFO") && w->count == 2) {
        char line[512];
        int n =
            snprintf(line, sizeof line, "id=%llu name=%s resp=%u sub=0 psub=0 multi=-1\n",
                     (unsigned long long)c->id, c->name ? c->name : "", c->pipeline.resp);
        way_resp_put_bulk(out, line, (size_t)n);
    } else {
        way_resp_put_error(out,
                           "ERR wayside does not serve 'CLIENT %.*s': of CLIENT it knows "
                           "SETNAME, GETNAME, ID, INFO and SETINFO",
                           (int)(word(w, 1).n < 64 ? word(w, 1).n : 64), word(w, 1).p);
    }
}

/* What benchmarks and libraries ask for; a node's own configuration is its own. */
static void config(struct way_client *c, const struct words *w, struct way_buf *out)
{
    static const struct {
        const char *name, *value;
    } known[] = { { "save", "" },
                  { "appendonly", "no" },
                  { "databases", "1" },
                  { "maxmemory", "0" },
                  { "proto-max-bulk-len", "536870912" } };
    unsigned found = 0;
    struct way_buf pairs = { 0 };
    if (w->count < 3 || !is(w, 1, "GET")) {
        way_resp_put_error(out,
                           "ERR wayside does not serve 'CONFIG %.*s': of CONFIG it "
                           "knows GET",
                           (int)(word(w, 1).n < 64 ? word(w, 1).n : 64), word(w, 1).p);
        return;
    }
    for (unsigned i = 2; i < w->count; i++) {
        for (unsigned k = 0; k < way_count(known); k++) {
            if (is(w, i, known[k].name) || is(w, i, "*")) {
                put_string(&pairs, known[k].name);
                put_string(&pairs, known[k].value);
                found++;
            }
        }
    }
    put_map(c, out, found);
    if (found)
        way_buf_put(out, pairs.p, pairs.len);
    way_buf_fini(&pairs);
}

static void info(struct way_client *c, struct way_buf *out)
{
    const struct way_front_options *f = way_front_about(c->front);
    struct way_buf text = { 0 };
    way_buf_printf(&text,
                   "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\n"
                   "wayside_version:" WAY_VERSION "\r\nprocess_id:%d\r\n",
                   (int)getpid());
    f->host.info(f->host.arg, &text);
    way_resp_put_bulk(out, text.p, text.len);
    way_buf_fini(&text);
}

static void select_db(const struct words *w, struct way_buf *out)
{
    if (is(w, 1, "0"))
        put_simple(out, "OK");
    else
        way_resp_put_error(out, "ERR SELECT is not allowed in cluster mode");
}

static void reset(struct way_client *c, struct way_buf *out)
{
    way_pipeline_speak(&c->pipeline, 2);
    way_free(c->name);
    c->name = NULL;
    put_simple(out, "RESET");
}

void way_local_answer(struct way_client *c, const struct way_command *k, const char *p,
                      const struct way_arg *arg, unsigned count, struct way_buf *out)
{
    struct words w = { p, arg, count };
    switch (k->local) {
    case WAY_LOCAL_PING:
    case WAY_LOCAL_ECHO: way_command_echo(k, p, arg, count, out); break;
    case WAY_LOCAL_HELLO: hello(c, &w, out); break;
    case WAY_LOCAL_COMMAND: command(c, &w, out); break;
    case WAY_LOCAL_CLIENT: client(c, &w, out); break;
    case WAY_LOCAL_CONFIG: config(c, &w, out); break;
    case WAY_LOCAL_INFO: info(c, out); break;
    case WAY_LOCAL_SELECT: select_db(&w, out); break;
    case WAY_LOCAL_RESET: reset(c, out); break;
    case WAY_LOCAL_AUTH:
        way_resp_put_error(out,
                           "ERR wayside asks its clients for no password: its own to "
                           "the nodes is in the configuration");
        break;
    default: put_simple(out, "OK"); break;
    }
}
