/* Emulates lines between network namespaces, for kernels without `netem`.
 *
 *     line SOCKET        then text datagrams to SOCKET; each is answered with "ok …" or "err …"
 *
 *     port NAME NAMESPACE INTERFACE             adds a TUN device in a namespace
 *     route IPV4 NAME                           packets to this address leave at this port
 *     link NAME up|down BIT/S DELAY_US LOSS_PPM QUEUE_BYTES JITTER_US        0: unlimited, none
 *     block FROM TO / unblock FROM TO           drops packets between two ports; * means every port
 *     stat NAME
 *     quit
 *
 * A packet passes the up link of the port where it enters and the down link of the port where it leaves. A link has a rate, a
 * delay, a share of lost packets, and a queue that drops what does not fit. Packets are never reordered.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PORTS = 32, MAX_ROUTES = 256, BURST = 64, CONTROL = MAX_PORTS };

struct packet {
    struct packet *next;
    uint64_t at; /* when it leaves its link, in ns */
    int to, len;
    unsigned char data[];
};

struct link {
    uint64_t rate, delay, jitter, loss, queue;
    uint64_t free_at, last_at;
    struct packet *head, *tail;
    uint64_t packets, bytes, lost, overflowed;
};

struct port {
    char name[16];
    int fd;
    struct link up, down;
    uint64_t blocked;
};

static struct port ports[MAX_PORTS];
static int port_count;
static struct { uint32_t addr; int port; } routes[MAX_ROUTES];
static int route_count;
static unsigned char blocked[MAX_PORTS][MAX_PORTS];
static int poller;

/* The same sequence in each run. */
static uint32_t random_number(void) {
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 16;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int find_port(const char *name) {
    for (int i = 0; i < port_count; i++)
        if (!strcmp(ports[i].name, name)) return i;
    return -1;
}

static int find_route(uint32_t addr) {
    for (int i = 0; i < route_count; i++)
        if (routes[i].addr == addr) return routes[i].port;
    return -1;
}

static void send_over(struct link *link, struct packet *packet, uint64_t now) {
    if (link->loss && random_number() % 1000000 < link->loss) {
        link->lost++;
        free(packet);
        return;
    }
    uint64_t sent = now;
    if (link->rate) {
        uint64_t start = link->free_at > now ? link->free_at : now;
        uint64_t waiting = (start - now) * (link->rate / 1000) / 8000000; /* bytes */
        if (link->queue && waiting + packet->len > link->queue) {
            link->overflowed++;
            free(packet);
            return;
        }
        sent = link->free_at = start + packet->len * 8000000000ull / link->rate;
    }
    packet->at = sent + link->delay + (link->jitter ? random_number() % link->jitter : 0);
    if (packet->at < link->last_at) packet->at = link->last_at;
    link->last_at = packet->at;
    packet->next = NULL;
    if (link->tail) link->tail->next = packet;
    else link->head = packet;
    link->tail = packet;
    link->packets++;
    link->bytes += packet->len;
}

/* Returns the next packet that has passed the link by now. */
static struct packet *arrived(struct link *link, uint64_t now) {
    struct packet *packet = link->head;
    if (!packet || packet->at > now) return NULL;
    link->head = packet->next;
    if (!link->head) link->tail = NULL;
    return packet;
}

static int add_port(const char *name, const char *space, const char *interface) {
    if (port_count == MAX_PORTS) return -1;
    char path[128];
    snprintf(path, sizeof path, "/run/netns/%s", space);
    int here = open("/proc/self/ns/net", O_RDONLY), there = open(path, O_RDONLY);
    if (here < 0 || there < 0 || setns(there, CLONE_NEWNET)) return -2;
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    snprintf(request.ifr_name, IFNAMSIZ, "%s", interface);
    int failed = ioctl(fd, TUNSETIFF, &request) || setns(here, CLONE_NEWNET);
    close(here);
    close(there);
    if (failed) return -3;
    struct port *port = &ports[port_count];
    snprintf(port->name, sizeof port->name, "%s", name);
    port->fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = port_count};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    return port_count++;
}

