"""A guest as a user-mode Linux process: it boots in half a second and runs programs at their own speed, on one CPU."""

import os
import socket

from . import kernel

WIRE_BUFFER = 4 << 20  # bytes that a wire holds before packets are dropped, where the host allows so much


def prepare():
    """Everything that `command` needs; returns it for `command`."""
    return kernel.user_mode()


def wire():
    """Both ends of a wire. Packets keep their borders and their order; with SOCK_DGRAM there were gaps of 0.5 s."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, WIRE_BUFFER)
    return ends


def command(linux, guest, ends, run):
    """The command line and environment of a guest's process.

    `ends` are its ends of the wires, `run` what the whole run has in common.
    """
    wires = [
        f"vec{n}:transport=fd,fd={end.fileno()},mac={guest.mac(n)},mtu={run.mtu},depth=128,gro=0"
        for n, end in enumerate(ends)
    ]
    argv = [
        linux, f"mem={run.memory}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
        f"init={run.directory}/guest/init.sh", "con=null", "con0=fd:0,fd:1", "quiet", "loglevel=1", "panic=-1",
        f"uml_dir={run.directory}/uml", f"umid={guest.name}{guest.boots}", *wires,
        f"lab_dir={run.directory}", f"lab_guest={guest.name}",
    ]
    return argv, {**os.environ, "TMPDIR": str(memory_directory(run))}


def memory_directory(run):
    """Where the guests' memory lies, which they also execute: a container's /dev/shm is often too small or noexec."""
    shm = "/dev/shm"
    if os.access(shm, os.W_OK):
        room = os.statvfs(shm)
        executable = not room.f_flag & os.ST_NOEXEC
        if executable and room.f_bavail * room.f_frsize > 2 * run.memory << 20:
            return shm
    return run.directory
