/* loop - see loop.h.
 *
 * libev calls prepare before it sleeps and check after it woke. So a pass is: check (take
 * the time), callbacks, prepare (passed, tasks, reclaim). An idle watcher would have made
 * the loop spin; a timer per connection would have cost a system call each. */
#include "loop.h"

#include <errno.h>
#include <sys/socket.h>

struct way_reclaim {
    struct way_reclaim *next;
    void *p;
    void (*free_it)(void *p);
};

struct block {
    struct block *next;
};
enum { BLOCKS_KEPT = 64 };

static void take_time(struct way_loop *l)
{
    l->now = way_clock();
}

double way_loop_refresh(struct way_loop *l)
{
    take_time(l);
    ev_now_update(l->ev); /* timers count from libev's time */
    return l->now;
}

static void on_check(struct ev_loop *ev, ev_check *w, int events)
{
    (void)ev, (void)events;
    take_time(way_container(w, struct way_loop, check));
}

static void run_tasks(struct way_loop *l)
{
    while (l->tasks) {
        struct way_task *t = l->tasks;
        l->tasks = t->next;
        if (!l->tasks)
            l->tasks_end = &l->tasks;
        t->next = NULL;
        t->queued = false;
        t->run(t);
    }
}

static void reclaim_all(struct way_loop *l)
{
    while (l->reclaims) {
        struct way_reclaim *r = l->reclaims;
        l->reclaims = r->next;
        r->free_it(r->p);
        way_free(r);
    }
}

void way_loop_pass(struct way_loop *l)
{
    if (l->passed)
        l->passed(l);
    run_tasks(l);
    reclaim_all(l);
}

static void on_prepare(struct ev_loop *ev, ev_prepare *w, int events)
{
    (void)ev, (void)events;
    way_loop_pass(way_container(w, struct way_loop, prepare));
}

static void on_async(struct ev_loop *ev, ev_async *w, int events)
{
    (void)ev, (void)events;
    struct way_loop *l = way_container(w, struct way_loop, async);
    if (l->woken)
        l->woken(l);
}

static void on_stop(struct ev_loop *ev, ev_async *w, int events)
{
    (void)w, (void)events;
    ev_break(ev, EVBREAK_ALL);
}

static void set_up(struct way_loop *l)
{
    l->tasks_end = &l->tasks;
    l->scratch = way_alloc(WAY_SCRATCH_BYTES);
    take_time(l);
    ev_prepare_init(&l->prepare, on_prepare);
    ev_prepare_start(l->ev, &l->prepare);
    ev_check_init(&l->check, on_check);
    ev_set_priority(&l->check, EV_MAXPRI);
    ev_check_start(l->ev, &l->check);
    ev_async_init(&l->async, on_async);
    ev_async_start(l->ev, &l->async);
    ev_async_init(&l->stop, on_stop);
    ev_async_start(l->ev, &l->stop);
}

int way_loop_init(struct way_loop *l, struct way_err *err)
{
    *l = (struct way_loop){ .ev = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOSIGMASK) };
    if (!l->ev)
        return way_fail(err, "libev cannot make an event loop");
    set_up(l);
    return 0;
}

void way_loop_adopt(struct way_loop *l, struct ev_loop *ev)
{
    *l = (struct way_loop){ .ev = ev, .borrowed = true };
    set_up(l);
}

static void leave(struct way_loop *l)
{
    ev_prepare_stop(l->ev, &l->prepare);
    ev_check_stop(l->ev, &l->check);
    ev_async_stop(l->ev, &l->async);
    ev_async_stop(l->ev, &l->stop);
}

void way_loop_fini(struct way_loop *l)
{
    if (!l->ev)
        return;
    run_tasks(l);
    reclaim_all(l);
    while (l->blocks) {
        struct block *b = l->blocks;
        l->blocks = b->next;
        way_free(b);
    }
    way_free(l->scratch);
    if (l->borrowed)
        leave(l);
    else
        ev_loop_destroy(l->ev);
    l->ev = NULL;
}

void way_loop_run(struct way_loop *l)
{
    ev_run(l->ev, 0);
}

void way_loop_stop(struct way_loop *l)
{
    ev_async_send(l->ev, &l->stop);
}

void way_loop_wake(struct way_loop *l)
{
    ev_async_send(l->ev, &l->async);
}

void way_loop_forget(struct way_loop *l, struct way_task *t)
{
    if (!t->queued)
        return;
    struct way_task **at = &l->tasks;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    if (l->tasks_end == &t->next)
        l->tasks_end = at;
    t->queued = false;
}

void way_loop_reclaim(struct way_loop *l, void *p, void (*free_it)(void *p))
{
    struct way_reclaim *r = way_alloc(sizeof *r);
    *r = (struct way_reclaim){ .next = l->reclaims, .p = p, .free_it = free_it };
    l->reclaims = r;
}

void way_loop_borrow(struct way_loop *l, struct way_buf *b)
{
    struct block *block = l->blocks;
    if (block) {
        l->blocks = block->next;
        l->block_count--;
    } else {
        block = way_alloc(WAY_BLOCK_BYTES);
    }
    *b = (struct way_buf){ .p = (char *)block, .cap = WAY_BLOCK_BYTES };
}

void way_loop_return(struct way_loop *l, struct way_buf *b)
{
    if (!b->p)
        return;
    if (b->cap == WAY_BLOCK_BYTES && l->block_count < BLOCKS_KEPT) {
        struct block *block = (struct block *)b->p;
        block->next = l->blocks;
        l->blocks = block;
        l->block_count++;
    } else {
        way_free(b->p);
    }
    *b = (struct way_buf){ 0 };
}

size_t way_loop_room(struct way_loop *l, struct way_buf *rest, char **to)
{
    size_t held = way_buf_held(rest);
    if (held <= WAY_BLOCK_BYTES) {
        *to = l->scratch + held;
        return WAY_SCRATCH_BYTES - held;
    }
    way_buf_room(rest, WAY_SCRATCH_BYTES);
    *to = rest->p + rest->len;
    return rest->cap - rest->len;
}

struct way_span way_loop_received(struct way_loop *l, struct way_buf *rest, size_t n)
{
    size_t held = way_buf_held(rest);
    if (held > WAY_BLOCK_BYTES) {
        rest->len += n;
        return (struct way_span){ rest->p + rest->off, held + n };
    }
    if (held)
        memcpy(l->scratch, rest->p + rest->off, held);
    return (struct way_span){ l->scratch, held + n };
}

ssize_t way_loop_receive(struct way_loop *l, int fd, struct way_buf *rest,
                         struct way_span *all)
{
    char *to;
    size_t room = way_loop_room(l, rest, &to);
    ssize_t n;
    do {
        n = recv(fd, to, room, 0);
    } while (n < 0 && errno == EINTR);
    if (n > 0)
        *all = way_loop_received(l, rest, (size_t)n);
    return n;
}

void way_loop_keep(struct way_loop *l, struct way_buf *rest, struct way_span all,
                   size_t took)
{
    if (all.p != l->scratch) {
        rest->off += took;
    } else {
        way_buf_reset(rest);
        if (took < all.n && !rest->cap && all.n - took <= WAY_BLOCK_BYTES)
            way_loop_borrow(l, rest);
        if (took < all.n)
            way_buf_put(rest, all.p + took, all.n - took);
    }
    if (way_buf_held(rest) == 0) {
        way_buf_reset(rest);
        way_loop_return(l, rest);
    }
}
