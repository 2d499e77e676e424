/* wayside - Redis Cluster inside a program of your own: its commands go to the right nodes,
 * and whatever goes wrong on the way is put to the policy that the operator wrote.
 *
 * Everything happens on a libev loop of yours (or beside another loop: way_host_fd), in
 * its thread; there is no other. Callbacks fire from the loop, never inside the function
 * that set them up; all but way_host_free may be called from them (from a verdict function
 * not way_host_cancel either). What a callback is lent is valid until it returns. Functions
 * that can fail return -1 and write why into `error`.
 *
 * Link with -lwayside (pkg-config wayside). The ABI is that of the soname: structs here
 * only grow at their end, by a new version of it. */
#ifndef WAYSIDE_H
#define WAYSIDE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct ev_loop;    /* ev.h */
struct redisReply; /* hiredis/hiredis.h */
struct way_host;

enum { WAY_HOST_ERROR_BYTES = 1024 };
struct way_host_error {
    char text[WAY_HOST_ERROR_BYTES];
};

/* Something that happened, and what was said of it. Words are those of the policy
 * contract; NULL or "" what does not apply. */
struct way_host_event {
    const char *kind; /* connection, result, probe, edge, expiry, change, commands */
    const char *phase, *step, *error; /* error NULL: nothing failed */
    const char *class_name, *message;
    const char *node, *role, *state;   /* node: its address */
    const char *commands, *certainty;  /* of commands that failed */
    unsigned count, attempt, failures; /* commands concerned; failures in a row */
    int reused, trial;
    double now, began, latency, deadline_left; /* seconds */
    const char *question; /* mark, backoff, probe; none: nobody was asked */
    const char *verdict;  /* what was answered, in words; NULL in a verdict function */
    const char *done;     /* what the host did of it, in words; likewise */
};
typedef void way_host_event_fn(void *arg, const struct way_host_event *e);

/* A verdict of your own in C, in place of a Lua policy. Zeroed when asked; return 1: it is
 * the answer, which may say nothing; 0: the built-in fallback decides. */
struct way_host_verdict {
    const char *state; /* of a mark: healthy, suspect, failing, probing, draining; NULL */
    double seconds;    /* of a mark: how long it lasts; 0: until the next */
    unsigned trials;   /* of a mark of probing */
    const char *reason;
    const char
        *retry; /* of backoff: other, same, master, hold; NULL: the error goes out */
    double after, within; /* of backoff; within: with hold, 0: as long as may be */
    int stale_reads, unknown_writes;   /* of backoff */
    double probe_after, probe_timeout; /* of probe: 0: no probe; 0: timeouts.read */
};
typedef int way_host_verdict_fn(void *arg, const struct way_host_event *e,
                                struct way_host_verdict *v);

/* What a host is made from: a file or a text, as the daemon's configuration file has it
 * (`listen`, `workers` and `admin` mean nothing here). Copied. */
struct way_host_setup {
    const char *file, *text; /* one of the two; text: "return { cluster = ... }" */
    const char *policy; /* a policy's file that wins over the configuration's; NULL */
    way_host_verdict_fn *verdict; /* NULL: the policy decides */
    way_host_event_fn *event;     /* NULL: nobody listens */
    void *arg;                    /* of both */
};
int way_host_new(struct way_host **out, struct ev_loop *loop,
                 const struct way_host_setup *setup, struct way_host_error *error);
/* Calls that are under way end without a callback. */
void way_host_free(struct way_host *host);

/* One command, as for redisCommandArgv; lengths NULL: they are strings. */
struct way_host_command {
    int argc;
    const char *const *argv;
    const size_t *lengths;
};
/* What became of it. */
struct way_host_result {
    const struct redisReply *reply; /* error replies too; NULL: none came, see error */
    const char *error;              /* NULL: a node answered, and it stands */
    const char *phase, *step, *certainty, *class_name, *verdict, *node;
    const char *text; /* the whole in words */
};
typedef void way_host_done_fn(void *arg, const struct way_host_result *results,
                              unsigned count);

/* Sends a pipeline; done is called once, within `seconds` (0: timeouts.total, which is
 * also the most). Its commands run in their order per slot; those from MULTI to EXEC, all
 * of one slot, as a transaction. Returns the pipeline's number, above 0, or -1: no command,
 * or too many or too large ones (limits.client_inflight, limits.request_bytes). */
long long way_host_submit(struct way_host *host, const struct way_host_command *commands,
                          unsigned count, double seconds, way_host_done_fn *done,
                          void *arg, struct way_host_error *error);

/* Ends a pipeline that is under way: done is not called any more. A command that waits here
 * is never sent; one that is on a connection, sent or not, goes its way, and its reply is
 * dropped. certainty: NULL, or one place per command, filled with "answered", "unsent" or
 * "unknown". -1: the pipeline has ended, as it has in its done. */
int way_host_cancel(struct way_host *host, long long pipeline, const char **certainty);

/* Another policy, while all goes on: `policy` (a file), or NULL: the configuration is read
 * again. done is told once: refused NULL: it is in charge, else why nothing changed. -1:
 * another reload is on its way, or verdicts are the host's own. A thread loads it. */
int way_host_reload(struct way_host *host, const char *policy,
                    void (*done)(void *arg, const char *refused, const char *name,
                                 const char *version),
                    void *arg, struct way_host_error *error);

/* Why a node ("host:port") is in its state: told line by line. -1: there is no such node. */
int way_host_why(struct way_host *host, const char *node,
                 void (*line)(void *arg, const char *text), void *arg);
/* A line per node, as `event` would name them: address, role, state, reason. */
void way_host_nodes(struct way_host *host, void (*line)(void *arg, const char *text),
                    void *arg);
/* 1 once every slot has an owner, which takes the first answer of a node. */
int way_host_ready(struct way_host *host);

/* ---- for another event loop (libuv, libevent, poll): loop = NULL in way_host_new ----
 * Watch the descriptor for reading, and call way_host_run whenever it is readable, when
 * the time-out has passed, and after way_host_submit. Time-outs are met to 10 ms. */
int way_host_fd(struct way_host *host); /* -1: there is none */
void way_host_run(struct way_host *host);
double way_host_timeout(struct way_host *host); /* seconds */

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
