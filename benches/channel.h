/* One end of a connection: a socket or, compiled with -DTLS, OpenSSL over one.
 *
 * load.c and bare_epoll.c send and receive through it; network.py compiles each of them both ways.
 * It answers as the kernel does, -1 and EAGAIN while nothing can be done, and never blocks then.
 */

#ifndef CHANNEL_H
#define CHANNEL_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#ifdef TLS

#include <openssl/ssl.h>

struct channel {
    int descriptor;
    SSL *tls;
};

static SSL_CTX *channel_context;

/* A server names the file that holds its key and certificate; a client trusts anybody. */
static void channel_prepare(const char *server_file) {
    channel_context = SSL_CTX_new(server_file ? TLS_server_method() : TLS_client_method());
    if (!channel_context ||
        (server_file &&
         (SSL_CTX_use_certificate_chain_file(channel_context, server_file) != 1 ||
          SSL_CTX_use_PrivateKey_file(channel_context, server_file, SSL_FILETYPE_PEM) != 1))) {
        fprintf(stderr, "OpenSSL has no context\n");
        exit(1);
    }
    SSL_CTX_set_mode(channel_context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                          SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                          SSL_MODE_RELEASE_BUFFERS);
}

static void channel_open(struct channel *channel, int descriptor, int is_server) {
    channel->descriptor = descriptor;
    channel->tls = SSL_new(channel_context);
    if (!channel->tls || SSL_set_fd(channel->tls, descriptor) != 1) {
        fprintf(stderr, "OpenSSL has no connection\n");
        exit(1);
    }
    if (is_server) {
        SSL_set_accept_state(channel->tls);
    } else if (SSL_connect(channel->tls) != 1) {
        fprintf(stderr, "the handshake failed\n");
        exit(1);
    }
}

static void channel_close(struct channel *channel) {
    SSL_free(channel->tls);
}

static ssize_t channel_failed(struct channel *channel, int answer) {
    int reason = SSL_get_error(channel->tls, answer);
    if (reason == SSL_ERROR_ZERO_RETURN)
        return 0;
    errno = reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
    return -1;
}

/* OpenSSL takes and gives one record at a time: as many of them as there are. */
static ssize_t channel_receive(struct channel *channel, char *into, size_t room) {
    size_t received = 0;
    while (received < room) {
        int answer = SSL_read(channel->tls, into + received, room - received);
        if (answer > 0)
            received += answer;
        else
            return received ? (ssize_t)received : channel_failed(channel, answer);
    }
    return received;
}

static ssize_t channel_send(struct channel *channel, const char *bytes, size_t size) {
    size_t sent = 0;
    while (sent < size) {
        int answer = SSL_write(channel->tls, bytes + sent, size - sent);
        if (answer > 0)
            sent += answer;
        else
            return sent ? (ssize_t)sent : channel_failed(channel, answer);
    }
    return sent;
}

#else

struct channel {
    int descriptor;
};

static void channel_prepare(const char *server_file) {
    (void)server_file;
}

static void channel_open(struct channel *channel, int descriptor, int is_server) {
    (void)is_server;
    channel->descriptor = descriptor;
}

static void channel_close(struct channel *channel) {
    (void)channel;
}

static ssize_t channel_receive(struct channel *channel, char *into, size_t room) {
    return recv(channel->descriptor, into, room, 0);
}

static ssize_t channel_send(struct channel *channel, const char *bytes, size_t size) {
    return send(channel->descriptor, bytes, size, MSG_NOSIGNAL);
}

#endif
#endif
