#!/usr/bin/env python3
"""Everything that has a target, side by side in one run: kernel TCP, what else the machine offers, and NetACC.

Carriers take turns, every other round in reverse. A figure is the median of the rounds, a ratio the median of each
round's ratio. docs/performance.md says what the rows are.

    make bench ARGS='--rows redis,ping-pong --rounds 9'"""

import argparse
import contextlib
import csv
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import costs, messages, redis, web
from bench.row import CARRIERS, OURS, median, ratios, short
from lab import Failure, Session, binaries, in_turn, interruptible, need, progress, this_machine
from programs import nginx
from programs.side import UNFORESEEN, CaseFailed, Side

ROWS = {**redis.ROWS, **messages.ROWS, **web.ROWS, **costs.ROWS}
CHECKS = costs.CHECKS


def arguments():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--bin", default="target/release", help="where `make build` put library and tools")
    options.add_argument("--rows", default=",".join([*ROWS, *CHECKS]), help="of " + ",".join([*ROWS, *CHECKS]))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=1.0, help="length that each run aims at")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round there")
    options.add_argument("--csv", type=Path, metavar="FILE", help="the same as lines: row,figure,unit,round,carrier,value")
    options.add_argument("--verdict", action="store_true", help="fail when a target is missed")
    args = options.parse_args()
    if unknown := set(args.rows.split(",")) - set(ROWS) - set(CHECKS):
        options.error(f"there is no row {', '.join(unknown)}")
    if args.rounds < 1:
        options.error(f"--rounds {args.rounds}: at least one is needed")
    return args


def side_of(carrier, key, bin_dir, work):
    """Where a carrier's programs run. (netacc_ss looks rarely: it takes from what is measured.)"""
    name = "on" if carrier in OURS else "bare"
    return Side(name, f"{key}-{carrier}", bin_dir, work, short=True, interval=0.25)


def measure(key, row, args, bin_dir, work):
    """The rounds of a row, [{carrier: {figure: value}}]."""
    rounds = []
    with contextlib.ExitStack() as stack:
        sides = {carrier: side_of(carrier, key, bin_dir, work) for carrier in row.carriers}
        for side in sides.values():
            stack.callback(side.end)
        runs = {carrier: stack.enter_context(start(sides[carrier])) for carrier, start in row.carriers.items()}
        for number, order in in_turn(runs, args.rounds):
            found = {carrier: runs[carrier](args.seconds * row.stretch) for carrier in order}
            rounds.append(found)
            first = row.figures[0]
            rates = ", ".join(f"{CARRIERS[carrier]} {short(found[carrier][first.name])}" for carrier in row.carriers)
            progress(f"{row.title}, round {number} of {args.rounds}: {first.name} {rates}")
    carried = {carrier: accelerated(sides[carrier].totals) for carrier in row.carriers if carrier in OURS}
    return rounds, carried


def accelerated(totals):
    """Connections that were made and are not plain kernel TCP."""
    return sum(n for name, n in totals.items() if name.startswith("connected_") and name != "connected_tcp")


def lines_of(row, rounds):
    """Lines of the table, and the verdicts: (line, what, holds)."""
    for figure in row.figures:
        names = [carrier for carrier in row.carriers if median(rounds, carrier, figure.name) is not None]
        values = ", ".join(f"{CARRIERS[carrier]} {short(median(rounds, carrier, figure.name))}" for carrier in names)
        yield f"  {figure.name:14} {values} {figure.unit}", None
        for (carrier, other), target in figure.targets.items():
            found = ratios(rounds, figure, carrier, other)
            ratio, spread = statistics.median(found), f"{min(found):.2f} to {max(found):.2f}"
            holds = ratio >= target
            yield (f"    {CARRIERS[carrier]} to {CARRIERS[other]}: {ratio:.2f}x ({spread}), target {target:g}x: "
                   f"{'pass' if holds else 'MISSED'}"), holds


def run_row(key, args, bin_dir, work, report):
    """Measures a row and prints it: whether all its targets hold."""
    row = ROWS[key]
    rounds, carried = measure(key, row, args, bin_dir, work)
    report[key] = {"title": row.title, "units": {f.name: f.unit for f in row.figures}, "rounds": rounds, "accelerated": carried}
    # Where the peer knows nothing of NetACC there are none.
    expects_none = key in costs.ROWS
    print(row.title + "".join(f"; {n:,} connections accelerated" for n in carried.values()), flush=True)
    passes = expects_none or all(carried.values())
    if not passes:
        print("    NO connection was accelerated: MISSED")
    for text, holds in lines_of(row, rounds):
        print(text, flush=True)
        passes = passes and holds is not False
    return passes


def run_check(key, bin_dir, work, report):
    """Measures what is no comparison: whether all is below its limit."""
    check = CHECKS[key]
    print(check.title, flush=True)
    passes, report[key] = True, {"title": check.title, "found": []}
    for what, value, most in check.measure(bin_dir, work):
        print(f"  {what}: {value:.4g}, at most {most:g}: {'pass' if value <= most else 'MISSED'}", flush=True)
        report[key]["found"].append({"what": what, "value": value, "most": most})
        passes = passes and value <= most
    return passes


def write_csv(path, report):
    """Every value on a line of its own."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["row", "figure", "unit", "round", "carrier", "value"])
        for key, found in report.items():
            for number, results in enumerate(found.get("rounds", ())):
                out.writerows([key, name, found["units"][name], number + 1, carrier, value] for carrier, values in results.items()
                              for name, value in values.items() if name in found["units"])
            out.writerows([key, one["what"], "", 1, "netacc", one["value"]] for one in found.get("found", ()))


def main():
    args = arguments()
    interruptible()
    need(*nginx.NEEDS, "redis-server", "redis-benchmark", "memcached", "prlimit")
    bin_dir = binaries(args.bin)
    begun, passes, report = time.monotonic(), {}, {}
    with tempfile.TemporaryDirectory(prefix="netacc-bench-") as work:
        Path(work).chmod(0o755)
        for key in args.rows.split(","):
            try:
                if key in CHECKS:
                    passes[key] = run_check(key, bin_dir, Path(work), report)
                else:
                    passes[key] = run_row(key, args, bin_dir, Path(work), report)
            except (CaseFailed, *UNFORESEEN) as failure:
                print(f"{key}: FAILED: {failure}", flush=True)
                passes[key] = False
    if args.json:
        measured = {"rounds": args.rounds, "seconds": args.seconds, **this_machine()}
        args.json.write_text(json.dumps({"measured": measured, "rows": report}, indent=1))
    if args.csv:
        write_csv(args.csv, report)
    missed = [key for key, holds in passes.items() if not holds]
    print(f"\n{time.monotonic() - begun:.0f} s; {len(passes) - len(missed)} of {len(passes)} rows hold"
          + (f"; missed: {', '.join(missed)}" if missed else ""))
    return 1 if missed and args.verdict else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted; everything it started is stopped")
    finally:
        Session.stop_all()
