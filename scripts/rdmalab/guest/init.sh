#!/bin/bash
# The first process of a guest. The host's files are its root, read-only. Over them goes a layer in memory,
# so that every program finds a whole machine that it may write to; then guest.sh continues in it.
#
# The run's directory comes in the environment: the kernel hands lab_dir=... and lab_guest=... on.
set -eu
: "${lab_dir:?}"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

mount -t proc none /proc
mount -t tmpfs none /tmp
root=/tmp/root
mkdir /tmp/upper /tmp/work $root
mount -t overlay -o lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work none $root
mount -t proc none $root/proc
mount -t sysfs none $root/sys
mount -t devtmpfs none $root/dev
mkdir -p $root/dev/pts $root/dev/shm
mount -t devpts none $root/dev/pts
for place in dev/shm run; do mount -t tmpfs -o mode=1777 none "$root/$place"; done
mount -t debugfs none $root/sys/kernel/debug 2>/dev/null || true

# The run's own directory is the host's: results are written there.
mkdir -p "$root$lab_dir"
if [ "${lab_machine-}" = qemu ]; then
    : "${lab_modules:?}"
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 run "$root$lab_dir"
    release=$(uname -r)
    mkdir -p "$root/lib/modules/$release"
    mount --bind "$root$lab_modules/lib/modules/$release" "$root/lib/modules/$release"
else
    # The first form is for mount(8) before util-linux 2.39, the second for those since.
    mount -t hostfs -o "$lab_dir" none "$root$lab_dir" 2>/dev/null ||
        mount -t hostfs -o "hostfs=$lab_dir" none "$root$lab_dir"
fi
exec chroot $root /bin/bash "$lab_dir/guest/guest.sh"
