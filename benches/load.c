/* The load of the network benches: connections that each send a message, wait for its echo, and
 * send the next. With "accept" the server hangs up after the echo, and each message has a
 * connection of its own. A Unix server has "PORT" in its abstract name.
 *
 * network.py compiles and starts it:
 * load CORE PORT CONNECTIONS SIZE WARM_UP SECONDS SERVER_PID tcp|udp|unix|accept.
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
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
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

enum kind { TCP, UDP, UNIX, ACCEPT };

static const char *const KINDS[] = {"tcp", "udp", "unix", "accept"};

static char scratch[SCRATCH], *message;
static enum kind kind;
static int port;
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
    if (kind == ACCEPT && received == 0 && connection->received == size)
        return 1;
    if (received == 0 || connection->received + received > connection->sent ||
        memcmp(scratch, message + connection->received, received) != 0) {
        fprintf(stderr, received ? "the echo is wrong\n" : "the server hung up\n");
        exit(1);
    }
    connection->received += received;
    return kind != ACCEPT && connection->received == size;
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

static socklen_t write_address(struct sockaddr_storage *storage) {
    if (kind == UNIX) {
        struct sockaddr_un *address = (struct sockaddr_un *)storage;
        address->sun_family = AF_UNIX;
        int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1,
                              "aioxide-bench-%d", port);
        return offsetof(struct sockaddr_un, sun_path) + 1 + length;
    }
    struct sockaddr_in *address = (struct sockaddr_in *)storage;
    address->sin_family = AF_INET;
    address->sin_port = htons(port);
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sizeof *address;
}

static void open_connection(struct connection *connection) {
    struct sockaddr_storage address = {0};
    socklen_t length = write_address(&address);
    int on = 1, family = kind == UNIX ? AF_UNIX : AF_INET;
    int descriptor = socket(family, (kind == UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, length) < 0)
        fail("connect");
    if (kind == TCP || kind == ACCEPT)
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    channel_open(&connection->channel, descriptor, 0);
    if (fcntl(descriptor, F_SETFL, O_NONBLOCK) < 0)
        fail("fcntl");
    connection->waits_to_send = 0;
    watch(EPOLL_CTL_ADD, connection);
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
                if (kind == ACCEPT) {
                    close(connection->channel.descriptor);
                    open_connection(connection);
                }
                send_message(connection);
            }
        }
    }
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
    if (argc != 9) {
        fprintf(stderr, "usage: load CORE PORT CONNECTIONS SIZE WARM_UP SECONDS SERVER_PID KIND\n");
        return 2;
    }
    while (kind < ACCEPT && strcmp(KINDS[kind], argv[8]) != 0)
        kind++;
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(atoi(argv[1]), &core);
    if (sched_setaffinity(0, sizeof core, &core) < 0)
        fail("sched_setaffinity");
    int count = atoi(argv[3]);
    port = atoi(argv[2]);
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
    /* 251 is prime: a shift by any power of two would be noticed. For servers that read lines,
     * each 64 bytes end one. */
    for (size_t index = 0; index < size; index++) {
        int value = index % 251;
        message[index] = index % 64 == 63 ? '\n' : value == '\n' ? 0 : (char)value;
    }
    for (int index = 0; index < count; index++)
        open_connection(&connections[index]);
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
