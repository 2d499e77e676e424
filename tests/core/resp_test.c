/* What may be relied on: a value's end and a request's arguments are found the same however
 * the bytes arrive, nothing outside of the bytes given is looked at (each piece is put into
 * a block of its very size, for the address sanitizer), and errors are Redis's. */
#include "resp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { MAX_BYTES = 1 << 20, MAX_ARGS = 1 << 20 };

/* --- replies --- */

struct sample {
    const char *bytes;
    size_t n;
};
#define S(literal)                                                                       \
    {                                                                                    \
        literal, sizeof(literal) - 1                                                     \
    }

static const struct sample whole_replies[] = {
    S("+OK\r\n"),
    S("+\r\n"),
    S("-ERR no\r\n"),
    S("+a line well over sixteen bytes long\r\n"),
    S(":0\r\n"),
    S(":-1\r\n"),
    S(":9223372036854775807\r\n"),
    S(":-9223372036854775808\r\n"),
    S("$-1\r\n"),
    S("$0\r\n\r\n"),
    S("$3\r\nabc\r\n"),
    S("$4\r\n\r\n\r\n\r\n"),
    S("$12\r\nhello, world\r\n"),
    S("*-1\r\n"),
    S("*0\r\n"),
    S("*1\r\n:1\r\n"),
    S("*2\r\n$1\r\na\r\n$-1\r\n"),
    S("*2\r\n*2\r\n:1\r\n*0\r\n*1\r\n*1\r\n+x\r\n"),
    S("*3\r\n*-1\r\n-ERR\r\n:5\r\n"),
    S("_\r\n"),
    S("#t\r\n"),
    S("#f\r\n"),
    S(",3.14\r\n"),
    S(",inf\r\n"),
    S("(12345678901234567890123\r\n"),
    S("!5\r\nERR x\r\n"),
    S("=7\r\ntxt:abc\r\n"),
    S("%0\r\n"),
    S("%1\r\n+a\r\n:1\r\n"),
    S("%2\r\n+a\r\n%1\r\n+b\r\n_\r\n+c\r\n~1\r\n#t\r\n"),
    S("~2\r\n+a\r\n+b\r\n"),
    S(">2\r\n+message\r\n$1\r\nx\r\n"),
    S(">0\r\n"),
    S("|1\r\n+ttl\r\n:5\r\n$1\r\nx\r\n"),
    S("|0\r\n:1\r\n"),
    S("*2\r\n|1\r\n+a\r\n*1\r\n:1\r\n:7\r\n|1\r\n+b\r\n+c\r\n|1\r\n+d\r\n+e\r\n*1\r\n:"
      "8\r\n"),
};

static const struct sample bad_replies[] = {
    S("x"),
    S("\r\n"),
    S("\n"),
    S(" +OK\r\n"),
    S("+OK\rx"),
    S("$3\rx"),
    S("$3\r\nabcd\r\n"),
    S("$3\r\nabc\rx"),
    S("$-2\r\n"),
    S("$-0\r\n"),
    S("$\r\n"),
    S("$+3\r\nabc\r\n"),
    S("$03\r\nabc\r\n"),
    S("$3 \r\nabc\r\n"),
    S("$ 3\r\nabc\r\n"),
    S("$0x3\r\nabc\r\n"),
    S("$3\nabc\r\n"),
    S("$1048577\r\n"),
    S("$9223372036854775807\r\n"),
    S("$9223372036854775808\r\n"),
    S("$18446744073709551617\r\n"),
    S("$99999999999999999999\r\n"),
    S("$00000000000000000000"),
    S("*-2\r\n"),
    S("*x\r\n"),
    S("*2147483649\r\n"),
    S("*9223372036854775807\r\n"),
    S("%-1\r\n"),
    S("~-1\r\n"),
    S(">-1\r\n"),
    S("!-1\r\n"),
    S("=-1\r\n"),
    S("|-1\r\n"),
    S("$?\r\n"),
    S("*?\r\n"),
    S(":\r\n"),
    S(":-\r\n"),
    S(":1.5\r\n"),
    S(":9223372036854775808\r\n"),
    S(":-9223372036854775809\r\n"),
    S("_x\r\n"),
    S("_\rx"),
    S("#x\r\n"),
    S("#\r\n"),
    S("#tt\r\n"),
    S("#\0\r\n"),
    S("*1\r\n>1\r\n+x\r\n"),
    S("|1\r\n+a\r\n+b\r\n>1\r\n+x\r\n"),
    S("*1\r\nGET\r\n"),
    S(".\r\n"),
    S(";4\r\nabcd\r\n"),
};

