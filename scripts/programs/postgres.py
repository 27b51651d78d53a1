"""PostgreSQL, whose server forks a process for each connection: pgbench, psql, COPY of much data."""

import contextlib
import os
import re
import shutil
from pathlib import Path

from .side import CaseFailed, expect

VERSIONS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
BIN = VERSIONS[-1] if VERSIONS else Path("/usr/lib/postgresql/15/bin")
NEEDS = [BIN / "postgres", BIN / "initdb", BIN / "pgbench", "psql", "setpriv"]


def suites():
    return [("postgres", True, run)]


def unprivileged():
    """The server refuses to be root's: then all of it runs as its own user, clients too."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


@contextlib.contextmanager
def database(side, port):
    home = side.work / "postgres"
    home.mkdir()
    if unprivileged():
        shutil.chown(home, "postgres", "postgres")
        side.work.chmod(0o755)
    data = home / "data"
    words = ["-D", data, "-A", "trust", "-U", "bench", "--no-sync", "-E", "UTF8"]
    side.run([*unprivileged(), BIN / "initdb", *words], cwd=home)
    settings = {
        "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": home, "fsync": "off",
        "shared_buffers": "32MB", "max_connections": 40, "logging_collector": "off",
    }
    argv = [*unprivileged(), BIN / "postgres", "-D", data]
    for name, value in settings.items():
        argv += ["-c", f"{name}={value}"]
    with side.server(argv, port, cwd=home) as server:
        yield server


def run(side):
    port = side.port()
    place = ["-h", "127.0.0.1", "-p", port, "-U", "bench"]

    def client(program, *words, **more):
        return side.run([*unprivileged(), program, *place, *words, "postgres"], cwd="/", **more)

    def psql(*words, **more):
        return client("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *words, **more)

    def bench(*words):
        said = client(BIN / "pgbench", *words, "-T", 1 if side.short else 4)
        failed = re.search(r"number of failed transactions: (\d+)", said)
        done = re.search(r"number of transactions actually processed: (\d+)", said)
        if not done or int(done[1]) == 0 or not failed or int(failed[1]):
            raise CaseFailed(said)

    def consistent():
        """Every transaction of pgbench adds one amount to three tables."""
        tables = {"abalance": "accounts", "tbalance": "tellers", "bbalance": "branches"}
        each = ", ".join(f"(select sum({column}) from pgbench_{table})" for column, table in tables.items())
        sums = psql("-c", f"select {each}")
        expect(len(set(sums.strip().split("|"))) == 1, f"balances differ: {sums}")

    def copy():
        """A few megabytes through COPY, in and out."""
        rows = 20_000 if side.short else 100_000
        psql("-c", f"create table big as select n, repeat(md5(n::text), 4) as text from generate_series(1, {rows}) n")
        out = psql("-c", "copy big to stdout")
        path = side.work / "copy"
        path.write_text(out)
        with open(path) as lines:
            psql("-c", "create table again (n int, text text)", "-c", "copy again from stdin", stdin=lines)
        return psql("-c", "select count(*), md5(string_agg(text, '' order by n)) from again")

    def reconnects():
        """Many short connections, one after the other."""
        return [psql("-c", f"select {n} * 7").strip() for n in range(10 if side.short else 30)]

    def cancelled():
        """psql is stopped by the server's limit, and the session goes on."""
        words = ["set statement_timeout = 200", "select pg_sleep(20)", "select 1"]
        return psql("-v", "ON_ERROR_STOP=0", *(part for word in words for part in ("-c", word)), status=None)

    with database(side, port):
        side.case("psql", lambda: psql("-c", "select sum(n) from generate_series(1, 1000) n"))
        side.case("one connection after the other", reconnects)
        side.case("pgbench -i", lambda: client(BIN / "pgbench", "-i", "-q") and None)
        side.case("pgbench, 8 clients", bench, "-c", "8", "-j", "2")
        side.case("pgbench, prepared", bench, "-c", "4", "-j", "2", "-M", "prepared")
        side.case("pgbench, a connection for each transaction", bench, "-c", "4", "-C", "-S")
        side.case("balances", consistent)
        side.case("COPY out and in", copy)
        side.case("statement timeout", cancelled)
