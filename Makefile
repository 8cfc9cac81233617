# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo gallery test lint format docs bench clean

help:
	@echo "make demo   predict published runs; page and plot in reports/out"
	@echo "make gallery  make the reports in reports/published again (some minutes)"
	@echo "make test   lint, types, layers and tests"

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("hwsim needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/hwsim demo --out reports/out

gallery: $(VENV)/.ready
	$(BIN)/python docs/gallery/make.py

test: lint
	$(BIN)/python -m pytest -q -n 2 --ignore tests/benchmarks
	$(BIN)/python -m pytest -q tests/benchmarks --benchmark-columns=min,median,max

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.ready
	$(BIN)/python -m pytest -q tests/benchmarks --benchmark-columns=min,median,max

docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/python -m sphinx -W -n -q -b html docs docs/_build

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist reports/out
