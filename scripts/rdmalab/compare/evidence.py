"""What NetACC's run of redis with 100 clients was carried by, and what it cost: our counters, the device's, the
kernel's, and strace's."""

import re
import signal
from collections import Counter
from contextlib import contextmanager

from lab import progress
from rdmalab.compare.machines import Failed
from rdmalab.compare.redis_rows import Server

CLIENTS = ["-c", "100"]
# What NetACC did itself, by its own counters, for the whole process.
WORK = ("work_requests", "doorbells", "messages_sent", "sleeps", "wakes_sent", "kernel_polls", "epoll_waits", "tx_records")
# Reading the clock is a system call in a user-mode guest only. What is not traced runs at full speed: how much a
# batch holds, and so how many calls there are, depends on that.
TRACER = ["strace", "-f", "-y", "-s", "0", "--seccomp-bpf", "-e", "trace=!gettimeofday,clock_gettime,time", "-o"]
# A call in what it writes, and what its first argument is.
CALL = re.compile(r"^\d+ +(\w+)\(([^,)]*)", re.MULTILINE)
# Segments that carry data, of what the application's port and its side port carry.
DATA = "(((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)"


def grown(before, after):
    """What has been added to each counter that moved."""
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


@contextmanager
def segments(lab, port):
    """Counts TCP segments with data on the wire to and from a port and its side port, into what it yields."""
    ports = f"tcp and (port {port} or port {port + 20000}) and {DATA}"
    counted = {}
    with lab.a.spawn(["tcpdump", "-i", "vec0", "-nn", "-q", "-l", "--immediate-mode", ports]) as dump:
        dump.wait_for("listening on")
        yield counted
        # The last segments pass before the program that made them ends; tcpdump may still have to see them.
        lab.a.run("sleep 0.2")
        dump.stop(signal.SIGINT, 5)
        lines = [line for line in dump.output().splitlines() if " > " in line]
        counted["segments"] = len(lines)
        counted["application_port"] = sum(f".{port} > " in line or f".{port}: " in line for line in lines)


def run_watched(lab, server, requests):
    """One run, with everything counted that counts."""
    guests = {"a": lab.a, "b": lab.b}
    client_counters, queue_pairs = {}, {}

    def look(client):
        client_counters.update(lab.a.counters(lab, client.pid))
        for name, guest in guests.items():
            queue_pairs[name] = max(queue_pairs.get(name, 0), guest.queue_pairs())

    def watch(client):
        while client.code(0.1) is None:
            look(client)

    before = {name: (guest.hardware(lab.device), guest.protocols()) for name, guest in guests.items()}
    of_server = server.counters()
    with segments(lab, server.port) as data:
        with server.client(CLIENTS, requests, "set") as client:
            client.finish(60, lambda: watch(client))
    work = grown(of_server, server.counters())
    after = {name: (guest.hardware(lab.device), guest.protocols()) for name, guest in guests.items()}
    hardware, protocols = (
        {name: grown(before[name][kind], after[name][kind]) for name in guests} for kind in (0, 1))
    return {
        "requests": requests, "server": work, "client": client_counters, "queue_pairs": queue_pairs,
        "hardware": hardware, "segments": data,
        "protocols": {name: {key: value for key, value in counts.items() if key in
                             ("TcpOutSegs", "TcpInSegs", "TcpExtTCPOrigDataSent", "UdpOutDatagrams", "UdpInDatagrams")}
                      for name, counts in protocols.items()},
    }


def calls_by_name(text):
    """The calls in what strace wrote: {name: calls}, with "total", "device": those that are commands to the RDMA device
    (only a soft one needs the kernel for them), and "files": redis' own looks at its memory in /proc, ten times a
    second whatever carries its connections."""
    counted = Counter(total=0, device=0, files=0)
    for name, first in CALL.findall(text):
        counted.update([name, "total"])
        counted["device"] += "/dev/infiniband/uverbs" in first
        counted["files"] += name == "openat" or "</proc/" in first
    return counted


def calls_per_request(lab, carrier, short, long):
    """System calls per SET of both ends by name: what a long run makes more than a short one, so that start and end
    cancel."""
    found = {}
    for requests in (short, long):
        tracer = [*TRACER, f"/tmp/calls-{carrier}-{requests}"]
        with Server(lab, carrier, tracer=tracer) as server, server.client(CLIENTS, requests, "set", tracer) as client:
            client.finish(90)
            # strace ignores what would end it; the server does not, and its end is strace's.
            if not server.program.stop(signal.SIGTERM, 20):
                raise Failed("the traced redis-server does not end")
        found[requests] = {end: calls_by_name(guest.read(tracer[-1])) for end, guest in
                           (("server", lab.b), ("client", lab.a))}
    return {end: {name: (calls - found[short][end].get(name, 0)) / (long - short) for name, calls in counted.items()}
            for end, counted in found[long].items()}


def measure(lab, report, quick):
    """The whole room."""
    progress("NetACC, 100 clients: counting what carries it")
    with Server(lab, "netacc") as server:
        server.benchmark(CLIENTS, 2000, 60, "set")
        report["evidence"] = run_watched(lab, server, 5000 if quick else 20000)
    report["calls"] = {}
    for carrier, short, long in (("tcp", 500, 2500), ("netacc", 4000, 12000 if quick else 32000)):
        progress(f"counting the system calls of both ends, {carrier}")
        try:
            report["calls"][carrier] = calls_per_request(lab, carrier, short, long)
        except Failed as failure:
            report["calls"][carrier] = f"not counted: {failure}"
