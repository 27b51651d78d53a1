"""How much of the processors others had while something was measured: a figure that was made beside other work says little."""

import os
import resource
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def busy():
    """Seconds of processor time since the machine started, those of all programs and of the kernel."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICK


def own():
    """Those of this process and of what it has started and waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


class Neighbours:
    """Looks from its making on."""

    def __init__(self):
        self.begun = (os.times().elapsed, busy(), own())

    def share(self):
        """What part of all processors others had since, 0 to 1. (Work of the kernel's that belongs to nobody is theirs, too.)"""
        elapsed, all_busy, ours = (now - then for now, then in zip((os.times().elapsed, busy(), own()), self.begun, strict=True))
        return max(0.0, all_busy - ours) / (elapsed * os.cpu_count()) if elapsed else 0.0