/* A framer that is given the first `cut` bytes, then all up to `n` in steps. */
static ssize_t frame_in_pieces(const char *bytes, size_t n, size_t cut, size_t step)
{
    struct way_reply_framer f = { 0 };
    for (size_t have = cut;; have = have + step < n ? have + step : n) {
        char *block = malloc(have ? have : 1);
        assert_non_null(block);
        memcpy(block, bytes, have);
        ssize_t r = way_reply_frame(&f, block, have, MAX_BYTES);
        free(block);
        if (r || have == n)
            return r;
    }
}

static void expect_frame(struct sample s, ssize_t expected)
{
    for (size_t cut = 0; cut <= s.n; cut++) {
        ssize_t in_two = frame_in_pieces(s.bytes, s.n, cut, s.n);
        ssize_t by_bytes = frame_in_pieces(s.bytes, s.n, cut, 1);
        if (in_two != expected || by_bytes != expected)
            fail_msg("'%.*s' cut at %zu: %zd, by bytes %zd, expected %zd", (int)s.n,
                     s.bytes, cut, in_two, by_bytes, expected);
    }
}

static void a_reply_ends_at_the_same_byte_however_it_is_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < way_count(whole_replies); i++)
        expect_frame(whole_replies[i], (ssize_t)whole_replies[i].n);
}

static void a_bad_reply_is_bad_however_it_is_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < way_count(bad_replies); i++)
        expect_frame(bad_replies[i], -1);
}

static void a_piece_of_a_reply_needs_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < way_count(whole_replies); i++)
        for (size_t n = 0; n < whole_replies[i].n; n++)
            assert_int_equal(frame_in_pieces(whole_replies[i].bytes, n, n, 1), 0);
}

static void replies_behind_each_other_are_framed_one_by_one(void **state)
{
    (void)state;
    char all[4096];
    size_t n = 0, at = 0;
    for (size_t i = 0; i < way_count(whole_replies); i++) {
        memcpy(all + n, whole_replies[i].bytes, whole_replies[i].n);
        n += whole_replies[i].n;
    }
    struct way_reply_framer f = { 0 };
    for (size_t i = 0; i < way_count(whole_replies); i++) {
        ssize_t r = way_reply_frame(&f, all + at, n - at, MAX_BYTES);
        assert_int_equal(r, whole_replies[i].n);
        assert_int_equal(way_reply_length(all + at, n - at), r);
        way_reply_framer_reset(&f);
        at += (size_t)r;
    }
    assert_int_equal(at, n);
}

/* depth arrays of one element around an integer */
static size_t nested(char *out, unsigned depth)
{
    size_t n = 0;
    for (unsigned i = 0; i < depth; i++, n += 4)
        memcpy(out + n, "*1\r\n", 4);
    memcpy(out + n, ":1\r\n", 4);
    return n + 4;
}

static void nesting_ends_at_its_bound(void **state)
{
    (void)state;
    char bytes[4 * (WAY_RESP_DEPTH + 3)];
    size_t n = nested(bytes, WAY_RESP_DEPTH);
    expect_frame((struct sample){ bytes, n }, (ssize_t)n);
    n = nested(bytes, WAY_RESP_DEPTH + 1);
    expect_frame((struct sample){ bytes, n }, -1);
}

static void a_bulk_or_a_line_over_the_bound_is_bad(void **state)
{
    (void)state;
    struct way_reply_framer f = { 0 };
    assert_int_equal(way_reply_frame(&f, "$3\r\nabc\r\n", 9, 3), 9);
    way_reply_framer_reset(&f);
    assert_int_equal(way_reply_frame(&f, "$4\r\n", 4, 3), -1);
    way_reply_framer_reset(&f);
    assert_int_equal(way_reply_frame(&f, "+abc\r\n", 6, 3), 6);
    way_reply_framer_reset(&f);
    assert_int_equal(way_reply_frame(&f, "+abcd\r\n", 7, 3), -1);
    way_reply_framer_reset(&f);
    assert_int_equal(way_reply_frame(&f, "+abcd", 5, 3), -1);
}