static void obey(const char *command, char *answer, size_t size) {
    char a[16], b[16], c[16];
    unsigned long long v[5];
    snprintf(answer, size, "err unknown command, port or address");
    if (sscanf(command, "port %15s %15s %15s", a, b, c) == 3) {
        int port = add_port(a, b, c);
        snprintf(answer, size, port < 0 ? "err %d" : "ok %d", port);
    } else if (sscanf(command, "route %15s %15s", a, b) == 2) {
        struct in_addr addr;
        int port = find_port(b), i = 0;
        if (port < 0 || !inet_aton(a, &addr)) return;
        while (i < route_count && routes[i].addr != addr.s_addr) i++;
        if (i == MAX_ROUTES) return;
        if (i == route_count) route_count++;
        routes[i].addr = addr.s_addr;
        routes[i].port = port;
        snprintf(answer, size, "ok");
    } else if (sscanf(command, "link %15s %15s %llu %llu %llu %llu %llu", a, b, v, v + 1, v + 2, v + 3, v + 4) == 7) {
        int port = find_port(a);
        if (port < 0) return;
        struct link *link = strcmp(b, "up") ? &ports[port].down : &ports[port].up;
        link->rate = v[0];
        link->delay = v[1] * 1000;
        link->loss = v[2];
        link->queue = v[3];
        link->jitter = v[4] * 1000;
        snprintf(answer, size, "ok");
    } else if (sscanf(command, "block %15s %15s", a, b) == 2 || sscanf(command, "unblock %15s %15s", a, b) == 2) {
        for (int i = 0; i < port_count; i++)
            for (int j = 0; j < port_count; j++)
                if ((a[0] == '*' || !strcmp(a, ports[i].name)) && (b[0] == '*' || !strcmp(b, ports[j].name)))
                    blocked[i][j] = command[0] == 'b';
        snprintf(answer, size, "ok");
    } else if (sscanf(command, "stat %15s", a) == 1) {
        int i = find_port(a);
        if (i < 0) return;
        struct link *up = &ports[i].up, *down = &ports[i].down;
        snprintf(answer, size,
                 "ok up_packets=%lu up_bytes=%lu up_lost=%lu up_overflowed=%lu down_packets=%lu down_bytes=%lu down_lost=%lu "
                 "down_overflowed=%lu blocked=%lu",
                 up->packets, up->bytes, up->lost, up->overflowed, down->packets, down->bytes, down->lost, down->overflowed,
                 ports[i].blocked);
    } else if (!strncmp(command, "quit", 4)) {
        exit(0);
    }
}

static void read_control(int control) {
    char command[512], answer[1024];
    struct sockaddr_un from;
    socklen_t from_len = sizeof from;
    ssize_t len = recvfrom(control, command, sizeof command - 1, 0, (void *)&from, &from_len);
    if (len < 0) return;
    command[len] = 0;
    obey(command, answer, sizeof answer);
    if (from_len > sizeof(sa_family_t)) sendto(control, answer, strlen(answer), 0, (void *)&from, from_len);
}

static void read_port(int from) {
    static unsigned char buffer[65536];
    for (int n = 0; n < BURST; n++) {
        ssize_t len = read(ports[from].fd, buffer, sizeof buffer);
        if (len <= 0) return;
        if (len < 20 || buffer[0] >> 4 != 4) continue;
        uint32_t addr;
        memcpy(&addr, buffer + 16, 4);
        int is_multicast = (buffer[16] & 0xf0) == 0xe0, to = is_multicast ? -1 : find_route(addr);
        uint64_t now = now_ns();
        for (int i = 0; i < port_count; i++) {
            if (is_multicast ? i == from : i != to) continue;
            if (blocked[from][i]) {
                ports[from].blocked++;
                continue;
            }
            struct packet *packet = malloc(sizeof *packet + len);
            packet->to = i;
            packet->len = len;
            memcpy(packet->data, buffer, len);
            send_over(&ports[from].up, packet, now);
        }
    }
}

/* Moves what has arrived. Returns when the next packet arrives, or UINT64_MAX. */
static uint64_t move_packets(void) {
    uint64_t now = now_ns(), next = UINT64_MAX;
    struct packet *packet;
    for (int i = 0; i < port_count; i++) {
        while ((packet = arrived(&ports[i].up, now))) send_over(&ports[packet->to].down, packet, packet->at);
        if (ports[i].up.head && ports[i].up.head->at < next) next = ports[i].up.head->at;
    }
    for (int i = 0; i < port_count; i++) {
        while ((packet = arrived(&ports[i].down, now))) {
            /* An interface that is down takes nothing, like a line without a machine. */
            if (write(ports[i].fd, packet->data, packet->len) < 0 && errno == EBADF) exit(1);
            free(packet);
        }
        if (ports[i].down.head && ports[i].down.head->at < next) next = ports[i].down.head->at;
    }
    return next;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    poller = epoll_create1(0);
    int control = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s", argv[1]);
    unlink(argv[1]);
    if (bind(control, (void *)&addr, sizeof addr)) {
        perror("bind");
        return 1;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = CONTROL};
    epoll_ctl(poller, EPOLL_CTL_ADD, control, &event);
    for (;;) {
        uint64_t next = move_packets(), now = now_ns(), wait = next > now ? next - now : 0;
        struct timespec time = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
        struct epoll_event events[MAX_PORTS + 1];
        int count = epoll_pwait2(poller, events, MAX_PORTS + 1, next == UINT64_MAX ? NULL : &time, NULL);
        for (int i = 0; i < count; i++) {
            if (events[i].data.u32 == CONTROL) read_control(control);
            else read_port(events[i].data.u32);
        }
    }
}
