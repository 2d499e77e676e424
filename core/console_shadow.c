/* console_shadow - see console_shadow.h. */
#include "console_shadow.h"

#include "candidate.h"
#include "resp.h"

#include <stdio.h>

static struct way_shadow *candidate_of(struct way_control *c)
{
    struct way_shadows *all = way_control_shadows(c);
    return all ? way_shadows_get(all, WAY_SHADOW_CANDIDATE) : NULL;
}

/* --- beginning and ending --- */

struct begun { /* who waits for a load */
    struct way_control *control;
    struct way_later *later;
};

static void tell_candidate(struct way_shadow *s, struct way_tell *t,
                           struct way_tell_open *m)
{
    struct way_shadow_about about;
    way_shadow_about(s, &about);
    way_tell_field(t, m, "name", about.plan->name);
    way_tell_field(t, m, "version", about.plan->version);
    way_tell_field(t, m, "file", about.text->path);
    way_tell_name(t, m, "hash");
    way_tell_format(t, "%016llx", (unsigned long long)about.plan->layout.hash);
}

static void on_begun(void *arg, const struct way_err *err)
{
    struct begun *b = arg;
    struct way_tell *t = b->later->begin(b->later);
    struct way_shadow *s = candidate_of(b->control);
    if (t && (err || !s)) {
        way_resp_put_error(t->out, "ERR not taken into the shadow: %s",
                           err ? err->text : "it was taken off");
    } else if (t) {
        struct way_tell_open m = way_tell_begin(t);
        way_tell_field(t, &m, "shadow", "begun");
        tell_candidate(s, t, &m);
        way_tell_end(t, &m);
    }
    b->later->end(b->later);
    way_free(b);
}

void way_console_shadow_begin(struct way_control *c, const char *path,
                              const struct way_option *option, unsigned options,
                              struct way_tell *t)
{
    struct way_candidate *candidate = way_control_candidate(c);
    struct way_err err;
    if (!candidate || !t->promise) {
        way_resp_put_error(t->out, "ERR nothing can be tried here");
        return;
    }
    struct begun *b = way_zalloc(sizeof *b);
    *b = (struct begun){ .control = c, .later = t->promise(t) };
    if (way_candidate_begin(candidate, path, option, options,
                            &way_control_config(c)->limits, on_begun, b, &err) < 0)
        on_begun(b, &err);
}

void way_console_shadow_off(struct way_control *c, struct way_tell *t)
{
    struct way_candidate *candidate = way_control_candidate(c);
    if (candidate && way_candidate_end(candidate))
        way_tell_status(t, "OK");
    else
        way_resp_put_error(t->out, "ERR no candidate is in the shadow");
}

/* --- its state --- */

static void tell_disagreed(const struct way_shadow_counts *n, struct way_tell *t)
{
    struct way_tell_open m = way_tell_begin(t);
    for (unsigned fn = 0; fn < WAY_FN_NONE; fn++)
        way_tell_field_integer(t, &m, way_function_name(fn), (int64_t)n->disagreed[fn]);
    way_tell_end(t, &m);
}

static void tell_errors(const struct way_shadow_counts *n, struct way_tell *t)
{
    static const char *const causes[WAY_SHADOW_CAUSES] = { "error", "budget", "deadline",
                                                           "memory", "answer" };
    struct way_tell_open m = way_tell_begin(t);
    for (unsigned i = 0; i < WAY_SHADOW_CAUSES; i++)
        way_tell_field_integer(t, &m, causes[i], (int64_t)n->errors[i]);
    way_tell_end(t, &m);
}

/* A node whose state would be another. */
static void tell_node(const char *address, const struct way_verdict *is,
                      const struct way_verdict *would, double now, struct way_tell *t)
{
    struct way_tell_open m = way_tell_begin(t);
    way_tell_field(t, &m, "node", address);
    way_tell_field(t, &m, "state", way_state_name(is->state));
    way_tell_field(t, &m, "would_be", way_state_name(would->state));
    if (would->ends > 0)
        way_tell_field_number(t, &m, "would_end", would->ends - now);
    way_tell_field(t, &m, "would_say", would->reason);
    way_tell_end(t, &m);
}

/* Puts them (`t`), or only counts. */
static unsigned each_node(struct way_control *c, struct way_shadow *s, struct way_tell *t)
{
    struct way_health *h = way_control_health(c);
    unsigned count = 0, nodes = way_health_nodes(h);
    for (unsigned i = 0; i < nodes; i++) {
        struct way_verdict is, would;
        const char *address = way_control_address(c, i);
        if (!address || !way_shadow_verdict(s, i, &would))
            continue;
        way_health_verdict(h, i, &is);
        if (is.state == would.state)
            continue;
        count++;
        if (t)
            tell_node(address, &is, &would, way_control_loop(c)->now, t);
    }
    return count;
}

