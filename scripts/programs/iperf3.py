"""iperf3: both directions, several streams; what is sent arrives."""

import json

from .side import expect

NEEDS = ["iperf3"]
CASES = {
    "up": [], "down": ["-R"], "both ways": ["--bidir"],
    "4 streams up": ["-P", "4"], "4 streams down": ["-P", "4", "-R"],
    "small writes": ["-l", "100"], "paced": ["-b", "200M"], "zero copy": ["-Z"],
}


def suites():
    return [("iperf3", True, run)]


def run(side):
    port = side.port()
    with side.server(["iperf3", "-s", "-p", port], port):
        for name, words in CASES.items():
            side.case(name, measure, side, port, words)


def measure(side, port, words):
    """A fixed number of bytes, counted at both ends. The end of a test is told on another connection: what is under
    way then is sent and not counted as received, over kernel TCP too."""
    size = "20M" if side.short or "-l" in words or "-b" in words else "300M"
    said = json.loads(side.run(["iperf3", "-c", "127.0.0.1", "-p", port, "-J", "-n", size, *words]))
    expect("error" not in said, str(said.get("error")))
    end = said["end"]
    for direction in ("", "_bidir_reverse") if "--bidir" in words else ("",):
        sent, received = end[f"sum_sent{direction}"]["bytes"], end[f"sum_received{direction}"]["bytes"]
        under_way = len(end["streams"]) * (8 << 20)
        expect(0 < received <= sent <= received + under_way, f"sent {sent}, received {received}")
    return len(end["streams"])
