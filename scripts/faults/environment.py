"""What a machine, a container or somebody beside does to a program: limits, missing file systems, filters, signals, clocks."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .scene import judge

REFUSE = [sys.executable, "-B", str(Path(__file__).with_name("refuse.py"))]
# What filters refuse, and programs can do without.
REFUSED = ["eventfd2", "memfd_create", "pidfd_open", "pidfd_getfd", "close_range", "madvise", "ftruncate", "fallocate", "prctl", "getrandom",
           "statx", "sched_getaffinity", "prlimit64", "kcmp", "clone3", "epoll_pwait2"]
# How long programs talk while something is done to them, in seconds.
WHILE = 3


def stop(whom, seconds):
    return f"kill -STOP ${whom}; sleep {seconds}; kill -CONT ${whom}"


def freeze(whom, seconds):
    """By the freezer of cgroups of version 1, or what version 2 has in its place."""
    return (f"if [ -d /sys/fs/cgroup/freezer ]; then G=/sys/fs/cgroup/freezer/netacc-$$; F=freezer.state; ON=FROZEN; OFF=THAWED; "
            f"else G=/sys/fs/cgroup/netacc-$$; F=cgroup.freeze; ON=1; OFF=0; fi; "
            f"mkdir $G && echo ${whom} > $G/cgroup.procs && echo $ON > $G/$F && sleep {seconds}; echo $OFF > $G/$F; "
            f"for p in $(cat $G/cgroup.procs); do echo $p > ${{G%/*}}/cgroup.procs; done; rmdir $G")


def rows(args):
    """Every fault: (what, how it is run). `around`, `prepare` and `settings` are from the start, `disturb` is done to live
    processes, whose numbers are in $SERVER and $CLIENT."""
    for limit in (14, 18, 24, 32, 48, 64):
        yield f"at most {limit} descriptors", {"around": ["prlimit", f"--nofile={limit}:{limit}"]}
    yield "no memory may be locked", {"around": ["prlimit", "--memlock=0:0"]}
    yield "a full /dev/shm", {"prepare": "head -c 1G /dev/zero > /dev/shm/full 2>/dev/null;", "settings": {"SHM": "64k"}}
    yield "a read-only /dev/shm", {"prepare": "mount -o remount,ro /dev/shm;"}
    yield "no /dev/shm", {"prepare": "umount /dev/shm; mount -t proc none /dev/shm;"}
    yield "a read-only /", {"prepare": "mount -o remount,bind,ro / && ! touch /tmp/. 2>/dev/null;"}
    yield "no /proc", {"prepare": "mount -t tmpfs none /proc;"}
    for names in [*([name] for name in REFUSED), REFUSED]:
        for error in ("EPERM", "ENOSYS"):
            what = names[0] if len(names) == 1 else "all of these"
            yield f"{what} refused with {error} by seccomp", {"around": [*REFUSE, error, *names, "--"]}
    yield "the client's clocks run 3 years ahead", {"settings": {"FAULTS_CLIENT": "unshare --time --monotonic 100000000 --boottime 100000000"}}
    yield "the client's clocks run an hour behind", {"settings": {"FAULTS_SERVER": "unshare --time --monotonic 3600 --boottime 3600"}}
    if jump := faketime():
        yield "the time of day jumps by a day, there and back", {
            "settings": {"FAULTS_ALSO_PRELOAD": jump, "FAKETIME_TIMESTAMP_FILE": "/dev/shm/time", "FAKETIME_NO_CACHE": "1",
                         "DONT_FAKE_MONOTONIC": "1"},
            "prepare": "echo +0 > /dev/shm/time;",
            "disturb": "for by in +1d -1d +0 +1d +0; do echo $by > /dev/shm/time; sleep 0.4; done"}
    for whom in ("SERVER", "CLIENT"):
        who = f"the {whom.lower()}"
        yield f"SIGSTOP of {who} for {args.stop:g} s", {"disturb": stop(whom, args.stop)}
        yield f"{who} is stopped 50 times for a moment", {"disturb": f"for n in $(seq 50); do {stop(whom, 0.01)}; sleep 0.02; done"}
        yield f"{who} in a frozen cgroup for {args.stop:g} s", {"disturb": freeze(whom, args.stop), "needs": "freezer"}
        yield f"strace attaches to {who} and leaves, three times", {
            "disturb": f"for n in 1 2 3; do timeout -k 1 0.4 strace -f -p ${whom} -o /dev/null 2>/dev/null; sleep 0.1; done; true"}
        yield f"gdb attaches to {who}, looks at all threads and leaves", {
            "disturb": f"gdb -nx -p ${whom} -batch -ex 'thread apply all backtrace' >/dev/null 2>&1"}
        yield f"{who} may suddenly open no further file", {
            "disturb": f"prlimit --pid ${whom} --nofile=$(ls /proc/${whom}/fd | wc -l); sleep 1; prlimit --pid ${whom} --nofile=1024"}
        yield f"{who} is sent 500 signals that it ignores or handles", {
            "disturb": f"for n in $(seq 500); do kill -WINCH ${whom}; kill -CONT ${whom}; sleep 0.003; done"}
        for after in range(args.kills):
            yield f"SIGKILL of {who} after {after * 7} ms", {"disturb": f"sleep {after * 0.007:.3f}; kill -KILL ${whom}", "killed": whom}
        yield f"{who} is killed for want of memory in its cgroup", {"disturb": oom(whom), "killed": whom, "needs": "memory"}
    yield "/dev/shm is filled", {"disturb": "head -c 1G /dev/zero > /dev/shm/full 2>/dev/null; sleep 1; rm /dev/shm/full"}
    yield "the counters' pages are removed", {"disturb": "rm -r /dev/shm/netacc-*"}
    yield "/proc goes away", {"disturb": "sleep 0.5; mount -t tmpfs none /proc"}


def oom(whom):
    """Its memory is limited to less than it has, and none of it can be written out."""
    return (f"sleep 0.3; if [ -d /sys/fs/cgroup/memory ]; then G=/sys/fs/cgroup/memory/netacc-$$; mkdir $G; echo 1 > $G/memory.move_charge_at_immigrate 2>/dev/null; "
            f"echo ${whom} > $G/cgroup.procs; echo 1M > $G/memory.limit_in_bytes; "
            f"else G=/sys/fs/cgroup/netacc-$$; mkdir $G; echo ${whom} > $G/cgroup.procs; echo 0 > $G/memory.swap.max; echo 1M > $G/memory.max; fi; "
            "for n in $(seq 100); do rmdir $G 2>/dev/null && break; sleep 0.1; done")


def faketime():
    """libfaketime's file, where it is installed."""
    for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1"):
        return str(path)
    return None


