/* floor - how cheaply can one core move RESP between clients and a cluster's nodes?
 *
 *   floor mux  LISTEN PORT:FROM-TO ...   all clients share one connection for each node:
 *                                        frames RESP, routes by slot, restores the order
 *                                        of each client's replies
 *   floor copy LISTEN PORT               a connection to the node for each client, bytes
 *                                        copied by read() and write()
 *
 * A lower bound to hold proxies against, not a proxy: one thread, epoll, 127.0.0.1, and no
 * handling of faults. The topology is what the arguments say; a node that closes ends it.
 *
 * A request is in two queues: its client's, in the order of arrival, and its node's, in
 * the order of sending, which is the order of replies. A reply to the oldest request of a
 * client is copied straight to the client's output; one that came before its turn waits in
 * its request. What a pass of the loop wrote into an output goes out at the pass's end, by
 * one write() for each connection. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    SLOTS = 16384,
    NODES = 64,
    EVENTS = 256,
    BACKLOG = 511,
    READ_BYTES = 65536,  /* room made before each read */
    FIRST_BYTES = 32768, /* a buffer's first size */
};

struct bytes {
    char *p;
    size_t off, len, cap;
};

struct request {
    struct request *next_of_client, *next_of_node; /* the latter links free ones too */
    struct conn *client;
    char *reply; /* that came before its turn, or NULL */
    size_t reply_bytes;
    bool answered;
};

struct conn {
    int fd;
    bool is_node, is_dirty, is_dead;
    bool watches_write;
    unsigned pending;  /* requests of this client without a final reply */
    struct conn *peer; /* of copy */
    struct conn *next_dirty;
    struct bytes in, out;
    struct request *head, *tail;
};

static struct {
    int epoll;
    bool mux;
    int copy_port;
    struct conn *node[NODES];
    unsigned nodes;
    uint8_t node_of[SLOTS];
    uint16_t crc[256];
    struct conn *dirty;
    struct request *unused;
} self;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* ---- bytes ---- */

static void make_room(struct bytes *b, size_t n)
{
    if (b->off && b->off == b->len)
        b->off = b->len = 0;
    if (b->len + n <= b->cap)
        return;
    if (b->off) {
        memmove(b->p, b->p + b->off, b->len - b->off);
        b->len -= b->off;
        b->off = 0;
    }
    if (b->len + n <= b->cap)
        return;
    while (b->len + n > b->cap)
        b->cap = b->cap ? b->cap * 2 : FIRST_BYTES;
    b->p = realloc(b->p, b->cap);
    if (!b->p)
        die("realloc");
}

static void put(struct bytes *b, const char *p, size_t n)
{
    make_room(b, n);
    memcpy(b->p + b->len, p, n);
    b->len += n;
}

/* ---- connections ---- */

static void watch(struct conn *c, int how, uint32_t events)
{
    struct epoll_event e = { .events = events, .data.ptr = c };
    if (epoll_ctl(self.epoll, how, c->fd, &e))
        die("epoll_ctl");
}

static struct conn *conn_new(int fd, bool is_node)
{
    int one = 1;
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        die("calloc");
    c->fd = fd;
    c->is_node = is_node;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    return c;
}

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){ .sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static struct conn *dial(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = loopback(port);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to))
        die("connect");
    return conn_new(fd, true);
}

static void mark_dirty(struct conn *c)
{
    if (c->is_dirty)
        return;
    c->is_dirty = true;
    c->next_dirty = self.dirty;
    self.dirty = c;
}

