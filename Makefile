# mi_course: `make run` sets everything up, runs every notebook and shows the claims. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PEERS := build/peers
COURSE := $(BIN)/python -m mi_course
# As mi_course.offline.STEADY, for what is no command of the course.
STEADY := OMP_NUM_THREADS=1 PYTHONHASHSEED=0 TQDM_DISABLE=1 HF_HUB_OFFLINE=1

.PHONY: help setup run lab test lint train bench bench-sae site mutants test-browser test-pythons test-saelens test-efficientnet test-leace fetch-lucent test-colab
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## build .venv (once; again when pyproject.toml or constraints.txt changed), fetch the real models (once)
	@$(BIN)/python -m mi_course fetch || echo "Everything else is set up, and notebooks skip the cells that need a real model."

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "mi_course needs Python 3.10 or newer, and '$(PYTHON)' is `$(PYTHON) --version 2>/dev/null || echo not here`. Try: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "No virtual environment could be made. On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	@$(BIN)/jupyter labextension disable --level=sys_prefix @jupyter/nbgrader 2>/dev/null || true  # a teacher's button, see docs/teaching.md
	@touch $@

run: setup  ## execute all notebooks, show the claims, build the site (build/site/index.html)
	@$(COURSE) run $(NOTEBOOKS)

lab: setup  ## open JupyterLab on your copies of the notebooks (SOLVED=1: with solutions)
	@$(COURSE) lab $(if $(SOLVED),--solved)

test: setup  ## lint, then the tests and every notebook against its stored outputs
	@$(COURSE) test --jobs $(JOBS)

lint: $(STAMP)  ## ruff on code and notebooks
	@$(COURSE) test --lint

train: $(STAMP)  ## rebuild a shipped checkpoint: make train NAME=… (without NAME: the list)
	@$(COURSE) train $(or $(NAME),--list)

bench: $(STAMP)  ## speed against plain PyTorch and the TransformerLens bridge (THREADS=2; one part: ONLY=autoencoders)
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

site: $(STAMP)  ## the offline site from the notebooks as they are stored
	@$(COURSE) site

mutants: $(STAMP)  ## break every exercise's solution in every way; what the checks say of it goes to docs/checks.md
	@$(STEADY) $(BIN)/python -m tests.mutants

test-browser: $(STAMP)  ## in a real Chromium: the site, and JupyterLab with a student copy
	@$(COURSE) test tests/test_browser.py tests/test_lab_views.py --jobs 1

test-pythons: ## make test on every Python 3.10–3.13 found here
	@for v in 3.10 3.11 3.12 3.13; do \
	  py=`command -v python$$v || ls -d $$HOME/.pyenv/versions/$$v.*/bin/python 2>/dev/null | tail -1`; \
	  [ -n "$$py" ] || py=`uv python find $$v 2>/dev/null`; \
	  if [ -z "$$py" ]; then echo "== Python $$v: not on this machine, not tested"; \
	  elif $(MAKE) test VENV=.venv-$$v PYTHON=$$py; then echo "== Python $$v: passed"; \
	  else echo "== Python $$v: FAILED"; failed=1; fi; done; test -z "$$failed"

test-saelens: setup $(PEERS)/.ready  ## SAELens, in an environment of its own, reads our autoencoders and we read its
	@$(COURSE) test tests/test_saelens.py --jobs 1

test-efficientnet: setup  ## our EfficientNet-Lite0 against the published package's logits
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --upgrade --target build/published efficientnet-lite-pytorch==0.1.0
	$(STEADY) $(BIN)/python -m pytest tests/test_pretrained_vision.py

fetch-lucent: setup  ## torch-lucent, for `make bench ONLY=vision`
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --upgrade --target build/lucent torch-lucent==0.1.8 kornia==0.4.1 decorator==5.3.1

test-leace: setup  ## our LEACE against the authors' own package
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --upgrade --target build/erasure concept-erasure==0.2.4
	$(STEADY) $(BIN)/python -m pytest tests/test_probing.py -k authors

test-colab: build/.colab-passed  ## notebooks 00–03 as on a fresh Colab machine, and what Binder reads; nothing to do if nothing changed

build/.colab-passed: $(STAMP) tests/test_colab.py environment.yml $(wildcard notebooks/0[0-3]_*.ipynb notebooks/student/00_*.ipynb) \
  $(shell find mi_course data -type f -not -name '*.pyc')
	MI_COLAB=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_colab.py -q -s
	@touch $@
