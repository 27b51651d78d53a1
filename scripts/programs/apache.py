"""Apache with a process for each connection (mpm_prefork), by curl and wrk; its processes are replaced under load."""

import os
import signal
from pathlib import Path

from . import http_client as http
from .nginx import pid_of, under_load, until

MODULES = Path("/usr/lib/apache2/modules")
NEEDS = ["apache2", "wrk", "curl", "setpriv"]


def suites():
    return [("apache", True, run)]


def server(side, port, root, more=""):
    """Apache with a configuration of its own, which touches nothing outside the side's directory. It is never root's: its
    processes would be another user's, with whom no client shares memory."""
    side.as_user("www-data")
    path = side.work / "apache.conf"
    load = "".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so\n" for name in ("mpm_prefork", "authz_core"))
    path.write_text(f"""\
{load}ServerRoot {side.work}
DefaultRuntimeDir {side.work}
PidFile {side.work}/apache.pid
ErrorLog {side.work}/apache.log
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
DocumentRoot {root}
StartServers 24
MinSpareServers 24
MaxSpareServers 48
ServerLimit 48
MaxRequestWorkers 48
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 10
{more}
""")
    return side.server(["apache2", "-f", path, "-DFOREGROUND"], port)


def run(side):
    root, files = http.bodies(side)
    port = side.port()
    url = f"http://127.0.0.1:{port}"
    close = ["-H", "Connection: close"]
    with server(side, port, root):
        for file, times, *words in (("small.bin", 1), ("small.bin", 50), ("small.bin", 20, *close), ("big.bin", 3)):
            label = f"{times} x {file}{', no keep-alive' if words else ''}"
            side.case(label, lambda: http.get(side, f"{url}/{file}", files[file], *words, times=times))
        side.case("range", http.get_range, side, f"{url}/big.bin", root / "big.bin", 1_000_001, 3_000_007)
        side.case("parallel", http.parallel, side, f"{url}/small.bin", files["small.bin"])
        side.case("404", http.status, side, f"{url}/missing", "404")
        side.case("wrk, keep-alive", http.wrk, side, f"{url}/small.bin")
        side.case("wrk, no keep-alive", http.wrk, side, f"{url}/small.bin", *close)
        side.case("graceful restart under load", under_load, side, port, graceful)
        side.case("after all that", http.get, side, f"{url}/small.bin", files["small.bin"])


def graceful(side):
    """The old processes end what they have begun, new ones take the next."""
    os.kill(pid_of(side.work / "apache.pid"), signal.SIGUSR1)
    log = side.work / "apache.log"
    until(lambda: log.read_text().count("resuming normal operations") > 1, "the server has restarted")
