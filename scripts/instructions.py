#!/usr/bin/env python3
"""Instructions of the library's own code for a message, counted by callgrind: what two processes that take turns execute in
libnetacc-preload.so. Fails if a figure is above its limit. docs/performance.md says what the figures are.

    make bench-instructions ARGS='--works stream,epoll-100 --profile'"""

import argparse
import json
import sys
from pathlib import Path

from bench.instructions import WORKS, module, per_message, profile
from lab import Failure, binaries, need


def arguments():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--bin", default="target/release", help="where `make build` put library and tools")
    options.add_argument("--works", default=",".join(WORKS), help="of " + ",".join(WORKS))
    options.add_argument("--profile", action="store_true", help="the functions and files in which they are executed, too")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    args = options.parse_args()
    if unknown := set(args.works.split(",")) - set(WORKS):
        options.error(f"there is no work {', '.join(unknown)}")
    return args


def main():
    args = arguments()
    need("valgrind")
    bin_dir = binaries(args.bin)
    found, passes = {}, True
    for key in args.works.split(","):
        work = WORKS[key]
        costs = per_message(bin_dir, work)
        total = sum(costs.values())
        holds = total <= work.most
        passes = passes and holds
        print(f"{work.title}: {total:,.0f} instructions, at most {work.most:,.0f}: {'pass' if holds else 'MISSED'}", flush=True)
        found[key] = {"title": work.title, "instructions": round(total, 1), "most": work.most,
                      "functions": {name: round(cost, 1) for name, cost in profile(costs)}}
        if args.profile:
            for heading, name_of in (("function", lambda where: where[2]), ("file", lambda where: module(where[1]))):
                print(f"    by {heading}:")
                for name, cost in profile(costs, name_of):
                    print(f"    {cost:10,.0f}  {100 * cost / total:3.0f} %  {name}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0 if passes else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"instructions: {failure}")
