"""The scheduler: walks a plan, one token batch per iteration.

Every iteration holds one token for each decoding sequence, then prefill chunks in the plan's
order until the token budget is full. There is no limit on the number of requests: KV memory is
the limit (BatchLLM's memory-centric token batching). Who runs is decided in `Admission`; what a
batch changes, before and after its tokens are known, in `Launches`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shoal.planner import LengthModel, Plan
from shoal.scheduler.adapter_slots import AdapterSlots
from shoal.scheduler.admission import Admission
from shoal.scheduler.batch import TokenBatch
from shoal.scheduler.builder import BatchBuilder
from shoal.scheduler.generated import GeneratedTokens
from shoal.scheduler.growth import LearntGrowth, QuantileCoverage, StatedGrowth
from shoal.scheduler.launches import Launched, Launches
from shoal.scheduler.ledger import BlockLedger
from shoal.scheduler.pool import BlockPool
from shoal.scheduler.retained import RetainedLogits
from shoal.scheduler.running import RunningSequences
from shoal.scheduler.scoring import PromptScoring
from shoal.scheduler.segments import SegmentTable
from shoal.scheduler.sequence_columns import SequenceColumns
from shoal.scheduler.state import RunState
from shoal.scheduler.state_slots import StateSlots
from shoal.scheduler.stats import SchedulerStats
from shoal.types import BoolArray, Int32Array, RequestTable


class Scheduler:
    """Emits token batches with `step` and takes sampled tokens back.

    After `step`, either `commit` the batch with its tokens; or, to plan the next one while it runs,
    `advance` it when it is launched and `settle` it when its tokens have come, oldest first. Call
    `retry` for a batch that could not be computed. Side effects are on the block pool only.

    The caller keeps what `advance` gives for each batch under way; two may be at a time.

    Blocks given back in `settle` may be handed out again while a batch that was planned before,
    and still writes to them, is under way. That is safe because a device runs batches one after
    another, in the order of `advance`: the new owner's tokens are written, and read, by a later
    batch.
    """

    def __init__(
        self,
        table: RequestTable,
        plan: Plan,
        pool: BlockPool | Sequence[BlockPool],
        token_budget: int,
        lengths: LengthModel | None = None,
        sequential: BoolArray | None = None,
        scored_rows: int | None = None,
        states: StateSlots | None = None,
        adapters: AdapterSlots | None = None,
    ) -> None:
        """Begin a run of the plan.

        Args:
            pool: the KV of all layers, or of each group of layers: those of a window apart.
            lengths: learns from the answers that end, and memory is forecast by it; None: by
                each request's expected length.
            sequential: bool [N], requests whose next token depends on their last by more than the
                model (penalties count tokens): no batch is planned over one that samples them.
            scored_rows: most rows of a batch that score prompts, at least 1; None: any number.
            states: the state slots of recurrent layers; None: there are none.
            adapters: which of them are in memory; None: no request has one.
        """
        self.stats = SchedulerStats()
        self.pools = (pool,) if isinstance(pool, BlockPool) else tuple(pool)
        ledgers = [BlockLedger(each, token_budget) for each in self.pools]
        self.states, self.adapters = states, adapters
        self.token_budget = token_budget
        nobody = np.zeros(len(table), dtype=np.bool_)
        columns = SequenceColumns(table, plan, nobody if sequential is None else sequential)
        self._learnt = None if lengths is None else LearntGrowth(plan, lengths)
        self._growth = self._learnt or StatedGrowth(table, plan)
        self._state = state = RunState(
            columns=columns,
            running=RunningSequences(),
            segments=SegmentTable(plan, ledgers, states),
            retained=RetainedLogits(columns.prefix_only(plan.num_segments)),
            generated=GeneratedTokens(),
            ledgers=ledgers,
            scoring=PromptScoring(table, plan),
            states=states,
            adapters=adapters,
        )
        self._suspects: list[int] = []
        most = token_budget if scored_rows is None else scored_rows
        self._build = BatchBuilder(table, plan, state, most)
        self._admission = Admission(state, self._growth, self.stats)
        self._launches = Launches(state, self.stats)

    @property
    def pool(self) -> BlockPool:
        """The first group's."""
        return self.pools[0]

    def blocks_left(self) -> int:
        """KV blocks in use, of all groups of layers, and states."""
        states = 0 if self.states is None else self.states.pool.used_blocks
        return sum(pool.used_blocks for pool in self.pools) + states

    def replan(self, plan: Plan) -> None:
        """Go on with another plan, the same up to `first_untouched`; from there, other groups."""
        first = int(np.searchsorted(plan.segment_first, self.first_untouched))
        state = self._state
        state.columns.replan(plan)
        state.segments.replan(plan, first)
        state.retained.replan(state.columns.prefix_only(plan.num_segments), first)
        state.scoring.replan(plan, first)
        self._launches.replan(plan.num_segments, first)
        self._build.replan(plan)
        self._growth.replan(plan)

    @property
    def first_untouched(self) -> int:
        """The first sequence of the plan from which on none was ever admitted or cancelled."""
        return self._admission.first_untouched

    @property
    def begun(self) -> int:
        """The first sequence of the plan that was never admitted, cancelled or not."""
        return self._admission.begun

    @property
    def length_coverage(self) -> QuantileCoverage | None:
        """How the learnt lengths fared; None without them."""
        return None if self._learnt is None else self._learnt.coverage

    @property
    def num_running(self) -> int:
        """Sequences admitted and not finished."""
        return len(self._state.running)

    @property
    def done(self) -> bool:
        """Whether every sequence is finished or cancelled."""
        return len(self._state.running) == 0 and self._admission.head() is None

    @property
    def isolating(self) -> bool:
        """Whether the next batch retries a single sequence of a failed one."""
        return bool(self._suspects)

    def step(self, launched: Launched | None = None) -> TokenBatch | None:
        """The next token batch, or None when every sequence is finished.

        Args:
            launched: the batch under way, to plan over it. None is then returned also where
                nothing can be planned before it is settled: a sampled sequence is `sequential`,
                memory is short, or nobody has work left.

        Raises:
            InternalError: a sequence does not fit the empty pool; the planner sees to that. Or
                `launched` is not the only batch under way.
        """
        ahead = launched is not None
        self._launches.check_under_way(() if launched is None else (launched,))
        if launched is not None and (self._suspects or not self._launches.can_plan_over(launched)):
            return None
        if self._suspects:
            return self._alone(self._suspects[0])
        if self.done or not self._admission.make_room(self.token_budget, preempt=not ahead):
            return None
        running = self._state.running
        decoding, prefilling = running.split()
        if len(decoding) > self.token_budget:
            # Since `shrink`: the first in the plan go on, the others when these have ended.
            decoding = decoding[self._admission.has_room(decoding)][: self.token_budget]
        left = self.token_budget - len(decoding) - self._admission.pending_prefill(prefilling)
        admitted = self._admission.admit(left)
        if admitted:
            prefilling = np.concatenate([prefilling, np.array(admitted, dtype=np.int64)])
            prefilling = prefilling[np.argsort(running.sequence[prefilling])]
        awaited = None if launched is None else self._launches.awaited(launched)
        batch = self._build.batch(decoding, prefilling, self.token_budget, awaited)
        if batch.is_empty:
            if ahead:
                return None
            self._admission.make_way()
            return self.step()
        return batch

    def _alone(self, sequence: int) -> TokenBatch:
        slots = np.array([self._state.running.slot_of(sequence)])
        decoding = self._state.running.decoding[slots]
        return self._build.batch(slots[decoding], slots[~decoding], self.token_budget)

    def advance(self, batch: TokenBatch) -> Launched:
        """The batch was launched: take for done what does not depend on its tokens."""
        return self._launches.advance(batch)

    def wanted(self, launched: Launched) -> BoolArray:
        """Which samples of a batch under way count, bool [S].

        Not those of sequences that ended, or were cancelled, after it was planned.
        """
        return self._launches.wanted(launched)

    def ended(self, launched: Launched) -> Int32Array:
        """The sequences that a batch under way completes without a sample, int32.

        Not those that were cancelled after it was planned. They leave when it is settled.
        """
        return self._launches.ended(launched)

    def settle(self, launched: Launched, token_ids: Int32Array, finished: BoolArray) -> None:
        """Take the tokens back that were sampled for the batch's `sample_sequences`.

        Args:
            launched: the oldest batch under way.
            token_ids, finished: [S]; sequences that are finished leave. Without effect where the
                token is not `wanted`.
        """
        settled = self._launches.settle(launched, token_ids, finished)
        finished, generated = settled.finished, self._state.generated
        ended = settled.sequences[finished].astype(np.int64)
        self._growth.finished(ended, settled.lengths[finished])
        generated.append(settled.sequences[~finished], settled.tokens[~finished])
        for sequence in ended.tolist():
            self._admission.finish(sequence)
            generated.forget(sequence)
        for sequence in settled.ended.tolist():
            self._admission.finish(sequence)
        restarts = self._state.columns.restarts_at[settled.sequences] == settled.lengths
        for sequence in settled.sequences[restarts & ~finished].tolist():
            self._admission.restart(sequence)
            self._launches.restarted(sequence)
        if self._suspects:
            tried = set(launched.batch.sequences.tolist())
            self._suspects = [s for s in self._suspects if s not in tried]

    def commit(self, batch: TokenBatch, token_ids: Int32Array, finished: BoolArray) -> None:
        """`advance` and `settle` in one, where nothing is planned in between."""
        self.settle(self.advance(batch), token_ids, finished)

    def retry(
        self, batch: TokenBatch, launched: Sequence[Launched] = (), *, one_by_one: bool = True
    ) -> None:
        """A batch, and those launched after it, were not computed: try their sequences again.

        Nothing is lost: the KV written by the failed attempt is simply written again.

        Args:
            launched: all batches under way, of which `batch` is the oldest; none where it could
                not be launched.
            one_by_one: each in a batch of its own, so that one bad request cannot take the others
                of its iteration down; else as it comes.
        """
        self._launches.undo(launched)
        if not launched:
            self._launches.failed(batch)
        failed = [each.batch for each in reversed(launched)] or [batch]
        if one_by_one:
            running = self._state.running
            again = {s for each in failed for s in each.sequences.tolist() if s in running}
            self._suspects = sorted(again.union(self._suspects))

    def shrink(self, token_budget: int) -> None:
        """Batches of at most so many tokens from now on."""
        self.token_budget = token_budget

    def cancel(self, sequence: int) -> None:
        """Drop a sequence, running or waiting; its memory is freed. Idempotent.

        A token of it that is under way is no longer wanted.
        """
        unsampled = self._is_unsampled(sequence)
        if not self._admission.cancel(sequence):
            return
        if sequence in self._suspects:
            self._suspects.remove(sequence)
        if unsampled:
            self._state.retained.cancelled(int(self._state.columns.segment[sequence]))
        self._state.generated.forget(sequence)

    def _is_unsampled(self, sequence: int) -> bool:
        """Whether a prefix-only sequence has still to sample from its segment's logits."""
        columns = self._state.columns
        if columns.own_prompt[sequence] > 0 or not columns.generates[sequence]:
            return False
        if sequence in self._state.generated:
            return False
        running = self._state.running
        if sequence not in running:
            return True
        slot = running.slot_of(sequence)
        return running.own_total[slot] == 0 and not running.ending[slot]
