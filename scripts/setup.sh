#!/bin/bash
# Installs the Debian packages that a task needs, and only those that are missing.
#
#   scripts/setup.sh GROUP...      GROUP: build, demo, test, programs, processes, bench, faults, fuzz, model, lab, show, lab_kernel, lab_qemu, package
#
# Says nothing when nothing is missing. Needs root or sudo only when something is.
set -euo pipefail

# One package a word; each is here because a named task runs it.
build="gcc libc6-dev pkg-config libibverbs-dev librdmacm-dev libclang1-14 libclang-common-14-dev"
demo="redis-server redis-tools strace python3"
test="redis-server redis-tools memcached sockperf iperf3 curl python3 valgrind binutils
      tcl dpkg-dev xz-utils procps python3-jsonschema python3-prometheus-client"
programs="redis-server redis-tools memcached nginx-light wrk haproxy curl openssl postgresql python3 python3.11
          apache2-bin gunicorn openbsd-inetd systemd openssh-server openssh-client
          libpython3.11-testsuite nodejs default-jdk-headless netcat-openbsd socat iperf3 sockperf stress-ng
          tcl dpkg-dev xz-utils procps iproute2 util-linux gdb"
processes="redis-server redis-tools nginx-light wrk postgresql socat gunicorn apache2-bin python3 curl openssl util-linux
           openssh-server openssh-client"
bench="memcached util-linux valgrind strace gcc libc6-dev clang bpftool libbpf-dev"
faults="gcc libc6-dev binutils iproute2 util-linux strace gdb faketime libfaketime procps python3"
fuzz="g++"
model="spin gcc libc6-dev"
lab="iproute2 ibverbs-providers ibverbs-utils rdmacm-utils tcpdump redis-server redis-tools python3"
show="gcc libc6-dev redis-server redis-tools sockperf strace python3 perftest"
package="dpkg-dev rpm man-db bash python3 python3-yaml binutils gzip redis-server redis-tools util-linux ibverbs-providers librdmacm1"
lab_kernel="gcc make libc6-dev bc bison flex libelf-dev patch xz-utils"
lab_qemu="qemu-system-x86 busybox-static cpio kmod xz-utils gcc make libc6-dev libelf-dev"

say() { echo "setup: $*" >&2; }

missing=()
for group in "$@"; do
    case $group in
        build | demo | test | programs | processes | bench | faults | fuzz | model | lab | show | lab_kernel | lab_qemu | package) ;;
        *) say "no package group '$group'; the groups are: build demo test programs processes bench faults fuzz model lab show lab_kernel lab_qemu package"; exit 2 ;;
    esac
    for package in ${!group}; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        case " ${missing[*]-} $status " in
            *" $package "* | *" installed "*) ;;
            *) missing+=("$package") ;;
        esac
    done
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    say "missing: ${missing[*]}. There is no apt-get here: install them by this system's own means."
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        say "missing: ${missing[*]}. Installing them needs root: run 'apt-get install ${missing[*]}' as root, then try again."
        exit 1
    fi
    as_root=(sudo)
fi

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=no
cleanup() {
    rm -f "$log"
    if [ $made_policy = yes ]; then "${as_root[@]}" rm -f "$policy"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# A server's package starts its service where systemd runs. We start our own, on ports of our own:
# 101 from policy-rc.d says "do not", and what was installed here is not left to start at boot either.
if [ ! -e $policy ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
    "${as_root[@]}" chmod 755 $policy
fi

quietly() {
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        say "failed: $*"
        exit 1
    fi
}
say "installing ${#missing[@]} Debian package(s): ${missing[*]} ..."
start=$SECONDS
quietly apt-get -q update
quietly apt-get -qy install --no-install-recommends "${missing[@]}"
if [ -d /run/systemd/system ]; then
    for service in redis-server memcached nginx haproxy postgresql openbsd-inetd openssh-server; do
        case " ${missing[*]} " in
            *" $service "*) "${as_root[@]}" systemctl --quiet disable "${service/openssh-server/ssh}" || true ;;
        esac
    done
fi
say "installed in $((SECONDS - start)) s"
