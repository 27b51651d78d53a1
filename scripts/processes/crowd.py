"""`crowd.py PORT COUNT`: so many connections to a redis-server, which stay. For each line of standard input it sets and gets
a value on each of them, and says how many were right."""

import socket
import sys

PORT, COUNT = int(sys.argv[1]), int(sys.argv[2])


def answer(connection, wanted):
    """Whether that is what comes next."""
    got = b""
    while len(got) < len(wanted):
        piece = connection.recv(len(wanted) - len(got))
        if not piece:
            return False
        got += piece
    return got == wanted


def main():
    crowd = []
    for number in range(COUNT):
        connection = socket.create_connection(("127.0.0.1", PORT), timeout=60)
        connection.sendall(b"PING\r\n")
        if not answer(connection, b"+PONG\r\n"):
            sys.exit(f"connection {number} gives no answer")
        crowd.append(connection)
    print("connected", flush=True)
    for turn, _ in enumerate(sys.stdin):
        for number, connection in enumerate(crowd):
            connection.sendall(b"SET crowd:%d %d-%d\r\nGET crowd:%d\r\n" % (number, turn, number, number))
        right = 0
        for number, connection in enumerate(crowd):
            value = b"%d-%d" % (turn, number)
            right += answer(connection, b"+OK\r\n$%d\r\n%s\r\n" % (len(value), value))
        print(right, flush=True)


main()
