"""What the processes that live through a chaos run hold: descriptors, mappings of shared memory, queue pairs, registered
memory. It may go up and down with the peers that live at a time; it may not pile up."""

import collections
import os
import time
from pathlib import Path

# How much more than in the second quarter of its life a process may hold in the last one.
SLACK = {"descriptors": 40, "mappings": 40, "qps_now": 12, "mrs_now": 12}
EVERY = 0.5


class Held:
    """Samples of some processes."""

    def __init__(self):
        self.samples = collections.defaultdict(list)
        self.next = 0

    def look(self, pids, counted):
        """A sample of each that lives, if it is time for one; `counted` is what NetACC counts, {pid: {name: value}}."""
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + EVERY
        for pid in pids:
            try:
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
                mappings = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").count("memfd:netacc")
            except OSError:
                continue
            seen = {"descriptors": descriptors, "mappings": mappings}
            for name in ("qps_now", "mrs_now"):
                seen[name] = counted.get(pid, {}).get(name, 0)
            self.samples[pid].append(seen)

    def most(self):
        """The most that any of them held at once, by name."""
        return {name: max((seen[name] for all_seen in self.samples.values() for seen in all_seen), default=0) for name in SLACK}

    def piled_up(self):
        """Sentences about what grew all the time."""
        for pid, samples in self.samples.items():
            quarter = len(samples) // 4
            if quarter < 5:
                continue
            for name, slack in SLACK.items():
                early = max(seen[name] for seen in samples[quarter:2 * quarter])
                late = max(seen[name] for seen in samples[-quarter:])
                if late > early + slack:
                    yield f"process {pid}: {name} went from {early} to {late}"
