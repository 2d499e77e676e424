/* embed - a program that has wayside inside: once in a while it sends a pipeline and says
 * what became of it, while nodes may die.
 *
 *   cc embed.c $(pkg-config --cflags --libs wayside) -lhiredis -lev
 *   ./embed HOST:PORT [SECONDS]        with the built-in policy
 *   ./embed HOST:PORT SECONDS own      with the verdicts of judge(), below
 */
#include <wayside.h>

#include <ev.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct program {
    struct way_host *host;
    ev_timer tick;
    ev_tstamp until; /* then it sends no more, and waits for what is under way */
    unsigned long sent, answered, failed;
};

/* A policy in C: who can't be reached is out for two seconds, is asked after half of one,
 * and what was not sent goes again when somebody serves its slot. */
static int judge(void *arg, const struct way_host_event *e, struct way_host_verdict *v)
{
    (void)arg;
    if (!strcmp(e->question, "mark") && e->error) {
        v->state = "failing";
        v->seconds = 2;
        v->reason = e->error;
    } else if (!strcmp(e->question, "mark") && !strcmp(e->kind, "probe")) {
        v->state = "healthy";
    } else if (!strcmp(e->question, "backoff") && e->attempt < 5) {
        v->retry = "hold";
        v->within = 4;
    } else if (!strcmp(e->question, "probe") && strcmp(e->state, "healthy")) {
        v->probe_after = 0.5;
    }
    return 1;
}

static void on_event(void *arg, const struct way_host_event *e)
{
    (void)arg;
    if (e->error)
        printf("event node=%s phase=%s step=%s error=%s class=%s question=%s "
               "verdict=\"%s\"\n",
               e->node, e->phase, e->step, e->error, e->class_name, e->question,
               e->verdict);
}

static void on_done(void *arg, const struct way_host_result *r, unsigned count)
{
    struct program *p = arg;
    for (unsigned i = 0; i < count; i++) {
        if (!r[i].error) {
            p->answered++;
            continue;
        }
        p->failed++;
        printf("failed phase=%s step=%s error=%s certainty=%s class=%s node=%s\n",
               r[i].phase, r[i].step, r[i].error, r[i].certainty, r[i].class_name,
               r[i].node ? r[i].node : "none");
    }
}

static void on_tick(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)events;
    struct program *p = w->data;
    char key[32];
    const char *incr[] = { "INCR", key }, *get[] = { "GET", key };
    struct way_host_command pipeline[] = { { 2, incr, NULL }, { 2, get, NULL } };
    struct way_host_error error;
    if (ev_now(loop) > p->until) {
        if (p->answered + p->failed == p->sent)
            ev_break(loop, EVBREAK_ALL);
        return;
    }
    if (!way_host_ready(p->host))
        return;
    snprintf(key, sizeof key, "embed:%lu", p->sent % 1000);
    if (way_host_submit(p->host, pipeline, 2, 5, on_done, p, &error) < 0)
        printf("refused: %s\n", error.text);
    else
        p->sent += 2;
}

static void on_line(void *arg, const char *text)
{
    (void)arg;
    puts(text);
}

int main(int argc, char **argv)
{
    char text[256];
    struct program p = { .host = NULL };
    struct way_host_error error;
    struct ev_loop *loop = EV_DEFAULT;
    if (argc < 2) {
        fprintf(stderr, "usage: %s HOST:PORT [SECONDS [own]]\n", argv[0]);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(text, sizeof text, "return { cluster = { seeds = { \"%s\" } } }", argv[1]);
    struct way_host_setup setup = { .text = text, .event = on_event, .arg = &p };
    if (argc > 3 && !strcmp(argv[3], "own"))
        setup.verdict = judge;
    if (way_host_new(&p.host, loop, &setup, &error) < 0) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    p.until = ev_now(loop) + (argc > 2 ? atof(argv[2]) : 10);
    ev_timer_init(&p.tick, on_tick, 0., 0.005);
    p.tick.data = &p;
    ev_timer_start(loop, &p.tick);
    ev_run(loop, 0);
    way_host_nodes(p.host, on_line, NULL);
    printf("sent=%lu answered=%lu failed=%lu\n", p.sent, p.answered, p.failed);
    way_host_free(p.host);
    ev_loop_destroy(loop);
    return 0;
}
