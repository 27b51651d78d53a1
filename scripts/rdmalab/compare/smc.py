#!/usr/bin/env python3
"""SMC-R of this guest's kernel, by netlink: what makes it work between two hosts, and whether it does.

    smc.py NETDEV DEVICE      prepares this guest

Both ends need a physical network name (PNETID) on the network device and on the RDMA device, and, since soft RoCE
has RoCEv2 addresses only, which is SMC-Rv2, one and the same enterprise name (EID)."""

import collections
import os
import socket
import struct
import sys

NAME = "LAB"
EID = "NETACC-LAB".ljust(32)
NETLINK_SOCK_DIAG, NETLINK_GENERIC = 4, 16
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
SMC_PNETID_ADD = 2
SMC_PNETID_NAME, SMC_PNETID_ETHNAME, SMC_PNETID_IBNAME, SMC_PNETID_IBPORT = 1, 2, 3, 4
SMC_NETLINK_ADD_UEID, SMC_NLA_EID_TABLE_ENTRY = 10, 1
SOCK_DIAG_BY_FAMILY, AF_SMC, SMC_DIAG_FALLBACK = 20, 43, 5
MODES = {0: "SMC-R", 1: "TCP", 2: "SMC-D"}
ACTIVE = 1
# What the kernel says of a connection that it left to TCP (net/smc/smc_clc.h), where it is likely here.
REASONS = {
    0x01010000: "out of memory", 0x02010000: "time-out", 0x03000000: "a configuration error",
    0x03010000: "the peer does not speak SMC", 0x03020000: "IPsec", 0x03030000: "no SMC-R or SMC-D device",
    0x03030002: "no SMC-R device", 0x03030007: "no common enterprise name",
    0x04000000: "the peer declined", 0x09990000: "an internal error", 0x09990001: "QP setup failed",
}


def attribute(kind, value):
    """A netlink attribute; text ends with a zero byte."""
    payload = value.encode() + b"\0" if isinstance(value, str) else value
    length = 4 + len(payload)
    return struct.pack("HH", length, kind) + payload + bytes(-length % 4)


def attributes(data):
    """The attributes of a message: {kind: bytes}."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3:]
    return found


def ask(protocol, kind, flags, payload):
    """Sends one message; the payloads of the answers. OSError if the kernel refuses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as netlink:
        netlink.send(struct.pack("IHHII", 16 + len(payload), kind, NLM_F_REQUEST | flags, 1, 0) + payload)
        answers = []
        while True:
            data = netlink.recv(1 << 20)
            while data:
                length, kind = struct.unpack_from("IH", data)
                body, data = data[16:length], data[(length + 3) & ~3:]
                if kind == NLMSG_ERROR:
                    if error := -struct.unpack_from("i", body)[0]:
                        raise OSError(error, os.strerror(error))
                    return answers
                if kind == NLMSG_DONE:
                    return answers
                answers.append(body)


def generic(family, command, *attrs):
    """A command of a generic netlink family."""
    header = struct.pack("BBH", CTRL_CMD_GETFAMILY, 1, 0)
    answer = ask(NETLINK_GENERIC, GENL_ID_CTRL, NLM_F_ACK, header + attribute(CTRL_ATTR_FAMILY_NAME, family))
    number = struct.unpack("H", attributes(answer[0][4:])[CTRL_ATTR_FAMILY_ID])[0]
    ask(NETLINK_GENERIC, number, NLM_F_ACK, struct.pack("BBH", command, 1, 0) + b"".join(attrs))


def prepare(netdev, device):
    """Gives the two devices one name, and this guest its enterprise name."""
    generic("SMC_PNETID", SMC_PNETID_ADD, attribute(SMC_PNETID_NAME, NAME), attribute(SMC_PNETID_ETHNAME, netdev),
            attribute(SMC_PNETID_IBNAME, device), attribute(SMC_PNETID_IBPORT, b"\1"))
    generic("SMC_GEN_NETLINK", SMC_NETLINK_ADD_UEID, attribute(SMC_NLA_EID_TABLE_ENTRY, EID))


def connections():
    """How many active SMC sockets of this guest there are of each mode, as smc_diag tells: {"SMC-R": 100}."""
    modes = collections.Counter()
    request = struct.pack("BBBB48x", AF_SMC, 0, 0, 1 << (SMC_DIAG_FALLBACK - 1))
    for answer in ask(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request):
        _, state, mode = struct.unpack_from("BBB", answer)
        if state != ACTIVE:
            continue
        name = MODES.get(mode, f"mode {mode}")
        fallback = attributes(answer[64:]).get(SMC_DIAG_FALLBACK)
        if fallback:
            ours, theirs = struct.unpack_from("II", fallback)
            name += "".join(f", {who}: {REASONS.get(why, hex(why))}"
                            for who, why in (("here", ours), ("at the peer", theirs)) if why)
        modes[name] += 1
    return dict(modes)


if __name__ == "__main__":
    prepare(*sys.argv[1:])
