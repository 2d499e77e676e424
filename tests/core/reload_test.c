/* reload: all or nothing, told when all have it; a policy on probation that breaks a bound is
 * replaced by the one before; another process is followed. */
#include "reload.h"

#include "control_kit.h"

struct bed {
    struct kit_control *k;
    struct way_reload *r;
    struct way_aside aside;
    struct way_decider *decider[2];
    struct way_reload_report report;
    char refused[256], name[64];
    unsigned told;
    char path[64];
};

static struct way_reload *reload_here; /* for the loop's woken() */

static void on_woken(struct way_loop *l)
{
    kit_on_woken(l);
    if (reload_here)
        way_reload_woken(reload_here);
}

static struct bed *begin(double probation)
{
    struct bed *b = way_zalloc(sizeof *b);
    struct way_policy_text *text = way_zalloc(sizeof *text);
    b->k = kit_control_start(KIT_EXPIRES);
    b->k->config.limits.probation = probation;
    kit_await_known(b->k);
    way_policy_text_copy(text, &b->k->text);
    b->decider[0] = b->k->worker;
    b->decider[1] = way_control_decider(b->k->control);
    way_policy_seal(text, way_decider_policy(b->decider[1]));
    b->r = way_reload_new(&(struct way_reload_options){ .loop = &b->k->loop,
                                                        .control = b->k->control,
                                                        .health = b->k->health,
                                                        .decider = b->decider,
                                                        .threads = 2,
                                                        .text = text,
                                                        .aside = &b->aside,
                                                        .stats = b->k->stats[1],
                                                        .config = &b->k->config,
                                                        .wake = kit_wake,
                                                        .arg = b->k });
    reload_here = b->r;
    b->k->loop.woken = on_woken;
    snprintf(b->path, sizeof b->path, "/tmp/wayside-reload-XXXXXX");
    close(mkstemp(b->path));
    return b;
}

static void end(struct bed *b)
{
    reload_here = NULL;
    way_reload_free(b->r);
    kit_control_stop(b->k);
    unlink(b->path);
    way_free(b);
}

static void on_done(void *arg, const struct way_reload_report *report)
{
    struct bed *b = arg;
    b->told++;
    b->report = *report;
    snprintf(b->refused, sizeof b->refused, "%s", report->refused ? report->refused : "");
    snprintf(b->name, sizeof b->name, "%s", report->name ? report->name : "");
}

static void wish(struct bed *b, const char *policy)
{
    struct way_err err;
    struct way_reload_wish w = { .policy = b->path, .done = on_done, .arg = b };
    FILE *f = fopen(b->path, "w");
    assert_non_null(f);
    fputs(policy, f);
    fclose(f);
    b->told = 0;
    if (way_reload_begin(b->r, &w, "test", &err) < 0)
        fail_msg("%s", err.text);
}

static const char *name_of(struct bed *b, int who)
{
    return way_decider_plan(b->decider[who])->name;
}

static const char *state_of(struct bed *b)
{
    struct way_reload_status s;
    way_reload_status(b->r, &s);
    return s.state;
}

/* The worker's thread comes by. */
static void await_taken(struct bed *b, const char *name)
{
    AWAIT(&b->k->loop, 5, (way_decider_take(b->k->worker), !strcmp(name_of(b, 0), name)));
    AWAIT(&b->k->loop, 5, strcmp(state_of(b), "swapping") != 0);
}

static void it_is_told_when_all_have_it(void **state)
{
    (void)state;
    struct bed *b = begin(0);
    wish(b, KIT_PROBES);
    AWAIT(&b->k->loop, 5, !strcmp(state_of(b), "swapping"));
    assert_string_equal(name_of(b, 1), "probes"); /* the control thread has it */
    assert_string_equal(name_of(b, 0), "expires");
    kit_pass_time(&b->k->loop, 0.1);
    assert_int_equal(b->told, 0);
    await_taken(b, "probes");
    assert_int_equal(b->told, 1);
    assert_string_equal(b->refused, "");
    assert_string_equal(b->name, "probes");
    assert_int_equal(b->report.late, 0);
    assert_true(b->report.epoch == 2 && b->report.probation == 0);
    assert_string_equal(state_of(b), "idle");
    end(b);
}

