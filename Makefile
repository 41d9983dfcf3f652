# mi_course: `make run` sets everything up, runs every notebook and shows the claims. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PEERS := build/peers
# One thread per process and fixed hashes, both where notebooks are stored and where they are compared.
STEADY := OMP_NUM_THREADS=1 PYTHONHASHSEED=0 TQDM_DISABLE=1 HF_HUB_OFFLINE=1

.PHONY: help setup run lab test lint train bench bench-sae site mutants test-browser test-pythons test-saelens test-colab
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## build .venv (once; again only when pyproject.toml or constraints.txt changed)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "mi_course needs Python 3.10 or newer, and '$(PYTHON)' is `$(PYTHON) --version 2>/dev/null || echo not here`. Try: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "No virtual environment could be made. On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	@touch $@

run: setup  ## execute all notebooks, show the claims, build the site (build/site/index.html)
	@$(BIN)/python -m mi_course run $(NOTEBOOKS)

lab: setup  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

test: lint  ## lint, then the tests and every notebook against its stored outputs
	$(STEADY) $(BIN)/python -m pytest $(wildcard notebooks/*.ipynb) tests --ignore tests/test_browser.py --ignore tests/test_lab_views.py -n $(JOBS) --dist loadfile \
	  --nbval --nbval-current-env --nbval-cell-timeout=900 --nbval-sanitize-with tests/nbval_sanitize.cfg

lint: setup  ## ruff on code and notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

train: setup  ## rebuild a shipped checkpoint: make train NAME=… (without NAME: the list)
	@$(BIN)/python -m mi_course train $(or $(NAME),--list)

bench: setup  ## speed against plain PyTorch and the TransformerLens bridge (THREADS=2; one part: ONLY=autoencoders)
	@$(STEADY) OMP_NUM_THREADS=$(or $(THREADS),1) $(BIN)/python -m benchmarks $(ONLY)

bench-sae: setup $(PEERS)/.ready  ## autoencoder training steps against sae-lens, dictionary-learning and eai-sparsify
	@OMP_NUM_THREADS=$(or $(THREADS),1) $(BIN)/python -W ignore -m benchmarks.sae $(PEERS)/bin/python

# They want transformer-lens < 4, so they live in an environment of their own; torchvision, which one of them brings, does not fit this torch.
$(PEERS)/.ready:
	@$(PYTHON) -m venv $(PEERS) && $(PEERS)/bin/python -m pip install -q --disable-pip-version-check uv
	@$(PEERS)/bin/uv pip install -q --python $(PEERS)/bin/python $(addprefix --find-links ,$(PIP_FIND_LINKS)) \
	  torch==2.13.0 sae-lens==6.54.12 dictionary-learning==0.1.0 eai-sparsify==1.3.3
	@$(PEERS)/bin/uv pip uninstall -q --python $(PEERS)/bin/python torchvision || true
	@touch $@

site: setup  ## the offline site from the notebooks as they are stored
	@$(BIN)/python -m mi_course site

mutants: setup  ## break every exercise's solution in every way; what the checks say of it goes to docs/checks.md
	@$(STEADY) $(BIN)/python -m tests.mutants

test-browser: setup  ## in a real Chromium: the site, and JupyterLab with a student copy
	$(STEADY) $(BIN)/python -m pytest tests/test_browser.py tests/test_lab_views.py

test-pythons: ## make test on every Python 3.10–3.13 found here
	@for v in 3.10 3.11 3.12 3.13; do \
	  py=`command -v python$$v || ls -d $$HOME/.pyenv/versions/$$v.*/bin/python 2>/dev/null | tail -1`; \
	  [ -n "$$py" ] || py=`uv python find $$v 2>/dev/null`; \
	  if [ -z "$$py" ]; then echo "== Python $$v: not on this machine, not tested"; \
	  elif $(MAKE) test VENV=.venv-$$v PYTHON=$$py; then echo "== Python $$v: passed"; \
	  else echo "== Python $$v: FAILED"; failed=1; fi; done; test -z "$$failed"

test-saelens: setup $(PEERS)/.ready  ## SAELens, in an environment of its own, reads our autoencoders and we read its
	$(STEADY) $(BIN)/python -m pytest tests/test_saelens.py

test-colab: build/.colab-passed  ## notebooks 00–03 as on a fresh Colab machine, and what Binder reads; nothing to do if nothing changed

build/.colab-passed: $(STAMP) tests/test_colab.py environment.yml $(wildcard notebooks/0[0-3]_*.ipynb notebooks/student/00_*.ipynb) \
  $(shell find mi_course data -type f -not -name '*.pyc')
	MI_COLAB=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_colab.py -q -s
	@touch $@
