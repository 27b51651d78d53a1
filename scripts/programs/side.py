"""One run of one suite: bare, with NetACC preloaded and switched off, or with NetACC on.

A suite starts its programs through a `Side`, which puts netacc_run before them where that is due, bounds each
of them, stops them all, and notes what became of each case."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from lab import PORTS, Failure, Sampler, Session, is_free, session_pids

SIDES = ("bare", "off", "on")
OFF = {"NACC_FABRICS": "none"}
OK, SKIP, FAIL = "ok", "skip", "FAIL"


class CaseFailed(Exception):
    """A case did not go as it must; the text says how."""


# What a case raises that a program answers otherwise than it should, or not at all.
UNFORESEEN = (OSError, ValueError, LookupError, subprocess.TimeoutExpired)


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one case: its status, what it saw (equal on all sides), and why it failed."""

    status: str
    seen: str = ""
    why: str = ""


class Side:
    """Where and how one suite runs once."""

    # Ports are given in turn, whoever asks: a port that was left a moment ago is not taken again at once.
    lock, cursor = threading.Lock(), os.getpid() % len(PORTS)

    def __init__(self, name, suite, bin_dir, work, short, only=None, interval=0.1):
        self.name, self.suite, self.bin_dir, self.short, self.only = name, suite, bin_dir, short, only
        self.work = Path(tempfile.mkdtemp(prefix=f"{suite.replace('/', '-')}-{name}-", dir=work))
        self.results, self.sids, self.user = {}, [], []
        self.begun = time.monotonic()
        self.sampler = Sampler(bin_dir, self.pids, interval)
        if name != "bare":
            self.sampler.start()

    def pids(self):
        """Every process that this side started and that still runs."""
        return [pid for sid in list(self.sids) for pid in session_pids(sid)]

    def end(self):
        """Stops what is left; the counters' sums."""
        self.totals = self.sampler.total() if self.name != "bare" else {}
        self.seconds = time.monotonic() - self.begun
        return self

    def as_user(self, name):
        """Everything that is started from now on is that user's, and so is the directory: for servers that give root up,
        as both ends of a link belong to one user."""
        if os.geteuid() == 0:
            shutil.chown(self.work, name, name)
            self.user = ["setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups"]

    def environment(self, extra=None):
        """What its programs find in their environment."""
        off = OFF if self.name == "off" else {}
        home = {"HOME": str(self.work)} if self.user else {}
        return {**os.environ, **home, "LC_ALL": "C.UTF-8", **(extra or {}), **off}

    def port(self):
        """A port for a server of this side; no other suite gets it soon."""
        return self.ports(1)[0]

    def ports(self, count):
        """So many ports in a row."""
        with Side.lock:
            for start in range(len(PORTS)):
                first = (Side.cursor + start) % (len(PORTS) - count)
                row = PORTS[first:first + count]
                if all(is_free(port) for port in row):
                    Side.cursor = first + count
                    return list(row)
        raise Failure(f"no {count} free ports in a row in {PORTS.start}..{PORTS.stop} on 127.0.0.1")

    def start(self, argv, env=None, **popen):
        """A program of this side, in the background."""
        runner = [] if self.name == "bare" else [self.bin_dir / "netacc_run", "--"]
        popen.setdefault("cwd", self.work)
        session = Session([*runner, *self.user, *argv], env=self.environment(env), **popen)
        self.sids.append(session.process.pid)
        return session

    def look(self):
        """Reads the counters of what runs now."""
        if self.name != "bare":
            self.sampler.look()

    def stop(self, session):
        """Stops it; its counters are read before."""
        self.look()
        session.stop()

    @contextlib.contextmanager
    def server(self, argv, *ports, limit=30, **more):
        """A program that runs while the block does, begun when it listens at each of `ports`."""
        log = tempfile.TemporaryFile("w+", errors="replace")
        more.setdefault("stdout", log)
        session = self.start(argv, stderr=subprocess.STDOUT if more["stdout"] is log else log, **more)
        try:
            deadline = time.monotonic() + limit
            while not set(ports) <= listening():
                if session.process.poll() is not None or time.monotonic() > deadline:
                    raise CaseFailed(f"{argv[0]} does not listen at {ports}:\n{tail(log)}\n{stacks(session)}")
                time.sleep(0.02)
            session.log = log
            yield session
        finally:
            self.stop(session)
            log.close()

    def run(self, argv, limit=60, status=0, text=True, **more):
        """What a program printed. One that does not end in `limit` seconds, or not with `status`, is a failure."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile("w+", errors="replace") as err:
            more.setdefault("stdout", out)
            session = self.start(argv, stderr=err, **more)
            try:
                try:
                    ended = session.process.wait(limit)
                except subprocess.TimeoutExpired:
                    said = stacks(session)
                    raise CaseFailed(f"HANGS: {argv[0]} has not ended after {limit} s\n{tail(err)}\n{said}") from None
            finally:
                self.stop(session)
            out.seek(0)
            printed = out.read()
            if status is not None and ended != status:
                shown = printed[-2000:].decode(errors="replace")
                raise CaseFailed(f"{' '.join(map(str, argv))[:200]} ended with {ended}\n{shown}{tail(err)}")
        return printed.decode(errors="replace") if text else printed

    def together(self, commands, limit=60, **more):
        """What several programs print that run at the same time."""
        with concurrent.futures.ThreadPoolExecutor(len(commands)) as pool:
            running = [pool.submit(self.run, argv, limit, **more) for argv in commands]
            return [one.result() for one in running]

    def note(self, case, status, seen="", why=""):
        """Notes what became of a case."""
        self.results[case] = Result(status, seen, why)

    def case(self, name, function, *arguments):
        """Runs one case: what it returns must be equal on all sides; what it raises is its failure."""
        if self.only is not None and name not in self.only:
            return
        try:
            seen = function(*arguments)
            self.note(name, OK, "" if seen is None else str(seen))
        except CaseFailed as failure:
            self.note(name, FAIL, why=str(failure))
        except UNFORESEEN as failure:
            self.note(name, FAIL, why=f"{type(failure).__name__}: {failure}")


def own_user(option):
    """For a server that wants to be told to stay root: both ends of a link belong to one user."""
    return [option, "root"] if os.geteuid() == 0 else []


def listening():
    """Every TCP port of this host at which something listens, read without connecting to it."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def tail(file, lines=30):
    """The last lines of what a program wrote."""
    file.seek(0)
    return "\n".join(file.read().splitlines()[-lines:])


