"""Changes to logits before a token is chosen: bias, masks, penalties, grammars.

All but grammars touch few of a row's logits, so they work on lists of indices into the flattened
logits, gathered over the whole batch on the host, and applied where the logits are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shoal.types import Float32Array, Int32Array, Int64Array


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


@dataclass(frozen=True)
class Bias:
    """Add `bias` float32 [P] at `at` int64 [P]; biases of one token add up."""

    at: torch.Tensor
    bias: torch.Tensor

    def apply(self, logits: torch.Tensor) -> None:
        """Change `logits`, float32 and contiguous, in place."""
        logits.view(-1).index_add_(0, self.at, self.bias)


@dataclass(frozen=True)
class Mask:
    """Make the tokens at `at` int64 [P] impossible."""

    at: torch.Tensor

    def apply(self, logits: torch.Tensor) -> None:
        """Change `logits`, float32 and contiguous, in place."""
        logits.view(-1).index_fill_(0, self.at, -torch.inf)


@dataclass(frozen=True)
class Penalty:
    """Penalise the tokens at `at` int64 [P], all different, which a row has seen already.

    `factor` and `less` are float32 [P], see `penalties`.
    """

    at: torch.Tensor
    factor: torch.Tensor
    less: torch.Tensor

    def apply(self, logits: torch.Tensor) -> None:
        """Change `logits`, float32 and contiguous, in place."""
        seen = logits.view(-1).index_select(0, self.at)
        seen = torch.where(seen > 0, seen / self.factor, seen * self.factor)
        logits.view(-1).index_copy_(0, self.at, seen - self.less)


def penalties(
    pairs: Pairs,
    counts: Float32Array,
    repetition: Float32Array,
    frequency: Float32Array,
    presence: Float32Array,
) -> tuple[Float32Array, Float32Array]:
    """What tokens already seen are changed by: `Penalty.factor` and `Penalty.less`.

    A repetition penalty r divides a positive logit and multiplies a negative one (CTRL, Keskar et
    al. 2019); then `frequency` times the token's count in the output and, if it occurs there,
    `presence` are subtracted, as in OpenAI's API.

    Args:
        counts: [P], how often the pair's token occurs in its row's output.
        repetition, frequency, presence: [S], each row's penalty.
    """
    less = frequency[pairs.rows] * counts + presence[pairs.rows] * (counts > 0)
    return repetition[pairs.rows], less.astype(np.float32)


Put = Callable[[npt.NDArray[np.generic]], torch.Tensor]
"""Takes an array to where the logits are."""


@dataclass(frozen=True)
class Allowed:
    """Make impossible what grammars do not allow.

    `masks` gives int32 [rows of logits, words], one bit per token, lowest first. It is called by
    `apply`: on a device the host finds them out while what was enqueued before is computed.
    """

    masks: Callable[[], Int32Array]

    def apply(self, logits: torch.Tensor) -> None:
        """Change `logits`, float32 and contiguous, in place."""
        deny(logits, self.masks())


def deny(logits: torch.Tensor, allowed: Int32Array) -> None:
    """Set to -infinity what may not come, in `logits` [S, vocab], float32 and contiguous.

    `allowed` is int32 [S, words], one bit per token, lowest first.
    """
    denied = (~allowed).view(np.uint8)
    vocab_size = logits.shape[1]
    if logits.device.type == "cpu":
        bits = np.unpackbits(denied, axis=1, count=vocab_size, bitorder="little")
        logits.masked_fill_(torch.from_numpy(bits.view(np.bool_)), -torch.inf)
        return
    packed = torch.from_numpy(denied)
    if logits.is_cuda:
        packed = packed.pin_memory()
    packed = packed.to(logits.device, non_blocking=True)
    shifts = torch.arange(8, dtype=torch.uint8, device=logits.device)
    unpacked = (packed[:, :, None] >> shifts) & 1
    logits.masked_fill_(unpacked.view(len(logits), -1)[:, :vocab_size].bool(), -torch.inf)


Change = Bias | Mask | Penalty | Allowed
