"""Roots to install packages into, without a trace on this system.

A `Layered` root is this system with layers in memory over /usr, /etc and /var: what is installed there is there for the
processes of one mount namespace, and gone with it. It takes root. A `Bare` root is an empty folder, which anybody can have:
dpkg installs into it, programs run from it, and nothing is chrooted."""

import fcntl
import os
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

from lab import Failure

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WRITABLE = ("usr", "etc", "var")
MARK = "NETACC_PACKAGE_TEST_INSIDE"


def may_be_layered():
    """Whether namespaces and layers can be made here: asked of the system, by doing it."""
    if os.getuid() != 0:
        return False
    script = ("d=$(mktemp -d) && mount -t tmpfs none $d && mkdir $d/up $d/work $d/root && "
              "mount -t overlay none -o lowerdir=/usr,upperdir=$d/up,workdir=$d/work $d/root; s=$?; umount -R $d; rmdir $d; exit $s")
    tried = subprocess.run([*UNSHARE, "sh", "-c", script], capture_output=True, check=False, timeout=30)
    return tried.returncode == 0


UNSHARE = ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]


def enter(argv):
    """Runs this script again inside namespaces of its own; its exit status. `MARK` says where a root can be made there."""
    with tempfile.TemporaryDirectory(prefix="netacc-root-") as folder:
        return subprocess.run([*UNSHARE, *argv], env={**os.environ, MARK: folder}, check=False).returncode


def loopback_up():
    """A new network namespace has its loopback interface down."""
    up_and_running = struct.pack("16sh", b"lo", 0x41)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, up_and_running)


class Root:
    """Where packages are installed."""

    def __init__(self, folder):
        self.folder = folder

    def at(self, path):
        """What `path` of the root is called outside of it."""
        return self.folder / str(path).lstrip("/")

    def run(self, *argv, succeeds=True, timeout=60, **env):
        """A command in the root: what it printed, standard error included."""
        command, environment = self.command(argv, env)
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=timeout, check=False)
        if succeeds and done.returncode != 0:
            raise Failure(f"{' '.join(map(str, argv))} failed ({done.returncode}):\n{done.stdout}")
        return done.stdout

    def files(self):
        """Every file and folder of the parts where packages put something."""
        found = set()
        for top in ("usr", "etc", "opt"):
            for folder, folders, names in os.walk(self.folder / top):
                place = Path("/") / Path(folder).relative_to(self.folder)
                found.update(str(place / name) for name in [*folders, *names])
        return found


class Layered(Root):
    """This system with layers over it."""

    def __init__(self, sources):
        folder = Path(os.environ[MARK])
        mount("-t", "tmpfs", "none", folder)
        super().__init__(folder / "root")
        self.folder.mkdir()
        for top in WRITABLE:
            for part in ("up", "work"):
                (folder / part / top).mkdir(parents=True)
            (self.folder / top).mkdir()
            options = f"lowerdir=/{top},upperdir={folder}/up/{top},workdir={folder}/work/{top}"
            mount("-t", "overlay", "none", "-o", options, self.folder / top)
        for entry in Path("/").iterdir():
            mine = self.folder / entry.name
            if entry.is_symlink():
                mine.symlink_to(os.readlink(entry))
            elif entry.name in ("bin", "sbin", "lib", "lib64"):
                mine.mkdir()
                mount("--bind", "-o", "ro", entry, mine)
        for name in ("tmp", "run", "root", "opt", "dev", "proc", "sources"):
            (self.folder / name).mkdir(exist_ok=True)
        mount("--rbind", "/dev", self.folder / "dev")
        mount("-t", "tmpfs", "none", self.folder / "dev/shm")
        mount("--rbind", "/proc", self.folder / "proc")
        mount("--bind", sources, self.folder / "sources")
        # An index of all manual pages, made anew at each step, takes longer than all the rest.
        (self.folder / "var/lib/man-db/auto-update").unlink(missing_ok=True)
        # Small images tell dpkg to leave manuals and documents out.
        for setting in (self.folder / "etc/dpkg/dpkg.cfg.d").glob("*"):
            setting.unlink()
        loopback_up()

    def command(self, argv, env):
        # Set inside: what is to be preloaded there is not there for chroot itself.
        values = {"PATH": PATH, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **env}
        return ["chroot", self.folder, "env", "-i", *(f"{name}={value}" for name, value in values.items()), *argv], {"PATH": PATH}


class Bare(Root):
    """An empty folder."""

    def __init__(self, folder):
        super().__init__(Path(folder))
        for name in ("usr/bin", "etc", "opt", "var/lib/dpkg/info", "var/lib/dpkg/updates"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "var/lib/dpkg/status").touch()

    def command(self, argv, env):
        argv = list(argv)
        if argv[0] == "dpkg":
            argv[1:1] = [f"--root={self.folder}", "--force-not-root", "--force-depends", "--force-bad-path", "--path-include=/usr/share/*",
                          f"--log={os.devnull}"]
        return argv, {**os.environ, "PATH": f"{self.folder}/usr/bin:{PATH}", "LC_ALL": "C.UTF-8", **env}


def mount(*arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"mount {' '.join(map(str, arguments))}: {done.stderr.strip()}")
