/* The segment's file: who may make it, who may attach, and what is done with one that was
 * left behind. Through the node table's own door, way_health_open. */
#include "health_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "segment.h"

struct world {
    char dir[64], path[96];
    struct way_health_options o;
};

static int begin(void **state)
{
    struct world *w = way_zalloc(sizeof *w);
    snprintf(w->dir, sizeof w->dir, "/tmp/wayside-segment-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->path, sizeof w->path, "%s/main.seg", w->dir);
    w->o =
        (struct way_health_options){ .path = w->path, .guard = true, .failing_share = 1 };
    w->o.layout = (struct way_layout){ .hash = 7, .node = 1, .shard = 1, .cluster = 1 };
    *state = w;
    return 0;
}

static int end(void **state)
{
    struct world *w = *state;
    unlink(w->path);
    assert_int_equal(rmdir(w->dir), 0); /* nothing else was left there */
    way_free(w);
    return 0;
}

/* Opening must fail, and say so with this word. */
static void refused(const struct way_health_options *o, const char *word)
{
    struct way_health *h = NULL;
    struct way_err err = { .text = "" };
    assert_int_equal(way_health_open(&h, o, &err), -1);
    if (!strstr(err.text, word))
        fail_msg("expected \"%s\" in: %s", word, err.text);
}

static void overwrite(const char *path, off_t at, const void *bytes, size_t n)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), (ssize_t)n);
    close(fd);
}

static void cluster_add(struct way_health *h, double by)
{
    struct way_snapshot s;
    struct way_outcome out;
    struct way_proposal p = { .hard = false };
    do {
        way_health_snapshot(h, 0, 1, &s);
        p.memory = s.view.memory;
        p.memory.cluster[0] += by;
    } while (way_health_commit(h, &s, &p, false, &out) != WAY_COMMIT_DONE);
}

static double cluster_sum(struct way_health *h)
{
    struct way_snapshot s;
    way_health_snapshot(h, 0, 1, &s);
    return s.view.memory.cluster[0];
}

