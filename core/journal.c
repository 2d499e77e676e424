/* journal - see journal.h.
 *
 * A ring of power-of-two size under two counters that only grow: the writer owns `head`,
 * the reader `tail`, each publishes its own with release and looks at the other's with
 * acquire. Each keeps the last value it saw of the other's beside its own, so that the
 * other's cache line is touched only when the ring looks full, or empty. A mutex and a
 * list would have been shorter, but the writer is a worker in the middle of a failure.
 *
 * Each place has a buffer for the packed input. It grows to what is needed when the place
 * is first used, and stays: a daemon that never saw a failure holds none. Packed are the
 * numbers as one struct, then texts and memory as far as they are used, in the byte order
 * of this machine: what leaves the process goes by jsonline.h. */
#include "journal.h"

#include <stdio.h>

struct place {
    struct way_entry entry;
    struct way_buf input;
};
struct way_ring {
    uint64_t mask;
    struct place *place;
    char apart_from_writer[48]; /* each side's words on a cache line of their own */
    _Atomic uint64_t head;      /* w: writer */
    uint64_t tail_seen;         /* writer's */
    char apart_from_reader[48];
    _Atomic uint64_t tail; /* w: reader */
    uint64_t head_seen;    /* reader's */
};

struct way_ring *way_ring_new(unsigned entries)
{
    uint64_t size = 1;
    while (size < entries)
        size *= 2;
    struct way_ring *r = way_zalloc(sizeof *r);
    r->mask = size - 1;
    r->place = way_zalloc(size * sizeof *r->place);
    return r;
}

void way_ring_free(struct way_ring *r)
{
    if (!r)
        return;
    for (uint64_t i = 0; i <= r->mask; i++)
        way_buf_fini(&r->place[i].input);
    way_free(r->place);
    way_free(r);
}

static struct place *next_place(struct way_ring *r)
{
    return &r->place[atomic_load_explicit(&r->head, memory_order_relaxed) & r->mask];
}

struct way_entry *way_ring_place(struct way_ring *r)
{
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (head - r->tail_seen > r->mask) {
        r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
        if (head - r->tail_seen > r->mask)
            return NULL;
    }
    struct place *p = &r->place[head & r->mask];
    way_buf_reset(&p->input);
    p->entry.input = (struct way_span){ NULL, 0 };
    return &p->entry;
}

struct way_buf *way_ring_input(struct way_ring *r)
{
    return &next_place(r)->input;
}

void way_ring_push(struct way_ring *r)
{
    struct place *p = next_place(r);
    p->entry.input = (struct way_span){ p->input.p, way_buf_held(&p->input) };
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
}

bool way_ring_put(struct way_ring *r, const struct way_entry *e)
{
    struct way_entry *place = way_ring_place(r);
    if (!place)
        return false;
    way_entry_copy(place, e);
    way_buf_put(way_ring_input(r), e->input.p, e->input.n);
    way_ring_push(r);
    return true;
}

uint64_t way_ring_room(struct way_ring *r)
{
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
    return r->mask + 1 - (head - r->tail_seen);
}

uint64_t way_ring_held(struct way_ring *r)
{
    r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
    return r->head_seen - atomic_load_explicit(&r->tail, memory_order_relaxed);
}

const struct way_entry *way_ring_peek(struct way_ring *r)
{
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    if (tail == r->head_seen) {
        r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
        if (tail == r->head_seen)
            return NULL;
    }
    return &r->place[tail & r->mask].entry;
}

void way_ring_pop(struct way_ring *r)
{
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
}

const char *way_function_name(unsigned fn)
{
    static const char *const words[] = { "classify",  "mark",  "backoff", "probe",
                                         "reconnect", "route", "tick",    "none" };
    return fn < way_count(words) ? words[fn] : "?";
}

const char *way_entry_kind(const struct way_entry *e)
{
    return e->by_operator ? "operator" : way_kind_name(e->event.kind);
}

static void copy_text(char *to, const char *from, size_t bytes)
{
    size_t n = strnlen(from, bytes - 1);
    memcpy(to, from, n);
    to[n] = 0;
}

/* Fields by their length: what texts do not use is not touched, nor is a probe that there
 * is none of. */
void way_entry_copy(struct way_entry *to, const struct way_entry *from)
{
    memcpy(to, from, offsetof(struct way_entry, address));
    copy_text(to->address, from->address, sizeof to->address);
    copy_text(to->where, from->where, sizeof to->where);
    copy_text(to->did, from->did, sizeof to->did);
    if (from->function == WAY_FN_PROBE)
        to->probe = from->probe;
    else
        to->probe.given = false;
}

