/* What may be relied on: keys go to the slots that Redis puts them in, and what real nodes
 * tell of their cluster is understood. The texts below are as Redis 7.0.15 sent them; the
 * shorter ones in the tests are of other versions' shapes. */
#include "slots.h"

#include <hiredis/hiredis.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

/* CLUSTER NODES of Redis 7.0.15: six nodes with hostnames, slot 93 migrating. */
static const char nodes_text[] =
    "86bbfde2a4d32f1585358c3f3e1115eeeca840b4 127.0.0.1:27316@37316,node6.example s"
    "lave 2301dfe49828542130e8ee0463d3d99de3ead5f2 0 1795368975048 2 connected\n"
    "5f932590fcdd38a6eb17802ca383aa66123a10ee 127.0.0.1:27313@37313,node3.example m"
    "aster - 0 1795368974846 3 connected 10923-16383\n"
    "273ae5c16932bb7e1437bc73e6969d5fde878628 127.0.0.1:27314@37314,node4.example s"
    "lave 5f932590fcdd38a6eb17802ca383aa66123a10ee 0 1795368974846 3 connected\n"
    "ed2e3917ea2efb961310d4ae6deff629bc15a385 127.0.0.1:27311@37311,node1.example m"
    "yself,master - 0 1795368974000 1 connected 0-5460 [93->-2301dfe49828542130e8ee"
    "0463d3d99de3ead5f2]\n"
    "3d76503c8cec2287f26524451ef9161c27a3e6af 127.0.0.1:27315@37315,node5.example s"
    "lave ed2e3917ea2efb961310d4ae6deff629bc15a385 0 1795368974645 1 connected\n"
    "2301dfe49828542130e8ee0463d3d99de3ead5f2 127.0.0.1:27312@37312,node2.example m"
    "aster - 0 1795368974846 2 connected 5461-10922\n";

/* The same on the importing side. */
static const char nodes_importing[] =
    "86bbfde2a4d32f1585358c3f3e1115eeeca840b4 127.0.0.1:27316@37316,node6.example s"
    "lave 2301dfe49828542130e8ee0463d3d99de3ead5f2 0 1795368976265 2 connected\n"
    "2301dfe49828542130e8ee0463d3d99de3ead5f2 127.0.0.1:27312@37312,node2.example m"
    "yself,master - 0 1795368976000 2 connected 5461-10922 [93-<-ed2e3917ea2efb9613"
    "10d4ae6deff629bc15a385]\n"
    "3d76503c8cec2287f26524451ef9161c27a3e6af 127.0.0.1:27315@37315,node5.example s"
    "lave ed2e3917ea2efb961310d4ae6deff629bc15a385 0 1795368976064 1 connected\n"
    "273ae5c16932bb7e1437bc73e6969d5fde878628 127.0.0.1:27314@37314,node4.example s"
    "lave 5f932590fcdd38a6eb17802ca383aa66123a10ee 0 1795368976366 3 connected\n"
    "5f932590fcdd38a6eb17802ca383aa66123a10ee 127.0.0.1:27313@37313,node3.example m"
    "aster - 0 1795368976000 3 connected 10923-16383\n"
    "ed2e3917ea2efb961310d4ae6deff629bc15a385 127.0.0.1:27311@37311,node1.example m"
    "aster - 0 1795368976670 1 connected 0-5460\n";

/* After a master was killed and its replica promoted. */
static const char nodes_failed[] =
    "ed2e3917ea2efb961310d4ae6deff629bc15a385 127.0.0.1:27311@37311 master - 0 1795"
    "369012285 1 connected 0-5460\n"
    "2301dfe49828542130e8ee0463d3d99de3ead5f2 127.0.0.1:27312@37312,node2.example m"
    "aster,fail - 1795369007452 1795369006647 2 disconnected\n"
    "273ae5c16932bb7e1437bc73e6969d5fde878628 127.0.0.1:27314@37314,node4.example s"
    "lave 5f932590fcdd38a6eb17802ca383aa66123a10ee 0 1795369012486 3 connected\n"
    "86bbfde2a4d32f1585358c3f3e1115eeeca840b4 127.0.0.1:27316@37316,node6.example m"
    "aster - 0 1795369012588 7 connected 5461-10922\n"
    "3d76503c8cec2287f26524451ef9161c27a3e6af 127.0.0.1:27315@37315,node5.example s"
    "lave ed2e3917ea2efb961310d4ae6deff629bc15a385 0 1795369012000 1 connected\n"
    "5f932590fcdd38a6eb17802ca383aa66123a10ee 127.0.0.1:27313@37313,node3.example m"
    "yself,master - 0 1795369012000 3 connected 10923-16383\n";

/* A node alone, which does not know its address, meeting another. */
static const char nodes_lone[] =
    "e7caae4be06a92bc945f5e952f3d8444c6d7c5eb 127.0.0.1:27399@37399 handshake - 0 0"
    " 0 disconnected\n"
    "72c2b5e4f6ee05d0d56f0874e9ef27e48a4fd63f :27317@37317 myself,master - 0 0 0 co"
    "nnected 1-3 16383\n";

