"""Models that compute something else of the same tokens where a request is long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.types.arrays import Int64Array

NEVER = np.int64(2**62)
"""Tokens that no answer has."""


@dataclass(frozen=True)
class LengthSwitch:
    """From which length on a model turns its keys by other frequencies (longrope, dynamic NTK).

    A prompt's tokens go by the prompt's length, a generated one by its own position.

    Attributes:
        threshold: requests of at most so many tokens are alike.
        each_length: whether of longer ones each length is for itself (dynamic NTK); else they are
            alike, too (longrope).
        restarts: whether a sequence that grows past the threshold is computed anew as a long one
            (Phi-3); else the keys it has are kept.
    """

    threshold: int
    each_length: bool
    restarts: bool

    def classes(self, lengths: Int64Array) -> Int64Array:
        """Of prompts of so many tokens, int64 [N]: those of different classes share no prefix."""
        long: Int64Array = lengths if self.each_length else np.ones_like(lengths)
        return np.where(lengths > self.threshold, long, 0)

    def restarts_at(self, lengths: Int64Array) -> Int64Array:
        """How many tokens a prompt's answer has when all is computed anew; int64 [N]."""
        if not self.restarts:
            return np.full(len(lengths), NEVER)
        return np.where(lengths <= self.threshold, self.threshold + 1 - lengths, NEVER)
