/* segment - see segment.h.
 *
 * Making and finding. A new segment is made whole under a name of its own and linked to the
 * name that was asked for, which fails if another process was quicker; then that one is
 * used. So nobody ever sees half a segment, and any number that start at once agree. One of
 * a former boot (nobody in it can live) is replaced by rename, by whoever holds its flock
 * and still finds it under the name. Rejected: O_EXCL on the final name with a "ready"
 * flag inside, which leaves a wedge behind when its maker is killed.
 *
 * Records. The writer fills the copy that does not count, then stores the version. A
 * reader takes the version, the words, and the version again. Words are stored with
 * release and loaded with acquire order: a reader that met a word of a later round must
 * then see that round's version, so that what is torn is told by the second look. (Fences
 * would do the same; thread sanitizers don't understand them, and on x86-64 both are
 * plain moves.) */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_BYTES = 4096 };
static const char magic[8] = { 'w', 'a', 'y', 's', 'e', 'g', '1', '\n' };

/* ---- records ---- */

uint64_t way_record_read(const _Atomic uint64_t *record, unsigned words, unsigned take,
                         void *out)
{
    for (;;) {
        uint64_t version = way_record_version(record);
        const _Atomic uint64_t *copy = record + 1 + (version & 1) * words;
        for (unsigned i = 0; i < take; i++) {
            uint64_t w = atomic_load_explicit(copy + i, memory_order_acquire);
            memcpy((char *)out + i * sizeof w, &w, sizeof w);
        }
        if (atomic_load_explicit(record, memory_order_relaxed) == version)
            return version;
    }
}

static bool has_nul(uint64_t w)
{
    return (w - 0x0101010101010101u) & ~w & 0x8080808080808080u;
}

void way_record_text(const _Atomic uint64_t *record, unsigned words, uint64_t version,
                     size_t offset, char *out, size_t bytes)
{
    const _Atomic uint64_t *copy =
        record + 1 + (version & 1) * words + offset / sizeof(uint64_t);
    for (size_t i = 0; i + sizeof(uint64_t) <= bytes; i += sizeof(uint64_t)) {
        uint64_t w = atomic_load_explicit(copy + i / sizeof w, memory_order_acquire);
        memcpy(out + i, &w, sizeof w);
        if (has_nul(w))
            return;
    }
}

void way_record_write(_Atomic uint64_t *record, unsigned words, uint64_t version,
                      const void *in)
{
    _Atomic uint64_t *copy = record + 1 + (version & 1) * words;
    for (unsigned i = 0; i < words; i++) {
        uint64_t w;
        memcpy(&w, (const char *)in + i * sizeof w, sizeof w);
        atomic_store_explicit(copy + i, w, memory_order_release);
    }
    atomic_store_explicit(record, version, memory_order_release);
}

void way_segment_zero(_Atomic uint64_t *words, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (atomic_load_explicit(words + i, memory_order_relaxed))
            atomic_store_explicit(words + i, 0, memory_order_relaxed);
}

/* ---- areas ---- */

void way_segment_layout_set(struct way_segment *s, unsigned area,
                            const struct way_layout *layout)
{
    uint64_t version = way_record_version(s->layout[area]);
    way_record_write(s->layout[area], WAY_LAYOUT_WORDS, version + 1, layout);
}

void way_segment_bundle_set(struct way_segment *s, unsigned area, struct way_span bundle)
{
    s->bundle_bytes[area] = 0; /* cut short, it is no bundle */
    if (bundle.n > sizeof s->bundle[area])
        return;
    if (bundle.n)
        memcpy(s->bundle[area], bundle.p, bundle.n);
    s->bundle_bytes[area] = (uint32_t)bundle.n;
}

void way_segment_fresh_node(struct way_segment *s, unsigned node, double now)
{
    struct way_own own;
    struct way_layout layout;
    uint64_t version = way_record_read(s->own[node], WAY_OWN_WORDS, WAY_OWN_WORDS, &own);
    uint64_t allotment = own.allotment + 1;
    uint32_t drops = own.verdict.drops;

    memset(&own, 0, sizeof own);
    own.allotment = allotment;
    own.verdict.drops = drops;
    own.verdict.since = now;
    own.verdict.weight = 1;
    for (unsigned area = 0; area < WAY_AREAS; area++) {
        way_segment_layout(s, area, &layout);
        memcpy(own.memory[area], layout.first.node, sizeof own.memory[area]);
    }
    way_record_write(s->own[node], WAY_OWN_WORDS, version + 1, &own);
    atomic_store_explicit(&s->node[node].failures, 0, memory_order_relaxed);
    atomic_store_explicit(&s->node[node].latency, 0, memory_order_relaxed);
    way_store_double(&s->aux[node].dial_at, 0);
    atomic_store_explicit(&s->aux[node].replication, 0, memory_order_relaxed);
    atomic_store_explicit(&s->aux[node].lease, 0, memory_order_relaxed);
    for (unsigned area = 0; area < WAY_AREAS; area++)
        way_segment_zero(s->tally[area].node[node], WAY_NODE_COUNTER_WORDS);
}

