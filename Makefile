# The only door to this repository: every common action is one word.
# `make` alone lists them. Choose an interpreter with PYTHON=python3.12.

PYTHON ?= python3
ARGS   ?=
BENCH  ?= $(sort $(wildcard benchmarks/micro/[a-z]*.py benchmarks/flow/[a-z]*.py benchmarks/peers/[a-z]*.py))

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
UV    := $(shell command -v uv 2>/dev/null)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo serve test check fix reference property chaos screenshots bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  ARGS='…' goes on to demo, serve and test: make demo ARGS='--image photo.jpg'"

setup: $(READY) ## Create .venv and install AICP with its tools, once
	@echo "Ready: $(BIN)/aicp. Next: make demo"

demo: $(READY) ## Analyse a real picture, kill an agent on the way, succeed; ARGS=--watch shows it in a browser
	@$(BIN)/aicp demo $(ARGS)

serve: $(READY) ## Start the server on 127.0.0.1:8420
	@$(BIN)/aicp serve $(ARGS)

test: $(READY) ## Run the tests, on two cores
	@$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 $(ARGS)

check: $(READY) ## Lint, check format, types and layers, of Python and of the page; change nothing
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@.ci/page/check $(VENV)

fix: $(READY) ## Repair what the linter can, then format
	@$(BIN)/ruff check --fix --exit-zero
	@$(BIN)/ruff format
	@.ci/page/check $(VENV) --write

reference: $(READY) ## Write the pages of docs/reference that are made from code
	@$(BIN)/python -m aicp.server.openapi.reference docs/reference

property: $(READY) ## Drive the state machines against their models for a million steps each: ARGS=--seed=7
	@$(BIN)/python -m pytest tests/property -s --steps=1000000 $(ARGS)

chaos: $(READY) ## Kill servers with -9 hundreds of times, and judge: ARGS='--database postgresql --kills 500'
	@$(BIN)/python -m tests.chaos $(ARGS)

screenshots: $(READY) ## Take the pictures of the dashboard for docs/images anew; needs Chromium
	@$(BIN)/python -m tests.browser.screenshots docs/images

bench: $(PEERS) ## Run every benchmark in turn, or one: BENCH=benchmarks/flow/parallel.py
	@for bench in $(BENCH); do echo "== $$bench"; $(BIN)/python -m $$(echo $${bench%.py} | tr / .) $(ARGS) || exit 1; done

clean: ## Remove what the targets above made, .venv too; databases stay
	@rm -rf $(VENV) .venv-newest build dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# Done once, and again when pyproject.toml changes.
$(READY): pyproject.toml | $(BIN)/python
	@echo "Installing AICP and its tools into $(VENV) …"
	@$(INSTALL) -e '.[dev]'
	@touch $@

# What the benchmarks run beside AICP.
$(PEERS): $(READY)
	@echo "Installing the engines and queues that AICP is measured against …"
	@$(INSTALL) -e '.[dev,engines]'
	@touch $@

# uv brings its own interpreter and installer. Without it a virtual environment
# needs pip: from ensurepip, or, where Debian has split that off, from a system
# pip that can install into another interpreter (22.3 or later).
ifdef UV

INSTALL = $(UV) pip install --quiet --python $(BIN)/python
$(BIN)/python:
	@$(UV) venv --quiet --clear $(if $(filter-out file,$(origin PYTHON)),--python $(PYTHON)) $(VENV)

else

INSTALL = $$($(BIN)/python -m pip --version >/dev/null 2>&1 && echo $(BIN)/python -m pip \
	|| echo $(PYTHON) -m pip --python $(BIN)/python) --disable-pip-version-check install --quiet
OLD_PYTHON = AICP needs Python 3.11 or later and '$(PYTHON)' is not: install one, or name it with make PYTHON=python3.12.
NO_VENV = '$(PYTHON)' cannot make a virtual environment: run 'apt install python3-venv' (or install pip 22.3 or later, or uv) and try again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "$(OLD_PYTHON)" >&2; exit 1; }
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then $(PYTHON) -m venv --clear $(VENV); \
	elif $(PYTHON) -m pip --help 2>/dev/null | grep -q -e '--python'; then $(PYTHON) -m venv --clear --without-pip $(VENV); \
	else echo "$(NO_VENV)" >&2; exit 1; fi

endif
