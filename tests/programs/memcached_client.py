"""Sets and gets over memcached's text protocol, several connections at once: memcached_client.py PORT"""
import hashlib
import random
import socket
import sys
import threading

THREADS, KEYS = 8, 150
results = [None] * THREADS


def value_of(number, key):
    rng = random.Random(number * 1000 + key)
    return rng.randbytes(rng.choice([0, 1, 100, 5000, 200_000]))


def talk(number):
    total = hashlib.sha256()
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60) as s:
        answers = s.makefile("rb")
        for key in range(KEYS):
            data = value_of(number, key)
            s.sendall(b"set %d:%d 0 0 %d\r\n" % (number, key, len(data)) + data + b"\r\n")
            assert answers.readline() == b"STORED\r\n"
        # Many requests in one piece, answered in order.
        s.sendall(b"".join(b"get %d:%d\r\n" % (number, key) for key in range(KEYS)))
        for key in range(KEYS):
            head = answers.readline().split()
            assert head[:2] == [b"VALUE", b"%d:%d" % (number, key)], head
            data = answers.read(int(head[3]))
            assert data == value_of(number, key), f"{number}:{key} differs"
            total.update(data)
            assert answers.readline() == b"\r\n" and answers.readline() == b"END\r\n"
        s.sendall(b"quit\r\n")
        assert answers.read() == b"", "bytes after the end"
    results[number] = total.hexdigest()


threads = [threading.Thread(target=talk, args=(n,)) for n in range(THREADS)]
for t in threads:
    t.start()
for t in threads:
    t.join()
assert all(results), "a thread failed"
print(*results, sep="\n")
