"""sockperf over TCP with its own check of every message."""

import re

from .side import CaseFailed

NEEDS = ["sockperf"]


def suites():
    return [("sockperf", True, run)]


def run(side):
    port = side.port()
    with side.server(["sockperf", "server", "--tcp", "-i", "127.0.0.1", "-p", port], port):
        for size in (1000,) if side.short else (14, 1000, 20_000):
            side.case(f"ping-pong, {size} bytes", ask, side, port, "ping-pong", size, "--data-integrity")
        for size in (10_000,) if side.short else (64, 10_000):
            side.case(f"stream, {size} bytes", ask, side, port, "throughput", size)
        if side.short:
            return
        side.case("ping-pong by epoll, many sockets", many, side)
        side.case("under load", ask, side, port, "under-load", 200, "--mps", "2000", "--reply-every", "10")


def ask(side, port, mode, size, *words):
    said = side.run(["sockperf", mode, "--tcp", "-i", "127.0.0.1", "-p", port, "-m", size, "-t", "1", *words], limit=40)
    bad = re.search(r"# (dropped|duplicated|out-of-order) messages = [1-9].*", said)
    # A stream has no answers to check.
    whole = mode == "throughput" or "Valid Duration" in said
    if bad or not whole or "data integrity test failed" in said.lower():
        raise CaseFailed(bad[0] if bad else said)


def many(side):
    """A server and a client of several sockets each."""
    ports = [side.port() for _ in range(8)]
    feed = side.work / "feed"
    feed.write_text("".join(f"T:127.0.0.1:{port}\n" for port in ports))
    with side.server(["sockperf", "server", "-f", feed, "-F", "e"], *ports):
        said = side.run(["sockperf", "ping-pong", "-f", feed, "-F", "e", "-t", "1", "-m", "100"], limit=40)
    if "dropped messages = 0" not in said:
        raise CaseFailed(said)