void way_segment_fresh_shard(struct way_segment *s, unsigned shard)
{
    double memory[WAY_AREAS][WAY_SHARD_MEMORY];
    struct way_layout layout;
    for (unsigned area = 0; area < WAY_AREAS; area++) {
        way_segment_layout(s, area, &layout);
        memcpy(memory[area], layout.first.shard, sizeof memory[area]);
    }
    uint64_t version = way_record_version(s->shard_memory[shard]);
    way_record_write(s->shard_memory[shard], WAY_SHARD_WORDS, version + 1, memory);
    for (unsigned area = 0; area < WAY_AREAS; area++)
        way_segment_zero(s->tally[area].shard[shard], WAY_SHARD_COUNTER_WORDS);
}

static void fresh_cluster(struct way_segment *s)
{
    double memory[WAY_AREAS][WAY_CLUSTER_MEMORY];
    struct way_layout layout;
    for (unsigned area = 0; area < WAY_AREAS; area++) {
        way_segment_layout(s, area, &layout);
        memcpy(memory[area], layout.first.cluster, sizeof memory[area]);
    }
    uint64_t version = way_record_version(s->cluster);
    way_record_write(s->cluster, WAY_CLUSTER_WORDS, version + 1, memory);
    for (unsigned area = 0; area < WAY_AREAS; area++)
        way_segment_zero(s->tally[area].cluster, WAY_CLUSTER_COUNTER_WORDS);
}

/* The new layout's hash goes in last: cut short, this is done again by who comes next. */
void way_segment_restart(struct way_segment *s, const struct way_layout *layout)
{
    unsigned area = way_segment_area(s);
    struct way_layout unfinished = *layout;
    uint64_t turn = atomic_load(&s->redo.turn);
    atomic_store(&s->redo.turn, turn + (turn & 1));
    unfinished.hash = 0;
    way_segment_layout_set(s, area, &unfinished);
    way_segment_bundle_set(s, area, (struct way_span){ 0 });
    atomic_store(&s->probation_epoch, 0);
    s->rollback_epoch = 0;
    unsigned nodes = atomic_load(&s->nodes), shards = atomic_load(&s->shards);
    for (unsigned n = 0; n < nodes; n++) {
        unsigned life = atomic_load(&s->aux[n].life);
        way_segment_fresh_node(s, n, 0);
        atomic_store(&s->node[n].route,
                     life == WAY_LIFE_FREE || life == WAY_LIFE_GONE ? WAY_ROUTE_GONE : 0);
    }
    for (unsigned i = 0; i < shards; i++)
        way_segment_fresh_shard(s, i);
    fresh_cluster(s);
    atomic_fetch_add(&s->epoch, 1);
    way_segment_layout_set(s, area, layout);
}

/* ---- owners ---- */

/* Field 22 of /proc/PID/stat, the start time in ticks since boot; 0 if there is no such
 * process, or only what its parent has not yet asked for. */
static uint64_t started_at(unsigned pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    char *p = strrchr(text, ')'); /* the name before it may hold anything */
    if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X')
        return 0;
    p += 2;
    for (int field = 3; field < 22; field++) {
        p = strchr(p, ' ');
        if (!p)
            return 0;
        p++;
    }
    return strtoull(p, NULL, 10);
}

/* 22 bits hold the largest pid; 42 bits of ticks are more than a thousand years. */
enum { START_BITS = 42 };
#define START_MASK (((uint64_t)1 << START_BITS) - 1)

uint64_t way_owner_self(void)
{
    unsigned pid = (unsigned)getpid();
    return (uint64_t)pid << START_BITS | (started_at(pid) & START_MASK);
}

bool way_owner_alive(uint64_t owner)
{
    uint64_t start = owner ? started_at((unsigned)(owner >> START_BITS)) : 0;
    return start && (start & START_MASK) == (owner & START_MASK);
}

/* ---- making ---- */

