# What one does with this tree. `make help` lists the targets.
#
# A fresh Linux machine needs make and Python 3.11 or newer with its venv module; everything else is
# installed into .venv from the package index. PYTHON=python3.13 chooses another interpreter, which
# has an environment of its own, .venv-python3.13.

PYTHON ?= python3
VENV := .venv$(addprefix -,$(notdir $(filter-out python3,$(PYTHON))))
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

check: lint unit  ## lint, types, import contracts and the unit lane, in some three minutes

test: lint  ## lint, then all lanes: unit, process, kube, container
	@$(BIN)/python -m tests.lanes

unit: $(VENV)/.test  ## pure cores in virtual time, locks, parsing, the judge of the other lanes
	@$(BIN)/python -m tests.lanes unit -- $(ARGS)

process: $(VENV)/.test  ## real processes and signals on the file lock
	@$(BIN)/python -m tests.lanes process -- $(ARGS)

kube: $(VENV)/.test  ## the same and more on a real kube-apiserver (built once; needs Go or the index)
	@$(BIN)/python -m tests.lanes kube -- $(ARGS)

container: $(VENV)/.test  ## the images, as containers that are as strict as a pod can be (as root)
	@$(BIN)/python -m tests.lanes container -- $(ARGS)

coverage: $(VENV)/.test  ## unit and process with coverage, forked processes included
	@$(BIN)/python -m tests.lanes --coverage unit process -- $(ARGS)

nightly: $(VENV)/.test  ## all there is, with every Python that the machine has (hours; goes on where it ended)
	@$(BIN)/python -m tests.nightly $(ARGS)

matrix: $(VENV)/.test  ## play every fault, on competitors too, and write the table into build/matrix (an hour; as root)
	@$(BIN)/python -m tests.matrix $(ARGS)

mutants: $(VENV)/.test  ## remove each line that a safety rule stands in, and see a named test fail
	@$(BIN)/python -m tests.mutants $(ARGS)

soak: $(VENV)/.test  ## a hundred thousand schedules of the simulation (some forty minutes)
	@$(BIN)/python -m tests.soak $(ARGS)

bench: $(VENV)/.test  ## measure leaderexec and its competitors: handovers, start, memory, requests (a quarter of an hour)
	@$(BIN)/python -m tests.benchmarks.handover $(ARGS)
	@$(BIN)/python -m tests.benchmarks.resource_usage $(ARGS)

api-load: $(VENV)/.test  ## measure what a thousand standbys cost the API server, by watching and by polling
	@$(BIN)/python -m tests.benchmarks.api_load $(ARGS)

crowded-handover: $(VENV)/.test  ## measure handovers among two hundred standbys (needs some 8 GiB)
	@$(BIN)/python -m tests.benchmarks.crowded_handover $(ARGS)

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

# --- images ---

# slim is leaderexec on BASE; bundle is nothing but the bundle, to install in images of any kind.
TARGET ?= slim
IMAGE ?= leaderexec:$(TARGET)
IMAGE_PYTHON ?= 3.13
BASE ?= docker.io/library/python:$(IMAGE_PYTHON)-slim
# The first of them that can build here.
ENGINE ?= $(shell for each in docker podman buildah; do $$each info >/dev/null 2>&1 && echo $$each && break; done)
# Everything in an image is as old as the last commit, so that the same sources make the same image.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
# The bundle that the image of that name has.
BUNDLE ?= build/bundle
CONTEXT_bundle = --build-context=frozen=$(BUNDLE)
MACHINE := $(shell uname -m)
# For a BASE with musl: WHEEL_PLATFORMS=musllinux_1_2_x86_64
WHEEL_PLATFORMS ?= $(addsuffix _$(MACHINE),manylinux_2_28 manylinux_2_17 manylinux2014 manylinux_2_5 manylinux1)

BUILD_docker := docker build
BUILD_podman = podman build --timestamp=$(SOURCE_DATE_EPOCH) --ignorefile=docker/Dockerfile.dockerignore
BUILD_buildah = buildah build --timestamp=$(SOURCE_DATE_EPOCH) --ignorefile=docker/Dockerfile.dockerignore

image: image-$(TARGET)  ## an image: TARGET=slim or bundle, IMAGE=name:tag, BASE=..., ENGINE=docker, podman or buildah
	@test -n '$(ENGINE)' || { echo "no docker, podman or buildah that works here" >&2; exit 1; }
	$(BUILD_$(ENGINE)) --file=docker/Dockerfile --target=$(TARGET) --tag=$(IMAGE) \
		--build-arg=BASE=$(BASE) --build-arg=SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) \
		--build-arg=VERSION="$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' leaderexec/__init__.py)" \
		--build-arg=REVISION="$$(git rev-parse HEAD 2>/dev/null)" $(CONTEXT_$(TARGET)) .

image-slim: build/wheels/$(IMAGE_PYTHON)/.filled

image-bundle: $(BUNDLE)/leaderexec

bundle: build/bundle/leaderexec  ## the frozen directory for images without Python, into build/bundle

build/bundle/leaderexec: $(wildcard leaderexec/*.py leaderexec/*/*.py docker/bundle/*.*) pyproject.toml | $(VENV)/.made
	$(BIN)/python docker/bundle/build.py --output=build/bundle --environment=build/bundle-environment
	@touch $@

# The wheelhouse: what the lock files name, by their hashes, for the Python of BASE.
build/wheels/%/.filled: docker/requirements.lock docker/build.lock | $(VENV)/.made
	rm -rf $(@D)
	$(PIP) download --no-deps --require-hashes --only-binary=:all: --dest=$(@D) \
		--implementation=cp --python-version=$* $(addprefix --platform=,$(WHEEL_PLATFORMS)) \
		--requirement=docker/requirements.lock --requirement=docker/build.lock
	@touch $@

# Only the package's aio half, which is left out, needs these.
UNUSED := aiohttp aiohttp-retry aiohappyeyeballs aiosignal attrs frozenlist multidict propcache yarl
LOCK = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version=3.11 --generate-hashes \
	--no-header --no-annotate

lock: $(VENV)/.made  ## renew the hash-locked dependencies of the image
	$(PIP) install --editable '.[image]'
	$(LOCK) $(addprefix --no-emit-package=,$(UNUSED)) --output-file=docker/requirements.lock pyproject.toml
	$(LOCK) --output-file=docker/build.lock docker/build.in

clean:  ## remove what was built, installed or cached here
	rm -rf .venv .venv-* build dist *.egg-info .coverage .coverage.* .hypothesis
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

.PHONY: help demo check test unit process kube coverage nightly matrix mutants soak bench api-load crowded-handover lint format build image image-slim image-bundle bundle lock container clean
