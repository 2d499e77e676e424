/* why - see why.h. */
#include "why.h"

#include <stdio.h>

static const double BEFORE = 60; /* seconds of faults told before the change of state */

struct chain {
    const struct way_entry *entry[WAY_HISTORY_ENTRIES]; /* newest first */
    unsigned count;
};

struct words {
    char *p;
    size_t at, n;
};

static void say(struct words *w, const char *fmt, ...) WAY_PRINTF(2, 3);
static void say(struct words *w, const char *fmt, ...)
{
    if (w->at >= w->n)
        return;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(w->p + w->at, w->n - w->at, fmt, ap);
    va_end(ap);
    w->at += n > 0 ? (size_t)n : 0;
}

/* --- which entries --- */

static bool leaves_healthy(const struct way_entry *e)
{
    return way_entry_marks(e) && e->outcome.changed &&
           e->outcome.from == WAY_STATE_HEALTHY;
}

static bool blames(const struct way_entry *e)
{
    return e->event.error != WAY_ERROR_NONE && e->event.blame == WAY_BLAME_NODE;
}

/* Without a change from healthy there is no story, only faults. */
static void keep_faults(struct chain *chain)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < chain->count; i++)
        if (chain->entry[i]->event.error != WAY_ERROR_NONE)
            chain->entry[kept++] = chain->entry[i];
    chain->count = kept;
}

static void collect(const struct way_history *h, unsigned node, struct chain *chain)
{
    const struct way_entry *e, *first = NULL;
    chain->count = 0;
    for (unsigned i = 0; (e = way_history_at(h, node, i)); i++) {
        bool changed = way_entry_marks(e) && e->outcome.changed;
        if (e->function == WAY_FN_PROBE || e->function == WAY_FN_RECONNECT)
            continue; /* leads to no state */
        if (first && (changed || first->event.now - e->event.now > BEFORE))
            return; /* an older story */
        if (first && !blames(e))
            continue;
        chain->entry[chain->count++] = e;
        if (!first && leaves_healthy(e))
            first = e;
    }
    if (!first)
        keep_faults(chain);
}

/* --- one entry in words --- */

static void say_fault(const struct way_event *v, struct words *w)
{
    say(w, "%s, %s: %s", way_phase_name(v->phase), way_step_name(v->step),
        way_error_name(v->error));
    if (v->message[0])
        say(w, " (%s)", v->message);
}

static void say_connection(const struct way_event *v, struct words *w)
{
    if (v->error == WAY_ERROR_NONE) {
        say(w, "a connection was made");
        return;
    }
    say(w, v->phase == WAY_PHASE_CONNECT ? "a connection could not be made: "
                                         : "a connection broke: ");
    say_fault(v, w);
    say(w, "; %u command%s", v->n, v->n == 1 ? "" : "s");
    if (v->has_certainty)
        say(w, ", %s", way_certainty_name(v->certainty));
}

static void say_event(const struct way_event *v, struct words *w)
{
    bool failed = v->error != WAY_ERROR_NONE;
    switch (v->kind) {
    case WAY_KIND_CONNECTION: say_connection(v, w); return;
    case WAY_KIND_RESULT:
        say(w, failed ? "a command failed: " : "a command succeeded");
        break;
    case WAY_KIND_PROBE: say(w, failed ? "a probe failed: " : "a probe succeeded"); break;
    case WAY_KIND_EDGE: say(w, "the counter %s reached its edge", v->counter); break;
    case WAY_KIND_EXPIRY: say(w, "the mark's time was over"); break;
    case WAY_KIND_TICK: say(w, "a sweep over all nodes"); break;
    case WAY_KIND_CHANGE:
        say(w, "the topology changed: %s", way_change_name(v->change));
        break;
    case WAY_KIND_COMMANDS:
        say(w, "%u of its commands (%s) failed: ", v->n, way_commands_name(v->commands));
        break;
    default: break;
    }
    if (failed)
        say_fault(v, w);
}

