/* cap_writes - a library to be preloaded, which bounds how many bytes send() accepts for one peer.
 *
 *     CAP_WRITES=FILE CAP_THREADS=PREFIX LD_PRELOAD=cap_writes.so program
 *
 * It holds for threads whose name begins with PREFIX (all, if it is not given). FILE becomes a mapping of one struct cap, that a test writes while the program runs
 * (caps.lua): what goes to a socket whose peer has that port is accepted as the rule says,
 * everything else as ever. The bytes that are accepted do go to the peer, so what a program
 * holds for sent can be compared with what its send() was told, to the byte. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct cap {
    uint32_t port;     /* the peer's; 0: no rule */
    uint32_t per_call; /* a call accepts so many bytes at most; 0: no bound */
    int64_t left;      /* so many are accepted in all; below 0: no bound */
    uint32_t failure;  /* errno of the calls after that */
    uint32_t times;    /* how many calls fail with it before the rule ends; 0: all */
    uint64_t accepted; /* bytes, by calls under the rule */
    uint64_t calls;
};

typedef ssize_t send_function(int fd, const void *bytes, size_t n, int flags);

static struct cap *cap;
static send_function *next_send;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CAP_WRITES");
    int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    next_send = (send_function *)dlsym(RTLD_NEXT, "send");
    if (fd < 0 || ftruncate(fd, sizeof *cap) < 0)
        return;
    void *p = mmap(NULL, sizeof *cap, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p != MAP_FAILED)
        cap = p;
}

static int is_thread_capped(void)
{
    static __thread int capped = -1;
    if (capped < 0) {
        char name[16] = "";
        const char *prefix = getenv("CAP_THREADS");
        prctl(PR_GET_NAME, name);
        capped = !prefix || strncmp(name, prefix, strlen(prefix)) == 0;
    }
    return capped;
}

static int is_capped(int fd)
{
    struct sockaddr_in peer = { 0 };
    socklen_t n = sizeof peer;
    if (!is_thread_capped())
        return 0;
    uint32_t port = cap ? __atomic_load_n(&cap->port, __ATOMIC_ACQUIRE) : 0;
    return port && getpeername(fd, (struct sockaddr *)&peer, &n) == 0 &&
           peer.sin_family == AF_INET && ntohs(peer.sin_port) == port;
}

/* No more is accepted: the call fails, and with the last of `times` the rule ends. */
static ssize_t fail(void)
{
    int errnum = (int)cap->failure;
    if (cap->times && --cap->times == 0)
        __atomic_store_n(&cap->port, 0, __ATOMIC_RELEASE);
    errno = errnum;
    return -1;
}

ssize_t send(int fd, const void *bytes, size_t n, int flags)
{
    if (!is_capped(fd))
        return next_send(fd, bytes, n, flags);
    cap->calls++;
    if (cap->left == 0)
        return fail();
    if (cap->per_call && n > cap->per_call)
        n = cap->per_call;
    if (cap->left > 0 && n > (uint64_t)cap->left)
        n = (size_t)cap->left;
    ssize_t accepted = next_send(fd, bytes, n, flags);
    if (accepted > 0) {
        cap->accepted += (uint64_t)accepted;
        if (cap->left > 0)
            cap->left -= accepted;
    }
    return accepted;
}
