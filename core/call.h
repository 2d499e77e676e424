/* call - one pipeline of a program that has wayside inside: its commands, and the reply or
 * the error of each.
 *
 * Commands come in the form that Redis reads, and are served as a client's would be: those
 * for the nodes of their keys, in their order per slot. MULTI to EXEC is one request, over a
 * connection that nobody shares; PING and ECHO are answered here; WATCH and what only a
 * connection of one's own can do are refused in words. A call is over when all its
 * commands are answered, by a node or by an error. Owned by its user, who may end it at
 * any time: what is under way then is abandoned. */
#ifndef WAY_CALL_H
#define WAY_CALL_H

#include "inside.h"
#include "unit.h"

/* Why a command has no answer of a node's. */
struct way_fault {
    uint8_t error, phase, step, class, certainty, verdict; /* as way_request.last */
    uint16_t node;                                         /* WAY_NONE: none */
};

struct way_call {
    struct way_pipeline
        pipeline;              /* its owner is the call; pending: what is not answered */
    struct way_inside *inside; /* ro */
    unsigned count;            /* ro: commands added */
    double arrived;            /* ro */
    double total;              /* ro: seconds it may last */
    struct way_unit unit;      /* private: from MULTI on */
    struct way_request *multi; /* private: MULTI, unanswered until its EXEC; NULL: none */
    struct way_fault *fault;   /* private: [faults], NULL as long as none failed */
    unsigned faults;           /* private */
    size_t *end;               /* private: of each reply in pipeline.out */
    unsigned ends;             /* private: as many are known */
};

/* seconds: 0 or less: timeouts.total; never more than that. */
void way_call_init(struct way_call *c, struct way_inside *w, double seconds);
/* Ends it; its owner still sees no callback. */
void way_call_fini(struct way_call *c);

/* p[0..n): one command as a multi bulk (copied). What is no command is answered with an
 * error at once. */
void way_call_add(struct way_call *c, const char *p, size_t n);

/* No command follows: a MULTI that is still open is answered with an error. */
void way_call_seal(struct way_call *c);

static inline bool way_call_is_over(const struct way_call *c)
{
    return !c->pipeline.pending;
}
/* If the time is over, answers what waits with the error that it was told last, and what is
 * left then with the error `deadline`: true then. */
bool way_call_expire(struct way_call *c);

/* What is certain of the i-th command now, answered or not. */
enum way_certainty way_call_certainty(const struct way_call *c, unsigned i);

/* Of a call that is over: the reply to its i-th command as RESP2, valid until the call
 * ends. An error reply of wayside's own begins with "-WAYSIDE ". */
struct way_span way_call_reply(struct way_call *c, unsigned i);
/* NULL: a node answered it, or it was refused. Valid until the call ends. */
const struct way_fault *way_call_fault(const struct way_call *c, unsigned i);

#endif
