# make demo   the bench with a run of 30 s, in front of you
# make test   everything that is checked: style, types, import rules, tests
# make setup  only the virtual environment .venv, the pinned packages, Kafka's jars
# make lint   style, types and import rules without the tests
# make clean  remove .venv and all caches (not the data)
#
# Needs make, Python >= 3.11 with venv, and a package index that pip can reach.

VENV := .venv
BIN  := $(VENV)/bin

# The first Python that is new enough and whole; failing that, one that is only new enough,
# and failing that python3: setup_venv.py then says what is missing.
NEW   := import sys; assert sys.version_info >= (3, 11)
WHOLE := $(NEW); import venv, ensurepip
ifndef PYTHON
PYTHON := $(shell for check in "$(WHOLE)" "$(NEW)"; do \
	for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c "$$check" >/dev/null 2>&1 && echo $$p && exit; done; done; echo python3)
endif
NO_PYTHON := freerun: there is no $(PYTHON); freerun needs Python 3.11 or newer with venv

PINS := pyproject.toml constraints.txt scripts/setup_venv.py

.PHONY: demo test setup setup-test lint browser clean constraints
.DELETE_ON_ERROR:

demo: setup
	@$(BIN)/freerun demo

test: setup-test browser lint
	@$(BIN)/python scripts/run_tests.py

setup: $(VENV)/.done
setup-test: $(VENV)/.done-test

$(VENV)/.done: $(PINS)
	@command -v $(PYTHON) >/dev/null || { echo "$(NO_PYTHON)" >&2; exit 3; }
	@$(PYTHON) scripts/setup_venv.py
	@touch $@

# The test extras come on top of all the rest.
$(VENV)/.done-test: $(PINS)
	@command -v $(PYTHON) >/dev/null || { echo "$(NO_PYTHON)" >&2; exit 3; }
	@$(PYTHON) scripts/setup_venv.py test root
	@touch $(VENV)/.done $@

browser: setup-test
	@$(BIN)/python scripts/find_browser.py

lint: setup-test
	@echo "== ruff" && $(BIN)/ruff check && $(BIN)/ruff format --check
	@echo "== mypy" && $(BIN)/mypy
	@echo "== import rules" && $(BIN)/lint-imports

# New pins: whatever is newest today, within the bounds of pyproject.toml.
constraints:
	@rm -rf build/pins && $(PYTHON) -m venv build/pins
	@build/pins/bin/pip install hatchling editables
	@build/pins/bin/pip install --no-build-isolation -e '.[test,root]'
	@{ head -1 constraints.txt; build/pins/bin/pip freeze --exclude-editable; } > build/pins.txt
	@mv build/pins.txt constraints.txt && rm -rf build/pins

clean:
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
