# Everything a newcomer needs: `make demo` runs the main job, `make test` the tests.
# Both install into .venv first; nothing else has to be set up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out

.DEFAULT_GOAL := help
.PHONY: help install kernels demo test test-slow lint format types docs check clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## Install Shoal and the development tools into .venv

$(VENV)/.installed: pyproject.toml constraints.txt $(wildcard csrc/*.* csrc/*/*.*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

kernels:  ## Rebuild only the C++ kernels after a change in csrc/
	cmake -S csrc -B build/kernels
	cmake --build build/kernels --parallel
	cmake --install build/kernels --prefix "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"

demo: install  ## Plan and run 320 support tickets on the bundled model, print the accuracy
	@mkdir -p $(OUT)
	$(BIN)/shoal plan examples/tickets.jsonl
	$(BIN)/shoal run examples/tickets.jsonl --output $(OUT)/tickets.results.jsonl \
		--summary $(OUT)/tickets.summary.json --report $(OUT)/report --restart
	$(BIN)/python examples/score.py $(OUT)/tickets.results.jsonl examples/answers.jsonl

test: install  ## Run the tests (a few minutes on two cores)
	$(BIN)/python -m pytest

test-slow: install  ## Run the tests that take long or need gigabytes
	$(BIN)/python -m pytest -m slow --override-ini addopts='-q --strict-markers'

lint: install  ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: install  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: install  ## Check types
	$(BIN)/mypy

docs: install  ## Regenerate the generated documentation
	$(BIN)/python tools/make_cli_docs.py

check: lint types  ## Everything CI checks before the tests
	$(BIN)/python tools/make_cli_docs.py --check

clean:  ## Remove what was built
	rm -rf $(VENV) $(OUT)
