"""nginx as a file server, by curl and wrk: sendfile on and off, keep-alive and not, one process and several."""

import os
import signal
import time

from . import http_client as http
from .side import expect, own_user

NEEDS = ["nginx", "wrk", "curl"]
# Its workers are forked before they wait: they stay with kernel TCP.
NEVER_ACCELERATED = ["nginx/workers"]


def suites():
    return [("nginx", True, alone), ("nginx/workers", False, workers)]


def config(side, port, sendfile, root, main):
    """A configuration that touches nothing outside the side's directory."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = "".join(f"    {kind}_temp_path {side.work}/{kind};\n" for kind in kinds)
    path = side.work / f"nginx-{sendfile}.conf"
    path.write_text(f"""\
daemon off;
{main}
pid {side.work}/nginx-{sendfile}.pid;
error_log {side.work}/nginx-{sendfile}.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
{temp}    client_max_body_size 1g;
    keepalive_requests 1000000;
    sendfile {sendfile};
    tcp_nopush {sendfile};
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location /put/ {{ dav_methods PUT; create_full_put_path on; }}
        location /ok {{ return 200 "fine\\n"; }}
    }}
}}
""")
    return path


def started(side, port, sendfile, root, main):
    argv = ["nginx", "-e", "stderr", "-p", side.work, "-c", config(side, port, sendfile, root, main)]
    return side.server(argv, port)


def cases(side, port, sendfile, root, files):
    url = f"http://127.0.0.1:{port}"
    label = f"sendfile {sendfile}"
    close = ["-H", "Connection: close"]
    stored = root / "put" / "up.bin"

    def get(file, times, *words):
        return http.get(side, f"{url}/{file}", files[file], *words, times=times)

    side.case(f"{label}: a small body", get, "small.bin", 1)
    side.case(f"{label}: 50 small bodies on one connection", get, "small.bin", 50)
    side.case(f"{label}: 20 small bodies, no keep-alive", get, "small.bin", 20, *close)
    side.case(f"{label}: big bodies", get, "big.bin", 3)
    side.case(f"{label}: range", http.get_range, side, f"{url}/big.bin", root / "big.bin", 1_000_001, 3_000_007)
    side.case(f"{label}: parallel", http.parallel, side, f"{url}/small.bin", files["small.bin"])
    side.case(f"{label}: 404", http.status, side, f"{url}/missing", "404")
    side.case(f"{label}: HEAD", http.status, side, f"{url}/big.bin", "200", "-I")
    side.case(f"{label}: PUT", http.put, side, f"{url}/put/up.bin", root / "big.bin", stored, files["big.bin"][1])
    side.case(f"{label}: wrk, keep-alive", http.wrk, side, f"{url}/small.bin")
    side.case(f"{label}: wrk, no keep-alive", http.wrk, side, f"{url}/small.bin", *close)
    side.case(f"{label}: wrk, big bodies", lambda: http.wrk(side, f"{url}/big.bin", connections=4))


def alone(side):
    """One process that is master and worker: both ends are accelerated."""
    root, files = http.bodies(side)
    for sendfile in ("on", "off"):
        port = side.port()
        with started(side, port, sendfile, root, "master_process off;"):
            cases(side, port, sendfile, root, files)


def workers(side):
    """A master with two workers, and a reload while a client works."""
    root, files = http.bodies(side)
    port = side.port()
    user = " ".join(own_user("user"))
    main = f"{user}{';' if user else ''} worker_processes 2;"
    with started(side, port, "on", root, main):
        cases(side, port, "on", root, files)
        side.case("reload under load", reload, side, port)


def reload(side, port):
    """The old workers end what they have begun, the new ones take the next: nothing fails."""
    master = int((side.work / "nginx-on.pid").read_text())
    url = f"http://127.0.0.1:{port}/small.bin"
    argv = ["wrk", "-t1", "-c8", "-d3s", "--timeout", "10s", "-H", "Connection: close", url]
    with open(side.work / "reload.log", "w+") as log:
        load = side.start(argv, stdout=log)
        try:
            time.sleep(1)
            os.kill(master, signal.SIGHUP)
            ended = load.process.wait(30)
        finally:
            side.stop(load)
        log.seek(0)
        said = log.read()
    expect(ended == 0 and "requests in" in said, f"wrk ended with {ended}: {said}")
    expect("Non-2xx" not in said and "Socket errors" not in said, said)
