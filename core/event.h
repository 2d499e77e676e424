/* event - what can go wrong, in words that C, Lua, log, metrics and console share.
 *
 * Enums with one text table each, and the structs that pass between the event loop and a
 * policy: the event (what happened), the mark, the retry and the probe (what a policy
 * answers). Pure data; nothing here owns memory. The words are those of the policy
 * contract, policies/README.md. */
#ifndef WAY_EVENT_H
#define WAY_EVENT_H

#include "base.h"

/* clang-format off */
/* Each list is X(NAME, "word"); WAY_NONE_OF is told by a NULL word. */
#define WAY_PHASES(X) X(CONNECT, "connect") X(WRITE, "write") X(READ, "read")
#define WAY_STEPS(X)                                                                     \
    X(ROUTE, "route") X(QUEUE, "queue") X(RESOLVE, "resolve") X(DIAL, "dial")            \
    X(TLS, "tls") X(HELLO, "hello") X(SEND, "send") X(WAIT, "wait") X(REPLY, "reply")
#define WAY_ERRORS(X)                                                                    \
    X(NONE, NULL) X(REFUSED, "refused") X(TIMEOUT, "timeout") X(RESET, "reset")          \
    X(EOF, "eof") X(UNREACHABLE, "unreachable") X(DNS, "dns") X(TLS, "tls")              \
    X(AUTH, "auth") X(PROTOCOL, "protocol") X(OVERFLOW, "overflow") X(SHED, "shed")      \
    X(NO_NODE, "no_node") X(CANCELLED, "cancelled") X(DEADLINE, "deadline")              \
    X(REPLY, "reply") X(CERTIFICATE, "certificate")
#define WAY_KINDS(X)                                                                     \
    X(CONNECTION, "connection") X(RESULT, "result") X(PROBE, "probe") X(EDGE, "edge")    \
    X(EXPIRY, "expiry") X(CHANGE, "change") X(COMMANDS, "commands") X(TICK, "tick")
#define WAY_BLAMES(X)                                                                    \
    X(NONE, "none") X(NODE, "node") X(CONNECTION, "connection") X(ROUTE, "route")        \
    X(CONFIG, "config") X(HOST, "host") X(CALLER, "caller")
/* Built-in classes with their blame; a policy may add more behind WAY_CLASS_BUILTIN. */
#define WAY_CLASSES(X)                                                                   \
    X(OK, "ok", NONE) X(DOWN, "down", NODE) X(SLOW, "slow", NODE) X(BUSY, "busy", NODE)  \
    X(NOT_READY, "not_ready", NODE) X(STALE_CONNECTION, "stale_connection", CONNECTION)  \
    X(STALE_ROUTE, "stale_route", ROUTE) X(AGAIN, "again", ROUTE)                        \
    X(CONFIG, "config", CONFIG) X(LOCAL, "local", HOST) X(CALLER, "caller", CALLER)      \
    X(ANSWER, "answer", NONE) X(IGNORE, "ignore", NONE)
#define WAY_CERTAINTIES(X)                                                               \
    X(UNSENT, "unsent") X(UNKNOWN, "unknown") X(ANSWERED, "answered")
#define WAY_COMMAND_KINDS(X)                                                             \
    X(READS, "reads") X(WRITES, "writes") X(TRANSACTION, "transaction")
#define WAY_STATES(X)                                                                    \
    X(HEALTHY, "healthy") X(SUSPECT, "suspect") X(FAILING, "failing")                    \
    X(PROBING, "probing") X(DRAINING, "draining")
#define WAY_ROLES(X) X(MASTER, "master") X(REPLICA, "replica")
#define WAY_CHANGES(X) X(ADDED, "added") X(ROLE, "role") X(ADDRESS, "address")
#define WAY_RETRIES(X)                                                                   \
    X(NONE, NULL) X(OTHER, "other") X(SAME, "same") X(MASTER, "master") X(HOLD, "hold")
#define WAY_CONNECTIONS(X) X(KEEP, "keep") X(DRAIN, "drain") X(DROP, "drop")
/* Why a policy did not answer a question; NONE: it did. */
#define WAY_CAUSES(X)                                                                    \
    X(NONE, NULL) X(ERROR, "error") X(BUDGET, "budget") X(DEADLINE, "deadline")          \
    X(MEMORY, "memory") X(ANSWER, "answer") X(ASIDE, "aside") X(ABSENT, "absent")

