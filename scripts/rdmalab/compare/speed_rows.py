"""One connection: messages there and back, streams one way. Our own plain sockets program, and sockperf."""

import json
import re

from rdmalab.compare import bare_verbs, turns
from rdmalab.compare.carriers import BARE, PORTS
from rdmalab.compare.machines import Failed, last_words

ROWS = {
    "pong": ("ping-pong, 64 B", "round trips/s", ["--size", "64"]),
    "stream": ("stream, writes of 64 B", "writes/s", ["--size", "64", "--sink"]),
    "bulk": ("stream, writes of 64 KiB", "MB/s", ["--size", "65536", "--sink"]),
}

# Of bare verbs in a second, about.
MESSAGES = {"pong": 4000, "bulk": 1500}


def peer_run(lab, carrier, options, seconds):
    """One run of our own program: its figures."""
    at = f"{lab.b.address}:{next(PORTS)}"
    limit = int(seconds + 15)
    common = ["--deadline", limit, *options]
    program = f"{lab.bin}/netacc-test-peer"
    packets = lab.a.packets()
    with lab.spawn(lab.b, carrier, [program, "speed-server", "--listen", at, *common]) as server:
        server.wait_for("listening")
        words = [program, "speed-client", "--connect", at, "--ms", int(seconds * 1000), "--hold", *common]
        with lab.spawn(lab.a, carrier, words) as client:
            figures = client_figures(lab, client, carrier, seconds)
            figures["packets"] = (lab.a.packets() - packets) / max(1, figures.pop("messages"))
            client.release()
            client.finish(5)
    return {"": figures}


def client_figures(lab, client, carrier, seconds):
    """What the client found, and, before it may end, what carried it."""
    # It holds its connection until it is released, but its peer does not. Few looks: they cost what is measured.
    client.wait_for("{", seconds + 15, max(0.2, seconds / 2), lab.observer(carrier))
    verdict = json.loads(client.output())
    if not verdict["ok"]:
        raise Failed(f"speed-client: {verdict.get('error', 'the end of the stream was lost')}")
    if carrier == "netacc" and not lab.a.counters(lab, client.pid).get("connected_rdma"):
        raise Failed("the connection was not on RDMA")
    rate = verdict.get("mb_per_second", verdict["per_second"])
    figures = {"rate": rate, "messages": verdict["messages"]}
    if "mb_per_second" in verdict and verdict["mb_per_second"] * 1e6 < verdict["per_second"] * 1000:
        figures["rate"] = verdict["per_second"]  # small writes are counted, large ones weighed
    for name in ("p50", "p99"):
        if f"{name}_us" in verdict:
            figures[f"{name}_ms"] = verdict[f"{name}_us"] / 1000
    return figures


def sockperf_run(lab, carrier, seconds):
    """One ping-pong of sockperf."""
    at = ["--tcp", "-i", lab.b.address, "-p", next(PORTS)]
    with lab.spawn(lab.b, carrier, ["sockperf", "server", *at]) as server:
        # It says nothing before its end where its output is a file.
        if server.code(0.8) is not None:
            raise Failed(f"sockperf server died at once: {last_words(server.said())}")
        words = ["sockperf", "ping-pong", *at, "-m", 64, "-t", max(1, round(seconds)), "--full-rtt"]
        with lab.spawn(lab.a, carrier, words) as client:
            client.finish(seconds + 15, lab.observer(carrier))
            text = client.said()
    found = {name: re.search(pattern, text) for name, pattern in {
        "messages": r"\[Valid Duration\].*ReceivedMessages=(\d+)", "time": r"\[Valid Duration\] RunTime=([\d.]+)",
        "p50": r"percentile 50\.000 =\s*([\d.]+)", "p99": r"percentile 99\.000 =\s*([\d.]+)"}.items()}
    if not all(found.values()):
        raise Failed(f"sockperf gave no figures: {text.strip().splitlines()[-1] if text.strip() else 'it said nothing'}")
    value = {name: float(match.group(1)) for name, match in found.items()}
    if not value["messages"]:
        raise Failed("sockperf received nothing")
    return {"": {"rate": value["messages"] / value["time"], "p50_ms": value["p50"] / 1000, "p99_ms": value["p99"] / 1000}}


def measure(lab, report, rounds, seconds):
    """All rows."""
    report["speed"] = []
    for row, (title, unit, options) in ROWS.items():
        def run(carrier, row=row, options=options):
            if carrier == BARE:
                return bare_verbs.run(lab, row, round(MESSAGES[row] * seconds))
            return peer_run(lab, carrier, options, seconds)

        carriers = [*lab.usable(), *([BARE] if row in bare_verbs.PROGRAMS else [])]
        found, failed = turns.take_turns(title, carriers, rounds, run)
        report["speed"] += turns.rows(title, unit, found, failed)
    found, failed = turns.take_turns(
        "sockperf", lab.usable(), rounds, lambda carrier: sockperf_run(lab, carrier, seconds))
    report["speed"] += turns.rows("sockperf ping-pong, 64 B", "round trips/s", found, failed)