static void two_who_open_one_path_share_one_table(void **state)
{
    struct world *w = *state;
    struct way_topology *t = kit_cluster(1);
    struct way_health *one = kit_open(&w->o), *two = kit_open(&w->o);
    struct stat st;
    assert_int_equal(stat(w->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    kit_publish(one, t, 1);
    kit_hard(two, 0, 2, WAY_STATE_FAILING, 15);
    assert_int_equal(kit_state(one, 0), WAY_STATE_FAILING);
    way_health_close(one);
    assert_int_equal(kit_state(two, 0), WAY_STATE_FAILING);
    way_health_close(two);
    kit_topology_free(t);
}

static void states_and_memory_outlive_a_restart(void **state)
{
    struct world *w = *state;
    struct way_topology *t = kit_cluster(1);
    struct way_health *h = kit_open(&w->o);
    kit_publish(h, t, 1);
    kit_hard(h, 0, 2, WAY_STATE_FAILING, 15);
    cluster_add(h, 3);
    way_health_close(h);
    h = kit_open(&w->o);
    assert_int_equal(kit_state(h, 0), WAY_STATE_FAILING);
    assert_true(cluster_sum(h) == 3);
    way_health_check(h);
    way_health_close(h);
    kit_topology_free(t);
}

static void another_policy_is_refused_while_the_first_is_in_use(void **state)
{
    struct world *w = *state;
    struct way_health *h = kit_open(&w->o);
    struct way_health_options other = w->o;
    other.layout.hash = 8;
    refused(&other, "reload");
    way_health_close(h);
}

static void another_policy_starts_afresh_when_nobody_lives_there(void **state)
{
    struct world *w = *state;
    struct way_topology *t = kit_cluster(1);
    struct way_health_options other = w->o;
    struct way_health *h = kit_open(&w->o);
    kit_publish(h, t, 1);
    kit_hard(h, 0, 2, WAY_STATE_FAILING, 15);
    cluster_add(h, 3);
    pid_t pid = fork(); /* one that dies without closing, lock in hand */
    if (pid == 0) {
        struct way_health *mine = NULL;
        if (!way_health_open(&mine, &w->o, NULL) && !way_health_lock(mine))
            _exit(0);
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    way_health_close(h);
    other.layout.hash = 8;
    other.layout.first.node[0] = 2;
    other.layout.first.cluster[0] = 4;
    h = kit_open(&other);
    assert_int_equal(kit_state(h, 0), WAY_STATE_HEALTHY);
    assert_true(cluster_sum(h) == 4);
    struct way_snapshot s;
    way_health_snapshot(h, 0, 1, &s);
    assert_true(s.view.memory.node[0] == 2);
    assert_true(way_health_coverage(h) == 1); /* the map is nobody's policy */
    way_health_check(h);
    way_health_close(h);
    kit_topology_free(t);
}

static void a_segment_of_a_former_boot_is_replaced(void **state)
{
    struct world *w = *state;
    struct way_health *h = kit_open(&w->o);
    cluster_add(h, 3);
    way_health_close(h);
    overwrite(w->path, offsetof(struct way_stamp, boot), "00000000", 8);
    struct way_health_options other = w->o;
    other.layout.hash = 8; /* whatever was in it */
    h = kit_open(&other);
    assert_true(cluster_sum(h) == 0);
    way_health_check(h);
    way_health_close(h);
}

static void a_segment_of_another_build_is_refused(void **state)
{
    struct world *w = *state;
    uint32_t size = 1;
    way_health_close(kit_open(&w->o));
    overwrite(w->path, offsetof(struct way_stamp, sizes) + 4, &size, sizeof size);
    refused(&w->o, "another build");
}

static void a_segment_that_was_cut_short_is_refused(void **state)
{
    struct world *w = *state;
    way_health_close(kit_open(&w->o));
    assert_int_equal(truncate(w->path, 8192), 0);
    refused(&w->o, "another build");
}

static void a_file_of_somebody_else_s_is_left_alone(void **state)
{
    struct world *w = *state;
    char text[512] = "not a segment at all", back[512];
    overwrite(w->path, 0, text, sizeof text);
    refused(&w->o, "not a segment");
    int fd = open(w->path, O_RDONLY);
    assert_int_equal(read(fd, back, sizeof back), (ssize_t)sizeof back);
    close(fd);
    assert_memory_equal(text, back, sizeof back);
    assert_int_equal(truncate(w->path, 0), 0);
    refused(&w->o, "not a segment");
}

static void a_directory_that_anybody_may_write_to_is_refused(void **state)
{
    struct world *w = *state;
    struct way_health_options o = w->o;
    o.path = "/tmp/main.seg";
    refused(&o, "sticky");
    assert_int_not_equal(access("/tmp/main.seg", F_OK), 0);
    assert_int_equal(chmod(w->dir, 0777), 0);
    refused(&w->o, "directory of its own");
    assert_int_equal(chmod(w->dir, 0700), 0);
}

static void a_directory_that_is_not_there_is_told(void **state)
{
    struct world *w = *state;
    struct way_health_options o = w->o;
    o.path = "/nonexistent/wayside/main.seg";
    refused(&o, "No such file");
    o.path = "/proc/version/main.seg";
    refused(&o, "not a directory");
    o.path = "";
    refused(&o, "no usable name");
}

static void a_symbolic_link_is_not_followed(void **state)
{
    struct world *w = *state;
    char target[128];
    snprintf(target, sizeof target, "%s/elsewhere", w->dir);
    assert_int_equal(symlink(target, w->path), 0);
    refused(&w->o, "can't be opened");
    assert_int_not_equal(access(target, F_OK), 0);
}

/* Lets `n` processes open the path at the same moment; each adds 1 fifty times. */
static double started_at_once(struct world *w, unsigned n)
{
    int go[2];
    pid_t pid[32];
    char c;
    assert_int_equal(pipe(go), 0);
    for (unsigned i = 0; i < n; i++) {
        pid[i] = fork();
        assert_true(pid[i] >= 0);
        if (pid[i])
            continue;
        struct way_health *h = NULL;
        struct way_err err;
        close(go[1]);
        if (read(go[0], &c, 1) || way_health_open(&h, &w->o, &err))
            _exit(1);
        for (unsigned k = 0; k < 50; k++)
            cluster_add(h, 1);
        _exit(0); /* without closing */
    }
    close(go[0]);
    close(go[1]); /* go: reads end */
    for (unsigned i = 0; i < n; i++) {
        int status = -1;
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_int_equal(status, 0);
    }
    struct way_health *h = kit_open(&w->o);
    double sum = cluster_sum(h);
    way_health_check(h);
    way_health_close(h);
    return sum;
}

static void all_who_start_at_once_agree_on_one_segment(void **state)
{
    struct world *w = *state;
    for (unsigned round = 0; round < 10; round++) {
        assert_true(started_at_once(w, 16) == 16 * 50);
        unlink(w->path);
    }
}

static void all_who_find_a_stale_one_at_once_agree_too(void **state)
{
    struct world *w = *state;
    for (unsigned round = 0; round < 10; round++) {
        way_health_close(kit_open(&w->o));
        overwrite(w->path, offsetof(struct way_stamp, boot), "00000000", 8);
        assert_true(started_at_once(w, 16) == 16 * 50);
        unlink(w->path);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(two_who_open_one_path_share_one_table),
        T(states_and_memory_outlive_a_restart),
        T(another_policy_is_refused_while_the_first_is_in_use),
        T(another_policy_starts_afresh_when_nobody_lives_there),
        T(a_segment_of_a_former_boot_is_replaced),
        T(a_segment_of_another_build_is_refused),
        T(a_segment_that_was_cut_short_is_refused),
        T(a_file_of_somebody_else_s_is_left_alone),
        T(a_directory_that_anybody_may_write_to_is_refused),
        T(a_directory_that_is_not_there_is_told),
        T(a_symbolic_link_is_not_followed),
        T(all_who_start_at_once_agree_on_one_segment),
        T(all_who_find_a_stale_one_at_once_agree_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
