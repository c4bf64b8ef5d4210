# make lab     the environment, and JupyterLab on the labs
# make test    the environment, and all tests with few training steps (FTLAB_FAST=1)
#
# Settings: PYTHON=python3.12 (3.11 or later), VENV=.venv, ARGS="..." (for the command that runs),
# TORCH_INDEX=URL of a package index with CPU builds of torch, such as PyTorch's own: on Linux it saves the several GB
# of CUDA packages that PyPI's build brings (on a machine without a GPU they serve nothing).
# For test-image: BASE_IMAGE=NAME of a registry's image (default: Debian's slim one, else one that debootstrap makes),
# SUITE=bookworm and MIRROR=URL of Debian's packages for the latter. It needs root; all it writes is below build/image.

SHELL = /bin/sh
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BASE_IMAGE ?=
SUITE ?=
MIRROR ?=
ARGS ?=
# Colab's versions, for make test-colab. Where a CPU build of Colab's torch is not to be had: COLAB_TORCH=torch==2.13.0.
COLAB_VENV ?= .venv-colab
COLAB_TORCH ?= torch==2.11.0

TORCH = torch==2.13.0
PY = $(VENV)/bin/python
PIP = $(PY) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
ENV = $(VENV)/.ftlab-env
HUB = build/hub
COLAB = $(COLAB_VENV)/.ftlab-env
COLAB_PIP = $(COLAB_VENV)/bin/python -m pip install --disable-pip-version-check --quiet
CHROMIUM = { command -v chromium || command -v chromium-browser || command -v google-chrome; }

# Files of tests, some at a time: tests/conftest.py says how many.
PARALLEL = -n auto --dist loadfile

# A shell function: `debian PACKAGES TARGET` installs Debian's PACKAGES as root, or by sudo where that asks for no password.
# Elsewhere it says what to install before `make TARGET`, with exit status 1. A source of packages that cannot be
# reached does not keep it from the others.
DEBIAN = debian() { \
		if ! command -v apt-get >/dev/null; then echo "Not found: $$1. Install it, then run make $$2 again." >&2; return 1; fi; \
		as=; if [ "$$(id -u)" != 0 ]; then as="sudo -n"; sudo -n true 2>/dev/null || { \
			echo "Not found: $$1. Run 'sudo apt-get install $$1', then make $$2 again." >&2; return 1; }; fi; \
		echo "Installing $$1 (apt-get) ..."; \
		$$as apt-get update -q -o Acquire::Retries=2 </dev/null || :; \
		$$as env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$1 </dev/null || { \
			echo "apt-get could not install $$1: do it by hand, then run make $$2 again." >&2; return 1; }; \
	}

.DEFAULT_GOAL = help
.PHONY: help env lab test test-all test-browser browser test-colab test-gpu test-hub npm test-image buildah sandbox build check-build lint clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

env: $(ENV)  ## Make the environment in .venv, with exact versions

# torch is a step of its own, by its exact name: pip then takes a local CPU build where it knows of one.
# setuptools is there before our package, so that building it needs no second download.
$(ENV): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.12")'
	@echo "Making the environment in $(VENV) (some minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	$(PIP) setuptools $(TORCH) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(PIP) --no-build-isolation --editable '.[all]'
	@touch $(ENV)

lab: $(ENV)  ## Open JupyterLab on a private copy of the labs
	$(VENV)/bin/ftlab lab $(ARGS)

test: $(ENV)  ## Run all tests with few training steps (at most 15 minutes on two cores)
	@$(MAKE) --no-print-directory sandbox || echo "The tests run without it; their last lines say which did not."
	FTLAB_FAST=1 $(PY) -m pytest $(PARALLEL) $(ARGS)

test-all: $(ENV)  ## Run all tests in full
	FTLAB_FAST=0 $(PY) -m pytest $(ARGS)

test-browser: $(ENV) browser  ## Drive the labs in a real JupyterLab with Chromium
	FTLAB_FAST=1 FTLAB_NEED_BROWSER=1 $(PY) -m pytest tests/browser $(ARGS)

