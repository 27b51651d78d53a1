#!/usr/bin/env python3
"""The RDMA lab: boots two guests that are joined by wires and have a soft RDMA device each, and runs the
tests of tests/lab in one of them. docs/rdma-lab.md says more.

    make rdma-lab ARGS='--device siw --tests redis'
    make rdma-lab ARGS="--shell 'rping -s & peer rping -c -a 10.5.0.1 -C 5'"
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lab import Failure, binaries, interruptible, progress
from rdmalab import guests

PROJECT = Path(__file__).resolve().parent.parent
DEVICES = ("rxe", "siw")


def arguments():
    parser = argparse.ArgumentParser(description="Tests between two guests with soft RDMA devices.")
    parser.add_argument("--bin", required=True, metavar="DIR", help="where `make build` put library and tools")
    parser.add_argument("--lab", choices=guests.MACHINES, default="uml", help="the kind of guests (default: uml)")
    parser.add_argument("--device", choices=(*DEVICES, "both"), default="both", help="the kind of RDMA device")
    parser.add_argument("--failures", action="store_true", help="the long tests of failures as well: ten minutes a device")
    parser.add_argument("--megabytes", type=int, default=1000, metavar="N",
                        help="what each test of tests/lab/gigabyte.rs carries in each direction (default: 1000)")
    parser.add_argument("--tests", metavar="FILTER", help="only the tests with this in their names")
    parser.add_argument("--time-limit", type=float, default=1800, metavar="S", help="for all runs together")
    parser.add_argument("--shell", nargs="?", const="bash", metavar="COMMAND",
                        help="run this in guest a instead of the tests; without COMMAND an interactive shell")
    parser.add_argument("--keep-logs", type=Path, metavar="DIR", help="where consoles and outputs go "
                        "(default: rdma-lab beside the --bin directory)")
    parser.add_argument("--mtu", type=int, default=1500, help="of the wires, e.g. 9000")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="of each guest")
    return parser.parse_args()


def build_tests(failures):
    """Builds what runs in the guests, with the long tests of failures or without; the test program's path."""
    def cargo(*words, **popen):
        done = subprocess.run(["cargo", *words], cwd=PROJECT, check=False, **popen)
        if done.returncode:
            raise Failure(f"cargo {' '.join(words)} failed: see above")
        return done.stdout

    cargo("build", "-p", "netacc-test-peer", "-p", "netacc-differential")
    messages = cargo(
        "test", "--no-run", "-p", "netacc", "--features", "lab_failures" if failures else "lab", "--test", "lab",
        "--message-format", "json-render-diagnostics", stdout=subprocess.PIPE, text=True,
    )
    for line in messages.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "lab":
            return message["executable"]
    raise Failure("cargo built no test program 'lab': is it still in Cargo.toml?")


def run_one(args, run, command, deadline):
    """Runs the command with one kind of device; its exit code."""
    logs = args.keep_logs or Path(args.bin).resolve().parent / "rdma-lab"
    logs = logs / f"{args.lab}-{run.device}"
    title = f"{args.lab}, {run.device}"
    progress(f"{title}: booting two guests")
    start = time.monotonic()
    interactive = args.shell == "bash"
    code = guests.run_command(run, command, deadline, interactive=interactive, keep=logs)
    result = "done" if code == 0 else f"exit code {code}, logs in {logs}"
    progress(f"{title}: {result} after {time.monotonic() - start:.1f} s")
    return code


def main():
    args = arguments()
    library = binaries(args.bin) / "libnetacc-preload.so"
    machine = guests.MACHINES[args.lab]
    parts = machine.prepare()
    if args.shell:
        command, devices = args.shell, (DEVICES[0],)
    else:
        words = ["run-tests", build_tests(args.failures), "--test-threads=1", *([args.tests] if args.tests else [])]
        command, devices = " ".join(map(guests.quote, words)), DEVICES
    if args.device != "both":
        devices = (args.device,)
    deadline = time.monotonic() + args.time_limit
    settings = {"NACC_TEST_LIB": library, "LAB_MEGABYTES": args.megabytes, "NACC_SHORT_CONN_LIMIT": 0}
    codes = []
    for device in devices:
        run = guests.Run(machine, parts, device, PROJECT, args.memory, args.mtu, settings)
        codes.append(run_one(args, run, command, deadline))
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    interruptible()
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"rdma_lab: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
