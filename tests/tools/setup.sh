#!/usr/bin/env bash
# Installs what tests run that is neither Rust nor part of a Debian or Ubuntu system: schemathesis and
# openapi-spec-validator from PyPI, promtool from the package prometheus. All of it goes below the directory given. A
# second run finds everything there and changes nothing.
set -euo pipefail

fail() {
    echo "setup.sh: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || fail "not root, and no sudo: cannot run $*"
        sudo "$@"
    fi
}

[ $# = 1 ] && [ -n "$1" ] || fail "usage: setup.sh DIRECTORY"
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
directory=$(cd "$1" && pwd)

# Other versions are another environment.
requirements=$here/requirements.txt
python=$directory/python
if ! cmp -s "$requirements" "$python/requirements.txt"; then
    if ! python3 -c "import ensurepip, venv" 2>/dev/null; then
        command -v apt-get >/dev/null || fail "python3 has no venv: please install it"
        as_root apt-get update -q >&2
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv >&2
    fi
    rm -rf "$python"
    python3 -m venv "$python"
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$python/bin/pip" install --quiet --only-binary :all: -r "$requirements" >&2
    cp "$requirements" "$python/"
fi

# The package is unpacked and not installed: it would start a service, now and at every boot.
promtool=$directory/promtool
if ! "$promtool" --version >/dev/null 2>&1; then
    if command -v promtool >/dev/null; then
        ln -sf "$(command -v promtool)" "$promtool"
    else
        command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "please install promtool (Prometheus)"
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        (cd "$work" && apt-get download -q prometheus >/dev/null 2>&1) || {
            as_root apt-get update -q >&2
            (cd "$work" && apt-get download -q prometheus >&2)
        }
        dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -x -C "$work" ./usr/bin/promtool
        mv "$work/usr/bin/promtool" "$promtool"
    fi
    "$promtool" --version >/dev/null 2>&1 || fail "$promtool does not run on this machine"
fi
