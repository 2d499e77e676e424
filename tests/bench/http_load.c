/* http_load - requests over kept connections, as fast as they are answered.
 *
 *     http_load PORT CONNECTIONS SECONDS PATH
 *
 * Prints `requests=N bad=N seconds=S p50=US p99=US`; bad is what was not answered with 200.
 * Answers must tell their Content-Length or be chunked, in one piece of 64 KiB at most. */
#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ANSWER_MAX = 65536, SAMPLES_MAX = 4 << 20 };

struct link {
    ev_io io;
    double sent;
    size_t held;
    char in[ANSWER_MAX + 1];
};

static struct {
    char request[4096];
    size_t bytes;
    unsigned long requests, bad, samples;
    float *us;
} load;

static void die(const char *what)
{
    fprintf(stderr, "http_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void send_one(struct link *l, struct ev_loop *loop)
{
    l->sent = ev_time();
    l->held = 0;
    (void)loop;
    if (send(l->io.fd, load.request, load.bytes, MSG_NOSIGNAL) != (ssize_t)load.bytes)
        die("send");
}

/* Is the answer whole? */
static bool is_whole(const struct link *l)
{
    const char *body = strstr(l->in, "\r\n\r\n");
    const char *length = strcasestr(l->in, "\r\nContent-Length:");
    if (!body)
        return false;
    if (length && length < body)
        return l->held >= (size_t)(body + 4 - l->in) + strtoul(length + 17, NULL, 10);
    return l->held >= 5 && !memcmp(l->in + l->held - 5, "0\r\n\r\n", 5);
}

static void on_answer(struct ev_loop *loop, ev_io *w, int events)
{
    (void)events;
    struct link *l = (struct link *)w;
    ssize_t n = recv(w->fd, l->in + l->held, ANSWER_MAX - l->held, 0);
    if (n <= 0)
        die("the server closed a connection");
    l->held += (size_t)n;
    l->in[l->held] = 0;
    if (!is_whole(l))
        return;
    load.requests++;
    load.bad += strncmp(l->in, "HTTP/1.1 200", 12) != 0;
    if (load.samples < SAMPLES_MAX)
        load.us[load.samples++] = (float)((ev_time() - l->sent) * 1e6);
    send_one(l, loop);
}

static void on_end(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)w, (void)events;
    ev_break(loop, EVBREAK_ALL);
}

static void open_link(struct ev_loop *loop, struct link *l, int port)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ev_io_init(&l->io, on_answer, fd, EV_READ);
    ev_io_start(loop, &l->io);
    send_one(l, loop);
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: http_load PORT CONNECTIONS SECONDS PATH\n");
        return 2;
    }
    int links = atoi(argv[2]);
    struct ev_loop *loop = EV_DEFAULT;
    struct link *all = calloc((size_t)links, sizeof *all);
    ev_timer end;
    load.us = malloc(SAMPLES_MAX * sizeof *load.us);
    if (!all || !load.us)
        die("memory");
    load.bytes = (size_t)snprintf(load.request, sizeof load.request,
                                  "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n", argv[4]);
    for (int i = 0; i < links; i++)
        open_link(loop, &all[i], atoi(argv[1]));
    double began = ev_time();
    ev_timer_init(&end, on_end, atof(argv[3]), 0.);
    ev_timer_start(loop, &end);
    ev_run(loop, 0);
    double took = ev_time() - began;
    qsort(load.us, load.samples, sizeof *load.us, by_size);
    printf("requests=%lu bad=%lu seconds=%.3f p50=%.0f p99=%.0f\n", load.requests,
           load.bad, took, load.samples ? (double)load.us[load.samples / 2] : 0,
           load.samples ? (double)load.us[load.samples * 99 / 100] : 0);
    free(all);
    free(load.us);
    return 0;
}
