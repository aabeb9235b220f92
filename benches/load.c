/* The load of the echo benches: connections that each send a message, wait for its echo, and
 * send the next.
 *
 * network.py compiles and starts it: load CORE PORT CONNECTIONS SIZE WARM_UP SECONDS SERVER_PID.
 * It prints, as JSON, what it counted in the measured seconds, with the processor time that the
 * server used in just these. It never accepts an echo that differs from what was sent.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"

enum { SCRATCH = 256 * 1024, EVENTS = 256, PATIENCE_MS = 10000 };

struct connection {
    struct channel channel;
    int waits_to_send;
    size_t sent, received;
    uint64_t started_ns;
};

struct latencies {
    uint32_t *ns;
    size_t count, room;
};

static char scratch[SCRATCH], *message;
static size_t size;
static int poller;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t read_ns(clockid_t clock) {
    struct timespec now;
    if (clock_gettime(clock, &now) < 0)
        fail("clock_gettime");
    return (uint64_t)now.tv_sec * 1000000000u + now.tv_nsec;
}

static void watch(int operation, struct connection *connection) {
    unsigned interest = EPOLLIN | (connection->waits_to_send ? EPOLLOUT : 0);
    struct epoll_event event = {.events = interest, .data.ptr = connection};
    if (epoll_ctl(poller, operation, connection->channel.descriptor, &event) < 0)
        fail("epoll_ctl");
}

static void continue_sending(struct connection *connection) {
    ssize_t sent = channel_send(&connection->channel, message + connection->sent,
                                size - connection->sent);
    if (sent < 0 && errno != EAGAIN)
        fail("send");
    connection->sent += sent < 0 ? 0 : sent;
    int waits_to_send = connection->sent < size;
    if (waits_to_send != connection->waits_to_send) {
        connection->waits_to_send = waits_to_send;
        watch(EPOLL_CTL_MOD, connection);
    }
}

static void send_message(struct connection *connection) {
    connection->sent = connection->received = 0;
    connection->started_ns = read_ns(CLOCK_MONOTONIC);
    continue_sending(connection);
}

/* Whether the echo is complete. */
static int receive(struct connection *connection) {
    ssize_t received = channel_receive(&connection->channel, scratch, SCRATCH);
    if (received < 0 && errno == EAGAIN)
        return 0;
    if (received < 0)
        fail("recv");
    if (received == 0 || connection->received + received > connection->sent ||
        memcmp(scratch, message + connection->received, received) != 0) {
        fprintf(stderr, received ? "the echo is wrong\n" : "the server hung up\n");
        exit(1);
    }
    connection->received += received;
    return connection->received == size;
}

static void record(struct latencies *latencies, uint64_t ns) {
    if (latencies->count == latencies->room) {
        latencies->room = latencies->room ? latencies->room * 2 : 1 << 18;
        latencies->ns = realloc(latencies->ns, latencies->room * sizeof *latencies->ns);
        if (!latencies->ns)
            fail("realloc");
    }
    latencies->ns[latencies->count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

/* Echo until `end_ns`. */
static void load(uint64_t end_ns, struct latencies *latencies) {
    static struct epoll_event events[EVENTS];
    while (read_ns(CLOCK_MONOTONIC) < end_ns) {
        int ready = epoll_wait(poller, events, EVENTS, PATIENCE_MS);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait");
        if (ready == 0) {
            fprintf(stderr, "the server is silent\n");
            exit(1);
        }
        for (int index = 0; index < ready; index++) {
            struct connection *connection = events[index].data.ptr;
            if (events[index].events & EPOLLOUT)
                continue_sending(connection);
            if (events[index].events & ~EPOLLOUT && receive(connection)) {
                record(latencies, read_ns(CLOCK_MONOTONIC) - connection->started_ns);
                send_message(connection);
            }
        }
    }
}

static void open_connection(struct connection *connection, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0 ||
        connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    channel_open(&connection->channel, descriptor, 0);
    if (fcntl(descriptor, F_SETFL, O_NONBLOCK) < 0)
        fail("fcntl");
    watch(EPOLL_CTL_ADD, connection);
}

static int by_value(const void *left, const void *right) {
    uint32_t one = *(const uint32_t *)left, other = *(const uint32_t *)right;
    return (one > other) - (one < other);
}

static void print(struct latencies *latencies, uint64_t elapsed_ns, uint64_t server_ns) {
    if (!latencies->count) {
        fprintf(stderr, "no echo came back in time\n");
        exit(1);
    }
    qsort(latencies->ns, latencies->count, sizeof *latencies->ns, by_value);
    printf("{\"messages\": %zu, \"seconds\": %.6f, \"server_seconds\": %.6f, "
           "\"p50\": %.3f, \"p99\": %.3f}\n",
           latencies->count, elapsed_ns / 1e9, server_ns / 1e9,
           latencies->ns[latencies->count / 2] / 1e3,
           latencies->ns[latencies->count * 99 / 100] / 1e3);
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr,
                "usage: load CORE PORT CONNECTIONS SIZE WARM_UP SECONDS SERVER_PID\n");
        return 2;
    }
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(atoi(argv[1]), &core);
    if (sched_setaffinity(0, sizeof core, &core) < 0)
        fail("sched_setaffinity");
    int port = atoi(argv[2]), count = atoi(argv[3]);
    uint64_t warm_up_ns = atof(argv[5]) * 1e9, measured_ns = atof(argv[6]) * 1e9;
    clockid_t server;
    if ((errno = clock_getcpuclockid(atoi(argv[7]), &server)) != 0)
        fail("clock_getcpuclockid");

    channel_prepare(NULL);
    size = atol(argv[4]);
    message = malloc(size);
    struct connection *connections = calloc(count, sizeof *connections);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!message || !connections || poller < 0)
        fail("start");
    /* 251 is prime: a shift by any power of two would be noticed. */
    for (size_t index = 0; index < size; index++)
        message[index] = (char)(index % 251);
    for (int index = 0; index < count; index++)
        open_connection(&connections[index], port);
    for (int index = 0; index < count; index++)
        send_message(&connections[index]);

    struct latencies latencies = {0};
    load(read_ns(CLOCK_MONOTONIC) + warm_up_ns, &latencies);
    latencies.count = 0;
    uint64_t server_ns = read_ns(server), started_ns = read_ns(CLOCK_MONOTONIC);
    load(started_ns + measured_ns, &latencies);
    uint64_t elapsed_ns = read_ns(CLOCK_MONOTONIC) - started_ns;
    print(&latencies, elapsed_ns, read_ns(server) - server_ns);
    return 0;
}
