/* candidate - see candidate.h. */
#include "candidate.h"

#include "loader.h"

#include <stdio.h>

struct way_candidate {
    struct way_candidate_options o;
    struct way_load *load; /* on its way; NULL: none */
    bool dropped;          /* it is not wanted any more */
    char *path;
    struct way_load_wish wish;
    struct way_limits limits;
    void (*done)(void *arg, const struct way_err *err);
    void *arg;
};

static void load_ended(struct way_candidate *c)
{
    way_load_free(c->load);
    c->load = NULL;
    way_free(c->path);
    c->path = NULL;
}

struct way_candidate *way_candidate_new(const struct way_candidate_options *o)
{
    struct way_candidate *c = way_zalloc(sizeof *c);
    c->o = *o;
    return c;
}

void way_candidate_free(struct way_candidate *c)
{
    if (!c)
        return;
    load_ended(c);
    way_load_wish_fini(&c->wish);
    way_free(c);
}

/* ---- what it begins with ---- */

struct beginning {
    struct way_health *health;
    const struct way_policy *charge, *candidate;
    double now;
};

/* As the policy in charge has it now, by name. */
static void seed(void *arg, unsigned node, struct way_memory *memory)
{
    const struct beginning *b = arg;
    struct way_snapshot seen;
    way_health_snapshot(b->health, node, b->now, &seen);
    for (int scope = 0; scope < WAY_SCOPE_COUNT; scope++)
        way_policy_carry(b->candidate, b->charge, (enum way_scope)scope,
                         &seen.view.memory, memory);
}

static void put(struct way_candidate *c, struct way_loaded *l)
{
    const struct way_policy *charge = way_decider_policy(c->o.decider);
    struct beginning b = { c->o.health, charge, l->policy[0], c->o.loop->now };
    struct way_policy **policy = way_alloc(l->states * sizeof(*policy));
    for (unsigned i = 0; i < l->states; i++)
        policy[i] = way_loaded_take(l, i);
    struct way_shadow_of of = { .text = l->text,
                                .policy = policy,
                                .epoch = way_decider_epoch(c->o.decider),
                                .limits = c->limits,
                                .same_memory = way_policy_same_memory(policy[0], charge),
                                .seed = seed,
                                .arg = &b,
                                .counters = &way_policy_plan(charge)->counters,
                                .counters_epoch = way_decider_epoch(c->o.decider),
                                .now = c->o.loop->now,
                                .unix_time = way_unix() };
    l->text = NULL; /* taken */
    way_shadows_put(c->o.shadows, WAY_SHADOW_CANDIDATE, &of);
    way_free(policy);
}

/* ---- loading ---- */

static int prepare(void *arg, struct way_load_wish *wish, struct way_err *err)
{
    struct way_candidate *c = arg;
    (void)err;
    *wish = c->wish; /* handed over */
    memset(&c->wish, 0, sizeof c->wish);
    return 0;
}

static void on_loaded(void *arg, struct way_loaded *l, const struct way_err *err)
{
    static const struct way_err dropped = { "the shadow was taken off meanwhile" };
    struct way_candidate *c = arg;
    bool came = l;
    if (came && !c->dropped)
        put(c, l);
    way_loaded_free(l);
    c->done(c->arg, c->dropped ? &dropped : came ? NULL : err);
    load_ended(c);
}

int way_candidate_begin(struct way_candidate *c, const char *path,
                        const struct way_option *option, unsigned options,
                        const struct way_limits *limits,
                        void (*done)(void *arg, const struct way_err *err), void *arg,
                        struct way_err *err)
{
    struct way_load_order order = { .loop = c->o.loop,
                                    .states = c->o.threads,
                                    .prepare = prepare,
                                    .done = on_loaded,
                                    .arg = c };
    if (c->path)
        return way_fail(err, "%s is being loaded", c->path);
    c->limits = *limits;
    c->done = done;
    c->arg = arg;
    c->dropped = false;
    way_load_wish_set(&c->wish, path, option, options, limits);
    c->path = way_strdup(path);
    if (way_load_begin(&c->load, &order, err) == 0)
        return 0;
    way_load_wish_fini(&c->wish);
    way_free(c->path);
    c->path = NULL;
    return -1;
}

const char *way_candidate_loading(const struct way_candidate *c)
{
    return c->path && !c->dropped ? c->path : NULL;
}

bool way_candidate_end(struct way_candidate *c)
{
    bool was =
        way_candidate_loading(c) || way_shadows_get(c->o.shadows, WAY_SHADOW_CANDIDATE);
    c->dropped = true;
    way_shadows_take_off(c->o.shadows, WAY_SHADOW_CANDIDATE);
    return was;
}

void way_candidate_look(struct way_candidate *c)
{
    struct way_shadow *s = way_shadows_get(c->o.shadows, WAY_SHADOW_CANDIDATE);
    struct way_shadow_about about;
    if (!s)
        return;
    way_shadow_about(s, &about);
    if (about.epoch < way_decider_epoch(c->o.decider) &&
        about.plan->layout.hash == way_decider_plan(c->o.decider)->layout.hash)
        way_shadows_take_off(c->o.shadows, WAY_SHADOW_CANDIDATE);
}
