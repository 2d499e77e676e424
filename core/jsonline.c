/* jsonline - see jsonline.h.
 *
 * One table per struct says what its fields are called, what shape they have and where
 * they lie; the writer and the reader walk the same tables, so that what one knows the
 * other does too. jansson makes and takes the JSON: 17 digits bring every double back. */
#include "jsonline.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* A WORD is always written, a WORD_IF unless it is the first of its list. */
enum shape {
    NUMBER,
    COUNT8,
    COUNT16,
    COUNT32,
    COUNT64,
    INTEGER,
    BIG,
    FLAG,
    TEXT,
    WORD,
    WORD_IF
};
struct field {
    const char *name;
    enum shape shape;
    size_t offset, size;
    const char *(*word)(unsigned);
    unsigned words;
};
#define AT(type, member) offsetof(struct type, member), sizeof(((struct type *)0)->member)

#define E(name, shape, member)                                                           \
    {                                                                                    \
        name, shape, AT(way_event, member), NULL, 0                                      \
    }
#define E_WORD(name, shape, member, function, count)                                     \
    {                                                                                    \
        name, shape, AT(way_event, member), function, count                              \
    }
static const struct field event_fields[] = {
    E_WORD("kind", WORD, kind, way_kind_name, WAY_KIND_COUNT),
    E_WORD("phase", WORD, phase, way_phase_name, WAY_PHASE_COUNT),
    E_WORD("step", WORD, step, way_step_name, WAY_STEP_COUNT),
    E_WORD("error", WORD_IF, error, way_error_name, WAY_ERROR_COUNT),
    E("errno", INTEGER, errnum),
    E("message", TEXT, message),
    E("reply", TEXT, reply),
    E_WORD("blame", WORD, blame, way_blame_name, WAY_BLAME_COUNT),
    E("permanent", FLAG, permanent),
    E("n", COUNT32, n),
    E("reused", FLAG, reused),
    E("trial", FLAG, trial),
    E("connection_age", NUMBER, connection_age),
    E("bytes_written", COUNT64, bytes_written),
    E("replies_read", COUNT32, replies_read),
    E("began", NUMBER, began),
    E("now", NUMBER, now),
    E("unix", NUMBER, unix_time),
    E("latency", NUMBER, latency),
    E("attempt", COUNT32, attempt),
    E_WORD("commands", WORD_IF, commands, way_commands_name, WAY_COMMANDS_COUNT),
    E_WORD("certainty", WORD_IF, certainty, way_certainty_name, WAY_CERTAINTY_COUNT),
    E("has_certainty", FLAG, has_certainty),
    E("age", NUMBER, age),
    E("waited", NUMBER, waited),
    E("deadline_left", NUMBER, deadline_left),
    E_WORD("change", WORD_IF, change, way_change_name, WAY_CHANGE_COUNT),
    E("late", NUMBER, late),
    E("counter", TEXT, counter),
};

#define V(name, shape, member)                                                           \
    {                                                                                    \
        name, shape, AT(way_view, member), NULL, 0                                       \
    }
static const struct field view_fields[] = {
    V("node", COUNT16, node),
    V("shard", COUNT16, shard),
    V("id", TEXT, id),
    V("address", TEXT, address),
    V("host", TEXT, host),
    V("hostname", TEXT, hostname),
    V("port", COUNT16, port),
    V("zone", TEXT, zone),
    { "role", WORD, AT(way_view, role), way_role_name, WAY_ROLE_COUNT },
    V("generation", COUNT32, generation),
    V("failures", COUNT32, failures),
    V("latency", NUMBER, latency),
    V("inflight", COUNT64, inflight),
    V("has_replication", FLAG, has_replication),
    V("link_up", FLAG, link_up),
    V("last_io", NUMBER, last_io),
    V("behind", NUMBER, behind),
    { "state", WORD, AT(way_view, verdict.state), way_state_name, WAY_STATE_COUNT },
    V("hard", COUNT8, verdict.hard),
    { "connections", WORD_IF, AT(way_view, verdict.connections), way_connections_name,
      WAY_CONNECTIONS_COUNT },
    V("by_operator", COUNT8, verdict.by_operator),
    V("trials", COUNT32, verdict.trials),
    V("since", NUMBER, verdict.since),
    V("ends", NUMBER, verdict.ends),
    V("weight", NUMBER, verdict.weight),
    V("ramp", NUMBER, verdict.ramp),
    V("ramp_began", NUMBER, verdict.ramp_began),
    V("shed", NUMBER, verdict.shed),
    V("reason", TEXT, verdict.reason),
    V("drops", COUNT32, verdict.drops),
};

