"""Real programs and their own tests, run bare, with NetACC switched off and with NetACC on."""

from . import cpython, haproxy, java_streams, nginx, node, postgres, side

# Each module has NEEDS, the programs that it runs, and suites(): (name, whether it is part of the short form,
# what runs it at a `Side`). The longest first.
MODULES = [postgres, nginx, haproxy, java_streams, node, cpython]
