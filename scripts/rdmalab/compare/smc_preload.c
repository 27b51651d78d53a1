/* Every TCP socket of a program becomes one of SMC, which talks SMC-R where it can and TCP elsewhere. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum { SMCPROTO_SMC, SMCPROTO_SMC6 };

int socket(int domain, int type, int protocol)
{
    int (*original)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    int stream = (type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) == SOCK_STREAM;

    if (stream && (domain == AF_INET || domain == AF_INET6) && (protocol == 0 || protocol == IPPROTO_TCP))
        return original(AF_SMC, type, domain == AF_INET ? SMCPROTO_SMC : SMCPROTO_SMC6);
    return original(domain, type, protocol);
}
