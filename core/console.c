/* console - see console.h.
 *
 * Replies are maps with the words of the contract. A field that does not apply is left
 * out, so that redis-cli shows what there is to see; numbers are seconds, as everywhere. */
#include "console.h"

#include "candidate.h"
#include "console_shadow.h"
#include "reload.h"
#include "resp.h"
#include "why.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

enum { EVENTS_SHOWN = 20, DIFFERENCES_SHOWN = 10 };

/* --- nodes --- */

/* By address, id, or the beginning of an id; WAY_NONE: there is none, or more than one. */
static unsigned find_node(struct way_control *c, const char *word)
{
    struct way_health *h = way_control_health(c);
    unsigned nodes = way_health_nodes(h), found = WAY_NONE;
    size_t n = strlen(word);
    for (unsigned i = 0; i < nodes; i++) {
        struct way_snapshot s;
        way_health_snapshot(h, i, way_control_loop(c)->now, &s);
        if (!strcmp(s.view.address, word))
            return i;
        if (n >= 4 && !strncmp(s.view.id, word, n))
            found = found == WAY_NONE ? i : (unsigned)WAY_NODES_MAX;
    }
    return found < WAY_NODES_MAX ? found : WAY_NONE;
}

static bool is_gone(struct way_control *c, unsigned node)
{
    struct way_node *n = way_health_node(way_control_health(c), node);
    return atomic_load_explicit(&n->route, memory_order_acquire) & WAY_ROUTE_GONE;
}

static void tell_node(struct way_control *c, unsigned node, struct way_tell *t)
{
    struct way_snapshot s;
    double now = way_control_loop(c)->now;
    way_health_snapshot(way_control_health(c), node, now, &s);
    const struct way_view *v = &s.view;
    struct way_tell_open m = way_tell_begin(t);
    way_tell_field(t, &m, "id", v->id);
    way_tell_field(t, &m, "address", v->address);
    way_tell_field(t, &m, "hostname", v->hostname);
    way_tell_field(t, &m, "role", way_role_name(v->role));
    if (v->shard != WAY_NONE)
        way_tell_field_integer(t, &m, "shard", v->shard);
    way_tell_field(t, &m, "zone", v->zone);
    way_tell_field(t, &m, "state", way_state_name(v->verdict.state));
    if (v->verdict.since > 0)
        way_tell_field_number(t, &m, "since", now - v->verdict.since);
    if (v->verdict.ends > 0)
        way_tell_field_number(t, &m, "ends", v->verdict.ends - now);
    way_tell_field(t, &m, "reason", v->verdict.reason);
    if (way_verdict_by_operator(&v->verdict, now))
        way_tell_field(t, &m, "by", "operator");
    way_tell_field_integer(t, &m, "failures", v->failures);
    if (v->latency >= 0)
        way_tell_field_number(t, &m, "latency", v->latency);
    way_tell_field_integer(t, &m, "inflight", (int64_t)v->inflight);
    way_tell_field_number(t, &m, "weight", way_verdict_weight(&v->verdict, now));
    if (v->has_replication) {
        way_tell_field_bool(t, &m, "link_up", v->link_up);
        if (v->behind >= 0)
            way_tell_field_number(t, &m, "behind", v->behind);
    }
    way_tell_end(t, &m);
}

static void run_nodes(struct way_control *c, unsigned argc, char *const *argv,
                      struct way_tell *t)
{
    (void)argc, (void)argv;
    unsigned nodes = way_health_nodes(way_control_health(c)), there = 0;
    for (unsigned i = 0; i < nodes; i++)
        there += !is_gone(c, i);
    way_tell_array(t, there);
    for (unsigned i = 0; i < nodes && there; i++) {
        if (is_gone(c, i))
            continue;
        tell_node(c, i, t);
        there--;
    }
}

/* --- events --- */

static void tell_fault(const struct way_event *v, struct way_tell *t,
                       struct way_tell_open *m)
{
    if (v->error == WAY_ERROR_NONE)
        return;
    way_tell_field(t, m, "phase", way_phase_name(v->phase));
    way_tell_field(t, m, "step", way_step_name(v->step));
    way_tell_field(t, m, "error", way_error_name(v->error));
    if (v->errnum)
        way_tell_field_integer(t, m, "errno", v->errnum);
    way_tell_field(t, m, "message", v->message);
}

