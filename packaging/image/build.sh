#!/usr/bin/env bash
# build.sh DEB ROOT ARCHIVE: an image of what the package installs, of nft, which `openexec redirect --apply` runs, and of the
# libraries that they need, which are those of the Debian in ROOT. ARCHIVE is for `docker load` and `podman load`.
#
# A binary without libraries was rejected: glibc's resolver is not made to be linked statically.
set -euo pipefail
deb=$(realpath "$1") root=$(realpath "$2") archive=$(realpath -m "$3")
cd "$(dirname "$0")"
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
umask 022
image=$context/root
mkdir -p "$image/etc" "$image/usr/bin"
# The Dockerfile gives it to the user, and a volume that is made for it is made like it.
mkdir "$context/state"

dpkg-deb -x "$deb" "$context/package"
install -m 755 "$context/package/usr/bin/openexec" "$image/usr/bin/"
(cd "$context/package" && cp --parents usr/share/doc/openexec/{copyright,openexec.cdx.json} "$image")

install -m 755 "$context/package/usr/bin/openexec" "$root/tmp/openexec"
libraries=$(chroot "$root" ldd /tmp/openexec /usr/sbin/nft)
rm "$root/tmp/openexec"
if grep "not found" <<<"$libraries"; then exit 1; fi
libraries=$(grep -o '/lib[^ ]*' <<<"$libraries" | sort -u)
for file in $libraries /usr/sbin/nft /etc/ssl/certs/ca-certificates.crt; do
    (cd "$root" && cp --parents --dereference ".$file" "$image")
done
# Whose they are, and which version: scanners look here.
mkdir -p "$image/var/lib/dpkg/status.d"
# By the file's name alone: whether it is below /lib or /usr/lib depends on whom one asks.
owners=$(sed 's|.*/|*/|' <<<"$libraries" | chroot "$root" xargs dpkg-query --search | sed 's/[:,].*//' | sort -u)
for package in $owners nftables ca-certificates; do
    chroot "$root" dpkg-query --status "$package" >"$image/var/lib/dpkg/status.d/$package"
    (cd "$root" && cp --parents --dereference "usr/share/doc/$package/copyright" "$image")
done
echo 'openexec:x:65532:65532::/var/lib/openexec:/nonexistent' >"$image/etc/passwd"
echo 'openexec:x:65532:' >"$image/etc/group"
echo 'hosts: files dns' >"$image/etc/nsswitch.conf"

version=$(dpkg-deb --field "$deb" Version)
name=openexec:${version%-*}
# Only images in the Docker format have a HEALTHCHECK.
./buildah.sh build --format docker --isolation chroot --tag "$name" --tag openexec:latest --file Dockerfile "$context"
rm -f "$archive"
./buildah.sh push "openexec:latest" "docker-archive:$archive:$name"
# What the last build left without a name.
./buildah.sh rmi --prune
