"""Kernels from Debian's packages: where they are kept, how packages are fetched, how something is built once."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

from lab import Failure, Session, progress

SERIES = "6.12"
SETUP = Path(__file__).resolve().parent.parent / "setup.sh"


def cache():
    """Where kernels are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "netacc" / "rdma-lab"


def once(name, packages, build):
    """The directory `name` of the cache. Where it is missing, `build(work)` makes it: it works in the directory
    `work`, with the Debian packages of the group `packages` installed, and returns a directory in it.

    What is in the cache is whole: it gets its name at once, and an interrupted build leaves nothing that counts.
    """
    ready = cache() / name
    with locked():
        if not ready.exists():
            subprocess.run([SETUP, packages], check=True)
            with building() as work:
                build(work).rename(ready)
    return ready


@contextmanager
def locked():
    """One process at a time builds; others wait and find what it made."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process builds a kernel for the lab: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def building():
    """A directory to build in that goes away in the end; those that a killed build left go now."""
    for left in cache().glob("building-*"):
        shutil.rmtree(left)
    work = Path(tempfile.mkdtemp(dir=cache(), prefix="building-"))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(log, cwd, *argv):
    """Runs one step of a build, whose output goes to the open file `log`; all of it ends when we are interrupted."""
    with Session(argv, cwd=cwd, stdout=log, stderr=log) as step:
        code = step.process.wait()
    if code:
        raise failed(argv, log.name)


def failed(argv, log):
    """What to tell of a step that failed: its log goes away with the build."""
    tail = "\n  ".join(Path(log).read_text(errors="replace").splitlines()[-25:])
    return Failure(f"building a kernel for the lab failed: {' '.join(map(str, argv))}\n  {tail}")


def refresh():
    """Fetches the package lists: a fresh container has none."""
    update = ["apt-get", "-q", "update"] if os.geteuid() == 0 else ["sudo", "-n", "apt-get", "-q", "update"]
    subprocess.run(update, capture_output=True, check=False)


def download(package, work):
    """Fetches a package's file, "name" or "name=version", without installing it."""
    def fetch():
        return subprocess.run(
            ["apt-get", "-q", "download", package], cwd=work, capture_output=True, text=True, check=False)

    done = fetch()
    if done.returncode:
        refresh()
        done = fetch()
    if done.returncode:
        raise Failure(
            f"the Debian package {package} could not be downloaded; the RDMA lab needs Debian 12 or 13 "
            f"with its security sources:\n  {done.stderr.strip()}")
    name = package.partition("=")[0]
    return next(work.glob(f"{name}_*.deb"))


def unpack_source(work, log, package=f"linux-source-{SERIES}", options=""):
    """Downloads the kernel's source and unpacks what tar's `options` say; its directory."""
    tree = f"linux-source-{SERIES}"
    file = download(package, work).name
    progress(f"unpacking {file}")
    script = f"dpkg --fsys-tarfile {file} | tar -xO ./usr/src/{tree}.tar.xz | tar -xJ {options}"
    run(log, work, "bash", "-o", "pipefail", "-c", script)
    (work / file).unlink()
    return work / tree
