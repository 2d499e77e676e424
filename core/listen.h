/* listen - a listening socket from an address as the configuration writes it, and what
 * every TCP socket here is set to, whoever opened it. */
#ifndef WAY_LISTEN_H
#define WAY_LISTEN_H

#include "base.h"
#include "limits.h"

/* "host:port" (a numeric address or a name that resolves at once, such as localhost;
 * "[::1]:6380"; "*:6380" all addresses) or "unix:/path". The socket is non-blocking and
 * close-on-exec. A unix socket is made with `mode` from its first moment; a stale one that
 * nobody listens on is replaced, a live one and any other file are refused.
 * Returns the descriptor, or -1. */
int way_listen(const char *address, unsigned mode, int backlog,
               struct way_err *err) WAY_MUST_CHECK;

/* No delay, keepalive and TCP_USER_TIMEOUT, for a TCP socket to a node before it dials or
 * of a client: who vanished without a word is found out though nothing is in flight. */
void way_listen_tune(int fd, const struct way_timeouts *t);

/* Closes it, and removes the unix socket's file. fd -1: does nothing. */
void way_listen_close(int fd, const char *address);

#endif
