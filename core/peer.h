/* peer - one node asked what it believes of the cluster.
 *
 * A peer is an address that may be asked, with a connection of its own that is kept for
 * 30 s after its last use. CLUSTER NODES and CLUSTER SHARDS are sent together; where NODES
 * is refused (NOPERM, unknown command) CLUSTER SLOTS is asked, and that is remembered for a
 * minute. SHARDS only adds: its failing is no error. A connection that turns out stale is
 * made anew at once.
 *
 * Callbacks fire in the loop's thread, never inside way_peer_ask or way_peer_cancel, and
 * must not free the set. The set owns its peers, connections and requests. */
#ifndef WAY_PEER_H
#define WAY_PEER_H

#include "base.h"
#include "event.h"
#include "limits.h"
#include "loop.h"
#include "slots.h"

struct way_resolver;
struct way_tls;
struct way_peers;
struct way_peer;
struct way_conn;

struct way_peers_options {
    struct way_loop *loop;
    struct way_resolver *resolver;
    const struct way_timeouts *timeouts; /* borrowed */
    const struct way_limits *limits;     /* borrowed */
    const char *user, *password;         /* borrowed; NULL: none */
    const struct way_tls *tls;           /* borrowed; NULL: in plain */
    /* The answer to way_peer_ask: t is lent, valid during the call; NULL: why, in words. */
    void (*told)(void *arg, struct way_peer *p, const struct way_topology *t,
                 const char *why);
    /* A peer that is a known node could not be reached, or broke: e is whole but for class
     * and blame. Comes before told. */
    void (*failed)(void *arg, struct way_peer *p, struct way_event *e);
    void *arg;
};

struct way_peer { /* ro outside peer */
    struct way_peer *next;
    struct way_peers *set;
    char host[WAY_HOST_MAX];
    uint16_t port;
    uint16_t node;       /* of the table, or WAY_NONE_NODE: a seed */
    uint32_t generation; /* of that node's record, when it was taken */
    struct way_conn *conn;
    struct way_topology *topology; /* private: what it told so far */
    uint32_t series;               /* private: replies of an older one are dropped */
    unsigned waiting;              /* private: replies to come */
    bool asking;
    bool again;  /* private: the stale connection was made anew */
    double used; /* private */
    double nodes_refused, shards_refused; /* private: not to be asked before */
};

struct way_peers *way_peers_new(const struct way_peers_options *o);
void way_peers_free(struct way_peers *s);

/* The peer at the address, made if need be; node and generation are taken over. Valid
 * until the loop's next pass, while it is asked until told. */
struct way_peer *way_peer_get(struct way_peers *s, const char *host, uint16_t port,
                              uint16_t node, uint32_t generation);
/* False: it is being asked, or has not yet answered what it was asked before. */
bool way_peer_ask(struct way_peer *p);
/* It is no longer waited for: told will not be called. A connection that is not yet made is
 * closed; one that is in use may still report its failing. */
void way_peer_cancel(struct way_peer *p);

#endif
