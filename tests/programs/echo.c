/* What a program does that gets a connection: sends back all that comes. Built statically, no library can be preloaded
 * into it.
 *
 *     echo FD              on this descriptor
 *     echo receive FD      on the one that comes (SCM_RIGHTS) by this Unix socket
 *     echo accept FD       on the first connection that this listener has
 *     echo execl FD FILE   runs FILE FD instead, by execl(3)
 *     echo sum ...         sends nothing back, and says what has come
 *     echo try FD...       reads 5000 bytes of each, and says whether they, or an error, have come
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int receive(int from)
{
	char byte, space[CMSG_SPACE(sizeof(int))];
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space) };
	int fd;

	if (recvmsg(from, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
		exit(3);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static int try(char **fds)
{
	static char bytes[5000];
	ssize_t got, all;

	for (; *fds; fds++) {
		for (all = 0; all < 5000 && (got = read(atoi(*fds), bytes, 5000 - all)) > 0; all += got)
			;
		if (all < 5000 && got == 0) {
			printf("%zd bytes and an end\n", all);
			return 1;
		}
	}
	puts("all of it or an error");
	return 0;
}

int main(int argc, char **argv)
{
	static char bytes[65536];
	unsigned long sum = 0, length = 0;
	ssize_t got, sent, n;
	int sums = !strcmp(argv[1], "sum"), fd;

	if (!strcmp(argv[1], "try"))
		return try(argv + 2);
	argv += sums;
	argc -= sums;
	fd = atoi(argv[argc > 2 ? 2 : 1]);

	if (argc > 2 && !strcmp(argv[1], "receive"))
		fd = receive(fd);
	if (argc > 2 && !strcmp(argv[1], "accept")) {
		puts("accepting");
		fflush(stdout);
		fd = accept(fd, NULL, NULL);
	}
	if (argc > 3 && !strcmp(argv[1], "execl")) {
		execl(argv[3], argv[3], argv[2], (char *)NULL);
		return 4;
	}
	while ((got = read(fd, bytes, sizeof(bytes))) > 0) {
		for (sent = 0; sums && sent < got; sent++)
			sum = sum * 31 + (unsigned char)bytes[sent];
		for (sent = 0; !sums && sent < got; sent += n)
			if ((n = write(fd, bytes + sent, got - sent)) < 0) {
				perror("write");
				return 1;
			}
		length += got;
	}
	if (sums)
		printf("%lu bytes, %lx\n", length, sum);
	if (got < 0)
		perror("read");
	return got < 0;
}
