"""A server that forks after clients have come, and its clients: who has connected is served by whichever process accepts.

    shared_queue.py serve PORT HOW BACKLOG
    shared_queue.py connect PORT COUNT [closes | crowded]

The server listens, says "listening", and at a line of its input forks two workers, which send back what has come when it ends; then, HOW:
it keeps its listener and never accepts, closes it, has asked it for connections before and closes it (asked), or ends.
HOW may also be "command": it does not fork but runs a command, and then accepts itself. Workers say how many bytes they
have read of each connection, and end with their input.

The client makes COUNT connections at once, one more after the other has been answered, sends 40000 bytes on each, says
"sent", and at a line of its input reads them back and says how many were whole. If it closes, it closes each when all is
sent; crowded: the server has no room for all of them.
"""

import os
import random
import select
import socket
import sys
import threading

SIZE = 40000
role, port = sys.argv[1], int(sys.argv[2])


def echo(connection):
    with connection:
        data = b""
        while piece := connection.recv(65536):
            data += piece
        os.write(1, b"read %d\n" % len(data))
        try:
            connection.sendall(data)
        except OSError:
            pass  # Its client has closed it.


def work(listener):
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            return
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue
        connection.setblocking(True)
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def serve(how, backlog):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(backlog)
    if how == "asked":
        select.select([listener], [], [], 0)
    if how == "command":
        listener.set_inheritable(True)
    else:
        listener.setblocking(False)
    print("listening", flush=True)
    while os.read(0, 1) != b"\n":
        pass
    if how == "command":
        os.system("true")
        work(listener)
        return
    workers = []
    for _ in range(2):
        workers.append(os.fork())
        if workers[-1] == 0:
            work(listener)
            os._exit(0)
    if how == "ends":
        os._exit(0)
    if how != "keeps":
        listener.close()
    for worker in workers:
        os.waitpid(worker, 0)


def connect(count, closes, crowded):
    made = [None] * count

    def one(number):
        made[number] = socket.create_connection(("127.0.0.1", port), timeout=100)
        made[number].sendall(random.Random(number).randbytes(SIZE))
        if closes:
            made[number].close()

    def several(numbers):
        threads = [threading.Thread(target=one, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        return threads

    # The first makes contact, the others find a link, as far as they are let in.
    for thread in several(range(1)):
        thread.join()
    threads = several(range(1, count))
    for thread in threads:
        # Where there is no room for all, some are let in later.
        thread.join(0.3 if crowded else None)
    print("sent", flush=True)
    sys.stdin.readline()
    for thread in threads:
        thread.join()
    whole = 0
    for number, connection in enumerate(made):
        if closes:
            continue
        connection.shutdown(socket.SHUT_WR)
        data = b""
        try:
            while piece := connection.recv(65536):
                data += piece
        except OSError as error:
            print(f"connection {number}: {error} after {len(data)} bytes", file=sys.stderr)
        whole += data == random.Random(number).randbytes(SIZE)
    print(whole, "whole", flush=True)
    # Its counters can be looked at.
    sys.stdin.readline()


if role == "serve":
    serve(sys.argv[3], int(sys.argv[4]))
else:
    connect(int(sys.argv[3]), "closes" in sys.argv, "crowded" in sys.argv)
