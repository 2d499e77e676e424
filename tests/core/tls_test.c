/* What may be relied on: both sides' certificates and the node's name are verified, each
 * refusal is told as what it is, nothing blocks and nothing raises SIGPIPE, and what a cut
 * leaves readable at the node is exactly what was told as taken. The node is OpenSSL's
 * server over a socket pair; openssl(1) makes the certificates. */
#include "tls.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[] = "/tmp/wayside-tls-XXXXXX";

static const char *in_folder(const char *name)
{
    static char paths[64][256];
    static unsigned next;
    char *path = paths[next++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static int make_certificates(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    char command[4096];
    snprintf(
        command, sizeof command,
        "cd %s && { set -e\n"
        "key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'\n"
        "for ca in ca other; do openssl req -x509 $key -subj /CN=$ca -days 2"
        " -keyout $ca.key -out $ca.crt; done\n"
        "printf 'subjectAltName=DNS:node.test,IP:127.0.0.1' > san\n"
        "sign() { openssl req $key -subj /CN=$1 -keyout $1.key -out $1.csr; openssl ca"
        " -batch -notext -config conf -cert $2.crt -keyfile $2.key -in $1.csr -extfile "
        "san"
        " -startdate 200101000000Z -enddate $3 -out $1.crt; }\n"
        "printf '[ca]\ndefault_ca=own\n[own]\ndatabase=index\nserial=serial\n"
        "new_certs_dir=.\ndefault_md=sha256\npolicy=names\n[names]\n"
        "commonName=supplied\n' > conf; : > index; echo 01 > serial\n"
        "sign node ca 491231000000Z; sign late ca 200102000000Z; sign me ca "
        "491231000000Z\n"
        "sign stranger other 491231000000Z\n"
        "mkdir cas; cp ca.crt cas; openssl rehash cas; } > log 2>&1",
        folder);
    int failed = system(command);
    snprintf(command, sizeof command, "cat %s/log >&2", folder);
    return failed && system(command) >= 0 ? failed : 0;
}

static int remove_certificates(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

/* --- the node --- */

struct pair {
    struct way_tls *context;
    struct way_tls_session s;
    SSL_CTX *node_context;
    SSL *node;
    int fd[2]; /* ours, the node's */
};

/* A socket pair takes a record whole or not at all; TCP takes a part. */
static void tcp_pair(int fd[2])
{
    struct sockaddr_in a = { .sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof a;
    int l = socket(AF_INET, SOCK_STREAM, 0), bytes = 4096;
    setsockopt(l, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    assert_int_equal(bind(l, (struct sockaddr *)&a, n), 0);
    assert_int_equal(listen(l, 1), 0);
    assert_int_equal(getsockname(l, (struct sockaddr *)&a, &n), 0);
    fd[0] = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd[0], (struct sockaddr *)&a, n), 0);
    fd[1] = accept(l, NULL, NULL);
    assert_true(fd[1] >= 0);
    close(l);
    fcntl(fd[0], F_SETFL, O_NONBLOCK);
    fcntl(fd[1], F_SETFL, O_NONBLOCK);
}

static bool over_tcp;

static struct way_tls_options trusting(void)
{
    return (struct way_tls_options){ .ca = in_folder("ca.crt") };
}

static void begin(struct pair *p, const struct way_tls_options *o, const char *cert,
                  const char *key, const char *host)
{
    struct way_err err = { "" };
    memset(p, 0, sizeof *p);
    if (over_tcp)
        tcp_pair(p->fd);
    else
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p->fd), 0);
    p->context = way_tls_new(o, &err);
    assert_string_equal(err.text, "");
    assert_non_null(p->context);
    p->node_context = SSL_CTX_new(TLS_server_method());
    assert_int_equal(SSL_CTX_use_certificate_file(p->node_context, in_folder(cert), 1),
                     1);
    assert_int_equal(SSL_CTX_use_PrivateKey_file(p->node_context, in_folder(key), 1), 1);
    assert_int_equal(SSL_CTX_load_verify_file(p->node_context, in_folder("ca.crt")), 1);
    p->node = SSL_new(p->node_context);
    SSL_set_fd(p->node, p->fd[1]);
    SSL_set_accept_state(p->node);
    assert_int_equal(way_tls_begin(&p->s, p->context, p->fd[0], host, &err), 0);
}

static void end(struct pair *p)
{
    way_tls_end(&p->s);
    way_tls_end(&p->s);
    way_tls_free(p->context);
    SSL_free(p->node);
    SSL_CTX_free(p->node_context);
    close(p->fd[0]);
    close(p->fd[1]);
}

/* 0, or -1 with the fault; the first read counts: with TLS 1.3 a node refuses us after our
 * handshake is over. */
static int shake(struct pair *p)
{
    bool done = false;
    for (int i = 0; i < 1000; i++) {
        char byte;
        if (over_tcp)
            usleep(100);
        if (!done && way_tls_handshake(&p->s) == 0)
            done = true;
        else if (!done && errno != EAGAIN)
            return -1;
        bool node_done = SSL_do_handshake(p->node) == 1;
        if (done && way_tls_read(&p->s, &byte, 1) < 0 && errno != EAGAIN)
            return -1;
        if (done && node_done)
            return 0;
    }
    fail_msg("no end of the handshake");
    return -1;
}

static void expect(const struct way_tls_options *o, const char *cert, const char *key,
                   const char *host, const char *message)
{
    struct pair p;
    begin(&p, o, cert, key, host);
    int rc = shake(&p);
    if (message) {
        assert_int_equal(rc, -1);
        assert_string_equal(p.s.message, message);
        assert_int_equal(p.s.fault, WAY_TLS_FAULT_CERTIFICATE);
    } else {
        assert_int_equal(rc, 0);
    }
    end(&p);
}

/* --- tests --- */

static void a_node_is_believed_by_its_ca_its_time_and_its_name(void **state)
{
    (void)state;
    struct way_tls_options o = trusting();
    expect(&o, "node.crt", "node.key", "node.test", NULL);
    expect(&o, "node.crt", "node.key", "127.0.0.1", NULL);
    expect(&o, "node.crt", "node.key", "other.test", "hostname mismatch");
    expect(&o, "node.crt", "node.key", "127.0.0.2", "IP address mismatch");
    expect(&o, "late.crt", "late.key", "node.test", "certificate has expired");
    expect(&o, "stranger.crt", "stranger.key", "node.test",
           "unable to get local issuer certificate");
    o.name = "node.test";
    expect(&o, "node.crt", "node.key", "127.0.0.2", NULL);
    o = (struct way_tls_options){ .ca = in_folder("cas") };
    expect(&o, "node.crt", "node.key", "node.test", NULL);
    o = (struct way_tls_options){ .ca = in_folder("ca.crt"), .skip_verify = true };
    expect(&o, "stranger.crt", "stranger.key", "other.test", NULL);
}

static void a_node_that_wants_our_certificate_gets_it_or_refuses_us(void **state)
{
    (void)state;
    static const struct {
        const char *cert, *key;
        bool taken;
    } each[] = { { "me.crt", "me.key", true },
                 { NULL, NULL, false },
                 { "stranger.crt", "stranger.key", false } };
    for (size_t i = 0; i < way_count(each); i++) {
        for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
            struct way_tls_options o = trusting();
            o.cert = each[i].cert ? in_folder(each[i].cert) : NULL;
            o.key = each[i].key ? in_folder(each[i].key) : NULL;
            struct pair p;
            begin(&p, &o, "node.crt", "node.key", "node.test");
            SSL_set_max_proto_version(p.node, version);
            SSL_set_verify(p.node, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                           NULL);
            assert_int_equal(shake(&p), each[i].taken ? 0 : -1);
            /* TLS 1.2 has no alert for "none was shown" but a failed handshake */
            if (!each[i].taken && (each[i].cert || version == TLS1_3_VERSION))
                assert_int_equal(p.s.fault, WAY_TLS_FAULT_CERTIFICATE);
            end(&p);
        }
    }
}

