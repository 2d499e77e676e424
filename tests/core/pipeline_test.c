/* pipeline: replies that come in any order leave in the order of the commands, each once. */
#include "pipeline.h"

#include "resp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct bed {
    struct way_request_pool pool;
    struct way_pipeline p;
    unsigned straights;
    uint16_t straight_slot;
    size_t out_when_straight;
};

static void begin(struct bed *b)
{
    memset(b, 0, sizeof *b);
    way_pipeline_init(&b->p, &b->pool, b);
}

/* Nothing may be left: no request, no byte. */
static void end(struct bed *b)
{
    assert_int_equal(b->p.pending, 0);
    assert_null(b->p.head);
    assert_null(b->p.tail);
    assert_int_equal(b->p.held_live, 0);
    assert_int_equal(b->p.joining, 0);
    assert_int_equal(b->p.detours, 0);
    way_pipeline_fini(&b->p);
    assert_int_equal(b->pool.live, 0);
    way_request_pool_fini(&b->pool);
}

static bool answer(struct bed *b, struct way_request *r, const char *reply)
{
    return way_pipeline_answer(&b->p, r, reply, strlen(reply));
}

static void assert_out(struct bed *b, const char *expected)
{
    size_t n = way_buf_held(&b->p.out);
    if (n != strlen(expected) || (n && memcmp(b->p.out.p + b->p.out.off, expected, n)))
        fail_msg("out is '%.*s', expected '%s'", (int)n, b->p.out.p + b->p.out.off,
                 expected);
}

/* ---- order ---- */

enum { MANY = 6 };

/* Answers 0..n-1 in the order given; after each, out must be the replies of the longest
 * answered beginning, and only then have grown. */
static void answer_in_order(const unsigned *order, unsigned n)
{
    struct bed b;
    struct way_request *r[MANY];
    bool answered[MANY] = { false };
    unsigned done = 0;
    begin(&b);
    for (unsigned i = 0; i < n; i++)
        r[i] = way_pipeline_push(&b.p, 1);
    for (unsigned i = 0; i < n; i++) {
        char reply[32], expected[256] = "";
        snprintf(reply, sizeof reply, "+%0*u\r\n", (int)(order[i] % 8) + 1, order[i]);
        bool grew = answer(&b, r[order[i]], reply);
        answered[order[i]] = true;
        assert_int_equal(grew, order[i] == done);
        while (done < n && answered[done])
            done++;
        for (unsigned k = 0; k < done; k++)
            snprintf(expected + strlen(expected), 32, "+%0*u\r\n", (int)(k % 8) + 1, k);
        assert_out(&b, expected);
        assert_int_equal(b.p.pending, n - done);
    }
    end(&b);
}

static unsigned permute(unsigned *order, unsigned at, unsigned n)
{
    unsigned count = 0;
    if (at == n) {
        answer_in_order(order, n);
        return 1;
    }
    for (unsigned i = at; i < n; i++) {
        unsigned t = order[at];
        order[at] = order[i];
        order[i] = t;
        count += permute(order, at + 1, n);
        t = order[at];
        order[at] = order[i];
        order[i] = t;
    }
    return count;
}

static void replies_leave_in_order_for_every_permutation(void **state)
{
    (void)state;
    static const unsigned factorial[] = { 1, 1, 2, 6, 24, 120, 720 };
    for (unsigned n = 1; n <= MANY; n++) {
        unsigned order[MANY];
        for (unsigned i = 0; i < n; i++)
            order[i] = i;
        assert_int_equal(permute(order, 0, n), factorial[n]);
    }
}

static uint64_t seed_of_run(void)
{
    const char *s = getenv("SEED");
    uint64_t seed = s ? strtoull(s, NULL, 10) : 0;
    return seed ? seed : 20260101;
}

/* The i-th reply of a random run: its length follows from i, its bytes too. */
static size_t reply_of(unsigned i, char *out)
{
    size_t n = (i * 2654435761u >> 8) % 3000;
    memset(out, 'a' + (int)(i % 26), n);
    return n + (size_t)snprintf(out + n, 32, "%u\r\n", i);
}

