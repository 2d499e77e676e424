/* wayside - see wayside.h.
 *
 * A thin skin: `inside` is the host, `call` a pipeline. Here is what they know in enums
 * told in words, and a reply decoded by hiredis once its call is over.
 *
 * A foreign loop watches libev's own epoll descriptor. libev names it only to its embed
 * watchers, so one is started, looked at and stopped. libev does not tell when its next
 * timer is due: so the time-out is the resolution that deadlines have then. */
#include "wayside.h"

#include "call.h"
#include "inside.h"
#include "log.h"
#include "why.h"

#include <hiredis/hiredis.h>
#include <stdio.h>

/* A foreign loop's time-out while something is under way, and while nothing is. */
#define BUSY_SECONDS 0.01
#define IDLE_SECONDS 0.05

struct host_call {
    struct way_call call;
    struct way_host *host;
    struct host_call *next, **prev;
    long long number;
    way_host_done_fn *done;
    void *arg;
    ev_timer deadline;
    struct way_task finish;
};

struct way_host {
    struct way_config config;
    char *file, *policy;         /* as set up, to be read again; NULL: none */
    struct way_host_setup setup; /* only its functions and their arg */
    struct way_inside inside;
    struct host_call *calls;
    long long submitted; /* so many were */
    bool judging;        /* a verdict function runs: commands are on their way through */
};

static int fail(struct way_host_error *error, const struct way_err *err)
{
    if (error)
        snprintf(error->text, sizeof error->text, "%s", err->text);
    return -1;
}

/* ---- events and verdicts ---- */

static void tell_event(const struct way_event *e, struct way_host_event *out)
{
    *out = (struct way_host_event){
        .kind = way_kind_name(e->kind),
        .phase = way_phase_name(e->phase),
        .step = way_step_name(e->step),
        .error = e->error ? way_error_name(e->error) : NULL,
        .message = e->message,
        .commands = e->kind == WAY_KIND_COMMANDS ? way_commands_name(e->commands) : NULL,
        .certainty = e->has_certainty ? way_certainty_name(e->certainty) : NULL,
        .count = e->n,
        .attempt = e->attempt,
        .reused = e->reused,
        .trial = e->trial,
        .now = e->now,
        .began = e->began,
        .latency = e->latency,
        .deadline_left = e->deadline_left,
    };
}

static void on_told(void *arg, const struct way_entry *entry)
{
    struct way_host *h = arg;
    struct way_host_event e;
    char verdict[160];
    tell_event(&entry->event, &e);
    way_entry_verdict(entry, verdict, sizeof verdict);
    e.class_name = entry->class_name;
    e.node = entry->address;
    if (entry->node < WAY_NODES_MAX) {
        struct way_snapshot s; /* as of now: the entry was told a moment later */
        way_health_snapshot(h->inside.health, entry->node, h->inside.loop.now, &s);
        e.role = way_role_name(s.view.role);
        e.state = way_state_name(s.view.verdict.state);
        e.failures = s.view.failures;
    }
    e.question = way_function_name(entry->function);
    e.verdict = verdict;
    e.done = entry->did;
    h->setup.event(h->setup.arg, &e);
}

static void put_mark(const struct way_host_verdict *v, struct way_mark *m)
{
    int state = v->state ? way_word(way_state_name, WAY_STATE_COUNT, v->state) : -1;
    if (state < 0)
        return;
    m->given = true;
    m->has = WAY_MARK_STATE | (v->seconds > 0 ? WAY_MARK_SECONDS : 0) |
             (v->trials ? WAY_MARK_TRIALS : 0) | (v->reason ? WAY_MARK_REASON : 0);
    m->state = (enum way_state)state;
    m->seconds = v->seconds;
    m->trials = v->trials;
    snprintf(m->reason, sizeof m->reason, "%s", v->reason ? v->reason : "");
}

static void put_retry(const struct way_host_verdict *v, struct way_retry *r)
{
    int kind = v->retry ? way_word(way_retry_name, WAY_RETRY_COUNT, v->retry) : -1;
    r->kind = kind < 0 ? WAY_RETRY_NONE : (enum way_retry_kind)kind;
    r->after = v->after > 0 ? v->after : 0;
    r->within = v->within > 0 ? v->within : -1;
    r->stale_reads = v->stale_reads;
    r->unknown_writes = v->unknown_writes;
}