def cgroup(controller):
    """Whether there is one that can be written to."""
    old = Path("/sys/fs/cgroup") / controller
    return os.access(old if old.is_dir() else "/sys/fs/cgroup/cgroup.procs", os.W_OK)


def trial(scene, what, how):
    """What is wrong, and what the program noticed."""
    if "needs" in how and not cgroup(how["needs"]):
        return None, ""
    settings = dict(how.get("settings", {}))
    if disturb := how.get("disturb"):
        settings["FAULTS_DISTURB"] = disturb
    said, errors = scene.run(around=how.get("around", ()), prepare=how.get("prepare", ""), settings=settings,
                             rounds=f"{WHILE}s" if disturb else 2)
    wrong, noticed = judge(said, errors, killed=how.get("killed"))
    return wrong, noticed


def all_of(scene, _injector, args, tell):
    """Rows for the table: (fault, tries, noticed, wrong)."""
    wanted = [(what, how) for what, how in rows(args) if not args.fault or any(text in what for text in args.fault)]
    if args.short:
        wanted = [(what, how) for what, how in wanted if "refused with" not in what or "EPERM" in what]
    with ThreadPoolExecutor(args.jobs) as pool:
        for (what, _), (wrong, noticed) in zip(wanted, pool.map(lambda row: trial(scene, *row), wanted)):
            if wrong is None:
                tell(f"{what}: cannot be had here")
                continue
            if noticed:
                tell(f"{what}: {noticed}")
            yield f"environment: {what}", 1, int(bool(noticed)), wrong
