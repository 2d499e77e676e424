/* What an operator may rely on: no entry is lost without being told, none comes twice or
 * torn, and each verdict can be read as words. */
#include "journal.h"

#include <pthread.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

static void entries_come_out_in_the_order_they_went_in(void **state)
{
    (void)state;
    struct way_ring *r = way_ring_new(5); /* 8 places */
    assert_null(way_ring_peek(r));
    uint64_t in = 0, out = 0;
    for (unsigned round = 0; round < 100; round++) {
        for (unsigned i = 0; i <= round % 8; i++) {
            struct way_entry *e = way_ring_place(r);
            assert_non_null(e);
            e->seq = in++;
            way_ring_push(r);
        }
        for (const struct way_entry *e; (e = way_ring_peek(r)); way_ring_pop(r))
            assert_int_equal(e->seq, out++);
    }
    assert_int_equal(in, out);
    way_ring_free(r);
}

static void a_full_ring_refuses_and_keeps_what_it_holds(void **state)
{
    (void)state;
    struct way_ring *r = way_ring_new(4);
    for (unsigned i = 0; i < 4; i++) {
        way_ring_place(r)->seq = i;
        way_ring_push(r);
    }
    assert_null(way_ring_place(r));
    assert_int_equal(way_ring_peek(r)->seq, 0);
    way_ring_pop(r);
    assert_non_null(way_ring_place(r));
    way_ring_free(r);
}

static void a_place_that_was_not_pushed_is_not_seen(void **state)
{
    (void)state;
    struct way_ring *r = way_ring_new(4);
    way_ring_place(r)->seq = 7;
    assert_null(way_ring_peek(r));
    way_ring_push(r);
    assert_int_equal(way_ring_peek(r)->seq, 7);
    way_ring_free(r);
}

enum { SENT = 200000 };

static void *write_many(void *arg)
{
    struct way_ring *r = arg;
    for (uint64_t i = 0; i < SENT;) {
        struct way_entry *e = way_ring_place(r);
        if (!e)
            continue;
        e->seq = i;
        e->event.bytes_written = i * 3;
        snprintf(e->did, sizeof e->did, "%llu", (unsigned long long)i);
        way_ring_push(r);
        i++;
    }
    return NULL;
}

static void two_threads_lose_nothing_and_tear_nothing(void **state)
{
    (void)state;
    struct way_ring *r = way_ring_new(64);
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, write_many, r), 0);
    for (uint64_t i = 0; i < SENT;) {
        const struct way_entry *e = way_ring_peek(r);
        if (!e)
            continue;
        if (e->seq != i || e->event.bytes_written != i * 3)
            fail_msg("entry %llu came as %llu", (unsigned long long)i,
                     (unsigned long long)e->seq);
        way_ring_pop(r);
        i++;
    }
    pthread_join(writer, NULL);
    assert_null(way_ring_peek(r));
    way_ring_free(r);
}

static const char *verdict(const struct way_entry *e)
{
    static char text[256];
    way_entry_verdict(e, text, sizeof text);
    return text;
}

static void a_verdict_reads_as_words(void **state)
{
    (void)state;
    struct way_entry e = { .function = WAY_FN_MARK };
    assert_string_equal(verdict(&e), "nil");
    e.mark =
        (struct way_mark){ .given = true,
                           .state = WAY_STATE_FAILING,
                           .seconds = 15,
                           .has = WAY_MARK_STATE | WAY_MARK_SECONDS | WAY_MARK_REASON,
                           .reason = "refused" };
    assert_string_equal(verdict(&e), "failing 15 s refused");
    e.mark = (struct way_mark){ .given = true, .has = WAY_MARK_WEIGHT, .weight = 0.25 };
    assert_string_equal(verdict(&e), "state kept weight 0.25");
    e = (struct way_entry){ .function = WAY_FN_BACKOFF };
    assert_string_equal(verdict(&e), "nil");
    e.retry = (struct way_retry){ .kind = WAY_RETRY_OTHER, .after = 0.05, .within = -1 };
    assert_string_equal(verdict(&e), "retry other after 0.05 s");
    e.retry =
        (struct way_retry){ .kind = WAY_RETRY_HOLD, .within = 2, .stale_reads = true };
    assert_string_equal(verdict(&e), "retry hold within 2 s stale_reads");
    e = (struct way_entry){ .function = WAY_FN_PROBE };
    e.probe = (struct way_probe){ .given = true, .after = 1 };
    assert_string_equal(verdict(&e), "probe data after 1 s");
    e.probe = (struct way_probe){
        .given = true, .words = 2, .timeout = 0.5, .command = "INFO\0replication"
    };
    assert_string_equal(verdict(&e), "probe INFO replication after 0 s timeout 0.5 s");
}

static struct way_entry refused_entry(void)
{
    return (struct way_entry){
        .thread = 1,
        .function = WAY_FN_MARK,
        .address = "127.0.0.1:7001",
        .class_name = "down",
        .where = "policies/default.lua:31",
        .event = { .kind = WAY_KIND_CONNECTION,
                   .phase = WAY_PHASE_CONNECT,
                   .step = WAY_STEP_DIAL,
                   .error = WAY_ERROR_REFUSED,
                   .errnum = 111,
                   .message = "Connection \"refused\"\r\n",
                   .blame = WAY_BLAME_NODE,
                   .n = 3,
                   .certainty = WAY_CERTAINTY_UNSENT,
                   .has_certainty = true },
        .mark = { .given = true, .has = WAY_MARK_STATE, .state = WAY_STATE_FAILING },
        .outcome = { .from = WAY_STATE_HEALTHY,
                     .to = WAY_STATE_SUSPECT,
                     .changed = true,
                     .refused = WAY_REFUSED_SHARE },
    };
}

