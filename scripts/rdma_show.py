#!/usr/bin/env python3
"""redis, ping-pong and streams between two guests with soft RDMA devices: kernel TCP, librspreload, SMC-R and NetACC
side by side, and what carried NetACC's. docs/performance.md says how the figures are made.

    make rdma-show ARGS='--device rxe --quick'"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import Failure, binaries, interruptible, progress
from rdmalab import guests
from rdmalab.compare import report

SCRIPTS = Path(__file__).resolve().parent
DEVICES = ("rxe", "siw")
ROOMS = ("redis", "speed", "evidence", "crowd")


def arguments():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--bin", default="target/release", help="where `make build` put library and tools")
    options.add_argument("--device", choices=(*DEVICES, "both"), default="both", help="the kind of RDMA device")
    options.add_argument("--lab", choices=guests.MACHINES, default="uml", help="the kind of guests; qemu's have two CPUs each")
    options.add_argument("--quick", action="store_true", help="one short run of everything: a look, not figures")
    options.add_argument("--rounds", type=int, help="alternating runs of each row (default: 3, with --quick 1)")
    options.add_argument("--seconds", type=float, help="length that each run aims at (default: 1.2, with --quick 0.4)")
    options.add_argument("--rooms", default=",".join(ROOMS), help="of " + ",".join(ROOMS))
    options.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options.add_argument("--verdict", action="store_true", help="fail when a figure is below what must hold")
    options.add_argument("--mtu", type=int, default=1500, help="of the wires, e.g. 9000")
    options.add_argument("--time-limit", type=float, default=1500, metavar="S", help="for each device")
    args = options.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.seconds = args.seconds or (0.4 if args.quick else 1.2)
    if unknown := set(args.rooms.split(",")) - set(ROOMS):
        options.error(f"there is no room {', '.join(unknown)}")
    return args


def smc_library(directory):
    """The library that makes TCP sockets SMC's, compiled now."""
    library = Path(directory) / "libsmc-preload.so"
    source = SCRIPTS / "rdmalab" / "compare" / "smc_preload.c"
    done = subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=False,
                          capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"gcc could not compile {source}:\n{done.stderr}")
    return library


def compare(args, device, bin_dir, library):
    """Runs everything with one kind of device: the report."""
    logs = bin_dir.parent / "rdma-show" / device
    found = logs / "a" / "report.json"
    found.unlink(missing_ok=True)
    words = ["python3", "-B", "-m", "rdmalab.compare", "--bin", bin_dir, "--smc", library, "--rooms", args.rooms,
             "--rounds", args.rounds, "--seconds", args.seconds, *(["--quick"] if args.quick else [])]
    command = " ".join(guests.quote(str(word)) for word in words)
    command = f'PYTHONPATH={guests.quote(str(SCRIPTS))} {command} --report "$LAB_DIR/out/a/report.json"'
    lab = guests.MACHINES[args.lab]
    run = guests.Run(lab, lab.prepare(), device, SCRIPTS.parent, mtu=args.mtu)
    progress(f"{device}: booting two guests")
    begun = time.monotonic()
    code = guests.run_command(run, command, begun + args.time_limit, keep=logs, to=sys.stderr)
    if code or not found.exists():
        raise Failure(f"the comparison in guest a ended with exit code {code}; logs are in {logs}")
    progress(f"{device}: done after {time.monotonic() - begun:.0f} s")
    return {"mtu": args.mtu, **json.loads(found.read_text())}


def main():
    args = arguments()
    interruptible()
    bin_dir = binaries(args.bin)
    passes, reports = True, {}
    with tempfile.TemporaryDirectory(prefix="netacc-show-") as work:
        library = smc_library(work)
        for device in DEVICES if args.device == "both" else (args.device,):
            found = compare(args, device, bin_dir, library)
            found["verdicts"] = [{"what": what, "holds": holds} for what, holds in report.verdicts(found)]
            reports[device] = found
            if args.json:
                args.json.write_text(json.dumps(reports, indent=1))
            print("\n".join(report.text(found)), flush=True)
    for device, found in reports.items() if args.verdict else ():
        print(f"\n{device}:")
        for verdict in found["verdicts"]:
            print(f"{'pass' if verdict['holds'] else 'FAIL'}  {verdict['what']}")
            passes = passes and verdict["holds"]
    return 0 if passes else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"rdma_show: {failure}")
    except KeyboardInterrupt:
        sys.exit("rdma_show: interrupted; everything it started is stopped")
