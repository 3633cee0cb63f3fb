"""Attention modules that keep a latent of each token (MLA) hand it to us as it is.

transformers' modules of this kind make keys and values of latents in one method, `expand_kv`, just
before they call their attention function. In its place ours hands the latents on; everything else
(projections, norms, rotations, scales) stays the module's own. What the method's product would have
done, `shoal.attention.latent` does where it is cheapest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from shoal.attention.latent import Expansion, LatentAttention, LatentHeads
from shoal.errors import UnsupportedModelError
from shoal.model.description import ModelDescription
from shoal.model.fusion.linear import is_plain
from shoal.model.fusion.proof import agree, hidden_input
from shoal.model.fusion.trial import Trial
from shoal.model.hook import keeps_latents

_log = logging.getLogger(__name__)

_Expand = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class LatentHandover:
    """Takes the place of a module's `expand_kv`: inside a token batch it expands nothing."""

    def __init__(self, own: _Expand, expansion: Expansion) -> None:
        self._own, self.expansion = own, expansion

    def __call__(
        self, latent: torch.Tensor, turned: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """latent: [1, 1, T, rank]; turned: [1, 1, T, r]. Key and value of one KV head."""
        if not keeps_latents():
            return self._own(latent, turned)
        return torch.cat([latent, turned], dim=-1), latent


@torch.inference_mode()
def keep_latents(
    module: nn.Module,
    shapes: list[tuple[int, int, int]],
    forward: Callable[..., torch.Tensor],
    description: ModelDescription,
) -> list[tuple[int, int, int]]:
    """Let a model's attention keep latents, proved equal by a batch at all positions there may be.

    Args:
        shapes: (kv_heads, key_dim, value_dim) of each layer, of keys and values.
        forward: logits of token ids, positions and rows.

    Returns:
        The same of latents; `shapes` where the model has none.

    Raises:
        UnsupportedModelError: it has, and they are not what we know.
    """
    rank = latent_rank(description.config)
    if rank is None:
        return shapes
    kind = description.model_type
    parts = [part for part in module.modules() if hasattr(part, "layer_idx")]
    found = {
        int(part.layer_idx): part  # type: ignore[arg-type]
        for part in parts
        if is_plain(getattr(part, "kv_b_proj", None)) and hasattr(part, "expand_kv")
    }
    attending = [layer for layer, (heads, _, _) in enumerate(shapes) if heads]
    if sorted(found) != attending:
        few = f"{len(found)} of {len(attending)} layers"
        raise _unknown(kind, f"{few} make keys and values in a way")
    own = Trial(shapes, description)
    own.record(found.values(), forward)
    if any(asked.sight or asked.softcap or asked.sinks is not None for asked in own.kinds.values()):
        raise _unknown(kind, "asks for windows, soft caps or sinks besides, in a way")
    latent_shapes = list(shapes)
    for layer in attending:
        part, (heads, key_dim, value_dim) = found[layer], shapes[layer]
        expansion = _expansion(part, heads, value_dim, rank)
        rope = 0 if expansion is None else key_dim - expansion.key.shape[1]
        if expansion is None or rope < 1:
            raise _unknown(kind, "the weights of its keys and values have a shape")
        latent_shapes[layer] = LatentHeads(1, rank + rope, rank)
    kept = Trial(latent_shapes, description)
    for layer, part in found.items():
        heads, _, value_dim = shapes[layer]
        expansion = _expansion(part, heads, value_dim, rank)
        assert expansion is not None
        if not _proved(part, expansion, own, kept):
            raise _unknown(kind, "its attention gives something else than by latents, in a way")
    _log.info("%d layers keep latents of %d numbers", len(found), latent_shapes[attending[0]][1])
    return latent_shapes


def latent_rank(config: PreTrainedConfig) -> int | None:
    """Numbers of a token's latent in each layer, without what is rotated; None: none is kept."""
    rank = getattr(config, "kv_lora_rank", None)
    return int(rank) if rank else None


def _expansion(part: Any, heads: int, value_dim: int, rank: int) -> Expansion | None:
    product = part.kv_b_proj
    if product.bias is not None or product.in_features != rank or product.out_features % heads:
        return None
    # Heads follow each other, the rows of each head's keys before those of its values.
    weight = product.weight.detach().view(heads, -1, rank)
    plain = weight.shape[1] - value_dim
    return Expansion(weight[:, :plain], weight[:, plain:]) if plain > 0 else None


def _proved(part: Any, expansion: Expansion, own: Trial, kept: Trial) -> bool:
    """Whether a module gives the same in each piece, absorbed and expanded; if so it stays so."""
    call = own.calls.pop(part)
    hidden = hidden_input(call.hidden)
    with own.step():
        expected = call.run(part, hidden)[0]
    part.expand_kv = LatentHandover(part.expand_kv, expansion)
    for least_rows in (float("inf"), 0.0):
        with kept.step_with(partial(_by, least_rows)):
            given = call.run(part, hidden)[0]
        if not all(agree(given[:, rows], expected[:, rows]) for rows in own.pieces.rows()):
            return False
    return True


def _by(least_rows: float, backend: LatentAttention) -> LatentAttention:
    return LatentAttention(backend.inner, least_rows)


def _unknown(kind: str, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "multi-head latent attention of another form",
        f"models of type {kind!r} use multi-head latent attention (MLA), but {what} that Shoal "
        "does not know. Use another model.",
    )
