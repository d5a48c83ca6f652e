# Recipes of stpl. `make help` explains them. Only Python 3.11+ and make are needed; everything else goes into .venv.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
BENCH ?= streets
SEEDS ?= 1
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Folders of wheels that pip is configured to use (a CPU build of torch, say); uv does not read pip's configuration.
LINKS = $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || true)

.PHONY: help setup ablation report sensitivity test lint format lock clean

help: ## this list
	@echo "usage: make RECIPE [BENCH=streets] [SEEDS=1]"; echo
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 16

setup: $(READY) ## make .venv with exact versions (the other recipes call it)

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "stpl needs Python 3.11 or newer; name one: make PYTHON=python3.12 …" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV)
	@# uv is five times faster; where it cannot be had or cannot reach the index, pip does the same.
	@{ $(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null && \
	  UV_FIND_LINKS="$(LINKS)" $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]' 2>/dev/null; } \
	|| $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

ablation: $(READY) ## Tables 3 and 4, all rows: make ablation [BENCH=streets] [SEEDS=3]; call again to resume
	@$(BIN)/stpl sweep sweeps/source.yaml sweeps/table3.yaml sweeps/table4.yaml --bench=$(BENCH) --seeds=$(SEEDS)
	@$(BIN)/stpl report --bench=$(BENCH)

report: $(READY) ## write and print the tables from what is recorded
	@$(BIN)/stpl report --bench=$(BENCH)

sensitivity: $(READY) ## k and τ: the confident proportion and the temperature of STPL
	@$(BIN)/stpl sweep sweeps/source.yaml sweeps/k.yaml sweeps/tau.yaml --bench=$(BENCH) --seeds=$(SEEDS)
	@$(BIN)/stpl report --bench=$(BENCH)

test: $(READY) ## all tests
	@$(BIN)/python -m pytest

lint: $(READY) ## ruff and mypy, as strict as they come
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## let ruff format and mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(READY) ## renew constraints.txt from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --no-emit-package torch --all-extras --no-annotate --no-header \
	  --custom-compile-command "make lock" pyproject.toml -o constraints.txt

clean: ## remove .venv and caches (runs/ and data/ stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
