/* history - see history.h.
 *
 * Entries lie in a ring that overwrites the oldest. Error counts of a node are one small
 * table, made when its first error comes: of a thousand nodes few ever fail. Metrics could
 * have been kept by the workers, but a failure is rare and already on its way here. */
#include "history.h"

#include <stdio.h>

struct errors {
    uint64_t count[WAY_PHASE_COUNT][WAY_ERROR_COUNT];
};

struct kept {
    struct way_entry entry;
    struct way_buf input;
};

struct way_history {
    struct kept kept[WAY_HISTORY_ENTRIES];
    uint64_t total;
    struct errors *errors[WAY_NODES_MAX];
    struct way_transition transition[WAY_HISTORY_TRANSITIONS];
    unsigned transitions;
};

struct way_history *way_history_new(void)
{
    return way_zalloc(sizeof(struct way_history));
}

void way_history_free(struct way_history *h)
{
    if (!h)
        return;
    for (unsigned i = 0; i < WAY_NODES_MAX; i++)
        way_free(h->errors[i]);
    for (unsigned i = 0; i < WAY_HISTORY_ENTRIES; i++)
        way_buf_fini(&h->kept[i].input);
    way_free(h);
}

/* One fault is one entry of mark, or of nobody asked; what backoff was asked on top of it
 * is the same fault. */
static bool counts_as_error(const struct way_entry *e)
{
    bool first_hand = e->function == WAY_FN_MARK || e->function == WAY_FN_NONE;
    return first_hand && e->event.error != WAY_ERROR_NONE && e->node < WAY_NODES_MAX &&
           e->event.phase < WAY_PHASE_COUNT && e->event.error < WAY_ERROR_COUNT;
}

static void count_error(struct way_history *h, const struct way_entry *e)
{
    struct errors **at = &h->errors[e->node];
    if (!*at)
        *at = way_zalloc(sizeof **at);
    (*at)->count[e->event.phase][e->event.error]++;
}

static struct way_transition *transition_find(struct way_history *h, uint8_t from,
                                              uint8_t to, const char *reason)
{
    for (unsigned i = 0; i < h->transitions; i++) {
        struct way_transition *t = &h->transition[i];
        if (t->from == from && t->to == to && !strcmp(t->reason, reason))
            return t;
    }
    return NULL;
}

/* Five states make 20 pairs: so many places are kept for reasons that found no room. */
enum { PLACES_FOR_OTHER = WAY_STATE_COUNT * (WAY_STATE_COUNT - 1) };

static struct way_transition *transition_get(struct way_history *h, uint8_t from,
                                             uint8_t to, const char *reason)
{
    struct way_transition *t = transition_find(h, from, to, reason);
    if (!t && h->transitions >= WAY_HISTORY_TRANSITIONS - PLACES_FOR_OTHER) {
        reason = "other";
        t = transition_find(h, from, to, reason);
    }
    if (t || h->transitions == WAY_HISTORY_TRANSITIONS)
        return t;
    t = &h->transition[h->transitions++];
    *t = (struct way_transition){ .from = from, .to = to };
    snprintf(t->reason, sizeof t->reason, "%s", reason);
    return t;
}

static void count_transition(struct way_history *h, const struct way_entry *e)
{
    const char *reason = e->mark.has & WAY_MARK_REASON ? e->mark.reason : "";
    struct way_transition *t =
        transition_get(h, (uint8_t)e->outcome.from, (uint8_t)e->outcome.to, reason);
    if (t)
        t->count++;
}

/* Exactly as much as it needs, but for a buffer that has it already: of a thousand entries
 * a few have a long answer of a probe. */
static void keep_input(struct way_buf *to, struct way_span input)
{
    way_buf_reset(to);
    if (to->cap < input.n || to->cap > 2 * input.n + 256)
        way_buf_fini(to);
    way_buf_put(to, input.p, input.n);
}

void way_history_add(struct way_history *h, const struct way_entry *e)
{
    struct kept *place = &h->kept[h->total++ % WAY_HISTORY_ENTRIES];
    way_entry_copy(&place->entry, e);
    keep_input(&place->input, e->input);
    place->entry.input = (struct way_span){ place->input.p, e->input.n };
    place->entry.event.answer = (struct way_span){ NULL, 0 };
    if (counts_as_error(e))
        count_error(h, e);
    if (way_entry_marks(e) && e->outcome.changed)
        count_transition(h, e);
}

const struct way_entry *way_history_at(const struct way_history *h, unsigned node,
                                       unsigned i)
{
    uint64_t held = h->total < WAY_HISTORY_ENTRIES ? h->total : WAY_HISTORY_ENTRIES;
    for (uint64_t back = 1; back <= held; back++) {
        const struct way_entry *e =
            &h->kept[(h->total - back) % WAY_HISTORY_ENTRIES].entry;
        if ((node == WAY_NONE || e->node == node) && i-- == 0)
            return e;
    }
    return NULL;
}

uint64_t way_history_total(const struct way_history *h)
{
    return h->total;
}

uint64_t way_history_errors(const struct way_history *h, unsigned node,
                            enum way_phase phase, enum way_error error)
{
    return h->errors[node] ? h->errors[node]->count[phase][error] : 0;
}

void way_history_forget(struct way_history *h, unsigned node)
{
    way_free(h->errors[node]);
    h->errors[node] = NULL;
}

const struct way_transition *way_history_transition(const struct way_history *h,
                                                    unsigned i)
{
    return i < h->transitions ? &h->transition[i] : NULL;
}
