"""A server and a client that talk in every way that the library has, for runs in which something fails.

    faults.py all PORT STATIC [ROUNDS]    both, and a worker; says in JSON how it went
    faults.py serve PORT STATIC           the server, until its standard input ends
    faults.py connect PORT ROUNDS         the client; "3s" is for three seconds

An error is what programs expect of sockets, and ends one connection; a wrong byte, or an end that is not the stream's, is
never right. STATIC is a program without the library that sends back what comes on the descriptor that it is told.
"""

import collections
import errno
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time

# Who goes on with a connection that begins with this byte: the server itself, the same after a hand-back, a child, another
# program, a worker that gets it by SCM_RIGHTS.
WAYS = "eehhfsr"
LENGTH = 150_000
PIECE = 16_384
# Whoever has not ended by then hangs. The library waits for nobody longer than ten seconds.
PATIENCE = 30
TCP_INQ = 36


def body(number):
    """What connection so and so sends."""
    return random.Random(number).randbytes(LENGTH)


def name(error):
    return errno.errorcode.get(error.errno, str(error)) if error.errno else repr(error)


def echo(connection):
    """Blocking, as a child or worker does it."""
    connection.setblocking(True)
    while piece := connection.recv(PIECE):
        connection.sendall(piece)


class Server:
    """The main process: all that it does not give away, in one epoll set."""

    def __init__(self, port, static):
        self.static, self.children, self.errors = static, [], collections.Counter()
        here, there = socket.socketpair()
        self.worker = os.fork()
        if self.worker == 0:
            here.close()
            os._exit(work(there))
        there.close()
        self.door = here
        self.listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.listener, select.EPOLLIN)
        self.epoll.register(0, select.EPOLLIN)
        self.waiting = {}

    def run(self):
        while True:
            for fd, _events in self.epoll.poll(0.25):
                if fd == 0:
                    return self.end()
                if fd == self.listener.fileno():
                    self.accept()
                elif fd in self.waiting:
                    self.serve(fd)
            self.reap()

    def accept(self):
        try:
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            self.epoll.register(connection, select.EPOLLIN)
        except BlockingIOError:
            return
        except OSError as error:
            self.errors[f"accept {name(error)}"] += 1
            return
        self.waiting[connection.fileno()] = [connection, None, b""]

    def serve(self, fd):
        connection, way, _ = state = self.waiting[fd]
        try:
            if way is None:
                way = state[1] = connection.recv(1).decode()
                if way == "h":
                    connection.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 0)
                elif way in ("f", "s", "r"):
                    return self.give_away(connection, way)
            self.echo(state)
        except BlockingIOError:
            return self.wait_for(connection, select.EPOLLOUT if state[2] else select.EPOLLIN)
        except OSError as error:
            self.errors[f"{way} {name(error)}"] += 1
        return self.drop(connection)

    def wait_for(self, connection, events):
        try:
            self.epoll.modify(connection, events)
        except OSError as error:
            self.errors[f"epoll_ctl {name(error)}"] += 1
            self.drop(connection)

    @staticmethod
    def echo(state):
        """To the end of the stream, or until it would wait; what is received and not sent is kept."""
        while True:
            state[2] = state[2] or state[0].recv(PIECE)
            if not state[2]:
                return
            state[2] = state[2][state[0].send(state[2]):]

    def give_away(self, connection, way):
        try:
            connection.setblocking(True)
            if way == "f":
                pid = os.fork()
                if pid == 0:
                    os._exit(alone(connection))
                self.children.append(pid)
            elif way == "s":
                program = [self.static, str(connection.fileno())]
                self.children.append(subprocess.Popen(program, pass_fds=[connection.fileno()], stderr=subprocess.DEVNULL))
            else:
                socket.send_fds(self.door, [b"r"], [connection.fileno()])
        except OSError as error:
            self.errors[f"{way} {name(error)}"] += 1
        self.drop(connection)

    def drop(self, connection):
        del self.waiting[connection.fileno()]
        try:
            self.epoll.unregister(connection)
        except OSError as error:
            self.errors[f"epoll_ctl {name(error)}"] += 1
        try:
            connection.close()
        except OSError as error:
            self.errors[f"close {name(error)}"] += 1

    def reap(self):
        left = []
        for child in self.children:
            if isinstance(child, int):
                done, status = os.waitpid(child, os.WNOHANG)
                code = os.waitstatus_to_exitcode(status) if done else None
            else:
                code = child.poll()
            if code is None:
                left.append(child)
            elif code < 0:
                self.errors[f"killed by {signal.Signals(-code).name}"] += 1
            elif code:
                self.errors["a child's"] += 1
        self.children = left

    def end(self):
        deadline = time.monotonic() + PATIENCE / 2
        for connection, _, _ in list(self.waiting.values()):
            self.drop(connection)
        self.listener.close()
        self.door.close()
        while self.children and time.monotonic() < deadline:
            self.reap()
            select.select([], [], [], 0.005)
        code = os.waitstatus_to_exitcode(os.waitpid(self.worker, 0)[1])
        if code:
            self.errors["the worker's"] += code
        print(json.dumps({"errors": self.errors, "stuck": len(self.children)}), flush=True)


