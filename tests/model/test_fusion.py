"""Fused modules: which models get them, and that nothing unproved is used."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from shoal import LLM, SamplingParams
from shoal.attention.reference import ReferenceAttention
from shoal.kernels import load_kernels
from shoal.kernels.ops import Activation, GatedOp, NativeOps
from shoal.model import load as loading
from shoal.model.fusion import fuse, linear, mlp, norm, trial
from shoal.model.fusion.fuse import Fusion, traced_modules
from shoal.model.fusion.layer import fused_layers, narrow
from shoal.model.fusion.proof import models_agree
from shoal.model.load import load_model
from tests.helpers.fused import (
    CPU,
    FUSED,
    PACKED,
    ROUTED,
    SELECTS_ROWS,
    WHOLE,
    WIDE,
    description_of,
    logits,
    needs_kernels,
    needs_packing,
    unfused,
)
from tests.helpers.models import ARCHITECTURES, forest_of_prompts, greedy, save_model


@needs_kernels
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_fused_in_float32(tmp_path: Path, architecture: str) -> None:
    model = load_model(description_of(save_model(tmp_path, architecture), "float32"))
    assert model.fused == FUSED[architecture]
    assert model.selects_rows == (architecture in SELECTS_ROWS)


@needs_kernels
@needs_packing
@pytest.mark.parametrize("held", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_fused_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, held: torch.dtype
) -> None:
    """And its logits are about as near to float32's as those of the unfused model, whichever
    format the weights are held in."""
    monkeypatch.setattr(loading, "product_dtype", lambda *_: held)
    folder = save_model(tmp_path, architecture)
    description = description_of(folder, "bfloat16")
    model = load_model(description)
    assert model.fused == {**FUSED[architecture], "linear": PACKED.get(architecture, 1)}
    assert model.wide == (held == torch.float32 and architecture in WIDE)
    if architecture in ROUTED:
        return
    exact = logits(*unfused(folder, "float32"))
    plain = logits(*unfused(folder, "bfloat16"))
    error, before = (
        float((found.float() - exact).norm()) for found in (logits(model, description), plain)
    )
    assert error < 1.25 * before


@needs_kernels
def test_the_last_layer_skips_rows_nobody_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a prompt's rows only the one sampled from; of a scored prompt every row."""
    rows: list[tuple[int, int]] = []
    forward = mlp.FusedMLP.forward

    def count(self: mlp.FusedMLP, x: torch.Tensor, add: torch.Tensor | None = None) -> Any:
        rows.append((id(self), x.shape[1]))
        return forward(self, x, add)

    llm = LLM(str(save_model(tmp_path, "llama")), dtype="float32", kv_memory="4MiB")
    monkeypatch.setattr(mlp.FusedMLP, "forward", count)
    prompt = list(range(2, 42))
    llm.generate([prompt], SamplingParams(temperature=0.0, max_tokens=1), use_tqdm=False)
    assert [number for _, number in rows] == [40, 1]
    rows.clear()
    scored = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1)
    llm.generate([prompt], scored, use_tqdm=False)
    assert [number for _, number in rows] == [40, 40]