/* The function and line that decided, of which policy; or why it did not. */
static void say_who(const struct way_entry *e, const char *verdict, struct words *w)
{
    struct way_input in;
    say(w, "; %s", way_function_name(e->function));
    if (e->fallback && e->cause == WAY_CAUSE_ASIDE)
        say(w, " (the fallback, for the policy is set aside)");
    else if (e->fallback && e->cause != WAY_CAUSE_ABSENT)
        say(w, " (the fallback, for the policy failed: %s)", way_cause_name(e->cause));
    else if (!e->fallback && e->cause != WAY_CAUSE_NONE) /* a sweep: nobody stands in */
        say(w, " (the policy failed: %s)", way_cause_name(e->cause));
    else if (!e->fallback && way_input_unpack(e, &in) && in.policy[0])
        say(w, " (%s, %s%s%s)", e->where, in.policy, in.version[0] ? " " : "",
            in.version);
    else
        say(w, " (%s)", e->where);
    say(w, " said %s", verdict);
}

static void say_answer(const struct way_entry *e, struct words *w)
{
    char verdict[256];
    if (e->function == WAY_FN_NONE) {
        if (e->straggler)
            say(w, "; known already, mark was not asked");
        else
            say(w, "; nobody was asked (class %s)", e->class_name);
        return;
    }
    way_entry_verdict(e, verdict, sizeof verdict);
    if (!strcmp(e->where, "host"))
        say(w, "; the host said %s", verdict);
    else
        say_who(e, verdict, w);
    if (way_entry_marks(e) && !e->outcome.changed &&
        e->outcome.refused == WAY_REFUSED_NOT)
        return;
    if (e->did[0])
        say(w, "; %s", e->did);
}

static bool alike(const struct way_entry *a, const struct way_entry *b)
{
    return a->event.kind == b->event.kind && a->event.phase == b->event.phase &&
           a->event.step == b->event.step && a->event.error == b->event.error &&
           a->function == b->function && a->outcome.changed == b->outcome.changed &&
           a->mark.has == b->mark.has && a->mark.state == b->mark.state &&
           a->straggler == b->straggler && a->event.commands == b->event.commands &&
           a->retry.kind == b->retry.kind && a->by_operator == b->by_operator &&
           a->outcome.refused == b->outcome.refused;
}

static void say_entry(const struct way_entry *e, unsigned times, double now,
                      struct words *w)
{
    char verdict[256];
    say(w, "%.3f s ago, ", now - e->event.now);
    if (e->thread == WAY_NONE)
        say(w, "control thread: ");
    else
        say(w, "worker %u: ", e->thread);
    if (e->by_operator) {
        way_entry_verdict(e, verdict, sizeof verdict);
        say(w, "an operator said %s; %s", verdict, e->did);
    } else {
        say_event(&e->event, w);
        say_answer(e, w);
    }
    if (times > 1)
        say(w, "; and %u more like it", times - 1);
}

/* --- the whole --- */

static void tell_state(const struct way_view *v, double now,
                       void (*line)(void *arg, const char *text), void *arg)
{
    char text[WAY_WHY_LINE];
    struct words w = { text, 0, sizeof text };
    const struct way_verdict *d = &v->verdict;
    say(&w, "%s (%s) is %s", v->address, way_role_name(v->role),
        way_state_name(d->state));
    if (d->since > 0)
        say(&w, " since %.3f s", now - d->since);
    if (d->ends > 0)
        say(&w, ", for %.3f s more", d->ends > now ? d->ends - now : 0);
    if (way_verdict_by_operator(d, now))
        say(&w, d->ends > 0 ? ", by an operator" : ", by an operator, until taken back");
    else if (d->reason[0])
        say(&w, ", reason: %s", d->reason);
    line(arg, text);
}

void way_why(const struct way_history *h, const struct way_view *node, double now,
             void (*line)(void *arg, const char *text), void *arg)
{
    struct chain *chain = way_alloc(sizeof *chain);
    char text[WAY_WHY_LINE];
    unsigned told = 0, left_out = 0;
    tell_state(node, now, line, arg);
    collect(h, node->node, chain);
    for (unsigned i = chain->count; i > 0;) {
        const struct way_entry *e = chain->entry[--i];
        unsigned times = 1;
        while (i > 0 && alike(e, chain->entry[i - 1])) {
            times++;
            i--;
        }
        if (told >= WAY_WHY_LINES / 2 && i >= WAY_WHY_LINES / 2) {
            left_out += times;
            continue;
        }
        struct words w = { text, 0, sizeof text };
        if (left_out)
            say(&w, "(%u entries left out) ", left_out);
        left_out = 0;
        say_entry(e, times, now, &w);
        line(arg, text);
        told++;
    }
    if (chain->count == 0)
        line(arg, "nothing is recorded against it");
    way_free(chain);
}
