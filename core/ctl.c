/* ctl - see ctl.h.
 *
 * hiredis connects and writes the command. What comes back is decoded here, straight into
 * jansson's values, for hiredis 0.14 knows no RESP3, and in RESP2 a map can't be told from
 * a list. The order of a map's names is the console's: the order of the columns. */
#include "ctl.h"

#include "slots.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    REPLY_MAX = 64 * 1024 * 1024,
    DEPTH_MAX = 16,
    COLUMNS = 64,
    WAIT_SECONDS = 30,
};

/* ---- RESP3 to JSON ---- */

struct decoding {
    const char *p, *end;
    char *error; /* the text of an error reply */
    size_t error_bytes;
    bool bad, failed;
};

static json_t *decode(struct decoding *d, unsigned depth);

/* The line at p without its end; NULL: it is not whole. */
static const char *line_of(struct decoding *d, size_t *n)
{
    const char *line = d->p + 1;
    const char *stop = d->p < d->end ? memchr(d->p, '\n', (size_t)(d->end - d->p)) : NULL;
    if (!stop)
        return NULL;
    if (stop < line || stop[-1] != '\r') {
        d->bad = true;
        return NULL;
    }
    *n = (size_t)(stop - 1 - line);
    d->p = stop + 1;
    return line;
}

/* Text that is no UTF-8 is shown as ISO 8859-1. */
static json_t *text_of(const char *p, size_t n)
{
    json_t *v = json_stringn(p, n);
    if (v)
        return v;
    char *text = way_alloc(2 * n + 1);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c >= 0x80)
            text[at++] = (char)(0xc0 | c >> 6);
        text[at++] = (char)(c < 0x80 ? c : 0x80 | (c & 0x3f));
    }
    v = json_stringn_nocheck(text, at);
    way_free(text);
    return v;
}

static json_t *decode_bulk(struct decoding *d, long n, bool verbatim)
{
    if (n < 0)
        return json_null();
    if (d->end - d->p < n + 2)
        return NULL;
    const char *p = d->p;
    d->p += n + 2;
    return verbatim && n >= 4 ? text_of(p + 4, (size_t)n - 4) : text_of(p, (size_t)n);
}

static json_t *decode_list(struct decoding *d, long n, unsigned depth)
{
    json_t *list = n < 0 ? json_null() : json_array();
    for (long i = 0; i < n; i++) {
        json_t *v = decode(d, depth + 1);
        if (!v) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, v);
    }
    return list;
}

static json_t *decode_map(struct decoding *d, long n, unsigned depth)
{
    json_t *map = json_object();
    for (long i = 0; i < n; i++) {
        json_t *name = decode(d, depth + 1), *v = name ? decode(d, depth + 1) : NULL;
        if (v && json_is_string(name))
            json_object_set_new_nocheck(map, json_string_value(name), v);
        else if (v) {
            json_decref(v);
            d->bad = true;
        }
        json_decref(name);
        if (!v || d->bad) {
            json_decref(map);
            return NULL;
        }
    }
    return map;
}

static json_t *decode_number(const char *line, size_t n)
{
    char text[64];
    snprintf(text, sizeof text, "%.*s", (int)n, line);
    double v = strtod(text, NULL);
    json_t *number = json_real(v);
    return number ? number : json_string(text); /* inf, nan */
}

static json_t *decode_error(struct decoding *d, const char *line, size_t n)
{
    snprintf(d->error, d->error_bytes, "%.*s", (int)n, line);
    d->failed = true;
    return json_null();
}

