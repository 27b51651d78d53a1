"""Servers that are given their connections, or their listener: inetd, and systemd's socket activation."""

import getpass
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


def without(*argv, shown=""):
    """Runs a program without the library, whose file it finds in LIBRARY."""
    words = " ".join(shlex.quote(str(word)) for word in argv)
    return ["sh", "-c", f"export LIBRARY=$LD_PRELOAD; unset LD_PRELOAD; exec {words} {shown}"]


def activated(port, *argv):
    """Has a program started by the first connection, with the listener as descriptor 3 (sd_listen_fds(3)). The library is
    in that program only."""
    # The activator passes on what it is told to.
    shown = "${LIBRARY:+-E LD_PRELOAD=$LIBRARY} ${NACC_FABRICS:+-E NACC_FABRICS=$NACC_FABRICS} "
    shown += " ".join(shlex.quote(str(word)) for word in argv)
    return without("systemd-socket-activate", "-l", f"127.0.0.1:{port}", shown=shown)


def converse(side, port):
    """Connections one after the other: what is sent comes back."""
    said = side.run([sys.executable, "-B", CLIENT, port, 0.3 if side.short else 2], limit=60)
    expect(float(said) > 0, said)


def several(side, port):
    """The same from several processes at once."""
    side.together([[sys.executable, "-B", CLIENT, port, 0.3 if side.short else 2]] * 3)


def run(side):
    server = side.work / "server.py"
    server.write_text(SERVER)
    start = side.work / "start"
    start.write_text(f'#!/bin/sh\nLD_PRELOAD=${{LD_PRELOAD:-$LIBRARY}} exec {sys.executable} {server} 0 1\n')
    start.chmod(0o755)
    for name, has_library, kinds in (("inetd", True, 2), ("inetd without the library", False, 1)):
        # Connections are handed to a program each, or their listener is.
        each, listener = side.port(), side.port()
        user = getpass.getuser()
        config = side.work / f"{name}.conf"
        config.write_text(
            f"127.0.0.1:{each} stream tcp nowait.100000 {user} /bin/cat cat\n"
            f"127.0.0.1:{listener} stream tcp wait.100000 {user} {start} start\n")
        argv = ["inetd", "-E", "-i", config]
        with side.server(argv if has_library else without(*argv), each, listener):
            for kind, port in (("wait", listener), ("nowait", each))[:kinds]:
                side.case(f"{name}, {kind}", converse, side, port)
                side.case(f"{name}, {kind}: several at once", several, side, port)
    port = side.port()
    with side.server(activated(port, sys.executable, server, 3, 3), port):
        side.case("activated, 3 processes", converse, side, port)
        side.case("activated, 3 processes: several at once", several, side, port)
