/* unit - see unit.h. */
#include "unit.h"

#include "slots.h"

static const char multi_bytes[] = "*1\r\n$5\r\nMULTI\r\n";
static const char exec_bytes[] = "*1\r\n$4\r\nEXEC\r\n";

void way_unit_begin(struct way_unit *u)
{
    u->queueing = true;
    way_buf_put(&u->bytes, multi_bytes, sizeof multi_bytes - 1);
}

void way_unit_fini(struct way_unit *u)
{
    way_buf_fini(&u->bytes);
    way_free(u->error);
    *u = (struct way_unit){ .queueing = false };
}

int way_unit_slot(const struct way_forward *f, const struct way_command *command,
                  const char *p, uint16_t *slot, bool *found, struct way_err *err)
{
    unsigned inline_keys[WAY_KEYS_INLINE], *key = inline_keys;
    bool owned = false;
    int n = way_forward_keys(f, command, p, &key, &owned, err);
    int result = n < 0 ? -1 : 0;
    for (int i = 0; i < n && result == 0; i++) {
        uint16_t one = way_slot_of(p + f->arg[key[i]].off, f->arg[key[i]].n);
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

static int check(struct way_unit *u, const struct way_forward *f,
                 const struct way_limits *l, const struct way_command *command,
                 const char *p, size_t n, struct way_err *err)
{
    const char *why;
    uint16_t slot = 0;
    bool found = false;
    if (!command)
        return way_command_unknown(p, f->arg, f->count, err);
    if (way_command_arity(command, f->count, err) < 0)
        return -1;
    if ((why = way_command_refused(command, p, f->arg, f->count)))
        return way_fail(err, "ERR wayside does not serve '%s': %s", command->name, why);
    if (command->local == WAY_LOCAL_MULTI)
        return way_fail(err, "ERR MULTI calls can not be nested");
    if (command->local == WAY_LOCAL_WATCH)
        return way_fail(err, "ERR WATCH inside MULTI is not allowed");
    if (!can_be_queued(command))
        return way_fail(err, "ERR wayside does not serve '%s' in a transaction",
                        command->name);
    if (way_unit_slot(f, command, p, &slot, &found, err) < 0)
        return -1;
    if (found && u->has_slot && slot != u->slot)
        return way_fail(err,
                        "CROSSSLOT Keys in a transaction don't hash to the same slot");
    if (u->commands >= l->transaction_commands)
        return way_fail(err, "ERR too many commands in a transaction");
    double most = l->request_bytes < UINT32_MAX / 2 ? l->request_bytes : UINT32_MAX / 2.;
    if ((double)u->bytes.len + (double)n + (double)sizeof exec_bytes > most)
        return way_fail(err, "ERR a transaction of too many bytes");
    if (found) {
        u->has_slot = true;
        u->slot = slot;
    }
    return 0;
}

/* Nested MULTI and WATCH inside MULTI are errors, but the transaction goes on. */
static bool aborts(const struct way_command *command)
{
    return !command ||
           (command->local != WAY_LOCAL_MULTI && command->local != WAY_LOCAL_WATCH);
}

int way_unit_queue(struct way_unit *u, const struct way_forward *f,
                   const struct way_limits *l, const struct way_command *command,
                   const char *p, size_t n, struct way_err *err)
{
    if (check(u, f, l, command, p, n, err) < 0) {
        if (!u->error && aborts(command))
            u->error = way_strdup(err->text);
        return -1;
    }
    if (!u->error) {
        way_buf_put(&u->bytes, p, n);
        u->commands++;
    }
    return 0;
}

int way_unit_close(struct way_unit *u, struct way_err *err)
{
    u->queueing = false;
    if (u->error)
        return way_fail(err, "EXECABORT Transaction discarded because of: %s", u->error);
    way_buf_put(&u->bytes, exec_bytes, sizeof exec_bytes - 1);
    return 0;
}
