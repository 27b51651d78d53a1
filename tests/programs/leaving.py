"""Servers that give a connection, or a listener, to another program.

    leaving.py CASE WHO PORT STATIC DYNAMIC     serves; WHO gets the connection:
        static      STATIC, into which no library can be preloaded
        dynamic     DYNAMIC, the same program, with what is preloaded here
        without     DYNAMIC, with nothing preloaded
    leaving.py client PORT                      is the client: what it sends must come back, byte for byte
    leaving.py fleeting PORT                    is one that sends, and closes at once

The server sends the first bytes back itself, and gives the connection away while the client is sending and more has come
than it has read.
"""

import ctypes
import hashlib
import multiprocessing.reduction
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

LENGTH = 1_500_000
FIRST = 777
# What somebody sends who closes at once: a kernel takes it though nobody reads.
FLEETING = 40_000
# asm/unistd.h, linux/prctl.h
SYS_PIDFD_GETFD = 438
PR_SET_PTRACER = 0x59616D61


def stream():
    return b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(LENGTH // 32))


def say(text):
    os.write(1, f"{text}\n".encode())


class Program:
    """The program that gets the connection."""

    def __init__(self, who, static, dynamic):
        self.path = static if who == "static" else dynamic
        self.environment = dict(os.environ)
        if who == "without":
            self.environment.pop("LD_PRELOAD", None)

    def words(self, *words):
        return [self.path, *map(str, words)]

    def replace(self, *words):
        os.execve(self.path, self.words(*words), self.environment)

    def start(self, *words, **how):
        return subprocess.Popen(self.words(*words), env=self.environment, **how)


def begin(connection):
    """Answers the first bytes; more have come by then."""
    while len(connection.recv(10_000, socket.MSG_PEEK)) < 10_000:
        time.sleep(0.001)
    first = connection.recv(FIRST)
    connection.sendall(first)


def fork(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException as error:
            say(f"child: {error!r}")
        os._exit(0)
    return pid


def wait(pid):
    say(f"ended with {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def echo(connection):
    while piece := connection.recv(65536):
        connection.sendall(piece)


def replaced(connection, program):
    """The server itself becomes the program."""
    begin(connection)
    connection.set_inheritable(True)
    program.replace(connection.fileno())


def replaced_by_execl(connection, program):
    """As above, by execl(3): the first program runs the second."""
    begin(connection)
    connection.set_inheritable(True)
    program.replace("execl", connection.fileno(), program.path)


def cannot_be_replaced(connection, program):
    """There is no such program: the server goes on."""
    begin(connection)
    connection.set_inheritable(True)
    for name in ("/nowhere/at/all", "/etc/passwd", "/dev"):
        try:
            os.execv(name, ["nothing"])
        except OSError as error:
            say(error.strerror)
    echo(connection)


def inetd(connection, program):
    """fork, the connection as standard input and output, exec; the parent closes it."""
    begin(connection)

    def child():
        for stream in (0, 2):
            os.dup2(connection.fileno(), stream)
        os.close(connection.fileno())
        program.replace(0)
    pid = fork(child)
    connection.close()
    wait(pid)


def sshd(connection, program):
    """The child answers a part, too, then runs the program with the descriptor as it is."""
    begin(connection)

    def child():
        begin(connection)
        connection.set_inheritable(True)
        program.replace(connection.fileno())
    pid = fork(child)
    connection.close()
    wait(pid)


def grandchild(connection, program):
    """A child of a child runs the program."""
    begin(connection)

    def child():
        connection.set_inheritable(True)
        wait(fork(lambda: program.replace(connection.fileno())))
    pid = fork(child)
    connection.close()
    wait(pid)


def popen(connection, program):
    """Python's subprocess, which uses vfork: the connection is standard input of the program."""
    begin(connection)
    child = program.start(0, stdin=connection)
    connection.close()
    say(f"ended with {child.wait()}")


def pass_fds(connection, program):
    """The same, by its own number; the server closes it late."""
    begin(connection)
    child = program.start(connection.fileno(), pass_fds=[connection.fileno()])
    say(f"ended with {child.wait()}")
    connection.close()


def spawn(connection, program):
    """posix_spawn with file actions."""
    begin(connection)
    actions = [(os.POSIX_SPAWN_DUP2, connection.fileno(), 0)]
    pid = os.posix_spawn(program.path, program.words(0), program.environment, file_actions=actions)
    connection.close()
    wait(pid)


def spawn_closing(connection, program):
    """posix_spawn with file actions that close all but the connection, whatever the library has there."""
    begin(connection)
    libc = ctypes.CDLL(None)
    actions = ctypes.create_string_buffer(256)
    libc.posix_spawn_file_actions_init(actions)
    libc.posix_spawn_file_actions_adddup2(actions, connection.fileno(), 200)
    libc.posix_spawn_file_actions_adddup2(actions, 200, 0)
    libc.posix_spawn_file_actions_addclosefrom_np(actions, 3)

    def strings(texts):
        texts = [text.encode() for text in texts]
        return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)
    environment = strings(f"{name}={value}" for name, value in program.environment.items())
    pid = ctypes.c_int()
    words = strings(program.words(0))
    say(f"started {libc.posix_spawn(ctypes.byref(pid), program.path.encode(), actions, None, words, environment)}")
    libc.posix_spawn_file_actions_destroy(actions)
    connection.close()
    wait(pid.value)


def system(connection, program):
    """system(3), where the shell runs the program."""
    begin(connection)
    connection.set_inheritable(True)
    hidden = "" if "LD_PRELOAD" in program.environment else "env -u LD_PRELOAD "
    status = ctypes.CDLL(None).system(f"exec {hidden}{program.path} {connection.fileno()}".encode())
    say(f"ended with {status}")
    connection.close()


def commands(connection, program):
    """Commands that have nothing to do with the connection, which they inherit: it stays where it is."""
    begin(connection)
    connection.set_inheritable(True)
    for _ in range(3):
        say(f"ended with {os.system('true')}")
        say(f"said {os.popen('echo something').read().strip()}")
        subprocess.run(["true"], check=True, close_fds=False)
        wait(fork(lambda: os.execvp("true", ["true"])))
    echo(connection)
    connection.shutdown(socket.SHUT_WR)


def send(to, sockets):
    socket.send_fds(to, [b"x"], [s.fileno() for s in sockets])


def passed(connection, program):
    """SCM_RIGHTS."""
    here, there = socket.socketpair()
    child = program.start("receive", there.fileno(), pass_fds=[there.fileno()])
    begin(connection)
    send(here, [connection])
    connection.close()
    say(f"ended with {child.wait()}")


def passed_by_child(connection, program):
    """A forked child passes on what it has inherited."""
    here, there = socket.socketpair()
    receiver = program.start("receive", there.fileno(), pass_fds=[there.fileno()])
    begin(connection)
    pid = fork(lambda: send(here, [connection]))
    wait(pid)
    connection.close()
    say(f"ended with {receiver.wait()}")


def passed_within(connection, program):
    """To the same process; the first number is closed."""
    here, there = socket.socketpair()
    begin(connection)
    send(here, [connection])
    connection.close()
    _, fds, _, _ = socket.recv_fds(there, 1, 1)
    connection = socket.socket(fileno=fds[0])
    echo(connection)
    connection.shutdown(socket.SHUT_WR)


def passed_by_library(connection, program):
    """multiprocessing's way, to a child that was forked before."""
    here, there = multiprocessing.Pipe()

    def child():
        fd = multiprocessing.reduction.recv_handle(there)
        echo(socket.socket(fileno=fd))
    pid = fork(child)
    begin(connection)
    multiprocessing.reduction.send_handle(here, connection.fileno(), pid)
    connection.close()
    wait(pid)


def take(connection, what):
    """Another process, with the same preloaded, takes the connection out of this one: pidfd_getfd."""
    # Yama lets a process do so with its children only, unless told otherwise.
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_long(-1))
    words = [sys.executable, sys.argv[0], what, str(os.getpid()), str(connection.fileno())]
    return subprocess.Popen(words)


def taken(connection, program):
    """The other one answers a part, then this one goes on."""
    begin(connection)
    say(f"ended with {take(connection, 'taker').wait()}")
    echo(connection)
    connection.shutdown(socket.SHUT_WR)


def taken_from_child(connection, program):
    """The same, out of a child that has inherited it and never used it."""
    begin(connection)
    pid = fork(lambda: (say(f"ended with {take(connection, 'taker').wait()}"), echo(connection)))
    connection.close()
    wait(pid)


def fleeting_taken(connection, program):
    """The client has closed."""
    when_closed(connection)
    say(f"ended with {take(connection, 'sums').wait()}")


def out_of(pid, fd):
    libc = ctypes.CDLL(None, use_errno=True)
    taken = libc.syscall(SYS_PIDFD_GETFD, os.pidfd_open(pid), fd, 0)
    if taken < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return socket.socket(fileno=taken)


def taker(pid, fd):
    connection, left = out_of(pid, fd), LENGTH // 2
    while left > 0:
        piece = connection.recv(min(left, 65536))
        connection.sendall(piece)
        left -= len(piece)


def sums(pid, fd):
    connection, got = out_of(pid, fd), b""
    while piece := connection.recv(65536):
        got += piece
    say(f"{len(got)} bytes, {hashlib.sha256(got).hexdigest()}")


def claimed_by_nobody(connection, program):
    """A process that has no descriptor of it claims the connection, by every number that it can have: it stays."""
    begin(connection)
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    words = [sys.executable, sys.argv[0], "claimer", str(os.getpid()), "0"]
    subprocess.run(words, env=environment, check=True)
    echo(connection)
    connection.shutdown(socket.SHUT_WR)


def claimer(pid, _):
    something = socket.socket()
    for line in open("/proc/net/unix"):
        name = line.split()[-1]
        if not name.startswith("@netacc-1"):
            continue
        for number in range(100):
            unix = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                unix.connect("\0" + name[1:])
            except OSError:
                break
            if struct.unpack("iii", unix.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] != pid:
                break
            # The frame of a claim: src/control/wire.rs.
            claim = b"NACC" + struct.pack("<BBHQ", 8, 2, 16, number)
            socket.send_fds(unix, [claim], [something.fileno()])
            unix.recv(192)


def when_closed(connection):
    """Nobody has read anything when the client closes."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    poll.poll(60_000)
    # Over the link, that is known before the last bytes are here.
    unread = 0
    while unread < FLEETING:
        unread = len(connection.recv(FLEETING, socket.MSG_PEEK))


def fleeting_replaced(connection, program):
    """The server itself becomes the program."""
    when_closed(connection)
    connection.set_inheritable(True)
    program.replace("sum", connection.fileno())


def fleeting_inetd(connection, program):
    """A child does."""
    when_closed(connection)

    def child():
        os.dup2(connection.fileno(), 0)
        program.replace("sum", 0)
    pid = fork(child)
    connection.close()
    wait(pid)


def fleeting_popen(connection, program):
    """A child that shares the server's memory."""
    when_closed(connection)
    child = program.start("sum", 0, stdin=connection)
    connection.close()
    say(f"ended with {child.wait()}")


def fleeting_passed(connection, program):
    """SCM_RIGHTS."""
    here, there = socket.socketpair()
    child = program.start("sum", "receive", there.fileno(), pass_fds=[there.fileno()])
    when_closed(connection)
    send(here, [connection])
    connection.close()
    say(f"ended with {child.wait()}")


def becomes_a_daemon(connection, program):
    """daemon(3) forks, and its parent ends inside the C library."""
    begin(connection)
    ctypes.CDLL(None).daemon(1, 1)
    echo(connection)
    connection.close()


def is_killed(connection, program):
    """The parent is killed; its child goes on with what the kernel has."""
    # All has come, and is read.
    got = b""
    while len(got) < LENGTH:
        got += connection.recv(65536)

    def child():
        while os.getppid() == parent:
            time.sleep(0.001)
        # What the parent had not read would be lost: there is nothing.
        connection.sendall(got)
    parent = os.getpid()
    fork(child)
    os.kill(parent, signal.SIGKILL)


def accepted_by_program(listener, program):
    """The program gets the listener, which waits in the kernel for it."""
    listener.set_inheritable(True)
    program.replace("accept", listener.fileno())


def accepted_by_child(listener, program):
    """A child that runs the program accepts; the server has the listener as well."""
    child = program.start("accept", listener.fileno(), pass_fds=[listener.fileno()])
    say(f"ended with {child.wait()}")


def accepted_by_receiver(listener, program):
    """The listener is passed; who has passed it accepts the second connection."""
    here, there = socket.socketpair()
    child = program.start("receive", there.fileno(), pass_fds=[there.fileno()])
    send(here, [listener])
    child.kill()
    child.wait()
    say("accepting")
    echo(listener.accept()[0])


def client(port):
    connection = socket.create_connection(("127.0.0.1", port))
    out, got = stream(), b""

    def sends():
        connection.sendall(out)
        connection.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=sends)
    sender.start()
    try:
        while piece := connection.recv(65536):
            got += piece
        say("client: all of it" if got == out else f"client: {len(got)} bytes, wrong")
    except OSError as error:
        say(f"client: {error} after {len(got)} bytes")
    sender.join()
    # Until the counters were read.
    sys.stdin.readline()


def fleeting(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(stream()[:FLEETING])
    connection.close()
    say("client: gone")
    sys.stdin.readline()


def main():
    if sys.argv[1] in ("client", "fleeting"):
        return globals()[sys.argv[1]](int(sys.argv[2]))
    if sys.argv[1] in ("taker", "sums", "claimer"):
        return globals()[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
    case, who, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    program = Program(who, *sys.argv[4:6])
    listener = socket.create_server(("127.0.0.1", port))
    act = globals()[case]
    if case.startswith("accepted"):
        return act(listener, program)
    connection, _ = listener.accept()
    if case not in ("is_killed", "becomes_a_daemon"):
        listener.close()
    act(connection, program)


main()
