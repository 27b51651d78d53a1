"""A server that forks its workers after it listens: only the workers accept."""

import ctypes
import os
import signal
import sys

from echo_server import Echo, Server

server = Server(("127.0.0.1", int(sys.argv[1])), Echo)
workers = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        # PR_SET_PDEATHSIG: no worker outlives a server that is killed.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        server.serve_forever()
    workers.append(pid)


def stop(*_):
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    sys.exit(0)


signal.signal(signal.SIGTERM, stop)
signal.pause()