#define C(name, shape, member)                                                           \
    {                                                                                    \
        name, shape, AT(way_counts, member), NULL, 0                                     \
    }
static const struct field count_fields[] = {
    C("nodes", COUNT32, nodes),
    C("healthy", COUNT32, state[WAY_STATE_HEALTHY]),
    C("suspect", COUNT32, state[WAY_STATE_SUSPECT]),
    C("failing", COUNT32, state[WAY_STATE_FAILING]),
    C("probing", COUNT32, state[WAY_STATE_PROBING]),
    C("draining", COUNT32, state[WAY_STATE_DRAINING]),
    C("inflight", COUNT64, inflight),
    C("retrying", COUNT64, retrying),
};

/* In the order of enum way_mark_field: each is there where its bit of `has` is set. */
#define M(name, shape, member)                                                           \
    {                                                                                    \
        name, shape, AT(way_mark, member), NULL, 0                                       \
    }
static const struct field mark_fields[] = {
    { "state", WORD, AT(way_mark, state), way_state_name, WAY_STATE_COUNT },
    M("seconds", NUMBER, seconds),
    M("trials", COUNT32, trials),
    M("weight", NUMBER, weight),
    M("ramp", NUMBER, ramp),
    M("shed", NUMBER, shed),
    { "connections", WORD, AT(way_mark, connections), way_connections_name,
      WAY_CONNECTIONS_COUNT },
    M("refresh", FLAG, refresh),
    M("reason", TEXT, reason),
};

static const struct field retry_fields[] = {
    { "retry", WORD_IF, AT(way_retry, kind), way_retry_name, WAY_RETRY_COUNT },
    { "after", NUMBER, AT(way_retry, after), NULL, 0 },
    { "within", NUMBER, AT(way_retry, within), NULL, 0 },
    { "over", NUMBER, AT(way_retry, over), NULL, 0 },
    { "stale_reads", FLAG, AT(way_retry, stale_reads), NULL, 0 },
    { "unknown_writes", FLAG, AT(way_retry, unknown_writes), NULL, 0 },
};
static const struct field probe_fields[] = {
    { "given", FLAG, AT(way_probe, given), NULL, 0 },
    { "after", NUMBER, AT(way_probe, after), NULL, 0 },
    { "timeout", NUMBER, AT(way_probe, timeout), NULL, 0 },
    { "pooled", FLAG, AT(way_probe, pooled), NULL, 0 },
};
static const struct field redial_fields[] = {
    { "given", FLAG, AT(way_redial, given), NULL, 0 },
    { "after", NUMBER, AT(way_redial, after), NULL, 0 },
    { "timeout", NUMBER, AT(way_redial, timeout), NULL, 0 },
};

static const char *commit_name(unsigned v)
{
    static const char *const words[] = { "done", "conflict", "busy" };
    return v < way_count(words) ? words[v] : "?";
}

#define N(name, shape, member)                                                           \
    {                                                                                    \
        name, shape, AT(way_entry, member), NULL, 0                                      \
    }
static const struct field entry_fields[] = {
    N("seq", COUNT64, seq),
    N("thread", COUNT16, thread),
    N("node", COUNT16, node),
    N("address", TEXT, address),
    { "function", WORD, AT(way_entry, function), way_function_name, WAY_FN_NONE + 1 },
    N("policy", BIG, policy),
    N("seed", BIG, seed),
    N("asking", COUNT8, asking),
    N("sweep_at", COUNT16, sweep_at),
    N("sweep_of", COUNT16, sweep_of),
    { "cause", WORD_IF, AT(way_entry, cause), way_cause_name, WAY_CAUSE_COUNT },
    N("fallback", FLAG, fallback),
    N("straggler", FLAG, straggler),
    N("by_operator", FLAG, by_operator),
    N("class", TEXT, class_name),
    N("commit", COUNT64, outcome.commit),
    N("published", FLAG, outcome.published),
    { "committed", WORD_IF, AT(way_entry, commit), commit_name, WAY_COMMIT_BUSY + 1 },
    { "from", WORD, AT(way_entry, outcome.from), way_state_name, WAY_STATE_COUNT },
    { "to", WORD, AT(way_entry, outcome.to), way_state_name, WAY_STATE_COUNT },
    N("changed", FLAG, outcome.changed),
    { "refused", WORD_IF, AT(way_entry, outcome.refused), way_refusal_name,
      WAY_REFUSED_OPERATOR + 1 },
    N("where", TEXT, where),
    N("did", TEXT, did),
    { "shadow", WORD_IF, AT(way_entry, shadow), way_entry_shadow_name,
      WAY_ENTRY_SHADOWS },
};

