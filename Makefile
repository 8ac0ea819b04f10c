# Everything a newcomer needs: `make demo` and `make test`, as root, on Debian 12. ARGS are handed on:
#     make demo ARGS='--connections 200'        make test ARGS='tests/unit -x'
SHELL := /bin/bash
BIN := .venv/bin
# Where Python may not keep what it has compiled, each command compiles itself anew: half as long again.
export PYTHONDONTWRITEBYTECODE :=
# One more than there are processors: tests wait, too. A file's tests share what is costly to make: they stay together.
# The short ones come last, and fill up all ends.
WORKERS := --numprocesses $(shell expr $$(nproc) + 1) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench soak vm clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## packages, .venv and CRIU; does nothing when they are there
	@.ci/setup

demo: setup ## move a Redis to another pod under the load of many clients
	@$(BIN)/midstream demo $(ARGS)

test: setup ## every test: unit, property, and with real CRIU in real namespaces
	@$(BIN)/pytest $(WORKERS) $(ARGS)

check: setup ## format, lint, types, and who may import whom
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## measure freeze, stalls and throughput (see docs/bench.md)
	@$(BIN)/python -m tests.bench $(ARGS)

soak: setup ## move workloads from pod to pod, again and again, under load: ARGS='--moves 100'
	@$(BIN)/python -m tests.soak $(ARGS)

vm: setup ## run a command on Debian's own kernel, in a virtual machine: ARGS='pytest tests/system/test_precopy.py'
	@.ci/vm
	@$(BIN)/python -m tests.vm $(ARGS)

clean: ## remove what setup and the tests made
	rm -rf .venv .criu .vm .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
