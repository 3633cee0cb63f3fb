"""The peak-memory forecast: how many KV blocks the running sequences will need at most.

After the Past-Future scheduler (LightLLM, ASPLOS 2025): sequences grow in step, one token an
iteration, and the largest demand comes just before one of them finishes. Ours counts whole
blocks exactly, so that nothing is lost to rounding and nothing is promised twice.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from shoal.types import Int64Array


def forecast_peak_blocks(
    held: Int64Array, growth: Int64Array, block_size: int, cap: int | None = None
) -> int:
    """Most blocks in use at once if every sequence grows one token per iteration, then leaves.

    With the sequences sorted by growth, longest first, the demand when the i-th is about to
    leave is sum over j <= i of ceil((held_j + growth_i) / block_size); the peak is its maximum.

    Args:
        held: int64 [R], tokens each sequence stores now (its prefill counted as done).
        growth: int64 [R], tokens it has still to store.
        block_size: tokens per block.
        cap: most blocks a sequence ever holds, as with a window; None: as many as its tokens fill.

    Returns:
        Blocks; 0 for no sequences.
    """
    if len(held) == 0:
        return 0
    # Of those that leave together the last sees the most: one row for each growth there is.
    more = np.flatnonzero(np.bincount(growth))[::-1]
    if cap is None:
        return int(_demand(held, growth, more, block_size).max())
    # With more than `until` tokens to come it holds `cap` blocks, till it leaves.
    until = np.minimum(growth, cap * block_size - held)
    full = _at_least(growth, more) - _at_least(until, more)
    return int((_demand(held, until, more, block_size) + cap * full).max())


def _at_least(values: Int64Array, limits: Int64Array) -> Int64Array:
    """How many values are at least each limit."""
    found: Int64Array = len(values) - np.searchsorted(np.sort(values), limits)
    return found


def _demand(held: Int64Array, growth: Int64Array, more: Int64Array, block_size: int) -> Int64Array:
    """Blocks in use when every sequence has grown by each of `more`, descending, int64 [more].

    Those that have grown by their `growth` are gone then.
    """
    some = growth >= more[-1]
    held, growth = held[some], growth[some]
    group = len(more) - np.searchsorted(more[::-1], growth, side="right")
    size = len(more) * block_size
    counts = np.bincount(group * block_size + held % block_size, minlength=size)
    counts = counts.reshape(-1, block_size).cumsum(axis=0)
    weights = held // block_size
    full = np.bincount(group, weights, minlength=len(more)).astype(np.int64).cumsum()
    # What is left over: ceil((r_j + m_i) / B) is 0, 1 or 2 for r_j = held_j mod B, m_i = growth_i
    # mod B. at_least[i, t] counts the j with at least growth i and r_j >= t.
    at_least = np.zeros((len(more), block_size + 2), dtype=np.int64)
    at_least[:, :block_size] = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    rows, rank, left = np.arange(len(more)), at_least[:, 0], more % block_size
    whole = full + rank * (more // block_size)
    one = np.where(left > 0, rank, at_least[rows, 1])
    two = at_least[rows, block_size + 1 - left]
    found: Int64Array = whole + one + two
    return found


class PeakForecast:
    """Answers whether running sequences fit some blocks, as one after another is added to them.

    Most answers follow from two sums: the peak is at least the blocks held now, and at most what
    would be held if nobody left before all have grown. One that had to be worked out bounds those
    that follow: a newcomer raises it by no more than it needs itself.

    Where growths are guesses, `caution` of their root sum of squares is kept in reserve: the error
    of a sum of independent guesses grows like that, and admission until the forecast is full would
    otherwise overdraw it as often as not.
    """

    def __init__(
        self,
        held: Int64Array,
        growth: Int64Array,
        block_size: int,
        caution: float = 0.0,
        cap: int | None = None,
    ) -> None:
        """`held`, `growth`: int64 [R], what the running sequences store and have still to store.

        Args:
            cap: see `forecast_peak_blocks`.
        """
        self._held, self._growth, self._block_size = held, growth, block_size
        self._caution, self._cap = caution, cap
        self._most_held = sys.maxsize if cap is None else cap
        self._more: list[tuple[int, int]] = []
        self._least = int(np.minimum(-(-held // block_size), self._most_held).sum())
        most = np.minimum(-(-(held + growth) // block_size), self._most_held)
        self._most = int(most.sum())
        """At least the peak."""
        self._squares = int((growth * growth).sum())

    def add(self, held: int, growth: int) -> None:
        """One more sequence."""
        self._more.append((held, growth))
        self._least += min(-(-held // self._block_size), self._most_held)
        self._most += min(-(-(held + growth) // self._block_size), self._most_held)
        self._squares += growth * growth

    def fits(self, blocks: int) -> bool:
        """Whether the peak, and what is kept in reserve, is at most `blocks`."""
        blocks -= math.ceil(self._caution * math.sqrt(self._squares) / self._block_size)
        if self._most > blocks >= self._least:
            self._most = self._peak()
        return self._most <= blocks

    def _peak(self) -> int:
        more = np.array(self._more, dtype=np.int64).reshape(-1, 2)
        self._held = np.concatenate([self._held, more[:, 0]])
        self._growth = np.concatenate([self._growth, more[:, 1]])
        self._more = []
        return forecast_peak_blocks(self._held, self._growth, self._block_size, self._cap)


def remaining_growth(generated: Int64Array, expected: Int64Array, limit: Int64Array) -> Int64Array:
    """Tokens of KV still to be stored, int64 [R].

    A sequence that outlives its expected length is expected to double it, up to its limit. The
    last token of an answer is never stored, hence the one less.
    """
    doublings = np.ceil(np.log2(np.maximum(generated + 1, expected) / expected))
    estimate = np.minimum(expected * np.exp2(doublings).astype(np.int64), limit)
    growth: Int64Array = np.maximum(estimate - 1 - generated, 0)
    return growth
