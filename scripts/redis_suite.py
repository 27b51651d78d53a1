#!/usr/bin/env python3
"""redis' own networking tests, over kernel TCP and over NetACC, and the two result lists compared.

The tests come from Debian's source package (tests only: the programs are Debian's binaries). Each unit
runs bare and then with everything preloaded: servers, redis-cli, redis-benchmark and the Tcl client, so
that both ends of every connection are NetACC's. A unit fails when a result differs, or when the counters
do not show accelerated connections. Some of redis' tests depend on timing, over TCP too: so a unit that fails
is run again, alone, up to twice. What failed is shown in any case; the suite fails when a unit never passes."""

import argparse
import concurrent.futures
import dataclasses
import difflib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import (
    PORTS, Failure, Sampler, Session, accelerate_short_connections, accelerated, binaries, free_port, interruptible, need,
    progress, session_pids,
)
from sources import source_tree

UNITS = [
    "unit/protocol", "unit/networking", "unit/querybuf", "unit/limits", "unit/pubsub", "unit/multi",
    "unit/introspection", "integration/redis-cli", "integration/redis-benchmark",
]
REPLICATION = "integration/replication*"  # whichever of them the source package has
# Minutes each: begun first, and left out by --quick.
SLOW = ["integration/replication", "integration/replication-psync"]

RESULT = re.compile(r"^\[(ok|err|exception|skip|ignore)\]: (.*)$")
SUFFIX = re.compile(r" (\(\d+ ms\)|in tests/\S+\.tcl)$")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
BAD = ("err", "exception", "timeout")
RETRIES = 2  # of a unit that fails, without any other beside it


def units_of(tree, wanted):
    """The units to run and those that the source package does not have."""
    if not wanted:
        found = sorted(str(p.relative_to(tree / "tests"))[:-4] for p in (tree / "tests").glob(f"{REPLICATION}.tcl"))
        wanted = UNITS + (found or [REPLICATION])
    have = [u for u in wanted if (tree / "tests" / f"{u}.tcl").is_file()]
    return have, [u for u in wanted if u not in have]


def stage(tree, where):
    """A directory to run the suite in: its tests, and Debian's programs where it looks for them."""
    shutil.copytree(tree / "tests", where / "tests")
    (where / "src").mkdir()
    for program in ("redis-server", "redis-cli", "redis-benchmark"):
        (where / "src" / program).symlink_to(shutil.which(program))
    for name in ("redis.conf", "sentinel.conf", "utils"):
        (where / name).symlink_to(tree / name)


def command(unit, base, count):
    """What runs one unit in a staged directory, with `count` ports from `base` on."""
    # --durable: a test that crashes is a failed test, and those after it still run.
    return ["tclsh", "tests/test_helper.tcl", "--single", unit, "--clients", "1", "--durable",
            "--baseport", base, "--portcount", count]


def results(log):
    """The (status, test name) list of a run, in order, without times and files."""
    found = []
    for line in log.splitlines():
        # `The End` repeats the failures.
        if line.strip() == "The End":
            break
        if match := RESULT.match(line):
            found.append((match[1], SUFFIX.sub("", match[2])))
    return found


class Worker:
    """Runs units one after the other, in directories and in a range of ports of its own."""

    def __init__(self, tree, work, ports, bin_dir):
        self.work, self.ports, self.bin_dir = work, ports, bin_dir
        self.sides = ["bare"] if bin_dir is None else ["bare", "netacc"]
        for side in self.sides:
            stage(tree, work / side)

    def run(self, unit, limit, bare=None):
        """{side: Outcome} of one unit; `bare` is the outcome over kernel TCP if that is known."""
        outcome = {"bare": bare} if bare else {}
        for side in self.sides:
            if side in outcome:
                continue
            if side == "netacc":
                limit = min(limit, 120 + 5 * outcome["bare"].seconds)
            outcome[side] = self.run_side(unit, side, limit)
        return outcome

    def run_side(self, unit, side, limit):
        runner = [self.bin_dir / "netacc_run"] if side == "netacc" else []
        # The suite's own control port is 32 below its base port, and it does not notice when that is taken.
        base = free_port(self.ports[:200]) + 32
        argv = [*runner, *command(unit, base, self.ports.stop - base)]
        begun = time.monotonic()
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            with Session(argv, cwd=self.work / side, stdout=log, stderr=subprocess.STDOUT) as session:
                sampler = Sampler(self.bin_dir, lambda: session_pids(session.process.pid))
                if runner:
                    sampler.start()
                late = False
                try:
                    session.process.wait(limit)
                except subprocess.TimeoutExpired:
                    late = True
                totals = sampler.total() if runner else {}
            log.seek(0)
            text = COLOUR.sub("", log.read())
        found = results(text)
        if late:
            found.append(("timeout", f"stopped after {limit:.0f} s"))
        elif session.process.returncode and not any(status in BAD for status, _ in found):
            found.append(("exception", f"the suite ended with status {session.process.returncode}"))
        return Outcome(found, text, time.monotonic() - begun, totals)


@dataclasses.dataclass
class Outcome:
    """One run of one unit: (status, test name) in order, its log, its length, its counters' sums."""

    results: list
    log: str
    seconds: float
    totals: dict

    def lines(self):
        return [f"[{status}] {name}" for status, name in self.results]

    def bad(self):
        return [f"[{status}] {name}" for status, name in self.results if status in BAD]

    def tail(self):
        return "\n".join(self.log.splitlines()[-30:])