/* 1 MiB of each, one byte more per call: walked again each time, this would take hours. */
static void a_long_value_in_a_million_pieces_is_walked_once(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    char *p = malloc(BYTES + 32);
    assert_non_null(p);
    int header = sprintf(p, "$%d\r\n", BYTES);
    memset(p + header, 'x', BYTES);
    memcpy(p + header + BYTES, "\r\n", 2);
    struct way_reply_framer f = { 0 };
    for (size_t n = 0; n < (size_t)header + BYTES + 2; n++)
        assert_int_equal(way_reply_frame(&f, p, n, BYTES), 0);
    assert_int_equal(way_reply_frame(&f, p, (size_t)header + BYTES + 2, BYTES),
                     header + BYTES + 2);
    memset(p, 'x', BYTES + 32);
    p[0] = '+';
    way_reply_framer_reset(&f);
    for (size_t n = 1; n <= BYTES; n++)
        assert_int_equal(way_reply_frame(&f, p, n, BYTES), 0);
    memcpy(p + BYTES, "\r\n", 2);
    assert_int_equal(way_reply_frame(&f, p, BYTES + 2, BYTES), BYTES + 2);
    free(p);
}

static void an_aggregate_of_a_million_needs_no_memory(void **state)
{
    (void)state;
    enum { COUNT = 1000000 };
    struct way_buf b = { 0 };
    way_resp_put_array(&b, COUNT);
    for (int i = 0; i < COUNT; i++)
        way_resp_put_integer(&b, i);
    struct way_reply_framer f = { 0 };
    assert_int_equal(way_reply_frame(&f, b.p, b.len - 1, MAX_BYTES), 0);
    assert_int_equal(way_reply_frame(&f, b.p, b.len, MAX_BYTES), b.len);
    way_buf_fini(&b);
}

static int64_t elements_of(const char *text, size_t *header)
{
    return way_reply_elements(text, strlen(text), header);
}

static void elements_are_counted_pairs_twice(void **state)
{
    (void)state;
    size_t header = 0;
    assert_int_equal(elements_of("*3\r\n:1\r\n", &header), 3);
    assert_int_equal(header, 4);
    assert_int_equal(elements_of("%10\r\n", &header), 20);
    assert_int_equal(header, 5);
    assert_int_equal(elements_of("~0\r\n", &header), 0);
    assert_int_equal(elements_of(">2\r\n", &header), 2);
    assert_int_equal(elements_of("*-1\r\n", &header), -1);
    assert_int_equal(elements_of("$3\r\nabc\r\n", &header), -1);
    assert_int_equal(elements_of("*3", &header), -1);
    assert_int_equal(elements_of("", &header), -1);
}

static void integers_are_read_to_their_limits(void **state)
{
    (void)state;
    int64_t v = 7;
    assert_true(way_reply_integer(":0\r\n", 4, &v));
    assert_int_equal(v, 0);
    assert_true(way_reply_integer(":9223372036854775807\r\n", 22, &v));
    assert_true(v == INT64_MAX);
    assert_true(way_reply_integer(":-9223372036854775808\r\n", 23, &v));
    assert_true(v == INT64_MIN);
    assert_false(way_reply_integer(":9223372036854775808\r\n", 22, &v));
    assert_false(way_reply_integer("+1\r\n", 4, &v));
    assert_false(way_reply_integer(":1", 2, &v));
    assert_false(way_reply_integer("", 0, &v));
}

/* --- requests --- */

struct request {
    const char *bytes;
    size_t n;
    unsigned count;
    const char *args; /* as they were sent, with | between */
};
#define R(literal, count, args)                                                          \
    {                                                                                    \
        literal, sizeof(literal) - 1, count, args                                        \
    }

static const struct request whole_requests[] = {
    R("*1\r\n$4\r\nPING\r\n", 1, "PING"),
    R("*2\r\n$3\r\nGET\r\n$0\r\n\r\n", 2, "GET|"),
    R("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n\r\n\r\n", 3, "SET|k|\r\n\r\n"),
    R("*9\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n$1\r\n5\r\n$1\r\n6\r\n$"
      "1\r\n7\r\n$1\r\n8\r\n$1\r\n9\r\n",
      9, "1|2|3|4|5|6|7|8|9"),
    R("*0\r\n", 0, ""),
    R("*-1\r\n", 0, ""),
    R("*-100\r\n", 0, ""),
    R("\r\n", 0, ""),
    R("\n", 0, ""),
    R("  \t \r\n", 0, ""),
    R("PING\r\n", 1, "PING"),
    R("PING\n", 1, "PING"),
    R("  SET  a\tb  \r\n", 3, "SET|a|b"),
    R("SET \"a b\" 'c d'\r\n", 3, "SET|\"a b\"|'c d'"),
    R("$5\r\n", 1, "$5"),
};

