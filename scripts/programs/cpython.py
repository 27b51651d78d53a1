"""CPython's own tests of sockets and of what is built on them, each test method a case."""

import json
import subprocess
import time
from pathlib import Path

from .side import FAIL, OK, SKIP, stacks, tail

PYTHON = "/usr/bin/python3.11"
NEEDS = [PYTHON]
RUNNER = Path(__file__).with_name("cpython_tests.py")

# Modules, the longest first.
MODULES = [
    "test_socket", "test_ssl", "test_subprocess", "test_selectors", "test_socketserver", "test_httplib",
    "test_httpservers", "test_ftplib", "test_smtplib", "test_urllib2_localnet", "test_xmlrpc", "test_wsgiref",
    "test_select", "test_poll", "test_epoll", "test_asyncore", "test_asynchat", "test_poplib", "test_imaplib",
    "test_telnetlib", "test_smtpd", "test_docxmlrpc", "test_logging",
]
# Those of test_asyncio that touch sockets, pipes and child processes: the others test Python's own objects.
ASYNCIO = [
    "test_sock_lowlevel", "test_events", "test_streams", "test_server", "test_sslproto", "test_ssl",
    "test_buffered_proto", "test_sendfile", "test_unix_events", "test_selector_events", "test_base_events",
    "test_subprocess",
]
MODULES += [f"test_asyncio.{name}" for name in ASYNCIO]
SHORT = ["test_epoll", "test_urllib2_localnet", "test_asyncio.test_sock_lowlevel"]

# These watch pipes, Unix sockets or stand-ins for sockets.
NEVER_ACCELERATED = [f"cpython/{name}" for name in (
    "test_select", "test_poll", "test_selectors", "test_subprocess", "test_smtpd",
    "test_asyncio.test_selector_events", "test_asyncio.test_subprocess",
)]
# A test may take this long, then it hangs.
STILL = 90
HANGS = 3  # after so many of them a module is given up
# Python's servers listen at ports that the kernel chooses, 32768 to 60999: with this distance each has a side port.
NEAR = {"NACC_SIDE_PORT_OFFSET": "4500"}
STATUS = {"ok": OK, "expected failure": OK, "skip": SKIP}


def suites():
    """(name, short, run) of each module."""
    return [(f"cpython/{module}", module in SHORT, lambda side, module=module: run(side, module)) for module in MODULES]


def run(side, module):
    """Every test of one module; begun again behind each test that hangs or ends the process."""
    report, skip = side.work / "report", side.work / "skip"
    done, hangs = set(), 0
    while True:
        skip.write_text("".join(f"{name}\n" for name in sorted(done)))
        argv = [PYTHON, "-B", RUNNER, report, module, "--skip", skip]
        if side.only is not None:
            only = side.work / "only"
            only.write_text("".join(f"{name}\n" for name in sorted(side.only)))
            argv += ["--only", only]
        report.write_text("")
        with open(side.work / "log", "w+", errors="replace") as log:
            session = side.start(argv, env=NEAR, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
            try:
                stuck = watch(side, session, report)
                told = f"HANGS: no end after {STILL} s\n{stacks(session)}" if stuck else ""
            finally:
                side.stop(session)
            last = tail(log)
        current, complete = read(side, report, done)
        if complete:
            return
        ended = told or f"the process ended with {session.process.returncode}\n{last}"
        hangs += 1
        if current is None:
            side.note("between the tests", FAIL, why=ended)
            return
        side.note(current, FAIL, why=ended)
        done.add(current)
        if hangs == HANGS:
            side.note("all tests", FAIL, why=f"given up after {HANGS} tests that hang or end the process")
            return


def watch(side, session, report):
    """Waits for the end, for which the tests ask once they are done; whether nothing happened for too long."""
    size, since = 0, time.monotonic()
    while session.process.poll() is None:
        time.sleep(0.05)
        if report.stat().st_size != size:
            size, since = report.stat().st_size, time.monotonic()
            if '{"done"' in report.read_text()[-20:]:
                side.look()
                session.process.stdin.close()
        if time.monotonic() - since > STILL:
            return True
    return False


def read(side, report, done):
    """Notes every test that ended; the one that began and did not, and whether all is done."""
    current, complete = None, False
    for line in report.read_text().splitlines():
        entry = json.loads(line)
        if "begin" in entry:
            current = entry["begin"]
        elif "end" in entry:
            name, status = entry["end"], STATUS.get(entry["status"], FAIL)
            # Several subtests of one test can fail: the first tells.
            before = side.results.get(name)
            if before is None or before.status == OK:
                side.note(name, status, why="" if status == OK else entry["why"])
            done.add(name)
            current = None if name == current else current
        else:
            complete = True
    return current, complete
