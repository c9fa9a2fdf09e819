# Everything here runs in an environment of its own, .venv, made when first needed.
PYTHON ?= python3
VENV := .venv
define CHECK_PYTHON
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
"error: $(PYTHON) is Python %d.%d; this takes 3.11 or later: make PYTHON=..." % sys.version_info[:2])'
endef
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Environments are made side by side.
MAKEFLAGS += --jobs=2
# Into the environment of the target. Byte code is made on all cores, but for libraries' own tests;
# without it each process would compile anew where PYTHONDONTWRITEBYTECODE is set.
pip_install = $(@D)/bin/python -m pip install --quiet --no-compile $(1) && \
	{ $(@D)/bin/python -m compileall -qq -j 0 -x '/test(s|ing)?/' $(@D)/lib; true; }
define MAKE_ENVIRONMENT
@$(CHECK_PYTHON)
$(PYTHON) -m venv $(@D)
$(call pip_install,--requirement $<)
@touch $@
endef

.PHONY: help run test lint install repro pipelines plots readme bench

help:  ## Show what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

run: $(VENV)/.run  ## Run the whole pipeline on a generated sample, in a copy; print its leaderboard
	@python -m tools.demo

test: $(VENV)/.test $(VENV)-s3/.made lint  ## Lint and run all tests
	@S3_ENVIRONMENT=$(CURDIR)/$(VENV)-s3 python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.test  ## Check style, spelling and types
	@ruff check .
	@ruff format --check --quiet .
	@codespell
	@mypy

install: $(VENV)/.run  ## Make the environment for dvc repro

repro: $(VENV)/.run  ## As dvc repro, with independent stages side by side: make repro TASK=official JOBS=2
	@JOBS="$(JOBS)" python -m tools.repro $(if $(TASK),tasks/$(TASK)/dvc.yaml)

pipelines: $(VENV)/.run  ## Copy pipelines/*.yaml into each dvc.yaml
	@python -m tools.pipelines

plots: $(VENV)/.run  ## Show the plots of the last run, without a network
	@python -m tools.plots

readme: $(VENV)/.run  ## Copy the leaderboard into README.md
	@python -m tools.readme

# One of them: make bench ONLY=convert; other sizes: make bench ONLY=scale CLIPS="20000 200000".
bench: $(VENV)-bench/.made $(VENV)-torchdata/.made $(VENV)-tensorflow/.made  ## Measure speed and memory (half an hour); write benchmarks/README.md
	@CLIPS="$(CLIPS)" $(VENV)-bench/bin/python -m benchmarks $(ONLY)

$(VENV)/bin/python:
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(call pip_install,--requirement requirements.txt --editable .)
	@touch $@

$(VENV)/.test: requirements-test.txt $(VENV)/.run
	$(call pip_install,--requirement requirements-test.txt)
	@touch $@

# The S3 server of the tests pins what DVC pins otherwise: it lives apart.
$(VENV)-s3/.made: requirements-s3-server.txt
	$(MAKE_ENVIRONMENT)

# What is measured against the project lives apart too.
$(VENV)-bench/.made: requirements-bench.txt requirements.txt
	$(MAKE_ENVIRONMENT)

$(VENV)-torchdata/.made: requirements-bench-torchdata.txt
	$(MAKE_ENVIRONMENT)

# TensorFlow is not made for every Python and processor: the benchmarks say so where it is missing.
$(VENV)-tensorflow/.made: requirements-bench-tensorflow.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(@D)
	-$(call pip_install,--requirement $<) \
		&& touch $@
