"""TCP connections, one step after the other.

    steps.py PORT serve           echoes what comes, at every address of both families, until SIGUSR1
    steps.py PORT STEP...         goes through the steps:

    open ADDRESS N     opens N more connections to the server at an address
    talk BYTES         sends so many random bytes on each connection, all at once, and checks what comes back
    close              closes all connections
    fork               talks while there is a forked child, which tries what it inherited and opens its own
    pause              says so, with a number, and waits for SIGUSR1
"""

import errno
import os
import random
import selectors
import signal
import socket
import socketserver
import sys
import threading

# For every thread.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
PORT = int(sys.argv[1])


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        say("accepted", name(self.request.getpeername()), name(self.request.getsockname()))
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def say(*words):
    # In one piece: threads write at once.
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def name(address):
    """ADDRESS:PORT, with the port for the server's only."""
    return f"{address[0]}:{address[1]}" if address[1] == PORT else address[0]


def connect(address):
    connection = socket.create_connection((address, PORT))
    say("open", name(connection.getsockname()), name(connection.getpeername()))
    return connection


def talk(connections, size):
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE,
                              [memoryview(random.randbytes(size)), 0, 0])
        left = len(connections)
        while left:
            for key, events in selector.select():
                data, sent, received = key.data
                if events & selectors.EVENT_WRITE:
                    try:
                        key.data[1] = sent = sent + key.fileobj.send(data[sent:sent + (1 << 16)])
                    except BlockingIOError:
                        pass  # another connection of the same link was faster
                    if sent == size:
                        selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
                if events & selectors.EVENT_READ:
                    piece = key.fileobj.recv(1 << 16)
                    assert piece, f"the end after {received} of {size} bytes"
                    assert piece == data[received:received + len(piece)], f"wrong bytes after {received}"
                    key.data[2] = received = received + len(piece)
                    left -= received == size
    for connection in connections:
        connection.setblocking(True)


def outcome(call):
    try:
        return f"{call()} bytes"
    except OSError as error:
        return errno.errorcode[error.errno]


def with_a_child(connections):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        address = connections[0].getpeername()[0]
        for connection in connections:
            # Over kernel TCP both processes have the same stream.
            if "LD_PRELOAD" in os.environ:
                say("inherited", outcome(lambda: connection.send(b"x")), outcome(lambda: connection.recv(1)))
            connection.close()
        own = connect(address)
        talk([own], 100_000)
        # Until the parent is done.
        os.close(writing)
        os.read(reading, 1)
        talk([own], 100_000)
        os._exit(7)
    talk(connections, 300_000)
    os.close(writing)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    talk(connections, 300_000)
    say("fork: the child ended with", code)


def main(words):
    connections, pauses = [], 0
    for word in words:
        match word:
            case "open":
                address = next(words)
                connections += [connect(address) for _ in range(int(next(words)))]
            case "talk":
                talk(connections, int(next(words)))
            case "close":
                for connection in connections:
                    connection.close()
                connections = []
            case "fork":
                with_a_child(connections)
            case "pause":
                pauses += 1
                say("pause", pauses)
                signal.sigwait({signal.SIGUSR1})
            case _:
                sys.exit(f"no step '{word}'")


if sys.argv[2] == "serve":
    server = Server(("::", PORT), Echo)
    threading.Thread(target=server.serve_forever).start()
    say("listening")
    signal.sigwait({signal.SIGUSR1})
    os._exit(0)
main(iter(sys.argv[2:]))