/* ---- writing ---- */

/* Bytes as characters of their number: valid UTF-8 whatever they are. */
static json_t *bytes_to_json(const char *p, size_t n)
{
    char small[512] = "";
    char *text = 2 * n <= sizeof small ? small : way_alloc(2 * n);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c >= 0x80)
            text[at++] = (char)(0xc0 | c >> 6);
        text[at++] = (char)(c < 0x80 ? c : 0x80 | (c & 0x3f));
    }
    json_t *v = json_stringn_nocheck(text, at);
    if (text != small)
        way_free(text);
    return v;
}

static json_t *number_to_json(double n)
{
    if (isfinite(n))
        return json_real(n);
    return json_string(isnan(n) ? "nan" : n > 0 ? "inf" : "-inf");
}

static uint64_t unsigned_at(const void *at, size_t size)
{
    uint8_t small;
    uint16_t middle;
    uint32_t large;
    uint64_t largest;
    switch (size) {
    case 1: return memcpy(&small, at, 1), small;
    case 2: return memcpy(&middle, at, 2), middle;
    case 4: return memcpy(&large, at, 4), large;
    default: return memcpy(&largest, at, 8), largest;
    }
}

/* NULL: it is zero, false or empty. */
static json_t *field_to_json(const struct field *f, const void *at)
{
    char text[24];
    double n;
    uint64_t u;
    switch (f->shape) {
    case NUMBER:
        memcpy(&n, at, sizeof n);
        return n != 0 || signbit(n) ? number_to_json(n) : NULL;
    case FLAG: return *(const bool *)at ? json_true() : NULL;
    case TEXT: return *(const char *)at ? bytes_to_json(at, strnlen(at, f->size)) : NULL;
    case INTEGER: return *(const int *)at ? json_integer(*(const int *)at) : NULL;
    case WORD:
    case WORD_IF:
        u = unsigned_at(at, f->size);
        return u || f->shape == WORD ? json_string(f->word((unsigned)u)) : NULL;
    case BIG:
        u = unsigned_at(at, f->size);
        snprintf(text, sizeof text, "%016" PRIx64, u);
        return u ? json_string(text) : NULL;
    default: u = unsigned_at(at, f->size); return u ? json_integer((json_int_t)u) : NULL;
    }
}

static void put_field(json_t *to, const struct field *f, const void *base)
{
    json_t *v = field_to_json(f, (const char *)base + f->offset);
    if (v)
        json_object_set_new_nocheck(to, f->name, v);
}

#define PUT(fields, base) put_all(fields, way_count(fields), base)
static json_t *put_all(const struct field *fields, size_t count, const void *base)
{
    json_t *o = json_object();
    for (size_t i = 0; i < count; i++)
        put_field(o, &fields[i], base);
    return o;
}

static json_t *put_mark(const struct way_mark *m)
{
    json_t *o = json_object();
    for (size_t i = 0; i < way_count(mark_fields); i++) {
        const struct field *f = &mark_fields[i];
        json_t *v = field_to_json(f, (const char *)m + f->offset);
        if (!v)
            v = f->shape == TEXT   ? json_string("")
                : f->shape == FLAG ? json_false()
                                   : json_integer(0);
        if (m->has & 1u << i)
            json_object_set_new_nocheck(o, f->name, v);
        else
            json_decref(v);
    }
    return o;
}

