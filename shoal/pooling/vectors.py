"""From the numbers that a model gives of a prompt to those that are answered."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.model.pooling import Pooling, PoolingActivation
from shoal.types import Float32Array, PoolingParams


def finished(vector: Float32Array, pooling: Pooling, params: PoolingParams) -> Float32Array:
    """An embedding, the probabilities of classes, or one score: float32.

    Args:
        vector: [width], of a completion.
        params: checked.
    """
    numbers = vector.astype(np.float64)
    if len(pooling.tokens) == 2:
        numbers = numbers[1:] - numbers[:1]
    numbers = numbers[: params.dimensions]
    wanted = pooling.use_activation if params.use_activation is None else params.use_activation
    if wanted:
        numbers = _activated(numbers, pooling.activation)
    return numbers.astype(np.float32)


def label_of(probs: Float32Array, pooling: Pooling) -> str | None:
    """The likeliest class's; None where classes have no names."""
    return pooling.labels[int(np.argmax(probs))] if pooling.labels else None


def _activated(
    x: npt.NDArray[np.float64], activation: PoolingActivation
) -> npt.NDArray[np.float64]:
    if activation is PoolingActivation.normalize:
        # As torch's normalize: a vector of zeros stays one.
        return x / max(float(np.linalg.norm(x)), 1e-12)
    if activation is PoolingActivation.sigmoid:
        small = np.exp(-np.abs(x))
        found: npt.NDArray[np.float64] = np.where(x < 0, small, 1.0) / (1.0 + small)
        return found
    if activation is PoolingActivation.softmax:
        powers: npt.NDArray[np.float64] = np.exp(x - x.max())
        powers /= powers.sum()
        return powers
    return x
