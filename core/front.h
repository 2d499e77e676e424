/* front - listeners and clients: to a client, wayside looks like one Redis.
 *
 * One front per worker, on its loop: it owns that worker's clients. The acceptor, on the
 * control loop, hands each new connection to the front with the fewest. Commands are
 * parsed from the receive buffer where they lie; a client that asks more than it takes is
 * not read from until it took. */
#ifndef WAY_FRONT_H
#define WAY_FRONT_H

#include "config.h"
#include "dispatch.h"
#include "loop.h"
#include "stats.h"

struct way_front;

/* What INFO and such tell of the whole host; called in the worker's thread. */
struct way_front_host {
    void (*info)(void *arg, struct way_buf *out); /* lines "name:value\r\n" */
    uint64_t (*next_client_id)(void *arg);
    void *arg;
};

struct way_front_options {
    struct way_loop *loop;
    struct way_dispatch *dispatch;
    const struct way_config *config; /* borrowed */
    struct way_stats *stats;         /* borrowed, this worker's */
    struct way_request_pool *pool;   /* borrowed, this worker's */
    struct way_front_host host;
};
struct way_front *way_front_new(const struct way_front_options *o);
/* Closes all clients. Before way_dispatch_free. */
void way_front_free(struct way_front *f);

/* Any thread: a connected socket for this worker. It is closed if the worker has gone. */
void way_front_hand(struct way_front *f, int fd);
/* From the loop's woken(): takes what was handed over. */
void way_front_take(struct way_front *f);
/* Any thread: clients connected or on their way. */
unsigned way_front_clients(const struct way_front *f);

struct way_acceptor;
/* Listens on all configured addresses; -1: none is left open. Accepting begins with the
 * loop. fronts: borrowed, outlive it. */
int way_acceptor_new(struct way_acceptor **out, struct way_loop *loop,
                     const struct way_config *config, struct way_front *const *fronts,
                     unsigned count, struct way_err *err) WAY_MUST_CHECK;
void way_acceptor_free(struct way_acceptor *a);

#endif
