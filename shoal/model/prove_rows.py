"""Proof that a quantised layer gives a row the same, whatever rows stand beside it.

Formats that round what comes in may take one scale for all rows of a batch (dynamic, per tensor),
treat a column apart that is large in any row (LLM.int8), or go another way for a single row. What a
request gets would then depend on the requests it shares batches with.
"""

from __future__ import annotations

import torch
from torch import nn

from shoal.errors import UnsupportedModelError
from shoal.model.fusion.linear import is_plain

TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 5e-3, torch.float16: 5e-3}
"""Largest relative distance of a row that is taken for the order of a sum. Inputs rounded to 8 bits
by another scale give 9e-3 and more."""

_ROWS = 4
_LARGE = 50.0
"""How much larger the rows beside are: LLM.int8 takes numbers from 6 on for outliers."""


@torch.inference_mode()
def prove_rows(module: nn.Module, kind: str) -> None:
    """Try a quantised layer of each shape with a row alone, with others, and beside larger ones.

    Args:
        kind: the model's type, for messages.

    Raises:
        UnsupportedModelError: a row's result depends on the others.
    """
    tried = set()
    dtype = next(part for part in module.parameters() if part.is_floating_point()).dtype
    for name, part in module.named_modules():
        # A model's own kinds of linear layers, such as routers, are proved with the whole model.
        if not isinstance(part, nn.Linear) or is_plain(part) or _is_the_models(part):
            continue
        shape = type(part), type(part.weight.data), part.in_features, part.out_features
        if shape not in tried:
            tried.add(shape)
            _try(name, part, dtype, kind)


def _is_the_models(part: nn.Module) -> bool:
    return type(part).__module__.startswith("transformers.models.")


def _try(name: str, layer: nn.Linear, dtype: torch.dtype, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2 * _ROWS, layer.in_features, generator=generator)
    drawn[_ROWS:] *= _LARGE
    x = drawn.to(layer.weight.device, dtype)[None]
    together = layer(x[:, :_ROWS]).float()
    alone = torch.cat([layer(x[:, row : row + 1]).float() for row in range(_ROWS)], dim=1)
    beside = layer(x).float()[:, :_ROWS]
    for found, when in ((alone, "alone"), (beside, "beside larger ones")):
        distance = (found - together).norm(dim=-1)
        # Negated so that NaN is no agreement.
        if bool((~(distance <= TOLERANCE[dtype] * together.norm(dim=-1))).any()):
            raise _refusal(name, kind, when, float((distance / together.norm(dim=-1)).max()))


def _refusal(name: str, kind: str, when: str, distance: float) -> UnsupportedModelError:
    return UnsupportedModelError(
        "rounding that depends on the batch",
        f"the quantised layer {name} of this {kind!r} model gives a row something else {when} than "
        f"among others (by {distance:.1%}): its rounding depends on the batch, so answers would "
        "depend on which requests run together. Use a checkpoint whose inputs are rounded per "
        "token, or not at all; of bitsandbytes one in 4 bits, or put llm_int8_threshold 0.0 into "
        "its quantization_config.",
    )