static size_t take_in_order(struct bed *b, unsigned *next)
{
    char expected[3100];
    size_t taken = 0;
    while (way_buf_held(&b->p.out)) {
        size_t n = reply_of(*next, expected);
        assert_true(way_buf_held(&b->p.out) >= n);
        if (memcmp(b->p.out.p + b->p.out.off, expected, n))
            fail_msg("reply %u is not where it belongs", *next);
        b->p.out.off += n;
        taken += n;
        ++*next;
    }
    way_buf_reset(&b->p.out);
    return taken;
}

/* Commands come while replies do, each from a random place of those in flight. */
static void random_orders_stay_in_order_and_held_replies_stay_bounded(void **state)
{
    (void)state;
    enum { ALL = 20000, WINDOW = 512 };
    struct bed b;
    struct way_random random;
    struct way_request *flight[WINDOW];
    unsigned number[WINDOW], flying = 0, pushed = 0, next = 0;
    size_t most_live = 0, most_cap = 0;
    char reply[3100];
    begin(&b);
    way_random_seed(&random, seed_of_run());
    while (next < ALL) {
        bool push = pushed < ALL && flying < WINDOW && way_random_next(&random) % 8 < 5;
        if (push) {
            flight[flying] = way_pipeline_push(&b.p, 1);
            number[flying++] = pushed++;
        } else if (flying) {
            unsigned i = (unsigned)(way_random_next(&random) % flying);
            size_t n = reply_of(number[i], reply);
            way_pipeline_answer(&b.p, flight[i], reply, n);
            flight[i] = flight[--flying];
            number[i] = number[flying];
        }
        most_live = b.p.held_live > most_live ? b.p.held_live : most_live;
        most_cap = b.p.held.cap > most_cap ? b.p.held.cap : most_cap;
        take_in_order(&b, &next);
    }
    assert_true(most_live > 0);
    if (most_cap > 16 * most_live)
        fail_msg("%zu bytes kept for %zu alive", most_cap, most_live);
    end(&b);
}

static void an_error_is_one_line(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    struct way_request *r = way_pipeline_push(&b.p, 1);
    assert_true(way_pipeline_error(&b.p, r, "ERR %s", "two\r\n+lines"));
    assert_out(&b, "-ERR two  +lines\r\n");
    end(&b);
}

/* ---- a client that goes, or is answered before its node is ---- */

static void what_is_under_way_outlives_its_client(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    struct way_request *sent = way_pipeline_push(&b.p, 1);
    struct way_request *early = way_pipeline_push(&b.p, 1);
    struct way_request *waiting = way_pipeline_push(&b.p, 1);
    sent->state = WAY_REQUEST_SENT;
    waiting->state = WAY_REQUEST_WAITING;
    way_pipeline_detour(&b.p, waiting);
    assert_false(answer(&b, early, "+early\r\n"));
    way_pipeline_fini(&b.p);
    assert_int_equal(b.pool.live, 2);
    assert_null(sent->pipeline);
    assert_null(waiting->pipeline);
    assert_true(sent->flags & WAY_FLAG_ABANDONED);
    assert_true(waiting->flags & WAY_FLAG_ABANDONED);
    assert_false(waiting->flags & WAY_FLAG_DETOUR);
    way_request_give(&b.pool, sent);
    way_request_give(&b.pool, waiting);
    end(&b);
}

static void a_stand_in_is_answered_in_the_place_of_the_abandoned(void **state)
{
    (void)state;
    for (unsigned which = 0; which < 3; which++) {
        struct bed b;
        struct way_request *r[3];
        begin(&b);
        for (unsigned i = 0; i < 3; i++) {
            r[i] = way_pipeline_push(&b.p, 1);
            r[i]->state = WAY_REQUEST_SENT;
        }
        r[which]->flags = WAY_FLAG_WRITE | WAY_FLAG_DOUBT;
        way_pipeline_detour(&b.p, r[which]);
        struct way_request *in = way_pipeline_replace(&b.p, r[which]), *old = r[which];
        assert_ptr_not_equal(in, old);
        assert_true(old->flags & WAY_FLAG_ABANDONED);
        assert_null(old->pipeline);
        assert_int_equal(in->flags, WAY_FLAG_WRITE | WAY_FLAG_DOUBT | WAY_FLAG_DETOUR);
        assert_int_equal(b.p.detours, 1);
        r[which] = in;
        answer(&b, r[2], "+2\r\n");
        answer(&b, r[1], "+1\r\n");
        answer(&b, r[0], "+0\r\n");
        assert_out(&b, "+0\r\n+1\r\n+2\r\n");
        assert_int_equal(b.p.detours, 0);
        way_request_give(&b.pool, old);
        end(&b);
    }
}

