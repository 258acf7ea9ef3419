#!/usr/bin/env bash
# build.sh: target/packaging/openexec_VERSION_ARCHITECTURE.deb, of the release binary that is built already.
set -euo pipefail
cd "$(dirname "$0")/../.."
made=target/packaging
mkdir -p "$made/completions"
target/release/openexec completions bash >"$made/completions/openexec"
target/release/openexec completions zsh >"$made/completions/_openexec"
target/release/openexec completions fish >"$made/completions/openexec.fish"
packaging/sbom/build.sh "$made/openexec.cdx.json"
rm -f "$made"/openexec_*.deb
cargo deb --no-build --output "$made/"
