"""socat: a child for each connection, EXEC, half-close, one-way streams, TLS, relays, and peers that go away."""

import hashlib

from .curl import certificate
from .side import equal, sample

NEEDS = ["socat", "openssl"]


def suites():
    return [("socat", True, run)]


def run(side):
    size = (2 if side.short else 20) << 20
    digest = sample(side.work / "sent", size)
    echo, twice, executed, shell, one_way, limited = (side.port() for _ in range(6))

    def address(port, *options):
        return ",".join([f"TCP4-LISTEN:{port}", "bind=127.0.0.1", "reuseaddr", *options])

    with (
        side.server(["socat", address(echo, "fork"), "PIPE"], echo),
        side.server(["socat", address(twice, "fork"), f"TCP4:127.0.0.1:{echo}"], twice),
        side.server(["socat", address(executed, "fork"), "EXEC:cat"], executed),
        side.server(["socat", address(shell, "fork"), "SYSTEM:wc -c"], shell),
        side.server(["socat", "-u", address(one_way), f"CREATE:{side.work}/stored"], one_way) as storing,
        side.server(["socat", address(limited, "fork", "max-children=2"), "PIPE"], limited),
    ):
        for name, port in (("fork, PIPE", echo), ("relay", twice), ("fork, EXEC", executed), ("max-children", limited)):
            side.case(f"{name}: a line", back, side, port, b"a line\n")
            side.case(f"{name}: much", much, side, port, digest)
            side.case(f"{name}: 8 at once", at_once, side, port)
        side.case("fork, SYSTEM: a count after a half-close", lambda: talk(side, shell, b"12345").decode().strip())
        side.case("one way into a file", store, side, one_way, storing, digest)
        side.case("closed without reading", unread, side, echo)
    tls(side)


def talk(side, port, data, address=None):
    """What comes back for some bytes and an end of stream."""
    path = side.work / f"say-{hashlib.sha256(data).hexdigest()[:8]}"
    path.write_bytes(data)
    with open(path, "rb") as file:
        return side.run(["socat", "-t", "20", "-", address or f"TCP4:127.0.0.1:{port}"], stdin=file, text=False, limit=40)


def back(side, port, data):
    equal("what came back", talk(side, port, data), data)


def much(side, port, digest):
    with open(side.work / "sent", "rb") as file:
        got = side.run(["socat", "-t", "20", "-", f"TCP4:127.0.0.1:{port}"], stdin=file, text=False, limit=40)
    equal("checksum of what came back", hashlib.sha256(got).hexdigest(), digest)


def at_once(side, port):
    commands = [["sh", "-c", f"echo number {n} | socat -t 20 - TCP4:127.0.0.1:{port}"] for n in range(8)]
    return [said.strip() for said in side.together(commands)]


def store(side, port, storing, digest):
    side.run(["socat", "-u", f"OPEN:{side.work}/sent", f"TCP4:127.0.0.1:{port}"])
    status = storing.process.wait(30)
    equal("checksum of what was stored", hashlib.sha256((side.work / "stored").read_bytes()).hexdigest(), digest)
    return status


def unread(side, port):
    """A client that takes a little of the answer and goes away."""
    shown = side.run(["sh", "-c", f"socat - TCP4:127.0.0.1:{port} < {side.work}/sent | head -c 1000 | wc -c"], status=None)
    return shown.strip()


def tls(side):
    port, pem = side.port(), certificate(side)
    listen = f"OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,cert={pem},verify=0"
    call = f"OPENSSL:127.0.0.1:{port},cafile={pem},commonname=127.0.0.1"
    with side.server(["socat", listen, "PIPE"], port):
        side.case("TLS: a line", lambda: equal("what came back", talk(side, port, b"secret\n", call), b"secret\n"))