def stacks(session, most=4):
    """Where the threads of a session's processes are, if gdb may look."""
    if not shutil.which("gdb"):
        return "(no stacks: gdb is not installed)"
    told = []
    for pid in session_pids(session.process.pid)[:most]:
        argv = ["gdb", "-p", str(pid), "-batch", "-nx", "-ex", "set debuginfod enabled off"]
        argv += ["-ex", "thread apply all bt 14"]
        try:
            shown = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout
        except subprocess.TimeoutExpired:
            shown = "(gdb did not answer)"
        kept = [line for line in shown.splitlines() if line.startswith(("Thread ", "#"))]
        told.append("\n".join([f"process {pid}:", *kept[:120]]))
    return "\n".join(told)


def sample(path, size, seed=1):
    """Writes `size` bytes that do not repeat and that compress badly, the same each time; their checksum."""
    digest, left, block = hashlib.sha256(), size, 0
    with open(path, "wb") as file:
        while left:
            piece = hashlib.shake_128(f"{seed} {block}".encode()).digest(min(left, 1 << 16))
            file.write(piece)
            digest.update(piece)
            left -= len(piece)
            block += 1
    return digest.hexdigest()


def checksum(path):
    """The checksum of a file, as `sample` makes it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def expect(condition, text):
    """Fails the case unless the condition holds."""
    if not condition:
        raise CaseFailed(text)


def equal(what, found, wanted):
    """Fails the case unless both are equal."""
    expect(found == wanted, f"{what}: {found!r}, not {wanted!r}")
