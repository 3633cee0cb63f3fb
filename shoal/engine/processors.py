"""Changes to logits before a token is chosen: bias, masks, penalties.

All of them touch few of a row's logits, so they work on a list of (row, token) pairs gathered over
the whole batch. Each changes `logits`, float32 [S, vocab] and contiguous, in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shoal.engine.history import Float32Array
from shoal.types import Int64Array


@dataclass(frozen=True)
class Pairs:
    """P logits of a batch: `flat` int64 [P] indexes its flattened logits, `rows` int64 [P]."""

    flat: Int64Array
    rows: Int64Array

    @classmethod
    def gather(cls, rows: Int64Array, tokens: Sequence[Int64Array], vocab_size: int) -> Pairs:
        """The pairs of row `rows[i]` with each token of `tokens[i]`."""
        repeated = np.repeat(rows, [len(ids) for ids in tokens])
        ids = np.concatenate(tokens) if tokens else np.empty(0, dtype=np.int64)
        return cls(repeated * vocab_size + ids, repeated)


def add_bias(logits: torch.Tensor, pairs: Pairs, bias: Float32Array) -> None:
    """Add `bias` [P]; biases of one token add up."""
    logits.view(-1).index_add_(0, _moved(pairs.flat, logits), _moved(bias, logits))


def mask(logits: torch.Tensor, pairs: Pairs) -> None:
    """Make the tokens impossible."""
    logits.view(-1)[_moved(pairs.flat, logits)] = -torch.inf


def penalise(
    logits: torch.Tensor,
    pairs: Pairs,
    counts: Float32Array,
    repetition: Float32Array,
    frequency: Float32Array,
    presence: Float32Array,
) -> None:
    """Penalise tokens already seen.

    A repetition penalty r divides a positive logit and multiplies a negative one (CTRL, Keskar et
    al. 2019); then `frequency` times the token's count in the output and, if it occurs there,
    `presence` are subtracted, as in OpenAI's API. The pairs must be distinct.

    Args:
        counts: [P], how often the pair's token occurs in its row's output.
        repetition, frequency, presence: [S], each row's penalty.
    """
    flat = _moved(pairs.flat, logits)
    seen = logits.view(-1)[flat]
    factor = _moved(repetition[pairs.rows], logits)
    seen = torch.where(seen > 0, seen / factor, seen * factor)
    additive = frequency[pairs.rows] * counts + presence[pairs.rows] * (counts > 0)
    logits.view(-1)[flat] = seen - _moved(additive.astype(np.float32), logits)


def _moved(array: npt.NDArray[np.generic], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array).to(like.device)
