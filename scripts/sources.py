"""Debian's source packages, for the tests that are in them; the programs themselves are Debian's binaries."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from lab import Failure, progress


def source_tree(binary, source, holds):
    """The unpacked source package of an installed one, fetched once into the user's cache directory."""
    version = subprocess.run(
        ["dpkg-query", "-W", "-f", "${source:Version}", binary],
        capture_output=True, text=True, check=False,
    ).stdout
    if not version:
        raise Failure(f"{binary} is not installed as a Debian package: run 'make setup' first")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netacc"
    tree = cache / f"{source}-{version.replace(':', '_')}"
    if tree.exists():
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    progress(f"fetching the source package of {source} {version} into {cache} ...")
    with tempfile.TemporaryDirectory(dir=cache) as work:
        fetch_source(Path(work), source, version)
        unpacked = [d for d in Path(work).glob("unpack/*") if (d / holds).exists()]
        if not unpacked:
            raise Failure(f"the source package of {source} has no {holds}")
        unpacked[0].rename(tree)
    return tree


def fetch_source(work, source, version):
    """`apt-get source` with source lines made of this machine's own package lists, none of which changes."""
    for directory in ("parts", "lists/partial", "cache/archives/partial", "unpack"):
        (work / directory).mkdir(parents=True)
    etc = Path("/etc/apt")
    for listed in [etc / "sources.list", *etc.glob("sources.list.d/*")]:
        if not listed.is_file() or listed.suffix not in (".list", ".sources"):
            continue
        text = listed.read_text()
        if listed.suffix == ".list":
            text = re.sub(r"^\s*deb(?=\s)", "deb-src", text, flags=re.M)
        else:
            text = re.sub(r"^Types:.*", "Types: deb-src", text, flags=re.M | re.I)
        (work / "parts" / listed.name).write_text(text)
    # _apt, the user that downloads as a rule, may not enter a home directory.
    options = ["-o", "APT::Sandbox::User=root", "-o", "Dir::Etc::sourcelist=/dev/null"]
    for key, directory in (("Dir::Etc::sourceparts", "parts"), ("Dir::State::lists", "lists"), ("Dir::Cache", "cache")):
        options += ["-o", f"{key}={work / directory}"]

    def apt_get(*arguments):
        return subprocess.run(
            ["apt-get", "-q", *options, *arguments], cwd=work / "unpack", text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

    updated = apt_get("update")
    fetched = apt_get("source", f"{source}={version}")
    if fetched.returncode:
        progress(f"{source} {version} is no longer offered as source: taking the newest")
        fetched = apt_get("source", source)
    if fetched.returncode:
        raise Failure(f"apt-get source {source} failed:\n{updated.stdout}{fetched.stdout}")
