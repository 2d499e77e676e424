/* resolve - see resolve.h. c-ares knows its sockets, we watch them and one timer per
 * channel. A channel reads resolv.conf when it is made and never again, so look-ups that
 * are to see a change need a new one; the old one is retired: it stays until the look-ups
 * that somebody waits for are done. Waiting for all to be idle instead would never end
 * just when it matters, while a dead name server keeps every look-up open.
 *
 * c-ares can't cancel one query. A cancelled look-up loses its fn and is freed when c-ares
 * is through with it, at the latest with its channel. Channels end only outside of c-ares's
 * calls (sweep), since it does not bear to be destroyed from within. */
#include "resolve.h"

#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>

#define CHANNEL_SECONDS 60.0 /* then a look-up makes a new one */
#define DOUBT_SECONDS 0.1    /* and so, after a failure, when it is older than this */
enum { TRY_MS = 1000, TRIES = 3 };

struct watch {
    ev_io io;
    struct channel *channel;
    struct watch *next;
};

struct channel {
    struct way_resolver *resolver;
    struct channel *next;
    ares_channel ares;
    ev_timer timer;
    struct watch *watches;
    double born;
    unsigned live; /* look-ups that somebody waits for */
    bool doubted;  /* one failed or was cancelled */
};

struct way_resolver {
    struct way_loop *loop;
    char *servers;
    struct channel
        *channels;   /* the first one takes new look-ups, the others are retired */
    unsigned inside; /* depth of calls into c-ares */
    bool freed;
};

struct way_resolving {
    struct channel *channel;
    way_resolved_fn *fn; /* NULL: cancelled, or told */
    void *arg;
    uint16_t port;
    bool starting; /* way_resolve has not returned yet */
    bool ended;    /* c-ares is through with it */
    char host[];
};

int way_resolver_library_init(struct way_err *err)
{
    int status = ares_library_init(ARES_LIB_INIT_ALL);
    return status == ARES_SUCCESS ? 0
                                  : way_fail(err, "c-ares: %s", ares_strerror(status));
}

/* --- channels --- */

static void channel_free(struct channel *ch)
{
    ch->live = 0;
    ch->resolver->inside++;
    ares_destroy(ch->ares); /* ends each look-up, and each watch */
    ch->resolver->inside--;
    ev_timer_stop(ch->resolver->loop->ev, &ch->timer);
    while (ch->watches) {
        struct watch *w = ch->watches;
        ch->watches = w->next;
        ev_io_stop(ch->resolver->loop->ev, &w->io);
        way_free(w);
    }
    way_free(ch);
}

static void resolver_destroy(struct way_resolver *r)
{
    while (r->channels) {
        struct channel *ch = r->channels;
        r->channels = ch->next;
        channel_free(ch);
    }
    way_free(r->servers);
    way_free(r);
}

/* Ends retired channels that nobody waits for, or all, where the resolver was freed. */
static void sweep(struct way_resolver *r)
{
    if (r->inside)
        return;
    if (r->freed) {
        resolver_destroy(r);
        return;
    }
    struct channel **at = r->channels ? &r->channels->next : &r->channels;
    while (*at) {
        struct channel *ch = *at;
        if (ch->live) {
            at = &ch->next;
        } else {
            *at = ch->next;
            channel_free(ch);
        }
    }
}

static void arm(struct channel *ch)
{
    struct timeval tv;
    struct ev_loop *ev = ch->resolver->loop->ev;
    ev_timer_stop(ev, &ch->timer);
    if (!ares_timeout(ch->ares, NULL, &tv))
        return;
    ev_timer_set(&ch->timer, (double)tv.tv_sec + (double)tv.tv_usec / 1e6 + 0.001, 0);
    ev_timer_start(ev, &ch->timer);
}

/* Something happened to a socket, or time passed. */
static void process(struct channel *ch, int readable, int writable)
{
    struct way_resolver *r = ch->resolver;
    r->inside++;
    ares_process_fd(ch->ares, readable, writable);
    arm(ch);
    r->inside--;
    sweep(r);
}

