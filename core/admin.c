/* admin - see admin.h.
 *
 * A client is read, its whole requests are answered into one buffer, and no more is read
 * while that holds over a megabyte; what a client does not take within 10 s ends it. The
 * data path's front would have brought routing, deadlines and pipelines that nobody needs
 * here. */
#include "admin.h"

#include "console.h"
#include "listen.h"
#include "resp.h"
#include "daemon.h"

#include <errno.h>
#include <stdio.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CLIENTS_MAX = 16,
    REQUEST_BYTES = 65536,
    ARGS_MAX = 1024,
    WORDS_MAX = WAY_CONSOLE_WORDS, /* of a request, as far as we look at them */
    OUTPUT_BYTES = 1 << 20,        /* no more requests are answered above */
};
static const double STALLED = 10;

struct client {
    struct client *next;
    struct way_admin *admin;
    int fd;
    uint64_t id;
    ev_io io;
    ev_timer stall;
    struct way_buf in, out;
    struct way_request_parser parser;
    unsigned resp;
    bool leaving, closed;
    bool running;            /* its requests are being looked at */
    struct promise *promise; /* an answer that is to come before any other */
};

struct promise {
    struct way_later later;
    struct client *client; /* NULL: has gone */
    struct way_tell tell;
};

/* What a command is answered by. */
struct answer {
    struct way_tell tell;
    struct client *client;
};

struct way_admin {
    struct way_control *control;
    struct way_loop *loop;
    char *address;
    int fd;
    ev_io io;
    ev_timer again; /* no descriptors were left: accepts again in a second */
    struct client *first;
    unsigned clients;
    uint64_t ids;
};

/* --- life of a client --- */

static void free_client(void *p)
{
    struct client *c = p;
    way_buf_fini(&c->in);
    way_buf_fini(&c->out);
    way_request_parser_fini(&c->parser);
    way_free(c);
}

static void close_client(struct client *c)
{
    if (c->closed)
        return;
    struct client **at = &c->admin->first;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    c->admin->clients--;
    c->closed = true;
    if (c->promise)
        c->promise->client = NULL;
    ev_io_stop(c->admin->loop->ev, &c->io);
    ev_timer_stop(c->admin->loop->ev, &c->stall);
    close(c->fd);
    way_loop_reclaim(c->admin->loop, c, free_client);
}

static void watch(struct client *c)
{
    struct ev_loop *ev = c->admin->loop->ev;
    size_t held = way_buf_held(&c->out);
    bool reads = held < OUTPUT_BYTES && !c->leaving && !c->promise;
    int events = (reads ? EV_READ : 0) | (held ? EV_WRITE : 0);
    ev_io_stop(ev, &c->io);
    ev_io_set(&c->io, c->fd, events);
    if (events)
        ev_io_start(ev, &c->io);
    if (!held)
        ev_timer_stop(ev, &c->stall);
    else if (!ev_is_active(&c->stall))
        ev_timer_again(ev, &c->stall);
}

static void on_stall(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)events;
    close_client(way_container(w, struct client, stall));
}

/* --- commands of every Redis --- */

static void run_hello(struct client *c, unsigned argc, char *const *argv,
                      struct way_tell *t)
{
    if (argc > 1 && strcmp(argv[1], "2") && strcmp(argv[1], "3")) {
        way_resp_put_error(t->out, "NOPROTO unsupported protocol version");
        return;
    }
    if (argc > 1)
        c->resp = t->resp = argv[1][0] == '3' ? 3 : 2;
    struct way_tell_open m = way_tell_begin(t);
    way_tell_field(t, &m, "server", "wayside");
    way_tell_field(t, &m, "version", WAY_VERSION);
    way_tell_field_integer(t, &m, "proto", c->resp);
    way_tell_field_integer(t, &m, "id", (int64_t)c->id);
    way_tell_field(t, &m, "mode", "standalone");
    way_tell_field(t, &m, "role", "master");
    way_tell_name(t, &m, "modules");
    way_tell_array(t, 0);
    way_tell_end(t, &m);
}

static void run_ping(struct client *c, unsigned argc, char *const *argv,
                     struct way_tell *t)
{
    (void)c;
    if (argc > 1)
        way_tell_string(t, argv[1]);
    else
        way_tell_status(t, "PONG");
}

static void run_ok(struct client *c, unsigned argc, char *const *argv, struct way_tell *t)
{
    (void)c, (void)argc, (void)argv;
    way_tell_status(t, "OK");
}

static void run_quit(struct client *c, unsigned argc, char *const *argv,
                     struct way_tell *t)
{
    run_ok(c, argc, argv, t);
    c->leaving = true;
}

/* redis-cli asks for it when it starts; it lists no command then, and is content. */
static void run_command(struct client *c, unsigned argc, char *const *argv,
                        struct way_tell *t)
{
    (void)c, (void)argc, (void)argv;
    way_tell_array(t, 0);
}

