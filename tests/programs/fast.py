"""Connections that are opened fast: fast.py CASE PORT, the server; fast.py CASE PORT client, its client.

Each says "over" when all was as it should be, and ends when it is told to. Over kernel TCP everything here holds, too.
"""

import array
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

HOST = os.environ.get("FAST_HOST", "127.0.0.1")
SO_TIMESTAMP = 29
PIECE = bytes(range(256)) * 64


def connect(port):
    s = socket.socket()
    s.settimeout(60)
    s.connect((HOST, port))
    return s


def name(address):
    return f"{address[0]}:{address[1]};".encode()


def read_to(s, mark=b";"):
    got = b""
    while not got.endswith(mark):
        piece = s.recv(1)
        assert piece, f"the stream ended after {got!r}"
        got += piece
    return got


def read(s, count):
    got = b""
    while len(got) < count:
        piece = s.recv(min(count - len(got), 65536))
        assert piece, f"the stream ended after {len(got)} bytes"
        got += piece
    return got


def reset(call):
    try:
        call()
    except (ConnectionResetError, BrokenPipeError):
        return
    raise AssertionError("the connection was to be broken off")


def accept(listener):
    """One whose peer says its own name first: it is the one that was accepted from."""
    conn, address = listener.accept()
    conn.settimeout(60)
    assert read_to(conn) == name(address) == name(conn.getpeername())
    conn.sendall(name(conn.getsockname()))
    return conn


def meet(port):
    s = connect(port)
    s.sendall(name(s.getsockname()))
    assert read_to(s) == name(s.getpeername()) == name((HOST, port))
    return s


def echo(a, b, count=3):
    """Bytes both ways, in step."""
    for i in range(count):
        a.sendall(PIECE[i:])
        b.sendall(read(b, len(PIECE) - i))
        assert read(a, len(PIECE) - i) == PIECE[i:]


def warm_server(listener):
    for _ in range(3):
        accept(listener).close()


def warm_client(port):
    for _ in range(3):
        s = meet(port)
        assert s.recv(1) == b""
        s.close()


# Each case: the server, with its listener, and the client.

MANY = 100_000


def many_server(listener):
    for i in range(MANY):
        conn, address = listener.accept()
        with conn:
            said = conn.recv(64)
            assert said == name(address) + str(i).encode(), (said, address, i)
            conn.sendall(said)
            assert conn.recv(1) == b""


def many_client(port):
    for i in range(MANY):
        with socket.socket() as s:
            s.connect((HOST, port))
            said = name(s.getsockname()) + str(i).encode()
            s.sendall(said)
            assert s.recv(64) == said


AT_ONCE = 1000


def at_once_server(listener):
    conns = [accept(listener) for _ in range(AT_ONCE)]
    assert len({conn.getpeername() for conn in conns}) == AT_ONCE
    for i, conn in enumerate(conns):
        conn.sendall(b"%d;" % i)
    for conn in conns:
        assert conn.recv(1) == b""


def at_once_client(port):
    conns = [meet(port) for _ in range(AT_ONCE)]
    assert len({s.getsockname() for s in conns}) == AT_ONCE
    for i, s in enumerate(conns):
        assert read_to(s) == b"%d;" % i


# More than half of the numbers that the server may have.
FEW, NUMBERS = 200, 300


def few_server(listener):
    resource.setrlimit(resource.RLIMIT_NOFILE, (NUMBERS, NUMBERS))
    conns = []
    while len(conns) < FEW:
        # (Without a time limit: nothing is set on it.)
        conns.append(listener.accept()[0])
        read_to(conns[-1])
        conns[-1].sendall(name(conns[-1].getsockname()))
    for conn in conns:
        conn.sendall(b"x")
    for conn in conns:
        assert conn.recv(1) == b""


def few_client(port):
    conns = [meet(port) for _ in range(FEW)]
    for s in conns:
        assert s.recv(1) == b"x"


def gone_server(listener):
    """The peer has closed before this process forks: the child reads what came, and the end."""
    conn = listener.accept()[0]
    read_to(conn)
    conn.sendall(name(conn.getsockname()))
    select.select([conn], [], [])
    time.sleep(0.2)
    child = os.fork()
    if child == 0:
        fine = read(conn, len(PIECE)) == PIECE and conn.recv(1) == b""
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0