static void watch_write(struct conn *c, bool on)
{
    if (c->watches_write == on)
        return;
    c->watches_write = on;
    watch(c, EPOLL_CTL_MOD, on ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void flush_out(struct conn *c)
{
    struct bytes *b = &c->out;
    while (b->off < b->len) {
        ssize_t n = write(c->fd, b->p + b->off, b->len - b->off);
        if (n < 0) {
            if (errno == EAGAIN)
                watch_write(c, true);
            return;
        }
        b->off += (size_t)n;
    }
    b->off = b->len = 0;
    watch_write(c, false);
}

/* A client that went away is kept while replies to it are still to come. */
static void reap(struct conn *c)
{
    if (!c->is_dead || c->pending || c->is_dirty)
        return;
    free(c->in.p);
    free(c->out.p);
    free(c);
}

/* ---- RESP ---- */

/* The length of the value at p, 0 if it is not whole yet; `key`, if given, becomes the
 * second element of an array. */
static size_t frame(const char *p, size_t n, const char **key, size_t *key_bytes)
{
    if (n < 4)
        return 0;
    const char *cr = memchr(p, '\r', n);
    if (!cr || (size_t)(cr - p) + 2 > n)
        return 0;
    size_t used = (size_t)(cr - p) + 2;
    if (*p == '$') {
        long bytes = atol(p + 1);
        if (bytes < 0)
            return used;
        if (n < used + (size_t)bytes + 2)
            return 0;
        if (key) {
            *key = p + used;
            *key_bytes = (size_t)bytes;
        }
        return used + (size_t)bytes + 2;
    }
    long elements = *p == '*' ? atol(p + 1) : 0;
    for (long i = 0; i < elements; i++) {
        size_t more = frame(p + used, n - used, key && i == 1 ? key : NULL, key_bytes);
        if (!more)
            return 0;
        used += more;
    }
    return used;
}

static void crc_init(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint16_t c = (uint16_t)(i << 8);
        for (int bit = 0; bit < 8; bit++)
            c = (uint16_t)((c << 1) ^ (c & 0x8000 ? 0x1021 : 0));
        self.crc[i] = c;
    }
}

static unsigned slot_of(const char *key, size_t n)
{
    const char *open = memchr(key, '{', n);
    const char *close = open ? memchr(open, '}', (size_t)(key + n - open)) : NULL;
    if (close && close > open + 1) {
        key = open + 1;
        n = (size_t)(close - key);
    }
    uint16_t c = 0;
    while (n--)
        c = (uint16_t)((c << 8) ^ self.crc[(c >> 8) ^ (uint8_t)*key++]);
    return c & (SLOTS - 1);
}

/* ---- requests ---- */

static struct request *request_new(struct conn *client)
{
    struct request *r = self.unused;
    if (r)
        self.unused = r->next_of_node;
    else if (!(r = malloc(sizeof *r)))
        die("malloc");
    *r = (struct request){ .client = client };
    return r;
}

static void enqueue(struct request *r, struct conn *client, struct conn *node)
{
    if (client->tail)
        client->tail->next_of_client = r;
    else
        client->head = r;
    client->tail = r;
    client->pending++;
    if (node->tail)
        node->tail->next_of_node = r;
    else
        node->head = r;
    node->tail = r;
}

static void pop_of_client(struct conn *client)
{
    struct request *r = client->head;
    client->head = r->next_of_client;
    if (!client->head)
        client->tail = NULL;
    client->pending--;
    r->next_of_node = self.unused;
    self.unused = r;
}

static struct request *pop_of_node(struct conn *node)
{
    struct request *r = node->head;
    if (!r) {
        fprintf(stderr, "floor: a reply that nobody waits for\n");
        exit(1);
    }
    node->head = r->next_of_node;
    if (!node->head)
        node->tail = NULL;
    return r;
}

static void read_requests(struct conn *client)
{
    struct bytes *b = &client->in;
    while (b->off < b->len) {
        const char *p = b->p + b->off, *key = "";
        size_t key_bytes = 0;
        size_t n = frame(p, b->len - b->off, &key, &key_bytes);
        if (!n)
            break;
        struct conn *node = self.node[self.node_of[slot_of(key, key_bytes)]];
        enqueue(request_new(client), client, node);
        put(&node->out, p, n);
        mark_dirty(node);
        b->off += n;
    }
}

static void answer(struct request *r, const char *p, size_t n)
{
    struct conn *client = r->client;
    if (client->head != r) {
        r->reply = malloc(n);
        if (!r->reply)
            die("malloc");
        memcpy(r->reply, p, n);
        r->reply_bytes = n;
        r->answered = true;
        return;
    }
    put(&client->out, p, n);
    pop_of_client(client);
    while (client->head && client->head->answered) {
        put(&client->out, client->head->reply, client->head->reply_bytes);
        free(client->head->reply);
        pop_of_client(client);
    }
    mark_dirty(client);
}

static void read_replies(struct conn *node)
{
    struct bytes *b = &node->in;
    while (b->off < b->len) {
        const char *p = b->p + b->off;
        size_t n = frame(p, b->len - b->off, NULL, NULL);
        if (!n)
            break;
        answer(pop_of_node(node), p, n);
        b->off += n;
    }
}

/* ---- the loop ---- */

static void accept_client(int listener)
{
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        return;
    struct conn *client = conn_new(fd, false);
    if (self.mux)
        return;
    client->peer = dial(self.copy_port);
    client->peer->peer = client;
}

static void close_conn(struct conn *c)
{
    if (self.mux && c->is_node) {
        fprintf(stderr, "floor: a node closed its connection\n");
        exit(1);
    }
    close(c->fd);
    c->is_dead = true;
    if (self.mux) {
        mark_dirty(c); /* so that it is reaped */
    } else if (!c->peer->is_dead) {
        close(c->peer->fd);
        c->peer->is_dead = true;
    }
}

static void on_readable(struct conn *c)
{
    struct bytes *b = self.mux ? &c->in : &c->peer->out;
    make_room(b, READ_BYTES);
    ssize_t n = read(c->fd, b->p + b->len, b->cap - b->len);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        close_conn(c);
        return;
    }
    b->len += (size_t)n;
    if (!self.mux)
        mark_dirty(c->peer);
    else if (c->is_node)
        read_replies(c);
    else
        read_requests(c);
}