/* The same with an IPv6 address. */
static const char nodes_v6[] =
    "e7caae4be06a92bc945f5e952f3d8444c6d7c5eb 127.0.0.1:27399@37399 handshake - 0 0"
    " 0 disconnected\n"
    "72c2b5e4f6ee05d0d56f0874e9ef27e48a4fd63f ::1:27317@37317 myself,master - 0 0 0"
    " connected 1-3 16383\n";

/* CLUSTER SLOTS of the six nodes. */
static const char slots_reply[] =
    "*3\r\n*4\r\n:0\r\n:5460\r\n*4\r\n$9\r\n127.0.0.1\r\n:27311\r\n$40\r\n"
    "ed2e3917ea2efb961310d4ae6deff629bc15a385\r\n*2\r\n$8\r\nhostname\r\n$13\r\n"
    "node1.example\r\n*4\r\n$9\r\n127.0.0.1\r\n:27315\r\n$40\r\n"
    "3d76503c8cec2287f26524451ef9161c27a3e6af\r\n*2\r\n$8\r\nhostname\r\n$13\r\n"
    "node5.example\r\n*4\r\n:5461\r\n:10922\r\n*4\r\n$9\r\n127.0.0.1\r\n:27312\r\n"
    "$40\r\n2301dfe49828542130e8ee0463d3d99de3ead5f2\r\n*2\r\n$8\r\nhostname\r\n"
    "$13\r\nnode2.example\r\n*4\r\n$9\r\n127.0.0.1\r\n:27316\r\n$40\r\n"
    "86bbfde2a4d32f1585358c3f3e1115eeeca840b4\r\n*2\r\n$8\r\nhostname\r\n$13\r\n"
    "node6.example\r\n*4\r\n:10923\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:27313\r\n"
    "$40\r\n5f932590fcdd38a6eb17802ca383aa66123a10ee\r\n*2\r\n$8\r\nhostname\r\n"
    "$13\r\nnode3.example\r\n*4\r\n$9\r\n127.0.0.1\r\n:27314\r\n$40\r\n"
    "273ae5c16932bb7e1437bc73e6969d5fde878628\r\n*2\r\n$8\r\nhostname\r\n$13\r\n"
    "node4.example\r\n";

/* With cluster-preferred-endpoint-type hostname; the first node has none. */
static const char slots_by_name[] =
    "*3\r\n*4\r\n:0\r\n:5460\r\n*4\r\n$1\r\n?\r\n:27311\r\n$40\r\n"
    "ed2e3917ea2efb961310d4ae6deff629bc15a385\r\n*2\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n*4\r\n$13\r\nnode5.example\r\n:27315\r\n$40\r\n"
    "3d76503c8cec2287f26524451ef9161c27a3e6af\r\n*2\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n*4\r\n:5461\r\n:10922\r\n*4\r\n$13\r\nnode2.example\r\n:27312\r\n"
    "$40\r\n2301dfe49828542130e8ee0463d3d99de3ead5f2\r\n*2\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n*4\r\n$13\r\nnode6.example\r\n:27316\r\n$40\r\n"
    "86bbfde2a4d32f1585358c3f3e1115eeeca840b4\r\n*2\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n*4\r\n:10923\r\n:16383\r\n*4\r\n$13\r\nnode3.example\r\n"
    ":27313\r\n$40\r\n5f932590fcdd38a6eb17802ca383aa66123a10ee\r\n*2\r\n$2\r\n"
    "ip\r\n$9\r\n127.0.0.1\r\n*4\r\n$13\r\nnode4.example\r\n:27314\r\n$40\r\n"
    "273ae5c16932bb7e1437bc73e6969d5fde878628\r\n*2\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n";

/* With unknown-endpoint. */
static const char slots_unknown[] =
    "*3\r\n*4\r\n:0\r\n:5460\r\n*4\r\n$-1\r\n:27311\r\n$40\r\n"
    "ed2e3917ea2efb961310d4ae6deff629bc15a385\r\n*2\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n*4\r\n$-1\r\n:27315\r\n$40\r\n"
    "3d76503c8cec2287f26524451ef9161c27a3e6af\r\n*4\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n$8\r\nhostname\r\n$13\r\nnode5.example\r\n*4\r\n:5461\r\n"
    ":10922\r\n*4\r\n$-1\r\n:27312\r\n$40\r\n"
    "2301dfe49828542130e8ee0463d3d99de3ead5f2\r\n*4\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n$8\r\nhostname\r\n$13\r\nnode2.example\r\n*4\r\n$-1\r\n:27316\r\n"
    "$40\r\n86bbfde2a4d32f1585358c3f3e1115eeeca840b4\r\n*4\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n$8\r\nhostname\r\n$13\r\nnode6.example\r\n*4\r\n:10923\r\n"
    ":16383\r\n*4\r\n$-1\r\n:27313\r\n$40\r\n"
    "5f932590fcdd38a6eb17802ca383aa66123a10ee\r\n*4\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n$8\r\nhostname\r\n$13\r\nnode3.example\r\n*4\r\n$-1\r\n:27314\r\n"
    "$40\r\n273ae5c16932bb7e1437bc73e6969d5fde878628\r\n*4\r\n$2\r\nip\r\n$9\r\n"
    "127.0.0.1\r\n$8\r\nhostname\r\n$13\r\nnode4.example\r\n";

