# `make` alone lists what there is. Needs Python 3.11 or newer and make (GNU make 3.81 or newer); nothing else.
PYTHON ?= python3
ARGS ?=
NOTEBOOK ?= 01_elime
PROFILE ?= default
BENCHMARK ?= elime

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# With PYTHON=... that one and no other; without it the Python of .venv, then the usual names in turn.
ifeq ($(origin PYTHON),file)
CANDIDATES := $(wildcard .venv/bin/python) python3 python3.14 python3.13 python3.12 python3.11
else
CANDIDATES := "$(PYTHON)"
endif

RECENT := import sys; sys.exit(sys.version_info < (3, 11))
# An installation belongs to these versions, to this Python and to this folder: the package is installed in place.
KEY := import hashlib, os, sys; \
	files = [open(name, "rb").read() for name in ("requirements.lock", "pyproject.toml")]; \
	print(hashlib.sha256(b"".join(files) + repr((sys.version, os.getcwd())).encode()).hexdigest())
SERIES := import sys; print("%d.%d" % sys.version_info[:2])

.DEFAULT_GOAL := help
.PHONY: help run test lab bench reference readme cards assignments embedded lock install clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1	\2/p' Makefile | expand -t 18
	@echo 'Python: the first of $(subst ",,$(CANDIDATES)) that is 3.11 or newer; another by make PYTHON=...'

run: install  ## install what is missing, run the notebooks headless; ARGS="01_elime --profile imagenet"
	$(BIN)/xai run $(ARGS)

# Without ARGS in two processes (tests/conftest.py), and also: the notebooks' numbers are those that are committed. A run
# that is complete is not made again.
test: install  ## install what is missing, then ruff, mypy, pytest, numbers; ARGS="tests/test_setup.py -k lock"
	$(BIN)/python -m ruff check
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest $(or $(strip $(ARGS)),-n 2)
ifeq ($(strip $(ARGS)),)
	$(BIN)/xai run
	$(BIN)/xai report --check
endif

lab: install  ## open JupyterLab on the notebooks
	$(BIN)/python -m jupyterlab notebooks $(ARGS)

bench: install  ## a speed measurement; BENCHMARK=elime, ARGS="--levers"
	$(BIN)/python benchmarks/$(BENCHMARK).py $(ARGS)

reference: install  ## renew the committed result of a notebook; NOTEBOOK=01_elime PROFILE=imagenet ARGS=--tables-only
	$(BIN)/xai run $(NOTEBOOK) --profile $(PROFILE) --force
	$(BIN)/xai publish $(NOTEBOOK) --profile $(PROFILE) $(ARGS)

readme: install  ## renew the table of methods in README.md
	$(BIN)/python -m xai_lib.explainers README.md

cards: install  ## measure the methods anew and write their cards, half an hour; ARGS="lrp rap" for some
	$(BIN)/python -m xai_lib.cards $(ARGS)

assignments: install  ## the students' versions of notebooks/assignments, by nbgrader, in course/release
	@mkdir -p course
	@cd notebooks/assignments && for each in 0*; do \
	    PATH="$(CURDIR)/$(BIN):$$PATH" nbgrader generate_assignment "$$each" --force --create --log-level=WARN || exit 1; \
	    echo "course/release/$$each"; \
	done

embedded: install  ## train the networks of data/embedded anew, hours; ARGS="critters_vgg19" or ARGS=generator
	$(BIN)/python -m xai_lib.training.embedded $(ARGS)

lock: install  ## renew requirements.lock after a change of pyproject.toml; ARGS=--upgrade for newer versions
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --all-extras $(ARGS) --output-file requirements.lock pyproject.toml

# `.venv/installing` becomes `.venv/installed` at the end. One that was interrupted is begun again from nothing: pip
# would take a package that was cut off halfway for a complete one. Everything else is brought up to date in place.
# setuptools comes first, so that the two packages without wheels are built with the locked one.
install:  ## the virtual environment .venv with the locked packages; done by the others when needed
	@set -e; \
	if [ -f .venv/installing ]; then echo 'Removing the .venv of an interrupted installation.'; rm -rf .venv; fi; \
	set -- $(CANDIDATES); python=; bare=; \
	for each in "$$@"; do \
	    if "$$each" -c '$(RECENT)' >/dev/null 2>&1; then \
	        if "$$each" -c 'import ensurepip, venv' >/dev/null 2>&1; then python=$$each; break; fi; \
	        bare=$$each; \
	    fi; \
	done; \
	if [ -z "$$python" ] && [ -n "$$bare" ]; then \
	    echo "$$bare has no module venv or ensurepip, which make the virtual environment." >&2; \
	    echo 'On Debian and Ubuntu: apt install python3-venv. Or name another: make PYTHON=/path/to/python3' >&2; \
	    exit 1; \
	elif [ -z "$$python" ]; then \
	    echo "Python 3.11 or newer is needed; tried: $$*" >&2; \
	    echo 'Install one from your system or from python.org, or name it: make PYTHON=/path/to/python3' >&2; \
	    exit 1; \
	fi; \
	key=$$("$$python" -c '$(KEY)'); \
	if [ "$$(cat .venv/installed 2>/dev/null)" = "$$key" ] && $(BIN)/python -c '' 2>/dev/null; then exit 0; fi; \
	series=$$("$$python" -c '$(SERIES)'); \
	if [ ! -e .venv ]; then \
	    echo "Making .venv with $$("$$python" --version)."; \
	    mkdir .venv; echo "$$key" > .venv/installing; \
	    "$$python" -m venv .venv; \
	elif [ "$$($(BIN)/python -c '$(SERIES)' 2>/dev/null)" != "$$series" ]; then \
	    echo ".venv does not work or is of another Python than $$python ($$series)." >&2; \
	    echo 'Remove it with make clean, then try again.' >&2; \
	    exit 1; \
	fi; \
	rm -f .venv/installed; echo "$$key" > .venv/installing; \
	awk '/^[a-z0-9]/ {keep = /^(packaging|setuptools|wheel)==/} keep' requirements.lock > .venv/first.lock; \
	echo 'Installing the locked packages; the first time 3 to 15 minutes, 7 GB on Linux, less elsewhere.'; \
	$(PIP) --require-hashes -r .venv/first.lock; \
	$(PIP) --require-hashes --no-build-isolation -r requirements.lock; \
	$(PIP) --no-deps --no-build-isolation -e .; \
	mv .venv/installing .venv/installed; \
	echo 'Installed.'

clean:  ## remove .venv and every cache; results of runs stay
	rm -rf .venv build xai_lib.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find xai_lib tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +
