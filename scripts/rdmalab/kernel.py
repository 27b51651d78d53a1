"""The kernel of user-mode Linux guests, built once from Debian's source package."""

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from lab import Failure, Session, progress

from . import debian

HERE = Path(__file__).resolve().parent
# Makes a third of the source go away; the build reads none of it.
OPTIONS = " ".join(f"--exclude='{pattern}'" for pattern in (
    "*/Documentation/*/*", "*/drivers/gpu/drm/amd/include/*", "*/tools/testing/*"))
# Lines that the build prints for what it compiles, links and archives; they show how far it is.
STEPS = 1550


def user_mode():
    """The kernel's file; built first where it is missing. Another configuration or patch makes another kernel."""
    recipe = b"".join((HERE / name).read_bytes() for name in ("uml.config", "uml.patch"))
    name = f"uml-{debian.SERIES}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    return debian.once(name, "lab_kernel", build) / "linux"


def build(work):
    """Makes a directory with the kernel."""
    start = time.monotonic()
    progress("building the kernel of the RDMA lab, once: about 4 minutes on two cores, 1.5 GB of space meanwhile")
    with (work / "build.log").open("w") as log:
        source = debian.unpack_source(work, log, options=OPTIONS)
        debian.run(log, source, "patch", "-p1", "-i", HERE / "uml.patch")
        debian.run(log, source, "make", "ARCH=um", "defconfig")
        debian.run(log, source, "scripts/kconfig/merge_config.sh", "-m", ".config", HERE / "uml.config")
        debian.run(log, source, "make", "ARCH=um", "olddefconfig")
        check_config(source)
        compile_all(source, log)
    result = work / "result"
    result.mkdir()
    shutil.move(source / "linux", result / "linux")
    progress(f"the kernel is ready after {time.monotonic() - start:.0f} s, kept in {debian.cache()}")
    return result


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
    with Session(
        argv, cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as make:
        for line in make.process.stdout:
            log.write(line)
            steps += line.startswith("  ")
            if time.monotonic() - shown > 15:
                shown = time.monotonic()
                progress(f"compiling: {min(99, 100 * steps // STEPS)} %")
        code = make.process.wait()
    if code:
        log.flush()
        raise debian.failed(argv, log.name)
