"""Python's asyncio, socketserver and ssl: one program for each kind of server, one client for all."""

from pathlib import Path

from .curl import certificate
from .node import note_lines

NEEDS = ["python3", "openssl"]
SERVER = Path(__file__).with_name("python_server.py")
CLIENT = Path(__file__).with_name("python_client.py")
KINDS = ["asyncio", "asyncio-tls", "threading", "forking", "ssl"]


def suites():
    return [("python", True, run)]


def run(side):
    pem = certificate(side)
    for kind in KINDS:
        port = side.port()
        with side.server(["python3", SERVER, kind, port, pem], port):
            tls = [pem] if kind in ("asyncio-tls", "ssl") else []
            for client in ("threads", "asyncio"):
                said = side.run(["python3", CLIENT, client, port, *tls], limit=90)
                note_lines(side, f"{kind} server, {client}", said)
