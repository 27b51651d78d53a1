"""The comparison, in guest a: every room one after the other, figures into a file that is whole after each room."""

import argparse
import json
import sys
import time
from pathlib import Path

from lab import progress
from rdmalab.compare import crowd, evidence, redis_rows, speed_rows
from rdmalab.compare.carriers import Lab
from rdmalab.compare.machines import Failed


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--bin", type=Path, required=True)
    options.add_argument("--smc", type=Path, required=True, help="the library that makes TCP sockets SMC's")
    options.add_argument("--report", type=Path, required=True)
    options.add_argument("--rooms", required=True)
    options.add_argument("--rounds", type=int, required=True)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--quick", action="store_true")
    args = options.parse_args()

    lab = Lab(args.bin, args.smc)
    lab.prepare_smc()
    report = {"device": lab.kind, "rounds": args.rounds, "seconds": args.seconds, "cannot": lab.cannot}
    if "smc" not in lab.cannot:
        try:
            speed_rows.peer_run(lab, "smc", ["--size", "64"], 0.5)
        except Failed as failure:
            lab.cannot["smc"] = str(failure)
            progress(f"SMC-R: {failure}")
    rooms = {
        "redis": lambda: redis_rows.measure(lab, report, args.rounds, args.seconds),
        "speed": lambda: speed_rows.measure(lab, report, args.rounds, args.seconds),
        "evidence": lambda: evidence.measure(lab, report, args.quick),
        "crowd": lambda: crowd.measure(lab, report, args.rounds, args.seconds),
    }
    for name in args.rooms.split(","):
        begun = time.monotonic()
        try:
            rooms[name]()
        except (Failed, OSError) as failure:
            # The other rooms are worth having all the same; the verdict will say that this one is missing.
            progress(f"{name}: {failure}")
            report.setdefault("broken", {})[name] = str(failure)
        progress(f"{lab.kind}, {name}: {time.monotonic() - begun:.0f} s")
        args.report.write_text(json.dumps(report))
    return 0


sys.exit(main())
