"""What is known of every sequence before it runs."""

from __future__ import annotations

import numpy as np

from shoal.planner import Plan
from shoal.types import BoolArray, Int32Array, Int64Array, RequestTable


class SequenceColumns:
    """One entry per sequence, numbered in the plan's order.

    Columns (all [Q]):
        request: int32, the request it is a choice of.
        segment: int32, its deepest shared segment; -1 where it has none.
        shared: int64, prompt tokens held by its shared segments.
        own_prompt: int64, prompt tokens of its own that are computed.
        generates: bool, whether it samples at all.
        limit: int64, tokens after which it ends.
        sequential: bool, whether the host must know its last token before the next is sampled.
    """

    def __init__(self, table: RequestTable, plan: Plan, sequential: BoolArray) -> None:
        """`sequential`: bool [N], by request."""
        self._table, self._sequential = table, sequential
        self._lengths, self._generates = table.computed_lengths, table.generates
        self.replan(plan)

    def replan(self, plan: Plan) -> None:
        """Sequences not yet admitted have other numbers from now on."""
        table = self._table
        self.request: Int32Array = plan.sequence_request
        self.segment: Int32Array = plan.sequence_segment
        self.shared: Int64Array = plan.shared_length.astype(np.int64)
        self.own_prompt: Int64Array = self._lengths[self.request] - self.shared
        self.generates: BoolArray = self._generates[self.request]
        self.limit: Int64Array = table.max_new_tokens[self.request].astype(np.int64)
        self.sequential: BoolArray = self._sequential[self.request]

    def __len__(self) -> int:
        return len(self.request)

    def prefix_only(self, num_segments: int) -> Int64Array:
        """Sequences that sample without a prompt token of their own, by their segment: int64
        [segments]."""
        segment = self.segment[(self.own_prompt == 0) & (self.segment >= 0) & self.generates]
        return np.bincount(segment, minlength=num_segments).astype(np.int64)