/* Of the node alone. */
static const char slots_lone[] =
    "*2\r\n*3\r\n:1\r\n:3\r\n*4\r\n$0\r\n\r\n:27317\r\n$40\r\n"
    "72c2b5e4f6ee05d0d56f0874e9ef27e48a4fd63f\r\n*0\r\n*3\r\n:16383\r\n:16383\r\n"
    "*4\r\n$0\r\n\r\n:27317\r\n$40\r\n72c2b5e4f6ee05d0d56f0874e9ef27e48a4fd63f\r\n"
    "*0\r\n";

/* CLUSTER SLOTS in RESP3, with maps. */
static const char slots_resp3[] =
    "*3\r\n*4\r\n:0\r\n:5460\r\n*4\r\n$9\r\n127.0.0.1\r\n:27311\r\n$40\r\n"
    "ed2e3917ea2efb961310d4ae6deff629bc15a385\r\n%1\r\n$8\r\nhostname\r\n$13\r\n"
    "node1.example\r\n*4\r\n$9\r\n127.0.0.1\r\n:27315\r\n$40\r\n"
    "3d76503c8cec2287f26524451ef9161c27a3e6af\r\n%1\r\n$8\r\nhostname\r\n$13\r\n"
    "node5.example\r\n*4\r\n:5461\r\n:10922\r\n*4\r\n$9\r\n127.0.0.1\r\n:27312\r\n"
    "$40\r\n2301dfe49828542130e8ee0463d3d99de3ead5f2\r\n%1\r\n$8\r\nhostname\r\n"
    "$13\r\nnode2.example\r\n*4\r\n$9\r\n127.0.0.1\r\n:27316\r\n$40\r\n"
    "86bbfde2a4d32f1585358c3f3e1115eeeca840b4\r\n%1\r\n$8\r\nhostname\r\n$13\r\n"
    "node6.example\r\n*4\r\n:10923\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:27313\r\n"
    "$40\r\n5f932590fcdd38a6eb17802ca383aa66123a10ee\r\n%1\r\n$8\r\nhostname\r\n"
    "$13\r\nnode3.example\r\n*4\r\n$9\r\n127.0.0.1\r\n:27314\r\n$40\r\n"
    "273ae5c16932bb7e1437bc73e6969d5fde878628\r\n%1\r\n$8\r\nhostname\r\n$13\r\n"
    "node4.example\r\n";

/* CLUSTER SHARDS after the failover. */
static const char shards_reply[] =
    "*4\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:5460\r\n$5\r\nnodes\r\n*2\r\n*14\r\n"
    "$2\r\nid\r\n$40\r\ned2e3917ea2efb961310d4ae6deff629bc15a385\r\n$4\r\nport\r\n"
    ":27311\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n"
    "$4\r\nrole\r\n$6\r\nmaster\r\n$18\r\nreplication-offset\r\n:1134\r\n$6\r\n"
    "health\r\n$6\r\nonline\r\n*16\r\n$2\r\nid\r\n$40\r\n"
    "3d76503c8cec2287f26524451ef9161c27a3e6af\r\n$4\r\nport\r\n:27315\r\n$2\r\n"
    "ip\r\n$9\r\n127.0.0.1\r\n$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$8\r\n"
    "hostname\r\n$13\r\nnode5.example\r\n$4\r\nrole\r\n$7\r\nreplica\r\n$18\r\n"
    "replication-offset\r\n:1134\r\n$6\r\nhealth\r\n$6\r\nonline\r\n*4\r\n$5\r\n"
    "slots\r\n*0\r\n$5\r\nnodes\r\n*1\r\n*16\r\n$2\r\nid\r\n$40\r\n"
    "2301dfe49828542130e8ee0463d3d99de3ead5f2\r\n$4\r\nport\r\n:27312\r\n$2\r\n"
    "ip\r\n$9\r\n127.0.0.1\r\n$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$8\r\n"
    "hostname\r\n$13\r\nnode2.example\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$18\r\n"
    "replication-offset\r\n:1120\r\n$6\r\nhealth\r\n$4\r\nfail\r\n*4\r\n$5\r\n"
    "slots\r\n*2\r\n:5461\r\n:10922\r\n$5\r\nnodes\r\n*1\r\n*16\r\n$2\r\nid\r\n"
    "$40\r\n86bbfde2a4d32f1585358c3f3e1115eeeca840b4\r\n$4\r\nport\r\n:27316\r\n"
    "$2\r\nip\r\n$9\r\n127.0.0.1\r\n$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$8\r\n"
    "hostname\r\n$13\r\nnode6.example\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$18\r\n"
    "replication-offset\r\n:1120\r\n$6\r\nhealth\r\n$6\r\nonline\r\n*4\r\n$5\r\n"
    "slots\r\n*2\r\n:10923\r\n:16383\r\n$5\r\nnodes\r\n*2\r\n*16\r\n$2\r\nid\r\n"
    "$40\r\n5f932590fcdd38a6eb17802ca383aa66123a10ee\r\n$4\r\nport\r\n:27313\r\n"
    "$2\r\nip\r\n$9\r\n127.0.0.1\r\n$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$8\r\n"
    "hostname\r\n$13\r\nnode3.example\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$18\r\n"
    "replication-offset\r\n:1134\r\n$6\r\nhealth\r\n$6\r\nonline\r\n*16\r\n$2\r\n"
    "id\r\n$40\r\n273ae5c16932bb7e1437bc73e6969d5fde878628\r\n$4\r\nport\r\n"
    ":27314\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n"
    "$8\r\nhostname\r\n$13\r\nnode4.example\r\n$4\r\nrole\r\n$7\r\nreplica\r\n"
    "$18\r\nreplication-offset\r\n:1134\r\n$6\r\nhealth\r\n$6\r\nonline\r\n";

