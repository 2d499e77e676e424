/* What an operator may rely on: the console's socket is never open to others, a stale file
 * does not keep wayside from starting, a live one or another file is never touched. */
#include "listen.h"

#include <errno.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/wayside-listen-XXXXXX";
static char address[128];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(address, sizeof address, "unix:%s/socket", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

static void a_unix_socket_has_its_mode_whatever_the_umask(void **state)
{
    (void)state;
    struct way_err err = { "" };
    mode_t old = umask(0);
    int fd = way_listen(address, 0600, 8, &err);
    umask(old);
    struct stat st;
    assert_true(fd >= 0);
    assert_int_equal(stat(address + 5, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    way_listen_close(fd, address);
    assert_int_equal(stat(address + 5, &st), -1);
}

static void a_stale_socket_is_replaced_and_a_live_one_is_not(void **state)
{
    (void)state;
    struct way_err err = { "" };
    int first = way_listen(address, 0600, 8, &err);
    assert_true(first >= 0);
    assert_int_equal(way_listen(address, 0600, 8, &err), -1);
    assert_non_null(strstr(err.text, "somebody else listens there"));
    close(first); /* as a process that was killed */
    int second = way_listen(address, 0600, 8, &err);
    assert_true(second >= 0);
    way_listen_close(second, address);
}

static void a_file_that_is_no_socket_is_left_alone(void **state)
{
    (void)state;
    struct way_err err = { "" };
    FILE *f = fopen(address + 5, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(way_listen(address, 0600, 8, &err), -1);
    assert_non_null(strstr(err.text, "is no socket"));
    assert_int_equal(unlink(address + 5), 0);
}

static void tcp_addresses_listen(void **state)
{
    (void)state;
    static const char *const good[] = { "127.0.0.1:0", "localhost:0", "[::1]:0", "*:0" };
    for (unsigned i = 0; i < way_count(good); i++) {
        struct way_err err = { "" };
        int fd = way_listen(good[i], 0, 8, &err);
        if (fd < 0 && strstr(err.text, strerror(EADDRNOTAVAIL)))
            continue; /* a machine without IPv6 */
        if (fd < 0)
            fail_msg("%s: %s", good[i], err.text);
        struct sockaddr_storage sa;
        socklen_t n = sizeof sa;
        assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
        way_listen_close(fd, good[i]);
    }
}

static void bad_addresses_are_told(void **state)
{
    (void)state;
    char long_path[200] = "unix:/";
    memset(long_path + 6, 'x', 150);
    const char *bad[] = {
        "",      "127.0.0.1", "127.0.0.1:",   "127.0.0.1:x", "1.2.3.4:70000",
        "unix:", long_path,   "256.1.1.1:80x"
    };
    for (unsigned i = 0; i < way_count(bad); i++) {
        struct way_err err = { "" };
        assert_int_equal(way_listen(bad[i], 0600, 8, &err), -1);
        assert_true(strlen(err.text) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_unix_socket_has_its_mode_whatever_the_umask),
        cmocka_unit_test(a_stale_socket_is_replaced_and_a_live_one_is_not),
        cmocka_unit_test(a_file_that_is_no_socket_is_left_alone),
        cmocka_unit_test(tcp_addresses_listen),
        cmocka_unit_test(bad_addresses_are_told),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
