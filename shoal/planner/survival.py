"""Distributions of answer lengths from answers of which some are still being written.

Pure arithmetic on counts; `shoal.planner.lengths` keeps the counts of a run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.types import Int64Array

FloatArray = npt.NDArray[np.float64]

_EXACT_AGES = 256
"""Up to here every age, in tokens, has a bin of its own; then bins widen to a 128th."""


@dataclass(frozen=True)
class AgeBins:
    """Bins of ages (tokens generated), 1 to the longest answer there can be.

    Attributes:
        last: int64 [A], the highest age of each bin, ascending from 1.
    """

    last: Int64Array

    @classmethod
    def up_to(cls, longest: int) -> AgeBins:
        """Bins for answers of at most `longest` tokens, at least 1."""
        parts = [np.arange(1, _EXACT_AGES + 1)]
        width = 2
        while parts[-1][-1] < longest:
            begin = parts[-1][-1]
            parts.append(np.arange(begin + width, 2 * begin + 1, width))
            width *= 2
        last = np.concatenate(parts)
        return cls(np.append(last[last < longest], longest).astype(np.int64))

    def __len__(self) -> int:
        return len(self.last)

    @property
    def widths(self) -> Int64Array:
        """Ages in each bin, int64 [A]."""
        return np.diff(self.last, prepend=0)

    def of(self, lengths: Int64Array) -> Int64Array:
        """The bin of each length, from 1 to the longest."""
        return np.searchsorted(self.last, lengths).astype(np.int64)

    def survived(self, ages: Int64Array) -> Int64Array:
        """How many bins an answer of each age has outlived entirely."""
        return np.searchsorted(self.last, ages, side="right").astype(np.int64)


def hazards(
    ended: Int64Array, censored: Int64Array, prior: FloatArray, strength: float
) -> FloatArray:
    """For each bin, the chance that an answer which gets there ends there.

    With d ended in a bin, n that were known to get there and strength c, it is

        (c · prior + d) / (c + n):

    c imaginary answers at risk in every bin end as the prior says. This is Hjort's nonparametric
    Bayes estimator from a beta process prior (Annals of Statistics 18, 1990); for c = 0 it is that
    of Kaplan and Meier (Journal of the American Statistical Association 53, 1958). An answer still
    being written counts as at risk in the bins it has outlived, so that the early, short ones do
    not pass for all.

    Args:
        ended: int64 [..., A], answers that ended in each bin.
        censored: int64 [..., A], answers last seen alive, by the last bin they outlived.
        prior: float64, broadcasts to [..., A].
        strength: at least 0; where it is 0, a bin that nobody got to has hazard 0.
    """
    weight = strength + at_risk(ended, censored)
    found: FloatArray = (strength * prior + ended) / np.maximum(weight, 1e-300)
    return found


def at_risk(ended: Int64Array, censored: Int64Array) -> Int64Array:
    """Answers that got to each bin and whose fate in it is known, int64 [..., A]."""
    left = np.flip(ended + censored, axis=-1)
    known: Int64Array = np.flip(np.cumsum(left, axis=-1), axis=-1)
    return known


class SurvivalTable:
    """C distributions of lengths, asked about many answers at once.

    `survival[c, b]` is the chance to outlive b bins; inside a wide bin it falls linearly.
    """

    def __init__(self, bins: AgeBins, hazard: FloatArray) -> None:
        """`hazard`: float64 [C, A], see `hazards`."""
        count = len(hazard)
        self._bins = bins
        self._age = np.append(0, bins.last)
        self.survival: FloatArray = np.ones((count, len(bins) + 1))
        np.cumprod(1.0 - hazard, axis=1, out=self.survival[:, 1:])
        # The rows side by side as one ascending array, so that one search serves them all.
        self._fallen: FloatArray = (
            2.0 * np.arange(count)[:, None] + 1.0 - self.survival[:, 1:]
        ).ravel()
        self._tokens: FloatArray | None = None

    def outlives(self, row: Int64Array, age: Int64Array) -> FloatArray:
        """The chance to be longer than `age` tokens, float64 [R], for rows of the table."""
        return self._between(self.survival, row, age)

    def quantile(self, row: Int64Array, age: Int64Array, level: FloatArray) -> Int64Array:
        """The length that an answer of `age` tokens stays within with probability `level`.

        int64 [R], more than `age`, rounded up to the end of a bin; the longest there is when even
        that is not enough.
        """
        reach = (1.0 - level) * self.outlives(row, age)
        found = np.searchsorted(self._fallen, 2.0 * row + 1.0 - reach - 1e-9)
        found = np.minimum(found - row * len(self._bins), len(self._bins) - 1)
        length: Int64Array = np.maximum(self._bins.last[found], age + 1)
        return length

    def mean(self, row: Int64Array, age: Int64Array, limit: Int64Array) -> FloatArray:
        """The mean length of answers of `age` tokens that stop at `limit`, float64 [R].

        Where nothing outlives `age`, one token more.
        """
        if self._tokens is None:
            width, before = np.diff(self._age), self.survival[:, :-1]
            inside = width * before + np.diff(self.survival) * (width - 1) / 2
            self._tokens = np.pad(np.cumsum(inside, axis=1), ((0, 0), (1, 0)))
        more = self._between(self._tokens, row, limit) - self._between(self._tokens, row, age)
        alive = self.outlives(row, age)
        to_come = np.where(alive > 1e-12, more / np.maximum(alive, 1e-12), 1.0)
        mean: FloatArray = np.asarray(age + np.maximum(to_come, 1.0), dtype=np.float64)
        return mean

    def _between(self, column: FloatArray, row: Int64Array, age: Int64Array) -> FloatArray:
        """Values [R] of a [C, A + 1] column at ages between the ends of bins."""
        bin_ = self._bins.survived(age)
        above = np.minimum(bin_ + 1, len(self._bins))
        width = np.maximum(self._age[above] - self._age[bin_], 1)
        share = (age - self._age[bin_]) / width
        low = column[row, bin_]
        value: FloatArray = low + share * (column[row, above] - low)
        return value
