"""The client's side of the agent: one question, one answer, over the control wire."""

import json
import socket

ADDRESSES = {"a": "10.7.0.1", "b": "10.7.0.2"}
PORT = 7070


class Refused(Exception):
    """The agent could not do what it was asked for; its words."""


def ask(guest, patience=None, **request):
    """The agent's answer to a request (see `agent`), after at most `patience` seconds.

    OSError when the guest does not answer, Refused when it cannot do that."""
    with socket.create_connection((ADDRESSES[guest], PORT), 1) as connection:
        connection.settimeout(patience)
        connection.sendall(json.dumps(request).encode() + b"\n")
        line = connection.makefile().readline()
    if not line:
        raise OSError("it went away without an answer")
    answer = json.loads(line)
    if "error" in answer:
        raise Refused(answer["error"])
    return answer
