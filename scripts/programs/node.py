"""Node.js' net and http: a server and a client in two processes, and both in one."""

import json
from pathlib import Path

from .side import CaseFailed, expect

NEEDS = ["node"]
SCRIPT = Path(__file__).with_name("node_net.js")


def suites():
    return [("node", True, run)]


def note_lines(side, label, printed):
    """Each line of a client is one case."""
    lines = printed.splitlines()
    expect(lines, f"{label}: the client printed nothing")
    for line in lines:
        try:
            case = json.loads(line)
        except ValueError:
            raise CaseFailed(f"{label}: the client printed {line!r}") from None

        def seen(case=case):
            expect(not case["seen"].startswith("FAILED"), case["seen"])
            return case["seen"]

        side.case(f"{label}: {case['name']}", seen)


def run(side):
    ports = side.ports(2)
    with side.server(["node", SCRIPT, "server", ports[0]], *ports):
        note_lines(side, "two processes", side.run(["node", SCRIPT, "client", ports[0]]))
    note_lines(side, "one process", side.run(["node", SCRIPT, "self", side.ports(2)[0]]))