/* clang-format on */
#define WAY_ENUM_PHASE(N, w) WAY_PHASE_##N,
#define WAY_ENUM_STEP(N, w) WAY_STEP_##N,
#define WAY_ENUM_ERROR(N, w) WAY_ERROR_##N,
#define WAY_ENUM_KIND(N, w) WAY_KIND_##N,
#define WAY_ENUM_BLAME(N, w) WAY_BLAME_##N,
#define WAY_ENUM_CLASS(N, w, b) WAY_CLASS_##N,
#define WAY_ENUM_CERTAINTY(N, w) WAY_CERTAINTY_##N,
#define WAY_ENUM_COMMANDS(N, w) WAY_COMMANDS_##N,
#define WAY_ENUM_STATE(N, w) WAY_STATE_##N,
#define WAY_ENUM_ROLE(N, w) WAY_ROLE_##N,
#define WAY_ENUM_CHANGE(N, w) WAY_CHANGE_##N,
#define WAY_ENUM_RETRY(N, w) WAY_RETRY_##N,
#define WAY_ENUM_CONNECTIONS(N, w) WAY_CONNECTIONS_##N,
#define WAY_ENUM_CAUSE(N, w) WAY_CAUSE_##N,
enum way_phase { WAY_PHASES(WAY_ENUM_PHASE) WAY_PHASE_COUNT };
enum way_step { WAY_STEPS(WAY_ENUM_STEP) WAY_STEP_COUNT };
enum way_error { WAY_ERRORS(WAY_ENUM_ERROR) WAY_ERROR_COUNT };
enum way_kind { WAY_KINDS(WAY_ENUM_KIND) WAY_KIND_COUNT };
enum way_blame { WAY_BLAMES(WAY_ENUM_BLAME) WAY_BLAME_COUNT };
enum way_class { WAY_CLASSES(WAY_ENUM_CLASS) WAY_CLASS_BUILTIN };
enum way_certainty { WAY_CERTAINTIES(WAY_ENUM_CERTAINTY) WAY_CERTAINTY_COUNT };
enum way_commands { WAY_COMMAND_KINDS(WAY_ENUM_COMMANDS) WAY_COMMANDS_COUNT };
enum way_state { WAY_STATES(WAY_ENUM_STATE) WAY_STATE_COUNT };
enum way_role { WAY_ROLES(WAY_ENUM_ROLE) WAY_ROLE_COUNT };
enum way_change { WAY_CHANGES(WAY_ENUM_CHANGE) WAY_CHANGE_COUNT };
enum way_retry_kind { WAY_RETRIES(WAY_ENUM_RETRY) WAY_RETRY_COUNT };
enum way_connections { WAY_CONNECTIONS(WAY_ENUM_CONNECTIONS) WAY_CONNECTIONS_COUNT };
enum way_cause { WAY_CAUSES(WAY_ENUM_CAUSE) WAY_CAUSE_COUNT };

/* The word of a value, "?" if there is none; never NULL. */
const char *way_phase_name(unsigned v);
const char *way_step_name(unsigned v);
const char *way_error_name(unsigned v); /* "none" for WAY_ERROR_NONE */
const char *way_kind_name(unsigned v);
const char *way_blame_name(unsigned v);
const char *way_class_name(unsigned v); /* built-in ones; a policy's own: its plan */
enum way_blame way_class_blame(unsigned builtin_class);
const char *way_certainty_name(unsigned v);
const char *way_commands_name(unsigned v);
const char *way_state_name(unsigned v);
const char *way_role_name(unsigned v);
const char *way_change_name(unsigned v);
const char *way_retry_name(unsigned v); /* "none" for WAY_RETRY_NONE */
const char *way_connections_name(unsigned v);
const char *way_cause_name(unsigned v); /* "none" for WAY_CAUSE_NONE */
/* The value of a word in one of the tables above, -1 if unknown: pass its name function
 * and count, as in way_word(way_state_name, WAY_STATE_COUNT, "failing"). */
int way_word(const char *(*name)(unsigned), unsigned count, const char *word);

