/* resp - see resp.h. One loop over tokens, no recursion: what is still to come is a count
 * per level, so a stack of our own with a bound replaces the machine's. A token that is
 * not there as a whole is left and begun again with the next piece. That costs nothing, as
 * headers are short and a bulk's bytes are jumped over; only lines, which have no length
 * in front, remember how far they were looked through. Numbers are read by hand: for the
 * two or three digits they have, a loop beats every library function. */
#include "resp.h"

#include <strings.h>

enum { INLINE_MAX = 64 * 1024, ARGS_KEPT = 4096 };
static const int64_t elements_max = (int64_t)1 << 31;

/* A decimal number and its CRLF at p[at]: the position behind it; 0 needs more; -1 bad.
 * As Redis reads them: no plus, no leading zeros, within 64 bits. */
static inline ssize_t number(const char *p, size_t n, size_t at, int64_t *value)
{
    bool negative = at < n && p[at] == '-';
    size_t first = at + negative, i = first;
    uint64_t v = 0;
    for (; i < n; i++) {
        unsigned digit = (unsigned)(unsigned char)p[i] - '0';
        if (digit > 9)
            break;
        if (i - first == 19)
            return -1;
        v = v * 10 + digit;
    }
    if (i == n)
        return 0;
    if (i == first || p[i] != '\r' || (p[first] == '0' && (negative || i - first > 1)) ||
        v > (uint64_t)INT64_MAX + negative)
        return -1;
    if (i + 1 == n)
        return 0;
    if (p[i + 1] != '\n')
        return -1;
    *value = (int64_t)(negative ? 0 - v : v);
    return (ssize_t)(i + 2);
}

/* A line's end, CRLF: the position behind it; 0 needs more; -1 CR without LF or too long.
 * *looked: where to begin, and where to go on. */
static ssize_t line_end(const char *p, size_t n, size_t at, size_t max_bytes,
                        size_t *looked)
{
    size_t i = *looked > at ? *looked : at + 1;
    size_t near = n - i > 16 ? i + 16 : n;
    while (i < near && p[i] != '\r')
        i++;
    if (i == near && i < n) {
        const char *cr = memchr(p + i, '\r', n - i);
        i = cr ? (size_t)(cr - p) : n;
    }
    if (i - at - 1 > max_bytes)
        return -1;
    *looked = i;
    if (n - i < 2)
        return 0;
    return p[i + 1] == '\n' ? (ssize_t)(i + 2) : -1;
}

/* A bulk at p[at], its type byte. */
static inline ssize_t bulk_end(const char *p, size_t n, size_t at, size_t max_bytes)
{
    int64_t bytes = 0;
    ssize_t next = number(p, n, at + 1, &bytes);
    if (next <= 0)
        return next;
    if (bytes < 0)
        return bytes == -1 && p[at] == '$' ? next : -1;
    if ((uint64_t)bytes > max_bytes)
        return -1;
    size_t end = (size_t)next + (size_t)bytes;
    if (end + 2 > n)
        return 0;
    return p[end] == '\r' && p[end + 1] == '\n' ? (ssize_t)(end + 2) : -1;
}

/* A fixed token: one byte of `allowed` (none if it is empty) between type and CRLF. */
static ssize_t fixed_end(const char *p, size_t n, size_t at, const char *allowed)
{
    size_t i = at + 1;
    if (*allowed) {
        if (i < n && (!p[i] || !strchr(allowed, p[i])))
            return -1;
        i++;
    }
    if ((i < n && p[i] != '\r') || (i + 1 < n && p[i + 1] != '\n'))
        return -1;
    return i + 1 < n ? (ssize_t)(i + 2) : 0;
}

/* An aggregate's header. *count gets its elements; -1 where it is a null array. */
static inline ssize_t aggregate_end(const char *p, size_t n, size_t at, int64_t *count)
{
    ssize_t next = number(p, n, at + 1, count);
    if (next <= 0)
        return next;
    if (*count < 0)
        return *count == -1 && p[at] == '*' ? next : -1;
    if (*count > elements_max)
        return -1;
    if (p[at] == '%' || p[at] == '|')
        *count *= 2;
    return next;
}

