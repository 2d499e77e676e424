/* replay - see replay.h.
 *
 * All entries are read before any is asked, for they lie in the files by time and not by
 * commit: kept packed, some two kilobytes each. Rejected: sorting on disk; a journal that
 * does not fit into memory is one of many hours, and files can be given singly. */
#include "replay.h"

#include "fallback.h"
#include "jsonline.h"
#include "replay_world.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { EVERY = 4096 }; /* entries between looks at the clock */

struct item {
    unsigned run;
    bool swept; /* of TICK: asked again with the others of its sweep */
    struct way_entry entry;
    char input[];
};
struct states { /* of one node: seconds in each state, as recorded and as replayed */
    char address[64];
    struct side {
        uint8_t state;
        double since, seconds[WAY_STATE_COUNT];
    } recorded, own;
};
struct replay {
    const struct way_replay_options *o;
    struct way_replay_totals *t;
    struct item **item;
    size_t items, room;
    struct item **part; /* those of TICK, sweep by sweep */
    size_t parts;
    unsigned runs;
    uint64_t run; /* of the header read last */
    char made_by[256];
    struct way_policy *policy;
    bool evolved;
    double began, ended; /* of the run being replayed */
    struct states *node;
    unsigned nodes;
    uint64_t of_function[WAY_FN_NONE + 1], differing[WAY_FN_NONE + 1];
    uint64_t uncomparable, off_beat, of_others, lost;
    bool gap_known;
    double told; /* progress, last */
};

/* ---- reading ---- */

static void keep(struct replay *r, const struct way_jsonline *line)
{
    const struct way_input *in = &line->input;
    struct way_buf packed = { 0 };
    if (line->has_input) {
        struct way_layout l = { .node = in->layout.node,
                                .shard = in->layout.shard,
                                .cluster = in->layout.cluster };
        const unsigned counters[WAY_COUNTER_SCOPES] = { in->layout.counters[0],
                                                        in->layout.counters[1],
                                                        in->layout.counters[2] };
        way_input_pack(&packed, &in->view, &in->after, &l, counters, in->policy,
                       in->version, in->answer);
    }
    size_t n = way_buf_held(&packed);
    struct item *item = way_zalloc(sizeof *item + n);
    way_entry_copy(&item->entry, &line->entry);
    item->run = r->runs;
    if (n)
        memcpy(item->input, packed.p, n);
    item->entry.input = (struct way_span){ item->input, n };
    way_buf_fini(&packed);
    if (r->items == r->room) {
        r->room = r->room ? 2 * r->room : 1024;
        r->item = way_realloc(r->item, r->room * sizeof(struct item *));
    }
    r->item[r->items++] = item;
}

static void take_header(struct replay *r, const struct way_jsonline *line)
{
    if (line->kind == WAY_JSONLINE_HEADER && (!r->runs || line->run != r->run)) {
        r->runs++;
        r->run = line->run;
    }
    if (!r->made_by[0])
        snprintf(r->made_by, sizeof r->made_by, "%s%s%s (%016llx)", line->name,
                 line->version[0] ? " " : "", line->version,
                 (unsigned long long)line->hash);
}

struct source {
    const char *file;
    FILE *f;
    char *text;
    size_t room;
    unsigned long number, bad; /* of lines; of one that may have been cut by a crash */
    struct way_err why;
};

static void tell_bad(struct replay *r, struct source *s)
{
    if (s->bad)
        fprintf(stderr, "wayside: %s:%lu: %s\n", s->file, s->bad, s->why.text);
    r->t->bad += s->bad != 0;
    s->bad = 0;
}

