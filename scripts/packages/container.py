"""The container's example, without a container: what its Dockerfile says is done in a root, and what its image and the compose
file start is run there, by the user and with the commands that they name."""

import json
import shlex
import subprocess
import time

from lab import Failure, Session, accelerated, parse_counters

# Of an image of its own there is nothing yet: it gets packages from the network. Here they are those of this system.
UPDATE, HERE = "apt-get update", "rm -rf /var/lib/apt/lists/*"


def instructions(dockerfile):
    """(name, text) of each, lines that go on put together."""
    lines = [line.strip() for line in dockerfile.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [tuple(line.split(None, 1)) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]


def compose(file):
    """The services of a compose file. Debian's own Python has the parser."""
    script = "import json, sys, yaml\nprint(json.dumps(yaml.safe_load(open(sys.argv[1]))))"
    said = subprocess.check_output(["/usr/bin/python3", "-c", script, file], text=True)
    return json.loads(said)["services"]


def check(root, package, folder):
    """Does all of it; a sentence of what was seen."""
    said = dict(instructions(folder / "Dockerfile"))
    pattern, target = said["COPY"].split()
    if not package.match(pattern):
        raise Failure(f"container/Dockerfile copies {pattern}, and the package is called {package.name}")
    root.at(f"{target}{package.name}").write_bytes(package.read_bytes())
    if UPDATE not in said["RUN"]:
        raise Failure(f"container/Dockerfile does not say {UPDATE} before it installs packages")
    root.run("sh", "-ec", said["RUN"].replace(UPDATE, HERE), timeout=120)
    if root.at(f"{target}{package.name}").exists():
        raise Failure("container/Dockerfile leaves the package in the image")

    def as_user(*argv):
        user = said["USER"]
        return "setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--", *argv

    start, client = json.loads(said["ENTRYPOINT"]), compose(folder / "compose.yaml")["client"]
    if client["network_mode"] != "service:server":
        raise Failure("container/compose.yaml: the client does not share the server's network, so not its memory")
    serve, env = root.command(as_user(*start, *json.loads(said["CMD"])), {})
    with Session(serve, env=env, stdout=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 30
        port = client["command"][client["command"].index("-p") + 1]
        while "PONG" not in root.run("redis-cli", "-p", port, "ping", succeeds=False):
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"{shlex.join(map(str, serve))} did not come up")
            time.sleep(0.02)
        root.run(*as_user(*start, *client["command"]))
        counters = parse_counters(root.run(*as_user("netacc_ss", "--counters", "-p", str(server.process.pid)))).get(server.process.pid)
        carried = accelerated(counters or {})
        if carried < 50:
            raise Failure(f"of the client's connections {carried} were accelerated; the server's counters: {counters}")
    return f"{carried} connections accelerated, as user {said['USER']}"
