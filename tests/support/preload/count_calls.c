/* count_calls - a library to be preloaded, which counts what a success path must not do.
 *
 *     COUNT_CALLS=FILE LD_PRELOAD=count_calls.so program
 *
 * FILE becomes a mapping of rows, one per thread that ever called one of the functions
 * below: its thread id and how often it allocated, locked and called Lua. A row is written
 * by its thread alone, so plain additions are exact; who reads the file sees them at once.
 * counts.lua reads it. Waiting on a condition counts as a lock, too. Freeing is not
 * counted: each free had its allocation. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROWS = 256 };
enum what { ALLOCATIONS, LOCKS, LUA_CALLS, WHATS };
struct row {
    uint64_t tid;
    uint64_t count[WHATS];
};

struct lua_State;

/* glibc's own names for the functions that are replaced here. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t count, size_t n);
void *__libc_realloc(void *old, size_t n);
void *__libc_memalign(size_t align, size_t n);

void lua_call(struct lua_State *L, int args, int results);
int lua_pcall(struct lua_State *L, int args, int results, int handler);
int lua_cpcall(struct lua_State *L, int (*call)(struct lua_State *), void *arg);

static struct row *rows;
static unsigned used;
static __thread struct row *mine __attribute__((tls_model("initial-exec")));
static struct row spare; /* of threads beyond the last row, and before the mapping */

static void count(enum what what)
{
    if (!mine) {
        if (!rows)
            return;
        unsigned i = __atomic_fetch_add(&used, 1, __ATOMIC_RELAXED);
        mine = i < ROWS ? &rows[i] : &spare;
        mine->tid = (uint64_t)syscall(SYS_gettid);
    }
    mine->count[what]++;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("COUNT_CALLS");
    size_t size = ROWS * sizeof(struct row);
    int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        return;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p != MAP_FAILED)
        rows = p;
}

void *malloc(size_t n)
{
    count(ALLOCATIONS);
    return __libc_malloc(n);
}

void *calloc(size_t number, size_t n)
{
    count(ALLOCATIONS);
    return __libc_calloc(number, n);
}

void *realloc(void *old, size_t n)
{
    count(ALLOCATIONS);
    return __libc_realloc(old, n);
}

void *memalign(size_t align, size_t n)
{
    count(ALLOCATIONS);
    return __libc_memalign(align, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    return memalign(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
    *out = memalign(align, n);
    return *out ? 0 : ENOMEM;
}

/* What a function here stands before, found at its first call. */
#define REAL(type, name)                                                                 \
    static type real;                                                                    \
    if (!real)                                                                           \
    real = (type)(uintptr_t)dlsym(RTLD_NEXT, name)

typedef int (*mutex_fn)(pthread_mutex_t *);
typedef int (*timed_fn)(pthread_mutex_t *, const struct timespec *);
typedef int (*clock_fn)(pthread_mutex_t *, clockid_t, const struct timespec *);
typedef int (*rwlock_fn)(pthread_rwlock_t *);
typedef int (*spin_fn)(pthread_spinlock_t *);
typedef int (*cond_fn)(pthread_cond_t *, pthread_mutex_t *);

int pthread_mutex_lock(pthread_mutex_t *m)
{
    REAL(mutex_fn, "pthread_mutex_lock");
    count(LOCKS);
    return real(m);
}

int pthread_mutex_trylock(pthread_mutex_t *m)
{
    REAL(mutex_fn, "pthread_mutex_trylock");
    count(LOCKS);
    return real(m);
}

int pthread_mutex_timedlock(pthread_mutex_t *m, const struct timespec *until)
{
    REAL(timed_fn, "pthread_mutex_timedlock");
    count(LOCKS);
    return real(m, until);
}

int pthread_mutex_clocklock(pthread_mutex_t *m, clockid_t clock,
                            const struct timespec *until)
{
    REAL(clock_fn, "pthread_mutex_clocklock");
    count(LOCKS);
    return real(m, clock, until);
}

int pthread_rwlock_rdlock(pthread_rwlock_t *l)
{
    REAL(rwlock_fn, "pthread_rwlock_rdlock");
    count(LOCKS);
    return real(l);
}

int pthread_rwlock_wrlock(pthread_rwlock_t *l)
{
    REAL(rwlock_fn, "pthread_rwlock_wrlock");
    count(LOCKS);
    return real(l);
}

int pthread_spin_lock(pthread_spinlock_t *l)
{
    REAL(spin_fn, "pthread_spin_lock");
    count(LOCKS);
    return real(l);
}

int pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
    REAL(cond_fn, "pthread_cond_wait");
    count(LOCKS);
    return real(c, m);
}

typedef void (*call_fn)(struct lua_State *, int, int);
typedef int (*pcall_fn)(struct lua_State *, int, int, int);
typedef int (*cpcall_fn)(struct lua_State *, int (*)(struct lua_State *), void *);

void lua_call(struct lua_State *L, int args, int results)
{
    REAL(call_fn, "lua_call");
    count(LUA_CALLS);
    real(L, args, results);
}

int lua_pcall(struct lua_State *L, int args, int results, int handler)
{
    REAL(pcall_fn, "lua_pcall");
    count(LUA_CALLS);
    return real(L, args, results, handler);
}

int lua_cpcall(struct lua_State *L, int (*call)(struct lua_State *), void *arg)
{
    REAL(cpcall_fn, "lua_cpcall");
    count(LUA_CALLS);
    return real(L, call, arg);
}
