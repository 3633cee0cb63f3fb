# Everything a newcomer needs: `make demo` runs the main job, `make test` the tests.
# Both install into .venv first; nothing else has to be set up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out
PEER_PYTHON ?= python3.11
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help install kernels sanitize demo test test-fast test-kernels test-torchao test-slow wheel test-package bench bench-windows bench-attention bench-int8 bench-recurrence bench-structured bench-pooling bench-gpu bench-planner bench-peers lint format types docs check clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## Install Shoal and the development tools into .venv

$(VENV)/.installed: pyproject.toml constraints.txt $(wildcard csrc/*.* csrc/*/*.*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

kernels:  ## Rebuild only the C++ kernels after a change in csrc/
	cmake -S csrc -B build/kernels
	cmake --build build/kernels --parallel
	cmake --install build/kernels --prefix "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"

sanitize:  ## Run the C++ kernels under the address and undefined behaviour sanitizers
	cmake -S csrc -B build/sanitize -DSHOAL_SANITIZE=ON
	cmake --build build/sanitize --parallel
	build/sanitize/test_kernels
	build/sanitize/test_sampling
	build/sanitize/test_logprobs
	build/sanitize/test_ops
	build/sanitize/test_recurrence
	build/sanitize/test_lora

demo: install  ## Plan and run 320 support tickets on the bundled model, then tables of fields and labels
	@mkdir -p $(OUT)
	$(BIN)/shoal plan examples/tickets.jsonl
	$(BIN)/shoal run examples/tickets.jsonl --output $(OUT)/tickets.results.jsonl \
		--summary $(OUT)/tickets.summary.json --report $(OUT)/report --restart
	$(BIN)/python examples/score.py $(OUT)/tickets.results.jsonl examples/answers.jsonl
	$(BIN)/shoal run --table examples/orders.csv --template examples/orders.toml \
		--schema examples/order.json --output $(OUT)/orders.parquet --restart --quiet
	$(BIN)/python examples/show_table.py $(OUT)/orders.parquet examples/answers.jsonl
	$(BIN)/shoal run --table examples/topics.csv --template examples/topics.toml \
		--choices examples/topics.txt --output $(OUT)/topics.parquet --restart --quiet
	$(BIN)/python examples/show_labels.py $(OUT)/topics.parquet examples/answers.jsonl

test: install  ## Run the tests in three processes, since some wait; WORKERS=..
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: WORKERS = 2  # these seldom wait, and each process imports for seconds
test-fast: install  ## Run the tests that are quick; one that takes over 30 seconds fails here
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --timeout 30 -m 'not slow and not long'

test-kernels: install  ## Run the Triton kernels without a GPU: interpreted, and compiled for Hopper
	TRITON_INTERPRET=1 $(BIN)/python -m pytest $$(find tests -name 'test_*_interpreted.py')
	$(BIN)/python -m pytest -m slow --override-ini addopts='-q --strict-markers' tests/attention/triton tests/kernels tests/sampling/test_draw_compiles.py

test-torchao: install  ## Run the tests of quantised checkpoints with torchao, which transformers imports at each start
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade --target build/torchao torchao
	PYTHONPATH=build/torchao $(BIN)/python -m pytest tests/model/test_quantized.py

test-slow: install  ## Run the tests that take long or need gigabytes
	$(BIN)/python -m pytest -m slow --override-ini addopts='-q --strict-markers'

bench: install  ## Measure Shoal and its peers; WORKLOAD=shared-2k MODEL=.. ROUNDS=.. PEERS=..
	$(BIN)/python -m benchmarks --workload $(or $(WORKLOAD),all) $(if $(MODEL),--model $(MODEL)) \
		--rounds $(or $(ROUNDS),3) $(if $(PEERS),--peers $(PEERS))

bench-windows: install  ## Compare KV memory bounded by windows with all of it; WORKLOAD=gemma-shape
	$(BIN)/python -m benchmarks.windows --workload $(or $(WORKLOAD),gemma-shape) --rounds $(or $(ROUNDS),3)

bench-peers:  ## Install vLLM's CPU build and lm-eval into .bench/peers (3.5 GB, a few minutes, Python 3.11)
	$(PYTHON) benchmarks/peers/install_vllm.py .bench/peers/vllm $(PEER_PYTHON)

bench-attention: install  ## Compare the attention kernel with torch's and with a matrix product
	$(BIN)/python -m benchmarks.attention

bench-int8: install  ## Compare products in 8 bits with those in the model's format; WORKLOAD=.. MODEL=..
	$(BIN)/python -m benchmarks.int8 --workload $(or $(WORKLOAD),shared-2k) \
		--model $(or $(MODEL),llama-100m) --rounds $(or $(ROUNDS),3)

bench-recurrence: install  ## Compare the kernels of recurrent layers with transformers' functions
	$(BIN)/python -m benchmarks.recurrence --rounds $(or $(ROUNDS),5)

bench-structured: install  ## Compare answers held to a JSON schema with free ones; WORKLOAD=.. MODEL=..
	$(BIN)/python -m benchmarks.structured --workload $(or $(WORKLOAD),shared-2k) \
		--model $(or $(MODEL),llama-100m) --rounds $(or $(ROUNDS),3)

bench-pooling: install  ## Compare scores of 1,000 pairs with transformers and vLLM; MODEL=.. PEERS=..
	$(BIN)/python -m benchmarks.pooling --model $(or $(MODEL),llama-100m) \
		--rounds $(or $(ROUNDS),3) $(if $(PEERS),--peers $(PEERS))

bench-gpu:  ## Measure on a CUDA device, ten minutes, nothing to install; PARTS=.. MINUTES=.. RESULTS=..
	$(PYTHON) -m benchmarks.gpu $(if $(PARTS),--parts $(PARTS)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(RESULTS),--results $(RESULTS))

bench-planner: install  ## Measure the planner on N requests, or draw the curve over 10^3 to 10^7
	$(BIN)/python -m benchmarks.planner $(if $(N),--requests $(N))

wheel: install  ## Build dist/*.whl for other Linux machines (manylinux), and the sdist
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[package]'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/make_wheel.py dist

test-package: wheel  ## Install the sdist, then the wheel, in a clean environment and run a job
	$(PYTHON) tools/check_package.py dist

lint: install  ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: install  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: install  ## Check types
	$(BIN)/mypy

docs: install  ## Regenerate the generated documentation
	$(BIN)/python tools/make_cli_docs.py
	$(BIN)/python tools/make_python_docs.py
	$(BIN)/python tools/make_fields_docs.py
	$(BIN)/python tools/make_models_docs.py

check: lint types  ## Everything CI checks before the tests
	$(BIN)/python tools/make_cli_docs.py --check
	$(BIN)/python tools/make_python_docs.py --check
	$(BIN)/python tools/make_fields_docs.py --check

clean:  ## Remove what was built
	rm -rf $(VENV) $(OUT) build dist