static void a_second_one_is_refused_and_a_bad_one_changes_nothing(void **state)
{
    (void)state;
    struct bed *b = begin(0);
    struct way_err err;
    struct way_reload_wish again = { .done = on_done, .arg = b };
    wish(b, "error('not this')");
    assert_int_equal(way_reload_begin(b->r, &again, "test", &err), -1);
    assert_non_null(strstr(err.text, "another reload is on its way (loading)"));
    AWAIT(&b->k->loop, 5, b->told == 1);
    assert_non_null(strstr(b->refused, "not this"));
    assert_string_equal(name_of(b, 0), "expires");
    assert_true(atomic_load(way_health_policy_epoch(b->k->health)) == 1);
    assert_true(way_stat_get(b->k->stats[1], WAY_STAT_RELOADS_REFUSED) == 1);
    assert_string_equal(state_of(b), "idle");
    end(b);
}

static void on_probation_errors_bring_the_one_before_back(void **state)
{
    (void)state;
    struct bed *b = begin(60);
    struct way_reload_status s;
    wish(b, "return require('wayside').policy { name = 'worse',\n"
            "mark = function(self, node, event) if event.error then event() end end }");
    AWAIT(&b->k->loop, 5, !strcmp(state_of(b), "swapping"));
    await_taken(b, "worse");
    assert_string_equal(state_of(b), "probation");
    for (int i = 0; i < 5; i++)
        kit_refused(b->k, KIT_REPLICA);
    await_taken(b, "expires");
    assert_string_equal(name_of(b, 1), "expires");
    way_reload_status(b->r, &s);
    assert_string_equal(s.state, "idle");
    assert_string_equal(s.rolled_back, "worse none");
    assert_non_null(strstr(s.reason, "limits.probation_errors"));
    assert_true(s.epoch == 3);
    kit_refused(b->k, KIT_REPLICA);
    assert_int_equal(kit_state(b->k, KIT_REPLICA), WAY_STATE_FAILING);
    end(b);
}

static void its_time_over_it_is_confirmed(void **state)
{
    (void)state;
    struct bed *b = begin(0.2);
    wish(b, KIT_PROBES);
    AWAIT(&b->k->loop, 5, !strcmp(state_of(b), "swapping"));
    await_taken(b, "probes");
    assert_true(b->report.probation > 0);
    AWAIT(&b->k->loop, 5, !strcmp(state_of(b), "idle"));
    assert_string_equal(name_of(b, 0), "probes");
    assert_true(way_stat_get(b->k->stats[1], WAY_STAT_ROLLBACKS) == 0);
    end(b);
}

static int keep_all(void *arg, enum way_memory_scope scope,
                    const struct way_memory *before, struct way_memory *after,
                    struct way_err *err)
{
    (void)arg, (void)scope, (void)err;
    *after = *before;
    return 0;
}

/* As another process does it. */
static void elsewhere(struct bed *b, struct way_span bundle,
                      const struct way_probation *probation)
{
    struct way_err err;
    const struct way_layout layout = { .hash = 99 };
    uint64_t epoch = atomic_load(way_health_policy_epoch(b->k->health));
    struct way_takeover t = { .from = epoch,
                              .layout = &layout,
                              .bundle = bundle,
                              .convert = keep_all,
                              .probation = probation };
    if (way_health_take_over(b->k->health, &t, &epoch, &err) < 0)
        fail_msg("%s", err.text);
}

static void elsewhere_policy(struct bed *b, const char *policy,
                             const struct way_probation *probation)
{
    struct way_policy_text t;
    struct way_buf bytes = { 0 };
    way_policy_text_copy(&t, &b->k->text);
    way_free(t.text);
    t.text = way_strdup(policy);
    t.n = strlen(t.text);
    way_policy_pack(&t, &bytes);
    elsewhere(b, (struct way_span){ bytes.p, bytes.len }, probation);
    way_buf_fini(&bytes);
    way_policy_text_fini(&t);
}

