/* node_kit - made-up nodes on the loop under test: they listen on ports of their own, keep
 * what they were asked, and answer by a function; and waiting for what must come. */
#ifndef NODE_KIT_H
#define NODE_KIT_H

#include "listen.h"
#include "loop.h"
#include "resp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { KIT_CLIENTS = 32, KIT_ASKED = 65536 };

struct kit_node;
struct kit_client {
    struct kit_node *node;
    int fd;
    ev_io io;
    struct way_buf in;
    struct way_request_parser parser;
};
/* Puts the reply to a request, given as its words with blanks between them; nothing: the
 * node stays silent. */
typedef void kit_answer_fn(struct kit_node *n, const char *request, struct way_buf *out);
struct kit_node {
    struct way_loop *loop;
    uint16_t port;
    char address[32];
    int fd; /* -1: refuses */
    ev_io io;
    kit_answer_fn *answer;
    const char *text; /* for the answer's use */
    struct kit_client client[KIT_CLIENTS];
    unsigned accepted, requests;
    char asked[KIT_ASKED]; /* all requests, one a line */
};

static inline void kit_hang_up(struct kit_client *c)
{
    ev_io_stop(c->node->loop->ev, &c->io);
    close(c->fd);
    way_buf_fini(&c->in);
    way_request_parser_fini(&c->parser);
    memset(c, 0, sizeof *c);
}

static inline void kit_one_request(struct kit_client *c, const char *p)
{
    struct kit_node *n = c->node;
    struct way_buf out = { 0 };
    char words[512];
    size_t at = 0;
    for (unsigned i = 0; i < c->parser.count; i++)
        at += (size_t)snprintf(words + at, sizeof words - at, "%s%.*s", i ? " " : "",
                               (int)c->parser.arg[i].n, p + c->parser.arg[i].off);
    n->requests++;
    size_t kept = strlen(n->asked);
    snprintf(n->asked + kept, sizeof n->asked - kept, "%s\n", words);
    n->answer(n, words, &out);
    size_t held = way_buf_held(&out);
    ssize_t sent = held ? send(c->fd, out.p + out.off, held, MSG_NOSIGNAL) : 0;
    if (sent >= 0 ||
        (errno != EPIPE && errno != ECONNRESET)) /* who asked may have gone */
        assert_int_equal(sent, held);
    way_buf_fini(&out);
}

static inline void kit_on_client(struct ev_loop *ev, ev_io *w, int events)
{
    (void)ev, (void)events;
    struct kit_client *c = way_container(w, struct kit_client, io);
    struct way_err err;
    way_buf_room(&c->in, 4096);
    ssize_t n = recv(c->fd, c->in.p + c->in.len, c->in.cap - c->in.len, 0);
    if (n <= 0) {
        kit_hang_up(c);
        return;
    }
    c->in.len += (size_t)n;
    ssize_t took;
    while (c->node &&
           (took = way_request_parse(&c->parser, c->in.p + c->in.off,
                                     way_buf_held(&c->in), 100, 4096, &err)) > 0) {
        kit_one_request(c, c->in.p + c->in.off);
        way_request_parser_reset(&c->parser);
        c->in.off += (size_t)took;
    }
}

static inline void kit_on_accept(struct ev_loop *ev, ev_io *w, int events)
{
    (void)events;
    struct kit_node *n = way_container(w, struct kit_node, io);
    int fd = accept4(n->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fd >= 0);
    n->accepted++;
    for (unsigned i = 0; i < KIT_CLIENTS; i++) {
        struct kit_client *c = &n->client[i];
        if (c->node)
            continue;
        c->node = n;
        c->fd = fd;
        ev_io_init(&c->io, kit_on_client, fd, EV_READ);
        ev_io_start(ev, &c->io);
        return;
    }
    fail_msg("a node has more than %d connections", KIT_CLIENTS);
}

/* On its old port if it had one. */
static inline void kit_node_up(struct kit_node *n)
{
    struct way_err err;
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", n->port);
    n->fd = way_listen(address, 0, 64, &err);
    if (n->fd < 0)
        fail_msg("%s", err.text);
    struct sockaddr_in sa;
    socklen_t len = sizeof sa;
    assert_int_equal(getsockname(n->fd, (struct sockaddr *)&sa, &len), 0);
    n->port = ntohs(sa.sin_port);
    snprintf(n->address, sizeof n->address, "127.0.0.1:%u", n->port);
    ev_io_init(&n->io, kit_on_accept, n->fd, EV_READ);
    ev_io_start(n->loop->ev, &n->io);
}

/* As a process that was killed: refuses, and its connections are gone. */
static inline void kit_node_down(struct kit_node *n)
{
    if (n->fd < 0)
        return;
    ev_io_stop(n->loop->ev, &n->io);
    close(n->fd);
    n->fd = -1;
    for (unsigned i = 0; i < KIT_CLIENTS; i++)
        if (n->client[i].node)
            kit_hang_up(&n->client[i]);
}

static inline void kit_node_start(struct kit_node *n, struct way_loop *l,
                                  kit_answer_fn *answer, const char *text)
{
    memset(n, 0, sizeof *n);
    n->loop = l;
    n->answer = answer;
    n->text = text;
    kit_node_up(n);
}

/* How often a request that begins so was asked. */
static inline unsigned kit_asked(const struct kit_node *n, const char *begin)
{
    unsigned times = 0;
    for (const char *at = n->asked; at && *at; at = strchr(at, '\n')) {
        at += *at == '\n';
        times += !strncmp(at, begin, strlen(begin)) && *at;
    }
    return times;
}

static inline void kit_nothing(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)w, (void)events;
}

/* Runs the loop until the condition holds; fails after so many seconds. */
#define AWAIT(loop, seconds, condition)                                                  \
    do {                                                                                 \
        ev_timer kit_beat;                                                               \
        double kit_end = way_clock() + (seconds);                                        \
        ev_timer_init(&kit_beat, kit_nothing, 0.002, 0.002);                             \
        ev_timer_start((loop)->ev, &kit_beat);                                           \
        while (!(condition) && way_clock() < kit_end)                                    \
            ev_run((loop)->ev, EVRUN_ONCE);                                              \
        ev_timer_stop((loop)->ev, &kit_beat);                                            \
        if (!(condition))                                                                \
            fail_msg("did not come within %g s: %s", (double)(seconds), #condition);     \
    } while (0)

/* Runs the loop for so long: to see that something does not come. */
static inline void kit_pass_time(struct way_loop *l, double seconds)
{
    double end = way_clock() + seconds;
    AWAIT(l, seconds + 1, way_clock() >= end);
}

#endif
