"""The sequences in flight, as columns indexed by slot."""

from __future__ import annotations

import numpy as np

from shoal.slots import SlotMap
from shoal.types import BoolArray, Int32Array, Int64Array

_NOBODY = -1
"""Sequence of a slot that is free."""


class RunningSequences:
    """Per-slot state of admitted sequences. Slots are reused; columns grow by doubling.

    A sequence's *own* tokens are the prompt tokens after its shared segments, then what it has
    generated. The first `computed` of them have their KV in the pool.

    Columns (all [capacity], only `active` slots are meaningful):
        sequence: the sequence's number in the plan's order.
        shared: prompt tokens held by its shared segments.
        own_prompt: prompt tokens of its own.
        own_total: own tokens known so far.
        computed: own tokens whose KV is stored, never more than own_total.
        decoding: whether it has sampled since it was admitted, so that one token is pending.
        segment: its deepest shared segment; -1 where it has none.
        last_token: the token generated last, if it is known; only meaningful while decoding.
        ending: whether the token under way is its last: nothing is left to compute.
    """

    def __init__(self) -> None:
        self._slots = SlotMap()
        self._capacity = self._slots.capacity
        self.sequence: Int64Array = np.full(self._capacity, _NOBODY, dtype=np.int64)
        self.shared = self._column()
        self.own_prompt = self._column()
        self.own_total = self._column()
        self.computed = self._column()
        self.segment = self._column()
        self.last_token = self._column()
        self.decoding: BoolArray = np.zeros(self._capacity, dtype=np.bool_)
        self.ending: BoolArray = np.zeros(self._capacity, dtype=np.bool_)
        self._order: Int64Array | None = None

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def capacity(self) -> int:
        """Slots there are, taken or not."""
        return self._capacity

    def slot_of(self, sequence: int) -> int:
        """The slot of a running sequence."""
        return self._slots[sequence]

    def slots_of(self, sequences: Int32Array) -> Int64Array:
        """The slots of running sequences, int64 [S]."""
        return self._slots.find(sequences)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._slots

    def in_order(self) -> Int64Array:
        """The active slots in the plan's order, int64 [running]; not to be written to."""
        if self._order is None:
            slots = np.flatnonzero(self.sequence != _NOBODY)
            self._order = slots[np.argsort(self.sequence[slots])]
        return self._order

    def split(self) -> tuple[Int64Array, Int64Array]:
        """Slots with a token to decode, and slots with a prompt to compute, in the plan's order."""
        slots = self.in_order()
        decoding = self.decoding[slots]
        return slots[decoding & ~self.ending[slots]], slots[~decoding]

    def add(self, sequence: int, segment: int, shared: int, own_prompt: int, own_total: int) -> int:
        """Take a slot for an admitted sequence, nothing of it computed."""
        slot = self._slots.add(sequence)
        if slot >= self._capacity:
            self._grow()
        self.sequence[slot] = sequence
        self.segment[slot] = segment
        self.shared[slot] = shared
        self.own_prompt[slot] = own_prompt
        self.own_total[slot] = own_total
        self.computed[slot] = 0
        self.decoding[slot] = False
        self.ending[slot] = False
        self._order = None
        return slot

    def remove(self, slot: int) -> None:
        """Give the slot back."""
        self._slots.remove(int(self.sequence[slot]))
        self.sequence[slot] = _NOBODY
        self._order = None

    def hold(self, slots: Int64Array, sequences: Int32Array | Int64Array) -> BoolArray:
        """Whether the slots are still those of the sequences, bool [S]: none has left since."""
        held: BoolArray = self.sequence[slots] == sequences
        return held

    def advance(self, slots: Int64Array, count: Int64Array) -> None:
        """So many own tokens more have their KV in the pool."""
        self.computed[slots] += count

    def rewind(self, slots: Int64Array, first: Int64Array) -> None:
        """The KV of own tokens from `first` on is not in the pool."""
        self.computed[slots] = np.minimum(self.computed[slots], first)

    def restart(self, slots: Int64Array) -> None:
        """Nothing of their own is computed; what they know is computed again as a prompt is."""
        self.computed[slots] = 0
        self.decoding[slots] = False

    def sample(self, slots: Int64Array, ending: BoolArray) -> None:
        """A token is sampled for each slot, whatever it will be; the last where `ending`.

        The last token of an answer is never computed: it is none of its sequence's own tokens.
        """
        self.own_total[slots[~ending]] += 1
        self.ending[slots] = ending
        self.decoding[slots] = True

    def unsample(self, slots: Int64Array) -> None:
        """Take `sample` back; the tokens known before are computed again as a prompt is."""
        self.own_total[slots[~self.ending[slots]]] -= 1
        self.ending[slots] = False
        self.decoding[slots] = False

    def learn(self, slots: Int64Array, token_ids: Int32Array) -> None:
        """The tokens that were sampled last are known."""
        self.last_token[slots] = token_ids

    def _column(self) -> Int64Array:
        return np.zeros(self._capacity, dtype=np.int64)

    def _grow(self) -> None:
        old, self._capacity = self._capacity, self._slots.capacity
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray) and value is not self._order:
                padding = [(0, self._capacity - old)] + [(0, 0)] * (value.ndim - 1)
                setattr(self, name, np.pad(value, padding))
        self.sequence[old:] = _NOBODY
        self._order = None
