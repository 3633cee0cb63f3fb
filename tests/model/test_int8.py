"""Products in 8 bits: how near they are, what becomes of each architecture, who is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.int8 import accuracy, tickets
from shoal import LLM, SamplingParams
from shoal.config import EngineOptions, Quantization
from shoal.errors import OptionError, UnsupportedModelError
from shoal.kernels import load_kernels
from shoal.model import load as loading
from shoal.model import quantization
from shoal.model.description import ModelDescription
from shoal.model.fusion import Trial, int8
from shoal.model.fusion.int8 import Int8Product, quantize
from shoal.model.fusion.linear import Product
from shoal.model.load import LoadedModel, load_model, prepare_model
from shoal.model.quantization import check_quantization
from tests.helpers.fused import FUSED
from tests.helpers.models import ARCHITECTURES, forest_of_prompts, save_model

KERNELS: Any = load_kernels()
CPU = torch.device("cpu")


def can_run() -> bool:
    try:
        check_quantization(Quantization.int8, CPU, torch.float32, 1)
    except OptionError:
        return False
    return True


needs_int8 = pytest.mark.skipif(not can_run(), reason="no C++ kernels, or no VNNI")

PRODUCTS = dict.fromkeys(ARCHITECTURES, 8) | {"olmo2": 12, "mixtral": 4, "qwen3_moe": 4}
"""Four of each of two layers; q, k and v apart where they are not fused; experts are left."""
del PRODUCTS["gpt2"]
PARTLY = {"mixtral", "qwen3_moe", "qwen2_moe"}


def layer(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    torch.manual_seed(inputs + outputs)
    return nn.Linear(inputs, outputs, bias=bias)


def described(folder: Path, dtype: str, quantization: str = "none") -> ModelDescription:
    options = EngineOptions(dtype=dtype, device="cpu", quantization=quantization)
    return ModelDescription.load(str(folder), options)


def logits(model: LoadedModel, description: ModelDescription) -> torch.Tensor:
    with torch.inference_mode():
        return Trial(model.layers, description).run(model.logits).float()


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 256), (771, 130), (2048, 768)])
def test_a_product_is_near(
    dtype: torch.dtype, bias: bool, added: bool, inputs: int, outputs: int
) -> None:
    linear = layer(inputs, outputs, bias=bias)
    x = (torch.randn(1, 37, inputs) * torch.logspace(-3, 3, 37)[:, None]).to(dtype)
    add = torch.randn(1, 37, outputs).to(dtype) if added else None
    with torch.inference_mode():
        found = Int8Product(linear.weight, linear.bias, KERNELS)(x, add)
        expected = linear(x.float()) + (0 if add is None else add)
    assert found.dtype == dtype
    assert found.shape == expected.shape
    for row, exact in zip(found[0], expected[0], strict=True):
        assert distance(row, exact) < 0.02


@needs_int8
def test_rows_do_not_depend_on_the_rows_beside_them() -> None:
    linear = layer(256, 320, bias=True)
    product = Int8Product(linear.weight, linear.bias, KERNELS)
    x = torch.randn(300, 256) * 10 ** torch.linspace(-3, 3, 300)[:, None]
    with torch.inference_mode():
        together = product(x)
        for rows in (slice(0, 1), slice(7, 9), slice(100, 233)):
            assert torch.equal(product(x[rows]), together[rows])


@needs_int8
def test_what_is_not_finite_comes_out_as_nan() -> None:
    """And in its own row only, so that the request it belongs to is found."""
    linear = layer(64, 64, bias=False)
    x = torch.randn(5, 64)
    x[1, 3], x[2, 5], x[3] = torch.nan, torch.inf, 0
    with torch.inference_mode():
        found = Int8Product(linear.weight, linear.bias, KERNELS)(x)
    assert found.isnan().all(dim=1).tolist() == [False, True, True, False, False]
    assert not found.isnan()[[0, 3, 4]].any()
    assert not found[3].any()


@needs_int8
def test_weights_that_are_all_zero() -> None:
    linear = layer(64, 32, bias=True)
    with torch.inference_mode():
        linear.weight[3] = 0
        found = Int8Product(linear.weight, linear.bias, KERNELS)(torch.randn(4, 64))
    assert torch.equal(found[:, 3], linear.bias[3].expand(4))


@needs_int8
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", PRODUCTS)
def test_what_is_quantized(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, architecture: str, dtype: str
) -> None:
    """On top of what is fused in any case; and the logits are still the model's."""
    folder = save_model(tmp_path, architecture)
    description = described(folder, dtype, "int8")
    with caplog.at_level(logging.WARNING):
        model = load_model(description)
    fused = {kind: count for kind, count in model.fused.items() if kind != "linear"}
    assert fused == {**FUSED[architecture], "int8": PRODUCTS[architecture]}
    left = {name for name, part in model.module.named_modules() if isinstance(part, Product)}
    gates = {f"model.layers.{i}.mlp.shared_expert_gate" for i in (0, 1)}
    assert left <= {"lm_head", "embed_out"} | gates
    assert ("% of the weights" in caplog.text) == (architecture in PARTLY)
    plain = described(folder, "float32")
    exact = logits(prepare_model(loading._read_weights(plain), plain), plain)
    # A router's choice may turn on it.
    assert distance(logits(model, description), exact) < (0.3 if architecture in PARTLY else 0.1)


