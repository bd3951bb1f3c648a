# The two commands: `make up` does the main job, `make test` passes the tests.
# `make lint` and `make bench` are the other two that matter. Everything lives in .venv; remove it to start over.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PARTS := cli serving finetune gateway rag registry core
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

# Where Python may not keep what it compiled, every process compiles all it imports: half a second each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: up test test-clusters fast test-fast lint format bench bench-gateway clean

up: $(VENV)/.product ## ingest docs/, open chat at http://localhost:8000
	$(BIN)/llmops up

test: $(VENV)/.dev ## the whole suite, on every core: no GPU, no model hub, no network
	$(PYTEST)

test-clusters: $(VENV)/.dev ## ingest on Ray and on Spark, which it installs (700 MB); Spark needs Java
	$(UV) -e '.[ray,spark]'
	$(BIN)/python -m pytest tests/rag/compute

fast: $(VENV)/.dev ## compile what every request of the gateway goes through: a third less CPU; needs a C compiler
	$(BIN)/llmops gateway compile

test-fast: fast ## the gateway's tests, against the compiled modules
	LLMOPS_COMPILED=1 $(PYTEST) tests/gateway

lint: $(VENV)/.dev ## style, types, layers, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(foreach part,$(PARTS),$(part)/llmops/$(part))
	PYTHONPATH=$(subst $() ,:,$(PARTS)) $(BIN)/lint-imports --no-cache
	$(BIN)/python tests/sizes.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## side by side with the peers; writes docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-gateway: $(VENV)/.dev ## the gateway next to LiteLLM, Portkey and nginx; needs LLMOPS_BENCH, and two quiet cores
	$(BIN)/python -m benchmarks gateway

clean:
	rm -rf $(VENV) .benchmarks .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

# torch stands alone and first, by pip, which takes a CPU build wherever pip is configured to find one; all else by uv,
# which resolves and unpacks ten times as quickly.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch uv
	touch $@

$(VENV)/.product: $(VENV)/.torch pyproject.toml
	$(UV) --editable '.[all]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(UV) --editable '.[dev]'
	touch $@ $(VENV)/.product
