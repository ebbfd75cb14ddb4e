/*
 * The first process of a guest that is not ours: it says to the host what the file /say holds, and then does as the first
 * letter of /mode says: w(aits), f(loods: says it without end). The second letter is what it does at the ports that the
 * host connects to: n(obody there), s(tays silent), f(loods).
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static char say[1 << 20];
static char modules[1 << 16];
static char garbage[1 << 14];

static size_t content(const char *path, char *into, size_t room)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got;

	while (file >= 0 && (got = read(file, into + length, room - 1 - length)) > 0)
		length += got;
	close(file);
	into[length] = 0;
	return length;
}

static void load_modules(void)
{
	content("/modules.load", modules, sizeof(modules));
	for (char *path = strtok(modules, "\n"); path; path = strtok(NULL, "\n")) {
		int file = open(path, O_RDONLY | O_CLOEXEC);
		/* One for another machine than this. */
		syscall(SYS_finit_module, file, "", 0);
		close(file);
	}
}

static void serve(unsigned port, char mode)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port };
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fork())
		return;
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 16))
		exit(1);
	for (;;) {
		int client = accept(listener, NULL, NULL);

		if (mode == 'f' && !fork()) {
			while (write(client, garbage, sizeof(garbage)) > 0)
				;
			exit(0);
		}
	}
}

int main(void)
{
	struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 1 };
	char mode[8] = "wn";
	size_t length;
	int control;

	load_modules();
	content("/mode", mode, sizeof(mode));
	length = content("/say", say, sizeof(say));
	memset(garbage, 'x', sizeof(garbage));
	for (unsigned port = 2; mode[1] != 'n' && port <= 4; port++)
		serve(port, mode[1]);
	for (;;) {
		control = socket(AF_VSOCK, SOCK_STREAM, 0);
		if (!connect(control, (struct sockaddr *)&host, sizeof(host)))
			break;
		close(control);
		usleep(10000);
	}
	do {
		for (size_t at = 0; at < length;) {
			ssize_t put = write(control, say + at, length - at);

			if (put <= 0)
				pause();
			at += put;
		}
	} while (mode[0] == 'f');
	for (;;)
		pause();
}
