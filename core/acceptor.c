/* acceptor - the listening half of front.h: one accept loop for TCP and unix sockets, each
 * new connection to the worker with the fewest. SO_REUSEPORT would have spread TCP by hash,
 * unevenly for few clients, and unix sockets not at all. */
#include "front.h"
#include "listen.h"
#include "log.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

struct listener {
    struct way_acceptor *acceptor;
    const char *address;
    int fd;
    ev_io io;
};

struct way_acceptor {
    struct way_loop *loop;
    const struct way_limits *limits;
    struct way_front *const *fronts;
    unsigned count;
    unsigned listeners;
    struct listener listener[WAY_LISTEN_MAX];
    ev_timer rest; /* out of descriptors: listen again later */
    struct way_gate gate;
};

static struct way_front *emptiest(struct way_acceptor *a, unsigned *total)
{
    struct way_front *best = a->fronts[0];
    *total = 0;
    for (unsigned i = 0; i < a->count; i++) {
        *total += way_front_clients(a->fronts[i]);
        if (way_front_clients(a->fronts[i]) < way_front_clients(best))
            best = a->fronts[i];
    }
    return best;
}

static void hand_over(struct way_acceptor *a, int fd)
{
    unsigned total;
    struct way_front *f = emptiest(a, &total);
    if (total >= a->limits->clients) {
        static const char full[] = "-ERR max number of clients reached\r\n";
        ssize_t n = send(fd, full, sizeof full - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)n; /* it is closed either way */
        close(fd);
        if (way_gate_open(&a->gate, a->loop->now, 1))
            way_log(WAY_WARN, "limit=clients clients=%u: a connection was refused",
                    total);
        return;
    }
    way_front_hand(f, fd);
}

static void stop_listening(struct way_acceptor *a)
{
    for (unsigned i = 0; i < a->listeners; i++)
        ev_io_stop(a->loop->ev, &a->listener[i].io);
}

static void on_rested(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)events;
    struct way_acceptor *a = way_container(w, struct way_acceptor, rest);
    for (unsigned i = 0; i < a->listeners; i++)
        ev_io_start(ev, &a->listener[i].io);
}

static void on_connection(struct ev_loop *ev, ev_io *w, int events)
{
    (void)events;
    enum { AT_ONCE = 64 };
    struct listener *l = way_container(w, struct listener, io);
    struct way_acceptor *a = l->acceptor;
    for (int i = 0; i < AT_ONCE; i++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            hand_over(a, fd);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            if (way_gate_open(&a->gate, a->loop->now, 1))
                way_log(WAY_ERROR, "listen=%s error=\"%s\": waiting 0.1 s", l->address,
                        strerror(errno));
            stop_listening(a);
            ev_timer_init(&a->rest, on_rested, 0.1, 0.);
            ev_timer_start(ev, &a->rest);
        }
        return;
    }
}

int way_acceptor_new(struct way_acceptor **out, struct way_loop *loop,
                     const struct way_config *config, struct way_front *const *fronts,
                     unsigned count, struct way_err *err)
{
    enum { BACKLOG = 511, EVERYBODY = 0666 };
    struct way_acceptor *a = way_zalloc(sizeof *a);
    a->loop = loop;
    a->limits = &config->limits;
    a->fronts = fronts;
    a->count = count;
    ev_init(&a->rest, on_rested);
    for (unsigned i = 0; i < config->listens; i++) {
        struct listener *l = &a->listener[i];
        int fd = way_listen(config->listen[i], EVERYBODY, BACKLOG, err);
        if (fd < 0) {
            way_acceptor_free(a);
            return -1;
        }
        *l = (struct listener){ .acceptor = a, .address = config->listen[i], .fd = fd };
        ev_io_init(&l->io, on_connection, fd, EV_READ);
        ev_io_start(loop->ev, &l->io);
        a->listeners++;
    }
    *out = a;
    return 0;
}

void way_acceptor_free(struct way_acceptor *a)
{
    if (!a)
        return;
    stop_listening(a);
    ev_timer_stop(a->loop->ev, &a->rest);
    for (unsigned i = 0; i < a->listeners; i++)
        way_listen_close(a->listener[i].fd, a->listener[i].address);
    way_free(a);
}
