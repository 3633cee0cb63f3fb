"""What LoRA adapters add to a product (`csrc/lora/`): all slices of a batch's rows in one call.

Matrices are read as they are held, in float32 or bfloat16; sums are float32, and are rounded once,
when they have been added.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shoal.kernels.interface import DTYPES, Lora
from shoal.kernels.library import Isa, Kernels
from shoal.types import Int64Array

PANEL = 64
"""Outputs of a panel of B: `SHOAL_LORA_PANEL`."""

MATRICES = np.dtype(
    [("a", "u8"), ("b", "u8"), ("scale", "f4"), ("rank", "i4"), ("dtype", "i4")], align=True
)
"""`ShoalLoraMatrices`: addresses of an adapter's A and B for one linear layer; rank 0: none."""

MatricesArray = npt.NDArray[Any]
"""Of `MATRICES`."""


class AdapterSlices(NamedTuple):
    """Runs of a batch's rows, which do not overlap.

    Attributes:
        adapter: int32 [S], which each run has.
        begin, end: int64 [S], its rows.
    """

    adapter: npt.NDArray[np.int32]
    begin: Int64Array
    end: Int64Array


class LoraOp:
    """out += scale * (x A^T) B^T, for the linear layers side by side in one product."""

    def __init__(
        self,
        kernels: Kernels,
        columns: Sequence[int],
        outputs: Sequence[int],
        isa: Isa | None = None,
    ) -> None:
        """
        Args:
            columns: of the product's output, at which each linear layer's begin.
            outputs: how many each has.
            isa: another than the machine's fastest, for tests.
        """
        self._run = kernels.lib.shoal_lora
        self._columns, self._outputs = (np.array(c, dtype=np.int64) for c in (columns, outputs))
        self._call = Lora(
            isa=kernels.isa if isa is None else isa,
            linears=len(columns),
            columns=self._columns.ctypes.data,
            outputs=self._outputs.ctypes.data,
        )

    def __call__(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        slices: AdapterSlices,
        matrices: MatricesArray,
        first: int = 0,
    ) -> None:
        """Add to the rows that slices have.

        Args:
            x: [rows, inputs], float32 or bfloat16.
            out: [rows, outputs of all], either; changed in place.
            matrices: [adapters, linears], rows of it contiguous.
            first: the row of the batch that the first one here is.
        """
        call = self._call
        x = x if x.stride(1) == 1 else x.contiguous()
        assert out.stride(1) == 1
        call.dtype, call.out_dtype = DTYPES[x.dtype], DTYPES[out.dtype]
        call.threads = torch.get_num_threads()
        (call.rows, call.inputs), call.first_row = x.shape, first
        call.x, call.x_row = x.data_ptr(), x.stride(0)
        call.out, call.out_row = out.data_ptr(), out.stride(0)
        call.slices = len(slices.adapter)
        call.begin, call.end = slices.begin.ctypes.data, slices.end.ctypes.data
        call.adapter, call.matrices = slices.adapter.ctypes.data, matrices.ctypes.data
        call.adapter_stride = matrices.strides[0] // MATRICES.itemsize
        self._run(ctypes.byref(call))


def write_panels(b: torch.Tensor, into: torch.Tensor) -> None:
    """Lay B out as the kernel reads it.

    Args:
        b: [outputs, rank].
        into: [outputs * rank], of another format or the same.
    """
    outputs, rank = b.shape
    panels = outputs // PANEL
    whole = panels * PANEL
    split = b[:whole].view(panels, PANEL, rank).transpose(1, 2)
    into[: whole * rank].view(panels, rank, PANEL).copy_(split)
    if whole < outputs:
        into[whole * rank :].view(rank, outputs - whole).copy_(b[whole:].T)
