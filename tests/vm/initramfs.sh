#!/bin/sh
# The first process of the machine: finds the root disk, and leaves the rest to guest.sh on it.
set -e
mkdir /new
mount -t devtmpfs dev /dev
for module in /modules/*; do
    insmod "$module"
done
mount -t ext4 -o noatime /dev/vda /new
mount -t tmpfs -o mode=755 run /new/run
cp /guest.sh /settings.sh /command.sh /new/run
mount --move /dev /new/dev
exec switch_root /new /bin/sh /run/guest.sh