static const struct request bad_requests[] = {
    R("*x\r\n", 0, "Protocol error: invalid multibulk length"),
    R("*\r\n", 0, "Protocol error: invalid multibulk length"),
    R("*+1\r\n", 0, "Protocol error: invalid multibulk length"),
    R("*01\r\n", 0, "Protocol error: invalid multibulk length"),
    R("*1048577\r\n", 0, "Protocol error: invalid multibulk length"),
    R("*2147483648\r\n", 0, "Protocol error: invalid multibulk length"),
    R("*99999999999999999999\r\n", 0, "Protocol error: invalid multibulk length"),
    R("*1\rx", 0, "Protocol error: invalid multibulk length"),
    R("*1\r\nx", 0, "Protocol error: expected '$', got 'x'"),
    R("*1\r\n\r\n", 0, "Protocol error: expected '$', got '\r'"),
    R("*1\r\n\0", 0, "Protocol error: expected '$', got ' '"),
    R("*2\r\n$4\r\nPING\r\n:1\r\n", 0, "Protocol error: expected '$', got ':'"),
    R("*1\r\n$x\r\n", 0, "Protocol error: invalid bulk length"),
    R("*1\r\n$-1\r\n", 0, "Protocol error: invalid bulk length"),
    R("*1\r\n$\r\n", 0, "Protocol error: invalid bulk length"),
    R("*1\r\n$01\r\na\r\n", 0, "Protocol error: invalid bulk length"),
    R("*1\r\n$1048577\r\n", 0, "Protocol error: invalid bulk length"),
    R("*1\r\n$99999999999999999999\r\n", 0, "Protocol error: invalid bulk length"),
    R("*1\r\n$3\r\nabcd\r\n", 0, "Protocol error: invalid bulk length"),
    R("*1\r\n$3\r\nabc\rx", 0, "Protocol error: invalid bulk length"),
    R("SET \"a\r\n", 0, "Protocol error: unbalanced quotes in request"),
    R("SET 'a\r\n", 0, "Protocol error: unbalanced quotes in request"),
    R("SET \"a\"b\r\n", 0, "Protocol error: unbalanced quotes in request"),
    R("POST / HTTP/1.1\r\n", 0, "Protocol error: this is HTTP"),
    R("Host: 127.0.0.1:6380\r\n", 0, "Protocol error: this is HTTP"),
};

/* Parses what is given in pieces; the arguments go to text, with | between. */
static ssize_t parse_in_pieces(const struct request *q, size_t cut, size_t step,
                               struct way_buf *text, unsigned *count, struct way_err *err)
{
    struct way_request_parser s = { 0 };
    ssize_t r;
    for (size_t have = cut;; have = have + step < q->n ? have + step : q->n) {
        char *block = malloc(have ? have : 1);
        assert_non_null(block);
        memcpy(block, q->bytes, have);
        r = way_request_parse(&s, block, have, MAX_ARGS, MAX_BYTES, err);
        for (unsigned i = 0; r > 0 && i < s.count; i++) {
            if (i)
                way_buf_put(text, "|", 1);
            way_buf_put(text, block + s.arg[i].off, s.arg[i].n);
        }
        free(block);
        if (r || have == q->n)
            break;
    }
    *count = s.count;
    way_request_parser_fini(&s);
    return r;
}

static void expect_request(const struct request *q, size_t cut, size_t step)
{
    struct way_buf text = { 0 };
    struct way_err err;
    unsigned count;
    ssize_t r = parse_in_pieces(q, cut, step, &text, &count, &err);
    way_buf_put(&text, "", 1);
    if (r != (ssize_t)q->n || count != q->count || strcmp(text.p, q->args))
        fail_msg("'%s' cut at %zu by %zu: %zd, %u arguments: %s", q->bytes, cut, step, r,
                 count, text.p);
    way_buf_fini(&text);
}

static void a_request_is_the_same_however_it_is_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < way_count(whole_requests); i++) {
        for (size_t cut = 0; cut <= whole_requests[i].n; cut++) {
            expect_request(&whole_requests[i], cut, whole_requests[i].n);
            expect_request(&whole_requests[i], cut, 1);
        }
    }
}

