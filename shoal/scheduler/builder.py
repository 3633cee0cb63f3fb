"""Assembles one token batch from the sequences chosen for it."""

from __future__ import annotations

import numpy as np

from shoal.planner import Plan
from shoal.scheduler.batch import Chunks, ScoredRange, TokenBatch
from shoal.scheduler.chunking import choose_chunks
from shoal.scheduler.samples import choose_samples
from shoal.scheduler.state import RunState
from shoal.scheduler.token_rows import AwaitedTokens, token_rows
from shoal.scheduler.work_list import attention_work
from shoal.types import BoolArray, Int32Array, Int64Array, RequestTable


class BatchBuilder:
    """Turns decoding and prefilling slots into a `TokenBatch`; changes no state.

    Rows are ordered along the plan, a shared segment's own tokens just before its first user's, so
    that whoever uses a segment is one range of rows and attention needs no gather of queries.
    """

    def __init__(
        self, table: RequestTable, plan: Plan, state: RunState, scored_requests: BoolArray
    ) -> None:
        """`scored_requests`: bool [N], whose prompts are scored; they share nothing."""
        self._table, self._state, self._scored_requests = table, state, scored_requests
        self.replan(plan)

    def replan(self, plan: Plan) -> None:
        """Sequences and segments not yet begun have other numbers from now on."""
        self._plan = plan
        self._scored: BoolArray = self._scored_requests[plan.sequence_request]

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
        chunks, prefix_only = choose_chunks(state, self._scored, decoding, prefilling, budget)
        rows = token_rows(chunks, state, self._table, self._plan, awaited)
        samples = choose_samples(chunks, prefix_only, state)
        logit_rows, sampled = samples.logit_rows, samples.sampled
        # Scored rows come behind those that are sampled from, whose numbers are given already.
        scored, scored_rows = self._score(chunks, len(logit_rows))
        if scored:
            logit_rows = np.concatenate([logit_rows, scored_rows])
        slots = running.slots_of(sampled)
        return TokenBatch(
            token_ids=rows.token_ids,
            positions=rows.positions,
            slots=rows.slots,
            attention=attention_work(chunks, rows.blocks, rows.block_offsets, state),
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
            sequences=self._sequences(chunks, slots),
            feedback=rows.feedback,
        )

    def _sequences(self, chunks: Chunks, sampled: Int64Array) -> Int32Array:
        """Who is tried again if the batch fails: those with a row or a sample of their own.

        A segment's chunk is computed for all that use it; its first user that runs stands for them,
        and computes it when it is tried alone.
        """
        running = self._state.running
        slots = running.in_order()
        first_users = self._state.segments.first_user[chunks.segments]
        users = slots[np.searchsorted(running.sequence[slots], first_users)]
        chosen = np.zeros(running.capacity, dtype=np.bool_)
        for some in (chunks.slots, sampled, users):
            chosen[some] = True
        return running.sequence[slots[chosen[slots]]].astype(np.int32)

    def _score(self, chunks: Chunks, row: int) -> tuple[list[ScoredRange], list[int]]:
        """What scores prompts, in rows of logits from `row` on, and the batch rows these are.

        A row scores the token after its own.
        """
        running, found = self._state.running, list[ScoredRange]()
        rows: list[int] = []
        which = np.flatnonzero(self._scored[running.sequence[chunks.slots]])
        for chunk, slot in zip(
            np.flatnonzero(chunks.own)[which].tolist(), chunks.slots[which].tolist(), strict=True
        ):
            first = int(chunks.first[chunk])
            # The prompt's last row says the first token of the answer: it scores nothing.
            count = min(int(chunks.count[chunk]), int(running.own_prompt[slot]) - 1 - first)
            if count > 0:
                sequence, start = int(running.sequence[slot]), int(chunks.row_starts[chunk])
                prompt = self._table.prompt(int(self._plan.sequence_request[sequence]))
                targets = prompt[first + 1 : first + 1 + count]
                found.append(ScoredRange(sequence, first + 1, row + len(rows), targets))
                rows.extend(range(start, start + count))
        return found, rows