/* --- the input, packed --- */

enum { TEXTS = 7 };
struct packed {
    uint16_t node, shard, port, text[TEXTS]; /* lengths */
    uint8_t role, has_replication, link_up, answer_cut, changed;
    struct way_layout_of layout;
    uint32_t generation, failures, answer;
    struct way_verdict verdict;
    double latency, last_io, behind;
    uint64_t inflight;
    struct way_counts of_shard, of_cluster;
};

static void pack_numbers(struct packed *p, const struct way_view *v)
{
    p->node = v->node;
    p->shard = v->shard;
    p->port = v->port;
    p->role = (uint8_t)v->role;
    p->has_replication = v->has_replication;
    p->link_up = v->link_up;
    p->generation = v->generation;
    p->failures = v->failures;
    p->verdict = v->verdict;
    p->latency = v->latency;
    p->last_io = v->last_io;
    p->behind = v->behind;
    p->inflight = v->inflight;
    p->of_shard = v->of_shard;
    p->of_cluster = v->of_cluster;
}

static void unpack_numbers(const struct packed *p, struct way_view *v)
{
    v->node = p->node;
    v->shard = p->shard;
    v->port = p->port;
    v->role = (enum way_role)p->role;
    v->has_replication = p->has_replication;
    v->link_up = p->link_up;
    v->generation = p->generation;
    v->failures = p->failures;
    v->verdict = p->verdict;
    v->latency = p->latency;
    v->last_io = p->last_io;
    v->behind = p->behind;
    v->inflight = p->inflight;
    v->of_shard = p->of_shard;
    v->of_cluster = p->of_cluster;
}

static size_t memory_bytes(struct way_layout_of l)
{
    return (size_t)(l.node + l.shard + l.cluster) * sizeof(double);
}

static char *put_doubles(char *to, const double *from, unsigned n)
{
    memcpy(to, from, n * sizeof *from);
    return to + n * sizeof *from;
}

static char *put_memory(char *to, struct way_layout_of l, const struct way_memory *m)
{
    to = put_doubles(to, m->node, l.node);
    to = put_doubles(to, m->shard, l.shard);
    return put_doubles(to, m->cluster, l.cluster);
}

static size_t counters_bytes(struct way_layout_of l)
{
    size_t n = 0;
    for (unsigned i = 0; i < WAY_COUNTER_SCOPES; i++)
        n += l.counters[i] * sizeof(struct way_counted);
    return n;
}

static char *put_counters(char *to, struct way_layout_of l, const struct way_view *v)
{
    for (unsigned i = 0; i < WAY_COUNTER_SCOPES; i++) {
        size_t n = l.counters[i] * sizeof(struct way_counted);
        memcpy(to, v->counted[i], n);
        to += n;
    }
    return to;
}

static const char *get_counters(const char *from, struct way_layout_of l,
                                struct way_view *v)
{
    for (unsigned i = 0; i < WAY_COUNTER_SCOPES; i++) {
        size_t n = l.counters[i] * sizeof(struct way_counted);
        memcpy(v->counted[i], from, n);
        from += n;
    }
    return from;
}

static bool same_memory(struct way_layout_of l, const struct way_memory *a,
                        const struct way_memory *b)
{
    return !memcmp(a->node, b->node, l.node * sizeof(double)) &&
           !memcmp(a->shard, b->shard, l.shard * sizeof(double)) &&
           !memcmp(a->cluster, b->cluster, l.cluster * sizeof(double));
}

void way_input_pack(struct way_buf *out, const struct way_view *view,
                    const struct way_memory *after, const struct way_layout *layout,
                    const unsigned counters[WAY_COUNTER_SCOPES], const char *policy,
                    const char *version, struct way_span answer)
{
    const char *text[TEXTS] = { view->id,   view->address, view->host, view->hostname,
                                view->zone, policy,        version };
    struct packed p = { .layout = { .node = (uint8_t)layout->node,
                                    .shard = (uint8_t)layout->shard,
                                    .cluster = (uint8_t)layout->cluster } };
    for (unsigned i = 0; i < WAY_COUNTER_SCOPES && counters; i++)
        p.layout.counters[i] = (uint8_t)counters[i];
    size_t n = sizeof p + 2 * memory_bytes(p.layout) + counters_bytes(p.layout);
    pack_numbers(&p, view);
    p.changed = !same_memory(p.layout, &view->memory, after);
    p.answer_cut = answer.n > WAY_ANSWER_KEPT;
    p.answer = (uint32_t)(p.answer_cut ? WAY_ANSWER_KEPT : answer.n);
    for (unsigned i = 0; i < TEXTS; i++)
        n += p.text[i] = (uint16_t)strlen(text[i]);
    way_buf_room(out, n + p.answer);
    char *at = out->p + out->len;
    memcpy(at, &p, sizeof p);
    at = put_memory(at + sizeof p, p.layout, &view->memory);
    if (p.changed)
        at = put_memory(at, p.layout, after);
    at = put_counters(at, p.layout, view);
    for (unsigned i = 0; i < TEXTS; at += p.text[i++])
        memcpy(at, text[i], p.text[i]);
    if (p.answer)
        memcpy(at, answer.p, p.answer);
    out->len = (size_t)(at - out->p) + p.answer;
}

