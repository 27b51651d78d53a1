#!/bin/bash
# Instructions that preloading the library adds to a program that never opens a socket.
#
#   scripts/load_cost.sh [LIBRARY]
#
# Counted by callgrind, so that the figure is the same on a busy machine.
set -euo pipefail

library=$(realpath "${1:-target/release/libnetacc-preload.so}")
limit=105000 # instructions

if [ ! -f "$library" ]; then
    echo "load_cost: $library does not exist: run 'make build' first" >&2
    exit 1
fi

count() { # [NAME=VALUE...]: instructions of /bin/true with these in its environment
    local out ir
    out=$(env "$@" valgrind --tool=callgrind --callgrind-out-file=/dev/null /bin/true 2>&1) || {
        printf '%s\nload_cost: valgrind failed\n' "$out" >&2
        return 1
    }
    ir=$(sed -n 's/.*Collected : \([0-9]*\).*/\1/p' <<<"$out")
    if [ -z "$ir" ]; then
        printf '%s\nload_cost: callgrind printed no count\n' "$out" >&2
        return 1
    fi
    echo "$ir"
}

bare=$(count NETACC=bare)
loaded=$(count LD_PRELOAD="$library")
added=$((loaded - bare))
echo "/bin/true: $bare instructions; with $(basename "$library"): $loaded; added: $added (limit $limit)"
[ $added -lt $limit ]
