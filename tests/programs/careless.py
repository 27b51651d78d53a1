"""Two programs that close and touch whatever descriptors they find, and go on talking:

    careless.py serve ADDRESS PORT COUNT
    careless.py talk ADDRESS PORT COUNT

COUNT is how many descriptors of RDMA devices each must find at least. The second runs until its input ends.
"""
import errno
import fcntl
import os
import select
import selectors
import socket
import subprocess
import sys

role, address, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
MESSAGE = bytes(range(256)) * 400


def of_devices():
    """The descriptors that lead to an RDMA device."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if "infiniband" in os.readlink(f"/proc/self/fd/{name}"):
                found.append(int(name))
        except FileNotFoundError:
            pass  # That of the listing itself.
    return sorted(found)


def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error.errno == errno.EBADF
    return False


def be_careless(own):
    """Touches the devices' descriptors, and closes all but `own`."""
    devices = of_devices()
    assert len(devices) >= count, devices
    null = os.open("/dev/null", os.O_RDWR)
    for fd in devices:
        with select.epoll() as epoll:
            assert refused(epoll.register, fd)
        assert refused(os.read, fd, 8), fd
        assert refused(os.write, fd, b"12345678"), fd
        assert refused(os.dup, fd), fd
        assert refused(os.dup2, null, fd), fd
        assert refused(fcntl.fcntl, fd, fcntl.F_GETFD), fd
        assert refused(os.close, fd), fd
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in own:
            try:
                os.close(int(name))
            except OSError as error:
                assert error.errno == errno.EBADF, error
    os.closerange(max(own) + 1, 1 << 20)
    assert of_devices() == devices, (of_devices(), devices)
    print("careless", len(devices), flush=True)


def receive(connection, length):
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            return None
        data += piece
    return data


def serve():
    listener = socket.create_server((address, port))
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    served = 0
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            connection = key.fileobj
            if (message := receive(connection, len(MESSAGE))) is None:
                selector.unregister(connection)
                connection.close()
                continue
            connection.sendall(message)
            served += 1
            if served == 1:
                be_careless([selector.fileno(), *selector.get_map()])


def exchange(connection):
    connection.sendall(MESSAGE)
    assert receive(connection, len(MESSAGE)) == MESSAGE


def talk():
    first = socket.create_connection((address, port), timeout=60)
    exchange(first)
    be_careless([first.fileno()])
    exchange(first)
    second = socket.create_connection((address, port), timeout=60)
    exchange(second)
    child = os.fork()
    if child == 0:
        # What a device counts its users by must not stay open in a child.
        os._exit(len(of_devices()))
    assert os.waitpid(child, 0)[1] == 0, "the child has descriptors of the devices"
    exchange(first)
    subprocess.run(["true"], check=True, close_fds=True)
    exchange(second)
    print("fine", flush=True)
    sys.stdin.read()


serve() if role == "serve" else talk()