static int read_boot(char out[40], struct way_err *err)
{
    const char *path = "/proc/sys/kernel/random/boot_id";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, 39);
    if (fd >= 0)
        close(fd);
    if (n < 36)
        return way_fail(err, "%s: can't be read: %s", path, strerror(errno));
    out[36] = 0;
    memset(out + 36, 0, 4);
    return 0;
}

static int stamp_fill(struct way_stamp *stamp, struct way_err *err)
{
    const uint32_t sizes[] = {
        sizeof(struct way_segment),
        sizeof(struct way_node),
        sizeof(struct way_shard),
        sizeof(struct way_aux),
        sizeof(struct way_own),
        sizeof(struct way_verdict),
        sizeof(struct way_identity),
        sizeof(struct way_redo),
        sizeof(struct way_cell),
        sizeof(struct way_layout),
        sizeof(pthread_mutex_t),
        WAY_STATE_COUNT,
        WAY_AREAS,
    };
    memset(stamp, 0, sizeof *stamp);
    memcpy(stamp->magic, magic, sizeof magic);
    _Static_assert(sizeof sizes == sizeof stamp->sizes, "one size for each");
    memcpy(stamp->sizes, sizes, sizeof sizes);
    return read_boot(stamp->boot, err);
}

/* A mutex that tells when its owner died, and works between processes. */
static int lock_init(pthread_mutex_t *lock, struct way_err *err)
{
    pthread_mutexattr_t attr;
    int rc = pthread_mutexattr_init(&attr);
    if (!rc)
        rc = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    if (!rc)
        rc = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    if (!rc)
        rc = pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
    return rc ? way_fail(err, "no robust mutex: %s", strerror(rc)) : 0;
}

/* s is zero. What zero does not mean, and only that, so that memory stays untouched. */
static int segment_init(struct way_segment *s, const struct way_layout *layout,
                        struct way_err *err)
{
    if (lock_init(&s->lock, err) || stamp_fill(&s->stamp, err))
        return -1;
    atomic_init(&s->policy_epoch, 1);
    way_segment_layout_set(s, way_segment_area(s), layout);
    for (unsigned i = 0; i < WAY_NODES_MAX; i++) {
        atomic_init(&s->node[i].route, WAY_ROUTE_GONE);
        atomic_init(&s->node[i].shard, WAY_NONE);
    }
    for (unsigned i = 0; i < WAY_SHARDS_MAX; i++)
        atomic_init(&s->shard[i].master, WAY_NONE);
    for (unsigned i = 0; i < WAY_SLOTS; i++)
        atomic_init(&s->slot[i], WAY_NONE);
    fresh_cluster(s);
    return 0;
}

static struct way_segment *map_fd(int fd, const char *path, struct way_err *err)
{
    int flags = MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0);
    void *p =
        mmap(NULL, sizeof(struct way_segment), PROT_READ | PROT_WRITE, flags, fd, 0);
    if (p != MAP_FAILED)
        return p;
    way_fail(err, "segment %s: can't be mapped: %s", path ? path : "(private)",
             strerror(errno));
    return NULL;
}

void way_segment_unmap(struct way_segment *s)
{
    munmap(s, sizeof *s);
}

/* Makes a whole segment in an empty file. Its blocks are taken now: a full disk found by
 * a later store would be a SIGBUS. */
static struct way_segment *make_in(int fd, const char *path,
                                   const struct way_layout *layout, struct way_err *err)
{
    int rc = posix_fallocate(fd, 0, (off_t)sizeof(struct way_segment));
    if (rc) {
        way_fail(err, "segment %s: no room for its %zu bytes: %s", path,
                 sizeof(struct way_segment), strerror(rc));
        return NULL;
    }
    struct way_segment *s = map_fd(fd, path, err);
    if (s && segment_init(s, layout, err)) {
        way_segment_unmap(s);
        return NULL;
    }
    return s;
}

/* Makes a new segment under a name of its own and puts it where path says: by link, or by
 * rename over one that is stale. 1: done; 0: another was quicker; -1 */
static int make(struct way_segment **out, const char *path, bool over,
                const struct way_layout *layout, struct way_err *err)
{
    char temp[NAME_BYTES];
    struct way_random r;
    way_random_seed(&r, 0);
    int n = snprintf(temp, sizeof temp, "%s.%d.%08x", path, (int)getpid(),
                     (unsigned)(way_random_next(&r) >> 32));
    if (n < 0 || (size_t)n >= sizeof temp)
        return way_fail(err, "segment %s: the name is too long", path);
    int fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return way_fail(err, "segment %s: can't be made: %s", path, strerror(errno));
    struct way_segment *s = make_in(fd, path, layout, err);
    int rc = -1;
    if (s && (over ? rename(temp, path) : link(temp, path)) == 0)
        rc = 1;
    else if (s && !over && errno == EEXIST)
        rc = 0;
    else if (s)
        way_fail(err, "segment %s: can't be put in place: %s", path, strerror(errno));
    if (!over || rc != 1)
        unlink(temp);
    if (s && rc != 1)
        way_segment_unmap(s);
    close(fd);
    if (rc == 1)
        *out = s;
    return rc;
}

