"""Several processes send one after the other, each only when the one before has; the receiver looks only
afterwards. Prints in how many of the rounds its events came in the order of the sending.

    order_of_events.py PORT [wait]   the receiver, which starts the senders itself

With "wait" it lets the next one send only when what the one before has sent is there, without looking at the others.
Kernel TCP needs that: on a busy machine what was sent may still be under way."""

import os
import random
import select
import socket
import subprocess
import sys

SENDERS = 4
ROUNDS = 200


def send_when_told(port):
    with socket.create_connection(("127.0.0.1", port)) as to:
        to.sendall(b"!")
        while os.read(0, 1):
            to.sendall(b"x")
            os.write(1, b"s")


def main(port, wait):
    with socket.create_server(("127.0.0.1", port)) as listener:
        senders, connections, epoll = [], {}, select.epoll()
        for number in range(SENDERS):
            command = [sys.executable, __file__, str(port), "send"]
            senders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            connection, _ = listener.accept()
            assert connection.recv(1) == b"!"
            epoll.register(connection, select.EPOLLIN)
            connections[connection.fileno()] = (number, connection)
        print("connected", flush=True)
        by_number = dict(connections.values())
        right = 0
        for _ in range(ROUNDS):
            order = random.sample(range(SENDERS), SENDERS)
            for number in order:
                senders[number].stdin.write(b"g")
                senders[number].stdin.flush()
                assert os.read(senders[number].stdout.fileno(), 1) == b"s"
                if wait:
                    select.select([by_number[number]], [], [])
            seen = [connections[fd][0] for fd, _ in epoll.poll()]
            right += seen == order
            for number in seen:
                assert by_number[number].recv(10) == b"x"
            # Level-triggered entries stay in the ready list, where they were, until a look finds them idle.
            assert not epoll.poll(0)
        print(f"{right} of {ROUNDS} in order", flush=True)
        sys.stdin.read()
        for sender in senders:
            sender.stdin.close()
            sender.wait()


if __name__ == "__main__":
    if sys.argv[2:] == ["send"]:
        send_when_told(int(sys.argv[1]))
    else:
        main(int(sys.argv[1]), sys.argv[2:] == ["wait"])
