"""eBPF sockmap redirection: local TCP whose bytes go from socket to socket, past the kernel's TCP. What users would pick on
one host, so it stands beside NetACC where the kernel has it.

A shell in a mount namespace of its own loads the programs and holds them: pinned in a file system that ends with it. It ends
when this process does, however that ends, and removes the control group to which the programs were attached."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from programs.side import Side

SOURCE = Path(__file__).with_name("sockmap") / "redirect.c"
PREFIX = "netacc-bench-"
# $1: object, $2: group, $3: a directory for a mount where there is no /sys/fs/bpf.
HOLD = """set -e
trap '' TERM
mount -t bpf none /sys/fs/bpf 2>/dev/null || { mkdir -p "$3"; mount -t bpf none "$3"; }
at=$(findmnt -n -o TARGET -t bpf | tail -n 1)
bpftool prog loadall "$1" "$at/netacc" pinmaps "$at/netacc-maps"
bpftool prog attach pinned "$at/netacc/redirect" sk_msg_verdict pinned "$at/netacc-maps/ends"
mkdir "$2"
trap 'for try in 1 2 3 4 5 6 7 8 9; do rmdir "$2" 2>/dev/null && exit; sleep 0.3; done' EXIT
bpftool cgroup attach "$2" cgroup_sock_ops pinned "$at/netacc/established"
bpftool -j map show pinned "$at/netacc-maps/seen"
echo
read -r over || true
"""


class Unavailable(Exception):
    """This machine has no sockmap redirection; the text says what was tried and what it said."""


def step(what, argv):
    """Runs a command; what it printed."""
    try:
        run = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{what}: {error}") from None
    if run.returncode != 0:
        said = (run.stderr + run.stdout).strip().splitlines() or [f"status {run.returncode}"]
        raise Unavailable(f"{what}: {said[-1]}")
    return run.stdout


def hierarchy():
    """Where control groups of version 2 are mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(place)
    raise Unavailable("no writable control groups of version 2 are mounted")


class Redirection:
    """Programs that run in `group` talk by sockmap."""

    def __init__(self, group, counter):
        self.group, self.counter = group, counter

    def seen(self):
        """Messages that were redirected until now."""
        values = json.loads(step("bpftool map dump", ["bpftool", "-j", "map", "dump", "id", self.counter]))
        return values[0]["formatted"]["value"]


@contextlib.contextmanager
def loaded(work):
    """A `Redirection`, for as long as the block runs.

    Raises `Unavailable` where this machine has none."""
    if os.geteuid() != 0:
        raise Unavailable("it takes root to load programs into the kernel")
    for program in ("clang", "bpftool", "unshare", "findmnt"):
        if not shutil.which(program):
            raise Unavailable(f"{program} was not found")
    root = hierarchy()
    target = work / "redirect.o"
    # Where Debian has <asm/types.h>; clang's own target for BPF does not know.
    arch = step("gcc -print-multiarch", ["gcc", "-print-multiarch"]).strip()
    step("clang -target bpf", ["clang", "-O2", "-g", "-target", "bpf", f"-I/usr/include/{arch}", "-c", SOURCE, "-o", target])
    group = root / f"{PREFIX}{os.getpid()}"
    with tempfile.TemporaryFile("w+") as errors:
        argv = ["unshare", "--mount", "sh", "-c", HOLD, "hold", target, group, work / "bpf"]
        holder = subprocess.Popen([str(word) for word in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                  text=True, start_new_session=True)
        try:
            try:
                seen = json.loads(holder.stdout.readline())["id"]
            except ValueError:
                holder.wait(30)
                errors.seek(0)
                said = errors.read().strip().splitlines() or ["it says nothing"]
                raise Unavailable(f"loading the programs: {said[-1]}") from None
            yield Redirection(group, seen)
        finally:
            holder.communicate()


class Grouped(Side):
    """A bare side whose programs run in a group of processes."""

    def __init__(self, group, *words, **more):
        super().__init__("bare", *words, **more)
        self.group = group

    def start(self, argv, env=None, **popen):
        enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', self.group / "cgroup.procs"]
        return super().start([*enter, *argv], env, **popen)
