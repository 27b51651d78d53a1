"""One conversation: both ends send each other a stream and check what comes, and whoever holds an end hands it on."""

import array
import dataclasses
import errno
import json
import os
import random
import select
import signal
import socket
import sys
import time

from chaos import stream

PATIENCE = 60  # seconds without any progress: that is a hang
MOST = 16 << 10  # bytes of one read or write
# Ways of an end through processes, and how often each is gone.
WAYS = {"go": 3, "stay": 3, "both": 2, "exec": 2, "pass": 3, "kill": 1}
GONE = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)


@dataclasses.dataclass
class End:
    """What a process has to know of its end to go on with it."""

    name: str  # "client" or "server"
    seed: int
    to_send: int
    to_come: int
    sent: int = 0
    come: int = 0
    moves: int = 4  # hand-overs that are left
    ways: str = ",".join(WAYS)
    log: str = ""

    def encode(self):
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def decode(cls, text):
        return cls(**json.loads(text))

    def immortal(self):
        """It without the way that ends the process."""
        self.ways = ",".join(way for way in self.ways.split(",") if way != "kill")
        return self

    @property
    def out_seed(self):
        return 2 * self.seed + (self.name == "server")

    @property
    def in_seed(self):
        return 2 * self.seed + (self.name != "server")

    def note(self, what):
        """One line, whole, whoever else writes."""
        fd = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{self.seed} {self.name} {what}\n".encode())
        os.close(fd)


class Broken(Exception):
    """The conversation ended otherwise than it should; its text is what is noted."""


