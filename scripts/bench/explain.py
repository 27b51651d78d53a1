"""Where a row's time goes: system calls by strace, and instructions by callgrind, of all its programs in a run of their own."""

import collections
import os
import tempfile
from pathlib import Path

from bench.instructions import LIBRARY, self_costs
from lab import calls_by_name
from programs.side import Side


class Traced(Side):
    """A side whose programs all run under a tool. `tool(file)` is its command."""

    def __init__(self, tool, name, *words, **more):
        super().__init__(name, *words, **more)
        self.tool = tool
        self.found = Path(tempfile.mkdtemp(prefix="trace-", dir=self.work))

    def start(self, argv, env=None, **popen):
        # netacc_run does not run under the tool: what it sets is set here.
        on = {"LD_PRELOAD": str(self.bin_dir / LIBRARY)} if self.name == "on" else {}
        number = len(list(self.found.iterdir()))
        # valgrind keeps some numbers of descriptors to itself, and lets nobody change how many there are.
        limit, argv = (argv[:2], argv[2:]) if argv[0] == "prlimit" else ([], argv)
        name, self.name = self.name, "bare"
        try:
            return super().start([*limit, *self.tool(self.found / f"{number:02}"), *argv], {**os.environ, **(env or {}), **on}, **popen)
        finally:
            self.name = name


def traced(tool, name, key, bin_dir, work, start, seconds):
    """One run under a tool: how much was done, and the files that the tool has written."""
    side = Traced(tool, name, f"{key}-traced", bin_dir, work, short=True, interval=0.5)
    try:
        with start(side) as run:
            done = run(seconds)["count"]
        return done, [path for path in side.found.iterdir() if path.stat().st_size]
    finally:
        side.end()


def calls(name, key, bin_dir, work, start, seconds):
    """{system call: how many for a request}, all programs together."""
    done, files = traced(lambda file: ["strace", "-f", "-c", "-o", file], name, key, bin_dir, work, start, seconds)
    sums = collections.Counter()
    for file in files:
        sums.update(calls_by_name(file.read_text()))
    return {call: number / done for call, number in sums.items()}


def instructions(name, key, bin_dir, work, start, seconds):
    """({object: instructions for a request}, {function of the library: the same}), all programs together."""
    def tool(file):
        return ["valgrind", "-q", "--tool=callgrind", "--trace-children=yes", "--compress-strings=no", "--compress-pos=no",
                f"--callgrind-out-file={file}-%p"]

    done, files = traced(tool, name, key, bin_dir, work, start, seconds)
    objects, functions = collections.Counter(), collections.Counter()
    for path in files:
        for where, cost in self_costs(path, None).items():
            objects[Path(where[0]).name] += cost
            if where[0].endswith(LIBRARY):
                functions[where[2]] += cost
    return tuple({what: cost / done for what, cost in sums.items()} for sums in (objects, functions))


def most(found, number=6):
    """The largest of what was found, for people."""
    first = sorted(found.items(), key=lambda one: -one[1])[:number]
    return ", ".join(f"{what} {value:,.3g}" if value < 1000 else f"{what} {value:,.0f}" for what, value in first)


def lines_of(key, row, bin_dir, work, carrier="netacc"):
    """Lines that say where the time of a row goes, over kernel TCP and over NetACC."""
    for name, which, title in (("bare", "tcp", "kernel TCP"), ("on", carrier, "NetACC")):
        found = calls(name, key, bin_dir, work, row.carriers[which], 1.0)
        total = found.pop("total")
        yield f"      {title}: {total:.3g} system calls for each: {most(found)}"
    objects, functions = instructions("on", key, bin_dir, work, row.carriers[carrier], 2.0)
    whole = sum(objects.values())
    yield f"      NetACC: {whole:,.0f} instructions in user mode for each: {most(objects, 4)}"
    yield f"      of the library's: {most(functions, 8)}"