/* NULL: not whole, or bad. */
static json_t *decode(struct decoding *d, unsigned depth)
{
    size_t n;
    char kind = d->p < d->end ? *d->p : 0;
    const char *line = line_of(d, &n);
    if (!line)
        return NULL;
    long count = strtol(line, NULL, 10);
    bool aggregate = strchr("*~>%", kind) != NULL;
    if (depth > DEPTH_MAX || (aggregate && (count > REPLY_MAX || count < -1))) {
        d->bad = true;
        return NULL;
    }
    switch (kind) {
    case '+': return text_of(line, n);
    case ':': return json_integer(strtoll(line, NULL, 10));
    case ',': return decode_number(line, n);
    case '#': return json_boolean(*line == 't');
    case '_': return json_null();
    case '$':
    case '=': return decode_bulk(d, count, kind == '=');
    case '*':
    case '~':
    case '>': return decode_list(d, count, depth);
    case '%': return decode_map(d, count, depth);
    case '-': return decode_error(d, line, n);
    default: d->bad = true; return NULL;
    }
}

long way_ctl_decode(const char *p, size_t n, struct json_t **out, char *error,
                    size_t error_bytes)
{
    struct decoding d = {
        .p = p, .end = p + n, .error = error, .error_bytes = error_bytes
    };
    *out = NULL;
    error[0] = 0;
    json_t *v = decode(&d, 0);
    if (d.bad) {
        json_decref(v);
        return -1;
    }
    if (!v)
        return 0;
    if (d.failed)
        json_decref(v);
    else
        *out = v;
    return (long)(d.p - p);
}

/* ---- tables ---- */

static void cell(const json_t *v, char *text, size_t n)
{
    if (json_is_string(v))
        snprintf(text, n, "%s", json_string_value(v));
    else if (json_is_integer(v))
        snprintf(text, n, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        snprintf(text, n, "%.6g", json_real_value(v));
    else if (json_is_boolean(v))
        snprintf(text, n, json_is_true(v) ? "yes" : "no");
    else if (json_is_null(v) || !v)
        snprintf(text, n, "-");
    else {
        char *dumped = json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(6));
        snprintf(text, n, "%s", dumped ? dumped : "?");
        free(dumped);
    }
}

