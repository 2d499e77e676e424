/* pipeline - see pipeline.h.
 *
 * Early replies are copied once more, into `held`. The alternative, leaving them in the
 * receive buffer under a reference count, saves that copy but lets a reply of five bytes
 * pin 64 KiB; a client that waits for a frozen node would pin a buffer per reply. `held`
 * is compacted instead of grown when less than half of it is alive. */
#include "pipeline.h"

#include "resp.h"

#include <stdio.h>

enum { SLAB = 256 };

struct slab {
    struct slab *next;
    struct way_request request[SLAB];
};

static void add_slab(struct way_request_pool *pool)
{
    struct slab *s = way_alloc(sizeof *s);
    s->next = pool->slabs;
    pool->slabs = s;
    for (unsigned i = SLAB; i-- > 0;) {
        s->request[i].next = pool->free;
        pool->free = &s->request[i];
    }
}

struct way_request *way_request_take(struct way_request_pool *pool)
{
    if (!pool->free)
        add_slab(pool);
    struct way_request *r = pool->free;
    pool->free = r->next;
    if (pool->free)
        way_request_prefetch(pool->free);
    pool->live++;
    memset(r, 0, sizeof *r);
    r->avoid = r->target = r->last.node = WAY_NONE_NODE;
    return r;
}

void way_request_give(struct way_request_pool *pool, struct way_request *r)
{
    if (r->own_bytes)
        way_free(r->own_bytes);
    if (r->words)
        way_free(r->words);
    r->own_bytes = r->words = NULL;
    r->next = pool->free;
    pool->free = r;
    pool->live--;
}

void way_request_pool_fini(struct way_request_pool *pool)
{
    while (pool->slabs) {
        struct slab *s = pool->slabs;
        pool->slabs = s->next;
        way_free(s);
    }
    pool->free = NULL;
}

void way_pipeline_init(struct way_pipeline *p, struct way_request_pool *pool, void *owner)
{
    *p = (struct way_pipeline){ .pool = pool, .owner = owner, .resp = 2 };
    p->behind_end = &p->behind;
}

struct way_request *way_pipeline_push(struct way_pipeline *p, double now)
{
    struct way_request *r = way_request_take(p->pool);
    r->pipeline = p;
    r->turn = p->turns++;
    r->arrived = now;
    if (p->tail)
        p->tail->next = r;
    else
        p->head = r;
    p->tail = r;
    p->pending++;
    return r;
}

/* ---- detours ---- */

void way_pipeline_detour(struct way_pipeline *p, struct way_request *r)
{
    if (r->flags & WAY_FLAG_DETOUR)
        return;
    if (!p->bucket)
        p->bucket = way_zalloc(WAY_DETOUR_BUCKETS * sizeof *p->bucket);
    r->flags |= WAY_FLAG_DETOUR;
    p->detours++;
    struct way_bucket *b = &p->bucket[r->slot % WAY_DETOUR_BUCKETS];
    if (b->detours++ == 0)
        b->way = NULL;
}

/* True: it was one, and the last of its bucket. Who gets that calls go_straight once the
 * reply is in its place: what waited behind is sent from there, and must not find a
 * request that is half answered. */
static bool end_detour(struct way_pipeline *p, struct way_request *r)
{
    if (!(r->flags & WAY_FLAG_DETOUR))
        return false;
    r->flags &= (uint16_t)~WAY_FLAG_DETOUR;
    p->detours--;
    return --p->bucket[r->slot % WAY_DETOUR_BUCKETS].detours == 0;
}

/* Nobody waits for r any more: it leaves its pipeline, and stays with who links it. */
static void abandon(struct way_pipeline *p, struct way_request *r)
{
    if (r->flags & WAY_FLAG_LISTED)
        p->bucket[r->slot % WAY_DETOUR_BUCKETS].waiting--;
    r->flags &= (uint16_t) ~(WAY_FLAG_LISTED | WAY_FLAG_DETOUR);
    r->flags |= WAY_FLAG_ABANDONED;
    r->next = NULL;
    r->pipeline = NULL;
}

