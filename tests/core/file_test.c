/* file: read whole, or not at all. */
#include "file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], path[96];

static int begin(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/wayside-file-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/f", dir);
    return 0;
}

static int end(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void put(const char *text, size_t n)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
}

static void what_is_there_is_read_with_its_zero_bytes(void **state)
{
    (void)state;
    struct way_err err = { "" };
    char *text;
    size_t n;
    put("a\0b", 3);
    assert_int_equal(way_file_read(path, 3, &text, &n, &err), 0);
    assert_int_equal(n, 3);
    assert_memory_equal(text, "a\0b", 4);
    way_free(text);
    put("", 0);
    assert_int_equal(way_file_read(path, 3, &text, &n, &err), 0);
    assert_int_equal(n, 0);
    way_free(text);
}

static void what_is_no_text_is_refused(void **state)
{
    (void)state;
    struct way_err err = { "" };
    char *text;
    size_t n;
    assert_int_equal(way_file_read(path, 3, &text, &n, &err), -1);
    assert_non_null(strstr(err.text, "No such file"));
    assert_int_equal(way_file_read(dir, 3, &text, &n, &err), -1);
    assert_non_null(strstr(err.text, "directory"));
    put("four", 4);
    assert_int_equal(way_file_read(path, 3, &text, &n, &err), -1);
    assert_non_null(strstr(err.text, "at most 3 bytes, got more"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_there_is_read_with_its_zero_bytes, begin,
                                        end),
        cmocka_unit_test_setup_teardown(what_is_no_text_is_refused, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