static void another_process_is_followed(void **state)
{
    (void)state;
    struct bed *b = begin(60);
    elsewhere_policy(b, KIT_PROBES, NULL);
    await_taken(b, "probes");
    assert_string_equal(name_of(b, 1), "probes");
    assert_string_equal(state_of(b), "idle"); /* it was put on no probation there */
    end(b);
}

/* ---- probation, of a policy that another process put in charge ---- */

static const char worse[] =
    "return require('wayside').policy { name = 'worse',\n"
    "mark = function(self, node, event) if event.error then event() end end }";

static struct way_probation bounds(struct bed *b)
{
    return (struct way_probation){
        .ends = b->k->loop.now + 60, .errors_most = 5, .marks_most = 50, .ratio = 3
    };
}

/* What another process has counted meanwhile; what all have. */
static struct way_probation_counts count_elsewhere(struct bed *b, uint64_t errors)
{
    const struct way_probation_counts more = { .errors = errors };
    struct way_probation p;
    struct way_probation_counts sum;
    uint64_t epoch = atomic_load(way_health_policy_epoch(b->k->health));
    assert_int_equal(way_health_probation(b->k->health, epoch, &more, &p, &sum), 1);
    return sum;
}

static void it_is_watched_here_too_by_what_all_have_counted(void **state)
{
    (void)state;
    struct bed *b = begin(0.001); /* the bounds are those of who reloaded */
    struct way_probation p = bounds(b);
    struct way_reload_status s;
    elsewhere_policy(b, worse, &p);
    await_taken(b, "worse");
    assert_string_equal(state_of(b), "probation");
    way_reload_status(b->r, &s);
    assert_true(s.probation_left > 50 && s.probation_left <= 60);
    for (int i = 0; i < 2; i++)
        kit_refused(b->k, KIT_REPLICA);
    AWAIT(&b->k->loop, 5, count_elsewhere(b, 0).errors == 2);
    count_elsewhere(b, 2);
    kit_pass_time(&b->k->loop, 0.15);
    assert_string_equal(state_of(b), "probation");
    way_reload_status(b->r, &s);
    assert_int_equal(s.errors, 4);
    kit_refused(b->k, KIT_REPLICA);
    await_taken(b, "expires"); /* with the states that it had */
    way_reload_status(b->r, &s);
    assert_string_equal(s.state, "idle");
    assert_string_equal(s.rolled_back, "worse none");
    assert_string_equal(s.reason, "5 errors, limits.probation_errors is 5");
    assert_true(s.epoch == 3);
    assert_int_equal(way_stat_get(b->k->stats[1], WAY_STAT_ROLLBACKS), 1);
    assert_true(way_health_on_probation(b->k->health) == 0);
    end(b);
}

static void who_has_never_had_the_one_before_goes_back_to_it_too(void **state)
{
    (void)state;
    struct bed *b = begin(60);
    struct way_probation p = bounds(b);
    struct way_reload_status s;
    elsewhere_policy(b, KIT_PROBES, NULL); /* that is over before it is looked at */
    elsewhere_policy(b, worse, &p);
    await_taken(b, "worse");
    assert_string_equal(state_of(b), "probation");
    for (int i = 0; i < 5; i++)
        kit_refused(b->k, KIT_REPLICA);
    await_taken(b, "probes");
    assert_string_equal(name_of(b, 1), "probes");
    way_reload_status(b->r, &s);
    assert_string_equal(s.state, "idle");
    assert_string_equal(s.rolled_back, "worse none");
    assert_true(s.epoch == 4);
    assert_int_equal(way_stat_get(b->k->stats[1], WAY_STAT_ROLLBACKS), 1);
    end(b);
}

