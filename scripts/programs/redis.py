"""redis' own networking tests (scripts/redis_suite.py runs more of them, `make test-redis`)."""

import redis_suite
from sources import source_tree

from .side import FAIL, OK, SKIP, expect

NEEDS = ["redis-server", "redis-cli", "redis-benchmark", "tclsh"]
STATUS = {"ok": OK, "skip": SKIP, "ignore": SKIP}
# Of the whole list, those that end within seconds.
UNITS = [
    "unit/protocol", "unit/networking", "unit/querybuf", "unit/limits", "unit/pubsub", "unit/multi",
    "integration/redis-benchmark",
]
LIMIT = 150


def suites():
    return [("redis", False, run)]


def run(side):
    where = side.work / "redis"
    tree = source_tree("redis-server", "redis", "tests")
    redis_suite.stage(tree, where)
    ports = side.ports(300)
    units, _ = redis_suite.units_of(tree, UNITS)
    for unit in units:
        if side.only is None or any(name.startswith(f"{unit}: ") for name in side.only):
            one_unit(side, where, unit, ports)


def one_unit(side, where, unit, ports):
    # The suite's own control port is 32 below its base port.
    words = redis_suite.command(unit, ports[32], len(ports) - 32)
    told = redis_suite.COLOUR.sub("", side.run(words, limit=LIMIT, status=None, cwd=where))
    found = redis_suite.results(told)
    expect(found, f"{unit}: no test ran:\n{told[-2000:]}")
    for status, name in found:
        side.note(f"{unit}: {name}", STATUS.get(status, FAIL), why="" if status in STATUS else told[-3000:])