static json_t *put_probe(const struct way_probe *p)
{
    json_t *o = PUT(probe_fields, p), *command = json_array();
    size_t at = 0;
    for (unsigned i = 0; i < p->words && at < sizeof p->command; i++) {
        size_t n = strnlen(p->command + at, sizeof p->command - at);
        json_array_append_new(command, bytes_to_json(p->command + at, n));
        at += n + 1;
    }
    json_object_set_new_nocheck(o, "command", command);
    return o;
}

static void put_verdict(json_t *o, const struct way_entry *e)
{
    if (way_entry_marks(e) && e->mark.given)
        json_object_set_new_nocheck(o, "mark", put_mark(&e->mark));
    else if (e->function == WAY_FN_BACKOFF)
        json_object_set_new_nocheck(o, "backoff", PUT(retry_fields, &e->retry));
    else if (e->function == WAY_FN_PROBE)
        json_object_set_new_nocheck(o, "probe", put_probe(&e->probe));
    else if (e->function == WAY_FN_RECONNECT)
        json_object_set_new_nocheck(o, "reconnect", PUT(redial_fields, &e->redial));
}

static json_t *put_numbers(const double *n, unsigned count)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < count; i++)
        json_array_append_new(list, number_to_json(n[i]));
    return list;
}

static json_t *put_memory(const struct way_memory *m, struct way_layout_of l)
{
    json_t *o = json_object();
    json_object_set_new_nocheck(o, "node", put_numbers(m->node, l.node));
    json_object_set_new_nocheck(o, "shard", put_numbers(m->shard, l.shard));
    json_object_set_new_nocheck(o, "cluster", put_numbers(m->cluster, l.cluster));
    return o;
}

static const char *const scopes[WAY_COUNTER_SCOPES] = { "node", "shard", "cluster" };
enum { COUNTED = sizeof(struct way_counted) / sizeof(double) };

/* Per scope a list of counters, each a list of value, failed, volume, mean, deviation, last. */
static json_t *put_counted(const struct way_view *v, struct way_layout_of l)
{
    json_t *o = json_object();
    for (unsigned scope = 0; scope < WAY_COUNTER_SCOPES; scope++) {
        json_t *list = json_array();
        for (unsigned i = 0; i < l.counters[scope]; i++)
            json_array_append_new(list,
                                  put_numbers(&v->counted[scope][i].value, COUNTED));
        json_object_set_new_nocheck(o, scopes[scope], list);
    }
    return o;
}

static void put_input(json_t *o, const struct way_input *in)
{
    json_t *view = PUT(view_fields, &in->view);
    json_object_set_new_nocheck(view, "of_shard", PUT(count_fields, &in->view.of_shard));
    json_object_set_new_nocheck(view, "of_cluster",
                                PUT(count_fields, &in->view.of_cluster));
    json_object_set_new_nocheck(o, "view", view);
    json_object_set_new_nocheck(o, "memory", put_memory(&in->view.memory, in->layout));
    json_object_set_new_nocheck(o, "after", put_memory(&in->after, in->layout));
    if (in->layout.counters[0] || in->layout.counters[1] || in->layout.counters[2])
        json_object_set_new_nocheck(o, "counters", put_counted(&in->view, in->layout));
    if (in->answer.n)
        json_object_set_new_nocheck(o, "answer",
                                    bytes_to_json(in->answer.p, in->answer.n));
    if (in->answer_cut)
        json_object_set_new_nocheck(o, "answer_cut", json_true());
}

static int append(const char *p, size_t n, void *out)
{
    way_buf_put(out, p, n);
    return 0;
}

static void put_line(struct way_buf *out, json_t *o)
{
    json_dump_callback(o, append, out, JSON_COMPACT | JSON_REAL_PRECISION(17));
    way_buf_put(out, "\n", 1);
    json_decref(o);
}

/* Words that mean something for one kind of event only are there with it, the first of
 * their list too. */
static json_t *put_event(const struct way_event *e)
{
    json_t *o = PUT(event_fields, e);
    if (e->kind == WAY_KIND_CHANGE)
        json_object_set_new_nocheck(o, "change", json_string(way_change_name(e->change)));
    if (e->kind == WAY_KIND_COMMANDS)
        json_object_set_new_nocheck(o, "commands",
                                    json_string(way_commands_name(e->commands)));
    if (e->has_certainty)
        json_object_set_new_nocheck(o, "certainty",
                                    json_string(way_certainty_name(e->certainty)));
    return o;
}

