"""Quantised checkpoints: the texts of `transformers` on the same files, and who is refused."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shoal import LLM, SamplingParams
from shoal.config import EngineOptions, Quantization
from shoal.errors import OptionError, UnsupportedModelError
from shoal.machine.capacity import estimate
from shoal.machine.model_costs import default_costs
from shoal.machine.weight_counts import count_weights
from shoal.model import prove_rows as proof
from shoal.model import stored_format as formats
from shoal.model.description import ModelDescription
from shoal.model.fusion.linear import is_plain
from shoal.model.load import load_model
from shoal.model.model_files import fingerprint
from tests.helpers.cuda_standins import MadeUpMemory
from tests.helpers.models import forest_of_prompts, greedy, oracle, save_model
from tests.helpers.quantized_models import FORMATS, save_quantized

MAX_NEW_TOKENS = 8
PROMPTS = forest_of_prompts(0)[:8]
BY_THE_BATCH = {"compressed-tensors W8A8 per tensor", "bitsandbytes 8 bits"}
ROUND_INPUTS = {"compressed-tensors W8A8", "compressed-tensors W8A8 static",
                "compressed-tensors FP8 dynamic", "torchao int8 dynamic",
                "bitsandbytes 8 bits no outliers"}  # fmt: skip
RUN = [name for name in FORMATS if name not in BY_THE_BATCH]
WIDENED = {"compressed-tensors W8A16", "compressed-tensors W4A16", "fp8", "mxfp4"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkpoint of a format, written once."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name.startswith("torchao"):  # `make test-torchao` has it
            pytest.importorskip("torchao")
        if name not in made:
            made[name] = save_quantized(tmp_path_factory.mktemp("quantized"), name)
        return made[name]

    return of


def described(folder: Path, **options: Any) -> ModelDescription:
    given = {"dtype": "float32", "device": "cpu"} | options
    return ModelDescription.load(str(folder), EngineOptions(**given))


def is_near_tie(folder: Path, prompt: list[int], found: list[int], expected: list[int]) -> bool:
    """Whether transformers gives both tokens nearly the same logit where the texts part."""
    same = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    with torch.inference_mode():
        logits = oracle(folder)(torch.tensor([prompt + expected[:same]])).logits[0, -1]
    gap = logits[expected[same]] - logits[found[same]]
    return bool(gap < 0.1 * logits.std())


@pytest.mark.parametrize("name", RUN)
def test_equals_transformers(saved: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved(name)
    with caplog.at_level(logging.INFO, logger="shoal"):
        llm = LLM(
            str(folder), dtype="float32", device="cpu", kv_memory="4MiB", max_num_batched_tokens=65
        )
    said = [text for text in caplog.messages if text.startswith("quantised weights: ")]
    assert len(said) == 1
    assert ("widened to" in said[0]) == (name in WIDENED or name.startswith("compressed"))
    assert ("0 of" in said[0]) == (name in WIDENED)
    params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
    outputs = llm.generate(PROMPTS, params, use_tqdm=False)
    found = [list(out.outputs[0].token_ids) for out in outputs]
    expected = [greedy(folder, prompt, MAX_NEW_TOKENS) for prompt in PROMPTS]
    differing = [i for i in range(len(PROMPTS)) if found[i] != expected[i]]
    if name in ROUND_INPUTS:
        # A difference in the last bit may turn the rounding of an input, a step of 1/127.
        # transformers parts from itself as often, with another attention: on 6 of 24 prompts.
        assert len(differing) <= 3
        assert all(is_near_tie(folder, PROMPTS[i], found[i], expected[i]) for i in differing)
    else:
        assert not differing


@pytest.mark.parametrize("name", sorted(BY_THE_BATCH))
def test_rounding_by_the_batch_is_refused(saved: Any, name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="rounding depends on the batch") as caught:
        load_model(described(saved(name)))
    assert caught.value.feature == "rounding that depends on the batch"


def test_rows_are_tried_alone_too() -> None:
    """As torchao's `weight_only_decode` does, which rounds inputs of several rows alone."""

    class Decoding(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            step = x.abs().amax(dim=-1, keepdim=True) / 127
            return super().forward(x if x.shape[1] == 1 else (x / step).round() * step)

    with pytest.raises(UnsupportedModelError, match="something else alone than among others"):
        proof.prove_rows(nn.ModuleDict({"layer": Decoding(64, 64)}), "test")


@pytest.mark.parametrize("name", ["torchao int8", "bitsandbytes nf4", "compressed-tensors W8A8"])
def test_layers_of_a_format_are_not_taken_for_plain_ones(saved: Any, name: str) -> None:
    model = load_model(described(saved(name)))
    own = [p for n, p in model.module.named_modules() if n.endswith("_proj")]
    assert len(own) == 14
    assert not any(is_plain(part) for part in own)
    assert set(model.fused) == {"norm"}


def parts_of(tensor: Any) -> list[torch.Tensor]:
    """What one of torchao's tensors is made of; a plain one itself."""
    parts = [getattr(tensor, name, None) for name in ("qdata", "scale", "zero_point")]
    return [part for part in parts if part is not None] or [tensor]


def test_memory_is_counted_as_stored(saved: Any) -> None:
    kept, widened = described(saved("torchao int8")), described(saved("compressed-tensors W4A16"))
    counts = count_weights(kept.config)
    whole = oracle(saved("torchao int8"))
    tensors = [each for each in whole.parameters() if each.shape[0] != 256]
    held = sum(each.nbytes for tensor in tensors for each in parts_of(tensor.data))
    assert kept.stored is not None
    assert kept.stored.weights is not None
    assert kept.stored.weights.layer_bytes == held
    assert default_costs(kept).weight_bytes == held + 4 * counts.head
    assert default_costs(widened).weight_bytes == 4 * (counts.layers + counts.head)
    options = EngineOptions(dtype="float32", token_budget=512)
    memory = MadeUpMemory(2**30)
    more = estimate(kept, options, memory) - estimate(widened, options, memory)
    assert more == 4 * counts.layers - held


def test_the_format_is_part_of_a_models_identity(saved: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved("bitsandbytes nf4"), tmp_path / "other"))
    before = fingerprint(str(folder))
    change_config(folder, bnb_4bit_compute_dtype="bfloat16")
    (folder / "quantize_config.json").write_text("{}")
    after = fingerprint(str(folder))
    assert before["config.json"] != after["config.json"]
    assert "quantize_config.json" in after


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = config.get("quantization_config", {}) | changes
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(("method", "named"), [
    ("gptq", "quantised by gptq: Shoal does not run such checkpoints. Use the unquantised model"),
    ("awq", "one of these formats: compressed-tensors, torchao, bitsandbytes, fp8, mxfp4"),
    ("compressed-tensors", "Its quantization_config cannot be read"),
])  # fmt: skip
def test_other_formats_are_refused_by_name(tmp_path: Path, method: str, named: str) -> None:
    change_config(save_model(tmp_path, "llama"), quant_method=method)
    with pytest.raises(UnsupportedModelError, match=named):
        described(tmp_path)


def test_a_missing_package_is_named(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("torchao int8")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedModelError, match=r"pip install torchao$"):
        described(folder)


def test_options_that_do_not_go_with_it(saved: Any) -> None:
    with pytest.raises(OptionError, match="not split over devices"):
        described(saved("bitsandbytes nf4"), tensor_parallel=2)
    with pytest.raises(OptionError, match="quantised already"):
        described(saved("torchao int8"), quantization=Quantization.int8)


def test_int8_products_of_what_was_widened(saved: Any) -> None:
    model = load_model(described(saved("fp8"), quantization=Quantization.int8))
    assert model.fused["int8"] == 8
