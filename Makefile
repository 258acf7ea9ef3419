# `make run` and `make test` work on a fresh Debian or Ubuntu machine with Rust.

# What the build and the tests need beside Rust: a C compiler (SQLite, zstd), python3 (the oracle of the canonical
# text), curl (the README's lines), unshare, mount and kill (full and read-only disks, crashes).
PACKAGES := cmake gcc libc6-dev make python3 curl util-linux mount procps
COMMANDS := cmake cc make python3 curl unshare mount kill

.PHONY: run test lint bench evidence setup

run: setup
	cargo build --release
	target/release/openexec

test: setup
	cargo test --workspace

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

bench: setup
	cargo bench -p openexec-protocol
	cargo bench -p openexec --bench gate

# The figures of docs/evidence.md: about an hour.
evidence: setup
	OPENEXEC_TEST_KILL_CYCLES=1000 cargo test -p openexec --test it -- kill:: crash:: --nocapture
	$(MAKE) bench

setup:
	@command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs"; exit 1; }
	@missing=""; for c in $(COMMANDS); do command -v $$c >/dev/null || missing="$$missing $$c"; done; \
	python3 -c "import json, sqlite3" 2>/dev/null || missing="$$missing python3"; \
	[ -z "$$missing" ] && exit 0; \
	echo "missing:$$missing; installing $(PACKAGES)"; \
	if [ "$$(id -u)" = 0 ]; then as_root=""; elif command -v sudo >/dev/null; then as_root="sudo"; else as_root="no"; fi; \
	if [ "$$as_root" = no ] || ! command -v apt-get >/dev/null; then \
		echo "this cannot be installed here: please install$$missing"; exit 1; \
	fi; \
	$$as_root apt-get update -q && DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -q --no-install-recommends $(PACKAGES)
