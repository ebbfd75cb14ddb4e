// Exercises a folder as programs do, and says what is not as POSIX and Linux have it. Linked statically, it runs in any
// container and on the host, whose own file system proves it.
//
//     exerciser rules DIR               what each call must do: one line for each that does otherwise
//     exerciser fsx FILE SEED COUNT     random writes, reads, cuts and mappings against a model in memory
//     exerciser grow DIR COUNT          a tree of COUNT small files, shaped as node_modules is
//     exerciser sum DIR                 a number for all names, modes, links and contents below DIR
//     exerciser clear DIR               removes all that is below DIR
//     exerciser locks DIR COUNT          replaces a file COUNT times, each time by a name that one alone has (as git does)
//     exerciser play DIR SEED COUNT       COUNT deeds at random with few names, whoever else does the same there
//     exerciser fill FILE MIB           writes so much and flushes it
//     exerciser clock SECONDS           what time it is, after having set the clock so far ahead if that is not 0
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static int checks, failures;

static void claim(int holds, const char *what, int line) {
    int error = errno;
    checks++;
    if (!holds) {
        failures++;
        printf("line %d: not so: %s (last error: %s)\n", line, what, strerror(error));
    }
    errno = 0;
}
#define IS(what) claim((what) != 0, #what, __LINE__)
#define REFUSED(call, error) claim((call) == -1 && errno == (error), #call " is refused with " #error, __LINE__)

static void die(const char *what) {
    printf("failed to %s: %s\n", what, strerror(errno));
    exit(2);
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || close(fd))
        die(path);
}

// Whether a file has this content, read anew.
static int holds(const char *path, const char *text) {
    char found[4096];
    int fd = open(path, O_RDONLY);
    ssize_t length = fd < 0 ? -1 : read(fd, found, sizeof found);
    if (fd >= 0)
        close(fd);
    return length == (ssize_t)strlen(text) && memcmp(found, text, length) == 0;
}

static struct stat look(const char *path) {
    struct stat stat = {0};
    if (lstat(path, &stat))
        stat.st_nlink = 0;
    return stat;
}

static int exists(const char *path) {
    return look(path).st_nlink > 0;
}

static int count(const char *path) {
    int found = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return -1;
    for (struct dirent *entry; (entry = readdir(dir));)
        found += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(dir);
    return found;
}