static const char *get_doubles(const char *from, double *to, unsigned n)
{
    memcpy(to, from, n * sizeof *to);
    return from + n * sizeof *to;
}

static const char *get_memory(const char *from, struct way_layout_of l,
                              struct way_memory *m)
{
    from = get_doubles(from, m->node, l.node);
    from = get_doubles(from, m->shard, l.shard);
    return get_doubles(from, m->cluster, l.cluster);
}

bool way_input_unpack(const struct way_entry *e, struct way_input *out)
{
    struct packed p;
    memset(out, 0, sizeof *out);
    if (!e->input.n)
        return false;
    char *text[TEXTS] = { out->view.id,       out->view.address, out->view.host,
                          out->view.hostname, out->view.zone,    out->policy,
                          out->version };
    const char *at = e->input.p;
    memcpy(&p, at, sizeof p);
    unpack_numbers(&p, &out->view);
    out->layout = p.layout;
    at = get_memory(at + sizeof p, p.layout, &out->view.memory);
    if (p.changed)
        at = get_memory(at, p.layout, &out->after);
    else
        out->after = out->view.memory;
    at = get_counters(at, p.layout, &out->view);
    for (unsigned i = 0; i < TEXTS; at += p.text[i++])
        memcpy(text[i], at, p.text[i]);
    out->answer_cut = p.answer_cut;
    out->answer = (struct way_span){ p.answer ? at : NULL, p.answer };
    return true;
}

/* --- in words --- */

/* Text that grows in a fixed place; what does not fit is cut. */
struct text {
    char *p;
    size_t n, at;
};

static void put(struct text *t, const char *fmt, ...) WAY_PRINTF(2, 3);
static void put(struct text *t, const char *fmt, ...)
{
    if (t->at >= t->n)
        return;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->p + t->at, t->n - t->at, fmt, ap);
    va_end(ap);
    if (n > 0)
        t->at += (size_t)n;
}

static void mark_words(const struct way_mark *m, struct text *t)
{
    if (!m->given) {
        put(t, "nil");
        return;
    }
    put(t, "%s", m->has & WAY_MARK_STATE ? way_state_name(m->state) : "state kept");
    if (m->has & WAY_MARK_SECONDS)
        put(t, " %.4g s", m->seconds);
    if (m->has & WAY_MARK_TRIALS)
        put(t, " trials %u", m->trials);
    if (m->has & WAY_MARK_WEIGHT)
        put(t, " weight %.3g", m->weight);
    if (m->has & WAY_MARK_RAMP)
        put(t, " ramp %.4g s", m->ramp);
    if (m->has & WAY_MARK_SHED)
        put(t, " shed %.3g", m->shed);
    if (m->has & WAY_MARK_CONNECTIONS)
        put(t, " connections %s", way_connections_name(m->connections));
    if (m->has & WAY_MARK_REFRESH && m->refresh)
        put(t, " refresh");
    if (m->has & WAY_MARK_REASON && m->reason[0])
        put(t, " %s", m->reason);
}

static void retry_words(const struct way_retry *r, struct text *t)
{
    if (r->kind == WAY_RETRY_NONE) {
        put(t, "nil");
        return;
    }
    put(t, "retry %s", way_retry_name(r->kind));
    if (r->after > 0)
        put(t, " after %.4g s", r->after);
    if (r->kind == WAY_RETRY_HOLD && r->within >= 0)
        put(t, " within %.4g s", r->within);
    if (r->stale_reads)
        put(t, " stale_reads");
    if (r->unknown_writes)
        put(t, " unknown_writes");
}

static void probe_words(const struct way_probe *p, struct text *t)
{
    if (!p->given) {
        put(t, "nil");
        return;
    }
    put(t, p->words ? "probe" : "probe data");
    size_t at = 0;
    for (unsigned i = 0; i < p->words && at < sizeof p->command; i++) {
        size_t word = strnlen(p->command + at, sizeof p->command - at);
        put(t, " %.*s", (int)word, &p->command[at]);
        at += word + 1;
    }
    put(t, " after %.4g s", p->after);
    if (p->timeout > 0)
        put(t, " timeout %.4g s", p->timeout);
    if (p->pooled)
        put(t, " pooled");
}

