"""What is known of every sequence before it runs."""

from __future__ import annotations

import numpy as np

from shoal.planner import Plan
from shoal.types import BASE_MODEL, BoolArray, Int32Array, Int64Array, RequestTable
from shoal.types.length_switch import NEVER


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
        restarts_at: int64, tokens generated when it is computed anew; see `LengthSwitch`.
        restarted: bool, whether it was: it uses no shared segment any more.
        adapter: int64, its adapter, or `BASE_MODEL`.
    """

    def __init__(self, table: RequestTable, plan: Plan, sequential: BoolArray) -> None:
        """`sequential`: bool [N], by request."""
        self._table, self._sequential = table, sequential
        self._lengths, self._generates = table.computed_lengths, table.generates
        self.restarted: BoolArray = np.zeros(plan.num_sequences, dtype=np.bool_)
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
        self.adapter: Int64Array = np.full(len(self), BASE_MODEL)
        if table.adapter is not None:
            self.adapter = table.adapter[self.request].astype(np.int64)
        self.restarts_at: Int64Array = np.full(len(self), NEVER)
        if table.switch is not None:
            self.restarts_at = table.switch.restarts_at(table.lengths)[self.request]
            # Those of the plan stay as they are.
            self.segment = self.segment.copy()
            for sequence in np.flatnonzero(self.restarted).tolist():
                self._stand_alone(sequence)

    def restart(self, sequence: int) -> None:
        """All of it is its own from now on."""
        self.restarted[sequence] = True
        self._stand_alone(sequence)

    def _stand_alone(self, sequence: int) -> None:
        self.segment[sequence], self.shared[sequence] = -1, 0
        self.own_prompt[sequence] = self._lengths[self.request[sequence]]
        self.restarts_at[sequence] = NEVER

    def row_order(self, sequences: Int64Array) -> Int64Array:
        """By what the rows of sequences are ordered: those that left their segments come last.

        Anywhere else they would part the rows of the segments' users.
        """
        return sequences + len(self) * self.restarted[sequences]

    def __len__(self) -> int:
        return len(self.request)

    def prefix_only(self, num_segments: int) -> Int64Array:
        """Sequences that sample without a prompt token of their own, by their segment: int64
        [segments]."""
        segment = self.segment[(self.own_prompt == 0) & (self.segment >= 0) & self.generates]
        return np.bincount(segment, minlength=num_segments).astype(np.int64)
