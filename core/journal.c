/* journal - see journal.h.
 *
 * A ring of power-of-two size under two counters that only grow: the writer owns `head`,
 * the reader `tail`, each publishes its own with release and looks at the other's with
 * acquire. Each keeps the last value it saw of the other's beside its own, so that the
 * other's cache line is touched only when the ring looks full, or empty. A mutex and a
 * list would have been shorter, but the writer is a worker in the middle of a failure. */
#include "journal.h"

#include <stdio.h>

struct way_ring {
    uint64_t mask;
    struct way_entry *entry;
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
    r->entry = way_zalloc(size * sizeof *r->entry);
    return r;
}

void way_ring_free(struct way_ring *r)
{
    if (r)
        way_free(r->entry);
    way_free(r);
}

struct way_entry *way_ring_place(struct way_ring *r)
{
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (head - r->tail_seen > r->mask) {
        r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
        if (head - r->tail_seen > r->mask)
            return NULL;
    }
    return &r->entry[head & r->mask];
}

void way_ring_push(struct way_ring *r)
{
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
}

uint64_t way_ring_room(struct way_ring *r)
{
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
    return r->mask + 1 - (head - r->tail_seen);
}

const struct way_entry *way_ring_peek(struct way_ring *r)
{
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    if (tail == r->head_seen) {
        r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
        if (tail == r->head_seen)
            return NULL;
    }
    return &r->entry[tail & r->mask];
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

static void verdict_words(const struct way_entry *e, struct text *t)
{
    switch ((enum way_asked_function)e->function) {
    case WAY_FN_MARK:
    case WAY_FN_TICK: mark_words(&e->mark, t); break;
    case WAY_FN_BACKOFF: retry_words(&e->retry, t); break;
    case WAY_FN_PROBE: probe_words(&e->probe, t); break;
    case WAY_FN_CLASSIFY: put(t, "%s", e->class_name); break;
    case WAY_FN_RECONNECT: put(t, "%s", e->did[0] ? e->did : "nil"); break;
    case WAY_FN_ROUTE: break; /* asked per command, never journaled */
    case WAY_FN_NONE: put(t, "not asked"); break;
    }
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
    put(t, " kind=%s", way_kind_name(v->kind));
    if (v->kind == WAY_KIND_CHANGE)
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
        put(t, " bytes_written=%llu replies_read=%u",
            (unsigned long long)v->bytes_written, v->replies_read);
}

void way_entry_line(const struct way_entry *e, char *out, size_t n)
{
    static const char *const refusals[] = { "", "last_node", "share" };
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
    if (e->outcome.refused < way_count(refusals))
        put_value(&t, "refused", refusals[e->outcome.refused]);
    if (e->straggler)
        put(&t, " straggler=true");
    if (e->fallback)
        put(&t, " fallback=true");
}
