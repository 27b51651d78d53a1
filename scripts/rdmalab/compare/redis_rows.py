"""redis-server in guest b, redis-benchmark in guest a."""

import time

from lab import benchmark_figures, progress
from rdmalab.compare import turns
from rdmalab.compare.carriers import PORTS, TITLES
from rdmalab.compare.machines import Failed

WORKLOAD = ["-r", "10000", "-d", "512"]
ROWS = {
    "c100": ("100 clients", ["-c", "100"]),
    "c50": ("50 clients", ["-c", "50"]),
    "c1": ("1 client", ["-c", "1"]),
    "pipelined": ("50 clients x 16", ["-c", "50", "-P", "16"]),
}
TESTS = "set,get"


class Server:
    """A redis-server that keeps nothing on disk, and clients for it; it ends with the `with` block."""

    def __init__(self, lab, carrier, options=(), tracer=()):
        self.lab, self.carrier, self.options = lab, carrier, options
        self.port = next(PORTS)
        words = ["redis-server", "--port", self.port, "--bind", lab.b.address, "--dir", "/tmp", "--save", "",
                 "--protected-mode", "no", "--maxclients", "4000"]
        self.program = lab.spawn(lab.b, carrier, words, options, tracer)
        try:
            self.program.wait_for("Ready to accept connections")
            # One that dies of its first look at its sockets says that it is ready before.
            if (code := self.program.code(0.2)) is not None:
                raise Failed(f"redis-server died at once, exit code {code}")
        except BaseException:
            self.program.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.program.__exit__()

    def client(self, options, requests, tests=TESTS, tracer=()):
        """Starts a redis-benchmark."""
        words = ["redis-benchmark", "-h", self.lab.b.address, "-p", self.port, *WORKLOAD, *options,
                 "-t", tests, "-n", requests, "--csv"]
        return self.lab.spawn(self.lab.a, self.carrier, words, self.options, tracer)

    def counters(self):
        """NetACC's counters of the server."""
        return self.lab.b.counters(self.lab, self.program.pid)

    def benchmark(self, options, requests, limit, tests=TESTS):
        """One run: {test: {"rate": .., "p50_ms": .., "p99_ms": .., "packets": per request}}."""
        before, packets = self.counters(), self.lab.a.packets()
        with self.client(options, requests, tests) as client:
            text = client.finish(limit, self.lab.observer(self.carrier))
        packets = self.lab.a.packets() - packets
        plain = self.counters().get("accepted_tcp", 0) - before.get("accepted_tcp", 0)
        if plain:
            raise Failed(f"{plain} connections stayed with kernel TCP")
        figures = benchmark_figures(text)
        return {
            test: {"rate": row["rps"], "p50_ms": row["p50_latency_ms"], "p99_ms": row["p99_latency_ms"],
                   "packets": packets / (requests * len(figures))}
            for test, row in figures.items()
        }


def try_clients(lab, server):
    """What redis' clients do over librspreload, whether its server runs or not: {program: how it ended}."""
    address = ["-h", lab.b.address, "-p", server.port if server else next(PORTS)]
    programs = {"redis-cli": [*address, "ping"],
                "redis-benchmark": [*address, "-c", "10", "-n", "1000", "-t", "set", "--csv"]}
    found = {}
    for name, words in programs.items():
        with lab.spawn(lab.a, "rsocket", [name, *words]) as program:
            try:
                found[name] = f"works: {program.finish(10).strip().splitlines()[-1]}"
            except Failed as failure:
                found[name] = str(failure)
    return found


def start_servers(lab):
    """A server for every carrier that can carry one, and how the others failed."""
    servers, failed = {}, {}
    for carrier in lab.usable():
        try:
            servers[carrier] = Server(lab, carrier)
        except Failed as failure:
            failed[carrier] = str(failure)
            progress(f"redis over {TITLES[carrier]}: {failure}")
    return servers, failed


def measure(lab, report, rounds, seconds):
    """All rows."""
    servers, cannot = start_servers(lab)
    report["programs"] = {"redis-server": cannot.get("rsocket", "starts")}
    report["redis"] = []
    try:
        if "rsocket" not in lab.cannot:
            report["programs"].update(try_clients(lab, servers.get("rsocket")))
            if not report["programs"]["redis-cli"].startswith("works"):
                if server := servers.pop("rsocket", None):
                    server.__exit__()
                cannot.setdefault("rsocket", f"no client works: {report['programs']['redis-cli']}")
        for title, options in ROWS.values():
            found, failed = row(servers, title, options, rounds, seconds)
            failed.update({carrier: [text] for carrier, text in cannot.items()})
            report["redis"] += turns.rows(title, "requests/s", found, failed)
    finally:
        for server in servers.values():
            server.__exit__()


def row(servers, title, options, rounds, seconds):
    """Alternating runs of one row. Every carrier makes as many requests as fill about the same time."""
    requests = {}

    def run(carrier):
        server = servers[carrier]
        if carrier not in requests:
            few = 400 if options == ["-c", "1"] else 40_000 if "-P" in options else 4000
            start = time.monotonic()
            trial = server.benchmark(options, few, 60)
            progress(f"{title}: {TITLES[carrier]} tried in {time.monotonic() - start:.1f} s")
            slowest = min(figures["rate"] for figures in trial.values())
            requests[carrier] = max(few, int(slowest * seconds))
        return server.benchmark(options, requests[carrier], 20 * seconds + 10)

    return turns.take_turns(title, list(servers), rounds, run)
