# make demo | make test | make lint; PYTHON=python3.12 chooses the interpreter that .venv is made from.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo docs test test-slow lint wheel-check gpu-wheels gpu-check format clean

help:
	@echo "make demo       install into $(VENV), train ML-Decoder on digit scenes, print the score"
	@echo "make table-5    reproduce a table of the paper (make figure-5; SCALE=desk for the form that needs no download)"
	@echo "make test       the whole test suite; make test-slow adds what takes minutes"
	@echo "make lint       ruff, mypy, import-linter"
	@echo "make docs       the site of docs/, in site/; fails on dead links"
	@echo "make wheel-check build the wheel, and train for two steps with it from an empty folder"
	@echo "make gpu-check  on a GPU, without a network: its tests and measurements, 8 minutes; make gpu-wheels first"
	@echo "make format     let ruff format the code"
	@echo "make clean      remove $(VENV) and caches (outputs/ and data/ stay)"

demo: $(VENV)/.installed
	$(BIN)/mldec train experiment=digits
	@echo
	@echo "next: source $(BIN)/activate, then the commands above and those of README.md"

# ARGS="rows=gap seeds=0 dataset.root=…" are further options of `mldec table`.
SCALE ?= paper
table-% figure-%: $(VENV)/.installed
	$(BIN)/mldec table $(subst -,,$@) scale=$(SCALE) $(ARGS)

# Tests start many processes, which would otherwise compile the modules each for itself where the environment forbids
# to keep compiled ones.
test: $(VENV)/.installed-test
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/.installed-test
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "read it: $(BIN)/python -m http.server --directory site --bind 127.0.0.1 8000, or open site/index.html"

# Away from the source tree, so that configs and data files come from the wheel or not at all.
wheel-check: $(VENV)/.installed
	@set -e; python=$$PWD/$(BIN)/python; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	  $$python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$$folder" . ; \
	  $$python -m pip install --quiet --disable-pip-version-check --no-deps --target "$$folder/site" "$$folder"/*.whl; \
	  mkdir "$$folder/empty"; cd "$$folder/empty"; export PYTHONPATH="$$folder/site"; \
	  $$python -c "import mldec; assert mldec.__file__.startswith('$$folder'), mldec.__file__"; \
	  $$python -m mldec train experiment=digits debug=fast dataset.train=64 dataset.val=16 dataset.test=16 run_dir=run; \
	  $$python -m mldec report run=run > /dev/null; \
	  $$python -m mldec table 1 report_only=true > /dev/null

# Where there is a network: what the GPU machine's Python may lack goes into .wheels/. LACKS=scipy,… for more.
gpu-wheels: $(VENV)/.installed-test
	$(BIN)/python scripts/gpu_wheels.py $(if $(LACKS),lacks=$(LACKS))

# On the machine with the GPU, whose own Python has torch. ARGS="budget=480 records=DIR tresnet_l" are options of the script.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu-check:
	$(GPU_PYTHON) scripts/gpu_check.py $(ARGS)

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mldec needs Python 3.11 or newer, found $$($(PYTHON) --version); use make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV): on Linux about 6 GB with torch's CUDA build, a minute or two"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV), with what tests and linters need"
	@# Not compiled: of 280 MB of sources, which take pip two minutes, few are ever imported; these are then compiled.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".[test,lint]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV), with what builds the site"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) site .wheels .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
