"""Asks a server of python_server.py: python_client.py threads|asyncio PORT [CERTIFICATE].

One line of JSON for each case."""

import asyncio
import concurrent.futures
import json
import random
import socket
import ssl
import sys

kind, port = sys.argv[1], int(sys.argv[2])
context = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else None
LIMIT = 60


def requests(sizes, seed):
    rng = random.Random(seed)
    return [rng.randbytes(size) for size in sizes]


def threads(sizes, seed):
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as plain:
        sock = context.wrap_socket(plain, server_hostname="127.0.0.1") if context else plain
        with sock, sock.makefile("rb") as answers:
            for data in requests(sizes, seed):
                sock.sendall(b"%08x" % len(data) + data)
                if answers.read(8 + len(data)) != b"%08x" % len(data) + data:
                    raise ValueError("another answer")
            if not context:
                sock.shutdown(socket.SHUT_WR)
                if answers.read():
                    raise ValueError("bytes after the last answer")
    return f"{len(sizes)} answers"


async def coroutine(sizes, seed):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1 << 22)
    for data in requests(sizes, seed):
        writer.write(b"%08x" % len(data) + data)
        await writer.drain()
        if await reader.readexactly(8 + len(data)) != b"%08x" % len(data) + data:
            raise ValueError("another answer")
    if not context:
        writer.write_eof()
        if await reader.read():
            raise ValueError("bytes after the last answer")
    writer.close()
    await writer.wait_closed()
    return f"{len(sizes)} answers"


def many(count, sizes):
    if kind == "threads":
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            return sorted(pool.map(lambda seed: threads(sizes, seed), range(count)))

    async def gather():
        return sorted(await asyncio.gather(*(coroutine(sizes, seed) for seed in range(count))))

    return asyncio.run(asyncio.wait_for(gather(), LIMIT))


CASES = {
    "one small": lambda: many(1, [5]),
    "empty": lambda: many(1, [0, 0, 1]),
    "500 small": lambda: many(1, [100] * 500),
    "blocks": lambda: many(1, [100_000, 1, 60_000, 200_000]),
    "20 connections": lambda: many(20, [1000] * 20),
    "one after the other": lambda: [many(1, [10]) for _ in range(20)],
}
for name, run in CASES.items():
    try:
        seen = str(run())
    except Exception as error:  # noqa: BLE001, whatever it is, it is the result of this case
        seen = f"FAILED {type(error).__name__} {error}"
    print(json.dumps({"name": name, "seen": seen}), flush=True)
