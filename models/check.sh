#!/bin/bash
# Checks the models with Spin: every interleaving of each. Says which one fails, and where its trail is.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Says how many executions break MODEL, and leaves pan.log.
explore() { # MODEL [-DNAME]...
    local model=$1
    shift
    cp "$model" "$work/model.pml"
    (
        cd "$work"
        spin "$@" -a model.pml >spin.log || { cat spin.log >&2; exit 1; }
        gcc -O2 -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -DMEMLIM=4096 -o pan pan.c
        ./pan -m1000000 >pan.log
        if grep -q 'not completed\|depth too small\|out of memory' pan.log && ! grep -q 'errors: [1-9]' pan.log; then
            cat pan.log >&2
            exit 1
        fi
        sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log
    )
}

holds() { # MODEL [-DNAME]...
    local errors
    errors=$(explore "$@")
    if [ "$errors" != 0 ]; then
        (cd "$work" && spin "${@:2}" -t -p -g model.pml | tail -80) || true
        echo "models: $*: an execution breaks it" >&2
        exit 1
    fi
    echo "models: $*: holds in all of $(sed -n 's/ *\([0-9.e+]*\) states, stored.*/\1/p' "$work/pan.log") states"
}

# A model that cannot fail proves nothing: without this rule it must.
needs() { # RULE SED-COMMAND MODEL [-DNAME]...
    local rule=$1 change=$2 model=$3 errors
    sed "$change" "$model" >"$work/changed.pml"
    if cmp -s "$model" "$work/changed.pml"; then
        echo "models: $model: the rule '$rule' is not where it was: $change" >&2
        exit 1
    fi
    errors=$(explore "$work/changed.pml" "${@:4}")
    if [ "$errors" = 0 ]; then
        echo "models: ${*:3}: holds without the rule '$rule' as well: it does not check it" >&2
        exit 1
    fi
    echo "models: ${*:3}: breaks without the rule '$rule', as it must"
}

holds hand_back.pml
holds hand_back.pml -DDEATH
needs "writers wait for what comes back" 's/ends\[me\].is_plain && !ends\[me\].resends && nfull/ends[me].is_plain \&\& nfull/' hand_back.pml
needs "nobody leaves before all has come back" 's/ && !e.awaits_return && (e.resent/ \&\& (e.resent/' hand_back.pml
needs "the kernel's stream ends after what comes back" 's/:: !e.awaits_return -> end_stream/:: true -> end_stream/' hand_back.pml
needs "what came again of a dead peer is not read twice" 's/kernel_in?_; number--/number--/' hand_back.pml -DDEATH
holds failover.pml
needs "an older carrier is not listened to" 's/there\[listens\]?\[WRITE, at, value\] ->/there[0]?[WRITE, at, value] ->/; s/there\[listens\]?WRITE(at, value)/there[0]?WRITE(at, value)/' failover.pml
needs "the receiver says where to go on" 's/peer_freed = freed; posted = got;/peer_freed = freed;/' failover.pml
needs "a ring holds no more than its size" 's/posted - peer_freed < RING && len/len/; s/written - peer_freed < RING ->/written - peer_freed < RING + 1 ->/' failover.pml
