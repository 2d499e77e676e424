/* http - see http.h.
 *
 * libmicrohttpd keeps its sockets in an epoll of its own; its descriptor is readable when
 * there is something to do, and MHD_get_timeout tells when to look without that. All
 * answers are made at once, in memory. */
#include "http.h"

#include "listen.h"
#include "log.h"
#include "metrics.h"

#include <microhttpd.h>
#include <stdio.h>

enum { CONNECTIONS_MAX = 64, CONNECTION_BYTES = 32768, IDLE_SECONDS = 10 };

struct way_http {
    struct way_control *control;
    struct way_loop *loop;
    char *address;
    struct MHD_Daemon *daemon;
    ev_io io;
    ev_timer timer;
};

/* --- answers --- */

/* Takes the buffer. */
static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status,
                              const char *type, struct way_buf *body)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(
        way_buf_held(body), body->p ? body->p + body->off : (void *)"",
        MHD_RESPMEM_MUST_COPY);
    way_buf_fini(body);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, status, r);
    MHD_destroy_response(r);
    return result;
}

static const char plain[] = "text/plain; charset=utf-8";
static const char prometheus[] = "text/plain; version=0.0.4; charset=utf-8";

static enum MHD_Result serve(struct way_http *h, struct MHD_Connection *connection,
                             const char *url)
{
    struct way_buf body = { 0 };
    if (!strcmp(url, "/metrics")) {
        way_metrics_write(h->control, &body);
        return answer(connection, MHD_HTTP_OK, prometheus, &body);
    }
    if (!strcmp(url, "/healthz")) {
        bool healthy = way_metrics_healthy(h->control, &body);
        return answer(connection, healthy ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE,
                      plain, &body);
    }
    if (!strcmp(url, "/")) {
        way_buf_puts(&body, "wayside\n\n/metrics  for Prometheus\n"
                            "/healthz  200 when every slot has an owner, else 503\n");
        return answer(connection, MHD_HTTP_OK, plain, &body);
    }
    way_buf_puts(&body, "not found; see /\n");
    return answer(connection, MHD_HTTP_NOT_FOUND, plain, &body);
}

/* Called when the headers are there, then again when the request is whole. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection,
                                  const char *url, const char *method,
                                  const char *version, const char *data,
                                  size_t *data_size, void **seen)
{
    (void)version, (void)data;
    static char once;
    if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD)) {
        struct way_buf body = { 0 };
        way_buf_puts(&body, "only GET and HEAD\n");
        return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, plain, &body);
    }
    if (!*seen) {
        *seen = &once;
        return MHD_YES;
    }
    if (*data_size) { /* a body that nobody wants */
        *data_size = 0;
        return MHD_YES;
    }
    return serve(arg, connection, url);
}

/* --- on the loop --- */

static void step(struct way_http *h)
{
    MHD_UNSIGNED_LONG_LONG ms;
    MHD_run(h->daemon);
    ev_timer_stop(h->loop->ev, &h->timer);
    if (MHD_get_timeout(h->daemon, &ms) != MHD_YES)
        return;
    ev_timer_set(&h->timer, (double)ms / 1000, 0.);
    ev_timer_start(h->loop->ev, &h->timer);
}

static void on_io(struct ev_loop *ev, ev_io *w, int events)
{
    (void)ev, (void)events;
    step(way_container(w, struct way_http, io));
}

static void on_timer(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)events;
    step(way_container(w, struct way_http, timer));
}

static void on_log(void *arg, const char *fmt, va_list ap)
{
    (void)arg;
    char text[256];
    vsnprintf(text, sizeof text, fmt, ap);
    way_log(WAY_DEBUG, "http=\"%s\"", text);
}

static struct MHD_Daemon *start(struct way_http *h, int fd)
{
    return MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
                            h, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
                            MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
                            (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                            (size_t)CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT,
                            (unsigned)IDLE_SECONDS, MHD_OPTION_END);
}

int way_http_new(struct way_http **out, struct way_control *control, const char *address,
                 struct way_err *err)
{
    int fd = way_listen(address, 0600, 64, err);
    if (fd < 0)
        return way_fail_in(err, "admin.http");
    struct way_http *h = way_zalloc(sizeof *h);
    h->control = control;
    h->loop = way_control_loop(control);
    h->daemon = start(h, fd);
    const union MHD_DaemonInfo *info =
        h->daemon ? MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info) {
        if (h->daemon)
            MHD_stop_daemon(h->daemon);
        else
            way_listen_close(fd, address);
        way_free(h);
        return way_fail(err, "admin.http: libmicrohttpd does not start on %s", address);
    }
    h->address = way_strdup(address);
    ev_io_init(&h->io, on_io, info->epoll_fd, EV_READ);
    ev_timer_init(&h->timer, on_timer, 0., 0.);
    ev_io_start(h->loop->ev, &h->io);
    *out = h;
    return 0;
}

void way_http_free(struct way_http *h)
{
    if (!h)
        return;
    ev_io_stop(h->loop->ev, &h->io);
    ev_timer_stop(h->loop->ev, &h->timer);
    int fd = MHD_quiesce_daemon(h->daemon);
    MHD_stop_daemon(h->daemon);
    way_listen_close(fd, h->address);
    way_free(h->address);
    way_free(h);
}
