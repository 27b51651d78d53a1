"""nginx as a file server, by curl and wrk: sendfile on and off, keep-alive and not, one process and several."""

import os
import shutil
import signal
import time

from . import http_client as http
from .side import expect, own_user

NEEDS = ["nginx", "wrk", "curl"]
# What a new program of the server is to have in its environment; nginx passes nothing on that is not named.
ENVIRONMENT = ["LD_PRELOAD", *(name for name in os.environ if name.startswith("NACC_")), "NACC_SIDE_PORT_OFFSET"]


def suites():
    return [("nginx", True, alone), ("nginx/workers", True, workers), ("nginx/reuseport", False, group)]


def config(side, port, sendfile, root, main, listen):
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
        listen 127.0.0.1:{port}{listen};
        root {root};
        location /put/ {{ dav_methods PUT; create_full_put_path on; }}
        location /ok {{ return 200 "fine\\n"; }}
    }}
}}
""")
    return path


def started(side, port, sendfile, root, main, listen=""):
    path = config(side, port, sendfile, root, main, listen)
    # By its path: a new program of the server is started by the same.
    argv = [shutil.which("nginx"), "-e", "stderr", "-p", side.work, "-c", path]
    # It starts its new program only if the process that started it is gone by then.
    return side.server(["sh", "-c", '("$@" & exec sleep 1) ; exec sleep 1000', "sh", *argv], port)


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


def of_master(side):
    """Settings of a master with four workers."""
    user = " ".join(own_user("user"))
    passed = " ".join(f"env {name};" for name in dict.fromkeys(ENVIRONMENT))
    return f"{user}{';' if user else ''} worker_processes 4; {passed}"


def workers(side):
    """A master with four workers; a reload, and another program in its place, while a client works."""
    root, files = http.bodies(side)
    port = side.port()
    with started(side, port, "on", root, of_master(side)):
        cases(side, port, "on", root, files)
        side.case("reload under load", under_load, side, port, reload)
        side.case("upgrade under load", under_load, side, port, upgrade)
        side.case("after all that", http.get, side, f"http://127.0.0.1:{port}/small.bin", files["small.bin"])


def group(side):
    """A listener for each of four workers, at one port."""
    root, files = http.bodies(side)
    port = side.port()
    with started(side, port, "on", root, of_master(side), " reuseport"):
        cases(side, port, "on", root, files)
        side.case("reload under load", under_load, side, port, reload)


def pid_of(path):
    """The process that a file names; None if there is no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def until(condition, what):
    """Waits until something is so."""
    deadline = time.monotonic() + 20
    while not condition():
        expect(time.monotonic() < deadline, f"not within 20 s: {what}")
        time.sleep(0.02)


def reload(side):
    """The old workers end what they have begun, the new ones take the next."""
    os.kill(pid_of(side.work / "nginx-on.pid"), signal.SIGHUP)


def upgrade(side):
    """A new program takes the listeners over; the old one ends what it has begun."""
    path, old_path = side.work / "nginx-on.pid", side.work / "nginx-on.pid.oldbin"
    old = pid_of(path)
    os.kill(old, signal.SIGUSR2)
    until(lambda: pid_of(old_path) == old and pid_of(path) not in (None, old), "the new program runs")
    time.sleep(0.5)
    os.kill(old, signal.SIGQUIT)


def under_load(side, port, event):
    """Something happens to the server while clients come and go: nothing fails."""
    url = f"http://127.0.0.1:{port}/small.bin"
    argv = ["wrk", "-t1", "-c8", "-d4s", "--timeout", "10s", "-H", "Connection: close", url]
    with open(side.work / "load.log", "w+") as log:
        load = side.start(argv, stdout=log)
        try:
            time.sleep(1)
            event(side)
            ended = load.process.wait(30)
        finally:
            side.stop(load)
        log.seek(0)
        said = log.read()
    expect(ended == 0 and "requests in" in said, f"wrk ended with {ended}: {said}")
    expect("Non-2xx" not in said and "Socket errors" not in said, said)
