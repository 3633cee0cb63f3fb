"""Assembles one token batch from the sequences chosen for it."""

from __future__ import annotations

import numpy as np

from shoal.planner import Plan
from shoal.scheduler.adapter_rows import adapter_rows
from shoal.scheduler.batch import Chunks, TokenBatch
from shoal.scheduler.chunking import choose_chunks
from shoal.scheduler.row_lengths import row_lengths
from shoal.scheduler.samples import choose_samples
from shoal.scheduler.state import RunState
from shoal.scheduler.state_list import state_list
from shoal.scheduler.token_rows import AwaitedTokens, token_rows
from shoal.scheduler.work_list import Users, group_rows
from shoal.types import Int32Array, Int64Array, RequestTable


class BatchBuilder:
    """Turns decoding and prefilling slots into a `TokenBatch`.

    It changes no state, but that chunks take blocks in groups of layers that have a window.

    Rows are ordered along the plan, a shared segment's own tokens just before its first user's, so
    that whoever uses a segment is one range of rows and attention needs no gather of queries.
    """

    def __init__(self, table: RequestTable, plan: Plan, state: RunState, scored_rows: int) -> None:
        """`scored_rows`: most rows of a batch that score prompts."""
        self._table, self._state, self._scored_rows = table, state, scored_rows
        self.replan(plan)

    def replan(self, plan: Plan) -> None:
        """Sequences and segments not yet begun have other numbers from now on."""
        self._plan = plan

    def batch(
        self,
        decoding: Int64Array,
        prefilling: Int64Array,
        budget: int,
        awaited: AwaitedTokens | None = None,
    ) -> TokenBatch:
        """One token for each decoding slot, then chunks of the prefilling ones up to `budget`.

        Args:
            awaited: tokens that the batch under way will give; None: all are known.
        """
        state, running = self._state, self._state.running
        chosen = choose_chunks(state, decoding, prefilling, budget, self._scored_rows)
        chunks = chosen.chunks
        self._take_blocks(chunks)
        users = Users.of(chunks, state)
        rows = token_rows(chunks, state, self._table, self._plan, awaited)
        groups = [
            group_rows(chunks, rows, users, ledger, state.segments) for ledger in state.ledgers
        ]
        samples = choose_samples(chunks, chosen.prefix_only, state)
        sampled = samples.sampled
        # Scored rows come behind those that are sampled from, whose numbers are given already.
        scored, scored_rows = state.scoring.ranges(chunks, running)
        logit_rows = np.concatenate([samples.logit_rows, scored_rows])
        slots = running.slots_of(sampled)
        complete = np.array(chosen.complete, dtype=np.int64)
        return TokenBatch(
            token_ids=rows.token_ids,
            positions=rows.positions,
            slots=groups[0].slots,
            attention=groups[0].attention,
            logit_rows=logit_rows,
            sample_sequences=sampled,
            sample_positions=(running.own_total[slots] - running.own_prompt[slots]).astype(
                np.int32
            ),
            sample_logits=samples.logits(len(logit_rows)),
            sample_retained=tuple(samples.from_retained),
            retain=tuple(samples.retain),
            release=(*samples.release, *state.retained.unneeded()),
            scored=tuple(scored),
            chunks=chunks,
            num_decodes=len(decoding),
            sequences=self._sequences(chunks, np.concatenate([slots, complete])),
            ends=running.sequence[complete].astype(np.int32),
            feedback=rows.feedback,
            row_lengths=row_lengths(chunks, state, self._table, self._plan),
            others=tuple(groups[1:]),
            states=state_list(chunks, state),
            adapters=adapter_rows(chunks, state, self._table, self._plan),
        )

    def _take_blocks(self, chunks: Chunks) -> None:
        ends = chunks.first + chunks.count
        for ledger in self._state.ledgers:
            if ledger.windowed:
                ledger.extend_segments(chunks.segments, ends[chunks.shared])
                ledger.extend_slots(chunks.slots, ends[chunks.own])

    def _sequences(self, chunks: Chunks, others: Int64Array) -> Int32Array:
        """Who is tried again if the batch fails: those with a row of their own, and `others`.

        A segment's chunk is computed for all that use it; its first user that runs stands for them,
        and computes it when it is tried alone.
        """
        running = self._state.running
        slots = running.in_order()
        first_users = self._state.segments.first_user[chunks.segments]
        using = slots[running.segment[slots] >= 0]
        users = using[np.searchsorted(running.sequence[using], first_users)]
        chosen = np.zeros(running.capacity, dtype=np.bool_)
        for some in (chunks.slots, others, users):
            chosen[some] = True
        return running.sequence[slots[chosen[slots]]].astype(np.int32)
