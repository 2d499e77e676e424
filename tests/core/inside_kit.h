/* inside_kit - a made-up cluster of two masters for hosts that have wayside inside. Its nodes
 * run on a loop of their own making, so that a host's loop may be any. */
#ifndef INSIDE_KIT_H
#define INSIDE_KIT_H

#include "node_kit.h"
#include "slots.h"

struct kit_cluster {
    struct way_loop loop; /* of the nodes, and of a host that adopts loop.ev */
    struct kit_node node[2];
    char nodes[512], seeds[512];
    const char *reply[2]; /* to GET, SET and INCR; NULL: silence */
    const char *exec;     /* to EXEC */
    bool queueing[2];     /* between MULTI and EXEC */
};

static inline void kit_cluster_answer(struct kit_node *n, const char *request,
                                      struct way_buf *out)
{
    struct kit_cluster *k = n->loop->owner;
    const char *reply = k->reply[n - k->node];
    bool *queueing = &k->queueing[n - k->node];
    if (!strcmp(request, "CLUSTER NODES")) {
        way_resp_put_bulk(out, k->nodes, strlen(k->nodes));
    } else if (!strcmp(request, "MULTI")) {
        *queueing = true;
        way_buf_puts(out, "+OK\r\n");
    } else if (!strcmp(request, "EXEC")) {
        *queueing = false;
        way_buf_puts(out, k->exec ? k->exec : "");
    } else if (*queueing) {
        way_buf_puts(out, "+QUEUED\r\n");
    } else if (!strncmp(request, "GET ", 4) || !strncmp(request, "INCR ", 5) ||
               !strncmp(request, "SET ", 4) || !strncmp(request, "MGET ", 5)) {
        way_buf_puts(out, reply ? reply : "");
    } else {
        way_resp_put_error(out, "ERR unknown command");
    }
}

static inline void kit_cluster_start(struct kit_cluster *k)
{
    struct way_err err;
    memset(k, 0, sizeof *k);
    assert_int_equal(way_loop_init(&k->loop, &err), 0);
    k->loop.owner = k;
    for (int i = 0; i < 2; i++) {
        kit_node_start(&k->node[i], &k->loop, kit_cluster_answer, NULL);
        k->reply[i] = "+OK\r\n";
    }
    snprintf(k->nodes, sizeof k->nodes,
             "%040d 127.0.0.1:%u@1 master - 0 0 1 connected 0-8191\n"
             "%040d 127.0.0.1:%u@1 master - 0 0 2 connected 8192-16383\n",
             1, k->node[0].port, 2, k->node[1].port);
    snprintf(k->seeds, sizeof k->seeds, "cluster = { seeds = { \"%s\" } }",
             k->node[0].address);
}

static inline void kit_cluster_stop(struct kit_cluster *k)
{
    for (int i = 0; i < 2; i++)
        kit_node_down(&k->node[i]);
    way_loop_fini(&k->loop);
}

/* A key of the node's: the two halves of the slots. */
static inline const char *kit_key(int node)
{
    static char key[2][16];
    way_slot_key(node ? 16000 : 10, key[node]);
    return key[node];
}

#endif
