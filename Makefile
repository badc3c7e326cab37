# Headgate. `make run` and `make test` need nothing but Python 3.11 or later: they set up what is missing. `make help` lists all.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8080
CONFIG ?= gateway.yaml
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
APT    := DEBIAN_FRONTEND=noninteractive apt-get -q -y
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || { command -v sudo >/dev/null && echo sudo; })

# $(call need,COMMANDS,PACKAGES): apt-get the packages when one of the commands is missing; else say what to install.
define need
missing=; for c in $(1); do command -v $$c >/dev/null || missing="$$missing $$c"; done; \
if [ -n "$$missing" ]; then \
  if command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || [ -n "$(AS_ROOT)" ]; }; then \
    echo "installing $(2) (missing:$$missing)"; \
    { $(AS_ROOT) env $(APT) update && $(AS_ROOT) env $(APT) install --no-install-recommends $(2); } >/tmp/headgate-apt.$$$$.log 2>&1 \
      || { tail -n 20 /tmp/headgate-apt.$$$$.log; echo "could not install $(2): please install it and try again" >&2; exit 1; }; \
  else echo "missing:$$missing. Please install: $(2)" >&2; exit 1; fi; fi
endef

.PHONY: help run test test-edge lint format bench lock clean redis nginx browser

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run  ## start the gateway on 127.0.0.1:8080 (PORT=… CONFIG=… to change)
	@HEADGATE_PORT=$(PORT) $(BIN)/headgate serve --config $(CONFIG) $(ARGS)

test: $(VENV)/.dev redis  ## the whole test suite, with a real Redis and a real llama.cpp server
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not edge" $(ARGS)

test-edge: $(VENV)/.dev redis nginx browser  ## behind a real nginx and in a real browser
	@$(BIN)/python -m pytest -m edge $(ARGS)

lint: $(VENV)/.dev  ## ruff, mypy --strict, and the floors (import-linter)
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev  ## let ruff lay out the code
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/.run nginx  ## nginx, a plain aiohttp proxy and Headgate on one core: one table
	@$(call need,gcc,gcc libc6-dev)
	@$(BIN)/python bench/measure.py $(ARGS)

lock: $(VENV)/.dev  ## write the two lock files anew from pyproject.toml (needs uv)
	@uv pip compile pyproject.toml --group build --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --quiet --output-file requirements.lock
	@uv pip compile pyproject.toml --group dev --constraints requirements.lock --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet --output-file requirements-dev.lock

clean:  ## remove what these commands made
	rm -rf $(VENV) build dist *.egg-info bench/out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find gateway backends config tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

redis:
	@$(call need,redis-server,redis-server)

nginx:
	@$(call need,nginx,nginx-light)

browser:
	@$(call need,chromium chromedriver,chromium chromium-driver)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is missing or older than 3.11. Install Python 3.11 or later, or say which: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call need,python3-venv,python3-venv); }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing the locked packages into $(VENV)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "installing the locked packages for development into $(VENV)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.run
