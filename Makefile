PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet $(addprefix --constraint=,$(wildcard requirements-dev.txt))

# The launcher and the tests start many interpreters: byte code pays, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup shell lint docs fixtures test fuzz bench clean

setup: $(VENV)/.setup

# What the native launcher is compiled from, at each installation.
NATIVE := hatch_build.py $(wildcard supervisor/pysuper/launcher/native/*.[ch])

$(VENV)/.setup: pyproject.toml $(wildcard requirements-dev.txt) $(NATIVE)
	-tests/fixtures_build/debs.sh
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[dev,docs,bench]'
	touch $(VENV)/.setup $(VENV)/.runtime

# What it takes to run pysuper, which is less than it takes to test it.
$(VENV)/.runtime: pyproject.toml $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

shell: $(VENV)/.runtime
	@$(BIN)/pysuper run /bin/bash || test $$? -lt 125  # below that it is the shell's own, and no failure of make's

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy tests/vm tests/fixtures_build
	$(BIN)/mypy --package bench
	$(BIN)/mypy examples/*/*.py
	$(BIN)/lint-imports

docs: setup
	$(BIN)/sphinx-build --quiet --nitpicky --fail-on-warning --keep-going docs build/docs

# The trees that tests run in, built here so that no test's time limit has to cover it. Without them, tests skip.
fixtures: setup
	-@$(PYTHON) tests/fixtures_build/rootfs.py

# The root file system of examples/multi.toml.
examples/debian.tar.gz:
	-tests/fixtures_build/debs.sh
	cp "$$($(PYTHON) tests/fixtures_build/rootfs.py debian)" $@

# Workers and an emulated machine share few cores: what is to happen within a bound is given three times as long.
test: lint docs fixtures
	PYSUPER_TEST_PATIENCE=$${PYSUPER_TEST_PATIENCE:-3} $(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

# Each target of tests/fuzz for so long, or those of TARGETS; what is found is left in build/fuzz.
fuzz: SECONDS ?= 60
fuzz: setup
	$(PIP_INSTALL) --editable '.[fuzz]'
	$(BIN)/python tests/fuzz/run.py $(SECONDS) $(TARGETS)

# Pysuper beside its peers, into build/bench: `make bench` takes about twenty minutes on an idle machine,
# `make bench N=2 SECONDS=1` two minutes, which only shows that it works.
N ?= 40
bench: SECONDS ?= 10
bench: setup
	bench/install.sh
	$(BIN)/python -m bench --rounds $(N) --seconds $(SECONDS) $(BENCH)

clean:
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
