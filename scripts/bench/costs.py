"""What NetACC costs where it has nothing to do: at a program's start, beside a peer without it, and when idle."""

import contextlib
import os
import re
import statistics
import subprocess
import time
from pathlib import Path

from bench.instructions import WORKS, per_message
from bench.row import Check, Figure, Row
from lab import benchmark_figures, in_turn
from processes.rows import CLIENTS, CROWD, MANY_FILES
from programs.side import Side, equal

STARTS = 1500
EMPTY = "int netacc_nothing;"


def start(bin_dir, work):
    """A program without TCP, started again and again: bare, with the library, and with one that is empty, in turn."""
    bare = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    empty = work / "empty.so"
    subprocess.run(["gcc", "-shared", "-o", empty, "-x", "c", "-"], input=EMPTY, text=True, check=True)
    environments = {"bare": bare, "on": {**bare, "LD_PRELOAD": str(bin_dir / "libnetacc-preload.so")},
                    "empty": {**bare, "LD_PRELOAD": str(empty)}}
    took = {name: [] for name in environments}
    for _, order in in_turn(environments, STARTS):
        for name in order:
            begun = time.perf_counter()
            _, status = os.waitpid(os.posix_spawn("/bin/true", ["true"], environments[name]), 0)
            took[name].append((time.perf_counter() - begun) * 1000)
            equal("the status of /bin/true", status, 0)
    middle = {name: statistics.median(times) for name, times in took.items()}
    yield "milliseconds that the library adds to a start", middle["on"] - middle["bare"], 0.1
    yield "of them what any library adds, an empty one", middle["empty"] - middle["bare"], None
    yield "milliseconds of a start without", middle["bare"], None


@contextlib.contextmanager
def bare_server(side):
    """redis-benchmark against a server that knows nothing of NetACC."""
    port = side.port()
    words = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", side.work]
    bare = Side("bare", "bare-server", side.bin_dir, side.work, short=True)

    def run(seconds):
        count = int(60_000 * seconds)
        said = side.run(["redis-benchmark", "-p", port, "-c", "50", "-t", "set", "-n", count, "--csv"])
        return {"SET": benchmark_figures(said)["SET"]["rps"], "count": count}

    try:
        with bare.server(words, port):
            yield run
    finally:
        bare.end()


def processor_time(pid):
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid):
    """Bytes of memory that a process alone has, and of shared ones its part."""
    return int(re.search(r"Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())[1]) << 10


def pinned(pid):
    """Bytes of memory that a process has locked, or a device pinned for it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(re.search(rf"{name}:\s+(\d+)", status)[1]) << 10 for name in ("VmLck", "VmPin"))


def instructions(bin_dir, _work):
    """Instructions of library code for a message."""
    for work in WORKS.values():
        yield work.title, sum(per_message(bin_dir, work).values()), work.most


def idle(bin_dir, work, rest=5.0):
    """Two processes with ten thousand connections that nobody uses: processor time, and memory for each connection."""
    found = {}
    for name in ("bare", "on"):
        side = Side(name, "idle", bin_dir, work, short=True)
        try:
            port = side.port()
            server = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", side.work]
            server += ["--maxclients", CLIENTS + 500, "--hz", "1", "--dynamic-hz", "no"]
            with side.server([*MANY_FILES, *server], port) as session:
                client = side.start([*MANY_FILES, "python3", "-B", CROWD, port, CLIENTS], stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, text=True)
                try:
                    equal("what the crowd says", client.process.stdout.readline().strip(), "connected")
                    pids = (session.process.pid, client.process.pid)
                    time.sleep(1)
                    before = [processor_time(pid) for pid in pids]
                    time.sleep(rest)
                    used = [processor_time(pid) - then for pid, then in zip(pids, before, strict=True)]
                    found[name] = {"busy": [100 * one / rest for one in used], "memory": [resident(pid) for pid in pids],
                                   "pinned": [pinned(pid) for pid in pids]}
                finally:
                    side.stop(client)
                    client.process.stdin.close()
                    client.process.stdout.close()
        finally:
            side.end()
        if name == "on":
            equal("connections that are accelerated", side.totals.get("connected_shm", 0), CLIENTS)
    for number, end in enumerate(("server", "client")):
        more = found["on"]["busy"][number] - found["bare"]["busy"][number]
        # The clock of /proc ticks a hundred times a second: one tick more may be chance.
        yield f"processor time of the {end} beyond bare, %", more, 100 / os.sysconf("SC_CLK_TCK") / rest * 1.5
        of_ours = (found["on"]["memory"][number] - found["bare"]["memory"][number]) / CLIENTS
        yield f"bytes of the {end} for each connection beyond bare", of_ours, 2048
        more = found["on"]["pinned"][number] - found["bare"]["pinned"][number]
        yield f"bytes of the {end} that are locked or pinned beyond bare", more, 0


ROWS = {
    "bare-peer": Row("redis-benchmark against a bare server", (Figure("SET", "requests/s", {("netacc", "tcp"): 0.98}),),
                     {"tcp": bare_server, "netacc": bare_server}),
}
CHECKS = {
    "start": Check("a program without TCP", start),
    "instructions": Check("instructions of library code for a message, both ends (callgrind)", instructions),
    "idle": Check("10,000 connections that nobody uses", idle),
}