enum {
    WAY_REASON_MAX = 32,
    WAY_MESSAGE_MAX = 128,
    WAY_REPLY_MAX = 24,
    WAY_COUNTER_NAME = 24,
};

/* How a shadow of the policy in charge classes an event: shadow.h. */
struct way_classed {
    uint32_t by; /* which shadow; 0: none */
    uint8_t class, blame;
    bool permanent;
};

/* What happened. Seconds everywhere; `now` and `began` on the monotonic clock. Which
 * fields mean something depends on kind; the others are zero. */
struct way_event {
    enum way_kind kind;
    enum way_phase phase;
    enum way_step step;
    enum way_error error;          /* NONE: nothing failed */
    int errnum;                    /* errno, or 0 */
    char message[WAY_MESSAGE_MAX]; /* the system's or the server's words */
    char reply[WAY_REPLY_MAX];     /* an error reply's first word */
    uint8_t class;                 /* enum way_class, or a policy's own */
    uint64_t classed; /* private to decide: by which policy, 0: by the host */
    enum way_blame blame;
    bool permanent; /* straight to the client, backoff is not asked */
    uint32_t n;     /* commands concerned */
    bool reused;
    bool trial;
    double connection_age;
    uint64_t bytes_written; /* of what is in flight */
    uint32_t replies_read;
    double began, now, unix_time;
    double latency;
    uint32_t attempt;
    enum way_commands commands;
    enum way_certainty certainty;
    bool has_certainty;
    double age, waited;
    double deadline_left; /* < 0: nil */
    enum way_change change;
    char counter[WAY_COUNTER_NAME]; /* of an edge: whose */
    struct way_span answer; /* a probe's reply, raw RESP; valid during the call only */
    double late;
    bool watched;                 /* a success that only `watch` wants to hear of */
    struct way_classed shadow[2]; /* private to shadow */
};

/* How `mark` answers; only what `has` names was given. */
enum way_mark_field {
    WAY_MARK_STATE = 1 << 0,
    WAY_MARK_SECONDS = 1 << 1,
    WAY_MARK_TRIALS = 1 << 2,
    WAY_MARK_WEIGHT = 1 << 3,
    WAY_MARK_RAMP = 1 << 4,
    WAY_MARK_SHED = 1 << 5,
    WAY_MARK_CONNECTIONS = 1 << 6,
    WAY_MARK_REFRESH = 1 << 7,
    WAY_MARK_REASON = 1 << 8,
};
struct way_mark {
    bool given;   /* false: nil, no change */
    unsigned has; /* enum way_mark_field */
    enum way_state state;
    double seconds;
    uint32_t trials;
    double weight, ramp, shed;
    enum way_connections connections;
    bool refresh;
    char reason[WAY_REASON_MAX];
};

/* How `backoff` answers. */
struct way_retry {
    enum way_retry_kind kind; /* NONE: nil, the client gets the error */
    double after;
    double within; /* with hold; < 0: not given */
    double over;   /* a hold whose time has been over for so long: kind is NONE. What is
                      younger than the policy was told may have some left */
    bool stale_reads;
    bool unknown_writes;
};

/* How `probe` answers. */
struct way_probe {
    bool given; /* false: nil, no probe */
    double after;
    double timeout; /* 0: not given, the host's default */
    bool pooled;
    unsigned words;    /* 0: "data", a read of a key in one of the node's slots */
    char command[256]; /* words, each ended by NUL */
};

/* How `reconnect` answers: after and timeout (0: not given) for the next dial. */
struct way_redial {
    bool given;
    double after, timeout;
};

/* Evidence that lets `failing` hold on the last node that serves: a connect phase that
 * failed, a failed probe, a read deadline with no byte received. */
bool way_event_hard(const struct way_event *e);

/* Is it for `mark`, by its class? Of failures, what blames the node; a probe's error reply
 * too where it is the answer. */
bool way_event_for_mark(const struct way_event *e);
/* It began before the node's state last changed: of a fault that is known already. */
bool way_event_straggles(const struct way_event *e, double since);

/* What mark is asked about a counter that reached its edge: no error, and soft evidence. */
struct way_event way_event_of_edge(const char *counter, double now);

/* The class, blame and permanence that hold where no row of a policy matches. */
void way_event_classify_default(struct way_event *e);

#endif
