"""Waits for a connection and has a program accept it, as inetd does: superserver.py PORT. The program has the listener as its
standard input; it says "0", sends back what comes, and ends with the connection."""

import os
import select
import socket
import sys

PROGRAM = """\
import socket
connection, _ = socket.socket(fileno=0).accept()
connection.sendall(b"0\\n")
while data := connection.recv(65536):
    connection.sendall(data)
"""


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    print("listening", flush=True)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    for _ in range(2):
        poll.poll()
        pid = os.fork()
        if pid == 0:
            os.dup2(listener.fileno(), 0)
            os.execvp("python3", ["python3", "-c", PROGRAM])
        print(f"ended with {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}", flush=True)


main()