static void tell_extent(const struct way_event *v, struct way_tell *t,
                        struct way_tell_open *m)
{
    way_tell_field_integer(t, m, "n", v->n);
    if (v->has_certainty)
        way_tell_field(t, m, "certainty", way_certainty_name(v->certainty));
    if (v->kind == WAY_KIND_COMMANDS)
        way_tell_field(t, m, "commands", way_commands_name(v->commands));
    if (v->kind == WAY_KIND_CONNECTION || v->kind == WAY_KIND_PROBE) {
        way_tell_field_integer(t, m, "bytes_written", (int64_t)v->bytes_written);
        way_tell_field_integer(t, m, "replies_read", v->replies_read);
        way_tell_field_bool(t, m, "reused", v->reused);
        way_tell_field_number(t, m, "connection_age", v->connection_age);
    }
    if (v->attempt)
        way_tell_field_integer(t, m, "attempt", v->attempt);
    if (v->latency > 0)
        way_tell_field_number(t, m, "latency", v->latency);
}

static void tell_answer(const struct way_entry *e, struct way_tell *t,
                        struct way_tell_open *m)
{
    char verdict[256];
    way_entry_verdict(e, verdict, sizeof verdict);
    way_tell_field(t, m, "function", way_function_name(e->function));
    way_tell_field(t, m, "verdict", verdict);
    way_tell_field(t, m, "where", e->where);
    way_tell_field(t, m, "did", e->did);
    if (way_entry_marks(e)) {
        way_tell_field(t, m, "from", way_state_name(e->outcome.from));
        way_tell_field(t, m, "to", way_state_name(e->outcome.to));
        way_tell_field(t, m, "refused", way_refusal_name(e->outcome.refused));
    }
    if (e->straggler)
        way_tell_field_bool(t, m, "straggler", true);
    if (e->fallback)
        way_tell_field_bool(t, m, "fallback", true);
}

static void tell_entry(const struct way_entry *e, struct way_tell *t)
{
    const struct way_event *v = &e->event;
    struct way_tell_open m = way_tell_begin(t);
    way_tell_field_number(t, &m, "time", v->unix_time);
    way_tell_name(t, &m, "thread");
    if (e->thread == WAY_NONE)
        way_tell_string(t, "control");
    else
        way_tell_integer(t, e->thread);
    way_tell_field(t, &m, "node", e->address);
    way_tell_field(t, &m, "kind", way_entry_kind(e));
    if (v->kind == WAY_KIND_CHANGE && !e->by_operator)
        way_tell_field(t, &m, "change", way_change_name(v->change));
    if (v->kind == WAY_KIND_EDGE)
        way_tell_field(t, &m, "counter", v->counter);
    if (v->kind == WAY_KIND_EXPIRY || v->kind == WAY_KIND_TICK)
        way_tell_field_number(t, &m, "late", v->late);
    tell_fault(v, t, &m);
    if (v->kind != WAY_KIND_CHANGE && v->kind != WAY_KIND_EXPIRY &&
        v->kind != WAY_KIND_TICK) {
        way_tell_field(t, &m, "class", e->class_name);
        way_tell_field(t, &m, "blame", way_blame_name(v->blame));
        tell_extent(v, t, &m);
    }
    tell_answer(e, t, &m);
    way_tell_end(t, &m);
}

static void run_events(struct way_control *c, unsigned argc, char *const *argv,
                       struct way_tell *t)
{
    const struct way_history *h = way_control_history(c);
    unsigned node = WAY_NONE, most = EVENTS_SHOWN;
    for (unsigned i = 0; i < argc; i++) {
        char *end;
        unsigned long n = strtoul(argv[i], &end, 10);
        if (!*end && end != argv[i] && argv[i][0] != '-') {
            most = n < WAY_HISTORY_ENTRIES ? (unsigned)n : WAY_HISTORY_ENTRIES;
        } else if ((node = find_node(c, argv[i])) == WAY_NONE) {
            way_resp_put_error(t->out, "ERR no node '%.64s': WAYSIDE NODES lists them",
                               argv[i]);
            return;
        }
    }
    unsigned there = 0;
    while (there < most && way_history_at(h, node, there))
        there++;
    way_tell_array(t, there);
    while (there--)
        tell_entry(way_history_at(h, node, there), t);
}

