#!/usr/bin/env python3
"""redis-benchmark over kernel TCP and over NetACC, side by side, on one host.

Two redis servers, one bare and one under netacc_run, each with its own kind of client, take turns:
whatever else this machine does, it does to both. Each figure is the median of the pairs; a ratio is
the median of the ratios of each pair."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import (
    Failure, Session, accelerated, accepted, benchmark_figures, binaries, count_calls, counters, free_port,
    in_turn, interruptible, need, progress, this_machine,
)

# Rows of the table: what they are called, the client's options, the least ratio of SET to accept, and
# how much longer than others its runs are: with --threads, redis-benchmark looks whether it is done
# every 250 ms only, which short runs would count as their own time.
ROWS = {
    "single": ("100 connections, one client thread", ["-c", "100"], 3.5, 1),
    "threads4": ("100 connections, 4 client threads", ["-c", "100", "--threads", "4"], 2.0, 2.5),
    "one": ("1 connection", ["-c", "1"], 3.0, 1),
}
WORKLOAD = ["-r", "10000", "-d", "512"]
MOST_CALLS = 0.05  # system calls per request over NetACC, either side
SIDES = ("tcp", "netacc")
TITLE = {"tcp": "TCP", "netacc": "NetACC"}


class Server:
    """A redis-server that keeps nothing on disk, and the way to run a client against it."""

    def __init__(self, side, bin_dir, work, strace=None):
        self.runner = [bin_dir / "netacc_run"] if side == "netacc" else []
        self.home = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=work))
        self.port = free_port()
        config = self.home / "redis.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.home}\npidfile {self.home}/pid\n"
            f"logfile {self.home}/log\nsave \"\"\nappendonly no\ndaemonize no\n"
        )
        self.session = Session([*(strace or []), *self.runner, "redis-server", config], stdout=subprocess.DEVNULL)
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def wait_until_ready(self):
        log = self.home / "log"
        deadline = time.monotonic() + 15
        while not (log.exists() and "Ready to accept connections" in log.read_text()):
            if self.session.process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text() if log.exists() else "(it wrote no log)"
                raise Failure(f"redis-server did not start; its log:\n{said}")
            time.sleep(0.02)
        self.pid = int((self.home / "pid").read_text())

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.stop()

    def stop(self):
        self.session.stop()

    def benchmark(self, options, requests, tests="set,get", strace=None, limit=60):
        """One redis-benchmark: {"SET": {"rps": .., "p50_latency_ms": .., ...}, "GET": ...}."""
        argv = [*(strace or []), *self.runner, "redis-benchmark", "-h", "127.0.0.1", "-p", self.port, *WORKLOAD,
                *options, "-t", tests, "-n", requests, "--csv"]
        with tempfile.TemporaryFile("w+") as out, Session(argv, stdout=out, stderr=subprocess.STDOUT) as client:
            try:
                status = client.process.wait(limit)
            except subprocess.TimeoutExpired:
                status = f"no end after {limit} s"
            out.seek(0)
            said = out.read()
        if status != 0:
            raise Failure(f"{' '.join(map(str, argv))} failed ({status}):\n{said}")
        return benchmark_figures(said)


def measure(servers, row, pairs, seconds):
    """Alternating runs of one row: per test a list of pairs {side: figures}."""
    title, options, _, stretch = ROWS[row]
    # Runs of about the same length on both sides: the fast side is not measured on its start alone.
    requests = {}
    for side in SIDES:
        trial = servers[side].benchmark(options, 4000 if row == "one" else 20000)
        slowest = min(figures["rps"] for figures in trial.values())
        requests[side] = max(10_000, int(slowest * seconds * stretch) // 10_000 * 10_000)
    found = {}
    for pair, sides in in_turn(SIDES, pairs):
        runs = {side: servers[side].benchmark(options, requests[side]) for side in sides}
        rates = ", ".join(f"{TITLE[side]} {runs[side]['SET']['rps']:,.0f}" for side in SIDES)
        progress(f"{title}, pair {pair} of {pairs}: SET/s {rates}")
        for test in runs["tcp"]:
            found.setdefault(test, []).append({side: runs[side][test] for side in SIDES})
    return {"title": title, "requests": requests, "pairs": found}


def summarise(pairs):
    """Medians of a list of pairs."""
    summary = {
        side: {key: statistics.median(p[side][f] for p in pairs)
               for key, f in (("rps", "rps"), ("p50", "p50_latency_ms"), ("p99", "p99_latency_ms"))}
        for side in SIDES
    }
    summary["ratio"] = statistics.median(p["netacc"]["rps"] / p["tcp"]["rps"] for p in pairs)
    return summary


def calls_per_request(side, bin_dir, work, many):
    """System calls per SET of server and client: what a long run makes more than a short one, so that
    start and end cancel. Each traced call costs dear, so only a side that makes few gets `many` requests."""
    short, long = (20_000, 220_000) if many else (2_000, 22_000)
    totals = {}
    for requests in (short, long):
        files = {end: work / f"calls-{side}-{requests}-{end}" for end in ("server", "client")}

        def trace(end):
            return ["strace", "-f", "-c", "-o", files[end]]

        with Server(side, bin_dir, work, trace("server")) as server:
            server.benchmark(["-c", "100"], requests, "set", trace("client"), limit=30)
        totals[requests] = {end: count_calls(path.read_text()) for end, path in files.items()}
    return {end: (totals[long][end] - totals[short][end]) / (long - short) for end in totals[long]}


def all_calls(bin_dir, work, is_accelerated):
    """System calls per request of both sides, or the reason why they were not counted."""
    if not shutil.which("strace"):
        return "strace is not installed"
    tried = subprocess.run(["strace", "-c", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"not counted, tracing is not permitted here: {tried.stderr.strip().splitlines()[-1]}"
    found = {}
    try:
        for side in SIDES:
            progress(f"counting the system calls of both ends, {TITLE[side]}")
            found[side] = calls_per_request(side, bin_dir, work, side == "netacc" and is_accelerated)
    except Failure as failure:
        return f"not counted, {failure}"
    return found


def print_table(report):
    print(f"\nredis-benchmark {' '.join(WORKLOAD)} -t set,get: medians of {report['pairs']} alternating pair(s), "
          f"{report['cores']} cores\n")
    print(f"{'':16}{'TCP':>12}{'p50 ms':>9}{'p99 ms':>9}{'NetACC':>14}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>9}")
    for row in report["rows"].values():
        print(row["title"])
        for test, s in row["summary"].items():
            print(f"  {test + ' /s':14}", end="")
            for side, width in (("tcp", 12), ("netacc", 14)):
                print(f"{s[side]['rps']:{width},.0f}{s[side]['p50']:9.3f}{s[side]['p99']:9.3f}", end="")
            print(f"{s['ratio']:8.2f}x")
    carried = ", ".join(f"{n:,} over {carrier}" for carrier, n in sorted(report["accepted"].items()) if n)
    print(f"\nconnections that the NetACC server accepted: {carried or 'none counted'}")
    calls = report["calls"]
    if isinstance(calls, str):
        print(f"system calls per request: {calls}")
    elif calls:
        print("system calls per request (SET, 100 connections):")
        for end in ("server", "client"):
            print(f"  {end:14}{'TCP':>6} {calls['tcp'][end]:.3f}{'NetACC':>9} {calls['netacc'][end]:.4f}")


def measured_where():
    """When, on what and with what the figures were made."""
    redis = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=False).stdout
    version = next((word.removeprefix("v=") for word in redis.split() if word.startswith("v=")), "")
    return {
        **this_machine(), "workload": f"redis {version}, {' '.join(WORKLOAD)}", "command": "make demo",
    }


def verdicts(report):
    """(what, value, passes) for each figure that must hold."""
    for name, row in report["rows"].items():
        ratio, least = row["summary"]["SET"]["ratio"], ROWS[name][2]
        yield f"SET, {row['title']}: {ratio:.2f}x TCP (at least {least}x)", ratio >= least
    if isinstance(report["calls"], dict):
        for end, calls in report["calls"]["netacc"].items():
            yield f"system calls per request of the {end}: {calls:.4f} (below {MOST_CALLS})", calls < MOST_CALLS
    elif report["calls"]:
        yield f"system calls per request: {report['calls']}", False


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--bin", default="target/release", help="where the release build is")
    options.add_argument("--rows", default=",".join(ROWS), help="of " + ",".join(ROWS))
    options.add_argument("--pairs", type=int, default=3, help="alternating runs of each row")
    options.add_argument("--seconds", type=float, default=1.2, help="length that each test of a run aims at")
    options.add_argument("--no-calls", action="store_true", help="do not count system calls")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options.add_argument("--verdict", action="store_true", help="fail when a figure is below what must hold")
    args = options.parse_args()

    rows = args.rows.split(",")
    for row in rows:
        if row not in ROWS:
            raise Failure(f"there is no row '{row}': choose of {', '.join(ROWS)}")
    if args.pairs < 1:
        raise Failure(f"--pairs {args.pairs}: at least one pair is needed")
    interruptible()
    need("redis-server", "redis-benchmark")
    bin_dir = binaries(args.bin)
    begun = time.monotonic()
    report = {"pairs": args.pairs, "cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0],
              "measured": measured_where(), "rows": {}, "calls": None}
    with tempfile.TemporaryDirectory(prefix="netacc-demo-") as work:
        work = Path(work)
        with Server("tcp", bin_dir, work) as tcp, Server("netacc", bin_dir, work) as netacc:
            for row in rows:
                report["rows"][row] = measure({"tcp": tcp, "netacc": netacc}, row, args.pairs, args.seconds)
            values = counters(bin_dir).get(netacc.pid, {})
        if not args.no_calls:
            report["calls"] = all_calls(bin_dir, work, accelerated(values) > 0)
    for row in report["rows"].values():
        row["summary"] = {test: summarise(pairs) for test, pairs in row["pairs"].items()}
    report["accepted"], report["counters"] = accepted(values), values
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    print_table(report)
    passes = True
    if args.verdict:
        print()
        for what, holds in verdicts(report):
            print(f"{'pass' if holds else 'FAIL'}  {what}")
            passes = passes and holds
    print(f"\n{time.monotonic() - begun:.0f} s; everything that was started is stopped")
    if not accelerated(values):
        print("NO connection was accelerated: the NetACC column is kernel TCP with the library loaded.")
        passes = False
    return 0 if passes else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"demo: {failure}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted; everything it started is stopped")