static enum way_asked on_judge(void *arg, enum way_asked_function fn,
                               const struct way_view *node, const struct way_event *e,
                               union way_answer *out)
{
    struct way_host *h = arg;
    struct way_host_event told;
    struct way_host_verdict v = { .state = NULL };
    tell_event(e, &told);
    told.class_name = way_class_name(e->class);
    told.node = node->address;
    told.role = way_role_name(node->role);
    told.state = way_state_name(node->verdict.state);
    told.failures = node->failures;
    told.question = way_function_name(fn);
    if (fn == WAY_FN_RECONNECT)
        return WAY_ASKED_ABSENT;
    h->judging = true;
    bool answered = h->setup.verdict(h->setup.arg, &told, &v);
    h->judging = false;
    if (!answered)
        return WAY_ASKED_ABSENT;
    if (fn == WAY_FN_MARK)
        put_mark(&v, &out->mark);
    else if (fn == WAY_FN_BACKOFF)
        put_retry(&v, &out->retry);
    else if (v.probe_after > 0)
        out->probe = (struct way_probe){ .given = true,
                                         .after = v.probe_after,
                                         .timeout = v.probe_timeout };
    return WAY_ASKED_ANSWERED;
}

/* ---- calls ---- */

static void unlink_call(struct host_call *c)
{
    *c->prev = c->next;
    if (c->next)
        c->next->prev = c->prev;
    ev_timer_stop(c->host->inside.loop.ev, &c->deadline);
    way_loop_forget(&c->host->inside.loop, &c->finish);
}

static void end_call(struct host_call *c)
{
    unlink_call(c);
    way_call_fini(&c->call);
    way_free(c);
}

static void *decode(const struct way_span *bytes)
{
    redisReader *reader = redisReaderCreate();
    void *reply = NULL;
    if (redisReaderFeed(reader, bytes->p, bytes->n) != REDIS_OK ||
        redisReaderGetReply(reader, &reply) != REDIS_OK)
        reply = NULL;
    redisReaderFree(reader);
    return reply;
}

/* The first line of an error reply, without its dash. */
static char *words_of(const struct way_span *reply)
{
    bool is_error = reply->n > 3 && reply->p[0] == '-';
    return is_error ? way_strndup(reply->p + 1, reply->n - 3) : NULL;
}

static void fill_result(struct way_host *h, struct way_call *call, unsigned i,
                        struct way_host_result *out)
{
    struct way_span reply = way_call_reply(call, i);
    const struct way_fault *f = way_call_fault(call, i);
    bool answered = !f || f->certainty == WAY_CERTAINTY_ANSWERED;
    *out = (struct way_host_result){ .text = words_of(&reply) };
    if (answered)
        out->reply = decode(&reply);
    if (answered && !out->reply) {
        out->error = way_error_name(WAY_ERROR_PROTOCOL);
        out->phase = way_phase_name(WAY_PHASE_READ);
        out->step = way_step_name(WAY_STEP_REPLY);
        out->certainty = way_certainty_name(WAY_CERTAINTY_ANSWERED);
        out->class_name = way_class_name(WAY_CLASS_ANSWER);
        out->text = way_strdup("hiredis can't decode this reply");
    }
    if (!f)
        return;
    out->error = way_error_name(f->error);
    out->phase = way_phase_name(f->phase);
    out->step = way_step_name(f->step);
    out->certainty = way_certainty_name(f->certainty);
    out->class_name = way_decider_class_name(h->inside.decider, f->class);
    out->verdict = way_retry_name(f->verdict);
    if (f->node < WAY_NODES_MAX) {
        struct way_snapshot s;
        way_health_snapshot(h->inside.health, f->node, h->inside.loop.now, &s);
        out->node = way_strdup(s.view.address);
    }
}

static void run_finish(struct way_task *t)
{
    struct host_call *c = way_container(t, struct host_call, finish);
    struct way_host *h = c->host;
    unsigned n = c->call.count;
    way_host_done_fn *done = c->done;
    void *arg = c->arg;
    struct way_host_result *results = way_alloc(n * sizeof *results);
    for (unsigned i = 0; i < n; i++)
        fill_result(h, &c->call, i, &results[i]);
    end_call(c);
    done(arg, results, n);
    for (unsigned i = 0; i < n; i++) {
        if (results[i].reply)
            freeReplyObject((void *)results[i].reply);
        way_free((char *)results[i].text);
        way_free((char *)results[i].node);
    }
    way_free(results);
}

static void finish_if_over(struct host_call *c)
{
    if (way_call_is_over(&c->call))
        way_loop_later(&c->host->inside.loop, &c->finish);
}

static void on_grew(struct way_pipeline *p)
{
    struct host_call *c = way_container(p->owner, struct host_call, call);
    if (c->done) /* else it is still being filled */
        finish_if_over(c);
}

static void on_deadline(struct ev_loop *ev, ev_timer *w, int events)
{
    (void)ev, (void)events;
    struct host_call *c = way_container(w, struct host_call, deadline);
    c->call.inside->loop.now = way_clock();
    c->call.total = 0;
    way_call_expire(&c->call);
    finish_if_over(c);
}

