"""Two guests joined by three wires: booted, watched, booted anew when a test asks for it, always stopped."""

import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from lab import Failure, Session

from . import qemu, uml

MACHINES = {"uml": uml, "qemu": qemu}
WIRES = 3  # two for data and one for control
HERE = Path(__file__).resolve().parent


@dataclass
class Run:
    """What the guests of one run have in common."""

    machine: object  # the module uml or qemu
    parts: object  # what the module's prepare() returned
    device: str  # rxe or siw
    project: Path
    memory: int = 1024  # MiB for each guest
    mtu: int = 1500
    settings: dict = field(default_factory=dict)  # environment of everything in the guests
    directory: Path | None = None  # shared with the guests, writable

    def fill(self, command):
        """Writes everything that the guests read."""
        self.directory.chmod(0o755)  # programs of other users run in the guests too
        shutil.copytree(HERE / "guest", self.directory / "guest")
        for guest in ("a", "b"):
            (self.directory / "out" / guest).mkdir(parents=True)
        # Colours are for people only, though a guest's console always looks like a terminal.
        terminal = os.environ.get("TERM", "dumb") if sys.stdout.isatty() else "dumb"
        settings = {"LAB_DEVICE": self.device, "PROJECT": self.project, "TERM": terminal, **self.settings}
        text = "".join(f"{name}={quote(str(value))}\n" for name, value in settings.items())
        (self.directory / "settings").write_text(text)
        (self.directory / "command.sh").write_text(command + "\n")


class Guest:
    """One guest: its process, its ends of the wires, what it wrote."""

    def __init__(self, run, name, ends):
        self.run, self.name, self.ends = run, name, ends
        self.boots = 0
        self.session = None
        self.out = run.directory / "out" / name

    def mac(self, wire):
        """The hardware address of one of its network devices."""
        return f"52:54:00:00:{wire:02x}:{'ab'.index(self.name) + 1:02x}"

    def boot(self, **streams):
        """Starts the guest's process."""
        self.boots += 1
        argv, env = self.run.machine.command(self.run.parts, self, self.ends, self.run)
        fds = [end.fileno() for end in self.ends]
        self.session = Session(argv, env=env, pass_fds=fds, cwd=self.run.directory, **streams)

    def stop(self):
        """Ends the guest's process, and what it left."""
        if self.session:
            self.session.stop(grace=1.0)

    def wish(self):
        """What this guest asked for before it cut its own power: "again", "off", or nothing: then it died."""
        marker = self.out / "power"
        try:
            text = marker.read_text()
            marker.unlink()
        except FileNotFoundError:
            return None
        return text


class Keeper(threading.Thread):
    """Keeps guest b running: boots it as often as it asks for that."""

    def __init__(self, guest, log):
        super().__init__(daemon=True)
        self.guest, self.log = guest, log
        self.ended = False  # set when the run is over
        self.died = False

    def run(self):
        with self.log.open("wb") as console:
            while not self.ended:
                try:
                    self.guest.boot(stdin=subprocess.PIPE, stdout=console, stderr=console)
                except Failure:
                    return  # everything is being stopped
                self.guest.session.process.wait()
                wish = self.guest.wish()
                if wish != "again":
                    self.died = wish is None and not self.ended
                    return


def relay(process, log, deadline, to):
    """Shows guest a's console as it comes, on the stream `to`, and keeps it in the file `log`."""
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    with log.open("wb") as console:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failure("the time limit is over; what the guests said until then is above")
            if not selector.select(left):
                continue
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                return
            console.write(piece)
            console.flush()
            to.buffer.write(piece)
            to.buffer.flush()


def run_command(run, command, deadline, interactive=False, keep=None, to=sys.stdout):
    """Boots both guests, runs a shell command in guest a, powers off; the command's exit code.

    `deadline` is a time of the monotonic clock. `interactive` joins the command to this terminal. `keep` is the
    directory that all logs go to, in place of what is there. What the command writes appears on the stream `to`.
    """
    with tempfile.TemporaryDirectory(prefix="netacc-lab-") as directory:
        run.directory = Path(directory)
        run.fill(command)
        wires = [run.machine.wire() for _ in range(WIRES)]
        a, b = (Guest(run, name, [wire[n] for wire in wires]) for n, name in enumerate("ab"))
        keeper = Keeper(b, run.directory / "out" / "b-console.log")
        try:
            keeper.start()
            log = run.directory / "out" / "a-console.log"
            if interactive:
                a.boot(stdin=None)
                a.session.process.wait()
            else:
                a.boot(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                relay(a.session.process, log, deadline, to)
            # Guest a told b to power off before it did.
            keeper.join(5)
            return status(a, keeper)
        finally:
            keeper.ended = True
            a.stop()
            while keeper.is_alive():
                # It may be about to boot guest b anew.
                b.stop()
                keeper.join(0.2)
            for wire in wires:
                for end in wire:
                    end.close()
            if keep:
                shutil.rmtree(keep, ignore_errors=True)
                shutil.copytree(run.directory / "out", keep)


def status(a, keeper):
    """The exit code that guest a left behind, if both guests lived to the end."""
    if keeper.died:
        tail = "\n  ".join(keeper.log.read_text(errors="replace").splitlines()[-40:])
        raise Failure(f"the kernel of guest b died, which said last:\n  {tail}")
    try:
        return int((a.out / "status").read_text())
    except (FileNotFoundError, ValueError):
        raise Failure("guest a ended without an exit code: its kernel died, see above") from None