static void on_io(struct ev_loop *ev, ev_io *io, int events)
{
    (void)ev;
    struct watch *w = way_container(io, struct watch, io);
    process(w->channel, events & EV_READ ? io->fd : ARES_SOCKET_BAD,
            events & EV_WRITE ? io->fd : ARES_SOCKET_BAD);
}

static void on_timer(struct ev_loop *ev, ev_timer *timer, int events)
{
    (void)ev;
    (void)events;
    process(way_container(timer, struct channel, timer), ARES_SOCKET_BAD,
            ARES_SOCKET_BAD);
}

/* c-ares tells what it wants to know of a socket; neither: it is about to close it. */
static void on_socket(void *arg, ares_socket_t fd, int readable, int writable)
{
    struct channel *ch = arg;
    struct ev_loop *ev = ch->resolver->loop->ev;
    struct watch **at = &ch->watches, *w;
    while (*at && (*at)->io.fd != fd)
        at = &(*at)->next;
    w = *at;
    if (w)
        ev_io_stop(ev, &w->io);
    if (!readable && !writable) {
        if (w)
            *at = w->next;
        way_free(w);
        return;
    }
    if (!w) {
        w = way_zalloc(sizeof *w);
        ev_init(&w->io, on_io);
        w->channel = ch;
        w->next = ch->watches;
        ch->watches = w;
    }
    ev_io_set(&w->io, fd, (readable ? EV_READ : 0) | (writable ? EV_WRITE : 0));
    ev_io_start(ev, &w->io);
}

/* Puts a new channel in front. */
static int channel_add(struct way_resolver *r, struct way_err *err)
{
    struct channel *ch = way_zalloc(sizeof *ch);
    char lookups[] = "fb";
    struct ares_options o = { .timeout = TRY_MS,
                              .tries = TRIES,
                              .lookups = lookups,
                              .sock_state_cb = on_socket,
                              .sock_state_cb_data = ch };
    int status = ares_init_options(&ch->ares, &o,
                                   ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES |
                                       ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB);
    if (status != ARES_SUCCESS) {
        way_free(ch);
        return way_fail(err, "c-ares: %s", ares_strerror(status));
    }
    ch->resolver = r;
    ch->born = r->loop->now;
    ev_init(&ch->timer, on_timer);
    status = r->servers ? ares_set_servers_ports_csv(ch->ares, r->servers) : ARES_SUCCESS;
    if (status != ARES_SUCCESS) {
        channel_free(ch);
        return way_fail(err, "name servers '%s': %s", r->servers, ares_strerror(status));
    }
    ch->next = r->channels;
    r->channels = ch;
    return 0;
}

int way_resolver_new(struct way_resolver **out, struct way_loop *loop,
                     const struct way_resolver_options *o, struct way_err *err)
{
    struct way_resolver *r = way_zalloc(sizeof *r);
    r->loop = loop;
    r->servers = o && o->servers ? way_strdup(o->servers) : NULL;
    if (channel_add(r, err)) {
        resolver_destroy(r);
        return -1;
    }
    *out = r;
    return 0;
}

void way_resolver_free(struct way_resolver *r)
{
    if (!r)
        return;
    r->freed = true;
    sweep(r); /* or, from within an fn, when that has returned */
}

/* --- look-ups --- */

/* A literal address; IPv6 perhaps with its scope ("fe80::1%eth0"). */
static bool literal(const char *host, uint16_t port, struct way_address *a)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&a->sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a->sa;
    memset(a, 0, sizeof *a);
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        a->len = sizeof *v4;
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1) {
        struct addrinfo hints = { .ai_family = AF_INET6, .ai_flags = AI_NUMERICHOST };
        struct addrinfo *found;
        if (!strchr(host, '%') || getaddrinfo(host, NULL, &hints, &found))
            return false;
        memcpy(v6, found->ai_addr, sizeof *v6);
        freeaddrinfo(found);
    }
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    a->len = sizeof *v6;
    return true;
}

