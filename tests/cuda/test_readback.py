"""No transformers forward that we run waits for the device; and the watch sees what would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from shoal.config import EngineOptions
from shoal.cuda.readback import watch_readbacks
from shoal.model.description import ModelDescription
from shoal.model.hook import ATTENTION_NAME, AttentionProbe, attention_step
from shoal.model.load import LoadedModel, prepare_model
from tests.helpers.models import save_model


def load(path: Path, **keywords: object) -> tuple[LoadedModel, ModelDescription]:
    """As on CUDA: no module fused."""
    description = ModelDescription.load(str(path), EngineOptions(dtype="float32", device="cpu"))
    module = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation=ATTENTION_NAME, **keywords
    )
    return prepare_model(module, description), description


def forward(model: LoadedModel) -> torch.Tensor:
    """Two sequences, packed; some rows' logits."""
    positions = torch.tensor([0, 1, 2, 7, 8])
    with attention_step(AttentionProbe()):
        return model.logits(torch.arange(5), positions, torch.tensor([4, 2]))


@pytest.mark.parametrize("grad", [True, False], ids=["autograd", "inference"])
@pytest.mark.parametrize(
    "architecture",
    ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma", "olmo2", "gpt2", "gpt_neox", "smollm3"],
)
def test_a_forward_reads_nothing_back(architecture: str, grad: bool, tmp_path: Path) -> None:
    model, _ = load(save_model(tmp_path, architecture))
    with torch.inference_mode(not grad), watch_readbacks() as found:
        forward(model)
    assert found == []


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0},
        # transformers' own compares lengths on the host; ours goes by each row's.
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_rotary_tables(rope: dict[str, object], tmp_path: Path) -> None:
    parameters = {"rope_theta": 10_000.0, "original_max_position_embeddings": 256, **rope}
    model, _ = load(save_model(tmp_path, "llama", rope_parameters=parameters))
    with torch.inference_mode(), watch_readbacks() as found:
        forward(model)
    assert found == []


@pytest.mark.parametrize("architecture", ["mixtral", "qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize(
    ("experts", "reads_back"), [("eager", True), ("grouped_mm", False), ("batched_mm", False)]
)
def test_a_mixture_of_experts_depends_on_how_experts_are_multiplied(
    architecture: str, experts: str, reads_back: bool, tmp_path: Path
) -> None:
    model, _ = load(save_model(tmp_path, architecture), experts_implementation=experts)
    with torch.inference_mode(), watch_readbacks() as found:
        forward(model)
    assert bool(found) == reads_back
    assert not found or "nonzero" in found[0]


NUMBERS = torch.tensor([3.0, 0.0, 1.0])
READERS: dict[str, Callable[[], object]] = {
    "item": lambda: NUMBERS[0].item(),
    "bool": lambda: bool(NUMBERS[0] > 1),
    "tolist": lambda: [float(number) for number in NUMBERS],
    "any": lambda: bool((NUMBERS > 1).any()),
    "nonzero": lambda: NUMBERS.nonzero(),
    "where": lambda: torch.where(NUMBERS > 0),
    "mask": lambda: NUMBERS[NUMBERS > 0],
    "assign by mask": lambda: NUMBERS.clone().__setitem__(NUMBERS > 0, torch.ones(2)),
    "masked_select": lambda: NUMBERS.masked_select(NUMBERS > 0),
    "unique": lambda: NUMBERS.unique(),
    "bincount": lambda: torch.bincount(NUMBERS.long()),
    "repeat": lambda: torch.arange(3).repeat_interleave(NUMBERS.long()),
    "equal": lambda: torch.equal(NUMBERS, NUMBERS + 1),
    "argwhere": lambda: torch.argwhere(NUMBERS),
}
SILENT: dict[str, Callable[[], object]] = {
    "sum": lambda: NUMBERS.sum() + 1,
    "where": lambda: torch.where(NUMBERS > 0, NUMBERS, 0.0),
    "index": lambda: NUMBERS[torch.tensor([0, 2])],
    "masked_fill": lambda: NUMBERS.masked_fill(NUMBERS > 0, 2.0),
    "repeat": lambda: torch.arange(3).repeat_interleave(2),
    "repeat of known size": lambda: torch.arange(3).repeat_interleave(
        NUMBERS.long(), output_size=4
    ),
    "sort": lambda: NUMBERS.sort(),
    "cumsum": lambda: NUMBERS.cumsum(0),
    "to cpu": lambda: NUMBERS.to("cpu", torch.float64),
}


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("name", READERS)
def test_the_watch_sees_a_readback(name: str, inference: bool) -> None:
    with torch.inference_mode(inference), watch_readbacks() as found:
        READERS[name]()
    assert found


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("name", SILENT)
def test_the_watch_sees_nothing_else(name: str, inference: bool) -> None:
    with torch.inference_mode(inference), watch_readbacks() as found:
        SILENT[name]()
    assert found == []