class Talk:
    """An end in this process."""

    def __init__(self, connection, end, keeper=None):
        self.connection, self.end, self.keeper = connection, end, keeper
        self.dice = random.Random(f"{end.seed}{end.name}{end.sent}{end.come}{end.moves}")
        self.sending, self.receiving = True, True
        connection.setblocking(False)

    def run(self):
        """Until both streams are through, here or where the end went."""
        steps = self.dice.randrange(2, 40)
        while self.sending or self.receiving:
            if self.end.moves > 0 and steps == 0:
                self.end.moves -= 1
                steps = self.dice.randrange(2, 40)
                if self.hand_on():
                    return
            steps = max(0, steps - 1)
            self.step()

    def step(self):
        """Waits, then one read or write of a random size each, as far as it goes."""
        asked = (select.POLLIN if self.receiving else 0) | (select.POLLOUT if self.sending else 0)
        poll = select.poll()
        poll.register(self.connection, asked)
        events = poll.poll(PATIENCE * 1000)
        if not events:
            raise Broken(f"hangs: sent {self.end.sent} of {self.end.to_send}, got {self.end.come} of {self.end.to_come}")
        ready = events[0][1]
        try:
            if self.receiving and ready & ~select.POLLOUT:
                self.receive()
            if self.sending and ready & ~select.POLLIN:
                self.send()
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in GONE:
                raise Broken(f"cut: {errno.errorcode[error.errno]}") from error
            raise

    def send(self):
        end = self.end
        left = end.to_send - end.sent
        if left:
            end.sent += self.connection.send(stream.piece(end.out_seed, end.sent, min(left, self.dice.randrange(1, MOST))))
        if end.sent == end.to_send:
            self.connection.shutdown(socket.SHUT_WR)
            self.sending = False

    def receive(self):
        end = self.end
        data = self.connection.recv(self.dice.randrange(1, MOST))
        if not data:
            if end.come < end.to_come:
                raise Broken("cut: end of the stream")
            self.receiving = False
            return
        if end.come + len(data) > end.to_come:
            raise Broken(f"WRONG: {end.come + len(data) - end.to_come} bytes too many")
        wrong = stream.wrong_at(end.in_seed, end.come, data)
        if wrong is not None:
            place = stream.place(end.in_seed, wrong, data[wrong - end.come:])
            raise Broken(f"WRONG: at {wrong} of {end.to_come} comes what belongs to {place}, in a read of {len(data)} at {end.come}")
        end.come += len(data)

    def hand_on(self):
        """Takes one of the ways; whether the end is elsewhere now, and finished there."""
        ways = self.end.ways.split(",")
        if not self.sending or not self.receiving:
            ways = [way for way in ways if way != "both"]
        if self.keeper is None:
            ways = [way for way in ways if way != "pass"]
        if not ways:
            return False
        way = self.dice.choices(ways, [WAYS[way] for way in ways])[0]
        return getattr(self, f"way_{way}")()

    def fork(self, work):
        """A child that does `work` and ends."""
        pid = os.fork()
        if pid == 0:
            finish(self.end, work)
        return pid

    def way_go(self):
        """A child goes on, this process lets go."""
        pid = self.fork(self.run)
        self.connection.close()
        succeed(pid)
        return True

    def way_stay(self):
        """A child inherits the end and never touches it; it may outlive the conversation."""
        pause = self.dice.random() * 0.2
        if os.fork() == 0:
            time.sleep(pause)
            os._exit(0)
        return False

    def way_both(self):
        """A child receives, this process sends."""
        def receive():
            self.sending = False
            while self.receiving:
                self.step()

        pid = self.fork(receive)
        self.receiving = False
        while self.sending:
            self.step()
        self.connection.close()
        succeed(pid)
        return True

    def way_exec(self):
        """A child becomes another program image, with the end by its number."""
        def become():
            os.set_inheritable(self.connection.fileno(), True)
            state = json.dumps([self.sending, self.receiving])
            os.execv(sys.executable, [sys.executable, "-B", sys.argv[0], "--resume", str(self.connection.fileno()), state,
                                      self.end.encode()])

        pid = self.fork(become)
        self.connection.close()
        succeed(pid)
        return True

    def way_pass(self):
        """Another process gets the end by SCM_RIGHTS, and says when it is through."""
        state = json.dumps([self.sending, self.receiving, self.end.encode()]).encode()
        fds = array.array("i", [self.connection.fileno()])
        self.keeper.sendmsg([state], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        self.connection.close()
        self.keeper.settimeout(4 * PATIENCE)
        answer = self.keeper.recv(1)
        if answer != b"+":
            raise Broken("noted elsewhere")
        return True

    def way_kill(self):
        """This process dies at once."""
        self.end.note("kill")
        os.kill(os.getpid(), signal.SIGKILL)


def succeed(pid):
    """Waits for a child, which has noted what went wrong there."""
    _, status = os.waitpid(pid, 0)
    if status:
        raise Broken("noted elsewhere")


def finish(end, work):
    """Does `work` and ends the process, having noted what went wrong."""
    code = 1
    try:
        work()
        code = 0
    except Broken as broken:
        if str(broken) != "noted elsewhere":
            end.note(str(broken))
    except BaseException as error:  # pylint: disable=broad-except
        end.note(f"failed: {type(error).__name__}: {error}")
    os._exit(code)


def resume(number, state, text):
    """The end by its number, in a new program image."""
    end = End.decode(text)
    def work():
        talk = Talk(socket.socket(fileno=number), end)
        talk.sending, talk.receiving = json.loads(state)
        talk.run()

    finish(end, work)


class Keeper:
    """A process beside a worker that gets connections from it and goes on with them, one at a time."""

    def __init__(self):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self.ours.close()
            keep(theirs)
        theirs.close()

    def close(self):
        """It ends."""
        self.ours.close()
        os.waitpid(self.pid, 0)


def keep(channel):
    """The keeper's work."""
    while True:
        data, ancillary, _, _ = channel.recvmsg(65536, socket.CMSG_SPACE(4))
        if not data:
            os._exit(0)
        number = array.array("i", ancillary[0][2])[0]
        sending, receiving, text = json.loads(data)
        end = End.decode(text).immortal()
        ok = b"+"
        try:
            with socket.socket(fileno=number) as connection:
                talk = Talk(connection, end)
                talk.sending, talk.receiving = sending, receiving
                talk.run()
        except Broken as broken:
            ok = b"-"
            if str(broken) != "noted elsewhere":
                end.note(str(broken))
        channel.send(ok)
