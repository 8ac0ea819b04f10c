/* Traffic for the relay's bench: so little work on either end that what lies between them is what is measured.
 *
 *   traffic serve PORT      answers requests of 64 bytes on any number of connections, one thread
 *   traffic drive           does what it is told, a line each on stdin, and answers each with one JSON object:
 *     open NAME HOST PORT COUNT     so many connections, each of which has answered once
 *     rtt NAME COUNT                one request after the other on the first connection; each one's nanoseconds
 *     rate NAME SECONDS CONNECTIONS on each of them the next request as soon as the last is answered
 *     bulk NAME BYTES               asks for so many bytes on the first connection and drops them
 *     check NAME                    one request on each connection, every answer compared
 *     close NAME
 *
 * A request is 64 bytes. It starts with 'e': the same 64 bytes come back; or with 'b' and a count of bytes (8 bytes,
 * little-endian): so many bytes come back.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, EVENTS = 256, MANY = 20000, NAMES = 16, CHUNK = 256 * 1024, PATIENCE_SECONDS = 20 };

static _Noreturn void die(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* ---- the server -------------------------------------------------------------------------------------------------- */

struct connection { char request[SIZE]; int have; uint64_t owed; };

static struct connection connections[MANY];
static char chunk[CHUNK];

static void watch(int set, int how, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(set, how, fd, &event)) die("epoll_ctl");
}

static void give(int set, int fd, struct connection *c) {
    while (c->owed) {
        ssize_t sent = send(fd, chunk, c->owed < CHUNK ? c->owed : CHUNK, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EAGAIN) watch(set, EPOLL_CTL_MOD, fd, EPOLLOUT);
            else c->owed = 0;  /* the reader will find out */
            return;
        }
        c->owed -= sent;
    }
    watch(set, EPOLL_CTL_MOD, fd, EPOLLIN);
}

static void answer(int set, int fd, struct connection *c) {
    c->have = 0;
    if (c->request[0] == 'b') {
        memcpy(&c->owed, c->request + 1, sizeof c->owed);
        give(set, fd, c);
    } else if (send(fd, c->request, SIZE, MSG_NOSIGNAL) != SIZE) {
        perror("send");
    }
}

static void hear(int set, int fd) {
    struct connection *c = &connections[fd];
    ssize_t got = recv(fd, c->request + c->have, SIZE - c->have, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { close(fd); return; }
    c->have += got;
    if (c->have == SIZE) answer(set, fd, c);
}

static void serve(int port) {
    int set = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&any, sizeof any) || listen(listener, 4096)) die("listen");
    watch(set, EPOLL_CTL_ADD, listener, EPOLLIN);
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(set, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                if ((fd = accept(listener, NULL, NULL)) < 0) continue;
                if (fd >= MANY) { close(fd); continue; }
                no_delay(fd);
                memset(&connections[fd], 0, sizeof connections[fd]);
                watch(set, EPOLL_CTL_ADD, fd, EPOLLIN);
            } else if (events[i].events & EPOLLOUT) {
                give(set, fd, &connections[fd]);
            } else {
                hear(set, fd);
            }
        }
    }
}

/* ---- the driver -------------------------------------------------------------------------------------------------- */

struct group { char name[32]; int count; int fds[MANY]; };

static struct group groups[NAMES];
static float nanoseconds[4000000];

static struct group *find(const char *name) {
    for (int i = 0; i < NAMES; i++) if (!strcmp(groups[i].name, name)) return &groups[i];
    return NULL;
}

static void request(char *into, uint64_t number) {
    memset(into, 'x', SIZE);
    into[0] = 'e';
    memcpy(into + 8, &number, sizeof number);
}

static int receive(int fd, char *into) {  /* whether 64 bytes came; waits as long as the socket does */
    return recv(fd, into, SIZE, MSG_WAITALL) == SIZE;
}

static int ask(int fd, uint64_t number) {
    char out[SIZE], in[SIZE];
    request(out, number);
    return send(fd, out, SIZE, MSG_NOSIGNAL) == SIZE && receive(fd, in) && !memcmp(in, out, SIZE);
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void say_times(size_t count, double seconds) {
    qsort(nanoseconds, count, sizeof *nanoseconds, ascending);
    double p50 = count ? nanoseconds[count / 2] : 0, p99 = count ? nanoseconds[count * 99 / 100] : 0;
    printf("{\"count\": %zu, \"seconds\": %.9f, \"p50\": %.9f, \"p99\": %.9f}\n", count, seconds, p50 / 1e9, p99 / 1e9);
}

static void wrong(const char *what) { printf("{\"error\": \"%s: %s\"}\n", what, strerror(errno)); }

static void dial(const char *name, const char *host, int port, int count) {
    struct group *g = find("");
    if (!g || count > MANY) { errno = ENOSPC; wrong("open"); return; }
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    inet_pton(AF_INET, host, &there.sin_addr);
    snprintf(g->name, sizeof g->name, "%s", name);
    for (g->count = 0; g->count < count; g->count++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (void *)&there, sizeof there)) { wrong("connect"); return; }
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        no_delay(fd);
        g->fds[g->count] = fd;
        if (!ask(fd, g->count)) { wrong("first answer"); return; }
    }
    printf("{\"count\": %d}\n", count);
}