static void a_line_is_logfmt_whatever_a_server_wrote(void **state)
{
    (void)state;
    struct way_entry e = refused_entry();
    char line[1024];
    way_entry_line(&e, line, sizeof line);
    assert_string_equal(
        line, "thread=1 node=127.0.0.1:7001 kind=connection phase=connect step=dial "
              "error=refused errno=111 message=\"Connection \\\"refused\\\"..\" "
              "class=down blame=node n=3 certainty=unsent bytes_written=0 "
              "replies_read=0 function=mark verdict=failing "
              "where=policies/default.lua:31 from=healthy to=suspect refused=share");
    e.event.reused = true; /* it had served before */
    way_entry_line(&e, line, sizeof line);
    assert_non_null(strstr(line, " replies_read=0 reused=true function=mark "));
}

static void a_line_is_cut_where_its_place_ends(void **state)
{
    (void)state;
    struct way_entry e = refused_entry();
    char whole[1024], cut[1024];
    way_entry_line(&e, whole, sizeof whole);
    for (size_t n = 1; n <= strlen(whole) + 1; n++) {
        memset(cut, 'x', sizeof cut);
        way_entry_line(&e, cut, n);
        assert_int_equal(strlen(cut), n - 1);
        assert_memory_equal(cut, whole, n - 1);
        assert_int_equal(cut[n], 'x');
    }
}

/* ---- inputs ---- */

static void pack_something(struct way_buf *out, uint64_t number, size_t answer)
{
    static char bytes[3 * WAY_ANSWER_KEPT];
    static const struct way_layout layout = { .node = 2, .cluster = 1 };
    struct way_view v = { .node = (uint16_t)number,
                          .address = "10.0.0.1:7000",
                          .zone = "z" };
    v.memory.node[0] = (double)number;
    v.memory.cluster[0] = 3;
    struct way_memory after = v.memory;
    after.node[1] = 7;
    memset(bytes, 'x', sizeof bytes);
    way_input_pack(out, &v, &after, &layout, NULL, "policy", "1",
                   (struct way_span){ bytes, answer });
}

static void an_input_travels_packed_with_its_entry(void **state)
{
    (void)state;
    struct way_ring *r = way_ring_new(4);
    struct way_input in;
    for (uint64_t i = 0; i < 40; i++) {
        size_t answer = i % 3 ? 10 * (size_t)i : 0;
        struct way_entry e = { .seq = i, .where = "here" };
        struct way_buf packed = { 0 };
        if (i % 4)
            pack_something(&packed, i, answer);
        e.input = (struct way_span){ packed.p, way_buf_held(&packed) };
        assert_true(way_ring_put(r, &e));
        way_buf_fini(&packed); /* the ring has its own */
        const struct way_entry *got = way_ring_peek(r);
        assert_int_equal(got->seq, i);
        assert_int_equal(way_input_unpack(got, &in), i % 4 != 0);
        if (i % 4) {
            assert_int_equal(in.view.node, i);
            assert_string_equal(in.view.address, "10.0.0.1:7000");
            assert_string_equal(in.view.hostname, "");
            assert_string_equal(in.view.zone, "z");
            assert_string_equal(in.policy, "policy");
            assert_true(in.view.memory.node[0] == (double)i && in.after.node[1] == 7);
            assert_true(in.view.memory.node[1] == 0 && in.after.cluster[0] == 3);
            assert_int_equal(in.answer.n, answer);
        }
        way_ring_pop(r);
    }
    way_ring_free(r);
}

static void an_answer_is_cut_at_its_bound_and_says_so(void **state)
{
    (void)state;
    struct way_input in;
    for (int over = 0; over < 2; over++) {
        struct way_buf packed = { 0 };
        pack_something(&packed, 1, WAY_ANSWER_KEPT + (size_t)over);
        struct way_entry e = { .input = { packed.p, way_buf_held(&packed) } };
        assert_true(way_input_unpack(&e, &in));
        assert_int_equal(in.answer.n, WAY_ANSWER_KEPT);
        assert_int_equal(in.answer_cut, over);
        way_buf_fini(&packed);
    }
}

static void a_packed_input_is_as_small_as_what_it_has(void **state)
{
    (void)state;
    struct way_buf packed = { 0 };
    pack_something(&packed, 1, 0);
    if (way_buf_held(&packed) > 500)
        fail_msg("%zu bytes", way_buf_held(&packed));
    way_buf_fini(&packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_come_out_in_the_order_they_went_in),
        cmocka_unit_test(a_full_ring_refuses_and_keeps_what_it_holds),
        cmocka_unit_test(a_place_that_was_not_pushed_is_not_seen),
        cmocka_unit_test(two_threads_lose_nothing_and_tear_nothing),
        cmocka_unit_test(a_verdict_reads_as_words),
        cmocka_unit_test(a_line_is_logfmt_whatever_a_server_wrote),
        cmocka_unit_test(a_line_is_cut_where_its_place_ends),
        cmocka_unit_test(an_input_travels_packed_with_its_entry),
        cmocka_unit_test(an_answer_is_cut_at_its_bound_and_says_so),
        cmocka_unit_test(a_packed_input_is_as_small_as_what_it_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
