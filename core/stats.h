/* stats - counters of one thread, read by the control thread for metrics and INFO.
 *
 * Each counter has one writer, its thread; relaxed loads and stores, no locked
 * instruction. The list is the metrics' list: name, labels, help. */
#ifndef WAY_STATS_H
#define WAY_STATS_H

#include "base.h"

#include <stdatomic.h>

/* Functions in the order of enum way_asked_function, causes in that of
 * way_stat_of_failure: what a failure counts as is computed. */
#define WAY_STATS_OF_FUNCTION(X, F, function)                                            \
    WAY_STATS_OF_CAUSE(X, F##_ERROR, function, "error")                                  \
    WAY_STATS_OF_CAUSE(X, F##_BUDGET, function, "budget")                                \
    WAY_STATS_OF_CAUSE(X, F##_DEADLINE, function, "deadline")                            \
    WAY_STATS_OF_CAUSE(X, F##_MEMORY, function, "memory")                                \
    WAY_STATS_OF_CAUSE(X, F##_ANSWER, function, "answer")
#define WAY_STATS_OF_CAUSE(X, N, function, cause)                                        \
    X(POLICY_##N, "policy_errors_total",                                                 \
      "function=\"" function "\",cause=\"" cause "\"",                                   \
      "questions the policy failed to answer")

/* clang-format off */
/* X(NAME, metric, labels or "", help). Metrics of one name stand together. */
#define WAY_STATS(X)                                                                     \
    X(CLIENTS_TOTAL, "client_connections_total", "", "client connections accepted")      \
    X(CLIENTS_CLOSED, "client_disconnections_total", "", "client connections closed")    \
    X(REQUESTS, "requests_total", "", "commands read from clients")                      \
    X(REPLIES, "replies_total", "", "replies given to clients, errors included")         \
    X(LOCAL, "local_replies_total", "", "commands that wayside answered itself")         \
    X(REFUSED, "refused_commands_total", "", "commands that are not served")             \
    X(SPLIT, "split_commands_total", "", "commands split over slots")                    \
    X(BAD_REQUESTS, "protocol_errors_total", "", "clients closed for malformed RESP")    \
    X(ERR_UNSENT, "error_replies_total", "certainty=\"unsent\"",                         \
      "errors that clients got from wayside")                                            \
    X(ERR_UNKNOWN, "error_replies_total", "certainty=\"unknown\"", "")                   \
    X(ERR_ANSWERED, "error_replies_total", "certainty=\"answered\"", "")                 \
    X(RETRY_UNSENT, "retries_total", "certainty=\"unsent\"", "commands sent again")      \
    X(RETRY_UNKNOWN, "retries_total", "certainty=\"unknown\"", "")                       \
    X(RETRY_ANSWERED, "retries_total", "certainty=\"answered\"", "")                     \
    X(RETRY_BUDGET, "retries_refused_total", "limit=\"retry_share\"",                    \
      "retries refused by a limit")                                                      \
    X(RETRY_ATTEMPTS, "retries_refused_total", "limit=\"attempts\"", "")                 \
    X(RETRY_HELD, "retries_refused_total", "limit=\"held_bytes\"", "")                   \
    X(MOVED, "redirects_total", "kind=\"moved\"", "redirects followed")                  \
    X(ASK, "redirects_total", "kind=\"ask\"", "")                                        \
    X(HELD, "held_total", "", "commands held for a change of their shard")               \
    X(HELD_TOTAL, "held_expired_total", "", "holds cut short by the total time-out")     \
    X(OVERFLOW, "overflow_total", "", "commands refused by a node's in-flight limits")   \
    X(DIALS, "dials_total", "", "connections to nodes begun")                            \
    X(BREAKS, "breaks_total", "", "connections to nodes broken or not made")             \
    X(POLICY_CALLS, "policy_calls_total", "", "questions put to the policy")             \
    WAY_STATS_OF_FUNCTION(X, CLASSIFY, "classify")                                       \
    WAY_STATS_OF_FUNCTION(X, MARK, "mark")                                               \
    WAY_STATS_OF_FUNCTION(X, BACKOFF, "backoff")                                         \
    WAY_STATS_OF_FUNCTION(X, PROBE, "probe")                                             \
    WAY_STATS_OF_FUNCTION(X, RECONNECT, "reconnect")                                     \
    WAY_STATS_OF_FUNCTION(X, ROUTE, "route")                                             \
    WAY_STATS_OF_FUNCTION(X, TICK, "tick")                                               \
    X(FALLBACK, "policy_fallback_total", "", "questions the fallback answered")          \
    X(REFUSED_LAST, "marks_refused_total", "limit=\"guard\"",                             \
      "marks that a limit, or an operator's mark, bounded")                               \
    X(REFUSED_SHARE, "marks_refused_total", "limit=\"failing_share\"", "")               \
    X(REFUSED_OPERATOR, "marks_refused_total", "limit=\"operator\"", "")                 \
    X(ROUTES_REFUSED, "routes_refused_total", "",                                        \
      "writes that route wanted at another node than the master")                        \
    X(TICKS, "ticks_total", "", "sweeps over all nodes by the policy's tick")            \
    X(TICK_LEFT, "tick_nodes_left_total", "",                                            \
      "verdicts of a sweep left to the next one: the node changed meanwhile")            \
    X(COMMITS, "commits_total", "", "verdicts committed to the node table")              \
    X(CONFLICTS, "commit_conflicts_total", "", "questions asked again: the node changed")\
    X(JOURNAL_LOST, "journal_lost_total", "", "journal entries that found no room")      \
    X(SHADOW_ASKED, "shadow_questions_total", "", "questions put to a candidate")        \
    X(SHADOW_CLASSIFY, "shadow_disagreements_total", "function=\"classify\"",            \
      "answers of a candidate that differ from those of the policy in charge")           \
    X(SHADOW_MARK, "shadow_disagreements_total", "function=\"mark\"", "")                \
    X(SHADOW_BACKOFF, "shadow_disagreements_total", "function=\"backoff\"", "")          \
    X(SHADOW_PROBE, "shadow_disagreements_total", "function=\"probe\"", "")              \
    X(SHADOW_RECONNECT, "shadow_disagreements_total", "function=\"reconnect\"", "")      \
    X(SHADOW_ROUTE, "shadow_disagreements_total", "function=\"route\"", "")              \
    X(SHADOW_TICK, "shadow_disagreements_total", "function=\"tick\"", "")                \
    X(SHADOW_ERROR, "shadow_errors_total", "cause=\"error\"",                            \
      "questions that a candidate failed to answer")                                     \
    X(SHADOW_BUDGET, "shadow_errors_total", "cause=\"budget\"", "")                      \
    X(SHADOW_DEADLINE, "shadow_errors_total", "cause=\"deadline\"", "")                  \
    X(SHADOW_MEMORY, "shadow_errors_total", "cause=\"memory\"", "")                      \
    X(SHADOW_ANSWER, "shadow_errors_total", "cause=\"answer\"", "")                      \
    X(SHADOW_DROPPED, "shadow_dropped_total", "",                                        \
      "questions not put to a candidate: its nodes were being written")                               \
    X(RELOADS, "policy_reloads_total", "result=\"committed\"",                           \
      "policies and limits loaded anew while serving")                                   \
    X(RELOADS_REFUSED, "policy_reloads_total", "result=\"refused\"", "")                 \
    X(ROLLBACKS, "policy_rollbacks_total", "",                                           \
      "policies on probation that the one before them replaced")

/* clang-format on */
#define WAY_ENUM_STAT(N, metric, labels, help) WAY_STAT_##N,
enum way_stat { WAY_STATS(WAY_ENUM_STAT) WAY_STAT_COUNT };

struct way_stats {
    _Atomic uint64_t at[WAY_STAT_COUNT];
};

static inline void way_stat_add(struct way_stats *s, enum way_stat which, uint64_t n)
{
    uint64_t v = atomic_load_explicit(&s->at[which], memory_order_relaxed);
    atomic_store_explicit(&s->at[which], v + n, memory_order_relaxed);
}
static inline uint64_t way_stat_get(const struct way_stats *s, enum way_stat which)
{
    return atomic_load_explicit(&s->at[which], memory_order_relaxed);
}

/* What a policy's failure counts as: enum way_asked_function, and the words "error",
 * "budget", "deadline", "memory" or "answer". */
enum way_stat way_stat_of_failure(unsigned function, const char *cause);
enum { /* all of them */
       WAY_STAT_POLICY_FIRST = WAY_STAT_POLICY_CLASSIFY_ERROR,
       WAY_STAT_POLICY_LAST = WAY_STAT_POLICY_TICK_ANSWER,
};

struct way_stat_info {
    const char *metric, *labels, *help;
};
const struct way_stat_info *way_stat_info(unsigned i); /* NULL past the end */

#endif
