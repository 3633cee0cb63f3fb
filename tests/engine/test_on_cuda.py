"""Running ahead on a GPU, where there is one: the same answers, and no wait inside a launch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shoal import LLM, SamplingParams
from shoal.cuda.transfers import Transfers
from shoal.executor.executor import PendingResult, TorchExecutor
from shoal.sampling.device_rows import chooser_for
from shoal.sampling.device_sampling import DeviceSampler
from shoal.sampling.draw import CANDIDATES
from shoal.sampling.rows import LogitRows
from shoal.types import RequestParams as Params
from tests.engine.test_run_ahead import FEATURES
from tests.helpers.models import forest_of_prompts, greedy, save_model
from tests.sampling.test_device_sampling import PARAMS, batch_of, samplers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that waits for the device raises. Not the first few: kernels are compiled then."""
    launch = TorchExecutor.launch
    counts: dict[int, int] = {}

    def strict(self: TorchExecutor, batch: Any) -> PendingResult:
        count = counts[id(self)] = counts.get(id(self), 0) + 1
        torch.cuda.set_sync_debug_mode("error" if count > 4 else "default")
        try:
            return launch(self, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(TorchExecutor, "launch", strict)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_greedy_is_that_of_transformers(tmp_path: Path, architecture: str) -> None:
    folder = save_model(tmp_path, architecture, hidden_size=64, head_dim=16)
    prompts = forest_of_prompts(3)
    llm = LLM(
        str(folder), device="cuda", dtype="float32", kv_memory="16MiB", max_num_batched_tokens=128
    )
    params = SamplingParams(temperature=0.0, max_tokens=24)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    expected = [tuple(greedy(folder, prompt, 24)) for prompt in prompts]
    assert [tuple(out.outputs[0].token_ids) for out in outputs] == expected


@pytest.mark.usefixtures("watched")
def test_every_feature_runs(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama", hidden_size=64, head_dim=16)
    options: dict[str, Any] = {
        "dtype": "float32",
        "kv_memory": "16MiB",
        "max_num_batched_tokens": 64,
    }
    prompts = forest_of_prompts(9)[: len(FEATURES)]
    there = LLM(str(folder), device="cuda", **options).generate(prompts, FEATURES, use_tqdm=False)
    here = LLM(str(folder), device="cpu", **options).generate(prompts, FEATURES, use_tqdm=False)
    for out, other in zip(there, here, strict=True):
        assert [c.token_ids for c in out.outputs] == [c.token_ids for c in other.outputs]


def test_tokens_are_those_of_the_cpu() -> None:
    """Also of rows that need more than the likeliest candidates: the kernel draws them."""
    vocab, device = 20 * CANDIDATES, torch.device("cuda")
    params = [Params(**entry) for entry in PARAMS] * 4
    count = len(params)
    host, other = samplers(params, vocab)
    sampler = DeviceSampler(other, vocab, chooser_for(device))
    transfers = Transfers.cuda(device)
    for position, spread in enumerate((0.05, 1.0, 4.0)):
        generator = torch.Generator().manual_seed(position)
        logits = spread * torch.randn(count, vocab, generator=generator)
        batch = batch_of(count, np.arange(count), count, position)
        rows = LogitRows.whole(logits)
        expected = host.sample(rows, batch.sample_sequences, batch.sample_positions)
        stage, landing = transfers.turn()
        plan = sampler.plan(batch, stage)
        on_device = logits.to(device)
        torch.cuda.synchronize()
        stage.send()
        tokens = sampler.choose(plan, on_device, {})
        arrays = landing.begin([tokens, *sampler.logprobs(plan, on_device, tokens, {})])()
        found = arrays[0].astype(np.int32)
        sampler.collect(plan, found, arrays[1:])
        # exp and sums are rounded otherwise there: a draw on a border may fall on its other side.
        assert np.count_nonzero(found != expected.token_ids) <= 1
        if (found != expected.token_ids).any():
            break
