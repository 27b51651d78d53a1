#!/usr/bin/env python3
"""redis' own networking tests, over kernel TCP and over NetACC, and the two result lists compared.

The tests come from Debian's source package (tests only: the programs are Debian's binaries). Each unit
runs bare and then with everything preloaded: servers, redis-cli, redis-benchmark and the Tcl client, so
that both ends of every connection are NetACC's. It fails when a result differs, or when the counters
do not show accelerated connections."""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from lab import PORTS, Failure, Session, accelerated, binaries, counters, free_port, interruptible, need, progress, session_pids

UNITS = [
    "unit/protocol", "unit/networking", "unit/querybuf", "unit/limits", "unit/pubsub", "unit/multi",
    "unit/introspection", "integration/redis-cli", "integration/redis-benchmark",
]
REPLICATION = "integration/replication*"  # whichever of them the source package has
SLOW = {"integration/replication", "integration/replication-psync"}  # left out by --quick

RESULT = re.compile(r"^\[(ok|err|exception|skip|ignore)\]: (.*)$")
ELAPSED = re.compile(r" \(\d+ ms\)$")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
BAD = ("err", "exception", "timeout")


def source_tree():
    """The unpacked source package, fetched once into the user's cache directory."""
    version = subprocess.run(
        ["dpkg-query", "-W", "-f", "${source:Version}", "redis-server"],
        capture_output=True, text=True, check=False,
    ).stdout
    if not version:
        raise Failure("redis-server is not installed as a Debian package: run 'make setup' first")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netacc"
    tree = cache / f"redis-{version.replace(':', '_')}"
    if tree.exists():
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    progress(f"fetching the source package of redis {version} into {cache} ...")
    with tempfile.TemporaryDirectory(dir=cache) as work:
        fetch_source(Path(work), version)
        unpacked = [d for d in Path(work).glob("unpack/*") if (d / "tests").is_dir()]
        if not unpacked:
            raise Failure("the source package of redis has no tests directory")
        unpacked[0].rename(tree)
    return tree


