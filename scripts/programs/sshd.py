"""OpenSSH: its server forks for each connection, starts itself anew and shuts its child in a sandbox (seccomp); commands, bytes
both ways, sftp, several sessions on a connection, and a port that is forwarded."""

import contextlib
import getpass
import hashlib
import os
import shutil
import sys
from pathlib import Path

from .nginx import until
from .side import equal, sample

SERVER = "/usr/sbin/sshd"
NEEDS = [SERVER, "ssh", "sftp", "ssh-keygen"]
CLIENT = Path(__file__).parent.parent / "processes" / "client.py"
# Where the server's child is locked up, which Debian's service would make.
EMPTY = Path("/run/sshd")


def suites():
    return [("sshd", True, run)]


@contextlib.contextmanager
def started(side):
    """A server with keys of its own, and the words with which a client of it begins."""
    port, keys = side.port(), side.work / "ssh"
    keys.mkdir(0o700)
    for name in ("host", "user"):
        side.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name])
    shutil.copy(keys / "user.pub", keys / "authorized")
    if os.geteuid() == 0:
        EMPTY.mkdir(0o755, exist_ok=True)
    (keys / "config").write_text(f"""\
Port {port}
ListenAddress 127.0.0.1
HostKey {keys}/host
AuthorizedKeysFile {keys}/authorized
StrictModes no
UsePAM no
PidFile none
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 20
Subsystem sftp internal-sftp
""")
    options = {"IdentityFile": keys / "user", "IdentitiesOnly": "yes", "StrictHostKeyChecking": "no",
               "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR", "BatchMode": "yes", "Port": port}
    words = ["-F", "none", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    with side.server([SERVER, "-D", "-e", "-f", keys / "config"], port):
        yield words, f"{getpass.getuser()}@127.0.0.1"


def run(side):
    size = (4 if side.short else 60) << 20
    digest = sample(side.work / "sent", size)
    with started(side) as (words, host):
        ssh = ["ssh", *words]

        def command(*more):
            return side.run([*ssh, host, *more]).strip()

        side.case("a command", command, "echo", "it", "works")
        side.case("its exit status", lambda: side.run([*ssh, host, "exit 7"], status=7))
        side.case("8 at once", side.together, [[*ssh, host, f"echo {number}"] for number in range(8)])
        side.case("one after the other", lambda: [command(f"echo {number}") for number in range(3 if side.short else 20)])
        side.case("bytes there", upload, side, [*ssh, host], digest)
        side.case("bytes back", download, side, [*ssh, host], digest)
        side.case("keys anew every 2 MB", upload, side, [*ssh, "-o", "RekeyLimit=2M", host], digest)
        side.case("sftp", sftp, side, words, host, digest)
        side.case("several sessions on a connection", shared, side, ssh, host)
        side.case("a forwarded port", forwarded, side, ssh, host)


def upload(side, ssh, digest):
    with open(side.work / "sent", "rb") as file:
        equal("what came there", side.run([*ssh, "sha256sum"], stdin=file).split()[0], digest)


def download(side, ssh, digest):
    got = side.run([*ssh, f"cat {side.work}/sent"], text=False)
    equal("what came back", hashlib.sha256(got).hexdigest(), digest)


def sftp(side, words, host, digest):
    batch = side.work / "batch"
    batch.write_text(f"put {side.work}/sent {side.work}/put\nget {side.work}/put {side.work}/got\n")
    side.run(["sftp", "-q", *words, "-b", batch, host])
    equal("what came back", hashlib.sha256((side.work / "got").read_bytes()).hexdigest(), digest)


def shared(side, ssh, host):
    """A master that stays in the background, by whose connection others go."""
    control = side.work / "control"
    session = side.start([*ssh, "-S", control, "-M", "-N", host])
    try:
        until(control.exists, "the master is connected")
        return side.together([[*ssh, "-S", control, host, f"echo {number}"] for number in range(6)])
    finally:
        side.stop(session)


def forwarded(side, ssh, host):
    """Both ends of the forwarded connection and of the tunnel are accelerated."""
    here, there = side.port(), side.port()
    with (
        side.server([sys.executable, "-B", CLIENT, there, "serve"], there),
        side.server([*ssh, "-N", "-L", f"127.0.0.1:{here}:127.0.0.1:{there}", host], here),
    ):
        said = side.run([sys.executable, "-B", CLIENT, here, 0.3 if side.short else 2])
        return float(said) > 0