/* --- policy, limits --- */

static void tell_option(const struct way_option *o, struct way_tell *t,
                        struct way_tell_open *m)
{
    if (o->type == WAY_OPTION_NUMBER)
        way_tell_field_number(t, m, o->name, o->number);
    else if (o->type == WAY_OPTION_BOOLEAN)
        way_tell_field_bool(t, m, o->name, o->number != 0);
    else
        way_tell_field(t, m, o->name, o->text);
}

static void tell_functions(const struct way_plan *p, struct way_tell *t)
{
    const char *there[5];
    unsigned n = 0;
    if (p->has_classify)
        there[n++] = "classify";
    if (p->has_mark)
        there[n++] = "mark";
    if (p->has_backoff)
        there[n++] = "backoff";
    if (p->has_probe)
        there[n++] = "probe";
    if (p->has_reconnect)
        there[n++] = "reconnect";
    way_tell_array(t, n);
    for (unsigned i = 0; i < n; i++)
        way_tell_string(t, there[i]);
}

static const char *pick_name(enum way_pick pick)
{
    static const char *const words[] = { "master",         "replica",     "replica_only",
                                         "random",         "round_robin", "nearest",
                                         "least_inflight", "p2c" };
    return (unsigned)pick < way_count(words) ? words[pick] : "?";
}

static int64_t policy_errors(const struct way_control *c)
{
    int64_t sum = 0;
    for (int i = WAY_STAT_POLICY_FIRST; i <= WAY_STAT_POLICY_LAST; i++)
        sum += (int64_t)way_control_stat(c, (enum way_stat)i);
    return sum;
}

static void tell_reload_status(const struct way_control *c, struct way_tell *t,
                               struct way_tell_open *m)
{
    const struct way_reload *r = way_control_reload(c);
    struct way_reload_status s;
    if (!r)
        return;
    way_reload_status(r, &s);
    way_tell_field_integer(t, m, "epoch", (int64_t)s.epoch);
    way_tell_field(t, m, "reload", s.state);
    if (s.probation_left > 0) {
        way_tell_field_number(t, m, "probation_left", s.probation_left);
        way_tell_field_integer(t, m, "probation_errors", (int64_t)s.errors);
        way_tell_field_integer(t, m, "probation_marks", (int64_t)s.marks);
    }
    way_tell_field(t, m, "last_reload", s.last);
    way_tell_field(t, m, "rolled_back", s.rolled_back);
    way_tell_field(t, m, "rolled_back_because", s.reason);
}

static void run_policy(struct way_control *c, unsigned argc, char *const *argv,
                       struct way_tell *t)
{
    (void)argc, (void)argv;
    const struct way_plan *p = way_control_plan(c);
    const struct way_policy_text *text = way_control_text(c);
    struct way_tell_open m = way_tell_begin(t);
    way_tell_field(t, &m, "name", p->name);
    way_tell_field(t, &m, "version", p->version);
    way_tell_field(t, &m, "file", text->path ? text->path : "default");
    way_tell_name(t, &m, "hash");
    way_tell_format(t, "%016llx", (unsigned long long)p->layout.hash);
    way_tell_field(t, &m, "pick", pick_name(p->pick));
    way_tell_field_bool(t, &m, "set_aside", way_control_set_aside(c));
    way_tell_name(t, &m, "functions");
    tell_functions(p, t);
    way_tell_name(t, &m, "options");
    struct way_tell_open options = way_tell_begin(t);
    for (unsigned i = 0; i < text->options; i++)
        tell_option(&text->option[i], t, &options);
    way_tell_end(t, &options);
    way_tell_field_integer(t, &m, "calls",
                           (int64_t)way_control_stat(c, WAY_STAT_POLICY_CALLS));
    way_tell_field_integer(t, &m, "errors", policy_errors(c));
    way_tell_field_integer(t, &m, "fallback",
                           (int64_t)way_control_stat(c, WAY_STAT_FALLBACK));
    tell_reload_status(c, t, &m);
    way_tell_end(t, &m);
}

/* --- reload --- */

