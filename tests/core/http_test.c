/* What an operator may rely on: what Prometheus scrapes is valid whatever a policy called
 * its reasons, /healthz tells a load balancer the truth, and what is not served is told. */
#include "control_kit.h"
#include "http.h"
#include "listen.h"
#include "log.h"
#include "metrics.h"
#include "resolve.h"
#include "resp.h"

#include <ctype.h>
#include <errno.h>

struct fixture {
    struct kit_control *k;
    struct way_http *http;
    uint16_t port;
    char response[1 << 18];
};

/* A port that is free now. */
static uint16_t free_port(void)
{
    struct sockaddr_in sa = { .sin_family = AF_INET };
    socklen_t n = sizeof sa;
    struct way_err err;
    int fd = way_listen("127.0.0.1:0", 0, 1, &err);
    assert_true(fd >= 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
    close(fd);
    return ntohs(sa.sin_port);
}

static int set_up(void **state)
{
    struct fixture *f = way_zalloc(sizeof *f);
    struct way_err err = { "" };
    char address[32];
    f->k = kit_control_start(KIT_EXPIRES);
    f->port = free_port();
    snprintf(address, sizeof address, "127.0.0.1:%u", f->port);
    if (way_http_new(&f->http, f->k->control, address, &err) < 0)
        fail_msg("%s", err.text);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    way_http_free(f->http);
    kit_control_stop(f->k);
    way_free(f);
    return 0;
}

static bool read_all(struct fixture *f, int fd, size_t *at)
{
    ssize_t n = recv(fd, f->response + *at, sizeof f->response - 1 - *at, MSG_DONTWAIT);
    *at += n > 0 ? (size_t)n : 0;
    f->response[*at] = 0;
    return n == 0 || (n < 0 && errno != EAGAIN);
}

/* The status; the whole response is in f->response. */
static int fetch(struct fixture *f, const char *method, const char *path)
{
    struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(f->port) };
    char request[256];
    size_t at = 0;
    int status = 0;
    int n = snprintf(request, sizeof request,
                     "%s %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n", method,
                     path, strcmp(method, "POST") ? "" : "Content-Length: 1\r\n");
    n += snprintf(request + n, sizeof request - (size_t)n, "%s",
                  strcmp(method, "POST") ? "" : "x");
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(send(fd, request, (size_t)n, MSG_NOSIGNAL), n);
    AWAIT(&f->k->loop, 3, read_all(f, fd, &at));
    close(fd);
    if (sscanf(f->response, "HTTP/1.1 %d", &status) != 1)
        fail_msg("no status in: %.200s", f->response);
    return status;
}

static const char *body(struct fixture *f)
{
    char *end = strstr(f->response, "\r\n\r\n");
    assert_non_null(end);
    return end + 4;
}

/* --- the text format --- */

static bool is_name(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)p[i]) && p[i] != '_')
            return false;
    return n > 0 && !isdigit((unsigned char)p[0]);
}

/* Behind {name="value",...}, or NULL if it is not that. */
static const char *past_labels(const char *p)
{
    if (*p != '{')
        return p;
    do {
        const char *equals = strchr(++p, '=');
        if (!equals || !is_name(p, (size_t)(equals - p)) || equals[1] != '"')
            return NULL;
        for (p = equals + 2; *p != '"'; p++) {
            if (*p == '\\' && !strchr("\\\"n", *++p))
                return NULL;
            if ((unsigned char)*p < 32)
                return NULL;
        }
        p++;
    } while (*p == ',');
    return *p == '}' ? p + 1 : NULL;
}

static void check_sample(const char *line, const char *current)
{
    size_t n = strcspn(line, "{ ");
    char *end;
    if (!is_name(line, n) || strlen(current) != n || strncmp(line, current, n))
        fail_msg("not under its TYPE (%s): %s", current, line);
    if (strncmp(line, "wayside_", 8))
        fail_msg("without prefix: %s", line);
    const char *value = past_labels(line + n);
    if (!value || *value != ' ')
        fail_msg("bad labels: %s", line);
    strtod(value + 1, &end);
    if (end == value + 1 || *end)
        fail_msg("bad value: %s", line);
}

