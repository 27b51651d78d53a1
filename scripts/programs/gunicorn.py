"""gunicorn: processes that were forked before they accept, also where the listener comes from somebody else."""

import os
import signal

from . import http_client as http
from .inetd import activated
from .nginx import pid_of, until
from .side import equal, sample

NEEDS = ["gunicorn", "wrk", "curl", "systemd-socket-activate"]

APP = """\
import hashlib

def app(environ, start):
    length = int(environ.get('CONTENT_LENGTH') or 0)
    body = environ['wsgi.input'].read(length) if length else b''
    answer = hashlib.sha256(body).hexdigest().encode() if length else b'x' * 1000
    start('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(answer)))])
    return [answer]
"""


def suites():
    return [("gunicorn", True, run)]


def words(side, *more):
    """What starts it, with an application that tells the checksum of what it gets."""
    (side.work / "app.py").write_text(APP)
    return ["gunicorn", "-w", "3", "--log-level", "warning", "--pid", side.work / "gunicorn.pid", *more, "app:app"]


def run(side):
    digest = sample(side.work / "sent", 3_000_000)
    for kind, more in (("sync", ()), ("gthread", ("-k", "gthread", "--threads", "4"))):
        port = side.port()
        with side.server(words(side, "-b", f"127.0.0.1:{port}", *more), port):
            cases(side, kind, port)
            side.case(f"{kind}: reload", reload, side, port)
            side.case(f"{kind}: upload", upload, side, port, digest)
    port = side.port()
    with side.server(activated(port, *words(side)), port):
        # It is started by the first.
        side.case("activated: the first", upload, side, port, digest)
        cases(side, "activated", port)


def cases(side, kind, port):
    url = f"http://127.0.0.1:{port}/"
    body = b"x" * http.SMALL
    seen = (len(body), http.hashlib.sha256(body).hexdigest())
    side.case(f"{kind}: 20 requests", requests, side, url, seen)
    side.case(f"{kind}: parallel", http.parallel, side, url, seen)
    side.case(f"{kind}: wrk", lambda: http.wrk(side, url, "-H", "Connection: close", connections=8))


def requests(side, url, body):
    # How many connections that takes is the workers' affair.
    http.get(side, url, body, times=20)


def upload(side, port, digest):
    said = http.curl(side, "--data-binary", f"@{side.work}/sent", f"http://127.0.0.1:{port}/")
    equal("checksum of what the server got", said, digest)


def children(pid):
    """The processes that a process has started and that live."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return set(file.read().split())


def reload(side, port):
    """All its processes are replaced."""
    master = pid_of(side.work / "gunicorn.pid")
    before = children(master)
    os.kill(master, signal.SIGHUP)
    until(lambda: len(children(master)) == 3 and not before & children(master), "the server has other processes")
    http.status(side, f"http://127.0.0.1:{port}/", "200")
