/* Any bytes from a client: a request is the same whole or in pieces, its arguments lie in
 * it, an inline one becomes the multi bulk that it stands for, and its keys are arguments.
 * The first byte says where it is cut. */
#include "command.h"
#include "resp.h"

#include <stdlib.h>

enum { MAX_BYTES = 1 << 16, MAX_ARGS = 1 << 12, KEYS = 8 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool holds)
{
    if (!holds)
        abort();
}

static ssize_t parse(struct way_request_parser *s, const char *p, size_t n, size_t step,
                     struct way_err *err)
{
    for (size_t have = step < n ? step : n;; have = have + step < n ? have + step : n) {
        ssize_t r = way_request_parse(s, p, have, MAX_ARGS, MAX_BYTES, err);
        if (r || have == n)
            return r;
    }
}

static void expect_same(const struct way_request_parser *a,
                        const struct way_request_parser *b)
{
    expect(a->count == b->count && a->is_inline == b->is_inline);
    if (a->count)
        expect(!memcmp(a->arg, b->arg, a->count * sizeof *a->arg));
}

/* What the front asks about a request. */
static void look_up(const char *p, const struct way_request_parser *s)
{
    struct way_err err = { "" };
    unsigned position[KEYS];
    const struct way_command *c = way_command_find(p + s->arg[0].off, s->arg[0].n);
    if (!c)
        return;
    const char *refused = way_command_refused(c, p, s->arg, s->count);
    expect(refused || c->how != WAY_HOW_REFUSE);
    int n = way_command_keys(c, p, s->arg, s->count, position, KEYS, &err);
    expect(n >= 0 || err.text[0]);
    expect(n < (int)s->count);
    for (int i = 0; i < n && i < KEYS; i++)
        expect(position[i] > 0 && position[i] < s->count);
    if (!way_command_arity(c, s->count, &err))
        expect(way_command_first_key(c) < s->count);
}

static void convert(const char *p, size_t n, unsigned count)
{
    struct way_buf out = { 0 };
    struct way_request_parser s = { 0 };
    struct way_err err;
    expect(!way_request_inline(p, n, &out, &err));
    ssize_t r = way_request_parse(&s, out.p, out.len, MAX_BYTES, MAX_BYTES, &err);
    expect(r == (ssize_t)out.len && s.count == count && !s.is_inline);
    way_request_parser_fini(&s);
    way_buf_fini(&out);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    way_command_init();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const char *p = (const char *)data + 1;
    size_t n = size - 1;
    struct way_request_parser whole = { 0 }, bytes = { 0 }, pieces = { 0 };
    struct way_err err[3] = { { "" }, { "" }, { "" } };
    ssize_t r = parse(&whole, p, n, n ? n : 1, &err[0]);
    expect(r >= -1 && r <= (ssize_t)n && (r >= 0 || err[0].text[0]));
    expect(parse(&bytes, p, n, 1, &err[1]) == r);
    expect(parse(&pieces, p, n, data[0] + 1u, &err[2]) == r);
    expect(!strcmp(err[0].text, err[1].text) && !strcmp(err[0].text, err[2].text));
    if (r > 0) {
        expect_same(&whole, &bytes);
        expect_same(&whole, &pieces);
        for (unsigned i = 0; i < whole.count; i++)
            expect(whole.arg[i].off + whole.arg[i].n <= (size_t)r);
        if (whole.is_inline)
            convert(p, (size_t)r, whole.count);
        if (whole.count)
            look_up(p, &whole);
    }
    way_request_parser_fini(&whole);
    way_request_parser_fini(&bytes);
    way_request_parser_fini(&pieces);
    return 0;
}