static int check_commands(struct way_host *h, const struct way_host_command *commands,
                          unsigned count, struct way_err *err)
{
    const struct way_limits *l = &h->config.limits;
    if (!count || count > l->client_inflight)
        return way_fail(err,
                        "expected 1 to %.0f commands (limits.client_inflight), got %u",
                        l->client_inflight, count);
    for (unsigned i = 0; i < count; i++)
        if (commands[i].argc < 1 || commands[i].argc > l->request_args)
            return way_fail(err,
                            "command %u: expected 1 to %.0f words "
                            "(limits.request_args), got %d",
                            i + 1, l->request_args, commands[i].argc);
    return 0;
}

static void put_command(const struct way_host_command *c, struct way_buf *b)
{
    way_resp_put_array(b, (size_t)c->argc);
    for (int i = 0; i < c->argc; i++)
        way_resp_put_bulk(b, c->argv[i], c->lengths ? c->lengths[i] : strlen(c->argv[i]));
}

long long way_host_submit(struct way_host *h, const struct way_host_command *commands,
                          unsigned count, double seconds, way_host_done_fn *done,
                          void *arg, struct way_host_error *error)
{
    struct way_err err;
    if (check_commands(h, commands, count, &err) < 0)
        return fail(error, &err);
    struct host_call *c = way_zalloc(sizeof *c);
    struct way_buf b = { 0 };
    c->host = h;
    c->number = ++h->submitted;
    c->arg = arg;
    c->finish.run = run_finish;
    c->next = h->calls;
    c->prev = &h->calls;
    if (h->calls)
        h->calls->prev = &c->next;
    h->calls = c;
    way_call_init(&c->call, &h->inside, seconds);
    ev_timer_init(&c->deadline, on_deadline, c->call.total, 0.);
    ev_timer_start(h->inside.loop.ev, &c->deadline);
    for (unsigned i = 0; i < count; i++) {
        way_buf_reset(&b);
        put_command(&commands[i], &b);
        way_call_add(&c->call, b.p, b.len);
    }
    way_buf_fini(&b);
    way_call_seal(&c->call);
    c->done = done;
    finish_if_over(c);
    return c->number;
}

int way_host_cancel(struct way_host *h, long long pipeline, const char **certainty)
{
    struct host_call *c = h->calls;
    while (c && c->number != pipeline)
        c = c->next;
    if (!c || h->judging)
        return -1;
    for (unsigned i = 0; certainty && i < c->call.count; i++)
        certainty[i] = way_certainty_name(way_call_certainty(&c->call, i));
    end_call(c);
    return 0;
}

/* ---- reload ---- */

static int check_config(struct way_config *c, const char *policy, struct way_err *err)
{
    if (way_config_check_inside(c, err) < 0)
        return -1;
    return policy ? way_config_flag(c, "policy", policy, err) : 0;
}

static int on_reread(void *arg, struct way_config *c, struct way_err *err)
{
    struct way_host *h = arg;
    if (way_config_load(c, h->file, err) < 0)
        return -1;
    return check_config(c, h->policy, err);
}

struct reloading {
    void (*done)(void *arg, const char *refused, const char *name, const char *version);
    void *arg;
};

static void on_reloaded(void *arg, const struct way_reload_report *r)
{
    struct reloading *g = arg;
    if (g->done)
        g->done(g->arg, r->refused, r->name, r->version);
    way_free(g);
}

int way_host_reload(struct way_host *h, const char *policy,
                    void (*done)(void *arg, const char *refused, const char *name,
                                 const char *version),
                    void *arg, struct way_host_error *error)
{
    struct way_err err;
    struct reloading *g = way_alloc(sizeof *g);
    struct way_reload_wish wish = { .policy = policy, .done = on_reloaded, .arg = g };
    int result;
    *g = (struct reloading){ done, arg };
    way_loop_refresh(&h->inside.loop);
    if (h->setup.verdict)
        result = way_fail(&err, "verdicts are the host's own: there is no policy");
    else
        result = way_reload_begin(h->inside.reload, &wish, "host", &err);
    if (result == 0)
        return 0;
    way_free(g);
    return fail(error, &err);
}

/* ---- what is known ---- */

struct teller {
    void (*line)(void *arg, const char *text);
    void *arg;
};

static bool is_member(struct way_host *h, unsigned node)
{
    uint32_t word = atomic_load_explicit(&way_health_node(h->inside.health, node)->route,
                                         memory_order_acquire);
    return !(word & WAY_ROUTE_GONE);
}

