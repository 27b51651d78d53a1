"""1,000 connections to redis-server on few queue pairs and on many: requests, queue pairs, registered memory."""

import json
from pathlib import Path

from rdmalab.compare import turns
from rdmalab.compare.redis_rows import Server

CONNECTIONS = 1000
WAYS = {
    "kernel TCP": ("tcp", ()),
    "NetACC, as it is": ("netacc", ()),
    "NetACC, CONN_PER_QP 32": ("netacc", ("-p", "32")),
    "NetACC, CONN_PER_QP 1": ("netacc", ("-p", "1")),
}
CLIENT = Path(__file__).resolve().parent / "crowd_client.py"
HELD = ("qps_now", "mrs_now", "mr_bytes_now", "mr_bytes_used", "connected_rdma", "connected_tcp", "accepted_rdma",
        "accepted_tcp")
# Shortest time to measure, in seconds: each connection has its turn several times.
LEAST = 3
# Longest time that connecting and measuring may take, in seconds.
LIMIT = 100


def run(lab, title, seconds):
    """One run: its figures, and what both ends hold while all connections stand."""
    carrier, options = WAYS[title]
    with Server(lab, carrier, options) as server:
        words = ["python3", CLIENT, lab.b.address, server.port, CONNECTIONS, max(seconds, LEAST)]
        with lab.spawn(lab.a, carrier, words, options) as client:
            client.wait_for("}", LIMIT, 0.5)
            ends = {"client": (lab.a, client.pid), "server": (lab.b, server.program.pid)}
            counters = {end: guest.counters(lab, pid) for end, (guest, pid) in ends.items()}
            held = {end: {name: found[name] for name in HELD if name in found} for end, found in counters.items()}
            for end, (guest, _) in ends.items():
                held[end]["queue_pairs"] = guest.queue_pairs()
            client.release()
            client.finish(20)
            return {"": {**json.loads(client.output()), "held": held}}


def measure(lab, report, rounds, seconds):
    """All ways in turn."""
    found, failed = turns.take_turns("1,000 connections", list(WAYS), rounds, lambda way: run(lab, way, seconds), str)
    report["crowd"] = {"ways": list(WAYS), "connections": CONNECTIONS, "rounds": found, "failed": failed}
