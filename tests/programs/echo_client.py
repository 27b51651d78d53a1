"""Threads that talk to echo_server.py and check every answer: echo_client.py PORT"""
import hashlib
import random
import socket
import sys
import threading

THREADS, ROUNDS = 8, 60
results = [None] * THREADS


def talk(number):
    rng = random.Random(number)
    total = hashlib.sha256()
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = s.makefile("rb")
        for _ in range(ROUNDS):
            data = rng.randbytes(rng.choice([1, 10, 1000, 100_000, 400_000]))
            # A large message is sent by a thread of its own: the server answers while it reads.
            sender = threading.Thread(target=s.sendall, args=(b"%d\n" % len(data) + data,))
            sender.start()
            answer = answers.read(len(data))
            sender.join()
            assert answer == data, f"thread {number}: a wrong answer of {len(answer)} bytes"
            total.update(answer)
        s.shutdown(socket.SHUT_WR)
        assert answers.read() == b"", "bytes after the end"
    results[number] = total.hexdigest()


threads = [threading.Thread(target=talk, args=(n,)) for n in range(THREADS)]
for t in threads:
    t.start()
for t in threads:
    t.join()
assert all(results), "a thread failed"
print(*results, sep="\n")
