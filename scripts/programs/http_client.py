"""What the suites of web servers have in common: bodies with known checksums, curl and wrk."""

import hashlib
import re

from .side import CaseFailed, checksum, equal, expect, sample

SMALL = 1000


def bodies(side):
    """Makes the files that a server offers, small.bin and big.bin; their sizes and checksums."""
    root = side.work / "root"
    root.mkdir()
    root.chmod(0o777)
    sizes = {"small.bin": SMALL, "big.bin": (4 if side.short else 32) << 20}
    return root, {name: (size, sample(root / name, size, name)) for name, size in sizes.items()}


def curl(side, *arguments, limit=60, status=0):
    """What curl wrote to its standard output."""
    return side.run(["curl", "-sS", "--max-time", limit, *arguments], limit=limit + 10, status=status)


def get(side, url, body, *arguments, times=1):
    """Gets one body several times over one connection where keep-alive is on: statuses and checksums."""
    size, digest = body
    out = side.work / f"got-{url.rpartition('/')[2]}"
    words = []
    for number in range(times):
        words += ["-o", f"{out}.{number}", url]
    said = curl(side, *arguments, "-w", "%{http_code} %{size_download} %{num_connects}\\n", *words)
    for number in range(times):
        equal(f"checksum of {url}, number {number}", checksum(f"{out}.{number}"), digest)
    lines = [line.split() for line in said.splitlines()]
    equal("statuses and sizes", [line[:2] for line in lines], [["200", str(size)]] * times)
    return f"{times} x {size} bytes, {sum(int(line[2]) for line in lines)} connections"


def get_range(side, url, path, first, last):
    """Some bytes out of the middle."""
    out = side.work / "got-range"
    said = curl(side, "-r", f"{first}-{last}", "-o", out, "-w", "%{http_code}", url)
    with open(path, "rb") as file:
        file.seek(first)
        wanted = hashlib.sha256(file.read(last - first + 1)).hexdigest()
    equal("status of a range", said, "206")
    equal("checksum of a range", checksum(out), wanted)


def parallel(side, url, body, many=16):
    """Many downloads at once by one curl."""
    out = side.work / "got-parallel"
    words = []
    for number in range(many):
        words += ["-o", f"{out}.{number}", f"{url}?{number}"]
    curl(side, "-Z", "--parallel-max", many, *words)
    for number in range(many):
        equal(f"checksum of parallel download {number}", checksum(f"{out}.{number}"), body[1])


def put(side, url, path, stored, digest, *arguments):
    """Uploads a file and looks at what the server stored."""
    said = curl(side, *arguments, "-T", path, "-o", side.work / "put-answer", "-w", "%{http_code}", url)
    expect(said in ("201", "204"), f"status {said} of an upload")
    equal("checksum of what was stored", checksum(stored), digest)
    stored.unlink()


def status(side, url, wanted, *arguments):
    """The status of an answer without looking at its body."""
    equal(f"status of {url}", curl(side, *arguments, "-o", "/dev/null", "-w", "%{http_code}", url), wanted)


def wrk(side, url, *arguments, connections=32):
    """Load: no error, every status 200. How many requests there were is a matter of speed."""
    seconds = 1 if side.short else 2
    said = side.run(["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", *arguments, url], limit=60)
    counted = re.search(r"(\d+) requests in", said)
    if not counted or int(counted[1]) == 0 or "Socket errors" in said or "Non-2xx" in said:
        raise CaseFailed(f"wrk {' '.join(arguments)} {url}:\n{said}")
