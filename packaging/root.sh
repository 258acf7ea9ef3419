#!/usr/bin/env bash
# root.sh DIRECTORY: a bare Debian or Ubuntu of this machine's release, brought up to date. The libraries of the image
# are its, and nft, and the tests install the package there. It is kept for a day, so that an image has no old libraries.
set -euo pipefail
root=$1
[ ! -x "$root/usr/sbin/nft" ] || [ -z "$(find "$root/.complete" -mtime -1 2>/dev/null)" ] || exit 0
rm -rf "$root"
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
# Where this machine has its packages from.
sources=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    grep -E " $codename(-updates|-security)? " | sort -u)
mirror=$(awk -v release="$codename" '$2 == release { print $1; exit }' <<<"$sources")
debootstrap --variant=minbase --include=ca-certificates,nftables,systemd "$codename" "$root" "$mirror"
sed 's/^/deb /' <<<"$sources" >"$root/etc/apt/sources.list"
chroot "$root" apt-get -q update
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -q -y --no-install-recommends dist-upgrade
touch "$root/.complete"
