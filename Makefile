# Two commands: `make reproduce` (the paper, quick profile) and `make test`. Both make their environment first, and so
# do `make gate`: the guards of this checkout against their floors, and `make docs`: the documentation as a site.
PYTHON ?= python3
VENV ?= .venv
OUT ?= results
BIN := $(VENV)/bin
# Tests of what the C kernels serve where they are installed, to be run by torch too.
BY_TORCH := tests/kernels/test_gram.py tests/kernels/test_recurrence.py tests/kernels/test_bias.py \
            tests/kernels/test_ntk_budget.py tests/hpr/training/test_training.py

.PHONY: reproduce test test-nightly lint gate docs clean

reproduce: $(VENV)/repro
	$(BIN)/python -m hpr.reproduce --all --profile quick --out $(OUT)

test: $(VENV)/dev lint
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not interpreter and not alone and not emulated and not nightly"
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m alone
	OPENBLAS_NUM_THREADS=1 HPR_KERNELS_BACKEND=interpret $(BIN)/python -m pytest -n 2 -m interpreter
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "emulated and not nightly"
	OPENBLAS_NUM_THREADS=1 HPR_KERNELS_BACKEND=torch $(BIN)/python -m pytest -n 2 -m "not alone and not nightly" $(BY_TORCH)

test-nightly: $(VENV)/dev
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m nightly

gate: $(VENV)/dev
	$(BIN)/asv machine --yes
	$(BIN)/asv run --bench track_ --environment existing:$(CURDIR)/$(BIN)/python --set-commit-hash $$(git rev-parse HEAD)
	$(BIN)/python -m benchmarks gate

docs: $(VENV)/docs
	$(BIN)/python -m sphinx -W --keep-going -n -b html docs build/docs

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/repro $(VENV)/dev $(VENV)/docs: $(VENV)/%: setup.py pyproject.toml constraints.txt $(wildcard kernels/hpr_kernels/native/*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .pytest_tmp .mypy_cache .ruff_cache .hypothesis kernels/hpr_kernels/native/*.so
