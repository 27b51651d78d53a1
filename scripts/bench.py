#!/usr/bin/env python3
"""Everything that has a target, side by side in one run: kernel TCP, what else the machine offers, and NetACC.

Carriers take turns, every other round in reverse. A figure is the median of the rounds, a ratio the median of each
round's ratio. docs/performance.md says what the rows are.

    make bench ARGS='--rows redis,ping-pong --rounds 9'
    make bench ARGS='--explain'"""

import argparse
import contextlib
import csv
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import costs, explain, messages, redis, sockmap, web
from bench.neighbours import Neighbours
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
    options.add_argument("--explain", action="store_true",
                         help="behind the table, for each row that misses a target, where its time goes (strace, callgrind)")
    options.add_argument("--verdict", action="store_true", help="fail when a target is missed")
    args = options.parse_args()
    if unknown := set(args.rows.split(",")) - set(ROWS) - set(CHECKS):
        options.error(f"there is no row {', '.join(unknown)}")
    if args.rounds < 1:
        options.error(f"--rounds {args.rounds}: at least one is needed")
    return args


@dataclasses.dataclass
class Bench:
    """What a whole run has: where things are, what it has found, and what is to be printed at its end."""

    args: argparse.Namespace
    bin_dir: Path
    work: Path
    # None: this machine has none.
    redirection: sockmap.Redirection | None
    report: dict = dataclasses.field(default_factory=dict)
    verdicts: list = dataclasses.field(default_factory=list)

    def side(self, carrier, key):
        """Where a carrier's programs run. (netacc_ss looks rarely: it takes from what is measured.)"""
        words = (f"{key}-{carrier}", self.bin_dir, self.work)
        if carrier == "sockmap":
            return sockmap.Grouped(self.redirection.group, *words, short=True)
        return Side("on" if carrier in OURS else "bare", *words, short=True, interval=0.25)

    def measure(self, key, row):
        """The rounds of a row, [{carrier: {figure: value}}], and connections that were accelerated, {carrier: how many}."""
        rounds = []
        carriers = {carrier: start for carrier, start in row.carriers.items() if carrier != "sockmap" or self.redirection}
        with contextlib.ExitStack() as stack:
            sides = {carrier: self.side(carrier, key) for carrier in carriers}
            for side in sides.values():
                stack.callback(side.end)
            runs = {carrier: stack.enter_context(start(sides[carrier])) for carrier, start in carriers.items()}
            for number, order in in_turn(runs, self.args.rounds):
                found = {carrier: self.once(carrier, runs[carrier], row) for carrier in order}
                rounds.append({carrier: values for carrier, values in found.items() if values})
                first = row.figures[0].name
                rates = ", ".join(f"{CARRIERS[carrier]} {short(rounds[-1][carrier][first])}" for carrier in runs if carrier in rounds[-1])
                progress(f"{row.title}, round {number} of {self.args.rounds}: {first} {rates}")
        return rounds, {carrier: accelerated(sides[carrier].totals) for carrier in carriers if carrier in OURS}

    def once(self, carrier, run, row):
        """One run. What the kernel's redirection fails in is told, and no failure of ours."""
        try:
            return run(self.args.seconds * row.stretch)
        except CaseFailed as failure:
            if carrier != "sockmap":
                raise
            print(f"    {CARRIERS[carrier]} failed: {str(failure).splitlines()[0]}", flush=True)
            return None

    def judge(self, *line):
        """A line of the last table: row, figure, TCP, NetACC, ratio, spread, target, whether it holds."""
        self.verdicts.append(line)
        return line[-1]

    def run_row(self, key):
        """Measures a row and prints it: whether all its targets hold."""
        row = ROWS[key]
        before = self.redirection.seen() if self.redirection else 0
        neighbours = Neighbours()
        rounds, carried = self.measure(key, row)
        self.report[key] = {"title": row.title, "units": {f.name: f.unit for f in row.figures}, "rounds": rounds, "accelerated": carried,
                            "others": round(neighbours.share(), 3)}
        said = [f"{n:,} connections accelerated" for n in carried.values()]
        if self.redirection and "sockmap" in row.carriers:
            self.report[key]["redirected"] = self.redirection.seen() - before
            said.append(f"{self.report[key]['redirected']:,} messages redirected by eBPF sockmap")
        said.append(f"others had {100 * self.report[key]['others']:.0f} % of the processors")
        print("; ".join([row.title, *said]), flush=True)
        # Where the peer knows nothing of NetACC there are none.
        passes = key in costs.ROWS or all(carried.values())
        if not passes:
            print("    NO connection was accelerated: MISSED")
        for figure in row.figures:
            passes = self.run_figure(row, figure, rounds) and passes
        return passes

    def run_figure(self, row, figure, rounds):
        """Prints a figure of a row, and whether it reaches its targets."""
        names = [carrier for carrier in row.carriers if median(rounds, carrier, figure.name) is not None]
        values = ", ".join(f"{CARRIERS[carrier]} {short(median(rounds, carrier, figure.name))}" for carrier in names)
        print(f"  {figure.name:14} {values} {figure.unit}", flush=True)
        passes = True
        for (carrier, other), target in figure.targets.items():
            found = ratios(rounds, figure, carrier, other)
            ratio, spread = statistics.median(found), f"{min(found):.2f} to {max(found):.2f}"
            whom = "" if carrier == "netacc" else f"{CARRIERS[carrier]} "
            passes = self.judge(row.title, f"{figure.name}, {whom}to {CARRIERS[other]}",
                                short(median(rounds, other, figure.name)), short(median(rounds, carrier, figure.name)),
                                f"{ratio:.2f}x", spread, f">= {target:g}x", ratio >= target) and passes
            print(f"    {CARRIERS[carrier]} to {CARRIERS[other]}: {ratio:.2f}x ({spread}), target {target:g}x: "
                  f"{'pass' if ratio >= target else 'MISSED'}", flush=True)
        return passes

    def run_check(self, key):
        """Measures what is no comparison: whether all is below its limit."""
        check = CHECKS[key]
        print(check.title, flush=True)
        passes, self.report[key] = True, {"title": check.title, "found": []}
        for what, value, most in check.measure(self.bin_dir, self.work):
            self.report[key]["found"].append({"what": what, "value": value, "most": most})
            if most is None:
                print(f"  {what}: {value:.4g}", flush=True)
                continue
            print(f"  {what}: {value:.4g}, at most {most:g}: {'pass' if value <= most else 'MISSED'}", flush=True)
            passes = self.judge(check.title, what, "", f"{value:.4g}", "", "", f"<= {most:g}", value <= most) and passes
        return passes

    def run(self, key):
        """Measures what a name stands for: whether all holds."""
        try:
            return self.run_check(key) if key in CHECKS else self.run_row(key)
        except (CaseFailed, *UNFORESEEN) as failure:
            print(f"{key}: FAILED: {failure}", flush=True)
            self.judge(key, "it failed", "", "", "", "", "", False)
            return False

    def print_table(self):
        """Every target with what was measured."""
        head = ("work", "figure", "other", "NetACC", "ratio", "spread", "target", "verdict")
        lines = [head, *[(*line[:-1], "pass" if line[-1] else "MISSED") for line in self.verdicts]]
        widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
        print()
        for line in lines:
            print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())

    def explain(self, key):
        """Prints where a row's time goes."""
        print(f"\n{ROWS[key].title}: where its time goes", flush=True)
        try:
            for line in explain.lines_of(key, ROWS[key], self.bin_dir, self.work):
                print(line, flush=True)
        except (CaseFailed, Failure, *UNFORESEEN) as failure:
            print(f"    not found: {failure}", flush=True)


def redirection(stack, work):
    """eBPF sockmap redirection if the machine has it. If not, the reason is told."""
    try:
        return stack.enter_context(sockmap.loaded(work))
    except sockmap.Unavailable as reason:
        print(f"{CARRIERS['sockmap']} is not among the carriers here: {reason}", flush=True)
        return None


def accelerated(totals):
    """Connections that were made and are not plain kernel TCP."""
    return sum(n for name, n in totals.items() if name.startswith("connected_") and name != "connected_tcp")


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
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netacc-bench-")))
        work.chmod(0o755)
        bench = Bench(args, bin_dir, work, redirection(stack, work))
        missed = [key for key in args.rows.split(",") if not bench.run(key)]
        bench.print_table()
        if args.explain:
            for key in missed:
                if key in ROWS:
                    bench.explain(key)
    if args.json:
        measured = {"rounds": args.rounds, "seconds": args.seconds, **this_machine()}
        args.json.write_text(json.dumps({"measured": measured, "rows": bench.report}, indent=1))
    if args.csv:
        write_csv(args.csv, bench.report)
    number = len(args.rows.split(","))
    print(f"\n{time.monotonic() - begun:.0f} s; {number - len(missed)} of {number} rows hold"
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
