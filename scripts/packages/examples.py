"""Checks the examples that are installed with the documents, each by what reads it in the end, where that is here."""

import configparser
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab import Failure

UNIT = Path("/lib/systemd/system/redis-server.service")


def check(folder):
    """Every example; a sentence of what was checked."""
    checked = [name for name, test in
               (("yaml", yaml), ("systemd", systemd), ("limits", limits), ("sysctl", sysctl), ("Dockerfile", dockerfile)) if test(folder)]
    return f"examples are sound: {', '.join(checked)}"


def yaml(folder):
    """Each document of each file parses, and the manifests say what they are. Debian's own Python has the parser."""
    files = sorted([*folder.rglob("*.yaml")])
    script = "import json, sys, yaml\nprint(json.dumps([list(yaml.safe_load_all(open(f))) for f in sys.argv[1:]]))"
    done = subprocess.run(["/usr/bin/python3", "-c", script, *map(str, files)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"an example is no YAML: {done.stderr.strip().splitlines()[-1]}\n{done.stderr.strip()}")
    for path, documents in zip(files, json.loads(done.stdout), strict=True):
        for document in documents:
            known = {"apiVersion", "kind", "metadata", "spec"} if path.parent.name == "kubernetes" else {"services"}
            if not known <= document.keys():
                raise Failure(f"{path}: a document without {', '.join(sorted(known - document.keys()))}")
    return True


def systemd(folder):
    """The drop-in, with the unit that it is for."""
    drop_in = folder / "systemd/redis-server.service.d/netacc.conf"
    text = drop_in.read_text()
    if "[Service]" not in text or "LD_PRELOAD=libnetacc-preload.so" not in text:
        raise Failure(f"{drop_in} does not preload the library")
    # In a unit that restricts nothing the line becomes the list of what is allowed.
    families = {family for line in meant(drop_in) if line.startswith("RestrictAddressFamilies=") for family in line.partition("=")[2].split()}
    missing = {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"} - families
    if families and missing:
        raise Failure(f"{drop_in}: a service that restricts nothing itself would lose {', '.join(sorted(missing))}")
    if not (shutil.which("systemd-analyze") and UNIT.exists()):
        return False
    with tempfile.TemporaryDirectory() as units:
        unit = Path(units, UNIT.name)
        # Debian's own line, without a folder that it tells of by an old name, and the netacc_run that is not installed here.
        unit.write_text(UNIT.read_text())
        place = Path(units, f"{UNIT.name}.d")
        place.mkdir()
        (place / "netacc.conf").write_text(text.replace("/usr/bin/netacc_run", "/usr/bin/env"))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit], capture_output=True, text=True,
                              check=False, timeout=30)
        said = [line for line in done.stderr.splitlines() if "netacc" in line]
        if said:
            raise Failure(f"{drop_in}: systemd-analyze says: {said}")
    return True


def limits(folder):
    """domain, type, item, value."""
    for line in meant(folder / "limits.d/netacc.conf"):
        if not re.fullmatch(r"\S+\s+(soft|hard|-)\s+memlock\s+(unlimited|-1|\d+)", line):
            raise Failure(f"limits.d/netacc.conf: '{line}' is no limit")
    return True


def sysctl(folder):
    """Keys that this kernel has."""
    parser = configparser.ConfigParser(delimiters="=")
    parser.read_string("[all]\n" + "\n".join(meant(folder / "sysctl.d/netacc.conf")))
    for key in parser["all"]:
        if not Path("/proc/sys", key.replace(".", "/")).exists():
            raise Failure(f"sysctl.d/netacc.conf: there is no {key}")
    return True


def dockerfile(folder):
    """Begins with an image and ends with what it runs; every line is an instruction or continues one."""
    lines = meant(folder / "container/Dockerfile")
    known = ("FROM", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD")
    continues = False
    for line in lines:
        if not continues and line.split()[0] not in known:
            raise Failure(f"container/Dockerfile: '{line}' is no instruction")
        continues = line.endswith("\\")
    if not lines[0].startswith("FROM ") or continues:
        raise Failure("container/Dockerfile: no image, or no end")
    return True


def meant(path):
    """Lines that are neither empty nor comments."""
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
