"""The ops between matrix products against the same in torch and float64, for every instruction
set this machine has."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from shoal.attention.contract import KVShape
from shoal.attention.native import NativeAttention
from shoal.kernels import Isa, available_isas, load_kernels
from shoal.kernels.ops import (
    ZERO_POINT,
    Activation,
    GatedOp,
    HeadNorm,
    Heads,
    QuantizeOp,
    RmsNormOp,
    RotaryOp,
)

KERNELS = load_kernels()
if KERNELS is None:
    pytest.skip("the C++ kernels are not built", allow_module_level=True)

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 5e-3}
"""Relative; half a bfloat16's step is 4e-3."""

each_isa = pytest.mark.parametrize("isa", available_isas(), ids=lambda isa: isa.name)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    dtype = found.dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance / 4)


@each_isa
@each_dtype
@pytest.mark.parametrize("width", [1, 7, 32, 768, 1001])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(isa: Isa, dtype: torch.dtype, width: int, offset: float) -> None:
    torch.manual_seed(width)
    x, weight = (torch.randn(3, 37, width) * 5).to(dtype), torch.randn(width).to(dtype)
    found = RmsNormOp(KERNELS, weight, 1e-5, offset, isa)(x)
    assert found.shape == x.shape
    wide = x.double()
    scale = (wide.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()
    near(found, wide * scale * (weight.double() + offset))


@each_isa
def test_rms_norm_takes_rows_of_a_view(isa: Isa) -> None:
    x, weight = torch.randn(5, 96), torch.randn(32)
    found = RmsNormOp(KERNELS, weight, 1e-6, isa=isa)(x[:, 32:64])
    near(found, functional.rms_norm(x[:, 32:64].double(), (32,), weight.double(), 1e-6))


@each_isa
@each_dtype
@pytest.mark.parametrize("width", [1, 9, 48, 2048])
@pytest.mark.parametrize("activation", Activation)
def test_gated(isa: Isa, dtype: torch.dtype, width: int, activation: Activation) -> None:
    torch.manual_seed(width)
    x = (torch.randn(1, 33, 2 * width) * 6).to(dtype)
    found = GatedOp(KERNELS, activation, dtype, isa)(x)
    gate, up = x.double().chunk(2, dim=-1)
    if activation is Activation.silu:
        expected = functional.silu(gate) * up
    else:
        expected = functional.gelu(gate, approximate="tanh") * up
    near(found, expected)


@each_isa
@each_dtype
def test_gated_at_the_ends_of_the_range(isa: Isa, dtype: torch.dtype) -> None:
    gate = torch.tensor([-torch.inf, -1e4, -88.0, 0.0, 88.0, 1e4, torch.nan])
    x = torch.cat([gate, torch.ones(7)])[None].to(dtype)
    found = GatedOp(KERNELS, Activation.silu, dtype, isa)(x)[0].float()
    assert found[2:].isnan().tolist() == [False] * 4 + [True]
    assert found[1:6].tolist() == pytest.approx([0, 0, 0, 88, 1e4], abs=1e-30, rel=1e-2)


@each_isa
@each_dtype
@pytest.mark.parametrize("width", [1, 9, 48, 2049])
def test_quantize(isa: Isa, dtype: torch.dtype, width: int) -> None:
    """To the nearest of 127 steps on both sides of 0, whatever a row's size."""
    torch.manual_seed(width)
    x = (torch.randn(41, width) * 10 ** torch.linspace(-20, 20, 41)[:, None]).to(dtype)
    found, scales = QuantizeOp(KERNELS, isa)(x)
    assert found.dtype == torch.uint8
    assert found.shape == x.shape
    assert scales.shape == (41, 1)
    wide = x.double()
    torch.testing.assert_close(
        scales.double(), wide.abs().amax(dim=1, keepdim=True) / 127, rtol=1e-6, atol=0
    )
    steps = found.double() - ZERO_POINT
    assert ((steps - wide / scales.double()).abs() <= 0.5001).all()


@each_isa
@each_dtype
def test_quantize_at_the_ends_of_the_range(isa: Isa, dtype: torch.dtype) -> None:
    x = torch.ones(6, 40)
    x[0], x[1, 7], x[2, 39], x[3, 0] = 0, torch.nan, torch.inf, -torch.inf
    x[4] *= 1e-40
    found, scales = QuantizeOp(KERNELS, isa)(x.to(dtype))
    assert scales[:, 0].isnan().tolist() == [False, True, True, True, False, False]
    assert found[0].tolist() == [ZERO_POINT] * 40
    assert scales[0] == 0
    assert 0 <= scales[4] < 1e-40
    assert found[5].tolist() == [ZERO_POINT + 127] * 40


@each_isa
def test_quantize_takes_a_view(isa: Isa) -> None:
    x = torch.randn(5, 96)
    found = QuantizeOp(KERNELS, isa)(x[:, 32:64])
    expected = QuantizeOp(KERNELS, isa)(x[:, 32:64].clone())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.long
@each_isa
@each_dtype
@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("heads", "rotary_dim", "rows"),
    [
        (Heads(4, 2, 8, 8), 8, 37),
        (Heads(3, 1, 64, 64), 64, 300),
        (Heads(6, 3, 80, 48), 32, 70),
        (Heads(2, 2, 2, 6), 0, 5),
    ],
)
def test_rotary(
    isa: Isa,
    dtype: torch.dtype,
    neighbours: bool,
    normed: bool,
    heads: Heads,
    rotary_dim: int,
    rows: int,
) -> None:
    """Queries are turned in place; what the pool holds is what storing turned keys gives."""
    torch.manual_seed(rows)
    qkv = torch.randn(rows, heads.width).to(dtype)
    angle = torch.rand(rows, rotary_dim // 2) * 6
    angle = angle.repeat_interleave(2, dim=1) if neighbours else torch.cat([angle, angle], dim=1)
    angles = angle.cos().to(dtype), angle.sin().to(dtype)
    weights = torch.randn(2, heads.key_dim).to(dtype)
    norm = HeadNorm(weights[0], weights[1], 1e-6, 0.5) if normed else None
    expected = turned(qkv, heads, angles, norm, neighbours)

    backend = NativeAttention(KERNELS)
    shape = KVShape(
        heads.kv_heads, heads.key_dim, heads.value_dim, 40, 32, dtype, torch.device("cpu")
    )
    layer, reference = backend.allocate(shape), backend.allocate(shape)
    layer.values.fill_(torch.nan)
    reference.values.fill_(torch.nan)
    slots = scattered_slots(rows)
    op = RotaryOp(KERNELS, heads, dtype, neighbours=neighbours, norm=norm, isa=isa)
    op.set_pool(40 * 32)
    op(qkv, angles if rotary_dim else None, slots, layer.keys, layer.values)

    near(qkv, expected)
    key, value = qkv[:, heads.heads * heads.key_dim :].split(
        [heads.kv_heads * heads.key_dim, heads.kv_heads * heads.value_dim], dim=1
    )
    backend.store(
        reference,
        slots,
        key.view(rows, heads.kv_heads, -1).transpose(0, 1),
        value.view(rows, heads.kv_heads, -1).transpose(0, 1),
    )
    torch.testing.assert_close(layer.keys, reference.keys, rtol=0, atol=0)
    torch.testing.assert_close(layer.values, reference.values, rtol=0, atol=0, equal_nan=True)


@each_isa
@pytest.mark.parametrize("normed", [False, True])
def test_rotary_from_float32(isa: Isa, normed: bool) -> None:
    """Rounded first, then turned and stored: as if the rows had been in bfloat16."""
    heads = Heads(6, 3, 64, 48)
    wide = torch.randn(70, heads.width)
    before = wide.clone()
    angle = torch.rand(70, 64)
    angles = angle.cos(), angle.sin()
    weights = torch.randn(2, heads.key_dim).bfloat16()
    norm = HeadNorm(weights[0], weights[1], 1e-6, 0.5) if normed else None
    op = RotaryOp(KERNELS, heads, torch.bfloat16, norm=norm, isa=isa)
    op.set_pool(40 * 32)
    shape = KVShape(3, 64, 48, 40, 32, torch.bfloat16, torch.device("cpu"))
    found, expected = (NativeAttention(KERNELS).allocate(shape) for _ in range(2))
    slots = scattered_slots(70)
    turned = op(wide, angles, slots, found.keys, found.values)
    narrow = wide.bfloat16()
    assert op(narrow, angles, slots, expected.keys, expected.values) is narrow
    assert torch.equal(turned, narrow)
    assert torch.equal(wide, before)
    assert torch.equal(found.keys, expected.keys)
    assert torch.equal(found.values, expected.values)


def scattered_slots(rows: int) -> torch.Tensor:
    """Runs of rows: one that starts inside a block, whole blocks, single rows."""
    blocks = torch.randperm(40)
    runs = [blocks[0] * 32 + torch.arange(31, 32), blocks[1] * 32 + torch.arange(3)]
    runs += [block * 32 + torch.arange(32) for block in blocks[2:]]
    return torch.cat(runs)[:rows].contiguous()


def turned(
    qkv: torch.Tensor,
    heads: Heads,
    angles: tuple[torch.Tensor, torch.Tensor],
    norm: HeadNorm | None,
    neighbours: bool,
) -> torch.Tensor:
    """The same in float64, but for the rounding of a head that was normed."""
    count, dim = heads.heads + heads.kv_heads, heads.key_dim
    turning, values = qkv.split([count * dim, heads.width - count * dim], dim=1)
    x = turning.view(-1, count, dim).double()
    if norm is not None:
        weight = torch.stack([norm.query] * heads.heads + [norm.key] * heads.kv_heads)
        scale = (x.pow(2).mean(-1, keepdim=True) + norm.eps).rsqrt()
        x = (x * scale * (weight.double() + norm.offset)).to(qkv.dtype).double()
    cos, sin = (a.double()[:, None] for a in angles)
    part, rest = x.split([cos.shape[-1], dim - cos.shape[-1]], dim=-1)
    if neighbours:
        other = torch.stack([-part[..., 1::2], part[..., ::2]], dim=-1).flatten(-2)
    else:
        low, high = part.chunk(2, dim=-1)
        other = torch.cat([-high, low], dim=-1)
    x = torch.cat([part * cos + other * sin, rest], dim=-1)
    return torch.cat([x.flatten(1), values.double()], dim=1)
