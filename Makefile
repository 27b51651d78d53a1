# Everything a person runs by hand or a machine runs in CI. `make help` lists it.

TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
# Options for the scripts, e.g. make demo ARGS='--pairs 1', make test-redis ARGS='--units unit/pubsub'
ARGS ?=
# The kind of guests of the RDMA lab: uml or qemu
LAB ?= uml

.PHONY: help build demo test fuzz model test-loom test-redis test-lab programs rdma-lab rdma-show lint clean setup build-older build-faulty build-special bench bench-redis bench-processes bench-callgrind bench-instructions bench-scaling bench-curves chaos faults cargo \
        install uninstall deb rpm test-packages bench-plot bench-docs completions

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## install the Debian packages that demo and test need, where missing
	@scripts/setup.sh build demo test lab

cargo:
	@command -v cargo >/dev/null || { \
	  echo "make: cargo was not found. Install Rust 1.95 or newer (rustup), then try again." >&2; exit 1; }
	@scripts/setup.sh build

# rustc names the file after the crate; programs preload it by its soname.
build: cargo ## build the release library and tools
	cargo build --release --workspace
	@ln -f $(RELEASE)/libnetacc_preload.so $(RELEASE)/libnetacc-preload.so

# Libraries with a feature that is for tests alone, each under a name of its own; the tests look for them there.
build-special: cargo
	@cargo build --profile older --package netacc-preload --features $(FEATURE)
	@ln -f $(TARGET)/older/libnetacc_preload.so $(TARGET)/older/libnetacc-$(FEATURE).so

# What programs run that were started before an upgrade.
build-older: ## the library with the older protocol version alone, for the tests of upgrades
	@$(MAKE) --no-print-directory build-special FEATURE=protocol-1

build-faulty: ## the library that fails where it is told to, for the tests of crash containment
	@$(MAKE) --no-print-directory build-special FEATURE=faults

demo: ## redis over TCP and over NetACC side by side, in under two minutes
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/demo.py --bin $(RELEASE) $(ARGS)

# The tests themselves are built without optimisation; what they preload is the release library.
test: ## build, then run every test
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory build-older build-faulty
	cargo build --workspace
	NACC_TEST_LIB="$(abspath $(RELEASE))/libnetacc-preload.so" cargo test --workspace
	@$(MAKE) --no-print-directory test-packages
	@$(MAKE) --no-print-directory test-loom
	@$(MAKE) --no-print-directory test-lab
	@python3 -B scripts/redis_suite.py --bin $(RELEASE) $(ARGS)
	@$(MAKE) --no-print-directory programs ARGS=--short

# Its own directory: the flag makes another build of everything.
test-loom: cargo ## models of the lock-free parts: every interleaving, every stale read
	RUSTFLAGS="$(RUSTFLAGS) --cfg loom" CARGO_TARGET_DIR=$(TARGET)/loom CARGO_PROFILE_RELEASE_LTO=off \
	  cargo test --release --test loom

fuzz: cargo ## libFuzzer at everything that reads bytes from outside (ARGS='--seconds 600 ring')
	@scripts/setup.sh fuzz
	@fuzz/run.sh $(ARGS)

model: ## hand-back and failover as models, every interleaving, by Spin; and that the models can fail
	@scripts/setup.sh model
	@timeout -k 5 600 models/check.sh

# What they read beside DESTDIR: packaging/install.sh tells. They build nothing: root need not have a compiler.
install uninstall: export BIN = $(RELEASE)
install: ## install what `make build` has made (PREFIX=/usr, LIBDIR, DESTDIR); /etc/netacc.conf is kept if it is there
	@packaging/install.sh install

uninstall: ## remove what `make install` has installed, with the same PREFIX, LIBDIR and DESTDIR
	@packaging/install.sh uninstall

deb: ## a Debian package, in target/packages
	@scripts/setup.sh package
	@$(MAKE) --no-print-directory build
	@packaging/deb/build.sh $(RELEASE) $(TARGET)/packages

rpm: ## an RPM package, in target/packages
	@scripts/setup.sh package
	@$(MAKE) --no-print-directory build
	@packaging/rpm/build.sh $(RELEASE) $(TARGET)/packages