static void tell_threads(const struct way_reload_report *report, struct way_tell *t)
{
    way_tell_array(t, report->threads);
    for (unsigned i = 0; i < report->threads; i++) {
        struct way_tell_open m = way_tell_begin(t);
        way_tell_name(t, &m, "thread");
        if (i + 1 == report->threads)
            way_tell_string(t, "control");
        else
            way_tell_integer(t, (int64_t)i);
        way_tell_field(t, &m, "version", report->version);
        way_tell_name(t, &m, "hash");
        way_tell_format(t, "%016llx", (unsigned long long)report->hash[i]);
        way_tell_end(t, &m);
    }
}

static void on_reloaded(void *arg, const struct way_reload_report *report)
{
    struct way_later *later = arg;
    struct way_tell *t = later->begin(later);
    if (t && report->refused) {
        way_resp_put_error(t->out, "ERR reload refused, nothing changed: %s",
                           report->refused);
    } else if (t) {
        struct way_tell_open m = way_tell_begin(t);
        way_tell_field(t, &m, "reload", report->unchanged ? "unchanged" : "committed");
        way_tell_field(t, &m, "name", report->name);
        way_tell_field(t, &m, "version", report->version);
        way_tell_field(t, &m, "file", report->file);
        way_tell_field_integer(t, &m, "epoch", (int64_t)report->epoch);
        if (report->probation > 0)
            way_tell_field_number(t, &m, "probation", report->probation);
        if (report->late)
            way_tell_field_integer(t, &m, "late", report->late);
        way_tell_name(t, &m, "threads");
        tell_threads(report, t);
        way_tell_end(t, &m);
    }
    later->end(later);
}

/* "name=value"; false: a path. */
static bool is_option(const char *word)
{
    const char *c = word;
    while (isalnum((unsigned char)*c) || *c == '_')
        c++;
    return c > word && *c == '=';
}

/* What the words wish; the options' names are the caller's to free. -1: two policies. */
static int read_wish(struct way_reload_wish *wish, struct way_option *option,
                     unsigned argc, char *const *argv)
{
    wish->option = option;
    for (unsigned i = 0; i < argc; i++) {
        if (!is_option(argv[i])) {
            if (wish->policy)
                return -1;
            wish->policy = argv[i];
            continue;
        }
        size_t n = strcspn(argv[i], "=");
        option[wish->options++] = (struct way_option){ .name = way_strndup(argv[i], n),
                                                       .type = WAY_OPTION_WORD,
                                                       .text = argv[i] + n + 1 };
    }
    return 0;
}

static void begin_reload(struct way_reload *r, struct way_reload_wish *wish,
                         struct way_tell *t)
{
    struct way_err err;
    struct way_later *later = t->promise(t);
    wish->done = on_reloaded;
    wish->arg = later;
    if (way_reload_begin(r, wish, "console", &err) == 0)
        return;
    struct way_tell *now = later->begin(later);
    if (now)
        way_resp_put_error(now->out, "ERR %s", err.text);
    later->end(later);
}

static void run_reload(struct way_control *c, unsigned argc, char *const *argv,
                       struct way_tell *t)
{
    struct way_reload *r = way_control_reload(c);
    struct way_option option[WAY_CONSOLE_WORDS];
    struct way_reload_wish wish = { 0 };
    int bad = read_wish(&wish, option, argc, argv);
    if (!r || !t->promise)
        way_resp_put_error(t->out, "ERR nothing can be reloaded here");
    else if (bad)
        way_resp_put_error(t->out, "ERR more than one policy: WAYSIDE RELOAD [file] "
                                   "[option=value ...]");
    else
        begin_reload(r, &wish, t);
    for (unsigned i = 0; i < wish.options; i++)
        way_free(option[i].name);
}

/* --- a candidate in the shadow --- */

static void try_candidate(struct way_control *c, unsigned argc, char *const *argv,
                          struct way_tell *t)
{
    struct way_option option[WAY_CONSOLE_WORDS];
    struct way_reload_wish wish = { 0 };
    if (read_wish(&wish, option, argc, argv) < 0 || !wish.policy)
        way_resp_put_error(t->out, "ERR expected one policy: WAYSIDE SHADOW file "
                                   "[option=value ...]");
    else
        way_console_shadow_begin(c, wish.policy, option, wish.options, t);
    for (unsigned i = 0; i < wish.options; i++)
        way_free(option[i].name);
}