static void opening(void) {
    REFUSED(open("none", O_RDONLY), ENOENT);
    REFUSED(open("none/below", O_RDWR | O_CREAT, 0600), ENOENT);
    int fd = open("new", O_RDWR | O_CREAT | O_EXCL, 0640);
    IS(fd >= 0);
    IS((look("new").st_mode & 07777) == 0640);
    REFUSED(open("new", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    REFUSED(open("new/below", O_RDONLY), ENOTDIR);
    REFUSED(open("new", O_RDONLY | O_DIRECTORY), ENOTDIR);
    REFUSED(open(".", O_WRONLY), EISDIR);
    IS(write(fd, "content", 7) == 7);
    IS(pread(fd, (char[8]){0}, 8, 0) == 7);
    REFUSED(pread(fd, (char[1]){0}, 1, -1), EINVAL);
    int reader = open("new", O_RDONLY);
    REFUSED(write(reader, "x", 1), EBADF);
    int cutter = open("new", O_WRONLY | O_TRUNC);
    IS(look("new").st_size == 0);
    REFUSED(read(cutter, (char[1]){0}, 1), EBADF);
    close(cutter);
    close(reader);
    IS(pwrite(fd, "far", 3, 8192) == 3);
    IS(look("new").st_size == 8195);
    char hole[4096];
    IS(pread(fd, hole, 4096, 100) == 4096 && hole[0] == 0 && hole[4095] == 0);
    close(fd);
    int one = open("appended", O_WRONLY | O_CREAT | O_APPEND, 0644), two = open("appended", O_WRONLY | O_APPEND);
    for (int at = 0; at < 10; at++)
        IS(write(at % 2 ? one : two, at % 2 ? "1" : "2", 1) == 1);
    close(one);
    close(two);
    IS(holds("appended", "2121212121"));
    char *long_name = malloc(300);
    memset(long_name, 'n', 299);
    long_name[299] = 0;
    REFUSED(open(long_name, O_RDWR | O_CREAT, 0600), ENAMETOOLONG);
    long_name[255] = 0;
    fd = open(long_name, O_RDWR | O_CREAT, 0600);
    IS(fd >= 0 && unlink(long_name) == 0);
    close(fd);
    free(long_name);
    put("näme with  spaces\nand a line", "odd");
    IS(holds("näme with  spaces\nand a line", "odd"));
    symlink("nowhere", "dangling");
    REFUSED(open("dangling", O_RDONLY), ENOENT);
    REFUSED(open("dangling", O_RDONLY | O_NOFOLLOW), ELOOP);
    REFUSED(open("dangling", O_WRONLY | O_CREAT | O_EXCL, 0600), EEXIST);
    symlink("circle", "circle");
    REFUSED(open("circle", O_RDONLY), ELOOP);
    int nameless = open(".", O_TMPFILE | O_RDWR, 0600);
    if (nameless >= 0) {
        IS(write(nameless, "t", 1) == 1);
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", nameless);
        IS(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0 && holds("named", "t"));
        close(nameless);
    } else {
        IS(errno == EOPNOTSUPP);
    }
}

static void removing(void) {
    mkdir("full", 0755);
    put("full/file", "f");
    int was_full = rmdir("full") == -1 && (errno == ENOTEMPTY || errno == EEXIST);
    IS(was_full);
    REFUSED(rmdir("full/file"), ENOTDIR);
    REFUSED(unlink("full"), EISDIR);
    REFUSED(unlink("none"), ENOENT);
    REFUSED(rmdir("full/."), EINVAL);
    REFUSED(mkdir("full", 0755), EEXIST);
    int fd = open("full/file", O_RDWR);
    IS(unlink("full/file") == 0 && !exists("full/file"));
    struct stat stat;
    IS(fstat(fd, &stat) == 0 && stat.st_nlink == 0 && stat.st_size == 1);
    IS(pwrite(fd, "goes on", 7, 0) == 7);
    char found[8] = {0};
    IS(pread(fd, found, 8, 0) == 7 && strcmp(found, "goes on") == 0);
    IS(fchmod(fd, 0600) == 0 && fstat(fd, &stat) == 0 && (stat.st_mode & 07777) == 0600);
    IS(ftruncate(fd, 3) == 0 && fstat(fd, &stat) == 0 && stat.st_size == 3);
    put("full/file", "another");
    IS(pread(fd, found, 8, 0) == 3 && holds("full/file", "another"));
    close(fd);
    unlink("full/file");
    IS(rmdir("full") == 0 && !exists("full"));
    for (int at = 0; at < 500; at++) {
        char name[32];
        snprintf(name, sizeof name, "many/%d", at);
        if (at == 0)
            mkdir("many", 0755);
        put(name, "");
    }
    IS(count("many") == 500);
    DIR *dir = opendir("many");
    int removed = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            removed += unlinkat(dirfd(dir), entry->d_name, 0) == 0;
    closedir(dir);
    IS(removed == 500 && count("many") == 0 && rmdir("many") == 0);
}

static void renaming(void) {
    put("a", "a");
    put("b", "b");
    ino_t inode = look("a").st_ino;
    int old = open("b", O_RDONLY);
    IS(rename("a", "b") == 0 && !exists("a") && holds("b", "a") && look("b").st_ino == inode);
    char found = 0;
    IS(read(old, &found, 1) == 1 && found == 'b');
    close(old);
    IS(rename("b", "b") == 0 && holds("b", "a"));
    REFUSED(rename("none", "b"), ENOENT);
    mkdir("from", 0755);
    mkdir("to", 0755);
    put("from/file", "moved");
    IS(rename("from/file", "to/file") == 0 && holds("to/file", "moved") && !exists("from/file"));
    IS(rename("from", "to/from") == 0 && exists("to/from"));
    put("to/from/deep", "deep");
    REFUSED(rename("to", "to/from/to"), EINVAL);
    REFUSED(rename("b", "to"), EISDIR);
    REFUSED(rename("to", "b"), ENOTDIR);
    mkdir("empty", 0755);
    IS(rename("to/from", "empty") == 0 && holds("empty/deep", "deep"));
    int onto_full = rename("to", "empty") == -1 && (errno == ENOTEMPTY || errno == EEXIST);
    IS(onto_full);
    IS(rename("empty/deep", "to/file") == 0 && holds("to/file", "deep"));
    put("x", "x");
    put("y", "y");
    REFUSED(renameat2(AT_FDCWD, "x", AT_FDCWD, "y", RENAME_NOREPLACE), EEXIST);
    IS(renameat2(AT_FDCWD, "x", AT_FDCWD, "z", RENAME_NOREPLACE) == 0 && holds("z", "x"));
    IS(renameat2(AT_FDCWD, "y", AT_FDCWD, "z", RENAME_EXCHANGE) == 0 && holds("z", "y") && holds("y", "x"));
    // A folder that is stood in goes on under its new name.
    mkdir("here", 0755);
    IS(chdir("here") == 0 && rename("../here", "../there") == 0);
    put("file", "there");
    IS(chdir("..") == 0 && holds("there/file", "there"));
}

static void linking(void) {
    put("file", "linked");
    IS(link("file", "second") == 0 && look("file").st_nlink == 2);
    IS(look("file").st_ino == look("second").st_ino);
    REFUSED(link("file", "second"), EEXIST);
    REFUSED(link("none", "third"), ENOENT);
    mkdir("dir", 0755);
    REFUSED(link("dir", "dir2"), EPERM);
    int fd = open("second", O_WRONLY | O_TRUNC);
    IS(write(fd, "changed", 7) == 7 && close(fd) == 0 && holds("file", "changed"));
    IS(rename("file", "second") == 0 && exists("file") && exists("second"));
    IS(unlink("file") == 0 && look("second").st_nlink == 1 && holds("second", "changed"));
    IS(symlink("second", "soft") == 0 && holds("soft", "changed"));
    IS(S_ISLNK(look("soft").st_mode) && look("soft").st_size == 6);
    char target[16] = {0};
    IS(readlink("soft", target, sizeof target) == 6 && strcmp(target, "second") == 0);
    REFUSED(readlink("second", target, sizeof target), EINVAL);
    REFUSED(symlink("x", "soft"), EEXIST);
    IS(rename("soft", "softer") == 0 && S_ISLNK(look("softer").st_mode) && unlink("softer") == 0 && exists("second"));
    IS(mkfifo("pipe", 0600) == 0 && S_ISFIFO(look("pipe").st_mode));
    int reader = open("pipe", O_RDONLY | O_NONBLOCK), writer = open("pipe", O_WRONLY | O_NONBLOCK);
    IS(write(writer, "through", 7) == 7 && read(reader, target, 16) == 7);
    close(reader);
    close(writer);
    nlink_t links = look("dir").st_nlink;
    mkdir("dir/below", 0755);
    // Btrfs and overlays count no folders.
    IS(links == 1 || look("dir").st_nlink == links + 1);
}

static void attributes(void) {
    put("file", "attributes");
    for (mode_t mode = 0; mode < 01000; mode += 0111)
        IS(chmod("file", mode) == 0 && (look("file").st_mode & 07777) == mode);
    IS(chmod("file", 0644) == 0);
    struct stat before = look("file");
    struct timespec times[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    IS(utimensat(AT_FDCWD, "file", times, 0) == 0);
    struct stat after = look("file");
    IS(after.st_atim.tv_sec == 1000000000 && after.st_mtim.tv_sec == 1100000000);
    IS(after.st_mtim.tv_nsec == 987654321 && after.st_atim.tv_nsec == 123456789);
    IS(after.st_ctim.tv_sec >= before.st_ctim.tv_sec);
    times[0].tv_nsec = UTIME_OMIT;
    times[1] = (struct timespec){1200000000, 0};
    IS(utimensat(AT_FDCWD, "file", times, 0) == 0 && look("file").st_atim.tv_sec == 1000000000);
    IS(look("file").st_mtim.tv_sec == 1200000000);
    symlink("file", "link");
    times[1].tv_sec = 1300000000;
    IS(utimensat(AT_FDCWD, "link", times, AT_SYMLINK_NOFOLLOW) == 0 && look("link").st_mtim.tv_sec == 1300000000);
    IS(look("file").st_mtim.tv_sec == 1200000000);
    IS(utimensat(AT_FDCWD, "file", NULL, 0) == 0 && llabs(look("file").st_mtim.tv_sec - time(NULL)) <= 2);
    // A write moves the time of modification, a read of what it has not.
    times[1] = (struct timespec){1400000000, 0};
    utimensat(AT_FDCWD, "file", times, 0);
    IS(holds("file", "attributes") && look("file").st_mtim.tv_sec == 1400000000);
    int fd = open("file", O_WRONLY);
    IS(write(fd, "A", 1) == 1 && close(fd) == 0 && look("file").st_mtim.tv_sec > 1400000000);
    IS(chown("file", getuid(), getgid()) == 0 && lchown("link", getuid(), getgid()) == 0);
    mkdir("sticky", 0755);
    IS(chmod("sticky", 01777) == 0 && (look("sticky").st_mode & 07777) == 01777);
    chmod("file", 04755);
    IS((look("file").st_mode & 07777) == 04755);
    umask(027);
    put("masked", "");
    mkdir("masked-dir", 0777);
    IS((look("masked").st_mode & 0777) == 0640 && (look("masked-dir").st_mode & 0777) == 0750);
    umask(022);
    struct statvfs room;
    IS(statvfs(".", &room) == 0 && room.f_blocks > 0 && room.f_namemax == 255);
    char value[64] = {0};
    if (setxattr("file", "user.cove", "value", 5, 0) == 0) {
        IS(getxattr("file", "user.cove", value, sizeof value) == 5 && strcmp(value, "value") == 0);
        REFUSED(setxattr("file", "user.cove", "v", 1, XATTR_CREATE), EEXIST);
        IS(setxattr("file", "user.cove", "longer value", 12, XATTR_REPLACE) == 0);
        IS(getxattr("file", "user.cove", NULL, 0) == 12);
        REFUSED(getxattr("file", "user.cove", value, 3), ERANGE);
        IS(listxattr("file", value, sizeof value) >= 10 && memmem(value, sizeof value, "user.cove", 10));
        IS(removexattr("file", "user.cove") == 0);
        REFUSED(getxattr("file", "user.cove", value, sizeof value), ENODATA);
    } else {
        IS(errno == EOPNOTSUPP);
    }
}

static void cutting(void) {
    put("file", "0123456789");
    IS(truncate("file", 4) == 0 && holds("file", "0123"));
    IS(truncate("file", 8) == 0 && look("file").st_size == 8);
    char found[8];
    int fd = open("file", O_RDWR);
    IS(read(fd, found, 8) == 8 && memcmp(found, "0123\0\0\0\0", 8) == 0);
    IS(ftruncate(fd, 0) == 0 && look("file").st_size == 0);
    REFUSED(ftruncate(fd, -1), EINVAL);
    REFUSED(truncate("none", 0), ENOENT);
    REFUSED(truncate(".", 0), EISDIR);
    IS(ftruncate(fd, 1 << 30) == 0 && look("file").st_blocks < 2048);
    IS(lseek(fd, 0, SEEK_END) == 1 << 30);
    REFUSED(lseek(fd, -1, SEEK_SET), EINVAL);
    IS(posix_fallocate(fd, 0, 65536) == 0 && look("file").st_blocks >= 128);
    IS(ftruncate(fd, 0) == 0 && fsync(fd) == 0 && fdatasync(fd) == 0);
    close(fd);
    int dir = open(".", O_RDONLY | O_DIRECTORY);
    IS(fsync(dir) == 0 && syncfs(dir) == 0);
    close(dir);
    put("source", "copied");
    int from = open("source", O_RDONLY), to = open("target", O_WRONLY | O_CREAT, 0644);
    IS(copy_file_range(from, NULL, to, NULL, 6, 0) == 6 && holds("target", "copied"));
    close(from);
    close(to);
}

// Whether another process is refused, or given, a lock.
static int other_locks(const char *path, int of_records) {
    pid_t child = fork();
    if (child == 0) {
        int fd = open(path, O_RDWR);
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
        _exit(of_records ? fcntl(fd, F_SETLK, &lock) == 0 : flock(fd, LOCK_EX | LOCK_NB) == 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status);
}

static void locking(void) {
    put("file", "locked");
    int fd = open("file", O_RDWR);
    IS(flock(fd, LOCK_EX) == 0 && !other_locks("file", 0));
    IS(flock(fd, LOCK_UN) == 0 && other_locks("file", 0));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
    IS(fcntl(fd, F_SETLK, &lock) == 0 && !other_locks("file", 1));
    lock.l_type = F_UNLCK;
    IS(fcntl(fd, F_SETLK, &lock) == 0 && other_locks("file", 1));
    lock.l_type = F_WRLCK;
    lock.l_start = 20;
    IS(fcntl(fd, F_SETLK, &lock) == 0 && other_locks("file", 1));
    // A lock of records ends with any close of the file by its process.
    lock.l_start = 0;
    IS(fcntl(fd, F_SETLK, &lock) == 0);
    close(open("file", O_RDONLY));
    IS(other_locks("file", 1));
    close(fd);
}

static void mapping(void) {
    int fd = open("mapped", O_RDWR | O_CREAT, 0644);
    IS(ftruncate(fd, 16384) == 0);
    char *map = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    IS(map != MAP_FAILED);
    if (map == MAP_FAILED)
        return;
    strcpy(map + 5000, "by mapping");
    IS(msync(map, 16384, MS_SYNC) == 0);
    char found[16] = {0};
    IS(pread(fd, found, 10, 5000) == 10 && strcmp(found, "by mapping") == 0);
    IS(pwrite(fd, "by writing", 10, 9000) == 10 && memcmp(map + 9000, "by writing", 10) == 0);
    pid_t child = fork();
    if (child == 0) {
        strcpy(map + 100, "by a child");
        _exit(0);
    }
    waitpid(child, NULL, 0);
    IS(strcmp(map + 100, "by a child") == 0);
    char *own = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    strcpy(own + 100, "kept aside");
    IS(strcmp(map + 100, "by a child") == 0);
    munmap(own, 4096);
    IS(munmap(map, 16384) == 0 && close(fd) == 0);
    fd = open("mapped", O_RDONLY);
    IS(pread(fd, found, 10, 100) == 10 && strcmp(found, "by a child") == 0);
    close(fd);
}

static void rules(const char *dir) {
    struct {
        const char *name;
        void (*check)(void);
    } topics[] = {{"opening", opening}, {"removing", removing},   {"renaming", renaming}, {"linking", linking},
                  {"attributes", attributes}, {"cutting", cutting}, {"locking", locking},   {"mapping", mapping}};
    umask(022);
    for (size_t at = 0; at < sizeof topics / sizeof *topics; at++) {
        if (chdir(dir) || mkdir(topics[at].name, 0755) || chdir(topics[at].name))
            die("enter the folder");
        errno = 0;
        topics[at].check();
    }
}

static uint64_t seed;

static uint64_t chance(uint64_t below) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return below ? seed % below : 0;
}

#define MOST 262144

static void compare(const char *what, int at, const char *found, const char *model, size_t offset, size_t length) {
    for (size_t byte = 0; byte < length; byte++)
        if (found[byte] != model[offset + byte]) {
            printf("operation %d, %s at %zu of %zu bytes: byte %zu is %02x and not %02x\n", at, what, offset, length,
                   offset + byte, (unsigned char)found[byte], (unsigned char)model[offset + byte]);
            exit(1);
        }
}

static void fsx(const char *path, int operations) {
    static char model[MOST + 1], buffer[MOST + 1];
    size_t size = 0;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        die("open the file");
    for (int at = 0; at < operations; at++) {
        size_t offset = chance(MOST), length = 1 + chance(chance(4) ? 8192 : 65536);
        if (offset + length > MOST)
            length = MOST - offset;
        int kind = chance(100);
        if (kind < 30 || (kind < 45 && offset + length <= size)) {
            for (size_t byte = 0; byte < length; byte++)
                buffer[byte] = (char)chance(256);
            memcpy(model + offset, buffer, length);
            if (kind < 30) {
                if (pwrite(fd, buffer, length, offset) != (ssize_t)length)
                    die("write");
                size = offset + length > size ? offset + length : size;
            } else {
                size_t page = offset & ~(size_t)4095;
                char *map = mmap(NULL, offset + length - page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, page);
                if (map == MAP_FAILED)
                    die("map for writing");
                memcpy(map + (offset - page), buffer, length);
                if (chance(2) && msync(map, offset + length - page, MS_SYNC))
                    die("flush a mapping");
                munmap(map, offset + length - page);
            }
        } else if (kind < 65) {
            ssize_t found = pread(fd, buffer, length, offset);
            size_t expected = offset >= size ? 0 : offset + length > size ? size - offset : length;
            if (found != (ssize_t)expected) {
                printf("operation %d: read %zd of %zu bytes at %zu\n", at, found, expected, offset);
                exit(1);
            }
            compare("a read", at, buffer, model, offset, expected);
        } else if (kind < 75 && offset + length <= size) {
            size_t page = offset & ~(size_t)4095;
            char *map = mmap(NULL, offset + length - page, PROT_READ, MAP_SHARED, fd, page);
            if (map == MAP_FAILED)
                die("map");
            compare("a mapped read", at, map + (offset - page), model, offset, length);
            munmap(map, offset + length - page);
        } else if (kind < 85) {
            if (ftruncate(fd, offset))
                die("cut");
            if (offset < size)
                memset(model + offset, 0, size - offset);
            size = offset;
        } else if (kind < 90 && offset + length <= size) {
            int done = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
            if (done && errno != EOPNOTSUPP)
                die("punch a hole");
            if (!done)
                memset(model + offset, 0, length);
        } else if (kind < 95) {
            if (close(fd) || (fd = open(path, O_RDWR)) < 0)
                die("open again");
        } else if (fsync(fd)) {
            die("flush");
        }
        struct stat stat;
        if (fstat(fd, &stat) || (size_t)stat.st_size != size) {
            printf("operation %d: the file has %zu bytes and not %zu\n", at, (size_t)stat.st_size, size);
            exit(1);
        }
    }
    if (close(fd) || (fd = open(path, O_RDONLY)) < 0 || read(fd, buffer, MOST) != (ssize_t)size)
        die("read all of it");
    compare("the whole", operations, buffer, model, 0, size);
}

static void grow(const char *dir, int files) {
    char path[4096];
    if (chdir(dir))
        die("enter the folder");
    for (int at = 0; at < files; at++) {
        int package = at / 25, part = at % 25;
        if (part == 0) {
            snprintf(path, sizeof path, "package-%d", package);
            mkdir(path, 0755);
            snprintf(path, sizeof path, "package-%d/lib", package);
            mkdir(path, 0755);
            snprintf(path, sizeof path, "package-%d/lib/internal", package);
            mkdir(path, 0755);
            mkdir(".bin", 0755);
            char target[64];
            snprintf(target, sizeof target, "../package-%d/lib/file-0.js", package);
            snprintf(path, sizeof path, ".bin/package-%d", package);
            if (symlink(target, path))
                die("make a link");
        }
        snprintf(path, sizeof path, "package-%d/lib%s/file-%d.js", package, part % 2 ? "/internal" : "", part);
        FILE *file = fopen(path, "wx");
        if (!file)
            die("make a file");
        for (int line = 0; line < at % 40; line++)
            fprintf(file, "module.exports[%d] = 'package %d, part %d';\n", line, package, part);
        if (fclose(file))
            die("write a file");
        if (at % 10 == 0)
            chmod(path, 0755);
    }
}

// Replaces `index` as git does: whoever makes `index.lock` writes to it and gives it the other's name. So `index` is whole
// whenever it is there, and what was made is not seen to go elsewhere.
static void locks(const char *dir, int count) {
    static char content[1000], found[2000];
    if (chdir(dir))
        die(dir);
    for (int round = 0; round < count; round++) {
        int fd = open("index.lock", O_WRONLY | O_CREAT | O_EXCL, 0644), tries = 0;
        for (; fd < 0 && errno == EEXIST && tries < 100000; tries++) {
            usleep(100);
            fd = open("index.lock", O_WRONLY | O_CREAT | O_EXCL, 0644);
        }
        if (fd < 0)
            die("make index.lock");
        memset(content, 'a' + round % 26, sizeof content);
        for (size_t at = 0; at < sizeof content; at += 250)
            IS(write(fd, content + at, 250) == 250);
        struct stat stat;
        IS(fstat(fd, &stat) == 0 && stat.st_size == sizeof content);
        if (failures) { printf("round %d size %ld mode %o links %d ino %ld\n", round, (long)stat.st_size, stat.st_mode, (int)stat.st_nlink, (long)stat.st_ino); fstat(fd, &stat); printf("again size %ld mode %o links %d ino %ld\n", (long)stat.st_size, stat.st_mode, (int)stat.st_nlink, (long)stat.st_ino);usleep(50000);fstat(fd, &stat); printf("again size %ld mode %o links %d ino %ld\n", (long)stat.st_size, stat.st_mode, (int)stat.st_nlink, (long)stat.st_ino); exit(1);}
        close(fd);
        int before = open("index", O_RDONLY);
        if (before >= 0) {
            IS(fstat(before, &stat) == 0 && stat.st_size == sizeof content);
            IS(read(before, found, sizeof found) == sizeof content);
            close(before);
        }
        IS(rename("index.lock", "index") == 0);
    }
    printf("%d checks, %d failed\n", checks, failures);
}

static const char *chosen(char *path) {
    int folder = chance(6), file = chance(8);
    if (folder == 0)
        sprintf(path, "%c", 'a' + file);
    else if (folder < 4)
        sprintf(path, "%d/%c", folder, 'a' + file);
    else
        sprintf(path, "%d/%d/%c", 1 + (int)chance(3), folder, 'a' + file);
    return path;
}

static const char *chosen_folder(char *path) {
    if (chance(2))
        sprintf(path, "%d", 1 + (int)chance(3));
    else
        sprintf(path, "%d/%d", 1 + (int)chance(3), 4 + (int)chance(2));
    return path;
}

// Any of it may be refused: what is there is known by nobody alone.
static void play(const char *dir, int deeds) {
    char one[64], other[64], buffer[4096];
    struct stat stat;
    if (chdir(dir))
        die(dir);
    for (int deed = 0; deed < deeds; deed++) {
        int fd = -1;
        switch (chance(16)) {
        case 0:
        case 1:
            fd = open(chosen(one), O_WRONLY | O_CREAT | (chance(2) ? O_EXCL : O_TRUNC), 0600 + (int)chance(64));
            break;
        case 2:
            fd = open(chosen(one), O_WRONLY | O_APPEND);
            break;
        case 3:
        case 4:
            unlink(chosen(one));
            break;
        case 5:
        case 6:
            rename(chosen(one), chosen(other));
            break;
        case 7:
            mkdir(chosen_folder(one), 0755);
            break;
        case 8:
            if (chance(3) == 0)
                rename(chosen_folder(one), chosen_folder(other));
            break;
        case 9:
            if (chance(3) == 0)
                rmdir(chosen_folder(one));
            break;
        case 10:
            symlink(chosen(one), chosen(other));
            break;
        case 11:
            chmod(chosen(one), 0600 + (int)chance(64));
            break;
        case 12:
            truncate(chosen(one), chance(100));
            break;
        case 13:
            count(chosen_folder(one));
            break;
        default:
            if (lstat(chosen(one), &stat) == 0 && (fd = open(one, O_RDONLY)) >= 0) {
                while (read(fd, buffer, sizeof buffer) > 0)
                    ;
                close(fd);
                fd = -1;
            }
        }
        if (fd >= 0) {
            int length = sprintf(buffer, "%d %d\n", (int)getpid(), deed);
            if (write(fd, buffer, length) < 0)
                die("write");
            close(fd);
        }
        if (chance(8) == 0)
            usleep(chance(2000));
    }
    printf("%d deeds\n", deeds);
}

static uint64_t total;

static uint64_t mixed(uint64_t sum, const void *bytes, size_t length) {
    for (size_t at = 0; at < length; at++)
        sum = (sum ^ ((const unsigned char *)bytes)[at]) * 0x100000001b3;
    return sum;
}

static int add(const char *path, const struct stat *stat, int kind, struct FTW *at) {
    static char buffer[1 << 16];
    (void)at;
    uint64_t sum = mixed(0xcbf29ce484222325, path, strlen(path));
    sum = mixed(sum, &stat->st_mode, sizeof stat->st_mode);
    if (kind == FTW_SL) {
        ssize_t length = readlink(path, buffer, sizeof buffer);
        sum = mixed(sum, buffer, length > 0 ? length : 0);
    } else if (S_ISREG(stat->st_mode)) {
        int fd = open(path, O_RDONLY);
        if (fd < 0)
            die(path);
        for (ssize_t length; (length = read(fd, buffer, sizeof buffer)) > 0;)
            sum = mixed(sum, buffer, length);
        close(fd);
    }
    checks++;
    // A sum in any order: folders are not read in the same one on both sides.
    total += sum;
    return 0;
}

static int clear_one(const char *path, const struct stat *stat, int kind, struct FTW *at) {
    (void)stat, (void)kind;
    return at->level > 0 && remove(path) ? (printf("failed to remove %s: %s\n", path, strerror(errno)), 1) : 0;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *verb = argv[1];
    if (!strcmp(verb, "rules")) {
        rules(argv[2]);
        printf("%d checks, %d failed\n", checks, failures);
    } else if (!strcmp(verb, "fsx") && argc > 4) {
        seed = strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15 + 1;
        fsx(argv[2], atoi(argv[4]));
        printf("%s operations as they should be\n", argv[4]);
    } else if (!strcmp(verb, "grow") && argc > 3) {
        grow(argv[2], atoi(argv[3]));
    } else if (!strcmp(verb, "locks") && argc > 3) {
        locks(argv[2], atoi(argv[3]));
    } else if (!strcmp(verb, "play") && argc > 4) {
        seed = strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15 + 1;
        play(argv[2], atoi(argv[4]));
    } else if (!strcmp(verb, "sum")) {
        if (chdir(argv[2]) || nftw(".", add, 32, FTW_PHYS))
            die("walk the folder");
        printf("%d %016" PRIx64 "\n", checks, total);
    } else if (!strcmp(verb, "clear")) {
        return nftw(argv[2], clear_one, 32, FTW_PHYS | FTW_DEPTH) ? 1 : 0;
    } else if (!strcmp(verb, "clock")) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        now.tv_sec += atoi(argv[2]);
        if (atoi(argv[2]) && clock_settime(CLOCK_REALTIME, &now))
            die("set the clock");
        printf("%" PRIu64 "\n", (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec);
    } else if (!strcmp(verb, "fill") && argc > 3) {
        static char block[1 << 24];
        int fd = open(argv[2], O_WRONLY | O_CREAT, 0644);
        memset(block, 'x', sizeof block);
        for (size_t left = strtoul(argv[3], NULL, 10) << 20; left > 0;) {
            ssize_t written = write(fd, block, left < sizeof block ? left : sizeof block);
            if (written <= 0 || fsync(fd))
                die("fill a file");
            left -= written;
        }
    } else {
        return 2;
    }
    return failures ? 1 : 0;
}
