#!/usr/bin/env python3
"""Real programs, each bare, with NetACC preloaded but switched off, and with NetACC on: the results must be equal.

Each suite runs at three sides. A test that passes bare must pass at the other two and see the same; nothing may
hang; by NetACC's own counters the connections must have been accelerated. Some of these programs' own tests
depend on timing, over TCP too: what differs is run again, alone, up to twice, and shown in any case. Differences
that stay for now are in programs/known.txt; an entry there that no longer differs is an error."""

import argparse
import concurrent.futures
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import programs
from lab import (
    BINARIES, Failure, Session, accelerate_short_connections, accelerated, binaries, interruptible, need, progress,
)
from programs.known import known
from programs.side import FAIL, OK, SIDES, UNFORESEEN, CaseFailed, Side

RETRIES = 2
HEAD = f"{'suite':34}{'bare':>7}{'off':>7}{'on':>7}{'accelerated':>13}{'handed back':>13}{'seconds':>9}  result"


class Row:
    """One suite: its three runs, and what is wrong with them."""

    def __init__(self, name, run, bin_dir, work, short):
        self.name, self.run, self.bin_dir, self.work, self.short = name, run, bin_dir, work, short
        self.again, self.sides = 0, {}

    def attempt(self, side, only=None):
        """The suite once at a side."""
        progress(f"{self.name}, {side} ...")
        at = Side(side, self.name, self.bin_dir, self.work, self.short, only)
        try:
            self.run(at)
        except (CaseFailed, *UNFORESEEN) as failure:
            at.note("start", FAIL, why=f"{type(failure).__name__}: {failure}")
        finally:
            at.end()
        return at

    def measure(self):
        """All sides, each difference run again."""
        for side in SIDES:
            self.sides[side] = self.attempt(side)
        return self

    def different(self, side):
        """{test: why} of what passes bare and not at `side`, or sees something else there."""
        bare, here = self.sides["bare"].results, self.sides[side].results
        found = {}
        for test, wanted in bare.items():
            got = here.get(test)
            if wanted.status == FAIL:
                continue
            if got is None:
                found[test] = "did not run"
            elif got.status != wanted.status:
                found[test] = f"{wanted.status} bare, {got.status} here: {got.why}"
            elif got.seen != wanted.seen:
                found[test] = f"saw {wanted.seen!r} bare, {got.seen!r} here"
        for test, got in here.items():
            if test not in bare and got.status == FAIL:
                found[test] = got.why
        return found

    def retry(self, listed):
        """Runs what differs again, alone, as it may have been chance."""
        for side in SIDES[1:]:
            for _ in range(RETRIES):
                doubtful = {test: why for test, why in self.different(side).items() if (self.name, test) not in listed}
                if not doubtful:
                    break
                self.again += 1
                for test, why in doubtful.items():
                    # The end of a traceback says most; all of it is shown if it stays.
                    last = why.strip().splitlines()[-1]
                    print(f"  run again: {self.name}, {side}: {test}: {last}", flush=True)
                self.sides[side].results.update(self.attempt(side, set(doubtful)).results)

    def passed(self, side):
        return sum(1 for result in self.sides[side].results.values() if result.status == OK)

    def accelerated(self):
        return accelerated(self.sides["on"].totals)

    def handed_back(self):
        return self.sides["on"].totals.get("handed_back")

    def judge(self, listed, required):
        """A word for the table, what is wrong in full, and the entries of known.txt that no longer fit."""
        wrong, excused, stale = [], 0, []
        for side in SIDES[1:]:
            for test, why in self.different(side).items():
                if side == "on" and (self.name, test) in listed:
                    excused += 1
                else:
                    wrong.append(f"{self.name}, NetACC {side}: {test}: {why}")
        different = self.different("on")
        bare = self.sides["bare"].results
        for suite, test in listed:
            # A test that was not run, in the short form for example, tells nothing.
            if suite == self.name and test not in different and (test in bare or test in self.sides["on"].results):
                stale.append(f"{suite} | {test}: no longer differs, take it out of programs/known.txt")
        if not self.passed("bare"):
            failed = "\n".join(f"{test}: {result.why}" for test, result in bare.items())
            wrong.append(f"{self.name}: nothing passed bare\n{failed}")
        if required and not self.accelerated():
            wrong.append(f"{self.name}: no accepted connection was accelerated; counters: {self.sides['on'].totals}")
        if accelerated(self.sides["off"].totals):
            wrong.append(f"{self.name}: connections were accelerated with NetACC off")
        broken = [test for test, result in bare.items() if result.status == FAIL]
        word = "DIFFERS" if wrong else "same"
        if excused:
            word += f", but for {excused} known"
        if broken:
            word += f"; bare fails {', '.join(broken[:3])}{' ...' if len(broken) > 3 else ''}"
        if self.again:
            word += f"; run again {self.again} times"
        return word, wrong, stale

    def text(self, word):
        seconds = sum(side.seconds for side in self.sides.values())
        back = "-" if self.handed_back() is None else self.handed_back()
        passed = "".join(f"{self.passed(side):7}" for side in SIDES)
        return f"{self.name:34}{passed}{self.accelerated():13,}{back:>13}{seconds:9.1f}  {word}"


