"""Nothing is read back from the device while batches are launched.

On torch's meta device tensors have shapes and no data: whatever needs a value on the host (`item`,
`bool`, `nonzero`, masks as indices, a copy to the host) raises. A whole run is launched on it,
model included, with every way of sampling; only the landing of results is a stand-in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from shoal.attention import PLAIN, AttentionKind, KVLayer
from shoal.attention.contract import PlainPool
from shoal.config import EngineOptions
from shoal.cuda.transfers import Landing
from shoal.executor.executor import PendingResult, TorchExecutor
from shoal.model.description import ModelDescription
from shoal.model.hook import ATTENTION_NAME
from shoal.model.kv import KVPool
from shoal.model.load import prepare_model
from shoal.planner import make_plan
from shoal.sampling.sampler import needs_history
from shoal.scheduler import BLOCK_SIZE, BlockPool, Launched, Scheduler
from shoal.types import RequestParams, RequestTable
from shoal.work import SegmentWork
from tests.engine.test_run_ahead import FEATURES
from tests.helpers.ahead import stand_in_transfers
from tests.helpers.models import forest_of_prompts, save_model

BLOCKS = 64
LONG = [
    RequestParams(temperature=temperature, top_p=0.9, seed=1, max_tokens=30, logprobs=logprobs)
    for temperature, logprobs in ((0.0, None), (1.0, None), (0.0, 2), (0.5, 3))
]
PARAMS = [*(feature.request_params() for feature in FEATURES), *LONG]


class ShapesOnly(PlainPool):
    """Attention of which only the shapes are right."""

    name = "shapes"

    def prepare(self, work: SegmentWork, device: torch.device) -> None:
        pass

    def __call__(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind = PLAIN,
    ) -> torch.Tensor:
        return query.new_zeros(query.shape[1], query.shape[0], layer.shape.value_dim)


def land_nothing(
    self: Landing, results: Sequence[torch.Tensor]
) -> Callable[[], list[np.ndarray[Any, Any]]]:
    """Zeros of the right shapes, as late as can be."""
    dtypes = {torch.int64: np.int64, torch.float32: np.float32}
    assert all(result.device.type == "meta" for result in results)
    shapes = [(tuple(result.shape), dtypes[result.dtype]) for result in results]
    return lambda: [np.zeros(shape, dtype) for shape, dtype in shapes]


def table_of(prompts: list[list[int]]) -> RequestTable:
    limits = np.array([max(1, params.token_limit or 0) for params in PARAMS], dtype=np.int32)
    return RequestTable(
        tokens=np.concatenate([np.array(p, dtype=np.int32) for p in prompts]),
        offsets=np.cumsum([0, *map(len, prompts)]).astype(np.int64),
        params=PARAMS,
        params_index=np.arange(len(PARAMS), dtype=np.int32),
        max_new_tokens=limits,
        expected_new_tokens=limits,
        seeds=np.arange(len(PARAMS)),
        has_seed=np.ones(len(PARAMS), dtype=np.bool_),
        line=np.arange(len(PARAMS)),
    )


@pytest.mark.parametrize(
    "architecture",
    ["llama", *(pytest.param(name, marks=pytest.mark.long) for name in ("qwen2", "qwen3"))],
)
def test_a_whole_run_is_launched_without_data(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Landing, "begin", land_nothing)
    folder = save_model(tmp_path, architecture, vocab_size=1024)
    options = EngineOptions(dtype="float32", device="cpu")
    description = ModelDescription.load(str(folder), options)
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION_NAME)
    model = prepare_model(module, description)
    description = dataclasses.replace(description, device=torch.device("meta"))
    model.module.to(description.device)
    dtype, device = description.dtype, description.device
    kv = KVPool(ShapesOnly(), model.layers, BLOCKS, BLOCK_SIZE, dtype, device)
    table = table_of(forest_of_prompts(9)[: len(PARAMS)])
    plan = make_plan(table)
    transfers = stand_in_transfers("meta")
    executor = TorchExecutor(model, kv, description, table, plan, transfers=transfers)
    sequential = np.array([needs_history(params) for params in PARAMS])
    pool = BlockPool(BLOCKS, BLOCK_SIZE)
    scheduler = Scheduler(table, plan, pool, 64, sequential=sequential)
    flights: list[tuple[Launched, PendingResult]] = []
    fed_back = 0
    while True:
        batch = scheduler.step(flights[0][0] if flights else None)
        if batch is not None:
            pending = executor.launch(batch)
            flights.append((scheduler.advance(batch), pending))
            fed_back += len(batch.feedback.rows)
            if len(flights) == 1:
                continue
        if not flights:
            break
        launched, pending = flights.pop(0)
        oldest, result = launched.batch, executor.collect(pending)
        limits = table.max_new_tokens[plan.sequence_request[oldest.sample_sequences]]
        finished = oldest.sample_positions + 1 >= limits
        scheduler.settle(launched, result.sampled.token_ids, finished)
    assert fed_back > 50
    assert scheduler.done


def test_the_meta_device_would_notice() -> None:
    logits = torch.zeros(3, 4, device="meta")
    for read in (
        lambda: (logits > 0).any().item(),
        lambda: bool((logits > 0).all()),
        lambda: logits.nonzero(),
        lambda: logits[logits > 0],
        lambda: logits.tolist(),
        lambda: logits.numpy(),
        lambda: torch.zeros(3, 4).copy_(logits),
    ):
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            read()
