// Speaks SCTP: sctp serve PORT tells each client where it comes from; sctp ask ADDRESS PORT prints what it is told.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count < 3) return 2;
    int is_server = strcmp(words[1], "serve") == 0;
    int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP);
    if (fd < 0) return perror("socket"), 1;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(words[count - 1])) };
    char said[64] = "";
    if (!is_server) {
        alarm(10);
        if (inet_pton(AF_INET, words[2], &address.sin_addr) != 1) return 2;
        if (connect(fd, (void *)&address, sizeof address) != 0) return perror("connect"), 1;
        if (write(fd, "?", 1) != 1) return perror("write"), 1;
        if (read(fd, said, sizeof said - 1) <= 0) return perror("read"), 1;
        return puts(said), 0;
    }
    if (bind(fd, (void *)&address, sizeof address) != 0 || listen(fd, 8) != 0) return perror("listen"), 1;
    for (;;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        int client = accept(fd, (void *)&from, &length);
        if (client < 0) return perror("accept"), 1;
        if (read(client, said, 1) == 1) dprintf(client, "%s", inet_ntoa(from.sin_addr));
        close(client);
    }
}
