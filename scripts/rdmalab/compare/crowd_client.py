#!/usr/bin/env python3
"""A client of redis-server with many connections, all of which stand before anything is measured.

    crowd_client.py HOST PORT CONNECTIONS SECONDS

Connects one after the other, then keeps a SET under way on each connection. The result is one line of JSON; the
connections stand until standard input ends."""

import json
import select
import socket
import sys
import time

VALUE = b"v" * 512


def connect(host, port, count):
    """That many connections, by descriptor."""
    connections = {}
    for _ in range(count):
        connection = socket.create_connection((host, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[connection.fileno()] = connection
    return connections


def measure(connections, seconds):
    """Requests a second, and how long one took."""
    ready = select.epoll()
    request = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$512\r\n" + VALUE + b"\r\n"
    sent, took, done = {}, [], 0
    for number, connection in connections.items():
        ready.register(number, select.EPOLLIN)
        sent[number] = time.perf_counter()
        connection.sendall(request)
    begun = now = time.perf_counter()
    while now - begun < seconds:
        for number, _ in ready.poll():
            if connections[number].recv(64) != b"+OK\r\n":
                raise SystemExit("crowd_client: redis-server did not answer OK")
            now = time.perf_counter()
            took.append(now - sent[number])
            sent[number] = now
            connections[number].sendall(request)
            done += 1
    took.sort()
    return {"rate": done / (now - begun), "p50_ms": took[len(took) // 2] * 1e3, "p99_ms": took[len(took) * 99 // 100] * 1e3}


def main():
    host, port, count, seconds = sys.argv[1:]
    begun = time.perf_counter()
    connections = connect(host, int(port), int(count))
    connect_ms = (time.perf_counter() - begun) * 1e3 / len(connections)
    figures = measure(connections, float(seconds))
    print(json.dumps({"connect_ms": connect_ms, **figures}), flush=True)
    sys.stdin.read()


main()
