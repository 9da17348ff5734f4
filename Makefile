# make demo | make test: set everything up on a fresh machine, then run. See README.md.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
BIN := .venv/bin
export MUJOCO_GL ?= egl

# The stamp is named after all that the environment depends on: a second run finds it and does nothing.
KEY := $(shell { cat requirements.txt pyproject.toml Makefile; $(PYTHON) --version; pwd; } 2>&1 | sha256sum | cut -c1-16)
STAMP := .venv/ready-$(KEY)
# Optional packages, requirements-NAME.txt each: outside the lock, installed for the tests, which skip what is missing.
EXTRAS := $(patsubst requirements-%.txt,.venv/%.extra,$(wildcard requirements-*.txt))
RENDERING_CHECK := $(BIN)/python -c 'import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()'

.PHONY: help setup extras demo test test-latest check docs format lock

help:
	@echo 'make demo    set up, then collect, build, train and score on the embedded simulator'
	echo 'make test    set up, then run the tests'
	echo 'make setup   environment only          make check   format, lint, types'
	echo 'make docs    the manual, into site/'
	echo 'make test-latest  the tests with the newest packages; LATEST=python3.12 TESTS=tests/models choose'
	echo 'make extras  optional packages of devices and for tests, requirements-*.txt'
	echo 'make format  rewrite formatting        make lock    requirements.txt from pyproject.toml'

setup: $(STAMP)

$(STAMP):
	@python='$(PYTHON)'
	[ -n "$$python" ] || { echo 'setup: no python3 found; install Python 3.11 with its venv module'; exit 1; }
	version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	[ "$$version" = 3.11 ] || echo "setup: warning: Python $$version; the pinned set is tested on 3.11 (choose: make PYTHON=python3.11)"
	# install_debian PACKAGE...: as root on Debian; otherwise one line that says what to do
	install_debian() {
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
			echo "setup: installing $$*"
			export DEBIAN_FRONTEND=noninteractive
			apt-get install -y -qq --no-install-recommends "$$@" >/dev/null 2>&1 \
				|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$$@" >/dev/null; }
		else
			echo "setup: missing system packages; install them and run make again: sudo apt-get install $$*"; exit 1
		fi
	}
	$$python -c 'import ensurepip, venv' 2>/dev/null || install_debian "python$$version-venv"
	if [ "$$($(BIN)/python --version 2>/dev/null || true)" != "$$($$python --version)" ]; then
		echo 'setup: creating .venv'; $$python -m venv --clear .venv
	fi
	echo 'setup: installing requirements.txt into .venv (a minute or two on a new machine)'
	# pip checks uv's hash, uv the others'. uv reads no pip.conf, so pip steps in where only pip knows the index.
	pip="$(BIN)/python -m pip --disable-pip-version-check"
	sed -n '/^uv==/,/# via/p' requirements.txt > .venv/uv.lock
	$$pip install --quiet --require-hashes --no-deps -r .venv/uv.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --require-hashes -r requirements.txt \
		|| $$pip install --no-deps --require-hashes -r requirements.txt
	$$pip install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	if ! $(RENDERING_CHECK) 2>/dev/null; then
		install_debian libegl1 libgl1
		$(RENDERING_CHECK) || { echo 'setup: MuJoCo cannot render with MUJOCO_GL=$(MUJOCO_GL); try: apt-get install libosmesa6, then make MUJOCO_GL=osmesa'; exit 1; }
	fi
	if ! $(BIN)/python -c 'import pyrealsense2' 2>/dev/null; then
		install_debian libusb-1.0-0
	fi
	rm -f .venv/ready-*
	touch $@
	echo 'setup: ready'

extras: $(EXTRAS)

# --no-deps: what they need beside each other is listed in the file itself; the lock stays as it is. pip, not uv: it takes
# the build of PyTorch that this machine's index prefers, without several GB for GPUs.
.venv/%.extra: requirements-%.txt $(STAMP)
	@echo 'setup: installing $< into .venv'
	pip="$(BIN)/python -m pip --disable-pip-version-check"
	if $$pip install --quiet --no-deps -r $<; then
		if [ $* = parity ] && ! $(BIN)/python -c 'import torch' 2>/dev/null; then
			$$pip uninstall --quiet --yes torch
			echo 'setup: warning: this build of PyTorch does not import here, the parity tests skip; install a CPU build'
		fi
		touch $@
	else
		echo 'setup: warning: not all of $< could be installed; the tests that need it skip'
	fi

demo: setup
	@set -x
	$(BIN)/python experiments/collect.py --episodes 400 --out runs/demo/data
	$(BIN)/python experiments/train.py --config.data.paths=runs/demo/data/rlds --config.data.cache_dir=runs/demo/data/cache --workdir runs/demo

# tests/sim renders, others load TensorFlow: with software OpenGL the two crash in one process.
define run_tests
$(1)/python -m pytest tests/sim
$(1)/python -m pytest -n $(WORKERS) --dist loadfile --ignore tests/sim
endef

test: setup $(EXTRAS)
	@$(call run_tests,$(BIN))

# Outside the lock and CI: the newest of everything that pyproject.toml allows, on the newest Python from 3.12 that is found.
LATEST ?= $(shell for p in python3.14 python3.13 python3.12; do $$p -c '' 2>/dev/null && echo $$p && break; done)

test-latest:
	@[ -n '$(LATEST)' ] || { echo 'test-latest: no Python 3.12 or newer found; name one: make test-latest LATEST=/path/to/python'; exit 1; }
	echo 'test-latest: installing the newest packages into .venv-latest ($(LATEST))'
	$(LATEST) -m venv .venv-latest
	pip='.venv-latest/bin/python -m pip --disable-pip-version-check'
	# compat: the commands' folders are found too, as in the pinned environment
	install="$$pip install --quiet --config-settings editable_mode=compat"
	$$install --upgrade --upgrade-strategy eager --editable '.[sim,dev]'
	for extra in data devices; do
		$$install --editable ".[$$extra]" || echo "test-latest: warning: '$$extra' does not install here; choose TESTS without it"
	done
	$$pip list 2>/dev/null | grep -iE '^(jax|flax|optax|numpy|sentencepiece|scipy|mujoco|tensorflow-cpu) '
	$(if $(TESTS),.venv-latest/bin/python -m pytest $(TESTS),$(call run_tests,.venv-latest/bin))

check: setup $(EXTRAS)
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	echo 'docs: site/index.html'

format: setup
	@$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' pyproject.toml \
		--extra data --extra sim --extra devices --extra docs --extra dev -o requirements.txt
