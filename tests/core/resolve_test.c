/* What may be relied on: a literal needs nobody, a name is asked of the name server and told
 * with its addresses in order, each failure has words, what is cancelled is never told, and
 * a changed configuration is seen after a failure. The name server is ours, on loopback. */
#include "loop.h"
#include "resolve.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

struct answer {
    unsigned calls, n;
    struct way_address a[WAY_ADDRESSES_MAX];
    char error[512];
};

struct fixture {
    struct way_loop loop;
    struct way_resolver *resolver;
    ev_io io;
    ev_timer guard;
    char servers[64];
    char asked[512]; /* the last name that was asked */
    unsigned questions;
    struct way_resolver *free_in_fn;
    struct answer answer;
};

/* --- the name server --- */

/* The question's name with dots; its end in the packet. */
static size_t name_of(const uint8_t *p, size_t n, char name[512])
{
    size_t at = 12, out = 0;
    while (at < n && p[at] && at + p[at] < n) {
        if (out)
            name[out++] = '.';
        memcpy(name + out, p + at + 1, p[at]);
        out += p[at];
        at += p[at] + 1u;
    }
    name[out] = 0;
    return at + 1;
}

/* How many addresses a name has: "many.test" 10, "two..." 2, -1: NXDOMAIN, -2: silence. */
static int addresses_of(const char *name)
{
    if (!strncmp(name, "many.", 5))
        return 10;
    if (!strncmp(name, "two.", 4))
        return 2;
    if (!strncmp(name, "empty.", 6))
        return 0;
    return strncmp(name, "mute.", 5) ? -1 : -2;
}

static size_t put_answers(uint8_t *p, size_t at, int count)
{
    for (int i = 0; i < count; i++, at += 16) {
        const uint8_t rr[16] = { 0xc0, 12, 0, 1, 0,   1, 0, 0,
                                 0,    60, 0, 4, 127, 0, 0, (uint8_t)(i + 1) };
        memcpy(p + at, rr, sizeof rr);
    }
    return at;
}

static void on_question(struct ev_loop *ev, ev_io *io, int events)
{
    (void)ev;
    (void)events;
    struct fixture *f = way_container(io, struct fixture, io);
    uint8_t p[1024];
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    ssize_t n = recvfrom(io->fd, p, 512, 0, (struct sockaddr *)&from, &len);
    if (n < 17)
        return;
    size_t end = name_of(p, (size_t)n, f->asked) + 4;
    bool is_a = p[end - 3] == 1;
    int count = addresses_of(f->asked);
    f->questions++;
    if (count == -2)
        return;
    p[2] = 0x81;
    p[3] = (uint8_t)(0x80 | (count < 0 ? 3 : 0));
    memset(p + 6, 0, 6);
    p[7] = (uint8_t)(is_a && count > 0 ? count : 0);
    end = put_answers(p, end, p[7]);
    sendto(io->fd, p, end, 0, (struct sockaddr *)&from, len);
}

static void on_guard(struct ev_loop *ev, ev_timer *timer, int events)
{
    (void)timer;
    (void)events;
    ev_break(ev, EVBREAK_ALL);
}

static void start(struct fixture *f)
{
    struct way_err err;
    struct sockaddr_in sa = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof sa;
    memset(f, 0, sizeof *f);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    snprintf(f->servers, sizeof f->servers, "127.0.0.1:%u", ntohs(sa.sin_port));
    assert_int_equal(way_loop_init(&f->loop, &err), 0);
    ev_io_init(&f->io, on_question, fd, EV_READ);
    ev_io_start(f->loop.ev, &f->io);
    struct way_resolver_options o = { .servers = f->servers };
    assert_int_equal(way_resolver_new(&f->resolver, &f->loop, &o, &err), 0);
}

static void finish(struct fixture *f)
{
    way_resolver_free(f->resolver);
    ev_io_stop(f->loop.ev, &f->io);
    close(f->io.fd);
    way_loop_fini(&f->loop);
}

/* Runs until the loop is broken off, or for so long. */
static void run(struct fixture *f, double seconds)
{
    ev_timer_init(&f->guard, on_guard, seconds, 0);
    ev_now_update(f->loop.ev);
    ev_timer_start(f->loop.ev, &f->guard);
    ev_run(f->loop.ev, 0);
    ev_timer_stop(f->loop.ev, &f->guard);
}

