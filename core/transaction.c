/* transaction - see transaction.h.
 *
 *        MULTI                       EXEC ─▶ none
 *   none ─────▶ queueing ───────────▶ DISCARD ─▶ none
 *    │             ▲
 *    └─▶ watching ─┘ MULTI           (UNWATCH, RESET: none)
 *   WATCH
 *
 * The alternative, passing MULTI and what follows on as it comes, would keep a node's
 * connection for as long as the client takes, and a transaction that began there could not
 * move with its slot. Kept here it is one request, sent again as one. */
#include "transaction.h"

#include "slots.h"

#include <stdio.h>

struct way_transaction {
    struct way_own *session; /* NULL: nothing is watched */
    bool queueing;           /* MULTI was said */
    bool has_slot;
    uint16_t slot;
    unsigned commands;
    struct way_buf unit; /* MULTI and what is queued */
    char *error;         /* why EXEC will be refused: the first reason; owned */
    uint8_t resp;        /* the protocol when it began to watch */
};

static const char multi_bytes[] = "*1\r\n$5\r\nMULTI\r\n";
static const char exec_bytes[] = "*1\r\n$4\r\nEXEC\r\n";

static struct way_transaction *transaction_of(struct way_client *c)
{
    if (!c->transaction)
        c->transaction = way_zalloc(sizeof *c->transaction);
    return c->transaction;
}

void way_transaction_end(struct way_client *c)
{
    struct way_transaction *t = c->transaction;
    if (!t)
        return;
    c->transaction = NULL;
    if (t->session)
        way_own_unref(t->session);
    way_buf_fini(&t->unit);
    way_free(t->error);
    way_free(t);
}

static void reply(struct way_client *c, const char *bytes)
{
    way_stat_add(way_front_about(c->front)->stats, WAY_STAT_LOCAL, 1);
    way_front_reply(c, bytes, strlen(bytes));
}

static const struct way_limits *limits_of(const struct way_client *c)
{
    return &way_front_about(c->front)->config->limits;
}

/* ---- what may be queued ---- */

/* The one slot of the keys: *slot, untouched if there are none. -1: err has the words. */
static int slot_of_keys(struct way_client *c, const struct way_command *command,
                        const char *p, uint16_t *slot, bool *found, struct way_err *err)
{
    unsigned inline_keys[WAY_KEYS_INLINE], *key = inline_keys;
    bool owned = false;
    const struct way_arg *arg = c->parser.arg;
    int n = way_front_keys(c, command, p, &key, &owned, err);
    int result = n < 0 ? -1 : 0;
    for (int i = 0; i < n && result == 0; i++) {
        uint16_t one = way_slot_of(p + arg[key[i]].off, arg[key[i]].n);
        if (i > 0 && one != *slot)
            result =
                way_fail(err, "CROSSSLOT Keys in request don't hash to the same slot");
        *slot = one;
        *found = true;
    }
    if (owned)
        way_free(key);
    return result;
}

/* The node can run it between MULTI and EXEC: what is passed on, and what concerns no
 * connection. */
static bool can_be_queued(const struct way_command *command)
{
    return command->how == WAY_HOW_FORWARD || command->how == WAY_HOW_SPLIT ||
           command->local == WAY_LOCAL_PING || command->local == WAY_LOCAL_ECHO ||
           command->local == WAY_LOCAL_UNWATCH;
}

static int check(struct way_client *c, const struct way_command *command, const char *p,
                 size_t n, struct way_err *err)
{
    struct way_transaction *t = c->transaction;
    const struct way_limits *l = limits_of(c);
    const char *why;
    uint16_t slot = 0;
    bool found = false;
    if (!command) {
        way_front_unknown(c, p, err);
        return -1;
    }
    if (way_command_arity(command, c->parser.count, err) < 0)
        return -1;
    if ((why = way_command_refused(command, p, c->parser.arg, c->parser.count)))
        return way_fail(err, "ERR wayside does not serve '%s': %s", command->name, why);
    if (command->local == WAY_LOCAL_MULTI)
        return way_fail(err, "ERR MULTI calls can not be nested");
    if (command->local == WAY_LOCAL_WATCH)
        return way_fail(err, "ERR WATCH inside MULTI is not allowed");
    if (!can_be_queued(command))
        return way_fail(err, "ERR wayside does not serve '%s' in a transaction",
                        command->name);
    if (slot_of_keys(c, command, p, &slot, &found, err) < 0)
        return -1;
    if (found && t->has_slot && slot != t->slot)
        return way_fail(err,
                        "CROSSSLOT Keys in a transaction don't hash to the same slot");
    if (t->commands >= l->transaction_commands)
        return way_fail(err, "ERR too many commands in a transaction");
    double most = l->request_bytes < UINT32_MAX / 2 ? l->request_bytes : UINT32_MAX / 2.;
    if ((double)t->unit.len + (double)n + (double)sizeof exec_bytes > most)
        return way_fail(err, "ERR a transaction of too many bytes");
    if (found) {
        t->has_slot = true;
        t->slot = slot;
    }
    return 0;
}

/* Nested MULTI and WATCH inside MULTI are errors, but the transaction goes on. */
static bool aborts(const struct way_command *command)
{
    return !command ||
           (command->local != WAY_LOCAL_MULTI && command->local != WAY_LOCAL_WATCH);
}

static void queue(struct way_client *c, const struct way_command *command, const char *p,
                  size_t n)
{
    struct way_transaction *t = c->transaction;
    struct way_err err;
    if (check(c, command, p, n, &err) < 0) {
        if (!t->error && aborts(command))
            t->error = way_strdup(err.text);
        way_front_error(c, "%s", err.text);
        return;
    }
    if (!t->error) {
        way_buf_put(&t->unit, p, n);
        t->commands++;
    }
    reply(c, "+QUEUED\r\n");
}

