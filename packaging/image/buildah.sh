#!/usr/bin/env bash
# buildah, with a store of its own that works without a container engine, a registry or overlay mounts.
set -euo pipefail
store=$(realpath "$(dirname "$0")/../..")/target/packaging/containers
policy=$(realpath "$(dirname "$0")")/policy.json
command=$1
shift
options=()
case $command in build | push | from) options=(--signature-policy "$policy") ;; esac
exec buildah --storage-driver vfs --root "$store/storage" --runroot "$store/run" "$command" "${options[@]}" "$@"