static void on_resolved(void *arg, const struct way_address *a, unsigned n,
                        const char *error)
{
    struct fixture *f = arg;
    f->answer.calls++;
    f->answer.n = n;
    if (n)
        memcpy(f->answer.a, a, n * sizeof *a);
    snprintf(f->answer.error, sizeof f->answer.error, "%s", error ? error : "");
    way_resolver_free(f->free_in_fn);
    ev_break(f->loop.ev, EVBREAK_ALL);
}

/* Resolves and waits for it. */
static void resolve(struct fixture *f, const char *host)
{
    memset(&f->answer, 0, sizeof f->answer);
    if (way_resolve(f->resolver, host, 7000, on_resolved, f))
        run(f, 10);
    if (f->answer.calls != 1 || !f->answer.n != !!f->answer.error[0])
        fail_msg("%s: told %u times, %u addresses, '%s'", host, f->answer.calls,
                 f->answer.n, f->answer.error);
}

static void expect_address(const struct way_address *a, const char *expected)
{
    char host[INET6_ADDRSTRLEN], text[INET6_ADDRSTRLEN + 8];
    bool v6 = a->sa.ss_family == AF_INET6;
    const struct sockaddr_in *in = (const struct sockaddr_in *)&a->sa;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a->sa;
    inet_ntop(a->sa.ss_family, v6 ? (const void *)&in6->sin6_addr : &in->sin_addr, host,
              sizeof host);
    snprintf(text, sizeof text, "%s:%u", host, ntohs(v6 ? in6->sin6_port : in->sin_port));
    assert_string_equal(text, expected);
    assert_int_equal(a->len, v6 ? sizeof *in6 : sizeof *in);
}

static void a_literal_is_told_at_once_and_asked_of_nobody(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    assert_null(way_resolve(f.resolver, "10.1.2.3", 6379, on_resolved, &f));
    assert_int_equal(f.answer.calls, 1);
    expect_address(&f.answer.a[0], "10.1.2.3:6379");
    assert_null(way_resolve(f.resolver, "2001:db8::1", 7000, on_resolved, &f));
    expect_address(&f.answer.a[0], "2001:db8::1:7000");
    assert_null(way_resolve(f.resolver, "fe80::1%lo", 7000, on_resolved, &f));
    expect_address(&f.answer.a[0], "fe80::1:7000");
    assert_true(((struct sockaddr_in6 *)&f.answer.a[0].sa)->sin6_scope_id > 0);
    assert_int_equal(f.answer.calls, 3);
    run(&f, 0.05);
    assert_int_equal(f.questions, 0);
    finish(&f);
}

static void localhost_comes_from_the_hosts_file(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    resolve(&f, "localhost");
    bool loopback = false;
    for (unsigned i = 0; i < f.answer.n; i++)
        loopback |= ((struct sockaddr_in *)&f.answer.a[i].sa)->sin_addr.s_addr ==
                        htonl(INADDR_LOOPBACK) ||
                    f.answer.a[i].sa.ss_family == AF_INET6;
    assert_true(loopback);
    assert_int_equal(f.questions, 0);
    finish(&f);
}

static void a_name_is_told_with_all_its_addresses_up_to_eight(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    resolve(&f, "two.test");
    assert_int_equal(f.answer.n, 2);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(((struct sockaddr_in *)&f.answer.a[i].sa)->sin_port,
                         htons(7000));
    resolve(&f, "many.test");
    assert_int_equal(f.answer.n, WAY_ADDRESSES_MAX);
    finish(&f);
}

static void a_name_that_is_not_there_is_told_with_its_name(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    resolve(&f, "gone.invalid");
    assert_int_equal(f.answer.n, 0);
    assert_non_null(strstr(f.answer.error, "gone.invalid: "));
    resolve(&f, "empty.test");
    assert_int_equal(f.answer.n, 0);
    assert_non_null(strstr(f.answer.error, "empty.test: "));
    resolve(&f, "");
    assert_int_equal(f.answer.n, 0);
    finish(&f);
}

