"""Tables of cosines and sines, from the forms that models hand to their layers."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch

Embeddings = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines [1, T, width], or complex numbers [1, T, width] (Llama 4)."""


class Tables(Enum):
    """What the numbers of a table are to those of a head."""

    each = "one for each"
    pairs = "one for each pair"
    first_half = "one for each pair, then the same again, though neighbours are pairs"


def table_width(keywords: dict[str, Any]) -> int | None:
    """Numbers of a row of the tables that a module is called with; None: it is not told."""
    embeddings: Embeddings | None = keywords.get("position_embeddings")
    if embeddings is None:
        return None
    table = embeddings if isinstance(embeddings, torch.Tensor) else embeddings[0]
    return table.shape[-1]


def angles_of(
    embeddings: Embeddings, tables: Tables, *, neighbours: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [T, rotary_dim], one for each number of a head that is rotated.

    Args:
        neighbours: numbers 2i and 2i + 1 are a pair; else i and i + half.
    """
    if isinstance(embeddings, torch.Tensor):
        turned = torch.view_as_real(embeddings[0])
        cos, sin = turned[..., 0], turned[..., 1]
    else:
        cos, sin = embeddings[0][0], embeddings[1][0]
    if tables is Tables.each:
        return cos, sin
    if tables is Tables.first_half:
        cos, sin = (x[:, : x.shape[1] // 2] for x in (cos, sin))
    if neighbours:
        return cos.repeat_interleave(2, dim=1), sin.repeat_interleave(2, dim=1)
    return torch.cat([cos, cos], dim=1), torch.cat([sin, sin], dim=1)
