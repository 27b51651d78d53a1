"""The rows: each starts its servers at one side and gives a function that measures one run: a rate, in whatever unit."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from lab import benchmark_figures
from programs import apache, http_client, nginx, postgres, sshd
from programs.gunicorn import words as gunicorn_words
from programs.side import CaseFailed, equal, expect, own_user, tail

CLIENT = Path(__file__).with_name("client.py")
CROWD = Path(__file__).with_name("crowd.py")
CLIENTS = 10_000


class Rate(float):
    """A rate, and the time that 99 of 100 answers took at most, in milliseconds."""

    p99 = None


def number(pattern, text):
    """The number that a program's words have."""
    found = re.search(pattern, text)
    expect(found, f"no figure in: {text[-800:]}")
    return float(found[1])


def wrk(side, url, seconds, *words):
    """Requests in a second; one that fails is a failure."""
    said = side.run(["wrk", "-t1", "-c16", f"-d{max(1, round(seconds))}s", "--timeout", "10s", *words, url], limit=60)
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
    port = side.port()
    with side.server(gunicorn_words(side, "-b", f"127.0.0.1:{port}"), port):
        yield lambda seconds: wrk(side, f"http://127.0.0.1:{port}/", seconds)


@contextlib.contextmanager
def apache_prefork(side, *words):
    """Apache, a process for each connection."""
    root, _ = http_client.bodies(side)
    port = side.port()
    with apache.server(side, port, root):
        yield lambda seconds: wrk(side, f"http://127.0.0.1:{port}/small.bin", seconds, *words)


@contextlib.contextmanager
def forking(side, argv):
    """A server that forks a child for each connection, which answers with what it gets."""
    port = side.port()
    with side.server([word.replace("PORT", str(port)) for word in argv], port) as server:
        def run(seconds):
            # It ends with a failure if one connection does not give back what it was sent.
            rate = float(side.run([sys.executable, "-B", CLIENT, port, seconds], limit=60))
            complaints = tail(server.log)
            expect(not complaints, f"the server complains: {complaints}")
            return rate

        yield run


def fork_server(side):
    """Python's socketserver, as sshd does it: fork, the parent closes, the child goes on."""
    return forking(side, [sys.executable, "-B", str(CLIENT), "PORT", "serve"])


def inetd(side):
    """fork and exec of a program that has the connection as its standard input and output."""
    return forking(side, ["socat", "-b", "65536", "TCP-LISTEN:PORT,bind=127.0.0.1,reuseaddr,fork,backlog=64", "EXEC:cat,nofork"])


# One command after the other until a time, in milliseconds; says how many.
COMMANDS = """until=$1 n=0; shift
while [ "$(date +%s%3N)" -lt "$until" ]; do [ "$(ssh "$@" echo $n)" = $n ] || exit 1; n=$((n + 1)); done
echo $n"""


@contextlib.contextmanager
def sshd_commands(side):
    """OpenSSH's server, which forks and starts itself anew for each connection: eight clients, a command each time."""
    with sshd.started(side) as (words, host):
        def run(seconds):
            begun = time.monotonic()
            client = ["sh", "-c", COMMANDS, "sh", str(round((time.time() + seconds) * 1000)), *words, host]
            done = sum(int(said) for said in side.together([client] * 8))
            return done / (time.monotonic() - begun)

        yield run


@contextlib.contextmanager
def crowd(side, port):
    """Ten thousand connections that stay: gives a function that checks all of them."""
    argv = [*MANY_FILES, sys.executable, "-B", CROWD, port, CLIENTS]
    session = side.start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process = session.process

    def check():
        process.stdin.write("\n")
        process.stdin.flush()
        equal("connections that answer with their own values", process.stdout.readline().strip(), str(CLIENTS))

    try:
        equal("what the crowd says", process.stdout.readline().strip(), "connected")
        yield check
    finally:
        side.stop(session)
        process.stdin.close()
        process.stdout.close()


# Descriptors of both ends and of the library.
MANY_FILES = ["prlimit", f"--nofile={2 * CLIENTS}"]


@contextlib.contextmanager
def redis(side, saves, crowded=False):
    """redis-server with 200,000 keys; if `saves`, a child of it writes them to disk all the time; if `crowded`, with ten
    thousand clients besides those that are measured."""
    port = side.port()
    words = [*MANY_FILES, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", side.work]
    words += ["--maxclients", CLIENTS + 500]
    with side.server(words, port), crowd(side, port) if crowded else contextlib.nullcontext() as check:
        side.run(["redis-benchmark", "-p", port, "-t", "set", "-r", "200000", "-n", "400000", "-d", "64", "-P", "16", "-q"])

        def save():
            with contextlib.suppress(CaseFailed):
                side.run(["redis-cli", "-p", port, "bgsave"], status=None)

        def run(seconds):
            count = int(seconds * (150_000 if side.name == "on" else 30_000))
            with repeated(1.0, save) if saves else contextlib.nullcontext():
                said = side.run(["redis-benchmark", "-p", port, "-c", "100", "-r", "10000", "-d", "512", "-t", "set",
                                 "-n", count, "--csv"])
            figures = benchmark_figures(said)["SET"]
            rate = Rate(figures["rps"])
            rate.p99 = figures["p99_latency_ms"]
            if check:
                check()
            if saves:
                status = side.run(["redis-cli", "-p", port, "info", "persistence"])
                equal("the last BGSAVE", re.search(r"rdb_last_bgsave_status:(\w+)", status)[1], "ok")
            return rate

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


# {name: (title, unit, server, least ratio; None: shown without a verdict)}
ROWS = {
    "pgbench": ("PostgreSQL, pgbench -S, 8 connections", "transactions/s", lambda side: pgbench(side, "-c", "8", "-j", "2"), 0.95),
    "pgbench-c": ("PostgreSQL, a connection a transaction", "transactions/s", lambda side: pgbench(side, "-c", "4", "-C"), 0.95),
    "nginx": ("nginx, 4 workers, reloaded all the time", "requests/s", nginx_reloads, 0.95),
    "gunicorn": ("gunicorn, 3 workers, a connection a request", "requests/s", gunicorn, 0.95),
    "apache": ("Apache, prefork, keep-alive", "requests/s", apache_prefork, 0.95),
    "apache-close": ("Apache, prefork, a connection a request", "requests/s",
                     lambda side: apache_prefork(side, "-H", "Connection: close"), None),
    "sshd": ("OpenSSH, a connection for each command", "commands/s", sshd_commands, 0.95),
    "fork": ("a child for each connection", "connections/s", fork_server, 0.95),
    "inetd": ("socat, fork and exec for each connection", "connections/s", inetd, 0.95),
    "redis": ("redis, 100 clients, SET", "requests/s", lambda side: redis(side, False), 0.95),
    "bgsave": ("redis, the same with BGSAVE every second", "requests/s", lambda side: redis(side, True), 0.95),
    "crowd": ("redis, and 10,000 clients besides", "requests/s", lambda side: redis(side, False, True), 0.95),
    "crowd-bgsave": ("redis, the same with BGSAVE every second", "requests/s", lambda side: redis(side, True, True), 0.95),
}
