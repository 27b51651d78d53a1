"""Java's sockets and channels: blocking with a thread each, and selectors; in two processes, and in one."""

from pathlib import Path

from .node import note_lines, pair

NEEDS = ["java", "javac"]
SOURCE = Path(__file__).with_name("java") / "Streams.java"


def suites():
    return [("java", True, run)]


def run(side):
    side.run(["javac", "-d", side.work, SOURCE], limit=120)
    java = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", side.work, "Streams"]
    port = pair(side)
    with side.server([*java, "server", port], port, port + 1):
        note_lines(side, "two processes", side.run([*java, "client", port], limit=120))
    note_lines(side, "one process", side.run([*java, "self", pair(side)], limit=120))
