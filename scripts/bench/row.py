"""What a row of `make bench` is: what runs, over which carriers, and what must come of it."""

import dataclasses
import statistics
from collections.abc import Callable

# What can carry a row's connections, or stand beside them.
CARRIERS = {"tcp": "kernel TCP", "unix": "Unix socket", "sockmap": "eBPF sockmap", "limit": "the machine itself",
            "netacc": "NetACC", "fast": "NetACC -F"}
OURS = ("netacc", "fast")


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of a row's runs.

    `targets`: {(carrier, the one it is compared with): least ratio}. Of a time the ratio is how many times shorter it is, so
    that more is better everywhere."""

    name: str
    unit: str
    targets: dict
    is_time: bool = False

    def ratio(self, one, other):
        """How many times better one value is than another."""
        return other / one if self.is_time else one / other


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: `carriers` has a function for each that makes, of a `Side`, a context with `run(seconds)`: {figure: value}, and
    "count": how much was done in all, if it is known."""

    title: str
    figures: tuple
    carriers: dict
    # How much longer than others its runs are.
    stretch: float = 1.0


def short(value):
    """A value for people: no digits that say nothing."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def median(runs, carrier, figure):
    """The median of a carrier's runs, None if it has none."""
    values = [run[carrier][figure] for run in runs if figure in run.get(carrier, {})]
    return statistics.median(values) if values else None


def ratios(runs, figure, carrier, other):
    """The ratio of each round that both have."""
    return [figure.ratio(run[carrier][figure.name], run[other][figure.name]) for run in runs
            if figure.name in run.get(carrier, {}) and figure.name in run.get(other, {})]


@dataclasses.dataclass(frozen=True)
class Check:
    """Something that is measured once and not by comparison: `measure(bin_dir, work)`: (what, value, the
    most that it may be, None for what is only to be known), one after the other."""

    title: str
    measure: Callable
