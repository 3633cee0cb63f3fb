"""The scheduler: walks a plan, one token batch per iteration.

Every iteration holds one token for each decoding sequence, then prefill chunks in the plan's
order until the token budget is full. There is no limit on the number of requests: KV memory is
the limit (BatchLLM's memory-centric token batching). A sequence is admitted when the forecast
peak stays within the pool; if a forecast fails, the sequence that is cheapest to restore is
preempted and later computed again. The first sequence in the plan's order is never preempted, so
every job ends.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from shoal.errors import InternalError
from shoal.planner import LengthModel, Plan
from shoal.scheduler.batch import TokenBatch
from shoal.scheduler.builder import BatchBuilder
from shoal.scheduler.forecast import PeakForecast
from shoal.scheduler.growth import Calibration, LearntGrowth, StatedGrowth
from shoal.scheduler.pool import BlockPool
from shoal.scheduler.running import RunningSequences
from shoal.scheduler.segments import SegmentTable
from shoal.types import BoolArray, Int32Array, Int64Array, RequestTable


@dataclass
class SchedulerStats:
    """Counts of a run so far."""

    iterations: int = 0
    tokens: int = 0
    """Tokens run through the model, prefill and decode."""
    prompt_tokens_computed: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    """Sequences preempted, and segments evicted before their last user came."""


class Scheduler:
    """Emits token batches with `step` and takes sampled tokens back with `commit`.

    Exactly one batch is under way at a time: after `step`, call `commit`, or `retry` if the batch
    could not be computed. Side effects are on the block pool only.
    """

    def __init__(
        self,
        table: RequestTable,
        plan: Plan,
        pool: BlockPool,
        token_budget: int,
        scored: BoolArray | None = None,
        lengths: LengthModel | None = None,
    ) -> None:
        """Begin a run of the plan.

        Args:
            scored: bool [N], requests whose prompts are scored; see `PromptLogits`. The plan must
                have them share nothing.
            lengths: learns from the answers that end, and memory is forecast by it; None: by
                each request's expected length.
        """
        self.stats = SchedulerStats()
        self.pool = pool
        self._table = table
        self._budget = token_budget
        self._scored = np.zeros(len(table), dtype=np.bool_) if scored is None else scored
        self._learnt = None if lengths is None else LearntGrowth(plan, lengths)
        self._growth = self._learnt or StatedGrowth(table, plan)
        self._take_columns(plan)
        self._segments = SegmentTable(plan, pool, self._enders(plan))
        self._running = RunningSequences()
        self._generated: dict[int, list[int]] = {}
        self._next = 0
        self._preempted: list[int] = []
        self._cancelled: set[int] = set()
        self._suspects: list[int] = []
        self._build = BatchBuilder(
            table,
            plan,
            self._running,
            self._segments,
            self._generated,
            pool.block_size,
            self._scored,
        )

    def _take_columns(self, plan: Plan) -> None:
        """What is known of each sequence, by its place in the plan."""
        self._request = plan.sequence_request
        self._segment = plan.sequence_segment
        self._shared = plan.shared_length.astype(np.int64)
        self._own_prompt: Int64Array = self._table.lengths[self._request] - self._shared

    def _enders(self, plan: Plan) -> Int64Array:
        """Sequences that end with each segment's last token, int64 [segments]."""
        enders = self._segment[(self._own_prompt == 0) & (self._segment >= 0)]
        return np.bincount(enders, minlength=plan.num_segments).astype(np.int64)

    def replan(self, plan: Plan) -> None:
        """Go on with another plan, the same up to `first_untouched`; from there, other groups."""
        first = self.first_untouched
        self._take_columns(plan)
        self._segments.replan(plan, self._enders(plan), first)
        self._build.replan(plan)
        self._growth.replan(plan)

    @property
    def first_untouched(self) -> int:
        """The first place in the plan from which on no sequence was ever admitted or cancelled."""
        return max(self._next, max(self._cancelled, default=-1) + 1)

    @property
    def calibration(self) -> Calibration | None:
        """How the learnt lengths fared; None without them."""
        return None if self._learnt is None else self._learnt.calibration

    @property
    def num_running(self) -> int:
        """Sequences admitted and not finished."""
        return len(self._running)

    @property
    def done(self) -> bool:
        """Whether every sequence is finished or cancelled."""
        return len(self._running) == 0 and self._head() is None

    @property
    def isolating(self) -> bool:
        """Whether the next batch retries a single sequence of a failed one."""
        return bool(self._suspects)

    def step(self) -> TokenBatch | None:
        """The next token batch, or None when every sequence is finished.

        Raises:
            InternalError: a sequence does not fit the empty pool; the planner sees to that.
        """
        if self._suspects:
            slots = np.array([self._running.slot_of(self._suspects[0])])
            return self._build.batch(*self._split(slots), self._budget)
        if self.done:
            return None
        self._make_room_to_decode()
        decoding, prefilling = self._split(self._running.in_order())
        left = self._budget - len(decoding) - self._pending_prefill(prefilling)
        admitted = self._admit(left)
        if admitted:
            prefilling = np.concatenate([prefilling, np.array(admitted, dtype=np.int64)])
            prefilling = prefilling[np.argsort(self._running.sequence[prefilling])]
        batch = self._build.batch(decoding, prefilling, self._budget)
        if batch.num_tokens == 0 and len(batch.sample_sequences) == 0:
            raise InternalError("the scheduler has work left but an empty batch")
        return batch

    def commit(self, batch: TokenBatch, token_ids: Int32Array, finished: BoolArray) -> None:
        """Take the tokens sampled for `batch.sample_sequences` back; `finished` ones leave."""
        self._commit_chunks(batch)
        self._segments.retained.update(segment for _, segment in batch.retain)
        self._commit_tokens(batch.sample_sequences, token_ids, finished)
        self._segments.retained.difference_update(batch.release)
        if self._suspects:
            tried = set(batch.sequences.tolist())
            self._suspects = [s for s in self._suspects if s not in tried]
        self.stats.iterations += 1
        self.stats.tokens += batch.num_tokens

    def retry(self, batch: TokenBatch) -> None:
        """Nothing of `batch` was computed: try its sequences again, each in a batch of its own.

        One bad request thus cannot take the others of its iteration down. Nothing is lost: the
        KV written by the failed attempt is simply written again.
        """
        self._suspects = [s for s in batch.sequences.tolist() if s in self._running]

    def cancel(self, sequence: int) -> None:
        """Drop a sequence, running or waiting; its memory is freed. Idempotent."""
        if sequence in self._cancelled:
            return
        if sequence in self._suspects:
            self._suspects.remove(sequence)
        path = self._segments.path(int(self._segment[sequence]))
        if sequence in self._running:
            slot = self._running.slot_of(sequence)
            self.pool.release(self._running.remove(slot))
            self._segments.leave(path, finished=True)
        elif sequence >= self._next or sequence in self._preempted:
            self._segments.user_finished(path)
        else:
            return
        self._cancelled.add(sequence)
        if self._own_prompt[sequence] == 0 and sequence not in self._generated:
            self._build.ender_gone(int(self._segment[sequence]))
        self._generated.pop(sequence, None)

    def _commit_chunks(self, batch: TokenBatch) -> None:
        chunks, running = batch.chunks, self._running
        shared, own = chunks.shared, ~chunks.shared
        self._segments.computed[chunks.owner[shared]] += chunks.count[shared]
        slots, first, count = chunks.owner[own], chunks.first[own], chunks.count[own]
        running.computed[slots] += count
        prompt = running.own_prompt[slots]
        own_part = np.minimum(first + count, prompt) - np.minimum(first, prompt)
        self.stats.prompt_tokens_computed += int(chunks.count[shared].sum() + own_part.sum())

    def _commit_tokens(
        self, sequences: Int32Array, token_ids: Int32Array, finished: BoolArray
    ) -> None:
        running = self._running
        slots = running.slots_of(sequences)
        fresh = running.own_total[slots] == 0
        np.subtract.at(self._segments.unsampled_enders, running.segment[slots[fresh]], 1)
        self.stats.generated_tokens += len(sequences)
        going = slots[~finished]
        running.own_total[going] += 1
        running.last_token[going] = token_ids[~finished]
        running.decoding[going] = True
        ended = slots[finished]
        lengths = running.own_total[ended] - running.own_prompt[ended] + 1
        self._growth.finished(running.sequence[ended], lengths)
        generated, tokens = self._generated, token_ids[~finished].tolist()
        for sequence, token in zip(sequences[~finished].tolist(), tokens, strict=True):
            if sequence in generated:
                generated[sequence].append(token)
            else:
                generated[sequence] = [token]
        for sequence, slot in zip(
            sequences[finished].tolist(), slots[finished].tolist(), strict=True
        ):
            self.pool.release(running.remove(slot))
            path = self._segments.path(int(self._segment[sequence]))
            self._segments.leave(path, finished=True)
            generated.pop(sequence, None)

    def _split(self, slots: Int64Array) -> tuple[Int64Array, Int64Array]:
        decoding = self._running.decoding[slots]
        return slots[decoding], slots[~decoding]

    # Memory: growing, preempting, admitting.

    def _make_room_to_decode(self) -> None:
        """Give each decoding sequence the block its pending token needs, preempting if it must."""
        running, size = self._running, self.pool.block_size
        slots = running.in_order()
        full = running.own_total[slots] > running.num_blocks[slots] * size
        for slot in slots[full & running.decoding[slots]].tolist():
            sequence = int(running.sequence[slot])
            while sequence in running and self.pool.free_blocks == 0:
                self.stats.preemptions += self._segments.evict_idle([], wanted=1)
                if self.pool.free_blocks == 0:
                    self._preempt_cheapest()
            if sequence in running:
                running.append_blocks(slot, self.pool.allocate(1))

    def _preempt_cheapest(self) -> None:
        """Preempt the sequence that costs least to restore; never the first of the plan."""
        slots = self._running.in_order()[1:]
        if len(slots) == 0:
            raise InternalError("one sequence alone outgrew the KV pool")
        slot = int(slots[np.argmin(self._running.computed[slots])])
        sequence = int(self._running.sequence[slot])
        self.pool.release(self._running.remove(slot))
        self._segments.leave(self._segments.path(int(self._segment[sequence])), finished=False)
        heapq.heappush(self._preempted, sequence)
        self.stats.preemptions += 1

    def _head(self) -> int | None:
        """The first sequence in the plan's order that waits."""
        while self._preempted and self._preempted[0] in self._cancelled:
            heapq.heappop(self._preempted)
        while self._next in self._cancelled:
            self._next += 1
        if self._preempted:
            return self._preempted[0]
        return self._next if self._next < len(self._request) else None

    def _admit(self, tokens: int) -> list[int]:
        """Admit sequences in order until `tokens` more tokens of prefill wait or memory is full.

        Each counts at least one token, so there are never more sequences than the budget has.
        """
        admitted: list[int] = []
        if self._head() is None or not (tokens > 0 or len(self._running) == 0):
            return admitted
        forecast = self._forecast()
        while tokens > 0 or len(self._running) == 0:
            sequence = self._head()
            if sequence is None:
                break
            path = self._segments.path(int(self._segment[sequence]))
            held = self._own_tokens(sequence)
            generated = len(self._generated.get(sequence, ()))
            forecast.add(held, self._growth.waiting(sequence, generated))
            if not self._fits(path, held, forecast):
                break
            idle = (s for s in path if self._segments.running[s] == 0)
            tokens -= sum(int(self._segments.length[s] - self._segments.computed[s]) for s in idle)
            tokens -= max(1, held)
            admitted.append(self._enter(sequence, path))
        return admitted

    def _fits(self, path: list[int], held: int, forecast: PeakForecast) -> bool:
        """Whether the forecast peak of the running sequences and one more stays within the pool.

        The newcomer, of `held` own tokens, is in the forecast. When nothing runs it is admitted if
        it fits alone, idle segments evicted as far as it needs.
        """
        missing = self._segments.missing_blocks(path)
        if forecast.fits(self.pool.num_blocks - self._segments.resident_blocks - missing):
            return True
        if len(self._running) > 0:
            return False
        needed = missing + self.pool.blocks_for(held)
        self.stats.preemptions += self._segments.evict_idle(path, wanted=needed)
        if needed > self.pool.free_blocks:
            raise InternalError(
                f"a sequence needs {needed} KV blocks, of {self.pool.num_blocks} in all "
                f"{self.pool.free_blocks} can be had"
            )
        return True

    def _enter(self, sequence: int, path: list[int]) -> int:
        if self._preempted and self._preempted[0] == sequence:
            heapq.heappop(self._preempted)
        else:
            self._growth.admitted(sequence)
            self._next += 1
        total = self._own_tokens(sequence)
        self._segments.enter(path)
        slot = self._running.add(
            sequence,
            segment=int(self._segment[sequence]),
            shared=int(self._shared[sequence]),
            own_prompt=int(self._own_prompt[sequence]),
            own_total=total,
        )
        self._running.append_blocks(slot, self.pool.allocate(self.pool.blocks_for(total)))
        return slot

    def _own_tokens(self, sequence: int) -> int:
        return int(self._own_prompt[sequence]) + len(self._generated.get(sequence, ()))

    def _forecast(self) -> PeakForecast:
        """The forecast for the running sequences."""
        slots = self._running.in_order()
        sequences = self._running.sequence[slots]
        held = self._running.own_total[slots]
        generated = held - self._running.own_prompt[slots]
        waiting = np.array(self._preempted, dtype=np.int64)
        ages = np.array([len(self._generated.get(s, ())) for s in self._preempted], dtype=np.int64)
        self._growth.refresh(np.append(sequences, waiting), np.append(generated, ages), self._next)
        growth = self._growth.running(sequences, generated)
        return PeakForecast(held, growth, self.pool.block_size, self._growth.caution)

    def _pending_prefill(self, slots: Int64Array) -> int:
        """Prefill tokens the admitted sequences still wait for, shared segments counted once."""
        own = int((self._running.own_total[slots] - self._running.computed[slots]).sum())
        segments = {
            s
            for leaf in set(self._running.segment[slots].tolist())
            for s in self._segments.path(leaf)
        }
        return own + sum(
            int(self._segments.length[s] - self._segments.computed[s]) for s in segments
        )