#define NODE1 "ed2e3917ea2efb961310d4ae6deff629bc15a385"
#define NODE2 "2301dfe49828542130e8ee0463d3d99de3ead5f2"
#define NODE6 "86bbfde2a4d32f1585358c3f3e1115eeeca840b4"

/* --- keys --- */

/* The specification's definition, bit by bit. */
static uint16_t slot_bit_by_bit(const char *p, size_t n)
{
    unsigned crc = 0;
    for (size_t i = 0; i < n; i++) {
        crc ^= (unsigned)(unsigned char)p[i] << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1;
    }
    return (uint16_t)(crc & 0xffff) % WAY_SLOTS;
}

static void a_key_has_the_slot_that_redis_gives_it(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        unsigned slot; /* CLUSTER KEYSLOT's answer */
    } known[] = {
        { "123456789", 12739 },    { "", 0 },
        { "foo", 12182 },          { "foo{}{bar}", 8363 },
        { "foo{{bar}}zap", 4015 }, { "{", 4092 },
    };
    for (size_t i = 0; i < way_count(known); i++)
        assert_int_equal(way_slot_of(known[i].key, strlen(known[i].key)), known[i].slot);
}

static void keys_of_any_length_and_bytes_are_summed_as_specified(void **state)
{
    (void)state;
    char key[70];
    struct way_random r;
    way_random_seed(&r, 1);
    for (int round = 0; round < 20000; round++) {
        size_t n = way_random_next(&r) % sizeof key;
        for (size_t i = 0; i < n; i++) {
            key[i] = (char)way_random_next(&r);
            if (key[i] == '{')
                key[i] = '}';
        }
        assert_int_equal(way_slot_of(key, n), slot_bit_by_bit(key, n));
    }
}

static void only_a_hash_tag_that_is_not_empty_counts(void **state)
{
    (void)state;
    assert_int_equal(way_slot_of("a{tag}b", 7), slot_bit_by_bit("tag", 3));
    assert_int_equal(way_slot_of("{tag}", 5), slot_bit_by_bit("tag", 3));
    assert_int_equal(way_slot_of("a{}b{tag}", 9), slot_bit_by_bit("a{}b{tag}", 9));
    assert_int_equal(way_slot_of("a{tag", 5), slot_bit_by_bit("a{tag", 5));
    assert_int_equal(way_slot_of("a}b{c", 5), slot_bit_by_bit("a}b{c", 5));
    assert_int_equal(way_slot_of("{a}{b}", 6), slot_bit_by_bit("a", 1));
}

static void every_slot_has_a_key_to_probe_it_with(void **state)
{
    (void)state;
    char key[16];
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++) {
        way_slot_key((uint16_t)slot, key);
        assert_int_equal(way_slot_of(key, strlen(key)), slot);
        assert_int_equal(strspn(key + 1, "0123456789"), strlen(key) - 2);
    }
    way_slot_key(WAY_SLOTS, key);
    assert_string_equal(key, "");
}

/* --- topologies --- */

static struct way_topology *topology;

static int make(void **state)
{
    (void)state;
    topology = way_topology_new();
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    way_topology_free(topology);
    return 0;
}

static const struct way_topo_node *node_of(const char *id)
{
    for (unsigned i = 0; i < topology->count; i++)
        if (!strcmp(topology->node[i].id, id))
            return &topology->node[i];
    fail_msg("no node %s", id);
    return NULL;
}

static const char *owner_of(unsigned slot)
{
    return topology->owner[slot] == WAY_SLOT_UNOWNED
               ? "none"
               : topology->node[topology->owner[slot]].id;
}

static unsigned owned(void)
{
    unsigned n = 0;
    for (unsigned slot = 0; slot < WAY_SLOTS; slot++)
        n += topology->owner[slot] != WAY_SLOT_UNOWNED;
    return n;
}