/* Each line is HELP, TYPE or a sample under its TYPE; no name comes twice, no sample
 * either. The samples. */
static unsigned check_format(const char *text)
{
    char *copy = way_strdup(text), *rest = copy, *line;
    char current[128] = "", seen[1 << 16] = "\n", samples[1 << 17] = "\n", wanted[256];
    unsigned count = 0;
    assert_int_equal(copy[strlen(copy) - 1], '\n');
    while ((line = strsep(&rest, "\n")) && *line) {
        char name[128], type[16];
        if (sscanf(line, "# TYPE %127s %15s", name, type) == 2) {
            snprintf(wanted, sizeof wanted, "\n%s\n", name);
            if (strstr(seen, wanted))
                fail_msg("TYPE twice: %s", name);
            strcat(strcat(seen, name), "\n");
            assert_string_equal(current, name); /* HELP came before */
            assert_true(!strcmp(type, "counter") || !strcmp(type, "gauge"));
            size_t n = strlen(name);
            bool total = n > 6 && !strcmp(name + n - 6, "_total");
            assert_int_equal(total, !strcmp(type, "counter"));
        } else if (sscanf(line, "# HELP %127s %15s", name, type) == 2) {
            snprintf(current, sizeof current, "%s", name);
        } else {
            check_sample(line, current);
            snprintf(wanted, sizeof wanted, "\n%.*s\n", (int)(strrchr(line, ' ') - line),
                     line);
            if (strstr(samples, wanted))
                fail_msg("twice: %s", wanted);
            strcat(samples, wanted + 1);
            count++;
        }
    }
    way_free(copy);
    return count;
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no '%s' in: %.4000s", part, text);
}

/* --- what may be relied on --- */

static void metrics_are_valid_and_complete(void **state)
{
    struct fixture *f = *state;
    char want[256];
    kit_await_known(f->k);
    way_stat_add(f->k->stats[0], WAY_STAT_REQUESTS, 40);
    way_stat_add(f->k->stats[1], WAY_STAT_REQUESTS, 2);
    way_stat_add(f->k->stats[0], WAY_STAT_CLIENTS_TOTAL, 5);
    way_stat_add(f->k->stats[0], WAY_STAT_CLIENTS_CLOSED, 2);
    kit_refused(f->k, KIT_REPLICA);
    kit_pass_time(&f->k->loop, 0.1);
    assert_int_equal(fetch(f, "GET", "/metrics"), 200);
    assert_has(f->response, "text/plain; version=0.0.4");
    const char *text = body(f);
    assert_true(check_format(text) > WAY_STAT_COUNT + 20);
    assert_has(text, "\nwayside_requests_total 42\n");
    assert_has(text, "\nwayside_clients 3\n");
    assert_has(text, "\nwayside_slots_covered_ratio 1\n");
    assert_has(text, "\nwayside_policy_info{name=\"expires\",version=\"7\",sha=\"");
    assert_has(text, "\nwayside_node_transitions_total{from=\"healthy\",to=\"failing\","
                     "reason=\"refused\"} 1\n");
    const char *replica = f->k->node[KIT_REPLICA].address;
    snprintf(want, sizeof want,
             "\nwayside_node_errors_total{node=\"%s\",phase=\"connect\",error="
             "\"refused\"} 1\n",
             replica);
    assert_has(text, want);
    snprintf(want, sizeof want,
             "\nwayside_node_state{node=\"%s\",role=\"replica\",state=\"failing\"} 1\n",
             replica);
    assert_has(text, want);
    snprintf(want, sizeof want,
             "\nwayside_node_state{node=\"%s\",role=\"replica\",state=\"healthy\"} 0\n",
             replica);
    assert_has(text, want);
    assert_has(text, "\nwayside_topology_age_seconds 0.");
    assert_has(text, "\nwayside_process_resident_memory_bytes ");
}

