"""Rows of logits on a device that tokens are chosen for, and the interface of what chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from shoal.sampling.draw import DrawParams


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
