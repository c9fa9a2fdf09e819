# All targets run in the environment .venv, which is made when first needed.
PYTHON ?= python3
VENV := .venv
define CHECK_PYTHON
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
"error: $(PYTHON) is Python %d.%d, must be 3.11 or later: make PYTHON=..." % sys.version_info[:2])'
endef
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Environments are made in parallel.
MAKEFLAGS += --jobs=2
# Install into the target's environment. Byte code is compiled on all cores, without the tests of
# libraries: where PYTHONDONTWRITEBYTECODE is set, each process would otherwise compile again.
pip_install = $(@D)/bin/python -m pip install --quiet --no-compile $(1) && \
	{ $(@D)/bin/python -m compileall -qq -j 0 -x '/test(s|ing)?/' $(@D)/lib; true; }
define MAKE_ENVIRONMENT
@$(CHECK_PYTHON)
$(PYTHON) -m venv $(@D)
$(call pip_install,--requirement $<)
@touch $@
endef

.PHONY: help run test test-fast lint install repro pipelines plots comment readme docs bench

help:  ## Show all targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

run: $(VENV)/.run  ## Run the whole pipeline on a generated sample, in a copy; print its leaderboard
	@python -m tools.demo

test: $(VENV)/.test $(VENV)-s3/.made lint  ## Lint and run all tests
	@S3_ENVIRONMENT="$(CURDIR)/$(VENV)-s3" python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/.test  ## Run tests/unit; print their coverage, without stages that run as commands
	@python -m pytest tests/unit -n 2 --dist worksteal --quiet --cov --cov-report=
	@for part in tagging stages; do \
		echo "coverage of $$part: $$(python -m coverage report --format=total --include="$$part/*") %"; \
	done

lint: $(VENV)/.test  ## Check style, spelling and types
	@ruff check .
	@ruff format --check --quiet .
	@codespell
	@mypy

install: $(VENV)/.run  ## Make the environment for dvc repro

repro: $(VENV)/.run  ## Run dvc repro with independent stages in parallel: make repro TASK=official JOBS=2
	@JOBS="$(JOBS)" python -m tools.repro $(if $(TASK),"tasks/$(TASK)/dvc.yaml")

pipelines: $(VENV)/.run  ## Write each dvc.yaml from pipelines/*.yaml
	@python -m tools.pipelines

plots: $(VENV)/.run  ## Show the plots of the last run, without a network; beside a revision's: make plots BASE=main
	@python -m tools.plots $(if $(BASE),"$(BASE)")

comment: $(VENV)/.run  ## Print what a branch changes, for a pull request: make comment BASE=main
	@python -m tools.pull_request "$(BASE)"

readme: $(VENV)/.run  ## Copy rows of leaderboards into README.md and docs/tasks.md
	@python -m tools.readme

docs: $(VENV)/.test  ## Build the pages of docs/ into site/, which needs no network
	@python -m mkdocs --quiet build
	@echo "site/index.html"

# A single benchmark: make bench ONLY=convert. Other sizes: make bench ONLY=scale CLIPS="20000 200000".
bench: $(VENV)-bench/.made $(VENV)-torchdata/.made $(VENV)-tensorflow/.made  ## Measure speed and memory (half an hour); write benchmarks/README.md
	@CLIPS="$(CLIPS)" $(VENV)-bench/bin/python -m benchmarks $(ONLY)

# pip is installed last. Without it the environment is incomplete, as on Debian without python3-venv,
# and is made anew.
$(VENV)/bin/pip:
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.run: requirements.txt pyproject.toml | $(VENV)/bin/pip
	$(call pip_install,--requirement requirements.txt --editable .)
	@touch $@

$(VENV)/.test: requirements-test.txt $(VENV)/.run
	$(call pip_install,--requirement requirements-test.txt)
	@touch $@

# The tests' S3 server pins other versions than DVC, so it has its own environment.
$(VENV)-s3/.made: requirements-s3-server.txt
	$(MAKE_ENVIRONMENT)

# The packages that benchmarks compare with have their own environments.
$(VENV)-bench/.made: requirements-bench.txt requirements.txt
	$(MAKE_ENVIRONMENT)

$(VENV)-torchdata/.made: requirements-bench-torchdata.txt
	$(MAKE_ENVIRONMENT)

# TensorFlow has no wheels for some Pythons and processors; the benchmarks then report it as missing.
$(VENV)-tensorflow/.made: requirements-bench-tensorflow.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(@D)
	-$(call pip_install,--requirement $<) \
		&& touch $@
