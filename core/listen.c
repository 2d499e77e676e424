/* listen - see listen.h.
 *
 * A unix socket gets its mode before it has a name: fchmod on a socket that is not bound
 * yet sets what bind gives the file. umask would have been seen by every thread, chmod
 * after bind leaves the file open for a moment. */
#include "listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { SOCKET_KIND = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC };

static const char *unix_path(const char *address)
{
    return !strncmp(address, "unix:", 5) ? address + 5 : NULL;
}

static int unix_address(const char *path, struct sockaddr_un *sa, struct way_err *err)
{
    *sa = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (!path[0] || strlen(path) >= sizeof sa->sun_path)
        return way_fail(err, "unix:%s: a socket's path has 1 to %zu bytes", path,
                        sizeof sa->sun_path - 1);
    memcpy(sa->sun_path, path, strlen(path) + 1);
    return 0;
}

/* Removes a socket's file that nobody listens on; 0 too if there is none. */
static int remove_stale(const struct sockaddr_un *sa, struct way_err *err)
{
    struct stat st;
    if (lstat(sa->sun_path, &st) < 0)
        return 0;
    if (!S_ISSOCK(st.st_mode))
        return way_fail(err, "unix:%s: is there and is no socket", sa->sun_path);
    int fd = socket(AF_UNIX, SOCKET_KIND, 0);
    bool live = fd >= 0 && (connect(fd, (const struct sockaddr *)sa, sizeof *sa) == 0 ||
                            errno == EAGAIN);
    if (fd >= 0)
        close(fd);
    if (live)
        return way_fail(err, "unix:%s: somebody else listens there", sa->sun_path);
    if (unlink(sa->sun_path) < 0)
        return way_fail(err, "unix:%s: %s", sa->sun_path, strerror(errno));
    return 0;
}

static int listen_unix(const char *path, unsigned mode, int backlog, struct way_err *err)
{
    struct sockaddr_un sa;
    if (unix_address(path, &sa, err) < 0 || remove_stale(&sa, err) < 0)
        return -1;
    int fd = socket(AF_UNIX, SOCKET_KIND, 0);
    if (fd < 0)
        return way_fail(err, "unix:%s: %s", path, strerror(errno));
    if (fchmod(fd, (mode_t)mode) < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 ||
        listen(fd, backlog) < 0) {
        way_fail(err, "unix:%s: %s", path, strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

static int listen_one(const struct addrinfo *ai, int backlog)
{
    int fd = socket(ai->ai_family, SOCKET_KIND, 0);
    if (fd < 0)
        return -1;
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, backlog) == 0)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

/* Splits at the last colon; brackets of IPv6 fall away. */
static int split(const char *address, char host[256], const char **port,
                 struct way_err *err)
{
    const char *colon = strrchr(address, ':');
    size_t n = colon ? (size_t)(colon - address) : 0;
    char *end;
    unsigned long number = colon ? strtoul(colon + 1, &end, 10) : 0;
    if (!colon || end == colon + 1 || *end || number > 65535 || n >= 256)
        return way_fail(err, "%s: expected host:port or unix:/path", address);
    if (n >= 2 && address[0] == '[' && address[n - 1] == ']') {
        address++;
        n -= 2;
    }
    memcpy(host, address, n);
    host[n] = 0;
    *port = colon + 1;
    return 0;
}

static int listen_tcp(const char *address, int backlog, struct way_err *err)
{
    char host[256] = "";
    const char *port = NULL;
    if (split(address, host, &port, err) < 0)
        return -1;
    bool all = !host[0] || !strcmp(host, "*");
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
    struct addrinfo *list = NULL;
    int bad = getaddrinfo(all ? NULL : host, port, &hints, &list);
    if (bad)
        return way_fail(err, "%s: %s", address, gai_strerror(bad));
    int fd = -1;
    for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
        fd = listen_one(ai, backlog);
    freeaddrinfo(list);
    if (fd < 0)
        return way_fail(err, "%s: %s", address, strerror(errno));
    return fd;
}

void way_listen_tune(int fd, const struct way_timeouts *t)
{
    int on = 1, idle = (int)t->keepalive_idle, every = (int)t->keepalive_interval;
    int count = (int)t->keepalive_count;
    unsigned user_ms = (unsigned)(t->tcp_user * 1000);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    if (user_ms)
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof user_ms);
}

int way_listen(const char *address, unsigned mode, int backlog, struct way_err *err)
{
    const char *path = unix_path(address);
    return path ? listen_unix(path, mode, backlog, err)
                : listen_tcp(address, backlog, err);
}

void way_listen_close(int fd, const char *address)
{
    if (fd < 0)
        return;
    close(fd);
    if (unix_path(address))
        unlink(unix_path(address));
}
