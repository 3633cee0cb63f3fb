"""Forwards of few rows replayed as graphs: one launch instead of thousands.

A graph is captured per bucket of rows, and of rows with logits, at their first use. It reads its
inputs where they were when it was captured: in static buffers that `run` fills. Rows beyond the
batch's own are padding: they write their keys and values to scratch slots that no request owns, and
attend to nothing. Since attention takes any work list, any batch that is small enough is replayed,
of decodes, of prompts or of both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch

from shoal.cuda.buckets import bucket_for, logit_bucket
from shoal.cuda.capture import Recorder
from shoal.model.hook import AttentionStep, attention_step
from shoal.model.kv import KVPool
from shoal.model.load import LoadedModel
from shoal.work import SegmentWork

_log = logging.getLogger(__name__)

WORK_TIERS = 8
"""How many times larger each next set of attention buffers is. An attention kernel over fixed
buffers visits all their rows, so small buckets get small ones; one each would waste memory."""


class GraphableWork(Protocol):
    """A work list at fixed addresses; passed to an attention backend in place of a prepared one."""

    def fill(self, work: SegmentWork) -> bool:
        """Put `work` there. False: it does not fit, and nothing has changed."""


@runtime_checkable
class GraphableAttention(Protocol):
    """An attention backend that can be captured: it reads its work list from fixed buffers.

    Rows of the query that no item covers give zeros.
    """

    def fixed(self, capacity: Any, device: torch.device) -> GraphableWork:
        """Buffers for work lists up to a capacity of the backend's own kind."""


def scratch_blocks(sizes: tuple[int, ...], block_size: int) -> int:
    """KV blocks that hold the padding of the bucket with most of it, at least one."""
    most = max(large - small - 1 for small, large in pairwise((0, *sizes)))
    return max(1, -(-most // block_size))


def tiers(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The buckets that attention buffers are made for, largest first."""
    found = [sizes[-1]]
    while found[-1] > WORK_TIERS:
        smaller = [size for size in sizes if size <= found[-1] // WORK_TIERS]
        if not smaller:
            break
        found.append(smaller[-1])
    return tuple(found)


class GraphedForward:
    """Replays a model's forward for batches of up to the largest bucket's rows.

    One batch at a time, on one stream. Not for several threads.
    """

    def __init__(
        self,
        model: LoadedModel,
        kv: KVPool,
        scratch: torch.Tensor,
        recorder: Recorder,
        fixed: Callable[[int], GraphableWork],
        like: torch.Tensor,
        sizes: tuple[int, ...],
    ) -> None:
        """Take the static buffers; nothing is captured yet.

        Args:
            scratch: int64, on the device: KV slots that no request owns, as many as any bucket has
                rows of padding.
            fixed: makes attention buffers for so many rows.
            like: logits [*, vocabulary] of the model.
            sizes: the buckets, ascending.
        """
        self.sizes = sizes
        self._model, self._kv, self._recorder = model, kv, recorder
        self._inputs = _Inputs(sizes[-1], scratch)
        self._logits = like.new_empty(sizes[-1], like.shape[1])
        self._works = {rows: fixed(rows) for rows in tiers(sizes)}
        self._replays: dict[_Bucket, Callable[[], None]] = {}
        self._refused: set[_Bucket] = set()

    @property
    def captured(self) -> tuple[int, ...]:
        """The buckets of rows that have a graph, ascending."""
        return tuple(sorted({bucket.rows for bucket in self._replays}))

    def run(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        work: SegmentWork,
        logit_rows: torch.Tensor,
    ) -> torch.Tensor | None:
        """The logits of a token batch, its keys and values stored.

        Args:
            token_ids, positions, slots: int64 [T], on the device.
            work: the attention of the T rows.
            logit_rows: int64 [R], on the device; rows may repeat.

        Returns:
            [R, vocabulary], overwritten by the next call: whatever reads it must be on the stream
            before that. None: this batch is not for a graph; it is to be run eagerly.
        """
        size = bucket_for(self.sizes, len(token_ids))
        if size is None or len(logit_rows) > size:
            return None
        bucket = _Bucket(size, logit_bucket(size, len(logit_rows)))
        fixed = self._works[min(rows for rows in self._works if rows >= size)]
        if bucket in self._refused or not fixed.fill(work):
            return None
        self._inputs.fill(bucket, token_ids, positions, slots, logit_rows)
        replay = self._replays.get(bucket)
        if replay is not None:
            replay()
        elif not self._record(bucket, fixed):
            return None
        return self._logits[: len(logit_rows)]

    def _record(self, bucket: _Bucket, fixed: GraphableWork) -> bool:
        """Run the bucket for the first time, capturing it."""
        try:
            self._replays[bucket] = self._recorder.record(lambda: self._forward(bucket, fixed))
        except RuntimeError as error:
            self._refused.add(bucket)
            _log.warning(
                "batches of %d rows run without a CUDA graph, slower: %s",
                bucket.rows,
                str(error).splitlines()[0],
            )
            return False
        return True

    def _forward(self, bucket: _Bucket, fixed: GraphableWork) -> None:
        token_ids, positions, slots, logit_rows = self._inputs.of(bucket)
        with attention_step(AttentionStep(self._kv, slots, fixed)):
            logits = self._model.logits(token_ids, positions, logit_rows)
        # A buffer of ours, so that no graph keeps its logits: they would add up over the buckets.
        self._logits[: bucket.logits].copy_(logits)


@dataclass(frozen=True)
class _Bucket:
    """What a graph is captured for: batches of up to `rows` rows, the logits of up to `logits`."""

    rows: int
    logits: int


class _Inputs:
    """The static buffers a graph reads: token ids, positions, slots and logit rows."""

    def __init__(self, most: int, scratch: torch.Tensor) -> None:
        self._columns = torch.zeros(4, most, dtype=torch.int64, device=scratch.device)
        zeros = torch.zeros(most, dtype=torch.int64, device=scratch.device)
        self._padding = (zeros, zeros, scratch, zeros)

    def of(self, bucket: _Bucket) -> tuple[torch.Tensor, ...]:
        """The buffers of a bucket."""
        lengths = bucket.rows, bucket.rows, bucket.rows, bucket.logits
        return tuple(column[:length] for column, length in zip(self._columns, lengths, strict=True))

    def fill(self, bucket: _Bucket, *columns: torch.Tensor) -> None:
        """Put a batch's columns there, and padding behind them, up to the bucket's lengths."""
        targets, sources = [], []
        for buffer, column, padding in zip(self.of(bucket), columns, self._padding, strict=True):
            count = len(column)
            targets.append(buffer[:count])
            sources.append(column)
            if count < len(buffer):
                targets.append(buffer[count:])
                sources.append(padding[: len(buffer) - count])
        torch._foreach_copy_(targets, sources, non_blocking=True)
