# Short names for what README.md and .ci/run do. PYTHON names the interpreter of the environment.
PYTHON ?= python3

.PHONY: install test fast faults lint format docs

install:   ## everything that development needs, in the tested versions
	$(PYTHON) -m pip install -c constraints.txt -e '.[dev]'

test:      ## all tests
	$(PYTHON) -m pytest

fast:      ## the tests that take seconds
	$(PYTHON) -m pytest -m "not slow"

faults:    ## jobs killed, and with a full disk, at every one of their file events (about an hour)
	EET_ALL_FAULTS=1 $(PYTHON) -m pytest -n 0 -s tests/faults

lint:      ## what the tests check of style, spelling and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m codespell_lib
	$(PYTHON) -m mypy

format:    ## writes the files as ruff formats them
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

docs:      ## the site, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict
