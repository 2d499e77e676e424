/* tls - see tls.h. OpenSSL writes through a BIO of ours, for its own would raise SIGPIPE,
 * which a library must not. */
#include "tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <sys/socket.h>

struct way_tls {
    SSL_CTX *ctx;
    BIO_METHOD *method;
    char *name;
    bool skip_verify;
};

enum { RESTING_BYTES = 4096 }; /* in each direction, of a session that rests */

/* ---- the socket ---- */

static int bio_write(BIO *b, const char *p, int n)
{
    struct way_tls_session *s = BIO_get_data(b);
    ssize_t did;
    BIO_clear_retry_flags(b);
    if (s->fd == WAY_TLS_NO_SOCKET) {
        way_buf_put(&s->out, p, (size_t)n);
        return n;
    }
    do {
        did = send(s->fd, p, (size_t)n, MSG_NOSIGNAL);
    } while (did < 0 && errno == EINTR);
    if (did < 0 && errno == EAGAIN)
        BIO_set_retry_write(b);
    return (int)did;
}

/* What has come, as recv() would give it. */
static ssize_t take_come(struct way_tls_session *s, char *p, size_t n)
{
    size_t held = way_buf_held(&s->in);
    n = n < held ? n : held;
    if (!n) {
        errno = EAGAIN;
        return -1;
    }
    memcpy(p, s->in.p + s->in.off, n);
    s->in.off += n;
    return (ssize_t)n;
}

static int bio_read(BIO *b, char *p, int n)
{
    struct way_tls_session *s = BIO_get_data(b);
    ssize_t did;
    do {
        did = s->fd == WAY_TLS_NO_SOCKET ? take_come(s, p, (size_t)n)
                                         : recv(s->fd, p, (size_t)n, 0);
    } while (did < 0 && errno == EINTR);
    BIO_clear_retry_flags(b);
    if (did < 0 && errno == EAGAIN)
        BIO_set_retry_read(b);
    if (did == 0)
        BIO_set_flags(b, BIO_FLAGS_IN_EOF);
    return (int)did;
}

static long bio_ctrl(BIO *b, int what, long n, void *p)
{
    (void)n, (void)p;
    if (what == BIO_CTRL_EOF)
        return BIO_test_flags(b, BIO_FLAGS_IN_EOF) != 0;
    return what == BIO_CTRL_FLUSH;
}

/* ---- the context ---- */

static const char *last_reason(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_last_error());
    return text ? text : "unknown error";
}

static int trust(SSL_CTX *ctx, const char *ca, struct way_err *err)
{
    if (!ca)
        return SSL_CTX_set_default_verify_paths(ctx) == 1
                   ? 0
                   : way_fail(err, "ca: the system's: %s", last_reason());
    bool folder = false;
    {
        BIO *probe = BIO_new_file(ca, "r"); /* fopen() takes a folder, reading it fails */
        char byte;
        folder = probe && BIO_read(probe, &byte, 1) < 0;
        BIO_free(probe);
        ERR_clear_error();
    }
    int ok =
        folder ? SSL_CTX_load_verify_dir(ctx, ca) : SSL_CTX_load_verify_file(ctx, ca);
    return ok == 1 ? 0 : way_fail(err, "ca: %s: %s", ca, last_reason());
}

/* OpenSSL's own would ask at the terminal. */
static int no_password(char *p, int n, int writing, void *arg)
{
    (void)p, (void)n, (void)writing, (void)arg;
    return -1;
}

static int show(SSL_CTX *ctx, const char *cert, const char *key, struct way_err *err)
{
    if (!cert && !key)
        return 0;
    if (!cert || !key)
        return way_fail(err,
                        "%s: expected a file, for the other of cert and key is given, "
                        "got nothing",
                        cert ? "key" : "cert");
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        return way_fail(err, "cert: %s: %s", cert, last_reason());
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
        return way_fail(err, "key: %s: %s", key, last_reason());
    return 0;
}

