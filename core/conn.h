/* conn - one socket to one node, and the phase it is in.
 *
 * connect (resolve, dial, tls, hello), write (send), read (wait, reply): the phase is explicit
 * state with one setter, each step has its own deadline, and whatever goes wrong becomes
 * one event. Commands are queued while it connects and sent when it is ready. The bytes of
 * a command stay in the connection's buffer until it is answered, so what a broken
 * connection leaves behind can go elsewhere; the success path copies them once.
 *
 * A command is unsent exactly if write() did not accept its last byte; over TLS, if it did
 * not accept the whole of the record that holds it, for of a part a node can read nothing.
 * Owns its socket, TLS session,
 * watchers and buffers; links requests, never frees them but hands each back once: by
 * reply() or by what broke() finds in the queue. Callbacks fire in the loop's thread, from
 * its watchers or its end-of-pass tasks, never inside way_conn_open or way_conn_send;
 * they may close the connection; it is freed at the end of the pass. */
#ifndef WAY_CONN_H
#define WAY_CONN_H

#include "base.h"
#include "event.h"
#include "limits.h"
#include "loop.h"
#include "pipeline.h"
#include "resp.h"
#include "tls.h"

struct way_resolver;

struct way_conn_ops {
    /* A whole reply to the oldest request, which is no longer linked. RESP3 pushes are
     * dropped before. Bytes are valid during the call. */
    void (*reply)(struct way_conn *c, struct way_request *r, const char *bytes, size_t n);
    /* After the replies of one read: `replies` of them. */
    void (*batch)(struct way_conn *c, unsigned replies);
    /* The connect phase succeeded. May be NULL. */
    void (*ready)(struct way_conn *c);
    /* It broke, or could not be made: e is whole but for class and blame. The socket is
     * closed; the unanswered requests are in c->head, for the callee to take
     * (way_conn_take); their bytes live until the end of the pass. */
    void (*broke)(struct way_conn *c, struct way_event *e);
    /* It was draining, and has closed. */
    void (*drained)(struct way_conn *c);
};

struct way_conn_options {
    struct way_loop *loop;
    struct way_resolver *resolver;
    const struct way_timeouts *timeouts; /* borrowed, outlives the connection */
    const struct way_conn_ops *ops;
    void *owner;
    const char *host;
    uint16_t port;
    uint16_t node; /* index, or WAY_NONE_NODE */
    uint32_t generation;
    uint8_t resp;                /* 2, 3: with 3 the hello says HELLO 3 */
    bool readonly;               /* READONLY in the hello: to a replica */
    const char *user, *password; /* AUTH in the hello; NULL: none */
    const struct way_tls *tls;   /* NULL: the node is spoken to in plain. Outlives it */
    double dial_timeout;         /* 0: timeouts' */
    size_t reply_bytes;          /* bound of one reply */
};

struct way_conn { /* ro outside conn, but for owner and data */
    struct way_loop *loop;
    const struct way_conn_ops *ops;
    void *owner;
    const struct way_timeouts *timeouts;
    struct way_task flush;
    struct way_request *head, *tail; /* unanswered, in order */
    unsigned inflight;               /* how many */
    struct way_buf out;
    uint64_t queued; /* stream offset behind the last byte put */
    uint64_t sent;   /* stream offset behind the last byte that write() accepted */
    struct way_buf in;
    struct way_reply_framer framer;
    size_t reply_bytes;
    double last_reply;     /* when the last whole reply was read */
    double last_accept;    /* when write() last accepted bytes, or the backlog began */
    double born, ready_at; /* dial began; connect phase ended, 0 not yet */
    ev_io io;
    ev_timer timer;
    int fd;
    struct way_tls_session *tls; /* NULL: in plain, or not there yet */
    uint16_t node;
    uint32_t generation;
    uint8_t resp;
    bool readonly;
    bool reused;   /* it answered a command before what is in flight */
    bool backlog;  /* bytes wait that write() did not take */
    bool draining; /* no new requests; closes when empty */
    bool closed;
    bool read_wants_write; /* private: TLS must write before it can read on */
    bool carried;          /* somebody else moves its bytes: see way_conn_carry */
    double step_at;        /* private: when a carried one's step began */
    uint64_t sealed;       /* private: carried: stream offset behind what TLS has taken */
    enum way_step
        step; /* RESOLVE DIAL TLS HELLO; SEND when ready (WAIT and REPLY are seen
                           from what is in flight) */
    uint32_t burst_replies;         /* replies since the queue was last empty */
    uint64_t burst_start;           /* stream offset where it began */
    uint64_t answered;              /* replies ever */
    struct way_span answered_bytes; /* of the request that reply() is told of: valid until
                                       something is sent on this connection */
    struct way_conn_connect *connect; /* private: what the connect phase needs */
    void *data;                       /* rw by the owner */
    void *carrier;                    /* rw by who carries it */
};

