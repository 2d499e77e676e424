/* gateway - wayside inside another server's worker, whose own sockets carry the bytes: what
 * resty.wayside calls by FFI.
 *
 * Made once, before workers fork (the table is mapped then), and started in each worker.
 * A job is one pipeline. Its commands are routed here, and what there is to be moved comes
 * as connections: the worker dials, sends and receives, and tells how it went; framing,
 * certainty, redirects, retries and verdicts are those of the daemon, by the same code.
 * Topology, probes and the ends of marks run on a loop of its own, which the worker drives
 * by way_gateway_tick. TLS to nodes is spoken here too (conn.h), by what cluster.tls has, and
 * the worker's sockets carry records: so it is the daemon's in all that it believes and
 * tells, and nginx's own lua_ssl_* play no part.
 *
 * One thread. Nothing calls back. Texts are borrowed: of a job until it ends, of a result
 * as well, others until the next call. core/runtime/resty/wayside.lua repeats these
 * declarations; way_gateway_abi tells whether they still agree. */
#ifndef WAY_GATEWAY_H
#define WAY_GATEWAY_H

#include <stddef.h>

#pragma GCC visibility push(default)

struct way_gateway;
struct way_gateway_job;
struct way_gateway_conn;

struct way_gateway_error {
    char text[1024];
};

/* What a connection waits for, and -1: it is of no use any more, its socket is to be
 * closed. */
enum { WAY_GATEWAY_IDLE, WAY_GATEWAY_SEND, WAY_GATEWAY_RECEIVE, WAY_GATEWAY_BROKEN = -1 };
/* What a job waits for. */
enum { WAY_GATEWAY_OVER, WAY_GATEWAY_MOVE, WAY_GATEWAY_WAIT };

/* MOVE: what a socket that is kept must have in common with this one is in its pool's name.
 * Over TLS each socket has a pool of its own, for its session is kept here. */
struct way_gateway_step {
    struct way_gateway_conn *conn; /* MOVE: to be moved by who got it, then released */
    const char *host;              /* where to dial it */
    const char *pool;              /* the name of the pool of idle ones like it */
    double seconds; /* WAIT: to be asked again after that at the latest; 0: when what is
                       moved has gone on */
    int port;
    int more; /* MOVE: others of this job wait to be moved */
};

struct way_gateway_result {
    const char *reply; /* as RESP2; NULL: none came. Of a simple value only its content */
    size_t bytes;
    int type; /* its first byte; 0: the null of bulks and arrays */
    /* NULL but for an error of wayside's own: */
    const char *error, *phase, *step, *certainty, *class_name, *verdict, *node, *state;
};

/* Of these declarations: another one with each change. */
enum { WAY_GATEWAY_VERSION = 2 };
/* Of them all: their version, and what is as large as here. */
size_t way_gateway_abi(void);

/* text[0..n): the configuration, as the daemon's file has it. `kept` and `seconds`: how many
 * idle sockets to a node the worker keeps, and for how long. 0, or -1. */
int way_gateway_new(struct way_gateway **out, const char *text, size_t n, unsigned kept,
                    double seconds, struct way_gateway_error *error);
/* 1: nodes are spoken to by TLS, so that a pool has one socket. */
int way_gateway_tls(const struct way_gateway *g);
/* In the worker. -1 also where this process has started one from another Lua state. */
int way_gateway_start(struct way_gateway *g, struct way_gateway_error *error);
void way_gateway_free(struct way_gateway *g);
/* Does what is due; returns the seconds after which it is to be called again. */
double way_gateway_tick(struct way_gateway *g);

/* seconds: 0: timeouts.total, which is also the most. NULL: too many jobs are under way. */
struct way_gateway_job *way_gateway_begin(struct way_gateway *g, double seconds);
/* p[0..n): one command as a multi bulk. */
void way_gateway_add(struct way_gateway_job *j, const char *p, size_t n);
int way_gateway_next(struct way_gateway_job *j, struct way_gateway_step *step);
/* Of a job that is over: 0: a node's reply, 1: an error of wayside's own. */
int way_gateway_result(struct way_gateway_job *j, unsigned i,
                       struct way_gateway_result *out);
/* At any time; its connections need no release any more. */
void way_gateway_end(struct way_gateway_job *j);

/* Each returns what it waits for then. */
int way_gateway_up(struct way_gateway_conn *c, int reused); /* the socket is connected */
int way_gateway_sent(struct way_gateway_conn *c);           /* all that `out` told */
int way_gateway_in(struct way_gateway_conn *c, const char *p, size_t n);
/* What is to be sent; 0: nothing. */
size_t way_gateway_out(struct way_gateway_conn *c, const char **p);
/* The socket failed, in nginx's words for it. */
void way_gateway_failed(struct way_gateway_conn *c, int sending, const char *words);
/* Seconds for the next step, at least a thousandth. */
double way_gateway_due(struct way_gateway_conn *c);
/* 1: the socket may be kept in its pool; 0: it is to be closed. c is gone. */
int way_gateway_release(struct way_gateway_conn *c);

/* Another policy for all that share the table: `policy` (a file), or NULL: the one in
 * charge is read again. -1: another reload is on its way. */
int way_gateway_reload(struct way_gateway *g, const char *policy,
                       struct way_gateway_error *error);
/* 0: still on its way; 1: done, in charge; -1: refused. The text tells which, or why. */
int way_gateway_reloaded(struct way_gateway *g, struct way_gateway_error *text);

/* For operators: lines of logfmt. NULL: no such node. Valid until the next of these. */
const char *way_gateway_status(struct way_gateway *g);
const char *way_gateway_why(struct way_gateway *g, const char *node);
/* The journal's entries since the one numbered `*after`, a line each, for tests and logs;
 * moves *after. */
const char *way_gateway_events(struct way_gateway *g, double *after);

#pragma GCC visibility pop
#endif
