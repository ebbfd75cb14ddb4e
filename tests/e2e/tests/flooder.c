// A guest that floods, lies and stalls, for some seconds. Linked statically; run by the guest's root, who may all this.
//
//     flooder HOW SECONDS [WHERE]
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct vsock_address {
    sa_family_t family;
    unsigned short reserved;
    unsigned int port, cid;
    unsigned char zero[4];
};

static int dial(unsigned port, int patience) {
    struct vsock_address to = {.family = AF_VSOCK, .port = port, .cid = 2};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        perror("vsock");
        exit(3);
    }
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno == EINPROGRESS) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        int error = 0;
        socklen_t length = sizeof error;
        poll(&ready, 1, patience);
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) || error) {
            close(fd);
            return -1;
        }
    }
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    const char *how = argv[1];
    signal(SIGPIPE, SIG_IGN);
    time_t until = time(NULL) + atoi(argv[2]);
    char junk[65536];
    for (size_t at = 0; at < sizeof junk; at++)
        junk[at] = (char)rand();
    unsigned long turn = 0;
    for (; time(NULL) < until; turn++) {
        if (!strcmp(how, "connections")) {
            // As many as it can have, which say nothing.
            if (dial(1 + turn % 5, 20) < 0 && errno == EMFILE)
                sleep(1);
        } else if (!strcmp(how, "junk")) {
            int fd = dial(1, 1000);
            if (fd >= 0 && write(fd, junk + turn % 4096, 60000) < 0)
                usleep(1000);
            if (fd >= 0)
                close(fd);
        } else if (!strcmp(how, "files") && argc > 3) {
            char path[4200];
            snprintf(path, sizeof path, "%s/%lu", argv[3], turn % 4000);
            // Open for as long as it may be.
            if (open(path, O_CREAT | O_RDWR, 0600) < 0)
                unlink(path);
        } else if (!strcmp(how, "packets")) {
            static int fd = -1;
            struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(1 + turn % 60000)};
            to.sin_addr.s_addr = htonl(0x0a000202);
            if (fd < 0)
                fd = socket(AF_INET, SOCK_DGRAM, 0);
            sendto(fd, junk, 1400, 0, (struct sockaddr *)&to, sizeof to);
        } else {
            return 2;
        }
    }
    printf("%lu\n", turn);
    return 0;
}
