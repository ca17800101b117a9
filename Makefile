# Every command of the project. `make` alone lists them.

PYTHON ?= python3
DOMAIN ?= people
OFFICIAL := $(or $(filter-out avatars people,$(DOMAIN)),ffhq)
SERVER ?= localhost:8001
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo serve ui weights export test lint bench bench-gpu chaos clean

help:
	@echo "make COMMAND; PYTHON=python3.12 picks the Python, ARGS=... adds options"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

setup: .venv/.server  ## install the server and the client into .venv

demo: .venv/.server  ## edit a sample photo on a real Triton server
	@$(BIN)/python demo/run_demo.py --domain $(DOMAIN) $(ARGS)

serve: .venv/.server  ## run the server (DOMAIN=people) until Ctrl-C
	@$(BIN)/python -m styleclip_server --domain $(DOMAIN) $(ARGS)

ui: .venv/.ui  ## open the web page (SERVER=localhost:8001) until Ctrl-C
	@cd streamlit-ui && ../$(BIN)/python -m streamlit run app.py $(ARGS) -- --server $(SERVER)

weights: .venv/.dev  ## fetch the published checkpoints of DOMAIN=ffhq
	@$(BIN)/styleclip-export fetch $(OFFICIAL) $(ARGS)

export: .venv/.dev  ## convert the checkpoints of DOMAIN=ffhq to ONNX, with channel statistics
	@$(BIN)/styleclip-export convert $(OFFICIAL) $(ARGS)
	@test -f model_repository/$(OFFICIAL)/statistics.npz || \
		$(BIN)/styleclip-export stats $(OFFICIAL)

test: .venv/.dev  ## run the tests, on a real server
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: .venv/.dev  ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: .venv/.dev  ## measure the server with perf_analyzer
	@$(BIN)/python -m tools.bench.server $(ARGS)

bench-gpu: .venv/.dev  ## measure the networks in PyTorch on a GPU
	@$(BIN)/python -m tools.bench.gpu_networks $(ARGS)

chaos: .venv/.dev  ## inject faults into a server under load and report what its clients see
	@$(BIN)/python -m tools.chaos $(ARGS)

clean:  ## remove the output of the other commands, except .venv
	rm -rf out build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

# The stamps .venv/.server, .venv/.ui and .venv/.dev record what is installed, so that a second call is quick.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed" >&2; exit 1; }
	@$(PYTHON) tools/setup/check_host.py
	@$(PYTHON) -m venv .venv

.venv/.server: requirements/server.txt pyproject.toml | $(BIN)/python
	@echo "Installing the server's packages into .venv (once, some minutes) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements/server.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
	@touch $@

# After the server's packages: both name the same versions, so either order gives the same result.
.venv/.ui: requirements/ui.txt .venv/.server
	@echo "Installing the packages of the page into .venv (once, a minute) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements/ui.txt
	@touch $@

.venv/.dev: requirements/dev.txt .venv/.server
	@echo "Installing the packages for tests and checks into .venv (once, some minutes) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements/dev.txt
	@touch $@
