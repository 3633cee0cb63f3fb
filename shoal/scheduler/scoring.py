"""Which rows of a run score prompts, for whom, and which of them have done so.

A row says what the token after it scores. Inside a shared segment that token is the same for all
who use it, so a row scores for all of them at once. Behind a segment's last row they part: it
scores the first token of everyone who goes on, and its logits need not be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shoal.planner import Plan
from shoal.scheduler.batch import Chunks, ScoredRange
from shoal.scheduler.running import RunningSequences
from shoal.types import Int32Array, Int64Array, RequestTable

_NEVER = np.int64(2**62)
"""A position that no prompt reaches."""


@dataclass(frozen=True)
class ScoredRows:
    """Of O owners, segments or sequences, which of their tokens' rows score, int64 columns [O].

    Attributes:
        first, last: rows [first, last), counted from the owner's first token; none where equal.
        num_best: how many of the likeliest tokens are listed beside each.
        done: rows before this one have been scored, or are being.
    """

    first: Int64Array
    last: Int64Array
    num_best: Int64Array
    done: Int64Array

    @classmethod
    def of(cls, first: Int64Array, last: Int64Array, num_best: Int64Array) -> ScoredRows:
        """None of them scored yet."""
        return cls(first, np.maximum(first, last), num_best, np.zeros(len(first), dtype=np.int64))

    def part(self, owner: int, first: int, count: int) -> tuple[int, int]:
        """The rows [begin, end) to score of an owner's tokens [first, first + count)."""
        begin = max(first, int(self.first[owner]), int(self.done[owner]))
        return begin, max(begin, min(first + count, int(self.last[owner])))


class PromptScoring:
    """Says which rows of chunks are to score, and remembers which have."""

    def __init__(self, table: RequestTable, plan: Plan) -> None:
        self._table = table
        self._start = table.score_start
        self.any = bool((self._start < table.lengths).any())
        """Whether any prompt is scored."""
        if self.any:
            self._take(plan)

    def replan(self, plan: Plan, first: int) -> None:
        """Segments from `first` on, and sequences that have not begun, have other numbers."""
        if self.any:
            segments, sequences = self.segments.done[:first], self.sequences.done
            self._take(plan)
            self.segments.done[:first] = segments
            self.sequences.done[:] = sequences

    def _take(self, plan: Plan) -> None:
        table, request = self._table, plan.sequence_request
        lengths, scored = table.lengths[request], self._start < table.lengths
        self._plan = plan
        start = np.where(scored, self._start, _NEVER)[request]
        wanted = table.per_request([p.num_prompt_logprobs or 0 for p in table.params])
        num_best = np.where(scored, wanted, 0)[request].astype(np.int64)
        shared = plan.shared_length.astype(np.int64)
        # The row before a token scores it; the last row of a prompt says the answer's first token.
        own_first = np.maximum(start - 1 - shared, 0)
        self.sequences = ScoredRows.of(own_first, lengths - 1 - shared, num_best)

        users = np.stack([plan.segment_first, plan.segment_last], axis=1).ravel()
        least = (
            np.minimum.reduceat(np.append(start, _NEVER), users)[::2] if len(users) else start[:0]
        )
        most = np.maximum.reduceat(np.append(num_best, 0), users)[::2] if len(users) else start[:0]
        self._children(plan, start, least, lengths)
        length = plan.segment_length.astype(np.int64)
        last = length - (np.diff(self.child_offsets) == 0)
        before: Int64Array = least - 1 - plan.segment_start.astype(np.int64)
        first: Int64Array = np.minimum(np.maximum(before, 0), length)
        self.segments = ScoredRows.of(first, last, most)

    def _children(
        self, plan: Plan, start: Int64Array, least: Int64Array, lengths: Int64Array
    ) -> None:
        """Find the distinct tokens that follow each segment and are scored.

        Args:
            start: int64 [Q], where each sequence's scores begin.
            least: int64 [S], the same of the users of each segment, the least.
            lengths: int64 [Q], of the prompts.
        """
        table, end = self._table, plan.segment_end.astype(np.int64)
        inner = np.flatnonzero(plan.segment_parent >= 0)
        inner = inner[least[inner] <= end[plan.segment_parent[inner]]]
        leaf = plan.sequence_segment
        direct = np.flatnonzero(leaf >= 0)
        reach = end[leaf[direct]]
        direct = direct[(start[direct] <= reach) & (lengths[direct] > reach)]
        parent = np.concatenate([plan.segment_parent[inner], leaf[direct]]).astype(np.int64)
        request = np.concatenate([plan.segment_request[inner], plan.sequence_request[direct]])
        token = table.tokens[table.offsets[request] + end[parent]].astype(np.int64)
        pairs = np.unique(parent << 32 | token)
        self.child_offsets: Int64Array = np.searchsorted(
            pairs >> 32, np.arange(plan.num_segments + 1)
        )
        self.child_tokens: Int32Array = (pairs & 0xFFFFFFFF).astype(np.int32)

    def ranges(
        self, chunks: Chunks, running: RunningSequences
    ) -> tuple[list[ScoredRange], Int64Array]:
        """What the chunks of a batch score, by rows; and which rows of the batch these are, int64.

        The ranges' `row` counts from the first of these.
        """
        found, rows = list[ScoredRange](), list[Int64Array]()
        if not self.any:
            return found, np.zeros(0, dtype=np.int64)
        owners = np.empty(len(chunks), dtype=np.int64)
        owners[chunks.shared] = chunks.segments
        owners[chunks.own] = running.sequence[chunks.slots]
        columns = chunks.shared, owners, chunks.first, chunks.count, chunks.row_starts[:-1]
        row = 0
        for shared, owner, first, count, at in zip(*(c.tolist() for c in columns), strict=True):
            kind = self.segments if shared else self.sequences
            begin, end = kind.part(owner, first, count)
            if begin == end:
                continue
            targets, children = self._targets(shared, owner, begin, end)
            num_best = int(kind.num_best[owner])
            found.append(ScoredRange(shared, owner, begin, row, targets, children, num_best))
            rows.append(np.arange(at + begin - first, at + end - first))
            row += end - begin
        return found, np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)

    def _targets(
        self, shared: bool, owner: int, begin: int, end: int
    ) -> tuple[Int32Array, Int32Array]:
        """The token after each row but the last of a segment; and those after this one."""
        plan = self._plan
        children = self.child_tokens[:0]
        if shared:
            start, request = plan.segment_start[owner], plan.segment_request[owner]
            if end == plan.segment_length[owner]:
                children = self.child_tokens[slice(*self.child_offsets[owner : owner + 2])]
        else:
            start, request = plan.shared_length_of(owner), plan.sequence_request[owner]
        first = int(self._table.offsets[request]) + int(start) + 1
        return self._table.tokens[first + begin : first + end - bool(len(children))], children

    def advance(self, scored: Sequence[ScoredRange]) -> None:
        """A batch that scores these was launched."""
        for each in scored:
            self._done(each)[each.owner] = each.first + each.num_rows

    def undo(self, scored: Sequence[ScoredRange]) -> None:
        """Take `advance` back: they are to be scored again."""
        for each in scored:
            done = self._done(each)
            done[each.owner] = min(int(done[each.owner]), each.first)

    def _done(self, scored: ScoredRange) -> Int64Array:
        return (self.segments if scored.shared else self.sequences).done