static void flush_dirty(void)
{
    while (self.dirty) {
        struct conn *c = self.dirty;
        self.dirty = c->next_dirty;
        c->is_dirty = false;
        if (!c->is_dead)
            flush_out(c);
        else
            c->out.off = c->out.len = 0;
        if (self.mux)
            reap(c);
    }
}

static void run(int listener)
{
    struct epoll_event event[EVENTS];
    for (;;) {
        int n = epoll_wait(self.epoll, event, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = event[i].data.ptr;
            if (!c) {
                accept_client(listener);
                continue;
            }
            if (c->is_dead)
                continue;
            if (event[i].events & EPOLLOUT)
                mark_dirty(c);
            if (event[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                on_readable(c);
        }
        flush_dirty();
    }
}

/* ---- starting ---- */

static int listen_on(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in at = loopback(port);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL };
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, BACKLOG) ||
        epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &e))
        die("listen");
    return fd;
}

static bool add_node(const char *word)
{
    int port, from, to;
    if (self.nodes == NODES || sscanf(word, "%d:%d-%d", &port, &from, &to) != 3 ||
        from < 0 || from > to || to >= SLOTS)
        return false;
    memset(self.node_of + from, (int)self.nodes, (size_t)(to - from + 1));
    self.node[self.nodes++] = dial(port);
    return true;
}

static int usage(void)
{
    fprintf(stderr,
            "usage: floor mux LISTEN PORT:FROM-TO ... | floor copy LISTEN PORT\n");
    return 2;
}

int main(int argc, char **argv)
{
    self.mux = argc >= 4 && !strcmp(argv[1], "mux");
    if (!self.mux && (argc != 4 || strcmp(argv[1], "copy")))
        return usage();
    crc_init();
    self.epoll = epoll_create1(0);
    for (int i = 3; self.mux && i < argc; i++)
        if (!add_node(argv[i]))
            return usage();
    if (!self.mux)
        self.copy_port = atoi(argv[3]);
    run(listen_on(atoi(argv[2])));
}