static void parse_nodes(const char *text)
{
    struct way_err err;
    if (way_topology_parse_nodes(topology, text, strlen(text), "10.9.9.9", &err))
        fail_msg("%s", err.text);
}

static void parse_slots(const char *resp)
{
    struct way_err err;
    if (way_topology_parse_slots(topology, resp, strlen(resp), "10.9.9.9", &err))
        fail_msg("%s", err.text);
}

static void refused_nodes(const char *text, const char *why)
{
    struct way_err err = { "" };
    assert_int_equal(way_topology_parse_nodes(topology, text, strlen(text), "h", &err),
                     -1);
    assert_string_equal(err.text, why);
}

static void a_clusters_nodes_are_all_understood(void **state)
{
    (void)state;
    parse_nodes(nodes_text);
    assert_int_equal(topology->count, 6);
    assert_true(topology->has_epochs);
    assert_int_equal(topology->current_epoch, 3);
    assert_int_equal(owned(), WAY_SLOTS);
    assert_string_equal(owner_of(0), NODE1);
    assert_string_equal(owner_of(93), NODE1);
    assert_string_equal(owner_of(5460), NODE1);
    assert_string_equal(owner_of(5461), NODE2);
    const struct way_topo_node *one = node_of(NODE1), *six = node_of(NODE6);
    assert_true(one->master && one->myself && one->link_up && !one->master_id[0]);
    assert_string_equal(one->host, "127.0.0.1");
    assert_string_equal(one->hostname, "node1.example");
    assert_int_equal(one->port, 27311);
    assert_int_equal(one->config_epoch, 1);
    assert_true(!six->master && !six->myself);
    assert_string_equal(six->master_id, NODE2);
    parse_nodes(nodes_importing);
    assert_string_equal(owner_of(93), NODE1);
    assert_true(node_of(NODE2)->myself);
}

static void a_failed_master_and_its_successor_are_told_apart(void **state)
{
    (void)state;
    parse_nodes(nodes_failed);
    assert_int_equal(topology->current_epoch, 7);
    assert_string_equal(owner_of(5461), NODE6);
    assert_true(node_of(NODE2)->fail && !node_of(NODE2)->link_up);
    assert_true(node_of(NODE2)->master && node_of(NODE6)->master &&
                !node_of(NODE6)->fail);
    assert_int_equal(owned(), WAY_SLOTS);
}

static void a_node_without_an_address_is_where_it_was_asked(void **state)
{
    (void)state;
    parse_nodes(nodes_lone);
    assert_int_equal(topology->count, 2);
    assert_true(topology->node[0].handshake && !topology->node[0].master);
    assert_string_equal(topology->node[1].host, "10.9.9.9");
    assert_int_equal(topology->node[1].port, 27317);
    assert_int_equal(owned(), 4);
    assert_int_equal(topology->owner[16383], 1);
    parse_nodes(nodes_v6);
    assert_string_equal(topology->node[1].host, "::1");
}

static void other_versions_fields_and_flags_are_understood(void **state)
{
    (void)state;
    parse_nodes(
        "a :0@0 master,noaddr - 1 1 9 disconnected 5\r\n"
        "b h:1@2,,shard-id=0123 master,fail? - 0 0 18446744073709551615 connected 7\n"
        "c [2001:db8::1]:7000@17000,c.example,tls-port=7001,shard-id=01 slave,nofailover "
        "b 0 0 1 connected\n"
        "d 10.0.0.1:7000 noflags - 0 0 0 disconnected 8\n"
        "e h:0@0 master - 0 0 0 connected 9\n"
        "\n");
    assert_int_equal(topology->count, 5);
    assert_int_equal(owned(), 1);
    assert_string_equal(owner_of(7), "b");
    assert_true(topology->node[0].noaddr);
    assert_string_equal(topology->node[0].host, "");
    assert_true(node_of("b")->pfail && !node_of("b")->fail);
    assert_string_equal(node_of("b")->hostname, "");
    assert_true(node_of("b")->config_epoch == UINT64_MAX);
    assert_string_equal(node_of("c")->host, "2001:db8::1");
    assert_string_equal(node_of("c")->hostname, "c.example");
    assert_int_equal(node_of("c")->tls_port, 7001);
    assert_int_equal(node_of("d")->port, 7000);
}

static void who_can_not_be_dialed_owns_nothing(void **state)
{
    (void)state;
    parse_nodes("a h:1 master,handshake - 0 0 0 connected 1\n"
                "b h:1 master,noaddr - 0 0 0 connected 2\n"
                "c h:0 master - 0 0 0 connected 3\n"
                "d h:1 slave a 0 0 0 connected 4\n"
                "e h:1 master,fail - 0 0 0 disconnected 5\n");
    assert_int_equal(topology->count, 5);
    assert_int_equal(owned(), 1);
    assert_string_equal(owner_of(5), "e"); /* failing is for the policy to judge */
}

