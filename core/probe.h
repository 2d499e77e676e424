/* probe - the probes that a policy wishes: one at a time per node, one series per node
 * whatever the number of workers and processes.
 *
 * Knows no policy: `ask` is called for the next wish, `result` with what came of it, and
 * then `ask` again. A series is held by a lease in the node table, renewed at each probe;
 * who does not hold it waits and takes over when it ran out. limits.probes_per_second and
 * limits.node_probes_per_second delay what is too much, and count it. Where the policy
 * wishes no probe the host tries a failing node by itself, every 5 s: one that fails
 * without end, and one that the guard stands before, for nobody else can serve in its place.
 *
 * Belongs to the control loop; callbacks fire in its thread, never inside
 * way_prober_forget or way_prober_free. */
#ifndef WAY_PROBE_H
#define WAY_PROBE_H

#include "base.h"
#include "event.h"
#include "health.h"
#include "limits.h"
#include "loop.h"

struct way_resolver;
struct way_tls;
struct way_prober;

struct way_prober_options {
    struct way_loop *loop;
    struct way_resolver *resolver;
    struct way_health *health;
    const struct way_timeouts *timeouts; /* borrowed */
    const struct way_limits *limits;     /* borrowed */
    const char *user, *password;         /* borrowed; NULL: none */
    const struct way_tls *tls;           /* borrowed; NULL: in plain */
    double host_after;                   /* between the host's own probes; 0: 5 s */
    /* The next wish for a node, because of e. */
    void (*ask)(void *arg, unsigned node, struct way_event *e, struct way_probe *out);
    /* A probe ended, perhaps one of the host's own: e is whole but for class and blame. */
    void (*result)(void *arg, unsigned node, struct way_event *e, bool own);
    void *arg;
};
struct way_prober *way_prober_new(const struct way_prober_options *o);
void way_prober_free(struct way_prober *p);

/* Asks what is wished for the node now; the answer replaces a waiting one, but with
 * `repeated` (the node was marked as it was marked before) it never comes later than that.
 * A probe that runs goes on, and its end asks again. */
void way_prober_ask(struct way_prober *p, unsigned node, struct way_event *e,
                    bool repeated);
/* The node left the cluster, or its record was given to another address. */
void way_prober_forget(struct way_prober *p, unsigned node);

struct way_prober_counts {
    uint64_t probes, failed, delayed; /* delayed by a limit */
};
void way_prober_counts(const struct way_prober *p, struct way_prober_counts *out);

/* The fields of INFO replication that a probe takes out: true if text is one. behind is in
 * bytes, < 0 if the text alone can't tell; offset is how far this node has come. */
struct way_replication {
    bool master, link_up;
    double last_io, behind;
    int64_t offset;
};
bool way_replication_parse(const char *text, size_t n, struct way_replication *out);

#endif
