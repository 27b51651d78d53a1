#!/usr/bin/env python3
"""Curves: what connections, sizes and threads do over kernel TCP and over NetACC, and what NetACC's settings do.

All points of a curve take turns, every other round in reverse. A figure is the median of the rounds; of a setting, its ratio
to the default's. docs/performance.md says what they are.

    make bench-scaling ARGS='--curves idle,threads --rounds 5'
    make bench-curves ARGS='--curves spin --json spin.json --csv spin.csv --svg spin.svg'"""

import argparse
import csv
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.curves import SCALING, SETTINGS, Set
from bench.line_plot import picture, short, size
from bench.neighbours import Neighbours
from lab import Failure, Session, accelerated, binaries, in_turn, interruptible, need, progress, this_machine
from programs.side import UNFORESEEN, CaseFailed

GROUPS = {"scaling": (SCALING, "How it scales: kernel TCP and NetACC on one host"),
          "settings": (SETTINGS, "What NetACC's settings do: each beside the default")}


def arguments():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("group", choices=GROUPS)
    options.add_argument("--bin", default="target/release", help="where `make build` put library and tools")
    options.add_argument("--curves", help="some of the group's: " + "; ".join(f"{name}: {', '.join(of[0])}" for name, of in GROUPS.items()))
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=0.5, help="length that each run aims at")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round there")
    options.add_argument("--csv", type=Path, metavar="FILE", help="the same as lines: curve,line,x,round,value")
    options.add_argument("--svg", type=Path, metavar="FILE", help="draw them there")
    options.add_argument("--from", type=Path, dest="source", metavar="FILE", help="draw and print what --json wrote, and measure nothing")
    args = options.parse_args()
    args.curves = args.curves.split(",") if args.curves else list(GROUPS[args.group][0])
    if unknown := set(args.curves) - set(GROUPS[args.group][0]):
        options.error(f"{args.group} has no curve {', '.join(unknown)}")
    if args.rounds < 1:
        options.error(f"--rounds {args.rounds}: at least one is needed")
    return args


def point(line, value, key, bin_dir, work, seconds):
    """One run at one value, and how many connections were seen that are accelerated."""
    side = Set({}, line.side, f"curve-{key}", bin_dir, work, short=True, interval=0.1)
    try:
        with line.start(side, value) as run:
            found = run(seconds)[line.figure]
    finally:
        side.end()
    return found, accelerated(side.totals)


def measure(key, curve, args, bin_dir, work):
    """{line: [a list for each round: a value for each x]}."""
    points = [(line, value) for value in curve.values for line in curve.lines]
    rounds = {line.title: [] for line in curve.lines}
    seen = dict.fromkeys(rounds, 0)
    for number, order in in_turn(points, args.rounds):
        found = {}
        for line, value in order:
            found[line.title, value], connections = point(line, value, key, bin_dir, work, args.seconds)
            seen[line.title] += connections
        for line in curve.lines:
            rounds[line.title].append([found[line.title, value] for value in curve.values])
        progress(f"{curve.title}: round {number} of {args.rounds}")
    # Of a short run alone nothing may have been seen.
    if plain := [line.title for line in curve.lines if line.side == "on" and not seen[line.title]]:
        raise CaseFailed(f"no connection was accelerated: {', '.join(plain)}")
    return rounds


def as_drawn(curve, rounds):
    """What a picture shows of a curve: medians, and the least and the most of the rounds."""
    lines = []
    for line in curve.lines:
        values = rounds[line.title]
        if curve.default is not None:
            at = curve.values.index(curve.default)
            usual = statistics.median(one[at] for one in values)
            values = [[value / usual for value in one] for one in values]
        columns = list(zip(*values, strict=True))
        lines.append({"title": line.title, "medians": [statistics.median(column) for column in columns],
                      "low": [min(column) for column in columns], "high": [max(column) for column in columns]})
    relative = curve.default is not None
    return {"title": curve.title, "x_title": curve.x_title, "values": list(curve.values), "lines": lines, "default": curve.default,
            "y_title": "times what the default does" if relative else curve.y_title, "log": not relative}


def print_curve(drawn):
    """A table of a curve."""
    print(f"\n{drawn['title']}: {drawn['y_title']}, median (least to most)")
    print(f"  {drawn['x_title']:>16}  " + "  ".join(f"{line['title']:>30}" for line in drawn["lines"]) + ("  ratio" if drawn["log"] else ""))
    for at, value in enumerate(drawn["values"]):
        cells = [f"{short(line['medians'][at])} ({short(line['low'][at])} to {short(line['high'][at])})" for line in drawn["lines"]]
        mark = "*" if value == drawn["default"] else " "
        ratio = f"  {drawn['lines'][1]['medians'][at] / drawn['lines'][0]['medians'][at]:.2f}x" if drawn["log"] else ""
        print(f"  {size(value):>16}{mark} " + "  ".join(f"{cell:>30}" for cell in cells) + ratio, flush=True)


def write_csv(path, report):
    """Every value on a line of its own."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["curve", "line", "x", "round", "value"])
        for key, found in report["curves"].items():
            for line, rounds in found["rounds"].items():
                for number, values in enumerate(rounds):
                    out.writerows([key, line, x, number + 1, value] for x, value in zip(found["values"], values, strict=True))


def draw(args, curves, title, report):
    """Writes the picture, if one is asked for."""
    if args.svg:
        how = report["measured"]
        drawn = [as_drawn(curves[key], found["rounds"]) for key, found in report["curves"].items()]
        counts = {len(rounds) for found in report["curves"].values() for rounds in found["rounds"].values()}
        number = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
        args.svg.write_text(picture(title, drawn, f"{how['date']}, {how['machine']}; medians of {number} rounds; bars: least, most"))


def measured(args, curves, title):
    """Measures, and writes after each curve what there is: a run that is stopped has not been in vain."""
    need("redis-server", "redis-benchmark", "memcached", "prlimit")
    bin_dir = binaries(args.bin)
    report = {"measured": {"rounds": args.rounds, "seconds": args.seconds, **this_machine()}, "curves": {}}
    with tempfile.TemporaryDirectory(prefix="netacc-curves-") as work:
        Path(work).chmod(0o755)
        for key in args.curves:
            neighbours = Neighbours()
            try:
                rounds = measure(key, curves[key], args, bin_dir, Path(work))
            except (CaseFailed, *UNFORESEEN) as failure:
                raise Failure(f"{key}: {failure}") from failure
            share = round(neighbours.share(), 3)
            report["curves"][key] = {"title": curves[key].title, "values": list(curves[key].values), "rounds": rounds, "others": share}
            print_curve(as_drawn(curves[key], rounds))
            print(f"  (others had {100 * share:.0f} % of the processors meanwhile)", flush=True)
            if args.json:
                args.json.write_text(json.dumps(report, indent=1))
            if args.csv:
                write_csv(args.csv, report)
            draw(args, curves, title, report)


def main():
    args = arguments()
    interruptible()
    curves, title = GROUPS[args.group]
    begun = time.monotonic()
    if not args.source:
        measured(args, curves, title)
        print(f"\n{time.monotonic() - begun:.0f} s")
        return
    try:
        report = json.loads(args.source.read_text())
        for key, found in report["curves"].items():
            print_curve(as_drawn(curves[key], found["rounds"]))
        draw(args, curves, title, report)
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"{args.source}: {error}; write it with --json") from error


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"bench_curves: {failure}")
    except KeyboardInterrupt:
        sys.exit("bench_curves: interrupted; everything it started is stopped")
    finally:
        Session.stop_all()
