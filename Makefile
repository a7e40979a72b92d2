# cmbfe: two commands, `make repro` and `make test`. `make help` lists them all.
PYTHON ?= python3
PROFILE ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --no-deps --disable-pip-version-check
PACKAGES := .venv/.packages
INSTALLED := .venv/.installed

# Tests of a file share what they make, so a file stays with one process. A process holds PyTorch: four are enough.
# Their threads wait passively, because spinning would take cores from each other.
BESIDE := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Both commands start Python dozens of times; where bytecode is not kept, each start compiles PyTorch anew, for 6 seconds.
export PYTHONDONTWRITEBYTECODE =

# Notebooks on the results of the studies, which are in git.
READINGS := $(addprefix studies/dvc.yaml:,crossvalidation ablation other_detectors)

# The site, and what it is made of.
SITE := results/site/index.html
SHOWN = $(shell find README.md CONTRIBUTING.md params.yaml docs notebooks cmbfe tools results -type f ! -path '*/__pycache__/*' ! -path 'results/site/*')

# Waiting threads do not spin: beside another busy process, spinning makes a training on two threads three times as slow.
DVC := OMP_WAIT_POLICY=passive PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc
CHOOSE_PROFILE = $(if $(PROFILE),$(BIN)/cmbfe profile $(PROFILE))

.PHONY: help env repro study readings site experiments test lint lock clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# `dvc repro --dry` looks into the folders that stages will fill, and ends where one does not exist yet.
env: $(INSTALLED)  ## create .venv from requirements.lock with cmbfe editable; nothing to do when up to date
	@mkdir -p data/pictures data/augmented data/study data/heads/7 data/heads/8 models/ssd512 models/ssd512-fe models/ssd300 models/ssd300-fe models/mobilenet320 models/mobilenet320-fe models/resnet34-300 models/resnet34-300-fe models/study

# A .venv without a working pip, or one that was moved or copied here from elsewhere, counts as not installed.
ifeq (,$(findstring $(CURDIR)/.venv/,$(shell $(BIN)/pip --version 2>/dev/null)))
.PHONY: $(PACKAGES)
endif

# --clear also drops the packages of an older lock, but not through a link, which may lead to another clone's .venv.
# The stamps come last: what was interrupted starts anew.
$(PACKAGES): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "cmbfe needs Python 3.11 or newer; say which: make env PYTHON=python3.12" >&2; exit 2; }
	@test ! -L .venv || rm .venv
	$(PYTHON) -m venv --clear .venv
	$(PIP) --no-compile -r requirements.lock
	@touch $@

$(INSTALLED): $(PACKAGES) pyproject.toml
	$(PIP) --editable .
	@touch $@

repro: env  ## every table, figure and page; PROFILE=smoke, laptop or paper rewrites params.yaml first
	$(CHOOSE_PROFILE)
	$(DVC) repro dvc.yaml
	$(MAKE) site

study: env  ## every arm of the studies over its seeds or folds: hours; `make repro` trains none of them; PROFILE as above
	$(CHOOSE_PROFILE)
	$(DVC) repro studies/dvc.yaml
	$(MAKE) site

readings: env  ## notebooks 10 to 12 on the stored results of the studies
	$(DVC) repro --single-item $(READINGS)

site: readings  ## with the map of the paper and docs/report.md, what reads all results: results/site/index.html
	@$(MAKE) --no-print-directory $(SITE)

$(SITE): $(SHOWN)
	$(BIN)/python -m tools.run_notebook notebooks/paper_map.ipynb
	$(BIN)/python -m tools.write_report
	$(BIN)/python -m tools.build_site

experiments: env  ## AP and gain by FE of the workspace and of every `dvc exp run`, beside the settings in which they differ
	$(DVC) exp show --only-changed --keep '^(ap|gain_by_fe)\.' --drop '/'

test: env  ## unit tests, then every notebook in the smoke profile, in a scratch workspace
	OMP_WAIT_POLICY=passive PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(BESIDE)

lint: env  ## style of code and notebooks, what each room may import, types of the core
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

lock: env  ## renew requirements.lock and environment.yml from pyproject.toml
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links --no-emit-package opencv-python \
	  --output-file requirements.lock
	$(BIN)/python tools/renew_environment.py

clean:  ## remove the environment and everything that the pipeline made
	rm -rf .venv data models results/site
