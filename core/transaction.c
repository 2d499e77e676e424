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

#include "unit.h"

struct way_transaction {
    struct way_own *session; /* NULL: nothing is watched */
    struct way_unit unit;    /* has_slot while it watches, too */
    uint8_t resp;            /* the protocol when it began to watch */
};

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
    way_unit_fini(&t->unit);
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

static void queue(struct way_client *c, const struct way_command *command, const char *p,
                  size_t n)
{
    struct way_forward f = way_front_forward(c);
    struct way_err err;
    if (!command)
        way_stat_add(way_front_about(c->front)->stats, WAY_STAT_REFUSED, 1);
    if (way_unit_queue(&c->transaction->unit, &f, limits_of(c), command, p, n, &err) <
        0) {
        way_front_error(c, "%s", err.text);
        return;
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
    struct way_forward f = way_front_forward(c);
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
        way_unit_slot(&f, command, p, &slot, &found, &err) < 0 || !found ||
        slot != t->unit.slot)
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
    if (!t->unit.queueing)
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
    way_unit_begin(&t->unit);
    reply(c, "+OK\r\n");
}

static void watch(struct way_client *c, const struct way_command *command, const char *p)
{
    struct way_dispatch *d = way_front_about(c->front)->dispatch;
    struct way_transaction *t = c->transaction;
    struct way_forward f = way_front_forward(c);
    struct way_err err;
    struct way_buf b = { 0 };
    uint16_t slot = 0;
    bool found = false;
    int bad = way_unit_slot(&f, command, p, &slot, &found, &err);
    if (!bad && t && t->session && slot != t->unit.slot)
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
    t->unit.has_slot = true;
    t->unit.slot = slot;
    way_resp_put_array(&b, c->parser.count);
    for (unsigned i = 0; i < c->parser.count; i++)
        way_resp_put_bulk(&b, p + c->parser.arg[i].off, c->parser.arg[i].n);
    submit(c, t->session, slot, WAY_FLAG_WRITE, WAY_OWN_WATCH, b.p, b.len);
    way_buf_fini(&b);
}

static void exec(struct way_client *c)
{
    struct way_transaction *t = c->transaction;
    struct way_unit *u = &t->unit;
    struct way_err err;
    unsigned flags = WAY_FLAG_WRITE | (u->has_slot ? 0 : WAY_FLAG_NO_KEY);
    uint16_t slot = u->has_slot ? u->slot : (uint16_t)(c->id % WAY_SLOTS);
    if (way_unit_close(u, &err) < 0) {
        way_front_error(c, "%s", err.text);
    } else if (!u->commands && !t->session) {
        reply(c, "*0\r\n");
    } else {
        if (!t->session)
            t->session = way_own_new(way_front_about(c->front)->dispatch);
        submit(c, t->session, slot, flags, WAY_OWN_UNIT, u->bytes.p, u->bytes.len);
    }
    way_transaction_end(c);
}

void way_transaction_command(struct way_client *c, const struct way_command *command,
                             const char *p)
{
    bool queueing = c->transaction && c->transaction->unit.queueing;
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
