// How long a request takes on a connection of its own, in microseconds, the median of many: ping SOCKET COUNT
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int compare(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

int main(int count, char **words) {
    static const char request[] = "GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (count != 3 || strlen(words[1]) >= sizeof address.sun_path) return 2;
    strcpy(address.sun_path, words[1]);
    int runs = atoi(words[2]);
    long *times = calloc(runs, sizeof *times);
    for (int at = 0; at < runs; at++) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (void *)&address, sizeof address) != 0) return perror("connect"), 1;
        if (write(fd, request, sizeof request - 1) < 0) return perror("write"), 1;
        char answer[4096];
        long total = 0, got;
        while ((got = read(fd, answer, sizeof answer)) > 0) total += got;
        close(fd);
        clock_gettime(CLOCK_MONOTONIC, &end);
        if (total < 12) return fputs("no answer\n", stderr), 1;
        times[at] = (end.tv_sec - begin.tv_sec) * 1000000 + (end.tv_nsec - begin.tv_nsec) / 1000;
    }
    qsort(times, runs, sizeof *times, compare);
    printf("%ld\n", times[runs / 2]);
    return 0;
}
