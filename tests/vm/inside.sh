#!/usr/bin/env bash
# What the virtual machine does: makes itself a Debian as one boots it, as far as the tests see, runs the command in the
# clone, tells its exit status in the kernel's log, and switches itself off.
# usage: inside.sh CLONE     CLONE: this repository, whose .vm has the kernel's package; the command is in /command
set -u
exec </dev/null >/dev/hvc0 2>&1
stty -F /dev/hvc0 raw
readonly clone=$1 kernel=$(uname -r)
export PATH=$clone/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONUNBUFFERED=1

mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=600,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname debian
ip link set lo up

# The kernel's package, as if it were installed, and who the kernel asks for a module that is missing.
mkdir -p /usr/lib/modules /boot
ln -s "$clone/.vm/kernel/lib/modules/$kernel" /usr/lib/modules/
ln -s "$clone/.vm/kernel/boot/config-$kernel" /boot/
ln -sf "$clone/.vm/bin/busybox" /usr/sbin/modprobe

ulimit -n "$(cat /proc/sys/fs/nr_open)"
cd "$clone"
# Through a pipe: a command that sees a terminal would draw on it. In a session of its own, as whoever logs in has one: the
# first process's own has the number 0, which means nobody where a process group is named.
setsid --wait bash /command 2>&1 | cat
echo "<1>vm: exit status ${PIPESTATUS[0]}" >/dev/kmsg
echo o >/proc/sysrq-trigger
sleep infinity
