#!/usr/bin/env bash
# build.sh FILE: what is in the binary, as CycloneDX JSON.
set -euo pipefail
cd "$(dirname "$0")/../.."
# The moment of the commit, so that the same commit gives the same file.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
# It writes beside each Cargo.toml, and nowhere else, for every binary of the workspace.
made=openexec_bin.cdx.json
trap 'rm -f "$made" fuzz/*_bin.cdx.json' EXIT
cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --no-build-deps
mkdir -p "$(dirname "$1")"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo tree --locked -p openexec -e normal --target "$host" --prefix none --format '{p}' |
    python3 packaging/sbom/finish.py "$made" "$1"