static void go_straight(struct way_pipeline *p, uint16_t slot)
{
    if (p->straight)
        p->straight(p, slot);
}

static void detour_if_sent(struct way_pipeline *p, struct way_request *r)
{
    if (r && r->state == WAY_REQUEST_SENT)
        way_pipeline_detour(p, r);
}

void way_pipeline_speak(struct way_pipeline *p, uint8_t resp)
{
    if (p->resp == resp)
        return;
    p->resp = resp;
    for (struct way_request *r = p->head; r; r = r->next) {
        detour_if_sent(p, r);
        for (unsigned i = 0; r->join && i < way_join_parts(r->join); i++)
            detour_if_sent(p, way_join_pending(r->join, i));
    }
}

/* ---- replies in order ---- */

static void lend(struct way_pipeline *p, struct way_buf *b)
{
    if (!b->p && p->lend)
        p->lend(p, b);
}

static void pop_head(struct way_pipeline *p)
{
    struct way_request *r = p->head;
    p->head = r->next;
    if (!p->head)
        p->tail = NULL;
    p->pending--;
    way_request_give(p->pool, r);
}

static void emit_early_ones(struct way_pipeline *p)
{
    while (p->head && p->head->state == WAY_REQUEST_ANSWERED) {
        struct way_request *r = p->head;
        way_buf_put(&p->out, p->held.p + r->reply_off, r->reply_bytes);
        p->held_live -= r->reply_bytes;
        pop_head(p);
    }
    if (p->held_live == 0)
        way_buf_reset(&p->held);
}

/* Rebuilds held with only what is alive, in the order of its turn. */
static void compact_held(struct way_pipeline *p, size_t more)
{
    struct way_buf fresh = { 0 };
    way_buf_room(&fresh, (p->held_live + more) * 2);
    for (struct way_request *r = p->head; r; r = r->next) {
        if (r->state != WAY_REQUEST_ANSWERED)
            continue;
        size_t at = fresh.len;
        way_buf_put(&fresh, p->held.p + r->reply_off, r->reply_bytes);
        r->reply_off = at;
    }
    way_buf_fini(&p->held);
    p->held = fresh;
}

static void keep_early(struct way_pipeline *p, struct way_request *r, const char *reply,
                       size_t n)
{
    lend(p, &p->held);
    if (p->held.cap - p->held.len < n && p->held_live < p->held.len / 2)
        compact_held(p, n);
    r->reply_off = p->held.len;
    r->reply_bytes = n;
    way_buf_put(&p->held, reply, n);
    p->held_live += n;
    r->state = WAY_REQUEST_ANSWERED;
}

/* In its place, or kept until its turn; true if out grew. */
static bool place(struct way_pipeline *p, struct way_request *r, const char *reply,
                  size_t n)
{
    if (r != p->head) {
        keep_early(p, r, reply, n);
        return false;
    }
    lend(p, &p->out);
    way_buf_put(&p->out, reply, n);
    pop_head(p);
    if (p->head && p->head->state == WAY_REQUEST_ANSWERED)
        emit_early_ones(p);
    return true;
}

bool way_pipeline_answer(struct way_pipeline *p, struct way_request *r, const char *reply,
                         size_t n)
{
    uint16_t slot = r->slot;
    bool last = end_detour(p, r);
    bool grew = place(p, r, reply, n);
    if (last)
        go_straight(p, slot);
    return grew;
}

bool way_pipeline_error(struct way_pipeline *p, struct way_request *r, const char *fmt,
                        ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct way_buf b = { 0 };
    way_resp_put_error(&b, "%s", text);
    bool grew = way_pipeline_answer(p, r, b.p, b.len);
    way_buf_fini(&b);
    return grew;
}

/* ---- split commands ---- */

struct part {
    struct way_request *request; /* NULL once answered */
    char *reply;
    size_t n;
};
struct way_join {
    struct way_request *whole; /* NULL: nobody waits */
    struct way_request_pool *pool;
    enum way_command_join how;
    unsigned parts, missing, elements;
    struct way_join_place *place;
    struct part part[];
};