static void an_odd_reason_does_not_break_the_format(void **state)
{
    struct fixture *f = *state;
    kit_await_known(f->k);
    struct way_entry *e = way_ring_place(f->k->ring[0]);
    *e = (struct way_entry){
        .function = WAY_FN_MARK,
        .node = (uint16_t)kit_index(f->k, KIT_REPLICA),
        .mark = { .given = true, .has = WAY_MARK_REASON, .reason = "a \"b\\ \n\377" },
        .outcome = { .changed = true, .from = WAY_STATE_HEALTHY, .to = WAY_STATE_FAILING }
    };
    way_ring_push(f->k->ring[0]);
    kit_pass_time(&f->k->loop, 0.1);
    assert_int_equal(fetch(f, "GET", "/metrics"), 200);
    check_format(body(f));
    assert_has(body(f), "reason=\"a \\\"b\\\\ ??\"} 1\n");
}

static void metrics_are_valid_before_anything_is_known(void **state)
{
    struct fixture *f = *state;
    struct way_buf out = { 0 };
    way_metrics_write(f->k->control, &out);
    way_buf_put(&out, "", 1);
    check_format(out.p + out.off);
    assert_null(strstr(out.p + out.off, "\nwayside_topology_age_seconds "));
    way_buf_fini(&out);
}

static void health_is_told_truly(void **state)
{
    struct fixture *f = *state;
    kit_node_down(&f->k->node[KIT_MASTER]);
    assert_int_equal(fetch(f, "GET", "/healthz"), 503);
    assert_has(body(f), "topology is not known");
    kit_node_up(&f->k->node[KIT_MASTER]);
    kit_await_known(f->k);
    assert_int_equal(fetch(f, "GET", "/healthz"), 200);
    assert_has(body(f), "ok");
    char *range = strstr(f->k->nodes, "0-16383");
    memcpy(range, "0-8191 ", 7); /* half of the slots lose their owner */
    char *epoch = strstr(f->k->nodes, " 1 connected");
    epoch[1] = '2';
    way_control_refresh(f->k->control);
    AWAIT(&f->k->loop, 3, way_health_coverage(f->k->health) < 1);
    assert_int_equal(fetch(f, "GET", "/healthz"), 503);
    assert_has(body(f), "50.00% of the slots have no owner");
}

static void what_is_not_served_is_told(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fetch(f, "GET", "/"), 200);
    assert_has(body(f), "/metrics");
    assert_int_equal(fetch(f, "GET", "/nothing"), 404);
    assert_int_equal(fetch(f, "GET", "/metrics/"), 404);
    assert_int_equal(fetch(f, "POST", "/metrics"), 405);
    assert_has(f->response, "Allow: GET, HEAD");
    assert_int_equal(fetch(f, "DELETE", "/"), 405);
    assert_int_equal(fetch(f, "HEAD", "/metrics"), 200);
    assert_string_equal(body(f), "");
}

static void a_port_that_is_taken_is_told(void **state)
{
    struct fixture *f = *state;
    struct way_http *second;
    struct way_err err = { "" };
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", f->port);
    assert_int_equal(way_http_new(&second, f->k->control, address, &err), -1);
    assert_memory_equal(err.text, "admin.http: ", 12);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(metrics_are_valid_and_complete),
        TEST(an_odd_reason_does_not_break_the_format),
        TEST(metrics_are_valid_before_anything_is_known),
        TEST(health_is_told_truly),
        TEST(what_is_not_served_is_told),
        TEST(a_port_that_is_taken_is_told),
    };
    struct way_err err;
    way_log_level(WAY_ERROR);
    if (way_resolver_library_init(&err) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
