/* command - what is known of each Redis command: its keys, whether it writes, and how we
 * serve it.
 *
 * An allow-list: what is not in it, or in it as refused, never reaches a connection that
 * clients share. The table is const, its index is built once by way_command_init() before
 * any thread starts. */
#ifndef WAY_COMMAND_H
#define WAY_COMMAND_H

#include "base.h"
#include "resp.h"

enum way_command_how {
    WAY_HOW_FORWARD, /* to the node of its keys' slot; all keys must be of one slot */
    WAY_HOW_SPLIT,   /* over the slots of its keys, replies joined: see join */
    WAY_HOW_LOCAL,   /* wayside answers: see local */
    WAY_HOW_REFUSE,  /* not served; why says it in words */
};
enum way_command_join { WAY_JOIN_NONE, WAY_JOIN_ARRAY, WAY_JOIN_SUM, WAY_JOIN_OK };
enum way_command_local {
    WAY_LOCAL_NONE,
    WAY_LOCAL_PING,
    WAY_LOCAL_ECHO,
    WAY_LOCAL_HELLO,
    WAY_LOCAL_COMMAND,
    WAY_LOCAL_CLIENT,
    WAY_LOCAL_CONFIG,
    WAY_LOCAL_QUIT,
    WAY_LOCAL_INFO,
    WAY_LOCAL_SELECT,
    WAY_LOCAL_AUTH,
    WAY_LOCAL_RESET,
    WAY_LOCAL_MULTI, /* from here on: transaction.c */
    WAY_LOCAL_EXEC,
    WAY_LOCAL_DISCARD,
    WAY_LOCAL_WATCH,
    WAY_LOCAL_UNWATCH,
};
enum way_command_keyspec {
    WAY_KEYS_NONE,
    WAY_KEYS_RANGE,         /* first..last by step; last < 0 counts from the end */
    WAY_KEYS_NUMKEYS,       /* the argument at `first` says how many keys follow it */
    WAY_KEYS_STORE_NUMKEYS, /* argument 1 is a key, then as NUMKEYS (ZUNIONSTORE) */
    WAY_KEYS_STREAMS,   /* after the word STREAMS, the first half of the rest (XREAD) */
    WAY_KEYS_SORT,      /* argument 1, and the one behind each STORE */
    WAY_KEYS_GEORADIUS, /* argument 1, and the one behind each STORE or STOREDIST */
};

struct way_command {
    const char *name; /* lower case */
    int arity;        /* as COMMAND tells it: > 0 exact, < 0 at least, name included */
    bool write;       /* may change data: goes to the master, never blindly twice */
    bool by_args;     /* way_command_refused has to look at the arguments */
    uint8_t how, join, local, keyspec;
    int8_t first, last, step;
    const char *why; /* of REFUSE: "blocks the connection", ... NULL else */
};

void way_command_init(void);

/* By name, any case. NULL: unknown. */
const struct way_command *way_command_find(const char *name, size_t n);

/* The positions of a request's keys. p: the request's first byte; args as parsed. Calls
 * nothing: fills up to max positions and returns how many keys there are, 0 for none, -1
 * if the arguments are out of shape (numkeys not a number or too large, no STREAMS): the
 * text of err is what Redis would say, without "-". The fast case (RANGE) makes no
 * allocation; nor does any other. */
int way_command_keys(const struct way_command *c, const char *p,
                     const struct way_arg *arg, unsigned count, unsigned *position,
                     unsigned max, struct way_err *err);

/* The first key's position without the list, for commands of RANGE; else 0. An arity that
 * fits covers it. (OBJECT, MEMORY, XINFO and XGROUP tell -3 where Redis tells -2, so that
 * it does.) */
static inline unsigned way_command_first_key(const struct way_command *c)
{
    return c->keyspec == WAY_KEYS_RANGE ? (unsigned)c->first : 0;
}

/* -1 and Redis's words ("ERR wrong number of arguments ...") where count does not fit. */
int way_command_arity(const struct way_command *c, unsigned count, struct way_err *err);

/* -1 and Redis's words for a command that there is none of. */
int way_command_unknown(const char *p, const struct way_arg *arg, unsigned count,
                        struct way_err *err);

/* Appends the reply to PING or ECHO, whose arity fits. */
void way_command_echo(const struct way_command *c, const char *p,
                      const struct way_arg *arg, unsigned count, struct way_buf *out);

/* Refines what only the arguments tell: XREAD ... BLOCK, XREADGROUP ... BLOCK (refused),
 * BITFIELD with only GETs stays a write as in Redis; OBJECT HELP, XINFO HELP and such.
 * NULL: served as the table says; else why it is refused, to complete "wayside does not
 * serve 'NAME': ". Need not be asked where by_args is false and how is not REFUSE. */
const char *way_command_refused(const struct way_command *c, const char *p,
                                const struct way_arg *arg, unsigned count);

/* All commands, for COMMAND COUNT / COMMAND and the README's matrix. */
const struct way_command *way_command_at(unsigned i); /* NULL past the end */

#endif
