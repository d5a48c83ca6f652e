# Recipes of stpl. `make help` explains them. Only Python 3.11+ and make are needed; everything else goes into .venv.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
BENCH ?= streets
SEEDS ?= 1
DATA ?=
WORKERS ?= 0
LIVE ?=
OPTUNA ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
CLUSTER := $(VENV)/.ready-cluster
SWEEP = $(BIN)/stpl sweep --bench=$(BENCH) --seeds=$(SEEDS) $(if $(DATA),--data=$(DATA))
# Folders of wheels that pip is configured to use (a CPU build of torch, say); uv does not read pip's configuration.
LINKS = $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || true)

.PHONY: help setup ablation table1 table2 vatvst report dashboard notebooks sensitivity source ship pictures bench gpu test check lint docs lowest release format lock clean

help: ## this list
	@echo "usage: make RECIPE [BENCH=streets] [SEEDS=1] [DATA=folder of data sets] [WORKERS=0: one per GPU or core]"; echo
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## (.*)/  \1\t\2/' | expand -t 16

setup: $(DEV) ## make .venv with exact versions (the other recipes call it)

# $(call install,WHAT) or $(call install,WHAT,PYTHON), into .venv or beside another interpreter, with exact versions.
# uv is five times faster; where it cannot be had or cannot reach the index, pip does the same.
install = { UV_FIND_LINKS="$(LINKS)" $(BIN)/uv pip install --quiet --python $(or $(2),$(BIN)/python) -c constraints.txt $(1) 2>/dev/null; } \
	|| $(BIN)/python -m pip --python $(or $(2),$(BIN)/python) install --quiet --disable-pip-version-check -c constraints.txt $(1)
TESTED = -e '.[report,wandb,hf,export]' --group dev

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "stpl needs Python 3.11 or newer; name one: make PYTHON=python3.12 …" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1' 2>/dev/null || true # knows --group
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null || true
	@$(call install,-e '.[report]')
	@touch $@

$(DEV): $(READY)
	@echo "adding what tests and linters need …"
	@$(call install,$(TESTED))
	@touch $@

$(CLUSTER): $(READY)
	@echo "adding database drivers and optuna-dashboard …"
	@$(call install,-e '.[cluster]')
	@touch $@

# Five source models of streets are shipped with the package, further ones are trained first; other benchmarks have one.
MORE = $(shell test $(SEEDS) -le 5 || echo sweeps/more-source-models.yaml --workers=$(WORKERS))
SOURCE = $(if $(filter-out streets,$(BENCH)),@$(SWEEP) sweeps/source.yaml,$(if $(MORE),@$(SWEEP) $(MORE)))

ablation: $(READY) ## Tables 3 and 4, all rows: make ablation [BENCH=viper DATA=/data] [SEEDS=3]; call again to resume
	$(SOURCE)
	@$(SWEEP) sweeps/ablation.yaml --workers=$(WORKERS)
	@$(BIN)/stpl report --bench=$(BENCH) --page=false

# VAT-VST starts from the runs of its first phase; workers wait for the end of a sweep before they begin the next.
TABLE = $(if $(filter synthia,$(BENCH)),table2,table1)
table1: $(READY) ## Table 1, all baselines with and without source data: make table1 [BENCH=viper DATA=/data] [SEEDS=3]
	$(SOURCE)
	@$(SWEEP) sweeps/vat.yaml sweeps/$(TABLE).yaml --workers=$(WORKERS)
	@$(BIN)/stpl report --bench=$(BENCH) --page=false --only=[$(TABLE),costs]

table2: ## Table 2, the same for SYNTHIA-Seq: make table2 DATA=/data
	@$(MAKE) table1 BENCH=synthia

# On streets: a variant of it whose drives are long enough for VPQ^s.
LONG = $(if $(filter streets,$(BENCH)),streets-long,$(BENCH))
vatvst: $(READY) ## every table of VAT-VST's paper: make vatvst [BENCH=vps DATA=/data] [SEEDS=5]
	$(SOURCE)
	@$(subst --bench=$(BENCH),--bench=$(LONG),$(SWEEP)) sweeps/vatvst-start.yaml sweeps/vatvst.yaml sweeps/vatvst-labels.yaml --workers=$(WORKERS)
	@$(BIN)/stpl report --bench=$(LONG) --page=false --only=[vatvst1,vatvst3,vatvst4,vatvst5,vatvst6,pseudo_labels,per_class_vpq,metrics,costs]

report: $(READY) ## write and print the tables from what is recorded
	@$(BIN)/stpl report --bench=$(BENCH) --page=false