struct way_join *way_join_new(struct way_request *r, enum way_command_join how,
                              unsigned parts, unsigned elements)
{
    struct way_join *j = way_zalloc(sizeof *j + parts * sizeof j->part[0]);
    j->whole = r;
    j->pool = r->pipeline->pool;
    j->how = how;
    j->parts = j->missing = parts;
    j->elements = elements;
    j->place = elements ? way_zalloc(elements * sizeof *j->place) : NULL;
    r->join = j;
    return j;
}

struct way_join_place *way_join_places(struct way_join *j)
{
    return j->place;
}

struct way_request *way_join_part(struct way_join *j, unsigned part)
{
    struct way_request *r = way_request_take(j->pool);
    r->kind = WAY_REQUEST_PART;
    r->pipeline = j->whole->pipeline;
    r->arrived = j->whole->arrived;
    r->turn = j->whole->turn;
    r->flags = j->whole->flags & WAY_FLAG_WRITE;
    r->join = j;
    r->part = part;
    j->part[part].request = r;
    return r;
}

unsigned way_join_parts(const struct way_join *j)
{
    return j->parts;
}

struct way_request *way_join_pending(const struct way_join *j, unsigned part)
{
    return j->part[part].request;
}

/* Drops what the parts said. */
static void forget_replies(struct way_join *j)
{
    for (unsigned i = 0; i < j->parts; i++) {
        if (j->whole)
            j->whole->pipeline->joining -= j->part[i].n;
        way_free(j->part[i].reply);
        j->part[i].reply = NULL;
        j->part[i].n = 0;
    }
}

static void join_free(struct way_join *j)
{
    forget_replies(j);
    way_free(j->place);
    way_free(j);
}

/* The parts go on; their replies are dropped. */
static void join_orphan(struct way_join *j)
{
    struct way_pipeline *p = j->whole->pipeline;
    bool last[WAY_DETOUR_BUCKETS] = { false };
    forget_replies(j);
    j->whole->join = NULL;
    j->whole = NULL;
    for (unsigned i = 0; i < j->parts; i++) {
        struct way_request *r = j->part[i].request;
        if (!r)
            continue;
        if (end_detour(p, r))
            last[r->slot % WAY_DETOUR_BUCKETS] = true;
        abandon(p, r);
    }
    for (unsigned slot = 0; slot < WAY_DETOUR_BUCKETS; slot++)
        if (last[slot])
            go_straight(p, (uint16_t)slot);
}

static bool join_failed(const struct way_join *j, struct way_buf *out)
{
    unsigned done = 0;
    const struct part *bad = NULL;
    for (unsigned i = 0; i < j->parts; i++) {
        if (j->part[i].reply[0] != '-')
            done++;
        else if (!bad)
            bad = &j->part[i];
    }
    if (!bad)
        return false;
    size_t n = bad->n;
    while (n && (bad->reply[n - 1] == '\n' || bad->reply[n - 1] == '\r'))
        n--;
    way_buf_put(out, bad->reply, n);
    way_buf_printf(out, " (%u of %u parts succeeded)\r\n", done, j->parts);
    return true;
}

/* The joins return false where a part has not the shape they need. */
static bool join_sum(const struct way_join *j, struct way_buf *out)
{
    int64_t sum = 0, v = 0;
    for (unsigned i = 0; i < j->parts; i++)
        if (!way_reply_integer(j->part[i].reply, j->part[i].n, &v) ||
            __builtin_add_overflow(sum, v, &sum))
            return false;
    way_resp_put_integer(out, sum);
    return true;
}

static bool join_ok(const struct way_join *j, struct way_buf *out)
{
    for (unsigned i = 0; i < j->parts; i++)
        if (j->part[i].reply[0] != '+')
            return false;
    way_buf_puts(out, "+OK\r\n");
    return true;
}

