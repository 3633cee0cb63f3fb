"""The Triton ops against torch and transformers' modules; see tests/helpers/interpreter.py."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from shoal.kernels.ops import Activation, HeadNorm, Heads
from shoal.kernels.triton_ops import TritonOps

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Of the largest number: a rounding of the format or two; the ops round less often than torch."""
DTYPES = list(TOLERANCE)
OPS = TritonOps()


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if expected.numel():
        atol = TOLERANCE[expected.dtype] * float(expected.detach().abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 16, 48, 896, 3584])
@pytest.mark.parametrize("kind", [LlamaRMSNorm, GemmaRMSNorm])
def test_norms(kind: type, width: int, dtype: torch.dtype) -> None:
    norm = kind(width, eps=1e-2).to(dtype)
    norm.weight.data = numbers(width, dtype=dtype, seed=1)
    offset = 1.0 if kind is GemmaRMSNorm else 0.0
    op = OPS.rms_norm(norm.weight.detach(), 1e-2, offset)
    with torch.inference_mode():
        for x in (numbers(1, 3, width, dtype=dtype), numbers(1, width, dtype=dtype)):
            near(op(3 * x), norm(3 * x))
        assert op(x[:0]).shape == (0, width)


def test_a_norm_without_offset_rounds_where_llamas_does() -> None:
    """To the bit, but for a few numbers: the sum of squares is taken in another order. Of bfloat16
    the interpreter cuts digits off instead of rounding."""
    dtype = torch.float16
    norm = LlamaRMSNorm(512).to(dtype)
    norm.weight.data = numbers(512, dtype=dtype, seed=1)
    x = numbers(8, 512, dtype=dtype)
    found = OPS.rms_norm(norm.weight.detach(), norm.variance_epsilon, 0.0)(x)
    assert (found == norm(x)).float().mean() > 0.99


def test_norms_of_strided_rows() -> None:
    """Parts of the rows of a merged product, and heads that were transposed."""
    rows = numbers(5, 100, dtype=torch.float32)
    norm = LlamaRMSNorm(32)
    norm.weight.data = numbers(32, dtype=torch.float32, seed=1)
    op = OPS.rms_norm(norm.weight.detach(), norm.variance_epsilon, 0.0)
    heads = rows[:, :96].view(1, 5, 3, 32)
    for x in (rows[:, 40:72], heads, heads.transpose(1, 2), rows[:, 4:].T[:32].T):
        near(op(x), norm(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 48, 1024, 1500])
@pytest.mark.parametrize("activation", Activation)
def test_gates(activation: Activation, width: int, dtype: torch.dtype) -> None:
    op = OPS.gated(activation, dtype)
    for rows in (3, 1, 0):
        # Neighbours of a block's numbers are in the memory beyond it, and are no numbers.
        wide = torch.full((rows, 2 * width + 7), torch.nan, dtype=dtype)
        gate_up = wide[:, : 2 * width].copy_(4 * numbers(rows, 2 * width, dtype=dtype))
        gate, up = gate_up.float().chunk(2, dim=-1)
        gate = (
            functional.silu(gate)
            if activation is Activation.silu
            else functional.gelu(gate, approximate="tanh")
        )
        near(op(gate_up), (gate * up).to(dtype))
        near(op(gate_up[None]), (gate * up).to(dtype)[None])


def test_gates_far_from_zero() -> None:
    for activation in Activation:
        gate_up = torch.tensor([[-200.0, 200.0, -20.0, 1.0, 2.0, 3.0]])
        found = OPS.gated(activation, torch.float32)(gate_up)
        assert found[0, :2].tolist() == [0.0, 400.0]
        assert abs(found[0, 2]) < 1e-6


def rotated(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, neighbours: bool
) -> torch.Tensor:
    """x: [T, heads, dim], by transformers' formula; cos, sin: [T, rotary_dim]."""
    dim = cos.shape[1]
    part = x[..., :dim]
    if neighbours:
        pairs = torch.stack([-part[..., 1::2], part[..., ::2]], dim=-1).flatten(-2)
        turned = part * cos[:, None] + pairs * sin[:, None]
    else:
        turned, _ = apply_rotary_pos_emb(part, part, cos, sin, unsqueeze_dim=1)
    return torch.cat([turned, x[..., dim:]], dim=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [None, 0.0, 1.0])
@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize(
    ("heads", "rotary_dim"),
    [
        (Heads(4, 2, 16, 16), 16),
        (Heads(7, 1, 64, 64), 64),
        (Heads(3, 3, 80, 80), 32),
        (Heads(33, 2, 6, 4), 2),
        (Heads(2, 1, 128, 128), 0),
    ],
    ids=str,
)
def test_heads_are_turned(
    heads: Heads, rotary_dim: int, neighbours: bool, normed: float | None, dtype: torch.dtype
) -> None:
    turning, dim = heads.heads + heads.kv_heads, heads.key_dim
    weights = numbers(2, dim, dtype=dtype, seed=3)
    norm = None if normed is None else HeadNorm(weights[0], weights[1], 1e-2, normed)
    op = OPS.rotation(heads, dtype, neighbours=neighbours, norm=norm)
    for rows in (5, 1, 0):
        qkv = numbers(rows, heads.width, dtype=dtype)
        cos, sin = (numbers(rows, rotary_dim, dtype=dtype, seed=seed) for seed in (1, 2))
        turned = qkv.float()[:, : turning * dim].view(rows, turning, dim)
        if normed is not None:
            weight = weights.float().repeat_interleave(
                torch.tensor([heads.heads, heads.kv_heads]), dim=0
            )
            scale = torch.rsqrt(turned.square().mean(-1, keepdim=True) + 1e-2)
            turned = turned * scale * (weight + normed)
        if rotary_dim:
            turned = rotated(turned, cos.float(), sin.float(), neighbours)
        expected = qkv.clone()
        expected[:, : turning * dim] = turned.flatten(1).to(dtype)
        found = op(qkv, (cos, sin) if rotary_dim else None)
        assert found is qkv
        near(found, expected)
        values = slice(turning * dim, None)
        assert torch.equal(found[:, values], expected[:, values])


def test_rows_and_angles_of_any_stride() -> None:
    heads = Heads(2, 1, 16, 16)
    wide = numbers(4, heads.width + 8, dtype=torch.float32)
    cos, sin = (numbers(16, 4, dtype=torch.float32, seed=seed).T for seed in (1, 2))
    dense = wide[:, : heads.width].contiguous()
    op = OPS.rotation(heads, torch.float32, neighbours=False, norm=None)
    op(dense, (cos, sin))
    beyond = wide[:, heads.width :].clone()
    assert torch.equal(op(wide[:, : heads.width], (cos, sin)), dense)
    assert torch.equal(wide[:, heads.width :], beyond)
