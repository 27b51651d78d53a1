"""socat: a child for each connection, EXEC, half-close, one-way streams, TLS, relays, and peers that go away."""

import hashlib
import re
import shutil

from sources import source_tree

from .curl import certificate
from .side import FAIL, OK, SKIP, equal, expect, sample

NEEDS = ["socat", "openssl", "ss"]
# socat's own tests take a port each, in a row: apart from those that other suites use, their side ports too.
OWN_PORTS = 9800
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def suites():
    return [("socat", True, run), ("socat/test.sh", False, own_tests)]


def run(side):
    size = (2 if side.short else 20) << 20
    digest = sample(side.work / "sent", size)
    # socat writes and does not read meanwhile: more than the buffers hold would never come back, from any echo.
    sample(side.work / "some", 60_000)
    echo, twice, executed, shell, one_way, offered, limited = (side.port() for _ in range(7))

    def address(port, *options):
        return ",".join([f"TCP4-LISTEN:{port}", "bind=127.0.0.1", "reuseaddr", *options])

    with (
        side.server(["socat", address(echo, "fork"), "PIPE"], echo),
        side.server(["socat", address(twice, "fork"), f"TCP4:127.0.0.1:{echo}"], twice),
        side.server(["socat", address(executed, "fork"), "EXEC:cat"], executed),
        side.server(["socat", address(shell, "fork"), "SYSTEM:wc -c"], shell),
        side.server(["socat", "-u", address(one_way), f"CREATE:{side.work}/stored"], one_way) as storing,
        side.server(["socat", "-u", f"OPEN:{side.work}/sent", address(offered)], offered),
        side.server(["socat", address(limited, "fork", "max-children=2"), "PIPE"], limited),
    ):
        for name, port in (("fork, PIPE", echo), ("relay", twice), ("fork, EXEC", executed), ("max-children", limited)):
            side.case(f"{name}: a line", back, side, port, b"a line\n")
            side.case(f"{name}: 60,000 bytes", back, side, port, (side.work / "some").read_bytes())
            side.case(f"{name}: 8 at once", at_once, side, port)
        side.case("fork, SYSTEM: a count after a half-close", lambda: talk(side, shell, b"12345").decode().strip())
        side.case("one way into a file", store, side, one_way, storing, digest)
        side.case("the other way out of a file", fetch, side, offered, digest)
        side.case("closed without reading", unread, side, echo)
    tls(side)


def talk(side, port, data, address=None):
    """What comes back for some bytes and an end of stream."""
    path = side.work / f"say-{hashlib.sha256(data).hexdigest()[:8]}"
    path.write_bytes(data)
    with open(path, "rb") as file:
        return side.run(["socat", "-t", "5", "-", address or f"TCP4:127.0.0.1:{port}"], stdin=file, text=False)


def back(side, port, data):
    equal("what came back", talk(side, port, data), data)


def at_once(side, port):
    commands = [["sh", "-c", f"echo number {n} | socat -t 5 - TCP4:127.0.0.1:{port}"] for n in range(8)]
    return [said.strip() for said in side.together(commands)]


def store(side, port, storing, digest):
    side.run(["socat", "-u", f"OPEN:{side.work}/sent", f"TCP4:127.0.0.1:{port}"])
    status = storing.process.wait(30)
    equal("checksum of what was stored", hashlib.sha256((side.work / "stored").read_bytes()).hexdigest(), digest)
    return status


def fetch(side, port, digest):
    got = side.run(["socat", "-u", f"TCP4:127.0.0.1:{port}", "-"], text=False)
    equal("checksum of what was offered", hashlib.sha256(got).hexdigest(), digest)


def unread(side, port):
    """A client that takes a little of the answer and goes away."""
    pipeline = f"socat - TCP4:127.0.0.1:{port} < {side.work}/sent | head -c 1000 | wc -c"
    return side.run(["sh", "-c", pipeline], status=None).strip()


def tls(side):
    port, pem = side.port(), certificate(side)
    listen = f"OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,cert={pem},verify=0"
    call = f"OPENSSL:127.0.0.1:{port},cafile={pem},commonname=127.0.0.1"
    with side.server(["socat", listen, "PIPE"], port):
        side.case("TLS: a line", lambda: equal("what came back", talk(side, port, b"secret\n", call), b"secret\n"))


def own_tests(side):
    """test.sh of socat's source package: what it has on TCP over IPv4 and IPv6."""
    where = side.work / "socat"
    shutil.copytree(source_tree("socat", "socat", "test.sh"), where)
    for program in ("socat", "filan", "procan"):
        (where / program).symlink_to(shutil.which(program))
    # It looks by ping whether this host has a loopback.
    for name in ("ping", "ping6"):
        (where / name).symlink_to(shutil.which("true"))
    script = where / "test.sh"
    script.write_text(script.read_text().replace("\nPORT=12002\n", f"\nPORT={OWN_PORTS}\n"))
    words = ["bash", "./test.sh", "-t", "0.1", "tcp4", "tcp6"]
    told = ESCAPES.sub("", side.run(words, limit=300, status=None, cwd=where, env={"TMPDIR": str(side.work)}))
    note_own(side, told)


def note_own(side, told):
    """What became of each test: failures and those that cannot run here are listed by number at the end."""
    listed = {}
    for status, word in ((SKIP, "CANT"), (FAIL, "FAILED")):
        line = re.search(rf"^{word}: (.*)$", told, re.M)
        listed |= {number: status for number in (line[1].split() if line else ())}
    expect("\nSummary: " in told, f"the tests did not come to their end:\n{told[-2000:]}")
    for one in re.split(r"^(?=test +\d+ \w+:)", told, flags=re.M)[1:]:
        number, name = re.match(r"test +(\d+) (\w+):", one).groups()
        if side.only is None or name in side.only:
            status = listed.get(number, OK)
            side.note(name, status, why=one if status == FAIL else "")
