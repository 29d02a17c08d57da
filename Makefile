# Orbit's commands. `make help` lists them.
#
# Builds use the development profile (our crates quick to build, their dependencies optimised
# once), so that `make run` and `make test` share one build; `make release` is the fast one.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

ENGINE_DIR := deploy/clickhouse
ENGINE := $(ENGINE_DIR)/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so
CHAOS := loadtest/scenarios/chaos.toml loadtest/scenarios/chaos-h2.toml
LOOM := RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(ENGINE) ## start everything: ClickHouse, a demo upstream, the gateway; Ctrl-C stops it
	cargo build --package orbit-gateway --bin orbit
	exec target/debug/orbit up

.PHONY: engine
engine: $(ENGINE) ## install the embedded ClickHouse engine (needs npm)

$(ENGINE): $(ENGINE_DIR)/package-lock.json
	@command -v npm >/dev/null || { \
	  echo "The embedded ClickHouse engine comes as an npm package, and npm is not installed." >&2; \
	  echo "Install Node.js with npm and run this again, or set [clickhouse] mode = \"external\"" >&2; \
	  echo "in config/orbit.toml and run \`orbit gateway\` with a server of your own." >&2; \
	  exit 1; }
	cd $(ENGINE_DIR) && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

.PHONY: test
test: $(ENGINE) direction ## run every test: units, properties, loom, end to end with the real engine, OpenAPI, alerts, chaos
	cargo test --workspace
	$(MAKE) --no-print-directory openapi
	$(MAKE) --no-print-directory loom
	$(MAKE) --no-print-directory alerts-short
	$(MAKE) --no-print-directory chaos-short

# The attacks of `make accept` and `make chaos` in short, with the binaries the tests have built.
JUDGED = then echo "test result: ok. 1 passed; 0 failed"; else \
	echo "test result: FAILED. 0 passed; 1 failed"; exit 1; fi

.PHONY: alerts-short
alerts-short: $(ENGINE)
	cargo build --workspace --bins
	@if target/debug/loadtest alerts --orbit target/debug/orbit --crossings 200 --over-s 15 \
	  --gateway-kills 4 --receiver-kills 3; $(JUDGED)

.PHONY: chaos-short
chaos-short: $(ENGINE)
	cargo build --workspace --bins
	@if target/debug/loadtest chaos $(CHAOS) --orbit target/debug/orbit --rate 500 \
	  --duration-s 120 --gateway-kills 20 --clickhouse-kills 6; $(JUDGED)

.PHONY: openapi
openapi: $(ENGINE) ## hold a running gateway to its OpenAPI document with schemathesis (needs python3)
	cargo build --package orbit-gateway --bin orbit
	gateway/tests/openapi/run.py

.PHONY: loom
loom: ## try every interleaving of the compare-and-swap loops
	$(LOOM) cargo test --release --package orbit-policy --lib loom_tests

.PHONY: bench
bench: ## criterion benchmarks, then CPU time per request beside a bare pingora proxy
	cargo bench --package orbit-benches --benches
	$(MAKE) --no-print-directory bench-cpu

.PHONY: bench-cpu
bench-cpu: $(ENGINE) release ## CPU time per request: Orbit beside a bare pingora proxy
	loadtest/compare.sh

.PHONY: chaos
chaos: $(ENGINE) release ## ten minutes of kill -9, stops, network faults and a full disk under load, with a verdict
	target/release/loadtest chaos $(CHAOS) --orbit target/release/orbit --duration-s 600

.PHONY: accept
accept: $(ENGINE) release ## load tests with a verdict: limits, ledger, outage, disk, power, quotas, alerts, ingest (40 minutes)
	loadtest/accept.sh

.PHONY: bench-ship
bench-ship: $(ENGINE) ## rows per second from the journal into the engine, beside INSERT SELECT
	cargo run --release --package orbit-benches --example drain

.PHONY: release
release: ## build the fast binaries into target/release
	cargo build --release --workspace --bins
	cargo build --release --package orbit-gateway --example bare_proxy

.PHONY: check
check: direction ## formatting, lints, documentation and whether the benches compile
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	cargo bench --package orbit-benches --benches --no-run
	@if command -v cargo-deny >/dev/null; then cargo deny check; else echo "cargo-deny is not installed: skipped"; fi

# Dependencies point one way: gateway -> meter -> policy; see ARCHITECTURE.md.
.PHONY: direction
direction: ## check which crate may name what
	@tree() { cargo tree --quiet --edges normal --prefix none --format '{p}' --package "$$1"; }; \
	none() { if tree "$$1" | grep -E "^($$2) " ; then echo "$$1 must not depend on these" >&2; exit 1; fi; }; \
	none orbit-policy 'tokio|hyper|pingora[a-z-]*|clickhouse|orbit-meter|orbit-gateway'; \
	none orbit-meter 'pingora[a-z-]*|orbit-gateway'; \
	only() { for m in policy meter gateway benches loadtest; do \
	  [ $$m = "$$2" ] || ! grep -Eq "^$$1[a-z-]*[ .]" $$m/Cargo.toml || { echo "$$m/Cargo.toml names $$1, only $$2 may" >&2; exit 1; }; done; }; \
	only pingora gateway; only clickhouse meter; \
	echo "direction: policy is pure, only gateway names pingora, only meter names clickhouse"

.PHONY: clean
clean: ## remove builds and the data of `make run`
	cargo clean
	rm -rf data
