#!/bin/bash
# Turns a booted guest into one of the lab's two machines: network, RDMA device, agent. Guest a then runs the
# command that the runner wrote, and powers off; guest b stays until it is told to end.
#
# In:  $lab_dir/settings (LAB_DEVICE, LAB_MTU, PROJECT, ...), $lab_dir/command.sh (guest a)
# Out: $lab_dir/out/$lab_guest/status, the command's exit code
set -u
: "${lab_dir:?}" "${lab_guest:?}"
export HOME=/root TERM="${TERM:-dumb}"
out=$lab_dir/out/$lab_guest
mkdir -p "$out"
exec </dev/console >/dev/console 2>&1
stty -onlcr 2>/dev/null

fatal() {
    echo "lab: guest $lab_guest: $*"
    echo 99 >"$out/status"
    "$lab_dir/guest/power-off"
}

set -a
# shellcheck source=/dev/null
. "$lab_dir/settings"
LAB_SELF=$lab_guest
LAB_DIR=$lab_dir
PATH=$lab_dir/guest:$PATH
set +a
# A server's listening queue, and memory that devices may pin, as on a machine set up for RDMA.
echo 4096 >/proc/sys/net/core/somaxconn
# IPv6 addresses outlive a link that goes down, as IPv4's do.
echo 1 >/proc/sys/net/ipv6/conf/all/keep_addr_on_down
ulimit -l unlimited
ulimit -n 65536

case $lab_guest in a) me=1 ;; *) me=2 ;; esac
hostname "lab-$lab_guest"
if [ "${lab_machine-}" = qemu ]; then
    modprobe -a ib_uverbs rdma_ucm "$([ "$LAB_DEVICE" = siw ] || echo rdma_)$LAB_DEVICE" || fatal "no modules"
    # The names that user-mode Linux gives.
    for dev in /sys/class/net/e*; do
        IFS=: read -r _ _ _ _ wire _ <"$dev/address"
        ip link set "${dev##*/}" name "vec$((16#$wire))"
    done
fi
{
    echo link set lo up
    for wire in 0 1 2; do
        net=$((5 + wire))
        echo "link set vec$wire up"
        echo "addr add 10.$net.0.$me/24 dev vec$wire"
        echo "addr add fd0$net::$me/64 dev vec$wire nodad"
    done
} | ip -batch - || fatal "no wires"
rdma-device add "${LAB_DEVICE}0" "$LAB_DEVICE" vec0 || fatal "no RDMA device of kind $LAB_DEVICE"

# The agent serves until the end, in a session of its own so that no signal from the console reaches it.
setsid "$lab_dir/guest/agent" "10.7.0.$me" >"$out/agent.log" 2>&1 </dev/null &

if [ "$lab_guest" = a ]; then
    # Guest b boots at the same time: the command may count on it, and on both agents.
    peer --wait-ready || fatal "the guests did not become ready"
    cd "$PROJECT" || fatal "$PROJECT is not there"
    setsid -c -w /bin/bash "$lab_dir/command.sh"
    echo $? >"$out/status"
    # The command may have done so already.
    peer --power-off 2>/dev/null
    sync
    power-off
else
    wait
fi
