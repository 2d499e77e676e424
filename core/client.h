/* client - one client's connection, as front.c and local.c share it. */
#ifndef WAY_CLIENT_H
#define WAY_CLIENT_H

#include "command.h"
#include "forward.h"
#include "front.h"
#include "pipeline.h"

struct way_client {
    struct way_front *front;
    struct way_client *next, **prev; /* of the front's list */
    int fd;
    ev_io io;
    struct way_task flush;
    struct way_pipeline pipeline;
    struct way_buf in; /* what was read and not yet parsed; usually nothing */
    struct way_request_parser parser;
    uint64_t id;
    uint64_t pushed;  /* commands read */
    uint64_t replied; /* replies counted */
    double last_read;
    struct way_transaction *transaction; /* in MULTI, or watching; NULL: neither */
    char *name;                          /* CLIENT SETNAME; NULL: none */
    bool unix_socket;
    bool paused;  /* not read from: it has to take its replies first */
    bool closing; /* closes when its replies are written */
    bool closed;
};

/* Answers a command that wayside answers itself: appends the reply to out. */
void way_local_answer(struct way_client *c, const struct way_command *command,
                      const char *p, const struct way_arg *arg, unsigned count,
                      struct way_buf *out);

/* Of the front, for local.c and transaction.c. */
const struct way_front_options *way_front_about(const struct way_front *f);
/* Answers the next command in the client's order. */
void way_front_reply(struct way_client *c, const char *bytes, size_t n);
void way_front_error(struct way_client *c, const char *fmt, ...) WAY_PRINTF(2, 3);
/* The request that is parsed, as it is to be forwarded. */
struct way_forward way_front_forward(struct way_client *c);

#endif
