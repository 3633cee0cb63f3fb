"""What one iteration computes: the token batch that goes from the scheduler to an executor."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from shoal.state_work import StateWork
from shoal.types import BoolArray, Int32Array, Int64Array
from shoal.work import SegmentWork


@dataclass(frozen=True)
class Chunks:
    """C runs of consecutive tokens, each of a shared segment or of a running sequence, by rows.

    Attributes:
        shared: bool [C], whether the tokens are a shared segment's.
        segments: int64, the segments of the shared chunks, in row order.
        slots: int64, the running slots of the others, in row order.
        first: int64 [C], index of the chunk's first token within the segment, or within the
            sequence's own tokens.
        count: int64 [C], tokens, at least 1.
    """

    shared: BoolArray
    segments: Int64Array
    slots: Int64Array
    first: Int64Array
    count: Int64Array

    def __len__(self) -> int:
        return len(self.shared)

    @cached_property
    def own(self) -> BoolArray:
        """Whether the tokens are a sequence's own: bool [C]."""
        return ~self.shared

    @cached_property
    def row_starts(self) -> Int64Array:
        """Batch row of each chunk's first token, and the total: int64 [C + 1]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.count)])

    @property
    def last_rows(self) -> Int64Array:
        """Batch row of each chunk's last token, int64 [C]."""
        return self.row_starts[1:] - 1


@dataclass(frozen=True)
class ScoredRange:
    """Rows of a shared segment, or of a sequence's own, that say what the tokens after them score.

    Attributes:
        shared: whether they are a segment's.
        owner: the segment, or the sequence in the plan's order.
        first: the first of the rows, counted from the owner's first token.
        row: the scored row of the batch that is the first; the others follow.
        targets: int32, the token after each row, but for a last row that has `children`.
        children: int32, ascending, the tokens after the last row of a segment: its users part
            there, and all their tokens are scored. Empty elsewhere.
        num_best: how many of the likeliest tokens are listed beside each row.
    """

    shared: bool
    owner: int
    first: int
    row: int
    targets: Int32Array
    children: Int32Array
    num_best: int

    @property
    def num_rows(self) -> int:
        """Rows, at least one."""
        return len(self.targets) + bool(len(self.children))


class Retain(NamedTuple):
    """Row `row` of the batch's logits is to be kept: a segment's, for samples of later batches."""

    row: int
    segment: int


class Feedback(NamedTuple):
    """Rows whose token was not known when the batch was planned, int64 columns [F].

    Row `rows[f]` runs the token that the batch launched before gave its sample `source[f]`.
    """

    rows: Int64Array
    source: Int64Array

    @classmethod
    def none(cls) -> Feedback:
        """Every token is known."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


class GroupRows(NamedTuple):
    """A batch in one group of layers.

    Attributes:
        slots: int64 [T], the KV slot (block * block size + offset) each token writes.
        attention: who attends to what.
    """

    slots: Int64Array
    attention: SegmentWork


class AdapterRows(NamedTuple):
    """Runs of rows of one adapter. In the plan's order that is one run for each.

    Attributes:
        adapter: int64 [K], of each run: its index in `RequestTable.adapters`, or `BASE_MODEL`.
        starts: int64 [K + 1], where each run begins in the batch, and the number of rows.
        resident: adapters that may be in memory, those of the rows among them.
    """

    adapter: Int64Array
    starts: Int64Array
    resident: tuple[int, ...]


@dataclass(frozen=True)
class TokenBatch:
    """One iteration: T tokens to run through the model and S next tokens to sample.

    Attributes:
        token_ids, positions: int32 [T].
        slots, attention: see `GroupRows`, in the first group of layers.
        logit_rows: int64 [R], rows whose logits are needed: those sampled from, then those that
            score a prompt. Row r of the batch's logits [R, vocabulary] is that of `logit_rows[r]`.
        sample_sequences: int32 [S], the sequences (numbered in the plan's order) that get a token.
        sample_positions: int32 [S], tokens each has generated so far.
        sample_logits: int64 [S], the row each samples from, of the batch's logits [R] followed by
            those of `sample_retained` [K].
        sample_retained: segments whose logits, retained by an earlier batch, are sampled from.
        retain: logits that later batches sample from: of segments that are somebody's whole prompt.
        release: segments whose retained logits nobody needs after this batch.
        scored: what scores prompts: the last rows of `logit_rows`, as many as all these have.
        chunks: where the rows come from, in row order.
        num_decodes: rows that continue an answer.
        ends: int32, sequences that generate nothing, and have all they need after this batch.
        sequences: int32, the sequences this batch is computed for.
        feedback: tokens that come from the batch before; `token_ids` has 0 for them.
        row_lengths: int64 [T], see `shoal.scheduler.row_lengths`; None: the model does not ask.
        others: the same rows in the other groups of layers.
        states: the states that recurrent layers go on from; None: there are none.
        adapters: which rows run with which; None: no request of the run has one.
    """

    token_ids: Int32Array
    positions: Int32Array
    slots: Int64Array
    attention: SegmentWork
    logit_rows: Int64Array
    sample_sequences: Int32Array
    sample_positions: Int32Array
    sample_logits: Int64Array
    chunks: Chunks
    num_decodes: int
    sequences: Int32Array
    sample_retained: tuple[int, ...] = ()
    retain: tuple[Retain, ...] = ()
    release: tuple[int, ...] = ()
    scored: tuple[ScoredRange, ...] = ()
    ends: Int32Array = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    feedback: Feedback = field(default_factory=Feedback.none)
    row_lengths: Int64Array | None = None
    others: tuple[GroupRows, ...] = ()
    states: StateWork | None = None
    adapters: AdapterRows | None = None

    @property
    def groups(self) -> tuple[GroupRows, ...]:
        """The rows in every group of layers."""
        return (GroupRows(self.slots, self.attention), *self.others)

    @property
    def num_tokens(self) -> int:
        """Tokens the model runs."""
        return len(self.token_ids)

    @property
    def is_empty(self) -> bool:
        """Whether nothing comes of it."""
        return not (self.num_tokens or len(self.sample_sequences) or len(self.ends))

    @property
    def first_scored(self) -> int:
        """Where the scored rows begin in the batch's logits."""
        return len(self.logit_rows) - sum(each.num_rows for each in self.scored)
