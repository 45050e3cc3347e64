# `make` lists the targets. `make demo` and `make test` set themselves up: they need Python >= 3.11 with venv, and the network once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# One environment; each stamp says which extras are in it. A changed pyproject or constraints file installs again.
DEMO_READY := $(VENV)/.ready-demo
DEV_READY := $(VENV)/.ready-dev
# One process more than there are cores, for those that wait for a crawl; at most five, of about 1.3 GB each.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? cores + 1 : 5)))
# The files go to the workers as tests/conftest.py orders them. Bytecode is kept whatever the environment says, or every
# worker compiles all tests anew, and every process that a test starts the package.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV_READY) ## make the environment with everything in it (demo and test do what they need of it)

demo: $(DEMO_READY) ## run the whole line offline on what is embedded: crawl, grade, train, generate, gate, enlarge (4 minutes)
	$(BIN)/python -m artgate.demo

test: $(DEV_READY) ## run all tests (about 20 minutes on two cores)
	$(PYTEST)

test-fast: $(DEV_READY) ## run the tests that take seconds (under 3 minutes)
	$(PYTEST) -m "not slow"

lint: $(DEV_READY) ## ruff (lint and format check) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV_READY) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV_READY) ## run every benchmark, one after another (long)
	@for name in active_learning allocation crawl denoisers duplicates features gallery head_training kills labels \
		labelling long_batch precisions scoring small_then_large upscale; do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(BIN)/python -m benchmarks.cost_per_accepted --simulated

clean: ## remove the environment and the caches (never data/ or outputs/)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11: install Python 3.11 or name one, as in make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(DEMO_READY): $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing artgate into $(VENV): about 7 GB, 3 to 8 minutes, once."
	$(BIN)/pip install --progress-bar off --constraint constraints.txt --editable '.[embedded]'
	@touch $@

$(DEV_READY): $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing artgate and its development tools into $(VENV): about 7 GB, 3 to 8 minutes, once."
	$(BIN)/pip install --progress-bar off --constraint constraints.txt --editable '.[embedded,realesrgan,dev]'
	@touch $@ $(DEMO_READY)
