# The habits of the project. Every target sets up what it needs; nothing needs root, and nothing is installed outside .venv.
#
#   make setup   the virtual environment in .venv, with the exact versions of requirements.lock
#   make demo    a server, two hospitals and several drivers as real processes on this machine
#   make test    the tests: doctests and unit, then integration, then acceptance    (TESTS=tests/unit, ARGS="-k words" choose some)
#   make check   ruff, its formatter and mypy
#   make docs    the documentation, in docs/_build/html
#   make bench   what rounds, models, folds and the store cost, beside Flower       (QUICK=1 PEERS= takes minutes; BENCH=name runs one)
#   make chaos   kills and cuts at random moments, and proof that they cost nothing but time    (SEED=7 FAULTS=60 choose some)
#   make fuzz    mutated inputs for every parser of foreign bytes                   (CASES=2000 PARSERS="tensors loader" SEED=7)
#   make audit   known vulnerabilities of what requirements.lock names; skipped without a network
#   make proto   the protobuf code, from src/hedgerow/wire/proto/*.proto
#   make lock    requirements.lock, with the newest versions that pyproject.toml allows
#   make clean   removes .venv, caches and what was built
#
# PYTHON=python3.12 chooses another interpreter for .venv. pip's own configuration and PIP_* variables are respected.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.hedgerow-setup
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
# What examples and tests were run with. The range that users may install is in pyproject.toml.
TORCH := torch==2.13.0
TESTS ?= src tests/unit tests/integration tests/acceptance
ARGS ?=
BENCH ?=
QUICK ?=
PEERS ?= flwr-1.6 flwr-1.42
SEED ?=
FAULTS ?= 60
CASES ?= 50000
PARSERS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format docs bench chaos fuzz audit proto lock clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Hedgerow needs Python 3.11 or newer, and there is no $(PYTHON) here. Name one: make PYTHON=/path/to/python3.11 setup" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Hedgerow needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.11 setup" >&2; exit 1; }
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || { echo "Could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python $(PIP_INSTALL) --requirement requirements.lock
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)
	@$(BIN)/python scripts/demo.py $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest $(TESTS) $(ARGS)

check: $(STAMP)
	@$(BIN)/python -m ruff check --quiet
	@$(BIN)/python -m ruff format --check --quiet || { echo "Not formatted; run: make format" >&2; $(BIN)/python -m ruff format --check; exit 1; }
	@$(BIN)/python -m mypy

format: $(STAMP)
	@$(BIN)/python -m ruff check --fix
	@$(BIN)/python -m ruff format

docs: $(STAMP)
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --jobs auto -b html docs docs/_build/html
	@echo "The documentation is in docs/_build/html/index.html"

bench: $(STAMP)
	@$(BIN)/python -m benchmarks $(BENCH) $(if $(QUICK),--quick) --peers $(PEERS) $(ARGS)

chaos: $(STAMP)
	@$(BIN)/python scripts/chaos.py --faults $(FAULTS) $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: $(STAMP)
	@$(BIN)/python scripts/fuzz.py --cases $(CASES) $(if $(SEED),--seed $(SEED)) $(ARGS) $(PARSERS)

audit: $(STAMP)
	@$(BIN)/python scripts/audit.py $(ARGS)

proto: $(STAMP)
	@$(BIN)/python scripts/generate_proto.py

lock:
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" sh scripts/lock.sh

clean:
	rm -rf $(VENV) .venv-audit .mypy_cache .ruff_cache .pytest_cache .hypothesis docs/_build dist