/* A bad line is a crash's where nothing, or a new header, follows it. */
static void take_line(struct replay *r, struct source *s, struct way_jsonline *line,
                      size_t n)
{
    struct way_err why;
    s->number++;
    if (way_jsonline_read(line, s->text, n, &why) < 0) {
        tell_bad(r, s);
        s->bad = s->number;
        s->why = why;
        return;
    }
    if (line->kind == WAY_JSONLINE_HEADER && s->bad) {
        r->t->cut++;
        s->bad = 0;
    }
    tell_bad(r, s);
    if (line->kind == WAY_JSONLINE_ENTRY && line->entry.shadow)
        r->t->shadow++;
    else if (line->kind == WAY_JSONLINE_ENTRY)
        keep(r, line);
    else
        take_header(r, line);
}

static int read_file(struct replay *r, const char *file, struct way_err *err)
{
    struct source s = { .file = file, .f = fopen(file, "re") };
    struct way_jsonline *line = way_zalloc(sizeof *line);
    ssize_t n;
    if (!s.f) {
        way_free(line);
        return way_fail(err, "%s: %s", file, strerror(errno));
    }
    errno = 0;
    while ((n = getline(&s.text, &s.room, s.f)) > 0)
        take_line(r, &s, line, (size_t)n);
    int failed = ferror(s.f) ? errno : 0;
    r->t->cut += s.bad != 0;
    fclose(s.f);
    free(s.text);
    way_jsonline_fini(line);
    way_free(line);
    return failed ? way_fail(err, "%s: %s", file, strerror(failed)) : 0;
}

static int compare(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

/* By commit; what committed nothing comes after the commit that it saw. */
static int in_order(const void *left, const void *right)
{
    const struct item *x = *(struct item *const *)left, *y = *(struct item *const *)right;
    const struct way_entry *a = &x->entry, *b = &y->entry;
    int c = compare(x->run, y->run);
    c = c ? c : compare(a->outcome.commit, b->outcome.commit);
    c = c ? c : compare(!a->outcome.published, !b->outcome.published);
    c = c ? c : (a->event.now > b->event.now) - (a->event.now < b->event.now);
    c = c ? c : compare(a->thread, b->thread);
    return c ? c : compare(a->seq, b->seq);
}

/* A sweep's seed is its own: its parts one behind the other, in the order they were asked in. */
static int by_sweep(const void *left, const void *right)
{
    const struct item *x = *(struct item *const *)left, *y = *(struct item *const *)right;
    const struct way_entry *a = &x->entry, *b = &y->entry;
    int c = compare(x->run, y->run);
    c = c ? c : compare(a->seed, b->seed);
    c = c ? c : compare(a->sweep_at, b->sweep_at);
    return c ? c : compare(a->seq, b->seq);
}

static void sort_sweeps(struct replay *r)
{
    r->part = way_alloc((r->items + 1) * sizeof(struct item *));
    for (size_t i = 0; i < r->items; i++)
        if (r->item[i]->entry.function == WAY_FN_TICK)
            r->part[r->parts++] = r->item[i];
    qsort(r->part, r->parts, sizeof(struct item *), by_sweep);
}

/* The sweep that an entry is of; *parts: how many of it there are. */
static struct item **sweep_of(const struct replay *r, const struct item *of,
                              size_t *parts)
{
    size_t from = 0, to = r->parts;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        const struct item *at = r->part[middle];
        int c = compare(at->run, of->run);
        c = c ? c : compare(at->entry.seed, of->entry.seed);
        if (c < 0)
            from = middle + 1;
        else
            to = middle;
    }
    for (to = from; to < r->parts && r->part[to]->run == of->run &&
                    r->part[to]->entry.seed == of->entry.seed;)
        to++;
    *parts = to - from;
    return r->part + from;
}

static int read_all(struct replay *r, struct way_err *err)
{
    for (unsigned i = 0; i < r->o->journals; i++)
        if (read_file(r, r->o->journal[i], err) < 0)
            return -1;
    if (!r->items)
        return way_fail(err, "%s: holds no entry of a journal", r->o->journal[0]);
    qsort(r->item, r->items, sizeof(struct item *), in_order);
    sort_sweeps(r);
    r->t->entries = r->items;
    return 0;
}

/* ---- one entry asked again ---- */