int way_host_why(struct way_host *h, const char *node,
                 void (*line)(void *arg, const char *text), void *arg)
{
    double now = way_loop_refresh(&h->inside.loop);
    unsigned n = way_health_nodes(h->inside.health);
    for (unsigned i = 0; i < n && i < WAY_NODES_MAX; i++) {
        struct way_snapshot s;
        if (!is_member(h, i))
            continue;
        way_health_snapshot(h->inside.health, i, now, &s);
        if (strcmp(s.view.address, node))
            continue;
        way_why(way_control_history(h->inside.control), &s.view, now, line, arg);
        return 0;
    }
    return -1;
}

void way_host_nodes(struct way_host *h, void (*line)(void *arg, const char *text),
                    void *arg)
{
    unsigned n = way_health_nodes(h->inside.health);
    for (unsigned i = 0; i < n && i < WAY_NODES_MAX; i++) {
        struct way_snapshot s;
        char text[512];
        if (!is_member(h, i))
            continue;
        way_health_snapshot(h->inside.health, i, h->inside.loop.now, &s);
        snprintf(text, sizeof text, "node=%s role=%s state=%s reason=%s", s.view.address,
                 way_role_name(s.view.role), way_state_name(s.view.verdict.state),
                 s.view.verdict.reason[0] ? s.view.verdict.reason : "none");
        line(arg, text);
    }
}

int way_host_ready(struct way_host *h)
{
    return way_health_coverage(h->inside.health) >= 1;
}

/* ---- another event loop ---- */

static void on_embed(struct ev_loop *ev, ev_embed *w, int events)
{
    (void)ev, (void)w, (void)events;
}

int way_host_fd(struct way_host *h)
{
    struct ev_embed embed;
    if (!(ev_backend(h->inside.loop.ev) & ev_embeddable_backends()))
        return -1; /* LIBEV_FLAGS asked for one without a descriptor */
    struct ev_loop *outer = ev_loop_new(EVFLAG_NOENV | EVFLAG_NOSIGMASK);
    if (!outer)
        return -1;
    ev_embed_init(&embed, on_embed, h->inside.loop.ev);
    ev_embed_start(outer, &embed);
    int fd = embed.io.fd;
    ev_embed_stop(outer, &embed);
    ev_loop_destroy(outer);
    return fd;
}

void way_host_run(struct way_host *h)
{
    ev_run(h->inside.loop.ev, EVRUN_NOWAIT);
}

double way_host_timeout(struct way_host *h)
{
    return h->calls ? BUSY_SECONDS : IDLE_SECONDS;
}

/* ---- life ---- */

static int configure(struct way_host *h, const struct way_host_setup *setup,
                     struct way_err *err)
{
    way_config_init(&h->config);
    if (!setup->file == !setup->text)
        return way_fail(err, "expected a configuration's file or its text, got %s",
                        setup->file ? "both" : "neither");
    int result = setup->file
                     ? way_config_load(&h->config, setup->file, err)
                     : way_config_load_text(&h->config, "configuration", setup->text,
                                            strlen(setup->text), err);
    if (setup->policy && setup->verdict)
        return way_fail(err, "expected a policy or a verdict function, got both");
    h->file = setup->file ? way_strdup(setup->file) : NULL;
    h->policy = setup->policy ? way_strdup(setup->policy) : NULL;
    return result < 0 ? -1 : check_config(&h->config, h->policy, err);
}

static void free_host(struct way_host *h)
{
    way_config_fini(&h->config);
    way_free(h->file);
    way_free(h->policy);
    way_free(h);
}

int way_host_new(struct way_host **out, struct ev_loop *loop,
                 const struct way_host_setup *setup, struct way_host_error *error)
{
    struct way_host *h = way_zalloc(sizeof *h);
    struct way_err err;
    h->setup = (struct way_host_setup){ .verdict = setup->verdict,
                                        .event = setup->event,
                                        .arg = setup->arg };
    struct way_inside_options o = { .config = &h->config,
                                    .judge = setup->verdict ? on_judge : NULL,
                                    .judge_arg = h,
                                    .told = setup->event ? on_told : NULL,
                                    .told_arg = h,
                                    .grew = on_grew,
                                    .reread = setup->file ? on_reread : NULL,
                                    .reread_arg = h };
    if (configure(h, setup, &err) < 0)
        goto no_config;
    if (h->config.log_level)
        way_log_level((enum way_level)way_log_level_named(h->config.log_level));
    if (way_inside_open(&h->inside, &o, &err) < 0)
        goto no_config;
    if (way_inside_start(&h->inside, loop, &err) < 0)
        goto no_start;
    *out = h;
    return 0;
no_start:
    way_inside_close(&h->inside);
no_config:
    free_host(h);
    return fail(error, &err);
}

void way_host_free(struct way_host *h)
{
    if (!h)
        return;
    while (h->calls)
        end_call(h->calls);
    way_inside_close(&h->inside);
    free_host(h);
}