def alone(connection):
    """Goes on with a connection; how many errors there were."""
    try:
        echo(connection)
        connection.close()
    except OSError:
        return 1
    return 0


def work(door):
    """A worker: goes on with what it gets, one connection after the other."""
    errors = 0
    while True:
        try:
            byte, fds, _, _ = socket.recv_fds(door, 1, 1)
            if not byte:
                return errors
            for fd in fds:
                errors += alone(socket.socket(fileno=fd))
        except OSError:
            errors += 1


class Stream:
    """One connection of the client's."""

    def __init__(self, port, number):
        self.way = WAYS[number % len(WAYS)]
        self.out = self.way.encode() + body(number)[:LENGTH]
        self.sent, self.got, self.result = 0, bytearray(), None
        try:
            self.connection = socket.socket()
            if number % 2:
                self.connection.connect(("127.0.0.1", port))
                self.connection.setblocking(False)
            else:
                self.connection.setblocking(False)
                code = self.connection.connect_ex(("127.0.0.1", port))
                if code not in (0, errno.EINPROGRESS):
                    raise OSError(code, "connect")
        except OSError as error:
            self.over(f"connect {name(error)}")

    def wants(self):
        return select.POLLIN | (select.POLLOUT if self.sent < len(self.out) else 0)

    def go_on(self, events):
        try:
            if self.sent < len(self.out) and events & (select.POLLOUT | select.POLLERR | select.POLLHUP):
                self.sent += self.connection.send(self.out[self.sent:self.sent + PIECE])
                if self.sent == len(self.out):
                    self.connection.shutdown(socket.SHUT_WR)
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                piece = self.connection.recv(4 * PIECE)
                self.got += piece
                if not piece:
                    self.over("whole" if self.got == self.out[1:] else "end")
        except BlockingIOError:
            pass
        except OSError as error:
            self.over(name(error))

    def over(self, result):
        if not self.out[1:].startswith(self.got):
            result = f"wrong bytes among {len(self.got)}, then {result}"
        elif result == "end":
            result = f"an end after {len(self.got)} bytes of {LENGTH}"
        self.result = f"{self.way} {result}" if result != "whole" else result
        try:
            self.connection.close()
        except OSError:
            pass


def together(streams, deadline, waits):
    """Moves all of them until they are over."""
    while live := {s.connection.fileno(): s for s in streams if s.result is None}:
        if time.monotonic() > deadline:
            for stream in live.values():
                stream.result = f"{stream.way} stuck: {stream.sent} sent, {len(stream.got)} received"
            return
        for fd, events in waits(live):
            live[fd].go_on(events)


