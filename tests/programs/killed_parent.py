"""A server that reads a byte, forks, lets its child have the connection, and is killed before the client has sent again
what nobody had read: the child goes on with all of it, or sees an error; never with what comes later.

    killed_parent.py PORT
"""

import os
import random
import select
import signal
import socket
import sys

LENGTH = 16_384
FIRST, SECOND = (random.Random(seed).randbytes(LENGTH) for seed in (1, 2))


def client(port, parent):
    """Sends the second half when the parent is dead, so that the kernel has it, if anybody does."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(FIRST)
    select.select([parent], [], [])
    try:
        connection.sendall(SECOND)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(LENGTH):
            pass
    except OSError:
        pass


def child(connection, parent):
    """What it gets after the first byte."""
    select.select([parent], [], [])
    got = b""
    try:
        while piece := connection.recv(LENGTH):
            got += piece
    except OSError:
        return "all of it or an error"
    return "all of it or an error" if got == (FIRST + SECOND)[1:] else f"{len(got)} bytes and an end"


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
reading, writing = os.pipe()
parent = os.fork()
if parent == 0:
    connection, _ = listener.accept()
    me = os.pidfd_open(os.getpid())
    # All of it is there, and one byte is read.
    connection.recv(LENGTH, socket.MSG_PEEK | socket.MSG_WAITALL)
    connection.recv(1)
    if os.fork() == 0:
        os.write(writing, child(connection, me).encode())
        os._exit(0)
    connection.close()
    os.kill(os.getpid(), signal.SIGKILL)
os.close(writing)
listener.close()
client(int(sys.argv[1]), os.pidfd_open(parent))
os.waitpid(parent, 0)
print(os.read(reading, 100).decode())