test-gpu: $(ENV)  ## Run all solutions on a pretrained model on the GPU; where there is none, say so and stop there
	@if $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		$(PY) -m pytest -p no:cacheprovider tests/tune/test_on_gpu.py; tests=$$?; \
		FTLAB_PROFILE=gpu $(PY) -m pytest -p no:cacheprovider --nbval-lax --durations=0 solutions/ $(ARGS) && exit $$tests; \
	else echo "Skipped: torch sees no GPU here, so nothing was run ($(VENV)/bin/ftlab doctor says why)."; fi

test-image: $(ENV) buildah  ## Build the container image, and run labs, tests and a server in it
	FTLAB_FAST=0 FTLAB_NEED_IMAGE=1 FTLAB_IMAGE_BASE='$(BASE_IMAGE)' FTLAB_IMAGE_SUITE='$(SUITE)' \
		FTLAB_IMAGE_MIRROR='$(MIRROR)' TORCH_INDEX='$(TORCH_INDEX)' $(PY) -m pytest tests/docker -s $(ARGS)

buildah:
	@command -v buildah >/dev/null && command -v debootstrap >/dev/null || { $(DEBIAN); debian "buildah debootstrap" test-image; }

browser: $(ENV)
	@$(CHROMIUM) >/dev/null || { $(DEBIAN); debian chromium test-browser; }
	@$(PY) -c 'import playwright' 2>/dev/null || $(PIP) playwright

# What grading's sandbox needs. Linux only: elsewhere its tests do not run, and nothing is missing.
sandbox:
	@[ "$$(uname)" != Linux ] || command -v bwrap >/dev/null || { $(DEBIAN); debian bubblewrap test; }

# Colab's pip comes last: it is what the first cell calls.
$(COLAB): tests/colab/requirements.txt
	@echo "Making an environment of Colab's versions in $(COLAB_VENV) (some minutes) ..."
	@$(PYTHON) -m venv $(COLAB_VENV)
	$(COLAB_PIP) $(COLAB_TORCH) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(COLAB_PIP) --no-deps --requirement tests/colab/requirements.txt
	$(COLAB_PIP) pip==24.1.2
	@touch $(COLAB)

test-colab: $(ENV) $(COLAB)  ## Run labs in an environment of Colab's versions, from the cell that sets them up
	FTLAB_COLAB_ENV=$(COLAB_VENV) FTLAB_FAST=0 $(PY) -m pytest tests/colab $(ARGS)

test-hub: $(ENV) $(HUB)/.made  ## Let a class of ten work at a real JupyterHub
	FTLAB_FAST=0 FTLAB_NEED_HUB=1 $(PY) -m pytest tests/hub $(ARGS)

# Beside the labs' environment, which stays as it is: the hub with what its tests need, and its proxy from npm.
$(HUB)/.made: docker/jupyterhub/requirements.txt docker/jupyterhub/package-lock.json tests/hub/requirements.txt constraints.txt
	@$(MAKE) --no-print-directory npm
	$(PYTHON) -m venv $(HUB)/venv
	$(HUB)/venv/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
		--requirement docker/jupyterhub/requirements.txt --requirement tests/hub/requirements.txt
	cp docker/jupyterhub/package.json docker/jupyterhub/package-lock.json $(HUB)
	cd $(HUB) && npm ci --no-audit --no-fund
	@touch $@

npm:
	@for tool in npm git; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	[ -z "$$missing" ] || { $(DEBIAN); debian "$${missing# }" test-hub; }

build: $(ENV)  ## Build solutions and labs from their sources, executed
	$(VENV)/bin/ftlab build --execute $(ARGS)

check-build: $(ENV)  ## Fail when a built notebook has drifted from its source
	$(VENV)/bin/ftlab build --check

lint: $(ENV)  ## Check the code's style
	$(PY) -m ruff check .

clean:  ## Remove what was built, but neither the environment nor your work
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './$(COLAB_VENV)/*' -prune -exec rm -rf {} +

.PHONY: test-isa
test-isa: $(ENV)  ## Run the tests that compare numbers under each instruction set that the processor has
	FTLAB_FAST=1 $(PY) tests/instruction_sets.py -q $(ARGS)