struct answer {
    struct way_mark mark;
    struct way_retry retry;
    struct way_probe probe;
    struct way_redial redial;
};

static enum way_asked put(struct way_policy *p, const struct way_entry *e,
                          const struct way_view *view, const struct way_event *event,
                          struct way_memory *m, struct answer *out)
{
    switch (e->function) {
    case WAY_FN_MARK: return way_policy_mark(p, view, event, e->seed, m, &out->mark);
    case WAY_FN_BACKOFF:
        return way_policy_backoff(p, view, event, e->seed, m, &out->retry);
    case WAY_FN_PROBE: return way_policy_probe(p, view, event, e->seed, m, &out->probe);
    default: return way_policy_reconnect(p, view, event, e->seed, m, &out->redial);
    }
}

static void put_fallback(const struct way_entry *e, const struct way_view *view,
                         const struct way_event *event, struct answer *out)
{
    memset(out, 0, sizeof *out);
    if (e->function == WAY_FN_MARK)
        way_fallback_mark(view, event, &out->mark);
    else if (e->function == WAY_FN_BACKOFF)
        way_fallback_backoff(view, event, &out->retry);
    else if (e->function == WAY_FN_PROBE)
        way_fallback_probe(view, event, &out->probe);
}

static bool same_mark(const struct way_mark *a, const struct way_mark *b)
{
    unsigned has = a->has;
    return a->given == b->given && a->has == b->has &&
           (!(has & WAY_MARK_STATE) || a->state == b->state) &&
           (!(has & WAY_MARK_SECONDS) || a->seconds == b->seconds) &&
           (!(has & WAY_MARK_TRIALS) || a->trials == b->trials) &&
           (!(has & WAY_MARK_WEIGHT) || a->weight == b->weight) &&
           (!(has & WAY_MARK_RAMP) || a->ramp == b->ramp) &&
           (!(has & WAY_MARK_SHED) || a->shed == b->shed) &&
           (!(has & WAY_MARK_CONNECTIONS) || a->connections == b->connections) &&
           (!(has & WAY_MARK_REFRESH) || a->refresh == b->refresh) &&
           (!(has & WAY_MARK_REASON) || !strcmp(a->reason, b->reason));
}

static bool same_retry(const struct way_retry *a, const struct way_retry *b)
{
    return a->kind == b->kind && a->after == b->after && a->within == b->within &&
           a->over == b->over && a->stale_reads == b->stale_reads &&
           a->unknown_writes == b->unknown_writes;
}

static bool same_probe(const struct way_probe *a, const struct way_probe *b)
{
    return a->given == b->given && a->after == b->after && a->timeout == b->timeout &&
           a->pooled == b->pooled && a->words == b->words &&
           (!a->words || !memcmp(a->command, b->command, sizeof a->command));
}

static bool same_redial(const struct way_redial *a, const struct way_redial *b)
{
    return a->given == b->given && a->after == b->after && a->timeout == b->timeout;
}

static bool same_answer(const struct way_entry *e, const struct answer *a)
{
    switch (e->function) {
    case WAY_FN_TICK:
    case WAY_FN_MARK: return same_mark(&e->mark, &a->mark);
    case WAY_FN_BACKOFF: return same_retry(&e->retry, &a->retry);
    case WAY_FN_PROBE: return same_probe(&e->probe, &a->probe);
    default: return same_redial(&e->redial, &a->redial);
    }
}

static bool same_memory(struct way_layout_of l, const struct way_memory *a,
                        const struct way_memory *b)
{
    return !memcmp(a->node, b->node, l.node * sizeof(double)) &&
           !memcmp(a->shard, b->shard, l.shard * sizeof(double)) &&
           !memcmp(a->cluster, b->cluster, l.cluster * sizeof(double));
}

