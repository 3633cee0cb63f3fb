"""How many rows of a batch may score prompts: each takes logits over the whole vocabulary."""

from __future__ import annotations

from shoal.model.description import ModelDescription

_HOST_BYTES = 1 << 28
"""Most bytes of float32 logits of scored rows in a batch on a CPU, where nobody measured them."""
_LEAST = 64


def scored_rows(description: ModelDescription) -> int | None:
    """Most rows per batch that score; None: all of them, as in the batch that was tried at load."""
    if description.device.type == "cuda":
        return None
    return max(_LEAST, _HOST_BYTES // (4 * description.vocab_size))
