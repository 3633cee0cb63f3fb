"""Which prompt tokens a batch computes, and which of them had been computed before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.types import Int64Array
from shoal.types.length_switch import NEVER


@dataclass(frozen=True)
class TokenRuns:
    """Runs [first, last) of tokens, int64 columns, counted from the first token of their owner."""

    owner: Int64Array
    first: Int64Array
    last: Int64Array

    @property
    def tokens(self) -> int:
        """How many there are."""
        return int((self.last - self.first).sum())


@dataclass(frozen=True)
class PromptRuns:
    """The prompt tokens of a batch: of shared segments, and of sequences' own prompts."""

    segments: TokenRuns
    sequences: TokenRuns

    @property
    def tokens(self) -> int:
        """How many there are."""
        return self.segments.tokens + self.sequences.tokens


class ComputedPrompts:
    """How far each segment and each sequence's own prompt was ever computed."""

    def __init__(self, num_segments: int, num_sequences: int) -> None:
        self._segments: Int64Array = np.zeros(num_segments, dtype=np.int64)
        self._sequences: Int64Array = np.zeros(num_sequences, dtype=np.int64)

    def replan(self, num_segments: int, first: int) -> None:
        """Segments from `first` on are others, of which nothing was computed."""
        kept = self._segments[:first]
        self._segments = np.concatenate([kept, np.zeros(num_segments - first, dtype=np.int64)])

    def restarted(self, sequence: int) -> None:
        """All of its prompt, shared or not, has been computed, and is its own from now on."""
        self._sequences[sequence] = NEVER

    def add(self, prompt: PromptRuns) -> int:
        """Note what was computed; how many of the tokens had been before."""
        return _add(self._segments, prompt.segments) + _add(self._sequences, prompt.sequences)


def _add(reached: Int64Array, runs: TokenRuns) -> int:
    before = reached[runs.owner]
    reached[runs.owner] = np.maximum(runs.last, before)
    return int(np.maximum(np.minimum(runs.last, before) - runs.first, 0).sum())