/* What is given instead, in words; the answer stands in `again`. */
static void tell_answer(const struct way_entry *e, const struct answer *a,
                        const char *where, char *out, size_t n)
{
    struct way_entry again = { .function = e->function,
                               .mark = a->mark,
                               .retry = a->retry,
                               .probe = a->probe,
                               .redial = a->redial };
    char before[256], now[256];
    way_entry_verdict(e, before, sizeof before);
    way_entry_verdict(&again, now, sizeof now);
    snprintf(out, n, "recorded \"%s\" (%s), now \"%s\" (%s)%s", before, e->where, now,
             where, strcmp(before, now) ? "" : ", which differs in what is not shown");
}

static bool is_comparable(const struct way_entry *e, const struct way_input *in)
{
    return e->function >= WAY_FN_MARK && e->function <= WAY_FN_RECONNECT && e->asking &&
           !e->by_operator && e->input.n && !in->answer_cut &&
           e->cause != WAY_CAUSE_DEADLINE;
}

/* An event's class as the policy would give it; only what mark heard is as it was then. */
static bool same_class(struct way_policy *p, const struct way_entry *e,
                       struct way_event *event, char *differs, size_t bytes)
{
    unsigned recorded = 0, classes = way_policy_plan(p)->classes;
    while (recorded < classes &&
           strcmp(way_policy_class_name(p, recorded), e->class_name))
        recorded++;
    event->class = (uint8_t)recorded;
    if (e->function != WAY_FN_MARK || e->cause == WAY_CAUSE_ASIDE)
        return true;
    struct way_event again = *event;
    (void)way_policy_classify(p, &again);
    if (again.class == event->class && again.blame == event->blame &&
        again.permanent == event->permanent)
        return true;
    snprintf(differs, bytes, "recorded class %s (%s), now %s (%s)", e->class_name,
             way_blame_name(event->blame), way_policy_class_name(p, again.class),
             way_blame_name(again.blame));
    return false;
}

bool way_replay_ask(struct way_policy *p, const struct way_entry *e,
                    const struct way_input *in, char *differs, size_t bytes)
{
    struct way_event event = e->event;
    struct way_memory m = in->view.memory;
    struct answer answer;
    enum way_asked how = WAY_ASKED_ABSENT;
    enum way_cause cause = WAY_CAUSE_ASIDE;
    differs[0] = 0;
    if (!is_comparable(e, in))
        return false;
    event.answer = in->answer;
    if (!same_class(p, e, &event, differs, bytes))
        return true;
    memset(&answer, 0, sizeof answer);
    if (e->cause != WAY_CAUSE_ASIDE) {
        how = put(p, e, &in->view, &event, &m, &answer);
        cause = how == WAY_ASKED_ANSWERED ? WAY_CAUSE_NONE
                : how == WAY_ASKED_ABSENT ? WAY_CAUSE_ABSENT
                                          : way_policy_failure_cause(p);
    }
    if (how != WAY_ASKED_ANSWERED)
        put_fallback(e, &in->view, &event, &answer);
    if (cause != (enum way_cause)e->cause)
        snprintf(differs, bytes, "recorded cause of failure %s, now %s",
                 way_cause_name(e->cause), way_cause_name(cause));
    else if (!same_answer(e, &answer))
        tell_answer(e, &answer,
                    how == WAY_ASKED_ANSWERED ? way_policy_where(p) : "fallback", differs,
                    bytes);
    else if (!same_memory(in->layout, &m, &in->after))
        snprintf(differs, bytes, "the same answer, but other memory afterwards");
    return true;
}

/* ---- a sweep asked again ---- */

struct sweeping {
    struct item *const *part;
    size_t parts;
    struct way_input *in; /* [parts], as the next ones */
    struct way_snapshot *seen;
    struct way_proposal *proposal;
};

/* All of it, each part with its input; false: that can't be asked as it was. */
static bool gather(struct sweeping *s)
{
    for (size_t i = 0; i < s->parts; i++) {
        const struct way_entry *e = &s->part[i]->entry;
        if (e->sweep_at != i || e->sweep_of != s->parts || !e->asking ||
            e->cause == WAY_CAUSE_DEADLINE || !way_input_unpack(e, &s->in[i]))
            return false;
        s->seen[i].view = s->in[i].view;
        s->seen[i].now = e->event.now;
        s->proposal[i].memory = s->in[i].view.memory;
    }
    return true;
}

