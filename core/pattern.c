/* pattern - see pattern.h. A backtracking matcher: whatever has to be tried again is a
 * recursion, the rest is a loop. Rejected: an automaton without backtracking, which can't
 * do captures of Lua's kind, back references and %b. */
#include "pattern.h"

#include <ctype.h>

enum { DEPTH_MAX = 200, ITEM_BYTES = 4 /* of a set, for one step */ };

static const char *match(struct way_pattern *m, const char *s, const char *p);

static const char *end_of(struct way_span t)
{
    return t.p + t.n;
}

static const char *bad(struct way_pattern *m, const char *error)
{
    if (!m->error)
        m->error = error;
    return NULL;
}

static bool steps(struct way_pattern *m, size_t n)
{
    m->steps += n;
    if (m->steps <= m->steps_max)
        return true;
    bad(m, "the pattern takes too many steps");
    return false;
}

static bool step(struct way_pattern *m)
{
    return steps(m, 1);
}

/* Of looking at the item p to after once: a set is walked from end to end. */
static size_t item_steps(const char *p, const char *after)
{
    return 1 + (size_t)(after - p) / ITEM_BYTES;
}

/* Behind the single-character item at p: x, %x, [set]. NULL: malformed. */
static const char *item_end(struct way_pattern *m, const char *p)
{
    const char *end = end_of(m->pattern);
    if (*p == '%')
        return p + 1 < end ? p + 2 : bad(m, "the pattern ends with '%'");
    if (*p != '[')
        return p + 1;
    p++;
    if (p < end && *p == '^')
        p++;
    for (bool first = true;; first = false) {
        if (p >= end)
            return bad(m, "the pattern misses a ']'");
        if (*p == ']' && !first)
            return p + 1;
        p += *p == '%' ? 2 : 1;
    }
}

static bool in_class(int c, int letter)
{
    bool is;
    switch (tolower(letter)) {
    case 'a': is = isalpha(c); break;
    case 'c': is = iscntrl(c); break;
    case 'd': is = isdigit(c); break;
    case 'l': is = islower(c); break;
    case 'p': is = ispunct(c); break;
    case 's': is = isspace(c); break;
    case 'u': is = isupper(c); break;
    case 'w': is = isalnum(c); break;
    case 'x': is = isxdigit(c); break;
    case 'z': is = c == 0; break;
    default: return letter == c;
    }
    return isupper(letter) ? !is : is;
}

/* p at '[', last at its ']'. */
static bool in_set(int c, const char *p, const char *last)
{
    bool wanted = true;
    if (*++p == '^') {
        wanted = false;
        p++;
    }
    for (; p < last; p++) {
        if (*p == '%') {
            p++;
            if (in_class(c, (unsigned char)*p))
                return wanted;
        } else if (p + 2 < last && p[1] == '-') {
            if ((unsigned char)p[0] <= c && c <= (unsigned char)p[2])
                return wanted;
            p += 2;
        } else if ((unsigned char)*p == c) {
            return wanted;
        }
    }
    return !wanted;
}

static bool is_item(const struct way_pattern *m, const char *s, const char *p,
                    const char *after)
{
    if (s >= end_of(m->subject))
        return false;
    int c = (unsigned char)*s;
    switch (*p) {
    case '.': return true;
    case '%': return in_class(c, (unsigned char)p[1]);
    case '[': return in_set(c, p, after - 1);
    default: return (unsigned char)*p == c;
    }
}

/* As many as there are, then fewer and fewer. */
static const char *greedy(struct way_pattern *m, const char *s, const char *p,
                          const char *after)
{
    const char *last = s;
    while (is_item(m, last, p, after)) {
        if (!steps(m, item_steps(p, after)))
            return NULL;
        last++;
    }
    for (;; last--) {
        const char *got = match(m, last, after + 1);
        if (got || m->error || last == s)
            return got;
    }
}

static const char *lazy(struct way_pattern *m, const char *s, const char *p,
                        const char *after)
{
    for (;; s++) {
        const char *got = match(m, s, after + 1);
        if (got || m->error || !is_item(m, s, p, after) ||
            !steps(m, item_steps(p, after)))
            return got;
    }
}

static const char *open_capture(struct way_pattern *m, const char *s, const char *p)
{
    bool position = p + 1 < end_of(m->pattern) && p[1] == ')';
    if (m->captures == WAY_PATTERN_CAPTURES)
        return bad(m, "the pattern has too many captures");
    m->capture[m->captures].p = s;
    m->capture[m->captures].n = position ? WAY_CAPTURE_POSITION : WAY_CAPTURE_OPEN;
    m->captures++;
    const char *got = match(m, s, p + (position ? 2 : 1));
    if (!got)
        m->captures--;
    return got;
}

