"""One run of tests/programs/faults.py in namespaces of its own, and whether it went as it must."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "tests/programs/faults.py"
PORT = "7700"
# In its own namespaces a run disturbs nobody, and leaves nothing: network, processes, /dev/shm.
APART = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
PREPARE = "ip link set lo up && mount -t tmpfs -o size=${SHM:-256m} none /dev/shm && "
# What programs expect of a connection that ends badly, or cannot be made for want of something.
LIKE_THE_KERNELS = {"ECONNRESET", "EPIPE", "ECONNREFUSED", "ECONNABORTED", "ETIMEDOUT", "ENOBUFS", "ENOMEM", "EMFILE", "ENFILE",
                    "EADDRNOTAVAIL", "EAGAIN", "EINTR", "ENOSPC", "ENOTCONN"}
LIMIT = 60


class Scene:
    """How and with what the program is run."""

    def __init__(self, library, work, **settings):
        self.library, self.work = library, Path(work)
        # A small ring, so that it is filled; short connections go over links, too.
        self.settings = {"NACC_RING_SIZE": "65536", "NACC_SHORT_CONN_LIMIT": "0", **settings}

    def run(self, around=(), prepare="", settings=(), preload=(), rounds=2):
        """What the program said, {} if nothing; `around` is put before it, `prepare` is shell that comes first."""
        environment = {**os.environ, **self.settings, **dict(settings)}
        environment["FAULTS_PRELOAD"] = " ".join([*map(str, preload), str(self.library)])
        environment.pop("LD_PRELOAD", None)
        program = [sys.executable, "-B", str(PROGRAM), "all", PORT, str(self.work / "echo"), str(rounds)]
        command = [*apart(), "sh", "-c", f"{PREPARE}{prepare} exec \"$@\"", "sh", *map(str, around), *program]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT + 30, check=False)
        except subprocess.TimeoutExpired:
            return {}, "it hangs"
        lines = done.stdout.splitlines()
        return (json.loads(lines[-1]) if lines else {}), done.stderr


def apart():
    """Who is not root has a user namespace beside."""
    return APART if os.geteuid() == 0 else [APART[0], "--user", "--map-root-user", *APART[1:]]


def build_echo(work):
    """The program that no library can be preloaded into."""
    source = PROGRAM.with_name("echo.c")
    subprocess.run(["cc", "-O1", "-static", "-o", Path(work) / "echo", source], check=True)


def judge(said, errors="", killed=None):
    """What is wrong, as sentences, and in a word what the program noticed. `killed` is the part that is to be, if any."""
    if not said:
        return [f"the program said nothing: {errors.strip()[-500:]}"], ""
    wrong = []
    client, server = said.get("client") or {}, said.get("server") or {}
    noticed = dict(server.get("errors", {}))
    for code in ("client_code", "server_code"):
        if killed and code.startswith(killed.lower()):
            if said.get(code) != -9:
                wrong.append(f"the {killed.lower()} was not killed: {said.get(code)}")
        elif said.get(code) != 0:
            wrong.append(f"{code} {said.get(code)}: {errors.strip()[-500:]}")
    # Whom the server had no descriptor for waits for it, as in a kernel's backlog.
    unaccepted = sum(count for what, count in server.get("errors", {}).items() if what.startswith("accept "))
    ends = 0
    for result, count in client.items():
        if result == "whole":
            continue
        noticed[result] = count
        if killed and result.startswith("ping: ") and result.endswith("right: True"):
            continue
        if "an end after" in result:
            ends += count
        elif unaccepted and (", 0 received" in result or result == "ping EAGAIN"):
            continue
        elif re.split(r"[ ,]", result)[-1] not in LIKE_THE_KERNELS:
            wrong.append(f"the client: {result}")
    for result in server.get("errors", {}):
        first, last = result.split()[0], result.split()[-1]
        # Its own call at the start, a watch that the kernel has no room for, a write to who was killed.
        if first == "start" or result == "epoll_ctl ENOENT" or killed and last == "SIGPIPE":
            continue
        if last not in LIKE_THE_KERNELS and not result.endswith("'s"):
            wrong.append(f"the server: {result}")
    if server.get("stuck"):
        wrong.append(f"{server['stuck']} children do not end")
    # Who has an error closes the connection, in good order; so does the kernel for who is killed.
    if not killed and ends > sum(server.get("errors", {}).values()):
        wrong.append(f"{ends} streams ended early and nobody had an error: {noticed}")
    if not killed and not client.get("whole") and not wrong and not noticed:
        wrong.append("no connection was made")
    return wrong, ", ".join(f"{count} {what}" if count > 1 else what for what, count in sorted(noticed.items()))


class Traced:
    """The same under the injector."""

    def __init__(self, scene, injector):
        self.scene, self.injector = scene, injector
        self.most = {}

    def run(self, faults=(), **how):
        """What is wrong, what was noticed, and the report."""
        with tempfile.NamedTemporaryFile(dir=self.scene.work, suffix=".json") as file:
            around = [self.injector, "--library", "libnetacc-preload", "--report", file.name, "--limit", LIMIT]
            for fault in faults:
                around += ["--fail", fault]
            said, errors = self.scene.run([*around, "--"], **how)
            text = Path(file.name).read_text()
        if not text:
            return [f"the injector tells nothing: {errors}"], "", {"failed": 1, "sites": []}
        report = json.loads(text)
        wrong, noticed = judge(said, errors)
        wrong += [f"hangs: {process}" for process in report["hung"]]
        wrong += [f"{one['how']}: {one['command'][-60:]}" for one in report["ended"] if one["how"].startswith("SIG")]
        if self.most:
            wrong += self.leaks(report)
        return wrong, noticed, report

    def learn(self, report):
        """What processes hold at their ends when nothing fails; several runs differ a little."""
        for what, count in held(report).items():
            self.most[what] = max(count, self.most.get(what, 0))

    def leaks(self, report):
        """What is held beyond that. A connection that was tried twice may have made a link more."""
        for what, count in held(report).items():
            if count > self.most.get(what, 0) + SLACK:
                yield f"{what[0]} holds {count} {what[1]} at its end, {self.most.get(what, 0)} if nothing fails"


SLACK = 4


def held(report):
    """The most that any process of either part held when it ended, {(part, what): number}."""
    most = {}
    for process in report["ended"]:
        for part in ("serve", "connect"):
            if f"faults.py {part}" in process["command"]:
                numbers = {**process["descriptors"], "threads": process["threads"], "mappings": process["mappings"]}
                for what, number in numbers.items():
                    most[part, what] = max(number, most.get((part, what), 0))
    return most
