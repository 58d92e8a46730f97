# meristem: two commands on a fresh clone.  make quickstart: raw files to an adapted, certified model.  make test: everything.
# PYTHON=/path/to/python3.12 chooses the interpreter (3.11 or newer); ARGS="--budget 90s ~/notes" goes to the quickstart.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: quickstart test lint clean bench-peers

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
            $$p -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS ?=

quickstart: .venv/core.stamp
	@$(BIN)/meristem quickstart $(ARGS)

test: lint
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile    # on 2 cores: one in three waits for processes it killed

lint: .venv/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "meristem needs Python 3.11 or newer and found none; install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' || { echo "meristem needs Python 3.11 or newer; $(PYTHON) is older or does not run. Name another: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module with ensurepip; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "making .venv with $(PYTHON)"
	@"$(PYTHON)" -m venv .venv || { rm -rf .venv; exit 1; }

# torch first and alone: its wheel decides CPU or CUDA, and everything after must fit it
.venv/core.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing torch 2.13.0 (a few minutes on a slow line)"
	@$(PIP) torch==2.13.0 setuptools
	@echo "installing meristem and its other dependencies"
	@$(PIP) --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: .venv/core.stamp
	@echo "installing the development tools"
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

# peers that cannot share our environment, for benchmarks/ only
bench-peers: .venv/dev.stamp
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt accelerate
	@"$(PYTHON)" -m venv .bench/litgpt
	@.bench/litgpt/bin/python -m pip install --quiet torch==2.13.0
	@.bench/litgpt/bin/python -m pip install --quiet torch==2.13.0 litgpt numpy
	@"$(PYTHON)" -m venv .bench/llamacpp/env
	@.bench/llamacpp/env/bin/python -m pip install --quiet numpy gguf llama-cpp-python
	@$(BIN)/python -m venv --without-pip .bench/lm_eval
	@.bench/lm_eval/bin/python -c 'import pathlib, sys, sysconfig; p = pathlib.Path(sysconfig.get_paths()["purelib"]); \
	    (p / "meristem.pth").write_text(str(pathlib.Path(".venv").resolve() / p.relative_to(sys.prefix)))'
	@.bench/lm_eval/bin/python -m pip install --quiet --constraint constraints.txt lm_eval
	@"$(PYTHON)" -m venv .bench/datatrove
	@.bench/datatrove/bin/python -m pip install --quiet datatrove spacy nltk "xxhash<4" presidio-analyzer phonenumbers

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
