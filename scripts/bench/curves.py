"""What changes with one thing: sizes, connections and threads, over TCP and over NetACC; and NetACC's settings."""

import contextlib
import dataclasses
from collections.abc import Callable

from bench import messages, redis
from processes.rows import MANY_FILES
from programs.side import Side


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a picture: `start(side, x)` is a context with `run(seconds)`: {figure: value}, on a side that is "bare" or
    "on". `figure` is what is drawn."""

    title: str
    side: str
    start: Callable
    figure: str = "per_second"


@dataclasses.dataclass(frozen=True)
class Curve:
    """A picture of lines over the same values. Where a `default` is named, what is drawn is each value's ratio to the
    median of the default's: the lines are of different kinds of work."""

    title: str
    x_title: str
    values: tuple
    lines: tuple
    y_title: str = "requests/s"
    default: int | None = None


class Set(Side):
    """A side whose programs have a setting."""

    def __init__(self, env, *words, **more):
        super().__init__(*words, **more)
        self.env = env

    def environment(self, extra=None):
        return super().environment({**self.env, **(extra or {})})


@contextlib.contextmanager
def crowd(side, size=64, threads=1, active=1, idle=0):
    """`netacc-bench`'s server of many connections, and its client; both anew for each run."""
    program = side.bin_dir / "netacc-bench"
    options = ["--size", size, "--threads", threads]

    def run(seconds):
        port = side.port()
        at = f"127.0.0.1:{port}"
        with side.server([*MANY_FILES, program, "answer", "--listen", at, *options], port):
            ask = [*MANY_FILES, program, "ask", "--connect", at, *options, "--active", active, "--idle", idle]
            return messages.verdict(side.run([*ask, "--ms", round(seconds * 1000)]))

    yield run


def both(start, figure="per_second"):
    """A line over kernel TCP and one over NetACC."""
    return (Line("kernel TCP", "bare", start, figure), Line("NetACC", "on", start, figure))


SCALING = {
    "connections": Curve("Connections, each with a request of 64 B under way", "connections", (1, 10, 100, 1000, 10_000),
                         both(lambda side, n: crowd(side, active=n))),
    "sizes": Curve("Bytes of a request, 4 connections", "bytes", tuple(64 << 2 * n for n in range(9)),
                   both(lambda side, n: crowd(side, size=n, active=4), "mb_per_second"), "MB/s"),
    "threads": Curve("Threads at each end, 64 connections, 64 B", "threads", (1, 2, 4, 8),
                     both(lambda side, n: crowd(side, threads=n, active=64))),
    "idle": Curve("16 busy connections beside so many that are idle, 64 B", "idle connections", (1, 10, 100, 1000, 10_000),
                  both(lambda side, n: crowd(side, active=16, idle=n))),
    "idle-1": Curve("1 busy connection beside so many that are idle, 64 B", "idle connections", (1, 10, 100, 1000, 10_000),
                    both(lambda side, n: crowd(side, active=1, idle=n))),
}


def setting(name, work):
    """A line's start: `work` with the setting at each value."""
    def start(side, value):
        side.env[name] = str(value)
        return work(side)
    return start


def lines(name, *works):
    """Lines of kinds of work, [(title, start, figure)], under one setting."""
    return tuple(Line(title, "on", setting(name, work), figure) for title, work, figure in works)


PING_PONG = ("ping-pong, 64 B", lambda side: messages.peer(side, "--size", "64"), "per_second")
PAIRS = ("three pairs on two cores", lambda side: messages.peer(side, "--size", "64", pairs=3), "per_second")
REDIS = ("redis, 100 clients", lambda side: redis.server(side, "tcp", "-c", "100"), "SET")
# Four threads at each end on two cores.
MEMCACHED = ("memcached, 4 client threads", messages.memcached, "per_second")
STREAM = ("stream of 64 B", lambda side: messages.peer(side, "--size", "64", "--sink"), "per_second")
BULK = ("stream of 1 MiB", lambda side: messages.peer(side, "--size", str(1 << 20), "--sink"), "mb_per_second")
LARGE = ("64 KiB there and back", lambda side: messages.peer(side, "--size", str(1 << 16)), "per_second")
CROWD = ("100 connections, 16 KiB", lambda side: crowd(side, size=16 << 10, active=100), "per_second")


def remote(work):
    """A kind of work whose link is one as to another host, over a kernel stream: rings that grow, batches that are flushed."""
    title, start, figure = work

    def started(side):
        side.env["NACC_FABRICS"] = "tcp"
        return start(side)
    return (title, started, figure)


SETTINGS = {
    "spin": Curve("NACC_SPIN_US", "µs", (0, 5, 20, 50, 100, 200), lines("NACC_SPIN_US", PING_PONG, REDIS, PAIRS, MEMCACHED),
                  default=50),
    "record": Curve("NACC_SOR_MSG_SIZE", "bytes", tuple(1024 << 2 * n for n in range(6)),
                    lines("NACC_SOR_MSG_SIZE", BULK, LARGE, CROWD), default=16 << 10),
    "window": Curve("NACC_WINDOW_SIZE", "bytes", tuple(16384 << n for n in range(6)), lines("NACC_WINDOW_SIZE", STREAM, BULK, LARGE, CROWD),
                    default=256 << 10),
    "ring": Curve("NACC_RING_SIZE", "bytes", tuple(65536 << 2 * n for n in range(6)), lines("NACC_RING_SIZE", STREAM, BULK, CROWD, REDIS),
                  default=1 << 20),
    "growth": Curve("NACC_RING_SIZE between hosts (rings grow from 16 KiB to it)", "bytes", tuple(65536 << 2 * n for n in range(5)),
                    lines("NACC_RING_SIZE", remote(STREAM), remote(BULK), remote(CROWD)), default=1 << 20),
    "batch": Curve("NACC_SOR_MSG_SIZE between hosts", "bytes", tuple(1024 << 2 * n for n in range(5)),
                   lines("NACC_SOR_MSG_SIZE", remote(STREAM), remote(BULK), remote(LARGE)), default=16 << 10),
}
