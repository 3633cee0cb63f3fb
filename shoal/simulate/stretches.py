"""What any stretch of a plan's sequences takes, and what cutting it costs, without adding it up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.planner import Plan
from shoal.simulate.seconds import FloatArray, PartSeconds
from shoal.types import BoolArray, Int64Array


@dataclass(frozen=True)
class SplitPoints:
    """The points at which a run of sequences can be cut in two, requests kept whole.

    Attributes:
        sequence: int64 [P], ascending; the second part begins at that sequence.
        before, after: float64 [P], seconds of each part; what both share is in both.
        again: float64 [P], seconds of what a cut makes to be computed twice.
    """

    sequence: Int64Array
    before: FloatArray
    after: FloatArray
    again: FloatArray


class Stretches:
    """Sums over a plan, made once: a stretch of any length then takes a look-up or two.

    A job of 10^7 requests is cut a thousand times; adding up what is left each time took minutes.
    """

    def __init__(self, plan: Plan, seconds: PartSeconds) -> None:
        self._heads: BoolArray = plan.sequence_choice == 0
        self._own = np.append(0.0, np.cumsum(seconds.sequence))
        self._first = plan.segment_first.astype(np.int64)  # ascending: parents before children
        by_end = np.argsort(plan.segment_last, kind="stable")
        self._last = plan.segment_last[by_end].astype(np.int64)
        self._begun = np.append(0.0, np.cumsum(seconds.segment))
        self._ended = np.append(0.0, np.cumsum(seconds.segment[by_end]))

    def cuts(self, first: int, last: int, *, under_way: bool = False) -> SplitPoints:
        """All cuts of the sequences [first, last).

        Args:
            under_way: the sequences before `first` have begun on the device that keeps the first
                part, so that it has their segments already.
        """
        begin = first if under_way else first + 1
        return self._at(begin + np.flatnonzero(self._heads[begin:last]), first, last, under_way)

    def cuts_near(self, first: int, last: int, after: float, within: float) -> SplitPoints:
        """Those whose second part takes `after` seconds, `within` more or less.

        And the nearest on each side, so that there is one if [first, last) can be cut at all.
        """
        if last - first < 2:
            return self.cuts(first, last)
        low = self._where(first, last, after + within)
        high = self._where(first, last, after - within) + 1
        while low > first + 1 and not self._heads[low]:
            low -= 1
        while high < last and not self._heads[high - 1]:
            high += 1
        found = low + np.flatnonzero(self._heads[low:high])
        return self._at(found, first, last, under_way=False)

    def _where(self, first: int, last: int, after: float) -> int:
        """The first sequence of (first, last) from which on no more than `after` seconds follow."""
        low, high = first + 1, last - 1
        while low < high:
            middle = (low + high) // 2
            if self._after(np.array([middle]), last)[0] > after:
                low = middle + 1
            else:
                high = middle
        return low

    def _at(self, at: Int64Array, first: int, last: int, under_way: bool) -> SplitPoints:
        begun, ended = self._begun_before(at), self._ended_by(at)
        known = self._begun_before if under_way else self._ended_by
        before = self._own[at] - self._own[first] + begun - known(np.array([first]))
        return SplitPoints(at, before, self._after(at, last), begun - ended)

    def _after(self, at: Int64Array, last: int) -> FloatArray:
        """Seconds of the sequences from each of `at` up to `last`."""
        segments = self._begun_before(np.array([last])) - self._ended_by(at)
        seconds: FloatArray = self._own[last] - self._own[at] + segments
        return seconds

    def _begun_before(self, sequence: Int64Array) -> FloatArray:
        """Seconds of the segments whose first user comes before each sequence."""
        return self._begun[np.searchsorted(self._first, sequence, side="left")]

    def _ended_by(self, sequence: Int64Array) -> FloatArray:
        """Seconds of the segments whose last user comes before each sequence."""
        return self._ended[np.searchsorted(self._last, sequence, side="right")]
