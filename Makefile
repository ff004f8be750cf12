# Everything from a clean clone: `make run` serves a demo model, `make test` proves it.
# Needed beforehand: Python 3.11 or newer with venv, make, and a C compiler where a package has no wheel.

PYTHON ?= python3
PORT ?= 8001
HOST ?= 127.0.0.1
MODELS ?= models
STATE ?= state
TORCH ?= 2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
CLIENTS ?= .cache/clients
ARGS ?=
# tests that run at a time, each file of them in one process; a device has room for one. 0: all in this process
WORKERS ?= $(if $(GPU),0,2)

# of the pipeline from pairs to a served model: what is left empty is the trainer's or the gateway's own default
DATA ?=
OUTPUT ?=
BASE ?=
EPOCHS ?=
BATCH ?=
LR ?=
USE_LORA ?=
MODEL ?=
DTYPE ?= int8
DEVICE ?=
CONCURRENCY ?=
NORMALIZE ?=
DEMO_TRAIN ?= .cache/demo-train

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := huggingface:sentence-transformers/all-MiniLM-L6-v2

# What is installed is known by its content, not by dates: a fresh checkout of the same files installs nothing.
KEY := $(shell cat pyproject.toml requirements.lock | cksum | cut -d' ' -f1)
KIND := $(if $(GPU),gpu,cpu)
TORCH_STAMP := $(VENV)/.torch-$(TORCH)-$(KIND)
RUN_STAMP := $(VENV)/.demo-$(KEY)-$(KIND)
DEV_STAMP := $(VENV)/.dev-$(KEY)-$(KIND)
TRAIN_STAMP := $(VENV)/.train-$(KEY)-$(KIND)
# PORT is 8001 for `make run`; the pipeline's own is 8000, unless somebody names one
EMBED_PORT := $(if $(filter file,$(origin PORT)),8000,$(PORT))
need = $(if $($(1)),,$(error $@ needs $(1)=...: $(2)))

.DEFAULT_GOAL := help
.PHONY: help run test test-clients test-ray torture fuzz check bench bench-gpu lock clean
.PHONY: train-deps embed-finetune embed-quantize embed-serve demo-train

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 23
	@echo "  variables: PORT=$(PORT) HOST=$(HOST) MODELS=$(MODELS) STATE=$(STATE) PYTHON=$(PYTHON); GPU=1 for CUDA's torch"

run: $(RUN_STAMP)  ## install, publish the demo model on models/, and serve on PORT
	@$(BIN)/python scripts/demo_model.py --models-dir '$(MODELS)'
	@$(BIN)/python -c "import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('$(HOST)', $(PORT)))" 2>/dev/null \
	  || { echo "cannot listen on $(HOST) port $(PORT): something else does; choose another: make run PORT=8002" >&2; exit 1; }
	@exec $(BIN)/python -m gateway serve --host '$(HOST)' --port $(PORT) --models-dir '$(MODELS)' --state-dir '$(STATE)' --default-model $(DEMO) --examples $(ARGS)

test: $(DEV_STAMP)  ## install, and run all tests, WORKERS=2 files at a time; ARGS='-k kubectl -x'
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-clients: $(DEV_STAMP)  ## other people's clients, each from its package, against a running gateway; CLIENTS=folder for them
	CLIENTS='$(abspath $(CLIENTS))' $(BIN)/python -m tests.clients.environments
	CLIENTS='$(abspath $(CLIENTS))' $(BIN)/python -m pytest -m clients tests/clients $(ARGS)

test-ray: $(DEV_STAMP)  ## a Ray cluster of three nodes on this machine, what it does when things go, and its figures; some minutes
	$(PIP) install --quiet -c requirements.lock -e '.[dev,ray]'
	$(BIN)/python -m pytest -m ray tests/ray $(ARGS)
	$(BIN)/python -m tests.ray.figures --write

torture: $(DEV_STAMP)  ## the long proofs of docs/reliability.md, hours of them; reports/ has what came of them
	mkdir -p reports
	$(BIN)/python -m bench.drop.copies --trials 1100 --out reports/copies.json --table reports/copies.md --picture reports/copies.svg
	$(BIN)/python -m bench.drop.truncation --every 16 --out reports/truncation.json
	$(BIN)/python -m bench.drop.endurance --out reports
	$(BIN)/python -m bench.drop.kills --kills 50 --out reports/kills.json
	$(BIN)/python -m bench.drop.deaths --kills 50 --out reports/deaths.json
	$(BIN)/python -m bench.drop.trainings --kills 50 --out reports/trainings.json

fuzz: $(DEV_STAMP)  ## 20,000 requests and more that the API's own description allows, and some it does not; ARGS='--examples 50'
	$(BIN)/python -m tests.protocols.fuzz $(ARGS)

