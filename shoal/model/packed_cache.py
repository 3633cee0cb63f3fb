"""What a packed batch hands to models that ask their cache where a token stands.

Llama 4 scales its queries by their position, and takes that from the cache's length and a row's
place in the batch, whatever positions it is given. In a packed batch each row has its own.
"""

from __future__ import annotations

from typing import Any

import torch


class PackedPositions:
    """Takes the place of a cache in a packed batch: it keeps nothing.

    Args:
        positions: int64 [T], of the rows in their sequences.
    """

    def __init__(self, positions: torch.Tensor) -> None:
        self._before = positions - torch.arange(len(positions), device=positions.device)

    def get_seq_length(self, layer: int = 0) -> torch.Tensor:
        """What added to a row's place in the batch gives its position: int64 [T]."""
        return self._before

    def update(
        self, key: torch.Tensor, value: torch.Tensor, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch's own keys and values."""
        return key, value


def packed_keywords(module: Any, positions: torch.Tensor) -> dict[str, Any]:
    """Keywords of a model's forward with a packed batch at int64 [T] positions."""
    config = module.config.get_text_config()
    if not getattr(config, "attn_temperature_tuning", False):
        return {}
    return {"past_key_values": PackedPositions(positions)}
