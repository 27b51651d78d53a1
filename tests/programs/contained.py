"""An application whose library has a defect: it goes on, whatever the defect hits.

serve PORT       echoes each connection until it ends; says 'port' first and what went wrong with connections
connect PORT N   sends and receives on N connections, one after the other, and says of each whether it was whole or how it ended;
                 then waits for a line
"""

import os
import select
import socket
import sys
import threading


def name(error):
    import errno

    return errno.errorcode.get(error.errno, str(error))


def echo(connection):
    try:
        while data := connection.recv(65536):
            connection.sendall(data)
    except OSError as error:
        print("connection", name(error), flush=True)
    finally:
        try:
            connection.close()
        except OSError as error:
            print("close", name(error), flush=True)


def serve(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(16)
    waits = select.epoll()
    waits.register(listener, select.EPOLLIN)
    while True:
        waits.poll()
        try:
            connection, _ = listener.accept()
        except OSError as error:
            print("accept", name(error), flush=True)
            continue
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def once(port):
    connection = socket.socket()
    try:
        connection.settimeout(20)
        connection.connect(("127.0.0.1", port))
        for size in (1, 1000, 100_000):
            sent = os.urandom(size)
            connection.sendall(sent)
            got = b""
            while len(got) < size:
                more = connection.recv(size - len(got))
                if not more:
                    return "ended"
                got += more
            if got != sent:
                return "GARBLED"
        return "whole"
    except socket.timeout:
        return "TIMED OUT"
    except OSError as error:
        return name(error)
    finally:
        try:
            connection.close()
        except OSError as error:
            print("close", name(error), flush=True)


def connect(port, count):
    for _ in range(count):
        print(once(port), flush=True)
    print("done", flush=True)
    sys.stdin.readline()


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    connect(int(sys.argv[2]), int(sys.argv[3]))
