"""The state list of a token batch: what recurrent layers go on from, and where they leave off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.types import BoolArray, Int64Array

FROM_NOTHING = -1
"""Source of a chunk that begins its sequence: the state before the first token."""


@dataclass(frozen=True)
class StateWork:
    """C chunks, runs of rows that follow each other in a sequence, in row order.

    Attributes:
        row_first: int64 [C + 1], the row of each chunk's first token, and the number of rows.
        source: int64 [C], the state slot each goes on from, or `FROM_NOTHING`.
        target: int64 [C], the state slot its end is written to; all different.
        level: int64 [C], 0, or one more than that of the chunk of this batch whose target is the
            source: levels are computed one after another.
        generated: bool [T], rows that run a token of an answer: some layers treat them otherwise.
    """

    row_first: Int64Array
    source: Int64Array
    target: Int64Array
    level: Int64Array
    generated: BoolArray

    @property
    def count(self) -> Int64Array:
        """Rows of each chunk, int64 [C]."""
        return np.diff(self.row_first)

    @property
    def num_rows(self) -> int:
        """Rows of the batch."""
        return int(self.row_first[-1])

    @classmethod
    def apart(cls, row_first: Int64Array, num_slots: int) -> StateWork:
        """Chunks of as many sequences, all from their first token, in slots 0, 1, 2, ...

        Where there are more chunks than slots some share one: to measure with, not to go on from.
        """
        chunks = len(row_first) - 1
        none = np.zeros(chunks, dtype=np.int64)
        first = row_first.astype(np.int64)
        prompts = np.zeros(int(first[-1]), dtype=np.bool_)
        return cls(first, none + FROM_NOTHING, np.arange(chunks) % num_slots, none, prompts)
