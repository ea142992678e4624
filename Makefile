# Everything runs in .venv, made once from the pinned versions in constraints.txt; nothing else is touched.
#   make demo       install, then run `xlm demo` with the bundled model
#   make test       what the continuous integration runs: formatting, types, import rules, quick tests
#   make test-all   the slow tests too
#   make lint       formatting, types and import rules alone
#   make bench      the benchmarks; ONLY="encode serving": these
#   make docs       regenerate the generated parts of the documentation
#   make clean      remove .venv and everything else that was made

SHELL  := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
BIN    := .venv/bin
# One thread a worker: two workers on two cores are faster, and quieter, than four threads fighting for them.
export OMP_NUM_THREADS ?= 1
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q
# What our own kernels compute where there was a compiler to build them, PyTorch's and oneDNN's compute elsewhere.
WITHOUT_KERNELS := XLM_KERNELS=0 $(PYTEST) -n $(WORKERS) tests/backends/test_tables.py tests/backends/test_placement.py \
	tests/inference/test_engine.py tests/inference/test_exact.py tests/inference/test_quantize.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench docs clean

help:
	@sed -n 's/^#   //p' Makefile

# A stamp per set of extras: `make demo` does not wait for the test tools.
.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv

.venv/.installed-demo: pyproject.toml constraints.txt $(wildcard src/xlm/backends/torch/kernels/*) | .venv/pyvenv.cfg
	@echo "Installing into .venv (PyTorch is most of it) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[torch,train]'
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt $(wildcard src/xlm/backends/torch/kernels/*) | .venv/pyvenv.cfg
	@echo "Installing into .venv, with the test tools ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[torch,jax,tf,train,corpus,eval,serve,export,dev]'
	@touch $@ .venv/.installed-demo

demo: .venv/.installed-demo
	@env -u OMP_NUM_THREADS $(BIN)/xlm demo

lint: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: lint
	$(PYTEST) -n $(WORKERS) -m "not slow"
	$(WITHOUT_KERNELS) -m "not slow"

test-all: lint
	$(PYTEST) -n $(WORKERS)
	$(WITHOUT_KERNELS)

bench: .venv/.installed-dev
	@env -u OMP_NUM_THREADS $(BIN)/python tools/bench.py $(ONLY)

docs: .venv/.installed-dev
	$(BIN)/python tools/tree.py --write

clean:
	rm -rf .venv build dist demo .pytest_cache .ruff_cache .hypothesis .import_linter_cache docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