dashboard: $(READY) $(if $(OPTUNA),$(CLUSTER)) ## the page of what is recorded: runs/BENCH/report/index.html; LIVE=1 follows a sweep; OPTUNA=1: optuna-dashboard
	@$(BIN)/stpl $(if $(OPTUNA),dashboard optuna,report) --bench=$(BENCH) $(if $(OPTUNA),,$(if $(LIVE),--live))

notebooks: $(READY) ## run the notebooks on what is recorded, and keep their outputs in them
	@$(call install,--group notebooks)
	@$(BIN)/python notebooks/execute.py

sensitivity: $(READY) ## k and τ: the confident proportion and the temperature of STPL
	$(SOURCE)
	@$(SWEEP) sweeps/k.yaml sweeps/tau.yaml --workers=$(WORKERS)
	@$(BIN)/stpl report --bench=$(BENCH)

source: $(READY) ## train the source models that are not shipped: make source [SEEDS=12] [BENCH=viper DATA=/data]
	$(or $(SOURCE),@echo "The source models of seeds 0 to 4 are shipped; SEEDS=12 trains those of 5 to 11.")

ship: $(READY) ## train the source models of streets anew, seeds 0 to 4, and make them those that the package ships
	@runs=build/source-models/$$($(BIN)/python -c 'from stpl.runs.shipped import fingerprint; print(fingerprint(0))'); \
	  $(BIN)/stpl sweep sweeps/source-models.yaml --workers=$(WORKERS) --runs=$$runs && $(BIN)/stpl weights ship --runs=$$runs

pictures: $(READY) ## make the pictures of the README from what is recorded (the page's needs Chromium)
	@$(BIN)/stpl report --bench=streets
	@$(BIN)/python docs/pictures.py

PART ?= startup warp contrast data step
bench: $(DEV) ## speed and memory as ratios; figures go to build/bench/ (leave the machine alone meanwhile); PART=step
	@for part in $(PART); do echo; $(BIN)/python -m benchmarks.$$part --json=build/bench/$$part.json; done

gpu: ## what only a GPU shows: right results, speed, memory; build/gpu/; installs nothing; PLAN=1 shows the plan
	@PYTHONPATH=src $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(if $(PLAN),--dry_run=true)

KIND ?= not long and not docs
test: $(DEV) ## the tests, on at most four cores; KIND=long: those of 15 s and more; KIND=docs: the documentation's programs
	@$(if $(filter docs,$(firstword $(KIND))),$(call install,--group docs))
	@$(BIN)/python -m pytest -m "$(KIND)" --numprocesses=auto --maxprocesses=4 --dist=worksteal

check: lint ## lint, and the tests without the slow ones: minutes less, before every commit
	@$(BIN)/python -m pytest -q -m "not slow and $(KIND)" --numprocesses=auto --maxprocesses=4 --dist=worksteal

lint: $(DEV) ## ruff and mypy, as strict as they come
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(DEV) ## the documentation as a site, build/docs/index.html; warnings are errors
	@$(call install,--group docs)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/docs/index.html"

LOWEST := build/lowest
lowest: $(READY) ## a short part of the tests on the lowest versions that pyproject.toml allows (with torch, 3 GB to download)
	@$(PYTHON) -m venv --clear $(LOWEST)
	@UV_FIND_LINKS="$(LINKS)" $(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution=lowest-direct $(TESTED)
	@$(LOWEST)/bin/python -m pytest -q -W default $(SHORT)
SHORT = tests/losses/test_losses.py tests/losses/test_pixel_contrast.py tests/nn/test_nn.py \
  tests/runs/test_record.py tests/runs/test_experiments.py tests/sweeps/test_sweep_schema.py \
  tests/report/test_report.py tests/data/test_augment.py tests/testing/test_conformance.py \
  tests/training/test_two_domains.py

RELEASE := build/release
release: $(DEV) ## build sdist and wheel into build/dist/, check their metadata, test the wheel in a fresh environment
	@rm -rf build/dist
	@$(PYTHON) -m venv --clear $(RELEASE)/tools
	@$(call install,--group release,$(RELEASE)/tools/bin/python)
	@$(RELEASE)/tools/bin/python -m build --outdir build/dist
	@$(RELEASE)/tools/bin/python -m twine check --strict build/dist/*
	@$(PYTHON) -m venv --clear $(RELEASE)/wheel
	@$(call install,build/dist/*.whl,$(RELEASE)/wheel/bin/python)
	@STPL_WHEEL_ENVIRONMENT=$(abspath $(RELEASE)/wheel) $(BIN)/python -m pytest -q tests/test_wheel.py
	@ls -l build/dist

format: $(DEV) ## let ruff format and mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(DEV) ## renew constraints.txt from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --all-extras --group dev --group docs --group release --no-annotate --no-header \
	  --custom-compile-command "make lock" pyproject.toml -o constraints.txt

clean: ## remove .venv and caches (runs/ and data/ stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