def judge(unit, outcome):
    """A word for the table, and what is wrong in full."""
    bare, netacc = outcome["bare"], outcome.get("netacc")
    if not bare.results:
        return "NOTHING RAN", [f"{unit}: no test ran over kernel TCP. Output:\n{bare.tail()}"]
    if netacc is None:
        return ("fails" if bare.bad() else "passes"), [f"{unit}, kernel TCP: {line}" for line in bare.bad()]
    excused = {name for status, name in bare.results if status in BAD}
    differences = [
        line for line in difflib.unified_diff(bare.lines(), netacc.lines(), "TCP", "NetACC", lineterm="", n=0)
        if line[:1] in "+-" and line[:3] not in ("+++", "---") and line.partition("] ")[2] not in excused
    ]
    if differences:
        changes = "\n".join(differences)
        return "DIFFERS", [f"{unit} differs (- TCP, + NetACC):\n{changes}\nlast output over NetACC:\n{netacc.tail()}"]
    if not accelerated(netacc.totals):
        return "NOT ACCELERATED", [f"{unit}: no accepted connection was accelerated; counters: {netacc.totals}"]
    if bare.bad():
        return f"same; over TCP too: {'; '.join(bare.bad())}", []
    return "same", []


def main():
    accelerate_short_connections()
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--bin", default="target/release", help="where the release build is")
    options.add_argument("--units", nargs="+", metavar="UNIT", help="only these, e.g. unit/pubsub")
    options.add_argument("--quick", action="store_true", help="leave out the units that take minutes")
    options.add_argument("--bare", action="store_true", help="kernel TCP only: how the suite itself behaves here")
    options.add_argument("--jobs", type=int, default=2, help="units at a time; they mostly wait")
    options.add_argument("--limit", type=float, default=900, metavar="S", help="seconds that a unit may take")
    options.add_argument("--logs", type=Path, metavar="DIR", help="keep every unit's output there")
    args = options.parse_args()

    interruptible()
    need("redis-server", "redis-cli", "redis-benchmark", "tclsh")
    bin_dir = None if args.bare else binaries(args.bin)
    tree = source_tree("redis-server", "redis", "tests")
    units, missing = units_of(tree, args.units)
    if args.quick:
        units = [u for u in units if u not in SLOW]
    units.sort(key=lambda unit: unit not in SLOW)
    for unit in missing:
        print(f"not in this source package: {unit}")
    if args.logs:
        args.logs.mkdir(parents=True, exist_ok=True)

    doubtful, failures, carried, tests = [], [], 0, 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="netacc-redis-") as work:
        free = queue.SimpleQueue()
        share = len(PORTS) // args.jobs
        for number in range(args.jobs):
            ports = PORTS[number * share:(number + 1) * share]
            free.put(Worker(tree, Path(work) / str(number), ports, bin_dir))

        def run(unit, bare=None):
            worker = free.get()
            try:
                progress(f"{unit} ...")
                return unit, worker.run(unit, args.limit, bare)
            finally:
                free.put(worker)

        def report(unit, outcome, attempt=0):
            """Prints the row of one run of a unit and keeps its logs; what is wrong with it, and the numbers."""
            verdict, trouble = judge(unit, outcome)
            if attempt:
                verdict = f"{verdict} (run again, {attempt} of {RETRIES})"
            bare, netacc = outcome["bare"], outcome.get("netacc")
            count = accelerated(netacc.totals) if netacc else 0
            took = f"{netacc.seconds:6.1f} s" if netacc else "-"
            print(f"{unit:34} {len(bare.results):6} {bare.seconds:6.1f} s {took:>8} {count:12,}  {verdict}", flush=True)
            for side, one in outcome.items() if args.logs else ():
                again = f".again{attempt}" if attempt else ""
                (args.logs / f"{unit.replace('/', '-')}.{side}{again}.log").write_text(one.log)
            return trouble, count, len(bare.results)

        print(f"{'unit':34} {'tests':>6} {'TCP':>8} {'NetACC':>8} {'accelerated':>12}  result")
        pool = concurrent.futures.ThreadPoolExecutor(args.jobs)
        try:
            for done in concurrent.futures.as_completed([pool.submit(run, unit) for unit in units]):
                unit, outcome = done.result()
                trouble, count, ran = report(unit, outcome)
                carried += count
                tests += ran
                if trouble and args.bare:
                    failures += trouble
                elif trouble:
                    doubtful.append((unit, outcome, trouble))
            for unit, outcome, trouble in doubtful:
                for attempt in range(1, RETRIES + 1):
                    print(*trouble, sep="\n", flush=True)
                    # A list of results with failures in it may end early: nothing to compare with.
                    sound = outcome["bare"].results and not outcome["bare"].bad()
                    _, outcome = run(unit, outcome["bare"] if sound else None)
                    trouble, _, _ = report(unit, outcome, attempt)
                    if not trouble:
                        break
                failures += trouble
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            Session.stop_all()
            pool.shutdown()
    for failure in failures:
        print(failure)
    again = f", run again: {', '.join(unit for unit, _, _ in doubtful)}" if doubtful else ""
    print(f"redis suite: {len(units)} units, {tests} results each way, {carried:,} accelerated connections{again}, "
          f"{time.monotonic() - begun:.0f} s: {'FAILED' if failures else 'passed'}")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"redis_suite: {failure}")
    except KeyboardInterrupt:
        sys.exit("redis_suite: interrupted; everything it started is stopped")
