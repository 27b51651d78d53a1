"""The kernel of QEMU guests: Debian's own, unpacked and never installed, with siw built for it and an initramfs."""

import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path

from lab import Failure, progress

from . import debian

HERE = Path(__file__).resolve().parent
IMAGE = re.compile(rf"^linux-image-({re.escape(debian.SERIES)}\.\d+\+deb\d+)-amd64 ", re.MULTILINE)
# Until the host's files are the root; then whatever the lab and the tests load.
BOOT_MODULES = ("virtio_pci", "virtio_net", "9pnet_virtio", "9p", "overlay")
MODULES = (
    "ib_uverbs", "rdma_ucm", "rdma_rxe", "crc32c_generic", "crc32_generic", "dummy", "veth", "tun",
    "sch_netem", "sch_prio", "sch_tbf", "cls_u32", "tcp_diag", "udp_diag", "unix_diag", "smc", "smc_diag",
)


def debians_own():
    """The directory with vmlinuz, initrd.gz and modules/VERSION; made first where it is missing."""
    recipe = (HERE / "initramfs.sh").read_bytes() + repr((BOOT_MODULES, MODULES)).encode()
    name = f"qemu-{debian.SERIES}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    return debian.once(name, "lab_qemu", build)


def build(work):
    """Makes that directory in `work`."""
    progress("preparing the kernel of the RDMA lab's QEMU guests, once: about 1 minute, 600 MB of space meanwhile")
    base = newest()
    release = f"{base}-amd64"
    image = debian.download(f"linux-image-{release}", work)
    version = subprocess.run(
        ["dpkg-deb", "-f", image, "Version"], capture_output=True, text=True, check=True).stdout.strip()
    tree = work / "image"
    unpack(image, tree)
    result = work / "result"
    result.mkdir()
    shutil.move(tree / "boot" / f"vmlinuz-{release}", result / "vmlinuz")
    with (work / "build.log").open("w") as log:
        siw = build_siw(work, base, version, log)
    # Where modprobe finds what they depend on and each other's symbols.
    modules = tree / "lib" / "modules" / release
    (modules / "extra").mkdir()
    shutil.move(siw, modules / "extra" / "siw.ko")
    subprocess.run(["/sbin/depmod", "-b", tree, release], check=True)
    keep_modules(tree, release, result)
    make_initramfs(tree, release, result / "initrd.gz", work / "initramfs")
    return result


def newest():
    """The newest kernel of the series that Debian offers, such as 6.12.48+deb12."""
    def offered():
        found = subprocess.run(
            ["apt-cache", "search", f"^linux-image-{debian.SERIES}"], capture_output=True, text=True, check=True)
        return IMAGE.findall(found.stdout)

    versions = offered()
    if not versions:
        debian.refresh()
        versions = offered()
    if not versions:
        raise Failure(f"Debian's sources here offer no linux-image-{debian.SERIES}.*-amd64: it comes with Debian 12's "
                      "security sources and with Debian 13")
    return max(versions, key=lambda version: [int(number) for number in re.findall(r"\d+", version)])


def unpack(package, directory):
    subprocess.run(["dpkg", "-x", package, directory], check=True)
    package.unlink()


def build_siw(work, base, version, log):
    """siw.ko, which Debian does not ship, from its own source against its own headers."""
    headers = work / "headers"
    for package in (f"linux-headers-{base}-amd64", f"linux-headers-{base}-common", f"linux-kbuild-{base}"):
        unpack(debian.download(package, work), headers)
    part = f"linux-source-{debian.SERIES}/drivers/infiniband/sw/siw"
    source = debian.unpack_source(work, log, f"linux-source-{debian.SERIES}={version}", part)
    tree = headers / "usr" / "src" / f"linux-headers-{base}-amd64"
    # It names its other half by where an installation would put it.
    makefile = tree / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{headers}/usr/src/"))
    siw = source / "drivers" / "infiniband" / "sw" / "siw"
    # Symbols of ib_core and others are those of the running kernel: modprobe checks them.
    debian.run(
        log, tree, "make", f"-j{len(os.sched_getaffinity(0))}", f"M={siw}", "CONFIG_RDMA_SIW=m",
        "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules")
    return siw / "siw.ko"


def dependencies(tree, release, module):
    """The files of a module and of what it needs, in the order in which they are loaded; none for a built-in."""
    shown = subprocess.run(
        ["/sbin/modprobe", "-d", tree, "-S", release, "--show-depends", module], capture_output=True, text=True,
        check=False)
    if shown.returncode:
        raise Failure(f"Debian's kernel {release} has no module {module}: {shown.stderr.strip()}")
    return [Path(line.split()[1]) for line in shown.stdout.splitlines() if line.startswith("insmod ")]


def copy_module(file, target):
    """Copies a module, unpacked: not every loader reads compressed ones."""
    data = file.read_bytes()
    target.write_bytes(lzma.decompress(data) if file.suffix == ".xz" else data)


def keep_modules(tree, release, result):
    """result/modules/RELEASE: what guests load, as depmod and modprobe want it."""
    base = result / "modules"
    kept = base / "lib" / "modules" / release
    kept.mkdir(parents=True)
    for module in (*MODULES, "siw"):
        for file in dependencies(tree, release, module):
            copy_module(file, kept / file.name.removesuffix(".xz"))
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(tree / "lib" / "modules" / release / name, kept)
    subprocess.run(["/sbin/depmod", "-b", base, release], check=True)


def make_initramfs(tree, release, target, work):
    """A root with what it takes to mount the host's files: a static busybox and the modules for that."""
    for name in ("bin", "modules", "proc", "host"):
        (work / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", work / "bin")
    shutil.copy(HERE / "initramfs.sh", work / "init")
    (work / "init").chmod(0o755)
    files = dict.fromkeys(file for module in BOOT_MODULES for file in dependencies(tree, release, module))
    for number, file in enumerate(files):
        copy_module(file, work / "modules" / f"{number:03}-{file.name.removesuffix('.xz')}")
    names = "\0".join(str(path.relative_to(work)) for path in sorted(work.rglob("*")))
    archive = subprocess.run(
        ["cpio", "--null", "-o", "-H", "newc", "--quiet"], cwd=work, input=names.encode(), capture_output=True,
        check=True)
    with gzip.open(target, "wb") as file:
        file.write(archive.stdout)