void way_jsonline_entry(struct way_buf *out, const struct way_entry *e)
{
    struct way_input in;
    json_t *o = PUT(entry_fields, e);
    json_object_set_new_nocheck(o, "event", put_event(&e->event));
    put_verdict(o, e);
    if (way_input_unpack(e, &in)) {
        json_object_set_new_nocheck(o, "name",
                                    bytes_to_json(in.policy, strlen(in.policy)));
        json_object_set_new_nocheck(o, "version",
                                    bytes_to_json(in.version, strlen(in.version)));
        put_input(o, &in);
    }
    put_line(out, o);
}

static json_t *put_options(const struct way_policy_text *text)
{
    json_t *o = json_object();
    for (unsigned i = 0; i < text->options; i++) {
        const struct way_option *each = &text->option[i];
        json_t *v = each->type == WAY_OPTION_NUMBER ? number_to_json(each->number)
                    : each->type == WAY_OPTION_BOOLEAN
                        ? json_boolean(each->number != 0)
                        : bytes_to_json(each->text, strlen(each->text));
        json_object_set_new_nocheck(o, each->name, v);
    }
    return o;
}

void way_jsonline_policy(struct way_buf *out, const char *wayside, uint64_t run,
                         const struct way_plan *plan, const struct way_policy_text *text,
                         double now, double unix_time)
{
    char hash[24];
    const char *file = text->path ? text->path : "default";
    json_t *o = json_object();
    if (wayside) {
        json_object_set_new_nocheck(o, "wayside_journal",
                                    json_integer(WAY_JSONLINE_FORMAT));
        json_object_set_new_nocheck(o, "wayside", json_string(wayside));
        snprintf(hash, sizeof hash, "%016" PRIx64, run);
        json_object_set_new_nocheck(o, "run", json_string(hash));
    }
    snprintf(hash, sizeof hash, "%016" PRIx64, plan->layout.hash);
    json_object_set_new_nocheck(o, "policy", json_string(hash));
    json_object_set_new_nocheck(o, "name", bytes_to_json(plan->name, strlen(plan->name)));
    json_object_set_new_nocheck(o, "version",
                                bytes_to_json(plan->version, strlen(plan->version)));
    json_object_set_new_nocheck(o, "file", bytes_to_json(file, strlen(file)));
    json_object_set_new_nocheck(o, "options", put_options(text));
    json_object_set_new_nocheck(o, "now", json_real(now));
    json_object_set_new_nocheck(o, "unix", json_real(unix_time));
    put_line(out, o);
}

/* ---- reading ---- */

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a string";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL: break;
    }
    return "null";
}

static int expected(struct way_err *err, const char *name, const char *what,
                    const json_t *v)
{
    return way_fail(err, "%s: expected %s, got %s", name, what, type_name(v));
}

/* Into at most `most` bytes, -1 if it has another character or is longer. */
static int bytes_from_json(const json_t *v, char *out, size_t most, size_t *n)
{
    const char *p = json_string_value(v);
    size_t length = json_string_length(v), at = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)p[i];
        if (at == most || c > 0xc3)
            return -1;
        if (c >= 0x80)
            c = (unsigned char)(c << 6 | ((unsigned char)p[++i] & 0x3f));
        out[at++] = (char)c;
    }
    *n = at;
    return 0;
}

static int get_text(const struct field *f, const json_t *v, char *at, struct way_err *err)
{
    size_t n;
    if (!json_is_string(v))
        return expected(err, f->name, "a string", v);
    if (bytes_from_json(v, at, f->size - 1, &n) < 0 || memchr(at, 0, n))
        return way_fail(err, "%s: expected at most %zu characters below 256, got others",
                        f->name, f->size - 1);
    memset(at + n, 0, f->size - n);
    return 0;
}

static int get_number(const char *name, const json_t *v, double *n, struct way_err *err)
{
    const char *word = json_string_value(v);
    if (json_is_number(v))
        *n = json_number_value(v);
    else if (word && !strcmp(word, "nan"))
        *n = NAN;
    else if (word && (!strcmp(word, "inf") || !strcmp(word, "-inf")))
        *n = *word == '-' ? -INFINITY : INFINITY;
    else
        return expected(err, name, "a number", v);
    return 0;
}