/* ---- finding ---- */

/* A directory where others may put files could hold another's file under our name, and in
 * a sticky one (like /tmp) the kernel keeps even root from opening it. */
static int check_directory(const char *path, struct way_err *err)
{
    char dir[NAME_BYTES];
    size_t n = strlen(path);
    if (!n || n >= sizeof dir)
        return way_fail(err, "segment \"%s\": no usable name", path);
    memcpy(dir, path, n + 1);
    char *slash = strrchr(dir, '/');
    if (slash == dir)
        slash[1] = 0;
    else if (slash)
        *slash = 0;
    else
        memcpy(dir, ".", 2);
    struct stat st;
    if (stat(dir, &st))
        return way_fail(err, "segment %s: its directory %s: %s", path, dir,
                        strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return way_fail(err, "segment %s: %s is not a directory", path, dir);
    if (st.st_mode & S_IWOTH)
        return way_fail(err,
                        "segment %s: anybody may write to %s%s: put it in a directory of "
                        "its own, such as /run/wayside",
                        path, dir, st.st_mode & S_ISVTX ? " (it is sticky)" : "");
    return 0;
}

enum found { FOUND_BAD = -1, FOUND_STALE, FOUND_GOOD };

static enum found look(int fd, const char *path, struct way_err *err)
{
    struct way_stamp mine, stamp;
    struct stat st;
    if (stamp_fill(&mine, err))
        return FOUND_BAD;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) ||
        pread(fd, &stamp, sizeof stamp, 0) != (ssize_t)sizeof stamp ||
        memcmp(stamp.magic, magic, sizeof magic))
        return way_fail(err,
                        "segment %s: the file there is not a segment of wayside's; "
                        "remove it or name another",
                        path);
    if (st.st_uid != geteuid())
        return way_fail(err, "segment %s: belongs to user %u, not to %u", path,
                        (unsigned)st.st_uid, (unsigned)geteuid());
    if (memcmp(stamp.boot, mine.boot, sizeof stamp.boot))
        return FOUND_STALE;
    if (memcmp(stamp.sizes, mine.sizes, sizeof stamp.sizes) ||
        (uint64_t)st.st_size < sizeof(struct way_segment))
        return way_fail(err,
                        "segment %s: made by another build of wayside (its records have "
                        "other sizes): stop what uses it and remove it, or name another",
                        path);
    return FOUND_GOOD;
}

static bool still_named(int fd, const char *path)
{
    struct stat open_one, named;
    return !fstat(fd, &open_one) && !stat(path, &named) &&
           open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

/* One attempt: 1 done, 0 again, -1. */
static int find_or_make(struct way_segment **out, const char *path,
                        const struct way_layout *layout, struct way_err *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return make(out, path, false, layout, err);
    if (fd < 0)
        return way_fail(err, "segment %s: can't be opened: %s", path, strerror(errno));
    int rc = -1;
    switch (look(fd, path, err)) {
    case FOUND_BAD: break;
    case FOUND_STALE:
        if (flock(fd, LOCK_EX))
            way_fail(err, "segment %s: can't be locked: %s", path, strerror(errno));
        else
            rc = still_named(fd, path) ? make(out, path, true, layout, err) : 0;
        break;
    case FOUND_GOOD:
        *out = map_fd(fd, path, err);
        rc = *out ? 1 : -1;
        break;
    }
    close(fd);
    return rc;
}

int way_segment_map(struct way_segment **out, const char *path,
                    const struct way_layout *layout, struct way_err *err)
{
    if (!path) {
        struct way_segment *s = map_fd(-1, NULL, err);
        if (s && segment_init(s, layout, err)) {
            way_segment_unmap(s);
            s = NULL;
        }
        *out = s;
        return s ? 0 : -1;
    }
    if (check_directory(path, err))
        return -1;
    for (int tries = 0; tries < 100; tries++) {
        int rc = find_or_make(out, path, layout, err);
        if (rc)
            return rc > 0 ? 0 : -1;
    }
    return way_fail(err, "segment %s: others keep replacing it", path);
}