def by_poll(live):
    poll = select.poll()
    for fd, stream in live.items():
        poll.register(fd, stream.wants())
    return poll.poll(250)


def by_select(live):
    writers = [fd for fd, stream in live.items() if stream.wants() & select.POLLOUT]
    readable, writable, _ = select.select(live, writers, [], 0.25)
    return ([(fd, select.POLLIN) for fd in readable] + [(fd, select.POLLOUT) for fd in writable if fd not in readable])


def ping(port, results):
    """Blocking calls, small messages."""
    try:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            # A timeout of the kernel's own: calls block all the same.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", PATIENCE // 3, 0))
            connection.sendall(b"e")
            for number in range(50):
                message = number.to_bytes(2, "big") * 32
                connection.sendall(message)
                got = connection.recv(len(message), socket.MSG_WAITALL)
                if got != message:
                    results[f"ping: {len(got)} bytes of {len(message)}, right: {message.startswith(got)}"] += 1
                    return
        results["whole"] += 1
    except OSError as error:
        results[f"ping {name(error)}"] += 1


def connect(port, rounds):
    """So many rounds, or for so many seconds ("3s")."""
    results, begun, number = collections.Counter(), time.monotonic(), 0
    deadline = begun + PATIENCE
    while number < int(rounds) if rounds.isdigit() else time.monotonic() < begun + float(rounds[:-1]):
        ping(port, results)
        streams = [Stream(port, n) for n in range(len(WAYS))]
        together(streams, deadline, by_select if number % 2 else by_poll)
        results.update(stream.result for stream in streams)
        number += 1
    print(json.dumps(results), flush=True)


def part(*words):
    """One of the two, as a process that a word in the environment may put something before."""
    before = os.environ.get(f"FAULTS_{words[0].upper()}", "").split()
    preload = " ".join(filter(None, [os.environ.get("FAULTS_ALSO_PRELOAD"), os.environ.get("FAULTS_PRELOAD", "")]))
    program = ["env", f"LD_PRELOAD={preload}", sys.executable, "-B", __file__, *words]
    return subprocess.Popen([*before, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def disturb(server, client):
    """Has a shell do to them what it is told."""
    what = os.environ.get("FAULTS_DISTURB")
    if not what:
        return None
    numbers = {"SERVER": str(server.pid), "CLIENT": str(client.pid)}
    return subprocess.Popen(["sh", "-c", f"sleep 0.5; {what}"], env={**os.environ, **numbers}, stdin=subprocess.DEVNULL,
                            stdout=sys.stderr)


def ended(process, said, name):
    """What it says at its end."""
    try:
        out, _ = process.communicate(timeout=PATIENCE + 10)
        said.setdefault(name, json.loads(out) if out else {})
    except subprocess.TimeoutExpired:
        said[name] = {"it hangs": 1} if name == "client" else {"errors": {"it hangs": 1}}
        process.kill()
    said[f"{name}_code"] = process.wait()


def both(port, static, rounds):
    """The server, then the client, then their ends."""
    server, said = part("serve", port, static), {"client_code": 0}
    first = server.stdout.readline()
    if first == "listening\n":
        client = part("connect", port, rounds)
        disturbance = disturb(server, client)
        ended(client, said, "client")
        if disturbance:
            said["disturbance"] = disturbance.wait(PATIENCE)
    else:
        said["server"] = json.loads(first) if first else {}
    ended(server, said, "server")
    print(json.dumps(said), flush=True)


match sys.argv[1]:
    case "all":
        both(sys.argv[2], sys.argv[3], (sys.argv[4:] or ["2"])[0])
    case "serve":
        try:
            server = Server(int(sys.argv[2]), sys.argv[3])
        except OSError as failed:
            # A program that finds no memory or descriptors for its server ends.
            print(json.dumps({"errors": {f"start {name(failed)}": 1}}), flush=True)
            os._exit(0)
        print("listening", flush=True)
        server.run()
    case "connect":
        connect(int(sys.argv[2]), sys.argv[3])