static void rtt(struct group *g, size_t count) {
    double began = now();
    for (size_t i = 0; i < count; i++) {
        double start = now();
        if (!ask(g->fds[0], i)) { wrong("rtt"); return; }
        nanoseconds[i] = (now() - start) * 1e9;
    }
    say_times(count, now() - began);
}

static void rate(struct group *g, double seconds, int wanted) {
    static double asked[MANY];
    static int have[MANY];
    int set = epoll_create1(0), busy = 0;
    char out[SIZE], in[SIZE];
    struct epoll_event events[EVENTS];
    request(out, 0);
    double began = now(), end = began + seconds, last = began;
    size_t count = 0, room = sizeof nanoseconds / sizeof *nanoseconds;
    for (int i = 0; i < wanted && i < g->count; i++, busy++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        if (epoll_ctl(set, EPOLL_CTL_ADD, g->fds[i], &event)) die("epoll_ctl");
        asked[i] = now(); have[i] = 0;
        if (send(g->fds[i], out, SIZE, MSG_NOSIGNAL) != SIZE) { wrong("rate"); return; }
    }
    while (busy) {
        int ready = epoll_wait(set, events, EVENTS, PATIENCE_SECONDS * 1000);
        if (ready <= 0) { errno = ETIMEDOUT; wrong("rate"); return; }
        for (int k = 0; k < ready; k++) {
            int i = events[k].data.u32, fd = g->fds[i];
            ssize_t got = recv(fd, in, SIZE - have[i], MSG_DONTWAIT);
            if (got <= 0) { if (got < 0 && errno == EAGAIN) continue; wrong("rate"); return; }
            if ((have[i] += got) < SIZE) continue;
            have[i] = 0;
            double at = now();
            if (count < room) nanoseconds[count] = (at - asked[i]) * 1e9;
            count++; last = at;
            if (at >= end) { busy--; continue; }
            asked[i] = at;
            if (send(fd, out, SIZE, MSG_NOSIGNAL) != SIZE) { wrong("rate"); return; }
        }
    }
    close(set);
    say_times(count < room ? count : room, last - began);
}

static void bulk(struct group *g, uint64_t bytes) {
    char out[SIZE] = {'b'};
    memcpy(out + 1, &bytes, sizeof bytes);
    double began = now();
    if (send(g->fds[0], out, SIZE, MSG_NOSIGNAL) != SIZE) { wrong("bulk"); return; }
    for (uint64_t left = bytes; left;) {
        ssize_t got = recv(g->fds[0], NULL, left < (1 << 20) ? left : 1 << 20, MSG_TRUNC);  /* dropped, not copied */
        if (got <= 0) { wrong("bulk"); return; }
        left -= got;
    }
    printf("{\"count\": %llu, \"seconds\": %.9f}\n", (unsigned long long)bytes, now() - began);
}

static void check(struct group *g) {
    int good = 0;
    for (int i = 0; i < g->count; i++) good += ask(g->fds[i], 1000000 + i);
    printf("{\"count\": %d, \"good\": %d}\n", g->count, good);
}

static void hang_up(struct group *g) {
    for (int i = 0; i < g->count; i++) close(g->fds[i]);
    printf("{\"count\": %d}\n", g->count);
    g->count = 0;
    g->name[0] = 0;
}

static void drive(void) {
    char line[256], verb[32], name[32], third[64];
    while (fgets(line, sizeof line, stdin)) {
        double amount = 0, more = 0;
        *third = 0;
        if (sscanf(line, "%31s %31s %63s %lf %lf", verb, name, third, &amount, &more) < 2) continue;
        struct group *g = find(name);
        if (!strcmp(verb, "open")) dial(name, third, (int)amount, (int)more);
        else if (!g || !g->count) { errno = ENOENT; wrong(name); }
        else if (!strcmp(verb, "rtt")) rtt(g, strtoull(third, NULL, 10));
        else if (!strcmp(verb, "rate")) rate(g, atof(third), (int)amount);
        else if (!strcmp(verb, "bulk")) bulk(g, strtoull(third, NULL, 10));
        else if (!strcmp(verb, "check")) check(g);
        else if (!strcmp(verb, "close")) hang_up(g);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "serve")) serve(atoi(argv[2]));
    else if (argc == 2 && !strcmp(argv[1], "drive")) drive();
    else fprintf(stderr, "usage: traffic serve PORT | traffic drive\n");
    return 2;
}
