"""`client.py PORT SECONDS`: connections one after the other, ten messages each that must come back; prints how many a
second. `client.py PORT serve`: a server that forks for each connection."""

import os
import socket
import socketserver
import sys
import time

MESSAGES, SIZE = 10, 100


class Echo(socketserver.BaseRequestHandler):
    """In the child."""

    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ForkingTCPServer):
    allow_reuse_address = True
    max_children = 1000


def converse(port, number):
    """One connection."""
    message = number.to_bytes(8, "big") * (SIZE // 8)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for _ in range(MESSAGES):
            connection.sendall(message)
            got = b""
            while len(got) < len(message):
                piece = connection.recv(65536)
                if not piece:
                    sys.exit(f"connection {number} ended early")
                got += piece
            if got != message:
                sys.exit(f"connection {number} answers with something else")


def main():
    port = int(sys.argv[1])
    if sys.argv[2] == "serve":
        Server(("127.0.0.1", port), Echo).serve_forever()
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < float(sys.argv[2]):
        converse(port, count)
        count += 1
    print(count / (time.monotonic() - begun))
    sys.stdout.flush()
    os._exit(0)


main()