static void a_bad_request_has_rediss_words_however_it_is_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < way_count(bad_requests); i++) {
        const struct request *q = &bad_requests[i];
        for (size_t cut = 0; cut <= q->n; cut++) {
            struct way_buf text = { 0 };
            struct way_err err = { "" };
            unsigned count;
            ssize_t r = parse_in_pieces(q, cut, 1, &text, &count, &err);
            if (r != -1 || strcmp(err.text, q->args))
                fail_msg("'%s' cut at %zu: %zd, %s", q->bytes, cut, r, err.text);
            way_buf_fini(&text);
        }
    }
}

static void an_inline_request_ends_at_64_kib_however_it_arrives(void **state)
{
    (void)state;
    enum { LIMIT = 64 * 1024 };
    struct way_request_parser s = { 0 };
    struct way_err err;
    char *p = malloc(LIMIT + 2);
    assert_non_null(p);
    memset(p, 'a', LIMIT + 2);
    for (size_t n = 1; n <= LIMIT; n++)
        assert_int_equal(way_request_parse(&s, p, n, MAX_ARGS, MAX_BYTES, &err), 0);
    assert_int_equal(way_request_parse(&s, p, LIMIT + 1, MAX_ARGS, MAX_BYTES, &err), -1);
    assert_string_equal(err.text, "Protocol error: too big inline request");
    way_request_parser_reset(&s);
    p[LIMIT + 1] = '\n';
    assert_int_equal(way_request_parse(&s, p, LIMIT + 2, MAX_ARGS, MAX_BYTES, &err), -1);
    way_request_parser_reset(&s);
    p[LIMIT] = '\n';
    assert_int_equal(way_request_parse(&s, p, LIMIT + 1, MAX_ARGS, MAX_BYTES, &err),
                     LIMIT + 1);
    free(p);
    way_request_parser_fini(&s);
}

