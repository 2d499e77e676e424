/* limits - see limits.h. One row per field; the structs hold nothing but doubles, so that
 * counting them proves at compile time that no field was forgotten. Bounds are what still
 * makes sense, not what is wise: 0 is allowed only where the row says what it means. */
#include "limits.h"

#define KIB 1024.0
#define MIB (1024.0 * 1024.0)
#define GIB (1024.0 * 1024.0 * 1024.0)
#define DAY 86400.0

#define ROW(field, in, of, u, std, least, most, bounds, what)                            \
    {                                                                                    \
        .name = #field, .group = (in), .offset = offsetof(struct of, field),             \
        .unit = (u), .standard = (std), .min = (least), .max = (most), .help = (bounds), \
        .seen = (what)                                                                   \
    }
#define TIMEOUT(field, ...) ROW(field, WAY_GROUP_TIMEOUTS, way_timeouts, __VA_ARGS__)
#define LIMIT(field, ...) ROW(field, WAY_GROUP_LIMITS, way_limits, __VA_ARGS__)

static const struct way_setting settings[] = {
    /* time-outs */
    TIMEOUT(resolve, "s", 1, 0.001, 60,
            "looking up a node's name, the first step of the connect phase",
            "the policy is told connect, resolve, timeout; if it gives up: "
            "-WAYSIDE timeout ... phase=connect step=resolve certainty=unsent"),
    TIMEOUT(dial, "s", 0.5, 0.001, 60, "the TCP handshake with a node",
            "the policy is told connect, dial, timeout; if it gives up: "
            "-WAYSIDE timeout ... phase=connect step=dial certainty=unsent"),
    TIMEOUT(tls, "s", 1, 0.001, 60, "the TLS handshake with a node",
            "the policy is told connect, tls, timeout; if it gives up: "
            "-WAYSIDE timeout ... phase=connect step=tls certainty=unsent"),
    TIMEOUT(hello, "s", 0.5, 0.001, 60,
            "AUTH, HELLO and READONLY on a new connection, together",
            "the policy is told connect, hello, timeout; if it gives up: "
            "-WAYSIDE timeout ... phase=connect step=hello certainty=unsent"),
    TIMEOUT(
        write, "s", 1, 0.001, 3600,
        "how long bytes may be queued on a connection while the node takes none of them",
        "the connection is closed; what was not fully sent is unsent, the rest unknown; "
        "if the policy gives up: -WAYSIDE timeout ... phase=write step=send"),
    TIMEOUT(
        read, "s", 1, 0.001, 3600,
        "how long the oldest unanswered command waits since its last byte was sent or "
        "the reply before it ended, whichever is later",
        "the connection is closed and all that is in flight on it is unknown; if the "
        "policy gives up: -WAYSIDE timeout ... phase=read step=wait (or reply) "
        "certainty=unknown"),
    TIMEOUT(total, "s", 8, 0.001, 86400,
            "one command from its arrival to its reply, with every attempt, hold and "
            "redirect",
            "-WAYSIDE deadline ... with the phase and certainty it had come to"),
    TIMEOUT(
        tcp_user, "s", 10, 0, 3600,
        "TCP_USER_TIMEOUT, of nodes and clients: how long sent bytes may stay "
        "unacknowledged or untaken before the system gives the connection up; 0 leaves "
        "it "
        "to the system",
        "a node's: as a read or write that ended with 'Connection timed out'; a client's "
        "is closed"),
    TIMEOUT(keepalive_idle, "s", 15, 1, 32767,
            "how long a connection is idle before the system probes it (TCP_KEEPIDLE)",
            "an idle connection to a vanished node closes before a command uses it"),
    TIMEOUT(keepalive_interval, "s", 5, 1, 32767,
            "the time between two such probes (TCP_KEEPINTVL)", "as keepalive_idle"),
    TIMEOUT(keepalive_count, "probes", 3, 1, 127,
            "how many such probes may go unanswered (TCP_KEEPCNT)", "as keepalive_idle"),
    TIMEOUT(
        client_idle, "s", 0, 0, 30 * DAY,
        "how long a client may neither send anything nor wait for a reply; 0: for ever",
        "its connection is closed, without a reply, as Redis's timeout does it"),

    /* what a policy may not exceed */
    LIMIT(guard, "bool", 1, 0, 1,
          "whether the last node that can serve stays in use on soft evidence "
          "(slowness, edges, ticks) whatever the policy says",
          "nothing; the operator sees such a node as suspect, and the verdict as bounded "
          "by guard"),
    LIMIT(
        failing_share, "share", 0.5, 0, 1,
        "the share of all nodes that soft evidence may take out of use",
        "nothing; the operator sees further nodes as suspect, and the verdict as bounded "
        "by failing_share"),
    LIMIT(
        dial_interval, "s", 0.1, 0.001, 60,
        "the least time between two dials to one node, per worker, with jitter",
        "commands for a node that refuses wait for the next dial within their budget, or "
        "are asked about at once: -WAYSIDE refused ... step=dial"),
    LIMIT(probes_per_second, "probes/s", 100, 1, 100000, "probes to all nodes together",
          "nothing; a probe comes later than the policy asked"),
    LIMIT(node_probes_per_second, "probes/s", 10, 0.01, 10000, "probes to one node",
          "nothing; a probe comes later than the policy asked"),
    LIMIT(refresh_interval, "s", 0.1, 0.01, 3600,
          "the least time between two readings of the cluster's topology",
          "redirects are followed one by one until the next reading"),
    LIMIT(refresh_period, "s", 30, 0.1, DAY,
          "the time after which the topology is read again though nothing asked for it",
          "nothing; a node that was added is known after so long at the latest"),
    LIMIT(retry_share, "retries/request", 0.2, 0, 10,
          "retries as a share of requests: the rate at which the retry budget fills",
          "the first attempt's error: -WAYSIDE <error> ... phase=... certainty=..."),
    LIMIT(retry_burst, "commands", 1000, 0, 1e9,
          "how many retries the budget holds when it is full",
          "the first attempt's error: -WAYSIDE <error> ... phase=... certainty=..."),
    LIMIT(attempts, "attempts", 5, 1, 1000,
          "how often one command is tried in all, redirects not counted",
          "the last attempt's error: -WAYSIDE <error> ... phase=... certainty=..."),
    LIMIT(redirects, "redirects", 5, 0, 1000,
          "how many MOVED and ASK one command follows",
          "the MOVED or ASK reply itself, after the policy was asked about it"),

    /* memory and back-pressure */
    LIMIT(node_inflight, "commands", 65536, 1, 1e9,
          "commands queued for and in flight to one node, per worker",
          "-WAYSIDE overflow ... step=queue certainty=unsent"),
    LIMIT(node_bytes, "bytes", 256 * MIB, 64 * KIB, 1024 * GIB,
          "bytes queued for and in flight to one node, per worker",
          "-WAYSIDE overflow ... step=queue certainty=unsent"),
    LIMIT(client_inflight, "commands", 16384, 1, 1e9,
          "commands of one client that have no reply yet",
          "nothing; no more is read from the client until replies have gone out"),
    LIMIT(
        client_output_bytes, "bytes", 256 * MIB, 64 * KIB, 1024 * GIB,
        "replies that one client has not taken yet",
        "no more is read from the client above a quarter of it; above it its connection "
        "is closed, as Redis's client-output-buffer-limit does it"),
    LIMIT(request_bytes, "bytes", 512 * MIB, 1 * KIB, 1024 * GIB,
          "one argument of a request, and one request as a whole",
          "-ERR Protocol error: invalid bulk length, and the connection is closed"),
    LIMIT(request_args, "arguments", 1048576, 16, 2147483647,
          "the arguments of one request, its name included",
          "-ERR Protocol error: invalid multibulk length, and the connection is closed"),
    LIMIT(reply_bytes, "bytes", 512 * MIB + 64, 1 * KIB, 1024 * GIB,
          "one reply of a node, its framing included",
          "the node's connection is closed: -WAYSIDE overflow ... phase=read step=reply "
          "certainty=unknown"),
    LIMIT(held_bytes, "bytes", 64 * MIB, 0, 1024 * GIB,
          "commands that are held or wait for a retry, per worker; 0: none are held",
          "the error that they were to be retried for: -WAYSIDE <error> ... "
          "phase=... certainty=..."),
    LIMIT(clients, "clients", 10000, 1, 1e6, "clients connected at once",
          "-ERR max number of clients reached, and the connection is closed"),
    LIMIT(transaction_connections, "connections", 1024, 1, 1e6,
          "connections for transactions and watching clients, per worker, idle ones "
          "included",
          "-WAYSIDE overflow ... step=queue certainty=unsent"),
    LIMIT(transaction_commands, "commands", 16384, 1, 1e6,
          "commands between MULTI and EXEC; their bytes are bounded as one request's",
          "-ERR too many commands in a transaction, and EXEC answers EXECABORT"),

    /* the policy itself */
    LIMIT(instructions, "instructions", 100000, 1000, 1e9,
          "Lua instructions that one call of a policy may take; a sweep (tick) may take "
          "that "
          "for each 64 nodes",
          "nothing; the built-in fallback decides, and the operator sees the error "
          "counted"),
    LIMIT(
        policy_wall, "s", 0.002, 0.0001, 10,
        "the time that one call of a policy may take, whatever it does; a sweep for each "
        "64 nodes",
        "nothing; the built-in fallback decides, and the operator sees the error "
        "counted"),
    LIMIT(policy_memory, "bytes", 4 * MIB, 256 * KIB, 1 * GIB,
          "what the Lua state of one worker's policy may hold",
          "nothing; the built-in fallback decides, and the operator sees the error "
          "counted"),
    LIMIT(
        policy_errors, "errors", 10, 1, 1e9,
        "errors of a policy in policy_window after which the fallback decides until the "
        "next window",
        "nothing; the operator sees the policy as not in charge"),
    LIMIT(policy_window, "s", 60, 0.1, DAY, "the window of policy_errors",
          "nothing; the operator sees how long the policy is out of charge"),
    LIMIT(
        shadow_sample, "share", 0.01, 0, 1,
        "of what only a candidate wants to hear of (successes, by its `watch`; commands, "
        "by its `route`), the share that it is asked about",
        "nothing; the operator sees fewer events in WAYSIDE SHADOW"),
    LIMIT(probation, "s", 30, 0, DAY,
          "how long a policy is on probation after a reload, while the one before it is "
          "kept; 0: not at all",
          "nothing; it is confirmed, and there is no way back by itself"),
    LIMIT(probation_errors, "errors", 5, 1, 1e9, "errors of a policy on probation",
          "nothing; the policy before it returns, and the operator sees why"),
    LIMIT(probation_marks, "marks", 50, 1, 1e9,
          "how often a policy on probation may take a node out of use",
          "nothing; the policy before it returns, and the operator sees why"),
    LIMIT(probation_ratio, "marks/mark", 3, 1, 1e9,
          "how many times as often a policy on probation may take a node out of use as "
          "the one before it would have; a few are always allowed",
          "nothing; the policy before it returns, and the operator sees why"),
};

_Static_assert(way_count(settings) ==
                   (sizeof(struct way_timeouts) + sizeof(struct way_limits)) /
                       sizeof(double),
               "a field has no row, or a row no field");

const struct way_setting *way_setting_at(unsigned i)
{
    return i < way_count(settings) ? &settings[i] : NULL;
}

const struct way_setting *way_setting_find(enum way_setting_group group, const char *name)
{
    for (unsigned i = 0; i < way_count(settings); i++)
        if (settings[i].group == group && !strcmp(settings[i].name, name))
            return &settings[i];
    return NULL;
}

static void set_defaults(enum way_setting_group group, void *fields)
{
    for (unsigned i = 0; i < way_count(settings); i++)
        if (settings[i].group == group)
            memcpy((char *)fields + settings[i].offset, &settings[i].standard,
                   sizeof(double));
}

void way_timeouts_default(struct way_timeouts *t)
{
    set_defaults(WAY_GROUP_TIMEOUTS, t);
}

void way_limits_default(struct way_limits *l)
{
    set_defaults(WAY_GROUP_LIMITS, l);
}
