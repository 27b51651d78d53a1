"""Runs of several carriers in turn: whatever else the machine does, it does to all of them."""

from lab import in_turn, progress
from rdmalab.compare.carriers import NAMES
from rdmalab.compare.machines import Failed

# A carrier that failed so often at one thing is not tried at it again.
ENOUGH = 2


def take_turns(title, carriers, rounds, run, name=NAMES.get):
    """`run(carrier)` for each carrier, `rounds` times, every other time in reverse; `name(carrier)` for people.

    What the runs returned, [{carrier: result}], and how some failed, {carrier: [text]}."""
    found, failed = [], {}
    for number, order in in_turn(carriers, rounds):
        results = {}
        for carrier in order:
            if len(failed.get(carrier, ())) >= ENOUGH:
                continue
            try:
                results[carrier] = run(carrier)
            except Failed as failure:
                failed.setdefault(carrier, []).append(str(failure))
                progress(f"{title}: {name(carrier)} fails: {failure}")
        found.append(results)
        rates = ", ".join(f"{name(c)} {next(iter(results[c].values()))['rate']:,.0f}" for c in carriers if c in results)
        progress(f"{title}, round {number} of {rounds}: {rates}")
    return found, failed


def rows(title, unit, found, failed):
    """Rows of the report, one for each name in the runs' results: {"rate": .., "p50_ms": .., "p99_ms": ..} each."""
    names = dict.fromkeys(name for results in found for result in results.values() for name in result)
    return [
        {
            "title": f"{title}{', ' if name else ''}{name}", "unit": unit, "failed": failed,
            "rounds": [{c: result[name] for c, result in results.items() if name in result} for results in found],
        }
        for name in names
    ]
