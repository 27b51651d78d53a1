#!/usr/bin/env python3
"""Installs the packages that `make deb` and `make rpm` have made, and what `make install` installs, into scratch roots;
runs redis there by what was installed; removes it; and looks whether anything is left. This system stays as it is."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import BINARIES, Failure, Session, accelerated, benchmark_figures, binaries, free_port, interruptible, need, parse_counters
from packages import container, examples
from packages.root import MARK, Bare, Layered, enter, may_be_layered

CONFIG = "/etc/netacc.conf"
LIBRARY = "libnetacc-preload.so"
PAGES = {"netacc_run": 1, "netacc.conf": 5, "netacc": 7, "netacc_ss": 8}
TOP = Path(__file__).resolve().parent.parent


def expect(holds, complaint):
    if not holds:
        raise Failure(complaint)


def step(text):
    print(f"  {time.monotonic() - BEGUN:5.1f} s  {text}", flush=True)


def redis_is_accelerated(root):
    """Runs redis by the installed netacc_run: its server's counters, as the installed netacc_ss tells them."""
    port = free_port()
    serve, env = root.command(["netacc_run", "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                               "--dir", "/tmp"], {})
    with Session(serve, env=env, stdout=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 30
        while "PONG" not in root.run("redis-cli", "-p", str(port), "ping", succeeds=False):
            expect(server.process.poll() is None and time.monotonic() < deadline, "redis-server did not come up under netacc_run")
            time.sleep(0.02)
        said = root.run("netacc_run", "redis-benchmark", "-p", str(port), "-c", "20", "-n", "20000", "-t", "set", "--csv")
        rate = benchmark_figures(said)["SET"]["rps"]
        counters = parse_counters(root.run("netacc_ss", "--counters", "-p", str(server.process.pid))).get(server.process.pid)
        # The client is gone, and the connections with it: the counters stay for as long as the server.
        expect(counters, f"netacc_ss does not know redis-server, process {server.process.pid}")
        carried = accelerated(counters)
        expect(carried >= 20, f"of 20 clients' connections {carried} were accelerated; the counters: {counters}")
    return rate, carried


def everything_works(root, libdir, by_name=True):
    """What must hold wherever it was installed; `by_name`: the loader of this system looks there, too."""
    version = re.search(r'^version = "(.*)"', (TOP / "Cargo.toml").read_text(), re.M)[1]
    for tool in ("netacc_run", "netacc_ss"):
        expect(version in root.run(tool, "--version"), f"{tool} --version does not say {version}")
    root.run("netacc_run", "--check", NACC_CONF=str(root.at(CONFIG)) if isinstance(root, Bare) else CONFIG)
    expect(root.at(f"{libdir}/{LIBRARY}").is_file(), f"{libdir}/{LIBRARY} is not there")
    for name, section in PAGES.items():
        page = root.at(f"/usr/share/man/man{section}/{name}.{section}.gz")
        text = root.run("man", "--warnings", "-l", str(page) if isinstance(root, Bare) else f"/{page.relative_to(root.folder)}",
                        MANWIDTH="100", MAN_KEEP_FORMATTING="")
        complaints = re.findall(r".*troff.*(?:warning|error).*", text)
        expect("NetACC" in text and not complaints, f"man {section} {name}: {complaints or text[:500]}")
    completes = root.run("bash", "-c", f"source {completion(root, 'netacc_ss')}; COMP_WORDS=(netacc_ss --sh); COMP_CWORD=1; "
                                       "_netacc_ss netacc_ss --sh netacc_ss; echo \"${COMPREPLY[@]}\"")
    expect(completes.strip() == "--show", f"bash completes 'netacc_ss --sh' to '{completes.strip()}'")
    # A number is no file: the word stays as it is.
    completes = root.run("bash", "-c", f"source {completion(root, 'netacc_run')}; compopt() {{ :; }}; cd \"$(mktemp -d)\"; touch 4file; "
                                       "COMP_WORDS=(netacc_run -t 4); COMP_CWORD=2; _netacc_run_or_command netacc_run 4 -t; "
                                       "rm -r \"$PWD\"; echo \"${COMPREPLY[@]}\"")
    expect(completes.strip() == "4", f"bash completes 'netacc_run -t 4' to '{completes.strip()}'")
    # Behind the options the command's own completion goes on, at its place; bash-completion does that for netacc_run.
    completes = root.run("bash", "-c", f"source {completion(root, 'netacc_run')}; _command_offset() {{ COMPREPLY=(\"at $1\"); }}; "
                                       "COMP_WORDS=(netacc_run -t 2 redis-cli --h); COMP_CWORD=4; "
                                       "_netacc_run_or_command netacc_run --h redis-cli; echo \"${COMPREPLY[@]}\"")
    expect(completes.strip() == "at 3", f"bash completes 'netacc_run -t 2 redis-cli --h' by '{completes.strip()}'")
    if by_name and isinstance(root, Layered):
        # The loader says so on standard error if it cannot preload a library.
        said = root.run("true", LD_PRELOAD=LIBRARY)
        expect(said == "", f"LD_PRELOAD={LIBRARY} true says: {said}")
        root.run("sh", "-c", f"grep -q {LIBRARY} /proc/self/maps", LD_PRELOAD=LIBRARY)
    rate, carried = redis_is_accelerated(root)
    return f"redis: {rate:,.0f} SET/s, {carried} connections accelerated"


def completion(root, name):
    path = root.at(f"/usr/share/bash-completion/completions/{name}")
    expect(path.is_file(), f"no completions for bash: {path}")
    return path if isinstance(root, Bare) else f"/{path.relative_to(root.folder)}"


def debian(root, package):
    """The .deb's life: installed, used, removed, purged."""
    libdir = "/usr/lib/" + subprocess.check_output(["dpkg-architecture", "-qDEB_HOST_MULTIARCH"], text=True).strip()
    before = root.files()
    root.run("dpkg", "-i", inside(root, package))
    step("the .deb is installed; " + everything_works(root, libdir))
    if isinstance(root, Layered):
        cache = root.run("ldconfig", "-p")
        expect(f"{libdir}/{LIBRARY}" in cache or f"{libdir.removeprefix('/usr')}/{LIBRARY}" in cache, "the loader's cache does not know the library")
        changed = root.run("dpkg", "--verify", "netacc")
        expect(changed == "", f"files differ from the package's md5sums:\n{changed}")
    with root.at(CONFIG).open("a") as config:
        config.write("NACC_SPIN_US=40\n")
    root.run("dpkg", "-i", inside(root, package))
    expect("NACC_SPIN_US=40\n" in root.at(CONFIG).read_text(), f"{CONFIG} was written over")
    root.run("dpkg", "-r", "netacc")
    left = new_files(root, before)
    expect(left == {CONFIG}, f"after dpkg -r there are left: {sorted(left)}")
    root.run("dpkg", "-P", "netacc")
    left = new_files(root, before)
    expect(not left, f"after dpkg -P there are left: {sorted(left)}")
    step("the .deb is removed, then purged: nothing is left")


def image(root, package):
    """The container's example, as far as it goes without one."""
    before = root.files()
    step("the container's steps: " + container.check(root, package, TOP / "packaging/examples/container"))
    root.run("dpkg", "-P", "netacc")
    left = new_files(root, before)
    expect(not left, f"after the container's steps there are left: {sorted(left)}")


def redhat(root, package):
    """The .rpm's contents, and where that can be done its life."""
    listed = subprocess.check_output(["rpm", "-qpl", package], text=True).split()
    for path in ("/usr/bin/netacc_run", "/usr/bin/netacc_ss", f"/usr/lib64/{LIBRARY}", CONFIG, "/usr/share/man/man7/netacc.7.gz"):
        expect(path in listed, f"the .rpm lacks {path}; it has: {listed}")
    expect(subprocess.check_output(["rpm", "-qpc", package], text=True).split() == [CONFIG], f"{CONFIG} is no configuration file of the .rpm")
    needs = subprocess.check_output(["rpm", "-qpR", package], text=True)
    expect("libc.so.6(" in needs, f"the .rpm does not know that it needs the C library:\n{needs}")
    expect("ibverbs" not in needs and "rdmacm" not in needs, f"the .rpm needs RDMA libraries, which are opened when used:\n{needs}")
    if isinstance(root, Bare):
        step("the .rpm has what it should (installing it takes root)")
        return
    before = root.files()
    # rpm knows nothing of what dpkg has installed.
    root.run("rpm", "-i", "--nodeps", inside(root, package))
    step("the .rpm is installed; " + everything_works(root, "/usr/lib64", by_name=False))
    root.run("rpm", "-V", "--nodeps", "netacc")
    with root.at(CONFIG).open("a") as config:
        config.write("NACC_SPIN_US=40\n")
    root.run("rpm", "-e", "netacc")
    left = new_files(root, before)
    expect(left == {f"{CONFIG}.rpmsave"}, f"after rpm -e there are left: {sorted(left)}")
    root.at(f"{CONFIG}.rpmsave").unlink()
    step("the .rpm is removed: the changed configuration is left as .rpmsave, nothing else")


def make_install(root, bin_dir):
    """`make install`, an upgrade of it, and `make uninstall`, in the root itself or by DESTDIR."""
    tree, settings = TOP, [f"BIN={bin_dir}", f"DESTDIR={root.folder}"]
    if isinstance(root, Layered):
        tree, settings = Path("/sources"), ["BIN=/root/bin"]
        root.at("/root/bin").mkdir()
        for name in BINARIES:
            root.at(f"/root/bin/{name}").write_bytes((bin_dir / name).read_bytes())

    def make(target):
        return root.run("make", "--no-print-directory", "-C", tree, target, *settings)

    before = root.files()
    make("install")
    table = root.run("env", *settings, tree / "packaging/install.sh", "list")
    placed = [line.split()[2] for line in table.splitlines()]
    libdir = str(Path(next(path for path in placed if path.endswith(LIBRARY))).parent)
    step("make install: " + everything_works(root, libdir))
    missing = [path for path in placed if not root.at(path).is_file()]
    expect(not missing, f"not installed: {missing}")
    strangers = {path for path in new_files(root, before) if root.at(path).is_file() and path not in placed}
    expect(not strangers, f"installed, but not in the table, so never removed: {sorted(strangers)}")
    with root.at(CONFIG).open("a") as config:
        config.write("NACC_SPIN_US=40\n")
    make("install")
    expect("NACC_SPIN_US=40\n" in root.at(CONFIG).read_text(), f"{CONFIG} was written over")
    make("uninstall")
    left = {path for path in new_files(root, before) if not root.at(path).is_dir()}
    expect(left == {CONFIG}, f"after make uninstall there are left: {sorted(left)}")
    root.at(CONFIG).unlink()
    step("make uninstall: the changed configuration is left, nothing else")


def new_files(root, before):
    """What came since; but for what the system makes of itself: caches of the loader and of manual pages."""
    return {path for path in root.files() - before if not path.startswith(("/etc/ld.so.cache", "/usr/share/man/mandb"))}


def inside(root, path):
    """The package's path as programs of the root see it."""
    if isinstance(root, Bare):
        return path
    copy = root.at(f"/root/{path.name}")
    copy.write_bytes(path.read_bytes())
    return f"/root/{path.name}"


def newest(packages, pattern):
    found = sorted(packages.glob(pattern), key=lambda path: path.stat().st_mtime)
    expect(found, f"there is no {pattern} in {packages}: run 'make deb rpm' first")
    return found[-1].resolve()


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--bin", default="target/release", help="where the release build is")
    options.add_argument("--packages", type=Path, default=Path("target/packages"), help="where the packages are")
    options.add_argument("--bare", action="store_true", help="into a folder of this system, as without root's rights")
    args = options.parse_args()
    interruptible()
    need("dpkg", "dpkg-architecture", "rpm", "man", "redis-server", "redis-benchmark", "redis-cli")
    bin_dir = binaries(args.bin)
    deb, rpm = newest(args.packages, "netacc_*.deb"), newest(args.packages, "netacc-*.rpm")
    if MARK in os.environ:
        root = Layered(TOP)
        for test in (lambda: debian(root, deb), lambda: image(root, deb), lambda: redhat(root, rpm), lambda: make_install(root, bin_dir)):
            test()
        return 0
    step(examples.check(TOP / "packaging/examples"))
    if not args.bare and may_be_layered():
        return enter([sys.executable, "-B", *sys.argv])
    for test in (lambda root: debian(root, deb), lambda root: redhat(root, rpm), lambda root: make_install(root, bin_dir)):
        with tempfile.TemporaryDirectory(prefix="netacc-root-") as folder:
            test(Bare(folder))
    return 0


if __name__ == "__main__":
    BEGUN = time.monotonic()
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"package_test: {failure}")
    except subprocess.TimeoutExpired as late:
        sys.exit(f"package_test: {late}")
    except KeyboardInterrupt:
        sys.exit("package_test: interrupted; everything it started is stopped")
    finally:
        Session.stop_all()
