"""Where a token batch finds and leaves its KV, and which of its rows attend to which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.scheduler.batch import Chunks, GroupRows
from shoal.scheduler.ledger import BlockLedger
from shoal.scheduler.running import RunningSequences
from shoal.scheduler.segments import SegmentTable
from shoal.scheduler.state import RunState
from shoal.scheduler.token_rows import TokenRows
from shoal.types import BoolArray, Int32Array, Int64Array
from shoal.work import SegmentWork


@dataclass(frozen=True)
class Users:
    """Who uses what in a batch: the same in every group of layers.

    Attributes:
        before: int64 [C], the position of the first token of each chunk's owner.
        used: int64 [U], shared segments that rows attend to, as their owners' ancestors.
        bounds: int64 [U, 2], the rows that do.
    """

    before: Int64Array
    used: Int64Array
    bounds: Int64Array

    @classmethod
    def of(cls, chunks: Chunks, state: RunState) -> Users:
        """Those of some chunks."""
        rows = _shared_rows(chunks, state.running, state.segments)
        before = np.empty(len(chunks), dtype=np.int64)
        before[chunks.shared] = state.segments.start[chunks.segments]
        before[chunks.own] = state.running.shared[chunks.slots]
        return cls(
            before,
            used=np.array(list(rows), dtype=np.int64),
            bounds=np.array(list(rows.values()), dtype=np.int64).reshape(-1, 2),
        )


@dataclass(frozen=True)
class _Tables:
    """Blocks of owners, flat: of owner i those at offsets[i]:offsets[i + 1], `freed[i]` before
    them being gone."""

    freed: Int64Array
    blocks: Int32Array
    offsets: Int64Array


def group_rows(
    chunks: Chunks, rows: TokenRows, users: Users, ledger: BlockLedger, segments: SegmentTable
) -> GroupRows:
    """The KV slots of a batch's rows, and their attention, in one group of layers.

    There is one causal item per chunk for its owner's tokens, one per shared segment in use.
    """
    size = ledger.block_size
    own, shared = _chunk_tables(chunks, ledger), _segment_tables(users.used, ledger)
    at = own.offsets[rows.chunk] - own.freed[rows.chunk] + rows.index // size
    slots = own.blocks[at].astype(np.int64) * size + rows.index % size
    freed = np.concatenate([own.freed, shared.freed]) * size
    starts, bounds = chunks.row_starts, users.bounds
    tokens = np.concatenate([chunks.first + chunks.count, segments.length[users.used]])
    before = np.concatenate([users.before, segments.start[users.used]])
    causal: BoolArray = np.arange(len(tokens)) < len(chunks)
    attention = SegmentWork(
        num_rows=int(starts[-1]),
        row_first=np.concatenate([starts[:-1], bounds[:, 0]]).astype(np.int32),
        row_last=np.concatenate([starts[1:], bounds[:, 1]]).astype(np.int32),
        kv_tokens=(tokens - freed).astype(np.int32),
        starts=(before + freed).astype(np.int32),
        causal=causal,
        block_offsets=np.concatenate([own.offsets, own.offsets[-1] + shared.offsets[1:]]),
        blocks=np.concatenate([own.blocks, shared.blocks]),
        block_size=size,
    )
    return GroupRows(slots, attention)


def _chunk_tables(chunks: Chunks, ledger: BlockLedger) -> _Tables:
    """Of each chunk's owner, up to the chunk's end."""
    ends = -(-(chunks.first + chunks.count) // ledger.block_size)
    own_freed, held = ledger.tables(chunks.slots, ends[chunks.own])
    if not len(chunks.segments):
        return _Tables(own_freed, held, _offsets(ends - own_freed))
    tables = [ledger.segment_table(segment) for segment in chunks.segments.tolist()]
    freed = np.empty(len(chunks), dtype=np.int64)
    freed[chunks.own] = own_freed
    freed[chunks.shared] = [gone for gone, _ in tables]
    counts = ends - freed
    offsets = _offsets(counts)
    flat = np.empty(int(offsets[-1]), dtype=np.int32)
    flat[np.repeat(chunks.own, counts)] = held
    for chunk, (_, blocks) in zip(np.flatnonzero(chunks.shared).tolist(), tables, strict=True):
        flat[offsets[chunk] : offsets[chunk + 1]] = blocks[: counts[chunk]]
    return _Tables(freed, flat, offsets)


def _segment_tables(segments: Int64Array, ledger: BlockLedger) -> _Tables:
    """Of segments, whole."""
    tables = [ledger.segment_table(segment) for segment in segments.tolist()]
    counts = np.array([len(blocks) for _, blocks in tables], dtype=np.int64)
    return _Tables(
        freed=np.array([gone for gone, _ in tables], dtype=np.int64),
        blocks=np.concatenate([np.zeros(0, np.int32), *(blocks for _, blocks in tables)]),
        offsets=_offsets(counts),
    )


def _offsets(counts: Int64Array) -> Int64Array:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


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
