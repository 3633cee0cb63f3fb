"""The scheduler: walks a plan, one token batch per iteration.

Every iteration holds one token for each decoding sequence, then prefill chunks in the plan's
order until the token budget is full. There is no limit on the number of requests: KV memory is
the limit (BatchLLM's memory-centric token batching). Who runs is decided in `Admission`; what a
batch changes, before and after its tokens are known, in `UnderWay`.
"""

from __future__ import annotations

import numpy as np

from shoal.errors import InternalError
from shoal.planner import LengthModel, Plan
from shoal.scheduler.admission import Admission
from shoal.scheduler.batch import TokenBatch
from shoal.scheduler.builder import BatchBuilder
from shoal.scheduler.growth import Calibration, LearntGrowth, StatedGrowth
from shoal.scheduler.pool import BlockPool
from shoal.scheduler.running import RunningSequences
from shoal.scheduler.segments import SegmentTable
from shoal.scheduler.sequence_columns import SequenceColumns
from shoal.scheduler.stats import SchedulerStats
from shoal.scheduler.under_way import UnderWay
from shoal.scheduler.waiting import WaitingSequences
from shoal.types import BoolArray, Int32Array, RequestTable


class Scheduler:
    """Emits token batches with `step` and takes sampled tokens back.

    After `step`, either `commit` the batch with its tokens; or, to plan the next one while it runs,
    `advance` it when it is launched and `settle` it when its tokens have come, oldest first. Call
    `retry` for a batch that could not be computed. Side effects are on the block pool only.

    Blocks given back in `settle` may be handed out again while a batch that was planned before,
    and still writes to them, is under way. That is safe because a device runs batches one after
    another, in the order of `advance`: the new owner's tokens are written, and read, by a later
    batch.
    """

    def __init__(
        self,
        table: RequestTable,
        plan: Plan,
        pool: BlockPool,
        token_budget: int,
        scored: BoolArray | None = None,
        lengths: LengthModel | None = None,
        sequential: BoolArray | None = None,
    ) -> None:
        """Begin a run of the plan.

        Args:
            scored: bool [N], requests whose prompts are scored; see `PromptLogits`. The plan must
                have them share nothing.
            lengths: learns from the answers that end, and memory is forecast by it; None: by
                each request's expected length.
            sequential: bool [N], requests whose next token depends on their last by more than the
                model (penalties count tokens): no batch is planned over one that samples them.
        """
        self.stats = SchedulerStats()
        self.pool = pool
        self.token_budget = token_budget
        nobody = np.zeros(len(table), dtype=np.bool_)
        scored = nobody if scored is None else scored
        columns = SequenceColumns(table, plan, nobody if sequential is None else sequential)
        self._columns = columns
        self._learnt = None if lengths is None else LearntGrowth(plan, lengths)
        self._growth = self._learnt or StatedGrowth(table, plan)
        self._segments = SegmentTable(plan, pool, columns.enders(plan.num_segments))
        self._running, self._waiting = RunningSequences(), WaitingSequences()
        self._generated: dict[int, list[int]] = {}
        self._suspects: list[int] = []
        self._build = BatchBuilder(
            table, plan, self._running, self._segments, self._generated, pool.block_size, scored
        )
        self._admission = Admission(
            columns,
            self._waiting,
            self._running,
            self._segments,
            pool,
            self._growth,
            self._generated,
            self.stats,
        )
        self._under_way = UnderWay(columns, self._running, self._segments, self.stats)

    def replan(self, plan: Plan) -> None:
        """Go on with another plan, the same up to `first_untouched`; from there, other groups."""
        first = self.first_untouched
        self._columns.replan(plan)
        self._segments.replan(plan, self._columns.enders(plan.num_segments), first)
        self._build.replan(plan)
        self._growth.replan(plan)

    @property
    def first_untouched(self) -> int:
        """The first place in the plan from which on no sequence was ever admitted or cancelled."""
        return self._waiting.first_untouched

    @property
    def begun(self) -> int:
        """The place in the plan of the first sequence never admitted, cancelled or not."""
        return self._waiting.begun

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
        return len(self._running) == 0 and self._admission.head() is None

    @property
    def isolating(self) -> bool:
        """Whether the next batch retries a single sequence of a failed one."""
        return bool(self._suspects)

    def step(self) -> TokenBatch | None:
        """The next token batch, or None when every sequence is finished.

        While a batch is under way, None says that nothing can be planned before it is settled:
        two are, a sampled sequence is `sequential`, memory is short, or nobody has work left.

        Raises:
            InternalError: a sequence does not fit the empty pool; the planner sees to that.
        """
        ahead = len(self._under_way) > 0
        if ahead and (self._suspects or not self._under_way.can_be_planned_over):
            return None
        if self._suspects:
            return self._alone(self._suspects[0])
        if self.done or not self._admission.make_room(self.token_budget, preempt=not ahead):
            return None
        decoding, prefilling = self._running.split()
        if len(decoding) > self.token_budget:
            # Since `shrink`: the first in the plan go on, the others when these have ended.
            decoding = decoding[self._admission.has_room(decoding)][: self.token_budget]
        left = self.token_budget - len(decoding) - self._admission.pending_prefill(prefilling)
        admitted = self._admission.admit(left)
        if admitted:
            prefilling = np.concatenate([prefilling, np.array(admitted, dtype=np.int64)])
            prefilling = prefilling[np.argsort(self._running.sequence[prefilling])]
        awaited = self._under_way.awaited()
        batch = self._build.batch(decoding, prefilling, self.token_budget, awaited)
        if batch.num_tokens == 0 and len(batch.sample_sequences) == 0:
            self._build.dropped(batch)
            if not ahead:
                raise InternalError("the scheduler has work left but an empty batch")
            return None
        return batch

    def _alone(self, sequence: int) -> TokenBatch:
        slots = np.array([self._running.slot_of(sequence)])
        decoding = self._running.decoding[slots]
        return self._build.batch(slots[decoding], slots[~decoding], self.token_budget)

    def advance(self, batch: TokenBatch) -> None:
        """The batch was launched: take for done what does not depend on its tokens."""
        self._under_way.advance(batch)

    def wanted(self, batch: TokenBatch) -> BoolArray:
        """Which samples of the oldest batch under way count, bool [S].

        Not those of sequences that ended, or were cancelled, after it was planned.
        """
        return self._under_way.wanted(batch)

    def settle(self, batch: TokenBatch, token_ids: Int32Array, finished: BoolArray) -> None:
        """Take the tokens back that were sampled for `batch.sample_sequences`.

        Args:
            batch: the oldest under way.
            token_ids, finished: [S]; sequences that are finished leave. Without effect where the
                token is not `wanted`.
        """
        settled = self._under_way.settle(batch, token_ids, finished)
        finished = settled.finished
        ended = settled.sequences[finished].astype(np.int64)
        self._growth.finished(ended, settled.lengths[finished])
        # This loop runs for every token generated.
        generated = self._generated
        going, tokens = settled.sequences[~finished].tolist(), settled.tokens[~finished].tolist()
        for sequence, answer, token in zip(going, map(generated.get, going), tokens, strict=True):
            if answer is None:
                generated[sequence] = [token]
            else:
                answer.append(token)
        for sequence, slot in zip(ended.tolist(), settled.slots[finished].tolist(), strict=True):
            self.pool.release(self._running.remove(slot))
            self._segments.leave(self._admission.path(sequence), finished=True)
            generated.pop(sequence, None)
        if self._suspects:
            tried = set(batch.sequences.tolist())
            self._suspects = [s for s in self._suspects if s not in tried]

    def commit(self, batch: TokenBatch, token_ids: Int32Array, finished: BoolArray) -> None:
        """`advance` and `settle` in one, where nothing is planned in between."""
        self.advance(batch)
        self.settle(batch, token_ids, finished)

    def retry(self, batch: TokenBatch, *, one_by_one: bool = True) -> None:
        """Neither `batch` nor what was launched after it was computed: try their sequences again.

        Nothing is lost: the KV written by the failed attempt is simply written again.

        Args:
            one_by_one: each in a batch of its own, so that one bad request cannot take the others
                of its iteration down; else as it comes.
        """
        failed = self._under_way.undo(batch) or [batch]
        for each in failed:
            self._build.dropped(each)
        if one_by_one:
            again = {s for each in failed for s in each.sequences.tolist() if s in self._running}
            self._suspects = sorted(again.union(self._suspects))

    def shrink(self, token_budget: int) -> None:
        """Batches of at most so many tokens from now on."""
        self.token_budget = token_budget

    def cancel(self, sequence: int) -> None:
        """Drop a sequence, running or waiting; its memory is freed. Idempotent.

        A token of it that is under way is no longer wanted.
        """
        if self._waiting.is_cancelled(sequence):
            return
        if sequence in self._suspects:
            self._suspects.remove(sequence)
        path = self._admission.path(sequence)
        sampled = self._columns.own_prompt[sequence] > 0 or sequence in self._generated
        if sequence in self._running:
            slot = self._running.slot_of(sequence)
            sampled = self._running.own_total[slot] > 0 or self._running.ending[slot]
            self.pool.release(self._running.remove(slot))
            self._segments.leave(path, finished=True)
        elif sequence in self._waiting:
            self._segments.user_finished(path)
        else:
            return
        self._waiting.cancel(sequence)
        if not sampled:
            self._build.ender_gone(int(self._columns.segment[sequence]))
        self._generated.pop(sequence, None)
