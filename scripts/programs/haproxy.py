"""haproxy in the middle: curl and wrk, then haproxy with two threads, then nginx."""

from . import http_client as http
from . import nginx

NEEDS = ["haproxy", *nginx.NEEDS]


def suites():
    return [("haproxy", True, run)]


def config(side, front, tcp, back):
    path = side.work / "haproxy.cfg"
    path.write_text(f"""\
global
    nbthread 2
    maxconn 500
defaults
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend web
    mode http
    bind 127.0.0.1:{front}
    default_backend web
backend web
    mode http
    http-reuse safe
    server nginx 127.0.0.1:{back}
frontend stream
    mode tcp
    bind 127.0.0.1:{tcp}
    default_backend stream
backend stream
    mode tcp
    server nginx 127.0.0.1:{back}
""")
    return path


def run(side):
    root, files = http.bodies(side)
    back, front, tcp = side.port(), side.port(), side.port()
    with (
        nginx.started(side, back, "on", root, "master_process off;"),
        side.server(["haproxy", "-db", "-f", config(side, front, tcp, back)], front, tcp),
    ):
        for mode, port in (("http", front), ("tcp", tcp)):
            url = f"http://127.0.0.1:{port}"
            close = ["-H", "Connection: close"]
            small, big = files["small.bin"], files["big.bin"]

            def get(file, body, times, *words, url=url):
                return http.get(side, f"{url}/{file}", body, *words, times=times)

            side.case(f"{mode}: 50 small bodies on one connection", get, "small.bin", small, 50)
            side.case(f"{mode}: 20 small bodies, no keep-alive", get, "small.bin", small, 20, *close)
            side.case(f"{mode}: big bodies", get, "big.bin", big, 3)
            side.case(f"{mode}: parallel", http.parallel, side, f"{url}/small.bin", small)
            stored = root / "put" / "up.bin"
            side.case(f"{mode}: PUT", http.put, side, f"{url}/put/up.bin", root / "big.bin", stored, big[1])
            side.case(f"{mode}: wrk, keep-alive", http.wrk, side, f"{url}/small.bin")
            side.case(f"{mode}: wrk, no keep-alive", http.wrk, side, f"{url}/small.bin", *close)