static unsigned copy_addresses(const struct ares_addrinfo *info, uint16_t port,
                               struct way_address a[WAY_ADDRESSES_MAX])
{
    unsigned n = 0;
    const struct ares_addrinfo_node *node = info ? info->nodes : NULL;
    for (; node && n < WAY_ADDRESSES_MAX; node = node->ai_next) {
        if (node->ai_family != AF_INET && node->ai_family != AF_INET6)
            continue;
        memset(&a[n], 0, sizeof a[n]);
        memcpy(&a[n].sa, node->ai_addr, (size_t)node->ai_addrlen);
        a[n].len = (socklen_t)node->ai_addrlen;
        if (node->ai_family == AF_INET)
            ((struct sockaddr_in *)&a[n].sa)->sin_port = htons(port);
        else
            ((struct sockaddr_in6 *)&a[n].sa)->sin6_port = htons(port);
        n++;
    }
    return n;
}

/* Takes the look-up's fn away: nobody waits for it any more. */
static way_resolved_fn *take_fn(struct way_resolving *q)
{
    way_resolved_fn *fn = q->fn;
    if (fn) {
        q->fn = NULL;
        q->channel->live--;
    }
    return fn;
}

static void tell(struct way_resolving *q, int status, const struct ares_addrinfo *info)
{
    struct way_address a[WAY_ADDRESSES_MAX];
    char why[400] = "";
    unsigned n = status == ARES_SUCCESS ? copy_addresses(info, q->port, a) : 0;
    if (!n)
        snprintf(why, sizeof why, "%s: %s", q->host,
                 status == ARES_SUCCESS ? "no address" : ares_strerror(status));
    way_resolved_fn *fn = take_fn(q);
    fn(q->arg, a, n, n ? NULL : why);
}

/* c-ares is through with a look-up. */
static void on_answer(void *arg, int status, int timeouts, struct ares_addrinfo *info)
{
    struct way_resolving *q = arg;
    (void)timeouts;
    bool certain =
        status == ARES_SUCCESS || status == ARES_ENOTFOUND || status == ARES_ENODATA;
    q->ended = true;
    q->channel->doubted |= !certain && status != ARES_EDESTRUCTION;
    if (q->fn && !q->channel->resolver->freed && status != ARES_EDESTRUCTION)
        tell(q, status, info);
    if (info)
        ares_freeaddrinfo(info);
    if (!q->starting)
        way_free(q);
}

/* The channel for a new look-up. If no new one can be made, the old one serves on. */
static struct channel *channel_now(struct way_resolver *r)
{
    struct channel *ch = r->channels;
    double age = r->loop->now - ch->born;
    if (age > CHANNEL_SECONDS || (ch->doubted && age > DOUBT_SECONDS)) {
        if (!channel_add(r, NULL))
            sweep(r);
    }
    return r->channels;
}

struct way_resolving *way_resolve(struct way_resolver *r, const char *host, uint16_t port,
                                  way_resolved_fn *fn, void *arg)
{
    struct way_address a;
    if (literal(host, port, &a)) {
        fn(arg, &a, 1, NULL);
        return NULL;
    }
    struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC,
                                         .ai_socktype = SOCK_STREAM };
    struct way_resolving *q = way_zalloc(sizeof *q + strlen(host) + 1);
    struct channel *ch = channel_now(r);
    memcpy(q->host, host, strlen(host) + 1);
    q->channel = ch;
    q->fn = fn;
    q->arg = arg;
    q->port = port;
    q->starting = true;
    ch->live++;
    r->inside++;
    ares_getaddrinfo(ch->ares, q->host, NULL, &hints, on_answer, q);
    arm(ch);
    r->inside--;
    q->starting = false;
    if (q->ended) {
        way_free(q);
        q = NULL;
    }
    sweep(r);
    return q;
}

void way_resolve_cancel(struct way_resolving *q)
{
    q->channel->doubted = true;
    take_fn(q);
}
