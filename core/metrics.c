/* metrics - see metrics.h.
 *
 * The per-thread counters come from their own list; the rest is put together here. Samples
 * of one name stand together under one HELP and TYPE, as the format demands. */
#include "metrics.h"

#include "daemon.h"
#include "spool.h"

#include <stdio.h>
#include <unistd.h>

enum metric_type { COUNTER, GAUGE };

static void head(struct way_buf *out, const char *name, enum metric_type type,
                 const char *help)
{
    way_buf_printf(out, "# HELP wayside_%s %s\n# TYPE wayside_%s %s\n", name, help, name,
                   type == COUNTER ? "counter" : "gauge");
}

static void single(struct way_buf *out, const char *name, enum metric_type type,
                   const char *help, double value)
{
    head(out, name, type, help);
    way_buf_printf(out, "wayside_%s %.17g\n", name, value);
}

/* A label with its value; what a policy or a server may have put into it stays harmless. */
static void label(struct way_buf *out, const char *before, const char *name,
                  const char *value)
{
    way_buf_printf(out, "%s%s=\"", before, name);
    for (const char *c = value; *c; c++) {
        if (*c == '"' || *c == '\\')
            way_buf_printf(out, "\\%c", *c);
        else
            way_buf_put(out, *c >= 32 && *c < 127 ? c : "?", 1);
    }
    way_buf_puts(out, "\"");
}

/* --- counters of the threads --- */

static void put_stats(struct way_control *c, struct way_buf *out)
{
    const struct way_stat_info *info, *before = NULL;
    for (unsigned i = 0; (info = way_stat_info(i)); i++) {
        if (!before || strcmp(before->metric, info->metric))
            head(out, info->metric, COUNTER, info->help);
        way_buf_printf(out, "wayside_%s", info->metric);
        if (info->labels[0])
            way_buf_printf(out, "{%s}", info->labels);
        way_buf_printf(out, " %llu\n",
                       (unsigned long long)way_control_stat(c, (enum way_stat)i));
        before = info;
    }
}

static void put_clients(struct way_control *c, struct way_buf *out)
{
    uint64_t came = way_control_stat(c, WAY_STAT_CLIENTS_TOTAL);
    uint64_t left = way_control_stat(c, WAY_STAT_CLIENTS_CLOSED);
    single(out, "clients", GAUGE, "client connections now",
           came > left ? (double)(came - left) : 0);
}

/* --- nodes --- */

struct node_sum {
    uint64_t inflight, requests;
};

static struct node_sum sum_of(struct way_health *h, unsigned node)
{
    struct node_sum sum = { 0, 0 };
    for (int row = 0; row < WAY_ROWS_MAX; row++) {
        const struct way_cell *cell = &way_health_cells(h, row)[node];
        sum.inflight += atomic_load_explicit(&cell->inflight, memory_order_relaxed);
        sum.requests += atomic_load_explicit(&cell->requests, memory_order_relaxed);
    }
    return sum;
}

static void put_node_figures(struct way_control *c, struct way_buf *out)
{
    struct way_health *h = way_control_health(c);
    struct way_buf requests = { 0 }, latency = { 0 };
    head(out, "node_inflight", GAUGE, "commands in flight to the node");
    head(&requests, "node_requests_total", COUNTER, "commands given to the node");
    head(&latency, "node_latency_seconds", GAUGE, "moving average of the node's latency");
    for (unsigned i = 0; i < way_health_nodes(h); i++) {
        const char *address = way_control_address(c, i);
        if (!address)
            continue;
        struct node_sum sum = sum_of(h, i);
        label(out, "wayside_node_inflight{", "node", address);
        way_buf_printf(out, "} %llu\n", (unsigned long long)sum.inflight);
        label(&requests, "wayside_node_requests_total{", "node", address);
        way_buf_printf(&requests, "} %llu\n", (unsigned long long)sum.requests);
        double seconds = way_health_latency_get(h, i);
        if (seconds < 0)
            continue;
        label(&latency, "wayside_node_latency_seconds{", "node", address);
        way_buf_printf(&latency, "} %.9f\n", seconds);
    }
    way_buf_put(out, requests.p, way_buf_held(&requests));
    way_buf_put(out, latency.p, way_buf_held(&latency));
    way_buf_fini(&requests);
    way_buf_fini(&latency);
}

static void put_node_states(struct way_control *c, struct way_buf *out)
{
    struct way_health *h = way_control_health(c);
    head(out, "node_state", GAUGE, "1 for the state that the node is in");
    for (unsigned i = 0; i < way_health_nodes(h); i++) {
        const char *address = way_control_address(c, i);
        if (!address)
            continue;
        struct way_node *node = way_health_node(h, i);
        unsigned state =
            atomic_load_explicit(&node->route, memory_order_acquire) & WAY_ROUTE_STATE;
        unsigned role = atomic_load_explicit(&node->role, memory_order_relaxed);
        for (unsigned s = 0; s < WAY_STATE_COUNT; s++) {
            label(out, "wayside_node_state{", "node", address);
            label(out, ",", "role", way_role_name(role));
            label(out, ",", "state", way_state_name(s));
            way_buf_printf(out, "} %d\n", s == state);
        }
    }
}

static void put_errors_of(struct way_control *c, unsigned node, struct way_buf *out)
{
    for (unsigned p = 0; p < WAY_PHASE_COUNT; p++)
        for (unsigned e = WAY_ERROR_NONE + 1; e < WAY_ERROR_COUNT; e++) {
            uint64_t n = way_history_errors(way_control_history(c), node,
                                            (enum way_phase)p, (enum way_error)e);
            if (n == 0)
                continue;
            label(out, "wayside_node_errors_total{", "node",
                  way_control_address(c, node));
            label(out, ",", "phase", way_phase_name(p));
            label(out, ",", "error", way_error_name(e));
            way_buf_printf(out, "} %llu\n", (unsigned long long)n);
        }
}

