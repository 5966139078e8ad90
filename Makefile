PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

# A line a test. A suite without tests yet is no failure: pytest says so with exit code 5.
define run_suite
	@$(BIN)/pytest -v -m $(1) || { code=$$?; [ $$code -eq 5 ] && echo "$(1): no tests yet" || exit $$code; }
endef

.DEFAULT_GOAL := help
.PHONY: help setup run lint format docs test test-unit test-long test-learning test-faults test-cluster test-all benchmark clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install the pinned dependencies
	@:

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned dependencies into $(VENV); the first time takes a few minutes."
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

run: setup ## Train PPG on Procgen for a few minutes (tuned_examples/procgen_small.yaml)
	@$(BIN)/rllib train file procgen_small

lint: setup ## Check style, types and the directions of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: setup ## Format the code and fix what ruff can fix
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: setup ## Build the documentation's site in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Two workers, each with its own Ray, share the files. OpenMP's threads must not wait by spinning.
test: lint docs ## Check style and types, build the documentation, then run the quick tests
	@OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25

test-unit: setup ## Formulas, configs and files, in less than a minute
	@$(BIN)/pytest -q -m unit

test-long: setup ## All cases of what the quick tests check a few of
	$(call run_suite,long)

test-learning: setup ## Tests that train to a return (minutes each)
	$(call run_suite,learning)

test-faults: setup ## Tests that kill processes
	$(call run_suite,faults)

test-cluster: setup ## Tests on several Ray nodes
	$(call run_suite,cluster)

test-all: test test-long test-learning test-faults test-cluster ## Every test

benchmark: setup ## Measure speed and memory against their targets (20 minutes)
	@$(BIN)/python -m benchmarks.throughput

clean: ## Remove .venv, caches and build products
	@rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
