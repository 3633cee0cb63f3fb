"""What adapters add to a product in C++, against its definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.kernels import available_isas, load_kernels
from shoal.kernels.interface import DTYPES
from shoal.kernels.lora import MATRICES, AdapterSlices, LoraOp, write_panels

KERNELS = load_kernels()
if KERNELS is None:
    pytest.skip("the C++ kernels are not built", allow_module_level=True)

FORMATS = st.sampled_from([torch.float32, torch.bfloat16])
ADAPTERS = 3


class Linears:
    """Linear layers side by side, and what each of several adapters has for them."""

    def __init__(self, draw: st.DataObject) -> None:
        self.inputs = draw.draw(st.integers(1, 80))
        self.outputs = draw.draw(st.lists(st.integers(1, 150), min_size=1, max_size=3))
        self.columns = np.cumsum([0, *self.outputs[:-1]]).tolist()
        self.parts = [self._parts(draw) for _ in range(ADAPTERS)]
        self.table = np.zeros((ADAPTERS, len(self.outputs)), MATRICES)
        self._panels = []
        for adapter, parts in enumerate(self.parts):
            for linear, (a, b, scale) in enumerate(parts):
                panels = torch.empty(b.numel(), dtype=b.dtype)
                write_panels(b, panels)
                self._panels.append(panels)
                addresses = a.data_ptr(), panels.data_ptr()
                self.table[adapter, linear] = (*addresses, scale, len(a), DTYPES[a.dtype])

    def _parts(self, draw: st.DataObject) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
        dtype = draw.draw(FORMATS)
        ranks = [draw.draw(st.sampled_from([0, 1, 4, 7, 16])) for _ in self.outputs]
        return [
            (torch.randn(rank, self.inputs).to(dtype), torch.randn(out, rank).to(dtype), 1.5)
            for rank, out in zip(ranks, self.outputs, strict=True)
        ]

    def sum_for(self, adapter: int, x: torch.Tensor) -> torch.Tensor:
        """[rows, outputs of all], float64."""
        parts = [x.double() @ a.double().T @ b.double().T * s for a, b, s in self.parts[adapter]]
        return torch.cat(parts, dim=1)


@pytest.mark.parametrize("isa", available_isas(), ids=lambda isa: isa.name)
@settings(deadline=None, max_examples=40)
@given(draw=st.data(), of_x=FORMATS, of_out=FORMATS, seed=st.integers(0, 999))
def test_equals_the_definition(
    isa: int, draw: st.DataObject, of_x: torch.dtype, of_out: torch.dtype, seed: int
) -> None:
    """Any slices of any rows, of a batch or a block of it; other rows stay as they are."""
    torch.manual_seed(seed)
    linears = Linears(draw)
    lengths = draw.draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    bounds = np.cumsum([0, *lengths])
    total, first = int(bounds[-1]) + 1, draw.draw(st.integers(0, int(bounds[-1])))
    last = draw.draw(st.integers(first + 1, total))
    owner = draw.draw(
        st.lists(st.integers(-1, ADAPTERS - 1), min_size=len(lengths), max_size=len(lengths))
    )
    taken = [each for each in range(len(lengths)) if owner[each] >= 0]
    slices = AdapterSlices(
        np.array([owner[each] for each in taken], dtype=np.int32),
        bounds[:-1][taken].astype(np.int64),
        bounds[1:][taken].astype(np.int64),
    )
    x = torch.randn(total, linears.inputs).to(of_x)
    out = torch.randn(total, sum(linears.outputs)).to(of_out)
    expected = out.double()
    for adapter, begin, end in zip(*slices, strict=True):
        expected[begin:end] += linears.sum_for(adapter, x[begin:end])
    found = out[first:last].clone()
    op = LoraOp(KERNELS, linears.columns, linears.outputs, isa)
    op(x[first:last], found, slices, linears.table, first)
    tolerance = 2e-5 if of_out == torch.float32 else 8e-3
    torch.testing.assert_close(found.double(), expected[first:last], rtol=tolerance, atol=40 * 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_know_its_company(dtype: torch.dtype) -> None:
    """What a row gets is the same, bit for bit, alone and among others."""
    torch.manual_seed(0)
    a, b = torch.randn(16, 70).to(dtype), torch.randn(130, 16).to(dtype)
    panels = torch.empty(b.numel(), dtype=dtype)
    write_panels(b, panels)
    table = np.zeros((1, 1), MATRICES)
    table[0, 0] = (a.data_ptr(), panels.data_ptr(), 2.0, 16, DTYPES[dtype])
    op, x = LoraOp(KERNELS, [0], [130]), torch.randn(9, 70).to(dtype)

    def added(rows: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(rows), 130, dtype=dtype)
        ends = np.array([0]), np.array([len(rows)])
        op(rows, out, AdapterSlices(np.zeros(1, np.int32), *ends), table)
        return out

    together = added(x)
    for row in range(len(x)):
        assert torch.equal(added(x[row : row + 1])[0], together[row])
