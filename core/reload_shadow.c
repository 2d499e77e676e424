/* reload_shadow - see reload_shadow.h. Where it can't be loaded, the bounds of probation that
 * are absolute hold alone, and the log says so. */
#include "reload_shadow.h"

#include "decide.h"
#include "loader.h"
#include "log.h"
#include "shadow.h"

struct way_reload_shadow {
    struct way_loop *loop;
    struct way_control *control;
    struct way_health *health;
    unsigned threads;
    struct way_policy_text *text; /* until its load has it */
    struct way_load *load;
    uint64_t epoch;
    struct way_limits limits;
};

struct way_reload_shadow *way_reload_shadow_new(struct way_loop *loop,
                                                struct way_control *control,
                                                struct way_health *health,
                                                unsigned threads)
{
    struct way_reload_shadow *s = way_zalloc(sizeof *s);
    s->loop = loop;
    s->control = control;
    s->health = health;
    s->threads = threads;
    return s;
}

static void drop_text(struct way_reload_shadow *s)
{
    if (s->text)
        way_policy_text_fini(s->text);
    way_free(s->text);
    s->text = NULL;
}

void way_reload_shadow_free(struct way_reload_shadow *s)
{
    if (!s)
        return;
    way_load_free(s->load);
    drop_text(s);
    way_free(s);
}

/* In the load's thread. */
static int give_text(void *arg, struct way_load_wish *to, struct way_err *err)
{
    struct way_reload_shadow *s = arg;
    (void)err;
    to->text = s->text;
    s->text = NULL;
    return 0;
}

/* As it remembered when it was last in charge. */
static void seed(void *arg, unsigned node, struct way_memory *memory)
{
    struct way_reload_shadow *s = arg;
    struct way_snapshot seen;
    way_health_snapshot_of(s->health, node, s->loop->now, s->epoch - 1, &seen);
    *memory = seen.view.memory;
}

static void put(struct way_reload_shadow *s, struct way_loaded *l)
{
    const struct way_policy *charge = way_decider_policy(way_control_decider(s->control));
    struct way_shadow_of of = {
        .text = l->text,
        .policy = l->policy,
        .epoch = s->epoch,
        .limits = s->limits,
        .same_memory = way_policy_same_memory(l->policy[0], charge),
        .seed = seed,
        .arg = s,
        .now = s->loop->now,
        .unix_time = way_unix(),
    };
    way_shadows_put(way_control_shadows(s->control), WAY_SHADOW_PREVIOUS, &of);
    l->text = NULL;
    for (unsigned i = 0; i < l->states; i++)
        way_loaded_take(l, i); /* they have it */
}

static void on_loaded(void *arg, struct way_loaded *l, const struct way_err *err)
{
    struct way_reload_shadow *s = arg;
    if (l)
        put(s, l);
    else
        way_log(WAY_WARN, "shadow=none reason=\"%s\"", err->text);
    way_loaded_free(l);
    way_load_free(s->load);
    s->load = NULL;
}

void way_reload_shadow_begin(struct way_reload_shadow *s,
                             const struct way_policy_text *text, uint64_t epoch,
                             const struct way_limits *limits)
{
    struct way_err err;
    struct way_load_order o = { .loop = s->loop,
                                .states = s->threads,
                                .prepare = give_text,
                                .done = on_loaded,
                                .arg = s };
    if (!way_control_shadows(s->control))
        return;
    s->epoch = epoch;
    s->limits = *limits;
    s->text = way_zalloc(sizeof *s->text);
    way_policy_text_copy(s->text, text);
    if (way_load_begin(&s->load, &o, &err) < 0) {
        drop_text(s);
        way_log(WAY_WARN, "shadow=none reason=\"%s\"", err.text);
    }
}

void way_reload_shadow_end(struct way_reload_shadow *s)
{
    if (!s || !way_control_shadows(s->control))
        return;
    way_load_free(s->load);
    s->load = NULL;
    drop_text(s);
    way_shadows_take_off(way_control_shadows(s->control), WAY_SHADOW_PREVIOUS);
}

bool way_reload_shadow_marks(const struct way_reload_shadow *s, double *in_charge,
                             double *own)
{
    struct way_shadows *all = way_control_shadows(s->control);
    struct way_shadow *shadow = all ? way_shadows_get(all, WAY_SHADOW_PREVIOUS) : NULL;
    struct way_shadow_about about;
    struct way_shadow_counts counts;
    if (!shadow)
        return false;
    way_shadow_about(shadow, &about);
    way_shadow_counts(shadow, &counts);
    *in_charge = (double)counts.out_in_charge;
    *own = (double)counts.out;
    return !about.off;
}
