# `make demo` and `make test` do everything on a fresh clone: only python3 (3.11 or newer) and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: demo test check bench coverage clean
.DELETE_ON_ERROR:

# The set-up alone. torch first and pinned: a range asked of pip brings gigabytes of CUDA packages.
$(VENV)/.ready: constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed; try: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv: $(VENV)/.ready
	@true
.PHONY: .venv

demo: $(VENV)/.ready
	$(BIN)/python run_pipeline.py demo --output out/demo

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations 10

coverage: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov --cov-report term

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

# Where the time of one case goes; PATIENTS is a folder of patients.
PATIENTS ?= ../shared/data/brats
bench: $(VENV)/.ready
	$(BIN)/python -m bench.time_case $(PATIENTS) && cat bench/RESULTS.md

clean:
	rm -rf out build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