def gone_client(port):
    with meet(port) as s:
        s.sendall(PIECE)


def epoll_server(listener):
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    conns, ended = {}, 0
    while ended < 2000:
        for fd, _ in poll.poll(60):
            if fd == listener.fileno():
                try:
                    while True:
                        conn, _ = listener.accept()
                        assert os.get_blocking(conn.fileno())
                        conn.setblocking(False)
                        conns[conn.fileno()] = conn
                        poll.register(conn, select.EPOLLIN)
                except BlockingIOError:
                    continue
            got = conns[fd].recv(100)
            if got:
                conns[fd].sendall(got)
            else:
                conns.pop(fd).close()
                ended += 1


def epoll_client(port):
    poll = select.epoll()
    said, begun, ended = {}, 0, 0
    while ended < 2000:
        while begun < 2000 and len(said) < 20:
            s = socket.socket()
            s.setblocking(False)
            assert s.connect_ex((HOST, port)) == 115
            poll.register(s, select.EPOLLOUT)
            said[s.fileno()] = s
            begun += 1
        for fd, events in poll.poll(60):
            s = said[fd]
            if events & select.EPOLLOUT:
                assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                s.sendall(name(s.getsockname()))
                poll.modify(s, select.EPOLLIN)
            else:
                assert s.recv(100) == name(s.getsockname())
                poll.unregister(s)
                said.pop(fd).close()
                ended += 1


def poll_server(listener):
    listener.setblocking(False)
    for i in range(300):
        if i % 2:
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            assert poll.poll(60_000)
        else:
            assert select.select([listener], [], [], 60)[0]
        conn = accept(listener)
        assert conn.recv(1) == b""
        conn.close()


def poll_client(port):
    for i in range(300):
        time.sleep(0.001 * (i % 3))
        meet(port).close()


def full_server(listener):
    listener.listen(4)
    time.sleep(1)
    for _ in range(40):
        conn = accept(listener)
        assert conn.recv(1) == b""
        conn.close()


def full_client(port):
    conns = []
    for _ in range(40):
        s = socket.socket()
        s.setblocking(False)
        assert s.connect_ex((HOST, port)) == 115
        conns.append(s)
    for s in conns:
        assert select.select([], [s], [], 60)[1]
        s.settimeout(60)
        s.sendall(name(s.getsockname()))
    for s in conns:
        assert read_to(s) == name((HOST, port))
        s.close()


def closed_server(listener):
    conn = accept(listener)
    assert conn.recv(1) == b"q"
    listener.close()
    conn.sendall(b"c")
    assert conn.recv(1) == b"e"


def closed_client(port):
    first = meet(port)
    queued = [connect(port) for _ in range(5)]
    queued[0].sendall(b"x")
    first.sendall(b"q")
    assert first.recv(1) == b"c"
    for s in queued:
        reset(lambda: s.recv(1))
    try:
        connect(port)
        raise AssertionError("nobody listens")
    except ConnectionRefusedError:
        pass
    first.sendall(b"e")


def half_server(listener):
    conn = accept(listener)
    got = b""
    while piece := conn.recv(65536):
        got += piece
    assert got == PIECE
    conn.sendall(got)
    conn.close()
    # Bytes that nobody reads, and a close: broken off.
    conn = accept(listener)
    assert conn.recv(1, socket.MSG_PEEK) == b"x"
    conn.close()
    conn = accept(listener)
    reset(lambda: conn.recv(1))


def half_client(port):
    s = meet(port)
    s.sendall(PIECE)
    s.shutdown(socket.SHUT_WR)
    assert read(s, len(PIECE)) == PIECE
    assert s.recv(1) == b""
    s = meet(port)
    s.sendall(b"xyz")
    reset(lambda: s.recv(1))
    s = meet(port)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def killed_server(listener):
    warm_server(listener)
    conn = accept(listener)
    pid = int(read_to(conn)[:-1])
    os.kill(pid, signal.SIGKILL)
    try:
        assert conn.recv(1) == b""
    except ConnectionResetError:
        pass
    # Whoever comes next is served as ever.
    again = accept(listener)
    assert again.recv(1) == b""


def killed_client(port):
    pid = os.fork()
    if pid == 0:
        warm_client(port)
        s = meet(port)
        s.sendall(b"%d;" % os.getpid())
        time.sleep(60)
        os._exit(1)
    os.waitpid(pid, 0)
    meet(port).close()


