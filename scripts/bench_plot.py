#!/usr/bin/env python3
"""Draws docs/bench.json, the figures of `make demo`, as a bar chart, and writes the table of the same figures into a document,
between two marks: scripts/bench_plot.py FROM.json TO.svg DOCUMENT.md

    make demo ARGS='--json docs/bench.json'     measures (and fails if nothing was accelerated)
    make bench-plot                             draws, and writes the table
    make bench-docs                             both"""

import html
import json
import sys
import textwrap
from pathlib import Path

WIDTH, LEFT, RIGHT = 900, 330, 150
TOP, ROW, BAR = 104, 62, 19
TCP, NETACC, INK, GREY, PAPER = "#8a95a5", "#1f4e8c", "#1c2430", "#5b6675", "#f7f9fc"


BEGIN, END = "<!-- What follows is written by make bench-plot. -->", "<!-- The end of it. -->"


def rows_of(report):
    """(title, {side: requests/s}, ratio) for each row and test of a report."""
    for row in report["rows"].values():
        for test, summary in row["summary"].items():
            yield f"{test}, {row['title']}", {side: summary[side]["rps"] for side in ("tcp", "netacc")}, summary["ratio"]


def ticks(most):
    """Round values from zero to just past `most`, three to six of them."""
    step = 1
    while most / step > 5:
        step *= 10
    for finer in (5, 2):
        if most / (step / finer) <= 5:
            step /= finer
            break
    return [step * n for n in range(int(most // step) + 1)]


def short(value):
    """1234567 as 1.23 M."""
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def chart(report):
    """The picture, as text."""
    rows = list(rows_of(report))
    if not rows:
        raise ValueError("it has no rows")
    height = TOP + ROW * len(rows) + 74
    most = max(rate for _, rates, _ in rows for rate in rates.values())
    scale = (WIDTH - LEFT - RIGHT) / most

    def text(x, y, words, **style):
        style = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
        return f'  <text x="{x:g}" y="{y:g}"{style}>{html.escape(words)}</text>'

    def bar(y, value, colour):
        return f'  <rect x="{LEFT}" y="{y:g}" width="{max(value * scale, 1):.1f}" height="{BAR}" rx="2" fill="{colour}"/>'

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t d"',
        '     font-family="system-ui, -apple-system, \'Segoe UI\', \'DejaVu Sans\', sans-serif" font-size="14">',
        '  <title id="t">redis-benchmark over kernel TCP and over NetACC</title>',
        '  <desc id="d">' + html.escape("; ".join(
            f"{title}: {rates['tcp']:,.0f} requests per second over TCP, {rates['netacc']:,.0f} over NetACC, ratio {ratio:.1f}"
            for title, rates, ratio in rows)) + '</desc>',
        "  <!-- Written by scripts/bench_plot.py (make bench-plot). Its own background: it reads on light and dark pages. -->",
        f'  <rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="12" fill="{PAPER}" stroke="{TCP}" stroke-width="2"/>',
        text(24, 36, "redis-benchmark on one host: requests per second", font_size=18, font_weight=600, fill=INK),
        f'  <rect x="24" y="54" width="14" height="14" rx="2" fill="{TCP}"/>', text(44, 66, "kernel TCP", fill=INK),
        f'  <rect x="140" y="54" width="14" height="14" rx="2" fill="{NETACC}"/>',
        text(160, 66, "NetACC (shared memory), and how many times kernel TCP that is", fill=INK),
    ]
    bottom = TOP + ROW * len(rows)
    for value in ticks(most):
        x = LEFT + value * scale
        lines.append(f'  <line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#d5dbe4"/>')
        lines.append(text(round(x, 1), bottom + 18, short(value) if value else "0", text_anchor="middle", fill=GREY, font_size=12))
    for number, (title, rates, ratio) in enumerate(rows):
        y = TOP + ROW * number + 6
        lines.append(text(LEFT - 12, y + 25, title, text_anchor="end", fill=INK))
        lines.append(bar(y, rates["tcp"], TCP))
        lines.append(text(round(LEFT + rates["tcp"] * scale + 8, 1), y + 15, short(rates["tcp"]), fill=GREY))
        lines.append(bar(y + BAR + 3, rates["netacc"], NETACC))
        said = f"{short(rates['netacc'])}, {ratio:.1f}x"
        lines.append(text(round(LEFT + rates["netacc"] * scale + 8, 1), y + BAR + 18, said, fill=NETACC, font_weight=600))
    how = report["measured"]
    lines.append(text(24, height - 20, f"{how['date']}, {how['machine']}; {how['workload']}; medians of {report['pairs']} alternating pairs",
                      fill=GREY, font_size=12))
    return "\n".join([*lines, "</svg>", ""])


def table(report):
    """The figures as text for a document."""
    tests = [(f"{test}, {row['title']}", summary) for row in report["rows"].values() for test, summary in row["summary"].items()]
    # Figures of a run of before they were kept have none of the times.
    timed = all("p99" in summary[side] for _, summary in tests for side in ("tcp", "netacc"))
    times = ["p50, p99 ms"] if timed else []
    head = ["work", "kernel TCP, requests/s", *times, "NetACC, requests/s", *times, "ratio"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for title, summary in tests:
        cells = [title]
        for side in ("tcp", "netacc"):
            figures = summary[side]
            cells.append(f"{figures['rps']:,.0f}")
            cells += [f"{figures['p50']:.3f}, {figures['p99']:.3f}"] if timed else []
        lines.append("| " + " | ".join([*cells, f"{summary['ratio']:.1f}"]) + " |")
    how, calls = report["measured"], report.get("calls")
    where = (f"Medians of {report['pairs']} alternating pairs, a ratio that of the pairs' ratios; {how['machine']}; "
             f"`{how['command']}`: {how['workload']}; {how['date']}:")
    said = [*textwrap.wrap(where, 118, break_on_hyphens=False), "", *lines]
    if isinstance(calls, dict):
        # Start and end cancel but for a few calls of some hundred thousand: below that it is chance.
        tcp = calls["tcp"]
        netacc = {end: f"{number:.3f}" if number >= 0.005 else "less than 0.005" for end, number in calls["netacc"].items()}
        said += ["", f"System calls for a request (SET, 100 connections): server {tcp['server']:.1f} over TCP and "
                     f"{netacc['server']} over NetACC,", f"client {tcp['client']:.1f} and {netacc['client']}."]
    return "\n".join(said)


def with_table(document, report):
    """The text of a document with the table in its place."""
    head, begins, rest = document.partition(f"{BEGIN}\n")
    _, ends, tail = rest.partition(f"{END}\n")
    if not (begins and ends):
        raise ValueError(f"it has no place for the table: a line {BEGIN}, and behind it one {END}")
    return f"{head}{begins}\n{table(report)}\n\n{ends}{tail}"


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    source, target, document = map(Path, sys.argv[1:])
    try:
        report = json.loads(source.read_text())
        drawn = chart(report)
        table(report)
    except (OSError, ValueError) as error:
        sys.exit(f"bench_plot: {source}: {error}. Write it with: make demo ARGS='--json {source}'")
    except KeyError as error:
        sys.exit(f"bench_plot: {source} has no {error}. Write it anew with: make demo ARGS='--json {source}'")
    try:
        # Nothing is written unless both can be.
        written = with_table(document.read_text(), report)
        target.write_text(drawn)
        document.write_text(written)
    except (OSError, ValueError) as error:
        sys.exit(f"bench_plot: {document}: {error}")


if __name__ == "__main__":
    main()