static void run_shadow(struct way_control *c, unsigned argc, char *const *argv,
                       struct way_tell *t)
{
    char *end;
    if (!argc) {
        way_console_shadow_status(c, t);
    } else if (argc == 1 && !strcasecmp(argv[0], "OFF")) {
        way_console_shadow_off(c, t);
    } else if (argc <= 2 && !strcasecmp(argv[0], "DIFF")) {
        unsigned long n = argc > 1 ? strtoul(argv[1], &end, 10) : DIFFERENCES_SHOWN;
        if (argc > 1 && (*end || end == argv[1] || argv[1][0] == '-'))
            way_resp_put_error(t->out, "ERR expected a number: WAYSIDE SHADOW DIFF [n]");
        else
            way_console_shadow_diff(
                c, n < WAY_SHADOW_DIFFERENCES ? (unsigned)n : WAY_SHADOW_DIFFERENCES, t);
    } else {
        try_candidate(c, argc, argv, t);
    }
}

static void run_promote(struct way_control *c, unsigned argc, char *const *argv,
                        struct way_tell *t)
{
    (void)argc, (void)argv;
    struct way_reload *r = way_control_reload(c);
    struct way_shadows *all = way_control_shadows(c);
    struct way_shadow *s = all ? way_shadows_get(all, WAY_SHADOW_CANDIDATE) : NULL;
    struct way_shadow_about about;
    if (!s) {
        way_resp_put_error(t->out, "ERR no candidate is in the shadow");
        return;
    }
    if (!r || !t->promise) {
        way_resp_put_error(t->out, "ERR nothing can be reloaded here");
        return;
    }
    way_shadow_about(s, &about);
    begin_reload(r, &(struct way_reload_wish){ .text = about.text }, t);
}

static double setting_value(const struct way_config *config, const struct way_setting *s)
{
    const char *base = s->group == WAY_GROUP_TIMEOUTS ? (const char *)&config->timeouts
                                                      : (const char *)&config->limits;
    double value;
    memcpy(&value, base + s->offset, sizeof value);
    return value;
}

static void run_limits(struct way_control *c, unsigned argc, char *const *argv,
                       struct way_tell *t)
{
    (void)argc, (void)argv;
    const struct way_config *config = way_control_config(c);
    const struct way_setting *s;
    unsigned n = 0;
    while (way_setting_at(n))
        n++;
    way_tell_array(t, n);
    for (unsigned i = 0; (s = way_setting_at(i)); i++) {
        struct way_tell_open m = way_tell_begin(t);
        way_tell_name(t, &m, "name");
        way_tell_format(t, "%s.%s",
                        s->group == WAY_GROUP_TIMEOUTS ? "timeouts" : "limits", s->name);
        way_tell_field_number(t, &m, "value", setting_value(config, s));
        way_tell_field(t, &m, "unit", s->unit);
        way_tell_field_number(t, &m, "default", s->standard);
        way_tell_field_number(t, &m, "min", s->min);
        way_tell_field_number(t, &m, "max", s->max);
        way_tell_field(t, &m, "help", s->help);
        way_tell_field(t, &m, "seen", s->seen);
        way_tell_end(t, &m);
    }
}

/* --- why --- */

struct lines {
    struct way_buf buf;
    struct way_tell tell;
    size_t count;
};

static void keep_line(void *arg, const char *text)
{
    struct lines *lines = arg;
    way_tell_string(&lines->tell, text);
    lines->count++;
}

static void run_why(struct way_control *c, unsigned argc, char *const *argv,
                    struct way_tell *t)
{
    (void)argc;
    unsigned node = find_node(c, argv[0]);
    if (node == WAY_NONE) {
        way_resp_put_error(t->out, "ERR no node '%.64s': WAYSIDE NODES lists them",
                           argv[0]);
        return;
    }
    struct way_snapshot s;
    struct lines lines = { .count = 0 };
    double now = way_control_loop(c)->now;
    lines.tell = (struct way_tell){ .out = &lines.buf, .resp = t->resp };
    way_health_snapshot(way_control_health(c), node, now, &s);
    way_why(way_control_history(c), &s.view, now, keep_line, &lines);
    way_tell_array(t, lines.count);
    way_buf_put(t->out, lines.buf.p + lines.buf.off, way_buf_held(&lines.buf));
    way_buf_fini(&lines.buf);
}

