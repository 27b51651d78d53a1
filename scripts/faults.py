#!/usr/bin/env python3
"""Faults: everything that can fail under the library fails in turn, and programs go on, or get an error that kernel TCP
could give.

    make faults ARGS='--only calls'

Each run has network, processes and /dev/shm of its own. docs/reliability.md has what was tried."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from faults import allocations, calls, environment, scene
from lab import Failure, binaries, interruptible, need, progress

GROUPS = {"calls": calls.all_of, "memory": allocations.all_of, "environment": environment.all_of}


def arguments():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--bin", default="target/release", help="where `make build` put library and tools")
    options.add_argument("--injector", default="target/debug/netacc-test-injector", help="the program that fails system calls")
    options.add_argument("--only", choices=GROUPS, action="append", help="this group of faults; several may be named")
    options.add_argument("--short", action="store_true", help="some of them: a minute")
    options.add_argument("--number", type=int, default=60, help="how many system calls fail in a short run")
    options.add_argument("--seed", type=int, default=1, help="which these are")
    options.add_argument("--fault", action="append", help="this one and no other: CALL:SITE:NTH:ERROR, an allocation's number, or a part of a row's name, as a run prints it")
    options.add_argument("--stop", type=float, default=3, metavar="S", help="for how long a process is stopped or frozen")
    options.add_argument("--kills", type=int, default=5, help="how often each part is killed")
    options.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    return options.parse_args()


def main():
    args = arguments()
    interruptible()
    need("unshare", "ip", "cc", "addr2line")
    library = binaries(args.bin) / "libnetacc-preload.so"
    injector = Path(args.injector).resolve()
    if not injector.exists():
        raise Failure(f"{injector} does not exist: run 'cargo build --workspace' first")
    bad = tries = 0
    with tempfile.TemporaryDirectory(prefix="netacc-faults-") as work:
        scene.build_echo(work)
        setting = scene.Scene(library, work)
        for group in args.only or GROUPS:
            begun = time.monotonic()
            for fault, tried, noticed, wrong in GROUPS[group](setting, injector, args, progress):
                print(f"{'WRONG' if wrong else 'ok':5} {fault}: {tried} tried, {noticed} noticed by the program", flush=True)
                for sentence in wrong:
                    print(f"      {sentence}", flush=True)
                bad += len(wrong)
                tries += tried
            progress(f"{group}: {time.monotonic() - begun:.0f} s")
    print(f"{tries} tried, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"faults: {failure}")
    except KeyboardInterrupt:
        sys.exit("faults: interrupted; everything it started is stopped")
