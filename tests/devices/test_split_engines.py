"""`--devices 2 --tensor-parallel 2`: two engines, each over two devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shoal import LLM, SamplingParams
from shoal.config import EngineOptions
from shoal.devices import DeviceGroup, LocalProcesses
from shoal.errors import OptionError
from shoal.model.description import ModelDescription
from tests.helpers.models import forest_of_prompts, greedy, save_model


def test_two_engines_of_two_devices_answer_as_transformers(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    llm = LLM(
        str(folder),
        data_parallel_size=2,
        tensor_parallel_size=2,
        dtype="float32",
        device="cpu",
        kv_memory="4MiB",
        max_num_batched_tokens=40,
    )
    try:
        assert isinstance(llm._engine, DeviceGroup)
        assert isinstance(llm._engine.carrier, LocalProcesses)
        assert llm._engine.workers == {0: "cpu:0-1", 1: "cpu:2-3"}
        prompts = forest_of_prompts(0)
        params = SamplingParams(temperature=0.0, max_tokens=6)
        found = llm.generate(prompts, params, use_tqdm=False)
        assert llm.last_run is not None
        assert len(llm.last_run.device_seconds) == 2
    finally:
        llm.close()
    assert [list(out.outputs[0].token_ids) for out in found] == [
        greedy(folder, prompt, 6) for prompt in prompts
    ]


def test_more_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    # The bundled model splits in 3.
    fits = EngineOptions(device="cuda", devices=2, tensor_parallel=3)
    assert ModelDescription.load(None, fits).device.type == "cuda"
    beyond = EngineOptions(device="cuda", devices=3, tensor_parallel=3)
    with pytest.raises(OptionError, match=r"devices 3 of 3 each: .* sees 8 .* devices 2 at most"):
        ModelDescription.load(None, beyond)
