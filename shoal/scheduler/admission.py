"""Who runs: growth of the sequences that do, admission of those that wait, preemption."""

from __future__ import annotations

import numpy as np

from shoal.errors import InternalError
from shoal.scheduler.forecast import PeakForecast
from shoal.scheduler.growth import LearntGrowth, StatedGrowth
from shoal.scheduler.ledger import BlockLedger
from shoal.scheduler.state import RunState
from shoal.scheduler.stats import SchedulerStats
from shoal.scheduler.waiting import WaitingSequences
from shoal.types import BoolArray, Int64Array


class Admission:
    """Moves sequences between waiting and running as KV memory allows.

    A sequence is admitted when the forecast peak stays within the pool; if a forecast fails, the
    one that is cheapest to restore is preempted. The first in the plan's order never is.
    """

    def __init__(
        self,
        state: RunState,
        growth: LearntGrowth | StatedGrowth,
        stats: SchedulerStats,
    ) -> None:
        self._columns, self._running, self._segments = state.columns, state.running, state.segments
        self._generated, self._ledgers = state.generated, state.ledgers
        self._states, self._adapters = state.states, state.adapters
        self._growth, self._stats = growth, stats
        self._waiting = WaitingSequences()

    @property
    def first_untouched(self) -> int:
        """The first sequence of the plan from which on none was ever admitted or cancelled."""
        return self._waiting.first_untouched

    @property
    def begun(self) -> int:
        """The first sequence of the plan that was never admitted, cancelled or not."""
        return self._waiting.begun

    def head(self) -> int | None:
        """The first sequence in the plan's order that waits."""
        return self._waiting.head(len(self._columns))

    def path(self, sequence: int) -> list[int]:
        """Its shared segments, from the top level down."""
        return self._segments.path(int(self._columns.segment[sequence]))

    def make_room(self, most: int, *, preempt: bool) -> bool:
        """Give the first `most` decoding sequences the block their pending token needs.

        Args:
            preempt: make room by preemption where blocks are missing.

        Returns:
            False: blocks are missing, and nothing was changed.
        """
        running = self._running
        slots = running.split()[0][:most]
        total = running.own_total[slots]
        full = [slots[~ledger.has_room(slots, total)] for ledger in self._ledgers]
        if all(len(f) <= g.pool.free_blocks for f, g in zip(full, self._ledgers, strict=True)):
            for some, ledger in zip(full, self._ledgers, strict=True):
                ledger.append_block(some)
            return True
        if not preempt:
            return False
        for some, ledger in zip(full, self._ledgers, strict=True):
            self._append_by_force(some, ledger)
        return True

    def _append_by_force(self, slots: Int64Array, ledger: BlockLedger) -> None:
        """A block for each of the slots, or for those that are left of them."""
        running = self._running
        sequences = running.sequence[slots].tolist()
        for slot, sequence in zip(slots.tolist(), sequences, strict=True):
            while sequence in running and ledger.pool.free_blocks == 0:
                self._give_way(ledger)
            if sequence in running:
                ledger.append_block(np.array([slot]))

    def _give_way(self, ledger: BlockLedger) -> None:
        wanted = [int(each is ledger) for each in self._ledgers]
        self._stats.preempted(self._segments.evict_idle([], wanted))
        if ledger.pool.free_blocks == 0:
            self._preempt_cheapest()

    def make_way(self) -> None:
        """There is no block for what is to be computed next: somebody gives way.

        Raises:
            InternalError: there is, or nobody is left.
        """
        for ledger in self._ledgers:
            if ledger.windowed and ledger.pool.free_blocks == 0:
                self._give_way(ledger)
                return
        raise InternalError("the scheduler has work left but an empty batch")

    def has_room(self, slots: Int64Array) -> BoolArray:
        """Whether there is a block for every token a slot knows of, bool [slots]."""
        total = self._running.own_total[slots]
        room = np.ones(len(slots), dtype=np.bool_)
        for ledger in self._ledgers:
            room &= ledger.has_room(slots, total)
        return room

    def _preempt_cheapest(self) -> None:
        """Preempt the sequence that costs least to restore; never the first of the plan."""
        slots = self._running.in_order()[1:]
        if len(slots) == 0:
            raise InternalError("one sequence alone outgrew the KV pool")
        slot = int(slots[np.argmin(self._running.computed[slots])])
        sequence = int(self._running.sequence[slot])
        self._leave(sequence, slot, finished=False)
        self._waiting.give_back(sequence)
        self._stats.preempted(1)

    def finish(self, sequence: int) -> None:
        """A running sequence is finished."""
        self._leave(sequence, self._running.slot_of(sequence), finished=True)

    def restart(self, sequence: int) -> None:
        """A running sequence is computed anew, all of it by itself."""
        self.finish(sequence)
        if self._adapters is not None:
            self._adapters.user_returns(int(self._columns.adapter[sequence]))
        self._columns.restart(sequence)
        self._waiting.give_back(sequence)

    def cancel(self, sequence: int) -> bool:
        """Let a sequence, running or waiting, run no more; False: it was finished or cancelled."""
        if self._waiting.is_cancelled(sequence):
            return False
        if sequence in self._running:
            self.finish(sequence)
        elif sequence in self._waiting:
            self._segments.user_finished(self.path(sequence))
            if self._adapters is not None:
                self._adapters.user_finished(int(self._columns.adapter[sequence]))
        else:
            return False
        self._waiting.cancel(sequence)
        return True

    def _leave(self, sequence: int, slot: int, *, finished: bool) -> None:
        self._running.remove(slot)
        for ledger in self._ledgers:
            ledger.leave(slot)
        if self._states is not None:
            self._states.leave(slot)
        if self._adapters is not None:
            self._adapters.leave(int(self._columns.adapter[sequence]), finished=finished)
        self._segments.leave(self.path(sequence), finished=finished)

    def admit(self, tokens: int) -> list[int]:
        """Admit sequences in order until `tokens` more tokens of prefill wait or memory is full.

        Each that generates counts at least one token, so there are never more to decode than the
        budget has.

        Returns:
            Their slots.
        """
        admitted: list[int] = []
        if self.head() is None or not (tokens > 0 or len(self._running) == 0):
            return admitted
        forecasts = self._forecasts()
        while tokens > 0 or len(self._running) == 0:
            sequence = self.head()
            if sequence is None or not self._has_adapter(sequence):
                break
            path = self.path(sequence)
            held = self._own_tokens(sequence)
            generated = self._generated.count(sequence)
            growth = self._growth.waiting(sequence, generated)
            for forecast in forecasts:
                forecast.add(held, growth)
            if not self._fits(path, held, forecasts):
                break
            idle = (s for s in path if self._segments.running[s] == 0)
            tokens -= sum(map(self._segments.missing_tokens, idle))
            tokens -= max(int(self._columns.generates[sequence]), held)
            admitted.append(self._enter(sequence, path))
        return admitted

    def _has_adapter(self, sequence: int) -> bool:
        """Whether its adapter is in memory, or may come."""
        adapters = self._adapters
        return adapters is None or adapters.fits(int(self._columns.adapter[sequence]))

    def _fits(self, path: list[int], held: int, forecasts: list[PeakForecast]) -> bool:
        """Whether the forecast peaks of the running sequences and one more stay within the pools.

        The newcomer, of `held` own tokens, is in the forecasts. When nothing runs it is admitted if
        it fits alone, idle segments evicted as far as it needs.
        """
        lengths = self._segments.missing_lengths(path)
        missing = [ledger.missing_blocks(lengths) for ledger in self._ledgers]
        if self._segments.has_states(path) and all(
            forecast.fits(ledger.available(blocks))
            for forecast, ledger, blocks in zip(forecasts, self._ledgers, missing, strict=True)
        ):
            return True
        if len(self._running) > 0:
            return False
        most = [ledger.most_blocks(held) for ledger in self._ledgers]
        needed = [blocks + own for blocks, own in zip(missing, most, strict=True)]
        self._stats.preempted(self._segments.evict_idle(path, needed))
        if not self._segments.has_states(path):
            raise InternalError("a sequence alone needs more states than there are")
        for ledger, blocks in zip(self._ledgers, needed, strict=True):
            if blocks > ledger.pool.free_blocks:
                raise InternalError(
                    f"a sequence needs {blocks} KV blocks, of {ledger.pool.num_blocks} in all "
                    f"{ledger.pool.free_blocks} can be had"
                )
        return True

    def _enter(self, sequence: int, path: list[int]) -> int:
        if self._waiting.take(sequence):
            self._growth.admitted(sequence)
        total = self._own_tokens(sequence)
        self._segments.enter(path)
        slot = self._running.add(
            sequence,
            segment=int(self._columns.segment[sequence]),
            shared=int(self._columns.shared[sequence]),
            own_prompt=int(self._columns.own_prompt[sequence]),
            own_total=total,
        )
        for ledger in self._ledgers:
            ledger.admit(slot, total)
        if self._states is not None:
            self._states.enter(slot)
        if self._adapters is not None:
            self._adapters.enter(int(self._columns.adapter[sequence]))
        return slot

    def _own_tokens(self, sequence: int) -> int:
        return int(self._columns.own_prompt[sequence]) + self._generated.count(sequence)

    def _forecasts(self) -> list[PeakForecast]:
        """The forecasts for the running sequences, one for each ledger."""
        slots = self._running.in_order()
        sequences = self._running.sequence[slots]
        held = self._running.own_total[slots]
        generated = held - self._running.own_prompt[slots]
        waiting = self._waiting.preempted
        ages = self._generated.counts(waiting)
        begun = self._waiting.begun
        self._growth.refresh(np.append(sequences, waiting), np.append(generated, ages), begun)
        growth = self._growth.running(sequences, generated)
        caution = self._growth.caution
        return [ledger.forecast(held, growth, caution) for ledger in self._ledgers]

    def pending_prefill(self, slots: Int64Array) -> int:
        """Prefill tokens the admitted sequences still wait for, shared segments counted once."""
        own = int((self._running.own_total[slots] - self._running.computed[slots]).sum())
        segments = {
            s
            for leaf in set(self._running.segment[slots].tolist())
            for s in self._segments.path(leaf)
        }
        return own + sum(map(self._segments.missing_tokens, segments))