static void set_unsigned(void *at, size_t size, uint64_t u)
{
    uint8_t small = (uint8_t)u;
    uint16_t middle = (uint16_t)u;
    uint32_t large = (uint32_t)u;
    memcpy(at,
           size == 1   ? (const void *)&small
           : size == 2 ? (const void *)&middle
           : size == 4 ? (const void *)&large
                       : (const void *)&u,
           size);
}

static int get_count(const struct field *f, const json_t *v, void *at,
                     struct way_err *err)
{
    json_int_t i = json_integer_value(v);
    uint64_t most = f->size >= 8 ? INT64_MAX : (1ull << 8 * f->size) - 1;
    if (!json_is_integer(v) || i < 0 || (uint64_t)i > most)
        return way_fail(err, "%s: expected an integer from 0 to %" PRIu64 ", got %s",
                        f->name, most, json_is_integer(v) ? "another" : type_name(v));
    set_unsigned(at, f->size, (uint64_t)i);
    return 0;
}

static int get_word(const struct field *f, const json_t *v, void *at, struct way_err *err)
{
    if (!json_is_string(v))
        return expected(err, f->name, "a word", v);
    int value = way_word(f->word, f->words, json_string_value(v));
    if (value < 0)
        return way_fail(err, "%s: no such word: \"%.40s\"", f->name,
                        json_string_value(v));
    set_unsigned(at, f->size, (uint64_t)value);
    return 0;
}

static int get_big(const char *name, const json_t *v, uint64_t *out, struct way_err *err)
{
    const char *p = json_string_value(v);
    char *end = NULL;
    if (p && strspn(p, "0123456789abcdef") == 16)
        *out = strtoull(p, &end, 16);
    if (!end || *end)
        return way_fail(err, "%s: expected a string of 16 hexadecimal digits, got %s",
                        name, p ? "another" : type_name(v));
    return 0;
}

static int get_field(const struct field *f, const json_t *v, void *at,
                     struct way_err *err)
{
    switch (f->shape) {
    case NUMBER: return get_number(f->name, v, at, err);
    case FLAG:
        if (!json_is_boolean(v))
            return expected(err, f->name, "true or false", v);
        *(bool *)at = json_is_true(v);
        return 0;
    case TEXT: return get_text(f, v, at, err);
    case INTEGER:
        if (!json_is_integer(v) || json_integer_value(v) != (int)json_integer_value(v))
            return expected(err, f->name, "an integer of 32 bits", v);
        *(int *)at = (int)json_integer_value(v);
        return 0;
    case WORD:
    case WORD_IF: return get_word(f, v, at, err);
    case BIG: return get_big(f->name, v, at, err);
    default: return get_count(f, v, at, err);
    }
}

/* What is not there stays as it is. */
static int get_all(const json_t *o, const struct field *fields, size_t count, void *base,
                   const char *what, struct way_err *err)
{
    if (!json_is_object(o))
        return way_fail(err, "%s: expected an object, got %s", what,
                        o ? type_name(o) : "nothing");
    for (size_t i = 0; i < count; i++) {
        const json_t *v = json_object_get(o, fields[i].name);
        if (v && get_field(&fields[i], v, (char *)base + fields[i].offset, err) < 0)
            return *what ? way_fail_in(err, "%s", what) : -1;
    }
    return 0;
}
#define GET(o, fields, base, what, err)                                                  \
    get_all(o, fields, way_count(fields), base, what, err)

static int get_mark(const json_t *o, struct way_mark *m, struct way_err *err)
{
    if (!o)
        return 0;
    if (GET(o, mark_fields, m, "mark", err) < 0)
        return -1;
    m->given = true;
    for (unsigned i = 0; i < way_count(mark_fields); i++)
        if (json_object_get(o, mark_fields[i].name))
            m->has |= 1u << i;
    return 0;
}