/* The elements of all parts, each a span, in the order of their keys. */
static bool join_array(const struct way_join *j, struct way_buf *out)
{
    bool whole = true;
    struct way_span *element = way_zalloc((j->elements + 1) * sizeof *element);
    unsigned *begin = way_zalloc((j->parts + 1) * sizeof *begin);
    unsigned at = 0;
    for (unsigned i = 0; i < j->parts; i++) {
        size_t off = 0;
        int64_t n = way_reply_elements(j->part[i].reply, j->part[i].n, &off);
        begin[i] = at;
        for (int64_t k = 0; k < n && at < j->elements; k++) {
            size_t len = way_reply_length(j->part[i].reply + off, j->part[i].n - off);
            element[at++] = (struct way_span){ j->part[i].reply + off, len };
            off += len;
        }
    }
    begin[j->parts] = at;
    way_resp_put_array(out, j->elements);
    for (unsigned e = 0; whole && e < j->elements; e++) {
        unsigned which = begin[j->place[e].part] + j->place[e].index;
        whole = which < begin[j->place[e].part + 1];
        if (whole)
            way_buf_put(out, element[which].p, element[which].n);
    }
    way_free(element);
    way_free(begin);
    return whole;
}

static void join_replies(const struct way_join *j, struct way_buf *out)
{
    bool fits = j->how == WAY_JOIN_SUM     ? join_sum(j, out)
                : j->how == WAY_JOIN_ARRAY ? join_array(j, out)
                                           : join_ok(j, out);
    if (fits)
        return;
    way_buf_reset(out);
    way_resp_put_error(out, "WAYSIDE protocol phase=read step=reply certainty=unknown a "
                            "node's part of the reply has not the command's shape");
}

static bool join_finish(struct way_join *j)
{
    struct way_buf out = { 0 };
    struct way_request *whole = j->whole;
    bool grew = false;
    if (whole) {
        if (!join_failed(j, &out))
            join_replies(j, &out);
        forget_replies(j);
        whole->join = NULL;
        j->whole = NULL;
        grew = way_pipeline_answer(whole->pipeline, whole, out.p, out.len);
    }
    way_buf_fini(&out);
    join_free(j);
    return grew;
}

bool way_join_answer(struct way_request *part, const char *reply, size_t n)
{
    struct way_join *j = part->join;
    struct way_pipeline *line = part->pipeline;
    struct part *p = &j->part[part->part];
    p->request = NULL;
    if (j->whole) {
        p->reply = way_alloc(n);
        memcpy(p->reply, reply, n);
        p->n = n;
        line->joining += n;
    }
    uint16_t slot = part->slot;
    bool last = line && end_detour(line, part);
    way_request_give(j->pool, part);
    bool grew = --j->missing == 0 && join_finish(j);
    if (last)
        go_straight(line, slot);
    return grew;
}

/* ---- a client that is answered before its node is ---- */

static struct way_request **place_of(struct way_pipeline *p, struct way_request *r)
{
    struct way_request **at = &p->head;
    while (*at != r)
        at = &(*at)->next;
    return at;
}

struct way_request *way_pipeline_replace(struct way_pipeline *p, struct way_request *r)
{
    if (r->join) {
        join_orphan(r->join);
        return r; /* only its parts are under way */
    }
    struct way_request *new = way_request_take(p->pool);
    struct way_request **at = place_of(p, r);
    new->pipeline = p;
    new->slot = r->slot;
    new->turn = r->turn;
    new->arrived = r->arrived;
    new->flags = r->flags &(WAY_FLAG_WRITE | WAY_FLAG_DETOUR | WAY_FLAG_DOUBT);
    new->next = r->next;
    *at = new;
    if (p->tail == r)
        p->tail = new;
    abandon(p, r);
    return new;
}

/* ---- the end of a client ---- */

void way_pipeline_fini(struct way_pipeline *p)
{
    p->straight = NULL;
    while (p->head) {
        struct way_request *r = p->head;
        p->head = r->next;
        if (r->join)
            join_orphan(r->join);
        if (r->state == WAY_REQUEST_SENT || r->state == WAY_REQUEST_WAITING) {
            abandon(p, r);
        } else {
            way_request_give(p->pool, r);
        }
    }
    p->tail = NULL;
    p->pending = p->detours = 0;
    p->held_live = 0;
    way_free(p->bucket);
    p->bucket = NULL;
    way_buf_fini(&p->out);
    way_buf_fini(&p->held);
}
