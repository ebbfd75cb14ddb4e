// Tells who speaks to it, as "ADDRESS PORT": peer PORT answers at every address, each version of IP for itself. By TCP
// that is a line, behind which everything comes back that is sent, until its end; by UDP it is before each packet that
// comes back.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union address {
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

static int make(int family, int kind, int port) {
    int fd = socket(family, kind, 0), on = 1;
    if (fd < 0) return -1;
    union address at = {};
    if (family == AF_INET) {
        at.four = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port) };
    } else {
        at.six = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(port) };
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    return bind(fd, (void *)&at, family == AF_INET ? sizeof at.four : sizeof at.six) == 0 ? fd : -1;
}

static int name(const union address *from, char *place, size_t size) {
    char text[INET6_ADDRSTRLEN] = "";
    int family = from->four.sin_family;
    const void *address = family == AF_INET ? (void *)&from->four.sin_addr : (void *)&from->six.sin6_addr;
    inet_ntop(family, address, text, sizeof text);
    return snprintf(place, size, "%s %d\n", text, ntohs(family == AF_INET ? from->four.sin_port : from->six.sin6_port));
}

static void packets(int fd) {
    static char bytes[65536];
    for (;;) {
        union address from;
        socklen_t length = sizeof from;
        int head, size = recvfrom(fd, bytes + 128, sizeof bytes - 128, 0, (void *)&from, &length);
        if (size < 0) continue;
        char said[128];
        head = name(&from, said, sizeof said);
        memcpy(bytes + 128 - head, said, head);
        sendto(fd, bytes + 128 - head, head + size, 0, (void *)&from, length);
    }
}

static void connection(int fd, const union address *from) {
    static char bytes[65536];
    ssize_t size = name(from, bytes, sizeof bytes);
    do {
        for (ssize_t at = 0, wrote; at < size; at += wrote)
            if ((wrote = write(fd, bytes + at, size - at)) <= 0) return;
    } while ((size = read(fd, bytes, sizeof bytes)) > 0);
}

static int serve(int family, int port) {
    int streams = make(family, SOCK_STREAM, port), datagrams = make(family, SOCK_DGRAM, port);
    if (streams < 0 || datagrams < 0 || listen(streams, 64) != 0) return perror("listen"), 1;
    if (fork() == 0) packets(datagrams);
    for (;;) {
        union address from;
        socklen_t length = sizeof from;
        int client = accept(streams, (void *)&from, &length);
        if (client < 0) continue;
        if (fork() == 0) return connection(client, &from), 0;
        close(client);
    }
}

int main(int count, char **words) {
    if (count != 2) return 2;
    signal(SIGCHLD, SIG_IGN);
    // A network may have the fourth alone.
    if (fork() == 0) return serve(AF_INET6, atoi(words[1]));
    return serve(AF_INET, atoi(words[1]));
}
