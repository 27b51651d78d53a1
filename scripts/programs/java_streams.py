"""Java's sockets and channels: blocking with a thread each, and selectors; in two processes, and in one."""

from pathlib import Path

from .node import note_lines

NEEDS = ["java", "javac"]
SOURCE = Path(__file__).with_name("java") / "Streams.java"


def suites():
    return [("java", True, run)]


def run(side):
    side.run(["javac", "-d", side.work, SOURCE], limit=120)
    java = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", side.work, "Streams"]
    ports = side.ports(2)
    with side.server([*java, "server", ports[0]], *ports):
        note_lines(side, "two processes", side.run([*java, "client", ports[0]], limit=120))
    note_lines(side, "one process", side.run([*java, "self", side.ports(2)[0]], limit=120))
