"""Runs test modules of CPython's own suite and writes one JSON line for each thing that happens to a test.

    python3.11 cpython_tests.py REPORT MODULE [--skip FILE] [--only FILE]

REPORT gets {"begin": test}, {"end": test, "status": ..., "why": ...}. FILE holds test names, one a line. A test
that hangs is the one that began and did not end: whoever started this sees it, ends it, and goes on behind it."""

import argparse
import gc
import json
import re
import sys
import traceback
import unittest

from test import support
from test.support import os_helper

# VSOCK is no TCP, and its streams hang where the machine has no such device.
LEFT_OUT = re.compile(r"VSOCK")


class Report(unittest.TestResult):
    """Each test's result as a line of the report, flushed at once."""

    def __init__(self, path):
        super().__init__()
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115, open until the process ends

    def write(self, **what):
        self.file.write(json.dumps(what) + "\n")
        self.file.flush()

    def finish(self, test, status, why=""):
        self.write(end=test.id(), status=status, why=why[-4000:])

    @staticmethod
    def told(error):
        return "".join(traceback.format_exception(*error))

    def startTest(self, test):
        super().startTest(test)
        self.failed = False
        self.write(begin=test.id())

    def addSuccess(self, test):
        if not self.failed:
            self.finish(test, "ok")

    def addError(self, test, err):
        # A set-up of a class or module that fails is an error of something that never began.
        self.failed = True
        self.finish(test, "error", self.told(err))

    def addFailure(self, test, err):
        self.failed = True
        self.finish(test, "fail", self.told(err))

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.failed = True
            self.finish(test, "fail", f"{subtest.id()}\n{self.told(err)}")

    def addSkip(self, test, reason):
        self.finish(test, "skip", reason)

    def addExpectedFailure(self, test, err):
        self.finish(test, "expected failure")

    def addUnexpectedSuccess(self, test):
        self.finish(test, "unexpected success")


def flat(suite):
    """Every test of nested suites."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def names(path):
    with open(path, encoding="utf-8") as lines:
        return {line.rstrip("\n") for line in lines}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("report")
    options.add_argument("module")
    options.add_argument("--skip")
    options.add_argument("--only")
    args = options.parse_args()
    skip = names(args.skip) if args.skip else set()
    only = names(args.only) if args.only else None
    # No resource is enabled: nothing leaves this machine, nothing takes minutes by design.
    # (test_socketserver asks for the network as a whole, but uses this host's loopback alone.)
    support.use_resources = ["network"] if args.module == "test_socketserver" else []
    sys.argv = sys.argv[:1]
    report = Report(args.report)
    with os_helper.temp_cwd(quiet=True):
        loaded = unittest.defaultTestLoader.loadTestsFromName(f"test.{args.module}")
        chosen = [
            t for t in flat(loaded)
            if t.id() not in skip and not LEFT_OUT.search(t.id()) and (only is None or t.id() in only)
        ]
        # Tests of one class stay together, as the loader has them: its set-up runs once.
        unittest.TestSuite(chosen).run(report)
        gc.collect()
    report.write(done=True)
    # Whoever started this reads our counters before we end, and closes the pipe then.
    sys.stdin.read()


if __name__ == "__main__":
    main()
