"""Workers that share a listener and cannot always accept, and their client.

    busy_workers.py stalls PORT
    busy_workers.py full PORT
    busy_workers.py again PORT TIMES
    busy_workers.py client PORT SECONDS

stalls: one worker, which at a line "stop" of its input accepts nobody until the next line. full: two workers, which at SIGUSR1
have a single descriptor left, and say "full". Each worker says "worker PID" and sends back what comes. again: a server that has forked closes
its listener and listens anew at the same place, so often; then it says "done".

The client connects at each line of its input, waits for SECONDS at most until it is connected, and says "connected"; if
the line is "talk", it has what it sends sent back, and says "answered".
"""

import os
import resource
import select
import signal
import socket
import sys
import threading
import time

role, port = sys.argv[1], int(sys.argv[2])


def listener():
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    made.listen(64)
    return made


def echo(connection):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def await_line():
    """Whether one has come before the end of the input."""
    while character := os.read(0, 1):
        if character == b"\n":
            return True
    return False


def work(listening):
    while True:
        ready, _, _ = select.select([listening, 0], [], [])
        if 0 in ready:
            if not await_line():
                return
            print("stopped", flush=True)
            if not await_line():
                return
            print("goes on", flush=True)
            continue
        try:
            connection, _ = listening.accept()
        except BlockingIOError:
            continue
        except OSError:
            # No descriptors: as many servers, it tries again a little later.
            time.sleep(0.01)
            continue
        connection.setblocking(True)
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


taken = []


def use_up(*_):
    """Leaves one descriptor."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        os.close(taken.pop())
    os.write(1, b"full\n")


def serve(count):
    listening = listener()
    listening.setblocking(False)
    for number in range(count):
        if os.fork() == 0:
            signal.signal(signal.SIGUSR1, use_up)
            os.write(1, b"worker %d\n" % os.getpid())
            work(listening)
            os._exit(0)
    for _ in range(count):
        os.wait()


def again(times):
    for _ in range(times):
        listening = listener()
        # From now on it is not alone with it.
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
        select.select([listening], [], [], 0)
        listening.close()
    print("done", flush=True)
    sys.stdin.readline()


def client(seconds):
    held = []
    for line in sys.stdin:
        connection = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        held.append(connection)
        print("connected", flush=True)
        if line.strip() == "talk":
            connection.settimeout(100)
            connection.sendall(b"hello")
            assert connection.recv(5) == b"hello"
            print("answered", flush=True)


if role == "client":
    client(float(sys.argv[3]))
elif role == "again":
    again(int(sys.argv[3]))
else:
    serve(1 if role == "stalls" else 2)