static void run_info(struct client *c, unsigned argc, char *const *argv,
                     struct way_tell *t)
{
    (void)argc, (void)argv;
    struct way_control *control = c->admin->control;
    struct way_health *h = way_control_health(control);
    const struct way_plan *plan = way_control_plan(control);
    uint64_t came = way_control_stat(control, WAY_STAT_CLIENTS_TOTAL);
    uint64_t left = way_control_stat(control, WAY_STAT_CLIENTS_CLOSED);
    way_tell_format(t,
                    "# Server\r\nwayside_version:%s\r\nprocess_id:%ld\r\nthreads:%u\r\n"
                    "\r\n# Clients\r\nconnected_clients:%llu\r\n"
                    "\r\n# Stats\r\ntotal_commands_processed:%llu\r\n"
                    "\r\n# Policy\r\npolicy:%s\r\npolicy_version:%s\r\n"
                    "\r\n# Cluster\r\nnodes_known:%u\r\nslots_covered:%.4f\r\n",
                    WAY_VERSION, (long)getpid(), way_control_threads(control),
                    (unsigned long long)(came - left),
                    (unsigned long long)way_control_stat(control, WAY_STAT_REQUESTS),
                    plan->name, plan->version, way_health_nodes(h),
                    way_health_coverage(h));
}

static void run_wayside(struct client *c, unsigned argc, char *const *argv,
                        struct way_tell *t)
{
    way_console_run(c->admin->control, argc - 1, argv + 1, t);
}

static const struct {
    const char *name;
    void (*run)(struct client *c, unsigned argc, char *const *argv, struct way_tell *t);
} commands[] = {
    { "wayside", run_wayside }, { "ping", run_ping },       { "hello", run_hello },
    { "info", run_info },       { "command", run_command }, { "client", run_ok },
    { "select", run_ok },       { "quit", run_quit },
};

/* --- answers that come later --- */

static void serve(struct client *c);

static struct way_tell *begin_later(struct way_later *l)
{
    struct promise *p = way_container(l, struct promise, later);
    return p->client ? &p->tell : NULL;
}

static void end_later(struct way_later *l)
{
    struct promise *p = way_container(l, struct promise, later);
    struct client *c = p->client;
    way_free(p);
    if (!c)
        return;
    c->promise = NULL;
    if (!c->running)
        serve(c);
}

static struct way_later *promise(struct way_tell *t)
{
    struct client *c = way_container(t, struct answer, tell)->client;
    struct promise *p = way_zalloc(sizeof *p);
    *p = (struct promise){ .later = { begin_later, end_later }, .client = c };
    p->tell = (struct way_tell){ .out = &c->out, .resp = c->resp };
    c->promise = p;
    return &p->later;
}

static void run(struct client *c, unsigned argc, char *const *argv)
{
    struct answer answer = { { .out = &c->out, .resp = c->resp, .promise = promise }, c };
    for (unsigned i = 0; i < way_count(commands); i++)
        if (!strcasecmp(argv[0], commands[i].name)) {
            commands[i].run(c, argc, argv, &answer.tell);
            return;
        }
    way_resp_put_error(&c->out,
                       "ERR unknown command '%.64s': this is wayside's console, not its "
                       "port for clients; try WAYSIDE HELP",
                       argv[0]);
}

/* --- requests --- */

/* The request at p as words; what is too much for a console is refused. */
static void run_request(struct client *c, const char *p)
{
    char *argv[WORDS_MAX];
    unsigned n = c->parser.count, argc = 0;
    bool fits = n <= WORDS_MAX;
    for (unsigned i = 0; i < n && fits; i++) {
        const struct way_arg *a = &c->parser.arg[i];
        fits = a->n < WAY_CONSOLE_WORD && !memchr(p + a->off, 0, a->n);
        if (fits)
            argv[argc++] = way_strndup(p + a->off, a->n);
    }
    if (!fits)
        way_resp_put_error(&c->out,
                           "ERR too many words, or too long ones: try WAYSIDE HELP");
    else if (argc)
        run(c, argc, argv);
    while (argc)
        way_free(argv[--argc]);
}

/* An inline request, as from a terminal: made whole first, for its quotes. */
static int run_inline(struct client *c, const char *p, size_t n, struct way_err *err)
{
    struct way_buf whole = { 0 };
    int result = way_request_inline(p, n, &whole, err);
    if (result == 0) {
        way_request_parser_reset(&c->parser);
        ssize_t took =
            way_request_parse(&c->parser, whole.p + whole.off, way_buf_held(&whole),
                              ARGS_MAX, REQUEST_BYTES, err);
        if (took > 0)
            run_request(c, whole.p + whole.off);
        result = took < 0 ? -1 : 0;
    }
    way_buf_fini(&whole);
    return result;
}

static void refuse_bytes(struct client *c, const char *why)
{
    way_resp_put_error(&c->out, "ERR %s", why);
    c->leaving = true;
}

