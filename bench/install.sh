#!/bin/sh
# Installs the peers that Debian's packages offer. What cannot be installed is left out of the comparison, so this is a
# convenience; `apt-get remove` takes them away again.
set -eu

# Package by package: one that is missing, or conflicts with what is here, need not keep the others away.
packages="busybox-static gcc libc6-dev util-linux bubblewrap crun runc systemd-container lxc firejail podman supervisor runit"

missing=
for package in $packages; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || status=unknown
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "left out for want of Debian packages:$missing"
    exit 0
fi

# Some of them would start services, which would disturb what is measured.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || : # one broken source of several need not stop the install
for package in $missing; do
    apt-get -qq install --yes --no-install-recommends "$package" >/dev/null 2>&1 ||
        echo "left out, since apt-get install fails: $package"
done