@needs_int8
def test_the_head_and_gates_are_left(tmp_path: Path) -> None:
    model = load_model(described(save_model(tmp_path, "qwen2_moe"), "float32", "int8"))
    left = {name for name, part in model.module.named_modules() if type(part) is nn.Linear}
    assert left == {"lm_head"} | {f"model.layers.{i}.mlp.shared_expert_gate" for i in (0, 1)}


@needs_int8
def test_weights_that_are_lost_beside_a_large_one_are_left_as_they_are() -> None:
    fine, spoilt = (layer(20_000, 32, bias=False) for _ in range(2))
    with torch.no_grad():
        spoilt.weight[:, 7] = 200 * spoilt.weight.abs().max()
    model = nn.ModuleDict({"fine": fine, "ours": Product(spoilt, pack=False), "theirs": spoilt})
    with torch.inference_mode():
        done = quantize(model, None, KERNELS)
    assert done.products == 1
    assert done.refused == (".ours", ".theirs")
    assert done.share == pytest.approx(1 / 3)
    assert isinstance(model["fine"], Int8Product)
    assert isinstance(model["ours"], Product)
    assert model["theirs"] is spoilt


@needs_int8
def test_refused_weights_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def disagree(found: torch.Tensor, _expected: torch.Tensor, _tolerance: float) -> bool:
        return found.shape[-1] != 2 * 48  # gate and up

    monkeypatch.setattr(int8, "agree", disagree)
    with caplog.at_level(logging.WARNING):
        model = load_model(described(save_model(tmp_path, "llama"), "bfloat16", "int8"))
    assert model.fused["int8"] == 6
    names = [f"model.layers.{i}.mlp.gate_up" for i in (0, 1)]
    assert f"too few for their weights: {', '.join(names)}" in caplog.text
    assert "of the weights of this model's layers" in caplog.text
    for name in names:
        product = model.module.get_submodule(name)
        assert isinstance(product, Product)
        assert product.packed


@needs_int8
def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="'gpt2' have no products that can be"):
        load_model(described(save_model(tmp_path, "gpt2"), "float32", "int8"))


@needs_int8
def test_what_cannot_be_fused_is_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "models_agree", lambda *_: False)
    folder = save_model(tmp_path, "llama")
    description = described(folder, "float32", "int8")
    model = load_model(description)
    assert model.fused == {"int8": 14}  # q, k, v, o, gate, up, down
    plain = described(folder, "float32")
    exact = logits(prepare_model(loading._read_weights(plain), plain), plain)
    assert 0 < distance(logits(model, description), exact) < 0.1


@needs_int8
def test_weights_are_held_once(tmp_path: Path) -> None:
    model = load_model(described(save_model(tmp_path, "llama"), "bfloat16", "int8"))
    names = {name for name, _ in model.module.named_parameters()}
    assert names == {"model.embed_tokens.weight"}


@needs_int8
def test_sharing_and_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    """Scales are of rows: what is beside a prompt in a batch does not matter to it."""
    folder = str(save_model(tmp_path, "llama"))
    prompts = forest_of_prompts(3)
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    found = []
    for sharing, budget in (("forest", 512), ("none", 9)):
        llm = LLM(
            folder,
            dtype="float32",
            quantization="int8",
            sharing=sharing,
            max_num_batched_tokens=budget,
        )
        outputs = llm.generate(prompts, params, use_tqdm=False)
        known = [entry for out in outputs for entry in out.prompt_logprobs or () if entry]
        found.append(torch.tensor([each.logprob for entry in known for each in entry.values()]))
        llm.close()
    # A rounding of attention may move a number by one of the 127 steps.
    assert (found[0] - found[1]).abs().median() < 1e-4
    assert (found[0] - found[1]).abs().max() < 0.2


@needs_int8
def test_accuracy_of_the_bundled_model() -> None:
    assert accuracy(tickets("int8", 1.0)) >= 0.95


@pytest.mark.parametrize(
    ("device", "dtype", "parts", "message"),
    [
        ("cuda", torch.bfloat16, 1, "runs on the CPU, and this job on cuda"),
        ("cpu", torch.float16, 1, "this model runs in float16: give --dtype bfloat16"),
        ("cpu", torch.bfloat16, 2, "does not go with tensor_parallel 2"),
    ],
)
def test_where_it_cannot_be_had(device: str, dtype: torch.dtype, parts: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_quantization(Quantization.int8, torch.device(device), dtype, parts)
    check_quantization(Quantization.none, torch.device(device), dtype, parts)


def test_what_the_machine_must_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "load_kernels", lambda: KERNELS or object())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    with pytest.raises(OptionError, match="VNNI"):
        check_quantization(Quantization.int8, CPU, torch.float32, 1)
    for name in ("avx_vnni", "avx512_vnni"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=name: {name: True})
        check_quantization(Quantization.int8, CPU, torch.float32, 1)
    monkeypatch.setattr(quantization, "load_kernels", lambda: None)
    monkeypatch.setattr(quantization, "missing_note", lambda: "there is no compiler")
    with pytest.raises(OptionError, match=r"needs the C\+\+ kernels: there is no compiler"):
        check_quantization(Quantization.int8, CPU, torch.float32, 1)
