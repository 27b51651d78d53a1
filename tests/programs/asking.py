"""Connections one by one: a server that sends each client back what it sends, and a client that is told where to connect.

    asking.py serve HOST PORT    prints "listening"
    asking.py ask                for each line "HOST PORT" prints "answered"; the connections stay open
                                 if a third word follows, it first has the connection handed back to the kernel"""

import socket
import sys
import threading


def answer(connection):
    while data := connection.recv(100):
        connection.sendall(data)


def serve(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, int(port)), family=family, dualstack_ipv6=host == "::") as listener:
        print("listening", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def ask():
    connections = []
    for line in sys.stdin:
        host, port, *hand_back = line.split()
        connection = socket.create_connection((host, int(port)))
        connections.append(connection)
        if hand_back:
            connection.setsockopt(socket.SOL_SOCKET, 29, 1)  # SO_TIMESTAMP
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        print("answered", flush=True)


{"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
