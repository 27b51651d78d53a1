"""Servers that are given their connections, or their listener: inetd, and systemd's socket activation."""

import os
import shlex
import sys
from pathlib import Path

from .side import expect

NEEDS = ["inetd", "systemd-socket-activate"]
CLIENT = Path(__file__).parent.parent / "processes" / "client.py"

# Accepts on the descriptor that it is given, in several processes if asked to.
SERVER = """\
import os, socket, sys, threading
listener = socket.socket(fileno=int(sys.argv[1]))
listener.setblocking(True)
for _ in range(int(sys.argv[2]) - 1):
    if os.fork() == 0:
        break
def serve(connection):
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],)).start()
"""


def suites():
    return [("inetd", True, run)]


def activated(port, *argv):
    """Has a program started by the first connection, with the listener as descriptor 3 (sd_listen_fds(3))."""
    # It passes on what it is told to.
    passed = " ".join(f"${{{name}:+-E {name}=${name}}}" for name in ("LD_PRELOAD", "NACC_FABRICS", "NACC_CONF"))
    shown = " ".join(shlex.quote(str(word)) for word in argv)
    return ["sh", "-c", f"exec systemd-socket-activate -l 127.0.0.1:{port} {passed} {shown}"]


def converse(side, port):
    """Connections one after the other: what is sent comes back."""
    said = side.run([sys.executable, "-B", CLIENT, port, 0.5 if side.short else 2], limit=60)
    expect(float(said) > 0, said)


def several(side, port):
    """The same from several processes at once."""
    side.together([[sys.executable, "-B", CLIENT, port, 0.5 if side.short else 2]] * 4)


def run(side):
    server = side.work / "server.py"
    server.write_text(SERVER)
    # Who answers connections in turn, and who is given the listener.
    each, listener = side.port(), side.port()
    user = "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
    config = side.work / "inetd.conf"
    config.write_text(
        f"127.0.0.1:{each} stream tcp nowait.10000 {user} /bin/cat cat\n"
        f"127.0.0.1:{listener} stream tcp wait {user} {sys.executable} python3 {server} 0 1\n")
    with side.server(["inetd", "-E", "-i", "-R", "0", config], each, listener):
        for name, port in (("nowait", each), ("wait", listener)):
            side.case(f"inetd, {name}", converse, side, port)
            side.case(f"inetd, {name}: several at once", several, side, port)
    for processes in (1, 3):
        port = side.port()
        with side.server(activated(port, sys.executable, server, 3, processes), port):
            side.case(f"activated, {processes} processes", converse, side, port)
            side.case(f"activated, {processes} processes: several at once", several, side, port)
