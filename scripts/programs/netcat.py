"""netcat (OpenBSD's): bytes both ways, half-close, -k, -z, time-outs."""

import subprocess
import time

from .side import checksum, equal, expect, listening, sample

NEEDS = ["nc"]


def suites():
    return [("netcat", True, run)]


def run(side):
    size = (2 if side.short else 20) << 20
    digest = sample(side.work / "sent", size)
    side.case("one way, closed by -N", one_way, side, digest)
    side.case("the other way", other_way, side, digest)
    side.case("both ways", both_ways, side, digest)
    side.case("-k serves one after the other", keep, side)
    side.case("-z tells who listens", look, side)
    side.case("-w ends an idle connection", idle, side)
    side.case("-l with IPv6", ipv6, side, digest)


def listen(side, words, host="127.0.0.1", stdin=subprocess.DEVNULL, out="received"):
    """A listening netcat that writes to a file, and its port."""
    port = side.port()
    file = open(side.work / out, "wb")
    session = side.start(["nc", "-l", *words, host, port], stdin=stdin, stdout=file)
    file.close()
    deadline = time.monotonic() + 20
    while port not in listening():
        expect(time.monotonic() < deadline and session.process.poll() is None, "nc -l does not listen")
        time.sleep(0.01)
    return session, port


def ended(side, session):
    """The status of the listening end, which ends by itself."""
    try:
        return session.process.wait(30)
    except subprocess.TimeoutExpired:
        expect(False, "HANGS: nc -l has not ended after 30 s")
    finally:
        side.stop(session)


def send(side, path, port, *words, host="127.0.0.1", **more):
    with open(path, "rb") as file:
        return side.run(["nc", *words, host, port], stdin=file, text=False, **more)


def one_way(side, digest):
    server, port = listen(side, [])
    send(side, side.work / "sent", port, "-N")
    status = ended(side, server)
    equal("checksum", checksum(side.work / "received"), digest)
    return status


def other_way(side, digest):
    with open(side.work / "sent", "rb") as file:
        server, port = listen(side, ["-N"], stdin=file)
    got = side.run(["nc", "-d", "127.0.0.1", port], text=False)
    (side.work / "got").write_bytes(got)
    equal("checksum", checksum(side.work / "got"), digest)
    return ended(side, server)


def both_ways(side, digest):
    with open(side.work / "sent", "rb") as file:
        server, port = listen(side, ["-N"], stdin=file)
    (side.work / "got").write_bytes(send(side, side.work / "sent", port, "-N"))
    status = ended(side, server)
    equal("checksum, there", checksum(side.work / "received"), digest)
    equal("checksum, back", checksum(side.work / "got"), digest)
    return status


def keep(side):
    server, port = listen(side, ["-k"])
    path = side.work / "line"
    wanted = b""
    for number in range(10):
        path.write_bytes(b"line %d\n" % number)
        wanted += path.read_bytes()
        send(side, path, port, "-N")
    deadline = time.monotonic() + 20
    while (side.work / "received").read_bytes() != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    side.stop(server)
    equal("lines", (side.work / "received").read_bytes(), wanted)


def look(side):
    server, port = listen(side, ["-k"])
    side.run(["nc", "-z", "127.0.0.1", port])
    side.stop(server)
    side.run(["nc", "-z", "127.0.0.1", port], status=1)


def idle(side):
    server, port = listen(side, ["-k"])
    said = side.run(["nc", "-d", "-w", "1", "127.0.0.1", port], status=None, limit=20)
    side.stop(server)
    return said


def ipv6(side, digest):
    server, port = listen(side, ["-6"], host="::1")
    send(side, side.work / "sent", port, "-N", host="::1")
    status = ended(side, server)
    equal("checksum", checksum(side.work / "received"), digest)
    return status