static void what_is_no_such_text_is_refused_with_its_line(void **state)
{
    (void)state;
    refused_nodes("", "CLUSTER NODES: no nodes");
    refused_nodes("\n\n", "CLUSTER NODES: no nodes");
    refused_nodes("ERR unknown command", "CLUSTER NODES, line 1: no address");
    refused_nodes(" h:1 master - 0 0 0 connected", "CLUSTER NODES, line 1: no node id");
    refused_nodes("a h:1 master - 0 0 0 connected\nb h:x master - 0 0 0 connected",
                  "CLUSTER NODES, line 2: no address");
    refused_nodes("a h:65536 master - 0 0 0 connected",
                  "CLUSTER NODES, line 1: no address");
    refused_nodes("a h:1 master", "CLUSTER NODES, line 1: no master id");
    refused_nodes("a h:1 master - 0 0 -1 connected",
                  "CLUSTER NODES, line 1: no config epoch");
    refused_nodes("a h:1 master - 0 0 0", "CLUSTER NODES, line 1: no link state");
    refused_nodes("a h:1 master - 0 0 0 connected 16384",
                  "CLUSTER NODES, line 1: no slot range");
    refused_nodes("a h:1 master - 0 0 0 connected 0-99999999999999999999",
                  "CLUSTER NODES, line 1: no slot range");
    refused_nodes("a h:1 master - 0 0 0 connected\na h:2 master - 0 0 0 connected",
                  "CLUSTER NODES, line 2: a node id that was there before");
}

static void a_cut_text_never_gives_more_than_the_whole(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof nodes_text; n++) {
        struct way_err err;
        char *block = malloc(n ? n : 1);
        assert_non_null(block);
        memcpy(block, nodes_text, n);
        if (!way_topology_parse_nodes(topology, block, n, "h", &err))
            assert_in_range(topology->count, 1, 6);
        free(block);
    }
}

static void more_nodes_than_any_cluster_has_are_refused(void **state)
{
    (void)state;
    struct way_buf b = { 0 };
    struct way_err err;
    for (int i = 0; i < 4097; i++)
        way_buf_printf(&b, "n%d h:1 master - 0 0 0 connected\n", i);
    assert_int_equal(way_topology_parse_nodes(topology, b.p, b.len, "h", &err), -1);
    assert_string_equal(err.text, "CLUSTER NODES, line 4097: too many nodes");
    way_buf_fini(&b);
}

static void cluster_slots_tells_the_same_without_epochs(void **state)
{
    (void)state;
    parse_slots(slots_reply);
    assert_int_equal(topology->count, 6);
    assert_false(topology->has_epochs);
    assert_int_equal(owned(), WAY_SLOTS);
    assert_string_equal(owner_of(5460), NODE1);
    assert_string_equal(owner_of(5461), NODE2);
    assert_string_equal(node_of(NODE6)->master_id, NODE2);
    assert_string_equal(node_of(NODE6)->hostname, "node6.example");
    assert_true(node_of(NODE1)->master && !node_of(NODE6)->master &&
                node_of(NODE6)->link_up);
    assert_int_equal(node_of(NODE6)->port, 27316);
}

/* In the middle of a failover two ranges may see one node in two roles. */
static void a_master_of_one_range_stays_one_in_another(void **state)
{
    (void)state;
    parse_slots("*2\r\n*3\r\n:0\r\n:1\r\n*3\r\n+h\r\n:1\r\n+a\r\n"
                "*4\r\n:2\r\n:2\r\n*3\r\n+h\r\n:2\r\n+b\r\n*3\r\n+h\r\n:1\r\n+a\r\n");
    assert_true(node_of("a")->master && !node_of("a")->master_id[0]);
    assert_int_equal(owned(), 3);
}

static void preferred_endpoints_are_dialed_as_told(void **state)
{
    (void)state;
    parse_slots(slots_by_name);
    assert_string_equal(node_of(NODE2)->host, "node2.example");
    assert_string_equal(node_of(NODE2)->hostname, "node2.example");
    assert_string_equal(node_of(NODE1)->host, "127.0.0.1"); /* "?", but an ip is told */
    assert_string_equal(node_of(NODE1)->hostname, "");
    parse_slots(slots_unknown);
    assert_string_equal(node_of(NODE2)->host, "10.9.9.9");
    assert_string_equal(node_of(NODE2)->hostname, "node2.example");
    parse_slots(slots_lone);
    assert_int_equal(topology->count, 1);
    assert_string_equal(topology->node[0].host, "10.9.9.9");
    assert_int_equal(owned(), 4);
}

static void resp3_is_read_where_hiredis_can(void **state)
{
    (void)state;
    struct way_err err;
    int r =
        way_topology_parse_slots(topology, slots_resp3, strlen(slots_resp3), "h", &err);
#if HIREDIS_MAJOR >= 1
    assert_int_equal(r, 0);
    assert_string_equal(node_of(NODE6)->hostname, "node6.example");
#else
    assert_int_equal(r, -1);
    assert_non_null(strstr(err.text, "CLUSTER SLOTS: "));
#endif
}

