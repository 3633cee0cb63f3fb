"""Logits of segments' last rows that are kept for sequences whose whole prompt is shared."""

from __future__ import annotations

import numpy as np

from shoal.scheduler.batch import TokenBatch
from shoal.types import Int64Array


class RetainedLogits:
    """Which segments' logits the executor holds, and how many sequences still sample from each.

    A prefix-only sequence has no prompt token of its own: its first token is sampled from the last
    row of its last segment. Those that run in the batch with that row take it from there. For the
    others the executor keeps a copy (`TokenBatch.retain`), till the last of them has sampled or was
    cancelled (`TokenBatch.release`).
    """

    def __init__(self, prefix_only: Int64Array) -> None:
        """`prefix_only`: int64 [segments], sequences whose prompt ends with each segment."""
        self._unsampled = prefix_only
        self._held: set[int] = set()

    def replan(self, prefix_only: Int64Array, first: int) -> None:
        """The segments from `first` on, which nobody has used, have other numbers."""
        self._unsampled[first:] = prefix_only[first:]

    def __contains__(self, segment: int) -> bool:
        """Whether the executor holds a segment's logits."""
        return segment in self._held

    def unsampled(self, segment: int) -> int:
        """Prefix-only sequences of a segment that have not sampled."""
        return int(self._unsampled[segment])

    def launched(self, batch: TokenBatch, sampled: Int64Array) -> None:
        """A batch samples prefix-only sequences, whose segments are `sampled`."""
        self._held.update(segment for _, segment in batch.retain)
        self._held.difference_update(batch.release)
        np.subtract.at(self._unsampled, sampled, 1)

    def undone(self, batch: TokenBatch, sampled: Int64Array) -> None:
        """Take `launched` back, for those of `sampled` that have not been cancelled since."""
        self._held.update(batch.release)
        self._held.difference_update(segment for _, segment in batch.retain)
        np.add.at(self._unsampled, sampled, 1)

    def cancelled(self, segment: int) -> None:
        """A prefix-only sequence was cancelled before it sampled."""
        self._unsampled[segment] -= 1

    def unneeded(self) -> list[int]:
        """Segments whose logits are held for nobody, since sequences were cancelled.

        The next batch releases them, and if it fails the one after it.
        """
        held = np.fromiter(self._held, dtype=np.int64, count=len(self._held))
        unneeded: list[int] = held[self._unsampled[held] == 0].tolist()
        return unneeded