/* ---- a client that watches ---- */

static void submit(struct way_client *c, struct way_own *session, uint16_t slot,
                   unsigned flags, enum way_own_part part, const char *p, size_t n)
{
    const struct way_front_options *o = way_front_about(c->front);
    struct way_request *r = way_pipeline_push(&c->pipeline, o->loop->now);
    r->slot = slot;
    r->flags = (uint16_t)flags;
    way_dispatch_own(o->dispatch, session, r, part, p, n);
}

/* Commands of the watched slot go over the connection that watches, so that they come
 * after the WATCH. Others, and what is no good, are served as ever. */
static bool serve_watching(struct way_client *c, const struct way_command *command,
                           const char *p, size_t n)
{
    struct way_transaction *t = c->transaction;
    struct way_err err;
    uint16_t slot = 0;
    bool found = false;
    if (t->resp != c->pipeline.resp) {
        way_own_lose(t->session); /* its connection speaks another protocol */
        t->resp = c->pipeline.resp;
    }
    if (!command || (command->how != WAY_HOW_FORWARD && command->how != WAY_HOW_SPLIT) ||
        way_command_arity(command, c->parser.count, &err) < 0 ||
        way_command_refused(command, p, c->parser.arg, c->parser.count) ||
        slot_of_keys(c, command, p, &slot, &found, &err) < 0 || !found || slot != t->slot)
        return false;
    submit(c, t->session, slot, command->write ? WAY_FLAG_WRITE : 0, WAY_OWN_PLAIN, p, n);
    return true;
}

bool way_transaction_takes(struct way_client *c, const struct way_command *command,
                           const char *p, size_t n)
{
    struct way_transaction *t = c->transaction;
    struct way_err err;
    bool fits = command && way_command_arity(command, c->parser.count, &err) == 0;
    if (fits && command->local == WAY_LOCAL_RESET) {
        way_transaction_end(c);
        return false;
    }
    if (!t->queueing)
        return serve_watching(c, command, p, n);
    if (fits && (command->local == WAY_LOCAL_EXEC ||
                 command->local == WAY_LOCAL_DISCARD || command->local == WAY_LOCAL_QUIT))
        return false;
    queue(c, command, p, n);
    return true;
}

/* ---- the five ---- */

static void multi(struct way_client *c)
{
    struct way_transaction *t = transaction_of(c);
    t->queueing = true;
    way_buf_put(&t->unit, multi_bytes, sizeof multi_bytes - 1);
    reply(c, "+OK\r\n");
}

static void watch(struct way_client *c, const struct way_command *command, const char *p)
{
    struct way_dispatch *d = way_front_about(c->front)->dispatch;
    struct way_transaction *t = c->transaction;
    struct way_err err;
    struct way_buf b = { 0 };
    uint16_t slot = 0;
    bool found = false;
    int bad = slot_of_keys(c, command, p, &slot, &found, &err);
    if (!bad && t && t->session && slot != t->slot)
        bad =
            way_fail(&err, "CROSSSLOT Keys in a transaction don't hash to the same slot");
    if (bad) {
        way_front_error(c, "%s", err.text);
        return;
    }
    t = transaction_of(c);
    if (!t->session) {
        t->session = way_own_new(d);
        t->resp = c->pipeline.resp;
    }
    t->has_slot = true;
    t->slot = slot;
    way_resp_put_array(&b, c->parser.count);
    for (unsigned i = 0; i < c->parser.count; i++)
        way_resp_put_bulk(&b, p + c->parser.arg[i].off, c->parser.arg[i].n);
    submit(c, t->session, slot, WAY_FLAG_WRITE, WAY_OWN_WATCH, b.p, b.len);
    way_buf_fini(&b);
}

static void exec(struct way_client *c)
{
    struct way_transaction *t = c->transaction;
    unsigned flags = WAY_FLAG_WRITE | (t->has_slot ? 0 : WAY_FLAG_NO_KEY);
    uint16_t slot = t->has_slot ? t->slot : (uint16_t)(c->id % WAY_SLOTS);
    if (t->error) {
        way_front_error(c, "EXECABORT Transaction discarded because of: %s", t->error);
    } else if (!t->commands && !t->session) {
        reply(c, "*0\r\n");
    } else {
        if (!t->session)
            t->session = way_own_new(way_front_about(c->front)->dispatch);
        way_buf_put(&t->unit, exec_bytes, sizeof exec_bytes - 1);
        submit(c, t->session, slot, flags, WAY_OWN_UNIT, t->unit.p, t->unit.len);
    }
    way_transaction_end(c);
}

void way_transaction_command(struct way_client *c, const struct way_command *command,
                             const char *p)
{
    bool queueing = c->transaction && c->transaction->queueing;
    switch (command->local) {
    case WAY_LOCAL_MULTI: multi(c); break;
    case WAY_LOCAL_WATCH: watch(c, command, p); break;
    case WAY_LOCAL_UNWATCH:
        way_transaction_end(c);
        reply(c, "+OK\r\n");
        break;
    case WAY_LOCAL_EXEC:
        if (queueing)
            exec(c);
        else
            way_front_error(c, "ERR EXEC without MULTI");
        break;
    default:
        if (!queueing) {
            way_front_error(c, "ERR DISCARD without MULTI");
            break;
        }
        way_transaction_end(c);
        reply(c, "+OK\r\n");
        break;
    }
}
