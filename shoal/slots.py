"""Slots: indices into columns for numbers that come and go, found for many at once."""

from __future__ import annotations

import numpy as np

from shoal.types import Int32Array, Int64Array

FIRST_CAPACITY = 64
"""Slots there are at first."""
_NONE = -1
_BITS = 12
_PAGE = 1 << _BITS
"""Numbers of a page."""


class SlotMap:
    """Gives whole numbers, such as sequences, slots from 0 on; a slot given back is used again.

    Memory goes with the stretches of `_PAGE` numbers of which any has a slot, 16 KiB each: numbers
    are not to be negative, and better come in neighbourhoods. Looking many up is one operation on
    arrays, because it is done for every token generated.
    """

    def __init__(self) -> None:
        self.capacity = FIRST_CAPACITY
        """Slots there are, taken or not: what columns must have room for. It doubles."""
        self._free = list(range(FIRST_CAPACITY - 1, -1, -1))
        self._page_of = np.zeros(1, dtype=np.int32)
        """The row of `_pages` that a stretch of numbers has; 0, which stays empty: none."""
        self._pages: Int32Array = np.full((2, _PAGE), _NONE, dtype=np.int32)
        self._held = [0, 0]
        """Slots taken in each row of `_pages`."""
        self._spare = [1]

    def __len__(self) -> int:
        return self.capacity - len(self._free)

    def __contains__(self, number: int) -> bool:
        stretch = number >> _BITS
        return stretch < len(self._page_of) and bool(
            self._pages[self._page_of[stretch], number % _PAGE] != _NONE
        )

    def __getitem__(self, number: int) -> int:
        """The slot of a number.

        Raises:
            KeyError: it has none.
        """
        if number not in self:
            raise KeyError(number)
        return int(self._pages[self._page_of[number >> _BITS], number % _PAGE])

    def find(self, numbers: Int32Array | Int64Array) -> Int64Array:
        """The slots of numbers, int64 [S]; -1 for those that have none."""
        if len(numbers):
            self._reach(int(numbers.max()) >> _BITS)
        pages = self._page_of[numbers >> _BITS]
        slots: Int64Array = self._pages[pages, numbers & (_PAGE - 1)].astype(np.int64)
        return slots

    def add(self, number: int) -> int:
        """Take a slot for a number that has none."""
        if not self._free:
            self._free = list(range(2 * self.capacity - 1, self.capacity - 1, -1))
            self.capacity *= 2
        page, slot = self._page(number >> _BITS), self._free.pop()
        self._pages[page, number % _PAGE] = slot
        self._held[page] += 1
        return slot

    def remove(self, number: int) -> int:
        """Give the slot of a number back; returns which it was.

        Raises:
            KeyError: it has none.
        """
        slot, stretch = self[number], number >> _BITS
        page = int(self._page_of[stretch])
        self._pages[page, number % _PAGE] = _NONE
        self._free.append(slot)
        self._held[page] -= 1
        if self._held[page] == 0:
            self._page_of[stretch] = 0
            self._spare.append(page)
        return slot

    def _page(self, stretch: int) -> int:
        """The page of a stretch of numbers, which gets one if it has none."""
        self._reach(stretch)
        if self._page_of[stretch] == 0:
            if not self._spare:
                held = len(self._pages)
                self._spare = list(range(2 * held - 1, held - 1, -1))
                self._pages = np.concatenate([self._pages, np.full_like(self._pages, _NONE)])
                self._held += [0] * held
            self._page_of[stretch] = self._spare.pop()
        return int(self._page_of[stretch])

    def _reach(self, stretch: int) -> None:
        held = len(self._page_of)
        if stretch >= held:
            more = np.zeros(max(stretch + 1, 2 * held) - held, dtype=np.int32)
            self._page_of = np.concatenate([self._page_of, more])