@needs_kernels
@needs_packing
def test_wide_hidden_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 from the first layer to the last, which gives the model's own format again; and
    nearer to a float32 model than rounding after each product is."""
    monkeypatch.setattr(loading, "product_dtype", lambda *_: torch.float32)
    folder = save_model(tmp_path, "llama")
    description = description_of(folder, "bfloat16")
    model = load_model(description)
    seen: list[torch.dtype] = []
    layers = fused_layers(model.module)
    for each in layers:
        each.register_forward_hook(lambda _module, _args, out: seen.append(out.dtype))
    wide = logits(model, description)
    assert seen == [torch.float32, torch.bfloat16]
    narrow(layers)
    seen.clear()
    rounded = logits(model, description)
    assert seen == [torch.bfloat16] * 2
    exact = logits(*unfused(folder, "float32"))
    assert (wide.float() - exact).norm() < (rounded.float() - exact).norm()


@needs_kernels
@needs_packing
@pytest.mark.parametrize("held", [torch.bfloat16, torch.float32])
def test_attention_gives_its_product_what_it_multiplies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: torch.dtype
) -> None:
    """Nothing is rounded to bfloat16 and widened again on the way."""
    monkeypatch.setattr(loading, "product_dtype", lambda *_: held)
    description = description_of(save_model(tmp_path, "llama"), "bfloat16")
    model = load_model(description)
    given: list[torch.dtype] = []
    for layer in fused_layers(model.module):
        out = layer.self_attn.out
        out.register_forward_pre_hook(lambda _module, args: given.append(args[0].dtype))
    logits(model, description)
    assert given == [held] * 2


@needs_kernels
@needs_packing
@pytest.mark.parametrize("breaks", ["raises", "differs"])
def test_hidden_states_stay_narrow_where_the_model_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    monkeypatch.setattr(loading, "product_dtype", lambda *_: torch.float32)
    forward = norm.FusedNorm.forward

    def fail(self: norm.FusedNorm, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float32 and breaks == "raises":
            raise RuntimeError("expected scalar type BFloat16 but found Float")
        return forward(self, x) * (-1 if x.dtype == torch.float32 else 1)

    monkeypatch.setattr(norm.FusedNorm, "forward", fail)
    folder = save_model(tmp_path, "llama")
    description = description_of(folder, "bfloat16")
    model = load_model(description)
    assert not model.wide
    assert model.fused["layer"] == 2
    plain = logits(*unfused(folder, "bfloat16"))
    assert models_agree(logits(model, description), plain)


@needs_kernels
def test_layers_without_positions_are_fused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "smollm3", no_rope_layers=[1, 0])
    assert load_model(description_of(folder, "float32")).fused == WHOLE
    prompt = list(range(2, 40))
    out = LLM(str(folder), dtype="float32").generate(
        [prompt], SamplingParams(temperature=0.0, max_tokens=8), use_tqdm=False
    )
    assert list(out[0].outputs[0].token_ids) == greedy(folder, prompt, 8)


@needs_kernels
def test_fused_attention_runs_on_any_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "select_backend", lambda *_: ReferenceAttention())
    monkeypatch.setattr("shoal.machine.placement.select_backend", lambda *_: ReferenceAttention())
    folder = save_model(tmp_path, "llama")
    llm = LLM(str(folder), dtype="float32", kv_memory="4MiB")
    prompts = forest_of_prompts(2)
    params = SamplingParams(temperature=0.0, max_tokens=6)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    expected = [greedy(folder, prompt, 6) for prompt in prompts]
    assert [list(out.outputs[0].token_ids) for out in outputs] == expected


@needs_kernels
@pytest.mark.parametrize("rows", [1, 16, 17, 40])
@pytest.mark.parametrize("adds", [False, True])
def test_many_rows_go_through_an_mlp_in_blocks(
    monkeypatch: pytest.MonkeyPatch, rows: int, adds: bool
) -> None:
    """None much smaller than the others, and each with its own residuals."""
    plain = nn.Module()
    for name, (inputs, outputs) in {"gate": (8, 32), "up": (8, 32), "down": (32, 8)}.items():
        setattr(plain, f"{name}_proj", nn.Linear(inputs, outputs))
    plain.act_fn = nn.SiLU()
    kernels = load_kernels()
    assert kernels is not None
    monkeypatch.setattr(mlp, "LEAST_ROWS", 1)
    monkeypatch.setattr(mlp, "BLOCK_BYTES", 16 * 64 * 4)
    (fused,) = mlp.mlp_candidates(plain, NativeOps(kernels), torch.float32)
    seen: list[int] = []
    fused.gate_up.register_forward_hook(lambda _module, args, _out: seen.append(args[0].shape[-2]))
    x, residual = torch.randn(1, rows, 8), torch.randn(1, rows, 8)
    with torch.inference_mode():
        out = fused(x, residual if adds else None)
        gated = functional.silu(plain.gate_proj(x)) * plain.up_proj(x)
        expected = plain.down_proj(gated) + (residual if adds else 0)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert seen == {1: [1], 16: [16], 17: [9, 8], 40: [14, 13, 13]}[rows]


@needs_kernels
def test_blocks_of_an_mlp_stay_below_what_is_mapped_anew() -> None:
    """But not below what products need to be fast."""
    kernels = load_kernels()
    assert kernels is not None
    for width, held, rows in (
        (2048, torch.float32, 1024),
        (2048, torch.bfloat16, 2048),
        (28672, torch.float32, 256),
    ):
        up, down = (nn.Linear(*shape, device="meta") for shape in ((8, width), (width, 8)))
        into, back = (linear.Product(*each, held=held, pack=False) for each in ((up, up), (down,)))
        gated = GatedOp(kernels, Activation.silu, held)
        assert mlp.FusedMLP(into, back, gated).block_rows == rows


def test_activations_are_told_apart() -> None:
    assert mlp._activation(nn.SiLU(), CPU) is Activation.silu
    assert mlp._activation(nn.GELU(approximate="tanh"), CPU) is Activation.gelu_tanh
    assert mlp._activation(nn.GELU(), CPU) is None
    assert mlp._activation(nn.ReLU(), CPU) is None
    assert mlp._activation(None, CPU) is None


@needs_packing
def test_replaced_weights_are_let_go(tmp_path: Path) -> None:
    """Each weight is held once, packed; an embedding is a table, which a tied head packs again."""
    model = load_model(description_of(save_model(tmp_path, "llama"), "bfloat16"))
    names = {name for name, _ in model.module.named_parameters()}
    assert names == {"model.embed_tokens.weight"}


@needs_kernels
def test_each_original_goes_as_soon_as_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the weights of a whole model would be held twice."""
    folder = save_model(tmp_path, "llama", num_hidden_layers=4)
    model, description = unfused(folder, "float32")
    trial_ = trial.Trial(model.layers, description)
    with torch.inference_mode():
        trial_.record(traced_modules(model.module), model.logits)
    originals = {
        kind: [weakref.ref(m) for name, m in model.module.named_modules() if name.endswith(kind)]
        for kind in ("up_proj", "q_proj")
    }
    held: dict[str, list[int]] = {kind: [] for kind in originals}

    def count(kind: str, right: Any) -> Any:
        def candidates(*args: Any, **how: Any) -> Any:
            for found in right(*args, **how):
                held[kind].append(sum(each() is not None for each in originals[kind]))
                yield found

        return candidates

    monkeypatch.setattr(fuse, "mlp_candidates", count("up_proj", fuse.mlp_candidates))
    monkeypatch.setattr(fuse, "attention_candidates", count("q_proj", fuse.attention_candidates))
    kernels = load_kernels()
    assert kernels is not None
    with torch.inference_mode():
        Fusion(model.module, model.layers, trial_, torch.float32, pack=False).run(
            NativeOps(kernels)
        )
    assert held == {"up_proj": [4, 3, 2, 1], "q_proj": [4, 3, 2, 1]}
    assert all(each() is None for refs in originals.values() for each in refs)


def test_attention_and_layers_are_traced(tmp_path: Path) -> None:
    model, _ = unfused(save_model(tmp_path, "llama"), "float32")
    kinds = [type(part).__name__ for part in traced_modules(model.module)]
    assert kinds == ["LlamaDecoderLayer", "LlamaAttention"] * 2
