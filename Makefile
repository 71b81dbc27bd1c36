# `make demo` needs nothing but Linux and Python >= 3.11, `make test` a C compiler and the GMP headers besides (its message
# says how to get them): each creates .venv and installs what it uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out
SEEDS ?= 10
JOBS ?= $(shell nproc)
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS)
ATTACKS := tests/protocol/attacks $(patsubst %,tests/protocol/test_%.py,book charter credentials ledger succession lineage) \
	tests/registry/test_file_attacks.py tests/registry/test_resolve.py tests/registry/test_contests.py tests/registry/test_governance.py tests/registry/test_proposals.py \
	tests/node/test_cli_attacks.py

.PHONY: help demo test test-fast check attacks cheats sim install bench clean system-packages
help:
	@echo "make demo       a whole network on this machine, ending in a picture grid and an audit (OUT=$(OUT))"
	@echo "make test       every test   make test-fast  the quick ones   make check  lint, types, architecture"
	@echo "make cheats     every cheat an audit names, tried on real trainings, and what caught it"
	@echo "make attacks    every attack by name, with a table of what it achieved (JSON=FILE keeps it)   make sim SEEDS=1000 PEERS=12 CLUSTERS=6"
	@echo "make install    all extras that fit this platform   make bench  the measurements"

demo: $(VENV)/.demo
	$(BIN)/paris-node demo --out $(OUT)

test: $(VENV)/.dev
	$(PYTEST) --dist loadfile

test-fast: $(VENV)/.dev
	$(PYTEST) -m "not slow"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/pytest -q tests/test_architecture.py

attacks: $(VENV)/.dev
	$(BIN)/pytest -q $(ATTACKS) $(if $(JSON),--attacks-json $(JSON))

sim: $(VENV)/.dev
	$(BIN)/python tests/sim/sim_main.py --seeds $(SEEDS) --jobs $$(nproc) $(if $(PEERS),--peers $(PEERS)) $(if $(CLUSTERS),--clusters $(CLUSTERS))

cheats: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.cheats

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

install: $(VENV)/.dev
	$(BIN)/pip install --quiet -c constraints.txt -e '.[demo,light,web,video,data,scale,dev]'

# py-libp2p (extra `light`) builds fastecdsa from source.
system-packages:
	@{ command -v cc >/dev/null && printf '#include <gmp.h>\n' | cc -E - >/dev/null 2>&1; } || \
	  { echo "missing: a C compiler and the GMP headers. Add them with: sudo apt-get install gcc libgmp-dev python3-dev" >&2; exit 1; }

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "paris-node needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "missing: the venv module. Add it with: sudo apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.demo: pyproject.toml constraints.txt Makefile | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt Makefile | system-packages $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,light,web,video,data,scale,dev]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info