static int get_probe(const json_t *o, struct way_probe *p, struct way_err *err)
{
    const json_t *command = json_object_get(o, "command");
    size_t at = 0, n;
    if (GET(o, probe_fields, p, "probe", err) < 0)
        return -1;
    for (size_t i = 0; i < json_array_size(command); i++) {
        const json_t *word = json_array_get(command, i);
        if (!json_is_string(word) || at >= sizeof p->command - 1 ||
            bytes_from_json(word, p->command + at, sizeof p->command - 1 - at, &n) < 0)
            return way_fail(err, "probe: command: expected words of 255 bytes in all");
        at += n + 1;
        p->words++;
    }
    return 0;
}

static int get_verdict(const json_t *o, struct way_entry *e, struct way_err *err)
{
    e->retry.within = 0;
    switch (e->function) {
    case WAY_FN_TICK:
    case WAY_FN_MARK: return get_mark(json_object_get(o, "mark"), &e->mark, err);
    case WAY_FN_BACKOFF:
        return GET(json_object_get(o, "backoff"), retry_fields, &e->retry, "backoff",
                   err);
    case WAY_FN_PROBE: return get_probe(json_object_get(o, "probe"), &e->probe, err);
    case WAY_FN_RECONNECT:
        return GET(json_object_get(o, "reconnect"), redial_fields, &e->redial,
                   "reconnect", err);
    default: return 0;
    }
}

static int get_numbers(const json_t *o, const char *name, double *out, unsigned most,
                       uint8_t *count, struct way_err *err)
{
    const json_t *list = json_object_get(o, name);
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > most)
        return way_fail(err, "memory.%s: expected a list of at most %u numbers", name,
                        most);
    for (size_t i = 0; i < n; i++)
        if (get_number("memory", json_array_get(list, i), &out[i], err) < 0)
            return -1;
    *count = (uint8_t)n;
    return 0;
}

static int get_memory(const json_t *o, struct way_memory *m, struct way_layout_of *l,
                      struct way_err *err)
{
    return get_numbers(o, "node", m->node, WAY_NODE_MEMORY, &l->node, err) < 0 ||
                   get_numbers(o, "shard", m->shard, WAY_SHARD_MEMORY, &l->shard, err) <
                       0 ||
                   get_numbers(o, "cluster", m->cluster, WAY_CLUSTER_MEMORY, &l->cluster,
                               err) < 0
               ? -1
               : 0;
}

static int get_counted(const json_t *o, struct way_input *in, struct way_err *err)
{
    for (unsigned scope = 0; o && scope < WAY_COUNTER_SCOPES; scope++) {
        const json_t *list = json_object_get(o, scopes[scope]);
        size_t n = json_array_size(list);
        if (!json_is_array(list) || n > WAY_COUNTERS_MAX)
            return way_fail(err, "counters.%s: expected a list of at most %d counters",
                            scopes[scope], WAY_COUNTERS_MAX);
        for (size_t i = 0; i < n; i++) {
            const json_t *each = json_array_get(list, i);
            double *to = &in->view.counted[scope][i].value;
            if (json_array_size(each) != COUNTED)
                return way_fail(err, "counters.%s: expected lists of %d numbers",
                                scopes[scope], COUNTED);
            for (size_t k = 0; k < COUNTED; k++)
                if (get_number("counters", json_array_get(each, k), to + k, err) < 0)
                    return -1;
        }
        in->layout.counters[scope] = (uint8_t)n;
    }
    return 0;
}

static int get_answer(const json_t *v, struct way_jsonline *r, struct way_err *err)
{
    size_t n = json_string_length(v);
    way_buf_reset(&r->answer);
    way_buf_room(&r->answer, n + 1);
    if (!json_is_string(v))
        return expected(err, "answer", "a string", v);
    if (bytes_from_json(v, r->answer.p, WAY_ANSWER_KEPT < n ? WAY_ANSWER_KEPT : n, &n) <
        0)
        return way_fail(err, "answer: expected at most %d characters below 256",
                        WAY_ANSWER_KEPT);
    r->input.answer = (struct way_span){ r->answer.p, n };
    return 0;
}

static int get_view(const json_t *o, struct way_view *v, struct way_err *err)
{
    if (GET(o, view_fields, v, "view", err) < 0 ||
        GET(json_object_get(o, "of_shard"), count_fields, &v->of_shard, "view.of_shard",
            err) < 0 ||
        GET(json_object_get(o, "of_cluster"), count_fields, &v->of_cluster,
            "view.of_cluster", err) < 0)
        return -1;
    return 0;
}

