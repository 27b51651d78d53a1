"""Talks to workers_server.py: workers_client.py PORT, then a line of standard input for each command:

open N: N more connections, one after the other, that stay; says how many each worker has taken of them
pass N: the same, but each is closed before the next is opened
talk BYTES: sends so many on each connection and reads them back, all at once
survivors: says how many of each worker's connections still answer
"""

import collections
import hashlib
import random
import socket
import sys
import threading

PORT = int(sys.argv[1])
held = []


def connect():
    connection = socket.create_connection(("127.0.0.1", PORT), timeout=60)
    number = b""
    while not number.endswith(b"\n"):
        piece = connection.recv(1)
        assert piece, "no number"
        number += piece
    return int(number), connection


def exchange(connection, data):
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    total, left = hashlib.sha256(), len(data)
    while left:
        piece = connection.recv(left)
        assert piece, "the end before all was sent back"
        total.update(piece)
        left -= len(piece)
    sender.join()
    assert total.digest() == hashlib.sha256(data).digest(), "other bytes than were sent"


def talk(size):
    failures = []

    def one(seed, connection):
        try:
            exchange(connection, random.Random(seed).randbytes(size))
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=one, args=(n, c)) for n, (_, c) in enumerate(held)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def told(counts):
    return " ".join(f"{number}:{counts[number]}" for number in sorted(counts))


for line in sys.stdin:
    word, *rest = line.split()
    counts = collections.Counter()
    if word in ("open", "pass"):
        for _ in range(int(rest[0])):
            number, connection = connect()
            counts[number] += 1
            if word == "open":
                held.append((number, connection))
            else:
                exchange(connection, b"all that is said")
                connection.close()
    elif word == "talk":
        talk(int(rest[0]))
    elif word == "survivors":
        for number, connection in held:
            try:
                exchange(connection, b"alive?")
                counts[number] += 1
            except (OSError, AssertionError):
                pass
    print(word, told(counts), flush=True)
