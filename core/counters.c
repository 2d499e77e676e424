/* counters - see counters.h. The words of each kind, in its block:
 *
 *   consecutive  the row
 *   window       a word per bucket: stamp 20 bits, failed 22, volume 22
 *   ring         volume 32 and position 32; then a bit per result
 *   ewma         time of the last result; value; volume
 *   tokens       time of the last refill; tokens
 *   samples      volume 32 and position 32; then a float per sample, two in a word
 *   edge         odd: it came true and was told. Counts, so that an old look can't undo
 *
 * A double that begins at b is kept as its bits exclusive-or those of b: so zeros are b.
 *
 * Several words of a counter never depend on each other for making sense. A ring's writer
 * takes its places by one swap and then fills them: killed between, the places keep what was
 * there. An average's writer takes the time since the last one by one swap and then moves the
 * value by the weight of that time: killed between, one result is lost.
 *
 * Rejected: value and time packed as two 32-bit halves (a float forgets a token's hundredth,
 * and 32 bits of time come round: what is long idle would look fresh); a cell per worker
 * and a sum on reading (a report costs tens of nanoseconds, once per pass; a reader would
 * pay for 128 rows). */
#include "counters.h"

#include <math.h>
#include <stdio.h>

#define RELAXED memory_order_relaxed

static const char *const kind_names[] = { "consecutive", "window", "ring",
                                          "ewma",        "tokens", "samples" };
static const char *const of_names[] = { "results", "requests", "retries", "failed",
                                        "latency" };
static const char *const edge_names[] = { "none", "at_least", "above", "below" };

const char *way_counter_kind_name(unsigned v)
{
    return v < way_count(kind_names) ? kind_names[v] : "?";
}

const char *way_counter_of_name(unsigned v)
{
    return v < way_count(of_names) ? of_names[v] : "?";
}

const char *way_counter_edge_name(unsigned v)
{
    return v < way_count(edge_names) ? edge_names[v] : "?";
}

double way_decay(double x)
{
    unsigned squarings = 0;
    if (x > 40)
        return 0;
    for (; x > 0.01; squarings++)
        x /= 2;
    double r = 1 - x + x * x / 2 - x * x * x / 6;
    while (squarings--)
        r *= r;
    return r;
}

/* ---- layout ---- */

unsigned way_counters_room(enum way_counter_scope scope)
{
    return scope == WAY_COUNTERS_NODE    ? WAY_NODE_COUNTER_WORDS
           : scope == WAY_COUNTERS_SHARD ? WAY_SHARD_COUNTER_WORDS
                                         : WAY_CLUSTER_COUNTER_WORDS;
}

static unsigned words_of(const struct way_counter *c)
{
    switch (c->kind) {
    case WAY_COUNTER_WINDOW: return c->size;
    case WAY_COUNTER_RING: return 1 + (c->size + 63) / 64;
    case WAY_COUNTER_EWMA: return 3;
    case WAY_COUNTER_TOKENS: return 2;
    case WAY_COUNTER_SAMPLES: return 1 + (c->size + 1) / 2;
    default: return 1;
    }
}

int way_counters_add(struct way_counters_layout *l, enum way_counter_scope scope,
                     const struct way_counter *c, struct way_err *err)
{
    unsigned words = words_of(c) + (c->edge != WAY_EDGE_NONE);
    unsigned used = l->words[scope], room = way_counters_room(scope);
    if (l->count[scope] == WAY_COUNTERS_MAX)
        return way_fail(err, "more than %d counters of one scope", WAY_COUNTERS_MAX);
    if (words > room - used)
        return way_fail(err, "needs %zu bytes, of %zu that its scope has %zu are left",
                        words * sizeof(uint64_t), room * sizeof(uint64_t),
                        (room - used) * sizeof(uint64_t));
    struct way_counter *out = &l->counter[scope][l->count[scope]++];
    memcpy(out, c, sizeof *out); /* with its padding: it is hashed and compared */
    out->word = used;
    out->edge_word = c->edge != WAY_EDGE_NONE ? used + words - 1 : 0;
    l->words[scope] = used + words;
    l->all++;
    return 0;
}

/* ---- words ---- */

static uint64_t load(const _Atomic uint64_t *w)
{
    return atomic_load_explicit(w, RELAXED);
}

