"""What the device itself does: perftest's programs of bare verbs, which no carrier of a TCP program can be far ahead of."""

import math
import time

from rdmalab.compare.carriers import PORTS
from rdmalab.compare.machines import Failed

# {row: the program and its options}, where perftest has one that does the same. (It cannot sleep while it writes.)
PROGRAMS = {
    "pong": ["ib_send_lat", "--events", "-s", "64"],
    "bulk": ["ib_write_bw", "-s", "65536"],
}
# It compares the processor's clock with what the kernel says of it, gives no figures if there is nothing (user-mode
# Linux) and believes its own measurement if there is nonsense.
WITH_A_CLOCK = ["unshare", "-m", "sh", "-c",
                'echo "cpu MHz : 1" > /run/cpuinfo && mount --bind /run/cpuinfo /proc/cpuinfo && exec "$@"', "perftest"]
# Its measurement of the clock fails now and then, of which it tells after the run only; on soft devices it hangs or
# crashes now and then.
TRIES = 5
LIMIT = 12


def run(lab, row, messages):
    """One run of about so many messages: figures as of a carrier."""
    failure = None
    for _ in range(TRIES):
        try:
            columns = [float(column) for column in once(lab, row, messages)]
        except Failed as failed:
            failure = failed
            continue
        if all(map(math.isfinite, columns)):
            return figures(row, columns)
        failure = Failed("perftest could not measure the processor's clock")
    raise failure


def once(lab, row, messages):
    """The columns of perftest's result."""
    words = [*WITH_A_CLOCK, "stdbuf", "-oL", *PROGRAMS[row], "--rdma_cm", "-p", next(PORTS), "-n", messages]
    with lab.b.spawn(words, name=PROGRAMS[row][0]) as server:
        # (Its output is a file, for which it would wait until much is there.) It says that it waits before it listens.
        server.wait_for("Waiting for client")
        time.sleep(0.3)
        with lab.a.spawn([*words, lab.b.address], name=PROGRAMS[row][0]) as client:
            lines = client.finish(LIMIT).splitlines()
    head = next((at for at, line in enumerate(lines) if line.strip().startswith("#bytes")), None)
    if head is None or head + 1 == len(lines):
        raise Failed(f"perftest gave no figures: {lines[-1] if lines else 'it said nothing'}")
    return lines[head + 1].split()


def figures(row, columns):
    """Latencies are of one way, in microseconds; rates in MiB/s."""
    if row == "pong":
        typical, mean, p99 = columns[4], columns[5], columns[7]
        return {"": {"rate": 1e6 / (2 * mean), "p50_ms": 2 * typical / 1000, "p99_ms": 2 * p99 / 1000}}
    return {"": {"rate": columns[3] * 2**20 / 1e6}}
