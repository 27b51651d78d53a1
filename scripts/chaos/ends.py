"""The processes of a chaos run: a server that reloads, with workers that share its listener, and clients."""

import os
import random
import signal
import socket
import struct
import sys
import time

from chaos.talk import Broken, End, Keeper, Talk, finish

# Of the first bytes of a conversation, from the client: its seed, what the client sends, what the server sends.
HEADER = struct.Struct("!QII")
ASKING = (signal.SIGHUP, signal.SIGTERM)


def serve(settings, listener, old):
    """The supervisor: keeps workers, becomes a new image of itself at SIGHUP, ends at SIGTERM. `old`: the processes of
    the image before."""
    asked = []
    for number in ASKING:
        signal.signal(number, lambda number, _frame: asked.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
    # The former workers finish what they have.
    for pid in old:
        os.kill(pid, signal.SIGTERM)
    workers = set()
    while not asked:
        while len(workers) < settings["workers"]:
            pid = os.fork()
            if pid == 0:
                work(settings, listener)
            workers.add(pid)
        time.sleep(0.02)
        while (pid := reaped()) > 0:
            workers.discard(pid)
    if signal.SIGTERM in asked:
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        listener.close()
        while True:
            try:
                os.wait()
            except ChildProcessError:
                return
    # What is asked meanwhile waits for the next image.
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    os.set_inheritable(listener.fileno(), True)
    words = [sys.executable, "-B", sys.argv[0], "--serve", settings["text"], str(listener.fileno()), *map(str, workers)]
    os.execv(sys.executable, words)


def reaped():
    """A child that has ended; 0: none has, or there is none."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


def work(settings, listener):
    """A worker, until SIGTERM."""
    running = [True]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: running.clear())
    keeper = Keeper()
    listener.settimeout(0.2)
    while running:
        try:
            connection, _ = listener.accept()
        except (TimeoutError, BlockingIOError):
            continue
        answer(settings, connection, keeper)
    keeper.close()
    os._exit(0)


def answer(settings, connection, keeper):
    """The server's end of a conversation."""
    with connection:
        connection.settimeout(30)
        head = b""
        while len(head) < HEADER.size:
            more = connection.recv(HEADER.size - len(head))
            if not more:
                return  # the client was killed at once
            head += more
        seed, to_come, to_send = HEADER.unpack(head)
        hold(End("server", seed, to_send, to_come, moves=settings["moves"], ways=settings["ways"], log=settings["log"]), connection, keeper)


def hold(end, connection, keeper):
    """A conversation to its end, noted."""
    try:
        Talk(connection, end, keeper.ours).run()
        end.note("ok")
    except Broken as broken:
        if str(broken) != "noted elsewhere":
            end.note(str(broken))


def talk_to(settings, number):
    """A client: conversations one after the other until the time is over; every other one in a child of its own."""
    dice = random.Random(f"client {settings['seed']} {number}")
    keeper = Keeper()
    count = 0
    while time.time() < settings["until"]:
        count += 1
        seed = (settings["seed"] << 32) + (number << 24) + count
        most = dice.choice((2_000, 60_000, 400_000))
        ways = settings["ways"]
        end = End("client", seed, dice.randrange(most), dice.randrange(most), moves=settings["moves"], ways=ways, log=settings["log"])
        if count % 2:
            pid = os.fork()
            if pid == 0:
                finish(end, lambda end=end: begin(settings, end, keeper))
            os.waitpid(pid, 0)
        else:
            # This process is to live.
            begin(settings, end.immortal(), keeper)
        while reaped() > 0:
            pass
    keeper.close()


def begin(settings, end, keeper):
    """The client's end of a conversation."""
    with socket.create_connection((settings["host"], settings["port"])) as connection:
        connection.sendall(HEADER.pack(end.seed, end.to_send, end.to_come))
        hold(end, connection, keeper)
