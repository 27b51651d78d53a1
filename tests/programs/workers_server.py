"""A server whose workers share its listener: workers_server.py PORT HOW WORKERS [FD [given]]

HOW a worker waits: accept, epoll, exclusive (EPOLLEXCLUSIVE), edge (EPOLLET), once (EPOLLONESHOT), poll, select; or
reuseport: each worker has a listener of its own. Says "worker PID" for each worker and then "listening". A worker tells
each client its number and sends back what comes. At SIGUSR2 it starts itself anew, with the listener as descriptor FD.
"given" is a listener that somebody else has made, and that is left as it is; "passed": it comes by the Unix socket FD."""

import ctypes
import os
import select
import signal
import socket
import sys
import threading


# How the listener has come.
GIVEN = sys.argv[5] if len(sys.argv) > 5 else None


def listener(port, reuse_port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen(64)
    return made


def serve(connection, number):
    with connection:
        connection.sendall(b"%d\n" % number)
        while data := connection.recv(65536):
            connection.sendall(data)


def connections(listening, how):
    """Each that is accepted, in the manner that was asked for."""
    if how in ("accept", "reuseport"):
        while True:
            yield listening.accept()[0]
    if GIVEN is None:
        listening.setblocking(False)
    waiting = select.poll() if how == "poll" else None
    if how in ("epoll", "exclusive", "edge", "once"):
        waiting = select.epoll()
    manner = {"exclusive": select.EPOLLEXCLUSIVE, "edge": select.EPOLLET, "once": select.EPOLLONESHOT}.get(how, 0)
    if waiting is not None:
        waiting.register(listening, select.POLLIN | manner)
    while True:
        if waiting is not None:
            waiting.poll()
        else:
            select.select([listening], [], [])
        while True:
            try:
                yield listening.accept()[0]
            except BlockingIOError:
                break
            if how != "edge":
                break
        if how == "once":
            waiting.modify(listening, select.POLLIN | manner)


def work(listening, how, number):
    for connection in connections(listening, how):
        connection.setblocking(True)
        threading.Thread(target=serve, args=(connection, number), daemon=True).start()


def end_with_parent():
    """Nobody outlives a server that is killed (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main():
    port, how, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if len(sys.argv) > 4:
        fd = int(sys.argv[4])
        if GIVEN == "passed":
            _, (fd,), _, _ = socket.recv_fds(socket.socket(fileno=fd), 1, 1)
        shared = socket.socket(fileno=fd)
    else:
        shared = None if how == "reuseport" else listener(port, False)
    ready, tell = os.pipe()
    workers = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            end_with_parent()
            own = shared or listener(port, True)
            os.write(tell, b".")
            work(own, how, number)
        workers.append(pid)
        # One after the other, so that the group has them in this order.
        os.read(ready, 1)
        print(f"worker {pid}", flush=True)
    print("listening", flush=True)

    def start_anew(*_):
        if os.fork() == 0:
            end_with_parent()
            shared.set_inheritable(True)
            os.execv(sys.executable, [sys.executable, *sys.argv[:4], str(shared.fileno())])

    signal.signal(signal.SIGUSR2, start_anew)
    while True:
        signal.pause()


main()
