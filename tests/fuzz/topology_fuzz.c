/* Any bytes as CLUSTER NODES, SLOTS or SHARDS, as an address and as a redirect: what is
 * understood keeps the promises of slots.h. The first byte says as what they are read. */
#include "slots.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool holds)
{
    if (!holds)
        abort();
}

static bool ends(const char *text, size_t room)
{
    return memchr(text, 0, room) != NULL;
}

static void check(const struct way_topology *t)
{
    expect(t->count > 0 && t->count <= t->room);
    for (unsigned i = 0; i < t->count; i++) {
        const struct way_topo_node *node = &t->node[i];
        expect(node->id[0] && ends(node->id, sizeof node->id));
        expect(ends(node->host, sizeof node->host));
        expect(ends(node->hostname, sizeof node->hostname));
        expect(ends(node->master_id, sizeof node->master_id));
        for (unsigned j = 0; j < i && i < 16; j++)
            expect(strcmp(node->id, t->node[j].id) != 0);
    }
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++) {
        if (t->owner[slot] == WAY_SLOT_UNOWNED)
            continue;
        expect(t->owner[slot] < t->count);
        const struct way_topo_node *owner = &t->node[t->owner[slot]];
        expect(owner->master && owner->port && owner->host[0]);
        expect(!owner->noaddr && !owner->handshake);
    }
}

static void read_topology(uint8_t as, const char *p, size_t n)
{
    struct way_topology *t = way_topology_new();
    struct way_err err = { "" };
    static const char known[] = "a h:1 master - 0 0 1 connected 0-16383\n";
    int r;
    if (as == 0)
        r = way_topology_parse_nodes(t, p, n, "asked", &err);
    else if (as == 1)
        r = way_topology_parse_slots(t, p, n, "asked", &err);
    else
        r = way_topology_parse_nodes(t, known, sizeof known - 1, "asked", &err);
    expect(r == 0 || (r == -1 && err.text[0]));
    if (r == 0) {
        if (way_topology_add_shards(t, p, n, &err))
            expect(err.text[0]);
        check(t);
    }
    way_topology_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const char *p = (const char *)data + 1;
    size_t n = size - 1;
    char host[WAY_HOST_MAX];
    uint16_t port, slot;
    struct way_err err = { "" };
    switch (data[0] % 5) {
    case 3:
        if (!way_split_address(p, n, host, &port, &err))
            expect(port && ends(host, sizeof host));
        else
            expect(err.text[0]);
        break;
    case 4:
        if (way_redirect_parse(p, n, &slot, host, &port))
            expect(slot < WAY_SLOTS && port && ends(host, sizeof host));
        expect(way_slot_of(p, n) < WAY_SLOTS);
        break;
    default: read_topology(data[0] % 5, p, n);
    }
    return 0;
}
