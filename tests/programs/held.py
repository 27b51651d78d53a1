"""A connection that is held: what was sent on it is known, and it stays until the standard input ends.

    held.py serve PORT [ADDRESS]      accepts one, reads the first 10 of 60 bytes in two reads, and leaves the rest
    held.py connect PORT [ADDRESS]    connects and sends 60 bytes in three writes
"""
import socket
import sys

role, port = sys.argv[1], int(sys.argv[2])
address = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"
if role == "serve":
    with socket.create_server((address, port)) as listener:
        print("listening", flush=True)
        connection, _ = listener.accept()
        assert connection.recv(5, socket.MSG_WAITALL) and connection.recv(5, socket.MSG_WAITALL)
        # All of it is there now.
        assert len(connection.recv(50, socket.MSG_WAITALL | socket.MSG_PEEK)) == 50
        print("done", flush=True)
        sys.stdin.read()
else:
    with socket.create_connection((address, port), timeout=60) as connection:
        for _ in range(3):
            connection.sendall(b"x" * 20)
        print("done", flush=True)
        sys.stdin.read()
