#!/usr/bin/env python3
import argparse, sys, os
from pathlib import Path
from lab import Failure, interruptible
from rdmalab import guests, uml
def main():
    p = argparse.ArgumentParser()
    p.add_argument("--device", default="rxe")
    p.add_argument("--shell", nargs="?", const="bash")
    p.add_argument("--time-limit", type=float, default=600)
    p.add_argument("--mtu", type=int, default=1500)
    p.add_argument("--keep-logs")
    a = p.parse_args()
    interruptible()
    run = guests.Run(uml, uml.prepare(), a.device, Path.cwd(), mtu=a.mtu)
    try:
        return guests.run_command(run, a.shell, a.time_limit, interactive=a.shell == "bash", keep=a.keep_logs)
    except Failure as e:
        print(f"rdma_lab: {e}", file=sys.stderr); return 1
sys.exit(main())
