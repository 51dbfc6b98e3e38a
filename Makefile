# make demo, make test, make test-all, make soak: each sets up .venv from requirements.lock if it is missing.
# TESTS="-m processes" chooses another tier of tests (docs/testing.md), TESTS=tests/losses/test_contrastive.py a file.
# PYTHON=python3.12 chooses another interpreter, VENV=dir another place, JOBS=4 how many tests at once
# (each takes up to 4 GB), LOCK=requirements-all.lock also what the page and the notebooks need.

# The first interpreter that runs and is new enough.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
LOCK ?= requirements.lock
OUT ?= demo
SEED ?= 0
TESTS ?=
JOBS ?= 2
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check
# Installs in a fifth of pip's time.
UV = $(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode

.PHONY: demo test test-all soak notebooks lint lock clean

demo: $(VENV)/ready
	@$(BIN)/imagebind-jax demo --out $(OUT) --seed $(SEED)

# A process that has nothing left to do takes over what another one has still to begin. Bytecode is kept,
# even where the environment forbids it: children import the package again and again.
test-all: TIERS = -m 'not soak'
test test-all: $(VENV)/ready
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(TIERS) $(TESTS)

# Every goal of docs/running.md at full size; its table is written anew.
soak: $(VENV)/ready
	@rm -f .soak.jsonl
	@IBJ_SOAK=1 IBJ_RESULTS=.soak.jsonl $(BIN)/python -m pytest -vv -m goal --durations=40 \
	  -o faulthandler_timeout=1800 $(TESTS); ended=$$?; \
	  $(BIN)/python tests/goals.py .soak.jsonl; exit $$ended

# Runs the seven notebooks and writes their outputs anew (LOCK=requirements-all.lock has what they need).
notebooks: $(VENV)/ready
	@$(BIN)/python notebooks/render.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/ready: $(LOCK) setup.cfg pyproject.toml
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "imagebind_jax needs Python 3.11 or newer: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version): about a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) uv && $(UV) -r $(LOCK) && $(UV) --no-deps -e . || { \
	  echo "uv could not install it (above); pip takes some minutes"; \
	  $(PIP) -r $(LOCK) && $(PIP) --no-deps -e .; }
	@touch $@

# Both JAX lines in one file: 0.10 on Python 3.11, the newest on 3.12 and later. A second one for what
# the page and the notebooks need, too: gradio wants an older Pillow.
PIP_COMPILE = uv pip compile setup.cfg --universal --python-version 3.11 --upgrade --extra test --extra dev
lock: $(VENV)/ready
	$(PIP_COMPILE) -o requirements.lock
	$(PIP_COMPILE) --extra index --extra demo --extra notebooks --extra browser -o requirements-all.lock

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info
