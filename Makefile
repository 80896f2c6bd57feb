# Everything a person or CI runs. It needs python3 (3.11 or newer) and nothing else: uv comes with the first target.

SHELL := /bin/bash
UV := .tools/uv/bin/uv
RUN := $(UV) run --frozen --all-extras
# Where the environment forbids it, each of the many processes would compile what it imports anew: torch takes 15 s of that.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/.tools/uv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help quickstart quickstart-clean test lint types format generate unit integration trainer e2e test-faults test-matrix bench-operator bench-data bench-trainer bench-checkpoint soak environment cluster-up cluster-down clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: environment ## A real cluster, a real FineTuneJob, a merged model pulled and answering (CLUSTER=current: your own cluster)
	@$(RUN) python -m examples.quickstart

quickstart-clean: environment ## Remove what the quickstart made: its job, its cluster and its files
	@$(RUN) python -m examples.quickstart --clean

test: environment ## Everything CI runs: lint, types, contracts, unit, trainer, integration, e2e
	@$(RUN) python tools/run_suites.py

lint: environment ## Formatting, lint rules and import contracts
	@$(RUN) python tools/run_suites.py format lint contracts generated lock

types: environment ## mypy --strict
	@$(RUN) python tools/run_suites.py types

unit: environment ## Unit and architecture tests
	@$(RUN) python tools/run_suites.py architecture unit

trainer: environment ## The trainer for real, on tiny models: the cells of the support matrix that stand for all of them
	@$(RUN) python tools/run_suites.py trainer

integration: environment ## Tests on a real kube-apiserver and a real S3 server
	@$(RUN) python tools/run_suites.py integration

e2e: environment ## Tests on a real cluster with real pods
	@$(RUN) python tools/run_suites.py e2e

bench-operator: environment ## Measure the operator: every bar a line, all of them in benchmarks/results/operator.json (17 quiet minutes)
	@$(RUN) python -m benchmarks.operator

bench-data: environment ## Measure the preparation of data: throughput, memory, near duplicates, in benchmarks/results/data.json (10 quiet minutes)
	@$(RUN) python -m benchmarks.data

bench-trainer: environment ## Measure the trainer against transformers.Trainer and TRL, in benchmarks/results/trainer.json (80 quiet minutes)
	@$(RUN) python -m benchmarks.trainer

bench-checkpoint: environment ## Measure what checkpoints cost and how fast files move, in benchmarks/results/checkpoint.json (15 quiet minutes)
	@$(RUN) python -m benchmarks.checkpoint

test-faults: environment ## The long loops of the fault tests: every crash point several times, 200 kills, 100 resumes, 1,000 jobs, 50 attempts (an hour)
	@$(RUN) python tools/run_suites.py faults

test-matrix: environment ## Train every supported cell of the support matrix, and write down what was seen (half an hour)
	@$(RUN) python tools/run_suites.py matrix && $(RUN) python -m tests.matrix.document

soak: environment ## 50 jobs under seeded chaos for 30 minutes, in benchmarks/results/soak.json (SOAK="--minutes 5 --jobs 8 --seed 2" for less)
	@$(RUN) python -m tests.soak $(SOAK)

format: environment ## Format the code and mend what ruff can mend
	@$(RUN) ruff format . && $(RUN) ruff check --fix .

generate: environment ## Write the CRD, the chart's copy of it and the field reference
	@$(RUN) python -m finetune_api.generate

cluster-up: environment ## Start the one-machine Kubernetes with its S3 server
	@$(RUN) python -m devcluster up

cluster-down: environment ## Stop it and remove every trace
	@$(RUN) python -m devcluster down

environment: .venv/.synced

.venv/.synced: $(UV) pyproject.toml uv.lock
	@$(UV) sync --frozen --quiet --all-extras
	@touch $@

$(UV): tools/bootstrap_uv.py
	@python3 tools/bootstrap_uv.py

clean: ## Remove environments and caches of this checkout (not the shared build cache)
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .test-results
