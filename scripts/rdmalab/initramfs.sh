#!/bin/busybox sh
# shellcheck shell=dash
# The first process of a QEMU guest: makes the host's files its root, where init.sh goes on as in every guest.
/bin/busybox mount -t proc none /proc
for module in /modules/*; do
    /bin/busybox insmod "$module"
done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 hostroot /host
/bin/busybox umount /proc
# shellcheck disable=SC2154  # the kernel handed it on from its command line
exec /bin/busybox switch_root /host "$lab_dir/guest/init.sh"