def chosen(patterns, short):
    """The suites to run, in order, and the programs that they need."""
    found = []
    for module in programs.MODULES:
        named = [
            entry for entry in module.suites()
            if any(pattern in entry[0] for pattern in patterns) or (not patterns and (entry[1] or not short))
        ]
        if named:
            need(*module.NEEDS)
        found += [(name, run, getattr(module, "NEVER_ACCELERATED", ())) for name, _, run in named]
    if not found:
        raise Failure(f"no suite is named like {', '.join(patterns)}")
    return found


def main():
    accelerate_short_connections()
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--bin", default="target/release", help="where the release build is")
    options.add_argument("--suites", nargs="+", metavar="NAME", default=[], help="only those with this in their names")
    options.add_argument("--short", action="store_true", help="the form for CI: fewer suites, shorter runs")
    options.add_argument("--jobs", type=int, default=3, help="suites at a time; they mostly wait")
    options.add_argument("--list", action="store_true", help="name the suites")
    args = options.parse_args()

    interruptible()
    if args.list:
        for module in programs.MODULES:
            for name, short, _ in module.suites():
                print(f"{name}{'  (short form too)' if short else ''}")
        return 0
    built, listed, begun = binaries(args.bin), known(), time.monotonic()
    wrong, stale, rows = [], [], []
    with tempfile.TemporaryDirectory(prefix="netacc-programs-") as work:
        # A database's server runs as somebody else, who may not come near the build.
        os.chmod(work, 0o755)
        bin_dir = Path(work) / "bin"
        bin_dir.mkdir()
        for name in BINARIES:
            shutil.copy(built / name, bin_dir)
        pool = concurrent.futures.ThreadPoolExecutor(args.jobs)
        try:
            print(HEAD, flush=True)
            waiting = {}
            for name, run, never in chosen(args.suites, args.short):
                row = Row(name, run, bin_dir, Path(work), args.short)
                waiting[pool.submit(row.measure)] = (row, name not in never)
            doubtful = []
            for done in concurrent.futures.as_completed(waiting):
                row, required = done.result(), waiting[done][1]
                word, trouble, _ = row.judge(listed, required)
                print(row.text(word), flush=True)
                if trouble:
                    doubtful.append((row, required))
                rows.append((row, required))
            for row, _ in doubtful:
                row.retry(listed)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            Session.stop_all()
            pool.shutdown()
    if doubtful:
        print(f"\n{HEAD}")
    for row, required in rows:
        word, trouble, old = row.judge(listed, required)
        wrong += trouble
        stale += old
        if any(row is again for again, _ in doubtful):
            print(row.text(word))
    for text in [*wrong, *stale]:
        print(f"\n{text}")
    passed = {side: sum(row.passed(side) for row, _ in rows) for side in SIDES}
    totals = ", ".join(f"{passed[side]:,} {side}" for side in SIDES)
    backs = [row.handed_back() for row, _ in rows if row.handed_back() is not None]
    carried = sum(row.accelerated() for row, _ in rows)
    print(f"\nprograms: {len(rows)} suites; passed: {totals}; {carried:,} connections accelerated, "
          f"{sum(backs) if backs else '-'} handed back; {time.monotonic() - begun:.0f} s: "
          f"{'FAILED' if wrong or stale else 'passed'}")
    return 1 if wrong or stale else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"programs: {failure}")
    except KeyboardInterrupt:
        sys.exit("programs: interrupted; everything it started is stopped")
