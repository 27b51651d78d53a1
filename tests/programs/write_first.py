"""Two ends that both write much before either reads: `write_first.py PORT BYTES [nonblocking]`.

A kernel's buffers take it, so neither may wait for the other.
"""

import os
import select
import socket
import sys
import threading

LENGTH = int(sys.argv[2]) & ~255
DATA = bytes(range(256)) * (LENGTH // 256)


def write(connection):
    if len(sys.argv) > 3:
        connection.setblocking(False)
        left = memoryview(DATA)
        while left:
            # Level-triggered, and nobody looks at the connection in between.
            ready = select.select([], [connection], [], 60)
            assert ready[1], "not writable for a minute"
            left = left[connection.send(left):]
        connection.setblocking(True)
    else:
        connection.sendall(DATA)


def end(name, connection, both_wrote):
    write(connection)
    both_wrote.wait(60)
    got = connection.recv(LENGTH, socket.MSG_WAITALL)
    said = "whole" if got == DATA else f"{len(got)} wrong bytes"
    # In one piece, whatever the other thread says.
    os.write(1, f"{name} {said}\n".encode())


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    both_wrote = threading.Barrier(2)
    threads = [threading.Thread(target=end, args=(name, connection, both_wrote))
               for name, connection in (("client", client), ("server", server))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
