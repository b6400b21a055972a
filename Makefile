# The commands that people type. Each target first installs what it needs, and says so.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An index of CPU-only builds of torch, for example; `make setup` saves it for later calls.
-include $(VENV)/choices.mk
export TORCH_INDEX_URL
# `make` reinstalls packages only when the locked versions change, or when it first finds a GPU.
GPU := $(if $(wildcard /dev/nvidiactl /dev/dxg),-gpu)
RUN_LOCK := $(shell cat requirements.txt pyproject.toml | cksum | cut -d' ' -f1)
DEV_LOCK := $(shell cat requirements.txt requirements-dev.txt pyproject.toml | cksum | cut -d' ' -f1)
READY := $(VENV)/ready-$(RUN_LOCK)$(GPU)
DEV_READY := $(VENV)/ready-dev-$(DEV_LOCK)$(GPU)
INSTALL := $(BIN)/python deploy/install_packages.py
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --generate-hashes \
	--no-emit-index-url --no-emit-find-links --override overrides.txt

SYSTEMS := x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu aarch64-apple-darwin x86_64-pc-windows-msvc

.PHONY: help setup setup-dev start production test test-e2e test-slow fuzz soak check format demo bench bench-quick bench-learning bench-labeling lock upgrade oldest release check-lock audit

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: $(READY) ## create the virtual environment .venv/ with the locked packages

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is required: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV)/. This takes a few minutes the first time because torch is large …"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) requirements.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(if $(TORCH_INDEX_URL),echo 'TORCH_INDEX_URL ?= $(TORCH_INDEX_URL)' > $(VENV)/choices.mk)
	@rm -f $(VENV)/ready-[0-9]* && touch $@
	@echo "Installed $$($(BIN)/python -m pip list 2>/dev/null | tail -n +3 | wc -l) packages in $(VENV)/."

setup-dev: $(DEV_READY) ## also install what the tests, checks and examples need

$(DEV_READY): $(READY)
	@echo "Installing what the tests and checks need …"
	@$(INSTALL) requirements-dev.txt
	@rm -f $(VENV)/ready-dev-* && touch $@

start: setup ## run the development server on http://127.0.0.1:9090 (set HOST, PORT, MODEL_DIR, … in the environment)
	@exec $(BIN)/python -m my_backend serve

# Two test files at a time, from both ends of the list (see tests/conftest.py); more would overload a small machine.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20
MOST := -m "not slow and not fuzz and not soak"

test: setup-dev ## run all tests except the end-to-end ones, slow ones, fuzzing and soak
	@exec $(PYTEST) $(MOST) --ignore tests/e2e --ignore tests/production

test-e2e: setup-dev ## run the tests with a real Label Studio, a browser, and the whole production mode
	@exec $(PYTEST) $(MOST) tests/e2e tests/production

test-slow: setup-dev ## run the slow tests: kills, restarts, all networks
	@exec $(PYTEST) -m slow

# Processor time of the fuzzing that is guided by coverage; see docs/project/reliability.md.
MINUTES ?= 60

fuzz: setup-dev ## send random requests and corrupted images, then fuzz all readers for an hour (MINUTES=60)
	@$(BIN)/python -m pytest -m fuzz
	@exec $(BIN)/python -m tests.fuzzing run --minutes $(MINUTES)

soak: setup-dev ## run the production mode under load and kills for two minutes
	@exec $(BIN)/python -m pytest -m soak

check: setup-dev ## check lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup-dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

production: setup ## run Redis, workers and uWSGI on this machine under supervisor
	@exec $(BIN)/python -m my_backend production

demo: setup-dev ## try this backend with a real Label Studio and digits, or your own images (DIR=a folder per class)
	@exec $(BIN)/python -m demo $(if $(DIR),--images "$(DIR)")

bench: setup-dev ## measure the speed, compared with a plain baseline and LitServe (about 16 minutes)
	@exec $(BIN)/python -m benchmarks --json benchmark.json

bench-quick: setup-dev ## compare the speed of the hot paths with the kept figures (one to four minutes)
	@exec $(BIN)/python -m benchmarks.quick

bench-learning: setup-dev ## measure accuracy with few labels on real images (PICTURES and WEIGHTS: see docs/project/learning.md)
	@$(BIN)/python -m benchmarks.learning --pictures "$(PICTURES)" --weights "$(WEIGHTS)"
	@$(BIN)/python -m benchmarks.learning.honesty --pictures "$(PICTURES)" --weights "$(WEIGHTS)"
	@$(BIN)/python -m benchmarks.learning.wrong_labels --pictures "$(PICTURES)" --weights "$(WEIGHTS)"
	@exec $(BIN)/python -m benchmarks.learning.forecast --pictures "$(PICTURES)" --weights "$(WEIGHTS)"

bench-labeling: setup-dev ## count the actions that label a whole project in groups (PICTURES and WEIGHTS: see docs/project/learning.md)
	@exec $(BIN)/python -m benchmarks.labeling --pictures "$(PICTURES)" --weights "$(WEIGHTS)"

lock: setup-dev ## upgrade the locked packages
	$(COMPILE) --upgrade --extra production pyproject.toml requirements.in -o requirements.txt
	$(COMPILE) --upgrade requirements-dev.in -o requirements-dev.txt
	$(COMPILE) --upgrade testing/label-studio-requirements.in -o testing/label-studio-requirements.txt
	$(MAKE) check-lock

upgrade: lock ## upgrade the locked packages, and run the checks and tests with them
	@$(MAKE) check test test-e2e

oldest: setup-dev ## run the unit tests with the oldest versions of the dependencies that pyproject.toml allows (needs internet access)
	@.venv-oldest/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python deploy/install_packages.py requirements-dev.txt
	@.venv-oldest/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/uv pip compile --quiet --resolution lowest-direct --all-extras pyproject.toml -o .venv-oldest/oldest.txt >/dev/null
	@VIRTUAL_ENV=.venv-oldest $(BIN)/uv pip install --quiet --no-deps --requirement .venv-oldest/oldest.txt
	@exec .venv-oldest/bin/python -m pytest $(MOST) \
		tests/label_studio_format tests/safe_http tests/image_classifier tests/my_backend tests/task_classifier

release: ## make a release: make release VERSION=0.2.0; nothing leaves the machine before you push the tag
	@exec $(PYTHON) deploy/release.py $(VERSION)

# torch has no wheels for macOS 13 and older.
check-lock: setup-dev ## check that all locked packages have wheels for each system and Python version (needs internet access)
	@for system in $(SYSTEMS); do for python in 3.11 3.12 3.13 3.14; do \
		echo "$$system, Python $$python"; \
		MACOSX_DEPLOYMENT_TARGET=14.0 $(BIN)/uv pip compile --quiet --no-deps --only-binary :all: \
			--python-platform $$system --python-version $$python requirements.txt -o /dev/null >/dev/null || exit 1; \
	done; done

audit: setup-dev ## check the locked packages for known vulnerabilities (needs internet access)
	$(BIN)/pip-audit --no-deps --disable-pip --requirement requirements.txt