static void a_file_that_does_not_do_is_told_with_its_name(void **state)
{
    (void)state;
    const struct {
        struct way_tls_options o;
        const char *says;
    } each[] = {
        { { .ca = in_folder("none.crt") }, "none.crt" },
        { { .ca = in_folder("ca.key") }, "ca.key" },
        { { .ca = in_folder("ca.crt"), .cert = in_folder("me.crt") },
          "key: expected a file" },
        { { .ca = in_folder("ca.crt"), .key = in_folder("me.key") },
          "cert: expected a file" },
        { { .ca = in_folder("ca.crt"),
            .cert = in_folder("me.crt"),
            .key = in_folder("node.key") },
          "node.key" },
    };
    for (size_t i = 0; i < way_count(each); i++) {
        struct way_err err = { "" };
        assert_null(way_tls_new(&each[i].o, &err));
        assert_non_null(strstr(err.text, each[i].says));
    }
}

static void plain_text_silence_and_an_end_are_told_apart(void **state)
{
    (void)state;
    struct way_tls_options o = trusting();
    struct pair p;
    begin(&p, &o, "node.crt", "node.key", "node.test");
    assert_int_equal(way_tls_handshake(&p.s), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(p.s.want, WAY_TLS_WANT_READ);
    assert_int_equal(write(p.fd[1], "-ERR unknown command\r\n", 22), 22);
    assert_int_equal(way_tls_handshake(&p.s), -1);
    assert_int_equal(errno, EPROTO);
    assert_int_equal(p.s.fault, WAY_TLS_FAULT_PROTOCOL);
    end(&p);

    begin(&p, &o, "node.crt", "node.key", "node.test");
    assert_int_equal(way_tls_handshake(&p.s), -1);
    shutdown(p.fd[1], SHUT_WR);
    assert_int_equal(way_tls_handshake(&p.s), -1);
    assert_int_equal(p.s.fault, WAY_TLS_FAULT_EOF);
    end(&p);

    begin(&p, &o, "node.crt", "node.key", "node.test");
    assert_int_equal(shake(&p), 0);
    shutdown(p.fd[1], SHUT_RDWR);
    assert_int_equal(way_tls_write(&p.s, "x", 1), -1); /* and no SIGPIPE */
    assert_int_equal(p.s.fault, WAY_TLS_FAULT_SOCKET);
    assert_int_equal(errno, EPIPE);
    end(&p);
}

/* Reads at the node all that can be read; checks that it is the stream from `at` on. */
static size_t node_reads(struct pair *p, size_t at)
{
    static unsigned char bytes[20000];
    size_t got = 0;
    int n;
    while ((n = SSL_read(p->node, bytes, sizeof bytes)) > 0) {
        for (int i = 0; i < n; i++)
            if (bytes[i] != (unsigned char)((at + got + (size_t)i) * 7 % 251))
                fail_msg("another byte at %zu", at + got + (size_t)i);
        got += (size_t)n;
    }
    return got;
}

/* The node's socket has nothing left and its peer has ended. */
static bool ended(struct pair *p)
{
    char byte;
    return recv(p->fd[1], &byte, 1, MSG_PEEK) == 0;
}

static unsigned char *stream(size_t n)
{
    unsigned char *p = malloc(n);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++)
        p[i] = (unsigned char)(i * 7 % 251);
    return p;
}

