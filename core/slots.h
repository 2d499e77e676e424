/* slots - keys to slots, and who owns which slot, as cluster nodes tell it.
 *
 * CRC16 (XMODEM) modulo 16384 with hash tags: Redis Cluster specification, "Key
 * distribution model". A topology is what one node believes at one moment; which of two
 * wins is the node table's business. Pure: parses text and bytes that others fetched. */
#ifndef WAY_SLOTS_H
#define WAY_SLOTS_H

#include "base.h"

enum { WAY_SLOTS = 16384, WAY_ID_MAX = 41, WAY_HOST_MAX = 256, WAY_ZONE_MAX = 32 };

uint16_t way_slot_of(const char *key, size_t n);

struct way_topo_node {
    char id[WAY_ID_MAX];
    char host[WAY_HOST_MAX];     /* where to dial; "" unknown or "same as asked" solved */
    char hostname[WAY_HOST_MAX]; /* announced name, for TLS and logs; "" none */
    uint16_t port, tls_port;
    bool master;
    char master_id[WAY_ID_MAX]; /* of a replica */
    uint64_t config_epoch;      /* 0 where unknown (CLUSTER SLOTS) */
    bool link_up;
    bool fail, pfail, noaddr, handshake;
    bool health_known, online, loading; /* from CLUSTER SHARDS */
    bool myself;
};

#define WAY_SLOT_UNOWNED 0xffff
struct way_topology {
    struct way_topo_node *node;
    unsigned count, room;
    bool has_epochs;
    uint64_t current_epoch;
    uint16_t owner[WAY_SLOTS]; /* index into node, of a master; WAY_SLOT_UNOWNED */
};
struct way_topology *way_topology_new(void);
void way_topology_free(struct way_topology *t);

/* CLUSTER NODES' text. asked_host is put where a node tells no host of its own (":7000",
 * the special case of a node that never met another). Hostnames (",name" since 7.0),
 * IPv6 by the last colon, "@cport", shard-id fields and migrating slots ([93-<-id]) are
 * understood; nodes in handshake, with noaddr or without a port are kept but own nothing.
 * -1: not such a text (line told); t is then unusable. */
int way_topology_parse_nodes(struct way_topology *t, const char *text, size_t n,
                             const char *asked_host, struct way_err *err) WAY_MUST_CHECK;

/* The raw RESP reply (RESP2 or RESP3) to CLUSTER SLOTS, and to CLUSTER SHARDS, which only
 * adds hostnames, TLS ports and health to nodes already there. NULL or empty hosts mean
 * asked_host. Decoded by hiredis's reader. */
int way_topology_parse_slots(struct way_topology *t, const char *resp, size_t n,
                             const char *asked_host, struct way_err *err) WAY_MUST_CHECK;
int way_topology_add_shards(struct way_topology *t, const char *resp, size_t n,
                            struct way_err *err) WAY_MUST_CHECK;

/* Splits "host:port" at the last colon ("[::1]:7000" too). -1: no port in 1..65535. */
int way_split_address(const char *text, size_t n, char host[WAY_HOST_MAX], uint16_t *port,
                      struct way_err *err) WAY_MUST_CHECK;

/* The redirect in "-MOVED 3999 127.0.0.1:6381" or "-ASK ..." (n bytes, CRLF or not):
 * 'M' or 'A', or 0 if it is neither. An empty host means the node that answered. */
char way_redirect_parse(const char *p, size_t n, uint16_t *slot, char host[WAY_HOST_MAX],
                        uint16_t *port);

/* A key (decimal digits in a hash tag) that belongs to slot: for probes by data command.
 * key gets at most 16 bytes with NUL. */
void way_slot_key(uint16_t slot, char key[16]);

#endif
