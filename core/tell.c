/* tell - see tell.h. */
#include "tell.h"

#include "resp.h"

#include <math.h>
#include <stdio.h>

void way_tell_array(struct way_tell *t, size_t count)
{
    way_resp_put_array(t->out, count);
}

void way_tell_map(struct way_tell *t, size_t pairs)
{
    if (t->resp == 3)
        way_buf_printf(t->out, "%%%zu\r\n", pairs);
    else
        way_resp_put_array(t->out, pairs * 2);
}

void way_tell_string(struct way_tell *t, const char *s)
{
    way_resp_put_bulk(t->out, s, strlen(s));
}

void way_tell_status(struct way_tell *t, const char *s)
{
    way_buf_printf(t->out, "+%s\r\n", s);
}

void way_tell_format(struct way_tell *t, const char *fmt, ...)
{
    struct way_buf b = { 0 };
    va_list ap;
    va_start(ap, fmt);
    way_buf_vprintf(&b, fmt, ap);
    va_end(ap);
    way_resp_put_bulk(t->out, b.p + b.off, way_buf_held(&b));
    way_buf_fini(&b);
}

void way_tell_integer(struct way_tell *t, int64_t v)
{
    way_resp_put_integer(t->out, v);
}

void way_tell_number(struct way_tell *t, double v)
{
    char text[64];
    snprintf(text, sizeof text, isfinite(v) && fabs(v) < 1e15 ? "%.6f" : "%g", v);
    if (strchr(text, '.')) {
        size_t n = strlen(text);
        while (text[n - 1] == '0')
            n--;
        text[text[n - 1] == '.' ? n - 1 : n] = 0;
    }
    if (t->resp == 3)
        way_buf_printf(t->out, ",%s\r\n", text);
    else
        way_tell_string(t, text);
}

void way_tell_bool(struct way_tell *t, bool v)
{
    if (t->resp == 3)
        way_buf_puts(t->out, v ? "#t\r\n" : "#f\r\n");
    else
        way_tell_integer(t, v);
}

void way_tell_nil(struct way_tell *t)
{
    way_buf_puts(t->out, t->resp == 3 ? "_\r\n" : "$-1\r\n");
}

/* --- maps of a size not known before --- */

/* Place for the longest header; what it did not need is closed up at the end. */
enum { OPEN_BYTES = 24 };

struct way_tell_open way_tell_begin(struct way_tell *t)
{
    struct way_tell_open open = { .at = way_buf_held(t->out), .pairs = 0 };
    way_buf_room(t->out, OPEN_BYTES);
    memset(t->out->p + t->out->len, ' ', OPEN_BYTES);
    t->out->len += OPEN_BYTES;
    return open;
}

void way_tell_end(struct way_tell *t, struct way_tell_open *open)
{
    char head[OPEN_BYTES];
    size_t count = t->resp == 3 ? open->pairs : open->pairs * 2;
    size_t n =
        (size_t)snprintf(head, sizeof head, "%c%zu\r\n", t->resp == 3 ? '%' : '*', count);
    char *p = t->out->p + t->out->off + open->at;
    size_t behind = way_buf_held(t->out) - open->at - OPEN_BYTES;
    memcpy(p, head, n);
    memmove(p + n, p + OPEN_BYTES, behind);
    t->out->len -= OPEN_BYTES - n;
}

void way_tell_name(struct way_tell *t, struct way_tell_open *open, const char *name)
{
    open->pairs++;
    way_tell_string(t, name);
}

void way_tell_field(struct way_tell *t, struct way_tell_open *open, const char *name,
                    const char *value)
{
    if (!value[0])
        return;
    way_tell_name(t, open, name);
    way_tell_string(t, value);
}

void way_tell_field_integer(struct way_tell *t, struct way_tell_open *open,
                            const char *name, int64_t v)
{
    way_tell_name(t, open, name);
    way_tell_integer(t, v);
}

void way_tell_field_number(struct way_tell *t, struct way_tell_open *open,
                           const char *name, double v)
{
    way_tell_name(t, open, name);
    way_tell_number(t, v);
}

void way_tell_field_bool(struct way_tell *t, struct way_tell_open *open, const char *name,
                         bool v)
{
    way_tell_name(t, open, name);
    way_tell_bool(t, v);
}
