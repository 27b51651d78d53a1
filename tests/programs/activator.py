"""Makes a listener and gives it to a server: activator.py HOW PORT PRELOAD PROGRAM ARGS...

HOW: named (LISTEN_FDS, as systemd does it), inetd (as descriptor 0), exec (as another one), passed (SCM_RIGHTS, by a Unix
socket that is descriptor 5). FD in ARGS stands for the number. PRELOAD is LD_PRELOAD for the server; this program itself
has no library. Both have the listener, whose description waits in the kernel. Then, for each line of standard input:

manner: says whether it still does
accept: accepts a connection itself, sends a line and closes it
"""

import ctypes
import os
import signal
import socket
import sys

HOW, PORT, PRELOAD = sys.argv[1], int(sys.argv[2]), sys.argv[3]
NUMBERS = {"named": 3, "inetd": 0, "exec": 7, "passed": 5}


def serve(given, argv):
    """Becomes the server, which ends with this program (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    number = NUMBERS[HOW]
    os.dup2(given.fileno(), number)
    os.set_inheritable(number, True)
    environment = dict(os.environ)
    if PRELOAD:
        environment["LD_PRELOAD"] = PRELOAD
    if HOW == "named":
        environment |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    os.execvpe(argv[0], [word.replace("FD", str(number)) for word in argv], environment)


def main():
    listener = socket.create_server(("127.0.0.1", PORT), backlog=64)
    given = listener
    if HOW == "passed":
        here, given = socket.socketpair()
        socket.send_fds(here, [b"x"], [listener.fileno()])
    if os.fork() == 0:
        serve(given, sys.argv[4:])
    for line in sys.stdin:
        if line == "manner\n":
            print("waits" if os.get_blocking(listener.fileno()) else "does not wait", flush=True)
        else:
            print("accepts", flush=True)
            connection, _ = listener.accept()
            connection.sendall(b"99\n")
            connection.close()


main()
