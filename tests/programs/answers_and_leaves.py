"""answers_and_leaves.py serve|ask ADDRESS PORT: a server that answers two clients in one turn of its event loop, says
more to the first, and never comes back to its event loop; a client that wants to hear all of it.

Both end when their standard input does."""

import select
import socket
import sys
import time

MORE = 20


def serve(address):
    with socket.create_server(address) as listener:
        clients = [listener.accept()[0] for _ in range(2)]
    with select.epoll() as loop:
        for client in clients:
            loop.register(client, select.EPOLLIN)
        # Until both have asked: nothing is read before.
        while len(loop.poll()) < 2:
            time.sleep(0.001)
        for client in clients:
            client.sendall(b"answer")
        for _ in range(MORE):
            time.sleep(0.002)
            clients[0].sendall(b"more")
        print("served", flush=True)
        sys.stdin.read()


def ask(address):
    servers = [socket.create_connection(address) for _ in range(2)]
    for server in servers:
        server.sendall(b"question")
    # The second first: no answer waits for another one to be read.
    for server, wanted in zip(reversed(servers), (b"answer", b"answer" + MORE * b"more")):
        heard = b""
        while len(heard) < len(wanted):
            piece = server.recv(100)
            if not piece:
                sys.exit(f"the server left after {heard}")
            heard += piece
        if heard != wanted:
            sys.exit(f"heard {heard}, wanted {wanted}")
    print("heard", flush=True)
    sys.stdin.read()


role, host, port = sys.argv[1:]
{"serve": serve, "ask": ask}[role]((host, int(port)))