static void compare_part(const struct sweeping *s, size_t i, enum way_cause cause,
                         const char *where, char *differs, size_t bytes)
{
    const struct way_entry *e = &s->part[i]->entry;
    struct answer answer = { .mark = s->proposal[i].mark };
    differs[0] = 0;
    if (cause != (enum way_cause)e->cause)
        snprintf(differs, bytes, "recorded cause of failure %s, now %s",
                 way_cause_name(e->cause), way_cause_name(cause));
    else if (!same_answer(e, &answer))
        tell_answer(e, &answer, where, differs, bytes);
    else if (!same_memory(s->in[i].layout, &s->proposal[i].memory, &s->in[i].after))
        snprintf(differs, bytes, "the same answer, but other memory afterwards");
}

static void differ(struct replay *r, const struct way_entry *e, const char *text);

static void put_sweep(struct replay *r, struct sweeping *s)
{
    const struct way_entry *first = &s->part[0]->entry;
    struct way_event event = first->event;
    struct way_sweep ask = { (unsigned)s->parts, s->seen, s->proposal };
    char differs[768];
    event.class = WAY_CLASS_OK;
    enum way_asked how = way_policy_tick(r->policy, &ask, &event, first->seed);
    enum way_cause cause = how == WAY_ASKED_ANSWERED ? WAY_CAUSE_NONE
                           : how == WAY_ASKED_ABSENT
                               ? WAY_CAUSE_ABSENT
                               : way_policy_failure_cause(r->policy);
    for (size_t i = 0; i < s->parts; i++) {
        if (cause != WAY_CAUSE_NONE)
            s->proposal[i] = (struct way_proposal){ .memory = s->in[i].view.memory };
        r->t->asked++;
        r->of_function[WAY_FN_TICK]++;
        compare_part(s, i, cause, way_policy_where(r->policy), differs, sizeof differs);
        if (differs[0])
            differ(r, &s->part[i]->entry, differs);
    }
}

/* With the first of its entries that comes; the others are answered by that. */
static void sweep_again(struct replay *r, const struct item *of)
{
    struct sweeping s;
    if (of->swept)
        return;
    if (!of->entry.sweep_of) {
        r->uncomparable++;
        return;
    }
    s.part = sweep_of(r, of, &s.parts);
    for (size_t i = 0; i < s.parts; i++)
        s.part[i]->swept = true;
    if (s.parts != of->entry.sweep_of || s.parts > WAY_NODES_MAX) {
        r->uncomparable += s.parts;
        return;
    }
    s.in = way_alloc(s.parts * sizeof *s.in);
    s.seen = way_zalloc(s.parts * sizeof *s.seen);
    s.proposal = way_zalloc(s.parts * sizeof *s.proposal);
    if (gather(&s))
        put_sweep(r, &s);
    else
        r->uncomparable += s.parts;
    way_free(s.proposal);
    way_free(s.seen);
    way_free(s.in);
}

/* ---- states over time ---- */

static struct states *states_of(struct replay *r, const char *address)
{
    for (unsigned i = 0; i < r->nodes; i++)
        if (!strcmp(r->node[i].address, address))
            return &r->node[i];
    r->node = way_realloc(r->node, (r->nodes + 1) * sizeof *r->node);
    struct states *s = &r->node[r->nodes++];
    memset(s, 0, sizeof *s);
    snprintf(s->address, sizeof s->address, "%.63s", address);
    s->recorded.since = s->own.since = r->began;
    return s;
}

static void stay(struct side *s, double until)
{
    s->seconds[s->state] += until > s->since ? until - s->since : 0;
    s->since = until > s->since ? until : s->since;
}

