"""Proof by trial that a replacement computes what the original does.

Both run on the same random input at load. What they may differ by is rounding: the fused ops round
once where a chain of torch ops rounds after each.
"""

from __future__ import annotations

import torch

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2.5e-3}
"""Largest relative distance |a - b| / |b| (Frobenius) taken for rounding."""

MODEL_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""The same for a row of logits after all layers; see `models_agree`."""


def agree(found: object, expected: object, tolerance: float | None = None) -> bool:
    """Whether two outputs are equal up to rounding; of tuples, the first element counts.

    `tolerance`: another than that of the format of the outputs.
    """
    if isinstance(found, tuple) and isinstance(expected, tuple):
        found, expected = found[0], expected[0]
    if not isinstance(found, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return False
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    distance = (found.float() - expected.float()).norm()
    # Negated so that NaN is no agreement.
    tolerance = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    return bool(distance <= tolerance * expected.float().norm())


def agree_in_most_rows(found: object, expected: object) -> bool:
    """Like `agree`, but of the median row: rounding may turn a router's choice for some rows."""
    if not isinstance(found, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return False
    return _median_row_agrees(found, expected, TOLERANCE)


ROUNDED_TOLERANCE = 0.1
"""The same where layers round what comes in to 8 bits: a last bit may turn a step of 1/127."""


def models_agree(
    found: torch.Tensor, expected: torch.Tensor, *, rounds_inputs: bool = False
) -> bool:
    """Whether logits [T, vocabulary] are those of the same model.

    The median row is compared, loosely in 16 bits: rounding grows through the layers, and where it
    turns a router's choice for one row, the rows after it change too. What this finds is parts
    that do not fit together.

    Args:
        rounds_inputs: whether layers round what they are given.
    """
    tolerance = MODEL_TOLERANCE[expected.dtype]
    if rounds_inputs:
        tolerance = max(tolerance, ROUNDED_TOLERANCE)
    return _median_row_agrees(found, expected, {expected.dtype: tolerance})


def _median_row_agrees(
    found: torch.Tensor, expected: torch.Tensor, tolerance: dict[torch.dtype, float]
) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    distance = (found.float() - expected.float()).norm(dim=-1)
    relative = distance / expected.float().norm(dim=-1).clamp(min=1e-30)
    return bool(relative.median() <= tolerance[expected.dtype])


def norm_input(width: int, like: torch.Tensor, rows: int = 19) -> torch.Tensor:
    """[1, rows, width] of the dtype of `like` and beside it, of a mean that is not 0: RMSNorm and
    LayerNorm differ."""
    return _random(1, rows, width).add_(0.5).to(like)


def hidden_input(like: torch.Tensor) -> torch.Tensor:
    """Hidden states of the shape and dtype of `like`, and beside it, as they come out of a norm."""
    return _random(*like.shape).to(like)


def residual_input(like: torch.Tensor) -> torch.Tensor:
    """Hidden states so small that what a layer adds to them stands out."""
    return _random(*like.shape).mul_(0.02).to(like)


def _random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator)
