"""nginx as a file server, asked by wrk."""

import contextlib

from bench.row import Figure, Row
from processes.rows import wrk
from programs import http_client, nginx
from programs.side import own_user


@contextlib.contextmanager
def one_process(side, *words):
    """nginx in one process, files of 1 KB."""
    root, _ = http_client.bodies(side)
    port = side.port()
    user = " ".join(own_user("user"))
    with nginx.started(side, port, "on", root, f"{user}{';' if user else ''} master_process off;"):
        def run(seconds):
            rate = wrk(side, f"http://127.0.0.1:{port}/small.bin", seconds, *words)
            # wrk counts in whole seconds.
            return {"per_second": rate, "count": rate * max(1, round(seconds))}

        yield run


def row(title, target, *words):
    """A row of one kind of request."""
    figure = Figure("per_second", "requests/s", {("netacc", "tcp"): target})
    return Row(title, (figure,), {carrier: lambda side: one_process(side, *words) for carrier in ("tcp", "sockmap", "netacc")})


ROWS = {
    "nginx": row("nginx, 1 KB, keep-alive", 2),
    "nginx-close": row("nginx, 1 KB, a connection a request", 1.5, "-H", "Connection: close"),
}
