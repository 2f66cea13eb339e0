#!/bin/sh
# Process 1 of the machine on its root disk: sets up what an init system would, runs one command, powers off.
set -e
. /run/settings.sh # REPOSITORY, VENV, PYSUPER_TEST_CACHE

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup # systemd's options
mkdir /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm # but /tmp stays on the disk: this tmpfs has no idmapped mounts, ext4 has
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
hostname machine
ip link set lo up

# Both are at the paths they have on the host, which scripts and editable installs of the venv name.
mkdir -p "$REPOSITORY"
mount -o noatime /dev/vdb "$REPOSITORY"
mkdir -p "$VENV"
mount -o noatime /dev/vdc "$VENV"
# The venv's interpreter stayed on the host: Debian's takes its place.
echo "home = /usr/bin" >"$VENV/pyvenv.cfg"
for name in python python3 python3.11; do
    ln -sf /usr/bin/python3.11 "$VENV/bin/$name"
done
[ -e "$VENV/lib/python3.11" ] || ln -s python3.* "$VENV/lib/python3.11"
mount --make-rshared / # as on a host that systemd runs

export PYSUPER_TEST_CACHE HOME=/root LANG=C.UTF-8
export PATH="$VENV/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
cd "$REPOSITORY"

# The command writes to a pipe, as it would under CI. It is in a session of its own so that killall5 tells apart
# what it left running, which would hold the pipe open, from the copying process.
mkfifo /run/output
cat /run/output >"$(echo /dev/vport*p1)" &
code=0
setsid --wait sh /run/command.sh </dev/null >/run/output 2>&1 || code=$?
killall5 -9 || : # it fails if nothing was left
wait
echo "$code" >"$(echo /dev/vport*p2)"
busybox poweroff -f
