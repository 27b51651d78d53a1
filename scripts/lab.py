"""What the scripts share: sessions of processes that are always stopped, ports whose side port is free too,
NetACC's counters read from outside a process, and what redis-benchmark and strace have to say."""

import csv
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

SIDE_PORT_OFFSET = 20000
# Side ports of this range stay below 32768, where the kernel's own choice of client ports begins.
PORTS = range(10400, 12700)
BINARIES = ("netacc_run", "netacc_ss", "libnetacc-preload.so")


class Failure(Exception):
    """Something a person must know about; its text is the whole message."""


def progress(text):
    """One line about long work, on stderr so that stdout holds results only."""
    print(f"  {text}", file=sys.stderr, flush=True)


def accelerate_short_connections():
    """For runs that look for mistakes: what ends after a few messages is not left to TCP, as it is by default."""
    os.environ.setdefault("NACC_SHORT_CONN_LIMIT", "0")


def interruptible():
    """Ctrl-C and SIGTERM end a script through every `finally`; impatient repetitions cannot cut that short."""

    def stop(_signo, _frame):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def binaries(directory):
    """The directory of netacc_run, netacc_ss and the library, checked, as an absolute path."""
    directory = Path(directory).resolve()
    for name in BINARIES:
        if not (directory / name).exists():
            raise Failure(f"{directory / name} does not exist: run 'make build' first")
    return directory


def need(*programs):
    """Every program is installed, or a sentence says which is not."""
    for program in programs:
        if not shutil.which(program):
            raise Failure(f"{program} was not found: run 'make setup' first")


def in_turn(names, rounds):
    """For each of so many rounds its number, from 1, and the names in their order, every other time in reverse: whatever else
    the machine does, it does to all of them."""
    names = list(names)
    for number in range(rounds):
        yield number + 1, names if number % 2 == 0 else names[::-1]


def this_machine():
    """When and on what figures are made: they mean little without."""
    release = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    kind = ", virtual machine" if "hypervisor" in Path("/proc/cpuinfo").read_text().split() else ""
    # The version without what a builder has added.
    kernel = re.match(r"[0-9.]*[0-9]", platform.release())[0]
    return {"date": time.strftime("%Y-%m-%d"),
            "machine": f"{len(os.sched_getaffinity(0))} cores{kind}, {release}, Linux {kernel}"}


def is_free(port):
    """Whether a port can be had together with its side port."""
    try:
        for candidate in (port, port + SIDE_PORT_OFFSET):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", candidate))
        return True
    except OSError:
        return False


def free_port(ports=PORTS):
    """A port of a range that is free together with its side port."""
    start = os.getpid() % len(ports)
    for port in [*ports[start:], *ports[:start]]:
        if is_free(port):
            return port
    raise Failure(f"no free port in {ports.start}..{ports.stop} on 127.0.0.1")


def session_pids(sid):
    """Every live process of a session, found in /proc."""
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # Fields after the parenthesised name: state ppid pgrp session ...
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == sid and fields[0] not in "ZX":
            pids.append(int(entry.name))
    return pids


class Session:
    """A command in a session of its own, so that it and all its offspring can be found and stopped."""

    live = set()
    closed = False  # once everything is being stopped nothing new may start, in any thread
    lock = threading.Lock()

    def __init__(self, argv, **popen):
        popen.setdefault("stdin", subprocess.DEVNULL)
        with Session.lock:
            if Session.closed:
                raise Failure("stopping")
            self.process = subprocess.Popen([str(a) for a in argv], start_new_session=True, **popen)
            Session.live.add(self)

    @classmethod
    def stop_all(cls):
        """Stop every session, those that other threads wait for too, and let none begin."""
        with cls.lock:
            cls.closed = True
            sessions = list(cls.live)
        for session in sessions:
            session.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.stop()

    def stop(self, grace=5.0):
        """Ask everything in the session to end; after `grace` seconds insist."""
        deadline = time.monotonic() + grace
        asked = set()
        while pids := session_pids(self.process.pid):
            for pid in pids:
                insist = time.monotonic() > deadline
                if insist or pid not in asked:
                    asked.add(pid)
                    try:
                        os.kill(pid, signal.SIGKILL if insist else signal.SIGTERM)
                    except ProcessLookupError:
                        pass
            self.process.poll()
            time.sleep(0.01)
        self.process.wait()
        with Session.lock:
            Session.live.discard(self)


def counters(bin_dir):
    """NetACC's counters, {pid: {name: value}}, of every process that has any."""
    shown = subprocess.run(
        [bin_dir / "netacc_ss", "--counters"], capture_output=True, text=True, timeout=10, check=False,
    )
    return parse_counters(shown.stdout)


def parse_counters(text):
    """What `netacc_ss --counters` printed: {pid: {name: value}}."""
    values, current = {}, {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "pid":
            current = values.setdefault(int(value), {})
        elif value.isdigit():
            current[name] = int(value)
    return values


def accepted(values):
    """Connections that a process accepted, by what carries them: {"shm": 100, "tcp": 1}."""
    return {name.removeprefix("accepted_"): n for name, n in values.items() if name.startswith("accepted_")}


def accelerated(values):
    """Connections that a process accepted and that are not plain kernel TCP."""
    return sum(n for carrier, n in accepted(values).items() if carrier != "tcp")


class Sampler(threading.Thread):
    """Remembers the highest counters of every process that `pids` names, read from outside while they run."""

    def __init__(self, bin_dir, pids, interval=0.1):
        super().__init__(daemon=True)
        self.bin_dir, self.pids, self.interval, self.over = bin_dir, pids, interval, threading.Event()
        self.seen, self.lock = {}, threading.Lock()

    def run(self):
        while not self.over.wait(self.interval):
            self.look()

    def look(self):
        """Reads the counters now: for a process that is about to end."""
        try:
            now = counters(self.bin_dir)
        except subprocess.TimeoutExpired:
            return  # a busy machine: the next look tells
        with self.lock:
            for pid in now.keys() & set(self.pids()):
                most = self.seen.setdefault(pid, {})
                for name, value in now[pid].items():
                    most[name] = max(value, most.get(name, 0))

    def total(self):
        """Each counter summed over all the processes; the end of the sampling."""
        self.over.set()
        self.join()
        sums = {}
        for values in self.seen.values():
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value
        return sums


def benchmark_figures(text):
    """What `redis-benchmark --csv` printed: {"SET": {"rps": .., "p50_latency_ms": .., ...}, "GET": ...}."""
    figures = {}
    for row in csv.DictReader(line for line in text.splitlines() if line.startswith('"')):
        test = row.pop("test")
        figures[test] = {name: float(value) for name, value in row.items()}
    return figures


def calls_by_name(text):
    """What `strace -c` counted: {name: calls}, "total" among them."""
    rows = (line.split() for line in text.splitlines())
    # percent, seconds, microseconds a call, calls, errors or nothing, name
    found = {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit()}
    if "total" not in found:
        raise Failure(f"strace wrote no total:\n{text}")
    return found


def count_calls(text):
    """The total number of calls in what `strace -c` wrote."""
    return calls_by_name(text)["total"]
