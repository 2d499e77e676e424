/* call - see call.h.
 *
 * Replies stay where the pipeline joined them, in order; where each ends is looked up once
 * the call is over. Faults are kept beside them, by the command's turn, since an error in
 * words would have to be parsed again by who wants its parts. */
#include "call.h"

#include "forward.h"
#include "slots.h"

static void on_failed(struct way_pipeline *p, const struct way_request *r)
{
    struct way_call *c = p->owner;
    if (r->turn >= c->faults) {
        unsigned more = r->turn + 1 > c->count ? r->turn + 1 : c->count;
        c->fault = way_realloc(c->fault, more * sizeof *c->fault);
        memset(c->fault + c->faults, 0, (more - c->faults) * sizeof *c->fault);
        c->faults = more;
    }
    c->fault[r->turn] = (struct way_fault){ .error = r->last.error,
                                            .phase = r->last.phase,
                                            .step = r->last.step,
                                            .class = r->last.class,
                                            .certainty = r->last.certainty,
                                            .verdict = r->last.verdict,
                                            .node = r->last.node };
}

void way_call_init(struct way_call *c, struct way_inside *w, double seconds)
{
    double most = w->config.timeouts.total;
    *c = (struct way_call){ .inside = w, .arrived = way_loop_refresh(&w->loop) };
    c->total = seconds > 0 && seconds < most ? seconds : most;
    way_pipeline_init(&c->pipeline, &w->pool, c);
    c->pipeline.failed = on_failed;
    way_dispatch_attach(w->dispatch, &c->pipeline);
}

void way_call_fini(struct way_call *c)
{
    way_call_seal(c);
    way_dispatch_detach(c->inside->dispatch, &c->pipeline);
    way_free(c->fault);
    way_free(c->end);
}

/* ---- commands ---- */

static void answer(struct way_call *c, const char *bytes, size_t n)
{
    struct way_request *r = way_pipeline_push(&c->pipeline, c->arrived);
    way_stat_add(c->inside->stats[WAY_INSIDE_WORKER], WAY_STAT_LOCAL, 1);
    (void)way_pipeline_answer(&c->pipeline, r, bytes, n);
}

static void refuse(struct way_call *c, const char *words)
{
    struct way_request *r = way_pipeline_push(&c->pipeline, c->arrived);
    way_stat_add(c->inside->stats[WAY_INSIDE_WORKER], WAY_STAT_REFUSED, 1);
    (void)way_pipeline_error(&c->pipeline, r, "%s", words);
}

static const char *why_not(const struct way_command *command, const char *p,
                           const struct way_arg *arg, unsigned count)
{
    if (command->local == WAY_LOCAL_WATCH)
        return "nothing that a pipeline has read can decide what it writes; a script can "
               "compare and set";
    if (command->how == WAY_HOW_LOCAL)
        return "it is about a connection, and there is none of the caller's own";
    return way_command_refused(command, p, arg, count);
}

/* ---- transactions ---- */

/* MULTI is answered once it is known that EXEC or DISCARD follows. */
static void multi(struct way_call *c)
{
    c->multi = way_pipeline_push(&c->pipeline, c->arrived);
    way_unit_begin(&c->unit);
}

static void end_unit(struct way_call *c)
{
    static const char ok[] = "+OK\r\n";
    (void)way_pipeline_answer(&c->pipeline, c->multi, ok, sizeof ok - 1);
    c->multi = NULL;
    way_unit_fini(&c->unit);
}

static uint16_t any_slot(struct way_inside *w)
{
    w->any_slot = (uint16_t)((w->any_slot + 4099u) % WAY_SLOTS);
    return w->any_slot;
}

static int exec(struct way_call *c, struct way_err *err)
{
    struct way_dispatch *d = c->inside->dispatch;
    struct way_unit *u = &c->unit;
    int result = way_unit_close(u, err);
    if (result == 0 && !u->commands) {
        answer(c, "*0\r\n", 4);
    } else if (result == 0) {
        struct way_own *session = way_own_new(d);
        struct way_request *r = way_pipeline_push(&c->pipeline, c->arrived);
        r->slot = u->has_slot ? u->slot : any_slot(c->inside);
        r->flags = WAY_FLAG_WRITE | (u->has_slot ? 0 : WAY_FLAG_NO_KEY);
        way_dispatch_own(d, session, r, WAY_OWN_UNIT, u->bytes.p, u->bytes.len);
        way_own_unref(session);
    }
    end_unit(c);
    return result;
}

/* Of a pipeline that is in MULTI: false if the command is EXEC. */
static bool unit_takes(struct way_call *c, const struct way_forward *f,
                       const struct way_command *command, const char *p, size_t n,
                       struct way_err *err, int *result)
{
    bool fits = command && way_command_arity(command, f->count, err) == 0;
    if (fits && command->local == WAY_LOCAL_EXEC)
        return false;
    *result = 0;
    if (fits && command->local == WAY_LOCAL_DISCARD) {
        end_unit(c);
        answer(c, "+OK\r\n", 5);
    } else if ((*result = way_unit_queue(&c->unit, f, &c->inside->config.limits, command,
                                         p, n, err)) == 0) {
        answer(c, "+QUEUED\r\n", 9);
    }
    return true;
}

