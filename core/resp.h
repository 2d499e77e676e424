/* resp - where one RESP value ends, and what a request consists of. RESP2 and RESP3.
 *
 * A framer knows no sockets, builds no tree and copies nothing: it walks a receive buffer
 * and remembers how far it came, so that a value that arrives in a thousand pieces is
 * walked once. Its results are offsets from the value's first byte, so the buffer may move
 * between calls. Sizes are bounded by who calls. No allocation but the request's list of
 * arguments, which only grows. */
#ifndef WAY_RESP_H
#define WAY_RESP_H

#include "base.h"

#include <sys/types.h>

enum { WAY_RESP_DEPTH = 32 };

/* One reply. Zeroed is ready; after a whole or a bad value it must be zeroed again
 * (way_reply_framer_reset). */
struct way_reply_framer {
    size_t at;                        /* private: bytes walked, whole tokens */
    size_t line;                      /* private: bytes looked at of an unfinished line */
    unsigned depth;                   /* private */
    int64_t left[WAY_RESP_DEPTH + 1]; /* private: elements still to come, per level */
};
static inline void way_reply_framer_reset(struct way_reply_framer *f)
{
    f->at = f->line = 0;
    f->depth = 0;
    f->left[0] = 0;
}

/* p[0..n): the bytes from the value's first one on, as far as received; n never shrinks
 * between calls. Returns the whole value's length; 0: needs more; -1: not RESP, nested
 * deeper than WAY_RESP_DEPTH, or a bulk or a line over max_bytes. A RESP3 attribute (|) is part of
 * the value it precedes; a push (>) is a value of its own and no reply: its first byte
 * tells. Streamed types ($? *?) are refused: Redis never sends them. */
ssize_t way_reply_frame(struct way_reply_framer *f, const char *p, size_t n,
                        size_t max_bytes) WAY_MUST_CHECK;

/* The same for a reply that is known to be whole and valid, such as an element inside one
 * that was framed: its length (with an attribute before it). For joining replies. 0 if it
 * is not whole after all. */
size_t way_reply_length(const char *p, size_t n);

/* The number of elements of an aggregate (* ~ > %: pairs count twice), -1 if p is none or
 * null; *header gets the length of its first line. */
int64_t way_reply_elements(const char *p, size_t n, size_t *header);

/* An integer reply ":n\r\n": true and its value. */
bool way_reply_integer(const char *p, size_t n, int64_t *value);

struct way_arg {
    size_t off; /* from the request's first byte */
    size_t n;
};

/* One request: a multi bulk, or an inline command (quotes as Redis reads them). Zeroed is
 * ready. */
struct way_request_parser {
    size_t at;           /* private */
    int64_t left;        /* private */
    unsigned count;      /* ro after success: number of arguments, 0 for an empty request
                           ("*0\r\n", an empty line), which has no reply */
    unsigned room;       /* private */
    struct way_arg *arg; /* ro after success; owned by the parser */
    bool is_inline;      /* ro: the arguments may hold quotes' escapes: use
                           way_request_inline to get a plain multi bulk of it */
};
void way_request_parser_reset(struct way_request_parser *s); /* keeps the list's memory */
void way_request_parser_fini(struct way_request_parser *s);

/* Returns the whole request's length; 0: needs more; -1: bad, and err's text is the words
 * that Redis has for it, to be sent behind "-ERR " ("Protocol error: invalid bulk length",
 * "Protocol error: expected '$', got 'x'", "Protocol error: too big inline request", ...).
 * More than max_args (Redis: 1048576) or a bulk over max_bytes is bad. Stricter than Redis
 * where it looks away: CR must be followed by LF, a bulk must end where its length says,
 * an inline request stays within 64 KiB however it arrives, and one that begins with POST
 * or Host: is a web page's attempt on us and bad. */
ssize_t way_request_parse(struct way_request_parser *s, const char *p, size_t n,
                          size_t max_args, size_t max_bytes,
                          struct way_err *err) WAY_MUST_CHECK;

/* Appends the multi bulk form of an inline request of n bytes at p to out; -1: unbalanced
 * quotes (text as Redis has it). */
int way_request_inline(const char *p, size_t n, struct way_buf *out,
                       struct way_err *err) WAY_MUST_CHECK;

/* Writing. */
void way_resp_put_array(struct way_buf *out, size_t count);
void way_resp_put_bulk(struct way_buf *out, const char *p, size_t n);
void way_resp_put_integer(struct way_buf *out, int64_t v);
void way_resp_put_error(struct way_buf *out, const char *fmt, ...)
    WAY_PRINTF(2, 3); /* "-" text CRLF; line breaks in it become spaces */
void way_resp_put_command(struct way_buf *out, unsigned argc, const char *const *argv);

#endif
