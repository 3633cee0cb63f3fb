"""Packed weights: both libraries multiply any number of rows, and the faster one is taken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from shoal.kernels.processor import processor_field
from shoal.model.fusion import packed
from shoal.model.fusion.packed import MklWeight, OneDnnWeight, mkl_is_faster, pack_weight

needs_mkl = pytest.mark.skipif(
    not torch.backends.mkl.is_available(), reason="this build of torch has no MKL"
)
LIBRARIES = [OneDnnWeight, pytest.param(MklWeight, marks=needs_mkl)]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("shape", [(0,), (1,), (37,), (255,), (256,), (257,), (1, 900), (2, 3)])
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 96), (33, 7), (200, 1)])
def test_any_number_of_rows_is_multiplied(
    library: type[OneDnnWeight] | type[MklWeight],
    shape: tuple[int, ...],
    inputs: int,
    outputs: int,
) -> None:
    generator = torch.Generator().manual_seed(inputs)
    weight, bias = (
        torch.randn(*size, generator=generator) for size in ((outputs, inputs), (outputs,))
    )
    x = torch.randn(*shape, inputs, generator=generator)
    add = torch.randn(*shape, outputs, generator=generator)
    multiply = library(weight)
    before = x.clone(), add.clone()
    for b in (None, bias):
        expected = functional.linear(x.double(), weight.double(), None if b is None else b.double())
        for a in (None, add):
            wanted = expected if a is None else expected + a
            torch.testing.assert_close(
                multiply(x, b, a), wanted.float(), rtol=1e-5, atol=1e-5, check_stride=False
            )
    assert torch.equal(x, before[0])
    assert torch.equal(add, before[1])


@needs_mkl
def test_rows_that_do_not_lie_dense_are_multiplied() -> None:
    x, weight = torch.randn(64, 40)[:, :30], torch.randn(20, 30)
    for each in (x, x[::2], torch.randn(30, 8).T):
        expected = functional.linear(each, weight)
        torch.testing.assert_close(MklWeight(weight)(each, None, None), expected)


@needs_mkl
def test_mkl_keeps_no_second_copy_of_the_weight() -> None:
    weight = torch.randn(64, 48)
    like = MklWeight(weight)._like
    assert like.shape == weight.shape
    assert like.untyped_storage().nbytes() == 4


@pytest.fixture
def anew() -> Iterator[None]:
    mkl_is_faster.cache_clear()
    yield
    mkl_is_faster.cache_clear()


@needs_mkl
@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(
    ("vendor", "dtype", "library"),
    [
        ("GenuineIntel", torch.float32, MklWeight),
        ("GenuineIntel", torch.bfloat16, OneDnnWeight),
        ("AuthenticAMD", torch.float32, OneDnnWeight),
        ("", torch.float32, OneDnnWeight),
    ],
)
def test_mkl_is_taken_on_its_makers_processors(
    monkeypatch: pytest.MonkeyPatch, vendor: str, dtype: torch.dtype, library: type
) -> None:
    monkeypatch.setattr(packed, "processor_field", {"vendor_id": vendor}.__getitem__)
    assert type(pack_weight(torch.randn(8, 16, dtype=dtype))) is library


@needs_mkl
@pytest.mark.usefixtures("anew")
def test_without_mkl_there_is_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "processor_field", {"vendor_id": "GenuineIntel"}.__getitem__)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert type(pack_weight(torch.randn(8, 16))) is OneDnnWeight


def test_the_processor_names_its_maker() -> None:
    with open("/proc/cpuinfo") as file:
        text = file.read()
    assert f": {processor_field('vendor_id')}\n" in text
    assert f": {processor_field('model name')}\n" in text
    assert processor_field("no such field") == ""
