/* forward - see forward.h.
 *
 * A split command becomes one request per slot, keys (with their values) in their order,
 * each with its own fate; its join remembers where each element of the reply comes from. */
#include "forward.h"

#include "resp.h"
#include "slots.h"

static uint16_t slot_of(const char *p, const struct way_arg *a)
{
    return way_slot_of(p + a->off, a->n);
}

void way_forward_to(const struct way_forward *f, const struct way_command *command,
                    uint16_t slot, uint16_t flags, const char *p, size_t n)
{
    struct way_request *r = way_pipeline_push(f->pipeline, f->now);
    r->slot = slot;
    r->flags = flags | (command->write ? WAY_FLAG_WRITE : 0);
    way_dispatch_submit(f->dispatch, r, p, n);
}

int way_forward_keys(const struct way_forward *f, const struct way_command *command,
                     const char *p, unsigned **key, bool *owned, struct way_err *err)
{
    int n = way_command_keys(command, p, f->arg, f->count, *key, WAY_KEYS_INLINE, err);
    *owned = n > WAY_KEYS_INLINE;
    if (*owned) {
        *key = way_alloc((size_t)n * sizeof **key);
        n = way_command_keys(command, p, f->arg, f->count, *key, (unsigned)n, err);
    }
    return n;
}

static bool one_slot(const char *p, const struct way_arg *arg, const unsigned *key, int n)
{
    uint16_t slot = slot_of(p, &arg[key[0]]);
    for (int i = 1; i < n; i++)
        if (slot_of(p, &arg[key[i]]) != slot)
            return false;
    return true;
}

/* ---- split commands ---- */

struct piece {
    uint16_t slot;
    unsigned keys;
    struct way_buf bytes;
};

static unsigned piece_of(struct piece *piece, unsigned count, uint16_t *index,
                         uint16_t slot)
{
    unsigned i = index[slot];
    return i < count && piece[i].slot == slot ? i : count;
}

static unsigned width_of(const struct way_command *command)
{
    return command->step > 1 ? (unsigned)command->step : 1;
}

static unsigned cut(const struct way_forward *f, const struct way_command *command,
                    const char *p, const unsigned *key, unsigned keys,
                    struct piece *piece, struct way_join_place *place)
{
    uint16_t *index = way_zalloc(WAY_SLOTS * sizeof *index);
    unsigned count = 0, width = width_of(command);
    for (unsigned i = 0; i < keys; i++) {
        uint16_t slot = slot_of(p, &f->arg[key[i]]);
        unsigned k = piece_of(piece, count, index, slot);
        if (k == count) {
            piece[count++] = (struct piece){ .slot = slot };
            index[slot] = (uint16_t)k;
        }
        place[i] = (struct way_join_place){ k, piece[k].keys++ };
        for (unsigned w = 0; w < width; w++)
            way_resp_put_bulk(&piece[k].bytes, p + f->arg[key[i] + w].off,
                              f->arg[key[i] + w].n);
    }
    way_free(index);
    return count;
}

static void send_pieces(const struct way_forward *f, const struct way_command *command,
                        const char *p, struct piece *piece, unsigned count,
                        const struct way_join_place *place, unsigned keys)
{
    bool ordered = command->join == WAY_JOIN_ARRAY;
    struct way_request *r = way_pipeline_push(f->pipeline, f->now);
    r->flags = command->write ? WAY_FLAG_WRITE : 0;
    struct way_join *j =
        way_join_new(r, (enum way_command_join)command->join, count, ordered ? keys : 0);
    if (ordered)
        memcpy(way_join_places(j), place, keys * sizeof *place);
    const struct way_arg *name = &f->arg[0];
    struct way_request **part = way_alloc(count * sizeof *part);
    for (unsigned i = 0; i < count; i++) {
        part[i] = way_join_part(j, i);
        part[i]->slot = piece[i].slot;
    }
    for (unsigned i = 0; i < count; i++) {
        struct way_buf b = { 0 };
        way_resp_put_array(&b, 1 + (size_t)piece[i].keys * width_of(command));
        way_resp_put_bulk(&b, p + name->off, name->n);
        way_buf_put(&b, piece[i].bytes.p, piece[i].bytes.len);
        way_dispatch_submit(f->dispatch, part[i], b.p, b.len);
        way_buf_fini(&b);
        way_buf_fini(&piece[i].bytes);
    }
    way_free(part);
}

static void split(const struct way_forward *f, const struct way_command *command,
                  const char *p, const unsigned *key, unsigned keys)
{
    struct piece *piece = way_zalloc(keys * sizeof *piece);
    struct way_join_place *place = way_alloc(keys * sizeof *place);
    unsigned count = cut(f, command, p, key, keys, piece, place);
    way_stat_add(f->stats, WAY_STAT_SPLIT, 1);
    send_pieces(f, command, p, piece, count, place, keys);
    way_free(piece);
    way_free(place);
}

/* ---- by its keys ---- */

static int to_keys(const struct way_forward *f, const struct way_command *command,
                   const char *p, size_t n, const unsigned *key, int keys,
                   struct way_err *err)
{
    if (one_slot(p, f->arg, key, keys)) {
        way_forward_to(f, command, slot_of(p, &f->arg[key[0]]), 0, p, n);
        return 0;
    }
    if (command->how != WAY_HOW_SPLIT)
        return way_fail(err, "CROSSSLOT Keys in request don't hash to the same slot");
    if (f->count % (unsigned)command->step != (command->step > 1 ? 1u : 0u))
        return way_fail(err, "ERR wrong number of arguments for '%s' command",
                        command->name);
    split(f, command, p, key, (unsigned)keys);
    return 0;
}

int way_forward(const struct way_forward *f, const struct way_command *command,
                const char *p, size_t n, struct way_err *err)
{
    unsigned inline_keys[WAY_KEYS_INLINE], *key = inline_keys;
    bool owned = false;
    int result = -1, keys = way_forward_keys(f, command, p, &key, &owned, err);
    if (keys > 0) {
        result = to_keys(f, command, p, n, key, keys, err);
    } else if (keys == 0) {
        way_forward_to(f, command, f->any_slot, WAY_FLAG_NO_KEY, p, n);
        result = 0;
    }
    if (owned)
        way_free(key);
    return result;
}