/* True: stopped because too much output is waiting. */
static bool run_requests(struct client *c)
{
    struct way_err err = { "" };
    while (!c->leaving && !c->promise && way_buf_held(&c->in)) {
        if (way_buf_held(&c->out) >= OUTPUT_BYTES)
            return true;
        const char *p = c->in.p + c->in.off;
        ssize_t n = way_request_parse(&c->parser, p, way_buf_held(&c->in), ARGS_MAX,
                                      REQUEST_BYTES, &err);
        if (n == 0) {
            if (way_buf_held(&c->in) > REQUEST_BYTES)
                refuse_bytes(c, "Protocol error: too big request for a console");
            return false;
        }
        int bad = n < 0 ? -1 : 0;
        if (n > 0 && c->parser.is_inline && c->parser.count)
            bad = run_inline(c, p, (size_t)n, &err);
        else if (n > 0)
            run_request(c, p);
        if (bad < 0) {
            refuse_bytes(c, err.text);
            return false;
        }
        way_request_parser_reset(&c->parser);
        c->in.off += (size_t)n;
    }
    return false;
}

/* --- bytes --- */

static void write_out(struct client *c)
{
    while (way_buf_held(&c->out)) {
        ssize_t n =
            send(c->fd, c->out.p + c->out.off, way_buf_held(&c->out), MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            close_client(c);
            return;
        }
        c->out.off += (size_t)n;
        ev_timer_stop(c->admin->loop->ev, &c->stall);
    }
    if (way_buf_held(&c->out) == 0) {
        way_buf_reset(&c->out);
        way_buf_trim(&c->out, OUTPUT_BYTES / 16);
    }
}

static void serve(struct client *c)
{
    bool more;
    do {
        c->running = true;
        more = run_requests(c);
        c->running = false;
        write_out(c);
    } while (more && !c->closed && way_buf_held(&c->out) == 0);
    if (c->closed)
        return;
    if (c->leaving && way_buf_held(&c->out) == 0)
        close_client(c);
    else
        watch(c);
}

static void on_client(struct ev_loop *ev, ev_io *w, int events)
{
    (void)ev;
    struct client *c = way_container(w, struct client, io);
    if (events & EV_READ) {
        way_buf_room(&c->in, 4096);
        ssize_t n = recv(c->fd, c->in.p + c->in.len, c->in.cap - c->in.len, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            close_client(c);
            return;
        }
        if (n > 0)
            c->in.len += (size_t)n;
    }
    serve(c);
}

static void add_client(struct way_admin *a, int fd)
{
    struct client *c = way_zalloc(sizeof *c);
    c->admin = a;
    c->fd = fd;
    c->id = ++a->ids;
    c->resp = 2;
    c->next = a->first;
    a->first = c;
    a->clients++;
    ev_io_init(&c->io, on_client, fd, EV_READ);
    ev_timer_init(&c->stall, on_stall, 0., STALLED);
    ev_io_start(a->loop->ev, &c->io);
}

static void on_accept(struct ev_loop *ev, ev_io *w, int events)
{
    (void)ev, (void)events;
    struct way_admin *a = way_container(w, struct way_admin, io);
    int fd = accept4(a->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE ||
            errno == ENFILE) { /* else it would be told at once again */
            ev_io_stop(a->loop->ev, &a->io);
            ev_timer_again(a->loop->ev, &a->again);
        }
        return;
    }
    if (a->clients < CLIENTS_MAX) {
        add_client(a, fd);
        return;
    }
    static const char full[] = "-ERR max number of clients reached\r\n";
    ssize_t n = send(fd, full, sizeof full - 1, MSG_NOSIGNAL);
    (void)n; /* it is closed in any case */
    close(fd);
}

static void on_again(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)events;
    struct way_admin *a = way_container(w, struct way_admin, again);
    ev_timer_stop(ev, &a->again);
    ev_io_start(ev, &a->io);
}

/* --- life --- */

int way_admin_new(struct way_admin **out, struct way_control *control,
                  const char *address, struct way_err *err)
{
    int fd = way_listen(address, 0600, 16, err);
    if (fd < 0)
        return way_fail_in(err, "admin.console");
    struct way_admin *a = way_zalloc(sizeof *a);
    a->control = control;
    a->loop = way_control_loop(control);
    a->address = way_strdup(address);
    a->fd = fd;
    ev_io_init(&a->io, on_accept, fd, EV_READ);
    ev_timer_init(&a->again, on_again, 0., 1.);
    ev_io_start(a->loop->ev, &a->io);
    *out = a;
    return 0;
}

void way_admin_free(struct way_admin *a)
{
    if (!a)
        return;
    while (a->first)
        close_client(a->first);
    ev_io_stop(a->loop->ev, &a->io);
    ev_timer_stop(a->loop->ev, &a->again);
    way_listen_close(a->fd, a->address);
    way_free(a->address);
    way_free(a);
}