static void step(struct replay *r, const struct way_entry *e, bool own)
{
    struct states *s = states_of(r, e->address);
    struct side *side = own ? &s->own : &s->recorded;
    stay(side, e->event.now);
    side->state = (uint8_t)e->outcome.to;
    fprintf(r->o->out, "%+.6f %s %s: %s -> %s%s%s (%s)\n", e->event.now - r->began,
            e->address, own ? "now" : "recorded", way_state_name(e->outcome.from),
            way_state_name(e->outcome.to), e->mark.reason[0] ? " " : "", e->mark.reason,
            e->where);
}

static void on_own_change(void *arg, const struct way_entry *e)
{
    step(arg, e, true);
}

static void note_recorded(struct replay *r, const struct way_entry *e)
{
    if (e->address[0])
        states_of(r, e->address);
    if (way_entry_marks(e) && e->outcome.changed && e->address[0])
        step(r, e, false);
}

/* ---- differences ---- */

static void tell_event(struct replay *r, const struct way_entry *e)
{
    const struct way_event *v = &e->event;
    fprintf(r->o->out, "%+.6f %s %s", v->now - r->began, e->address, way_entry_kind(e));
    if (v->error != WAY_ERROR_NONE)
        fprintf(r->o->out, " %s %s %s", way_phase_name(v->phase), way_step_name(v->step),
                way_error_name(v->error));
}

static void differ(struct replay *r, const struct way_entry *e, const char *text)
{
    tell_event(r, e);
    fprintf(r->o->out, ": %s: %s\n", way_function_name(e->function), text);
    r->t->differences++;
    r->differing[e->function]++;
}

static void ask_again(struct replay *r, const struct item *item)
{
    const struct way_entry *e = &item->entry;
    struct way_input in;
    char differs[768];
    (void)way_input_unpack(e, &in);
    if (e->function >= WAY_FN_NONE || e->by_operator || !strcmp(e->where, "host"))
        return;
    if (e->policy != way_policy_plan(r->policy)->layout.hash) {
        r->of_others++;
        return;
    }
    if (e->function == WAY_FN_TICK) {
        sweep_again(r, item);
        return;
    }
    if (!way_replay_ask(r->policy, e, &in, differs, sizeof differs)) {
        r->uncomparable++;
        return;
    }
    r->t->asked++;
    r->of_function[e->function]++;
    if (differs[0])
        differ(r, e, differs);
}

static void compare_lives(struct replay *r, const struct way_entry *e,
                          const struct way_entry *own)
{
    char before[256], now[256], text[768];
    r->t->asked++;
    r->of_function[e->function]++;
    way_entry_verdict(e, before, sizeof before);
    way_entry_verdict(own, now, sizeof now);
    if (!strcmp(before, now) && e->outcome.to == own->outcome.to)
        return;
    snprintf(text, sizeof text, "recorded \"%s\" (%s, %s), now \"%s\" (%s, %s)", before,
             e->where[0] ? e->where : "nobody", way_state_name(e->outcome.to), now,
             own->where[0] ? own->where : "nobody", way_state_name(own->outcome.to));
    differ(r, e, text);
}

/* A recorded sweep is the policy's own where its own is due by then. */
static void live_sweep(struct replay *r, struct way_world *w, const struct item *of)
{
    size_t parts;
    struct item *const *part = sweep_of(r, of, &parts);
    struct way_input in;
    if (of->swept)
        return;
    if (!of->entry.sweep_of) { /* a journal from before they had their input */
        r->off_beat++;
        return;
    }
    for (size_t i = 0; i < parts; i++) {
        part[i]->swept = true;
        if (way_input_unpack(&part[i]->entry, &in))
            way_world_know(w, &part[i]->entry, &in);
    }
    if (!way_world_sweep(w, &of->entry)) {
        r->off_beat += parts;
        return;
    }
    for (size_t i = 0; i < parts; i++) {
        const struct way_entry *own = way_world_swept(w, part[i]->entry.address);
        if (own)
            compare_lives(r, &part[i]->entry, own);
    }
}

