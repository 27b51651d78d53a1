#!/usr/bin/env python3
"""How much of the code that reads bytes from outside the kept inputs reach: places of each source file, by fuzz/run.sh --coverage.

    fuzz/coverage.py PROGRAMS INPUTS TARGET...

PROGRAMS are the targets built with fuzz/coverage.c in libFuzzer's place; INPUTS holds a folder of inputs for each.
"""

import collections
import pathlib
import subprocess
import sys

# The code that reads what comes from outside; a place counts as reached if any target reaches it.
PARSERS = [
    "src/control/wire.rs",
    "src/fabric/remote/message.rs",
    "src/fabric/rdma/channel.rs",
    "src/link/record.rs",
    "src/link/rx.rs",
    "src/link/slots.rs",
    "src/fabric/ring.rs",
    "src/conn/mod.rs",
    "src/conn/rx.rs",
    "src/conn/window.rs",
    "src/config/file.rs",
    "src/config/reader.rs",
    "src/config/value.rs",
    "src/config/words.rs",
    "src/config/rules.rs",
    "src/stats/reader/snapshot.rs",
]
# Of a file that does other things too: what parses.
ONLY = {"src/fabric/rdma/channel.rs": "Greeting"}


def places(program, folders):
    """Each place of the program: its function, its file and line, and whether it was reached."""
    done = subprocess.run([program, *folders], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    found = [line.split() for line in done.stdout.splitlines()]
    asked = "\n".join(f"0x{address}" for address, _ in found)
    told = subprocess.run(["addr2line", "-f", "-C", "-e", program], input=asked, stdout=subprocess.PIPE, text=True, check=True)
    lines = told.stdout.splitlines()
    for (_, reached), function, where in zip(found, lines[::2], lines[1::2]):
        yield function, where.split(" (")[0], reached == "1"


def main():
    programs, inputs = map(pathlib.Path, sys.argv[1:3])
    root = pathlib.Path(__file__).resolve().parent.parent
    reached = collections.defaultdict(bool)
    for target in sys.argv[3:]:
        folders = [inputs / target, root / "fuzz/seeds" / target]
        for function, where, is_reached in places(programs / target, folders):
            path = where.rpartition(":")[0]
            name = next((name for name in PARSERS if path.endswith(name)), None)
            if name and ONLY.get(name, "") in function:
                reached[name, function, where] |= is_reached
    print(f"{'source file':<34} {'places':>7} {'reached':>8}")
    total = collections.Counter()
    for name in PARSERS:
        of_file = [is_reached for (file, _, _), is_reached in reached.items() if file == name]
        if of_file:
            total.update(all=len(of_file), reached=sum(of_file))
            print(f"{name:<34} {len(of_file):>7} {100 * sum(of_file) / len(of_file):>6.0f} %")
    print(f"{'all of them':<34} {total['all']:>7} {100 * total['reached'] / max(total['all'], 1):>6.0f} %")


if __name__ == "__main__":
    main()
