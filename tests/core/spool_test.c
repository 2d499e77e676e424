/* spool: the journal's file is bounded, rotated, whole line by line, and in nobody's way. */
#include "spool.h"

#include "jsonline.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct bed {
    char folder[64], file[96];
    struct way_spool *spool;
    struct way_plan plan;
    struct way_policy_text text;
};

static int set_up(void **state)
{
    struct bed *b = way_zalloc(sizeof *b);
    snprintf(b->folder, sizeof b->folder, "/tmp/wayside-spool-XXXXXX");
    assert_non_null(mkdtemp(b->folder));
    snprintf(b->file, sizeof b->file, "%s/j.jsonl", b->folder);
    b->plan = (struct way_plan){ .name = "p", .version = "1" };
    b->plan.layout.hash = 5;
    b->text.path = (char *)(uintptr_t) "p.lua";
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bed *b = *state;
    char command[160];
    way_spool_free(b->spool);
    snprintf(command, sizeof command, "rm -rf %s", b->folder);
    assert_int_equal(system(command), 0);
    way_free(b);
    return 0;
}

static void start(struct bed *b, double max_bytes, double keep)
{
    struct way_err err;
    struct way_spool_options o = {
        .file = b->file, .max_bytes = max_bytes, .keep = keep, .wayside = "test"
    };
    if (way_spool_new(&b->spool, &o, &err) < 0)
        fail_msg("%s", err.text);
    way_spool_policy(b->spool, &b->plan, &b->text, 1);
}

static void put(struct bed *b, uint64_t seq)
{
    struct way_entry e = { .seq = seq, .function = WAY_FN_MARK, .where = "here" };
    way_spool_put(b->spool, &e);
    way_spool_flush(b->spool);
}

static struct way_spool_counts counts(struct bed *b)
{
    struct way_spool_counts n;
    way_spool_counts(b->spool, &n);
    return n;
}

static void await(struct bed *b, uint64_t settled)
{
    for (int i = 0; i < 5000; i++) {
        struct way_spool_counts n = counts(b);
        if (n.written + n.unwritten >= settled)
            return;
        usleep(1000);
    }
    fail_msg("%llu written, %llu not", (unsigned long long)counts(b).written,
             (unsigned long long)counts(b).unwritten);
}

/* Reads a file; every line must be good. How many entries, headers and changes. */
struct content {
    unsigned entries, headers, changes;
    uint64_t first, last;
};
static struct content content_of(const char *file)
{
    struct content c = { 0 };
    struct way_jsonline *r = way_zalloc(sizeof *r);
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    FILE *f = fopen(file, "r");
    if (!f)
        fail_msg("%s is not there", file);
    while ((n = getline(&line, &room, f)) > 0) {
        struct way_err err;
        if (line[n - 1] != '\n' || way_jsonline_read(r, line, (size_t)n - 1, &err) < 0)
            fail_msg("%s: %.*s", file, (int)n, line);
        c.headers += r->kind == WAY_JSONLINE_HEADER;
        c.changes += r->kind == WAY_JSONLINE_POLICY;
        if (r->kind != WAY_JSONLINE_ENTRY)
            continue;
        c.last = r->entry.seq;
        c.first = c.entries++ ? c.first : r->entry.seq;
    }
    fclose(f);
    free(line);
    way_jsonline_fini(r);
    way_free(r);
    return c;
}

static void a_header_and_every_entry_are_there_when_it_ends(void **state)
{
    struct bed *b = *state;
    start(b, 1e6, 1);
    for (uint64_t i = 1; i <= 500; i++)
        put(b, i);
    way_spool_free(b->spool);
    b->spool = NULL;
    struct content c = content_of(b->file);
    assert_int_equal(c.headers, 1);
    assert_int_equal(c.entries, 500);
    assert_true(c.first == 1 && c.last == 500);
}