static bool swap(_Atomic uint64_t *w, uint64_t *old, uint64_t next)
{
    return atomic_compare_exchange_weak_explicit(w, old, next, RELAXED, RELAXED);
}

static uint64_t bits_of(double d)
{
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits)
{
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* ---- what a report is to a counter ---- */

enum sort { NOTHING, FINE, BAD, OTHER, STRANGE };

/* FINE: a success. BAD: what is to be counted. OTHER: it blames the node, and is not. */
struct share {
    enum sort sort;
    uint32_t n;
};

static bool in_phase(const struct way_counter *c, enum way_phase phase)
{
    return !c->phases || c->phases & 1u << phase;
}

static bool counts_successes(const struct way_counter *c)
{
    return c->named && c->classes & 1u << WAY_CLASS_OK;
}

static struct share share_of_good(const struct way_counter *c, const struct way_report *r)
{
    struct share s = { NOTHING, c->events && r->good ? 1 : r->good };
    if (!s.n)
        return s;
    bool slow = c->slower > 0 && r->latency > c->slower && in_phase(c, WAY_PHASE_READ);
    s.sort = slow || counts_successes(c) ? BAD : FINE;
    return s;
}

static struct share share_of_failure(const struct way_counter *c,
                                     const struct way_report *r)
{
    struct share s = { NOTHING, c->events || !r->failed ? 1 : r->failed };
    if (!r->failure || r->class == WAY_CLASS_IGNORE)
        return s;
    bool counted =
        c->named ? c->classes >> (r->class & 63) & 1 : r->blame == WAY_BLAME_NODE;
    if (counted && in_phase(c, r->phase))
        s.sort = BAD;
    else
        s.sort = r->blame == WAY_BLAME_NODE ? OTHER : STRANGE;
    return s;
}

void way_report_failure(struct way_report *r, const struct way_event *e)
{
    r->now = e->now;
    r->failure = true;
    r->failed = e->n;
    r->class = e->class;
    r->blame = e->blame;
    r->phase = e->phase;
    if (e->kind == WAY_KIND_CONNECTION)
        r->requests += e->n; /* of replies, who read them tells */
}

/* ---- consecutive ---- */

static void row_add(const struct way_counter *c, _Atomic uint64_t *w, struct share s)
{
    bool ends = s.sort == FINE ||
                (s.sort == OTHER && (c->strict || counts_successes(c))) ||
                (s.sort == STRANGE && c->strict);
    if (s.sort == BAD)
        atomic_fetch_add_explicit(w, s.n, RELAXED);
    else if (ends && load(w))
        atomic_store_explicit(w, 0, RELAXED);
}

/* ---- window ---- */

enum { STAMP_SHIFT = 44, FAILED_SHIFT = 22 };
static const uint64_t stamp_mask = 0xfffff, figure_mask = 0x3fffff;

static uint64_t bucket_number(const struct way_counter *c, double now)
{
    double number = now / c->seconds + 1e-9;
    return number > 0 && number < 1e18 ? (uint64_t)number : 0;
}

/* A worker's clock may be a little behind another's: what is just ahead is of now. */
static bool is_ahead(const struct way_counter *c, uint64_t stamp, uint64_t now)
{
    uint64_t ahead = (stamp - now) & stamp_mask;
    return ahead && ahead <= 2 * (uint64_t)c->size;
}

static uint64_t bucket_add(uint64_t stamp, uint64_t failed, uint64_t volume, uint32_t bad,
                           uint32_t all)
{
    failed += bad;
    volume += all;
    while (volume > figure_mask) { /* the share stays what it is */
        failed /= 2;
        volume /= 2;
    }
    return stamp << STAMP_SHIFT | failed << FAILED_SHIFT | volume;
}

static void window_add(const struct way_counter *c, _Atomic uint64_t *w, double now,
                       uint32_t bad, uint32_t all)
{
    uint64_t number = bucket_number(c, now), next;
    _Atomic uint64_t *bucket = w + number % c->size;
    uint64_t old = load(bucket);
    number &= stamp_mask;
    if (!all)
        return;
    do {
        uint64_t stamp = old >> STAMP_SHIFT;
        if (old && (stamp == number || is_ahead(c, stamp, number)))
            next = bucket_add(stamp, old >> FAILED_SHIFT & figure_mask, old & figure_mask,
                              bad, all);
        else
            next = bucket_add(number, 0, 0, bad, all);
    } while (!swap(bucket, &old, next));
}

static void window_read(const struct way_counter *c, const _Atomic uint64_t *w,
                        double now, struct way_counted *out)
{
    uint64_t number = bucket_number(c, now), failed = 0, volume = 0;
    for (unsigned i = 0; i < c->size; i++) {
        uint64_t bucket = load(w + i), stamp = bucket >> STAMP_SHIFT;
        if (((number - stamp) & stamp_mask) >= c->size && !is_ahead(c, stamp, number))
            continue;
        failed += bucket >> FAILED_SHIFT & figure_mask;
        volume += bucket & figure_mask;
    }
    out->failed = (double)failed;
    out->volume = (double)volume;
    out->value = volume ? out->failed / out->volume : 0;
}

/* ---- ring ---- */

static uint64_t head_volume(uint64_t head)
{
    return head >> 32;
}

static uint64_t head_place(uint64_t head)
{
    return head & 0xffffffff;
}

/* Bits [from, to) of a word. */
static uint64_t bit_range(unsigned from, unsigned to)
{
    uint64_t below = to < 64 ? ((uint64_t)1 << to) - 1 : ~(uint64_t)0;
    return below & ~(((uint64_t)1 << from) - 1);
}

static void put_bits(_Atomic uint64_t *w, uint64_t mask, bool set)
{
    uint64_t now = load(w);
    if (set && (now & mask) != mask)
        atomic_fetch_or_explicit(w, mask, RELAXED);
    else if (!set && now & mask)
        atomic_fetch_and_explicit(w, ~mask, RELAXED);
}

/* n results from `place` on, round the ring. */
static void ring_fill(const struct way_counter *c, _Atomic uint64_t *results,
                      unsigned place, unsigned n, bool bad)
{
    while (n) {
        unsigned from = place % 64, to = from + n < 64 ? from + n : 64;
        if (place - from + to > c->size)
            to = c->size - (place - from);
        put_bits(results + place / 64, bit_range(from, to), bad);
        n -= to - from;
        place = (place + to - from) % c->size;
    }
}

static void ring_add(const struct way_counter *c, _Atomic uint64_t *w, uint32_t n,
                     bool bad)
{
    uint64_t head = load(w), volume, place;
    if (n > c->size)
        n = c->size; /* the last ones count */
    if (!n)
        return;
    do {
        place = head_place(head) % c->size;
        volume = head_volume(head) + n < c->size ? head_volume(head) + n : c->size;
    } while (!swap(w, &head, volume << 32 | (place + n) % c->size));
    ring_fill(c, w + 1, (unsigned)place, n, bad);
}

static void ring_read(const struct way_counter *c, const _Atomic uint64_t *w,
                      struct way_counted *out)
{
    uint64_t head = load(w), volume = head_volume(head) % (c->size + 1);
    unsigned place = (unsigned)(head_place(head) % c->size);
    unsigned left = (unsigned)volume, failed = 0;
    unsigned at = (place + c->size - left) % c->size;
    while (left) {
        unsigned from = at % 64, to = from + left < 64 ? from + left : 64;
        if (at - from + to > c->size)
            to = c->size - (at - from);
        failed +=
            (unsigned)__builtin_popcountll(load(w + 1 + at / 64) & bit_range(from, to));
        left -= to - from;
        at = (at + to - from) % c->size;
    }
    out->failed = failed;
    out->volume = (double)volume;
    out->value = volume ? out->failed / out->volume : 0;
}

/* ---- ewma ---- */

/* Values are never below 0: so is one that has no value yet. */
static uint64_t ewma_base(const struct way_counter *c)
{
    return bits_of(c->has_start ? c->start : -1);
}

/* The weight of what was before: by results, or by the time since, which is taken. */
static double ewma_weight(const struct way_counter *c, _Atomic uint64_t *w, uint32_t n,
                          double now)
{
    uint64_t old = load(w);
    if (c->results > 0)
        return way_decay(n / c->results);
    do {
        if (old && double_of(old) >= now)
            return 1;
    } while (!swap(w, &old, bits_of(now)));
    return old ? way_decay((now - double_of(old)) / c->seconds) : 1; /* `start` begins */
}

static void ewma_add(const struct way_counter *c, _Atomic uint64_t *w, double x,
                     uint32_t n, double now)
{
    uint64_t base = ewma_base(c), old = load(w + 1);
    if (!n)
        return;
    double weight = ewma_weight(c, w, n, now);
    atomic_fetch_add_explicit(w + 2, n, RELAXED);
    double value;
    do {
        double before = double_of(old ^ base);
        value = !(before >= 0) || (c->peak && x > before) ? x : x + (before - x) * weight;
    } while (!swap(w + 1, &old, bits_of(value) ^ base));
}

static void ewma_read(const struct way_counter *c, const _Atomic uint64_t *w,
                      struct way_counted *out)
{
    double value = double_of(load(w + 1) ^ ewma_base(c));
    out->value = value >= 0 ? value : 0;
    out->volume = (double)load(w + 2);
}

static void ewma_report(const struct way_counter *c, _Atomic uint64_t *w,
                        const struct way_report *r, struct share good, struct share bad)
{
    if (c->of == WAY_COUNTER_OF_LATENCY) {
        ewma_add(c, w, r->latency, good.n, r->now);
        return;
    }
    if (bad.sort != BAD && bad.sort != OTHER)
        bad.n = 0;
    uint32_t failed = (good.sort == BAD ? good.n : 0) + (bad.sort == BAD ? bad.n : 0);
    if (c->results > 0) { /* in their order */
        ewma_add(c, w, good.sort == BAD, good.n, r->now);
        ewma_add(c, w, bad.sort == BAD, bad.n, r->now);
    } else if (good.n + bad.n) { /* of one moment */
        ewma_add(c, w, (double)failed / (good.n + bad.n), good.n + bad.n, r->now);
    }
}

/* ---- tokens ---- */

static double clamp(const struct way_counter *c, double tokens)
{
    return tokens > 0 ? (tokens < c->capacity ? tokens : c->capacity) : 0;
}

static double tokens_due(const struct way_counter *c, const _Atomic uint64_t *w,
                         double now)
{
    double at = double_of(load(w));
    return at > 0 && now > at ? (now - at) * c->per_second : 0;
}

static void tokens_add(const struct way_counter *c, _Atomic uint64_t *w, double more)
{
    uint64_t base = bits_of(c->start), old = load(w + 1), next;
    if (more == 0)
        return;
    do
        next = bits_of(clamp(c, double_of(old ^ base) + more)) ^ base;
    while (next != old && !swap(w + 1, &old, next));
}

static void tokens_refill(const struct way_counter *c, _Atomic uint64_t *w, double now)
{
    uint64_t old = load(w);
    if (c->per_second == 0)
        return;
    do {
        if (double_of(old) >= now)
            return;
    } while (!swap(w, &old, bits_of(now)));
    if (old)
        tokens_add(c, w, (now - double_of(old)) * c->per_second);
}

static void tokens_report(const struct way_counter *c, _Atomic uint64_t *w,
                          const struct way_report *r, struct share good, struct share bad)
{
    tokens_refill(c, w, r->now);
    tokens_add(c, w, good.n * (good.sort == BAD ? c->failure : c->success));
    if (bad.sort == BAD)
        tokens_add(c, w, bad.n * c->failure);
    tokens_add(c, w, r->requests * c->request);
    tokens_add(c, w, r->retries * c->retry);
}

static void tokens_read(const struct way_counter *c, const _Atomic uint64_t *w,
                        double now, struct way_counted *out)
{
    double tokens = double_of(load(w + 1) ^ bits_of(c->start));
    out->value = clamp(c, tokens + tokens_due(c, w, now));
}

/* ---- samples ---- */

static float sample_at(const _Atomic uint64_t *w, unsigned place)
{
    uint32_t bits = (uint32_t)(load(w + 1 + place / 2) >> (place % 2 * 32));
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void samples_put(const struct way_counter *c, _Atomic uint64_t *w, double value)
{
    uint64_t head = load(w), place = head_place(head) % c->size;
    uint64_t volume = head_volume(head) < c->size ? head_volume(head) + 1 : c->size;
    _Atomic uint64_t *pair = w + 1 + place / 2;
    unsigned shift = place % 2 * 32;
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint64_t others = load(pair) & ~((uint64_t)0xffffffff << shift);
    atomic_store_explicit(pair, others | (uint64_t)bits << shift, RELAXED);
    atomic_store_explicit(w, volume << 32 | (place + 1) % c->size, memory_order_release);
}

static void samples_read(const struct way_counter *c, const _Atomic uint64_t *w,
                         struct way_counted *out)
{
    uint64_t head = load(w);
    unsigned volume = (unsigned)(head_volume(head) % (c->size + 1));
    unsigned place = (unsigned)(head_place(head) % c->size);
    double sum = 0, squares = 0;
    if (!volume)
        return;
    for (unsigned i = 1; i <= volume; i++)
        sum += sample_at(w, (place + c->size - i) % c->size);
    out->mean = out->value = sum / volume;
    for (unsigned i = 1; i <= volume; i++) {
        double off = sample_at(w, (place + c->size - i) % c->size) - out->mean;
        squares += off * off;
    }
    out->deviation = sqrt(squares / volume);
    out->volume = volume;
    out->last = sample_at(w, (place + c->size - 1) % c->size);
}

/* ---- any kind ---- */

void way_counter_read(const struct way_counter *c, const _Atomic uint64_t *block,
                      double now, struct way_counted *out)
{
    const _Atomic uint64_t *w = block + c->word;
    *out = (struct way_counted){ 0 };
    switch (c->kind) {
    case WAY_COUNTER_CONSECUTIVE: out->value = (double)load(w); break;
    case WAY_COUNTER_WINDOW: window_read(c, w, now, out); break;
    case WAY_COUNTER_RING: ring_read(c, w, out); break;
    case WAY_COUNTER_EWMA: ewma_read(c, w, out); break;
    case WAY_COUNTER_TOKENS: tokens_read(c, w, now, out); break;
    default: samples_read(c, w, out); break;
    }
}

void way_counters_read(const struct way_counters_layout *l, enum way_counter_scope scope,
                       const _Atomic uint64_t *block, double now,
                       struct way_counted out[WAY_COUNTERS_MAX])
{
    static const _Atomic uint64_t
        nothing[WAY_SHARD_COUNTER_WORDS]; /* a node of no shard */
    if (!block)
        block = nothing;
    for (unsigned i = 0; i < l->count[scope]; i++)
        way_counter_read(&l->counter[scope][i], block, now, &out[i]);
}

static uint32_t of_sort(struct share s, enum sort sort)
{
    return s.sort == sort ? s.n : 0;
}

static void window_report(const struct way_counter *c, _Atomic uint64_t *w,
                          const struct way_report *r, struct share good, struct share bad)
{
    uint32_t failed = of_sort(good, BAD) + of_sort(bad, BAD);
    if (c->of == WAY_COUNTER_OF_REQUESTS)
        window_add(c, w, r->now, 0, r->requests);
    else if (c->of == WAY_COUNTER_OF_RETRIES)
        window_add(c, w, r->now, 0, r->retries);
    else
        window_add(c, w, r->now, failed,
                   failed + of_sort(good, FINE) + of_sort(bad, OTHER));
}

static void count(const struct way_counter *c, _Atomic uint64_t *w,
                  const struct way_report *r)
{
    struct share good = share_of_good(c, r), bad = share_of_failure(c, r);
    switch (c->kind) {
    case WAY_COUNTER_CONSECUTIVE:
        row_add(c, w, good);
        row_add(c, w, bad);
        break;
    case WAY_COUNTER_WINDOW: window_report(c, w, r, good, bad); break;
    case WAY_COUNTER_RING:
        ring_add(c, w, good.n, good.sort == BAD);
        if (bad.sort == BAD || bad.sort == OTHER)
            ring_add(c, w, bad.n, bad.sort == BAD);
        break;
    case WAY_COUNTER_EWMA: ewma_report(c, w, r, good, bad); break;
    case WAY_COUNTER_TOKENS: tokens_report(c, w, r, good, bad); break;
    default: break; /* samples: what a policy adds */
    }
}

/* ---- edges ---- */

static bool is_true(const struct way_counter *c, const _Atomic uint64_t *block,
                    double now)
{
    struct way_counted v;
    way_counter_read(c, block, now, &v);
    if (v.volume < c->min_volume)
        return false;
    return c->edge == WAY_EDGE_AT_LEAST ? v.value >= c->edge_at
           : c->edge == WAY_EDGE_ABOVE  ? v.value > c->edge_at
                                        : v.value < c->edge_at;
}

/* Brings the edge's word to what the counter is; true: it came true by this look. */
static bool edge_look(const struct way_counter *c, _Atomic uint64_t *block, double now)
{
    _Atomic uint64_t *w = block + c->edge_word;
    uint64_t told = atomic_load(w);
    for (;;) {
        bool now_true = is_true(c, block, now);
        if (now_true == (told & 1))
            return false;
        if (atomic_compare_exchange_strong(w, &told, told + 1))
            return now_true;
    }
}

static uint64_t report_to(const struct way_counters_layout *l,
                          enum way_counter_scope scope, _Atomic uint64_t *block,
                          const struct way_report *r)
{
    uint64_t edges = 0;
    for (unsigned i = 0; i < l->count[scope]; i++) {
        const struct way_counter *c = &l->counter[scope][i];
        if (c->edge && atomic_load(block + c->edge_word) & 1)
            edge_look(c, block, r->now); /* time alone may have made it false */
        count(c, block + c->word, r);
        if (c->edge && edge_look(c, block, r->now))
            edges |= WAY_COUNTER_BIT(scope, i);
    }
    return edges;
}

uint64_t way_counters_report(const struct way_counters_layout *l,
                             const struct way_counter_blocks *b,
                             const struct way_report *r)
{
    uint64_t edges = 0;
    for (int scope = 0; scope < WAY_COUNTER_SCOPES; scope++)
        if (b->of[scope])
            edges |= report_to(l, (enum way_counter_scope)scope, b->of[scope], r);
    return edges;
}

/* ---- what a policy does to them ---- */

/* The first word goes first: without it the others count for nothing, but for buckets. */
static void reset(const struct way_counter *c, _Atomic uint64_t *block)
{
    unsigned words = words_of(c);
    for (unsigned i = 0; i < words; i++)
        if (load(block + c->word + i))
            atomic_store_explicit(block + c->word + i, 0, RELAXED);
    if (!c->edge)
        return;
    uint64_t told = atomic_load(block + c->edge_word);
    while (told & 1 &&
           !atomic_compare_exchange_weak(block + c->edge_word, &told, told + 1))
        ;
}

void way_counters_touch(const struct way_counters_layout *l,
                        const struct way_counter_blocks *b, const struct way_touches *t)
{
    for (unsigned i = 0; i < t->count; i++) {
        const struct way_touch *touch = &t->touch[i];
        const struct way_counter *c = &l->counter[touch->scope][touch->index];
        _Atomic uint64_t *block = b->of[touch->scope];
        if (!block)
            continue;
        if (touch->add)
            samples_put(c, block + c->word, touch->value);
        else
            reset(c, block);
    }
}

/* ---- another policy ---- */

/* Declared alike, wherever they lie. Padding is zero: who makes a counter sees to it. */
static bool is_alike(const struct way_counter *a, const struct way_counter *b)
{
    struct way_counter x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    x.word = y.word = x.edge_word = y.edge_word = 0;
    return !memcmp(&x, &y, sizeof x);
}

static void copy_words(_Atomic uint64_t *to, const _Atomic uint64_t *from, unsigned words)
{
    for (unsigned i = 0; i < words; i++)
        atomic_store_explicit(to + i, load(from + i), RELAXED);
}

void way_counters_inherit(const struct way_counters_layout *l, _Atomic uint64_t *block,
                          const struct way_counters_layout *old,
                          const _Atomic uint64_t *from, enum way_counter_scope scope)
{
    for (unsigned i = 0; i < l->count[scope]; i++) {
        const struct way_counter *c = &l->counter[scope][i];
        for (unsigned k = 0; k < old->count[scope]; k++) {
            const struct way_counter *o = &old->counter[scope][k];
            if (!is_alike(c, o))
                continue;
            copy_words(block + c->word, from + o->word, words_of(c) + (c->edge != 0));
            break;
        }
    }
}
