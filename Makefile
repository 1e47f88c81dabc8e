# Everything happens in a virtual environment of its own, .venv, which is set up once and again when the pins change.

PYTHON ?= python3
PROMPT ?= a shiba inu wearing a beret
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Test processes: one for each core, with one thread each.
WORKERS ?= -n logical --maxprocesses 8 --dist loadfile
export PROMPT

.DEFAULT_GOAL := help
.PHONY: help generate test check format docs wheel libraries

help: ## Say what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

generate: $(VENV)/.base ## Draw PROMPT="…" as a PNG; more options in ARGS="…"
	@$(BIN)/unclip generate "$$PROMPT" $(ARGS)

test: libraries ## Run the tests; a part of them with ARGS="tests/test_nn.py -k name"
	@$(BIN)/python -m pytest $(WORKERS) $(ARGS)

check: $(VENV)/.dev ## Lint, look at the formatting, check the types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.docs ## Build the documentation into build/site; broken links are errors
	DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

wheel: $(VENV)/.dev ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

# Skia, which draws the menagerie, loads libEGL and libGL although nothing here opens a window. Tests that draw are skipped
# on a machine without them.
libraries: $(VENV)/.dev
	@$(BIN)/python -c 'import skia' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing libegl1 and libgl1, which skia-python loads" >&2; \
	    apt-get update -qq >&2; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libegl1 libgl1 >&2; \
	  else \
	    echo "note: skia-python cannot load, so the tests that draw are skipped. It needs libEGL.so.1 and libGL.so.1;" >&2; \
	    echo "on Debian or Ubuntu: sudo apt-get install libegl1 libgl1" >&2; \
	  fi; true; }

$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: unclip needs Python 3.11 or newer; name one with make PYTHON=…" >&2; exit 1; }
	@echo "setting up $(VENV), once; torch is large, so this can take some minutes" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	@$(PIP) -e '.[docs]'
	@touch $@
