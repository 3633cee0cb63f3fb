"""The work list of a token batch: which of its rows attend to which KV."""

from __future__ import annotations

import numpy as np

from shoal.scheduler.batch import Chunks
from shoal.scheduler.running import RunningSequences
from shoal.scheduler.segments import SegmentTable
from shoal.scheduler.state import RunState
from shoal.types import BoolArray, Int32Array, Int64Array
from shoal.work import SegmentWork


def attention_work(
    chunks: Chunks, blocks: Int32Array, block_offsets: Int64Array, state: RunState
) -> SegmentWork:
    """One causal item per chunk for its owner's tokens, one per shared segment in use.

    Args:
        blocks, block_offsets: KV blocks of each chunk's owner up to the chunk's end, flat.
    """
    segments = state.segments
    rows = _shared_rows(chunks, state.running, segments)
    used = np.array(list(rows), dtype=np.int64)
    bounds = np.array(list(rows.values()), dtype=np.int64).reshape(-1, 2)
    shared_blocks = [segments.blocks[segment] for segment in rows]
    lengths = np.array([len(b) for b in shared_blocks], dtype=np.int64)
    starts = chunks.row_starts
    before = np.empty(len(chunks), dtype=np.int64)
    before[chunks.shared] = segments.start[chunks.segments]
    before[chunks.own] = state.running.shared[chunks.slots]
    causal: BoolArray = np.arange(len(chunks) + len(used)) < len(chunks)
    return SegmentWork(
        num_rows=int(starts[-1]),
        row_first=np.concatenate([starts[:-1], bounds[:, 0]]).astype(np.int32),
        row_last=np.concatenate([starts[1:], bounds[:, 1]]).astype(np.int32),
        kv_tokens=np.concatenate([chunks.first + chunks.count, segments.length[used]]).astype(
            np.int32
        ),
        starts=np.concatenate([before, segments.start[used]]).astype(np.int32),
        causal=causal,
        block_offsets=np.concatenate([block_offsets, block_offsets[-1] + np.cumsum(lengths)]),
        blocks=np.concatenate([blocks, *shared_blocks]),
        block_size=state.pool.block_size,
    )


def _shared_rows(
    chunks: Chunks, running: RunningSequences, segments: SegmentTable
) -> dict[int, tuple[int, int]]:
    """The range of rows that use each shared segment, as ancestors of their owner."""
    starts = chunks.row_starts
    leaf = np.empty(len(chunks), dtype=np.int64)
    leaf[chunks.shared] = segments.parent[chunks.segments]
    leaf[chunks.own] = running.segment[chunks.slots]
    # Neighbours often have the same ancestors: each run of them is looked at once.
    changes = np.flatnonzero(np.append(True, leaf[1:] != leaf[:-1])[: len(leaf)]).tolist()
    rows: dict[int, tuple[int, int]] = {}
    for run, chunk in enumerate(changes):
        end = changes[run + 1] if run + 1 < len(changes) else len(chunks)
        for segment in segments.path(int(leaf[chunk])):
            first = rows[segment][0] if segment in rows else int(starts[chunk])
            rows[segment] = (first, int(starts[end]))
    return rows
