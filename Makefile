# Every target is complete by itself, from a fresh clone; `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
# Where to take torch from. PyPI's build for Linux brings CUDA with it, several GB; a CPU needs much less:
#   make lab TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Colors of `make app`.
THEME ?= light
# Processes that run the tests.
JOBS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# One line for each package that pip installs, so that a long installation is seen to move.
NAMES := sed -u -n -E 's/^Collecting ([^ ]*).*/  \1/p'
# A stamp is newer than the files that decide what is installed, or pip runs again.
LAB := .venv/lab.stamp
TOOLS := .venv/tools.stamp
DOCS := .venv/docs.stamp
# What `make docs` does with the notebooks: executes those that changed, or with NOTEBOOKS=0 none.
NOTEBOOKS ?= 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab app demo test lint docs linkcheck bench clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16
	@echo
	@echo "  PYTHON=python3.12      use another Python, 3.11 or newer"
	@echo "  NOTEBOOKS=0            make docs without executing notebooks"
	@echo "  THEME=dark             colors of make app (default: light)"
	@echo "  TORCH_INDEX=URL        take torch from there, for example https://download.pytorch.org/whl/cpu"

lab: $(LAB) ## open JupyterLab on the quickstart notebook
	@$(BIN)/cdvae-lab lab

app: $(LAB) ## the whole laboratory on one page, without a notebook around it
	@$(BIN)/cdvae-lab app --theme $(THEME)

demo: $(LAB) ## run the quickstart without a browser; crystals, a report page and a summary in out/
	@$(BIN)/cdvae-lab demo --out out

test: lint $(DOCS) ## check everything: style, layers, types, tests, notebooks, documentation
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --ignore=tests/browser
	@if command -v chromium >/dev/null; then \
	  for file in tests/browser/test_*.py; do \
	    $(BIN)/python -m pytest $$file || { \
	      echo "cdvae_lab: a page may have been too slow; $$file is run once more, and has to pass" >&2; \
	      $(BIN)/python -m pytest $$file; } || exit 1; \
	  done; \
	else echo "cdvae_lab: NOT TESTED, for want of a chromium: the widgets in a browser" >&2; fi
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 notebooks/app.ipynb
	$(MAKE) docs # executes the other notebooks

lint: $(TOOLS) ## check style, imports and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(DOCS) ## build the documentation, with the executed notebooks, into docs/_build/html
	$(BIN)/python -m tools.tutorials $(if $(filter 0,$(NOTEBOOKS)),--no-execute)
	@rm -rf docs/reference/generated # a name that is gone must leave no page
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "cdvae_lab: open docs/_build/html/index.html"

linkcheck: $(DOCS) ## ask the network whether the documentation's external addresses answer
	$(BIN)/python -m tools.tutorials --no-execute
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/linkcheck

bench: $(TOOLS) ## measure training and denoising on this machine
	$(BIN)/python -m benchmarks

clean: ## remove the environment, out/ and caches
	rm -rf docs/_build docs/_static/generated docs/reference/generated docs/tutorials/*.ipynb
	rm -rf .venv out dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find cdvae_lab tests -name __pycache__ -prune -exec rm -rf {} +

$(LAB): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "cdvae_lab: no '$(PYTHON)' here; install Python 3.11 or newer, or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "cdvae_lab: $(PYTHON) is Python %d.%d, and 3.11 or newer is needed: say make PYTHON=python3.11" % v[:2])'
	@echo "cdvae_lab: making the environment in .venv (the first time this takes two to five minutes)"
	@$(PYTHON) -m venv .venv
	@echo "cdvae_lab: 1 of 2, torch$(if $(TORCH_INDEX), from $(TORCH_INDEX))"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch | $(NAMES)
	@echo "cdvae_lab: 2 of 2, the package, its libraries and JupyterLab"
	@$(PIP) --editable '.[notebook]' | $(NAMES)
	@touch $@

$(TOOLS): $(LAB)
	@echo "cdvae_lab: installing the tools for tests and checks"
	@$(PIP) --editable '.[dev]' | $(NAMES)
	@touch $@

$(DOCS): $(LAB)
	@echo "cdvae_lab: installing what builds the documentation"
	@$(PIP) --editable '.[notebook,docs]' | $(NAMES)
	@touch $@
