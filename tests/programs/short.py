"""Short connections: `short.py serve PORT thread|fork|some` answers each request of a connection, in a thread or a child process of
its own, or every third itself and the others in children; `short.py PORT` is the client, and reads commands from standard input:

short N: N connections, one after the other, with a request each
long N: one connection with N requests, closed after them
keep N: N connections with one request each, that stay open
"""

import itertools
import os
import signal
import socket
import sys
import threading

SIZE = 64


def receive(connection):
    got = b""
    while len(got) < SIZE:
        piece = connection.recv(SIZE - len(got))
        if not piece:
            assert not got, "the end within a request"
            return None
        got += piece
    return got


def answer(connection):
    while request := receive(connection):
        connection.sendall(request[::-1])


def serve(port, how):
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("listening", flush=True)
    for number in itertools.count():
        connection, _ = listener.accept()
        if how == "thread":
            threading.Thread(target=lambda c: (answer(c), c.close()), args=(connection,), daemon=True).start()
            continue
        if how == "some" and number % 3 == 2:
            answer(connection)
            connection.close()
            continue
        if os.fork() == 0:
            listener.close()
            answer(connection)
            os._exit(0)
        connection.close()


def ask(connection, number):
    request = f"request {number} ".encode().ljust(SIZE, b"-")
    connection.sendall(request)
    assert receive(connection) == request[::-1], f"a wrong answer to request {number}"


def client(port):
    kept = []
    for line in sys.stdin:
        what, number = line.split()
        number = int(number)
        if what == "long":
            with socket.create_connection(("127.0.0.1", port)) as connection:
                for request in range(number):
                    ask(connection, request)
        for request in range(0 if what == "long" else number):
            connection = socket.create_connection(("127.0.0.1", port))
            ask(connection, request)
            if what == "keep":
                kept.append(connection)
            else:
                connection.close()
        print(what, number, flush=True)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]), sys.argv[3])
else:
    client(int(sys.argv[1]))
