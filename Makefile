# Every target works from a bare checkout: the first one that needs it makes
# .venv and installs the project into it. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two modules at a time: what takes long is compiling, which uses one core.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile
# Programs that run once are compiled faster without LLVM's passes. The model is
# compared with PyTorch as users run it.
QUICK := XLA_FLAGS='$(XLA_FLAGS) --xla_backend_optimization_level=0'
INSTALLED := $(VENV)/.installed

.PHONY: demo paper parity test test-all lint format clean

demo: $(INSTALLED)  ## The main experiment on the bundled world, with a report.
	$(BIN)/python -m experiments.entity_recognition --out=out/demo --questions=25

paper: $(INSTALLED)  ## All experiments on the bundled world, beside its claims.
	$(BIN)/python -m experiments.reproduce_paper --out=out/paper

parity: $(INSTALLED)  ## The bundled models against PyTorch.
	$(BIN)/python -m tools.check_parity --checkpoint=experiments/miniworld/bundle/base
	$(BIN)/python -m tools.check_parity --checkpoint=experiments/miniworld/bundle/chat

test: $(INSTALLED)  ## The tests, about thirteen minutes on two cores.
	$(PYTEST) -m 'not slow' tests/gemma_jax tests/tools
	$(QUICK) $(PYTEST) -m 'not slow' --ignore=tests/gemma_jax --ignore=tests/tools

test-all: $(INSTALLED)  ## The slow ones too.
	$(PYTEST)

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) out build *.egg-info

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