static void live_again(struct replay *r, struct way_world *w, const struct item *item)
{
    const struct way_entry *e = &item->entry;
    struct way_input in;
    if (e->function == WAY_FN_TICK) {
        live_sweep(r, w, item);
        return;
    }
    bool has = way_input_unpack(e, &in);
    const struct way_entry *own = way_world_live(w, e, has ? &in : NULL);
    if (own)
        compare_lives(r, e, own);
}

/* ---- a run ---- */

static void progress(struct replay *r, size_t i, double started)
{
    if (!r->o->progress || i % EVERY)
        return;
    double now = way_clock();
    if (now - started < 1 || now - r->told < 1)
        return;
    r->told = now;
    fprintf(stderr, "wayside: replayed %zu of %zu entries\n", i, r->items);
}

/* Numbers that no entry has: commits of other processes, of topology changes' marks, or
 * entries that were lost. */
static void count_gap(struct replay *r, const struct way_entry *e, uint64_t *last)
{
    if (!e->outcome.published)
        return;
    if (*last && e->outcome.commit > *last + 1)
        r->lost += e->outcome.commit - *last - 1;
    *last = e->outcome.commit;
}

static struct way_world *open_world(struct replay *r, size_t from, size_t to,
                                    struct way_err *err)
{
    struct way_world *w;
    if (way_world_new(&w, r->o->text, r->o->limits, on_own_change, r, err) < 0)
        return NULL;
    for (size_t i = from; i < to; i++) {
        struct way_input in;
        if (way_input_unpack(&r->item[i]->entry, &in))
            way_world_node(w, &in.view);
    }
    if (way_world_open(w, r->began, err) < 0) {
        way_world_free(w);
        return NULL;
    }
    for (size_t i = from; i < to; i++)
        if (r->item[i]->entry.function == WAY_FN_TICK) {
            way_world_beat(w, &r->item[i]->entry);
            break;
        }
    return w;
}

static void tell_states(struct replay *r)
{
    for (unsigned i = 0; i < r->nodes; i++) {
        struct states *s = &r->node[i];
        stay(&s->recorded, r->ended);
        stay(&s->own, r->ended);
        fprintf(r->o->out, "node %s:", s->address);
        for (unsigned state = 0; state < WAY_STATE_COUNT; state++) {
            if (r->evolved &&
                (s->recorded.seconds[state] > 0 || s->own.seconds[state] > 0))
                fprintf(r->o->out, " %s %.3f s, now %.3f s;", way_state_name(state),
                        s->recorded.seconds[state], s->own.seconds[state]);
            else if (!r->evolved && s->recorded.seconds[state] > 0)
                fprintf(r->o->out, " %s %.3f s;", way_state_name(state),
                        s->recorded.seconds[state]);
        }
        fputs("\n", r->o->out);
    }
    way_free(r->node);
    r->node = NULL;
    r->nodes = 0;
}

static int replay_run(struct replay *r, size_t from, size_t to, double started,
                      struct way_err *err)
{
    struct way_world *w = NULL;
    uint64_t last = 0;
    r->began = r->ended = r->item[from]->entry.event.now;
    for (size_t i = from; i < to; i++) {
        double now = r->item[i]->entry.event.now;
        r->began = now < r->began ? now : r->began;
        r->ended = now > r->ended ? now : r->ended;
    }
    if (r->evolved && !(w = open_world(r, from, to, err)))
        return -1;
    for (size_t i = from; i < to; i++) {
        const struct way_entry *e = &r->item[i]->entry;
        progress(r, i, started);
        count_gap(r, e, &last);
        note_recorded(r, e);
        if (r->evolved)
            live_again(r, w, r->item[i]);
        else
            ask_again(r, r->item[i]);
    }
    if (w)
        way_world_until(w, r->ended);
    way_world_free(w);
    tell_states(r);
    return 0;
}

/* ---- the whole ---- */

