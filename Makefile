# One command for each thing a person does here. Needs Python 3.11+ and, but for `fast`, Docker.

PYTHON ?= python3
BIN := .venv/bin
# A module at a time on each processor: what a module's tests share (a container, a server) is made once.
PYTEST := $(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadscope
QUESTION ?= Which request id first failed with 'pool exhausted'?
SOURCE ?= sample_data/incident.log

.PHONY: help image demo test fast check lint bench e2e mutation differential clean
.DEFAULT_GOAL := help

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z0-9.]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A stamp, so that the environment is made again when the dependencies change.
.venv/.made: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

.venv: .venv/.made ## the virtual environment with rlm and the development tools

image: .venv/.made ## the sandbox image: there already, else pulled, else built from Debian packages
	@$(BIN)/rlm sandbox status >/dev/null 2>&1 || $(BIN)/rlm sandbox pull || $(BIN)/rlm sandbox build

demo: .venv/.made image ## answer a real question about sample_data with the built-in offline model
	$(BIN)/rlm ask $(SOURCE) "$(QUESTION)" -m offline

test: .venv/.made image ## the whole test suite, Docker included
	$(PYTEST)

fast: .venv/.made ## the tests that need no Docker
	$(PYTEST) -m "not docker"

e2e: .venv/.made image ## the thirty acceptance cases; RLM_E2E=full: ten times as large; RLM_E2E_SEED=n: repeat a run
	$(PYTEST) tests/e2e

mutation: .venv/.made ## put bugs into a copy of the package: each must make a test fail
	$(BIN)/python -m tests.mutation

lint: .venv/.made ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test ## everything CI checks

bench: .venv/.made image ## measure the harness against a loopback provider
	$(BIN)/python -m rlm_cli.bench

differential: .venv/.made image ## play the same trajectories through rlm, rlms and dspy.RLM, and compare
	$(BIN)/python -m tests.differential

clean: ## remove the environment, caches and leftover containers
	-@[ -x $(BIN)/rlm ] && $(BIN)/rlm sandbox prune
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