static void shards_add_health_to_the_nodes_that_are_known(void **state)
{
    (void)state;
    struct way_err err;
    parse_nodes(nodes_failed);
    assert_int_equal(
        way_topology_add_shards(topology, shards_reply, strlen(shards_reply), &err), 0);
    assert_true(node_of(NODE1)->health_known && node_of(NODE1)->online);
    assert_true(node_of(NODE2)->health_known && !node_of(NODE2)->online);
    assert_int_equal(topology->count, 6);
    assert_string_equal(node_of(NODE6)->hostname, "node6.example");
    parse_nodes("x h:1 master - 0 0 0 connected 1\n");
    assert_int_equal(
        way_topology_add_shards(topology, shards_reply, strlen(shards_reply), &err), 0);
    assert_int_equal(topology->count, 1);
    assert_false(topology->node[0].health_known);
}

static void tls_ports_and_loading_are_read_from_shards(void **state)
{
    (void)state;
    static const char shards[] = "*1\r\n*4\r\n$5\r\nslots\r\n*0\r\n$5\r\nnodes\r\n*1\r\n*"
                                 "8\r\n$2\r\nid\r\n$1\r\nx\r\n"
                                 "$8\r\ntls-port\r\n:7001\r\n$8\r\nhostname\r\n$"
                                 "1\r\ny\r\n$6\r\nhealth\r\n$7\r\nloading\r\n";
    struct way_err err;
    parse_nodes("x h:1 master - 0 0 0 connected 1\n");
    assert_int_equal(way_topology_add_shards(topology, shards, sizeof shards - 1, &err),
                     0);
    assert_int_equal(topology->node[0].tls_port, 7001);
    assert_string_equal(topology->node[0].hostname, "y");
    assert_true(topology->node[0].loading && !topology->node[0].online);
}

static void replies_out_of_shape_are_refused_in_words(void **state)
{
    (void)state;
    static const struct {
        const char *resp, *why;
    } bad[] = {
        { "", "CLUSTER SLOTS: not a whole reply" },
        { "*1\r\n", "CLUSTER SLOTS: not a whole reply" },
        { "*2147483647\r\n", "CLUSTER SLOTS: not a whole reply" },
        { "+OK\r\n", "CLUSTER SLOTS: not a list" },
        { "-ERR This instance has cluster support disabled\r\n",
          "CLUSTER SLOTS: ERR This instance has cluster support disabled" },
        { "*0\r\n", "CLUSTER SLOTS: no nodes" },
        { "*-1\r\n", "CLUSTER SLOTS: not a list" },
        { "*1\r\n:1\r\n", "CLUSTER SLOTS: entry 1 is out of shape" },
        { "*1\r\n*3\r\n:0\r\n:16384\r\n*3\r\n+h\r\n:1\r\n+a\r\n",
          "CLUSTER SLOTS: entry 1 is out of shape" },
        { "*1\r\n*3\r\n:2\r\n:1\r\n*3\r\n+h\r\n:1\r\n+a\r\n",
          "CLUSTER SLOTS: entry 1 is out of shape" },
        { "*1\r\n*3\r\n:-1\r\n:1\r\n*3\r\n+h\r\n:1\r\n+a\r\n",
          "CLUSTER SLOTS: entry 1 is out of shape" },
        { "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n+h\r\n:1\r\n",
          "CLUSTER SLOTS: entry 1 is out of shape" },
        { "*1\r\n*3\r\n:0\r\n:1\r\n*3\r\n+h\r\n:65536\r\n+a\r\n",
          "CLUSTER SLOTS: entry 1 is out of shape" },
        { "*1\r\n*4\r\n:0\r\n:1\r\n*3\r\n+h\r\n:1\r\n+a\r\n:5\r\n",
          "CLUSTER SLOTS: entry 1 is out of shape" },
        { "*1\r\n*3\r\n:0\r\n:1\r\n*3\r\n+h\r\n:1\r\n+"
          "a2345678901234567890123456789012345678901\r\n",
          "CLUSTER SLOTS: entry 1 is out of shape" },
    };
    for (size_t i = 0; i < way_count(bad); i++) {
        struct way_err err = { "" };
        int r = way_topology_parse_slots(topology, bad[i].resp, strlen(bad[i].resp), "h",
                                         &err);
        if (r != -1 || strcmp(err.text, bad[i].why))
            fail_msg("%s: %d, %s", bad[i].resp, r, err.text);
    }
}

/* --- addresses and redirects --- */

