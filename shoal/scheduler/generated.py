"""The tokens that sequences have generated, for those that are preempted and computed again."""

from __future__ import annotations

import numpy as np

from shoal.types import Int64Array


class GeneratedTokens:
    """What each sequence that has begun and not ended has generated, as far as it is settled."""

    def __init__(self) -> None:
        self._tokens: dict[int, list[int]] = {}

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._tokens

    def append(self, sequences: list[int], token_ids: list[int]) -> None:
        """One token more for each of the sequences."""
        # This loop runs for every token generated.
        held = self._tokens
        for sequence, answer, token in zip(
            sequences, map(held.get, sequences), token_ids, strict=True
        ):
            if answer is None:
                held[sequence] = [token]
            else:
                answer.append(token)

    def forget(self, sequence: int) -> None:
        """A sequence has ended."""
        self._tokens.pop(sequence, None)

    def count(self, sequence: int) -> int:
        """How many tokens a sequence has; 0 before its first."""
        return len(self._tokens.get(sequence, ()))

    def counts(self, sequences: Int64Array) -> Int64Array:
        """The same for many, int64 [R]."""
        return np.array([self.count(sequence) for sequence in sequences.tolist()], dtype=np.int64)

    def token(self, sequence: int, index: int) -> int:
        """Token id of one that is known."""
        return self._tokens[sequence][index]
