"""What can stand under an unmodified TCP program: the kernel's TCP, librspreload, SMC-R, NetACC."""

import os
from pathlib import Path

from rdmalab.compare import smc
from rdmalab.compare.machines import Failed, Guest

TITLES = {"tcp": "kernel TCP", "rsocket": "librspreload", "smc": "SMC-R", "netacc": "NetACC"}
# What is measured beside them (`bare_verbs`).
BARE = "bare"
# For people.
NAMES = {**TITLES, BARE: "bare verbs"}
RSOCKET_PLACES = sorted(Path("/usr/lib").glob("*/rsocket/librspreload.so"))
# Side ports are 20000 higher and stay below the kernel's own choice of client ports.
PORTS = iter(range(9000, 12700))


class Lab:
    """The guests, the carriers' parts, and which carriers cannot be used at all."""

    def __init__(self, bin_dir, smc_library):
        self.bin, self.smc_library = bin_dir, smc_library
        self.kind = os.environ["LAB_DEVICE"]
        self.device = f"{self.kind}0"
        self.a, self.b = Guest("a"), Guest("b")
        self.cannot = {}
        if not RSOCKET_PLACES:
            self.cannot["rsocket"] = "librspreload.so is not installed (Debian's package librdmacm1)"

    def usable(self):
        """The carriers that may be tried."""
        return [carrier for carrier in TITLES if carrier not in self.cannot]

    def wrap(self, carrier, words, options=()):
        """Command line and environment of a program over a carrier; `options` are netacc_run's."""
        if carrier == "netacc":
            return [f"{self.bin}/netacc_run", *options, *words], {}
        preloads = {"tcp": {}, "smc": {"LD_PRELOAD": str(self.smc_library)},
                    "rsocket": {"LD_PRELOAD": str(next(iter(RSOCKET_PLACES), ""))}}
        return list(words), preloads[carrier]

    def spawn(self, guest, carrier, words, options=(), tracer=()):
        """Starts a program over a carrier, under a tracer if one is given."""
        argv, env = self.wrap(carrier, words, options)
        if tracer and env:
            raise ValueError("a tracer would be preloaded too")
        return guest.spawn([*tracer, *argv], env, os.path.basename(words[0]))

    def prepare_smc(self):
        """Makes SMC-R work in both guests."""
        for guest in (self.a, self.b):
            try:
                guest.run(f"python3 -B {Path(smc.__file__).resolve()} vec0 {self.device}")
            except Failed as failure:
                self.cannot["smc"] = f"SMC-R cannot be set up: {failure}"

    def observer(self, carrier):
        """A function to call during a run of one carrier: Failed if its connections are not what they should be."""
        def smc_did_not_fall_back():
            modes = smc.connections()
            if set(modes) != {"SMC-R"}:
                raise Failed(f"not SMC-R: {modes or 'no connection at all'}")

        def queue_pairs_exist():
            if not self.a.queue_pairs():
                raise Failed("there was no queue pair: not over RDMA")

        return {"smc": smc_did_not_fall_back, "rsocket": queue_pairs_exist}.get(carrier)
