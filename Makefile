# `make demo` and `make test` do everything on a fresh clone: only python3 (3.11 or newer) and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AUDIT := .venv-audit
JOBS ?= 2

AXE := tests/web/.axe/package/axe.min.js

.PHONY: demo test test-web serve check bench profile folds results coverage clean faults fuzz chaos thousand audit sbom
.PHONY: licences
.DELETE_ON_ERROR:

# The set-up alone. torch first and pinned: a range asked of pip brings gigabytes of CUDA packages.
# pip's reports hold the SHA-256 of each wheel, for `make sbom`.
$(VENV)/.ready: constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) \
	  and "python 3.11 or newer is needed; try: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --report $(VENV)/installed-$$(date +%s)-a.json \
	  --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --report $(VENV)/installed-$$(date +%s)-b.json \
	  --constraint constraints.txt --editable '.[cluster,cpu,dev,dicom,web]'
	$(BIN)/python -m pip install --quiet --report $(VENV)/installed-$$(date +%s)-c.json \
	  --constraint constraints.txt --no-deps deepbet  # its networks alone, without a toolkit of windows
	touch $@

.venv: $(VENV)/.ready
	@true
.PHONY: .venv

demo: $(VENV)/.ready
	$(BIN)/python run_pipeline.py demo --output out/demo

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations 10

# The page in a real browser. Chromium comes from the system's packages where they may be installed, axe-core (for the
# accessibility tests) from the npm registry; without them the tests that need them are skipped and say so.
test-web: $(VENV)/.ready
	command -v chromium >/dev/null \
	  || (apt-get install --yes --quiet chromium \
	    || (apt-get update && apt-get install --yes --quiet chromium)) \
	  || echo 'chromium is not there and could not be installed: the browser tests will be skipped'
	test -f $(AXE) \
	  || (mkdir -p tests/web/.axe && cd tests/web/.axe \
	    && npm pack --silent axe-core@4.14.1 && tar xzf axe-core-4.14.1.tgz) \
	  || echo 'axe-core could not be fetched: the accessibility tests will be skipped'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/web --durations 5

# The web app on this machine: http://127.0.0.1:8000
serve: $(VENV)/.ready
	$(BIN)/python run_pipeline.py serve

coverage: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov --cov-report term

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

# Speed and memory beside plain MONAI, nnU-Net's predictor and the network alone, into bench/RESULTS.md; PATIENTS is a
# folder of patients. BENCH="--quick" takes minutes; --nnunet-python names the Python of an environment that has
# nnunetv2.
PATIENTS ?= ../shared/data/brats
BENCH ?=
bench: $(VENV)/.ready
	$(BIN)/python -m bench.speed.yardsticks $(PATIENTS) $(BENCH)

# The flame graph of one case.
profile: $(VENV)/.ready
	mkdir -p out
	$(BIN)/python -m bench.speed.profile $(PATIENTS) --output out/profile.svg

# Out-of-fold masks and scores of a recipe, for evaluation and speed work; they stay outside the repository.
DATA ?= ../data
FOLDS ?= ../folds
RECIPE ?= brats_attention_unet_3d
folds: $(VENV)/.ready
	$(BIN)/python -m bench.folds $(DATA)/brats --recipe $(RECIPE) --output $(FOLDS)/$(RECIPE)

# The tables of docs/results.md, from the shipped weights (and, for the cross-validation, from what `make folds` has
# left).
SPLIT ?= ../shared/data/lgg_split.json
HELD_OUT := BraTS2021_01476 BraTS2021_01479 BraTS2021_01482 BraTS2021_01485
results: $(VENV)/.ready
	$(BIN)/python -m bench.lgg $(DATA)/lgg/kaggle_3m --split $(SPLIT) --together
	$(BIN)/python -m bench.heldout $(DATA)/brats --cases $(HELD_OUT)
	for folder in $(wildcard $(FOLDS)/*); do \
	  $(BIN)/python -m bench.folds $(DATA)/brats --recipe $$(basename $$folder) --output $$folder --score-only; done

# What a hospital would try: see THREAT_MODEL.md. faults: the table of broken patients; fuzz: bytes flipped at random;
# chaos: runs killed at random moments (half an hour); thousand: a thousand patients with faults among them.
FUZZ_TRIES ?= 10000
faults: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults

fuzz: $(VENV)/.ready
	OMP_NUM_THREADS=1 FUZZ_TRIES=$(FUZZ_TRIES) $(BIN)/python -m pytest tests/test_fuzz.py

chaos: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.chaos

thousand: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.chaos.thousand

# The auditing tools have an environment of their own: they are not there when patients are segmented.
$(AUDIT)/.ready: constraints-audit.txt
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --constraint constraints-audit.txt pip-audit cyclonedx-bom
	touch $@

# Known vulnerabilities of all that is pinned. No index, no audit: that is said, and is no failure.
audit:
	@if $(MAKE) --quiet $(AUDIT)/.ready; \
	then $(AUDIT)/bin/python -m tools.audit constraints.txt constraints-audit.txt; \
	else echo 'skipped: pip-audit could not be installed; the lines above say why'; fi

# A bill of materials, CycloneDX 1.6, checked against its schema.
SBOM ?= out/sbom.cdx.json
sbom: $(VENV)/.ready $(AUDIT)/.ready
	mkdir -p $(dir $(SBOM))
	$(AUDIT)/bin/cyclonedx-py environment --output-reproducible --spec-version 1.6 \
	  --output-file $(VENV)/environment.cdx.json $(BIN)/python
	$(BIN)/python -m tools.sbom $(VENV)/environment.cdx.json --reports $(wildcard $(VENV)/installed-*.json) \
	  --output $(SBOM)
	$(AUDIT)/bin/python -m tools.sbom --validate $(SBOM)

licences: $(VENV)/.ready
	$(BIN)/python -m tools.licences

clean:
	rm -rf out build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