static const char *close_capture(struct way_pattern *m, const char *s, const char *p)
{
    unsigned i = m->captures;
    while (i && m->capture[i - 1].n != WAY_CAPTURE_OPEN)
        i--;
    if (!i)
        return bad(m, "the pattern closes a capture that is not open");
    struct way_capture *c = &m->capture[i - 1];
    c->n = s - c->p;
    const char *got = match(m, s, p + 1);
    if (!got)
        c->n = WAY_CAPTURE_OPEN;
    return got;
}

/* %bxy at s: behind the y that balances the x; NULL if there is none. */
static const char *balanced(struct way_pattern *m, const char *s, const char *p)
{
    const char *end = end_of(m->subject);
    if (p + 3 >= end_of(m->pattern))
        return bad(m, "the pattern's '%b' needs two characters");
    char open = p[2], close = p[3];
    unsigned depth = 0;
    if (s >= end || *s != open)
        return NULL;
    for (; s < end && step(m); s++) {
        if (*s == close && depth == 1)
            return s + 1;
        if (*s == close)
            depth--;
        else if (*s == open)
            depth++;
    }
    return NULL;
}

static const char *frontier(struct way_pattern *m, const char *s, const char *p)
{
    const char *set = p + 2;
    if (set >= end_of(m->pattern) || *set != '[')
        return bad(m, "the pattern's '%f' needs a set");
    const char *after = item_end(m, set);
    if (!after || !steps(m, 3 * item_steps(set, after)))
        return NULL;
    int before = s > m->subject.p ? (unsigned char)s[-1] : 0;
    int here = s < end_of(m->subject) ? (unsigned char)*s : 0;
    if (in_set(before, set, after - 1) || !in_set(here, set, after - 1))
        return NULL;
    return match(m, s, after);
}

static const char *back_reference(struct way_pattern *m, const char *s, const char *p)
{
    unsigned i = (unsigned)(p[1] - '1');
    if (p[1] == '0' || i >= m->captures || m->capture[i].n < 0)
        return bad(m, "the pattern refers to a capture that is not there");
    size_t n = (size_t)m->capture[i].n;
    m->steps += n / 16;
    if ((size_t)(end_of(m->subject) - s) < n || memcmp(s, m->capture[i].p, n) != 0)
        return NULL;
    return match(m, s + n, p + 2);
}

/* One item with what may follow it. Sets *s and *p behind it and returns true where
 * matching goes on; else *s is the result. */
static bool item(struct way_pattern *m, const char **s, const char **p)
{
    const char *after = item_end(m, *p);
    char repeat = after && after < end_of(m->pattern) ? *after : 0;
    if (!after || !steps(m, 2 * item_steps(*p, after) - 2)) {
        *s = NULL;
        return false;
    }
    bool here = is_item(m, *s, *p, after);
    switch (repeat) {
    case '*': *s = greedy(m, *s, *p, after); return false;
    case '+': *s = here ? greedy(m, *s + 1, *p, after) : NULL; return false;
    case '-': *s = lazy(m, *s, *p, after); return false;
    case '?':
        if (here) {
            const char *got = match(m, *s + 1, after + 1);
            if (got || m->error) {
                *s = got;
                return false;
            }
        }
        *p = after + 1;
        return true;
    default:
        *s = here ? *s + 1 : NULL;
        *p = after;
        return here;
    }
}

static const char *match_on(struct way_pattern *m, const char *s, const char *p)
{
    const char *end = end_of(m->pattern);
    for (;;) {
        if (!step(m))
            return NULL;
        if (p >= end)
            return s;
        char second = p + 1 < end ? p[1] : 0;
        if (*p == '(')
            return open_capture(m, s, p);
        if (*p == ')')
            return close_capture(m, s, p);
        if (*p == '$' && p + 1 == end)
            return s == end_of(m->subject) ? s : NULL;
        if (*p == '%' && second == 'f')
            return frontier(m, s, p);
        if (*p == '%' && isdigit((unsigned char)second))
            return back_reference(m, s, p);
        if (*p == '%' && second == 'b') {
            s = balanced(m, s, p);
            if (!s)
                return NULL;
            p += 4;
        } else if (!item(m, &s, &p)) {
            return s;
        }
    }
}

static const char *match(struct way_pattern *m, const char *s, const char *p)
{
    if (m->depth == DEPTH_MAX)
        return bad(m, "the pattern nests too deep");
    m->depth++;
    const char *got = match_on(m, s, p);
    m->depth--;
    return got;
}

const char *way_pattern_match(struct way_pattern *m, size_t from)
{
    m->captures = 0;
    m->depth = 0;
    if (m->error)
        return NULL;
    const char *got =
        match(m, m->subject.p + from, m->pattern.p + (way_pattern_anchored(m) ? 1 : 0));
    for (unsigned i = 0; got && i < m->captures; i++)
        if (m->capture[i].n == WAY_CAPTURE_OPEN)
            return bad(m, "the pattern leaves a capture open");
    return m->error ? NULL : got;
}
