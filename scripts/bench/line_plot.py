"""Pictures of curves, as docs/bench.svg is drawn: one below the other, each with a grid, its lines and their names."""

import html
import math

WIDTH, LEFT, RIGHT, HEIGHT, HEAD, GAP = 900, 90, 250, 210, 58, 78
INK, GREY, PAPER, GRID = "#1c2430", "#5b6675", "#f7f9fc", "#d5dbe4"
# Kernel TCP's and NetACC's as in docs/bench.svg, then others.
COLOURS = ("#8a95a5", "#1f4e8c", "#b4542a", "#3b7d4f")


def short(value):
    """1234567 as 1.23 M."""
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def size(value):
    """16384 as 16 Ki; what is no such number as it is."""
    for unit, name in ((1 << 20, " Mi"), (1 << 10, " Ki")):
        if value >= unit and value % unit == 0:
            return f"{value // unit}{name}"
    return f"{value:,}"


def text(x, y, words, **style):
    """A text element."""
    said = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'  <text x="{x:.1f}" y="{y:.1f}"{said}>{html.escape(words)}</text>'


def grid(low, high, is_log):
    """Values at which a line is drawn across."""
    if is_log:
        return [10 ** n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    step = next(step for step in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if high / step <= 6)
    return [step * n for n in range(math.ceil(high / step) + 1)]


def panel(top, curve):
    """One picture of a curve, {title, x_title, y_title, values, lines: [{title, medians, low, high}], log}, at a height."""
    medians = [value for line in curve["lines"] for value in line["medians"]]
    marks = grid(min(medians), max(medians), curve["log"])

    def up(value):
        low, high, value = (math.log10(v) for v in (marks[0], marks[-1], value)) if curve["log"] else (marks[0], marks[-1], value)
        return top + HEAD + (HEIGHT - HEAD) * (1 - (value - low) / (high - low))

    def across(at):
        return LEFT + (WIDTH - LEFT - RIGHT) * (at + 0.5) / len(curve["values"])

    bottom = top + HEIGHT
    out = [text(24, top + 20, curve["title"], font_size=16, font_weight=600, fill=INK), text(24, top + 40, curve["y_title"], fill=GREY, font_size=12)]
    for mark in marks:
        out.append(f'  <line x1="{LEFT}" y1="{up(mark):.1f}" x2="{WIDTH - RIGHT}" y2="{up(mark):.1f}" stroke="{GRID}"/>')
        out.append(text(LEFT - 8, up(mark) + 4, short(mark) if mark else "0", text_anchor="end", fill=GREY, font_size=12))
    for at, value in enumerate(curve["values"]):
        is_default = value == curve.get("default")
        out.append(text(across(at), bottom + 18, size(value), text_anchor="middle", font_size=12, fill=INK if is_default else GREY,
                        font_weight=700 if is_default else 400))
    names = curve["x_title"] + (" (bold: the default)" if curve.get("default") is not None else "")
    out.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 36, names, text_anchor="middle", fill=GREY, font_size=12))
    taken = []
    for colour, line in zip(COLOURS if len(curve["lines"]) == 2 else COLOURS[1:] + COLOURS[:1], curve["lines"], strict=False):
        points = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in enumerate(line["medians"]))
        out.append(f'  <polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        for at, (value, low, high) in enumerate(zip(line["medians"], line["low"], line["high"], strict=True)):
            low, high = max(low, marks[0]), min(high, marks[-1])
            out.append(f'  <line x1="{across(at):.1f}" y1="{up(low):.1f}" x2="{across(at):.1f}" y2="{up(high):.1f}" stroke="{colour}"/>')
            out.append(f'  <circle cx="{across(at):.1f}" cy="{up(value):.1f}" r="3.5" fill="{colour}"/>')
        y = up(line["medians"][-1])
        # Names do not lie upon one another.
        while any(abs(y - other) < 16 for other in taken):
            y += 4
        taken.append(y)
        out.append(text(WIDTH - RIGHT + 12, y + 4, line["title"], fill=colour, font_weight=600, font_size=13))
    return out


def picture(title, curves, footer):
    """All of them, as the text of an SVG file."""
    height = 64 + (HEIGHT + GAP) * len(curves) + 30
    said = "; ".join(
        f"{curve['title']}: " + ", ".join(
            f"{line['title']} " + " ".join(f"{size(x)}: {short(y)}" for x, y in zip(curve["values"], line["medians"], strict=True))
            for line in curve["lines"])
        for curve in curves)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t d"',
        '     font-family="system-ui, -apple-system, \'Segoe UI\', \'DejaVu Sans\', sans-serif" font-size="14">',
        f'  <title id="t">{html.escape(title)}</title>',
        f'  <desc id="d">{html.escape(said)}</desc>',
        "  <!-- Written by scripts/bench_curves.py. Its own background: it reads on light and dark pages. -->",
        f'  <rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="12" fill="{PAPER}" stroke="{COLOURS[0]}" stroke-width="2"/>',
        text(24, 36, title, font_size=18, font_weight=600, fill=INK),
    ]
    for number, curve in enumerate(curves):
        out += panel(58 + (HEIGHT + GAP) * number, curve)
    return "\n".join([*out, text(24, height - 16, footer, fill=GREY, font_size=12), "</svg>", ""])