/* Starts the connect phase. Never fails by itself: what goes wrong comes as broke(). */
struct way_conn *way_conn_open(const struct way_conn_options *o);

/* Queues r's n bytes (copied). r->bytes, end, conn, state, sent are set; attempt counts. */
void way_conn_send(struct way_conn *c, struct way_request *r, const char *bytes,
                   size_t n);

/* The bytes of a request in its queue; valid until the end of the pass. */
struct way_span way_conn_bytes(const struct way_conn *c, const struct way_request *r);
static inline bool way_conn_was_sent(const struct way_conn *c,
                                     const struct way_request *r)
{
    return r->end <= c->sent;
}

/* Takes the whole queue, linked by r->link. */
struct way_request *way_conn_take(struct way_conn *c);

/* Closes at once, calling nothing; the queue must be empty or taken. */
void way_conn_close(struct way_conn *c);
/* Closes when the last request is answered, and says so by drained(): from this call if
 * there is none. */
void way_conn_drain(struct way_conn *c);
/* Breaks it as if by the peer: broke() comes with `error`, from this call. */
void way_conn_break(struct way_conn *c, enum way_error error, const char *message);

/* ---- carried connections ----
 * Where another event loop owns the sockets, a connection has none: who carries it tells
 * what became of its socket, takes the bytes that are to be sent and brings those that
 * came. Phases, certainty, framing and callbacks are the same; callbacks fire from these
 * calls, and it has no timers: way_conn_carried_due tells how long its step may last. TLS
 * is spoken here, so that the bytes are records then. */
struct way_conn *way_conn_carry(const struct way_conn_options *o); /* in step dial */
/* The socket is connected: now, or (reused) by who had it before, and then it needs no
 * hello. `session`: the one that a reused socket to a node with TLS has; owned by c from
 * here on. */
void way_conn_carried_up(struct way_conn *c, bool reused,
                         struct way_tls_session *session);
/* The TLS session, for who is to have the socket next, to be freed by way_tls_end and
 * way_free; c is to be closed then. NULL: in plain. */
struct way_tls_session *way_conn_carried_session(struct way_conn *c);
/* Nothing is under way, and what came is read: the socket may serve another. */
bool way_conn_carried_idle(struct way_conn *c);
/* The bytes that wait to be sent, over TLS as many records as are made by now; valid until
 * the next call. */
struct way_span way_conn_carried_out(const struct way_conn *c);
void way_conn_carried_sent(struct way_conn *c, size_t n); /* so many were accepted */
void way_conn_carried_in(struct way_conn *c, const char *p, size_t n);
/* Its socket failed; errnum 0 with WAY_ERROR_TIMEOUT or WAY_ERROR_EOF, which are told by
 * their name. `sending`: it was in a send. */
void way_conn_carried_failed(struct way_conn *c, bool sending, enum way_error error,
                             int errnum, const char *message);
/* Seconds that the present step may still last; 0 or less: it is late. */
double way_conn_carried_due(const struct way_conn *c);

#endif
