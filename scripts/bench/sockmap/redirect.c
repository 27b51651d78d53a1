/* What users of one host would pick beside NetACC: local TCP connections whose bytes go from socket to socket, past the
 * kernel's TCP. `established` puts both ends of each connection of a cgroup that stays on 127.0.0.1 into a map; `redirect`
 * sends what one writes to the other's receive queue. Compiled and loaded by scripts/bench/sockmap.py. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IPV4 2

/* An end of a connection, as it sees itself. Ports in the host's order. */
struct end {
	__u32 local_ip, remote_ip, local_port, remote_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 65536);
	__type(key, struct end);
	__type(value, __u64);
} ends SEC(".maps");

/* How many messages were redirected: whether it works at all. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

SEC("sockops")
int established(struct bpf_sock_ops *ops)
{
	struct end self;

	if (ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 0;
	if (ops->family != IPV4 || ops->remote_ip4 != bpf_htonl(0x7f000001))
		return 0;
	self.local_ip = ops->local_ip4;
	self.remote_ip = ops->remote_ip4;
	self.local_port = ops->local_port;
	self.remote_port = bpf_ntohl(ops->remote_port);
	bpf_sock_hash_update(ops, &ends, &self, BPF_ANY);
	return 0;
}

SEC("sk_msg")
int redirect(struct sk_msg_md *msg)
{
	struct end other = {
		.local_ip = msg->remote_ip4,
		.remote_ip = msg->local_ip4,
		.local_port = bpf_ntohl(msg->remote_port),
		.remote_port = msg->local_port,
	};

	__u64 *count;
	__u32 first = 0;

	/* Zero: there is no such end, and the kernel's TCP carries the message. */
	if (bpf_msg_redirect_hash(msg, &ends, &other, BPF_F_INGRESS) == SK_PASS) {
		count = bpf_map_lookup_elem(&seen, &first);
		if (count)
			__sync_fetch_and_add(count, 1);
	}
	return SK_PASS;
}

char _license[] SEC("license") = "GPL";