static void put_node_errors(struct way_control *c, struct way_buf *out)
{
    head(out, "node_errors_total", COUNTER,
         "errors of the node's connections, commands and probes");
    for (unsigned i = 0; i < way_health_nodes(way_control_health(c)); i++)
        if (way_control_address(c, i))
            put_errors_of(c, i, out);
}

static void put_transitions(struct way_control *c, struct way_buf *out)
{
    const struct way_transition *t;
    head(out, "node_transitions_total", COUNTER,
         "changes of a node's state, by this process");
    for (unsigned i = 0; (t = way_history_transition(way_control_history(c), i)); i++) {
        label(out, "wayside_node_transitions_total{", "from", way_state_name(t->from));
        label(out, ",", "to", way_state_name(t->to));
        label(out, ",", "reason", t->reason);
        way_buf_printf(out, "} %llu\n", (unsigned long long)t->count);
    }
}

/* --- the rest --- */

static void put_policy(struct way_control *c, struct way_buf *out)
{
    const struct way_plan *plan = way_control_plan(c);
    char sha[24];
    snprintf(sha, sizeof sha, "%016llx", (unsigned long long)plan->layout.hash);
    head(out, "policy_info", GAUGE,
         "the policy in charge; sha is of its text and options");
    label(out, "wayside_policy_info{", "name", plan->name);
    label(out, ",", "version", plan->version);
    label(out, ",", "sha", sha);
    way_buf_puts(out, "} 1\n");
    single(out, "policy_set_aside", GAUGE,
           "1 while the fallback decides, because the policy failed too often",
           way_control_set_aside(c));
}

static void put_control(struct way_control *c, struct way_buf *out)
{
    struct way_control_counts n;
    way_control_counts(c, &n);
    single(out, "topology_refreshes_total", COUNTER, "topology refreshes begun",
           (double)n.refreshes);
    single(out, "topology_refresh_failures_total", COUNTER,
           "topology refreshes that no node answered", (double)n.refreshes_failed);
    single(out, "probes_total", COUNTER, "probes sent", (double)n.probes);
    single(out, "probe_failures_total", COUNTER, "probes that failed",
           (double)n.probes_failed);
    single(out, "probes_delayed_total", COUNTER, "probes delayed by a limit",
           (double)n.probes_delayed);
}

static void put_spool(struct way_control *c, struct way_buf *out)
{
    struct way_spool_counts n;
    if (!way_control_spool(c))
        return;
    way_spool_counts(way_control_spool(c), &n);
    single(out, "journal_written_total", COUNTER, "journal entries written to the file",
           (double)n.written);
    head(out, "journal_unwritten_total", COUNTER,
         "journal entries that did not reach the file");
    way_buf_printf(out, "wayside_journal_unwritten_total{reason=\"queue\"} %llu\n",
                   (unsigned long long)n.no_room);
    way_buf_printf(out, "wayside_journal_unwritten_total{reason=\"file\"} %llu\n",
                   (unsigned long long)n.unwritten);
    single(out, "journal_rotations_total", COUNTER, "rotations of the journal's file",
           (double)n.rotations);
}

static void put_topology(struct way_control *c, struct way_buf *out)
{
    struct way_health *h = way_control_health(c);
    double at = way_health_topology_at(h);
    head(out, "topology_age_seconds", GAUGE,
         "since the topology was last confirmed; absent while none is known");
    if (at > 0)
        way_buf_printf(out, "wayside_topology_age_seconds %.3f\n",
                       way_control_loop(c)->now - at);
    single(out, "slots_covered_ratio", GAUGE, "share of slots that have an owner",
           way_health_coverage(h));
}

/* Resident bytes, 0 if the system does not tell. */
static double resident_bytes(void)
{
    unsigned long long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f)
        return 0;
    if (fscanf(f, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static void put_process(struct way_control *c, struct way_buf *out)
{
    head(out, "build_info", GAUGE, "the version of wayside");
    label(out, "wayside_build_info{", "version", WAY_VERSION);
    way_buf_puts(out, "} 1\n");
    single(out, "workers", GAUGE, "threads that serve clients",
           way_control_threads(c) - 1.0);
    single(out, "process_resident_memory_bytes", GAUGE, "memory that the process holds",
           resident_bytes());
}

void way_metrics_write(struct way_control *control, struct way_buf *out)
{
    put_process(control, out);
    put_clients(control, out);
    put_stats(control, out);
    put_node_states(control, out);
    put_node_figures(control, out);
    put_node_errors(control, out);
    put_transitions(control, out);
    put_topology(control, out);
    put_control(control, out);
    put_spool(control, out);
    put_policy(control, out);
}

bool way_metrics_healthy(struct way_control *control, struct way_buf *out)
{
    struct way_health *h = way_control_health(control);
    double covered = way_health_coverage(h);
    if (way_health_topology_at(h) <= 0) {
        way_buf_puts(out, "not ready: the cluster's topology is not known\n");
        return false;
    }
    if (covered < 1) {
        way_buf_printf(out, "not ready: %.2f%% of the slots have no owner\n",
                       (1 - covered) * 100);
        return false;
    }
    way_buf_printf(out, "ok: %u nodes, every slot has an owner\n", way_health_nodes(h));
    return true;
}
