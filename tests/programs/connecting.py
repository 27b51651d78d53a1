"""Connects without blocking to one port after the other, and looks at what epoll tells of each connection until it is
established. Prints how many were never told to be anything else than ready for writing, and took what was written.

    connecting.py FIRST COUNT"""

import select
import socket
import sys


def connects(port):
    with socket.socket() as connecting, select.epoll() as epoll:
        connecting.setblocking(False)
        epoll.register(connecting, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP)
        # A socket that nobody has connected is hung up; what is told from here on is about the connection.
        epoll.poll(0)
        try:
            connecting.connect(("127.0.0.1", port))
        except BlockingIOError:
            pass
        told = epoll.poll(20)
        try:
            return [events for _, events in told] == [select.EPOLLOUT] and connecting.send(b"x") == 1
        except OSError as error:
            print(f"port {port}: told {told}, {error}", file=sys.stderr)
            return False


def main(first, count):
    print(sum(connects(port) for port in range(first, first + count)), "of", count)


main(*map(int, sys.argv[1:]))
