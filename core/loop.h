/* loop - one libev loop and what a thread hangs on it.
 *
 * One source of "now" per pass, so that decisions of one pass agree. Work of a pass is
 * batched: who has bytes to write puts a task on the loop, and all tasks run at the pass's
 * end, in order, before the loop sleeps. Memory is reclaimed after that: a callback may
 * close whatever it likes, nothing is freed under a caller's feet. A loop belongs to one
 * thread; only way_loop_wake and way_loop_stop may be called from others. */
#ifndef WAY_LOOP_H
#define WAY_LOOP_H

#include "base.h"

#include <ev.h>
#include <sys/types.h>

/* Embedded in what it serves; zeroed is ready. Queued at most once. */
struct way_task {
    struct way_task *next;           /* private */
    bool queued;                     /* ro */
    void (*run)(struct way_task *t); /* set once by the owner */
};

enum { WAY_SCRATCH_BYTES = 65536, WAY_BLOCK_BYTES = 16384 };

struct way_loop {
    struct ev_loop *ev; /* ro */
    double now;         /* ro: monotonic seconds of this pass */
    char *scratch;      /* rw: WAY_SCRATCH_BYTES to read into; free between callbacks */
    void *owner;        /* rw: of who runs the loop */
    void (*woken)(struct way_loop *l); /* rw: after way_loop_wake, in the loop's thread */
    void (*passed)(struct way_loop *l); /* rw: once per pass before the tasks; may be
                                           NULL */
    /* private: */
    struct way_task *tasks, **tasks_end;
    struct way_reclaim *reclaims;
    void *blocks;
    unsigned block_count;
    bool borrowed; /* ev is somebody else's */
    ev_prepare prepare;
    ev_check check;
    ev_async async, stop;
};

int way_loop_init(struct way_loop *l, struct way_err *err) WAY_MUST_CHECK;
/* On a loop that the caller made, runs and destroys: after way_loop_fini. */
void way_loop_adopt(struct way_loop *l, struct ev_loop *ev);
/* The end of a pass, for who works outside the loop's callbacks: tasks, reclaiming. */
void way_loop_pass(struct way_loop *l);
void way_loop_fini(struct way_loop *l);      /* runs what is to be reclaimed */
void way_loop_run(struct way_loop *l);       /* until way_loop_stop */
void way_loop_stop(struct way_loop *l);      /* any thread */
void way_loop_wake(struct way_loop *l);      /* any thread; wake-ups may fold into one */
double way_loop_refresh(struct way_loop *l); /* reads the clock anew: after long work */

/* At the end of this pass; a task queued by a task runs in the same pass. */
static inline void way_loop_later(struct way_loop *l, struct way_task *t)
{
    if (!t->queued) {
        t->queued = true;
        t->next = NULL;
        *l->tasks_end = t;
        l->tasks_end = &t->next;
    }
}
void way_loop_forget(struct way_loop *l, struct way_task *t); /* takes it off */

/* Calls free_it(p) after the pass's last task. */
void way_loop_reclaim(struct way_loop *l, void *p, void (*free_it)(void *p));

/* Buffers that are busy for moments only: a block of WAY_BLOCK_BYTES comes from the
 * loop's own list, last given first taken; one that grew is freed. */
void way_loop_borrow(struct way_loop *l, struct way_buf *b);
void way_loop_return(struct way_loop *l, struct way_buf *b); /* must hold nothing */

/* One read of a socket, behind what `rest` kept of the last one. A small rest is put before
 * the new bytes in the scratch, so that no buffer grows; a large one is read into itself.
 * Returns as recv does (EINTR aside); with > 0, `all` is what can be parsed now, and
 * way_loop_keep must follow: it keeps what is behind the first `took` bytes. */
ssize_t way_loop_receive(struct way_loop *l, int fd, struct way_buf *rest,
                         struct way_span *all);
void way_loop_keep(struct way_loop *l, struct way_buf *rest, struct way_span all,
                   size_t took);
/* The two halves of way_loop_receive, for who reads by other means: where bytes may be put,
 * and how many; then, with n > 0 of them there, what can be parsed now. */
size_t way_loop_room(struct way_loop *l, struct way_buf *rest, char **to);
struct way_span way_loop_received(struct way_loop *l, struct way_buf *rest, size_t n);

#endif
