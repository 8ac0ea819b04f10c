#!/bin/sh
# The first process of the virtual machine, from the initramfs: makes its root of the host's (9p, read-only) and a
# tmpfs that takes whatever is written, and goes on there. What goes wrong here is said on the serial line.
set -e
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_pci virtio_console virtio_rng 9pnet_virtio 9p overlay; do modprobe $module; done
# The host's files are taken for what they were when they were first looked at: they must not change meanwhile.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
mount -t tmpfs -o size=75% written /written
mkdir /written/files /written/work
mount -t overlay -o lowerdir=/host,upperdir=/written/files,workdir=/written/work root /root
for point in proc sys dev; do mount -o move /$point /root/$point; done
cp /command /root/command
exec switch_root /root /bin/bash "$CLONE/tests/vm/inside.sh" "$CLONE"