static const struct field input_fields[] = {
    { "name", TEXT, AT(way_input, policy), NULL, 0 },
    { "version", TEXT, AT(way_input, version), NULL, 0 },
    { "answer_cut", FLAG, AT(way_input, answer_cut), NULL, 0 },
};

static int get_input(const json_t *o, struct way_jsonline *r, struct way_err *err)
{
    const json_t *view = json_object_get(o, "view"),
                 *answer = json_object_get(o, "answer");
    struct way_input *in = &r->input;
    if (!view)
        return 0;
    if (get_view(view, &in->view, err) < 0 || GET(o, input_fields, in, "", err) < 0 ||
        get_memory(json_object_get(o, "memory"), &in->view.memory, &in->layout, err) <
            0 ||
        get_memory(json_object_get(o, "after"), &in->after, &in->layout, err) < 0 ||
        get_counted(json_object_get(o, "counters"), in, err) < 0)
        return -1;
    r->has_input = true;
    return answer ? get_answer(answer, r, err) : 0;
}

static int get_entry(const json_t *o, struct way_jsonline *r, struct way_err *err)
{
    struct way_entry *e = &r->entry;
    e->function = WAY_FN_NONE;
    if (!json_object_get(o, "event"))
        return way_fail(err, "expected a record of a journal, got another object");
    e->function = WAY_FN_CLASSIFY; /* the word that is left out */
    if (GET(o, entry_fields, e, "", err) < 0 ||
        GET(json_object_get(o, "event"), event_fields, &e->event, "event", err) < 0)
        return -1;
    return get_verdict(o, e, err) < 0 ? -1 : get_input(o, r, err);
}

static const struct field policy_fields[] = {
    { "policy", BIG, AT(way_jsonline, hash), NULL, 0 },
    { "run", BIG, AT(way_jsonline, run), NULL, 0 },
    { "name", TEXT, AT(way_jsonline, name), NULL, 0 },
    { "version", TEXT, AT(way_jsonline, version), NULL, 0 },
    { "file", TEXT, AT(way_jsonline, file), NULL, 0 },
    { "wayside", TEXT, AT(way_jsonline, wayside), NULL, 0 },
    { "now", NUMBER, AT(way_jsonline, now), NULL, 0 },
    { "unix", NUMBER, AT(way_jsonline, unix_time), NULL, 0 },
};

static void get_options(json_t *o, struct way_jsonline *r)
{
    const char *name;
    json_t *v;
    size_t at = 0;
    json_object_foreach(o, name, v)
    {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
        int n = snprintf(r->options + at, sizeof r->options - at, "%s%s=%s",
                         at ? " " : "", name, text ? text : "?");
        free(text);
        at += n > 0 ? (size_t)n : 0;
        if (at >= sizeof r->options)
            return;
    }
}

static int get_policy(const json_t *o, struct way_jsonline *r, struct way_err *err)
{
    const json_t *format = json_object_get(o, "wayside_journal");
    r->kind = format ? WAY_JSONLINE_HEADER : WAY_JSONLINE_POLICY;
    if (format && json_integer_value(format) != WAY_JSONLINE_FORMAT)
        return way_fail(err,
                        "expected a journal of format %d, got one of another (written "
                        "by a later version?)",
                        WAY_JSONLINE_FORMAT);
    if (GET(o, policy_fields, r, "", err) < 0)
        return -1;
    get_options(json_object_get(o, "options"), r);
    return 0;
}

int way_jsonline_read(struct way_jsonline *r, const char *line, size_t n,
                      struct way_err *err)
{
    struct way_buf answer = r->answer;
    json_error_t why;
    json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    *r = (struct way_jsonline){ .answer = answer, .kind = WAY_JSONLINE_ENTRY };
    if (!o)
        return way_fail(err, "column %d: %s", why.column, why.text);
    int result = json_object_get(o, "file") || json_object_get(o, "wayside_journal")
                     ? get_policy(o, r, err)
                     : get_entry(o, r, err);
    json_decref(o);
    return result;
}

void way_jsonline_fini(struct way_jsonline *r)
{
    way_buf_fini(&r->answer);
}