static void redial_words(const struct way_redial *r, struct text *t)
{
    if (!r->given) {
        put(t, "nil");
        return;
    }
    put(t, "dial after %.4g s", r->after);
    if (r->timeout > 0)
        put(t, " timeout %.4g s", r->timeout);
}

static void verdict_words(const struct way_entry *e, struct text *t)
{
    switch ((enum way_asked_function)e->function) {
    case WAY_FN_MARK:
    case WAY_FN_TICK: mark_words(&e->mark, t); break;
    case WAY_FN_BACKOFF: retry_words(&e->retry, t); break;
    case WAY_FN_PROBE: probe_words(&e->probe, t); break;
    case WAY_FN_CLASSIFY: put(t, "%s", e->class_name); break;
    case WAY_FN_RECONNECT: redial_words(&e->redial, t); break;
    case WAY_FN_ROUTE: put(t, "%s", e->did); break; /* only of differences */
    case WAY_FN_NONE: put(t, "not asked"); break;
    }
}

const char *way_entry_shadow_name(unsigned v)
{
    static const char *const names[] = { "", "candidate", "previous", "in_charge" };
    return v < way_count(names) ? names[v] : "?";
}

void way_entry_verdict(const struct way_entry *e, char *out, size_t n)
{
    struct text t = { out, n, 0 };
    if (n)
        out[0] = 0;
    verdict_words(e, &t);
}

/* A logfmt value: quoted where it must be; what a log can't bear becomes a dot. */
static void put_value(struct text *t, const char *name, const char *value)
{
    if (!value[0])
        return;
    if (!strpbrk(value, " \"=\t")) {
        put(t, " %s=%s", name, value);
        return;
    }
    put(t, " %s=\"", name);
    for (const char *c = value; *c; c++) {
        if (*c == '"' || *c == '\\')
            put(t, "\\%c", *c);
        else
            put(t, "%c", (unsigned char)*c < 32 ? '.' : *c);
    }
    put(t, "\"");
}

static void put_event(struct text *t, const struct way_entry *e)
{
    const struct way_event *v = &e->event;
    put(t, " kind=%s", way_entry_kind(e));
    if (v->kind == WAY_KIND_CHANGE && !e->by_operator)
        put(t, " change=%s", way_change_name(v->change));
    if (v->kind == WAY_KIND_EDGE)
        put(t, " counter=%s", v->counter);
    if (v->error != WAY_ERROR_NONE)
        put(t, " phase=%s step=%s error=%s", way_phase_name(v->phase),
            way_step_name(v->step), way_error_name(v->error));
    if (v->errnum)
        put(t, " errno=%d", v->errnum);
    put_value(t, "message", v->message);
    put_value(t, "class", e->class_name);
    if (v->error != WAY_ERROR_NONE)
        put(t, " blame=%s n=%u", way_blame_name(v->blame), v->n);
    if (v->has_certainty)
        put(t, " certainty=%s", way_certainty_name(v->certainty));
    if (v->kind == WAY_KIND_COMMANDS)
        put(t, " commands=%s attempt=%u", way_commands_name(v->commands), v->attempt);
    if (v->error != WAY_ERROR_NONE && v->kind == WAY_KIND_CONNECTION)
        put(t, " bytes_written=%llu replies_read=%u%s",
            (unsigned long long)v->bytes_written, v->replies_read,
            v->reused ? " reused=true" : "");
}

void way_entry_line(const struct way_entry *e, char *out, size_t n)
{
    struct text t = { out, n, 0 };
    char verdict[256];
    if (n)
        out[0] = 0;
    put(&t, e->thread == WAY_NONE ? "thread=control" : "thread=%u", e->thread);
    put_value(&t, "node", e->address);
    put_event(&t, e);
    put(&t, " function=%s", way_function_name(e->function));
    way_entry_verdict(e, verdict, sizeof verdict);
    put_value(&t, "verdict", verdict);
    put_value(&t, "where", e->where);
    put_value(&t, "did", e->did);
    if (way_entry_marks(e) && e->outcome.changed)
        put(&t, " from=%s to=%s", way_state_name(e->outcome.from),
            way_state_name(e->outcome.to));
    put_value(&t, "refused", way_refusal_name(e->outcome.refused));
    if (e->straggler)
        put(&t, " straggler=true");
    if (e->fallback)
        put(&t, " fallback=true");
}
