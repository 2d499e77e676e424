/* policy - see policy.h. The files that share the work: policy_parts.h.
 *
 * A question is a struct on this thread's C stack (struct way_asking) that the userdata
 * handed to the script point to for the time of the call. What the script sets in memory
 * goes into a copy and is handed out only with an answer. */
#include "policy_answer.h"
#include "policy_load.h"
#include "policy_many.h"
#include "policy_parts.h"
#include "policy_rows.h"
#include "policy_view.h"

#include <lua.h>
#include <stdio.h>

static int ask_body(lua_State *L, void *arg)
{
    struct way_asking *a = arg;
    struct way_policy *p = a->policy;
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->question[a->question].fn);
    int arguments = way_view_push(p, L, a->question);
    lua_call(L, arguments, 1);
    way_answer_read(a, L);
    return 0;
}

static void copy_memory(const struct way_layout *l, struct way_memory *to,
                        const struct way_memory *from)
{
    memcpy(to->node, from->node, l->node * sizeof *to->node);
    memcpy(to->shard, from->shard, l->shard * sizeof *to->shard);
    memcpy(to->cluster, from->cluster, l->cluster * sizeof *to->cluster);
}

/* One line for the log: breaks become "; ", and nothing in it ends a quoted text. */
static void flatten(char *text)
{
    char *out = text;
    for (const char *c = text; *c; c++) {
        if (*c == '\n')
            *out++ = ';';
        else if ((unsigned char)*c < ' ' || *c == '\\')
            *out++ = ' ';
        else
            *out++ = *c == '"' ? '\'' : *c;
    }
    *out = 0;
}

static void note_failure(struct way_policy *p, const struct way_asking *a)
{
    const struct way_script_failure *f = way_script_failure(p->script);
    bool bad = a->bad_answer && !strcmp(f->cause, "error");
    p->failure.function = way_question_name(a->question);
    p->failure.cause = bad ? "answer" : f->cause;
    if (!bad && strcmp(f->cause, "memory") != 0) {
        snprintf(p->failure.text, sizeof p->failure.text, "%s", f->text);
    } else { /* the traceback tells nothing of an answer */
        size_t n = strcspn(f->text, "\n");
        snprintf(p->failure.text, sizeof p->failure.text, "%s: %.*s", p->where, (int)n,
                 f->text);
    }
    flatten(p->failure.text);
}

enum way_asked way_policy_ask(struct way_policy *p, struct way_asking *a, uint64_t seed,
                              struct way_memory *m, unsigned times)
{
    enum way_question q = a->question;
    p->touches.count = a->touches.count = 0;
    if (!p->question[q].fn)
        return WAY_ASKED_ABSENT;
    a->policy = p;
    a->bad_answer = false;
    if (m)
        copy_memory(&p->plan.layout, &a->memory, m);
    way_random_seed(&a->random, seed ? seed : 1);
    p->where = p->question[q].where;
    p->space = p->question[q].space;
    p->call++;
    p->asking = a;
    int failed = way_script_call_times(p->script, ask_body, a, times);
    p->asking = NULL;
    if (failed) {
        note_failure(p, a);
        return WAY_ASKED_FAILED;
    }
    if (m)
        copy_memory(&p->plan.layout, m, &a->memory);
    if (a->touches.count)
        p->touches = a->touches;
    return WAY_ASKED_ANSWERED;
}

/* a->view, event and out must be set. */
static enum way_asked ask(struct way_policy *p, struct way_asking *a, uint64_t seed,
                          struct way_memory *m)
{
    a->choice = NULL;
    a->sweep = NULL;
    return way_policy_ask(p, a, seed, m, 1);
}

const struct way_touches *way_policy_touches(const struct way_policy *p)
{
    return &p->touches;
}

enum way_asked way_policy_mark(struct way_policy *p, const struct way_view *node,
                               const struct way_event *e, uint64_t seed,
                               struct way_memory *m, struct way_mark *out)
{
    struct way_asking a;
    memset(out, 0, sizeof *out);
    a.question = WAY_ASK_MARK;
    a.view = node;
    a.event = e;
    a.out.mark = out;
    return ask(p, &a, seed, m);
}

enum way_asked way_policy_backoff(struct way_policy *p, const struct way_view *node,
                                  const struct way_event *e, uint64_t seed,
                                  struct way_memory *m, struct way_retry *out)
{
    struct way_asking a;
    *out = (struct way_retry){ .within = -1 };
    a.question = WAY_ASK_BACKOFF;
    a.view = node;
    a.event = e;
    a.out.retry = out;
    return ask(p, &a, seed, m);
}

enum way_asked way_policy_probe(struct way_policy *p, const struct way_view *node,
                                const struct way_event *e, uint64_t seed,
                                struct way_memory *m, struct way_probe *out)
{
    struct way_asking a;
    memset(out, 0, sizeof *out);
    a.question = WAY_ASK_PROBE;
    a.view = node;
    a.event = e;
    a.out.probe = out;
    return ask(p, &a, seed, m);
}

