/* embed_uv - wayside beside libuv: its descriptor is polled, and a timer keeps its time.
 *
 *   cc embed_uv.c $(pkg-config --cflags --libs wayside libuv) -lhiredis
 *   ./embed_uv HOST:PORT [SECONDS]
 *
 * The adapter is `struct beside` and the four functions under it; another event loop needs
 * the same of its own kind. */
#include <wayside.h>

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

/* ---- the adapter ---- */

struct beside {
    struct way_host *host;
    uv_poll_t poll;
    uv_timer_t timer;
};

static void on_time(uv_timer_t *timer);

static void run(struct beside *b)
{
    way_host_run(b->host);
    uv_timer_start(&b->timer, on_time, (uint64_t)(way_host_timeout(b->host) * 1000), 0);
}

static void on_time(uv_timer_t *timer)
{
    run(timer->data);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    run(poll->data);
}

static int attach(struct beside *b, uv_loop_t *loop)
{
    int fd = way_host_fd(b->host);
    if (fd < 0 || uv_poll_init(loop, &b->poll, fd) < 0)
        return -1;
    uv_timer_init(loop, &b->timer);
    b->poll.data = b->timer.data = b;
    uv_poll_start(&b->poll, UV_READABLE, on_poll);
    run(b);
    return 0;
}

/* ---- the program ---- */

struct program {
    struct beside beside;
    uv_timer_t tick, end;
    unsigned long sent, answered, failed;
    int ending; /* sends no more, and waits for what is under way */
};

static void end_if_done(struct program *p)
{
    if (p->ending && p->answered + p->failed == p->sent)
        uv_stop(p->tick.loop);
}

static void on_done(void *arg, const struct way_host_result *r, unsigned count)
{
    struct program *p = arg;
    for (unsigned i = 0; i < count; i++) {
        if (r[i].error)
            printf("failed %s\n", r[i].text);
        if (r[i].error)
            p->failed++;
        else
            p->answered++;
    }
    end_if_done(p);
}

static void on_tick(uv_timer_t *timer)
{
    struct program *p = timer->data;
    char key[32];
    const char *words[] = { "INCR", key };
    struct way_host_command command = { 2, words, NULL };
    struct way_host_error error;
    if (!way_host_ready(p->beside.host))
        return;
    snprintf(key, sizeof key, "embed:%lu", p->sent % 1000);
    if (way_host_submit(p->beside.host, &command, 1, 5, on_done, p, &error) < 0)
        printf("refused: %s\n", error.text);
    else
        p->sent++;
    run(&p->beside);
}

static void on_end(uv_timer_t *timer)
{
    struct program *p = timer->data;
    p->ending = 1;
    uv_timer_stop(&p->tick);
    end_if_done(p);
}

static void close_it(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

int main(int argc, char **argv)
{
    char text[256];
    struct program p = { .sent = 0 };
    struct way_host_error error;
    uv_loop_t *loop = uv_default_loop();
    if (argc < 2) {
        fprintf(stderr, "usage: %s HOST:PORT [SECONDS]\n", argv[0]);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(text, sizeof text, "return { cluster = { seeds = { \"%s\" } } }", argv[1]);
    struct way_host_setup setup = { .text = text };
    if (way_host_new(&p.beside.host, NULL, &setup, &error) < 0 ||
        attach(&p.beside, loop) < 0) {
        fprintf(stderr, "%s\n", p.beside.host ? "no descriptor" : error.text);
        return 1;
    }
    uv_timer_init(loop, &p.tick);
    uv_timer_init(loop, &p.end);
    p.tick.data = p.end.data = &p;
    uv_timer_start(&p.tick, on_tick, 0, 5);
    uv_timer_start(&p.end, on_end, (uint64_t)((argc > 2 ? atof(argv[2]) : 10) * 1000), 0);
    uv_run(loop, UV_RUN_DEFAULT);
    printf("sent=%lu answered=%lu failed=%lu\n", p.sent, p.answered, p.failed);
    uv_walk(loop, close_it, NULL);
    uv_run(loop, UV_RUN_DEFAULT);
    uv_loop_close(loop);
    way_host_free(p.beside.host);
    return 0;
}
