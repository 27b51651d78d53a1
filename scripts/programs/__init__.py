"""Real programs and their own tests, run bare, with NetACC switched off and with NetACC on."""

from . import (
    apache, cpython, curl, gunicorn, haproxy, inetd, iperf3, java_streams, memcached, netcat, nginx, node, postgres,
    python_servers, redis, socat, sockperf, sshd, stress_ng,
)

# Each module has NEEDS, the programs that it runs, and suites(): (name, whether it is part of the short form,
# what runs it at a `Side`). The longest first.
MODULES = [
    redis, postgres, nginx, haproxy, apache, gunicorn, inetd, sshd, stress_ng, python_servers, curl, socat, java_streams, node,
    memcached, sockperf, iperf3, netcat, cpython,
]
