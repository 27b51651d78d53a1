"""The differences from kernel TCP that stay for now: known.txt, a list that only shrinks."""

from pathlib import Path

from lab import Failure

LIST = Path(__file__).with_name("known.txt")


def known():
    """{(suite, test): reason} of the list."""
    found = {}
    for number, line in enumerate(LIST.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split(" | ")]
        if len(parts) != 3 or not all(parts):
            raise Failure(f"{LIST}:{number}: a line is 'suite | test | reason', not {line!r}")
        if (parts[0], parts[1]) in found:
            raise Failure(f"{LIST}:{number}: {parts[0]} {parts[1]} is listed twice")
        found[parts[0], parts[1]] = parts[2]
    return found