static void a_request_begins_with_no_node_to_its_name(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    struct way_request *r = way_pipeline_push(&b.p, 7);
    assert_int_equal(r->avoid, WAY_NONE_NODE);
    assert_int_equal(r->target, WAY_NONE_NODE);
    assert_int_equal(r->last.node, WAY_NONE_NODE);
    assert_int_equal(r->attempt, 0);
    assert_true(r->arrived >= 7 && r->arrived <= 7);
    r->own_bytes = way_strdup("x");
    r->words = way_strdup("y");
    answer(&b, r, "+a\r\n");
    r = way_pipeline_push(&b.p, 7);
    assert_null(r->own_bytes);
    assert_null(r->words);
    answer(&b, r, "+b\r\n");
    end(&b);
}

/* ---- detours ---- */

static void note_straight(struct way_pipeline *p, uint16_t slot)
{
    struct bed *b = p->owner;
    b->straights++;
    b->straight_slot = slot;
    b->out_when_straight = way_buf_held(&p->out);
}

static void the_last_detour_of_a_bucket_ends_it_once_its_reply_is_in_place(void **state)
{
    (void)state;
    struct bed b;
    struct way_request *r[3];
    begin(&b);
    b.p.straight = note_straight;
    for (unsigned i = 0; i < 3; i++) {
        r[i] = way_pipeline_push(&b.p, 1);
        r[i]->slot = (uint16_t)(i < 2 ? 5 : 6);
        way_pipeline_detour(&b.p, r[i]);
        way_pipeline_detour(&b.p, r[i]); /* twice is once */
    }
    assert_int_equal(b.p.detours, 3);
    assert_true(way_pipeline_has_detour(&b.p, 5));
    assert_true(way_pipeline_has_detour(&b.p, 5 + WAY_DETOUR_BUCKETS));
    assert_false(way_pipeline_has_detour(&b.p, 7));
    answer(&b, r[1], "+1\r\n");
    assert_int_equal(b.straights, 0);
    answer(&b, r[0], "+0\r\n");
    assert_int_equal(b.straights, 1);
    assert_int_equal(b.straight_slot, 5);
    assert_int_equal(b.out_when_straight, 8);
    assert_false(way_pipeline_has_detour(&b.p, 5));
    answer(&b, r[2], "+2\r\n");
    assert_int_equal(b.straights, 2);
    end(&b);
}

/* As dispatch does when the map changed meanwhile: all in flight become detours. */
static void mark_all(struct way_pipeline *p, uint16_t slot)
{
    (void)slot;
    for (struct way_request *r = p->head; r; r = r->next)
        if (r->state == WAY_REQUEST_SENT)
            way_pipeline_detour(p, r);
}

static void an_answered_detour_is_not_marked_again(void **state)
{
    (void)state;
    for (unsigned early = 0; early < 2; early++) {
        struct bed b;
        begin(&b);
        b.p.straight = mark_all;
        struct way_request *first = way_pipeline_push(&b.p, 1);
        struct way_request *r = early ? way_pipeline_push(&b.p, 1) : first;
        r->state = WAY_REQUEST_SENT;
        way_pipeline_detour(&b.p, r);
        answer(&b, r, "+r\r\n");
        assert_int_equal(b.p.detours, 0);
        if (early)
            answer(&b, first, "+first\r\n");
        end(&b);
    }
}

static void another_resp_version_makes_detours_of_what_is_in_flight(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    struct way_request *r = way_pipeline_push(&b.p, 1),
                       *done = way_pipeline_push(&b.p, 1);
    r->state = WAY_REQUEST_SENT;
    answer(&b, done, "+d\r\n");
    way_pipeline_speak(&b.p, 2);
    assert_int_equal(b.p.detours, 0);
    way_pipeline_speak(&b.p, 3);
    assert_int_equal(b.p.resp, 3);
    assert_int_equal(b.p.detours, 1);
    answer(&b, r, "+r\r\n");
    assert_out(&b, "+r\r\n+d\r\n");
    end(&b);
}

