"""Vectors survive what may happen to a run: failures, running ahead, several devices, int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from shoal import LLM, PoolingParams
from shoal.engine.engine import Engine
from shoal.executor.executor import Executor, PendingResult
from shoal.executor.pooling_executor import PoolingExecutor
from shoal.model.pieces import Pieces
from shoal.planner import Plan
from shoal.sampling.results import StepResult
from shoal.scheduler import TokenBatch
from shoal.types import RequestTable
from tests.helpers.ahead import stand_in_transfers
from tests.helpers.models import save_model
from tests.helpers.pooled import hidden_states, save_embedder

RAW = PoolingParams(use_activation=False)
POOLINGS = ["LAST", "MEAN"]
_RNG = np.random.default_rng(3)


def _tokens(count: int) -> list[int]:
    return _RNG.integers(2, 120, count).tolist()


PREFIX = _tokens(60)
PROMPTS = [
    *(PREFIX + _tokens(count) for count in (1, 5, 40, 90)),
    *(PREFIX[:40] + _tokens(count) for count in (3, 50)),
    *[PREFIX] * 3,
    *[PREFIX[:40]] * 2,
    *(_tokens(count) for count in (1, 70, 100)),
]


def expected(folder: Path, pooling: str) -> np.ndarray:
    rows = [hidden_states(folder, prompt) for prompt in PROMPTS]
    return torch.stack([r[-1] if pooling == "LAST" else r.mean(0) for r in rows]).numpy()


def embed(folder: Path, pooling: str, **options: Any) -> tuple[LLM, np.ndarray]:
    options = {"dtype": "float32", "kv_memory": "1MiB", "max_num_batched_tokens": 32} | options
    llm = LLM(str(folder), runner="pooling", pooler_config={"pooling_type": pooling}, **options)
    outputs = llm.embed(PROMPTS, pooling_params=RAW, use_tqdm=False)
    assert [output.error for output in outputs] == [None] * len(outputs)
    return llm, np.stack([output.outputs.data for output in outputs])


def ahead(patch: pytest.MonkeyPatch) -> None:
    """From now on executors run ahead, over a stand-in for a device's memory."""

    def executor(self: Engine, table: RequestTable, plan: Plan) -> Executor:
        columns = self._model, self._kv, self.description, table, plan
        return PoolingExecutor(*columns, transfers=stand_in_transfers())

    patch.setattr(Engine, "executor", executor)


@pytest.mark.parametrize("sharing", ["forest", "single", "paper", "none"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_sharing_gives_the_same(tmp_path: Path, pooling: str, sharing: str) -> None:
    folder = save_model(tmp_path, "qwen3")
    _, found = embed(folder, pooling, sharing=sharing)
    assert np.abs(found - expected(folder, pooling)).max() < 1e-5


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("blocks", [6, 12, 100])
def test_running_ahead_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str, blocks: int
) -> None:
    folder = save_model(tmp_path, "qwen3")
    ahead(monkeypatch)
    block = 32 * 2 * 2 * 2 * 16 * 4
    _, found = embed(folder, pooling, kv_memory=f"{blocks * block}B")
    assert np.abs(found - expected(folder, pooling)).max() < 1e-5


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_batches_that_fail_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str, runs_ahead: bool
) -> None:
    """Some are not launched, some fail when they are waited for, all that came after with them."""
    folder = save_model(tmp_path, "qwen3")
    if runs_ahead:
        ahead(monkeypatch)
    launch, collect = PoolingExecutor.launch, PoolingExecutor.collect
    counts = {"launch": 0, "collect": 0}

    def launching(self: PoolingExecutor, batch: TokenBatch) -> PendingResult:
        counts["launch"] += len(batch.sequences) > 1
        pending = launch(self, batch)
        if counts["launch"] % 5 == 4 and len(batch.sequences) > 1:
            raise RuntimeError("cannot launch")
        return pending

    def collecting(self: PoolingExecutor, pending: PendingResult) -> StepResult:
        several = len(pending.batch.sequences) > 1  # not one that is tried again by itself
        counts["collect"] += several
        if several and counts["collect"] % 4 == 2:
            raise RuntimeError("cannot collect")
        return collect(self, pending)

    monkeypatch.setattr(PoolingExecutor, "launch", launching)
    monkeypatch.setattr(PoolingExecutor, "collect", collecting)
    llm, found = embed(folder, pooling)
    assert np.abs(found - expected(folder, pooling)).max() < 1e-5
    assert min(counts.values()) > 4
    assert llm.last_run is not None
    assert llm.last_run.tokens.recomputed > 0


