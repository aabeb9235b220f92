/* A TCP echo server with nothing around it: epoll, recv, send. The floor of the echo benches.
 *
 * network.py compiles and starts it: bare_epoll CORE, or bare_tls CORE KEY. It prints its port,
 * and ends when its standard input, a pipe, is closed. It allocates only for what a socket does
 * not take at once.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel.h"

enum { SCRATCH = 256 * 1024, EVENTS = 256 };

/* What the socket has not taken yet; while there is any, nothing more is read. */
struct connection {
    struct channel channel;
    size_t left;
    char *rest;
};

static char scratch[SCRATCH];
static int poller;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int operation, struct connection *connection, unsigned interest) {
    struct epoll_event event = {.events = interest, .data.ptr = connection};
    if (epoll_ctl(poller, operation, connection->channel.descriptor, &event) < 0)
        fail("epoll_ctl");
}

static void end(struct connection *connection) {
    channel_close(&connection->channel);
    close(connection->channel.descriptor);
    free(connection->rest);
    free(connection);
}

static void receive(struct connection *connection) {
    ssize_t received = channel_receive(&connection->channel, scratch, SCRATCH);
    if (received < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (received <= 0) {
        end(connection);
        return;
    }
    ssize_t sent = channel_send(&connection->channel, scratch, received);
    if (sent < 0 && errno == EAGAIN)
        sent = 0;
    if (sent < 0) {
        end(connection);
    } else if (sent < received) {
        connection->left = received - sent;
        connection->rest = malloc(connection->left);
        if (!connection->rest)
            fail("malloc");
        memcpy(connection->rest, scratch + sent, connection->left);
        watch(EPOLL_CTL_MOD, connection, EPOLLOUT);
    }
}

static void send_rest(struct connection *connection) {
    ssize_t sent = channel_send(&connection->channel, connection->rest, connection->left);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (sent < 0) {
        end(connection);
        return;
    }
    connection->left -= sent;
    memmove(connection->rest, connection->rest + sent, connection->left);
    if (!connection->left) {
        free(connection->rest);
        connection->rest = NULL;
        watch(EPOLL_CTL_MOD, connection, EPOLLIN);
    }
}

static struct connection *add(int descriptor) {
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        fail("calloc");
    connection->channel.descriptor = descriptor;
    watch(EPOLL_CTL_ADD, connection, EPOLLIN);
    return connection;
}

static void accept_all(int listener) {
    int descriptor, on = 1;
    while ((descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        channel_open(&add(descriptor)->channel, descriptor, 1);
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        fail("accept");
}

static int listen_on_loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) < 0 ||
        listen(listener, 1024) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        fail("listen");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: bare_epoll CORE [KEY]\n");
        return 2;
    }
    channel_prepare(argc > 2 ? argv[2] : NULL);
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(atoi(argv[1]), &core);
    if (sched_setaffinity(0, sizeof core, &core) < 0)
        fail("sched_setaffinity");
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail("epoll_create1");
    struct connection *listener = add(listen_on_loopback());
    struct connection *parent = add(STDIN_FILENO);
    static struct epoll_event events[EVENTS];
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int index = 0; index < ready; index++) {
            struct connection *connection = events[index].data.ptr;
            if (connection == parent)
                return 0;
            if (connection == listener)
                accept_all(listener->channel.descriptor);
            else if (connection->left)
                send_rest(connection);
            else
                receive(connection);
        }
    }
}
