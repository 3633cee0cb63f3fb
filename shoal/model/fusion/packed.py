"""Weights laid out once, at load, as a library's matrix products want them.

oneDNN has products for every format. MKL has them for float32, and on Intel's processors its are
faster: by 6 to 21 % from 64 rows to 1,024 (measured: docs/lab-notes.md).
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from shoal.kernels.processor import processor_field

_ROWS = 256
"""Rows a library is told to expect. oneDNN's layout hardly depends on it. MKL's does: laid out for
one row, products of many are slower. Either multiplies any number of rows; of MKL, CTranslate2
relies on that, too (OpenNMT/CTranslate2, `src/cpu/primitives.cc`)."""

# Operators torch's own compiler uses; they have no Python wrapper.
_reorder: Any = torch.ops.mkldnn._reorder_linear_weight.default
_product: Any = torch.ops.mkldnn._linear_pointwise.default
_product_and: Any = torch.ops.mkldnn._linear_pointwise.binary


class OneDnnWeight:
    """For x W^T + b by oneDNN, which adds something more in the same pass."""

    def __init__(self, weight: torch.Tensor) -> None:
        """weight: [out, in], float32 or bfloat16."""
        self._data = _reorder(weight, _ROWS)

    def __call__(
        self, x: torch.Tensor, bias: torch.Tensor | None, add: torch.Tensor | None
    ) -> torch.Tensor:
        """x: [..., in]; bias: [out]; add: [..., out]; all of the weight's dtype, as is the result
        [..., out]."""
        out: torch.Tensor
        if add is None:
            out = _product(x, self._data, bias, "none", [], "")
        else:
            out = _product_and(x, add, self._data, bias, "add")
        return out


class MklWeight:
    """For x W^T + b by MKL."""

    def __init__(self, weight: torch.Tensor) -> None:
        """weight: [out, in], float32."""
        self._data = torch.ops.mkl._mkl_reorder_linear_weight(weight, _ROWS)
        # Only the shape is read.
        self._like = weight.new_empty(1).expand_as(weight)

    def __call__(
        self, x: torch.Tensor, bias: torch.Tensor | None, add: torch.Tensor | None
    ) -> torch.Tensor:
        """x: [..., in]; bias: [out]; add: [..., out]; float32, as is the result [..., out]."""
        rows = x.shape[:-1].numel()
        # Were the number of rows another than the last argument, it would multiply by `_like`.
        out: torch.Tensor = torch.ops.mkl._mkl_linear(x, self._data, self._like, bias, rows)
        return out if add is None else out.add_(add)


PackedWeight = OneDnnWeight | MklWeight


def pack_weight(weight: torch.Tensor) -> PackedWeight:
    """Lay a weight [out, in] out for the faster library."""
    by_mkl = weight.dtype == torch.float32 and mkl_is_faster()
    return MklWeight(weight) if by_mkl else OneDnnWeight(weight)


@functools.cache
def mkl_is_faster() -> bool:
    """Whether MKL's products in float32 are: torch has it, and the processor is Intel's."""
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and processor_field("vendor_id") == "GenuineIntel"
