"""System calls: each that the library makes for itself fails, in turn."""

import random
import subprocess
from concurrent.futures import ThreadPoolExecutor

from .scene import Traced

# Runs that only look: what one is held by chance is not in each of them.
LOOKS = 4


def census(traced):
    """The sites, as often as any run came to them."""
    sites, wrong, reports = {}, [], []
    for _ in range(LOOKS):
        bad, noticed, report = traced.run()
        wrong += bad + ([f"noticed without a fault: {noticed}"] if noticed else [])
        reports.append(report)
    for report in reports:
        traced.learn(report)
        for site in report["sites"]:
            key = site["call"], site["site"]
            sites[key] = max(site["count"], sites.get(key, 0))
            sites.setdefault((*key, "errors"), site["errors"])
    return {key: (count, sites[*key, "errors"]) for key, count in sites.items() if len(key) == 2}, wrong


# Calls that make something: where they fail for ever there is a way without. Others fail for a while.
MAKE = {"socket", "socketpair", "bind", "eventfd2", "memfd_create", "epoll_create1", "pipe2", "mmap", "ftruncate", "fallocate", "madvise",
        "mkdirat", "open", "openat", "clone", "clone3", "pidfd_open", "close_range", "close", "munmap", "getrandom", "prlimit64",
        "sched_getaffinity", "sched_setaffinity", "unlinkat", "getdents64", "prctl", "newfstatat", "fstat", "pread64"}
WHILE = "1-40"


def plan(sites):
    """Every fault, {call: [(site, fault)]}: at each site the first call, the second, one in the middle, the last, the first
    40, and all of them if it makes something."""
    faults = {}
    for (call, site), (count, errors) in sorted(sites.items()):
        for error in errors:
            often = [WHILE] + (["*"] if call in MAKE else []) if count > 1 else []
            for nth in [*sorted({1, min(2, count), (count + 1) // 2, count}), *often]:
                faults.setdefault(call, []).append((site, f"{call}:{site}:{nth}:{error}"))
    return faults


def sample(faults, number, seed):
    """Some of them: of each call about as many."""
    dice = random.Random(seed)
    piles = [dice.sample(pile, len(pile)) for _, pile in sorted(faults.items())]
    dice.shuffle(piles)
    taken = {}
    while number and any(piles):
        for pile in piles:
            if pile and number:
                site, fault = pile.pop()
                taken.setdefault(fault.split(":")[0], []).append((site, fault))
                number -= 1
    return taken


def places(library, sites):
    """Where in our sources each site is, innermost first: {site: [(file:line, function)]}."""
    done = subprocess.run(["addr2line", "-ifC", "-a", "-e", library, *sites], capture_output=True, text=True, check=False)
    found, site, function = {}, None, None
    for line in done.stdout.splitlines():
        if line.startswith("0x"):
            site = hex(int(line, 16))
            found[site] = []
        elif ":" in line and "/" in line:
            at = line.split(" ")[0]
            if "/src/" in at and "registry" not in at and "rustc" not in at:
                found[site].append((at[at.rindex("/src/") + 1:], function.rsplit("::", 1)[-1]))
        else:
            function = line
    return found


def is_the_programs(call, place):
    """Whether a hook passes the program's own call on, whose error is the kernel's for the program."""
    def plain(name):
        return name.rstrip("12346")

    return any(at.startswith(("src/hooks/", "src/preload/")) and plain(function) in SAME.get(plain(call), (plain(call),))
               for at, function in place)


# Functions of the C library that make a call by another name.
SAME = {"recvfrom": ("recv", "recvfrom"), "sendto": ("send", "sendto"), "epoll_pwait": ("epoll_wait", "epoll_pwait"),
        "accept": ("accept",), "clone": ("pthread_create",)}


def trial(traced, fault):
    """One of them: how it went."""
    wrong, noticed, report = traced.run([fault])
    return fault, wrong, noticed, report["failed"]


def all_of(scene, injector, args, tell):
    """Rows for the table: (fault, tries, noticed, wrong)."""
    traced = Traced(scene, injector)
    sites, wrong = census(traced)
    where = places(scene.library, sorted({site for _, site in sites}))
    own = {key: what for key, what in sites.items() if not is_the_programs(key[0], where[key[1]])}
    tell(f"{len(own)} sites of {len({call for call, _ in own})} system calls, come to {sum(c for c, _ in own.values())} times; "
         f"at {len(sites) - len(own)} more the program's own are passed on")
    yield "system calls: none fails", LOOKS, 0, wrong
    faults = plan(own)
    if args.fault:
        faults = {fault.split(":")[0]: [(fault.split(":")[1], fault)] for fault in args.fault}
    elif args.short:
        faults = sample(faults, args.number, args.seed)
    wanted = [fault for pile in faults.values() for _, fault in pile]
    with ThreadPoolExecutor(args.jobs) as pool:
        results = pool.map(lambda fault: trial(traced, fault), wanted)
        for call, pile in faults.items():
            wrong, seen, tries = [], 0, 0
            for site, _ in pile:
                fault, bad, noticed, failed = next(results)
                named = f"{fault} {' < '.join(f'{at} ({function})' for at, function in where.get(site, [])[:3])}"
                tries += bool(failed)
                seen += bool(noticed)
                wrong += [f"{named}: {sentence}" for sentence in bad]
                if noticed:
                    tell(f"{named}: {noticed}")
            yield f"system call {call}", tries, seen, wrong
