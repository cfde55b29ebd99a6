# Two commands do all the set-up: `make retrain` and `make test`. Both create .venv from requirements.lock first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(BIN):$(PATH)
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help setup retrain repro test check lint format ui benchmark clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## create .venv from requirements.lock, install the project, put the data under DVC

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) must be on the PATH, however: it is missing. Install CPython 3.11 to 3.13, or say which: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@test -e data/raw || expost sync --data-only || echo "data/raw is not there yet: run expost sync once ingest.source can be read" >&2
	@touch $(READY)

retrain: $(READY)  ## data -> training -> decision policy -> gate -> registered model
	expost retrain

repro: $(READY)  ## the same computation with DVC alone: no Prefect, no MLflow
	expost sync --data-only && dvc repro

test: $(READY)  ## all tests, two files at a time
	python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	ruff check . && ruff format --check . && mypy

check: lint test  ## ruff, ruff format, mypy, pytest

format: $(READY)  ## let ruff mend what it can
	ruff check --fix . && ruff format .

ui: $(READY)  ## MLflow's and Prefect's pages on 127.0.0.1
	expost ui

benchmark: $(READY)  ## speed and cost figures into benchmarks/results, tables into README.md
	python -m benchmarks.run

clean:  ## remove what the pipeline computed, keep the registry and the raw data
	rm -rf data/ingest data/validate data/split data/train data/calibrate data/decide data/package data/champion data/evaluate data/gate data/report .checkpoints
