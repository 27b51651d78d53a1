"""The two guests, steered from guest a: programs that run in them, and what their kernels count."""

import os
import signal
import time

from lab import parse_counters
from rdmalab.guest.asking import ask

# Longer than anything that is asked for takes: an agent that does not answer is gone.
PATIENCE = 120


class Failed(Exception):
    """A program did not do what it was started for; how it failed, in one line."""


class Guest:
    """One of the two."""

    def __init__(self, name):
        self.name = name
        self.address = {"a": "10.5.0.1", "b": "10.5.0.2"}[name]

    def ask(self, **request):
        """Asks its agent."""
        return ask(self.name, patience=PATIENCE, **request)

    def run(self, command):
        """Runs a shell command that must succeed: its output."""
        done = self.ask(op="run", sh=command, limit=PATIENCE - 10)
        if done["code"]:
            raise Failed(f"guest {self.name}: {command}: exit code {done['code']}: {last_words(done['err'])}")
        return done["out"]

    def spawn(self, argv, env=None, name=None):
        """Starts a program; `name` is for people, where the first word would say little."""
        words = [str(word) for word in argv]
        return Program(self, words, env or {}, name or os.path.basename(words[0]))

    def read(self, path):
        """The text of a file."""
        return self.ask(op="read", path=str(path))["text"]

    def numbers(self, directory):
        """{name: number} of a directory's files that hold one number each; empty where there is no such directory."""
        lines = self.run(f"cd {directory} 2>/dev/null || exit 0; grep -sH . * || true").splitlines()
        pairs = (line.split(":", 1) for line in lines)
        return {name: int(value) for name, value in pairs if value.lstrip("-").isdigit()}

    def hardware(self, device):
        """The RDMA device's own counters."""
        return self.numbers(f"/sys/class/infiniband/{device}/ports/1/hw_counters")

    def packets(self):
        """Packets that its side of the wire has carried, both ways."""
        counted = self.numbers("/sys/class/net/vec0/statistics")
        return counted["rx_packets"] + counted["tx_packets"]

    def protocols(self):
        """The kernel's counters of its protocols, by nstat's names."""
        lines = self.run("nstat -asz").splitlines()
        return {line.split()[0]: int(line.split()[1]) for line in lines if not line.startswith("#")}

    def queue_pairs(self):
        """How many queue pairs programs have."""
        return sum(" pid " in line for line in self.run("rdma resource show qp").splitlines())

    def counters(self, lab, pid):
        """NetACC's counters of a process, {} if it has none."""
        text = self.ask(op="run", sh=f"{lab.bin}/netacc_ss --counters -p {pid}", limit=20)["out"]
        return parse_counters(text).get(pid, {})


class Program:
    """A program in a guest; it ends with the `with` block."""

    def __init__(self, guest, argv, env, name):
        self.guest, self.name = guest, name
        answer = guest.ask(op="spawn", argv=argv, env=env)
        self.pid, self.out, self.err = answer["pid"], answer["out"], answer["err"]

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        if not self.stop(signal.SIGTERM, 3):
            self.stop(signal.SIGKILL, 10)

    def output(self):
        """What it has written so far."""
        return self.guest.read(self.out)

    def said(self):
        """The same with standard error."""
        return self.output() + self.guest.read(self.err)

    def code(self, limit=0.0):
        """Its exit code, below zero the number of the signal that ended it, if it ends within `limit` seconds."""
        return self.guest.ask(op="wait", pid=self.pid, limit=limit).get("code")

    def stop(self, number, limit):
        """Sends it, and what it started, a signal; whether it ended within `limit` seconds."""
        self.guest.ask(op="kill", pid=self.pid, signal=int(number))
        return self.code(limit) is not None

    def release(self):
        """Ends its standard input."""
        self.guest.ask(op="release", pid=self.pid)

    def wait_for(self, text, limit=10, pause=0.03, during=None):
        """Waits until its output has `text`, looking every `pause` seconds, with `during` as for `finish`. Failed if
        it ends before, or takes longer."""
        look, deadline = Look(during), time.monotonic() + limit
        while text not in self.said():
            if (code := self.code(pause)) is not None:
                raise Failed(f"{self.name} {ending(code)}: {last_words(self.said())}")
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} did not say '{text}' within {limit:g} s: {last_words(self.said())}")
            look.again()
        look.complain()

    def finish(self, limit, during=None):
        """Waits for its success: its output. `during` looks at it while it runs, again and again until it finds
        nothing to complain of (Failed)."""
        look, deadline = Look(during), time.monotonic() + limit
        while (code := self.code(0.25 if look.wanted else max(0, deadline - time.monotonic()))) is None:
            if time.monotonic() > deadline:
                words = last_words(self.said())
                self.stop(signal.SIGKILL, 10)
                raise Failed(f"{self.name} did not end within {limit:g} s: {words}")
            look.again()
        if code:
            raise Failed(f"{self.name} {ending(code)}: {last_words(self.said())}")
        look.complain()
        return self.output()


class Look:
    """Looks at a running program with a function until that finds nothing to complain of."""

    def __init__(self, function):
        self.function, self.complaint = function, None
        self.wanted = function is not None

    def again(self):
        """Once more, if need be."""
        if self.wanted:
            try:
                self.function()
                self.wanted, self.complaint = False, None
            except Failed as failure:
                self.complaint = failure

    def complain(self):
        """Raises what it found to the end."""
        if self.complaint:
            raise self.complaint


def ending(code):
    """An exit code in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def last_words(text):
    """The line of a program's output that says most of why it ended."""
    lines = [line.strip() for line in text.splitlines() if any(letter.isalpha() for letter in line)]
    telling = [line for line in lines if "crashed by signal" in line or "rror" in line]
    return (telling or lines or ["it said nothing"])[-1][:160]
