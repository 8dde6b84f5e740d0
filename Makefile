# Two commands matter: `make demo` and `make test`. Everything installs into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo demo-s3 test check bench faults peers clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/pip install --quiet -e ".[test,lint]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/drp demo

demo-s3: $(VENV)/.test
	$(BIN)/python tests/s3_server.py $(BIN)/drp demo drp-demo-s3 --sites pipelines/campaigns/sites_s3.yaml

test: $(VENV)/.test .peers/butler/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

faults: $(VENV)/.test
	DRP_FAULTS=long $(BIN)/python -m pytest tests/faults --timeout 3600

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

peers: .peers/butler/.installed

.peers/butler/.installed:
	$(PYTHON) -m venv .peers/butler
	.peers/butler/bin/pip install --quiet "lsst-daf-butler==30.2026.4300"
	touch $@

clean:
	rm -rf $(VENV) .peers drp-demo *.egg-info