static void tell_totals(const struct replay *r)
{
    FILE *out = r->o->out;
    fprintf(out, "%zu entries in %u run%s, made by %s\n", r->items, r->runs,
            r->runs == 1 ? "" : "s", r->made_by[0] ? r->made_by : "an unknown policy");
    fprintf(out, "%llu asked, %s:", (unsigned long long)r->t->asked,
            r->evolved ? "states and memory the policy's own" : "each as it was asked");
    for (unsigned f = 0; f <= WAY_FN_NONE; f++)
        if (r->of_function[f])
            fprintf(out, " %s %llu", way_function_name(f),
                    (unsigned long long)r->of_function[f]);
    fputs("\n", out);
    if (r->uncomparable)
        fprintf(out,
                "%llu could not be asked as they were: ended by the wall deadline, or "
                "a part of their input was too long to be kept, or is not here\n",
                (unsigned long long)r->uncomparable);
    if (r->off_beat)
        fprintf(out, "%llu of sweeps (tick) when this policy had none due\n",
                (unsigned long long)r->off_beat);
    if (r->of_others)
        fprintf(out, "%llu were asked of another policy\n",
                (unsigned long long)r->of_others);
    if (r->lost)
        fprintf(out, "%llu commits have no entry here: other processes', or lost\n",
                (unsigned long long)r->lost);
    if (r->t->cut)
        fprintf(out, "%llu line%s cut short by a crash\n", (unsigned long long)r->t->cut,
                r->t->cut == 1 ? "" : "s");
    if (r->t->shadow)
        fprintf(out, "%llu line%s of a shadow's differences left out\n",
                (unsigned long long)r->t->shadow, r->t->shadow == 1 ? "" : "s");
    if (r->t->bad)
        fprintf(out, "%llu bad line%s\n", (unsigned long long)r->t->bad,
                r->t->bad == 1 ? "" : "s");
    fprintf(out, "%llu differences", (unsigned long long)r->t->differences);
    for (unsigned f = 0; f <= WAY_FN_NONE; f++)
        if (r->differing[f])
            fprintf(out, "%s %s %llu", r->differing[f] && f ? "," : "",
                    way_function_name(f), (unsigned long long)r->differing[f]);
    fputs("\n", out);
}

/* As asked, where the policy was asked at all. */
static int choose_mode(struct replay *r, struct way_err *err)
{
    uint64_t hash = way_policy_plan(r->policy)->layout.hash;
    size_t same = 0;
    for (size_t i = 0; i < r->items; i++)
        same += r->item[i]->entry.policy == hash;
    r->evolved =
        r->o->mode == WAY_REPLAY_EVOLVED || (r->o->mode == WAY_REPLAY_AUTO && !same);
    if (same || r->evolved)
        return 0;
    return way_fail(
        err,
        "%s: made by %s, which is not this policy with these options (%016llx): "
        "its questions can't be asked again as they were",
        r->o->journal[0], r->made_by, (unsigned long long)hash);
}

static int replay(struct replay *r, struct way_err *err)
{
    double started = way_clock();
    if (read_all(r, err) < 0 || way_policy_load(&r->policy, r->o->text, err) < 0 ||
        choose_mode(r, err) < 0)
        return -1;
    for (size_t from = 0, to; from < r->items; from = to) {
        for (to = from; to < r->items && r->item[to]->run == r->item[from]->run;)
            to++;
        if (replay_run(r, from, to, started, err) < 0)
            return -1;
    }
    tell_totals(r);
    return 0;
}

int way_replay_run(const struct way_replay_options *o, struct way_replay_totals *totals,
                   struct way_err *err)
{
    struct replay r = { .o = o, .t = totals };
    *totals = (struct way_replay_totals){ 0 };
    int result = replay(&r, err);
    for (size_t i = 0; i < r.items; i++)
        way_free(r.item[i]);
    way_free(r.item);
    way_free(r.part);
    way_free(r.node);
    way_policy_free(r.policy);
    return result;
}
