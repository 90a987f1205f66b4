# What one does with this tree. `make help` lists the targets.
#
# A fresh Linux machine needs make and Python 3.11 or newer with its venv module; everything else is
# installed into .venv from the package index. PYTHON=python3.13 chooses the interpreter (after
# `make clean`, if there is a .venv of another one).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Arguments for pytest, after the lane: make process ARGS='-k keeper -x'
ARGS ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:  ## show this
	@sed -n 's/^\([a-z][a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

# --- see it work ---

demo: $(VENV)/.demo  ## three candidates, one server, two takeovers, on this machine, in seconds
	@$(BIN)/python examples/demo.py

# --- tests ---

test: lint  ## lint, then all lanes: unit, process, kube
	@$(BIN)/python -m tests.lanes

unit: $(VENV)/.test  ## pure cores in virtual time, locks, parsing, the judge of the other lanes
	@$(BIN)/python -m tests.lanes unit -- $(ARGS)

process: $(VENV)/.test  ## real processes and signals on the file lock
	@$(BIN)/python -m tests.lanes process -- $(ARGS)

kube: $(VENV)/.test  ## the same and more on a real kube-apiserver (built once; needs Go or the index)
	@$(BIN)/python -m tests.lanes kube -- $(ARGS)

coverage: $(VENV)/.test  ## unit and process with coverage, forked processes included
	@$(BIN)/python -m tests.lanes --coverage unit process -- $(ARGS)

matrix: $(VENV)/.test  ## play every fault, beside the peers, and write the table into build/matrix (an hour; as root)
	@$(BIN)/python -m tests.matrix $(ARGS)

mutants: $(VENV)/.test  ## remove each line that a safety rule stands in, and see a named test fail
	@$(BIN)/python -m tests.mutants $(ARGS)

soak: $(VENV)/.test  ## a hundred thousand schedules of the simulation (some forty minutes)
	@$(BIN)/python -m tests.soak $(ARGS)

bench: $(VENV)/.test  ## measure us beside the peers: handovers, start, memory, requests (a quarter of an hour)
	@$(BIN)/python -m tests.benchmarks.handover $(ARGS)
	@$(BIN)/python -m tests.benchmarks.spine $(ARGS)

standbys: $(VENV)/.test  ## measure what a thousand standbys cost the API server, by watching and by polling
	@$(BIN)/python -m tests.benchmarks.standbys $(ARGS)

herd: $(VENV)/.test  ## measure handovers among two hundred standbys (needs some 8 GiB)
	@$(BIN)/python -m tests.benchmarks.herd $(ARGS)

lint: $(VENV)/.test  ## ruff, mypy, import contracts, generated tables and diagrams
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.support.diagrams

format: $(VENV)/.test  ## rewrite what ruff can, and the generated tables and diagrams
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/python -m tests.support.diagrams --write

# --- packages ---

build: $(VENV)/.test  ## wheel and sdist, into dist/
	rm -rf build dist
	$(BIN)/python -m build

clean:  ## remove what was built, installed or cached here
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .hypothesis
	rm -rf .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find leaderexec tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ---

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"leaderexec needs Python 3.11 or newer, and this is %d.%d: make PYTHON=..." % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip' || { \
		echo "$(PYTHON) cannot make virtual environments (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(PIP) install --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	$(PIP) install --editable '.[test]'
	@touch $@ $(VENV)/.demo

.PHONY: help demo test unit process kube coverage matrix mutants soak bench standbys herd lint format build clean