/* Characters, not bytes, so that columns stand under each other. */
static int width_of(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void pad(FILE *out, const char *text, int width, bool last)
{
    fputs(text, out);
    for (int n = width_of(text); !last && n < width + 2; n++)
        fputc(' ', out);
}

struct column {
    const char *name;
    int width;
};

static unsigned find_columns(const json_t *list, struct column *column)
{
    unsigned columns = 0;
    char text[1024];
    size_t i;
    json_t *row, *v;
    const char *name;
    json_array_foreach((json_t *)(uintptr_t)list, i, row)
    {
        json_object_foreach(row, name, v)
        {
            unsigned k = 0;
            while (k < columns && strcmp(column[k].name, name))
                k++;
            if (k == COLUMNS)
                continue;
            if (k == columns)
                column[columns++] = (struct column){ name, width_of(name) };
            cell(v, text, sizeof text);
            int width = width_of(text);
            column[k].width = width > column[k].width ? width : column[k].width;
        }
    }
    return columns;
}

static void print_table(const json_t *list, FILE *out)
{
    struct column column[COLUMNS];
    unsigned columns = find_columns(list, column);
    char text[1024];
    size_t i;
    json_t *row;
    for (unsigned k = 0; k < columns; k++)
        pad(out, column[k].name, column[k].width, k + 1 == columns);
    fputc('\n', out);
    json_array_foreach((json_t *)(uintptr_t)list, i, row)
    {
        for (unsigned k = 0; k < columns; k++) {
            cell(json_object_get(row, column[k].name), text, sizeof text);
            pad(out, text, column[k].width, k + 1 == columns);
        }
        fputc('\n', out);
    }
}

static void print_map(const json_t *map, FILE *out)
{
    char text[4096];
    const char *name;
    json_t *v;
    int width = 0;
    json_object_foreach((json_t *)(uintptr_t)map, name, v) width =
        width_of(name) > width ? width_of(name) : width;
    json_object_foreach((json_t *)(uintptr_t)map, name, v)
    {
        cell(v, text, sizeof text);
        pad(out, name, width, false);
        fprintf(out, "%s\n", text);
    }
}

static bool all_maps(const json_t *list)
{
    size_t i, n = json_array_size(list);
    for (i = 0; i < n && json_is_object(json_array_get(list, i)); i++)
        ;
    return n && i == n;
}

void way_ctl_print(const struct json_t *reply, FILE *out)
{
    char text[4096];
    if (json_is_array(reply) && all_maps(reply)) {
        print_table(reply, out);
    } else if (json_is_array(reply)) {
        for (size_t i = 0; i < json_array_size(reply); i++) {
            const json_t *v = json_array_get(reply, i);
            if (json_is_object(v)) {
                print_map(v, out);
                continue;
            }
            cell(v, text, sizeof text);
            fprintf(out, "%s\n", text);
        }
    } else if (json_is_object(reply)) {
        print_map(reply, out);
    } else {
        cell(reply, text, sizeof text);
        fprintf(out, "%s\n", text);
    }
}

/* ---- asking ---- */

static redisContext *dial(const char *address, struct way_err *err)
{
    const struct timeval wait = { .tv_sec = 5 };
    char host[WAY_HOST_MAX];
    uint16_t port;
    redisContext *c;
    if (!strncmp(address, "unix:", 5))
        c = redisConnectUnixWithTimeout(address + 5, wait);
    else if (way_split_address(address, strlen(address), host, &port, err) < 0)
        return NULL;
    else
        c = redisConnectWithTimeout(host, port, wait);
    if (c && !c->err)
        return c;
    way_fail(err, "console %s: %s", address, c ? c->errstr : "no memory");
    redisFree(c);
    return NULL;
}

static int send_words(redisContext *c, const char *const *word, unsigned words)
{
    const char **all = way_alloc((words + 1) * sizeof *all);
    all[0] = "WAYSIDE";
    for (unsigned i = 0; i < words; i++)
        all[i + 1] = word[i];
    int done = 0, rc = redisAppendCommand(c, "HELLO 3");
    if (rc == REDIS_OK)
        rc = redisAppendCommandArgv(c, (int)words + 1, all, NULL);
    while (rc == REDIS_OK && !done)
        rc = redisBufferWrite(c, &done);
    way_free(all);
    return rc == REDIS_OK ? 0 : -1;
}

/* The next reply; 1: an error, whose text is in err. */
static int receive(redisContext *c, struct way_buf *b, json_t **out, struct way_err *err)
{
    for (;;) {
        char text[512];
        long n = way_ctl_decode(b->p + b->off, way_buf_held(b), out, text, sizeof text);
        if (n > 0) {
            b->off += (size_t)n;
            return *out ? 0 : (way_fail(err, "%s", text), 1);
        }
        if (n < 0 || way_buf_held(b) > REPLY_MAX)
            return way_fail(err, "the console's answer is not understood");
        way_buf_room(b, 65536);
        ssize_t got = read(c->fd, b->p + b->len, 65536);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return way_fail(err, "the console did not answer: %s",
                            got ? strerror(errno) : "it closed the connection");
        b->len += (size_t)got;
    }
}

static int print(const json_t *reply, bool json, FILE *out)
{
    if (!json) {
        way_ctl_print(reply, out);
        return 0;
    }
    json_dumpf(reply, out, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
    fputc('\n', out);
    return 0;
}

int way_ctl_run(const char *address, const char *const *word, unsigned words, bool json,
                FILE *out, struct way_err *err)
{
    const struct timeval wait = { .tv_sec = WAIT_SECONDS };
    struct way_buf b = { 0 };
    json_t *reply = NULL;
    redisContext *c = dial(address, err);
    if (!c)
        return -1;
    int result = -1;
    redisSetTimeout(c, wait);
    if (send_words(c, word, words) < 0)
        way_fail(err, "console %s: %s", address, c->errstr);
    else
        result = receive(c, &b, &reply, err);
    json_decref(reply);
    reply = NULL;
    if (result == 0)
        result = receive(c, &b, &reply, err);
    if (result == 0)
        result = print(reply, json, out);
    json_decref(reply);
    way_buf_fini(&b);
    redisFree(c);
    return result;
}