static void what_another_puts_back_is_so_here_and_told(void **state)
{
    (void)state;
    static const struct way_rollback because = { "worse none", "it was seen there" };
    struct bed *b = begin(60);
    struct way_probation p = bounds(b);
    struct way_reload_status s;
    struct way_err err;
    uint64_t epoch;
    elsewhere_policy(b, KIT_PROBES, NULL);
    await_taken(b, "probes");
    elsewhere_policy(b, worse, &p);
    await_taken(b, "worse");
    assert_int_equal(
        way_health_go_back(b->k->health, 3, &because, NULL, NULL, &epoch, &err), 0);
    await_taken(b, "probes");
    way_reload_status(b->r, &s);
    assert_string_equal(s.state, "idle");
    assert_string_equal(s.rolled_back, "worse none");
    assert_string_equal(s.reason, "it was seen there");
    assert_string_equal(s.last, "rolled back: it was seen there");
    assert_int_equal(way_stat_get(b->k->stats[1], WAY_STAT_ROLLBACKS), 1);
    /* The next one is no rollback. */
    elsewhere_policy(b, KIT_EXPIRES, NULL);
    await_taken(b, "expires");
    assert_int_equal(way_stat_get(b->k->stats[1], WAY_STAT_ROLLBACKS), 1);
    end(b);
}

static void what_another_confirms_is_confirmed_here(void **state)
{
    (void)state;
    struct bed *b = begin(60);
    struct way_probation p = bounds(b);
    elsewhere_policy(b, KIT_PROBES, &p);
    await_taken(b, "probes");
    assert_string_equal(state_of(b), "probation");
    assert_true(way_health_probation_end(b->k->health, 2));
    AWAIT(&b->k->loop, 5, !strcmp(state_of(b), "idle"));
    assert_string_equal(name_of(b, 0), "probes");
    /* And a reload here confirms it for all. */
    elsewhere_policy(b, KIT_EXPIRES, &p);
    await_taken(b, "expires");
    assert_true(way_health_on_probation(b->k->health) == 3);
    wish(b, "return {");
    assert_true(way_health_on_probation(b->k->health) == 0);
    AWAIT(&b->k->loop, 5, b->told);
    assert_string_equal(state_of(b), "idle");
    end(b);
}

static void what_can_t_be_loaded_here_leaves_the_fallback(void **state)
{
    (void)state;
    struct bed *b = begin(0);
    elsewhere(b, (struct way_span){ "nonsense", 8 }, NULL);
    await_taken(b, "none");
    kit_refused(b->k, KIT_REPLICA);
    assert_int_equal(kit_state(b->k, KIT_REPLICA), WAY_STATE_FAILING);
    wish(b, KIT_PROBES); /* and the next reload ends it */
    AWAIT(&b->k->loop, 5, !strcmp(state_of(b), "swapping"));
    await_taken(b, "probes");
    end(b);
}

static void the_end_of_the_host_is_an_answer_too(void **state)
{
    (void)state;
    struct bed *b = begin(0);
    char refused[64];
    unsigned *told = &b->told;
    wish(b, KIT_PROBES);
    reload_here = NULL;
    way_reload_free(b->r);
    b->r = NULL;
    assert_int_equal(*told, 1);
    snprintf(refused, sizeof refused, "%.60s", b->refused);
    assert_string_equal(refused, "the host stops");
    end(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_told_when_all_have_it),
        cmocka_unit_test(a_second_one_is_refused_and_a_bad_one_changes_nothing),
        cmocka_unit_test(on_probation_errors_bring_the_one_before_back),
        cmocka_unit_test(its_time_over_it_is_confirmed),
        cmocka_unit_test(another_process_is_followed),
        cmocka_unit_test(it_is_watched_here_too_by_what_all_have_counted),
        cmocka_unit_test(who_has_never_had_the_one_before_goes_back_to_it_too),
        cmocka_unit_test(what_another_puts_back_is_so_here_and_told),
        cmocka_unit_test(what_another_confirms_is_confirmed_here),
        cmocka_unit_test(what_can_t_be_loaded_here_leaves_the_fallback),
        cmocka_unit_test(the_end_of_the_host_is_an_answer_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
