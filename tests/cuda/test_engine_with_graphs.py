"""Whole runs on an engine that was placed by measurement and replays, on stand-ins for CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import shoal.engine.engine as engine_module
from shoal import LLM, SamplingParams
from shoal.config import EngineOptions
from shoal.engine.engine import Engine
from shoal.executor.executor import TorchExecutor
from shoal.machine.placement import Placement, Placing
from shoal.model.description import ModelDescription
from shoal.model.load import LoadedModel
from tests.cuda.test_readback import load
from tests.helpers.ahead import stand_in_transfers
from tests.helpers.cuda_standins import FixedReference, MadeUpMemory, TapeRecorder
from tests.helpers.logprobs import same_logprobs
from tests.helpers.models import forest_of_prompts, greedy, save_model

SIZES = (1, 2, 4, 8, 16, 24)


@pytest.fixture(params=[False, True], ids=["in step", "ahead"])
def llm(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LLM:
    """Its placement, its graphs and its transfers are those of CUDA, each over a stand-in."""
    folder = save_model(tmp_path / "model", "llama")

    def place(
        model: LoadedModel, description: ModelDescription, options: EngineOptions
    ) -> Placement:
        placing = Placing(model, description, options, FixedReference(), SIZES)
        return placing.by_measurement(MadeUpMemory(2**40), TapeRecorder)

    def executor(self: Engine, table: Any, plan: Any) -> TorchExecutor:
        transfers = stand_in_transfers() if request.param else None
        run = self._model, self._kv, self.description, table, plan, transfers, self._graphs
        return TorchExecutor(*run)

    monkeypatch.setattr(engine_module, "place", place)
    monkeypatch.setattr(engine_module, "load", lambda _: load(folder)[0])
    monkeypatch.setattr(Engine, "executor", executor)
    return LLM(str(folder), dtype="float32", kv_memory="200KiB", max_num_batched_tokens=40)


def test_answers_are_those_of_transformers(llm: LLM) -> None:
    prompts = forest_of_prompts(3)
    params = SamplingParams(temperature=0.0, max_tokens=9)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    folder = Path(llm._description.id)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert list(output.outputs[0].token_ids) == greedy(folder, prompt, 9)
    graphs = llm._engine._graphs
    assert graphs is not None
    assert set(graphs.captured) > {2, 24}  # more than the trial had captured
    assert llm.last_run is not None
    assert llm.last_run.preemptions or llm.last_run.peak_kv_bytes <= 200 * 1024


def test_seeds_and_logprobs_go_through_graphs(llm: LLM) -> None:
    prompts = forest_of_prompts(4)[:6]
    params = SamplingParams(seed=5, max_tokens=6, logprobs=2, prompt_logprobs=2, n=2)
    replayed = llm.generate(prompts, params, use_tqdm=False)
    engine = llm._engine
    graphs, engine._graphs = engine._graphs, None
    eager = llm.generate(prompts, params, use_tqdm=False)
    assert graphs is not None
    for ours, theirs in zip(replayed, eager, strict=True):
        for one, other in zip(ours.outputs, theirs.outputs, strict=True):
            assert one.token_ids == other.token_ids
            same_logprobs(one.logprobs, other.logprobs)
        assert len(ours.prompt_logprobs or ()) > 6
        same_logprobs(ours.prompt_logprobs, theirs.prompt_logprobs)
