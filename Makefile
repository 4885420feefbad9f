# Two commands for a newcomer, `make demo` and `make test`; the rest are what CI runs.
VENV ?= .venv
DIST ?= dist
PYTHON ?= python3
TORCH := $(shell sed -n 's/^torch==//p' requirements.lock)
export PYTHONSAFEPATH := 1

.PHONY: demo test lint package clean

demo: $(VENV)/.installed
	$(VENV)/bin/d2r-fast demo --out demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

package: $(VENV)/.installed
	$(VENV)/bin/python -m build --no-isolation --outdir $(DIST)

clean:
	rm -rf demo dist $(VENV)

# torch first and alone: another package that asks for it must find the version that was tested.
$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet torch==$(TORCH)
	$(VENV)/bin/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@
