/* loop: a pass's tasks run in order at its end, what was closed is freed after them, and
 * other threads can wake and stop it. */
#include "loop.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

struct bed {
    struct way_loop loop;
    char said[64]; /* what ran, in order */
    unsigned passes, wakes;
    struct way_task *then; /* queued by the task b */
};

struct letter {
    struct way_task task;
    struct bed *bed;
    char name;
};

static void say(struct bed *b, char what)
{
    size_t n = strlen(b->said);
    assert_true(n + 1 < sizeof b->said);
    b->said[n] = what;
}

static void run_letter(struct way_task *t)
{
    struct letter *l = way_container(t, struct letter, task);
    assert_false(t->queued); /* it may queue itself again */
    say(l->bed, l->name);
    if (l->name == 'b' && l->bed->then)
        way_loop_later(&l->bed->loop, l->bed->then);
}

static void on_pass(struct way_loop *l)
{
    struct bed *b = l->owner;
    b->passes++;
    if (b->passes == 1)
        say(b, '(');
}

static void on_wake(struct way_loop *l)
{
    ((struct bed *)l->owner)->wakes++;
}

static void begin(struct bed *b)
{
    struct way_err err;
    memset(b, 0, sizeof *b);
    if (way_loop_init(&b->loop, &err))
        fail_msg("%s", err.text);
    b->loop.owner = b;
    b->loop.passed = on_pass;
    b->loop.woken = on_wake;
}

static void letters(struct bed *b, struct letter *l, const char *names)
{
    for (unsigned i = 0; names[i]; i++)
        l[i] = (struct letter){ .task.run = run_letter, .bed = b, .name = names[i] };
}

static void one_pass(struct bed *b)
{
    ev_run(b->loop.ev, EVRUN_NOWAIT);
}

static void tasks_run_in_order_once_at_the_passes_end(void **state)
{
    (void)state;
    struct bed b;
    struct letter l[4];
    begin(&b);
    letters(&b, l, "abcd");
    b.then = &l[3].task;
    way_loop_later(&b.loop, &l[0].task);
    way_loop_later(&b.loop, &l[1].task);
    way_loop_later(&b.loop, &l[0].task); /* queued once */
    way_loop_later(&b.loop, &l[2].task);
    assert_string_equal(b.said, "");
    one_pass(&b);
    assert_string_equal(b.said, "(abcd"); /* d, queued by b, in the same pass */
    one_pass(&b);
    assert_string_equal(b.said, "(abcd");
    way_loop_later(&b.loop, &l[0].task);
    one_pass(&b);
    assert_string_equal(b.said, "(abcda");
    way_loop_fini(&b.loop);
}

static void a_forgotten_task_does_not_run(void **state)
{
    (void)state;
    for (unsigned which = 0; which < 3; which++) {
        struct bed b;
        struct letter l[4];
        static const char *const left[] = { "(bcd", "(acd", "(abd" };
        begin(&b);
        letters(&b, l, "abcd");
        for (unsigned i = 0; i < 3; i++)
            way_loop_later(&b.loop, &l[i].task);
        way_loop_forget(&b.loop, &l[which].task);
        way_loop_forget(&b.loop, &l[which].task); /* nothing to forget */
        way_loop_forget(&b.loop, &l[3].task);
        way_loop_later(&b.loop, &l[3].task); /* the list's end is still its end */
        one_pass(&b);
        assert_string_equal(b.said, left[which]);
        way_loop_fini(&b.loop);
    }
}

struct thing {
    struct bed *bed;
    struct thing *more; /* reclaimed when this one is */
};

static void free_thing(void *p)
{
    struct thing *t = p;
    say(t->bed, 'x');
    if (t->more)
        way_loop_reclaim(&t->bed->loop, t->more, free_thing);
    way_free(t);
}

static struct thing *new_thing(struct bed *b, struct thing *more)
{
    struct thing *t = way_zalloc(sizeof *t);
    *t = (struct thing){ b, more };
    return t;
}

static void what_was_closed_is_freed_after_the_last_task(void **state)
{
    (void)state;
    struct bed b;
    struct letter l[2];
    begin(&b);
    letters(&b, l, "ab");
    way_loop_reclaim(&b.loop, new_thing(&b, new_thing(&b, NULL)), free_thing);
    way_loop_later(&b.loop, &l[0].task);
    way_loop_later(&b.loop, &l[1].task);
    one_pass(&b);
    assert_string_equal(b.said, "(abxx");
    way_loop_reclaim(&b.loop, new_thing(&b, NULL), free_thing);
    way_loop_fini(&b.loop);
    assert_string_equal(b.said, "(abxxx"); /* the end frees what is left */
}

static void a_block_is_lent_again_and_a_grown_one_is_not(void **state)
{
    (void)state;
    struct bed b;
    struct way_buf x, y;
    begin(&b);
    way_loop_borrow(&b.loop, &x);
    assert_int_equal(x.cap, WAY_BLOCK_BYTES);
    assert_int_equal(way_buf_held(&x), 0);
    char *first = x.p;
    way_loop_borrow(&b.loop, &y);
    assert_ptr_not_equal(y.p, first);
    way_loop_return(&b.loop, &x);
    assert_null(x.p);
    assert_int_equal(b.loop.block_count, 1);
    way_loop_borrow(&b.loop, &x);
    assert_ptr_equal(x.p, first);
    way_buf_room(&y, WAY_BLOCK_BYTES + 1);
    way_loop_return(&b.loop, &y);
    assert_int_equal(b.loop.block_count, 0);
    way_loop_return(&b.loop, &y); /* one that has no memory */
    way_loop_return(&b.loop, &x);
    assert_int_equal(b.loop.block_count, 1);
    way_loop_fini(&b.loop);
}

static void now_stands_still_within_a_pass_unless_it_is_refreshed(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    double before = b.loop.now, until = way_clock() + 0.005;
    while (way_clock() < until)
        continue;
    assert_true(b.loop.now <= before && b.loop.now >= before);
    assert_true(way_loop_refresh(&b.loop) >= before + 0.005);
    before = b.loop.now;
    until = way_clock() + 0.005;
    while (way_clock() < until)
        continue;
    one_pass(&b);
    assert_true(b.loop.now >= before + 0.005); /* each pass has its own */
    way_loop_fini(&b.loop);
}

static void *run_loop(void *arg)
{
    way_loop_run(arg);
    return NULL;
}

static void other_threads_wake_it_and_stop_it(void **state)
{
    (void)state;
    struct bed b;
    pthread_t thread;
    begin(&b);
    way_loop_wake(&b.loop); /* before it runs, too */
    assert_int_equal(pthread_create(&thread, NULL, run_loop, &b.loop), 0);
    for (unsigned i = 0; i < 100; i++)
        way_loop_wake(&b.loop);
    way_loop_stop(&b.loop);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(b.wakes >= 1 && b.wakes <= 101);
    assert_true(b.passes >= 1);
    way_loop_fini(&b.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tasks_run_in_order_once_at_the_passes_end),
        cmocka_unit_test(a_forgotten_task_does_not_run),
        cmocka_unit_test(what_was_closed_is_freed_after_the_last_task),
        cmocka_unit_test(a_block_is_lent_again_and_a_grown_one_is_not),
        cmocka_unit_test(now_stands_still_within_a_pass_unless_it_is_refreshed),
        cmocka_unit_test(other_threads_wake_it_and_stop_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