static void a_large_argument_in_a_million_pieces_is_walked_once(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    struct way_buf b = { 0 };
    struct way_request_parser s = { 0 };
    struct way_err err;
    way_buf_puts(&b, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n");
    way_buf_room(&b, BYTES + 2);
    memset(b.p + b.len, '\r', BYTES);
    b.len += BYTES;
    way_buf_puts(&b, "\r\n");
    for (size_t n = 0; n < b.len; n++)
        assert_int_equal(way_request_parse(&s, b.p, n, MAX_ARGS, BYTES, &err), 0);
    assert_int_equal(way_request_parse(&s, b.p, b.len, MAX_ARGS, BYTES, &err), b.len);
    assert_int_equal(s.count, 3);
    assert_int_equal(s.arg[2].n, BYTES);
    way_request_parser_fini(&s);
    way_buf_fini(&b);
}

static void a_request_of_a_million_arguments_is_taken_and_its_memory_given_back(
    void **state)
{
    (void)state;
    struct way_buf b = { 0 };
    struct way_request_parser s = { 0 };
    struct way_err err;
    way_resp_put_array(&b, MAX_ARGS);
    for (int i = 0; i < MAX_ARGS; i++)
        way_resp_put_bulk(&b, "x", 1);
    assert_int_equal(way_request_parse(&s, b.p, b.len, MAX_ARGS, MAX_BYTES, &err), b.len);
    assert_int_equal(s.count, MAX_ARGS);
    way_request_parser_reset(&s);
    assert_int_equal(s.room, 0);
    assert_int_equal(way_request_parse(&s, "PING\r\n", 6, MAX_ARGS, MAX_BYTES, &err), 6);
    way_request_parser_fini(&s);
    way_buf_fini(&b);
}

static void announcing_many_arguments_takes_no_memory(void **state)
{
    (void)state;
    struct way_request_parser s = { 0 };
    struct way_err err;
    assert_int_equal(way_request_parse(&s, "*1048576\r\n", 10, MAX_ARGS, MAX_BYTES, &err),
                     0);
    assert_int_equal(s.room, 0);
    way_request_parser_fini(&s);
}

static void expect_inline(const char *line, const char *expected)
{
    struct way_buf out = { 0 };
    struct way_err err = { "" };
    int r = way_request_inline(line, strlen(line), &out, &err);
    way_buf_put(&out, "", 1);
    if (r || strcmp(out.p, expected))
        fail_msg("'%s' became '%s' (%s)", line, out.p, err.text);
    way_buf_fini(&out);
}

static void inline_quotes_are_read_as_redis_reads_them(void **state)
{
    (void)state;
    expect_inline("PING\r\n", "*1\r\n$4\r\nPING\r\n");
    expect_inline("SET k \"a b\"\r\n", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\na b\r\n");
    expect_inline("a \"\\x41\\n\\r\\t\\b\\a\\q\\\"\\\\\"\r\n",
                  "*2\r\n$1\r\na\r\n$9\r\nA\n\r\t\b\aq\"\\\r\n");
    expect_inline("a \"\\xzz\"\r\n", "*2\r\n$1\r\na\r\n$3\r\nxzz\r\n");
    expect_inline("a 'it\\'s' '\\n'\r\n", "*3\r\n$1\r\na\r\n$4\r\nit's\r\n$2\r\n\\n\r\n");
    expect_inline("a \"\" ''\r\n", "*3\r\n$1\r\na\r\n$0\r\n\r\n$0\r\n\r\n");
    expect_inline("a b\"c d\"\n", "*2\r\n$1\r\na\r\n$4\r\nbc d\r\n");
    struct way_buf out = { 0 };
    struct way_err err;
    assert_int_equal(way_request_inline("a \"b\r\n", 6, &out, &err), -1);
    assert_string_equal(err.text, "Protocol error: unbalanced quotes in request");
    way_buf_fini(&out);
}

/* --- writing --- */

static void what_is_written_is_framed_and_parsed_again(void **state)
{
    (void)state;
    struct way_buf b = { 0 };
    struct way_err err;
    struct way_request_parser s = { 0 };
    const char *argv[] = { "SET", "", "a\r\nb" };
    way_resp_put_command(&b, 3, argv);
    assert_int_equal(way_request_parse(&s, b.p, b.len, 3, 4, &err), b.len);
    assert_int_equal(s.count, 3);
    assert_memory_equal(b.p + s.arg[2].off, "a\r\nb", 4);
    way_request_parser_fini(&s);
    way_buf_reset(&b);
    const int64_t numbers[] = { 0, 1, -1, 10, INT64_MAX, INT64_MIN };
    for (size_t i = 0; i < way_count(numbers); i++) {
        int64_t v;
        way_buf_reset(&b);
        way_resp_put_integer(&b, numbers[i]);
        assert_true(way_reply_integer(b.p, b.len, &v));
        assert_true(v == numbers[i]);
    }
    way_buf_fini(&b);
}

static void a_line_break_in_an_error_becomes_a_space(void **state)
{
    (void)state;
    struct way_buf b = { 0 };
    way_buf_puts(&b, "\r\n");
    way_resp_put_error(&b, "ERR %s", "one\r\ntwo");
    way_buf_put(&b, "", 1);
    assert_string_equal(b.p, "\r\n-ERR one  two\r\n");
    way_buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reply_ends_at_the_same_byte_however_it_is_cut),
        cmocka_unit_test(a_bad_reply_is_bad_however_it_is_cut),
        cmocka_unit_test(a_piece_of_a_reply_needs_more),
        cmocka_unit_test(replies_behind_each_other_are_framed_one_by_one),
        cmocka_unit_test(nesting_ends_at_its_bound),
        cmocka_unit_test(a_bulk_or_a_line_over_the_bound_is_bad),
        cmocka_unit_test(a_long_value_in_a_million_pieces_is_walked_once),
        cmocka_unit_test(an_aggregate_of_a_million_needs_no_memory),
        cmocka_unit_test(elements_are_counted_pairs_twice),
        cmocka_unit_test(integers_are_read_to_their_limits),
        cmocka_unit_test(a_request_is_the_same_however_it_is_cut),
        cmocka_unit_test(a_bad_request_has_rediss_words_however_it_is_cut),
        cmocka_unit_test(an_inline_request_ends_at_64_kib_however_it_arrives),
        cmocka_unit_test(a_large_argument_in_a_million_pieces_is_walked_once),
        cmocka_unit_test(
            a_request_of_a_million_arguments_is_taken_and_its_memory_given_back),
        cmocka_unit_test(announcing_many_arguments_takes_no_memory),
        cmocka_unit_test(inline_quotes_are_read_as_redis_reads_them),
        cmocka_unit_test(what_is_written_is_framed_and_parsed_again),
        cmocka_unit_test(a_line_break_in_an_error_becomes_a_space),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