/* --- an operator's marks --- */

/* A number of seconds above zero, to the end of the word. */
static bool seconds_of(const char *word, double *out)
{
    char *end;
    *out = strtod(word, &end);
    return end != word && !*end && *out > 0 && *out <= 1e9 && !strpbrk(word, "xXnN");
}

static unsigned node_or_error(struct way_control *c, const char *word, struct way_tell *t)
{
    unsigned node = find_node(c, word);
    if (node == WAY_NONE)
        way_resp_put_error(t->out, "ERR no node '%.64s': WAYSIDE NODES lists them", word);
    return node;
}

/* The reply to a mark: what the node was and is. */
static void apply_mark(struct way_control *c, unsigned node, const struct way_mark *m,
                       bool taken_back, struct way_tell *t)
{
    struct way_outcome outcome;
    struct way_err err;
    char address[WAY_ADDRESS_MAX];
    if (way_control_mark(c, node, m, taken_back, &outcome, &err) < 0) {
        way_resp_put_error(t->out, "ERR %s", err.text);
        return;
    }
    way_health_address(way_control_health(c), node, address, sizeof address);
    struct way_tell_open map = way_tell_begin(t);
    way_tell_field(t, &map, "node", address);
    way_tell_field(t, &map, "from", way_state_name(outcome.from));
    way_tell_field(t, &map, "to", way_state_name(outcome.to));
    if (m->has & WAY_MARK_SECONDS)
        way_tell_field_number(t, &map, "seconds", m->seconds);
    way_tell_end(t, &map);
}

static void mark_node(struct way_control *c, const char *word, int state,
                      const char *seconds, struct way_tell *t)
{
    struct way_mark m = { .given = true,
                          .has = WAY_MARK_STATE | WAY_MARK_REASON,
                          .state = (enum way_state)state,
                          .reason = "operator" };
    if (seconds && !seconds_of(seconds, &m.seconds)) {
        way_resp_put_error(t->out, "ERR expected seconds (number, above 0), got '%.64s'",
                           seconds);
        return;
    }
    if (seconds)
        m.has |= WAY_MARK_SECONDS;
    if (state == WAY_STATE_DRAINING) {
        m.has |= WAY_MARK_CONNECTIONS;
        m.connections = WAY_CONNECTIONS_DRAIN;
    }
    unsigned node = node_or_error(c, word, t);
    if (node != WAY_NONE)
        apply_mark(c, node, &m, false, t);
}

static void run_mark(struct way_control *c, unsigned argc, char *const *argv,
                     struct way_tell *t)
{
    int state = way_word(way_state_name, WAY_STATE_COUNT, argv[1]);
    if (state < 0)
        way_resp_put_error(t->out,
                           "ERR no state '%.64s': expected healthy, suspect, failing, "
                           "probing or draining",
                           argv[1]);
    else
        mark_node(c, argv[0], state, argc > 2 ? argv[2] : NULL, t);
}

static void run_drain(struct way_control *c, unsigned argc, char *const *argv,
                      struct way_tell *t)
{
    mark_node(c, argv[0], WAY_STATE_DRAINING, argc > 1 ? argv[1] : NULL, t);
}

static void run_unmark(struct way_control *c, unsigned argc, char *const *argv,
                       struct way_tell *t)
{
    (void)argc;
    unsigned node = node_or_error(c, argv[0], t);
    struct way_verdict v;
    struct way_mark m = { .given = true,
                          .has = WAY_MARK_STATE | WAY_MARK_REASON,
                          .state = WAY_STATE_HEALTHY,
                          .reason = "unmarked" };
    if (node == WAY_NONE)
        return;
    way_health_verdict(way_control_health(c), node, &v);
    if (way_verdict_by_operator(&v, way_control_loop(c)->now))
        apply_mark(c, node, &m, true, t);
    else
        way_resp_put_error(
            t->out,
            "ERR no operator's mark stands on %.64s: what the policy marked "
            "ends as the policy says",
            argv[0]);
}