static inline bool is_aggregate(char type)
{
    return type == '*' || type == '%' || type == '~' || type == '>' || type == '|';
}

static ssize_t scalar_end(struct way_reply_framer *f, const char *p, size_t n,
                          size_t max_bytes)
{
    int64_t ignored;
    switch (p[f->at]) {
    case '$':
    case '!':
    case '=': return bulk_end(p, n, f->at, max_bytes);
    case ':': return number(p, n, f->at + 1, &ignored);
    case '+':
    case '-':
    case ',':
    case '(': return line_end(p, n, f->at, max_bytes, &f->line);
    case '_': return fixed_end(p, n, f->at, "");
    case '#': return fixed_end(p, n, f->at, "tf");
    default: return -1;
    }
}

/* A value ended: so may the aggregates that it is the last of. True: all did. */
static inline bool value_ended(struct way_reply_framer *f)
{
    while (f->depth) {
        if (--f->left[f->depth])
            return false;
        f->depth--;
    }
    return f->left[0]-- == 0;
}

/* An aggregate's header was read. True: that was the whole value. */
static bool aggregate_began(struct way_reply_framer *f, char type, int64_t count)
{
    if (type == '|') { /* its elements come before the value, which is still to come */
        f->left[f->depth] += count;
        return false;
    }
    if (count <= 0)
        return value_ended(f);
    f->left[++f->depth] = count;
    return false;
}

ssize_t way_reply_frame(struct way_reply_framer *f, const char *p, size_t n,
                        size_t max_bytes)
{
    while (f->at < n) {
        char type = p[f->at];
        bool whole;
        if (is_aggregate(type)) {
            int64_t count = 0;
            ssize_t next = aggregate_end(p, n, f->at, &count);
            if (next <= 0)
                return next;
            if ((type == '>' && f->at) ||
                (type != '|' && count > 0 && f->depth == WAY_RESP_DEPTH))
                return -1;
            f->at = (size_t)next;
            whole = aggregate_began(f, type, count);
        } else {
            ssize_t next = type == '$' ? bulk_end(p, n, f->at, max_bytes)
                                       : scalar_end(f, p, n, max_bytes);
            if (next <= 0)
                return next;
            f->at = (size_t)next;
            whole = value_ended(f);
        }
        if (whole)
            return (ssize_t)f->at;
    }
    return 0;
}

size_t way_reply_length(const char *p, size_t n)
{
    struct way_reply_framer f;
    way_reply_framer_reset(&f);
    ssize_t length = way_reply_frame(&f, p, n, SIZE_MAX / 2);
    return length > 0 ? (size_t)length : 0;
}

int64_t way_reply_elements(const char *p, size_t n, size_t *header)
{
    int64_t count = -1;
    if (!n || !is_aggregate(p[0]) || p[0] == '|')
        return -1;
    ssize_t next = aggregate_end(p, n, 0, &count);
    if (next <= 0)
        return -1;
    *header = (size_t)next;
    return count;
}

bool way_reply_integer(const char *p, size_t n, int64_t *value)
{
    return n && p[0] == ':' && number(p, n, 1, value) > 0;
}

/* --- requests --- */

void way_request_parser_reset(struct way_request_parser *s)
{
    if (s->room > ARGS_KEPT) {
        way_free(s->arg);
        s->arg = NULL;
        s->room = 0;
    }
    s->at = 0;
    s->left = 0;
    s->count = 0;
    s->is_inline = false;
}

void way_request_parser_fini(struct way_request_parser *s)
{
    way_free(s->arg);
    *s = (struct way_request_parser){ 0 };
}

static void more_args(struct way_request_parser *s)
{
    s->room = s->room ? s->room * 2 : 8;
    s->arg = way_realloc(s->arg, s->room * sizeof *s->arg);
}

static inline void put_arg(struct way_request_parser *s, size_t off, size_t n)
{
    if (s->count == s->room)
        more_args(s);
    s->arg[s->count++] = (struct way_arg){ off, n };
}

/* What ends a word and what may stand between words: not the same to Redis. */
static bool ends_word(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == 0;
}

