/* event - see event.h. */
#include "event.h"

#include <stdio.h>

#define NAME(N, w) w,
#define NAME3(N, w, b) w,
#define NAMES(fn, list, none)                                                            \
    const char *fn(unsigned v)                                                           \
    {                                                                                    \
        static const char *const words[] = { list(NAME) };                               \
        if (v >= way_count(words))                                                       \
            return "?";                                                                  \
        return words[v] ? words[v] : none;                                               \
    }
NAMES(way_phase_name, WAY_PHASES, "?")
NAMES(way_step_name, WAY_STEPS, "?")
NAMES(way_error_name, WAY_ERRORS, "none")
NAMES(way_kind_name, WAY_KINDS, "?")
NAMES(way_blame_name, WAY_BLAMES, "?")
NAMES(way_certainty_name, WAY_CERTAINTIES, "?")
NAMES(way_commands_name, WAY_COMMAND_KINDS, "?")
NAMES(way_state_name, WAY_STATES, "?")
NAMES(way_role_name, WAY_ROLES, "?")
NAMES(way_change_name, WAY_CHANGES, "?")
NAMES(way_retry_name, WAY_RETRIES, "none")
NAMES(way_connections_name, WAY_CONNECTIONS, "?")
NAMES(way_cause_name, WAY_CAUSES, "none")

const char *way_class_name(unsigned v)
{
    static const char *const words[] = { WAY_CLASSES(NAME3) };
    return v < way_count(words) ? words[v] : "?";
}

#define BLAME_OF(N, w, b) WAY_BLAME_##b,
enum way_blame way_class_blame(unsigned builtin_class)
{
    static const uint8_t blames[] = { WAY_CLASSES(BLAME_OF) };
    return builtin_class < way_count(blames) ? (enum way_blame)blames[builtin_class]
                                             : WAY_BLAME_NONE;
}

int way_word(const char *(*name)(unsigned), unsigned count, const char *word)
{
    for (unsigned i = 0; i < count; i++)
        if (!strcmp(name(i), word))
            return (int)i;
    return -1;
}

bool way_event_hard(const struct way_event *e)
{
    if (e->error == WAY_ERROR_NONE)
        return false;
    /* What a probe was told may be the cluster's fault, not the node's. */
    if (e->kind == WAY_KIND_PROBE)
        return e->error != WAY_ERROR_REPLY || e->blame == WAY_BLAME_NODE;
    if (e->phase == WAY_PHASE_CONNECT)
        return e->step >= WAY_STEP_RESOLVE;
    return e->phase == WAY_PHASE_READ && e->error == WAY_ERROR_TIMEOUT &&
           e->step == WAY_STEP_WAIT && e->replies_read == 0;
}

bool way_event_for_mark(const struct way_event *e)
{
    if (e->kind == WAY_KIND_PROBE && e->class == WAY_CLASS_ANSWER)
        return true;
    if (e->kind == WAY_KIND_CONNECTION || e->kind == WAY_KIND_RESULT ||
        e->kind == WAY_KIND_PROBE)
        return e->error == WAY_ERROR_NONE || e->blame == WAY_BLAME_NODE || e->trial;
    return true;
}

bool way_event_straggles(const struct way_event *e, double since)
{
    bool may = e->kind == WAY_KIND_CONNECTION || e->kind == WAY_KIND_RESULT ||
               e->kind == WAY_KIND_PROBE;
    return may && e->began < since;
}

struct way_event way_event_of_edge(const char *counter, double now)
{
    struct way_event e = { .kind = WAY_KIND_EDGE,
                           .phase = WAY_PHASE_READ,
                           .step = WAY_STEP_REPLY,
                           .now = now,
                           .began = now,
                           .unix_time = way_unix(),
                           .deadline_left = -1 };
    snprintf(e.counter, sizeof e.counter, "%s", counter);
    return e;
}

struct reply_class {
    const char *begins;
    enum way_class class;
};

/* Error replies by how they begin, or, for those that scripts wrap, by what they hold. */
/* clang-format off */
static const struct reply_class reply_classes[] = {
    { "LOADING", WAY_CLASS_NOT_READY },    { "MASTERDOWN", WAY_CLASS_NOT_READY },
    { "READONLY", WAY_CLASS_STALE_ROUTE }, { "ERR READONLY", WAY_CLASS_STALE_ROUTE },
    { "MOVED", WAY_CLASS_STALE_ROUTE },    { "ASK", WAY_CLASS_STALE_ROUTE },
    { "TRYAGAIN", WAY_CLASS_AGAIN },       { "CLUSTERDOWN", WAY_CLASS_AGAIN },
    { "NOREPLICAS", WAY_CLASS_AGAIN },     { "BUSY", WAY_CLASS_BUSY },
    { "WRONGPASS", WAY_CLASS_CONFIG },     { "NOAUTH", WAY_CLASS_CONFIG },
    { "NOPERM", WAY_CLASS_CONFIG },        { "ERR max number of clients", WAY_CLASS_BUSY },
};
/* clang-format on */

static enum way_class class_of_reply(const char *message)
{
    for (unsigned i = 0; i < way_count(reply_classes); i++) {
        size_t n = strlen(reply_classes[i].begins);
        if (!strncmp(message, reply_classes[i].begins, n)) {
            bool word =
                strchr(reply_classes[i].begins, ' ') || !message[n] || message[n] == ' ';
            if (word) /* BUSY, but not BUSYGROUP or BUSYKEY */
                return reply_classes[i].class;
        }
    }
    return WAY_CLASS_ANSWER;
}

static enum way_class class_of_break(const struct way_event *e)
{
    bool closed = e->error == WAY_ERROR_EOF || e->error == WAY_ERROR_RESET;
    if (closed && e->phase != WAY_PHASE_CONNECT && e->reused && e->replies_read == 0 &&
        e->step != WAY_STEP_REPLY)
        return WAY_CLASS_STALE_CONNECTION;
    return WAY_CLASS_DOWN;
}

void way_event_classify_default(struct way_event *e)
{
    switch (e->error) {
    case WAY_ERROR_NONE: e->class = WAY_CLASS_OK; break;
    case WAY_ERROR_TIMEOUT: e->class = WAY_CLASS_SLOW; break;
    case WAY_ERROR_REPLY: e->class = (uint8_t)class_of_reply(e->message); break;
    case WAY_ERROR_AUTH: e->class = WAY_CLASS_CONFIG; break;
    case WAY_ERROR_OVERFLOW:
    case WAY_ERROR_SHED:
    case WAY_ERROR_NO_NODE: e->class = WAY_CLASS_LOCAL; break;
    case WAY_ERROR_CANCELLED:
    case WAY_ERROR_DEADLINE: e->class = WAY_CLASS_CALLER; break;
    default: e->class = (uint8_t)class_of_break(e); break;
    }
    e->blame = way_class_blame(e->class);
    e->permanent = e->class == WAY_CLASS_CONFIG || e->class == WAY_CLASS_CALLER ||
                   e->class == WAY_CLASS_ANSWER;
}
