#!/usr/bin/env python3
"""Servers made of several processes, bare and under NetACC at both ends, in alternating runs: what fork, exec, shared
listeners and reloads cost. A figure is the median of the pairs, a ratio the median of each pair's ratio.

    make bench-processes ARGS='--rows nginx,gunicorn --pairs 9'"""

import argparse
import collections
import json
import statistics
import sys
import tempfile
from pathlib import Path

from lab import Failure, Session, binaries, in_turn, interruptible, need, progress
from processes.rows import ROWS
from programs import apache, nginx, postgres, sshd
from programs.side import UNFORESEEN, CaseFailed, Side

SIDES = {"bare": "kernel TCP", "on": "NetACC"}
# Seconds of a run that is not counted, before the one that is.
WARM_UP = 0.5


def arguments():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--bin", default="target/release", help="where `make build` put library and tools")
    options.add_argument("--rows", default=",".join(ROWS), help="of " + ",".join(ROWS))
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--seconds", type=float, default=2.0, help="length of a run")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options.add_argument("--verdict", action="store_true", help="fail when a ratio is below what must hold")
    args = options.parse_args()
    if unknown := set(args.rows.split(",")) - set(ROWS):
        options.error(f"there is no row {', '.join(unknown)}")
    return args


def measure(row, args, bin_dir, work):
    """Alternating runs of one row: its pairs, and NetACC's counters."""
    title, _, server, _ = ROWS[row]
    pairs, counters = [], collections.Counter()
    for number, order in in_turn(SIDES, args.pairs):
        found = {}
        for name in order:
            # Started anew: where its memory lies alone makes a process that forks a tenth faster or slower than the next.
            side = Side(name, row, bin_dir, work, short=True)
            try:
                with server(side) as run:
                    run(WARM_UP)
                    found[name] = run(args.seconds)
            finally:
                side.end()
            if name == "on":
                counters.update(side.totals)
        pairs.append(found)
        rates = ", ".join(f"{SIDES[name]} {found[name]:,.0f}" for name in SIDES)
        progress(f"{title}, pair {number} of {args.pairs}: {rates}")
    return {"pairs": pairs, "counters": counters}


def line(row, found):
    """The table's line, and whether the ratio holds."""
    title, unit, _, least = ROWS[row]
    rates = {name: statistics.median(pair[name] for pair in found["pairs"]) for name in SIDES}
    ratios = [pair["on"] / pair["bare"] for pair in found["pairs"]]
    ratio = statistics.median(ratios)
    counted = found["counters"]
    carried = sum(n for name, n in counted.items() if name.startswith("accepted_") and name != "accepted_tcp")
    text = (f"{title:42}{rates['bare']:12,.0f}{rates['on']:12,.0f}  {unit:15}{ratio:6.2f}x  ({min(ratios):.2f} to {max(ratios):.2f})"
            f"{carried:10,} accelerated, {counted.get('handed_back', 0):,} handed back")
    slow = {name: [rate.p99 for rate in (pair[name] for pair in found["pairs"]) if getattr(rate, "p99", None)] for name in SIDES}
    if all(slow.values()):
        medians = ", ".join(f"{SIDES[name]} {statistics.median(times):.2f} ms" for name, times in slow.items())
        text += f"; p99: {medians}"
    return text, least is None or ratio >= least


def main():
    args = arguments()
    interruptible()
    need(*nginx.NEEDS, *postgres.NEEDS, *apache.NEEDS, *sshd.NEEDS, "gunicorn", "socat", "prlimit", "redis-server", "redis-benchmark")
    bin_dir = binaries(args.bin)
    passes, all_found = True, {}
    with tempfile.TemporaryDirectory(prefix="netacc-processes-") as work:
        Path(work).chmod(0o755)
        for row in args.rows.split(","):
            try:
                found = measure(row, args, bin_dir, Path(work))
            except (CaseFailed, *UNFORESEEN) as failure:
                print(f"{ROWS[row][0]:42}FAILED: {failure}", flush=True)
                passes = False
                continue
            all_found[row] = found
            text, holds = line(row, found)
            print(text + ("" if holds else f"  below {ROWS[row][3]:g}x"), flush=True)
            passes = passes and (holds or not args.verdict)
    if args.json:
        args.json.write_text(json.dumps(all_found, indent=1))
    return 0 if passes else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"processes: {failure}")
    except KeyboardInterrupt:
        sys.exit("processes: interrupted; everything it started is stopped")
    finally:
        Session.stop_all()
