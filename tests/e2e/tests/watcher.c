// Prints what inotify(7) tells of the folder that is given, with another word after it of permissions too: a word and a name a
// line. Linked statically, it runs in any container.
#include <stdint.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char buffer[65536] __attribute__((aligned(8)));
    int watch = inotify_init();
    uint32_t wanted = IN_CREATE | IN_MODIFY | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | (argc > 2 ? IN_ATTRIB : 0);
    if (argc < 2 || inotify_add_watch(watch, argv[1], wanted) < 0) {
        perror("watch");
        return 1;
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        ssize_t length = read(watch, buffer, sizeof buffer);
        for (char *at = buffer; at < buffer + length;) {
            struct inotify_event *event = (struct inotify_event *)at;
            const char *word = event->mask & IN_CREATE       ? "create"
                               : event->mask & IN_MODIFY     ? "modify"
                               : event->mask & IN_DELETE     ? "delete"
                               : event->mask & IN_MOVED_FROM ? "from"
                               : event->mask & IN_MOVED_TO   ? "to"
                               : event->mask & IN_ATTRIB     ? "attrib"
                                                             : "other";
            printf("%s %s\n", word, event->len ? event->name : "");
            at += sizeof *event + event->len;
        }
        fflush(stdout);
    }
}
