/* luatext - see luatext.h. One pass: a stack of what is open (table constructors, other
 * brackets, blocks) beside the path of the field being written. Inside a function's body
 * or an argument list nothing is a field.
 *
 * Rejected: a debug hook that notes lines while the file runs (constructors of constants
 * are built by one instruction), and a full parser (a second Lua to keep right). */
#include "luatext.h"

#include <ctype.h>
#include <stdio.h>

enum { DEPTH_MAX = 64, PATH_MAX_BYTES = 256 };
enum token {
    END,
    NAME,
    STRING,
    OPEN_TABLE,
    CLOSE_TABLE,
    OPEN,
    CLOSE,
    OPEN_KEY,
    CLOSE_KEY,
    SET,
    NEXT,
    OTHER
};

struct reader {
    const char *p, *end;
    unsigned line; /* of p */
    enum token token;
    struct way_span text; /* of a name, a string's inside, a number */
    unsigned token_line;
};

struct frame {
    bool table;     /* a constructor; else a bracket or a block */
    bool known;     /* its path is */
    size_t path;    /* length of the constructor's own path */
    unsigned index; /* entries without a key so far */
};

struct search {
    struct reader r;
    const char *path, *last; /* wanted; its last word, NULL if it has none */
    char here[PATH_MAX_BYTES];
    struct frame frame[DEPTH_MAX];
    unsigned depth;
    unsigned found, loose_line, loose_count;
};

static bool is_word(struct way_span key)
{
    if (!key.n || isdigit((unsigned char)key.p[0]))
        return false;
    for (size_t i = 0; i < key.n; i++)
        if (!isalnum((unsigned char)key.p[i]) && key.p[i] != '_')
            return false;
    return true;
}

/* A path that was cut must equal no other one. */
static void put_step(char *path, size_t size, const char *fmt, struct way_span key)
{
    size_t n = strlen(path);
    int more = snprintf(path + n, size - n, fmt, (int)key.n, key.p);
    if (more < 0 || (size_t)more >= size - n)
        snprintf(path, size, "?");
}

void way_luatext_step(char *path, size_t size, struct way_span key)
{
    if (key.n >= size)
        snprintf(path, size, "?");
    else
        put_step(path, size,
                 !is_word(key) ? "[\"%.*s\"]"
                 : *path       ? ".%.*s"
                               : "%.*s",
                 key);
}

void way_luatext_index(char *path, size_t size, unsigned index)
{
    char digits[16];
    int n = snprintf(digits, sizeof digits, "%u", index);
    put_step(path, size, "[%.*s]", (struct way_span){ digits, (size_t)n });
}

/* --- tokens --- */

static char at(const struct reader *r, size_t ahead)
{
    if ((size_t)(r->end - r->p) <= ahead)
        return 0;
    return r->p[ahead];
}

static void skip(struct reader *r, size_t n)
{
    for (; n && r->p < r->end; n--, r->p++)
        r->line += *r->p == '\n';
}

/* The level of a long bracket that opens here ("[[" is 0, "[=[" 1), -1 if none does. */
static int long_level(const struct reader *r)
{
    size_t n = 1;
    if (at(r, 0) != '[')
        return -1;
    while (at(r, n) == '=')
        n++;
    return at(r, n) == '[' && n < 64 ? (int)n - 1 : -1;
}

static void skip_long(struct reader *r, int level)
{
    skip(r, (size_t)level + 2);
    r->text.p = r->p;
    for (; r->p < r->end; skip(r, 1)) {
        int n = 0;
        if (*r->p != ']')
            continue;
        while (n < level && at(r, (size_t)n + 1) == '=')
            n++;
        if (n == level && at(r, (size_t)n + 1) == ']')
            break;
    }
    r->text.n = (size_t)(r->p - r->text.p);
    skip(r, (size_t)level + 2);
}

static void skip_quoted(struct reader *r)
{
    char quote = *r->p;
    skip(r, 1);
    r->text.p = r->p;
    while (r->p < r->end && *r->p != quote && *r->p != '\n')
        skip(r, *r->p == '\\' ? 2 : 1);
    r->text.n = (size_t)(r->p - r->text.p);
    skip(r, 1);
}

static void skip_blank(struct reader *r)
{
    if (r->line == 1 && at(r, 0) == '#') /* a first line for the shell */
        while (r->p < r->end && *r->p != '\n')
            skip(r, 1);
    for (;;) {
        if (r->p < r->end && isspace((unsigned char)*r->p)) {
            skip(r, 1);
        } else if (at(r, 0) == '-' && at(r, 1) == '-') {
            skip(r, 2);
            int level = long_level(r);
            if (level >= 0)
                skip_long(r, level);
            else
                while (r->p < r->end && *r->p != '\n')
                    skip(r, 1);
        } else {
            return;
        }
    }
}

static enum token punctuation(struct reader *r)
{
    char c = *r->p;
    if (strchr("=<>~", c) && at(r, 1) == '=') {
        skip(r, 2);
        return OTHER;
    }
    skip(r, 1);
    switch (c) {
    case '{': return OPEN_TABLE;
    case '}': return CLOSE_TABLE;
    case '(': return OPEN;
    case ')': return CLOSE;
    case '[': return OPEN_KEY;
    case ']': return CLOSE_KEY;
    case '=': return SET;
    case ',':
    case ';': return NEXT;
    default: return OTHER;
    }
}