static void what_was_cancelled_is_never_told(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    struct way_resolving *q = way_resolve(f.resolver, "two.test", 1, on_resolved, &f);
    assert_non_null(q);
    way_resolve_cancel(q);
    q = way_resolve(f.resolver, "mute.test", 1, on_resolved, &f);
    assert_non_null(q);
    run(&f, 0.1);
    assert_true(f.questions > 0);
    way_resolve_cancel(q);
    run(&f, 0.1);
    assert_int_equal(f.answer.calls, 0);
    finish(&f);
}

static void what_is_pending_at_the_end_is_never_told(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    assert_non_null(way_resolve(f.resolver, "two.test", 1, on_resolved, &f));
    assert_non_null(way_resolve(f.resolver, "mute.test", 1, on_resolved, &f));
    finish(&f);
    assert_int_equal(f.answer.calls, 0);
}

static void a_resolver_may_be_freed_by_what_it_calls(void **state)
{
    (void)state;
    struct fixture f;
    start(&f);
    f.free_in_fn = f.resolver;
    assert_non_null(way_resolve(f.resolver, "mute.test", 1, on_resolved, &f));
    assert_non_null(way_resolve(f.resolver, "two.test", 1, on_resolved, &f));
    run(&f, 10);
    assert_int_equal(f.answer.calls, 1);
    f.resolver = NULL;
    finish(&f);
}

/* The search domain stands for all that c-ares reads only when a channel is made. The first
 * look-up stays open meanwhile, as look-ups do when a name server is dead. */
static void a_changed_configuration_is_seen_after_a_failure(void **state)
{
    (void)state;
    struct fixture f;
    setenv("LOCALDOMAIN", "first.example", 1);
    start(&f);
    struct way_resolving *open = way_resolve(f.resolver, "mute.test", 1, on_resolved, &f);
    struct way_resolving *q = way_resolve(f.resolver, "mute", 1, on_resolved, &f);
    run(&f, 0.2);
    assert_string_equal(f.asked, "mute.first.example");
    setenv("LOCALDOMAIN", "second.example", 1);
    way_resolve_cancel(q);
    resolve(&f, "two");
    assert_string_equal(f.asked, "two.second.example");
    assert_int_equal(f.answer.n, 2);
    way_resolve_cancel(open);
    unsetenv("LOCALDOMAIN");
    finish(&f);
}

static void an_undisturbed_configuration_is_read_once_a_minute(void **state)
{
    (void)state;
    struct fixture f;
    setenv("LOCALDOMAIN", "first.example", 1);
    start(&f);
    setenv("LOCALDOMAIN", "second.example", 1);
    f.loop.now += 59;
    resolve(&f, "two");
    assert_string_equal(f.asked, "two.first.example");
    f.loop.now += 61;
    resolve(&f, "two");
    assert_string_equal(f.asked, "two.second.example");
    unsetenv("LOCALDOMAIN");
    finish(&f);
}

static void a_wrong_list_of_servers_is_refused(void **state)
{
    (void)state;
    struct way_loop loop;
    struct way_err err = { "" };
    struct way_resolver *r = NULL;
    struct way_resolver_options o = { .servers = "not an address" };
    memset(&loop, 0, sizeof loop);
    assert_int_equal(way_loop_init(&loop, &err), 0);
    assert_int_equal(way_resolver_new(&r, &loop, &o, &err), -1);
    assert_non_null(strstr(err.text, "not an address"));
    assert_null(r);
    way_loop_fini(&loop);
}

static int library(void **state)
{
    (void)state;
    struct way_err err;
    return way_resolver_library_init(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_literal_is_told_at_once_and_asked_of_nobody),
        cmocka_unit_test(localhost_comes_from_the_hosts_file),
        cmocka_unit_test(a_name_is_told_with_all_its_addresses_up_to_eight),
        cmocka_unit_test(a_name_that_is_not_there_is_told_with_its_name),
        cmocka_unit_test(what_was_cancelled_is_never_told),
        cmocka_unit_test(what_is_pending_at_the_end_is_never_told),
        cmocka_unit_test(a_resolver_may_be_freed_by_what_it_calls),
        cmocka_unit_test(a_changed_configuration_is_seen_after_a_failure),
        cmocka_unit_test(an_undisturbed_configuration_is_read_once_a_minute),
        cmocka_unit_test(a_wrong_list_of_servers_is_refused),
    };
    return cmocka_run_group_tests(tests, library, NULL);
}
