# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Tests run in this many processes at once, each with one thread.
TEST_PROCESSES ?= 2

# No network, and no usage reports.
export HF_HUB_OFFLINE ?= 1
export TRANSFORMERS_OFFLINE ?= 1
export HF_DATASETS_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help demo test test-long test-cluster check format wheel clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

# torch comes first and alone: the pin decides which build is taken, everything else then fits itself to it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $(STAMP)

demo: $(STAMP)  ## set up .venv, then the whole way on generated tickets, ending with a report
	$(BIN)/triage demo --out demo --offline

test: $(STAMP)  ## set up .venv, then every test but the long ones
	$(BIN)/python -m pytest -q -m "not long and not cluster" -n $(TEST_PROCESSES) --dist worksteal

test-long: $(STAMP)  ## kill and scale checks
	$(BIN)/python -m pytest -q -m "long and not cluster" -n $(TEST_PROCESSES) --dist worksteal

test-cluster: $(STAMP)  ## jobs on a real Slurm that the tests start (root, Debian's Slurm packages)
	$(BIN)/python -m pytest -q -m cluster

check: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## put the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(STAMP)  ## build a wheel into dist/
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .

clean:  ## remove what demo and builds made
	rm -rf demo dist build .pytest_cache .mypy_cache .ruff_cache
