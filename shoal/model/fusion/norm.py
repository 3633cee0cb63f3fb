"""RMSNorm in one pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from shoal.kernels.ops import LayerOps


class FusedNorm(nn.Module):
    """An RMSNorm with weights w + offset."""

    def __init__(self, weight: torch.Tensor, eps: float, offset: float, ops: LayerOps) -> None:
        super().__init__()
        self.weight, self.eps, self.offset = weight.detach().contiguous(), eps, offset
        self._op = ops.rms_norm(self.weight, eps, offset)
        self._wide = self._op
        if self.is_narrow:
            self._wide = ops.rms_norm(self.weight.float(), eps, offset)

    @property
    def is_narrow(self) -> bool:
        """Whether its own format is narrower than float32."""
        return self.weight.dtype != torch.float32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., width] of the weight's dtype or float32; returns the same."""
        return self._op(x) if x.dtype == self.weight.dtype else self._wide(x)


def norm_candidates(module: nn.Module, ops: LayerOps) -> Iterator[FusedNorm]:
    """What `module` may be if it is an RMSNorm; nothing if it does not look like one."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if list(dict(module.named_parameters())) != ["weight"] or not isinstance(eps, float):
        return
    if isinstance(weight, torch.Tensor) and weight.dim() == 1:
        for offset in (0.0, 1.0):
            yield FusedNorm(weight, eps, offset, ops)
