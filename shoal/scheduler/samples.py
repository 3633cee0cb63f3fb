"""Who samples in a token batch, and from which logits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shoal.scheduler.batch import Chunks, Retain
from shoal.scheduler.state import RunState
from shoal.types import Int32Array, Int64Array


@dataclass
class Samples:
    """The samples of a batch: sequences with a row of their own, then prefix-only ones.

    Attributes:
        own_sequences: int64, those with a row of their own.
        own_rows: int64, the batch rows they sample from.
        sequences: the prefix-only ones.
        computed: bool of each of these, whether the batch itself has the logits it samples from.
        source: of each, which of `last_rows` that is; else which of `from_retained`.
        last_rows: last rows of segments that are sampled from, or retained.
        from_retained: segments whose retained logits are sampled from.
        retain, release: as in `TokenBatch`.
    """

    own_sequences: Int64Array
    own_rows: Int64Array
    sequences: list[int] = field(default_factory=list)
    computed: list[bool] = field(default_factory=list)
    source: list[int] = field(default_factory=list)
    last_rows: list[int] = field(default_factory=list)
    from_retained: list[int] = field(default_factory=list)
    retain: list[Retain] = field(default_factory=list)
    release: list[int] = field(default_factory=list)

    @property
    def sampled(self) -> Int32Array:
        """`TokenBatch.sample_sequences`, int32 [S]."""
        return np.concatenate([self.own_sequences, self.sequences]).astype(np.int32)

    @property
    def logit_rows(self) -> Int64Array:
        """The batch rows whose logits are sampled from or retained, int64."""
        return np.concatenate([self.own_rows, self.last_rows]).astype(np.int64)

    def logits(self, num_rows: int) -> Int64Array:
        """`TokenBatch.sample_logits`, int64 [S], where the batch has `num_rows` rows of logits."""
        own = len(self.own_rows)
        source = np.array(self.source, dtype=np.int64)
        others = np.where(np.array(self.computed, dtype=np.bool_), own + source, num_rows + source)
        return np.concatenate([np.arange(own), others])


def choose_samples(chunks: Chunks, prefix_only: list[int], state: RunState) -> Samples:
    """Sequences whose known tokens are all computed after this batch get their next one.

    Unless they generate nothing.

    Args:
        prefix_only: slots without a token of their own. They sample from the last row of their
            segment, computed in this batch or retained earlier.
    """
    running, retained = state.running, state.retained
    complete = _ends(chunks)[chunks.own] == running.own_total[chunks.slots]
    complete &= state.columns.generates[running.sequence[chunks.slots]]
    samples = Samples(
        own_sequences=running.sequence[chunks.slots[complete]],
        own_rows=chunks.last_rows[chunks.own][complete],
    )
    last_row = _last_rows(chunks, state)
    index: dict[int, int] = {}
    """Of each completed segment in `last_rows`, if somebody needs its logits."""
    kept: dict[int, int] = {}
    sampled: dict[int, int] = {}

    def logits_of(segment: int) -> int:
        if segment not in index:
            index[segment] = len(samples.last_rows)
            samples.last_rows.append(last_row[segment])
        return index[segment]

    for slot in prefix_only:
        segment = int(running.segment[slot])
        sampled[segment] = sampled.get(segment, 0) + 1
        computed = segment in last_row
        samples.sequences.append(int(running.sequence[slot]))
        samples.computed.append(computed)
        samples.source.append(
            logits_of(segment) if computed else kept.setdefault(segment, len(kept))
        )
    samples.from_retained = list(kept)
    for segment in last_row:
        later = retained.unsampled(segment) - sampled.get(segment, 0)
        # Held already where the segment was evicted since, and is computed again.
        if later > 0 and segment not in retained:
            row = len(samples.own_rows) + logits_of(segment)
            samples.retain.append(Retain(row, segment))
    for segment, count in sampled.items():
        if segment in retained and retained.unsampled(segment) == count:
            samples.release.append(segment)
    return samples


def _last_rows(chunks: Chunks, state: RunState) -> dict[int, int]:
    """Segments whose last token is in this batch, and its row."""
    complete = _ends(chunks)[chunks.shared] == state.segments.length[chunks.segments]
    rows = chunks.last_rows[chunks.shared][complete].tolist()
    return dict(zip(chunks.segments[complete].tolist(), rows, strict=True))


def _ends(chunks: Chunks) -> Int64Array:
    """Index of the token after each chunk's last, int64 [C]."""
    return chunks.first + chunks.count
