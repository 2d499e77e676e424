/* spool - see spool.h.
 *
 * The queue is a journal ring (journal.h), so that handing over is a copy and no lock. A
 * change of policy travels beside it: a text made by the caller, under a mutex that is
 * taken once a reload, with the number of the entry before which it is to be written.
 *
 * The writer sleeps in poll(2) on an eventfd. Rejected: asynchronous I/O by libev's thread
 * pool (files are always "ready"), and writing from the control loop (a disk that hangs
 * for seconds would hold up probes and topology). */
#include "spool.h"

#include "log.h"
#include "jsonline.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

enum { QUEUE = 2048, HEADERS = 4, RETRY_MS = 1000, FAREWELL_MS = 1000 };

struct way_spool {
    struct way_spool_options o;
    struct way_ring *ring;
    uint64_t run;
    uint64_t put;   /* entries handed over; the caller's */
    bool put_since; /* a flush is due; the caller's */
    int wake;       /* eventfd */
    pthread_t thread;
    _Atomic bool ending, reopen;
    _Atomic uint64_t no_room, unwritten, written, rotations;

    pthread_mutex_t lock; /* of what follows */
    struct header {
        struct way_buf first, change; /* as header of a file, as a line within one */
        uint64_t before;              /* the entry before which it holds */
    } header[HEADERS];
    unsigned headers; /* the first is in charge of what is being written */

    /* the writer's */
    int fd; /* -1: none */
    struct stat identity;
    double tried; /* to open it, last */
    uint64_t bytes, taken;
    bool headed;    /* the file that is open has a header of ours */
    bool announced; /* this policy has a line in this file */
    struct way_buf line;
    struct way_gate gate;
};

/* ---- the file ---- */

static void complain(struct way_spool *s, const char *what, const char *file)
{
    int e = errno;
    if (way_gate_open(&s->gate, way_clock(), 2))
        way_log(WAY_ERROR, "journal=%s %s=\"%s\" lost=%llu", file, what, strerror(e),
                (unsigned long long)atomic_load(&s->unwritten));
}

static void close_file(struct way_spool *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->bytes = 0;
}

