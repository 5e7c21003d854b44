# `make sweep` and `make test` need Python 3.11+ and a package index, nothing else; both are safe to repeat.
PYTHON ?= python3
BIN := .venv/bin
# files of tests run side by side, one a core
BESIDE := -n auto --maxprocesses 4 --dist loadfile

.PHONY: sweep test test-all lint docs paper clean

sweep: .venv/installed
	$(BIN)/python -m experiments.sweep $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest $(BESIDE) -m "not slow" $(ARGS)

# with the tests that take minutes
test-all: .venv/installed
	$(BIN)/python -m pytest $(BESIDE) $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# into site/
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

# needs pdflatex
paper:
	cd paper && pdflatex -interaction=nonstopmode -halt-on-error main.tex >/dev/null && pdflatex -interaction=nonstopmode main.tex >/dev/null
	@echo paper/main.pdf

# the mark is made last, so that an installation that broke off is done again
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; give another with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

clean:
	rm -rf .venv build site *.egg-info .mypy_cache .ruff_cache .pytest_cache