/* --- all commands --- */

static void run_help(struct way_control *c, unsigned argc, char *const *argv,
                     struct way_tell *t);

static const struct {
    const char *name, *arguments, *help;
    unsigned least, most; /* arguments */
    void (*run)(struct way_control *c, unsigned argc, char *const *argv,
                struct way_tell *t);
} commands[] = {
    { "NODES", "", "every node: role, state, since when, until when, why", 0, 0,
      run_nodes },
    { "EVENTS", "[node] [n]", "the last n entries of the journal (20), newest last", 0, 2,
      run_events },
    { "WHY", "node", "what led to the node's present state, in words", 1, 1, run_why },
    { "MARK", "node state [seconds]",
      "the node is that for so long, or until UNMARK, whatever the policy says", 2, 3,
      run_mark },
    { "DRAIN", "node [seconds]", "MARK draining: it gets nothing new", 1, 2, run_drain },
    { "UNMARK", "node", "takes an operator's mark back: healthy, the policy decides", 1,
      1, run_unmark },
    { "POLICY", "", "the policy in charge, its options, how often it was asked", 0, 0,
      run_policy },
    { "RELOAD", "[file] [option=value ...]",
      "another policy or other options; nothing given: the configuration, read anew", 0,
      WAY_CONSOLE_WORDS, run_reload },
    { "SHADOW", "[file [option=value ...] | DIFF [n] | OFF]",
      "a candidate that is asked too and not obeyed: begun, how it does, where it "
      "differs",
      0, WAY_CONSOLE_WORDS, run_shadow },
    { "PROMOTE", "", "the candidate in the shadow is the policy from now on, by a reload",
      0, 0, run_promote },
    { "LIMITS", "", "every limit and time-out with its value and bounds", 0, 0,
      run_limits },
    { "HELP", "", "this list", 0, 0, run_help },
};

static void run_help(struct way_control *c, unsigned argc, char *const *argv,
                     struct way_tell *t)
{
    (void)c, (void)argc, (void)argv;
    way_tell_array(t, way_count(commands) + 1);
    for (unsigned i = 0; i < way_count(commands); i++)
        way_tell_format(t, "WAYSIDE %s%s%s - %s", commands[i].name,
                        commands[i].arguments[0] ? " " : "", commands[i].arguments,
                        commands[i].help);
    way_tell_string(t, "A node is named by its address, its id, or the beginning of its "
                       "id. Numbers are seconds. -3 shows replies as maps.");
}

static void refuse(const char *word, struct way_tell *t)
{
    const char *nearest = NULL;
    unsigned least = 4; /* further away is no misspelling */
    char upper[WAY_CONSOLE_WORD];
    size_t n = 0;
    for (; word[n] && n + 1 < sizeof upper; n++)
        upper[n] = (char)(word[n] >= 'a' && word[n] <= 'z' ? word[n] - 32 : word[n]);
    upper[n] = 0;
    for (unsigned i = 0; i < way_count(commands); i++) {
        unsigned distance = way_distance(upper, commands[i].name);
        if (distance < least) {
            least = distance;
            nearest = commands[i].name;
        }
    }
    if (nearest)
        way_resp_put_error(t->out,
                           "ERR unknown subcommand '%.64s': did you mean WAYSIDE %s?",
                           word, nearest);
    else
        way_resp_put_error(t->out, "ERR unknown subcommand '%.64s': try WAYSIDE HELP",
                           word);
}

void way_console_run(struct way_control *c, unsigned argc, char *const *argv,
                     struct way_tell *t)
{
    const char *word = argc ? argv[0] : "HELP";
    unsigned given = argc ? argc - 1 : 0;
    for (unsigned i = 0; i < way_count(commands); i++) {
        if (strcasecmp(word, commands[i].name))
            continue;
        if (given < commands[i].least || given > commands[i].most)
            way_resp_put_error(t->out, "ERR wrong number of arguments: WAYSIDE %s%s%s",
                               commands[i].name, commands[i].arguments[0] ? " " : "",
                               commands[i].arguments);
        else
            commands[i].run(c, given, argv + 1, t);
        return;
    }
    refuse(word, t);
}
