"""The kernel of user-mode Linux guests: built once from Debian's source package, kept outside the project."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from lab import Failure, progress

SERIES = "6.12"
HERE = Path(__file__).resolve().parent
SETUP = HERE.parent / "setup.sh"
# Makes a tenth of the source's size go away; the build reads none of it.
NOT_NEEDED = ("*/Documentation/*/*", "*/drivers/gpu/drm/amd/include/*", "*/tools/testing/*")
# Lines that the build prints for what it compiles, links and archives; they show how far it is.
STEPS = 1550


def user_mode():
    """The kernel's file; built first where it is missing."""
    recipe = b"".join((HERE / name).read_bytes() for name in ("uml.config", "uml.patch"))
    ready = cache() / f"uml-{SERIES}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    with locked():
        if not ready.exists():
            with building() as work:
                build(work)
                result = work / "result"
                result.mkdir()
                shutil.move(work / "linux", result / "linux")
                # What is there is whole: the name appears at once.
                result.rename(ready)
    return ready / "linux"


def cache():
    """Where kernels are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "netacc" / "rdma-lab"


@contextmanager
def locked():
    """One process at a time builds; others wait and find what it made."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process builds the lab's kernel: waiting for it")
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


def build(work):
    """Makes work/linux."""
    subprocess.run([SETUP, "lab_kernel"], check=True)
    start = time.monotonic()
    source = unpack_source(work)
    log = work / "build.log"
    with log.open("w") as out:
        def run(*argv):
            done = subprocess.run(argv, cwd=source, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
            if done.returncode:
                raise failed(argv, log)

        run("patch", "-p1", "-i", HERE / "uml.patch")
        run("make", "ARCH=um", "defconfig")
        run("scripts/kconfig/merge_config.sh", "-m", ".config", HERE / "uml.config")
        run("make", "ARCH=um", "olddefconfig")
    check_config(source)
    compile_all(source, log)
    shutil.move(source / "linux", work / "linux")
    progress(f"the lab's kernel is ready after {time.monotonic() - start:.0f} s, kept in {cache()}")


def failed(argv, log):
    """What to tell of a step that failed; its log goes away with the build."""
    tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-25:])
    return Failure(f"building the lab's kernel failed: {' '.join(map(str, argv))}\n  {tail}")


def download(package, work):
    """Fetches a Debian package's file without installing it."""
    def fetch():
        return subprocess.run(
            ["apt-get", "-q", "download", package], cwd=work, capture_output=True, text=True, check=False)

    done = fetch()
    if done.returncode:
        # A fresh container has no package lists.
        update = ["apt-get", "-q", "update"] if os.geteuid() == 0 else ["sudo", "-n", "apt-get", "-q", "update"]
        subprocess.run(update, capture_output=True, check=False)
        done = fetch()
    if done.returncode:
        raise Failure(
            f"the Debian package {package} could not be downloaded; the RDMA lab needs Debian 12 or 13 "
            f"with its security sources:\n  {done.stderr.strip()}")
    name = package.partition("=")[0]
    return next(work.glob(f"{name}_*.deb"))


def unpack_source(work):
    """Downloads and unpacks the kernel's source; its directory."""
    progress("building the kernel of the RDMA lab, once: about 4 minutes on two cores, 1.5 GB of space meanwhile")
    package = download(f"linux-source-{SERIES}", work)
    tree = f"linux-source-{SERIES}"
    progress(f"unpacking {package.name}")
    excluded = " ".join(f"--exclude='{pattern}'" for pattern in NOT_NEEDED)
    script = f"dpkg --fsys-tarfile {package.name} | tar -xO ./usr/src/{tree}.tar.xz | tar -xJ {excluded}"
    subprocess.run(["bash", "-o", "pipefail", "-c", script], cwd=work, check=True)
    package.unlink()
    return work / tree


def check_config(source):
    """Every setting of ours is in the final configuration, or a sentence says which is not."""
    have = set((source / ".config").read_text().splitlines())
    for line in (HERE / "uml.config").read_text().splitlines():
        if line.startswith("CONFIG_") and line not in have:
            raise Failure(f"the kernel's source does not accept {line} (scripts/rdmalab/uml.config)")
        if line.endswith(" is not set") and f"{line.split()[1]}=y" in have:
            raise Failure(f"the kernel's source insists on {line.split()[1]} (scripts/rdmalab/uml.config)")


def compile_all(source, log):
    """Compiles, and says how far it is."""
    argv = ["make", "ARCH=um", f"-j{len(os.sched_getaffinity(0))}", "linux"]
    shown, steps = time.monotonic(), 0
    with log.open("a") as out, subprocess.Popen(
        argv, cwd=source, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    ) as make:
        for line in make.stdout:
            out.write(line)
            steps += line.startswith("  ")
            if time.monotonic() - shown > 15:
                shown = time.monotonic()
                progress(f"compiling: {min(99, 100 * steps // STEPS)} %")
    if make.returncode:
        raise failed(argv, log)
