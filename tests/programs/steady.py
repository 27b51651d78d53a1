"""An application that goes on, whatever hits it or its library, and checks every byte.

serve PORT       echoes each connection until it ends, and says what went wrong, until a line comes
connect PORT N   sends and receives on N connections, one after the other, and says of each whether it was whole or how it ended;
                 then waits for a line
stream PORT      sends and receives on one connection until a line comes, and says how it went
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
    listener.listen(512)
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


def there_and_back(connection, sent):
    connection.sendall(sent)
    got = b""
    while len(got) < len(sent):
        more = connection.recv(len(sent) - len(got))
        if not more:
            return "ended"
        got += more
    return "whole" if got == sent else "GARBLED"


def stream(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(60)
    print("connected", flush=True)
    times = 0
    how = "whole"
    while how == "whole" and not select.select([sys.stdin], [], [], 0)[0]:
        how = there_and_back(connection, os.urandom(20_000))
        times += 1
    print(how, times, flush=True)
    # The line that has ended it, and the one that ends the process.
    sys.stdin.readline()
    sys.stdin.readline()


def once(port):
    connection = None
    try:
        connection = socket.socket()
        connection.settimeout(20)
        connection.connect(("127.0.0.1", port))
        for size in (1, 1000, 100_000):
            how = there_and_back(connection, os.urandom(size))
            if how != "whole":
                return how
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


role, arguments = sys.argv[1], [int(argument) for argument in sys.argv[2:]]
{"serve": serve, "connect": connect, "stream": stream}[role](*arguments)