static void tell_counts(const struct way_shadow_counts *n, struct way_tell *t,
                        struct way_tell_open *m)
{
    way_tell_field_integer(t, m, "events", (int64_t)n->events);
    way_tell_field_integer(t, m, "agreed", (int64_t)n->agreed);
    way_tell_name(t, m, "disagreed");
    tell_disagreed(n, t);
    way_tell_field_integer(t, m, "asked", (int64_t)n->asked);
    way_tell_name(t, m, "errors");
    tell_errors(n, t);
    way_tell_field_integer(t, m, "dropped", (int64_t)n->dropped);
    way_tell_field_integer(t, m, "unshown", (int64_t)n->unshown);
    way_tell_field_integer(t, m, "took_out", (int64_t)n->out_in_charge);
    way_tell_field_integer(t, m, "would_have_taken_out", (int64_t)n->out);
}

static void tell_state(struct way_control *c, struct way_shadow *s, struct way_tell *t,
                       struct way_tell_open *m)
{
    struct way_shadow_about about;
    struct way_shadow_counts n;
    way_shadow_about(s, &about);
    way_shadow_counts(s, &n);
    way_tell_field(t, m, "shadow", about.off ? "off" : "on");
    way_tell_field(t, m, "reason", about.off ? about.off : "");
    tell_candidate(s, t, m);
    way_tell_field_number(t, m, "since", way_control_loop(c)->now - about.began);
    tell_counts(&n, t, m);
    way_tell_name(t, m, "nodes");
    way_tell_array(t, each_node(c, s, NULL));
    each_node(c, s, t);
}

void way_console_shadow_status(struct way_control *c, struct way_tell *t)
{
    struct way_candidate *candidate = way_control_candidate(c);
    const char *loading = candidate ? way_candidate_loading(candidate) : NULL;
    struct way_shadow *s = candidate_of(c);
    struct way_tell_open m = way_tell_begin(t);
    if (s)
        tell_state(c, s, t, &m);
    else
        way_tell_field(t, &m, "shadow", "none");
    way_tell_field(t, &m, "loading", loading ? loading : "");
    way_tell_end(t, &m);
}

/* --- differences --- */

static void tell_event(const struct way_entry *e, struct way_tell *t,
                       struct way_tell_open *m)
{
    const struct way_event *v = &e->event;
    way_tell_field_number(t, m, "time", v->unix_time);
    way_tell_field_integer(t, m, "thread", e->thread);
    way_tell_field(t, m, "node", e->address);
    way_tell_field(t, m, "function", way_function_name(e->function));
    way_tell_field(t, m, "kind", way_kind_name(v->kind));
    if (v->kind == WAY_KIND_CHANGE)
        way_tell_field(t, m, "change", way_change_name(v->change));
    if (v->error != WAY_ERROR_NONE) {
        way_tell_field(t, m, "phase", way_phase_name(v->phase));
        way_tell_field(t, m, "step", way_step_name(v->step));
        way_tell_field(t, m, "error", way_error_name(v->error));
        way_tell_field(t, m, "message", v->message);
    }
    if (v->n)
        way_tell_field_integer(t, m, "n", v->n);
    if (v->has_certainty)
        way_tell_field(t, m, "certainty", way_certainty_name(v->certainty));
    if (v->kind == WAY_KIND_COMMANDS)
        way_tell_field(t, m, "commands", way_commands_name(v->commands));
    if (v->attempt)
        way_tell_field_integer(t, m, "attempt", v->attempt);
}

static void tell_side(const struct way_entry *e, struct way_tell *t)
{
    char verdict[256];
    struct way_tell_open m = way_tell_begin(t);
    way_entry_verdict(e, verdict, sizeof verdict);
    way_tell_field(t, &m, "class", e->class_name);
    way_tell_field(t, &m, "blame", way_blame_name(e->event.blame));
    way_tell_field(t, &m, "verdict", verdict);
    way_tell_field(t, &m, "where", e->where);
    if (way_entry_marks(e))
        way_tell_field(t, &m, "node", e->did);
    if (e->straggler)
        way_tell_field_bool(t, &m, "straggler", true);
    if (e->fallback)
        way_tell_field_bool(t, &m, "fallback", true);
    way_tell_end(t, &m);
}

void way_console_shadow_diff(struct way_control *c, unsigned n, struct way_tell *t)
{
    struct way_shadow *s = candidate_of(c);
    const struct way_entry *charge, *own;
    unsigned there = 0;
    if (!s) {
        way_resp_put_error(t->out, "ERR no candidate is in the shadow");
        return;
    }
    while (there < n && way_shadow_difference(s, there, &charge, &own))
        there++;
    way_tell_array(t, there);
    while (there-- && way_shadow_difference(s, there, &charge, &own)) {
        struct way_tell_open m = way_tell_begin(t);
        tell_event(charge, t, &m);
        way_tell_name(t, &m, "in_charge");
        tell_side(charge, t);
        way_tell_name(t, &m, "candidate");
        tell_side(own, t);
        way_tell_end(t, &m);
    }
}
