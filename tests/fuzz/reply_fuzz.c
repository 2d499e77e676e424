/* Any bytes from a node: a reply ends at the same byte whole or in pieces, within what was
 * given, and its elements add up to it. The first byte says where it is cut. */
#include "resp.h"

#include <stdlib.h>

enum { MAX_BYTES = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool holds)
{
    if (!holds)
        abort();
}

static ssize_t frame(const char *p, size_t n, size_t step)
{
    struct way_reply_framer f = { 0 };
    for (size_t have = step < n ? step : n;; have = have + step < n ? have + step : n) {
        ssize_t r = way_reply_frame(&f, p, have, MAX_BYTES);
        if (r || have == n)
            return r;
    }
}

/* The elements of an aggregate, and what they leave. */
static void walk(const char *p, size_t n)
{
    size_t at = 0;
    int64_t count = way_reply_elements(p, n, &at);
    for (; count > 0; count--) {
        size_t element = way_reply_length(p + at, n - at);
        expect(element > 0 && element <= n - at);
        at += element;
    }
    if (count == 0)
        expect(at == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const char *p = (const char *)data + 1;
    size_t n = size - 1;
    int64_t integer;
    ssize_t whole = frame(p, n, n ? n : 1);
    expect(whole >= -1 && whole <= (ssize_t)n);
    expect(frame(p, n, 1) == whole);
    expect(frame(p, n, data[0] + 1u) == whole);
    if (whole <= 0)
        return 0;
    expect(frame(p, (size_t)whole, 1) == whole);
    expect(frame(p, (size_t)whole - 1, 1) == 0);
    expect(way_reply_length(p, n) == (size_t)whole);
    expect(way_reply_integer(p, (size_t)whole, &integer) == (p[0] == ':'));
    walk(p, (size_t)whole);
    return 0;
}
