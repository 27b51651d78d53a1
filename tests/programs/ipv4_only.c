/* Makes librdmacm refuse IPv6 as it does where a device's connection manager knows IPv4 only (eRDMA's). Preloaded after
 * NetACC's library, which looks librdmacm's functions up by dlsym, it stands in for that. IPV4_ONLY says where IPv6 is
 * refused: bind (the address is no device's), listen, connect. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <rdma/rdma_cma.h>
#include <stdlib.h>
#include <string.h>

static int (*real_bind)(struct rdma_cm_id *, struct sockaddr *);
static int (*real_listen)(struct rdma_cm_id *, int);
static int (*real_connect)(struct rdma_cm_id *, struct rdma_conn_param *);

static int refuses(const char *where, const struct sockaddr *address)
{
	const char *setting = getenv("IPV4_ONLY");

	return setting && !strcmp(setting, where) && address->sa_family == AF_INET6;
}

static int failure(int code)
{
	errno = code;
	return -1;
}

static int bind_address(struct rdma_cm_id *id, struct sockaddr *address)
{
	return refuses("bind", address) ? failure(ENODEV) : real_bind(id, address);
}

static int listen_at(struct rdma_cm_id *id, int backlog)
{
	return refuses("listen", rdma_get_local_addr(id)) ? failure(EOPNOTSUPP) : real_listen(id, backlog);
}

static int connect_to(struct rdma_cm_id *id, struct rdma_conn_param *parameters)
{
	return refuses("connect", rdma_get_peer_addr(id)) ? failure(EOPNOTSUPP) : real_connect(id, parameters);
}

void *dlsym(void *handle, const char *name)
{
	static void *(*real)(void *, const char *);
	void *found;

	if (!real)
		real = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
	found = real(handle, name);
	if (found && !strcmp(name, "rdma_bind_addr")) {
		real_bind = found;
		return bind_address;
	}
	if (found && !strcmp(name, "rdma_listen")) {
		real_listen = found;
		return listen_at;
	}
	if (found && !strcmp(name, "rdma_connect")) {
		real_connect = found;
		return connect_to;
	}
	return found;
}
