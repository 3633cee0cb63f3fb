"""Rows of logits on a device, and what chooses a token for each without being read back.

On CUDA that is Triton kernels, which read logits where they are. Elsewhere it is torch, which
copies the rows it works on: the same rule, in a form that needs no GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Protocol

import torch

from shoal.sampling.choose import UNSOUND
from shoal.sampling.draw import DrawParams, Kinds, Rest, draw, sort_all


@dataclass(frozen=True)
class RowGroup:
    """Some of a batch's samples, all chosen from one tensor of logits in one way.

    Attributes:
        samples: int64 [n], which of the batch's samples, each at most once.
        rows: int64 [n], the row of logits of each; rows may repeat.
        params: how to draw, [n] each; temperature 0 takes the likeliest, of equals the lowest id.
        drawn: whether a temperature is above 0.
        min_p: whether one that is drawn has a min-p.
        ranked: whether all are drawn with top-k or top-p; False if none is.
    """

    samples: torch.Tensor
    rows: torch.Tensor
    params: DrawParams
    drawn: bool
    min_p: bool
    ranked: bool


class Chooser(Protocol):
    """Chooses tokens for rows of logits."""

    @property
    def in_place(self) -> bool:
        """Whether logits are read where they are; else groups have to be small."""

    def __call__(self, logits: torch.Tensor, group: RowGroup, tokens: torch.Tensor) -> None:
        """Enqueue the choice for a group of at least one sample.

        Args:
            logits: [R, vocab], any float dtype; left unchanged.
            tokens: int64 [S], where the tokens of the group's samples are put; `UNSOUND` where a
                logit is NaN or the largest is infinite.
        """


@dataclass(frozen=True)
class TorchChooser:
    """On any device, with copies of the rows.

    Attributes:
        rest: what draws for rows whose likeliest candidates do not suffice.
    """

    rest: Rest = sort_all
    in_place: bool = False

    def __call__(self, logits: torch.Tensor, group: RowGroup, tokens: torch.Tensor) -> None:
        """See `Chooser`."""
        picked = logits.index_select(0, group.rows)
        best = picked.max(dim=-1)
        found, sound = best.indices, best.values.isfinite()
        if group.drawn:
            hot = group.params.temperature > 0
            params = replace(
                group.params, temperature=torch.where(hot, group.params.temperature, 1.0)
            )
            truncated = torch.arange(len(picked) if group.ranked else 0, device=picked.device)
            # Whatever is drawn for a row without numbers is a token, and not used.
            picked = torch.where(sound[:, None], picked.float(), 0.0)
            drawn = draw(picked, params, Kinds(group.min_p, truncated), self.rest)
            found = torch.where(hot, drawn, found)
        tokens.index_copy_(0, group.samples, torch.where(sound, found, UNSOUND))


def chooser_for(device: torch.device) -> Chooser:
    """What chooses tokens on a device, without reading back."""
    if device.type != "cuda" or find_spec("triton") is None:
        return TorchChooser()
    from shoal.sampling.triton_chooser import TritonChooser

    return TritonChooser()
