"""Memory: allocations of the library's fail, one after the other, or all from one on."""

import random
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .scene import PROGRAM, judge


def build(work):
    """The library that fails them."""
    made = Path(work) / "failing_malloc.so"
    subprocess.run(["cc", "-O1", "-Wall", "-fPIC", "-shared", "-fno-omit-frame-pointer", "-o", made,
                    PROGRAM.with_name("failing_malloc.c")], check=True)
    return made


def trial(scene, shim, nth, least=0):
    """What is wrong and what was noticed when this one fails, how many there were, and the last that failed."""
    with tempfile.NamedTemporaryFile(dir=scene.work) as count, tempfile.NamedTemporaryFile(dir=scene.work) as trace:
        count.write(bytes(8))
        count.flush()
        settings = {"FAULTS_LIBRARY": "libnetacc-preload", "FAULTS_COUNT": count.name, "FAULTS_NTH": nth,
                    "FAULTS_LEAST": str(least), "FAULTS_TRACE": trace.name}
        said, errors = scene.run(settings=settings, preload=[shim])
        wrong, noticed = judge(said, errors)
        number = int.from_bytes(Path(count.name).read_bytes(), "little")
        failed = Path(trace.name).read_text().splitlines()
    return wrong, noticed, number, failed


def where(library, line):
    """The callers that a line of the trace names, as far as they are in our sources."""
    addresses = line.split()[1:]
    done = subprocess.run(["addr2line", "-ifC", "-s", "-e", library, *addresses], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    ours = [f"{function.rsplit('::', 1)[-1]} ({at})" for function, at in zip(lines[::2], lines[1::2])]
    return " < ".join(ours[:8])


def plan(number, args):
    """Which: each of the first ones, by and by fewer."""
    every = [str(nth) for nth in range(1, number + 1)]
    on = [f"{nth}+" for nth in range(1, number + 1, max(1, number // 60))]
    if not args.short:
        return every, on
    dice = random.Random(args.seed)
    return dice.sample(every, min(20, len(every))), ["1+", *dice.sample(on, min(9, len(on)))]


def all_of(scene, _injector, args, tell):
    """Rows for the table: (fault, tries, noticed, wrong)."""
    shim = build(scene.work)
    wrong, noticed, number, _ = trial(scene, shim, "0")
    tell(f"{number} allocations")
    yield "memory: no allocation fails", 1, int(bool(noticed)), wrong
    once, on = plan(number, args)
    for name, wanted in ((args.fault, args.fault or []),) if args.fault else (("one allocation", once), ("all allocations from one on", on)):
        with ThreadPoolExecutor(args.jobs) as pool:
            results = list(pool.map(lambda nth: (nth, *trial(scene, shim, nth)), wanted))
        wrong, seen, tries = [], 0, 0
        for nth, bad, noticed, _, failed in results:
            tries += bool(failed)
            seen += bool(noticed)
            place = where(scene.library, failed[-1]) if failed and (bad or noticed) else ""
            wrong += [f"{nth} ({len(failed)} failed, the last of {failed[-1].split()[0] if failed else 0} bytes at {place}): {sentence}" for sentence in bad]
            if noticed:
                tell(f"allocation {nth}, {place}: {noticed}")
        yield f"memory: {name}", tries, seen, wrong