static void advance(struct reader *r)
{
    skip_blank(r);
    r->token_line = r->line;
    int level = long_level(r);
    unsigned char c = (unsigned char)at(r, 0);
    if (r->p >= r->end) {
        r->token = END;
    } else if (level >= 0) {
        skip_long(r, level);
        r->token = STRING;
    } else if (c == '"' || c == '\'') {
        skip_quoted(r);
        r->token = STRING;
    } else if (isalnum(c) || c == '_') {
        r->text.p = r->p;
        while (isalnum((unsigned char)at(r, 0)) || at(r, 0) == '_')
            skip(r, 1);
        r->text.n = (size_t)(r->p - r->text.p);
        r->token = isdigit(c) ? OTHER : NAME;
    } else {
        r->token = punctuation(r);
    }
}

/* --- the search --- */

static bool same(struct way_span a, const char *b)
{
    return strlen(b) == a.n && !memcmp(a.p, b, a.n);
}

static bool one_of(struct way_span word, const char *const *list)
{
    for (; *list; list++)
        if (same(word, *list))
            return true;
    return false;
}

static struct frame *top(struct search *s)
{
    return s->depth ? &s->frame[s->depth - 1] : NULL;
}

/* -1: too deep to follow. */
static int open_frame(struct search *s, bool table)
{
    bool outermost = true;
    struct frame *parent = top(s);
    for (unsigned i = 0; i < s->depth; i++)
        outermost = outermost && !s->frame[i].table;
    if (s->depth == DEPTH_MAX)
        return -1;
    if (outermost)
        s->here[0] = 0;
    s->frame[s->depth++] = (struct frame){
        .table = table,
        .known = table && (outermost || (parent->table && parent->known)),
        .path = strlen(s->here),
    };
    return 0;
}

static void close_frame(struct search *s)
{
    if (s->depth)
        s->depth--;
}

/* The key that is set at this token, with or without brackets; false: none is. */
static bool key_here(const struct search *s, struct way_span *key)
{
    struct reader ahead = s->r;
    bool bracket = ahead.token == OPEN_KEY;
    if (bracket)
        advance(&ahead);
    if (ahead.token != (bracket ? STRING : NAME))
        return false;
    *key = ahead.text;
    advance(&ahead);
    if (bracket) {
        if (ahead.token != CLOSE_KEY)
            return false;
        advance(&ahead);
    }
    return ahead.token == SET;
}

static void begin_entry(struct search *s, struct frame *f)
{
    struct way_span key;
    s->here[f->path] = 0;
    if (key_here(s, &key))
        way_luatext_step(s->here, sizeof s->here, key);
    else
        way_luatext_index(s->here, sizeof s->here, ++f->index);
    if (f->known && !s->found && !strcmp(s->here, s->path))
        s->found = s->r.token_line;
}

static void note_loose(struct search *s)
{
    struct way_span key;
    if (s->last && key_here(s, &key) && same(key, s->last)) {
        s->loose_line = s->r.token_line;
        s->loose_count++;
    }
}

static int step(struct search *s)
{
    static const char *const opens[] = { "function", "do", "if", "repeat", NULL };
    static const char *const closes[] = { "end", "until", NULL };
    switch (s->r.token) {
    case OPEN_TABLE: return open_frame(s, true);
    case OPEN: return open_frame(s, false);
    case CLOSE_TABLE:
    case CLOSE: close_frame(s); return 0;
    case NAME:
        if (one_of(s->r.text, opens))
            return open_frame(s, false);
        if (one_of(s->r.text, closes))
            close_frame(s);
        return 0;
    default: return 0;
    }
}

static void run(struct search *s)
{
    bool entry = false; /* the next token begins an entry of the constructor on top */
    for (advance(&s->r); s->r.token != END; advance(&s->r)) {
        struct frame *f = top(s);
        bool in_table = f && f->table;
        note_loose(s);
        if (entry && in_table && s->r.token != CLOSE_TABLE)
            begin_entry(s, f);
        if (step(s) < 0)
            return;
        entry = s->r.token == OPEN_TABLE || (s->r.token == NEXT && in_table);
    }
}

unsigned way_luatext_line(struct way_span text, const char *path)
{
    struct search s = { .r = { .p = text.p, .end = text.p + text.n, .line = 1 },
                        .path = path };
    size_t n = strlen(path);
    const char *dot = strrchr(path, '.');
    if (n && path[n - 1] != ']')
        s.last = dot ? dot + 1 : path;
    run(&s);
    if (s.found)
        return s.found;
    if (s.last)
        return s.loose_count == 1 ? s.loose_line : 0;
    char list[PATH_MAX_BYTES];
    const char *bracket = strrchr(path, '[');
    if (!bracket || bracket == path || (size_t)(bracket - path) >= sizeof list)
        return 0;
    snprintf(list, sizeof list, "%.*s", (int)(bracket - path), path);
    return way_luatext_line(text, list);
}
