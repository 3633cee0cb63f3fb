"""Vectors on an engine that is placed by measurement, replays and runs ahead, as on CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

import shoal.engine.engine as engine_module
from shoal import LLM, PoolingParams
from shoal.config import EngineOptions
from shoal.engine.engine import Engine
from shoal.executor.pooling_executor import PoolingExecutor
from shoal.machine.placement import Placement, Placing
from shoal.model.description import ModelDescription
from shoal.model.heads import headed
from shoal.model.hook import ATTENTION_NAME
from shoal.model.load import LoadedModel, prepare_model
from tests.helpers.ahead import stand_in_transfers
from tests.helpers.cuda_standins import FixedReference, MadeUpMemory, TapeRecorder
from tests.helpers.models import forest_of_prompts, save_model
from tests.helpers.pooled import hidden_states


@pytest.mark.parametrize("pooling", ["LAST", "MEAN"])
def test_vectors_go_through_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    folder = save_model(tmp_path / "model", "llama")

    def load(description: ModelDescription) -> LoadedModel:
        module: Any = AutoModel.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=ATTENTION_NAME
        )
        whole = headed(module, description.pooling, description.config)
        return prepare_model(whole, description)

    def place(
        model: LoadedModel, description: ModelDescription, options: EngineOptions
    ) -> Placement:
        placing = Placing(model, description, options, FixedReference(), (1, 2, 4, 8, 16, 24))
        return placing.by_measurement(MadeUpMemory(2**40), TapeRecorder)

    def executor(self: Engine, table: Any, plan: Any) -> PoolingExecutor:
        run = self._model, self._kv, self.description, table, plan
        return PoolingExecutor(*run, stand_in_transfers(), self._graphs)

    monkeypatch.setattr(engine_module, "place", place)
    monkeypatch.setattr(engine_module, "load", load)
    monkeypatch.setattr(Engine, "executor", executor)
    options = {"dtype": "float32", "kv_memory": "200KiB", "max_num_batched_tokens": 24}
    llm = LLM(str(folder), runner="pooling", pooler_config={"pooling_type": pooling}, **options)
    prompts = forest_of_prompts(3)
    outputs = llm.embed(prompts, pooling_params=PoolingParams(False), use_tqdm=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        rows = hidden_states(folder, prompt)
        wanted = (rows[-1] if pooling == "LAST" else rows.mean(0)).numpy()
        assert np.abs(output.outputs.data - wanted).max() < 1e-5
    graphs = llm._engine._graphs  # type: ignore[attr-defined]
    assert graphs is not None
    assert graphs.captured
