/* tls - a TLS session to a node over a socket that never blocks, or over none: then the
 * caller brings the bytes that came and takes those that are to go.
 *
 * A context holds what is trusted and shown: made once, shared by threads, which only read
 * it. A session belongs to one socket and one thread; it owns neither, and stays where it
 * was begun: OpenSSL keeps its address. Where a call says EAGAIN, `want` tells what the
 * socket must become first, and it need not be the direction of the call.
 *
 * What way_tls_write has taken, the kernel has: a record counts when all its bytes were
 * accepted, and a node can't read a record of which a part is missing. So bytes that were
 * not taken were never executed. Nothing else writes a record's rest behind the caller. */
#ifndef WAY_TLS_H
#define WAY_TLS_H

#include "base.h"

#include <sys/types.h>

struct way_tls_options {
    const char *ca;   /* file or folder (c_rehash); NULL: the system's */
    const char *cert; /* client's chain, PEM; NULL: none */
    const char *key;  /* its key, PEM; NULL exactly if cert is */
    const char *name; /* name asked for and verified; NULL: each node's own host */
    bool skip_verify; /* anybody is believed */
};

struct way_tls;
/* NULL with err when a file can't be read, or does not fit the others: "field: path: why".
 * A key may not be encrypted, for nobody is there to be asked. */
struct way_tls *way_tls_new(const struct way_tls_options *o, struct way_err *err);
/* Sessions that there are keep what they need of it. NULL does nothing. */
void way_tls_free(struct way_tls *t);

enum way_tls_want { WAY_TLS_WANT_READ, WAY_TLS_WANT_WRITE };
enum way_tls_fault {
    WAY_TLS_FAULT_SOCKET,      /* errno tells */
    WAY_TLS_FAULT_EOF,         /* the node closed, in order or not */
    WAY_TLS_FAULT_CERTIFICATE, /* the node's was not believed, or ours not by the node */
    WAY_TLS_FAULT_PROTOCOL     /* what came is no TLS, or none that both speak */
};

struct way_tls_session {
    void *ssl;                /* private */
    int fd;                   /* private */
    struct way_buf in, out;   /* private: without a socket, what came and what is to go */
    size_t pending;           /* private: bytes of the record that is being written */
    bool ended;               /* private: nothing more will be read, */
    int errnum;               /* private: because of that */
    enum way_tls_want want;   /* ro: valid after EAGAIN */
    enum way_tls_fault fault; /* ro: valid after another error */
    char message[160];        /* ro: the fault in words */
};

enum { WAY_TLS_NO_SOCKET = -1 }; /* see way_tls_came */
/* `host` is the node's, a name or an address: asked for (SNI, names only) and verified
 * unless the context has a name. -1 with err: it can be neither. */
int way_tls_begin(struct way_tls_session *s, const struct way_tls *t, int fd,
                  const char *host, struct way_err *err) WAY_MUST_CHECK;
/* Frees the session and tells the node nothing. Doing it twice does nothing. */
void way_tls_end(struct way_tls_session *s);

/* These return as send() and recv() do: -1 with errno EAGAIN and `want`, or -1 with
 * `fault` and `message`; errno is then the socket's, or EPROTO. After that only
 * way_tls_end may follow, but where a write has failed, what the node had said before may
 * yet be read. */
int way_tls_handshake(struct way_tls_session *s); /* 0 when it is done */
/* The bytes taken: less than n, a record at a time. After EAGAIN the next call must have
 * the same bytes, as many or more, at any address. */
ssize_t way_tls_write(struct way_tls_session *s, const void *p, size_t n);
/* Never 0 for n > 0: an end is a fault (EOF), told again by each further call. At most one
 * record. With room for a whole one nothing that can be read stays behind in here, where
 * nobody would be woken for it. */
enum { WAY_TLS_RECORD = 16384 }; /* bytes in a record at most */
ssize_t way_tls_read(struct way_tls_session *s, void *p, size_t n);

/* ---- without a socket ----
 * EAGAIN is told only by a handshake or a read, for want of bytes. All but way_tls_came may
 * add to what is to go. A write has all its bytes taken, which says nothing of the kernel. */
void way_tls_came(struct way_tls_session *s, const char *p, size_t n);
/* The records to be sent; valid until the next call but this. */
struct way_span way_tls_to_send(const struct way_tls_session *s);
void way_tls_sent(struct way_tls_session *s, size_t n); /* its first n are */
/* Nothing of a record is held, either way: the next byte begins one. Gives its buffers
 * back. */
bool way_tls_rests(struct way_tls_session *s);

#endif
