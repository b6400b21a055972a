# Everything a person types. Each target sets up first what it needs, and says so.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The environment is made anew when the locked packages change, never otherwise.
RUN_LOCK := $(shell cat requirements.txt pyproject.toml | cksum | cut -d' ' -f1)
DEV_LOCK := $(shell cat requirements.txt requirements-dev.txt pyproject.toml | cksum | cut -d' ' -f1)
READY := $(VENV)/ready-$(RUN_LOCK)
DEV_READY := $(VENV)/ready-dev-$(DEV_LOCK)
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --generate-hashes \
	--no-emit-index-url --no-emit-find-links --override overrides.txt

.PHONY: help setup setup-dev start production test test-slow check format demo bench bench-learning lock audit

help: ## what can be typed
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: $(READY) ## the virtual environment .venv/ with the locked packages

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV)/: torch is large, this takes some minutes the first time …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/ready-[0-9]* && touch $@
	@echo "Set up: $$($(BIN)/python -m pip list 2>/dev/null | tail -n +3 | wc -l) packages in $(VENV)/."

setup-dev: $(DEV_READY) ## the same, and what tests, checks and the examples need

$(DEV_READY): $(READY)
	@echo "Adding what tests and checks need …"
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements-dev.txt
	@rm -f $(VENV)/ready-dev-* && touch $@

start: setup ## the development server on http://127.0.0.1:9090 (HOST, PORT, MODEL_DIR, … from the environment)
	@exec $(BIN)/python -m my_backend serve

# Two files at a time: most of a test is waiting, and more of them would fight for a small machine.
test: setup-dev ## all tests but the slow ones
	@exec $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --durations 20

test-slow: setup-dev ## the slow tests: kills, fuzzing, soak
	@exec $(BIN)/python -m pytest -m slow

check: setup-dev ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup-dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

production: setup ## Redis, workers and uWSGI on this machine under supervisor
	@exec $(BIN)/python -m my_backend production

demo: setup-dev ## a real Label Studio with handwritten digits and this backend, to look at
	@exec $(BIN)/python -m demo

bench: setup-dev ## how fast everything is, beside a plain baseline and LitServe (some 16 minutes)
	@exec $(BIN)/python -m benchmarks --json benchmark.json

bench-learning: setup-dev ## how much a few labels teach, on real pictures (PICTURES and WEIGHTS: see docs/learning.md)
	@exec $(BIN)/python -m benchmarks.learning --pictures "$(PICTURES)" --weights "$(WEIGHTS)"

lock: setup-dev ## renew the locked packages
	$(COMPILE) --upgrade requirements.in -o requirements.txt
	$(COMPILE) --upgrade requirements-dev.in -o requirements-dev.txt
	$(COMPILE) --upgrade demo/label-studio-requirements.in -o demo/label-studio-requirements.txt

audit: setup-dev ## known vulnerabilities in the locked packages, where their database can be reached
	$(BIN)/pip-audit --no-deps --disable-pip --requirement requirements.txt