static void addresses_are_split_at_the_last_colon(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host;
        unsigned port;
    } good[] = { { "127.0.0.1:7000", "127.0.0.1", 7000 },
                 { "[::1]:1", "::1", 1 },
                 { "2001:db8::1:65535", "2001:db8::1", 65535 },
                 { ":7000", "", 7000 },
                 { "redis.example:6379", "redis.example", 6379 } };
    static const char *const bad[] = { "",           "host",
                                       "host:",      "host:0",
                                       "host:65536", "host:x",
                                       "host:-1",    "host:99999999999999999999",
                                       "7000" };
    char host[WAY_HOST_MAX];
    uint16_t port;
    struct way_err err;
    for (size_t i = 0; i < way_count(good); i++) {
        assert_int_equal(
            way_split_address(good[i].text, strlen(good[i].text), host, &port, &err), 0);
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
    for (size_t i = 0; i < way_count(bad); i++)
        assert_int_equal(way_split_address(bad[i], strlen(bad[i]), host, &port, &err),
                         -1);
    char longest[WAY_HOST_MAX + 8];
    memset(longest, 'h', sizeof longest);
    memcpy(longest + WAY_HOST_MAX, ":1", 2);
    assert_int_equal(way_split_address(longest, WAY_HOST_MAX + 2, host, &port, &err), -1);
    assert_int_equal(way_split_address(longest + 1, WAY_HOST_MAX + 1, host, &port, &err),
                     0);
    assert_int_equal(strlen(host), WAY_HOST_MAX - 1);
}

static void redirects_are_told_from_other_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        char kind;
        unsigned slot;
        const char *host;
        unsigned port;
    } all[] = {
        { "-MOVED 3999 127.0.0.1:6381\r\n", 'M', 3999, "127.0.0.1", 6381 },
        { "-ASK 0 node.example:6381", 'A', 0, "node.example", 6381 },
        { "-MOVED 12182 :27313\r\n", 'M', 12182, "", 27313 },
        { "-MOVED 4938 ?:27311\r\n", 'M', 4938, "?", 27311 },
        { "-MOVED 16383 2001:db8::1:7000\r\n", 'M', 16383, "2001:db8::1", 7000 },
        { "-MOVED 16384 127.0.0.1:6381\r\n", 0, 0, "", 0 },
        { "-MOVED x 127.0.0.1:6381\r\n", 0, 0, "", 0 },
        { "-MOVED 1\r\n", 0, 0, "", 0 },
        { "-MOVED 1 127.0.0.1\r\n", 0, 0, "", 0 },
        { "-MOVED 1 127.0.0.1:0\r\n", 0, 0, "", 0 },
        { "-MOVED\r\n", 0, 0, "", 0 },
        { "-MOVEDX 1 h:1\r\n", 0, 0, "", 0 },
        { "-ASKING 1 h:1\r\n", 0, 0, "", 0 },
        { "-ERR MOVED 1 h:1\r\n", 0, 0, "", 0 },
        { "+MOVED 1 h:1\r\n", 0, 0, "", 0 },
        { "", 0, 0, "", 0 },
    };
    for (size_t i = 0; i < way_count(all); i++) {
        char host[WAY_HOST_MAX] = "";
        uint16_t slot = 0, port = 0;
        char kind =
            way_redirect_parse(all[i].text, strlen(all[i].text), &slot, host, &port);
        if (kind != all[i].kind)
            fail_msg("%s: %d", all[i].text, kind);
        if (kind) {
            assert_int_equal(slot, all[i].slot);
            assert_string_equal(host, all[i].host);
            assert_int_equal(port, all[i].port);
        }
    }
}

#define WITH_TOPOLOGY(test) cmocka_unit_test_setup_teardown(test, make, unmake)
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_has_the_slot_that_redis_gives_it),
        cmocka_unit_test(keys_of_any_length_and_bytes_are_summed_as_specified),
        cmocka_unit_test(only_a_hash_tag_that_is_not_empty_counts),
        cmocka_unit_test(every_slot_has_a_key_to_probe_it_with),
        WITH_TOPOLOGY(a_clusters_nodes_are_all_understood),
        WITH_TOPOLOGY(a_failed_master_and_its_successor_are_told_apart),
        WITH_TOPOLOGY(a_node_without_an_address_is_where_it_was_asked),
        WITH_TOPOLOGY(other_versions_fields_and_flags_are_understood),
        WITH_TOPOLOGY(who_can_not_be_dialed_owns_nothing),
        WITH_TOPOLOGY(what_is_no_such_text_is_refused_with_its_line),
        WITH_TOPOLOGY(a_cut_text_never_gives_more_than_the_whole),
        WITH_TOPOLOGY(more_nodes_than_any_cluster_has_are_refused),
        WITH_TOPOLOGY(cluster_slots_tells_the_same_without_epochs),
        WITH_TOPOLOGY(a_master_of_one_range_stays_one_in_another),
        WITH_TOPOLOGY(preferred_endpoints_are_dialed_as_told),
        WITH_TOPOLOGY(resp3_is_read_where_hiredis_can),
        WITH_TOPOLOGY(shards_add_health_to_the_nodes_that_are_known),
        WITH_TOPOLOGY(tls_ports_and_loading_are_read_from_shards),
        WITH_TOPOLOGY(replies_out_of_shape_are_refused_in_words),
        cmocka_unit_test(addresses_are_split_at_the_last_colon),
        cmocka_unit_test(redirects_are_told_from_other_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
