"""Both ends of connections that are handed back to the kernel while both sides send at full rate.

    hand_back.py serve|connect|self PORT [ADDRESS [LENGTH]]

Each side of each connection sends a stream of its own and checks the other's, byte for byte. An option that only
the kernel can honour has the connection handed back: set by nobody, the client, the server, or both; before, in
the middle of, or at the end of the streams. Or the connection is passed (SCM_RIGHTS), so that the kernel's must have what
nobody has read, too. Odd connections are non-blocking and wait by epoll.
"""

import hashlib
import random
import selectors
import socket
import sys
import threading

CONNECTIONS = 24
ADDRESS = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"
LENGTH = int(sys.argv[4]) if len(sys.argv) > 4 else 6_000_000
TCP_INQ = 36
WHO = ("nobody", "client", "server", "both")


def stream(side, number):
    """What `side` sends on connection `number`."""
    seed = hashlib.sha256(f"{side} {number}".encode()).digest()
    block = b"".join(hashlib.sha256(seed + bytes([i])).digest() for i in range(256)) * 8
    # Blocks of an odd length: no two stretches of the stream look alike at the same offset.
    return (block[:-7] * (LENGTH // len(block) + 1))[:LENGTH]


class End:
    """One end of one connection."""

    def __init__(self, side, number, connection):
        self.connection = connection
        self.out = stream(side, number)
        self.expected = stream("server" if side == "client" else "client", number)
        self.sent = self.got = 0
        self.luck = random.Random(f"{side} {number}")
        asked = WHO[number // 2 % 4] in (side, "both")
        # In the middle of the streams, with each third at their very beginning or end.
        at = (0, self.luck.randrange(LENGTH), LENGTH)[self.luck.randrange(3)]
        self.hand_back_at = at if asked else None
        # An option at both ends, passed at both, and one of each.
        self.passes = (False, True, side == "server")[number // 8 % 3]

    def perhaps_hand_back(self):
        if self.hand_back_at is not None and self.sent >= self.hand_back_at:
            self.hand_back_at = None
            if not self.passes:
                self.connection.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 0)
                return
            here, there = socket.socketpair()
            socket.send_fds(here, [b"x"], [self.connection.fileno()])
            here.close()
            there.close()

    def next_piece(self):
        return self.out[self.sent:self.sent + self.luck.choice((1, 100, 4096, 65536, 300_000))]

    def take(self, piece):
        assert piece == self.expected[self.got:self.got + len(piece)], f"wrong bytes at {self.got}"
        self.got += len(piece)

    def finish(self):
        """The whole stream has come, and its end."""
        assert self.got == LENGTH, f"{self.got} bytes and then the end"

    def blocking(self):
        def send():
            while self.sent < LENGTH:
                self.perhaps_hand_back()
                piece = self.next_piece()
                self.connection.sendall(piece)
                self.sent += len(piece)
            self.perhaps_hand_back()
            self.connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        while True:
            if self.luck.randrange(4) == 0:
                want = min(self.luck.randrange(1, 200_000), LENGTH - self.got)
                piece = self.connection.recv(want, socket.MSG_WAITALL) if want else self.connection.recv(1)
                assert not want or len(piece) == want, f"MSG_WAITALL gave {len(piece)} of {want}"
            else:
                piece = self.connection.recv(self.luck.choice((1, 1000, 100_000)))
            if not piece:
                break
            self.take(piece)
        sender.join()
        self.finish()

    def by_epoll(self):
        self.connection.setblocking(False)
        waiting = selectors.EpollSelector()
        waiting.register(self.connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        ended = False
        while not ended or self.sent < LENGTH:
            for _, events in waiting.select(60) or [(None, None)]:
                assert events is not None, f"no event: sent {self.sent}, got {self.got}"
                if events & selectors.EVENT_WRITE:
                    self.perhaps_hand_back()
                    try:
                        self.sent += self.connection.send(self.next_piece())
                    except BlockingIOError:
                        pass
                    if self.sent == LENGTH:
                        self.perhaps_hand_back()
                        self.connection.shutdown(socket.SHUT_WR)
                        if not ended:
                            waiting.modify(self.connection, selectors.EVENT_READ)
                if events & selectors.EVENT_READ and not ended:
                    try:
                        piece = self.connection.recv(self.luck.choice((1, 1000, 100_000)))
                    except BlockingIOError:
                        continue
                    self.take(piece)
                    ended = not piece
                    if ended and self.sent < LENGTH:
                        waiting.modify(self.connection, selectors.EVENT_WRITE)
        self.finish()


def run(side, number, connection, results):
    end = End(side, number, connection)
    try:
        end.by_epoll() if number % 2 else end.blocking()
        results[number] = "whole"
    except (AssertionError, OSError) as error:
        results[number] = f"{side} {number}: {error!r} (sent {end.sent}, got {end.got})"
    # Whoever is done first waits for the other before it closes.
    connection.close()


def listen(port):
    listener = socket.create_server((ADDRESS, port), backlog=64)
    print("ready", flush=True)
    return listener


def ends(side, port, results, listener=None):
    """All connections of one side, until they are over."""
    threads = []
    for _ in range(CONNECTIONS):
        if side == "server":
            connection, _ = listener.accept()
            number = connection.recv(1)[0]
        else:
            connection = socket.create_connection((ADDRESS, port))
            number = len(threads)
            connection.sendall(bytes([number]))
        threads.append(threading.Thread(target=run, args=(side, number, connection, results)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def main():
    port = int(sys.argv[2])
    results = {}
    match sys.argv[1]:
        case "serve":
            ends("server", port, results, listen(port))
        case "connect":
            ends("client", port, results)
        case "self":
            accepted = {}
            server = threading.Thread(target=ends, args=("server", port, accepted, listen(port)))
            server.start()
            ends("client", port, results)
            server.join()
            results |= {CONNECTIONS + number: result for number, result in accepted.items()}
    for number in sorted(results):
        print(number, results[number], flush=True)
    print("over", flush=True)
    # Until the counters were read.
    sys.stdin.read()


main()
