"""An application whose library has a defect: it goes on, whatever the defect hits.

serve PORT       echoes each connection until it ends, and says what went wrong, until a line comes
connect PORT N   sends and receives on N connections, one after the other, and says of each whether it was whole or how it ended;
                 then waits for a line
"""

import errno
import os
import select
import socket
import sys
import threading


def name(error):
    return errno.errorcode.get(error.errno, str(error))


def close(connection):
    try:
        if connection:
            connection.close()
    except OSError as error:
        print("close", name(error), flush=True)


def echo(connection):
    try:
        while data := connection.recv(65536):
            connection.sendall(data)
    except OSError as error:
        print("connection", name(error), flush=True)
    finally:
        close(connection)


def serve(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(16)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    sys.stdin.readline()


def accept(listener):
    waits = select.epoll()
    waits.register(listener, select.EPOLLIN)
    while True:
        try:
            waits.poll()
            connection, _ = listener.accept()
        except OSError as error:
            print("listener", name(error), flush=True)
            continue
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def once(port):
    connection = None
    try:
        connection = socket.socket()
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
        close(connection)


def connect(port, count):
    for _ in range(count):
        print(once(port), flush=True)
    print("done", flush=True)
    sys.stdin.readline()


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    connect(int(sys.argv[2]), int(sys.argv[3]))
