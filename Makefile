# `make demo` and `make test` set up everything they need; both share .venv and may be repeated.
SHELL := /bin/bash
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do "$$p" -c '$(NEW_ENOUGH)' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
READY := .venv/ready
RUN := $(BIN)/python -m runner
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo rehearse test check soak bench format clean

demo: $(READY) ## train a phase of the research log on this machine's CPU
	@$(RUN) phase=phase11 action=train instance=local
	@digest=$$($(RUN) phase=phase11 action=train instance=local output=json | $(BIN)/python -c 'import json,sys; print(json.load(sys.stdin)["digest"])') \
	  && echo && echo "\$$ $(RUN) phase=phase11 action=train instance=local confirm=$$digest" && echo \
	  && $(RUN) phase=phase11 action=train instance=local confirm=$$digest

rehearse: $(READY) ## the whole life of a rented machine, on this computer, without paying
	@tests/install-debian-packages
	@$(BIN)/python -m tests.rehearsal

test: $(READY) ## the whole suite, the Debian packages it needs included
	@tests/install-debian-packages
	@$(BIN)/python -m pytest -n 2 tests/unit
	@$(BIN)/python -m pytest tests/integration

check: $(READY) ## lint, format, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

soak: $(READY) ## the long fault and property campaigns; their figures belong in docs/reliability.md
	@tests/install-debian-packages
	@SOAK=1 $(BIN)/python -m pytest -m "soak" -s

bench: $(READY) ## what is measured, against what: benchmarks/README.md
	@$(BIN)/python -m benchmarks.plan

format: $(READY) ## put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove the environment and the caches, never what runs made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt --group dev -e .
	@$(BIN)/python -m compileall -q runner
	@touch $@
