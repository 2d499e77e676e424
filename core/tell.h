/* tell - replies in the client's own RESP: maps, numbers and nothing as RESP3 has them, or
 * as RESP2 shows them (flat arrays, strings, nil). Pure; for consoles, not for the data
 * path. */
#ifndef WAY_TELL_H
#define WAY_TELL_H

#include "base.h"

/* An answer that is promised: who asked gets nothing else until it is given. */
struct way_tell;
struct way_later {
    struct way_tell *(*begin)(struct way_later *l); /* NULL: who asked has gone */
    void (*end)(struct way_later *l); /* the answer was put, if it could be: l is gone */
};

struct way_tell {
    struct way_buf *out; /* borrowed */
    unsigned resp;       /* 2 or 3 */
    /* Instead of an answer now; NULL: answers come at once here. */
    struct way_later *(*promise)(struct way_tell *t);
};

void way_tell_array(struct way_tell *t, size_t count);
void way_tell_map(struct way_tell *t, size_t pairs);
void way_tell_string(struct way_tell *t, const char *s); /* a bulk string */
void way_tell_status(struct way_tell *t, const char *s); /* +OK */
void way_tell_format(struct way_tell *t, const char *fmt, ...) WAY_PRINTF(2, 3);
void way_tell_integer(struct way_tell *t, int64_t v);
void way_tell_number(struct way_tell *t, double v); /* at most 6 decimals */
void way_tell_bool(struct way_tell *t, bool v);
void way_tell_nil(struct way_tell *t);

/* A map whose size is known only at its end: begun, fields put, ended. Maps may nest. */
struct way_tell_open {
    size_t at;
    size_t pairs;
};
struct way_tell_open way_tell_begin(struct way_tell *t);
void way_tell_end(struct way_tell *t, struct way_tell_open *open);
/* One field; what is absent (an empty string) is left out. */
void way_tell_field(struct way_tell *t, struct way_tell_open *open, const char *name,
                    const char *value);
void way_tell_field_integer(struct way_tell *t, struct way_tell_open *open,
                            const char *name, int64_t v);
void way_tell_field_number(struct way_tell *t, struct way_tell_open *open,
                           const char *name, double v);
void way_tell_field_bool(struct way_tell *t, struct way_tell_open *open, const char *name,
                         bool v);
/* The name alone: the caller puts its value. */
void way_tell_name(struct way_tell *t, struct way_tell_open *open, const char *name);

#endif
