"""Connections that change hands all the time, between processes that come and go.

    chaos.py serve PORT SECONDS SEED STATIC     serves: sends back what comes, from ever other processes
    chaos.py connect PORT SECONDS SEED          sends streams until the time is over, and checks what comes back
    chaos.py go-on FD SEED DEPTH STATIC         a server's program that has got a connection

Whoever serves a connection sends back some of it, and then goes on, or gives it to a child, to another program (preloaded
or static), or to a worker (SCM_RIGHTS). Workers are killed now and then: only streams whose first byte says so go there.
What the server and its children leave behind when all is over is counted.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

DEEPEST = 3
# Descriptors that a process makes once, when it first needs them.
SOME = 8
MORTAL, IMMORTAL = b"m", b"i"


def say(text):
    os.write(1, f"{text}\n".encode())


class Server:
    """What a process needs to serve a connection and to give it away."""

    def __init__(self, seed, static, workers=()):
        self.luck = random.Random(seed)
        self.static = static
        self.workers = list(workers)

    def some(self, connection):
        """Sends some of it back. False at the end."""
        left = self.luck.choice((1, 500, 20_000, 150_000))
        while left > 0:
            piece = connection.recv(min(left, self.luck.choice((1, 4096, 65536))))
            if not piece:
                return False
            connection.sendall(piece)
            left -= len(piece)
        return True

    def serve(self, connection, mortal, depth=0):
        while self.some(connection):
            if depth == DEEPEST:
                continue
            ways = [self.stay, self.child, self.child_program, self.program, self.static_program]
            if mortal and self.workers:
                ways.append(self.worker)
            if self.luck.choice(ways)(connection, mortal, depth + 1):
                return
        # Its end comes when the last one closes it.
        connection.close()

    def stay(self, connection, mortal, depth):
        # Commands inherit it and never use it.
        connection.set_inheritable(True)
        os.system("true")
        return False

    def child(self, connection, mortal, depth):
        seed = self.luck.random()
        if os.fork() == 0:
            try:
                Server(seed, self.static).serve(connection, mortal, depth)
            except OSError as error:
                say(f"child: {error}")
            os._exit(0)
        connection.close()
        return True

    def words(self, connection, depth):
        return [sys.executable, sys.argv[0], "go-on", str(connection.fileno()), str(self.luck.random()), str(depth), self.static]

    def child_program(self, connection, mortal, depth):
        words = self.words(connection, depth)
        if os.fork() == 0:
            connection.set_inheritable(True)
            os.execv(words[0], words)
        connection.close()
        return True

    def program(self, connection, mortal, depth):
        subprocess.Popen(self.words(connection, depth), pass_fds=[connection.fileno()])
        connection.close()
        return True

    def static_program(self, connection, mortal, depth):
        subprocess.Popen([self.static, "0"], stdin=connection)
        connection.close()
        return True

    def worker(self, connection, mortal, depth):
        try:
            socket.send_fds(self.luck.choice(self.workers), [b"x"], [connection.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            # Just killed: so be it.
            pass
        connection.close()
        return True


class Worker:
    """A process that serves what is passed to it, until it is killed."""

    def __init__(self, seed, static):
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid:
            other.close()
            return
        self.socket.close()
        while True:
            message, fds, _, _ = socket.recv_fds(other, 1, 1)
            if not message:
                os._exit(0)
            for fd in fds:
                connection = socket.socket(fileno=fd)
                seed = random.Random(seed).random()
                threading.Thread(target=serve_mortal, args=(seed, static, connection), daemon=True).start()


def serve_mortal(seed, static, connection):
    try:
        Server(seed, static).serve(connection, True, DEEPEST)
    except OSError:
        pass


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def open_files():
    return len(os.listdir("/proc/self/fd"))


def serve(port, seconds, seed, static):
    luck = random.Random(seed)
    workers = [Worker(luck.random(), static) for _ in range(2)]
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    listener.settimeout(0.2)
    server = Server(luck.random(), static, [w.socket for w in workers])
    killed, end, before = 0, time.monotonic() + seconds, None
    # The client ends first, and says so.
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            connection = None
        reap()
        if connection:
            connection.setblocking(True)
            kind = connection.recv(1)
            if kind == b"e":
                break
            server.serve(connection, kind == MORTAL)
            before = before or open_files()
        if time.monotonic() < end and luck.randrange(40) == 0:
            at = luck.randrange(len(workers))
            os.kill(workers[at].pid, signal.SIGKILL)
            killed += 1
            server.workers[at].close()
            workers[at] = Worker(luck.random(), static)
            server.workers[at] = workers[at].socket
    for worker in workers:
        worker.socket.close()
        os.kill(worker.pid, signal.SIGKILL)
    connection.close()
    deadline = time.monotonic() + 60
    while (reap() or open_files() > before + SOME) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = "children" if reap() else "no child"
    print(f"{children} and {max(open_files() - before - SOME, 0)} descriptors left", flush=True)
    sys.stdin.readline()


def go_on(fd, seed, depth, static):
    Server(seed, static).serve(socket.socket(fileno=fd), False, depth)


class Stream:
    """One connection of the client's."""

    def __init__(self, port, luck):
        self.mortal = luck.randrange(3) == 0
        self.out = luck.randbytes(luck.choice((1, 3000, 100_000, 500_000)))
        self.pieces = luck.choice((100, 10_000, 1_000_000))
        self.connection = socket.create_connection(("127.0.0.1", port))

    def send(self):
        try:
            self.connection.sendall(MORTAL if self.mortal else IMMORTAL)
            for at in range(0, len(self.out), self.pieces):
                self.connection.sendall(self.out[at:at + self.pieces])
            self.connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.failed = error

    def run(self):
        """What became of it."""
        self.failed = None
        sender = threading.Thread(target=self.send)
        sender.start()
        self.connection.settimeout(90)
        got = b""
        try:
            while piece := self.connection.recv(65536):
                got += piece
        except OSError as error:
            self.failed = error
        sender.join()
        self.connection.close()
        if got == self.out and not self.failed:
            return "whole"
        if self.mortal and self.out.startswith(got) and not isinstance(self.failed, TimeoutError):
            return "cut"
        return f"{self.failed!r} after {len(got)} of {len(self.out)} bytes, equal: {self.out.startswith(got)}"


def connect(port, seconds, seed):
    end, results, lock = time.monotonic() + seconds, {}, threading.Lock()

    def streams(luck):
        while time.monotonic() < end:
            try:
                result = Stream(port, luck).run()
            except OSError as error:
                result = f"cannot connect: {error}"
            with lock:
                results[result] = results.get(result, 0) + 1
    threads = [threading.Thread(target=streams, args=(random.Random(f"{seed} {n}"),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    socket.create_connection(("127.0.0.1", port)).sendall(b"e")
    whole, cut = results.pop("whole", 0), results.pop("cut", 0)
    print(f"{whole} whole, {cut} cut", flush=True)
    for result, count in results.items():
        print(f"{count} times {result}", flush=True)
    sys.stdin.readline()


match sys.argv[1]:
    case "serve":
        serve(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5])
    case "connect":
        connect(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
    case "go-on":
        go_on(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
