"""Streams that each position of can be told from any other nearby, without keeping what came before."""

import random

PERIOD = 65_521  # a prime: nothing that is lost or doubled by a power of two goes unseen
_blocks = {}


def _block(seed):
    if seed not in _blocks:
        _blocks.clear()
        block = random.Random(seed).randbytes(PERIOD)
        _blocks[seed] = block + block
    return _blocks[seed]


def piece(seed, at, length):
    """`length` bytes (at most PERIOD) of the stream from position `at` on."""
    begin = at % PERIOD
    return _block(seed)[begin:begin + length]


def wrong_at(seed, at, data):
    """The first position at which `data`, which came at `at`, is not the stream; None if it is."""
    for begin in range(0, len(data), PERIOD):
        part = data[begin:begin + PERIOD]
        wanted = piece(seed, at + begin, len(part))
        if part != wanted:
            return at + begin + next(i for i, (a, b) in enumerate(zip(part, wanted)) if a != b)
    return None


def place(seed, near, data):
    """Where in the stream `data` belongs that came at `near`, if anywhere: bytes were lost before it, or come again."""
    found = _block(seed).find(data[:64])
    if len(data) < 16 or found < 0:
        return None
    shift = (found - near + PERIOD // 2) % PERIOD - PERIOD // 2
    return near + shift