/* The whole line or nothing: what was written of it is cut off. */
static bool write_line(struct way_spool *s, const struct way_buf *line)
{
    size_t n = way_buf_held(line), at = 0;
    while (at < n) {
        ssize_t w = write(s->fd, line->p + line->off + at, n - at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            break;
        at += (size_t)w;
    }
    if (at == n) {
        s->bytes += n;
        return true;
    }
    complain(s, "write", s->o.file);
    if (at && ftruncate(s->fd, (off_t)s->bytes) != 0)
        close_file(s); /* a half line stays: whoever reads it counts it as bad */
    return false;
}

/* A line that a crash cut short would run into the next one. */
static void end_last_line(struct way_spool *s)
{
    char last;
    if (s->bytes && pread(s->fd, &last, 1, (off_t)s->bytes - 1) == 1 && last != '\n' &&
        write(s->fd, "\n", 1) == 1)
        s->bytes++;
}

static bool open_file(struct way_spool *s)
{
    double now = way_clock();
    if (s->tried && now - s->tried < RETRY_MS / 1e3)
        return false;
    s->tried = now;
    s->fd = open(s->o.file,
                 O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
    if (s->fd < 0 || fstat(s->fd, &s->identity) < 0) {
        complain(s, "open", s->o.file);
        close_file(s);
        return false;
    }
    if (!S_ISREG(s->identity.st_mode)) {
        errno = EINVAL;
        complain(s, "not_a_file", s->o.file);
        close_file(s);
        return false;
    }
    s->bytes = (uint64_t)s->identity.st_size;
    s->tried = 0;
    s->announced = s->headed = false;
    end_last_line(s);
    return true;
}

static void numbered(const struct way_spool *s, unsigned number, char *out, size_t n)
{
    if (number)
        snprintf(out, n, "%s.%u", s->o.file, number);
    else
        snprintf(out, n, "%s", s->o.file);
}

/* FILE becomes FILE.1, FILE.1 FILE.2, ...; beyond `keep` it goes. */
static void rotate(struct way_spool *s)
{
    char from[4096], to[4096];
    unsigned keep = (unsigned)s->o.keep;
    close_file(s);
    if (!keep)
        unlink(s->o.file);
    for (unsigned i = keep; i > 0; i--) {
        numbered(s, i - 1, from, sizeof from);
        numbered(s, i, to, sizeof to);
        if (rename(from, to) < 0 && errno != ENOENT)
            complain(s, "rotate", from);
    }
    atomic_fetch_add_explicit(&s->rotations, 1, memory_order_relaxed);
}

/* Somebody else moved or removed the file. */
static bool is_moved(const struct way_spool *s)
{
    struct stat now;
    return stat(s->o.file, &now) < 0 || now.st_ino != s->identity.st_ino ||
           now.st_dev != s->identity.st_dev;
}

/* ---- what is written ---- */

/* The line that says who is in charge of the entries to come. */
static bool announce(struct way_spool *s)
{
    if (s->announced)
        return true;
    pthread_mutex_lock(&s->lock);
    struct header *h = s->headers ? &s->header[0] : NULL;
    way_buf_reset(&s->line);
    if (h) {
        const struct way_buf *from = s->headed ? &h->change : &h->first;
        way_buf_put(&s->line, from->p + from->off, way_buf_held(from));
    }
    pthread_mutex_unlock(&s->lock);
    s->announced = way_buf_held(&s->line) && write_line(s, &s->line);
    s->headed = s->headed || s->announced;
    return s->announced;
}

/* The policy that is in charge of the next entry becomes the first. */
static void follow_policy(struct way_spool *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->headers > 1 && s->header[1].before <= s->taken) {
        struct header old = s->header[0];
        memmove(s->header, s->header + 1, (HEADERS - 1) * sizeof *s->header);
        s->header[HEADERS - 1] = old;
        way_buf_reset(&s->header[HEADERS - 1].first);
        way_buf_reset(&s->header[HEADERS - 1].change);
        s->headers--;
        s->announced = false;
    }
    pthread_mutex_unlock(&s->lock);
}

static bool ready(struct way_spool *s)
{
    if (s->fd >= 0 && s->bytes >= s->o.max_bytes)
        rotate(s);
    return (s->fd >= 0 || open_file(s)) && announce(s);
}

static void write_entry(struct way_spool *s, const struct way_entry *e)
{
    follow_policy(s);
    s->taken++;
    bool written = ready(s);
    if (written) {
        way_buf_reset(&s->line);
        way_jsonline_entry(&s->line, e);
        written = write_line(s, &s->line);
    }
    atomic_fetch_add_explicit(written ? &s->written : &s->unwritten, 1,
                              memory_order_relaxed);
}

/* Until the queue is empty, or its time is over. */
static void write_queue(struct way_spool *s, double until)
{
    const struct way_entry *e;
    while ((e = way_ring_peek(s->ring)) && way_clock() < until) {
        write_entry(s, e);
        way_ring_pop(s->ring);
    }
    way_buf_trim(&s->line, 0);
}

static void look_at_file(struct way_spool *s)
{
    bool reopen = atomic_exchange(&s->reopen, false);
    if (s->fd >= 0 && (reopen || is_moved(s)))
        close_file(s);
    if (reopen)
        s->tried = 0;
    follow_policy(s);
    (void)ready(s); /* a file is there, with its header, before the first failure is */
}

static void *run_writer(void *arg)
{
    struct way_spool *s = arg;
    struct pollfd p = { .fd = s->wake, .events = POLLIN };
    pthread_setname_np(pthread_self(), "journal");
    while (!atomic_load(&s->ending)) {
        uint64_t count;
        look_at_file(s);
        write_queue(s, way_clock() + 1);
        if (!way_ring_peek(s->ring))
            poll(&p, 1, RETRY_MS);
        if (read(s->wake, &count, sizeof count) < 0 && errno != EAGAIN)
            complain(s, "eventfd", s->o.file);
    }
    follow_policy(s);
    write_queue(s, way_clock() + FAREWELL_MS / 1e3);
    close_file(s);
    return NULL;
}

/* ---- life ---- */

int way_spool_new(struct way_spool **out, const struct way_spool_options *o,
                  struct way_err *err)
{
    struct way_spool *s = way_zalloc(sizeof *s);
    s->o = *o;
    s->fd = -1;
    struct way_random random;
    way_random_seed(&random, 0);
    s->run = way_random_next(&random);
    s->ring = way_ring_new(QUEUE);
    pthread_mutex_init(&s->lock, NULL);
    s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int e = s->wake < 0 ? errno : pthread_create(&s->thread, NULL, run_writer, s);
    if (!e) {
        *out = s;
        return 0;
    }
    if (s->wake >= 0)
        close(s->wake);
    way_ring_free(s->ring);
    way_free(s);
    return way_fail(err, "journal %s: no thread to write it: %s", o->file, strerror(e));
}

static void wake(struct way_spool *s)
{
    uint64_t one = 1;
    ssize_t n = write(s->wake, &one, sizeof one);
    (void)n; /* full: it is awake */
}

void way_spool_free(struct way_spool *s)
{
    if (!s)
        return;
    atomic_store(&s->ending, true);
    wake(s);
    pthread_join(s->thread, NULL);
    close(s->wake);
    for (unsigned i = 0; i < HEADERS; i++) {
        way_buf_fini(&s->header[i].first);
        way_buf_fini(&s->header[i].change);
    }
    way_buf_fini(&s->line);
    way_ring_free(s->ring);
    pthread_mutex_destroy(&s->lock);
    way_free(s);
}

void way_spool_policy(struct way_spool *s, const struct way_plan *plan,
                      const struct way_policy_text *text, double now)
{
    double unix_time = way_unix();
    pthread_mutex_lock(&s->lock);
    if (s->headers == HEADERS) /* reloads faster than the disk: the newest counts */
        s->headers--;
    struct header *h = &s->header[s->headers++];
    way_buf_reset(&h->first);
    way_buf_reset(&h->change);
    way_jsonline_policy(&h->first, s->o.wayside, s->run, plan, text, now, unix_time);
    way_jsonline_policy(&h->change, NULL, s->run, plan, text, now, unix_time);
    h->before = s->put;
    pthread_mutex_unlock(&s->lock);
    wake(s);
}

void way_spool_put(struct way_spool *s, const struct way_entry *e)
{
    if (!way_ring_put(s->ring, e)) {
        atomic_fetch_add_explicit(&s->no_room, 1, memory_order_relaxed);
        return;
    }
    s->put++;
    s->put_since = true;
}

void way_spool_flush(struct way_spool *s)
{
    if (s->put_since)
        wake(s);
    s->put_since = false;
}

void way_spool_reopen(struct way_spool *s)
{
    atomic_store(&s->reopen, true);
    wake(s);
}

void way_spool_counts(const struct way_spool *s, struct way_spool_counts *out)
{
    *out = (struct way_spool_counts){ .written = atomic_load(&s->written),
                                      .no_room = atomic_load(&s->no_room),
                                      .unwritten = atomic_load(&s->unwritten),
                                      .rotations = atomic_load(&s->rotations) };
}
