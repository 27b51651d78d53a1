"""Servers that fork with live connections: `forking.py CASE PORT` serves, `forking.py CASE PORT client` is its client.

Every case has a stream of 120,000 bytes from the client, of which some has come before the fork, and the same number
back; what each process got is printed.
"""

import hashlib
import os
import select
import socket
import sys
import time

HALF = 60_000
KEPT = []


def stream(name):
    block = hashlib.sha256(name.encode()).digest()
    return b"".join(hashlib.sha256(block + i.to_bytes(4, "big")).digest() for i in range(2 * HALF // 32))


ASKED, ANSWERED = stream("asked"), stream("answered")


def say(who, got):
    name = {ASKED: "all of it", ASKED[:HALF]: "the first half", ASKED[HALF:]: "the second half",
            ANSWERED: "the answer", b"": "nothing"}.get(got, f"{len(got)} wrong bytes")
    os.write(1, f"{who}: {name}\n".encode())


def read(connection, length):
    got = b""
    while len(got) < length:
        piece = connection.recv(min(65536, length - len(got)))
        if not piece:
            break
        got += piece
    return got


def read_to_end(connection):
    return read(connection, 1 << 30)


def unread(connection, length):
    """Waits until so much lies there."""
    while len(connection.recv(length, socket.MSG_PEEK)) < length:
        time.sleep(0.01)


def fork(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except OSError as error:
            os.write(1, f"child: {error}\n".encode())
        os._exit(0)
    return pid


def answer(who, connection):
    def act():
        say(who, read_to_end(connection))
        connection.sendall(ANSWERED)
    return act


def child_serves(connection):
    """The parent closes, the child serves, as inetd and PostgreSQL do."""
    unread(connection, 1000)
    pid = fork(answer("child", connection))
    connection.close()
    os.waitpid(pid, 0)


def each_half(connection):
    """The parent reads one half, the child what is left."""
    say("parent", read(connection, HALF))
    pid = fork(answer("child", connection))
    os.waitpid(pid, 0)
    connection.close()


def back_to_parent(connection):
    """The child reads one half, the parent what is left."""
    pid = fork(lambda: say("child", read(connection, HALF)))
    os.waitpid(pid, 0)
    answer("parent", connection)()
    connection.close()


def child_waits(connection):
    """The child waits for what has come already, by each call that waits, before it reads."""
    unread(connection, 1000)

    def child():
        epoll = select.epoll()
        epoll.register(connection, select.EPOLLIN)
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        ready = [select.select([connection], [], [], 60)[0] == [connection],
                 poll.poll(60_000) == [(connection.fileno(), select.POLLIN)],
                 epoll.poll(60) == [(connection.fileno(), select.EPOLLIN)]]
        os.write(1, f"child: {ready}\n".encode())
        answer("child", connection)()
    pid = fork(child)
    connection.close()
    os.waitpid(pid, 0)


def grandchild(connection):
    """A child of a child."""
    unread(connection, 1000)

    def child():
        os.waitpid(fork(answer("grandchild", connection)), 0)
    pid = fork(child)
    connection.close()
    os.waitpid(pid, 0)


def orphaned_grandchild(connection):
    """A child of a child that is gone."""
    unread(connection, 1000)
    done = os.pipe()

    def child():
        def late():
            os.close(done[0])
            while os.getppid() == middle:
                time.sleep(0.001)
            answer("grandchild", connection)()
        middle = os.getpid()
        fork(late)
    pid = fork(child)
    connection.close()
    os.waitpid(pid, 0)
    os.close(done[1])
    os.read(done[0], 1)


def untouched(connection):
    """The child does not use the connection, and lives on."""
    wait, go = os.pipe()

    def child():
        os.close(go)
        os.read(wait, 1)
    pid = fork(child)
    answer("parent", connection)()
    connection.shutdown(socket.SHUT_WR)
    os.close(go)
    os.waitpid(pid, 0)
    # Not closed: the counters are read first.
    KEPT.append(connection)


def child_closes(connection):
    """The child closes its copy and lives on; the end comes when the parent closes."""
    wait, go = os.pipe()

    def child():
        os.close(go)
        connection.close()
        os.read(wait, 1)
    pid = fork(child)
    answer("parent", connection)()
    connection.close()
    os.close(go)
    os.waitpid(pid, 0)


def shut_before(connection):
    """The answer was written and its end told before the fork."""
    connection.sendall(ANSWERED)
    connection.shutdown(socket.SHUT_WR)
    unread(connection, 1000)
    pid = fork(lambda: say("child", read_to_end(connection)))
    connection.close()
    os.waitpid(pid, 0)


def client_is_gone(connection):
    """The client wrote all, and is gone."""
    os.read(0, 1)
    unread(connection, 1000)
    pid = fork(lambda: say("child", read_to_end(connection)))
    connection.close()
    os.waitpid(pid, 0)


def parent_exits(connection):
    """The parent leaves the connection to its child by its end."""
    say("parent", read(connection, HALF))
    fork(answer("child", connection))
    os._exit(0)


def left_in_a_will(connection):
    """The parent is gone when its child first uses the connection, and had read nothing."""
    unread(connection, 1000)
    parent = os.getpid()

    def child():
        while os.getppid() == parent:
            time.sleep(0.001)
        answer("child", connection)()
    fork(child)
    sys.exit(0)


def left_to_a_later_child(connection):
    """The client is gone, and so is the parent when the second of its children reads what that had not; the first lives on."""
    os.read(0, 1)
    unread(connection, 1000)
    parent = os.getpid()
    wait, go = os.pipe()

    def helper():
        os.close(go)
        os.read(wait, 1)

    def child():
        while os.getppid() == parent:
            time.sleep(0.001)
        say("child", read_to_end(connection))
    fork(helper)
    fork(child)
    sys.exit(0)


def client(case, port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(ASKED[:HALF])
    goes = case in ("client_is_gone", "left_to_a_later_child")
    if not goes:
        # So that some of it comes after the fork.
        time.sleep(0.05)
    connection.sendall(ASKED[HALF:])
    if goes:
        return
    connection.shutdown(socket.SHUT_WR)
    say("client", read_to_end(connection))


def main():
    case, port = sys.argv[1], int(sys.argv[2])
    if len(sys.argv) > 3:
        return client(case, port)
    listener = socket.create_server(("127.0.0.1", port))
    connection, _ = listener.accept()
    if case != "parent_exits":
        listener.close()
    globals()[case](connection)
    os.write(1, b"over\n")
    sys.stdin.read()


main()
