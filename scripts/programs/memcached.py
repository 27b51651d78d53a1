"""memcached with four threads: a client of our own that checks every value, and each connection's end."""

from pathlib import Path

from .side import own_user

NEEDS = ["memcached", "python3"]
CLIENT = Path(__file__).parents[2] / "tests" / "programs" / "memcached_client.py"


def suites():
    return [("memcached", True, run)]


def run(side):
    port = side.port()
    argv = ["memcached", "-l", "127.0.0.1", "-p", port, "-U", "0", "-t", "4", "-m", "512", *own_user("-u")]
    with side.server(argv, port):
        for number in range(1 if side.short else 4):
            side.case(f"8 connections, run {number + 1}", lambda: side.run(["python3", CLIENT, port]))
        # Several clients at once: the threads of the server change between them.
        side.case("4 clients at once", several, side, port)


def several(side, port):
    clients = [["python3", CLIENT, port] for _ in range(4)]
    return sorted(set(side.together(clients, limit=90)))
