#!/bin/sh
# Installs the Debian packages the tests use. Tests that miss one are skipped, so this is a convenience.
set -eu

missing=
for package in \
    bubblewrap busybox-static e2fsprogs gcc iproute2 libc6-dev libseccomp2 mmdebstrap python3-venv \
    qemu-system-x86 strace uidmap util-linux xz-utils zstd
do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || status=unknown
    [ "$status" = installed ] || missing="$missing $package"
done
command -v runc >/dev/null || missing="$missing runc" # Docker has it in a package that conflicts with Debian's
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "some tests will be skipped for want of Debian packages; install:$missing"
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || : # one broken source of several need not stop the install
# shellcheck disable=SC2086 # a list of words
apt-get -qq install --yes --no-install-recommends $missing >/dev/null