def fetch_source(work, version):
    """`apt-get source` with source lines made of this machine's own package lists, none of which changes."""
    for directory in ("parts", "lists/partial", "cache/archives/partial", "unpack"):
        (work / directory).mkdir(parents=True)
    etc = Path("/etc/apt")
    for listed in [etc / "sources.list", *etc.glob("sources.list.d/*")]:
        if not listed.is_file() or listed.suffix not in (".list", ".sources"):
            continue
        text = listed.read_text()
        if listed.suffix == ".list":
            text = re.sub(r"^\s*deb(?=\s)", "deb-src", text, flags=re.M)
        else:
            text = re.sub(r"^Types:.*", "Types: deb-src", text, flags=re.M | re.I)
        (work / "parts" / listed.name).write_text(text)
    # _apt, the user that downloads as a rule, may not enter a home directory.
    options = ["-o", "APT::Sandbox::User=root", "-o", "Dir::Etc::sourcelist=/dev/null"]
    for key, directory in (("Dir::Etc::sourceparts", "parts"), ("Dir::State::lists", "lists"), ("Dir::Cache", "cache")):
        options += ["-o", f"{key}={work / directory}"]

    def apt_get(*arguments):
        return subprocess.run(
            ["apt-get", "-q", *options, *arguments], cwd=work / "unpack", text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

    updated = apt_get("update")
    fetched = apt_get("source", f"redis={version}")
    if fetched.returncode:
        progress(f"redis {version} is no longer offered as source: taking the newest")
        fetched = apt_get("source", "redis")
    if fetched.returncode:
        raise Failure(f"apt-get source redis failed:\n{updated.stdout}{fetched.stdout}")


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


def results(log):
    """The (status, test name) list of a run, in order, without the times."""
    found = []
    for line in COLOUR.sub("", log).splitlines():
        # `The End` repeats the failures.
        if line.strip() == "The End":
            break
        if match := RESULT.match(line):
            found.append((match[1], ELAPSED.sub("", match[2])))
    return found


class Sampler(threading.Thread):
    """Remembers the highest counters of every process of a session, read from outside while it runs."""

    def __init__(self, bin_dir, sid):
        super().__init__(daemon=True)
        self.bin_dir, self.sid, self.over = bin_dir, sid, threading.Event()
        self.seen = {}

    def run(self):
        while not self.over.wait(0.1):
            for pid in session_pids(self.sid):
                try:
                    program = Path(f"/proc/{pid}/comm").read_text()
                except OSError:
                    continue
                if program.startswith(("redis-", "tclsh")):
                    most = self.seen.setdefault(pid, {})
                    for name, value in counters(self.bin_dir, pid).items():
                        most[name] = max(value, most.get(name, 0))

    def total(self):
        """Each counter summed over all the processes."""
        self.over.set()
        self.join()
        sums = {}
        for values in self.seen.values():
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value
        return sums


def run_unit(unit, where, runner, bin_dir, limit):
    """One unit, once: its results, its log, its seconds, its summed counters."""
    # The suite's own control port is 32 below its base port, and it does not notice when that is taken.
    base = free_port(PORTS[:500]) + 32
    argv = [*runner, "tclsh", "tests/test_helper.tcl", "--single", unit, "--clients", "1",
            "--baseport", base, "--portcount", PORTS.stop - base]
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        with Session(argv, cwd=where, stdout=log, stderr=subprocess.STDOUT) as session:
            sampler = Sampler(bin_dir, session.process.pid)
            if runner:
                sampler.start()
            late = False
            try:
                session.process.wait(limit)
            except subprocess.TimeoutExpired:
                late = True
            totals = sampler.total() if runner else {}
        log.seek(0)
        text = log.read()
    found = results(text)
    if late:
        found.append(("timeout", f"stopped after {limit:.0f} s"))
    elif session.process.returncode and not any(status in BAD for status, _ in found):
        found.append(("exception", f"the suite ended with status {session.process.returncode}"))
    return found, text, time.monotonic() - begun, totals


def bad(found):
    return [f"[{status}] {name}" for status, name in found if status in BAD]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--bin", default="target/release", help="where the release build is")
    options.add_argument("--units", nargs="+", metavar="UNIT", help="only these, e.g. unit/pubsub")
    options.add_argument("--quick", action="store_true", help="leave out the units that take minutes")
    options.add_argument("--bare", action="store_true", help="kernel TCP only: how the suite itself behaves here")
    options.add_argument("--limit", type=float, default=600, metavar="S", help="seconds that a unit may take")
    options.add_argument("--logs", type=Path, metavar="DIR", help="keep every unit's output there")
    args = options.parse_args()

    interruptible()
    need("redis-server", "redis-cli", "redis-benchmark", "tclsh")
    bin_dir = None if args.bare else binaries(args.bin)
    tree = source_tree()
    units, missing = units_of(tree, args.units)
    if args.quick:
        units = [u for u in units if u not in SLOW]
    for unit in missing:
        print(f"not in this source package: {unit}")
    if args.logs:
        args.logs.mkdir(parents=True, exist_ok=True)

    failures, carried, tests = [], 0, 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="netacc-redis-") as work:
        sides = [("bare", [])] + ([] if args.bare else [("netacc", [bin_dir / "netacc_run"])])
        for side, _ in sides:
            stage(tree, Path(work) / side)
        print(f"{'unit':34} {'tests':>6} {'bare':>8} {'NetACC':>8} {'accelerated':>12}  result")
        for unit in units:
            progress(f"{unit} ...")
            outcome = {}
            for side, runner in sides:
                limit = args.limit
                if side == "netacc":
                    limit = min(limit, 120 + 5 * outcome["bare"][2])
                outcome[side] = run_unit(unit, Path(work) / side, runner, bin_dir, limit)
                if side == "bare" and bad(outcome[side][0]):
                    # Some of redis' tests race with the clock; the oracle gets a second chance, NetACC none.
                    progress(f"{unit} fails over kernel TCP, once more: {'; '.join(bad(outcome[side][0]))}")
                    outcome[side] = run_unit(unit, Path(work) / side, runner, bin_dir, limit)
                if args.logs:
                    (args.logs / f"{unit.replace('/', '-')}.{side}.log").write_text(outcome[side][1])
            verdict, trouble = judge(unit, outcome)
            failures += trouble
            bare = outcome["bare"]
            netacc = outcome.get("netacc")
            count = accelerated(netacc[3]) if netacc else 0
            carried += count
            tests += len(bare[0])
            print(f"{unit:34} {len(bare[0]):6} {bare[2]:6.1f} s {f'{netacc[2]:6.1f} s' if netacc else '-':>8}"
                  f" {count:12,}  {verdict}", flush=True)
    for failure in failures:
        print(failure)
    print(f"redis suite: {len(units)} units, {tests} results each way, {carried:,} accelerated connections, "
          f"{time.monotonic() - begun:.0f} s: {'FAILED' if failures else 'passed'}")
    return 1 if failures else 0


def judge(unit, outcome):
    """A word for the table, and what is wrong in full."""
    bare = outcome["bare"]
    if "netacc" not in outcome:
        return ("fails" if bad(bare[0]) else "passes"), [f"{unit} bare: {line}" for line in bad(bare[0])]
    netacc = outcome["netacc"]
    lines = [[f"[{status}] {name}" for status, name in side[0]] for side in (bare, netacc)]
    if lines[0] != lines[1]:
        changes = "\n".join(difflib.unified_diff(*lines, "bare", "NetACC", lineterm="", n=0))
        tail = "\n".join(COLOUR.sub("", netacc[1]).splitlines()[-30:])
        return "DIFFERS", [f"{unit} differs over NetACC:\n{changes}\nits last output:\n{tail}"]
    if not lines[0]:
        return "NOTHING RAN", [f"{unit}: no test ran. Output:\n{bare[1]}"]
    if not accelerated(netacc[3]):
        return "NOT ACCELERATED", [f"{unit}: no accepted connection was accelerated; counters: {netacc[3]}"]
    return ("same, fails bare too" if bad(bare[0]) else "same"), []


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"redis_suite: {failure}")
    except KeyboardInterrupt:
        sys.exit("redis_suite: interrupted; everything it started is stopped")