static void another_policy_has_a_line_before_its_entries(void **state)
{
    struct bed *b = *state;
    start(b, 1e6, 1);
    put(b, 1);
    await(b, 1);
    b->plan.name = "q";
    way_spool_policy(b->spool, &b->plan, &b->text, 2);
    put(b, 2);
    await(b, 2);
    struct content c = content_of(b->file);
    assert_int_equal(c.headers, 1);
    assert_int_equal(c.changes, 1);
    assert_int_equal(c.entries, 2);
}

static void files_are_bounded_and_the_oldest_goes(void **state)
{
    struct bed *b = *state;
    char old[128];
    start(b, 16384, 2);
    for (uint64_t i = 1; i <= 1000; i++) {
        put(b, i);
        await(b, i);
    }
    assert_true(counts(b).rotations > 3);
    struct content newest = content_of(b->file);
    assert_int_equal(newest.last, 1000);
    uint64_t before = newest.first;
    for (unsigned i = 1; i <= 2; i++) {
        struct stat s;
        snprintf(old, sizeof old, "%s.%u", b->file, i);
        assert_int_equal(stat(old, &s), 0);
        assert_true(s.st_size < 16384 + 4096);
        struct content c = content_of(old);
        assert_int_equal(c.headers, 1);
        assert_true(c.last == before - 1);
        before = c.first;
    }
    snprintf(old, sizeof old, "%s.3", b->file);
    assert_int_equal(access(old, F_OK), -1);
}

static void a_half_line_of_a_crash_is_ended_not_joined(void **state)
{
    struct bed *b = *state;
    FILE *f = fopen(b->file, "w");
    fputs("{\"seq\":1,\"eve", f);
    fclose(f);
    start(b, 1e6, 1);
    put(b, 2);
    await(b, 1);
    char text[128] = "";
    f = fopen(b->file, "r");
    assert_non_null(fgets(text, sizeof text, f));
    assert_string_equal(text, "{\"seq\":1,\"eve\n");
    assert_non_null(fgets(text, sizeof text, f));
    assert_non_null(strstr(text, "wayside_journal"));
    fclose(f);
}

static void what_can_not_be_opened_is_counted_and_tried_again(void **state)
{
    struct bed *b = *state;
    char folder[80];
    snprintf(folder, sizeof folder, "%s/later", b->folder);
    snprintf(b->file, sizeof b->file, "%s/j.jsonl", folder);
    start(b, 1e6, 1);
    put(b, 1);
    await(b, 1);
    assert_int_equal(counts(b).unwritten, 1);
    assert_int_equal(mkdir(folder, 0700), 0);
    uint64_t i = 2;
    for (; i < 200 && !counts(b).written; i++) {
        put(b, i);
        await(b, i);
        usleep(20000);
    }
    assert_true(counts(b).written > 0);
    assert_int_equal(content_of(b->file).headers, 1);
}

/* A pipe with nobody at its end, a folder: no place for a journal, and no place to hang. */
static void what_is_no_file_is_refused(void **state)
{
    struct bed *b = *state;
    assert_int_equal(mkfifo(b->file, 0600), 0);
    start(b, 1e6, 1);
    put(b, 1);
    await(b, 1);
    assert_int_equal(counts(b).unwritten, 1);
}

static void a_full_queue_loses_new_entries_and_counts_them(void **state)
{
    struct bed *b = *state;
    struct way_entry e = { .seq = 1, .function = WAY_FN_MARK };
    start(b, 1e9, 1);
    uint64_t n = 0;
    while (!counts(b).no_room && n < 1000000) {
        way_spool_put(b->spool, &e); /* the writer is not woken, or slower than this */
        n++;
    }
    assert_true(counts(b).no_room > 0);
    way_spool_flush(b->spool);
    await(b, n - counts(b).no_room);
    assert_int_equal(content_of(b->file).entries, n - counts(b).no_room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
        TEST(a_header_and_every_entry_are_there_when_it_ends),
        TEST(another_policy_has_a_line_before_its_entries),
        TEST(files_are_bounded_and_the_oldest_goes),
        TEST(a_half_line_of_a_crash_is_ended_not_joined),
        TEST(what_can_not_be_opened_is_counted_and_tried_again),
        TEST(what_is_no_file_is_refused),
        TEST(a_full_queue_loses_new_entries_and_counts_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