enum way_asked way_policy_reconnect(struct way_policy *p, const struct way_view *node,
                                    const struct way_event *e, uint64_t seed,
                                    struct way_memory *m, struct way_redial *out)
{
    struct way_asking a;
    memset(out, 0, sizeof *out);
    a.question = WAY_ASK_RECONNECT;
    a.view = node;
    a.event = e;
    a.out.redial = out;
    return ask(p, &a, seed, m);
}

/* classify is shown the event alone; what it sets in memory is dropped. */
static enum way_asked ask_classify(struct way_policy *p, const struct way_event *e,
                                   int *class)
{
    static const struct way_view nobody = { .latency = -1 };
    struct way_memory none = p->plan.layout.first;
    struct way_asking a;
    a.question = WAY_ASK_CLASSIFY;
    a.view = &nobody;
    a.event = e;
    a.out.class = class;
    return ask(p, &a, 0, &none);
}

enum way_asked way_policy_classify(struct way_policy *p, struct way_event *e)
{
    int class = -1;
    enum way_asked asked = WAY_ASKED_ABSENT;
    p->where = "class";
    if (e->error != WAY_ERROR_NONE && way_rows_match(&p->rows, e)) {
        e->blame = (enum way_blame)p->class_blame[e->class];
        return WAY_ASKED_ANSWERED;
    }
    way_event_classify_default(e);
    if (e->error != WAY_ERROR_NONE)
        asked = ask_classify(p, e, &class);
    if (asked == WAY_ASKED_ANSWERED && class >= 0) {
        e->class = (uint8_t) class;
        e->blame = (enum way_blame)p->class_blame[class];
        e->permanent = p->class_permanent[class];
    }
    return asked;
}

/* ---- loading ---- */

static const char none_name[] = "none";

static void be_nothing(struct way_policy *p)
{
    p->plan.name = none_name;
    p->plan.version = "";
    p->plan.classes = WAY_CLASS_BUILTIN;
    p->where = "fallback";
    p->plan.layout.hash = 1;
    for (unsigned i = 0; i < WAY_CLASS_BUILTIN; i++)
        snprintf(p->class_name[i], WAY_CLASS_NAME, "%s", way_class_name(i));
}

static int load(struct way_policy *p, const struct way_policy_text *t,
                struct way_err *err)
{
    const struct way_script_limits limits = { t->instructions, t->wall, t->memory };
    p->script = way_script_new(&limits);
    if (!p->script)
        return way_fail(err, "%s: limits.policy_memory is too small to load a policy",
                        t->path);
    way_script_user_set(p->script, p);
    p->loading = t;
    int failed = way_script_call_loading(p->script, way_policy_load_body, p);
    p->loading = NULL;
    p->calls_before = way_script_calls(p->script);
    p->where = "load";
    if (!failed)
        return 0;
    const struct way_script_failure *f = way_script_failure(p->script);
    int n = (int)strcspn(f->text, "\n");
    return strncmp(f->cause, "error", 5) != 0 || !strchr(f->text, ':')
               ? way_fail(err, "%s: %.*s", t->path, n, f->text)
               : way_fail(err, "%.*s", n, f->text);
}

int way_policy_load(struct way_policy **out, const struct way_policy_text *t,
                    struct way_err *err)
{
    struct way_policy *p = way_zalloc(sizeof *p);
    *out = NULL;
    if (!t->text) {
        be_nothing(p);
    } else if (load(p, t, err) < 0) {
        way_policy_free(p);
        return -1;
    }
    *out = p;
    return 0;
}

void way_policy_free(struct way_policy *p)
{
    if (!p)
        return;
    way_script_free(p->script);
    way_rows_fini(&p->rows);
    way_policy_files_fini(p);
    way_many_fini(p);
    way_free(p);
}

unsigned way_policy_script_random(struct way_policy *p, const double *number, unsigned n)
{
    unsigned left = p->scripts;
    p->scripted = number;
    p->scripts = n;
    return left;
}

const struct way_plan *way_policy_plan(const struct way_policy *p)
{
    return &p->plan;
}

const char *way_policy_class_name(const struct way_policy *p, unsigned class)
{
    return class < p->plan.classes ? p->class_name[class] : "?";
}

const struct way_policy_failure *way_policy_failure(const struct way_policy *p)
{
    return &p->failure;
}

enum way_cause way_policy_failure_cause(const struct way_policy *p)
{
    int cause = way_word(way_cause_name, WAY_CAUSE_COUNT, p->failure.cause);
    return cause > 0 ? (enum way_cause)cause : WAY_CAUSE_ERROR;
}

const char *way_policy_where(const struct way_policy *p)
{
    return p->where;
}

uint64_t way_policy_calls(const struct way_policy *p)
{
    return p->script ? way_script_calls(p->script) - p->calls_before : 0;
}
