"""redis-server and redis-benchmark."""

import contextlib

from bench.row import Figure, Row
from lab import benchmark_figures

WORKLOAD = ["-r", "10000", "-d", "512"]


@contextlib.contextmanager
def server(side, place, *options):
    """A redis-server that keeps nothing on disk; `place` says where, to it and to its client."""
    port = side.port()
    words = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", side.work, "--maxclients", "4000"]
    client = ["-p", port]
    if place == "unix":
        socket = side.work / "redis.sock"
        words += ["--unixsocket", socket]
        client = ["-s", socket]
    requests = {"done": 0}

    def benchmark(count):
        # A SET and a GET each.
        requests["done"] += 2 * count
        said = side.run(["redis-benchmark", *client, *WORKLOAD, *options, "-t", "set,get", "-n", count, "--csv"])
        return {test: found["rps"] for test, found in benchmark_figures(said).items()}

    def run(seconds):
        if "count" not in requests:
            trial = benchmark(4000 if options == ("-c", "1") else 40_000)
            requests["count"] = max(4000, int(min(trial.values()) * seconds))
        return {**benchmark(requests["count"]), "count": requests["done"]}

    with side.server(["prlimit", "--nofile=20000", *words], port):
        yield run


def row(title, options, set_target, get_target=None, stretch=1.0):
    """A row of one kind of client."""
    figures = (Figure("SET", "requests/s", {("netacc", "tcp"): set_target}),
               Figure("GET", "requests/s", {("netacc", "tcp"): get_target or set_target}))
    carriers = {
        "tcp": lambda side: server(side, "tcp", *options),
        "sockmap": lambda side: server(side, "tcp", *options),
        "unix": lambda side: server(side, "unix", *options),
        "netacc": lambda side: server(side, "tcp", *options),
    }
    return Row(title, figures, carriers, stretch)


ROWS = {
    "redis": row("redis, 100 clients, one client thread", ["-c", "100"], 5.5),
    "redis-1": row("redis, 1 client", ["-c", "1"], 6.0),
    # With --threads it looks every 250 ms only whether it is done.
    "redis-threads": row("redis, 100 clients, 4 client threads", ["-c", "100", "--threads", "4"], 3.0, stretch=2.5),
    "redis-1000": row("redis, 1,000 clients", ["-c", "1000"], 3.0, stretch=2.0),
    "redis-pipelined": row("redis, 100 clients x 16 requests", ["-c", "100", "-P", "16"], 1.3),
}