check: $(DEV_STAMP)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(DEV_STAMP)  ## what docs/performance.md says, measured here, in a quarter of an hour; ARGS=--quick
	$(BIN)/python -m bench $(ARGS)

bench-gpu: $(DEV_STAMP)  ## the same for a CUDA device; GPU=1, and ARGS='--quick'
	$(BIN)/python -m bench.gpu $(ARGS)

train-deps: $(TRAIN_STAMP)  ## install what training needs, on top of what serving needs

embed-finetune: $(TRAIN_STAMP)  ## fine-tune: DATA=pairs.tsv OUTPUT=models/mine BASE= EPOCHS= BATCH= LR= USE_LORA=1 ARGS=
	$(call need,DATA,a file of pairs)$(call need,OUTPUT,the directory of the run)
	$(BIN)/python -m trainer finetune --data '$(DATA)' --output '$(OUTPUT)' \
	  --base-model '$(if $(BASE),$(BASE),BAAI/bge-small-en-v1.5)' $(if $(EPOCHS),--epochs '$(EPOCHS)') \
	  $(if $(BATCH),--batch-size '$(BATCH)') $(if $(LR),--lr '$(LR)') $(if $(filter-out 0,$(USE_LORA)),--use-lora) $(ARGS)

embed-quantize: $(TRAIN_STAMP)  ## quantize: MODEL=models/mine OUTPUT=models/mine-int8 DTYPE=int8 ARGS=
	$(call need,MODEL,the directory of a model)$(call need,OUTPUT,the directory to make)
	$(BIN)/python -m trainer quantize '$(MODEL)' --output '$(OUTPUT)' --dtype '$(DTYPE)' $(ARGS)

embed-serve: $(RUN_STAMP)  ## serve one directory: MODEL=models/mine PORT=8000 HOST= DEVICE= CONCURRENCY= BATCH= NORMALIZE=1 ARGS=
	$(call need,MODEL,the directory of a model)
	@test -d '$(MODEL)' || { echo "MODEL=$(MODEL): no such directory" >&2; exit 2; }
	$(if $(NORMALIZE),SERVE_NORMALIZE='$(NORMALIZE)') exec $(BIN)/python -m gateway serve --host '$(HOST)' --port '$(EMBED_PORT)' \
	  --models-dir '$(abspath $(dir $(abspath $(MODEL))))' --state-dir '$(STATE)-$(EMBED_PORT)' --default-model '$(notdir $(abspath $(MODEL)))' \
	  $(if $(DEVICE),--device '$(DEVICE)') $(if $(CONCURRENCY),--tokenizer-threads '$(CONCURRENCY)') \
	  $(if $(BATCH),--max-batch-texts '$(BATCH)') $(ARGS)

demo-train: $(TRAIN_STAMP)  ## in minutes: docstring pairs, LoRA, evaluation, a gate, and a gateway that serves the better model
	$(BIN)/python scripts/demo_train.py --work '$(DEMO_TRAIN)' --url 'http://$(HOST):$(PORT)' --models-dir '$(MODELS)' $(ARGS)

lock: $(DEV_STAMP)  ## write what is installed to requirements.lock, and the images' part of it; torch is left out, its build is each machine's own
	$(PIP) freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' | grep -viE '^(torch|triton|nvidia-.*|cuda-.*)==' > requirements.lock.new
	mv requirements.lock.new requirements.lock
	$(BIN)/python deploy/image/lock.py --write

clean:  ## remove what was installed and built; models/ and state/ stay
	rm -rf $(VENV) $(CLIENTS) build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find gateway trainer tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $(PYTHON) is not. Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "venv failed; on Debian: apt install python3-venv" >&2; exit 1; }

# torch first, by itself: left to the resolver, a machine without a GPU would get gigabytes of CUDA
$(TORCH_STAMP): | $(BIN)/python
ifdef GPU
	$(PIP) install --quiet torch==$(TORCH)
else
	$(PIP) install --quiet torch==$(TORCH)+cpu 2>/dev/null || $(PIP) install --quiet --index-url '$(TORCH_INDEX)' torch==$(TORCH)
endif
	@rm -f $(VENV)/.torch-* && touch $@

$(RUN_STAMP): $(TORCH_STAMP) pyproject.toml requirements.lock
	$(PIP) install --quiet -c requirements.lock -e '.[demo,ask]'
	@rm -f $(VENV)/.demo-* && touch $@

$(DEV_STAMP): $(TORCH_STAMP) pyproject.toml requirements.lock
	$(PIP) install --quiet -c requirements.lock -e '.[dev]'
	@rm -f $(VENV)/.dev-* $(VENV)/.demo-* $(VENV)/.train-* && touch $@ $(RUN_STAMP) $(TRAIN_STAMP)

$(TRAIN_STAMP): $(RUN_STAMP)
	$(PIP) install --quiet -c requirements.lock -e '.[demo,ask,train]'
	@rm -f $(VENV)/.train-* && touch $@