struct way_tls *way_tls_new(const struct way_tls_options *o, struct way_err *err)
{
    struct way_tls *t = way_zalloc(sizeof *t);
    ERR_clear_error();
    t->skip_verify = o->skip_verify;
    t->name = o->name ? way_strdup(o->name) : NULL;
    t->ctx = SSL_CTX_new(TLS_client_method());
    t->method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "wayside");
    if (!t->ctx || !t->method) {
        way_fail(err, "OpenSSL: %s", last_reason());
        way_tls_free(t);
        return NULL;
    }
    BIO_meth_set_write(t->method, bio_write);
    BIO_meth_set_read(t->method, bio_read);
    BIO_meth_set_ctrl(t->method, bio_ctrl);
    SSL_CTX_set_min_proto_version(t->ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(t->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    /* A session keeps its buffers: taking and giving them would cost each burst. */
    SSL_CTX_set_mode(t->ctx,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_default_passwd_cb(t->ctx, no_password);
    SSL_CTX_set_quiet_shutdown(t->ctx, 1);
    SSL_CTX_set_verify(t->ctx, o->skip_verify ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    if (trust(t->ctx, o->ca, err) < 0 || show(t->ctx, o->cert, o->key, err) < 0) {
        way_tls_free(t);
        ERR_clear_error();
        return NULL;
    }
    return t;
}

void way_tls_free(struct way_tls *t)
{
    if (!t)
        return;
    SSL_CTX_free(t->ctx);
    BIO_meth_free(t->method);
    way_free(t->name);
    way_free(t);
}

/* ---- a session ---- */

static bool is_address(const char *host)
{
    unsigned char raw[16];
    return inet_pton(AF_INET, host, raw) == 1 || inet_pton(AF_INET6, host, raw) == 1;
}

static bool set_name(SSL *ssl, const struct way_tls *t, const char *host)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (is_address(host))
        return t->skip_verify || X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1;
    if (SSL_set_tlsext_host_name(ssl, host) != 1)
        return false;
    return t->skip_verify || SSL_set1_host(ssl, host) == 1;
}

int way_tls_begin(struct way_tls_session *s, const struct way_tls *t, int fd,
                  const char *host, struct way_err *err)
{
    *s = (struct way_tls_session){ .fd = fd };
    ERR_clear_error();
    SSL *ssl = SSL_new(t->ctx);
    BIO *bio = BIO_new(t->method);
    if (!ssl || !bio || !set_name(ssl, t, t->name ? t->name : host)) {
        BIO_free(bio);
        SSL_free(ssl);
        return way_fail(err, "TLS to %s: %s", host, last_reason());
    }
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_connect_state(ssl);
    s->ssl = ssl;
    return 0;
}

void way_tls_end(struct way_tls_session *s)
{
    SSL_free(s->ssl);
    s->ssl = NULL;
    way_buf_fini(&s->in);
    way_buf_fini(&s->out);
}

/* The alerts by which a node says that it does not take our certificate. */
static bool is_certificate_alert(int reason)
{
    switch (reason) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    case SSL_R_SSLV3_ALERT_NO_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA: return true;
    default: return false;
    }
}

static void tell(struct way_tls_session *s, enum way_tls_fault fault, const char *text)
{
    s->fault = fault;
    snprintf(s->message, sizeof s->message, "%s", text);
}

/* What a call that returned `did` has come to: -1, with everything told. */
static int failed(struct way_tls_session *s, int did, int errnum)
{
    int kind = SSL_get_error(s->ssl, did);
    int reason = ERR_GET_REASON(ERR_peek_error());
    long verified = SSL_get_verify_result(s->ssl);
    if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE) {
        s->want = kind == SSL_ERROR_WANT_READ ? WAY_TLS_WANT_READ : WAY_TLS_WANT_WRITE;
        errno = EAGAIN;
        return -1;
    }
    if (kind == SSL_ERROR_ZERO_RETURN ||
        (kind == SSL_ERROR_SSL && reason == SSL_R_UNEXPECTED_EOF_WHILE_READING))
        tell(s, WAY_TLS_FAULT_EOF, "the node closed the connection");
    else if (kind == SSL_ERROR_SYSCALL)
        tell(s, errnum ? WAY_TLS_FAULT_SOCKET : WAY_TLS_FAULT_EOF,
             errnum ? strerror(errnum) : "the node closed the connection");
    else if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED && verified != X509_V_OK)
        tell(s, WAY_TLS_FAULT_CERTIFICATE, X509_verify_cert_error_string(verified));
    else
        tell(s,
             is_certificate_alert(reason) ? WAY_TLS_FAULT_CERTIFICATE
                                          : WAY_TLS_FAULT_PROTOCOL,
             last_reason());
    ERR_clear_error();
    errno = s->fault == WAY_TLS_FAULT_SOCKET ? errnum : EPROTO;
    return -1;
}

int way_tls_handshake(struct way_tls_session *s)
{
    ERR_clear_error();
    errno = 0;
    int did = SSL_do_handshake(s->ssl);
    return did == 1 ? 0 : failed(s, did, errno);
}

ssize_t way_tls_write(struct way_tls_session *s, const void *p, size_t n)
{
    if (!n)
        return 0;
    if (s->pending) /* the record is made; more would be refused as another one */
        n = s->pending;
    else if (n > SSL3_RT_MAX_PLAIN_LENGTH)
        n = SSL3_RT_MAX_PLAIN_LENGTH;
    ERR_clear_error();
    errno = 0;
    int did = SSL_write(s->ssl, p, (int)n);
    if (did > 0) {
        s->pending = 0;
        return did;
    }
    s->pending = n;
    return failed(s, did, errno);
}

ssize_t way_tls_read(struct way_tls_session *s, void *p, size_t n)
{
    if (s->ended) {
        errno = s->errnum;
        return -1;
    }
    ERR_clear_error();
    errno = 0;
    int did = SSL_read(s->ssl, p, n > INT_MAX ? INT_MAX : (int)n);
    if (did > 0)
        return did;
    failed(s, did, errno);
    s->ended = errno != EAGAIN;
    s->errnum = errno;
    return -1;
}

/* ---- without a socket ---- */

void way_tls_came(struct way_tls_session *s, const char *p, size_t n)
{
    if (!way_buf_held(&s->in))
        way_buf_reset(&s->in);
    way_buf_put(&s->in, p, n);
}

struct way_span way_tls_to_send(const struct way_tls_session *s)
{
    size_t n = way_buf_held(&s->out);
    return (struct way_span){ n ? s->out.p + s->out.off : NULL, n };
}

void way_tls_sent(struct way_tls_session *s, size_t n)
{
    s->out.off += n;
    if (!way_buf_held(&s->out))
        way_buf_reset(&s->out);
}

bool way_tls_rests(struct way_tls_session *s)
{
    if (way_buf_held(&s->in) || way_buf_held(&s->out) || SSL_has_pending(s->ssl))
        return false;
    way_buf_trim(&s->in, RESTING_BYTES);
    way_buf_trim(&s->out, RESTING_BYTES);
    return true;
}