static bool between_words(char c)
{
    return ends_word(c) || c == '\v' || c == '\f';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* What stands behind a backslash in double quotes, *at on it; the byte that is meant. */
static char unescape(const char *p, size_t end, size_t *at)
{
    static const char from[] = "nrtba", to[] = "\n\r\t\b\a";
    char c = p[(*at)++];
    if (c == 'x' && end - *at >= 2 && hex_digit(p[*at]) >= 0 &&
        hex_digit(p[*at + 1]) >= 0) {
        c = (char)(hex_digit(p[*at]) * 16 + hex_digit(p[*at + 1]));
        *at += 2;
        return c;
    }
    const char *known = c ? strchr(from, c) : NULL;
    return known ? to[known - from] : c;
}

/* The inside of quotes, *at behind the opening one, to behind the closing one. Bytes go to
 * out unless it is NULL; returns how many, -1: not closed, or a word goes on behind it. */
static ssize_t quoted(const char *p, size_t end, size_t *at, char quote, char *out)
{
    ssize_t n = 0;
    while (*at < end && p[*at] != quote) {
        char c = p[(*at)++];
        if (c == '\\' && *at < end) {
            if (quote == '"')
                c = unescape(p, end, at);
            else if (p[*at] == '\'')
                c = p[(*at)++];
        }
        if (out)
            out[n] = c;
        n++;
    }
    if (*at == end || (*at + 1 < end && !between_words(p[*at + 1])))
        return -1;
    ++*at;
    return n;
}

/* One word of an inline request from its first byte on, as `quoted`. */
static ssize_t word(const char *p, size_t end, size_t *at, char *out)
{
    ssize_t n = 0;
    while (*at < end && !ends_word(p[*at])) {
        char c = p[(*at)++];
        if (c == '"' || c == '\'') {
            ssize_t more = quoted(p, end, at, c, out ? out + n : NULL);
            return more < 0 ? -1 : n + more;
        }
        if (out)
            out[n] = c;
        n++;
    }
    return n;
}

static void skip_between(const char *p, size_t end, size_t *at)
{
    while (*at < end && between_words(p[*at]))
        ++*at;
}

static int unbalanced(struct way_err *err)
{
    return way_fail(err, "Protocol error: unbalanced quotes in request");
}

/* Redis drops who speaks HTTP: a browser can be made to send such bytes to any port. */
static bool is_http(const char *p, size_t n)
{
    return (n == 4 && !strncasecmp(p, "post", 4)) ||
           (n == 5 && !strncasecmp(p, "host:", 5));
}

static ssize_t parse_inline(struct way_request_parser *s, const char *p, size_t n,
                            struct way_err *err)
{
    const char *lf = memchr(p + s->at, '\n', n - s->at);
    size_t end = lf ? (size_t)(lf - p) : n;
    if (end > INLINE_MAX)
        return way_fail(err, "Protocol error: too big inline request");
    s->is_inline = true;
    s->at = end;
    if (!lf)
        return 0;
    size_t at = 0;
    for (skip_between(p, end, &at); at < end; skip_between(p, end, &at)) {
        size_t off = at;
        if (word(p, end, &at, NULL) < 0)
            return unbalanced(err);
        put_arg(s, off, at - off);
    }
    if (s->count && is_http(p + s->arg[0].off, s->arg[0].n))
        return way_fail(err, "Protocol error: this is HTTP");
    return (ssize_t)end + 1;
}

/* The next argument of a multi bulk: 1 taken, 0 needs more, -1 bad. */
static inline int parse_bulk(struct way_request_parser *s, const char *p, size_t n,
                             size_t max_bytes, struct way_err *err)
{
    int64_t bytes = 0;
    if (s->at >= n)
        return 0;
    if (p[s->at] != '$')
        return way_fail(err, "Protocol error: expected '$', got '%c'",
                        p[s->at] ? p[s->at] : ' ');
    ssize_t next = number(p, n, s->at + 1, &bytes);
    if (!next)
        return 0;
    if (next < 0 || bytes < 0 || (uint64_t)bytes > max_bytes)
        return way_fail(err, "Protocol error: invalid bulk length");
    size_t end = (size_t)next + (size_t)bytes;
    if (end + 2 > n)
        return 0;
    if (p[end] != '\r' || p[end + 1] != '\n')
        return way_fail(err, "Protocol error: invalid bulk length");
    put_arg(s, (size_t)next, (size_t)bytes);
    s->at = end + 2;
    return 1;
}

ssize_t way_request_parse(struct way_request_parser *s, const char *p, size_t n,
                          size_t max_args, size_t max_bytes, struct way_err *err)
{
    if (!n)
        return 0;
    if (p[0] != '*')
        return parse_inline(s, p, n, err);
    if (!s->at) {
        ssize_t next = number(p, n, 1, &s->left);
        if (!next)
            return 0;
        if (next < 0 || (s->left > 0 && (uint64_t)s->left > max_args))
            return way_fail(err, "Protocol error: invalid multibulk length");
        s->at = (size_t)next;
    }
    for (; s->left > 0; s->left--) {
        int taken = parse_bulk(s, p, n, max_bytes, err);
        if (taken <= 0)
            return taken;
    }
    return (ssize_t)s->at;
}

/* Counts the words, -1 if quotes do not match. */
static ssize_t count_words(const char *p, size_t end)
{
    size_t at = 0;
    ssize_t count = 0;
    for (skip_between(p, end, &at); at < end; skip_between(p, end, &at), count++)
        if (word(p, end, &at, NULL) < 0)
            return -1;
    return count;
}

int way_request_inline(const char *p, size_t n, struct way_buf *out, struct way_err *err)
{
    ssize_t count = count_words(p, n);
    if (count < 0)
        return unbalanced(err);
    way_resp_put_array(out, (size_t)count);
    size_t at = 0;
    for (skip_between(p, n, &at); at < n; skip_between(p, n, &at)) {
        size_t again = at;
        ssize_t bytes = word(p, n, &at, NULL);
        way_buf_printf(out, "$%zd\r\n", bytes);
        way_buf_room(out, (size_t)bytes + 2);
        word(p, n, &again, out->p + out->len);
        out->len += (size_t)bytes;
        way_buf_put(out, "\r\n", 2);
    }
    return 0;
}

/* --- writing --- */

/* type, number, CRLF */
static void put_header(struct way_buf *out, char type, uint64_t v, bool negative)
{
    char text[24];
    size_t i = sizeof text;
    text[--i] = '\n';
    text[--i] = '\r';
    do {
        text[--i] = (char)('0' + v % 10);
    } while (v /= 10);
    if (negative)
        text[--i] = '-';
    text[--i] = type;
    way_buf_put(out, text + i, sizeof text - i);
}

void way_resp_put_array(struct way_buf *out, size_t count)
{
    put_header(out, '*', count, false);
}

void way_resp_put_bulk(struct way_buf *out, const char *p, size_t n)
{
    put_header(out, '$', n, false);
    way_buf_room(out, n + 2);
    if (n)
        memcpy(out->p + out->len, p, n);
    memcpy(out->p + out->len + n, "\r\n", 2);
    out->len += n + 2;
}

void way_resp_put_integer(struct way_buf *out, int64_t v)
{
    put_header(out, ':', v < 0 ? 0 - (uint64_t)v : (uint64_t)v, v < 0);
}

void way_resp_put_error(struct way_buf *out, const char *fmt, ...)
{
    va_list ap;
    way_buf_put(out, "-", 1);
    size_t held = way_buf_held(out);
    va_start(ap, fmt);
    way_buf_vprintf(out, fmt, ap);
    va_end(ap);
    for (char *p = out->p + out->off + held; p < out->p + out->len; p++)
        if (*p == '\r' || *p == '\n')
            *p = ' ';
    way_buf_put(out, "\r\n", 2);
}

void way_resp_put_command(struct way_buf *out, unsigned argc, const char *const *argv)
{
    way_resp_put_array(out, argc);
    for (unsigned i = 0; i < argc; i++)
        way_resp_put_bulk(out, argv[i], strlen(argv[i]));
}