/* Each write's buffer is at another address, and larger after EAGAIN: a queue grows. */
static void megabytes_go_through_a_narrow_socket_in_order(void **state)
{
    (void)state;
    enum { ALL = 3 << 20 };
    struct way_tls_options o = trusting();
    struct pair p;
    begin(&p, &o, "node.crt", "node.key", "node.test");
    assert_int_equal(shake(&p), 0);
    int bytes = 4096;
    setsockopt(p.fd[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    unsigned char *a = stream(ALL), *b = stream(ALL);
    size_t taken = 0, got = 0;
    unsigned full = 0, turns = 0;
    while (got < ALL && turns++ < 100000) {
        const unsigned char *from = turns % 2 ? a : b;
        size_t left = ALL - taken, most = full % 3 ? left : (left < 1000 ? left : 1000);
        ssize_t n = way_tls_write(&p.s, from + taken, p.s.pending ? left : most);
        if (n >= 0) {
            taken += (size_t)n;
            if (n > 0)
                continue;
        } else {
            assert_int_equal(errno, EAGAIN);
            assert_int_equal(p.s.want, WAY_TLS_WANT_WRITE);
            full++;
        }
        got += node_reads(&p, got);
        assert_true(got <= taken);
    }
    assert_int_equal(got, ALL);
    assert_true(full > 10);
    free(a);
    free(b);
    end(&p);
}

static void what_a_cut_leaves_readable_is_what_was_taken(void **state)
{
    (void)state;
    enum { ALL = 1 << 20, OVERHEAD = 5 + 1 + 16 }; /* TLS 1.3: header, type, tag */
    unsigned char *a = stream(ALL);
    unsigned parts = 0;
    over_tcp = true;
    for (int size = 1; size <= 20000; size += 397) {
        struct way_tls_options o = trusting();
        struct pair p;
        begin(&p, &o, "node.crt", "node.key", "node.test");
        assert_int_equal(shake(&p), 0);
        int bytes = 2048 + size;
        setsockopt(p.fd[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
        assert_int_equal(SSL_version(p.node), TLS1_3_VERSION);
        uint64_t before = BIO_number_read(SSL_get_rbio(p.node));
        size_t taken = 0, records = 0;
        ssize_t n;
        while ((n = way_tls_write(&p.s, a + taken, (size_t)size)) > 0 &&
               taken + 40000 < ALL) {
            taken += (size_t)n;
            records++;
        }
        assert_true(n < 0 && errno == EAGAIN);
        char byte; /* reading must not send the rest of the record */
        assert_int_equal(way_tls_read(&p.s, &byte, 1), -1);
        assert_int_equal(errno, EAGAIN);
        way_tls_end(&p.s);
        shutdown(p.fd[0], SHUT_WR);
        size_t got = 0;
        for (int i = 0; i < 10000 && !ended(&p); i++) {
            got += node_reads(&p, got);
            usleep(100);
        }
        got += node_reads(&p, got);
        assert_int_equal(got, taken);
        uint64_t raw = BIO_number_read(SSL_get_rbio(p.node)) - before;
        assert_true(raw >= taken + records * OVERHEAD);
        parts += raw > taken + records * OVERHEAD; /* a record's beginning came too */
        end(&p);
    }
    over_tcp = false;
    assert_true(parts > 5);
    free(a);
}

/* --- without a socket --- */

/* Carries records between the two, at most `piece` bytes at a time. */
static void carry(struct pair *p, size_t piece)
{
    char bytes[4096];
    struct way_span out = way_tls_to_send(&p->s);
    if (out.n) {
        ssize_t n = write(p->fd[0], out.p, out.n < piece ? out.n : piece);
        if (n > 0)
            way_tls_sent(&p->s, (size_t)n);
    }
    ssize_t came = recv(p->fd[0], bytes, piece < sizeof bytes ? piece : sizeof bytes, 0);
    if (came > 0)
        way_tls_came(&p->s, bytes, (size_t)came);
}

static void begin_carried(struct pair *p, const char *cert, const char *key)
{
    struct way_err err = { "" };
    struct way_tls_options o = trusting();
    begin(p, &o, cert, key, "node.test");
    way_tls_end(&p->s);
    assert_int_equal(
        way_tls_begin(&p->s, p->context, WAY_TLS_NO_SOCKET, "node.test", &err), 0);
}

static int shake_carried(struct pair *p, size_t piece)
{
    for (int i = 0; i < 100000; i++) {
        int rc = way_tls_handshake(&p->s); /* once: a second call hides the fault */
        if (rc < 0 && errno != EAGAIN)
            return -1;
        if (rc == 0 && !way_tls_to_send(&p->s).n)
            return 0;
        carry(p, piece);
        (void)SSL_do_handshake(p->node);
    }
    fail_msg("no end of the handshake");
    return -1;
}

/* Either way, in pieces of any size; between records nothing is held, within one it is. */
static void without_a_socket_the_caller_carries_records(void **state)
{
    (void)state;
    enum { ALL = 300000 };
    static const size_t pieces[] = { 1, 17, 4096 };
    unsigned char *a = stream(ALL), *back = malloc(ALL);
    assert_non_null(back);
    for (size_t i = 0; i < way_count(pieces); i++) {
        struct pair p;
        begin_carried(&p, "node.crt", "node.key");
        assert_int_equal(shake_carried(&p, pieces[i]), 0);
        size_t taken = 0, got = 0, said = 0, heard = 0;
        while (taken < ALL) { /* all of it, at once */
            ssize_t n = way_tls_write(&p.s, a + taken, ALL - taken);
            assert_true(n > 0 && n <= WAY_TLS_RECORD);
            taken += (size_t)n;
        }
        assert_false(way_tls_rests(&p.s));
        while (got < ALL) {
            (void)SSL_do_handshake(p.node);
            carry(&p, pieces[i]);
            got += node_reads(&p, got);
        }
        (void)SSL_set_mode(p.node, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                       SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        while (heard < ALL) {
            int n = said < ALL ? SSL_write(p.node, a + said, (int)(ALL - said)) : 0;
            said += n > 0 ? (size_t)n : 0;
            carry(&p, pieces[i]);
            ssize_t did = way_tls_read(&p.s, back + heard, ALL - heard);
            assert_true(did > 0 || errno == EAGAIN);
            heard += did > 0 ? (size_t)did : 0;
        }
        assert_memory_equal(a, back, ALL);
        assert_true(way_tls_rests(&p.s));
        assert_int_equal(SSL_write(p.node, "x", 1), 1);
        carry(&p, 3); /* not even its header */
        char byte;
        assert_int_equal(way_tls_read(&p.s, &byte, 1), -1);
        assert_int_equal(errno, EAGAIN);
        assert_false(way_tls_rests(&p.s));
        carry(&p, 4096);
        assert_int_equal(way_tls_read(&p.s, &byte, 1), 1);
        assert_true(way_tls_rests(&p.s));
        end(&p);
    }
    free(a);
    free(back);
}

static void without_a_socket_faults_are_the_same(void **state)
{
    (void)state;
    struct pair p;
    begin_carried(&p, "late.crt", "late.key");
    assert_int_equal(shake_carried(&p, 4096), -1);
    assert_int_equal(p.s.fault, WAY_TLS_FAULT_CERTIFICATE);
    assert_string_equal(p.s.message, "certificate has expired");
    end(&p);
    begin_carried(&p, "node.crt", "node.key");
    assert_int_equal(way_tls_handshake(&p.s), -1);
    assert_int_equal(errno, EAGAIN);
    way_tls_came(&p.s, "-ERR unknown command\r\n", 22);
    assert_int_equal(way_tls_handshake(&p.s), -1);
    assert_int_equal(p.s.fault, WAY_TLS_FAULT_PROTOCOL);
    end(&p);
    begin_carried(&p, "node.crt", "node.key");
    assert_int_equal(shake_carried(&p, 4096), 0);
    assert_int_equal(SSL_do_handshake(p.node), 1);
    assert_true(SSL_shutdown(p.node) >= 0);
    char byte;
    for (int i = 0; i < 10; i++)
        carry(&p, 4096);
    assert_int_equal(way_tls_read(&p.s, &byte, 1), -1);
    assert_int_equal(p.s.fault, WAY_TLS_FAULT_EOF);
    end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_node_is_believed_by_its_ca_its_time_and_its_name),
        cmocka_unit_test(a_node_that_wants_our_certificate_gets_it_or_refuses_us),
        cmocka_unit_test(a_file_that_does_not_do_is_told_with_its_name),
        cmocka_unit_test(plain_text_silence_and_an_end_are_told_apart),
        cmocka_unit_test(megabytes_go_through_a_narrow_socket_in_order),
        cmocka_unit_test(what_a_cut_leaves_readable_is_what_was_taken),
        cmocka_unit_test(without_a_socket_the_caller_carries_records),
        cmocka_unit_test(without_a_socket_faults_are_the_same),
    };
    return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
