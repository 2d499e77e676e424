/* base - see base.h. Buffers move instead of growing when half of them is taken: a queue
 * that is read as fast as it is written never grows, and each byte is moved at most once
 * per doubling. */
#include "base.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

int way_fail(struct way_err *err, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
    }
    return -1;
}

int way_fail_in(struct way_err *err, const char *where_fmt, ...)
{
    if (err) {
        struct way_err inner = *err;
        va_list ap;
        va_start(ap, where_fmt);
        int n = vsnprintf(err->text, sizeof err->text, where_fmt, ap);
        va_end(ap);
        if (n >= 0 && (size_t)n + 3 < sizeof err->text)
            snprintf(err->text + n, sizeof err->text - (size_t)n, ": %.*s",
                     (int)(sizeof err->text - 3 - (size_t)n), inner.text);
    }
    return -1;
}

static void out_of_memory(size_t bytes)
{
    fprintf(stderr, "wayside: out of memory (%zu bytes wanted)\n", bytes);
    abort();
}

void *way_alloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p)
        out_of_memory(bytes);
    return p;
}

void *way_zalloc(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p)
        out_of_memory(bytes);
    return p;
}

void *way_realloc(void *old, size_t bytes)
{
    void *p = realloc(old, bytes ? bytes : 1);
    if (!p)
        out_of_memory(bytes);
    return p;
}

char *way_strndup(const char *s, size_t n)
{
    char *p = way_alloc(n + 1);
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

char *way_strdup(const char *s)
{
    return way_strndup(s, strlen(s));
}

void way_free(void *p)
{
    free(p);
}

void way_buf_grow(struct way_buf *b, size_t n)
{
    size_t held = b->len - b->off;
    if (b->off >= b->cap / 2 && b->cap - held >= n) {
        memmove(b->p, b->p + b->off, held);
    } else {
        size_t cap = b->cap ? b->cap : 512;
        while (cap - held < n)
            cap *= 2;
        char *p = way_alloc(cap);
        if (held)
            memcpy(p, b->p + b->off, held);
        way_free(b->p);
        b->p = p;
        b->cap = cap;
    }
    b->off = 0;
    b->len = held;
}

void way_buf_vprintf(struct way_buf *b, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n > 0) {
        way_buf_room(b, (size_t)n + 1);
        vsnprintf(b->p + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

void way_buf_printf(struct way_buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    way_buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void way_buf_fini(struct way_buf *b)
{
    way_free(b->p);
    *b = (struct way_buf){ 0 };
}

void way_buf_trim(struct way_buf *b, size_t keep)
{
    if (b->off != b->len)
        return;
    if (b->cap > keep)
        way_buf_fini(b);
    else
        way_buf_reset(b);
}

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

double way_clock(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

double way_unix(void)
{
    return seconds_of(CLOCK_REALTIME);
}

void way_random_seed(struct way_random *r, uint64_t seed)
{
    if (!seed && getrandom(&seed, sizeof seed, 0) != sizeof seed)
        seed = (uint64_t)(way_unix() * 1e6);
    r->state = seed ? seed : 0x9e3779b97f4a7c15u;
}

uint64_t way_random_next(struct way_random *r)
{
    uint64_t x = r->state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    r->state = x;
    return x * 0x2545f4914f6cdd1du;
}

double way_random_unit(struct way_random *r)
{
    return (double)(way_random_next(r) >> 11) * 0x1p-53;
}

unsigned way_distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    unsigned row[64];
    if (na > 63 || nb > 63)
        return 64;
    for (size_t j = 0; j <= nb; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned corner = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned best = corner + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            corner = row[j];
            row[j] = best;
        }
    }
    return row[nb];
}
