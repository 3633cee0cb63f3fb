"""The number format that adapters have in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from shoal.kernels import load_kernels
from shoal.kernels.interface import DTYPES


@dataclass(frozen=True)
class HeldFormat:
    """How adapters of a model are held.

    On the CPU they count as float32, in which peft computes them, too. An adapter that is stored
    in bfloat16 stays so where the C++ kernels widen its numbers when they read them: the results
    are the same, of half the memory. On CUDA adapters have the model's format.

    Attributes:
        dtype: of adapters.
        grouped: the C++ kernels add them.
    """

    dtype: torch.dtype
    grouped: bool

    @classmethod
    def of(cls, dtype: torch.dtype, device: torch.device) -> HeldFormat:
        """`dtype`: of the model; `device`: that it is on."""
        if device.type != "cpu":
            return cls(dtype, grouped=False)
        return cls(torch.float32, dtype in DTYPES and load_kernels() is not None)

    def of_adapter(self, stored: Collection[torch.dtype | None]) -> torch.dtype:
        """The format of an adapter whose tensors are stored in these."""
        narrow = self.grouped and set(stored) == {torch.bfloat16}
        return torch.bfloat16 if narrow else self.dtype
