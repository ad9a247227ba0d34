# make demo: compress a small network, start to end. make test: all that CI runs.
# make labs: every lab of examples/ with --quick; LABS='a c' runs some of them.
# make fuzz: a million damaged files, a part of them with the bounds of every access checked, and those that atheris chooses by
# coverage, where it can be installed; FUZZ='--mutants N' for more or fewer.
# make many: a layer of 100 million weights, start to end, and streams of more than 2^31 bits; two minutes, and 4 GB of memory.
# make zoo: every classifier of torchvision, compressed, saved, loaded and compared; ZOO='--only resnet18' for some of them.
# make bench: time it against its peers; what comes behind BENCH= goes to benchmarks/__main__.py (make bench BENCH='--data FOLDER').
# Each needs make and Python 3.11 or newer, and nothing else. Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
BENCH ?=
LABS ?=
FUZZ ?=
ZOO ?=

INSTALLED_FROM = setup.cfg pyproject.toml constraints.txt scripts/install

.PHONY: help demo test labs fuzz zoo many bench clean
.NOTPARALLEL:

help:
	@echo 'make demo    train, prune, quantize, encode and reload a small network; results in $(OUT)/'
	@echo 'make test    ruff, mypy and pytest, as CI runs them'
	@echo 'make labs    every lab of examples/ with --quick (no data needed, minutes); results in runs/quick/'
	@echo 'make fuzz    a million damaged files: each is refused, or a model that is whole (ten minutes)'
	@echo 'make zoo     every classifier of torchvision: compress, save, load, equal logits (half an hour, 9 GB of memory)'
	@echo 'make many    a layer of 100 million weights, and streams of more than 2^31 bits (two minutes, 4 GB)'
	@echo 'make bench   all benchmarks, and one table of their rows; JSON and plots in benchmarks/results/'
	@echo 'make clean   remove $(VENV)/ and caches'

demo: $(VENV)/.installed-demo
	$(VENV)/bin/deepcompress demo --out $(OUT)

test: $(VENV)/.installed-test
	VENV=$(VENV) scripts/check

labs: $(VENV)/.installed-labs
	VENV=$(VENV) scripts/labs $(LABS)

fuzz: $(VENV)/.installed-fuzz
	$(VENV)/bin/python -m tests.attacks.fuzz $(FUZZ)
	DEEPCOMPRESS_CHECKED=1 $(VENV)/bin/python -m tests.attacks.fuzz --mutants 100000 --seed 1
	$(VENV)/bin/python -m tests.attacks.coverage_guided --seconds 60

zoo: $(VENV)/.installed-test
	$(VENV)/bin/python -m tests.zoo.classification $(ZOO)

many: $(VENV)/.installed-test
	DEEPCOMPRESS_MANY=1 $(VENV)/bin/python -m pytest tests/numbers/test_many.py -s --durations=0

bench: $(VENV)/.installed-bench
	$(VENV)/bin/python benchmarks $(BENCH)

$(VENV)/.installed-demo: $(INSTALLED_FROM)
	PYTHON=$(PYTHON) scripts/install $(VENV) plots
	@touch $@

$(VENV)/.installed-test: $(INSTALLED_FROM)
	PYTHON=$(PYTHON) scripts/install $(VENV) vision,plots,bench,test,transformers
	@touch $@

$(VENV)/.installed-fuzz: $(INSTALLED_FROM)
	PYTHON=$(PYTHON) scripts/install $(VENV) test,fuzz
	@touch $@

$(VENV)/.installed-labs: $(INSTALLED_FROM)
	[ -e $(VENV)/.installed-test ] || PYTHON=$(PYTHON) scripts/install $(VENV) vision,plots
	@touch $@

$(VENV)/.installed-bench: $(INSTALLED_FROM)
	PYTHON=$(PYTHON) scripts/install $(VENV) vision,bench
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find deepcompress tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
