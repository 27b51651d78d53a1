"""Instructions of library code for a message, counted by callgrind: the same on a busy machine and on a quiet one.

`netacc-bench turns` is two processes that take turns, so nobody spins and the library does the same in each run. What both
ends execute in libnetacc-preload.so in a long run less what they do in a short one, divided by the messages between: start,
connects and end cancel."""

import collections
import dataclasses
import os
import re
import subprocess
import tempfile
from pathlib import Path

from lab import Failure, free_port

LIBRARY = "libnetacc-preload.so"
# Whoever waits sleeps at once, and connections of few messages are accelerated, too.
SETTINGS = {"NACC_SPIN_US": "0", "NACC_SHORT_CONN_LIMIT": "0", "NACC_LOG": "off"}


@dataclasses.dataclass(frozen=True)
class Work:
    """What is counted: options of `netacc-bench turns`, messages of the short and of the long run, and the most
    instructions of both ends together that a message (there, and back where there is an answer) may take."""

    title: str
    options: tuple
    messages: tuple
    most: float


WORKS = {
    "ping-pong": Work("a message of 64 B there and back, blocking calls", ("--work", "ping-pong"), (1000, 5000), 3590),
    "asleep": Work("the same, the server asleep", ("--work", "asleep"), (200, 1200), 5030),
    "stream": Work("a message of 64 B one way", ("--work", "stream"), (5120, 51200), 945),
    "bulk": Work("16 KiB one way", ("--work", "stream", "--size", "16384"), (500, 2500), 2025),
    "epoll-1": Work("there and back by epoll, 1 connection", ("--work", "epoll"), (1000, 5000), 4760),
    "epoll-100": Work("there and back by epoll, 100 connections at once", ("--work", "epoll", "--active", "100"), (1000, 11000), 3070),
    "idle-1000": Work("1 connection by epoll, 1,000 idle beside it", ("--work", "epoll", "--idle", "1000"), (1000, 5000), 4800),
    "idle-10000": Work("1 connection by epoll, 10,000 idle beside it", ("--work", "epoll", "--idle", "10000"), (1000, 31000), 6700),
}


def self_costs(path, library=LIBRARY):
    """What a callgrind file (with neither strings nor positions compressed) says of a library, or of all objects if it is
    None: {(object, source file, function): instructions of its own}."""
    costs = collections.Counter()
    place, function, file, is_call = "", "", "", False
    for line in path.read_text(errors="replace").splitlines():
        if line[:1].isdigit():
            if not is_call and (library is None or place.endswith(library)):
                costs[place, file, function] += int(line.split()[1])
            is_call = False
        elif line.startswith("calls="):
            # The next line is what the callee cost.
            is_call = True
        elif line.startswith("ob="):
            place = line[3:]
        elif line.startswith(("fl=", "fi=", "fe=")):
            file = line[3:]
        elif line.startswith("fn="):
            function = line[3:]
    return costs


def count(bin_dir, work, messages):
    """Instructions of both ends in the library in one run."""
    with tempfile.TemporaryDirectory(prefix="netacc-callgrind-") as directory:
        argv = ["valgrind", "--tool=callgrind", "--compress-strings=no", "--compress-pos=no",
                f"--callgrind-out-file={directory}/out.%p", bin_dir / "netacc-bench", "turns", "--port", free_port(),
                "--messages", messages, *work.options]
        environment = {**os.environ, **SETTINGS, "LD_PRELOAD": str(bin_dir / LIBRARY)}
        run = subprocess.run([str(word) for word in argv], env=environment, capture_output=True, text=True, timeout=300, check=False)
        if run.returncode != 0:
            raise Failure(f"{' '.join(map(str, argv))} ended with {run.returncode}:\n{run.stdout}{run.stderr[-3000:]}")
        costs = collections.Counter()
        for file in Path(directory).iterdir():
            costs += self_costs(file)
    if not costs:
        raise Failure(f"callgrind saw nothing of {LIBRARY}: is the file of that name in {bin_dir}?")
    return costs


def per_message(bin_dir, work):
    """{(object, source file, function): instructions for a message} of a work."""
    short, long = work.messages
    more, less = count(bin_dir, work, long), count(bin_dir, work, short)
    more.subtract(less)
    return {where: cost / (long - short) for where, cost in more.items() if cost}


def module(file):
    """The part of the library that a source file is: `src/conn/mod.rs`, or whose code it is otherwise."""
    if "/library/" in file or file.startswith("library/"):
        return "Rust's standard library"
    if crate := re.search(r"/registry/src/[^/]*/([a-z0-9_-]+?)-[0-9][^/]*/", file):
        return f"crate {crate[1]}"
    if found := re.search(r"(?:^|/)(src/(?:[a-z_]+/)*[a-z_]+\.rs)$", file):
        return found[1]
    return "no source line"


def profile(costs, key=lambda where: where[2], most=12):
    """The largest parts of what `per_message` found: [(name, instructions)]."""
    parts = collections.Counter()
    for where, cost in costs.items():
        parts[key(where)] += cost
    return parts.most_common(most)
