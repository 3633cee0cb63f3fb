"""In which format products run, and that they round only what they return."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from shoal.kernels import Isa, Kernels, load_kernels
from shoal.model.fusion import linear, precision
from shoal.model.fusion.linear import BlockedProduct, Product, product_of
from shoal.model.fusion.precision import available_bytes, product_dtype

BF16, F32 = torch.bfloat16, torch.float32


def layer(inputs: int, outputs: int, *, bias: bool = True, dtype: torch.dtype = BF16) -> nn.Linear:
    torch.manual_seed(inputs + outputs)
    return nn.Linear(inputs, outputs, bias=bias).to(dtype)


def kernels_of(isa: Isa) -> Any:
    return SimpleNamespace(isa=isa)


@pytest.mark.parametrize(
    ("isa", "expected"),
    [(Isa.avx2, F32), (Isa.avx512, F32), (Isa.avx512_bf16, BF16), (Isa.amx_bf16, BF16)],
)
def test_float32_where_bfloat16_is_slow(isa: Isa, expected: torch.dtype) -> None:
    assert product_dtype(layer(8, 8), kernels_of(isa)) == expected


def test_other_models_keep_their_format() -> None:
    assert product_dtype(layer(8, 8, dtype=F32), kernels_of(Isa.avx512)) == F32
    assert product_dtype(layer(8, 8, dtype=torch.float16), kernels_of(Isa.avx512)) == torch.float16
    assert product_dtype(layer(8, 8), None) == BF16


def test_weights_that_would_not_fit_stay_small(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Sequential(layer(64, 64), layer(64, 64))
    more = 2 * 64 * 64 * 2
    monkeypatch.setattr(precision, "available_bytes", lambda: 2 * more)
    assert product_dtype(model, kernels_of(Isa.avx512)) == F32
    monkeypatch.setattr(precision, "available_bytes", lambda: 2 * more - 2)
    assert product_dtype(model, kernels_of(Isa.avx512)) == BF16
    assert "they stay in bfloat16" in caplog.text


def test_available_memory_is_some() -> None:
    assert 2**20 < available_bytes() < 2**50


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 19])
def test_held_in_float32_only_the_result_is_rounded(rows: int, bias: bool) -> None:
    parts = layer(48, 32, bias=bias), layer(48, 16, bias=bias)
    product = Product(*parts, held=F32)
    x, add = torch.randn(1, rows, 48).to(BF16), torch.randn(1, rows, 48).to(BF16)
    exact = torch.cat([part.double()(x.double()) for part in parts], dim=-1)
    assert product(x).dtype == BF16
    assert_rounded(product(x), exact)
    assert_rounded(product(x, add), exact + add.double())
    wide = product(x.float())
    assert wide.dtype == F32
    torch.testing.assert_close(wide.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernels", [None, load_kernels()], ids=["no kernels", "kernels"])
def test_many_outputs_block_by_block(
    monkeypatch: pytest.MonkeyPatch, kernels: Kernels | None, bias: bool
) -> None:
    monkeypatch.setattr(linear, "BLOCK_OUTPUTS", 32)
    whole = layer(48, 3 * 32 + 5, bias=bias)
    product = product_of(whole, F32, kernels)
    assert isinstance(product, BlockedProduct)
    assert [block.out_features for block in product.blocks] == [32, 32, 32, 5]
    x = torch.randn(1, 19, 48).to(BF16)
    assert product(x).dtype == BF16
    assert_rounded(product(x), whole.double()(x.double()))


def test_other_layers_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "BLOCK_OUTPUTS", 32)
    assert type(product_of(layer(48, 64), F32, None)) is Product
    assert type(product_of(layer(48, 101), BF16, None)) is Product


def assert_rounded(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Within half a unit in the last place of bfloat16, and what float32 sums differ by."""
    unit = 2.0**-8 * exact.abs() + 1e-6
    assert bool(((found.double() - exact).abs() <= 1.01 * unit + 1e-5).all())
