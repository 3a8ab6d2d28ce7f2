# Everything runs in .venv, made here with nothing but Python and a C compiler.
#   make listops   train an SBM-Transformer on generated ListOps and report
#   make test      the tests
# PYTHON chooses the interpreter; PIP_ARGS reaches pip (an index with CPU builds of torch, say).

PYTHON ?= python3
PIP_ARGS ?=
RUN ?= runs/listops_sparse/sbm/seed1
# More arguments of `make listops`.
ARGS ?=
VENV := .venv
# Idle OpenMP threads sleep rather than spin, which on a busy machine costs more than the work.
export OMP_WAIT_POLICY ?= passive
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)

.PHONY: listops test test-all test-bounds test-gpu bench-gpu lint install ext bench report docs notebooks clean

listops: $(VENV)/.train
	$(BIN)/python tasks/lra.py fit --config tasks/configs/listops_sparse.yaml --overwrite true $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" -n 2

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2

# The compiled kernels once more, with every array access checked.
test-bounds: $(VENV)/.dev
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(VENV)/boundscheck $(BIN)/python -m pytest -q -n 2 \
		-m "not slow" -k "not interpreter and not gpu and not probe and not cache" tests/ops tests/kernels

# On a machine with a GPU, in an environment that has torch, Triton and pytest (GPU_PYTHON); without a
# GPU both say what they would run.
GPU_PYTHON ?= $(BIN)/python

test-gpu:
	$(GPU_PYTHON) benchmarks/gpu.py --parts tests truth law

bench-gpu:
	$(GPU_PYTHON) benchmarks/gpu.py

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

install: $(VENV)/.dev

ext: $(VENV)/.ext

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py

report: $(VENV)/.train
	$(BIN)/python tasks/report.py $(RUN)

docs: $(VENV)/.dev
	rm -rf docs/api/generated
	$(BIN)/sphinx-build -q -W --keep-going -E -b html docs docs/_build/html

notebooks: $(VENV)/.dev
	$(BIN)/python -m pytest tests/notebooks

clean:
	rm -rf $(VENV) docs/_build docs/generated docs/api/generated .pytest_cache .mypy_cache .ruff_cache

# torch goes first and pinned, so that no other package asks for its newest build.
$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing torch ..."
	@$(PIP) -c constraints.txt torch numpy
	@echo "Installing sbmgraph with what training and pictures need ..."
	@$(PIP) -c constraints.txt -e ".[train,viz,baselines]"
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	@echo "Installing what tests, notebooks and documentation need ..."
	@$(PIP) -c constraints.txt -e ".[dev]"
	@touch $@

$(VENV)/.ext: $(VENV)/.dev
	@echo "Building torch-scatter and torch-sparse (minutes, once; pip keeps the wheels) ..."
	@$(PIP) setuptools wheel ninja
	@$(PIP) -c constraints.txt --no-build-isolation torch-scatter torch-sparse
	@touch $@