# In scratch roots; see the script.
test-packages: deb rpm ## install both packages into scratch roots, run redis there, remove them: nothing is left
	@timeout -k 5 240 python3 -B scripts/package_test.py --bin $(RELEASE) --packages $(TARGET)/packages $(ARGS)

completions: cargo ## write the shells' completions anew from the programs' options
	NETACC_UPDATE=1 cargo test --bins completions

test-redis: ## redis' own networking tests, bare and accelerated, results compared
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/redis_suite.py --bin $(RELEASE) $(ARGS)

programs: ## real programs and their own tests: bare, NetACC off, NetACC on; a table (ARGS=--short: four minutes)
	@scripts/setup.sh test programs
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/programs.py --bin $(RELEASE) $(ARGS)

rdma-lab: ## tests between two guests with soft RDMA devices (LAB=qemu: several CPUs each)
	@scripts/setup.sh lab
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/rdma_lab.py --bin $(RELEASE) --lab $(LAB) $(ARGS)

rdma-show: ## redis, ping-pong and streams between the lab's guests: TCP, librspreload, SMC-R, NetACC
	@scripts/setup.sh lab show
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/rdma_show.py --bin $(RELEASE) --lab $(LAB) $(ARGS)

# For CI: it must not take a whole run's time when something hangs.
test-lab: ## the same, time-boxed
	@$(MAKE) --no-print-directory rdma-lab ARGS="--time-limit 600"

bench: ## every row that has a target, side by side: TCP, what else the machine offers, NetACC (ARGS='--rows redis --explain --json FILE')
	@scripts/setup.sh processes demo bench
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/bench.py --bin $(RELEASE) $(ARGS)

bench-redis: ## the redis ratios again with more pairs, a verdict per row, figures in redis.json
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/demo.py --bin $(RELEASE) --pairs 9 --verdict --json $(TARGET)/redis.json $(ARGS)

bench-processes: ## servers made of several processes (fork, exec, workers, reload) bare and under NetACC in turn
	@scripts/setup.sh processes
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/processes.py --bin $(RELEASE) --json $(TARGET)/processes.json $(ARGS)

bench-scaling: ## 1 to 10,000 connections, 64 B to 4 MiB, 1 to 8 threads, idle connections: over TCP and NetACC; curves and figures in target/scaling.*
	@scripts/setup.sh demo bench
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/bench_curves.py scaling --bin $(RELEASE) --json $(TARGET)/scaling.json --csv $(TARGET)/scaling.csv --svg $(TARGET)/scaling.svg $(ARGS)

bench-curves: ## what each setting does beside its default (spinning, windows, rings, records); target/settings.*
	@scripts/setup.sh demo bench
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/bench_curves.py settings --bin $(RELEASE) --json $(TARGET)/settings.json --csv $(TARGET)/settings.csv --svg $(TARGET)/settings.svg $(ARGS)

chaos: ## connections that go from process to process by fork, exec and SCM_RIGHTS, kills, reloads; every byte checked
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/chaos.py --bin $(RELEASE) $(ARGS)

faults: ## everything below the library fails in turn: system calls, memory, limits, filters, clocks, signals; a table (ARGS=--short: two minutes)
	@scripts/setup.sh faults
	@$(MAKE) --no-print-directory build
	cargo build --package netacc-test-injector
	@python3 -B scripts/faults.py --bin $(RELEASE) --injector $(TARGET)/debug/netacc-test-injector $(ARGS)

bench-plot: ## docs/bench.svg and README.md's table from docs/bench.json, which `make demo ARGS='--json FILE'` writes
	@python3 -B scripts/bench_plot.py docs/bench.json docs/bench.svg README.md

bench-docs: ## measure on a quiet machine, and renew docs/bench.json, docs/bench.svg and README.md's table
	@$(MAKE) --no-print-directory demo ARGS="--json docs/bench.json $(ARGS)"
	@$(MAKE) --no-print-directory bench-plot

bench-callgrind: ## instructions that the library adds to the start of a program
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	@scripts/load_cost.sh $(RELEASE)/libnetacc-preload.so

bench-instructions: ## instructions of library code for a message, by callgrind (ARGS=--profile: where)
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	@python3 -B scripts/instructions.py --bin $(RELEASE) $(ARGS)

lint: cargo ## formatting and clippy, as CI checks them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features netacc/lab -- -D warnings

clean: ## remove everything that was built
	cargo clean
