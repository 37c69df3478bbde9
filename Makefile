# Targets of this project; `make help` lists them.

PYTHON := .venv/bin/python
STAMP := .venv/.deps-$(shell cat requirements.lock pyproject.toml | sha256sum | cut -c1-16)
# Four at a time on two cores, because most tests wait for a process of their own; file by file, the
# slowest first. One thread each: two that spin on two busy cores take many times as long. Bytecode is
# kept, also where the environment says otherwise: without it, every process compiles all it imports.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(PYTHON) -m pytest -p tests.support.tiers \
	-p tests.support.order -p tests.support.parallel --processes 4
# Cases of `make bench-step`, `make bench-service` and `make bench-cache`, by name; benchmarks/README.md has them.
CASES := *
# Of `make faults`: the seed of the schedule, and for how long faults are injected. BUG=fence and
# BUG=lease remove a guard in a copy of the code; the check must find that. `make fuzz` takes the seed, too.
SEED := 1
SECONDS := 90
# Of `make fuzz`: most made-up requests of each kind for each operation.
EXAMPLES := 100
TIERS := tests/unit tests/contract tests/integration tests/e2e tests/faults tests/security

.DEFAULT_GOAL := help
.PHONY: help deps demo openapi check test test-deep test-gpu faults fuzz bench-step bench-service bench-index bench-cache up

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

# The stamp is named by the digest of what it was made from, so a changed lock or pyproject makes it anew.
$(STAMP):
	@deploy/deps.sh
	@rm -f .venv/.deps-* && touch $@

deps: $(STAMP) ## Make .venv from the lock; as root also install the test servers

demo: $(STAMP) ## Train the tiny model on real photographs through the whole service
	@$(PYTHON) -m services.cli.demo

up: $(STAMP) ## Run the service on this machine until Ctrl-C
	@.venv/bin/reverie up

openapi: $(STAMP) ## Write docs/reference/openapi.json anew
	@$(PYTHON) -m services.api.describe > docs/reference/openapi.json.new
	@mv docs/reference/openapi.json.new docs/reference/openapi.json

check: $(STAMP) ## Formatting, lint, types, import contracts
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: $(STAMP) ## Unit, contract, integration, end-to-end, fault and security tests (the gate)
	@$(PYTEST) -m "not deep" $(TIERS)

test-deep: $(STAMP) ## Longer tests: random faults and large inputs
	@$(PYTEST) --processes 3 -m deep $(TIERS)

faults: $(STAMP) ## The whole service under random faults, then a check (SEED, SECONDS, BUG)
	@$(PYTHON) -m tests.faults.random --seed $(SEED) --seconds $(SECONDS) $(if $(BUG),--bug $(BUG))

fuzz: $(STAMP) ## Made-up requests for every operation of the OpenAPI document (SEED, EXAMPLES)
	@FUZZ_SEEDS=$(SEED) FUZZ_EXAMPLES=$(EXAMPLES) $(PYTHON) -m pytest -q -s -m deep tests/integration/test_openapi.py

# Without conftest: these tests need no servers, and a machine with a card may lack their clients.
test-gpu: ## Compare the Triton kernels with PyTorch on a CUDA device (PYTHON)
	@TRITON_INTERPRET=0 $(PYTHON) -m pytest --noconftest tests/gpu

bench-step: ## Time a training step, ours and the peers', on a CUDA device (CASES, PYTHON)
	$(PYTHON) -m benchmarks.step --output bench-step.jsonl --cases '$(CASES)'

bench-service: $(STAMP) ## Time the control plane: submits, admission, fairness, lists, streams (CASES)
	$(PYTHON) -m benchmarks.service --output bench-service.jsonl --cases '$(CASES)'

bench-index: $(STAMP) ## Time the index of 25,000, 50,000 and 100,000 pictures, from headers
	$(PYTHON) -m benchmarks.data.indexing

# WebDataset and mosaicml-streaming are no dependencies: they get an environment of their own. Where
# they cannot be fetched, the lines name them as skipped, and the next call tries again.
PEERS := .cache/bench-cache-peers
$(PEERS)/.made: benchmarks/cache/peers.txt
	@rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS)
	@if $(PEERS)/bin/pip install --quiet -r $<; then touch $@; else echo "left out: the peers" >&2; fi

bench-cache: $(STAMP) $(PEERS)/.made ## Time the way of cached records to a training process, ours and peers' (CASES)
	$(PYTHON) -m benchmarks.cache --output bench-cache.jsonl --peers $(PEERS)/bin/python --cases '$(CASES)'
