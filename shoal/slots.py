"""Slots: indices into columns for numbers that come and go, found for many at once."""

from __future__ import annotations

import numpy as np

from shoal.types import Int32Array, Int64Array

FIRST_CAPACITY = 64
"""Slots there are at first."""
_NONE = -1


class SlotMap:
    """Gives whole numbers, such as sequences, slots from 0 on; a slot given back is used again.

    Memory goes with the largest number, four bytes each: they are to be dense, and not negative.
    Looking many up is one operation on arrays, because it is done for every token generated.
    """

    def __init__(self) -> None:
        self.capacity = FIRST_CAPACITY
        """Slots there are, taken or not: what columns must have room for. It doubles."""
        self._slot_of: Int32Array = np.full(FIRST_CAPACITY, _NONE, dtype=np.int32)
        self._free = list(range(FIRST_CAPACITY - 1, -1, -1))

    def __len__(self) -> int:
        return self.capacity - len(self._free)

    def __contains__(self, number: int) -> bool:
        return number < len(self._slot_of) and bool(self._slot_of[number] != _NONE)

    def __getitem__(self, number: int) -> int:
        """The slot of a number.

        Raises:
            KeyError: it has none.
        """
        if number not in self:
            raise KeyError(number)
        return int(self._slot_of[number])

    def find(self, numbers: Int32Array | Int64Array) -> Int64Array:
        """The slots of numbers, int64 [S]; -1 for those that have none."""
        if len(numbers) and int(numbers.max()) >= len(self._slot_of):
            self._reach(int(numbers.max()))
        return self._slot_of[numbers].astype(np.int64)

    def add(self, number: int) -> int:
        """Take a slot for a number that has none."""
        self._reach(number)
        if not self._free:
            self._free = list(range(2 * self.capacity - 1, self.capacity - 1, -1))
            self.capacity *= 2
        slot = self._free.pop()
        self._slot_of[number] = slot
        return slot

    def remove(self, number: int) -> int:
        """Give the slot of a number back; returns which it was.

        Raises:
            KeyError: it has none.
        """
        slot = self[number]
        self._slot_of[number] = _NONE
        self._free.append(slot)
        return slot

    def _reach(self, number: int) -> None:
        held = len(self._slot_of)
        if number >= held:
            more = np.full(max(number + 1, 2 * held) - held, _NONE, dtype=np.int32)
            self._slot_of = np.concatenate([self._slot_of, more])
