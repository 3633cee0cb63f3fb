"""A token batch without shared segments: each sequence attends to its own paged blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.policies.sequence import Sequence
from shoal.scheduler import Chunks, TokenBatch
from shoal.types import Int64Array
from shoal.work import SegmentWork


@dataclass(frozen=True)
class Chunk:
    """The next `count` tokens of a sequence that are to be computed."""

    sequence: Sequence
    count: int

    @property
    def last(self) -> int:
        """Tokens of the sequence that are computed after it."""
        return self.sequence.computed + self.count


def make_batch(chunks: list[Chunk], block_size: int) -> TokenBatch:
    """The batch of some chunks, one causal item of attention for each.

    A sequence whose known tokens are all computed after it samples its next one.
    """
    sequences = [chunk.sequence for chunk in chunks]
    first = np.array([s.computed for s in sequences], dtype=np.int64)
    last = np.array([chunk.last for chunk in chunks], dtype=np.int64)
    known = np.array([s.known for s in sequences], dtype=np.int64)
    numbers = np.array([s.number for s in sequences], dtype=np.int32)
    generated = np.array([s.generated for s in sequences], dtype=np.int32)
    count = last - first
    held = -(-last // block_size)
    offsets = _offsets(held)
    blocks = np.concatenate([s.blocks[:n] for s, n in zip(sequences, held.tolist(), strict=True)])
    starts = _offsets(count)
    of_row = np.repeat(np.arange(len(chunks)), count)
    position = np.arange(starts[-1]) - starts[of_row] + first[of_row]
    block = blocks[offsets[of_row] + position // block_size].astype(np.int64)
    samples = np.flatnonzero(last == known)
    return TokenBatch(
        token_ids=np.concatenate([c.sequence.tokens[c.sequence.computed : c.last] for c in chunks]),
        positions=position.astype(np.int32),
        slots=block * block_size + position % block_size,
        attention=SegmentWork(
            num_rows=int(starts[-1]),
            row_first=starts[:-1].astype(np.int32),
            row_last=starts[1:].astype(np.int32),
            kv_tokens=last.astype(np.int32),
            starts=np.zeros(len(chunks), dtype=np.int32),
            causal=np.ones(len(chunks), dtype=np.bool_),
            block_offsets=offsets,
            blocks=blocks,
            block_size=block_size,
        ),
        logit_rows=starts[1:][samples] - 1,
        sample_sequences=numbers[samples],
        sample_positions=generated[samples],
        sample_logits=np.arange(len(samples), dtype=np.int64),
        chunks=Chunks(
            shared=np.zeros(len(chunks), dtype=np.bool_),
            segments=np.zeros(0, dtype=np.int64),
            slots=numbers.astype(np.int64),
            first=first,
            count=count,
        ),
        num_decodes=int(((generated > 0) & (first == known - 1)).sum()),
        sequences=np.sort(numbers),
    )


def _offsets(counts: Int64Array) -> Int64Array:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
