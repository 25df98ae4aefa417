# make run      - the default experiment, through Flower's simulation
# make config   - what is written from the code: tables of keys, docs/reference
# make docs     - the documentation as a site, in build/site; a broken link is an error
# make dist     - source distribution and wheel in dist/, checked
# make test     - lint, types, unit and integration tests, on all cores
# make test-long - tests that take minutes each: deployments that are killed, Ray whose clients hang or die
# make mutation - how many small faults in the core the tests notice (minutes)

PYTHON ?= python3
BIN := .venv/bin
INPUTS := pyproject.toml constraints.txt

.PHONY: run test test-long lint mutation config docs dist clean

run: .venv/.run
	$(BIN)/fl2ora run

test: lint
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --durations=15

test-long: .venv/.test
	$(BIN)/python -m pytest -n 0 -m long

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

mutation: .venv/.test
	$(BIN)/python -m benchmarks.mutation

config:
	$(BIN)/python -m fl2ora.experiment.flower_table
	$(BIN)/python -m fl2ora.commands.reference

docs: .venv/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: .venv/.test
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m pytest -n 0 tests/integration/test_wheel.py

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.run: .venv/bin/python $(INPUTS)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.test: .venv/.run
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
