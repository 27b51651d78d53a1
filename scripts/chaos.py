#!/usr/bin/env python3
"""A chaos run: conversations whose ends are handed from process to process (fork, exec, SCM_RIGHTS), processes that are
killed, and a server that becomes a new image of itself all the time, all under NetACC; every byte is checked.

    make chaos ARGS='--seconds 600'

A conversation is in order if both ends sent and received all of it, or if one of its processes was killed. Whatever else
happens (a wrong byte, one too few or too many, a reset, a hang) is an error."""

import argparse
import collections
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chaos import ends, talk
from chaos.held import Held
from lab import Failure, Session, accelerate_short_connections, binaries, counters, free_port, interruptible, progress

OVER = 3 * talk.PATIENCE
CARRIED = ("accepted_shm", "connected_shm", "accepted_rdma", "connected_rdma", "handed_back")


def arguments():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--bin", default="target/release", help="where `make build` put library and tools")
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--host", default="127.0.0.1", help="the server's address: that of an RDMA device, for RDMA")
    options.add_argument("--clients", type=int, default=6, help="processes that make conversations")
    options.add_argument("--workers", type=int, default=3, help="processes that share the server's listener")
    options.add_argument("--seed", type=int, default=1, help="of the dice; what the machine does is not repeated")
    options.add_argument("--ways", default=",".join(talk.WAYS), help="of ends through processes")
    options.add_argument("--moves", type=int, default=4, help="hand-overs of each end, at most")
    options.add_argument("--reload", type=float, default=2.0, metavar="S", help="about how often the server becomes a new image; 0: never")
    options.add_argument("--bare", action="store_true", help="without NetACC: a check of the run itself")
    options.add_argument("--keep", metavar="DIR", help="where the log of the conversations stays")
    args = options.parse_args()
    if unknown := set(args.ways.split(",")) - set(talk.WAYS):
        options.error(f"there is no way {', '.join(unknown)}")
    return args


def run(args, work):
    """All of it: the log's lines, what NetACC counted, and what processes held."""
    bin_dir = binaries(args.bin)
    prefix = [] if args.bare else [bin_dir / "netacc_run"]
    me = [sys.executable, "-B", Path(__file__).resolve()]
    settings = {"host": args.host, "port": free_port(), "workers": args.workers, "ways": args.ways, "log": str(work / "log"), "seed": args.seed, "moves": args.moves,
                "until": time.time() + args.seconds}
    text = json.dumps(settings)
    seen, held = collections.Counter(), Held()
    with open(work / "err", "wb") as errors, Session([*prefix, *me, "--serve", text], stderr=errors) as server:
        wait_for_port(settings)
        clients = [Session([*prefix, *me, "--talk", text, number], stderr=errors) for number in range(args.clients)]
        lasting = [session.process.pid for session in (server, *clients)]
        try:
            dice = random.Random(args.seed)
            pause = time.monotonic()
            while any(client.process.poll() is None for client in clients):
                time.sleep(0.1)
                if time.time() > settings["until"] + OVER:
                    raise Failure(f"clients do not end: {(work / 'err').read_text()[-2000:]}")
                if args.reload and time.monotonic() > pause and server.process.poll() is None:
                    server.process.send_signal(signal.SIGHUP)
                    pause = time.monotonic() + args.reload * (0.5 + dice.random())
                if not args.bare:
                    counted = counters(bin_dir)
                    note(counted, seen)
                    held.look(lasting, counted)
        finally:
            for client in clients:
                client.stop()
        code = server.process.poll()
        server.process.send_signal(signal.SIGTERM)
        try:
            code = server.process.wait(OVER)
        except subprocess.TimeoutExpired as late:
            raise Failure("the server does not end") from late
        if code:
            raise Failure(f"the server ended with {code}: {(work / 'err').read_text()[-2000:]}")
    codes = [client.process.returncode for client in clients]
    if any(codes):
        raise Failure(f"clients ended with {codes}: {(work / 'err').read_text()[-2000:]}")
    return (work / "log").read_text().splitlines(), seen, held


def note(counted, seen):
    """What processes that live count; of each counter the most that was seen of a process is kept."""
    for pid, values in counted.items():
        for name in CARRIED:
            seen[pid, name] = max(seen[pid, name], values.get(name, 0))


def wait_for_port(settings):
    """Until somebody listens there."""
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((settings["host"], settings["port"])) == 0:
                return
        if time.monotonic() > deadline:
            raise Failure(f"the server does not listen on port {settings['port']}")
        time.sleep(0.05)


def judge(lines):
    """Counts of outcomes, and what is wrong."""
    notes = collections.defaultdict(lambda: collections.defaultdict(list))
    for line in lines:
        seed, name, what = line.split(" ", 2)
        notes[int(seed)][name].append(what)
    outcomes, wrong = collections.Counter(), []
    for seed, by_end in sorted(notes.items()):
        said = [what for whats in by_end.values() for what in whats]
        killed = "kill" in said
        bad = [what for what in said if what not in ("ok", "kill") and not (killed and what.startswith("cut"))]
        whole = by_end["client"] == by_end["server"] == ["ok"]
        if bad or not (whole or killed):
            wrong.append(f"{seed}: {dict(by_end)}")
            outcomes["wrong"] += 1
        else:
            outcomes["killed" if killed else "whole"] += 1
    return outcomes, wrong


def main():
    args = arguments()
    interruptible()
    accelerate_short_connections()
    with tempfile.TemporaryDirectory(prefix="netacc-chaos-") as place:
        work = Path(args.keep or place)
        work.mkdir(parents=True, exist_ok=True)
        (work / "log").unlink(missing_ok=True)
        begun = time.monotonic()
        lines, seen, held = run(args, work)
        outcomes, wrong = judge(lines)
        wrong += held.piled_up()
        totals = collections.Counter()
        for (_, name), value in seen.items():
            totals[name] += value
        print(f"{time.monotonic() - begun:.0f} s, {sum(outcomes.values()):,} conversations: {outcomes['whole']:,} whole, "
              f"{outcomes['killed']:,} with a process that was killed, {outcomes['wrong']:,} wrong; seen of NetACC: "
              + (", ".join(f"{name} {totals[name]:,}" for name in CARRIED if totals[name]) or "nothing"))
        print("held by a process at most: " + ", ".join(f"{name} {value:,}" for name, value in held.most().items()))
        for line in wrong[:20]:
            print(f"  {line}")
        if not args.bare and not totals["connected_shm"] + totals["connected_rdma"]:
            wrong.append("nothing was accelerated")
            print(f"  {wrong[-1]}")
        return 1 if wrong or not outcomes["whole"] else 0


def part():
    """One of its processes: they are started by this very script."""
    words = sys.argv[1:]
    if words[0] == "--resume":
        talk.resume(int(words[1]), words[2], words[3])
    settings = {**json.loads(words[1]), "text": words[1]}
    if words[0] == "--talk":
        ends.talk_to(settings, int(words[2]))
        return 0
    if len(words) > 2:
        listener = socket.socket(fileno=int(words[2]))
    else:
        listener = socket.create_server((settings["host"], settings["port"]), backlog=128)
    ends.serve(settings, listener, [int(pid) for pid in words[3:]])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(part() if len(sys.argv) > 1 and sys.argv[1] in ("--resume", "--serve", "--talk") else main())
    except Failure as failure:
        sys.exit(f"chaos: {failure}")
    except KeyboardInterrupt:
        sys.exit("chaos: interrupted; everything it started is stopped")
