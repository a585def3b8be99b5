# The index of this repository: `make` lists what it can do. Everything sets itself up in .venv first.

PYTHON  ?= python3
VENV    ?= .venv
PROFILE ?= quick
RUNS    ?= results/runs
RECORDS ?= results/records

# One thread per process: runs stand side by side, one to a core, and their seconds are compared.
export OMP_NUM_THREADS ?= 1

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test test-slow test-lowest lint types docs data reproduce figures figure bench notebooks notebooks-check clean

help:  ## list these targets
	@echo "make TARGET [PYTHON=python3.12] [PROFILE=quick|full|paper] [JOBS=n]"
	@awk -F ':.*## ' '/^[a-z0-9 _-]+:.*## / { sub(/ .* /, "..", $$1); printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## install the locked versions and this package into .venv
	@:

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "The locked versions need Python 3.11 or newer, and '$(PYTHON)' is not: name another, as in"; \
	  echo "  make setup PYTHON=python3.12"; \
	  echo "The package itself runs on Python 3.10 too: pip install -e '.[train,wandb,sweep,notebooks,dev]'"; \
	  exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

test: setup  ## run the tests but the slow ones
	$(BIN)/python -m pytest -q -n auto --dist loadgroup

test-slow: setup  ## run the slow tests, such as kills, sweeps, the model zoo and mutants: under 30 minutes
	$(BIN)/python -m pytest -q -n auto -m slow

test-lowest:  ## run the tests with the lowest versions that pyproject.toml allows, in .venv-lowest (Python 3.11)
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python scripts/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --requirement .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --no-deps --editable .
	.venv-lowest/bin/python -m pytest -q -n auto --dist loadgroup

lint: setup  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## check the types of the library
	$(BIN)/mypy

docs: setup  ## write the API pages from the docstrings to build/docs
	$(BIN)/python -W 'ignore:Error parsing type annotation' -m pdoc --docformat google --math --output-directory build/docs \
	  rais rais.sampling rais.gradnorm rais.gain rais.loop rais.batch_norm rais.rng

data: setup  ## fetch all data sets, about 2 GB, or say where RAIS_DATA has to point
	$(BIN)/python scripts/fetch_data.py

# JOBS: runs side by side, to each GPU (one if not given) or, where there is none, in all (the cores)
reproduce: setup  ## train what the figures need and draw them (PROFILE=quick: 15 minutes; full: all; paper: GPUs)
	$(BIN)/python scripts/reproduce.py --profile $(PROFILE) --runs $(RUNS) $(if $(JOBS),--jobs $(JOBS))

figures: setup  ## draw figures and tables from the committed records, and the numbers in the README files
	$(BIN)/python scripts/plot.py --records $(RECORDS) --out results --pdf \
	  --readme README.md --readme results/README.md --readme docs/choosing.md

figure: setup  ## draw one figure, as in make figure NAME=headroom
	$(BIN)/python scripts/plot.py --records $(RECORDS) --out results $(NAME)

bench: setup  ## time what is claimed to be fast beside its rivals (QUICK=1: in miniature, without rivals)
	$(BIN)/python scripts/bench.py $(if $(QUICK),--quick --out build/bench)

notebooks: setup  ## execute the notebooks and keep their outputs
	$(BIN)/python scripts/notebooks.py

notebooks-check: setup  ## execute the notebooks, writing nothing: an error in one of them is an error here
	$(BIN)/python scripts/notebooks.py --check

clean:  ## remove caches; records are kept, also those of results/runs
	rm -rf .pytest_cache .ruff_cache .mypy_cache .venv-lowest build outputs multirun src/*.egg-info
	find src scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
