# make demo: compress a small network, start to end. make test: all that CI runs.
# Each needs make and Python 3.11 or newer, and nothing else. Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
OUT ?= demo

INSTALLED_FROM = setup.cfg pyproject.toml constraints.txt scripts/install

.PHONY: help demo test clean
.NOTPARALLEL:

help:
	@echo 'make demo    train, prune, quantize, encode and reload a small network; results in $(OUT)/'
	@echo 'make test    ruff, mypy and pytest, as CI runs them'
	@echo 'make clean   remove $(VENV)/ and caches'

demo: $(VENV)/.installed-demo
	$(VENV)/bin/deepcompress demo --out $(OUT)

test: $(VENV)/.installed-test
	VENV=$(VENV) scripts/check

$(VENV)/.installed-demo: $(INSTALLED_FROM)
	PYTHON=$(PYTHON) scripts/install $(VENV) plots
	@touch $@

$(VENV)/.installed-test: $(INSTALLED_FROM)
	PYTHON=$(PYTHON) scripts/install $(VENV) vision,plots,test
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find deepcompress tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
