"""A guest as a QEMU virtual machine without acceleration: several CPUs and Debian's own kernel, but slow programs."""

import os
import socket

from . import qemu_kernel

CPUS = 2


def prepare():
    """Everything that `command` needs; returns it for `command`."""
    return qemu_kernel.debians_own()


def wire():
    """Both ends of a wire."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def command(parts, guest, ends, run):
    """The command line and environment of a guest's process.

    `ends` are its ends of the wires, `run` what the whole run has in common.
    """
    kernel = (
        "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check "
        f"random.trust_cpu=on audit=0 selinux=0 apparmor=0 lab_machine=qemu lab_dir={run.directory} "
        f"lab_guest={guest.name} lab_modules={parts}/modules"
    )
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35",
        "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-smp", str(CPUS), "-m", str(run.memory),
        "-kernel", parts / "vmlinuz", "-initrd", parts / "initrd.gz", "-append", kernel, "-serial", "stdio",
        "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device", "virtio-9p-pci,fsdev=root,mount_tag=hostroot",
        "-fsdev", f"local,id=run,path={run.directory},security_model=none",
        "-device", "virtio-9p-pci,fsdev=run,mount_tag=run",
    ]
    for n, end in enumerate(ends):
        argv += ["-netdev", f"socket,id=wire{n},fd={end.fileno()}",
                 "-device", f"virtio-net-pci,netdev=wire{n},mac={guest.mac(n)},host_mtu={run.mtu},romfile="]
    return argv, dict(os.environ)
