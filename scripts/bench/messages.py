"""One connection of plain blocking calls: messages there and back, streams one way; and several at once."""

import contextlib
import json

from bench.row import Figure, Row
from programs.side import expect


def verdict(said):
    """The JSON line that a program of ours ends with."""
    found = json.loads(said.strip().splitlines()[-1])
    expect(found.get("ok", True), str(found))
    return found


def counted(found, seconds):
    """With how much was done, of what tells only how much that was in a second."""
    return {**found, "count": found["per_second"] * seconds}


@contextlib.contextmanager
def peer(side, *options, pairs=1):
    """`netacc-test-peer`, a server and a client for each run; of several pairs the sum is taken."""
    program = side.bin_dir / "netacc-test-peer"

    def run(seconds):
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(pairs):
                port = side.port()
                at = f"127.0.0.1:{port}"
                stack.enter_context(side.server([program, "speed-server", "--listen", at, *options], port))
                clients.append([program, "speed-client", "--connect", at, "--ms", round(seconds * 1000), *options])
            found = [verdict(said) for said in side.together(clients)]
        return {**found[0], "per_second": sum(one["per_second"] for one in found),
                "count": sum(one["messages"] for one in found)}

    yield run


@contextlib.contextmanager
def machine(side, *words):
    """What the machine itself does: `netacc-bench`."""
    yield lambda seconds: verdict(side.run([side.bin_dir / "netacc-bench", "--ms", round(seconds * 1000), *words]))


def both(*options, pairs=1):
    """The same over TCP, bare and redirected, and over NetACC."""
    return {carrier: lambda side: peer(side, *options, pairs=pairs) for carrier in ("tcp", "sockmap", "netacc")}


@contextlib.contextmanager
def memcached(side):
    """memcached with four threads, and a client with as many."""
    port = side.port()
    argv = ["memcached", "-l", "127.0.0.1", "-p", port, "-U", "0", "-t", "4", "-m", "256", "-c", "1024"]
    with side.server([*argv, "-u", "root"], port):
        words = [side.bin_dir / "netacc-bench", "memcached", "--connect", f"127.0.0.1:{port}"]
        yield lambda seconds: counted(verdict(side.run([*words, "--ms", round(seconds * 1000)])), seconds)


@contextlib.contextmanager
def connects(side, env=None):
    """Connections that carry one byte each, one after the other; a server and a client for each run."""
    program = side.bin_dir / "netacc-bench"

    def run(seconds):
        port = side.port()
        at = f"127.0.0.1:{port}"
        with side.server([program, "accept", "--listen", at], port, env=env):
            said = side.run([program, "connect", "--connect", at, "--ms", round(seconds * 1000)], env=env)
            return counted(verdict(said), seconds)

    yield run


FAST = {"NACC_FAST_CONNECT": "1"}
PING_PONG = (
    Figure("p50_us", "µs", {("netacc", "tcp"): 10, ("netacc", "limit"): 0.5}, is_time=True),
    Figure("p999_us", "µs", {("netacc", "tcp"): 10}, is_time=True),
    Figure("per_second", "round trips/s", {}),
)
ROWS = {
    "ping-pong": Row("ping-pong, 64 B", PING_PONG, {**both("--size", "64"), "limit": lambda side: machine(side, "shared-memory")}),
    "stream": Row("stream, writes of 64 B", (Figure("per_second", "writes/s", {("netacc", "tcp"): 10}),),
                  both("--size", "64", "--sink")),
    "bulk": Row("stream, writes of 1 MiB",
                (Figure("mb_per_second", "MB/s", {("netacc", "tcp"): 2, ("netacc", "limit"): 0.6}),),
                {**both("--size", str(1 << 20), "--sink"), "limit": lambda side: machine(side, "copy")}),
    "pairs": Row("three pairs at once, 64 B there and back", (Figure("per_second", "round trips/s", {("netacc", "tcp"): 1}),),
                 both("--size", "64", pairs=3)),
    "connects": Row("a connection, a byte, and its end", (Figure("per_second", "connections/s",
                                                                 {("fast", "tcp"): 10, ("netacc", "tcp"): 0.8}),),
                    {"tcp": connects, "sockmap": connects, "netacc": connects, "fast": lambda side: connects(side, FAST)}),
    "memcached": Row("memcached, 4 threads, 4 client threads", (Figure("per_second", "requests/s", {("netacc", "tcp"): 2.5}),),
                     {"tcp": memcached, "sockmap": memcached, "netacc": memcached}),
}
