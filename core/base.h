/* base - what every file needs: errors with a text, spans, growable buffers, allocation.
 *
 * Allocation aborts when memory is gone: there is no recovery that could be tested. So
 * whatever a peer can make large is bounded before it gets here. Nothing here is shared
 * between threads. */
#ifndef WAY_BASE_H
#define WAY_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WAY_MUST_CHECK __attribute__((warn_unused_result))
#define WAY_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#define way_container(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define way_count(array) (sizeof(array) / sizeof((array)[0]))

/* An error as a person reads it; filled only by who returns -1. */
struct way_err {
    char text[1024];
};

/* Writes the text (cut, never overrun) and returns -1, so that `return way_fail(...)`
 * reads as what it does. `err` may be NULL. */
int way_fail(struct way_err *err, const char *fmt, ...) WAY_PRINTF(2, 3);

/* Puts "where: " before the text of an error that passes by. Returns -1. */
int way_fail_in(struct way_err *err, const char *where_fmt, ...) WAY_PRINTF(2, 3);

/* Bytes that belong to somebody else. */
struct way_span {
    const char *p;
    size_t n;
};
#define WAY_SPAN(literal) ((struct way_span){ "" literal, sizeof(literal) - 1 })

/* Allocation: never NULL. way_free(NULL) does nothing. */
void *way_alloc(size_t bytes) __attribute__((malloc, returns_nonnull));
void *way_zalloc(size_t bytes) __attribute__((malloc, returns_nonnull));
void *way_realloc(void *old, size_t bytes) __attribute__((returns_nonnull));
char *way_strdup(const char *s) __attribute__((returns_nonnull));
char *way_strndup(const char *s, size_t n) __attribute__((returns_nonnull));
void way_free(void *p);

/* A byte queue: bytes are put at the end (len) and taken at the front (off). p[off..len)
 * is what it holds. Hot: all fields are ro outside base, but for a reader into free room
 * (way_buf_room, then len +=). */
struct way_buf {
    char *p;    /* ro */
    size_t off; /* rw by the taker */
    size_t len; /* rw by the putter */
    size_t cap; /* ro */
};

/* Makes room for n more bytes behind len: moves what is held to the front when at least
 * half of the buffer is already taken, else grows by doubling. Pointers into it die. */
void way_buf_grow(struct way_buf *b, size_t n);
static inline void way_buf_room(struct way_buf *b, size_t n)
{
    if (b->cap - b->len < n)
        way_buf_grow(b, n);
}
static inline size_t way_buf_held(const struct way_buf *b)
{
    return b->len - b->off;
}
static inline void way_buf_put(struct way_buf *b, const void *p, size_t n)
{
    if (!n)
        return;
    way_buf_room(b, n);
    memcpy(b->p + b->len, p, n);
    b->len += n;
}
static inline void way_buf_puts(struct way_buf *b, const char *s)
{
    way_buf_put(b, s, strlen(s));
}
static inline void way_buf_reset(struct way_buf *b)
{
    b->off = b->len = 0;
}
void way_buf_printf(struct way_buf *b, const char *fmt, ...) WAY_PRINTF(2, 3);
void way_buf_vprintf(struct way_buf *b, const char *fmt, va_list ap);
void way_buf_fini(struct way_buf *b);
/* Gives memory back when nothing is held and the buffer is larger than keep bytes. */
void way_buf_trim(struct way_buf *b, size_t keep);

/* Seconds: the machine's monotonic clock, and the wall clock. */
double way_clock(void);
double way_unix(void);

/* A small deterministic generator (xorshift64*), so that decisions can be replayed. */
struct way_random {
    uint64_t state;
};
void way_random_seed(struct way_random *r, uint64_t seed); /* 0: from the system */
uint64_t way_random_next(struct way_random *r);
double way_random_unit(struct way_random *r); /* [0,1) */

/* The edit distance of two short words, for "did you mean"; words over 63 bytes are far. */
unsigned way_distance(const char *a, const char *b);

#endif
