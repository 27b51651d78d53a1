"""A server that gives connections away while their client is stopped (SIGSTOP) and cannot hand anything back.

    stopped.py CASE PORT STATIC

What it prints is the same whether the client's bytes come from the kernel or cannot be had: whoever gets a connection then
is to see an error, at once or in a short while, and not a part of the stream.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time

CONNECTIONS = 20
LENGTH = 5000


def say(text):
    os.write(1, f"{text}\n".encode())


def client(port):
    """Sends, and then does nothing any more."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.sendall(b"x" * LENGTH)
    while True:
        signal.pause()


def outcome(connection):
    got = b""
    try:
        while piece := connection.recv(LENGTH - len(got)):
            got += piece
    except OSError:
        return "all of it or an error"
    return "all of it or an error" if len(got) == LENGTH else f"{len(got)} bytes and an end"


def passed(connections, static):
    """SCM_RIGHTS."""
    here, there = socket.socketpair()
    socket.send_fds(here, [b"x"], [connection.fileno() for connection in connections])
    _, fds, _, _ = socket.recv_fds(there, 1, CONNECTIONS)
    say({outcome(socket.socket(fileno=fd)) for fd in fds})
    # Nobody is waited for again.
    socket.send_fds(here, [b"x"], [connection.fileno() for connection in connections])
    say("passed again")


def words(connections, static):
    return [static, "try", *(str(connection.fileno()) for connection in connections)]


def run(connections, words):
    for connection in connections:
        connection.set_inheritable(True)
    os.execv(words[0], words)


def replaced(connections, static):
    """exec of a program without the library."""
    # Nobody is left here to do it afterwards.
    server = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        for connection in connections:
            connection.close()
        select.select([server], [], [])
        os.kill(stopped, signal.SIGKILL)
        os._exit(0)
    run(connections, words(connections, static))


def child(connections, static):
    """The same in a child: the connections are its parent's."""
    pid = os.fork()
    if pid == 0:
        run(connections, words(connections, static))
    say(f"ended with {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def popen(connections, static):
    """The same in a child that shares its parent's memory."""
    fds = [connection.fileno() for connection in connections]
    subprocess.run(words(connections, static), pass_fds=fds, check=True)


def must_not_wait(connections, static):
    """A child's call that must not wait tells so, and gets everything when the client goes on."""
    pid = os.fork()
    if pid == 0:
        connection, got = connections[0], b""
        connection.setblocking(False)
        while len(got) < LENGTH:
            try:
                got += connection.recv(LENGTH)
            except BlockingIOError:
                os.kill(stopped, signal.SIGCONT)
                select.select([connection], [], [])
        say(f"{len(got)} bytes")
        os._exit(0)
    say(f"ended with {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def waits(connections, static):
    """A child's call that may wait does, for as long as the client is stopped."""
    pid = os.fork()
    if pid == 0:
        got = b""
        while len(got) < LENGTH:
            got += connections[0].recv(LENGTH)
        say(f"{len(got)} bytes")
        os._exit(0)
    # For longer than anything is waited for that descriptors depend on.
    time.sleep(12)
    os.kill(stopped, signal.SIGCONT)
    say(f"ended with {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
stopped = os.fork()
if stopped == 0:
    client(int(sys.argv[2]))
try:
    accepted = [listener.accept()[0] for _ in range(CONNECTIONS)]
    for connection in accepted:
        connection.recv(LENGTH, socket.MSG_PEEK | socket.MSG_WAITALL)
    os.kill(stopped, signal.SIGSTOP)
    os.waitid(os.P_PID, stopped, os.WSTOPPED | os.WNOWAIT)
    globals()[sys.argv[1]](accepted, sys.argv[3])
finally:
    os.kill(stopped, signal.SIGKILL)
    os.waitpid(stopped, 0)
