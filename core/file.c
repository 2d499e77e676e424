/* file - see file.h. Rejected: a lease on the file, which only its owner may take. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { READ_TRIES = 50, PAUSE_NS = 10 * 1000 * 1000 };

static bool same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           same_time(&a->st_mtim, &b->st_mtim) && same_time(&a->st_ctim, &b->st_ctim);
}

/* Reads what is there, at most `most` bytes; how many, or -1. */
static ssize_t read_all(int fd, char *p, size_t most)
{
    size_t n = 0;
    while (n < most) {
        ssize_t got = read(fd, p + n, most - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -1 : (ssize_t)n;
        n += (size_t)got;
    }
    return (ssize_t)n;
}

/* 1: the file rested while it was read; 0: it did not; -1: errno. What is no plain file has
 * no state to compare. */
static int read_open(int fd, const char *path, char *p, size_t most, size_t *n)
{
    struct stat before, after, named;
    ssize_t got;
    if (fstat(fd, &before) || (got = read_all(fd, p, most)) < 0 || fstat(fd, &after))
        return -1;
    *n = (size_t)got;
    if (!S_ISREG(before.st_mode))
        return 1;
    return same_file(&before, &after) && !stat(path, &named) &&
           same_file(&after, &named) && (*n == most || (off_t)*n == after.st_size);
}

static int read_once(const char *path, char *p, size_t most, size_t *n,
                     struct way_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : read_open(fd, path, p, most, n);
    if (rc < 0)
        way_fail(err, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

static int read_at_rest(const char *path, char *p, size_t most, size_t *n,
                        struct way_err *err)
{
    const struct timespec pause = { .tv_nsec = PAUSE_NS };
    for (int i = 0; i < READ_TRIES; i++) {
        int rc = read_once(path, p, most, n, err);
        if (rc)
            return rc > 0 ? 0 : -1;
        nanosleep(&pause, NULL);
    }
    return way_fail(err, "%s: it keeps changing while it is read", path);
}

int way_file_read(const char *path, size_t most, char **text, size_t *n,
                  struct way_err *err)
{
    char *p = way_alloc(most + 1);
    int rc = read_at_rest(path, p, most + 1, n, err);
    if (rc == 0 && *n > most)
        rc = way_fail(err, "%s: expected at most %zu bytes, got more", path, most);
    if (rc == 0)
        *text = way_strndup(p, *n);
    way_free(p);
    return rc;
}
