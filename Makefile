# em_platform in seven words: install demo test check bench docs (and clean).
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
WORKERS ?= 4

.PHONY: install demo test check warm bench docs clean

# The environment, pinned by constraints.txt; nothing is done when nothing changed.
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@for python in python3.11 python3; do \
	  if command -v $$python >/dev/null && $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then \
	  echo "install: no Python 3.11 or newer was found; install the Debian package python3.11 (and python3.11-venv), then run make again" >&2; exit 1; fi; \
	if ! $$found -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "install: $$found cannot make environments; install the Debian package python3-venv, then run make again" >&2; exit 1; fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "install: making $(VENV) with $$($$found --version)"; $$found -m venv --clear $(VENV) || exit 1; fi
	@echo "install: installing what constraints.txt pins (a minute or two when it is new)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . --group dev
	@# Python 3.11 brings an old one with known holes, and nothing needs it.
	@$(BIN)/python -m pip uninstall --quiet --quiet --yes setuptools
	@touch $(STAMP)

# The main job: a simulated microscope's tiles become mosaics. make demo ARGS=--exit
demo: install
	$(BIN)/em-platform demo $(ARGS)

# Everything that must hold: the rules first, then all tests in one pass. Four workers
# for two cores, as tests of real processes wait half of the time; tests/conftest.py
# mixes them with those that compute. The slowest are printed. Compiled code is kept, as
# hundreds of processes start.
test: export PYTHONDONTWRITEBYTECODE =
test: install
	+@$(MAKE) --no-print-directory --jobs 2 --output-sync check warm
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20 $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell
	$(BIN)/python tests/audit.py
	$(BIN)/dagster definitions validate -m em_platform.definitions --log-level warning

# What many processes of the tests would otherwise compile at the same time, each for
# itself: the tests' files, and the kernels that the microscope and a montage need. It
# has the core that `check` leaves free.
warm: install
	@folder=$$(mktemp -d) && trap "rm -rf $$folder" EXIT && cd $$folder && \
	  $(CURDIR)/$(BIN)/em-platform sections --output cut --sections 1 --rows 2 --columns 2 --tile-px 256 --overlap 0.3 && \
	  $(CURDIR)/$(BIN)/em-platform stitch cut/sections-s0000 --output mosaic.zarr >/dev/null
	-@$(BIN)/pytest --collect-only --quiet >/dev/null

# The quick form of every benchmark. make bench ARGS= runs the full form.
bench: ARGS = --quick
bench: install
	$(BIN)/python -m benchmarks $(ARGS)

# The reference pages and config.yaml, written from the code, and the site in site/.
docs: install
	$(BIN)/em-platform docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