def fork_server(listener):
    conns = [accept(listener) for _ in range(8)]
    twice = os.dup(conns[0].fileno())
    conns[1].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    conns[1].setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
    conns[1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert conns[2].recv(1) == b"u"
    if os.fork() == 0:
        for conn in conns[1:4]:
            conn.close()
        conns[0] = socket.socket(fileno=twice)
        goes_on_in = [conns[0]] + conns[4:]
    else:
        goes_on_in = conns[1:4]
        assert conns[1].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert conns[1].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
        assert conns[1].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        conns[0].close()
        os.close(twice)
        for conn in conns[4:]:
            conn.close()
    for conn in goes_on_in:
        conn.settimeout(60)
        conn.sendall(b"%d;" % os.getpid())
        got = b""
        while piece := conn.recv(65536):
            got += piece
        assert got.endswith(PIECE * 20), len(got)
        conn.sendall(got[-5:])
        conn.close()
    if os.getpid() != PARENT:
        os._exit(0)
    assert os.wait()[1] == 0
    # A process that has forked goes on, the safe way.
    for _ in range(3):
        accept(listener).close()


def fork_client(port):
    conns = [meet(port) for _ in range(8)]
    conns[2].sendall(b"u")
    for s in conns:
        s.sendall(b"before")
    pids = set()
    for s in conns:
        s.sendall(PIECE * 20)
        s.shutdown(socket.SHUT_WR)
    for s in conns:
        pids.add(read_to(s))
        assert read(s, 5) == PIECE[-5:]
        assert s.recv(1) == b""
    assert len(pids) == 2
    warm_client(port)


def forked_client_server(listener):
    conns = [accept(listener) for _ in range(4)]
    for conn in conns:
        conn.sendall(b"unread" + PIECE)
    for conn in conns:
        got = b""
        while piece := conn.recv(65536):
            got += piece
        assert got == PIECE * 9, len(got)
        conn.sendall(b"all")
        conn.close()
    accept(listener).close()


def forked_client_client(port):
    conns = [meet(port) for _ in range(4)]
    pid = os.fork()
    mine = conns[:2] if pid else conns[2:]
    for s in conns:
        if s not in mine:
            s.close()
    for s in mine:
        assert read(s, 6 + len(PIECE)) == b"unread" + PIECE
        s.sendall(PIECE * 9)
        s.shutdown(socket.SHUT_WR)
        assert read(s, 3) == b"all"
        assert s.recv(1) == b""
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    meet(port).close()


PROGRAM = "import os\nwhile got := os.read(0, 65536): os.write(1, got)"


def exec_server(listener):
    # A child that runs another program, with and without the library; and one that is spawned.
    for environment in (dict(os.environ), {"PATH": os.environ["PATH"]}):
        conn = accept(listener)
        assert conn.recv(1) == b"x"
        if os.fork() == 0:
            os.dup2(conn.fileno(), 0)
            os.dup2(conn.fileno(), 1)
            os.execve(sys.executable, ["python3", "-c", PROGRAM], environment)
        conn.close()
        os.wait()


def exec_client(port):
    for _ in range(2):
        s = meet(port)
        s.sendall(b"x" + PIECE * 9)
        s.shutdown(socket.SHUT_WR)
        assert read(s, 9 * len(PIECE)) == PIECE * 9
        assert s.recv(1) == b""


def spawn_server(listener):
    for environment in (dict(os.environ), {"PATH": os.environ["PATH"]}):
        conn = accept(listener)
        assert conn.recv(1) == b"x"
        fd = conn.fileno()
        actions = [(os.POSIX_SPAWN_DUP2, fd, 0), (os.POSIX_SPAWN_DUP2, fd, 1)]
        pid = os.posix_spawn(sys.executable, ["python3", "-c", PROGRAM], environment, file_actions=actions)
        conn.close()
        assert os.waitpid(pid, 0)[1] == 0


spawn_client = exec_client


def shell_server(listener):
    import subprocess

    for environment in (dict(os.environ), {"PATH": os.environ["PATH"]}):
        conn = accept(listener)
        assert conn.recv(1) == b"x"
        command = [sys.executable, "-c", PROGRAM]
        with subprocess.Popen(command, stdin=conn, stdout=conn, env=environment) as child:
            conn.close()
            assert child.wait(60) == 0


shell_client = exec_client


PASSED = """if True:
    import socket, sys
    conn = socket.socket(fileno=socket.recv_fds(socket.socket(fileno=int(sys.argv[1])), 1, 1)[1][0])
    conn.settimeout(60)
    got = b""
    while len(got) < 16384:
        got += conn.recv(16384 - len(got))
    conn.sendall(got)
    assert conn.recv(1) == b""
"""


def passed_server(listener):
    # Spawned, so that this process does not fork.
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    words = ["python3", "-c", PASSED, str(theirs.fileno())]
    pid = os.posix_spawn(sys.executable, words, {"PATH": os.environ["PATH"]})
    conn = accept(listener)
    assert conn.recv(1) == b"x"
    socket.send_fds(ours, [b"!"], [conn.fileno()])
    conn.close()
    assert os.waitpid(pid, 0)[1] == 0


def passed_client(port):
    s = meet(port)
    s.sendall(b"x" + PIECE)
    assert read(s, len(PIECE)) == PIECE
    s.close()


def kernel_server(listener):
    """What only the kernel serves, at either end, with bytes under way."""
    conn = accept(listener)
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    fcntl.fcntl(conn.fileno(), fcntl.F_SETFD, 0)
    conn.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
    assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert not fcntl.fcntl(conn.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    conn.sendall(read(conn, 9 * len(PIECE)))
    assert conn.recv(1) == b""
    conn.close()
    conn = accept(listener)
    conn.sendall(read(conn, 9 * len(PIECE)))
    assert conn.recv(1) == b""
    conn.close()
    # Both ends at once.
    for _ in range(20):
        conn = accept(listener)
        conn.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
        conn.sendall(read(conn, len(PIECE)))
        assert conn.recv(1) == b""
        conn.close()
    # One that the peer has closed, with bytes to be read.
    conn = accept(listener)
    assert conn.recv(1) == b"c"
    time.sleep(0.1)
    conn.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
    assert read(conn, 5) == b"losed"
    assert conn.recv(1) == b""


def kernel_client(port):
    s = meet(port)
    s.sendall(PIECE * 9)
    assert read(s, 9 * len(PIECE)) == PIECE * 9
    s.close()
    s = meet(port)
    s.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
    s.sendall(PIECE * 9)
    assert read(s, 9 * len(PIECE)) == PIECE * 9
    assert s.getpeername() == (HOST, port)
    s.close()
    for _ in range(20):
        s = meet(port)
        s.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
        s.sendall(PIECE)
        assert read(s, len(PIECE)) == PIECE
        s.close()
    s = meet(port)
    s.sendall(b"closed")
    s.close()


def asked_server(listener):
    """What is asked of a connection that has nothing in the kernel."""
    conn = accept(listener)
    assert conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"
    assert read(conn, 1) == b"b"
    room = array.array("i", [0])
    fcntl.ioctl(conn.fileno(), 0x541B, room)
    assert room[0] == 2
    poll = select.poll()
    poll.register(conn, select.POLLIN | select.POLLOUT)
    assert poll.poll(0) == [(conn.fileno(), select.POLLIN | select.POLLOUT)]
    assert read(conn, 2) == b"cd"
    assert poll.poll(0) == [(conn.fileno(), select.POLLOUT)]
    conn.sendall(b"e")
    assert conn.recv(1) == b""
    conn.shutdown(socket.SHUT_RDWR)
    try:
        conn.getpeername()
        raise AssertionError("it has no peer any more")
    except OSError as error:
        assert error.errno == 107


def asked_client(port):
    s = meet(port)
    # The first call after a connect in the background reports its success.
    s.connect((HOST, port))
    try:
        s.connect((HOST, port))
        raise AssertionError("it is connected")
    except OSError as error:
        assert error.errno == 106
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"
    s.sendall(b"bcd")
    assert read(s, 1) == b"e"
    s.close()


PARENT = os.getpid()


def main():
    case, port, side = sys.argv[1], int(sys.argv[2]), (sys.argv[3:] or ["server"])[0]
    run = globals()[f"{case}_{side}"]
    if side == "server":
        listener = socket.create_server((HOST, port), backlog=128)
        print("ready", flush=True)
        warm_server(listener)
        run(listener)
    else:
        warm_client(port)
        run(port)
    print("over", flush=True)
    sys.stdin.readline()


main()
