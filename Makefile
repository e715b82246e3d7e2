# The whole contributor interface. Each target sets up .venv from nothing when it is missing.
PYTHON ?= python3
BIN := .venv/bin
THREADS := OMP_NUM_THREADS=1

.PHONY: demo test check bench clean

demo: .venv/.done            ## make sample data, run `tags` on it, print the table
	$(BIN)/fewmask demo tags

test: .venv/.done            ## the default suite: no slow tests, no real data
	$(THREADS) $(BIN)/python -m pytest -m "not slow and not realdata" -n 2

check: .venv/.done           ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/.done           ## the short benchmarks, into runs/bench; all: benchmarks/README.md
	$(BIN)/python benchmarks/cam_agreement.py --out runs/bench
	$(BIN)/python benchmarks/paper_steps.py --row classify --out runs/bench

# torch first: with its version fixed, pip takes a CPU build where one is offered.
.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[offline,track,video,geo,medical,coco,parquet,export,ray,web,demo,bench,dev]"
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
