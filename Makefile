PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
EXTRAS := video,train,viewer,eval,usd,template,gl,docs,dev

.PHONY: train test test-ptx gpu bench torture lint docs package clean

train: $(VENV)/ready
	$(RUN) train.py

test: $(VENV)/ready lint docs
	$(RUN) -m pytest -n 2

gpu: $(VENV)/ready  # tests, timings, training: under nine minutes, results in runs/gpu
	$(RUN) -m benchmarks.gpu

test-ptx: $(VENV)/ready  # the kernels as they are compiled for a GPU, executed and checked without one
	$(RUN) -m tools.ptx.check

bench: $(VENV)/ready
	$(RUN) -m benchmarks.run --device cpu

torture: $(VENV)/ready  # kills, full disks, two at once, damaged files, long runs: hours; prints the table of docs/reliability.md
	$(RUN) -m tools.torture

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

docs: $(VENV)/ready  # pages in site/; a broken link is an error (but not with --quiet, which hides it from --strict)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

package: $(VENV)/ready  # sdist and wheel in dist/
	$(RUN) -m build --no-isolation

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet torch -c constraints.txt
	$(RUN) -m pip install --quiet -e ".[$(EXTRAS)]" -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV)