/* What needs no node. -1: err has the words of an error reply. */
static int serve_local(struct way_call *c, const struct way_forward *f,
                       const struct way_command *command, const char *p,
                       struct way_err *err)
{
    struct way_buf b = { 0 };
    switch (command->local) {
    case WAY_LOCAL_MULTI: multi(c); return 0;
    case WAY_LOCAL_EXEC:
        return c->multi ? exec(c, err) : way_fail(err, "ERR EXEC without MULTI");
    case WAY_LOCAL_DISCARD: return way_fail(err, "ERR DISCARD without MULTI");
    case WAY_LOCAL_UNWATCH: answer(c, "+OK\r\n", 5); return 0;
    case WAY_LOCAL_PING:
    case WAY_LOCAL_ECHO:
        way_command_echo(command, p, f->arg, f->count, &b);
        answer(c, b.p, b.len);
        way_buf_fini(&b);
        return 0;
    default:
        return way_fail(err, "ERR wayside does not serve '%s' here: %s", command->name,
                        why_not(command, p, f->arg, f->count));
    }
}

/* -1: err has the words of an error reply. */
static int serve(struct way_call *c, const char *p, size_t n, struct way_err *err)
{
    struct way_inside *w = c->inside;
    const struct way_arg *arg = w->parser.arg;
    unsigned count = w->parser.count;
    const struct way_command *command = way_command_find(p + arg[0].off, arg[0].n);
    struct way_forward f = { .dispatch = w->dispatch,
                             .pipeline = &c->pipeline,
                             .stats = w->stats[WAY_INSIDE_WORKER],
                             .arg = arg,
                             .count = count,
                             .any_slot = w->any_slot,
                             .now = c->arrived };
    int result;
    if (c->multi && unit_takes(c, &f, command, p, n, err, &result))
        return result;
    if (!command)
        return way_command_unknown(p, arg, count, err);
    if (way_command_arity(command, count, err) < 0)
        return -1;
    if (command->how == WAY_HOW_LOCAL)
        return serve_local(c, &f, command, p, err);
    if (command->how == WAY_HOW_FORWARD && command->keyspec == WAY_KEYS_RANGE &&
        command->first == command->last && !command->by_args) {
        const struct way_arg *key = &arg[command->first];
        way_forward_to(&f, command, way_slot_of(p + key->off, key->n), 0, p, n);
        return 0;
    }
    const char *why = why_not(command, p, arg, count);
    if (why)
        return way_fail(err, "ERR wayside does not serve '%s' here: %s", command->name,
                        why);
    f.any_slot = any_slot(w);
    return way_forward(&f, command, p, n, err);
}

void way_call_add(struct way_call *c, const char *p, size_t n)
{
    struct way_inside *w = c->inside;
    const struct way_limits *l = &w->config.limits;
    struct way_err err = { .text = "" };
    way_request_parser_reset(&w->parser);
    way_stat_add(w->stats[WAY_INSIDE_WORKER], WAY_STAT_REQUESTS, 1);
    c->count++;
    ssize_t len = -1;
    if ((double)n > l->request_bytes || n > UINT32_MAX)
        (void)way_fail(&err, "ERR Protocol error: invalid bulk length");
    else if ((len = way_request_parse(&w->parser, p, n, (size_t)l->request_args, n,
                                      &err)) < 0)
        (void)way_fail(&err, "ERR Protocol error: not a command");
    if (len >= 0 && ((size_t)len != n || !w->parser.count || w->parser.is_inline))
        len = way_fail(&err, "ERR Protocol error: expected one command");
    if (len < 0 || serve(c, p, n, &err) < 0)
        refuse(c, err.text);
}

void way_call_seal(struct way_call *c)
{
    if (!c->multi)
        return;
    way_stat_add(c->inside->stats[WAY_INSIDE_WORKER], WAY_STAT_REFUSED, 1);
    (void)way_pipeline_error(&c->pipeline, c->multi,
                             "ERR MULTI without EXEC: nothing was executed");
    c->multi = NULL;
    way_unit_fini(&c->unit);
}

bool way_call_expire(struct way_call *c)
{
    struct way_pipeline *p = &c->pipeline;
    if (!p->head || c->arrived + c->total > c->inside->loop.now)
        return false;
    way_dispatch_overdue(c->inside->dispatch);
    while (p->head) /* each turn takes it off, and with it what was answered behind it */
        way_dispatch_expire(c->inside->dispatch, p->head);
    return true;
}

/* ---- replies ---- */

static void find_ends(struct way_call *c)
{
    struct way_buf *out = &c->pipeline.out;
    size_t at = out->off;
    c->end = way_realloc(c->end, c->count * sizeof *c->end);
    for (; c->ends < c->count; c->ends++) {
        at += way_reply_length(out->p + at, out->len - at);
        c->end[c->ends] = at;
    }
}

struct way_span way_call_reply(struct way_call *c, unsigned i)
{
    struct way_buf *out = &c->pipeline.out;
    if (i >= c->count || !way_call_is_over(c))
        return (struct way_span){ NULL, 0 };
    if (c->count == 1)
        return (struct way_span){ out->p + out->off, way_buf_held(out) };
    if (c->ends < c->count)
        find_ends(c);
    size_t from = i ? c->end[i - 1] : out->off;
    return (struct way_span){ out->p + from, c->end[i] - from };
}

enum way_certainty way_call_certainty(const struct way_call *c, unsigned i)
{
    const struct way_fault *f = way_call_fault(c, i);
    for (const struct way_request *r = c->pipeline.head; r && !f; r = r->next)
        if (r->turn == i && r->state != WAY_REQUEST_ANSWERED)
            return way_dispatch_certainty(r);
    return f ? (enum way_certainty)f->certainty : WAY_CERTAINTY_ANSWERED;
}

const struct way_fault *way_call_fault(const struct way_call *c, unsigned i)
{
    return i < c->faults && c->fault[i].error ? &c->fault[i] : NULL;
}