@pytest.mark.parametrize("pooling", POOLINGS)
def test_two_batches_of_one_prompt_may_be_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    """A long prompt takes seven batches; each of them fails once, with the next under way."""
    folder = save_model(tmp_path, "qwen3")
    ahead(monkeypatch)
    collect, counts = PoolingExecutor.collect, {"collect": 0, "fails": 0}

    def collecting(self: PoolingExecutor, pending: PendingResult) -> StepResult:
        counts["collect"] += 1
        if counts["collect"] == counts["fails"]:
            raise RuntimeError("cannot collect")
        return collect(self, pending)

    monkeypatch.setattr(PoolingExecutor, "collect", collecting)
    llm, _ = embed(folder, pooling)
    prompt = _tokens(200)
    rows = hidden_states(folder, prompt)
    wanted = (rows[-1] if pooling == "LAST" else rows.mean(0)).numpy()
    for number in range(1, 8):
        counts |= {"collect": 0, "fails": number}
        (output,) = llm.embed([prompt], pooling_params=RAW, use_tqdm=False)
        assert output.error is None
        assert np.abs(output.outputs.data - wanted).max() < 1e-5
        assert counts["collect"] >= 8


@pytest.mark.parametrize("pooling", POOLINGS)
def test_numbers_that_are_none_fail_their_prompt_alone(tmp_path: Path, pooling: str) -> None:
    folder = save_model(tmp_path, "qwen3")
    config = AutoConfig.from_pretrained(folder)
    tried = set(Pieces.spread(config, 256, 256).token_ids.tolist())
    broken = next(token for token in range(130, 256) if token not in tried)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[broken] = float("nan")
    model.save_pretrained(folder)
    llm = LLM(
        str(folder),
        runner="pooling",
        pooler_config={"pooling_type": pooling},
        dtype="float32",
        kv_memory="1MiB",
        max_num_batched_tokens=64,
    )
    prompts = [[5, 6, 7], [5, 6, broken], [9] * 20]
    right, wrong, other = llm.embed(prompts, pooling_params=RAW, use_tqdm=False)
    assert wrong.error is not None
    assert (wrong.error.code, wrong.error.status_code) == ("model_error", 500)
    for output, prompt in ((right, prompts[0]), (other, prompts[2])):
        rows = hidden_states(folder, prompt)
        vector = (rows[-1] if pooling == "LAST" else rows.mean(0)).numpy()
        assert np.abs(output.outputs.data - vector).max() < 1e-5


@pytest.mark.long
def test_several_devices(tmp_path: Path) -> None:
    folder = save_embedder(tmp_path, "llama", "mean_tokens", normalize=False)
    llm, found = embed(folder, "MEAN", data_parallel_size=2)
    llm.close()
    assert np.abs(found - expected(folder, "MEAN")).max() < 1e-5


@pytest.mark.parametrize("pooling", POOLINGS)
def test_products_in_8_bits_are_near(tmp_path: Path, pooling: str) -> None:
    folder = save_model(tmp_path, "llama")
    _, found = embed(folder, pooling, quantization="int8", dtype="bfloat16")
    wanted = expected(folder, pooling)
    cosine = (
        (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    )
    assert cosine.min() > 0.99
    assert np.abs(found - wanted).max() > 1e-4, "nothing was quantized"