/* ---- split commands ---- */

/* Splits one command into n parts, answers them in the order given. */
static void join(struct bed *b, enum way_command_join how, unsigned n,
                 const struct way_join_place *place, unsigned elements,
                 const unsigned *order, const char *const *reply)
{
    struct way_request *part[MANY];
    struct way_request *whole = way_pipeline_push(&b->p, 1);
    struct way_join *j = way_join_new(whole, how, n, elements);
    if (elements)
        memcpy(way_join_places(j), place, elements * sizeof *place);
    assert_int_equal(way_join_parts(j), n);
    for (unsigned i = 0; i < n; i++) {
        part[i] = way_join_part(j, i);
        assert_ptr_equal(way_join_pending(j, i), part[i]);
    }
    for (unsigned i = 0; i < n; i++) {
        const char *s = reply[order[i]];
        size_t before = b->p.joining;
        bool grew = way_join_answer(part[order[i]], s, strlen(s));
        assert_int_equal(grew, i + 1 == n);
        assert_int_equal(b->p.joining, i + 1 == n ? 0 : before + strlen(s));
        if (i + 1 < n)
            assert_null(way_join_pending(j, order[i]));
    }
}

static void assert_joined(enum way_command_join how, const char *const *reply,
                          const char *expected)
{
    static const struct way_join_place place[] = {
        { 0, 0 }, { 2, 0 }, { 1, 0 }, { 0, 1 }, { 2, 1 }
    };
    static const unsigned orders[][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
                                          { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };
    for (unsigned i = 0; i < way_count(orders); i++) {
        struct bed b;
        begin(&b);
        join(&b, how, 3, place, how == WAY_JOIN_ARRAY ? 5 : 0, orders[i], reply);
        assert_out(&b, expected);
        end(&b);
    }
}

static void parts_are_joined_in_any_order(void **state)
{
    (void)state;
    assert_joined(WAY_JOIN_SUM, (const char *[]){ ":1\r\n", ":20\r\n", ":300\r\n" },
                  ":321\r\n");
    assert_joined(WAY_JOIN_OK, (const char *[]){ "+OK\r\n", "+OK\r\n", "+OK\r\n" },
                  "+OK\r\n");
    assert_joined(WAY_JOIN_ARRAY,
                  (const char *[]){ "*2\r\n$1\r\na\r\n$-1\r\n", "*1\r\n$0\r\n\r\n",
                                    "*2\r\n:7\r\n*1\r\n_\r\n" },
                  "*5\r\n$1\r\na\r\n:7\r\n$0\r\n\r\n$-1\r\n*1\r\n_\r\n");
}

static void a_failed_part_fails_the_whole_and_tells_of_the_others(void **state)
{
    (void)state;
    assert_joined(WAY_JOIN_SUM, (const char *[]){ ":1\r\n", "-ERR b\r\n", "-ERR c\r\n" },
                  "-ERR b (1 of 3 parts succeeded)\r\n");
    assert_joined(WAY_JOIN_OK, (const char *[]){ "-OOM x\r\n", "+OK\r\n", "+OK\r\n" },
                  "-OOM x (2 of 3 parts succeeded)\r\n");
    assert_joined(WAY_JOIN_ARRAY, (const char *[]){ "-E 1\r\n", "-E 2\r\n", "-E 3\r\n" },
                  "-E 1 (0 of 3 parts succeeded)\r\n");
}

static void a_part_of_another_shape_is_an_error_not_a_value(void **state)
{
    (void)state;
    static const char bad[] =
        "-WAYSIDE protocol phase=read step=reply certainty=unknown "
        "a node's part of the reply has not the command's shape\r\n";
    assert_joined(WAY_JOIN_SUM, (const char *[]){ ":1\r\n", "+OK\r\n", ":3\r\n" }, bad);
    assert_joined(WAY_JOIN_SUM,
                  (const char *[]){ ":9223372036854775807\r\n", ":1\r\n", ":3\r\n" },
                  bad);
    assert_joined(WAY_JOIN_OK, (const char *[]){ "+OK\r\n", ":1\r\n", "+OK\r\n" }, bad);
    assert_joined(
        WAY_JOIN_ARRAY,
        (const char *[]){ "*1\r\n:1\r\n", "*1\r\n:1\r\n", "*2\r\n:1\r\n:2\r\n" }, bad);
    assert_joined(
        WAY_JOIN_ARRAY,
        (const char *[]){ "*2\r\n:1\r\n:1\r\n", "$1\r\na\r\n", "*2\r\n:1\r\n:2\r\n" },
        bad);
}

static void a_split_command_keeps_its_place(void **state)
{
    (void)state;
    struct bed b;
    begin(&b);
    struct way_request *first = way_pipeline_push(&b.p, 1);
    struct way_join *j = way_join_new(way_pipeline_push(&b.p, 1), WAY_JOIN_SUM, 2, 0);
    struct way_request *last = way_pipeline_push(&b.p, 1);
    struct way_request *part[] = { way_join_part(j, 0), way_join_part(j, 1) };
    assert_int_equal(part[0]->turn, first->turn + 1);
    assert_int_equal(last->turn, first->turn + 2);
    assert_false(answer(&b, last, "+last\r\n"));
    assert_false(way_join_answer(part[1], ":2\r\n", 4));
    assert_false(way_join_answer(part[0], ":1\r\n", 4));
    assert_int_equal(way_buf_held(&b.p.out), 0);
    assert_true(answer(&b, first, "+first\r\n"));
    assert_out(&b, "+first\r\n:3\r\n+last\r\n");
    end(&b);
}

static void parts_go_on_when_nobody_waits_for_the_whole(void **state)
{
    (void)state;
    for (unsigned leaves = 0; leaves < 2; leaves++) {
        struct bed b;
        begin(&b);
        b.p.straight = note_straight;
        struct way_request *whole = way_pipeline_push(&b.p, 1), *part[3];
        struct way_join *j = way_join_new(whole, WAY_JOIN_SUM, 3, 0);
        for (unsigned i = 0; i < 3; i++) {
            part[i] = way_join_part(j, i);
            part[i]->slot = (uint16_t)i;
            part[i]->state = WAY_REQUEST_SENT;
            way_pipeline_detour(&b.p, part[i]);
        }
        way_join_answer(part[0], ":1\r\n", 4);
        assert_int_equal(b.p.joining, 4);
        assert_int_equal(b.straights, 1);
        if (leaves) {
            way_pipeline_fini(&b.p);
        } else {
            assert_ptr_equal(way_pipeline_replace(&b.p, whole), whole);
            assert_int_equal(b.straights, 3);
            assert_int_equal(b.p.joining, 0);
            assert_int_equal(b.p.detours, 0);
            answer(&b, whole, "-ERR late\r\n");
            assert_out(&b, "-ERR late\r\n");
        }
        assert_true(part[1]->flags & WAY_FLAG_ABANDONED);
        assert_false(way_join_answer(part[1], ":1\r\n", 4));
        assert_false(way_join_answer(part[2], "", 0));
        end(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_leave_in_order_for_every_permutation),
        cmocka_unit_test(random_orders_stay_in_order_and_held_replies_stay_bounded),
        cmocka_unit_test(an_error_is_one_line),
        cmocka_unit_test(what_is_under_way_outlives_its_client),
        cmocka_unit_test(a_stand_in_is_answered_in_the_place_of_the_abandoned),
        cmocka_unit_test(a_request_begins_with_no_node_to_its_name),
        cmocka_unit_test(the_last_detour_of_a_bucket_ends_it_once_its_reply_is_in_place),
        cmocka_unit_test(an_answered_detour_is_not_marked_again),
        cmocka_unit_test(another_resp_version_makes_detours_of_what_is_in_flight),
        cmocka_unit_test(parts_are_joined_in_any_order),
        cmocka_unit_test(a_failed_part_fails_the_whole_and_tells_of_the_others),
        cmocka_unit_test(a_part_of_another_shape_is_an_error_not_a_value),
        cmocka_unit_test(a_split_command_keeps_its_place),
        cmocka_unit_test(parts_go_on_when_nobody_waits_for_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
