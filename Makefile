# Everything runs from .venv, which is made and filled when it is missing or when the two files that say what
# belongs in it have changed. Each set of extras has a stamp file, so that a second run installs nothing.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
REQUIREMENTS := pyproject.toml constraints.txt
INSTALL = $(PY) -m pip install --quiet -c constraints.txt -e
WORKERS ?= 2
# Tests start hundreds of processes: what Python has compiled is kept for all of them, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help train test test-all lint format bench against gallery docs clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*##/ -/'

$(PY):
	$(PYTHON) -m venv $(VENV)

# one pattern for all: .venv/.installed-examples holds the extra "examples"
$(VENV)/.installed-%: $(REQUIREMENTS) | $(PY)
	@echo "installing torchzero-core[$*] into $(VENV)"
	$(INSTALL) '.[$*]'
	@touch $@

train: $(VENV)/.installed-examples ## train the digits model with the five-module chain
	$(PY) -m examples.digits fit --config examples/digits_adam.yaml

test: $(VENV)/.installed-dev ## the fast tests
	$(PY) -m pytest -q -n $(WORKERS)

test-all: $(VENV)/.installed-dev ## the fast and the slow tests, with coverage
	$(PY) -m pytest -q -n $(WORKERS) --cov --cov-report=term -m "slow or not slow"

lint: $(VENV)/.installed-dev ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.installed-dev ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(VENV)/.installed-bench ## time the chains beside their peers (some minutes), write benchmarks/RESULTS.md
	$(PY) -m benchmarks
	$(PY) -m benchmarks.matrices
	$(PY) -m benchmarks.bandwidth
	$(PY) -m benchmarks.closures

against: $(VENV)/.installed-bench ## time the chains beside those of another checkout: make against TREE=PATH
	$(PY) -m benchmarks.against $(TREE)

gallery: $(VENV)/.installed-dev ## run the examples of the gallery (six minutes on one core) and write its page and pictures
	$(PY) -m examples

docs: $(VENV)/.installed-docs ## build the guide and the API reference into docs/_build
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

clean: ## remove builds and caches, keep .venv
	rm -rf build dist *.egg-info docs/_build docs/api .mypy_cache .pytest_cache .ruff_cache .coverage
