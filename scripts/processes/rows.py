"""The rows: each starts its servers at one side and gives a function that measures one run: a rate, in whatever unit."""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

from programs import http_client, nginx, postgres
from programs.side import CaseFailed, expect, own_user

CLIENT = Path(__file__).with_name("client.py")


def number(pattern, text):
    """The number that a program's words have."""
    found = re.search(pattern, text)
    expect(found, f"no figure in: {text[-800:]}")
    return float(found[1])


def wrk(side, url, seconds):
    """Requests in a second; one that fails is a failure."""
    said = side.run(["wrk", "-t1", "-c16", f"-d{max(1, round(seconds))}s", "--timeout", "10s", url], limit=60)
    # (A worker that ends closes connections that wait for a further request, on any network: wrk calls that "read".)
    errors = re.search(r"Socket errors: connect (\d+), read \d+, write (\d+), timeout (\d+)", said)
    expect("Non-2xx" not in said and (not errors or set(errors.groups()) == {"0"}), said)
    return number(r"Requests/sec:\s*([\d.]+)", said)


@contextlib.contextmanager
def pgbench(side, *words):
    """PostgreSQL, whose postmaster forks a process for each connection."""
    port = side.port()
    place = [*postgres.unprivileged(), postgres.BIN / "pgbench", "-h", "127.0.0.1", "-p", port, "-U", "bench"]
    with postgres.database(side, port):
        side.run([*place, "-i", "-q", "postgres"], cwd="/")

        def run(seconds):
            said = side.run([*place, "-S", "-T", max(1, round(seconds)), *words, "postgres"], cwd="/")
            expect(number(r"number of failed transactions: (\d+)", said) == 0, said)
            return number(r"tps = ([\d.]+)", said)

        yield run


@contextlib.contextmanager
def nginx_reloads(side):
    """nginx with four workers, which are replaced twice a second."""
    root, _ = http_client.bodies(side)
    port = side.port()
    user = " ".join(own_user("user"))
    main = f"{user}{';' if user else ''} worker_processes 4;"
    with nginx.started(side, port, "on", root, main):
        master = int((side.work / "nginx-on.pid").read_text())

        def run(seconds):
            with repeated(0.5, lambda: os.kill(master, signal.SIGHUP)):
                return wrk(side, f"http://127.0.0.1:{port}/small.bin", seconds)

        yield run


@contextlib.contextmanager
def gunicorn(side):
    """gunicorn, with three workers that were forked before they accept."""
    (side.work / "app.py").write_text(
        "def app(environ, start):\n"
        "    start('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '1000')])\n"
        "    return [b'x' * 1000]\n")
    port = side.port()
    words = ["gunicorn", "-b", f"127.0.0.1:{port}", "-w", "3", "--log-level", "warning", "app:app"]
    with side.server(words, port):
        yield lambda seconds: wrk(side, f"http://127.0.0.1:{port}/", seconds)


@contextlib.contextmanager
def forking(side, argv):
    """A server that forks a child for each connection, which answers with what it gets."""
    port = side.port()
    with side.server([word.replace("PORT", str(port)) for word in argv], port):
        def run(seconds):
            return float(side.run([sys.executable, "-B", CLIENT, port, seconds], limit=60))

        yield run


def fork_server(side):
    """Python's socketserver, as sshd does it: fork, the parent closes, the child goes on."""
    return forking(side, [sys.executable, "-B", str(CLIENT), "PORT", "serve"])


def inetd(side):
    """fork and exec of a program that has the connection as its standard input and output."""
    return forking(side, ["socat", "-b", "65536", "TCP-LISTEN:PORT,bind=127.0.0.1,reuseaddr,fork,backlog=64", "EXEC:cat,nofork"])


@contextlib.contextmanager
def redis(side, saves):
    """redis-server with 200,000 keys; if `saves`, a child of it writes them to disk all the time."""
    port = side.port()
    words = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", side.work]
    with side.server(words, port):
        side.run(["redis-benchmark", "-p", port, "-t", "set", "-r", "200000", "-n", "400000", "-d", "64", "-P", "16", "-q"])

        def save():
            with contextlib.suppress(CaseFailed):
                side.run(["redis-cli", "-p", port, "bgsave"], status=None)

        def run(seconds):
            count = int(seconds * (150_000 if side.name == "on" else 30_000))
            with repeated(1.0, save) if saves else contextlib.nullcontext():
                said = side.run(["redis-benchmark", "-p", port, "-c", "100", "-r", "10000", "-d", "512", "-t", "set",
                                 "-n", count, "--csv"])
            return number(r'"SET","([\d.]+)"', said)

        yield run


@contextlib.contextmanager
def repeated(pause, action):
    """Does `action` now, and again after every pause, while the block runs."""
    over = threading.Event()

    def work():
        while True:
            action()
            if over.wait(pause):
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        time.sleep(0.1)


# {name: (title, unit, server, least ratio)}
ROWS = {
    "pgbench": ("PostgreSQL, pgbench -S, 8 connections", "transactions/s", lambda side: pgbench(side, "-c", "8", "-j", "2"), 0.95),
    "pgbench-c": ("PostgreSQL, a connection a transaction", "transactions/s", lambda side: pgbench(side, "-c", "4", "-C"), 0.95),
    "nginx": ("nginx, 4 workers, reloaded all the time", "requests/s", nginx_reloads, 0.95),
    "gunicorn": ("gunicorn, 3 workers", "requests/s", gunicorn, 0.95),
    "fork": ("a child for each connection", "connections/s", fork_server, 0.95),
    "inetd": ("socat, fork and exec for each connection", "connections/s", inetd, 0.95),
    "redis": ("redis, 100 clients, SET", "requests/s", lambda side: redis(side, False), 0.95),
    "bgsave": ("redis, the same with BGSAVE every second", "requests/s", lambda side: redis(side, True), 0.95),
}
